//! The database process: how it is started, found again, asked and stopped.
//!
//! Owns the two traits that the node's shell drives. It must never see a key: the encryptor in the process gets
//! its keys over the agent's socket.

mod binary;
mod command;
mod connection;
pub mod database;
pub mod exposure;
mod foreign;
mod identity;
mod library;
pub mod medium;
pub(crate) mod mongod_options;
mod operators;
mod process;
mod scope;
pub mod swap;
mod write_lock;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown, fchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use keyward_keys::key_id::KeyId;
use serde::{Deserialize, Serialize};

pub use binary::{Binary, BinaryError, identify};
pub use connection::{ConnectionError, Distrust, Failure, Seen, Shown, TlsFileError};
use database::{Database, DatabaseError, ReplicaSet};
pub use mongod_options::{MongodTls, TlsMode};
use process::{Handle, Invocation};
pub(crate) use write_lock::{WriteLock, WriteLockError};

use crate::{
    config::{Config, EngineConfig, EngineKind},
    folder::{Folder, FolderError, Trust, refusal},
    node::chain,
    preflight::Finding,
};

/// What a start needs from the node.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The agent's socket for encryptors.
    pub socket: PathBuf,
    /// The key id of `.system`: the same at every start of the node.
    pub system_key_id: KeyId,
}

/// What finds a process again after a restart of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineRecord {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id` at the start.
    pub boot_id: String,
    /// The engine's version, as far as known at the start.
    pub version: String,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit status or signal, and the last lines of its log, in words for a person.
    pub text: String,
    /// Whether it ended as a clean stop does.
    pub clean: bool,
}

/// One kind of database process on one node.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// `mongod` or `secantusdb`.
    fn kind(&self) -> &'static str;

    /// Whether the data path holds data of this engine already.
    fn has_data(&self) -> Result<bool, EngineError>;

    /// Starts the process in a session of its own and returns once it exists; its encryptor has not said hello yet.
    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn EngineProcess>, EngineError>;

    /// Finds the process that an earlier agent started: by `record`, or, when the agent died before it could write
    /// one, by the socket in the process' environment. `None` when none runs.
    async fn find(
        &self,
        record: Option<&EngineRecord>,
        launch: &Launch,
    ) -> Result<Option<Box<dyn EngineProcess>>, EngineError>;

    /// A process on the node's data path or port that is not `own`, in words.
    async fn foreign(&self, own: Option<u32>) -> Option<String>;

    /// Whether data that was written without keyward can be encrypted on this engine: by members of a replica set
    /// that fill each other.
    fn can_refill(&self) -> bool {
        false
    }

    /// The operator's own process on the node's data path, where one runs.
    async fn operators(&self) -> Result<Option<Arc<dyn OperatorsProcess>>, EngineError> {
        Ok(None)
    }

    /// Asks the member of the node's replica set at `address` about the set.
    async fn ask_member(&self, address: &str) -> Result<ReplicaSet, EngineError>;
}

/// A running (or ended) database process.
#[async_trait]
pub trait EngineProcess: Send + Sync + 'static {
    /// What finds it again.
    fn record(&self) -> EngineRecord;

    /// Whether `pid` is the process or one of its descendants.
    fn owns(&self, pid: u32) -> bool;

    /// Waits for its end. May be called by several tasks, and dropped at any time.
    async fn wait(&self) -> Exit;

    /// Asks it to end cleanly, kills it after `grace`, and waits until it is gone.
    async fn stop(&self, grace: Duration) -> Result<Exit, EngineError>;

    /// Asks it over its own protocol; gives its version.
    async fn ping(&self) -> Result<String, EngineError>;

    /// The member's state in its replica set (`PRIMARY`, `SECONDARY`, …); `None` where it is in none.
    async fn replica_state(&self) -> Option<String> {
        None
    }

    /// Has a primary hand over to another member; nothing to do for others.
    async fn step_down(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// A database process that the host's operator started on the node's data path, without keyward. Never killed.
#[async_trait]
pub trait OperatorsProcess: Send + Sync + 'static {
    /// Its process id.
    fn pid(&self) -> u32;

    /// What the options that it was started with say of TLS.
    fn tls(&self) -> MongodTls {
        MongodTls::default()
    }

    /// Its version, as it says itself.
    async fn version(&self) -> Result<String, EngineError>;

    /// The member's state in its replica set; `None` where it is in none, or does not answer.
    async fn replica_state(&self) -> Option<String>;

    /// The replica set as it sees it.
    async fn replica_set(&self) -> Result<ReplicaSet, EngineError>;

    /// Has a primary hand over to another member; nothing to do for others.
    async fn step_down(&self) -> Result<(), EngineError>;

    /// Asks it to end cleanly and waits until it is gone.
    ///
    /// # Errors
    /// It is not gone after `patience`: it may still end.
    async fn shut_down(&self, patience: Duration) -> Result<(), EngineError>;
}

/// What can go wrong with a database process.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The program does not start.
    #[error("{} cannot be started", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program was asked what it is and failed.
    #[error("{} cannot be asked for its version: {status}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: String,
    },
    /// The program is not one that keyward loads into.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The process was gone before it could be watched.
    #[error("the engine ended at once; its log ends with: {log}")]
    VanishedAtStart {
        /// The end of its log.
        log: String,
    },
    /// A system call on the process failed.
    #[error("process {pid} cannot be watched or signalled")]
    Process {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The host's boot id cannot be read.
    #[error("/proc/sys/kernel/random/boot_id cannot be read")]
    BootId(#[source] io::Error),
    /// The engine's log cannot be opened.
    #[error("the engine's log {} cannot be opened", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The encryptor's library cannot be copied into the state directory.
    #[error("the encryptor library {} cannot be read or copied", path.display())]
    Library {
        /// The file in question.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A copy of the library is not what its name says.
    #[error("the copy {} of the encryptor library has been changed", path.display())]
    LibraryChanged {
        /// The copy.
        path: PathBuf,
    },
    /// A path that WiredTiger's configuration language cannot hold.
    #[error("the path {} has a quote, a backslash or a control character in it", path.display())]
    AwkwardPath {
        /// The path.
        path: PathBuf,
    },
    /// The data path or another directory cannot be used.
    #[error("{} cannot be read or written", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What holds a path cannot be found out.
    #[error("the file system of {} cannot be asked", path.display())]
    Medium {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `engine.user` names nobody.
    #[error("there is no user `{user}` on this host")]
    UnknownUser {
        /// As configured.
        user: String,
    },
    /// The exposure level or the swap of the host forbids a start.
    #[error("{}", .0.iter().map(|f| f.text.as_str()).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Finding>),
    /// The engine does not answer as it should.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A task of the agent died.
    #[error("the preparation of the engine ended without a result")]
    Ended,
    /// What runs on the data path is not what listens on the port.
    #[error("process {pid} has the data path open, but does not listen on port {port}")]
    OtherPort {
        /// The process.
        pid: u32,
        /// `engine.port`.
        port: u16,
    },
    /// The operator's process was asked to end.
    #[error("process {pid} was asked to end and has not within {} s", waited.as_secs())]
    StillRuns {
        /// The process.
        pid: u32,
        /// How long.
        waited: Duration,
    },
    /// No member of a set has such an address.
    #[error("`{0}` is not the address of a member")]
    Address(String),
    /// The engine has no replica sets.
    #[error("this engine has no replica sets")]
    NoReplicaSets,
}

impl EngineError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Spawn { .. } | Self::Program { .. } => {
                "check engine.program in the agent's file".to_owned()
            }
            Self::Binary(error) => error.hint(),
            Self::VanishedAtStart { .. } => "read the engine's log".to_owned(),
            Self::Process { .. } => {
                "run the agent as root, or the engine under the agent's own user".to_owned()
            }
            Self::BootId(_) => "mount /proc".to_owned(),
            Self::Log { source, .. } | Self::Directory { source, .. } | Self::Medium { source, .. } => {
                refusal(source).map_or("check the path, its owner and its mode", FolderError::hint).to_owned()
            }
            Self::Library { .. } => {
                "check `encryptor` in the agent's file, and the space in state_dir".to_owned()
            }
            Self::LibraryChanged { path } => {
                format!("find out who wrote it; then remove {} and start again", path.display())
            }
            Self::AwkwardPath { .. } => "choose a path without such characters".to_owned(),
            Self::UnknownUser { .. } => "write engine.user as a name of /etc/passwd or as UID:GID".to_owned(),
            Self::Refused(findings) => {
                findings.iter().map(|f| f.hint.as_str()).collect::<Vec<_>>().join("; ")
            }
            Self::Database(error) => error.hint(),
            Self::Ended => "see the agent's log".to_owned(),
            Self::OtherPort { .. } => {
                "set engine.port and engine.host to where that database listens".to_owned()
            }
            Self::StillRuns { .. } => "look into its log; it is never killed".to_owned(),
            Self::Address(_) => "see rs.conf()".to_owned(),
            Self::NoReplicaSets => "only mongod has them".to_owned(),
        }
    }
}

/// The engine of `config`, its program identified. Blocks while the program says what it is.
///
/// # Errors
/// The program is missing, of an unknown release, or one that keyward does not load into.
pub fn open(config: &Config) -> Result<Arc<dyn Engine>, EngineError> {
    let binary = identify(&config.engine)?;
    Ok(Arc::new(LocalEngine { config: config.clone(), binary }))
}

/// An engine on this host.
#[derive(Clone)]
struct LocalEngine {
    config: Config,
    binary: Binary,
}

impl LocalEngine {
    /// Everything up to the start itself; blocking.
    fn prepare(&self, launch: &Launch) -> Result<Invocation, EngineError> {
        let Config { data_path, state_dir, engine, .. } = &self.config;
        for directory in [data_path, state_dir] {
            fs::create_dir_all(directory)
                .map_err(|source| EngineError::Directory { path: directory.clone(), source })?;
        }
        let surroundings = scope::Surroundings::here();
        let exposure = exposure::plan(engine, &exposure::Media::read(data_path, &engine.log_file)?);
        let swap = swap::Swap::read(swap::engine_gets_scope()).judge(engine.accept_plaintext_in_swap);
        let found = exposure.findings.into_iter().chain(swap).chain(command::ignores_environment(engine));
        let refused: Vec<_> = found.filter(|f| f.refuse).collect();
        if !refused.is_empty() {
            return Err(EngineError::Refused(refused));
        }
        let library = library::place(&self.config.encryptor, &state_dir.join("lib"))?;
        if engine.kind == EngineKind::Secantusdb {
            let path = state_dir.join(command::SECANTUSDB_CONFIG);
            fs::write(&path, "# Empty on purpose: the agent passes every setting.\n")
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .map_err(|source| EngineError::Directory { path, source })?;
        }
        let wiredtiger_config = command::wiredtiger_config(&library, &self.binary, launch)?;
        let identity = engine.user.as_deref().map(identity::look_up).transpose()?;
        if let Some(owner) = &identity {
            self.share_with_engine((owner.uid, owner.gid))?;
        }
        let invocation = Invocation {
            program: engine.program.clone(),
            arguments: command::arguments(engine, data_path, state_dir, &exposure.switches),
            environment: command::environment(engine.kind, &wiredtiger_config, std::env::vars_os()),
            // The engine's user need not be able to enter the state directory.
            directory: data_path.clone(),
            log_file: engine.log_file.clone(),
            identity,
        };
        // Only a program can give a child more groups than one.
        let grouped = invocation.identity.as_ref().is_some_and(|identity| !identity.groups.is_empty());
        let invocation = if grouped { identity::by_setpriv(&invocation) } else { invocation };
        let terms = scope::Terms {
            node: &self.config.name,
            swap_accepted: engine.accept_plaintext_in_swap,
            stop_grace: engine.stop_grace,
            paths: vec![
                engine.program.clone(),
                data_path.clone(),
                data_path.join("_tmp"),
                engine.log_file.clone(),
                state_dir.clone(),
            ],
            agent_unit: fs::read_to_string("/proc/self/cgroup").ok().as_deref().and_then(scope::service_of),
        };
        Ok(scope::wrap(invocation, &terms, surroundings))
    }

    /// What an engine under a user of its own needs of the agent's folders: a way through to the library and the
    /// key socket, the data path, and an assignment journal that it may append to. It may list and change nothing
    /// else there.
    fn share_with_engine(&self, (uid, gid): (u32, u32)) -> Result<(), EngineError> {
        let Config { data_path, state_dir, .. } = &self.config;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Directory { path, source }
        };
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed(path))
        };
        mode(state_dir, 0o711)?;
        mode(&state_dir.join("lib"), 0o755)?;
        if !has_data(data_path)? {
            chown(data_path, Some(uid), Some(gid)).map_err(failed(data_path))?;
        }
        // That user owns the data path: what stands there as `.keyward` may be its own, and lead anywhere.
        let keyward_dir = self.config.keyward_dir();
        let not_shared =
            |error: FolderError| EngineError::Directory { path: keyward_dir.clone(), source: error.into() };
        let own =
            Folder::open_own(&keyward_dir, Trust::data_path(&self.config.engine)?).map_err(not_shared)?;
        own.set_mode(0o711).map_err(not_shared)?;
        let journal = own.append_to("assignments".as_ref()).map_err(not_shared)?;
        fchown(&journal, Some(uid), Some(gid))
            .and_then(|()| journal.sync_all())
            .map_err(failed(&keyward_dir.join("assignments")))?;
        own.sync().map_err(not_shared)
    }

    fn process(&self, handle: Handle) -> Box<dyn EngineProcess> {
        Box::new(LocalProcess { handle, database: Database::new(&self.config.engine) })
    }
}

#[async_trait]
impl Engine for LocalEngine {
    fn kind(&self) -> &'static str {
        self.config.engine.kind.as_str()
    }

    fn has_data(&self) -> Result<bool, EngineError> {
        has_data(&self.config.data_path)
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn EngineProcess>, EngineError> {
        let (engine, launch) = (self.clone(), launch.clone());
        let invocation = tokio::task::spawn_blocking(move || engine.prepare(&launch))
            .await
            .map_err(|_| EngineError::Ended)??;
        WriteLock::of(&self.config).forget();
        Ok(self.process(Handle::spawn(&invocation, &self.binary.version)?))
    }

    async fn find(
        &self,
        record: Option<&EngineRecord>,
        launch: &Launch,
    ) -> Result<Option<Box<dyn EngineProcess>>, EngineError> {
        let log_file = &self.config.engine.log_file;
        let adopted = match record {
            Some(record) => Handle::adopt(record, log_file)?,
            None => None,
        };
        let found = match adopted {
            Some(handle) => Some(handle),
            None => {
                let mark = command::socket_mark(&launch.socket)?;
                match process::with_environment("WIREDTIGER_CONFIG", &mark, engine_uid(&self.config.engine)?)
                {
                    Some(pid) => Handle::take(pid, &self.binary.version, log_file)?,
                    None => None,
                }
            }
        };
        let lock = WriteLock::of(&self.config);
        if let Some(handle) = found.as_ref().filter(|_| lock.is_left()) {
            tracing::warn!("an earlier agent began a snapshot and left writes locked: unlocking");
            let record = handle.record().clone();
            tokio::spawn(async move { lock.release(&record).await });
        }
        Ok(found.map(|handle| self.process(handle)))
    }

    async fn foreign(&self, own: Option<u32>) -> Option<String> {
        let data_path = self.config.data_path.clone();
        let port = match self.config.engine.kind {
            EngineKind::Mongod | EngineKind::Secantusdb => Some(self.config.engine.port),
            EngineKind::Wiredtiger => None,
        };
        tokio::task::spawn_blocking(move || foreign::find(&data_path, port, own)).await.ok().flatten()
    }

    fn can_refill(&self) -> bool {
        self.config.engine.kind == EngineKind::Mongod
    }

    async fn operators(&self) -> Result<Option<Arc<dyn OperatorsProcess>>, EngineError> {
        operators::find(&self.config).await
    }

    async fn ask_member(&self, address: &str) -> Result<ReplicaSet, EngineError> {
        let own = Database::new(&self.config.engine);
        let member = own.of_member(address).ok_or_else(|| EngineError::Address(address.to_owned()))?;
        Ok(member.replica_set().await?)
    }
}

/// A database process on this host.
struct LocalProcess {
    handle: Handle,
    database: Database,
}

#[async_trait]
impl EngineProcess for LocalProcess {
    fn record(&self) -> EngineRecord {
        self.handle.record().clone()
    }

    fn owns(&self, pid: u32) -> bool {
        self.handle.owns(pid)
    }

    async fn wait(&self) -> Exit {
        self.handle.wait().await
    }

    async fn stop(&self, grace: Duration) -> Result<Exit, EngineError> {
        self.handle.stop(grace).await
    }

    async fn ping(&self) -> Result<String, EngineError> {
        match self.database.kind() {
            EngineKind::Wiredtiger => Ok(self.handle.record().version.clone()),
            EngineKind::Mongod | EngineKind::Secantusdb => Ok(self.database.version().await?),
        }
    }

    async fn replica_state(&self) -> Option<String> {
        self.database.replica_state().await
    }

    async fn step_down(&self) -> Result<(), EngineError> {
        match self.database.kind() {
            EngineKind::Mongod => Ok(self.database.step_down().await?),
            EngineKind::Secantusdb | EngineKind::Wiredtiger => Ok(()),
        }
    }
}

/// Whether `data_path` holds anything but what keyward and mount points put there.
pub(crate) fn has_data(data_path: &Path) -> Result<bool, EngineError> {
    const NOT_DATA: [&str; 4] = [".keyward", "lost+found", "_tmp", "rollback"];
    let failed = |source| EngineError::Directory { path: data_path.to_owned(), source };
    let entries = match fs::read_dir(data_path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if !NOT_DATA.iter().any(|known| name == *known) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Why the agent could not speak TLS with the mongod that `engine` starts. Blocks.
pub(crate) fn unusable_tls(engine: &EngineConfig) -> Option<Finding> {
    let error = connection::unusable(engine)?;
    Some(Finding { refuse: true, text: chain(&error), hint: error.hint() })
}

/// What is there before an agent runs: how the mongod of `config` is spoken to.
#[derive(Debug)]
pub(crate) struct Look {
    /// Why it could not be, whoever listens.
    pub(crate) unusable: Option<Finding>,
    /// What it showed; `None` where nobody listens.
    pub(crate) seen: Option<Result<Seen, ConnectionError>>,
}

/// Speaks to the mongod of `config` as the agent would, up to the log-in. `None` for other engines. Blocks.
pub(crate) fn look_at(config: &Config) -> Option<Look> {
    let engine = &config.engine;
    if engine.kind != EngineKind::Mongod {
        return None;
    }
    let running =
        foreign::opener(&config.data_path, engine.port).map(|(pid, _)| mongod_options::of_process(pid));
    let unusable = unusable_tls(engine);
    let seen = foreign::is_listened_to(engine.port).then(|| {
        let database = Database::of_running(engine, running.unwrap_or_default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.ok().map(|runtime| runtime.block_on(database.look()))
    });
    Some(Look { unusable, seen: seen.flatten() })
}

/// A process on the node's data path or port that is not its own engine, in words; blocking.
pub(crate) fn foreign_of(config: &Config) -> Option<String> {
    let port = match config.engine.kind {
        EngineKind::Mongod | EngineKind::Secantusdb => Some(config.engine.port),
        EngineKind::Wiredtiger => None,
    };
    let own = command::socket_mark(&config.key_socket()).ok().and_then(|mark| {
        let uid = engine_uid(&config.engine).ok()?;
        process::with_environment("WIREDTIGER_CONFIG", &mark, uid)
    });
    foreign::find(&config.data_path, port, own)
}

/// The user that the engine runs under.
fn engine_uid(engine: &EngineConfig) -> Result<u32, EngineError> {
    match engine.user.as_deref() {
        Some(user) => Ok(identity::look_up(user)?.uid),
        None => Ok(rustix::process::geteuid().as_raw()),
    }
}

/// User and group id of `engine.user`.
pub(crate) fn user_ids(user: &str) -> Result<(u32, u32), EngineError> {
    let identity = identity::look_up(user)?;
    Ok((identity.uid, identity.gid))
}

/// The last lines of a log, from byte `start` on: at most 4 lines and 800 characters. Status shows them, so that they
/// are never those of a file that a link leads to.
fn log_tail(log_file: &Path, start: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let (Some(parent), Some(name)) = (log_file.parent(), log_file.file_name()) else { return String::new() };
    let opened = Folder::open(parent).and_then(|folder| folder.file(name, Trust::own()));
    let read = opened.map_err(io::Error::from).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(16 * 1024)).min(length)))?;
        file.take(16 * 1024).read_to_end(&mut text)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(4)..].join(" | ");
    let skip = tail.chars().count().saturating_sub(800);
    tail.chars().skip(skip).collect()
}
