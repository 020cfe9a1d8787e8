//! What the engine's program is: its release, and the layout of its WiredTiger.
//!
//! Parsing is pure; only [`identify`] runs the program. A release that is not known is refused unless the
//! operator's file says otherwise: the layout is never guessed.

use std::{
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use keyward_encryptor::layout;

use super::EngineError;
use crate::config::{EngineConfig, EngineKind, UnknownRelease};

/// The engine's program as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Its release, for instance `7.0.14`.
    pub version: String,
    /// The name of its layout in the encryptor's table, or `auto`.
    pub layout: String,
    /// Whether each database gets a key of its own.
    pub per_database: bool,
}

/// Why a program cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// MongoDB Enterprise has an encryption of its own.
    #[error("mongod {version} is MongoDB Enterprise (modules: {modules})")]
    Enterprise {
        /// Release.
        version: String,
        /// As the program lists them.
        modules: String,
    },
    /// Percona Server's method tables are its own.
    #[error("mongod {version} is Percona Server for MongoDB")]
    Percona {
        /// Release.
        version: String,
    },
    /// No layout is known for the release.
    #[error("no WiredTiger layout is known for mongod {version}")]
    UnknownRelease {
        /// Release.
        version: String,
    },
    /// The layout that the configuration names does not exist.
    #[error("there is no layout `{0}`")]
    UnknownLayout(String),
    /// What the program printed names no release.
    #[error("the program does not say its version: `{0}`")]
    NoVersion(String),
}

impl BinaryError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Enterprise { .. } | Self::Percona { .. } => {
                "use MongoDB Community here; Enterprise and Percona Server have encryption of their own and get \
                 their master key over KMIP"
                    .to_owned()
            }
            Self::UnknownRelease { .. } => {
                "use a release that docs/engines.md lists, or set engine.unknown_release = \"symbols\" to accept \
                 one whose symbol table names every method"
                    .to_owned()
            }
            Self::UnknownLayout(_) => format!("known layouts: {}", known_layouts()),
            Self::NoVersion(_) => "check engine.program: it must be the engine itself".to_owned(),
        }
    }
}

/// Runs the program to learn what it is. Blocks for as long as the program takes, at most 60 s.
///
/// # Errors
/// The program does not start, does not say its version, or is one that keyward does not load into.
pub fn identify(engine: &EngineConfig) -> Result<Binary, EngineError> {
    let program = &engine.program;
    match engine.kind {
        EngineKind::Mongod => {
            let output = run(program, &["--version"])?;
            let described = parse_mongod(&output)?;
            Ok(choose(&described, engine.layout.as_deref(), engine.unknown_release)?)
        }
        EngineKind::Secantusdb => {
            let script = "import importlib.metadata as m; print('SecantusDB', m.version('SecantusDB'))";
            let output = run(program, &["-c", script])?;
            let version = parse_secantusdb(&output)?;
            let layout = match engine.layout.as_deref() {
                Some(name) => known(name)?,
                // The one WiredTiger that its wheels hold; the encryptor verifies it before it touches anything.
                None => known("secantusdb-11.2")?,
            };
            Ok(Binary { version, layout, per_database: false })
        }
        EngineKind::Wiredtiger => {
            let name = engine.layout.as_deref().unwrap_or("auto");
            Ok(Binary { version: format!("WiredTiger ({name})"), layout: known(name)?, per_database: true })
        }
    }
}

/// What `mongod --version` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Described {
    version: String,
    modules: String,
    percona: bool,
}

/// Reads `db version vX.Y.Z` and the `modules` of the build information, both its JSON form (4.4 and later) and
/// the older one of `name: value` lines.
fn parse_mongod(output: &str) -> Result<Described, BinaryError> {
    let version = output
        .lines()
        .find_map(|line| line.trim().strip_prefix("db version v"))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| BinaryError::NoVersion(first_line(output)))?
        .to_owned();
    let build_info = output
        .split_once("Build Info:")
        .and_then(|(_, json)| serde_json::from_str::<serde_json::Value>(json.trim()).ok());
    let modules = match &build_info {
        Some(info) => info
            .get("modules")
            .and_then(|m| m.as_array())
            .map(|m| m.iter().filter_map(|v| v.as_str()).collect::<Vec<_>>().join(", "))
            .unwrap_or_default(),
        None => output
            .lines()
            .find_map(|line| line.trim().strip_prefix("modules:"))
            .map(str::trim)
            .filter(|m| *m != "none")
            .unwrap_or_default()
            .to_owned(),
    };
    // Percona numbers its builds `X.Y.Z-N`; MongoDB's own suffixes are words (`-rc0`, `-alpha`).
    let numbered_build = version
        .split_once('-')
        .is_some_and(|(_, suffix)| suffix.chars().next().is_some_and(|c| c.is_ascii_digit()));
    let percona = numbered_build
        || ["psmdbVersion", "proFeatures", "perconaFeatures", "Percona"].iter().any(|w| output.contains(w));
    Ok(Described { version, modules, percona })
}

fn choose(
    described: &Described,
    configured: Option<&str>,
    unknown: UnknownRelease,
) -> Result<Binary, BinaryError> {
    let version = described.version.clone();
    if described.percona {
        return Err(BinaryError::Percona { version });
    }
    if !described.modules.is_empty() {
        return Err(BinaryError::Enterprise { version, modules: described.modules.clone() });
    }
    let layout = match (configured, layout::for_mongod(&version), unknown) {
        (Some(name), _, _) => known(name)?,
        (None, Some(found), _) => found.name.to_owned(),
        (None, None, UnknownRelease::Symbols) => "auto".to_owned(),
        (None, None, UnknownRelease::Refuse) => return Err(BinaryError::UnknownRelease { version }),
    };
    Ok(Binary { version, layout, per_database: true })
}

fn parse_secantusdb(output: &str) -> Result<String, BinaryError> {
    output
        .lines()
        .find_map(|line| line.strip_prefix("SecantusDB "))
        .map(|version| version.trim().to_owned())
        .ok_or_else(|| BinaryError::NoVersion(first_line(output)))
}

fn known(name: &str) -> Result<String, BinaryError> {
    if name == "auto" || layout::by_name(name).is_some() {
        Ok(name.to_owned())
    } else {
        Err(BinaryError::UnknownLayout(name.to_owned()))
    }
}

fn known_layouts() -> String {
    layout::all().iter().map(|l| l.name).chain(["auto"]).collect::<Vec<_>>().join(", ")
}

fn first_line(output: &str) -> String {
    output.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Standard output of a short-lived run, at most 64 KiB of it.
fn run(program: &Path, arguments: &[&str]) -> Result<String, EngineError> {
    const LIMIT: Duration = Duration::from_secs(60);
    let failed = |source| EngineError::Spawn { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            // What was read before an error is judged by the parser.
            let _ = stdout.take(64 * 1024).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let begun = Instant::now();
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => break,
            Some(status) => {
                return Err(EngineError::Program { program: program.to_owned(), status: status.to_string() });
            }
            None if begun.elapsed() > LIMIT => {
                // It is our own child and not yet reaped: its number still names it.
                let _ = child.kill();
                let _ = child.wait();
                return Err(EngineError::Program {
                    program: program.to_owned(),
                    status: format!("no end within {} s", LIMIT.as_secs()),
                });
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Ok(reader.join().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As MongoDB 4.4 and later print it.
    fn modern(version: &str, modules: &str, extra: &str) -> String {
        format!(
            "db version v{version}\nBuild Info: {{\n    \"version\": \"{version}\",\n    \"gitVersion\": \
             \"f3b9f5e8c0c1e6b5d6a9d8a7c3b2a1f0e9d8c7b6\",\n    \"openSSLVersion\": \"OpenSSL 3.0.2 15 Mar 2022\",\n    \
             \"modules\": [{modules}],\n{extra}    \"allocator\": \"tcmalloc\",\n    \"environment\": {{\n        \
             \"distmod\": \"ubuntu2204\",\n        \"distarch\": \"x86_64\",\n        \"target_arch\": \"x86_64\"\n    \
             }}\n}}\n"
        )
    }

    fn chosen(output: &str, unknown: UnknownRelease) -> Result<Binary, BinaryError> {
        choose(&parse_mongod(output)?, None, unknown)
    }

    #[test]
    fn community_releases_get_their_layout() {
        for (release, expected) in
            [("7.0.14", "mongodb-7.0"), ("8.0.4", "mongodb-8.0"), ("8.2.1", "mongodb-8.2")]
        {
            let binary = chosen(&modern(release, "", ""), UnknownRelease::Refuse).unwrap();
            assert_eq!((binary.version.as_str(), binary.layout.as_str()), (release, expected));
            assert!(binary.per_database);
        }
    }

    /// A program that does what `script` says.
    fn program(dir: &Path, script: &str) -> EngineConfig {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join("mongod");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        EngineConfig { program: path, ..EngineConfig::for_test(EngineKind::Mongod) }
    }

    #[test]
    fn the_program_itself_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let says = |text: &str| format!("[ \"$1\" = --version ] || exit 9\ncat <<'END'\n{text}END");
        let good = program(dir.path(), &says(&modern("8.0.4", "", "")));
        assert_eq!(identify(&good).unwrap().layout, "mongodb-8.0");
        let named = EngineConfig { layout: Some("mongodb-7.0".into()), ..good };
        assert_eq!(identify(&named).unwrap().layout, "mongodb-7.0");
        let wrong = EngineConfig { layout: Some("mongodb-0".into()), ..named };
        assert!(identify(&wrong).unwrap_err().hint().contains("secantusdb-11.2"));
        let failing = program(dir.path(), "exit 3");
        assert!(matches!(identify(&failing), Err(EngineError::Program { .. })));
        let missing = EngineConfig { program: dir.path().join("none"), ..failing };
        assert!(matches!(identify(&missing), Err(EngineError::Spawn { .. })));
    }

    #[test]
    fn the_older_form_without_json_is_read() {
        let output =
            "db version v4.4.6\nGit version: 72e66213c2c3eab37d9358d5e78ad7f5c1d0d0d7\nmodules: none\n";
        assert_eq!(parse_mongod(output).unwrap().modules, "");
        let output = output.replace("modules: none", "modules: enterprise");
        assert!(matches!(chosen(&output, UnknownRelease::Refuse), Err(BinaryError::Enterprise { .. })));
    }

    #[test]
    fn enterprise_is_refused_by_its_module() {
        let error = chosen(&modern("7.0.14", "\"enterprise\"", ""), UnknownRelease::Symbols).unwrap_err();
        assert_eq!(error.to_string(), "mongod 7.0.14 is MongoDB Enterprise (modules: enterprise)");
        assert!(error.hint().contains("KMIP"));
    }

    #[test]
    fn percona_is_refused_by_its_version_and_by_its_fields() {
        let by_version = modern("7.0.14-8", "", "");
        assert!(matches!(chosen(&by_version, UnknownRelease::Symbols), Err(BinaryError::Percona { .. })));
        let by_field = modern("7.0.14", "", "    \"psmdbVersion\": \"7.0.14-8\",\n");
        assert!(matches!(chosen(&by_field, UnknownRelease::Symbols), Err(BinaryError::Percona { .. })));
    }

    #[test]
    fn a_release_candidate_is_not_taken_for_percona() {
        assert!(!parse_mongod(&modern("8.2.0-rc3", "", "")).unwrap().percona);
    }

    #[test]
    fn an_unknown_release_is_refused_unless_symbols_may_decide() {
        let output = modern("99.1.0", "", "");
        assert!(matches!(
            chosen(&output, UnknownRelease::Refuse),
            Err(BinaryError::UnknownRelease { version }) if version == "99.1.0"
        ));
        assert_eq!(chosen(&output, UnknownRelease::Symbols).unwrap().layout, "auto");
    }

    #[test]
    fn a_program_that_is_no_mongod_is_refused() {
        assert_eq!(
            parse_mongod("GNU bash, version 5.2.15\nmore"),
            Err(BinaryError::NoVersion("GNU bash, version 5.2.15".into()))
        );
        assert!(parse_secantusdb("Python 3.11.7").is_err());
        assert_eq!(parse_secantusdb("SecantusDB 0.7.0b3\n").unwrap(), "0.7.0b3");
    }
}
