//! `~/.config/keyward/credentials.toml`: servers and who asks them, by profile.
//!
//! ```toml
//! [default]
//! url = "https://keyward.example.com:7443/"
//! ca_file = "/etc/keyward/ca.pem"
//! public_key = "abcdefgh"
//! private_key = "…"
//! org = "5f3a0c9e8d7b6a5f4e3d2c1b"
//! project = "5f3a0c9e8d7b6a5f4e3d2c1c"
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::credential::Credential;
use crate::dev::home::{make_dir, write_file};
use crate::failure::Failure;

/// The profile that is meant when none is named.
pub(crate) const DEFAULT: &str = "default";

/// One server, and who asks it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) url: Url,
    /// The certificate authority (PEM) that the server's certificate is under; `None`: those of this machine.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) credential: Credential,
    /// The service account that `login --print-token` made for an API key: client id and secret.
    pub(crate) token_account: Option<(String, String)>,
    /// The organization meant when none is named.
    pub(crate) org: Option<String>,
    /// The project meant when none is named.
    pub(crate) project: Option<String>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("url", &self.url.as_str())
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

/// A profile as it is written.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
}

/// The file, as it was read.
pub(crate) struct Profiles {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl Profiles {
    /// Reads the file of this user; no file is no profile.
    pub(crate) fn open() -> Result<Self, Failure> {
        Self::read(path()?)
    }

    fn read(path: PathBuf) -> Result<Self, Failure> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { path, entries: BTreeMap::new() });
            }
            Err(e) => {
                return Err(Failure::new(
                    format!("{} cannot be read", path.display()),
                    "check its owner and permissions",
                )
                .because(&e));
            }
        };
        let mode = fs::metadata(&path).map(|m| m.permissions().mode()).unwrap_or(0);
        if mode & 0o077 != 0 {
            return Err(Failure::new(
                format!("{} holds secrets, and others may read it", path.display()),
                format!("chmod 600 {}", path.display()),
            ));
        }
        let entries = toml::from_str(&text).map_err(|e| {
            // The file's own text may be a secret: only the place is shown.
            let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Failure::new(
                format!("{} is no file of profiles: line {line}: {}", path.display(), e.message()),
                "correct it, or delete it and use `keyward login`",
            )
        })?;
        Ok(Self { path, entries })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The profile of that name; `None` when there is none.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Profile>, Failure> {
        let Some(entry) = self.entries.get(name).cloned() else { return Ok(None) };
        let wrong = |what: &str| {
            Failure::new(
                format!("profile {name} in {} {what}", self.path.display()),
                "`keyward login` writes it anew",
            )
        };
        let url = entry.url.parse::<Url>().map_err(|e| wrong("has no usable `url`").because(&e))?;
        let account = entry.client_id.zip(entry.client_secret);
        let (credential, token_account) = match (entry.public_key.zip(entry.private_key), account) {
            (Some((public_key, private_key)), account) => {
                (Credential::ApiKey { public_key, private_key }, account)
            }
            (None, Some((client_id, client_secret))) => {
                (Credential::ServiceAccount { client_id, client_secret }, None)
            }
            (None, None) => return Err(wrong("has neither an API key nor a service account")),
        };
        let (ca_file, org, project) = (entry.ca_file, entry.org, entry.project);
        Ok(Some(Profile { url, ca_file, credential, token_account, org, project }))
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    /// Adds or replaces a profile, and writes the file (0600), whole or not at all.
    pub(crate) fn put(&mut self, name: &str, profile: &Profile) -> Result<(), Failure> {
        let mut entry = Entry {
            url: profile.url.to_string(),
            ca_file: profile.ca_file.clone(),
            org: profile.org.clone(),
            project: profile.project.clone(),
            ..Entry::default()
        };
        match &profile.credential {
            Credential::ApiKey { public_key, private_key } => {
                entry.public_key = Some(public_key.clone());
                entry.private_key = Some(private_key.clone());
                (entry.client_id, entry.client_secret) = profile.token_account.clone().unzip();
            }
            Credential::ServiceAccount { client_id, client_secret } => {
                entry.client_id = Some(client_id.clone());
                entry.client_secret = Some(client_secret.clone());
            }
        }
        self.entries.insert(name.to_owned(), entry);
        let text = toml::to_string(&self.entries).map_err(|e| {
            Failure::new("the profiles cannot be written", "use names and paths in UTF-8").because(&e)
        })?;
        make_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        write_file(&self.path, text.as_bytes())
    }
}

/// `$XDG_CONFIG_HOME/keyward/credentials.toml`, by default below `~/.config`.
fn path() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("keyward/credentials.toml"))
        .ok_or_else(|| {
            Failure::new("there is no folder for configuration", "set HOME, or XDG_CONFIG_HOME to a folder")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(credential: Credential) -> Profile {
        Profile {
            url: "https://localhost:7443/".parse().unwrap(),
            ca_file: Some("/ca.pem".into()),
            credential,
            token_account: None,
            org: Some("o".into()),
            project: None,
        }
    }

    fn api_key() -> Credential {
        Credential::ApiKey { public_key: "abcdefgh".into(), private_key: "secret-1".into() }
    }

    #[test]
    fn profiles_are_kept_for_this_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyward/credentials.toml");
        let mut profiles = Profiles::read(path.clone()).unwrap();
        assert_eq!(profiles.get(DEFAULT).unwrap(), None);
        let account =
            Credential::ServiceAccount { client_id: "mdb_sa_id_1".into(), client_secret: "secret-2".into() };
        let with_token =
            Profile { token_account: Some(("mdb_sa_id_2".into(), "secret-3".into())), ..profile(api_key()) };
        profiles.put("dev", &profile(account.clone())).unwrap();
        profiles.put(DEFAULT, &with_token).unwrap();
        let read = Profiles::read(path.clone()).unwrap();
        assert_eq!(read.names(), ["default", "dev"]);
        assert_eq!(read.get("dev").unwrap(), Some(profile(account)));
        assert_eq!(read.get(DEFAULT).unwrap(), Some(with_token));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Profiles::read(path.clone()).err().unwrap();
        assert_eq!(refused.hint, format!("chmod 600 {}", path.display()));
    }

    #[test]
    fn a_broken_file_is_named_without_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.toml");
        for text in
            ["[default]\nprivate_key = secret-1\n", "[default]\nurl = \"x\"\nsecret-1 = \"secret-1\"\n"]
        {
            write_file(&path, text.as_bytes()).unwrap();
            let failure = Profiles::read(path.clone()).err().unwrap();
            let said = format!("{} {:?}", failure.message, failure.causes);
            assert!(said.contains("line 2") || said.contains("line 3"), "{said}");
            assert!(!said.contains("\"secret-1\""), "{said}");
        }
        write_file(&path, b"[default]\nurl = \"https://h/\"\n").unwrap();
        let failure = Profiles::read(path).unwrap().get(DEFAULT).unwrap_err();
        assert!(failure.message.ends_with("has neither an API key nor a service account"), "{failure:?}");
    }

    #[test]
    fn a_credential_shows_no_secret() {
        assert_eq!(format!("{:?}", api_key()), "Credential(\"abcdefgh\")");
        let with_token =
            Profile { token_account: Some(("mdb_sa_id_2".into(), "secret-3".into())), ..profile(api_key()) };
        let said = format!("{with_token:?}");
        assert!(said.contains("abcdefgh") && !said.contains("secret-"), "{said}");
    }
}
