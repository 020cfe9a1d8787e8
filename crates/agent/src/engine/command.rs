//! The engine's command line and environment, as values.
//!
//! No secret may ever be part of either: both can be read by every user of the host, and mongod logs its options.

use std::{ffi::OsString, path::Path};

use keyward_encryptor::layout::ENCRYPTOR_NAME;

use super::{Binary, EngineError, Launch};
use crate::{
    config::{EngineConfig, EngineKind},
    preflight::Finding,
};

/// Variables of the agent's environment that an engine gets; everything else stays behind.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "GLIBC_TUNABLES",
    "PYTHONPATH",
    "PYTHONHOME",
    "MALLOC_ARENA_MAX",
];

/// The value of `WIREDTIGER_CONFIG`: loads the encryptor from `library` and names the system key.
///
/// # Errors
/// A path that WiredTiger's configuration language cannot hold.
pub(super) fn wiredtiger_config(
    library: &Path,
    binary: &Binary,
    launch: &Launch,
) -> Result<String, EngineError> {
    let library = plain(library)?;
    let socket = plain(&launch.socket)?;
    let Binary { layout, per_database, .. } = binary;
    let keyid = launch.system_key_id;
    Ok(format!(
        "extensions=[\"{library}\"=(early_load=true,config=(socket=\"{socket}\",layout=\"{layout}\",\
         per_database={per_database}))],encryption=(name={ENCRYPTOR_NAME},keyid=\"{keyid}\")"
    ))
}

/// How the socket stands in the environment of a process that was started for it.
pub(super) fn socket_mark(socket: &Path) -> Result<String, EngineError> {
    Ok(format!("socket=\"{}\"", plain(socket)?))
}

/// The engine's arguments; `switches` are those that the exposure level asks for.
pub(super) fn arguments(
    engine: &EngineConfig,
    data_path: &Path,
    state_dir: &Path,
    switches: &[String],
) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let mut add = |parts: &[&dyn AsRef<std::ffi::OsStr>]| {
        all.extend(parts.iter().map(|p| p.as_ref().to_owned()));
    };
    let port = engine.port.to_string();
    match engine.kind {
        EngineKind::Mongod => {
            add(&[&"--dbpath", &data_path, &"--port", &port, &"--bind_ip", &engine.host]);
            if !engine.args.iter().any(|a| a == "--directoryperdb") {
                add(&[&"--directoryperdb"]);
            }
        }
        EngineKind::Secantusdb => {
            // An explicit configuration file, empty, keeps it from picking one up by itself.
            add(&[
                &"-m",
                &"secantus",
                &"--config",
                &state_dir.join(SECANTUSDB_CONFIG),
                &"--host",
                &engine.host,
            ]);
            add(&[&"--port", &port, &"--storage-path", &data_path, &"--log-level", &"WARNING"]);
        }
        EngineKind::Wiredtiger => {}
    }
    for argument in &engine.args {
        add(&[argument]);
    }
    for switch in switches {
        add(&[switch]);
    }
    all
}

/// What in the engine's own settings would keep WiredTiger from reading `WIREDTIGER_CONFIG`, and with it the encryptor.
/// Blocks: reads the configuration files that the arguments name.
pub(super) fn ignores_environment(engine: &EngineConfig) -> Option<Finding> {
    let named = engine.args.iter().zip(engine.args.iter().skip(1)).filter_map(|(option, value)| {
        ["--config", "-f"].contains(&option.as_str()).then_some(value.as_str())
    });
    let joined = engine.args.iter().filter_map(|argument| argument.strip_prefix("--config="));
    let place = if engine.args.iter().any(|argument| switches_environment_off(argument)) {
        "engine.args".to_owned()
    } else {
        // A file that cannot be read is the engine's to complain of.
        let in_file =
            |path: &&str| std::fs::read_to_string(path).is_ok_and(|text| switches_environment_off(&text));
        named.chain(joined).find(in_file)?.to_owned()
    };
    Some(Finding {
        refuse: true,
        text: format!(
            "{place} switches {SWITCH} off: the engine would not load the encryptor and write unencrypted"
        ),
        hint: format!("take {SWITCH} out of {place}"),
    })
}

/// What lets WiredTiger read `WIREDTIGER_CONFIG`. It does unless told otherwise.
const SWITCH: &str = "use_environment";

/// Whether a text with WiredTiger's settings in it gives the switch any other value than true, which a key without a
/// value is too. Where it stands several times, each counts: which one WiredTiger heeds is not asked.
fn switches_environment_off(text: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(SWITCH) {
        rest = after;
        if before.ends_with(of_name) || after.starts_with(of_name) {
            continue;
        }
        let value = after.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix(['=', ':']);
        let Some(value) = value.map(|value| value.trim_start_matches(['"', '\'', ' ', '\t'])) else {
            continue;
        };
        let end = value.find(|c| !of_name(c)).unwrap_or(value.len());
        if !["true", "1"].contains(&&value[..end]) {
            return true;
        }
    }
    false
}

/// SecantusDB's configuration file in the state directory.
pub(super) const SECANTUSDB_CONFIG: &str = "secantusd.toml";

/// The engine's environment, from the agent's.
pub(super) fn environment(
    kind: EngineKind,
    wiredtiger_config: &str,
    agent: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let mut all: Vec<_> = agent.filter(|(name, _)| INHERITED.iter().any(|i| name == i)).collect();
    all.push(("WIREDTIGER_CONFIG".into(), wiredtiger_config.into()));
    match kind {
        EngineKind::Secantusdb | EngineKind::Wiredtiger => {
            // No module from the working directory, no bytecode written beside the packages, no lost log lines.
            for name in ["PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"] {
                all.push((name.into(), "1".into()));
            }
        }
        EngineKind::Mongod => {}
    }
    all
}

/// A path as text without the characters that would end a quoted string of WiredTiger's configuration.
fn plain(path: &Path) -> Result<&str, EngineError> {
    path.to_str()
        .filter(|text| !text.contains(['"', '\\']) && !text.chars().any(char::is_control))
        .ok_or_else(|| EngineError::AwkwardPath { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use keyward_keys::key_id::KeyId;

    use super::*;

    #[test]
    fn the_configuration_names_library_socket_layout_and_system_key() {
        let binary = Binary { version: "7.0.14".into(), layout: "mongodb-7.0".into(), per_database: true };
        let launch =
            Launch { socket: "/run/k/keys.sock".into(), system_key_id: KeyId::from_bytes([0xab; 16]) };
        assert_eq!(
            wiredtiger_config(Path::new("/s/lib.so"), &binary, &launch).unwrap(),
            "extensions=[\"/s/lib.so\"=(early_load=true,config=(socket=\"/run/k/keys.sock\",\
             layout=\"mongodb-7.0\",per_database=true))],encryption=(name=keyward,keyid=\"\
             abababababababababababababababab\")"
        );
    }

    #[test]
    fn a_path_that_could_end_the_quoting_is_refused() {
        let binary = Binary { version: "1".into(), layout: "auto".into(), per_database: false };
        for path in ["/a\"),encryption=(name=none", "/a\\b", "/a\nb"] {
            let launch = Launch { socket: path.into(), system_key_id: KeyId::from_bytes([0; 16]) };
            let result = wiredtiger_config(Path::new("/s/lib.so"), &binary, &launch);
            assert!(matches!(result, Err(EngineError::AwkwardPath { .. })), "{path:?}");
        }
    }

    #[test]
    fn only_listed_variables_are_passed_on() {
        let agent = [("PATH", "/bin"), ("NOTIFY_SOCKET", "/run/x"), ("AZURE_CLIENT_SECRET", "s3cret")]
            .map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let got = environment(EngineKind::Mongod, "extensions=[]", agent.into_iter());
        assert_eq!(
            got,
            [("PATH", "/bin"), ("WIREDTIGER_CONFIG", "extensions=[]")]
                .map(|(k, v)| (OsString::from(k), OsString::from(v)))
        );
    }

    #[test]
    fn only_what_switches_the_environment_off_is_refused() {
        for off in [
            "use_environment=false",
            "use_environment=0",
            "cache_size=1GB, use_environment = false",
            "use_environment=true,use_environment=false",
            "use_environment:false",
            "\"use_environment\"=false",
            "use_environment=\"false\"",
            "use_environment=(true)",
            "use_environment=",
            "configString: 'log=(enabled),use_environment=false'",
        ] {
            assert!(switches_environment_off(off), "{off}");
        }
        for on in [
            "",
            "cache_size=1GB",
            "use_environment",
            "use_environment,cache_size=1GB",
            "use_environment=true",
            "use_environment = 1,cache_size=1GB",
            "configString: 'use_environment=true'",
            "use_environment_priv=false",
            "do_not_use_environment=false",
        ] {
            assert!(!switches_environment_off(on), "{on}");
        }
    }

    #[test]
    fn an_engine_that_would_not_read_its_environment_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good.conf"), dir.path().join("bad.conf"));
        std::fs::write(&good, "storage:\n  wiredTiger:\n    engineConfig: {cacheSizeGB: 1}\n").unwrap();
        std::fs::write(
            &bad,
            "storage:\n  wiredTiger:\n    engineConfig: {configString: 'use_environment=false'}\n",
        )
        .unwrap();
        let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
        let found = |args: &[&str]| {
            let args = args.iter().map(|a| (*a).to_owned()).collect();
            ignores_environment(&EngineConfig { args, ..EngineConfig::for_test(EngineKind::Mongod) })
        };
        for harmless in [&[][..], &["--config", good], &["-f", "/nowhere"], &["--setParameter", "a=b"]] {
            assert_eq!(found(harmless), None, "{harmless:?}");
        }
        let string = ["--wiredTigerEngineConfigString", "cache_size=1GB,use_environment=false"];
        assert!(found(&string).unwrap().text.starts_with("engine.args switches use_environment off"));
        for file in [&["-f", bad][..], &["--quiet", "--config", bad], &[&format!("--config={bad}")]] {
            let finding = found(file).unwrap();
            assert!(
                finding.refuse && finding.hint == format!("take use_environment out of {bad}"),
                "{file:?}"
            );
        }
    }
}
