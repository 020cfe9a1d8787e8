//! The server's configuration file.
//!
//! Owns its shape, its defaults and every check that needs no network. It never holds a secret: files name other
//! files. All problems are reported at once, each with file, line and hint.

mod customer_key;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use keyward_config_file::{Found, Problems, Reader, Section};
use url::Url;

pub use customer_key::{CustomerKeyConfig, PrivateEndpointPlaces, ServerIdentity};

/// [`Config::requests_per_minute`] where the file says nothing: 20 a second, more than people and their tools make.
const REQUESTS_PER_MINUTE: u32 = 1_200;

/// How to run the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the server keeps its files: key, certificates, SQLite database.
    pub data_dir: PathBuf,
    /// Where the API listens. Port 0: a free one.
    pub api_listen: SocketAddr,
    /// Where agents are awaited. Port 0: a free one.
    pub agent_listen: SocketAddr,
    /// What clients call the API by; `None`: `https://localhost:PORT`.
    pub public_url: Option<Url>,
    /// What agents call the server by; `None`: `https://localhost:PORT`.
    pub agent_url: Option<Url>,
    /// `sqlite:PATH` or `postgres://…`; `None`: SQLite in `data_dir`.
    pub store_url: Option<String>,
    /// The server key; `None`: `server.key` in `data_dir`.
    pub key_file: Option<PathBuf>,
    /// The API's certificate chain, PEM; `None`: one of the server's own authority.
    pub tls_certificate_file: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// A development vault in the place of public Azure.
    pub azure: Option<AzureConfig>,
    /// How many requests of one project, or of one caller outside projects, are accepted a minute, and at once.
    pub requests_per_minute: u32,
    /// How the server itself asks vaults, and where it makes private endpoints.
    pub customer_key: CustomerKeyConfig,
}

/// A vault that stands in for public Azure (`azureEnvironment` `AZURE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureConfig {
    /// Where tokens are asked for.
    pub authority: Url,
    /// Where ARM answers.
    pub arm_url: Url,
    /// Host and port under which vaults answer, in the place of `VAULT.vault.azure.net`.
    pub vault_host: String,
    /// The resource that tokens are for.
    pub vault_resource: String,
    /// Who signed its certificates, PEM.
    pub ca_file: Option<PathBuf>,
}

impl Config {
    /// With defaults: loopback, free ports, everything in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            api_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            agent_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_url: None,
            agent_url: None,
            store_url: None,
            key_file: None,
            tls_certificate_file: None,
            tls_key_file: None,
            azure: None,
            requests_per_minute: REQUESTS_PER_MINUTE,
            customer_key: CustomerKeyConfig::default(),
        }
    }

    /// Where the store is.
    pub fn store_url(&self) -> String {
        self.store_url
            .clone()
            .unwrap_or_else(|| format!("sqlite:{}", self.data_dir.join("keyward.db").display()))
    }

    /// Where the server key is.
    pub fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data_dir.join("server.key"))
    }

    /// The authority of the API's certificate, for clients to trust; not there when a certificate was given.
    pub fn ca_file(&self) -> PathBuf {
        self.data_dir.join("api-ca.pem")
    }

    /// Reads and checks the file at `path`.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let text = format!("cannot be read: {error}");
            Problems::of_file(path, text, "check the path and who may read it")
        })?;
        Self::parse(&text, path)
    }

    /// Checks `text`, the contents of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Problems> {
        keyward_config_file::parse(text, path, read)
    }
}

/// What is wrong with a value that may be left out makes it `None`, like one that was: the problem is reported, and
/// there is no configuration.
fn read<'i>(r: &mut Reader<'i>, mut top: Section<'i>) -> Option<Config> {
    let data_dir = r.path(&mut top, "data_dir", "name the folder of the server's files");
    let api_listen = address(r, &mut top, "api_listen", 8443);
    let agent_listen = address(r, &mut top, "agent_listen", 8444);
    let public_url = base_url(r, &mut top, "public_url");
    let agent_url = base_url(r, &mut top, "agent_url");
    let store_url = store_url(r, &mut top);
    let key_file = path(r, &mut top, "key_file");
    let certificate = path_found(r, &mut top, "tls_certificate_file");
    let key = path_found(r, &mut top, "tls_key_file");
    if let (Some(given), None) | (None, Some(given)) = (&certificate, &key) {
        let text = "`tls_certificate_file` and `tls_key_file` belong together";
        r.problem(given.span.clone(), text, "give both, or neither");
    }
    let azure = r.optional_section(&mut top, "azure").flatten().and_then(|section| azure(r, section));
    let usual = Some(u64::from(REQUESTS_PER_MINUTE));
    let requests_per_minute = r.integer(&mut top, "requests_per_minute", 10..=1_000_000, usual);
    let customer_key = customer_key::read(r, &mut top);
    r.no_more(top);
    Some(Config {
        data_dir: data_dir?.value,
        api_listen: api_listen?,
        agent_listen: agent_listen?,
        public_url,
        agent_url,
        store_url,
        key_file,
        tls_certificate_file: certificate.map(|found| found.value),
        tls_key_file: key.map(|found| found.value),
        azure,
        requests_per_minute: requests_per_minute.and_then(|number| number.try_into().ok())?,
        customer_key,
    })
}

fn azure<'i>(r: &mut Reader<'i>, mut section: Section<'i>) -> Option<AzureConfig> {
    let authority = needed_url(r, &mut section, "authority");
    let arm_url = needed_url(r, &mut section, "arm_url");
    let vault_host = needed(r, &mut section, "vault_host");
    let vault_resource = needed(r, &mut section, "vault_resource");
    let ca_file = path(r, &mut section, "ca_file");
    r.no_more(section);
    Some(AzureConfig {
        authority: authority?,
        arm_url: arm_url?,
        vault_host: vault_host?.value,
        vault_resource: vault_resource?.value,
        ca_file,
    })
}

/// A text that may be left out.
fn text<'i>(r: &mut Reader<'i>, section: &mut Section<'i>, key: &str) -> Option<Found<String>> {
    let found = r.optional_text(section, key).flatten()?;
    r.filled(found, "give a value, or leave the line out")
}

/// A text that its section cannot do without.
fn needed<'i>(r: &mut Reader<'i>, section: &mut Section<'i>, key: &str) -> Option<Found<String>> {
    r.text(section, key, "add it, or leave the whole section out to use public Azure")
}

fn needed_url<'i>(r: &mut Reader<'i>, section: &mut Section<'i>, key: &str) -> Option<Url> {
    let found = needed(r, section, key)?;
    r.parsed(found, "is no https URL", "write it as https://HOST[:PORT]", https).map(|found| found.value)
}

fn base_url<'i>(r: &mut Reader<'i>, section: &mut Section<'i>, key: &str) -> Option<Url> {
    let found = text(r, section, key)?;
    let of_a_host = |text: &str| https(text).filter(|url| url.path() == "/" && url.query().is_none());
    r.parsed(found, "is no https URL of a host alone", "write it as https://HOST[:PORT]", of_a_host)
        .map(|found| found.value)
}

fn store_url<'i>(r: &mut Reader<'i>, section: &mut Section<'i>) -> Option<String> {
    let Found { value, span, .. } = text(r, section, "store_url")?;
    if ["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| value.starts_with(scheme)) {
        return Some(value);
    }
    // The URL may carry a password: it is not repeated.
    r.problem(span, "`store_url` is of an unknown kind", "write sqlite:PATH or postgres://…");
    None
}

fn address<'i>(
    r: &mut Reader<'i>,
    section: &mut Section<'i>,
    key: &str,
    usual_port: u16,
) -> Option<SocketAddr> {
    if !section.has(key) {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, usual_port)));
    }
    let found = text(r, section, key)?;
    let hint = "write it as ADDRESS:PORT, such as 0.0.0.0:8443";
    r.parsed(found, "is no address with a port", hint, |text| text.parse().ok()).map(|found| found.value)
}

fn path<'i>(r: &mut Reader<'i>, section: &mut Section<'i>, key: &str) -> Option<PathBuf> {
    path_found(r, section, key).map(|found| found.value)
}

fn path_found<'i>(r: &mut Reader<'i>, section: &mut Section<'i>, key: &str) -> Option<Found<PathBuf>> {
    let found = text(r, section, key)?;
    r.absolute(found)
}

fn https(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.host().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Problems> {
        Config::parse(text, Path::new("/etc/keyward/server.toml"))
    }

    #[test]
    fn a_folder_is_enough() {
        let config = parse("data_dir = \"/var/lib/keyward\"\n").unwrap();
        assert_eq!(config.store_url(), "sqlite:/var/lib/keyward/keyward.db");
        assert_eq!(config.key_file(), Path::new("/var/lib/keyward/server.key"));
        assert_eq!(config.api_listen.to_string(), "127.0.0.1:8443");
        assert_eq!(config.requests_per_minute, 1_200);
    }

    #[test]
    fn everything_is_read() {
        let config = parse(
            "data_dir = \"/d\"\napi_listen = \"0.0.0.0:1\"\nagent_listen = \"[::]:2\"\npublic_url = \"https://keyward.example\"\n\
             agent_url = \"https://keyward.example:2\"\nstore_url = \"postgres://u:p@h/d\"\nrequests_per_minute = 60\nkey_file = \"/k\"\n\
             tls_certificate_file = \"/c\"\ntls_key_file = \"/t\"\n[azure]\nauthority = \"https://a\"\narm_url = \"https://b\"\n\
             vault_host = \"localhost:3\"\nvault_resource = \"https://vault\"\nca_file = \"/ca\"\n",
        )
        .unwrap();
        assert_eq!(config.azure.unwrap().vault_host, "localhost:3");
        assert_eq!(config.public_url.unwrap().as_str(), "https://keyward.example/");
        assert_eq!(config.tls_key_file.unwrap(), Path::new("/t"));
        assert_eq!(config.requests_per_minute, 60);
        assert!(parse("data_dir = \"/d\"\nrequests_per_minute = 0\n").is_err());
    }

    #[test]
    fn all_problems_are_told_at_once_with_line_and_hint() {
        let problems = parse(
            "data_dir = \"var\"\napi_listen = \"x\"\npublic_url = \"http://h\"\nstore_url = \"mysql://u:sesame@h\"\n\
             tls_key_file = \"/t\"\ncolour = 1\n[azure]\nauthority = \"https://a\"\nvault_host = 5\n",
        )
        .unwrap_err();
        let lines: Vec<usize> = problems.problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 7, 9], "{problems}");
        assert!(
            problems
                .to_string()
                .lines()
                .all(|line| line.starts_with("/etc/keyward/server.toml:") || line.starts_with("  hint: "))
        );
        assert!(!problems.to_string().contains("sesame"), "{problems}");
        assert_eq!(parse("data_dir = \n").unwrap_err().problems.len(), 1);
        assert!(parse("").unwrap_err().to_string().contains("`data_dir` is missing"));
    }
}
