//! The disk of a node: its data path by descriptors, everything else by paths.
//!
//! The data path is the database's user's, who may be hostile. Owns that no path in it is resolved as a whole:
//! keyward's own folder there is the one that was opened, and every other name is looked for in the folder above it,
//! through no link.

use std::{
    ffi::OsStr,
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FileType;

use super::{Disk, Entry, EntryKind, HostDisk};
use crate::folder::{Folder, FolderError, OwnFolder, Trust};

/// The disk of a node, with keyward's own folder open and locked.
#[derive(Debug)]
pub struct NodeDisk {
    data_path: PathBuf,
    own: OwnFolder,
}

impl NodeDisk {
    /// Opens keyward's own folder at `own`, right below the data path.
    ///
    /// # Errors
    /// As [`OwnFolder::open`].
    pub fn open(own: &Path, trust: Trust) -> Result<Self, FolderError> {
        let data_path = own.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { data_path, own: OwnFolder::open(own, trust)? })
    }

    /// The agent ends: another one may take the folder.
    pub fn end(&self) {
        self.own.end();
    }

    /// The folder at `path`; `None` outside the data path.
    fn folder(&self, path: &Path) -> io::Result<Option<Arc<Folder>>> {
        if path == self.own.path() {
            return Ok(Some(self.own.folder()?));
        }
        let Ok(below) = path.strip_prefix(&self.data_path) else { return Ok(None) };
        if path.starts_with(self.own.path()) {
            // What is deeper there is reached by `own_folder` alone.
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        let mut folder = self.own.above()?;
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidFilename.into()) };
            folder = folder.real_folder(name)?;
        }
        Ok(Some(Arc::new(folder)))
    }

    /// The folder in which `path` is a name, and the name; `None` outside the data path.
    fn within<'a>(&self, path: &'a Path) -> io::Result<Option<(Arc<Folder>, &'a OsStr)>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        Ok(self.folder(parent)?.map(|folder| (folder, name)))
    }

    /// As [`NodeDisk::within`], for two names in one folder.
    fn both<'a>(
        &self,
        from: &'a Path,
        to: &'a Path,
    ) -> io::Result<Option<(Arc<Folder>, &'a OsStr, &'a OsStr)>> {
        let Some((folder, from_name)) = self.within(from)? else {
            return if self.within(to)?.is_some() {
                Err(io::ErrorKind::CrossesDevices.into())
            } else {
                Ok(None)
            };
        };
        match to.file_name() {
            Some(to_name) if to.parent() == from.parent() => Ok(Some((folder, from_name, to_name))),
            Some(_) | None => Err(io::ErrorKind::CrossesDevices.into()),
        }
    }
}

impl Disk for NodeDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.within(path)? {
            Some((folder, name)) => Ok(folder.read(name)?),
            None => HostDisk.read(path),
        }
    }

    fn read_at_most(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        match self.within(path)? {
            Some((folder, name)) => Ok(folder.read_at_most(name, limit, Trust::own())?),
            None => HostDisk.read_at_most(path, limit),
        }
    }

    fn read_back(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.within(path)? {
            Some((folder, name)) => Ok(folder.read_back(name)?),
            None => HostDisk.read_back(path),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.within(path)? {
            Some((folder, name)) => Ok(folder.write(name, bytes)?),
            None => HostDisk.write(path, bytes),
        }
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        match self.within(path)? {
            Some((folder, name)) => Ok(folder.sync_file(name)?),
            None => HostDisk.sync_file(path),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.both(from, to)? {
            Some((folder, from, to)) => Ok(folder.link(from, to)?),
            None => HostDisk.link(from, to),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.both(from, to)? {
            Some((folder, from, to)) => Ok(folder.rename(from, to)?),
            None => HostDisk.rename(from, to),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.within(path)? {
            Some((folder, name)) => Ok(folder.remove_file(name)?),
            None => HostDisk.remove(path),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.folder(path)? {
            Some(folder) => Ok(folder.sync()?),
            None => HostDisk.sync_dir(path),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path == self.own.path() { Ok(self.own.make()?) } else { HostDisk.create_dir(path) }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.within(path) {
            Ok(Some((folder, name))) => Ok(folder.has(name)?),
            Ok(None) => HostDisk.exists(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let Some(folder) = self.folder(path)? else { return HostDisk.list(path) };
        let entry = |(name, kind)| {
            let kind = match kind {
                FileType::Directory => EntryKind::Folder,
                FileType::Symlink => EntryKind::Link,
                FileType::RegularFile
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => EntryKind::File,
            };
            Entry { name, kind }
        };
        Ok(folder.entries()?.into_iter().map(entry).collect())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        match self.within(path)? {
            Some((folder, name)) => Ok(folder.remove_empty(name)?),
            None => HostDisk.remove_dir(path),
        }
    }

    fn own_folder(&self, path: &Path, trust: Trust) -> Result<Folder, FolderError> {
        if path == self.own.path() { self.own.folder()?.again() } else { Folder::open_own(path, trust) }
    }
}
