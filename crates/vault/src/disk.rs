//! The vault's folder: the state file, written so that a kill at any moment leaves the old or the new one; the
//! description file for clients; one server per folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::state::{FORMAT, State};

/// A failure with the vault's folder.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Reading, writing or making a file failed.
    #[error("could not {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state file can't be understood.
    #[error("{} is not a vault state file that this version can read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The state file is of a later version.
    #[error("{} has format {found}, this version reads up to {FORMAT}", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another process serves this folder.
    #[error("another process serves the vault in {}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// The vault's folder, locked for this process as long as the value lives.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    _lock: File,
}

impl Disk {
    /// Makes the folder (0700) if need be and locks it.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| file("make the folder", dir, source))?;
        let dir = dir.canonicalize().map_err(|source| file("find", dir, source))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| file("open", &path, source))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DiskError::InUse { path: dir }),
            Err(errno) => Err(file("lock", &path, errno.into())),
        }
    }

    /// Absolute path of a file of the vault.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The state, or `None` when there is none yet.
    pub fn load(&self) -> Result<Option<State>, DiskError> {
        let Some(bytes) = self.read(STATE_FILE)? else { return Ok(None) };
        read_state(&self.path(STATE_FILE), &bytes).map(Some)
    }

    /// Makes `state` durable: it is on the disk when this returns.
    pub fn save(&self, state: &State) -> Result<(), DiskError> {
        self.write_json(STATE_FILE, state)
    }

    /// Writes a JSON file as [`Disk::write`] does.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), DiskError> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|source| DiskError::Unreadable { path: self.path(name), source })?;
        self.write(name, &bytes)
    }

    /// Replaces a file (0600) durably: temporary file, fsync, rename, fsync of the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let path = self.path(name);
        let temporary = self.path(&format!("{name}.tmp"));
        let step = |action| {
            let path = path.clone();
            move |source| DiskError::File { action, path, source }
        };
        let mut out = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(step("write"))?;
        out.write_all(bytes).map_err(step("write"))?;
        out.sync_all().map_err(step("sync"))?;
        fs::rename(&temporary, &path).map_err(step("replace"))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(step("sync the folder of"))
    }

    /// A file's bytes, or `None` when it isn't there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file("read", &path, source)),
        }
    }
}

/// The state of a vault that another process may be serving, as it is now.
pub fn peek(dir: &Path) -> Result<State, DiskError> {
    let path = dir.join(STATE_FILE);
    let bytes = fs::read(&path).map_err(|source| file("read", &path, source))?;
    read_state(&path, &bytes)
}

const STATE_FILE: &str = "state.json";

fn read_state(path: &Path, bytes: &[u8]) -> Result<State, DiskError> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |source| DiskError::Unreadable { path: path.to_owned(), source };
    let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if format > FORMAT {
        return Err(DiskError::Newer { path: path.to_owned(), found: format });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

fn file(action: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::File { action, path: path.to_owned(), source }
}
