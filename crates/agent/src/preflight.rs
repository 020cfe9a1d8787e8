//! Whether this host and this engine will do, said before anything is touched.
//!
//! Owns the checks; it must never change anything, and works without an agent. [`Host`] is what they look at, so
//! that each decision is a function of values.

mod host;
mod symbols;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use host::{Folder, Host};

use crate::{
    config::{Config, EngineConfig, EngineKind, Exposure, Initial},
    engine::{Binary, EngineError, Seen, Shown, exposure, swap},
    node::chain,
};

/// Something an operator should know before a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it forbids the start.
    pub refuse: bool,
    /// What it is.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// How much a check matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but a person should look at it.
    Warn,
    /// It will not do.
    Refuse,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was looked at.
    pub name: CheckName,
    /// What it comes to.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do about it; empty when nothing.
    pub hint: String,
}

/// The things looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckName {
    /// The program and its release.
    Engine,
    /// The layout of its WiredTiger.
    Layout,
    /// Its symbol table.
    Symbols,
    /// What it writes outside WiredTiger.
    Exposure,
    /// Swap.
    Swap,
    /// Locked memory.
    MemoryLock,
    /// Core files.
    CoreFiles,
    /// The users of agent and engine.
    Users,
    /// The agent's user in the database.
    DatabaseUser,
    /// The database's TLS.
    Tls,
    /// DBPATH.
    DataPath,
    /// The agent's folder.
    StateDir,
    /// Free space.
    Space,
    /// The port.
    Port,
    /// The kernel.
    Kernel,
    /// SELinux.
    Selinux,
}

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A mongod to judge instead of the configured program (or of the one on `PATH`).
    pub mongod: Option<PathBuf>,
    /// The agent's file, when there is one: without it only host and program are judged.
    pub config: Option<Config>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The worst level of all checks.
    pub level: Level,
    /// Each check.
    pub checks: Vec<Check>,
}

/// Looks at this host. Blocks for as long as the engine's program takes to say its version.
pub fn preflight(options: &Options) -> Report {
    let host = Host::read(options);
    let checks = judge(&host, options.config.as_ref());
    let level = checks.iter().map(|c| c.level).max().unwrap_or(Level::Ok);
    Report { level, checks }
}

/// What an agent checks before each start of its engine.
pub fn at_start(config: &Config) -> Vec<Finding> {
    let engine = &config.engine;
    let mut findings = match exposure::Media::read(&config.data_path, &engine.log_file) {
        Ok(media) => exposure::plan(engine, &media).findings,
        Err(error) => {
            let text =
                format!("what the engine writes outside WiredTiger cannot be judged: {}", chain(&error));
            vec![Finding { refuse: true, text, hint: error.hint() }]
        }
    };
    findings.extend(swap::Swap::read(swap::engine_gets_scope()).judge(engine.accept_plaintext_in_swap));
    findings
}

/// Every check, from what was read.
fn judge(host: &Host, config: Option<&Config>) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(judge_engine(host));
    if let Some(config) = config {
        checks.push(judge_exposure(host, &config.engine));
        checks.push(judge_users(host, &config.engine));
        checks.extend(judge_database_user(&config.engine));
        checks.extend(judge_tls(host, config));
        checks.extend(judge_folders(host, config));
        checks.push(judge_port(host, config));
    }
    checks.push(judge_swap(host, config.is_some_and(|c| c.engine.accept_plaintext_in_swap)));
    checks.push(judge_memory_lock(host));
    checks.push(judge_core_files(host));
    checks.push(if host.pidfd {
        ok(CheckName::Kernel, "the kernel has pidfds")
    } else {
        refuse(CheckName::Kernel, "the kernel has no pidfds", "use Linux 5.3 or later")
    });
    if host.selinux_enforcing {
        checks.push(warn(
            CheckName::Selinux,
            "SELinux is enforcing: mongod may not load a library from the state directory or use its socket",
            "add a policy module for both: docs/guides/systemd.md",
        ));
    }
    checks
}

fn judge_engine(host: &Host) -> Vec<Check> {
    let binary = match &host.binary {
        None => {
            let text = "no engine given, and no mongod on PATH";
            return vec![warn(CheckName::Engine, text, "name one: keyward node preflight --mongod PATH")];
        }
        Some(Err(error)) => {
            let is_binary = matches!(error, EngineError::Binary(_));
            let check = if is_binary { CheckName::Layout } else { CheckName::Engine };
            return vec![refuse(check, &chain(error), &error.hint())];
        }
        Some(Ok(binary)) => binary,
    };
    let keys = if binary.per_database { "a key per database" } else { "one key for the node" };
    let mut checks = vec![
        ok(CheckName::Engine, &format!("{} {}", host.kind.as_str(), binary.version)),
        ok(CheckName::Layout, &format!("layout {}; {keys}", binary.layout)),
    ];
    if host.kind == EngineKind::Mongod {
        checks.push(judge_symbols(host, binary));
    }
    checks
}

fn judge_symbols(host: &Host, binary: &Binary) -> Check {
    let needed =
        keyward_encryptor::layout::by_name(&binary.layout).is_none_or(|layout| layout.needs_symbols());
    match (&host.symbols, needed) {
        (Ok(missing), _) if missing.is_empty() => {
            ok(CheckName::Symbols, "the program's symbol table names every method used")
        }
        (Ok(missing), true) => refuse(
            CheckName::Symbols,
            &format!(
                "the program's symbol table lacks {}, and its layout is accepted by names only",
                missing.join(", ")
            ),
            "use a release whose layout docs/engines.md lists, or one that is not stripped",
        ),
        (Ok(_), false) => warn(
            CheckName::Symbols,
            "the program is stripped: the layout is verified by counts and versions, not by names",
            "prefer MongoDB's own packages, which keep the symbol table",
        ),
        (Err(text), _) => warn(
            CheckName::Symbols,
            &format!("the program's symbol table cannot be read: {text}"),
            "check the program",
        ),
    }
}

fn judge_exposure(host: &Host, engine: &EngineConfig) -> Check {
    let media = match &host.media {
        Ok(media) => media,
        Err(text) => return refuse(CheckName::Exposure, text, "check the paths"),
    };
    let findings = exposure::plan(engine, media).findings;
    if let Some(first) = findings.first() {
        return refuse(CheckName::Exposure, &first.text, &first.hint);
    }
    let text =
        format!("{}: readable stay {}", engine.exposure.as_str(), exposure::leaves_readable(engine.exposure));
    match engine.exposure {
        Exposure::Open => warn(
            CheckName::Exposure,
            &text,
            "prefer engine.exposure = \"standard\" with tmpfs at DBPATH/_tmp",
        ),
        Exposure::Strict | Exposure::Standard => ok(CheckName::Exposure, &text),
    }
}

fn judge_swap(host: &Host, accepted: bool) -> Check {
    match host.swap.judge(accepted) {
        None if host.swap.areas.is_empty() => ok(CheckName::Swap, "there is no swap"),
        None => ok(CheckName::Swap, "swap is encrypted, compressed in memory, or barred to the engine"),
        Some(finding) if finding.refuse => refuse(CheckName::Swap, &finding.text, &finding.hint),
        Some(finding) => warn(CheckName::Swap, &finding.text, &finding.hint),
    }
}

fn judge_memory_lock(host: &Host) -> Check {
    // A slab of keys is one page; a thousand databases need well below this.
    const ENOUGH: u64 = 8 * 1024 * 1024;
    match host.memory_lock {
        None => ok(CheckName::MemoryLock, "memory can be locked without a limit"),
        Some(limit) if limit >= ENOUGH => {
            ok(CheckName::MemoryLock, &format!("{} KiB of memory can be locked", limit / 1024))
        }
        Some(limit) => warn(
            CheckName::MemoryLock,
            &format!(
                "only {} KiB of memory can be locked; status shows `not locked` when keys need more",
                limit / 1024
            ),
            "raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=64M), for the agent and for the engine",
        ),
    }
}

fn judge_core_files(host: &Host) -> Check {
    let pattern = host.core_pattern.trim();
    // A limit of 0 keeps files from being written, but the kernel still starts a handler; systemd's honours it.
    if pattern.starts_with('|') && !pattern.contains("systemd-coredump") {
        let text = format!("core dumps are piped into a program: {pattern}");
        let hint = "make sure that it honours RLIMIT_CORE=0 (%c), or set kernel.core_pattern to a file name";
        warn(CheckName::CoreFiles, &text, hint)
    } else {
        ok(CheckName::CoreFiles, "agent and engine run with RLIMIT_CORE=0")
    }
}

fn judge_users(host: &Host, engine: &EngineConfig) -> Check {
    match (&engine.user, host.agent_is_root) {
        (Some(user), true) => {
            ok(CheckName::Users, &format!("the engine runs as `{user}`, the agent as root"))
        }
        (Some(user), false) => refuse(
            CheckName::Users,
            &format!("engine.user is `{user}`, but this is not root and cannot change users"),
            "run the agent as root (its unit drops what it does not need), or leave engine.user away",
        ),
        (None, _) => warn(
            CheckName::Users,
            "agent and engine run under the same user: whoever takes over the engine can read the agent's files",
            "in production give the engine its own: engine.user = \"mongod\"",
        ),
    }
}

fn judge_database_user(engine: &EngineConfig) -> Option<Check> {
    let has_users = engine.args.iter().any(|a| a == "--auth" || a.starts_with("--keyFile"));
    match (engine.kind, has_users, &engine.database_user) {
        (EngineKind::Mongod, true, None) => Some(warn(
            CheckName::DatabaseUser,
            "mongod has users, but the agent has none: snapshots by fsyncLock and proofs will be refused",
            "make it one with the role of docs/guides/mongod-user.md; set engine.database_user",
        )),
        (EngineKind::Mongod, _, Some(user)) => {
            Some(ok(CheckName::DatabaseUser, &format!("the agent logs in as `{user}`")))
        }
        (EngineKind::Mongod | EngineKind::Secantusdb | EngineKind::Wiredtiger, _, _) => None,
    }
}

/// Days before the end of a certificate from which on it is told.
const CERTIFICATE_DAYS: i64 = 30;

fn judge_tls(host: &Host, config: &Config) -> Vec<Check> {
    let Some(look) = &host.look else { return Vec::new() };
    let name = CheckName::Tls;
    let mut checks = Vec::new();
    if let Some(finding) = &look.unusable {
        checks.push(refuse(name, &finding.text, &finding.hint));
    }
    match &look.seen {
        None if config.engine.tls.is_some() && look.unusable.is_none() => {
            let text = format!("nobody listens on port {} yet: TLS was not tried", config.engine.port);
            checks.push(ok(name, &text));
        }
        None => {}
        Some(Err(error)) => checks.push(refuse(name, &chain(error), &error.hint())),
        Some(Ok(Seen { certificate: None, .. })) => checks.push(ok(name, "mongod answers without TLS")),
        Some(Ok(Seen { certificate: Some((shown, verified)), own })) => {
            let text = format!("mongod shows the certificate {shown}, good for {verified}");
            let renew = "renew it: net.tls.certificateKeyFile, then rotateCertificates or a restart";
            checks.push(judge_end(&text, shown, host.now, renew));
            if let Some((own, asked)) = own {
                let asked = if *asked { "is asked for" } else { "is not asked for" };
                let text = format!("the agent's certificate {own} {asked}");
                checks.push(judge_end(&text, own, host.now, "renew it: certificate_file under [engine.tls]"));
            }
        }
    }
    checks
}

fn judge_end(text: &str, shown: &Shown, now: jiff::Timestamp, renew: &str) -> Check {
    let text = format!("{text}; it holds until {}", shown.not_after);
    let days = (shown.not_after.as_second() - now.as_second()).div_euclid(86_400);
    if days < 0 {
        refuse(CheckName::Tls, &text, renew)
    } else if days < CERTIFICATE_DAYS {
        warn(CheckName::Tls, &text, renew)
    } else {
        ok(CheckName::Tls, &text)
    }
}

fn judge_folders(host: &Host, config: &Config) -> Vec<Check> {
    let mut checks = vec![
        judge_folder(CheckName::DataPath, &config.data_path, &host.data_path),
        judge_folder(CheckName::StateDir, &config.state_dir, &host.state_dir),
    ];
    if adopts(host, config) {
        let text = format!(
            "{} holds data that is not encrypted: it is adopted as it is, and filled again when its server says so",
            config.data_path.display()
        );
        checks.push(ok(CheckName::DataPath, &text));
    } else if host.data_without_keystore {
        checks.push(refuse(
            CheckName::DataPath,
            &format!(
                "{} holds data but no keystore: it is not encrypted by keyward",
                config.data_path.display()
            ),
            "start on an empty data path and let the replica set sync it, or restore a snapshot",
        ));
    }
    if host.state_dir.no_exec {
        checks.push(refuse(
            CheckName::StateDir,
            &format!(
                "{} is mounted noexec: the engine cannot load the encryptor from it",
                config.state_dir.display()
            ),
            "choose a state_dir on another mount",
        ));
    }
    // Room for the first journal files and a keystore; how much the data needs is the operator's to know.
    const FEW: u64 = 2 * 1024 * 1024 * 1024;
    let free = host.data_path.free_bytes;
    checks.push(if free < FEW {
        let text = format!("{} MiB are free at {}", free / 1024 / 1024, config.data_path.display());
        warn(
            CheckName::Space,
            &text,
            "make space: a snapshot without reflinks needs as much again as the data",
        )
    } else {
        ok(CheckName::Space, &format!("{} MiB are free", free / 1024 / 1024))
    });
    checks
}

fn judge_folder(name: CheckName, path: &Path, folder: &Folder) -> Check {
    let shown = path.display();
    if let Some(error) = &folder.error {
        return refuse(name, &format!("{shown} cannot be looked at: {error}"), "check the path");
    }
    match folder.mode {
        None => ok(name, &format!("{shown} does not exist yet and will be made")),
        Some(mode) if mode & 0o022 != 0 => refuse(
            name,
            &format!("{shown} can be written by others (mode {mode:03o})"),
            "chmod go-w: others could replace the database's files or keyward's",
        ),
        Some(mode) => ok(name, &format!("{shown} is there (mode {mode:03o})")),
    }
}

/// Whether an agent would adopt the operator's own mongod here.
fn adopts(host: &Host, config: &Config) -> bool {
    let own = config.engine.kind == EngineKind::Mongod && config.initial == Initial::Server;
    own && host.data_without_keystore
}

fn judge_port(host: &Host, config: &Config) -> Check {
    let engine = &config.engine;
    match (&host.foreign, engine.kind) {
        (Some(text), _) if adopts(host, config) => {
            ok(CheckName::Port, &format!("its operator's mongod runs: {text}"))
        }
        (Some(text), _) => refuse(CheckName::Port, text, "stop it, or choose another port and data path"),
        (None, EngineKind::Wiredtiger) => ok(CheckName::Port, "nobody else has the data path open"),
        (None, EngineKind::Mongod | EngineKind::Secantusdb) => {
            ok(CheckName::Port, &format!("nobody else uses port {} or the data path", engine.port))
        }
    }
}

fn ok(name: CheckName, text: &str) -> Check {
    Check { name, level: Level::Ok, text: text.to_owned(), hint: String::new() }
}

fn warn(name: CheckName, text: &str, hint: &str) -> Check {
    Check { name, level: Level::Warn, text: text.to_owned(), hint: hint.to_owned() }
}

fn refuse(name: CheckName, text: &str, hint: &str) -> Check {
    Check { name, level: Level::Refuse, text: text.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        self, BinaryError, ConnectionError,
        medium::Medium,
        swap::{Swap, SwapArea},
    };

    fn host() -> Host {
        let binary = Binary { version: "7.0.14".into(), layout: "mongodb-7.0".into(), per_database: true };
        let medium = Medium::Memory;
        Host {
            kind: EngineKind::Mongod,
            binary: Some(Ok(binary)),
            symbols: Ok(Vec::new()),
            media: Ok(exposure::Media {
                temporary: medium.clone(),
                rollback: medium.clone(),
                diagnostics: medium.clone(),
                log: medium,
            }),
            swap: Swap::default(),
            memory_lock: None,
            core_pattern: "core".into(),
            pidfd: true,
            selinux_enforcing: false,
            agent_is_root: true,
            data_path: Folder { mode: Some(0o700), free_bytes: 1 << 40, ..Folder::default() },
            state_dir: Folder { mode: None, ..Folder::default() },
            data_without_keystore: false,
            foreign: None,
            look: None,
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn level_of(checks: &[Check], name: CheckName) -> Level {
        checks.iter().filter(|c| c.name == name).map(|c| c.level).max().expect("the check was made")
    }

    #[test]
    fn a_good_host_is_ok_in_everything() {
        let checks = judge(&host(), None);
        assert!(checks.iter().all(|c| c.level == Level::Ok), "{checks:#?}");
    }

    #[test]
    fn each_trouble_is_named_with_a_hint() {
        let binary = |error| Some(Err(EngineError::Binary(error)));
        let swap =
            Swap { areas: vec![SwapArea { path: "/dev/sda2".into(), safe: false }], ..Swap::default() };
        let enterprise = BinaryError::Enterprise { version: "7".into(), modules: "enterprise".into() };
        let cases = [
            (Host { binary: binary(enterprise), ..host() }, CheckName::Layout, Level::Refuse),
            (Host { binary: None, ..host() }, CheckName::Engine, Level::Warn),
            (Host { symbols: Ok(vec!["__session_create"]), ..host() }, CheckName::Symbols, Level::Warn),
            (Host { swap, ..host() }, CheckName::Swap, Level::Refuse),
            (Host { memory_lock: Some(64 * 1024), ..host() }, CheckName::MemoryLock, Level::Warn),
            (
                Host { core_pattern: "|/usr/share/apport %p".into(), ..host() },
                CheckName::CoreFiles,
                Level::Warn,
            ),
            (Host { pidfd: false, ..host() }, CheckName::Kernel, Level::Refuse),
            (Host { selinux_enforcing: true, ..host() }, CheckName::Selinux, Level::Warn),
        ];
        for (host, name, level) in cases {
            let checks = judge(&host, None);
            assert_eq!(level_of(&checks, name), level, "{checks:#?}");
            assert!(checks.iter().filter(|c| c.level != Level::Ok).all(|c| !c.hint.is_empty()));
        }
    }

    #[test]
    fn a_stripped_program_of_an_uncounted_release_is_refused() {
        let binary = Binary { version: "5.0.99".into(), layout: "auto".into(), per_database: true };
        let host = Host { binary: Some(Ok(binary)), symbols: Ok(vec!["__session_create"]), ..host() };
        assert_eq!(level_of(&judge(&host, None), CheckName::Symbols), Level::Refuse);
    }

    #[test]
    fn folders_others_can_write_to_are_refused() {
        let folder = |mode| Folder { mode, ..Folder::default() };
        let check = |mode| judge_folder(CheckName::DataPath, Path::new("/db"), &folder(mode)).level;
        assert_eq!(check(Some(0o750)), Level::Ok);
        assert_eq!(check(Some(0o770)), Level::Refuse);
        assert_eq!(check(Some(0o702)), Level::Refuse);
        assert_eq!(check(None), Level::Ok);
    }

    fn config(initial: &str, engine: &str) -> Config {
        let text = format!(
            "name = \"n\"\ndata_path = \"/srv/db\"\nstate_dir = \"/srv/state\"\nencryptor = \"/k.so\"\n\
             initial = \"{initial}\"\n[engine]\nkind = \"mongod\"\nprogram = \"/m\"\nport = 27017\n{engine}\n\
             [customer_key]\nkey_identifier = \
             \"https://v1.vault.azure.net/keys/k1/6f5902ac237024bdd0c176cb93063dc4\"\n\
             tenant_id = \"00000000-0000-0000-0000-000000000001\"\nmanaged_identity = true\n\
             [admin]\nsocket = \"/s\"\n"
        );
        Config::parse(&text, Path::new("a.toml")).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn a_mongod_that_is_to_be_adopted_is_not_in_the_way() {
        let host = Host {
            data_without_keystore: true,
            foreign: Some("process 7 (mongod) listens on port 27017".into()),
            ..host()
        };
        let levels = |initial| {
            let checks = judge(&host, Some(&config(initial, "")));
            [level_of(&checks, CheckName::DataPath), level_of(&checks, CheckName::Port)]
        };
        assert_eq!(levels("server"), [Level::Ok, Level::Ok]);
        assert_eq!(levels("new"), [Level::Refuse, Level::Refuse]);
    }

    #[test]
    fn what_mongod_shows_is_told_with_its_end() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let shown = Shown {
            subject: "CN=db1".into(),
            issuer: "CN=ca".into(),
            names: vec!["db1".into()],
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at("2027-01-01T00:00:00Z"),
        };
        let tls = "args = [\"--tlsMode\", \"requireTLS\", \"--tlsCAFile\", \"/ca\"]\n[engine.tls]\n";
        let checks_at = |now: &str, unusable, seen| {
            let host = Host { look: Some(engine::Look { unusable, seen }), now: at(now), ..host() };
            judge_tls(&host, &config("new", tls))
        };
        let seen = || Seen { certificate: Some((shown.clone(), "db1".into())), own: None };
        for (now, level) in [
            ("2026-12-01T00:00:00Z", Level::Ok),
            ("2026-12-03T00:00:00Z", Level::Warn),
            ("2027-01-02T00:00:00Z", Level::Refuse),
        ] {
            let checks = checks_at(now, None, Some(Ok(seen())));
            assert_eq!(checks[0].level, level, "{checks:?}");
            assert!(checks[0].text.ends_with("it holds until 2027-01-01T00:00:00Z"), "{checks:?}");
        }
        let own = Seen { own: Some((shown.clone(), true)), ..seen() };
        let checks = checks_at("2026-12-03T00:00:00Z", None, Some(Ok(own)));
        assert!(checks.iter().all(|check| check.level == Level::Warn) && checks.len() == 2, "{checks:?}");
        let wrong = ConnectionError::RequiresTls { address: "a:1".into() };
        assert_eq!(checks_at("2026-12-01T00:00:00Z", None, Some(Err(wrong)))[0].level, Level::Refuse);
        assert!(checks_at("2026-12-01T00:00:00Z", None, None)[0].text.contains("nobody listens"));
        let unusable = Finding { refuse: true, text: "t".into(), hint: "h".into() };
        let checks = checks_at("2026-12-01T00:00:00Z", Some(unusable), None);
        assert_eq!(checks.iter().map(|check| check.level).collect::<Vec<_>>(), [Level::Refuse]);
    }

    #[test]
    fn users_are_told_apart() {
        let engine = |user: Option<&str>, args: &[&str]| EngineConfig {
            user: user.map(str::to_owned),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            ..EngineConfig::for_test(EngineKind::Mongod)
        };
        let as_root = host();
        let as_user = Host { agent_is_root: false, ..host() };
        assert_eq!(judge_users(&as_root, &engine(Some("mongod"), &[])).level, Level::Ok);
        assert_eq!(judge_users(&as_user, &engine(Some("mongod"), &[])).level, Level::Refuse);
        assert_eq!(judge_users(&as_root, &engine(None, &[])).level, Level::Warn);
        assert_eq!(judge_database_user(&engine(None, &["--auth"])).map(|c| c.level), Some(Level::Warn));
        assert_eq!(judge_database_user(&engine(None, &[])), None);
    }
}
