//! What the agent remembers outside DBPATH, in `state_dir`.
//!
//! Owns the node's identity, the highest keystore generation seen, what the operator wants, the judgement and how
//! to find the engine again. Nothing here is secret; losing it is told, never papered over. What the agent can do
//! without keeps it from nothing when it is damaged: beside a running database it has a revocation to see.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use keyward_keys::NodeId;
use keyward_model::{Class, Judgement, KeyIdentifier, lifecycle::Wanted, sync::ObservedSnapshot};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{blocking, disk, disk::Disk, engine::EngineRecord};

/// What a file is called, in the place of `json`, that could not be read.
const SET_ASIDE: &str = "damaged";

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
                "nothing was overwritten; take the file from a backup, or see docs/guides/lost-keystore.md before it is \
                 removed"
            }
        }
    }

    /// Whether the file itself is to blame, not its folder or the whole disk.
    pub(crate) fn is_of_one_file(&self) -> bool {
        match self {
            MemoryError::Io { source, .. } => {
                source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            MemoryError::Damaged { .. } => true,
        }
    }
}

/// `state_dir`, locked for this agent.
#[derive(Clone)]
pub struct Memory {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// One change at a time: two at once would write into one temporary file.
    changing: Arc<Mutex<()>>,
}

impl Memory {
    /// Opens `dir`, making it where needed.
    pub fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, MemoryError> {
        disk.create_dir(dir).map_err(io_error(dir, "made"))?;
        Ok(Self { dir: dir.to_owned(), disk, changing: Arc::default() })
    }

    /// Which node this is; `None` before the first start.
    pub fn claim(&self) -> Result<Option<Claim>, MemoryError> {
        self.read("node.json")
    }

    /// Remembers it; durable when it returns.
    pub fn set_claim(&self, claim: &Claim) -> Result<(), MemoryError> {
        self.write("node.json", claim)
    }

    /// What the operator wants; running, unless something else was said. Where it cannot be read, what was last: an
    /// engine that was started and did not end is wanted.
    pub fn wanted(&self) -> Result<Option<Wanted>, MemoryError> {
        let file = "wanted.json";
        let desired = self.alone(|| match self.read_alone(file) {
            Err(error) if error.is_of_one_file() => {
                // Unreadable as well: it may run.
                let running =
                    self.read_alone::<StartedEngine>("engine.json").map_or(true, |engine| engine.is_some());
                self.set_aside(file, &error)?;
                tracing::warn!(running, "whether the node is to run is taken from whether it ran");
                let desired = Desired { running };
                self.write_alone(file, &desired)?;
                Ok(Some(desired))
            }
            desired => desired,
        })?;
        Ok(desired.map(|desired| if desired.running { Wanted::Running } else { Wanted::Stopped }))
    }

    /// Remembers it.
    pub fn set_wanted(&self, wanted: Wanted) -> Result<(), MemoryError> {
        self.write("wanted.json", &Desired { running: wanted == Wanted::Running })
    }

    /// The verdict as an earlier agent left it.
    pub fn judged(&self) -> Result<Judged, MemoryError> {
        Ok(self.read_or_set_aside("judgement.json")?.unwrap_or_default())
    }

    /// Remembers it.
    pub fn set_judged(&self, judged: &Judged) -> Result<(), MemoryError> {
        self.write("judgement.json", judged)
    }

    /// In which region each customer key of the keystore last worked. No start waits for it: what cannot be read is told
    /// in the log and learnt anew.
    pub fn regions(&self) -> BTreeMap<KeyIdentifier, String> {
        let read = self.read("regions.json");
        read.unwrap_or_else(|error| {
            tracing::warn!("where customer keys last worked is learnt anew: {}", crate::node::chain(&error));
            None
        })
        .unwrap_or_default()
    }

    /// Remembers it.
    pub fn set_regions(&self, regions: &BTreeMap<KeyIdentifier, String>) -> Result<(), MemoryError> {
        self.write("regions.json", regions)
    }

    /// Snapshots that this node took, oldest first.
    pub fn snapshots(&self) -> Result<Vec<ObservedSnapshot>, MemoryError> {
        Ok(self.read_or_set_aside("snapshots.json")?.unwrap_or_default())
    }

    /// Remembers them.
    pub fn set_snapshots(&self, snapshots: &[ObservedSnapshot]) -> Result<(), MemoryError> {
        self.write("snapshots.json", &snapshots)
    }

    /// What a restore that has not ended yet puts into the data path: names of files and folders right below it.
    pub fn restoring(&self) -> Result<Option<Vec<String>>, MemoryError> {
        self.read("restoring.json")
    }

    /// Remembers it; `None` once it is complete or undone.
    pub fn set_restoring(&self, names: Option<&[String]>) -> Result<(), MemoryError> {
        match names {
            Some(names) => self.write("restoring.json", &names),
            None => self.remove("restoring.json"),
        }
    }

    /// The engine started last.
    pub fn engine(&self) -> Result<Option<StartedEngine>, MemoryError> {
        self.read("engine.json")
    }

    /// Remembers it; `None` once it is gone.
    pub fn set_engine(&self, engine: Option<&StartedEngine>) -> Result<(), MemoryError> {
        match engine {
            Some(engine) => self.write("engine.json", engine),
            None => self.remove("engine.json"),
        }
    }

    /// Forgets the engine that ended, if it is still the one started last.
    pub fn forget_engine(&self, ended: &EngineRecord) -> Result<(), MemoryError> {
        let process = |record: &EngineRecord| (record.pid, record.start_ticks, record.boot_id.clone());
        self.alone(|| match self.read_alone::<StartedEngine>("engine.json")? {
            Some(started) if process(&started.record) == process(ended) => self.remove_alone("engine.json"),
            Some(_) | None => Ok(()),
        })
    }

    /// Remembers that the engine's encryptor has said hello.
    pub fn set_hello_seen(&self) -> Result<(), MemoryError> {
        self.alone(|| match self.read_alone("engine.json")? {
            Some(engine @ StartedEngine { hello_seen: false, .. }) => {
                self.write_alone("engine.json", &StartedEngine { hello_seen: true, ..engine })
            }
            Some(_) | None => Ok(()),
        })
    }

    /// A JSON file of `dir`, if it is there.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, MemoryError> {
        // Reading may finish a replacement that a power cut left half done: a change as well.
        self.alone(|| self.read_alone(name))
    }

    /// A JSON file of `dir` that the agent can do without. One that cannot be understood is set aside, and told: an
    /// agent that does not start for it would see no revocation.
    pub(crate) fn read_or_set_aside<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, MemoryError> {
        self.alone(|| match self.read_alone(name) {
            Err(error) if error.is_of_one_file() => self.set_aside(name, &error).map(|()| None),
            read => read,
        })
    }

    /// Moves a file out of the way, under a name that [`files_set_aside`] finds.
    fn set_aside(&self, name: &str, why: &MemoryError) -> Result<(), MemoryError> {
        let path = self.dir.join(name);
        let aside = path.with_extension(SET_ASIDE);
        tracing::error!("{}: it is set aside as {}", crate::node::chain(why), aside.display());
        let moved = self.disk.rename(&path, &aside).and_then(|()| self.disk.sync_dir(&self.dir));
        moved.map_err(io_error(&path, "set aside"))
    }

    fn read_alone<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, MemoryError> {
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
        self.alone(|| self.write_alone(name, value))
    }

    fn write_alone<T: Serialize>(&self, name: &str, value: &T) -> Result<(), MemoryError> {
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
        let bytes = self
            .alone(|| disk::read_replaced(&*self.disk, &path, |bytes| !bytes.is_empty()))
            .map_err(io_error(&path, "read"))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(Some(Zeroizing::new(text.map_err(io_error(&path, "read"))?)))
    }

    /// Replaces a text file of `dir` (mode 0600); durable when it returns.
    pub(crate) fn write_text(&self, name: &str, text: &str) -> Result<PathBuf, MemoryError> {
        let path = self.dir.join(name);
        self.alone(|| disk::replace(&*self.disk, &path, text.as_bytes()))
            .map_err(io_error(&path, "written"))?;
        Ok(path)
    }

    /// Takes a file of `dir` away, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<(), MemoryError> {
        self.alone(|| self.remove_alone(name))
    }

    fn remove_alone(&self, name: &str) -> Result<(), MemoryError> {
        let path = self.dir.join(name);
        disk::remove_replaced(&*self.disk, &path).map_err(io_error(&path, "removed"))
    }

    /// Waits until what was removed is removed for good.
    pub(crate) fn sync(&self) -> Result<(), MemoryError> {
        self.alone(|| self.disk.sync_dir(&self.dir)).map_err(io_error(&self.dir, "synced"))
    }

    /// One at a time; the disk may take for ever.
    fn alone<T>(&self, on_disk: impl FnOnce() -> T) -> T {
        blocking::apart(|| {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            on_disk()
        })
    }
}

/// Files of `dir` that could not be read and were set aside. None where `dir` cannot be listed.
pub(crate) fn files_set_aside(disk: &dyn Disk, dir: &Path) -> Vec<PathBuf> {
    let entries = disk.list(dir).unwrap_or_default();
    let paths = entries.into_iter().map(|entry| dir.join(entry.name));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == SET_ASIDE)).collect()
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> MemoryError {
    let path = path.to_owned();
    move |source| MemoryError::Io { path, what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::HostDisk;

    /// What befell the whole disk or folder is no reason to go on as if nothing had been remembered.
    #[test]
    fn only_what_befell_one_file_is_set_aside() {
        let of_one_file =
            |errno: rustix::io::Errno| io_error(Path::new("x.json"), "read")(errno.into()).is_of_one_file();
        use rustix::io::Errno;
        assert!(of_one_file(Errno::IO));
        for errno in [Errno::ACCESS, Errno::NOSPC, Errno::ROFS, Errno::STALE, Errno::ISDIR, Errno::MFILE] {
            assert!(!of_one_file(errno), "{errno}");
        }
    }

    /// Probes, unwraps and operations each remember a judgement, and none waits for the other.
    #[test]
    fn many_may_write_one_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path(), Arc::new(HostDisk)).unwrap();
        let judged = |refusal| Judged { refusal, ..Judged::default() };
        std::thread::scope(|scope| {
            for refusal in [None, Some(Class::KeyDisabled), Some(Class::DeniedByRbac)] {
                let memory = memory.clone();
                scope.spawn(move || {
                    for _ in 0..200 {
                        memory.set_judged(&judged(refusal)).unwrap();
                        memory.judged().unwrap();
                    }
                });
            }
        });
        assert!(!dir.path().join("judgement.next").exists());
    }
}
