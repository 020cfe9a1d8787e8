//! `[engine.tls]`: how the agent speaks to a mongod that wants TLS.

use std::path::PathBuf;

use keyward_config_file::{Reader, Section};
use rustls::pki_types::ServerName;

use super::EngineKind;
use crate::engine::mongod_options;

/// `[engine.tls]`. What it leaves open is taken from mongod's own options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The authority that signed the certificates of the members.
    pub ca_file: Option<PathBuf>,
    /// The agent's certificate and its key.
    pub certificate_file: Option<PathBuf>,
    /// The name that the certificate of this host's mongod must be for.
    pub server_name: Option<String>,
    /// Whether the agent logs in with its certificate (`MONGODB-X509`) instead of a password.
    pub log_in_with_certificate: bool,
}

/// What else of `[engine]` the section has to fit to.
pub(super) struct Beside<'a> {
    pub(super) kind: Option<EngineKind>,
    pub(super) args: Option<&'a [String]>,
    pub(super) has_user: bool,
}

/// `Some(None)`: not given. `None`: wrong.
pub(super) fn read<'i>(
    r: &mut Reader<'i>,
    engine: &mut Section<'i>,
    beside: &Beside<'_>,
) -> Option<Option<TlsConfig>> {
    let Some(mut table) = r.optional_section(engine, "tls")? else { return Some(None) };
    let place = table.place();
    let ca_file = r.optional_path(&mut table, "ca_file");
    let certificate_file = r.optional_path(&mut table, "certificate_file");
    let server_name = match r.optional_text(&mut table, "server_name") {
        None => None,
        Some(None) => Some(None),
        Some(Some(text)) => {
            let hint = "write a name of mongod's certificate, without a port: \"db1.example.net\"";
            let parse = |text: &str| ServerName::try_from(text).ok().map(|_| text.to_owned());
            r.parsed(text, "is no host name", hint, parse).map(|found| Some(found.value))
        }
    };
    let log_in = r.boolean(&mut table, "log_in_with_certificate", false);
    r.no_more(table);
    let mut fits = true;
    let mut problem = |text: &str, hint: &str| {
        fits = false;
        r.problem(place.clone(), text, hint);
    };
    if let Some(kind @ (EngineKind::Secantusdb | EngineKind::Wiredtiger)) = beside.kind {
        let text = format!("[engine.tls] is only for kind = \"mongod\", not for \"{}\"", kind.as_str());
        problem(&text, "remove it");
    }
    if log_in == Some(true) {
        if certificate_file == Some(None) {
            problem(
                "`log_in_with_certificate` needs `certificate_file`",
                "name a certificate of the agent's own: mongod takes the certificate of a member for a member, \
                 which may do everything",
            );
        }
        if beside.has_user {
            problem(
                "[engine] names two ways to log in: `log_in_with_certificate` and `database_user`",
                "remove one of them; with a certificate its subject is the user",
            );
        }
    }
    if let (Some(args), Some(EngineKind::Mongod)) = (beside.args, beside.kind) {
        if ca_file == Some(None) && !mongod_options::mention_authority(args) {
            problem(
                "[engine.tls] names no `ca_file`, and engine.args name no --tlsCAFile",
                "name the authority that signed the certificates of the members",
            );
        }
        if !mongod_options::mention_tls(args) {
            problem(
                "[engine.tls] is given, but engine.args would start mongod without TLS",
                "give engine.args \"--tlsMode\", \"requireTLS\", \"--tlsCertificateKeyFile\", \"PATH\", \
                 \"--tlsCAFile\", \"PATH\", or \"--config\" with mongod's own file",
            );
        }
    }
    let read = TlsConfig {
        ca_file: ca_file?,
        certificate_file: certificate_file?,
        server_name: server_name?,
        log_in_with_certificate: log_in?,
    };
    fits.then_some(Some(read))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    const TLS: &str = "args = [\"--tlsMode\", \"requireTLS\", \"--tlsCAFile\", \"/etc/mongo/ca.pem\"]";

    fn read(engine: &str) -> Result<Config, String> {
        let text = format!(
            "name = \"n\"\ndata_path = \"/srv/db\"\nstate_dir = \"/srv/state\"\nencryptor = \"/k.so\"\n\
             [admin]\nsocket = \"/s\"\n\
             [customer_key]\ntenant_id = \"00000000-0000-0000-0000-000000000001\"\nmanaged_identity = true\n\
             key_identifier = \"https://v1.vault.azure.net/keys/k1/6f5902ac237024bdd0c176cb93063dc4\"\n\
             [engine]\nprogram = \"/m\"\nport = 27017\n{engine}\n"
        );
        Config::parse(&text, Path::new("/etc/keyward/db1.toml")).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_given_is_read() {
        let whole = read(&format!(
            "kind = \"mongod\"\n{TLS}\n[engine.tls]\nca_file = \"/ca.pem\"\ncertificate_file = \"/own.pem\"\n\
             server_name = \"db1.example.net\"\nlog_in_with_certificate = true"
        ));
        let tls = whole.unwrap().engine.tls.unwrap();
        assert_eq!(tls.ca_file.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!(tls.certificate_file.as_deref(), Some(Path::new("/own.pem")));
        assert_eq!(tls.server_name.as_deref(), Some("db1.example.net"));
        assert!(tls.log_in_with_certificate);
        let least = read(&format!("kind = \"mongod\"\n{TLS}\n[engine.tls]")).unwrap().engine.tls;
        assert_eq!(least, Some(super::TlsConfig::default()));
        assert_eq!(read("kind = \"mongod\"").unwrap().engine.tls, None);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let problems = read(
            "kind = \"mongod\"\nargs = [\"--replSet\", \"rs\"]\ndatabase_user = \"keyward\"\n[engine.tls]\n\
             certificate_file = \"own.pem\"\nserver_name = \"db1:27017\"\nlog_in_with_certificate = true\n\
             insecure = true",
        );
        insta::assert_snapshot!(problems.unwrap_err());
        let without =
            read(&format!("kind = \"mongod\"\n{TLS}\n[engine.tls]\nlog_in_with_certificate = true"));
        insta::assert_snapshot!(without.unwrap_err());
        let other = read("kind = \"secantusdb\"\n[engine.tls]\nca_file = \"/ca.pem\"");
        insta::assert_snapshot!(other.unwrap_err());
    }
}
