//! The name of a customer key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// `https://VAULT.vault.azure.net/keys/NAME/VERSION`: one version of one key in one vault.
///
/// Follows the Azure Key Vault REST reference ("Object identifiers"): a name is 1 to 127 characters of
/// `[0-9a-zA-Z-]`, a version 32 lower-case hexadecimal characters. The vault part keeps a port when there is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyIdentifier {
    vault_url: String,
    name: String,
    version: String,
}

/// Why a text is not a key identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyIdentifierError {
    /// Not a URL at all.
    #[error(
        "`{0}` is not a URL; a key identifier looks like https://VAULT.vault.azure.net/keys/NAME/VERSION"
    )]
    NotAUrl(String),
    /// Any scheme but `https`.
    #[error("the key identifier must begin with https://, not {0}://")]
    NotHttps(String),
    /// User name, password, query or fragment.
    #[error("the key identifier must not carry a user, query or fragment")]
    ExtraParts,
    /// The path does not have the shape `/keys/NAME/VERSION`.
    #[error("the path of the key identifier must be /keys/NAME/VERSION, not `{0}`")]
    Path(String),
    /// `/keys/NAME` without a version.
    #[error("the key identifier names no version; copy the one ending in /VERSION from the vault")]
    NoVersion,
    /// A character that Azure does not allow in a key's name, or a wrong length.
    #[error("`{0}` is no key name: 1 to 127 letters, digits and dashes")]
    Name(String),
    /// Not 32 lower-case hexadecimal characters.
    #[error("`{0}` is no key version: 32 lower-case hexadecimal characters")]
    Version(String),
}

impl KeyIdentifier {
    /// From parts that are known to be well formed, checked all the same.
    pub fn new(vault_url: &str, name: &str, version: &str) -> Result<Self, KeyIdentifierError> {
        format!("{}/keys/{name}/{version}", vault_url.trim_end_matches('/')).parse()
    }

    /// `https://HOST[:PORT]`, without a trailing slash.
    pub fn vault_url(&self) -> &str {
        &self.vault_url
    }

    /// Host and port, as they stand in a URL.
    pub fn vault_host(&self) -> &str {
        self.vault_url.trim_start_matches("https://")
    }

    /// The first label of the host: the vault's name in Azure.
    pub fn vault_name(&self) -> &str {
        self.vault_host().split(['.', ':']).next().unwrap_or_default()
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's version.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl FromStr for KeyIdentifier {
    type Err = KeyIdentifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = url::Url::parse(text).map_err(|_| KeyIdentifierError::NotAUrl(text.to_owned()))?;
        if url.scheme() != "https" {
            return Err(KeyIdentifierError::NotHttps(url.scheme().to_owned()));
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(KeyIdentifierError::ExtraParts);
        }
        let host = url.host_str().ok_or_else(|| KeyIdentifierError::NotAUrl(text.to_owned()))?;
        // A URL parser resolves `.`, `..` and `\`: a name that is not written as it is meant is refused.
        let written = text.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        if let Some(written) = written.filter(|written| *written != url.path()) {
            return Err(KeyIdentifierError::Path(written.to_owned()));
        }
        let parts: Vec<&str> = url.path().strip_prefix('/').unwrap_or_default().split('/').collect();
        let (name, version) = match parts.as_slice() {
            ["keys", name] | ["keys", name, ""] if !name.is_empty() => {
                check_name(name)?;
                return Err(KeyIdentifierError::NoVersion);
            }
            ["keys", name, version] => (*name, *version),
            _ => return Err(KeyIdentifierError::Path(url.path().to_owned())),
        };
        check_name(name)?;
        if version.len() != 32 || !version.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(KeyIdentifierError::Version(version.to_owned()));
        }
        let vault_url = match url.port() {
            Some(port) => format!("https://{host}:{port}"),
            None => format!("https://{host}"),
        };
        Ok(Self { vault_url, name: name.to_owned(), version: version.to_owned() })
    }
}

fn check_name(name: &str) -> Result<(), KeyIdentifierError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if name.is_empty() || name.len() > 127 || !name.bytes().all(allowed) {
        return Err(KeyIdentifierError::Name(name.to_owned()));
    }
    Ok(())
}

impl fmt::Display for KeyIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/keys/{}/{}", self.vault_url, self.name, self.version)
    }
}

impl TryFrom<String> for KeyIdentifier {
    type Error = KeyIdentifierError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KeyIdentifier> for String {
    fn from(id: KeyIdentifier) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn parses_and_prints_azure_identifiers() {
        for text in
            [format!("https://v1.vault.azure.net/keys/k-1/{V}"), format!("https://localhost:9443/keys/k/{V}")]
        {
            let id: KeyIdentifier = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(id.version(), V);
        }
        let id: KeyIdentifier = format!("https://v1.vault.azure.net/keys/k-1/{V}").parse().unwrap();
        assert_eq!((id.vault_name(), id.name()), ("v1", "k-1"));
    }

    #[test]
    fn refuses_what_is_no_identifier() {
        use KeyIdentifierError as E;
        let err = |t: &str| t.parse::<KeyIdentifier>().unwrap_err();
        assert_eq!(err("nonsense"), E::NotAUrl("nonsense".into()));
        assert_eq!(err(&format!("http://v/keys/k/{V}")), E::NotHttps("http".into()));
        assert_eq!(err("https://v/keys/k"), E::NoVersion);
        assert_eq!(err("https://v/keys/k/"), E::NoVersion);
        assert_eq!(err(&format!("https://v/secrets/k/{V}")), E::Path(format!("/secrets/k/{V}")));
        assert_eq!(err("https://v/keys/k/ABC"), E::Version("ABC".into()));
        assert_eq!(err(&format!("https://v/keys/k_1/{V}")), E::Name("k_1".into()));
        assert_eq!(err(&format!("https://u:p@v/keys/k/{V}")), E::ExtraParts);
        assert_eq!(err(&format!("https://v/keys/k/{V}?x=1")), E::ExtraParts);
    }
}
