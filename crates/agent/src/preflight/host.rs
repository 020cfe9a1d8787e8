//! Reads what the checks look at.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::StatVfsMountFlags,
    process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open},
};

use super::{Options, symbols};
use crate::{
    config::{Config, EngineConfig, EngineKind},
    engine::{self, Binary, EngineError, exposure, swap},
    node::chain,
};

/// What the checks look at.
#[derive(Debug)]
pub struct Host {
    /// The kind of engine.
    pub kind: EngineKind,
    /// Its program; `None` when none is given or found.
    pub binary: Option<Result<Binary, EngineError>>,
    /// Names missing in its symbol table, or why that cannot be read.
    pub symbols: Result<Vec<&'static str>, String>,
    /// Where it writes outside WiredTiger.
    pub media: Result<exposure::Media, String>,
    /// Swap.
    pub swap: swap::Swap,
    /// Bytes that may be locked; `None`: no limit.
    pub memory_lock: Option<u64>,
    /// `kernel.core_pattern`.
    pub core_pattern: String,
    /// Whether a pidfd can be had.
    pub pidfd: bool,
    /// Whether SELinux is enforcing.
    pub selinux_enforcing: bool,
    /// Whether this process is root, as the agent is then taken to be.
    pub agent_is_root: bool,
    /// DBPATH.
    pub data_path: Folder,
    /// The agent's folder.
    pub state_dir: Folder,
    /// Whether DBPATH holds data and no keystore.
    pub data_without_keystore: bool,
    /// Who else uses port or data path.
    pub foreign: Option<String>,
    /// How the mongod that runs there is spoken to.
    pub(crate) look: Option<engine::Look>,
    /// The host's clock.
    pub now: jiff::Timestamp,
}

/// A folder, or where it will be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder {
    /// Permission bits; `None` when it does not exist.
    pub mode: Option<u32>,
    /// Free bytes there.
    pub free_bytes: u64,
    /// Whether programs and libraries may not be loaded from there.
    pub no_exec: bool,
    /// Why it cannot be looked at.
    pub error: Option<String>,
}

impl Host {
    pub(super) fn read(options: &Options) -> Self {
        let engine = engine_of(options);
        let kind = engine.as_ref().map_or(EngineKind::Mongod, |e| e.kind);
        let symbols = match &engine {
            Some(engine) if engine.kind == EngineKind::Mongod => {
                symbols::missing(&engine.program).map_err(|error| chain(&error))
            }
            Some(_) | None => Ok(Vec::new()),
        };
        let config = options.config.as_ref();
        let media = match config {
            Some(config) => {
                exposure::Media::read(&config.data_path, &config.engine.log_file).map_err(|e| chain(&e))
            }
            None => Err("not configured".to_owned()),
        };
        let folder = |path: fn(&Config) -> &Path| config.map(|c| Folder::read(path(c))).unwrap_or_default();
        Self {
            kind,
            binary: engine.as_ref().map(engine::identify),
            symbols,
            media,
            swap: swap::Swap::read(swap::engine_gets_scope()),
            memory_lock: memory_lock(),
            core_pattern: fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default(),
            pidfd: pidfd_open(getpid(), PidfdFlags::empty()).is_ok(),
            selinux_enforcing: fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|t| t.trim() == "1"),
            agent_is_root: rustix::process::geteuid().is_root(),
            data_path: folder(|c| &c.data_path),
            state_dir: folder(|c| &c.state_dir),
            data_without_keystore: config.is_some_and(data_without_keystore),
            foreign: config.and_then(foreign),
            look: config.and_then(engine::look_at),
            now: jiff::Timestamp::now(),
        }
    }
}

impl Folder {
    fn read(path: &Path) -> Self {
        let mode = match fs::metadata(path) {
            Ok(metadata) => Ok(Some(metadata.permissions().mode() & 0o777)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
        match (mode, rustix::fs::statvfs(existing)) {
            (Ok(mode), Ok(stat)) => Self {
                mode,
                free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
                no_exec: stat.f_flag.contains(StatVfsMountFlags::NOEXEC),
                error: None,
            },
            (Err(error), _) => Self { error: Some(error), ..Self::default() },
            (_, Err(errno)) => Self { error: Some(errno.to_string()), ..Self::default() },
        }
    }
}

/// The engine to judge: the mongod named, else the configured one, else a mongod on `PATH`.
fn engine_of(options: &Options) -> Option<EngineConfig> {
    let configured = options.config.as_ref().map(|c| c.engine.clone());
    match (&options.mongod, configured) {
        (Some(program), Some(engine)) => {
            Some(EngineConfig { kind: EngineKind::Mongod, program: program.clone(), ..engine })
        }
        (Some(program), None) => Some(EngineConfig::of_mongod(program.clone())),
        (None, Some(engine)) => Some(engine),
        (None, None) => on_path("mongod").map(EngineConfig::of_mongod),
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// `RLIMIT_MEMLOCK`'s hard limit (the agent raises the soft one to it); none for a process with CAP_IPC_LOCK.
fn memory_lock() -> Option<u64> {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    if effective >> CAP_IPC_LOCK & 1 == 1 { None } else { getrlimit(Resource::Memlock).maximum }
}

fn data_without_keystore(config: &Config) -> bool {
    engine::has_data(&config.data_path).unwrap_or(false)
        && !config.keyward_dir().join("keystore.json").exists()
}

/// Who else uses port or data path; the engine of this node itself is known by its record.
fn foreign(config: &Config) -> Option<String> {
    engine::foreign_of(config)
}
