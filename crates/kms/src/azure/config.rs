//! Where the customer key lives and as whom to ask for it.

use std::{fmt, path::PathBuf, time::Duration};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// How to reach a customer key in Azure. Holds paths of secrets; a secret itself only as [`ClientSecret`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureConfig {
    /// The tenant that the vault and the application belong to: a GUID. Vaults of another tenant are refused.
    pub tenant_id: String,
    /// The application (client) id. Not used by [`Credential::ManagedIdentity`].
    pub client_id: String,
    /// How the application proves itself.
    pub credential: Credential,
    /// Which Azure.
    pub cloud: Cloud,
    /// PEM file of certificate authorities to trust: besides the host's own, with [`Cloud::Custom`] only these.
    pub ca_file: Option<PathBuf>,
    /// The vault's subscription; with `resource_group` it allows looking at the vault through ARM.
    pub subscription_id: Option<String>,
    /// The vault's resource group.
    pub resource_group: Option<String>,
    /// The longest one HTTP exchange may take.
    pub call_timeout: Duration,
    /// Whether a vault is asked over a private address only (RFC 1918, unique local; loopback too with
    /// [`Cloud::Custom`]): a name that resolves to public ones alone is refused before anything is sent. Entra ID
    /// and ARM have public addresses and are not meant.
    pub require_private_networking: bool,
}

/// How the application proves itself to Entra ID. Files are read anew for every token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A client secret held in memory.
    ClientSecret(ClientSecret),
    /// A file that holds a client secret; surrounding white space is ignored.
    ClientSecretFile(PathBuf),
    /// A PEM file with the certificate, first, and its RSA private key (PKCS #8 or PKCS #1).
    Certificate {
        /// Where it is.
        path: PathBuf,
    },
    /// The identity that Azure gave this machine.
    ManagedIdentity {
        /// Which one, when the machine has several.
        client_id: Option<String>,
        /// The metadata service; `None` is Azure's `http://169.254.169.254`.
        endpoint: Option<Url>,
    },
    /// Workload federation: a file with a token of another issuer, as `AZURE_FEDERATED_TOKEN_FILE` names it.
    Federated {
        /// Where it is.
        token_file: PathBuf,
    },
}

/// A client secret. It shows itself nowhere and is wiped when dropped.
#[derive(Clone)]
pub struct ClientSecret(SecretString);

impl ClientSecret {
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<SecretString> for ClientSecret {
    fn from(secret: SecretString) -> Self {
        Self(secret)
    }
}

impl PartialEq for ClientSecret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.expose().as_bytes(), other.expose().as_bytes()).is_ok()
    }
}

impl Eq for ClientSecret {}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Which Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one per process")]
pub enum Cloud {
    /// The public one.
    Azure,
    /// Operated by 21Vianet.
    AzureChina,
    /// US government.
    AzureUsGovernment,
    /// Another one: a development vault.
    Custom(Endpoints),
}

/// The places of one Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Entra ID, `https://HOST[:PORT]`.
    pub authority: Url,
    /// Azure Resource Manager, `https://HOST[:PORT]`.
    pub arm_url: Url,
    /// What a vault's host must be (`localhost:8443`) or end in (`.vault.azure.net`): one of these. A rewrap to
    /// another vault needs that one's too.
    pub vault_hosts: Vec<String>,
    /// The audience of vault tokens, as the vault's challenge names it (`https://vault.azure.net`).
    pub vault_resource: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `tenant_id` is no GUID.
    #[error("the tenant id `{0}` is not a GUID")]
    TenantId(String),
    /// `client_id` is no GUID.
    #[error("the client id `{0}` is not a GUID")]
    ClientId(String),
    /// One of subscription and resource group without the other.
    #[error("subscription id and resource group must be given together")]
    HalfOfArm,
    /// An endpoint that is not `https://HOST[:PORT]`.
    #[error("`{0}` is not https://HOST[:PORT]")]
    NotHttps(Url),
    /// A metadata service that is reached without TLS and is not on this machine.
    #[error("`{0}` is no metadata service of this machine")]
    NotNear(Url),
    /// The certificate authorities could not be read.
    #[error("no certificate could be read from {path}")]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate authorities file holds none.
    #[error("{0} holds no certificate")]
    NoCa(PathBuf),
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up")]
    Http(#[source] reqwest::Error),
}

impl ConfigError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            ConfigError::TenantId(_) => "copy the tenant id from Entra ID's overview page",
            ConfigError::ClientId(_) => "copy the application (client) id from the app registration",
            ConfigError::HalfOfArm => "give both subscription_id and resource_group, or neither",
            ConfigError::NotHttps(_) => "give scheme, host and port only; tokens are sent over TLS alone",
            ConfigError::NotNear(_) => {
                "give https://HOST[:PORT], or http:// with a loopback or link-local address: whoever answers gives tokens"
            }
            ConfigError::CaFile { .. } | ConfigError::NoCa(_) => {
                "ca_file must be a readable PEM file with at least one certificate"
            }
            ConfigError::Tls(_) => {
                "install the host's CA certificates (package ca-certificates), or give ca_file"
            }
            ConfigError::Http(_) => "report it",
        }
    }
}

/// [`Endpoints`] as they are used: more than one authority may be named by a vault, paths are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Authorities that a challenge may name; tokens are fetched from the first.
    pub(super) authorities: Vec<Url>,
    pub(super) arm: Url,
    vault_hosts: Vec<String>,
    /// Without a trailing slash.
    pub(super) vault_resource: String,
}

impl Places {
    /// Whether `host` (`HOST[:PORT]`) is a vault of this cloud.
    pub(super) fn is_vault(&self, host: &str) -> bool {
        self.vault_hosts.iter().any(|known| match known.strip_prefix('.') {
            Some(suffix) => host
                .strip_suffix(suffix)
                .and_then(|label| label.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            None => host == known,
        })
    }

    /// What a vault's host must look like, for a message.
    pub(super) fn vault_pattern(&self) -> String {
        let shown =
            |known: &String| if known.starts_with('.') { format!("VAULT{known}") } else { known.clone() };
        self.vault_hosts.iter().map(shown).collect::<Vec<_>>().join(" or ")
    }
}

impl AzureConfig {
    /// Everything that is wrong with this configuration by itself; files are not looked at.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut found = Vec::new();
        if uuid::Uuid::try_parse(&self.tenant_id).is_err() {
            found.push(ConfigError::TenantId(self.tenant_id.clone()));
        }
        let used_client_id = match &self.credential {
            Credential::ManagedIdentity { client_id, .. } => client_id.as_ref(),
            Credential::ClientSecret(_)
            | Credential::ClientSecretFile(_)
            | Credential::Certificate { .. }
            | Credential::Federated { .. } => Some(&self.client_id),
        };
        if let Some(client_id) = used_client_id.filter(|id| uuid::Uuid::try_parse(id).is_err()) {
            found.push(ConfigError::ClientId(client_id.clone()));
        }
        if self.subscription_id.is_some() != self.resource_group.is_some() {
            found.push(ConfigError::HalfOfArm);
        }
        if let Cloud::Custom(endpoints) = &self.cloud {
            for url in [&endpoints.authority, &endpoints.arm_url] {
                if url.scheme() != "https"
                    || url.host_str().is_none()
                    || url.path() != "/"
                    || has_extra_parts(url)
                {
                    found.push(ConfigError::NotHttps(url.clone()));
                }
            }
        }
        if let Credential::ManagedIdentity { endpoint: Some(url), .. } = &self.credential
            && (!is_near_or_secure(url) || has_extra_parts(url))
        {
            found.push(ConfigError::NotNear(url.clone()));
        }
        found
    }

    /// The places of the configured cloud (Azure Key Vault reference, "Private Link and clouds").
    pub(super) fn places(&self) -> Places {
        let known = |authorities: &[&str], arm: &str, vault_suffix: &str| Places {
            authorities: authorities
                .iter()
                .filter_map(|host| Url::parse(&format!("https://{host}")).ok())
                .collect(),
            arm: Url::parse(&format!("https://{arm}")).unwrap_or_else(|_| unreachable!("a constant")),
            vault_hosts: vec![format!(".{vault_suffix}")],
            vault_resource: format!("https://{vault_suffix}"),
        };
        match &self.cloud {
            Cloud::Azure => known(
                &["login.microsoftonline.com", "login.windows.net"],
                "management.azure.com",
                "vault.azure.net",
            ),
            Cloud::AzureChina => known(
                &["login.chinacloudapi.cn", "login.partner.microsoftonline.cn"],
                "management.chinacloudapi.cn",
                "vault.azure.cn",
            ),
            Cloud::AzureUsGovernment => known(
                &["login.microsoftonline.us"],
                "management.usgovcloudapi.net",
                "vault.usgovcloudapi.net",
            ),
            Cloud::Custom(endpoints) => Places {
                authorities: vec![endpoints.authority.clone()],
                arm: endpoints.arm_url.clone(),
                vault_hosts: endpoints.vault_hosts.clone(),
                vault_resource: endpoints.vault_resource.trim_end_matches('/').to_owned(),
            },
        }
    }
}

/// User, password, query or fragment: a user's name would be sent along, the others dropped.
fn has_extra_parts(url: &Url) -> bool {
    !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
}

/// Whether what comes from there can be read and changed by nobody on the way.
fn is_near_or_secure(url: &Url) -> bool {
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(url::Host::Ipv4(address))) => address.is_loopback() || address.is_link_local(),
        ("http", Some(url::Host::Ipv6(address))) => address.is_loopback() || address.is_unicast_link_local(),
        ("http", Some(url::Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AzureConfig {
        AzureConfig {
            tenant_id: "11111111-2222-3333-4444-555555555555".into(),
            client_id: "66666666-7777-8888-9999-aaaaaaaaaaaa".into(),
            credential: Credential::ClientSecretFile("/nowhere".into()),
            cloud: Cloud::Azure,
            ca_file: None,
            subscription_id: None,
            resource_group: None,
            call_timeout: Duration::from_secs(10),
            require_private_networking: false,
        }
    }

    #[test]
    fn a_client_secret_shows_itself_nowhere() {
        let secret = |text: &str| Credential::ClientSecret(SecretString::from(text).into());
        let config = AzureConfig { credential: secret("hunter2~x"), ..config() };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(secret("a"), secret("a"));
        assert_ne!(secret("a"), secret("b"));
    }

    #[test]
    fn all_problems_are_told_at_once_each_with_a_hint() {
        let endpoints = Endpoints {
            authority: Url::parse("http://localhost:1").unwrap(),
            arm_url: Url::parse("https://localhost:1/path").unwrap(),
            vault_hosts: vec!["localhost:1".into()],
            vault_resource: "https://vault.azure.net".into(),
        };
        let config = AzureConfig {
            tenant_id: "contoso.onmicrosoft.com".into(),
            client_id: "keyward".into(),
            cloud: Cloud::Custom(endpoints),
            subscription_id: Some("s".into()),
            ..config()
        };
        let problems = config.problems();
        assert!(
            matches!(
                problems[..],
                [
                    ConfigError::TenantId(_),
                    ConfigError::ClientId(_),
                    ConfigError::HalfOfArm,
                    ConfigError::NotHttps(_),
                    ConfigError::NotHttps(_)
                ]
            ),
            "{problems:?}"
        );
        assert!(problems.iter().all(|problem| !problem.hint().is_empty()));
        assert!(super::super::AzureKeyService::new(config).is_err());
    }

    #[test]
    fn a_managed_identity_needs_no_client_id() {
        let credential = Credential::ManagedIdentity { client_id: None, endpoint: None };
        assert!(AzureConfig { client_id: String::new(), credential, ..config() }.problems().is_empty());
        let credential = Credential::ManagedIdentity { client_id: Some("x".into()), endpoint: None };
        assert!(matches!(AzureConfig { credential, ..config() }.problems()[..], [ConfigError::ClientId(_)]));
    }

    /// A user's name in a URL would become a header of its own.
    #[test]
    fn an_endpoint_is_a_host_and_nothing_else() {
        let problems = |authority: &str| {
            let endpoints = Endpoints {
                authority: Url::parse(authority).unwrap(),
                arm_url: Url::parse("https://localhost:1").unwrap(),
                vault_hosts: vec!["localhost:1".into()],
                vault_resource: "https://vault.azure.net".into(),
            };
            AzureConfig { cloud: Cloud::Custom(endpoints), ..config() }.problems()
        };
        assert!(problems("https://localhost:1").is_empty());
        for wrong in [
            "https://user@localhost:1",
            "https://:password@localhost:1",
            "https://localhost:1?a=b",
            "https://localhost:1#there",
            "https://localhost:1/tenant",
            "http://localhost:1",
        ] {
            assert!(matches!(problems(wrong)[..], [ConfigError::NotHttps(_)]), "{wrong}");
        }
    }

    /// Tokens come from a metadata service in the clear: it must be this machine's.
    #[test]
    fn a_metadata_service_in_the_clear_is_on_this_machine() {
        let problems = |endpoint: &str| {
            let endpoint = Some(Url::parse(endpoint).unwrap());
            let credential = Credential::ManagedIdentity { client_id: None, endpoint };
            AzureConfig { credential, ..config() }.problems()
        };
        for near in [
            "http://169.254.169.254",
            "http://127.0.0.1:40342",
            "http://[::1]:1",
            "http://localhost:40342",
            "https://localhost:1",
        ] {
            assert!(problems(near).is_empty(), "{near}");
        }
        for far in ["http://10.0.0.1", "http://metadata.example", "http://u@127.0.0.1", "ftp://127.0.0.1"] {
            assert!(matches!(problems(far)[..], [ConfigError::NotNear(_)]), "{far}");
        }
    }

    #[test]
    fn a_ca_file_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        let new = |path: PathBuf| {
            super::super::AzureKeyService::new(AzureConfig { ca_file: Some(path), ..config() })
        };
        assert!(matches!(new(empty.clone()), Err(ConfigError::NoCa(path)) if path == empty));
        assert!(matches!(new(folder.path().join("missing")), Err(ConfigError::CaFile { .. })));
    }

    #[test]
    fn places_are_those_of_the_reference() {
        let of = |cloud| {
            let places = AzureConfig { cloud, ..config() }.places();
            (
                places.authorities[0].to_string(),
                places.arm.to_string(),
                places.vault_pattern(),
                places.vault_resource,
            )
        };
        let expected = |authority: &str, arm: &str, suffix: &str| {
            (
                format!("https://{authority}/"),
                format!("https://{arm}/"),
                format!("VAULT.{suffix}"),
                format!("https://{suffix}"),
            )
        };
        assert_eq!(
            of(Cloud::Azure),
            expected("login.microsoftonline.com", "management.azure.com", "vault.azure.net")
        );
        assert_eq!(
            of(Cloud::AzureChina),
            expected("login.chinacloudapi.cn", "management.chinacloudapi.cn", "vault.azure.cn")
        );
        assert_eq!(
            of(Cloud::AzureUsGovernment),
            expected("login.microsoftonline.us", "management.usgovcloudapi.net", "vault.usgovcloudapi.net")
        );
    }
}
