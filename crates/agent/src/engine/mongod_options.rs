//! What mongod's own options say of TLS: on a command line, and in the configuration file that it names.
//!
//! Read to know how mongod is to be asked, never to judge mongod's configuration: what cannot be read here says
//! nothing, and then the agent's own file has to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use saphyr_parser::{Event, EventReceiver, Parser};

use crate::{config::EngineConfig, preflight::Finding};

/// Whether mongod takes connections over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsMode {
    /// It does not, or nothing says so.
    #[default]
    Disabled,
    /// `allowTLS` and `preferTLS`: it takes both.
    Both,
    /// `requireTLS`: no other.
    Required,
}

/// What is said of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MongodTls {
    /// Whether it takes connections over TLS.
    pub mode: TlsMode,
    /// Its own certificate and key.
    pub certificate_key_file: Option<PathBuf>,
    /// The authority whose certificates it takes, of clients and of the other members.
    pub ca_file: Option<PathBuf>,
}

/// The names that an option has: on the command line and in the file, now and before MongoDB 4.2.
const MODE: [&str; 4] = ["tlsMode", "sslMode", "net.tls.mode", "net.ssl.mode"];
const CERTIFICATE: [&str; 4] =
    ["tlsCertificateKeyFile", "sslPEMKeyFile", "net.tls.certificateKeyFile", "net.ssl.PEMKeyFile"];
const AUTHORITY: [&str; 4] = ["tlsCAFile", "sslCAFile", "net.tls.CAFile", "net.ssl.CAFile"];
const REQUIRED: [&str; 2] = ["tlsOnNormalPorts", "sslOnNormalPorts"];

/// What the arguments of a mongod that keyward starts say. Blocks: reads the configuration file that they name.
pub(crate) fn of_engine(engine: &EngineConfig) -> MongodTls {
    of_arguments(&engine.args, Path::new("/"))
}

/// What the command line of a running mongod says; nothing, where it may not be looked at. Blocks.
pub(crate) fn of_process(pid: u32) -> MongodTls {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let line = fs::read(folder.join("cmdline")).unwrap_or_default();
    let arguments: Vec<String> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    of_arguments(&arguments, &fs::read_link(folder.join("cwd")).unwrap_or_else(|_| "/".into()))
}

/// What is wrong with options `started` for a mongod that now runs with `running`: the other members would not find it
/// again.
pub(crate) fn loses_tls(started: &MongodTls, running: &MongodTls) -> Option<Finding> {
    if started.mode >= running.mode {
        return None;
    }
    let shown = |path: &Option<PathBuf>| {
        path.as_ref().map_or_else(|| "PATH".to_owned(), |path| path.display().to_string())
    };
    let mode = if running.mode == TlsMode::Required { "requireTLS" } else { "preferTLS" };
    Some(Finding {
        refuse: true,
        text: "this mongod runs with TLS, and engine.args would start it without".to_owned(),
        hint: format!(
            "give engine.args \"--tlsMode\", \"{mode}\", \"--tlsCertificateKeyFile\", \"{}\", \"--tlsCAFile\", \
             \"{}\", and start the agent again",
            shown(&running.certificate_key_file),
            shown(&running.ca_file)
        ),
    })
}

/// Whether `arguments` themselves say anything of it, or name a file that may.
pub(crate) fn mention_tls(arguments: &[String]) -> bool {
    let given = |name: &&str| value(arguments, name).is_some();
    MODE.iter().any(given) || REQUIRED.iter().any(given) || file_of(arguments).is_some()
}

/// Whether `arguments` themselves name an authority, or a file that may.
pub(crate) fn mention_authority(arguments: &[String]) -> bool {
    AUTHORITY.iter().any(|name| value(arguments, name).is_some()) || file_of(arguments).is_some()
}

fn file_of(arguments: &[String]) -> Option<String> {
    let short = || {
        let at = arguments.iter().position(|argument| argument == "-f")?;
        arguments.get(at + 1).cloned()
    };
    value(arguments, "config").or_else(short)
}

fn of_arguments(arguments: &[String], folder: &Path) -> MongodTls {
    let read = |path: String| fs::read_to_string(folder.join(path));
    judge(arguments, folder, file_of(arguments).map(read))
}

/// The command line says more than the file.
fn judge(arguments: &[String], folder: &Path, file: Option<io::Result<String>>) -> MongodTls {
    let file = match file {
        Some(Ok(text)) => settings(&text),
        Some(Err(error)) => {
            tracing::debug!("the engine's configuration file cannot be read: {error}");
            Vec::new()
        }
        None => Vec::new(),
    };
    let find = |names: &[&str]| {
        let in_file =
            |name: &&str| file.iter().find(|(known, _)| known == *name).map(|(_, value)| value.clone());
        names.iter().find_map(|name| value(arguments, name)).or_else(|| names.iter().find_map(in_file))
    };
    let path = |names: &[&str]| find(names).map(|name| folder.join(name));
    let mode = match find(&MODE).as_deref() {
        Some("requireTLS" | "requireSSL") => TlsMode::Required,
        Some("allowTLS" | "preferTLS" | "allowSSL" | "preferSSL") => TlsMode::Both,
        None if REQUIRED.iter().any(|name| value(arguments, name).is_some()) => TlsMode::Required,
        Some(_) | None => TlsMode::Disabled,
    };
    MongodTls { mode, certificate_key_file: path(&CERTIFICATE), ca_file: path(&AUTHORITY) }
}

/// The value of `--name VALUE` or `--name=VALUE`; of a switch without one, what follows it.
fn value(arguments: &[String], name: &str) -> Option<String> {
    arguments.iter().enumerate().find_map(|(at, argument)| {
        match argument.strip_prefix("--")?.strip_prefix(name)? {
            "" => Some(arguments.get(at + 1).cloned().unwrap_or_default()),
            rest => rest.strip_prefix('=').map(str::to_owned),
        }
    })
}

/// The plain values of a configuration file by their whole names (`net.tls.mode`); nothing, when it is not YAML.
fn settings(text: &str) -> Vec<(String, String)> {
    let mut settings = Settings::default();
    match Parser::new_from_str(text).load(&mut settings, false) {
        Ok(()) => settings.found,
        Err(error) => {
            tracing::debug!("the engine's configuration file is not YAML: {error}");
            Vec::new()
        }
    }
}

/// Takes the values out of a file as it is parsed. What an alias stands for is never unfolded: a small file could
/// become a huge one.
#[derive(Default)]
struct Settings {
    above: Vec<Above>,
    found: Vec<(String, String)>,
}

/// What a value stands in.
enum Above {
    /// A mapping; in it the name whose value comes next.
    Mapping(Option<String>),
    Sequence,
}

impl Settings {
    /// A name or a value has been read; `plain` unless it is an alias or something nested.
    fn read(&mut self, plain: Option<String>) {
        let Some(Above::Mapping(next)) = self.above.last_mut() else { return };
        if next.is_none() {
            *next = Some(plain.unwrap_or_default());
            return;
        }
        let names = self.above.iter().map(|above| match above {
            Above::Mapping(name) => name.as_deref(),
            Above::Sequence => None,
        });
        if let (Some(names), Some(value)) = (names.collect::<Option<Vec<_>>>(), plain) {
            self.found.push((names.join("."), value));
        }
        if let Some(Above::Mapping(next)) = self.above.last_mut() {
            *next = None;
        }
    }
}

impl<'text> EventReceiver<'text> for Settings {
    fn on_event(&mut self, event: Event<'text>) {
        match event {
            Event::Scalar(text, ..) => self.read(Some(text.into_owned())),
            Event::Alias(_) => self.read(None),
            Event::MappingStart(..) => self.above.push(Above::Mapping(None)),
            Event::SequenceStart(..) => self.above.push(Above::Sequence),
            Event::MappingEnd | Event::SequenceEnd => {
                self.above.pop();
                self.read(None);
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn said(line: &str, file: Option<&str>) -> MongodTls {
        judge(&words(line), Path::new("/srv"), file.map(|text| Ok(text.to_owned())))
    }

    #[test]
    fn the_command_line_says_more_than_the_file() {
        let file = "# mongod\nnet:\n  port: 27017   # usual\n  tls:\n    mode: \"requireTLS\"\n    \
                    certificateKeyFile: /etc/mongo/db1.pem\n    CAFile: ca.pem\nreplication:\n  replSetName: rs\n";
        let whole = MongodTls {
            mode: TlsMode::Required,
            certificate_key_file: Some("/etc/mongo/db1.pem".into()),
            ca_file: Some("/srv/ca.pem".into()),
        };
        assert_eq!(said("mongod -f mongod.conf", Some(file)), whole);
        let line = "--tlsMode=preferTLS --tlsCAFile /other.pem";
        let other = MongodTls { mode: TlsMode::Both, ca_file: Some("/other.pem".into()), ..whole };
        assert_eq!(said(line, Some(file)), other);
    }

    #[test]
    fn older_names_and_dotted_ones_are_known() {
        let old = said("--sslMode requireSSL --sslPEMKeyFile /k.pem --sslCAFile /c.pem", None);
        assert_eq!((old.mode, old.ca_file), (TlsMode::Required, Some("/c.pem".into())));
        assert_eq!(old.certificate_key_file, Some("/k.pem".into()));
        let dotted = said("", Some("net.tls.mode: requireTLS\nnet.ssl.CAFile: '/c.pem'\n"));
        assert_eq!((dotted.mode, dotted.ca_file), (TlsMode::Required, Some("/c.pem".into())));
        let in_one_line = said("", Some("net: {port: 27017, tls: {mode: 'requireTLS', CAFile: /c.pem}}\n"));
        assert_eq!((in_one_line.mode, in_one_line.ca_file), (TlsMode::Required, Some("/c.pem".into())));
        assert_eq!(said("--tlsOnNormalPorts", None).mode, TlsMode::Required);
    }

    #[test]
    fn what_says_nothing_of_it_is_no_tls() {
        for line in ["", "--port 1", "--tlsMode disabled", "--tlsModest requireTLS", "tlsMode requireTLS"] {
            assert_eq!(said(line, None), MongodTls::default(), "{line}");
        }
        // A mode of another section, one that is commented out, and one that is no YAML.
        for file in
            ["mode: requireTLS\n", "net:\n  #tls:\n  #  mode: requireTLS\n", "net: {tls: {mode: requireTLS\n"]
        {
            assert_eq!(said("", Some(file)).mode, TlsMode::Disabled, "{file}");
        }
        let gone = judge(&[], Path::new("/"), Some(Err(io::ErrorKind::NotFound.into())));
        assert_eq!(gone, MongodTls::default());
    }

    #[test]
    fn arguments_that_would_take_its_tls_from_a_member_are_told() {
        let running = said("--tlsMode requireTLS --tlsCertificateKeyFile /k.pem --tlsCAFile /c.pem", None);
        assert_eq!(loses_tls(&running, &running), None);
        let both = said("--tlsMode allowTLS", None);
        assert_eq!(loses_tls(&running, &both), None, "more of it than before");
        let finding = loses_tls(&MongodTls::default(), &running).unwrap();
        assert!(finding.refuse && finding.hint.contains("\"--tlsCAFile\", \"/c.pem\""), "{}", finding.hint);
        assert!(loses_tls(&MongodTls::default(), &both).unwrap().hint.contains("preferTLS"));
        assert!(loses_tls(&both, &running).is_some());
    }

    #[test]
    fn arguments_that_may_say_it_are_told_from_those_that_do_not() {
        assert!(
            mention_tls(&words("--replSet rs --tlsMode requireTLS")) && mention_tls(&words("-f /m.conf"))
        );
        assert!(mention_tls(&words("--config=/m.conf")) && mention_tls(&words("--sslOnNormalPorts")));
        assert!(!mention_tls(&words("--replSet rs")) && !mention_tls(&words("-f")));
        assert!(
            mention_authority(&words("--tlsCAFile=/c")) && !mention_authority(&words("--tlsMode requireTLS"))
        );
    }
}
