//! The server's configuration file.
//!
//! Owns its shape, its defaults and every check that needs no network. It never holds a secret: files name other
//! files. All problems are reported at once, each with file, line and hint.

mod customer_key;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use url::Url;

pub use customer_key::{CustomerKeyConfig, PrivateEndpointPlaces, ServerIdentity};

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
    pub fn read(path: &Path) -> Result<Self, ConfigProblems> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) => {
                let text = format!("cannot be read: {error}");
                let hint = "check the path and who may read it".to_owned();
                Err(ConfigProblems {
                    path: path.to_owned(),
                    problems: vec![ConfigProblem { line: 0, text, hint }],
                })
            }
        }
    }

    /// Checks `text`, the contents of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigProblems> {
        let mut reader = Reader { text, problems: Vec::new() };
        let config = reader.config();
        reader.problems.sort_by_key(|(offset, _)| *offset);
        let problems: Vec<_> = reader.problems.into_iter().map(|(_, problem)| problem).collect();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            Some(_) | None => Err(ConfigProblems { path: path.to_owned(), problems }),
        }
    }
}

/// Something wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Line, counted from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// Everything that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblems {
    /// The file.
    pub path: PathBuf,
    /// At least one problem, by line.
    pub problems: Vec<ConfigProblem>,
}

impl fmt::Display for ConfigProblems {
    /// One line per problem and one per hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.path.display())?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            write!(f, ": {}\n  hint: {}", problem.text, problem.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

struct Reader<'i> {
    text: &'i str,
    problems: Vec<(usize, ConfigProblem)>,
}

type Entries<'i> = Vec<(String, Range<usize>, Spanned<DeValue<'i>>)>;

impl<'i> Reader<'i> {
    /// `None` when something is wrong; what, is in `problems`.
    fn config(&mut self) -> Option<Config> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let message = format!("not TOML: {}", error.message());
            self.problem(error.span().unwrap_or(0..0), message, "see https://toml.io");
        }
        if !errors.is_empty() {
            return None;
        }
        let mut top = entries(document.into_inner());
        let data_dir = self.path(&mut top, "data_dir");
        if data_dir.is_none() && self.problems.is_empty() {
            self.problem(0..0, "`data_dir` is missing".to_owned(), "name the folder of the server's files");
        }
        let api_listen = self.address(&mut top, "api_listen", 8443);
        let agent_listen = self.address(&mut top, "agent_listen", 8444);
        let public_url = self.base_url(&mut top, "public_url");
        let agent_url = self.base_url(&mut top, "agent_url");
        let store_url = self.store_url(&mut top);
        let key_file = self.path(&mut top, "key_file");
        let certificate = self.path_at(&mut top, "tls_certificate_file");
        let key = self.path_at(&mut top, "tls_key_file");
        if let (Some((_, span)), None) | (None, Some((_, span))) = (&certificate, &key) {
            let text = "`tls_certificate_file` and `tls_key_file` belong together".to_owned();
            self.problem(span.clone(), text, "give both, or neither");
        }
        let azure = self.azure(&mut top);
        let customer_key = self.customer_key(&mut top);
        self.no_more(top, "the file");
        Some(Config {
            data_dir: data_dir?,
            api_listen: api_listen?,
            agent_listen: agent_listen?,
            public_url,
            agent_url,
            store_url,
            key_file,
            tls_certificate_file: certificate.map(|(path, _)| path),
            tls_key_file: key.map(|(path, _)| path),
            azure,
            customer_key,
        })
    }

    fn azure(&mut self, top: &mut Entries<'i>) -> Option<AzureConfig> {
        let (span, value) = take(top, "azure")?;
        let DeValue::Table(table) = value.into_inner() else {
            self.problem(span, "`azure` is no section".to_owned(), "write [azure] on a line of its own");
            return None;
        };
        let mut section = entries(table);
        let authority = self.needed_url(&mut section, &span, "authority");
        let arm_url = self.needed_url(&mut section, &span, "arm_url");
        let vault_host = self.needed(&mut section, &span, "vault_host");
        let vault_resource = self.needed(&mut section, &span, "vault_resource");
        let ca_file = self.path(&mut section, "ca_file");
        self.no_more(section, "[azure]");
        Some(AzureConfig {
            authority: authority?,
            arm_url: arm_url?,
            vault_host: vault_host?,
            vault_resource: vault_resource?,
            ca_file,
        })
    }

    fn problem(&mut self, span: Range<usize>, text: String, hint: &str) {
        let offset = span.start.min(self.text.len());
        let line = 1 + self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
        self.problems.push((offset, ConfigProblem { line, text, hint: hint.to_owned() }));
    }

    fn text(&mut self, table: &mut Entries<'i>, key: &str) -> Option<(String, Range<usize>)> {
        let (span, value) = take(table, key)?;
        match value.get_ref().as_str() {
            Some(text) if !text.is_empty() => Some((text.to_owned(), span)),
            Some(_) => {
                self.problem(span, format!("`{key}` is empty"), "give a value, or leave the line out");
                None
            }
            None => {
                let text = format!("`{key}` is of type {}", value.get_ref().type_str());
                self.problem(span, text, "give a text in quotes");
                None
            }
        }
    }

    fn needed(&mut self, table: &mut Entries<'i>, section: &Range<usize>, key: &str) -> Option<String> {
        if !table.iter().any(|(name, _, _)| name == key) {
            let hint = "add it, or leave the whole section out to use public Azure";
            self.problem(section.clone(), format!("`{key}` is missing"), hint);
            return None;
        }
        self.text(table, key).map(|(text, _)| text)
    }

    fn needed_url(&mut self, table: &mut Entries<'i>, section: &Range<usize>, key: &str) -> Option<Url> {
        let text = self.needed(table, section, key)?;
        let url = https(&text);
        if url.is_none() {
            let shown = format!("`{key}` = \"{text}\" is no https URL");
            self.problem(section.clone(), shown, "write it as https://HOST[:PORT]");
        }
        url
    }

    fn base_url(&mut self, table: &mut Entries<'i>, key: &str) -> Option<Url> {
        let (text, span) = self.text(table, key)?;
        match https(&text).filter(|url| url.path() == "/" && url.query().is_none()) {
            Some(url) => Some(url),
            None => {
                let shown = format!("`{key}` = \"{text}\" is no https URL of a host alone");
                self.problem(span, shown, "write it as https://HOST[:PORT]");
                None
            }
        }
    }

    fn store_url(&mut self, table: &mut Entries<'i>) -> Option<String> {
        let (text, span) = self.text(table, "store_url")?;
        if ["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Some(text);
        }
        // The URL may carry a password: it is not repeated.
        self.problem(
            span,
            "`store_url` is of an unknown kind".to_owned(),
            "write sqlite:PATH or postgres://…",
        );
        None
    }

    fn address(&mut self, table: &mut Entries<'i>, key: &str, usual_port: u16) -> Option<SocketAddr> {
        if !table.iter().any(|(name, _, _)| name == key) {
            return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, usual_port)));
        }
        let (text, span) = self.text(table, key)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let hint = "write it as ADDRESS:PORT, such as 0.0.0.0:8443";
                self.problem(span, format!("`{key}` = \"{text}\" is no address with a port"), hint);
                None
            }
        }
    }

    fn path(&mut self, table: &mut Entries<'i>, key: &str) -> Option<PathBuf> {
        self.path_at(table, key).map(|(path, _)| path)
    }

    fn path_at(&mut self, table: &mut Entries<'i>, key: &str) -> Option<(PathBuf, Range<usize>)> {
        let (text, span) = self.text(table, key)?;
        let path = PathBuf::from(&text);
        if path.is_absolute() {
            return Some((path, span));
        }
        self.problem(span, format!("`{key}` = \"{text}\" is no absolute path"), "begin it with /");
        None
    }

    fn no_more(&mut self, table: Entries<'i>, place: &str) {
        for (key, span, _) in table {
            self.problem(
                span,
                format!("`{key}` is not known in {place}"),
                "correct the spelling, or remove it",
            );
        }
    }
}

fn entries(table: DeTable<'_>) -> Entries<'_> {
    table.into_iter().map(|(key, value)| (key.get_ref().to_string(), key.span(), value)).collect()
}

fn take<'i>(table: &mut Entries<'i>, key: &str) -> Option<(Range<usize>, Spanned<DeValue<'i>>)> {
    let index = table.iter().position(|(name, _, _)| name == key)?;
    let (_, span, value) = table.remove(index);
    Some((span, value))
}

fn https(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.host().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigProblems> {
        Config::parse(text, Path::new("/etc/keyward/server.toml"))
    }

    #[test]
    fn a_folder_is_enough() {
        let config = parse("data_dir = \"/var/lib/keyward\"\n").unwrap();
        assert_eq!(config.store_url(), "sqlite:/var/lib/keyward/keyward.db");
        assert_eq!(config.key_file(), Path::new("/var/lib/keyward/server.key"));
        assert_eq!(config.api_listen.to_string(), "127.0.0.1:8443");
    }

    #[test]
    fn everything_is_read() {
        let config = parse(
            "data_dir = \"/d\"\napi_listen = \"0.0.0.0:1\"\nagent_listen = \"[::]:2\"\npublic_url = \"https://keyward.example\"\n\
             agent_url = \"https://keyward.example:2\"\nstore_url = \"postgres://u:p@h/d\"\nkey_file = \"/k\"\n\
             tls_certificate_file = \"/c\"\ntls_key_file = \"/t\"\n[azure]\nauthority = \"https://a\"\narm_url = \"https://b\"\n\
             vault_host = \"localhost:3\"\nvault_resource = \"https://vault\"\nca_file = \"/ca\"\n",
        )
        .unwrap();
        assert_eq!(config.azure.unwrap().vault_host, "localhost:3");
        assert_eq!(config.public_url.unwrap().as_str(), "https://keyward.example/");
        assert_eq!(config.tls_key_file.unwrap(), Path::new("/t"));
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
