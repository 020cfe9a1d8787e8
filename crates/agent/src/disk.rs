//! What the agent asks of a file system, and nothing more.
//!
//! Owns the one way a small file is replaced without ever being half there: [`replace`]. A trait stands between,
//! so that tests can take the power away after every single operation.

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod hanging;
mod node;

use std::{
    ffi::OsString,
    fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

pub use node::NodeDisk;

use crate::folder::{Folder, FolderError, Trust};

/// A file system.
///
/// Only what was followed by [`Disk::sync_file`] (contents) or [`Disk::sync_dir`] (names) outlasts a power cut.
pub trait Disk: Send + Sync + 'static {
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// As [`Disk::read`], for a file that somebody else writes: it may hold no more than `limit` bytes.
    fn read_at_most(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let bytes = self.read(path)?;
        if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }
    /// As [`Disk::read`], but past the page cache where the system allows it.
    fn read_back(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Makes the file (mode 0600) with `bytes`. A file that had the name loses it: what it holds is not touched, for
    /// it may have another name.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Waits until the file's content is on stable storage.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, in place of whatever had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a name away.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Waits until the names in a folder are on stable storage.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder (mode 0700) and those above it, where missing.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether there is something of that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// What is in a folder, by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Takes an empty folder away.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// keyward's own folder at `path`, for what works in it name by name.
    fn own_folder(&self, path: &Path, trust: Trust) -> Result<Folder, FolderError> {
        Folder::open_own(path, trust)
    }
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// What it names.
    pub kind: EntryKind,
}

/// What a name in a folder stands for. A link is never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A file, a socket or the like.
    File,
}

/// The host's file system, by paths: for folders that nobody but the agent changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_back(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        // Only advice: some file systems ignore it, none fails a read for it.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        remove_if_there(self, path)?;
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let kind = if kind.is_dir() {
                EntryKind::Folder
            } else if kind.is_symlink() {
                EntryKind::Link
            } else {
                EntryKind::File
            };
            entries.push(Entry { name: entry.file_name(), kind });
        }
        entries.sort();
        Ok(entries)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

/// The content, or `None` when there is no such file.
pub fn read_if_there(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a name away that may not be there.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads what [`replace`] wrote. After a torn rename the file stands under its first name: it is put in place when
/// `whole` finds it so.
pub fn read_replaced(
    disk: &dyn Disk,
    path: &Path,
    whole: impl FnOnce(&[u8]) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    if let Some(bytes) = read_if_there(disk, path)? {
        return Ok(Some(bytes));
    }
    let next = path.with_extension("next");
    let Some(bytes) = read_if_there(disk, &next)?.filter(|bytes| whole(bytes)) else { return Ok(None) };
    disk.sync_file(&next)?;
    disk.rename(&next, path)?;
    if let Some(dir) = path.parent() {
        disk.sync_dir(dir)?;
    }
    Ok(Some(bytes))
}

/// Takes away what [`replace`] wrote.
pub fn remove_replaced(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    remove_if_there(disk, &path.with_extension("next"))?;
    remove_if_there(disk, path)
}

/// Replaces `path` by a file with `bytes`: durable when it returns, and after a power cut either the old or the
/// new one is there.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let next = path.with_extension("next");
    let written = disk.write(&next, bytes).and_then(|()| disk.sync_file(&next));
    if let Err(error) = written {
        // The disk is full or read-only: leave no half file behind if that is possible.
        let _ = disk.remove(&next);
        return Err(error);
    }
    disk.rename(&next, path)?;
    disk.sync_dir(dir)
}
