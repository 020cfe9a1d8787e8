//! The agent: one per node.
//!
//! Owns the node's keystore, its database process and its verdict. Decisions are pure functions of
//! `keyward_model`; this crate asks the vault, writes the disk, starts and stops the process. It must never stop a
//! database for an outage, never let a key reach the disk, a log or an environment, and never end the database by
//! ending itself.

pub mod admin;
mod blocking;
pub mod canaries;
mod clock;
pub mod config;
pub mod disk;
pub mod engine;
pub mod folder;
pub mod keyring;
pub mod keysock;
pub mod keystore;
pub mod link;
pub mod memory;
pub mod metrics;
pub mod node;
mod notify;
pub mod operations;
pub mod preflight;
pub mod prove;
pub mod resync;
pub mod snapshot;
mod wrap;

use std::{io, path::PathBuf, sync::Arc};

use keyward_kms::{
    KeyService,
    azure::{AzureKeyService, Regions},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use clock::Clock;

use crate::{
    config::Config,
    disk::{Disk as _, HostDisk, NodeDisk},
    engine::EngineError,
    folder::{Folder, FolderError, Trust},
    memory::MemoryError,
    node::{NodeError, NodeHandle, Parts},
};

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A folder of the node.
    #[error("{path} cannot be used")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// keyward's own folder in the data path, or the lock of one of the two.
    #[error("the node's folders cannot be used")]
    Own(#[from] FolderError),
    /// The agent's memory.
    #[error("the node's folders cannot be used")]
    Memory(#[from] MemoryError),
    /// The database process' settings.
    #[error("the section [engine] cannot be used")]
    Engine(#[from] EngineError),
    /// The node.
    #[error("the node cannot be opened")]
    Node(#[from] NodeError),
    /// A task that must run as long as the agent ended by itself.
    #[error("a task of the agent ended by itself")]
    Died,
    /// A socket.
    #[error("{what} cannot be served")]
    Listen {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Folder { .. } => "check that it exists, and its owner and permissions".to_owned(),
            Self::Own(error) => error.hint().to_owned(),
            Self::Memory(error) => error.hint().to_owned(),
            Self::Engine(error) => error.hint().to_owned(),
            Self::Node(error) => error.hint(),
            Self::Died => {
                "see the log and report it; the database runs on, so start the agent again".to_owned()
            }
            Self::Listen { .. } => "check that nothing else uses it, and the folder's permissions".to_owned(),
        }
    }
}

/// Runs the agent until `shutdown`. The database runs on afterwards, unless the operator had it stopped.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    protect_process();
    let folder = |path: PathBuf| move |source| RunError::Folder { path, source };
    HostDisk.create_dir(&config.state_dir).map_err(folder(config.state_dir.clone()))?;
    // For as long as the agent lives: one agent per data path, and per memory of a node.
    let _state_lock = Folder::open(&config.state_dir)?.lock()?;
    let disk = Arc::new(NodeDisk::open(&config.keyward_dir(), Trust::data_path(&config.engine)?)?);
    let _let_go = LetGo(Arc::clone(&disk));
    let clock = Clock::open().map_err(folder(PathBuf::from("/proc/sys/kernel/random/boot_id")))?;
    let engine = engine::open(&config)?;
    let regions = Regions::default();
    let make_service: node::MakeService = {
        let regions = regions.clone();
        Arc::new(move |azure| {
            let service = AzureKeyService::new(azure.clone())?.with_regions(regions.clone());
            Ok(Arc::new(service) as Arc<dyn KeyService>)
        })
    };
    let parts = Parts { make_service, regions, engine, disk, clock };
    serve(config, parts, shutdown).await
}

/// At the agent's end its folder is free, whatever task still has the disk.
struct LetGo(Arc<NodeDisk>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The agent without the locks and the real parts.
pub async fn serve(config: Config, parts: Parts, shutdown: CancellationToken) -> Result<(), RunError> {
    let key_socket = config.key_socket();
    let admin_socket = config.admin_socket.clone();
    let metrics = config.metrics_listen;
    let shared = config.engine.user.is_some();
    let (node, shell) = NodeHandle::open(config, parts)?;
    let listening = |what: String| move |source| RunError::Listen { what, source };
    let keys = keysock::listen(&key_socket, shared)
        .map_err(listening(format!("the key socket {}", key_socket.display())))?;
    let admin_what = format!("the admin socket {}", admin_socket.display());
    let admin = admin::server::listen(&admin_socket).map_err(listening(admin_what.clone()))?;

    let link = link::Link::open(node.clone())?;
    let mut standing = JoinSet::new();
    standing.spawn(link.clone().run(shutdown.clone()));
    standing.spawn(keysock::serve(keys, node.clone(), shutdown.clone()));
    standing.spawn(watchdog(node.clone(), shutdown.clone()));
    if let Some(listen) = metrics {
        let (node, shutdown) = (node.clone(), shutdown.clone());
        standing.spawn(async move {
            if let Err(error) = metrics::serve(listen, node, shutdown).await {
                tracing::error!("metrics on {listen} are not served: {error}");
            }
        });
    }
    standing.spawn(shell.run(shutdown.clone()));
    notify::ready();
    let serving = admin::server::serve(admin, node, link, shutdown.clone());
    tokio::pin!(serving);
    // An agent of which a part has ended is of no use: whoever looks after it starts it anew, and it finds its database
    // again.
    let served = tokio::select! {
        served = &mut serving => served.map_err(listening(admin_what)),
        () = died(&mut standing) => {
            tracing::error!("a task of the agent ended by itself: the agent ends");
            shutdown.cancel();
            let _ = serving.await;
            Err(RunError::Died)
        }
    };
    shutdown.cancel();
    notify::stopping();
    while standing.join_next().await.is_some() {}
    let _ = std::fs::remove_file(&admin_socket);
    served
}

/// Waits until one of `standing` has panicked.
async fn died(standing: &mut JoinSet<()>) {
    while let Some(ended) = standing.join_next().await {
        if ended.is_err() {
            return;
        }
    }
    std::future::pending().await
}

/// Keeps keys out of core files and, as far as the host allows, out of swap.
fn protect_process() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    keyward_keys::set_dont_fork(true);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!("core files of the agent could not be forbidden: {error}");
    }
    let memlock = getrlimit(Resource::Memlock);
    // Best effort: what cannot be locked is shown in status.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: memlock.maximum, maximum: memlock.maximum });
}

/// Feeds systemd's watchdog for as long as the task that decides for the node takes in events: an agent that no
/// longer obeys a verdict is to be started anew. The database runs on meanwhile.
async fn watchdog(node: NodeHandle, shutdown: CancellationToken) {
    let Some(every) = notify::watchdog() else { return };
    let feed = async {
        loop {
            tokio::time::sleep(every).await;
            if node.decides(every).await {
                notify::alive();
            } else {
                tracing::error!(
                    "the task that decides for the node does not answer: the watchdog is not fed"
                );
            }
        }
    };
    tokio::select! {
        () = feed => {}
        () = shutdown.cancelled() => {}
    }
}
