//! What the agent remembers outside DBPATH, in `state_dir`.
//!
//! Owns the node's identity, the highest keystore generation seen, what the operator wants, the judgement and how
//! to find the engine again. Nothing here is secret; losing it is told, never papered over.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyward_keys::NodeId;
use keyward_model::{Class, Judgement, lifecycle::Wanted, sync::ObservedSnapshot};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{disk, disk::Disk, engine::EngineRecord};

/// Which node this is, and the newest keystore it ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// The node.
    pub node_id: NodeId,
    /// The highest generation seen durable; 0 before the first.
    pub seen_generation: u64,
}

/// The engine that was started last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartedEngine {
    /// What finds it again.
    pub record: EngineRecord,
    /// Whether its encryptor has said hello.
    pub hello_seen: bool,
}

/// The verdict and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Judged {
    /// The verdict and the open run of refusals.
    pub judgement: Judgement,
    /// The last refusal: says why, while the verdict is `Revoked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Class>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Desired {
    running: bool,
}

/// Why `state_dir` failed the agent.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file system said no.
    #[error("{path} could not be {what}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The content is not what the agent writes.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        #[source]
        source: serde_json::Error,
    },
    /// Another agent holds the lock.
    #[error("another agent works on {0}")]
    Locked(PathBuf),
}

impl MemoryError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            MemoryError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free space on that disk; nothing was overwritten"
            }
            MemoryError::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "make that disk writable; nothing was overwritten"
            }
            MemoryError::Io { .. } => "check owner, permissions and health of that path",
            MemoryError::Damaged { .. } => {
                "nothing was overwritten; take the file from a backup, or remove it and run `keyward node approve`"
            }
            MemoryError::Locked(_) => {
                "stop the other agent, or give this one a data_path and state_dir of its own"
            }
        }
    }
}

/// `state_dir`, locked for this agent.
#[derive(Clone)]
pub struct Memory {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Memory {
    /// Opens `dir`, making it where needed.
    pub fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, MemoryError> {
        disk.create_dir(dir).map_err(io_error(dir, "made"))?;
        Ok(Self { dir: dir.to_owned(), disk })
    }

    /// Which node this is; `None` before the first start.
    pub fn claim(&self) -> Result<Option<Claim>, MemoryError> {
        self.read("node.json")
    }

    /// Remembers it; durable when it returns.
    pub fn set_claim(&self, claim: &Claim) -> Result<(), MemoryError> {
        self.write("node.json", claim)
    }

    /// What the operator wants; running, unless something else was said.
    pub fn wanted(&self) -> Result<Option<Wanted>, MemoryError> {
        let desired: Option<Desired> = self.read("wanted.json")?;
        Ok(desired.map(|desired| if desired.running { Wanted::Running } else { Wanted::Stopped }))
    }

    /// Remembers it.
    pub fn set_wanted(&self, wanted: Wanted) -> Result<(), MemoryError> {
        self.write("wanted.json", &Desired { running: wanted == Wanted::Running })
    }

    /// The verdict as an earlier agent left it.
    pub fn judged(&self) -> Result<Judged, MemoryError> {
        Ok(self.read("judgement.json")?.unwrap_or_default())
    }

    /// Remembers it.
    pub fn set_judged(&self, judged: &Judged) -> Result<(), MemoryError> {
        self.write("judgement.json", judged)
    }

    /// Snapshots that this node took, oldest first.
    pub fn snapshots(&self) -> Result<Vec<ObservedSnapshot>, MemoryError> {
        Ok(self.read("snapshots.json")?.unwrap_or_default())
    }

    /// Remembers them.
    pub fn set_snapshots(&self, snapshots: &[ObservedSnapshot]) -> Result<(), MemoryError> {
        self.write("snapshots.json", &snapshots)
    }

    /// The engine started last.
    pub fn engine(&self) -> Result<Option<StartedEngine>, MemoryError> {
        self.read("engine.json")
    }

    /// Remembers it; `None` once it is gone.
    pub fn set_engine(&self, engine: Option<&StartedEngine>) -> Result<(), MemoryError> {
        match engine {
            Some(engine) => self.write("engine.json", engine),
            None => {
                let path = self.dir.join("engine.json");
                disk::remove_replaced(&*self.disk, &path).map_err(io_error(&path, "removed"))
            }
        }
    }

    /// A JSON file of `dir`, if it is there.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, MemoryError> {
        let path = self.dir.join(name);
        let whole = |bytes: &[u8]| serde_json::from_slice::<T>(bytes).is_ok();
        let bytes = disk::read_replaced(&*self.disk, &path, whole).map_err(io_error(&path, "read"))?;
        bytes
            .map(|bytes| {
                serde_json::from_slice(&bytes).map_err(|source| MemoryError::Damaged { path, source })
            })
            .transpose()
    }

    /// Replaces a JSON file of `dir` (mode 0600); durable when it returns.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), MemoryError> {
        let path = self.dir.join(name);
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|source| MemoryError::Damaged { path: path.clone(), source })?;
        disk::replace(&*self.disk, &path, &bytes).map_err(io_error(&path, "written"))
    }
}

impl Memory {
    /// A text file of `dir`, if it is there.
    pub(crate) fn read_text(&self, name: &str) -> Result<Option<Zeroizing<String>>, MemoryError> {
        let path = self.dir.join(name);
        let bytes = disk::read_replaced(&*self.disk, &path, |bytes| !bytes.is_empty())
            .map_err(io_error(&path, "read"))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(Some(Zeroizing::new(text.map_err(io_error(&path, "read"))?)))
    }

    /// Replaces a text file of `dir` (mode 0600); durable when it returns.
    pub(crate) fn write_text(&self, name: &str, text: &str) -> Result<PathBuf, MemoryError> {
        let path = self.dir.join(name);
        disk::replace(&*self.disk, &path, text.as_bytes()).map_err(io_error(&path, "written"))?;
        Ok(path)
    }

    /// Takes a file of `dir` away, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<(), MemoryError> {
        let path = self.dir.join(name);
        disk::remove_replaced(&*self.disk, &path).map_err(io_error(&path, "removed"))
    }
}

/// An exclusive lock on a folder, for as long as it lives.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "the lock goes with the descriptor")] fs::File);

impl DirLock {
    /// Locks `dir/lock`. Fails at once when another process holds it.
    pub fn take(dir: &Path) -> Result<Self, MemoryError> {
        let path = dir.join("lock");
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error(&path, "opened"))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(MemoryError::Locked(dir.to_owned())),
            Err(errno) => Err(MemoryError::Io { path, what: "locked", source: errno.into() }),
        }
    }
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> MemoryError {
    let path = path.to_owned();
    move |source| MemoryError::Io { path, what, source }
}
