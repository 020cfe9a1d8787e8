//! keyward's own folder in a data path, opened once.
//!
//! The database's user owns the folder that it stands in: at any moment it can move it away, and put another
//! one or a link in its place. Owns that no step of the agent goes there: what is read and written is in the
//! folder that was opened, and only while its name still leads to it. It must never make a new one while that
//! one stands elsewhere: it holds the node's keys.

use std::{
    ffi::OsStr,
    fs::DirBuilder,
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, mkdirat, openat, statat};

use super::{Folder, FolderError, FolderLock, TO_LIST, Trust, failed, io_error};

/// keyward's own folder. One agent works in it: it is locked while it is open.
#[derive(Debug)]
pub struct OwnFolder {
    path: PathBuf,
    trust: Trust,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// What stood there was not the agent's own, or nothing was there.
    NotYet,
    Open(Opened),
    /// The agent has ended.
    Ended,
}

#[derive(Debug)]
struct Opened {
    folder: Arc<Folder>,
    id: (u64, u64),
    _lock: FolderLock,
}

impl OwnFolder {
    /// Opens the one at `path`, made where it is missing. Where something else stands there, it is opened once that
    /// is mended; until then nothing is read or written: an agent that refused to run would not see a revocation
    /// either.
    ///
    /// # Errors
    /// Another agent works in it, or the file system says no.
    pub fn open(path: &Path, trust: Trust) -> Result<Self, FolderError> {
        let own = Self { path: path.to_owned(), trust, state: Mutex::new(State::NotYet) };
        match own.make() {
            Err(refused @ FolderError::NotOwn { .. }) => {
                tracing::error!("{refused} (hint: {})", refused.hint());
            }
            made => made?,
        }
        Ok(own)
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, to work in.
    ///
    /// # Errors
    /// What stands under its name is not the one that was opened. [`FolderError::is_not_found`]: there is none.
    pub fn folder(&self) -> Result<Arc<Folder>, FolderError> {
        self.folder_of(&mut self.state())
    }

    /// The folder that it stands in: the data path, whatever may stand under that name by now.
    ///
    /// # Errors
    /// As [`OwnFolder::folder`], and there is none.
    pub fn above(&self) -> Result<Folder, FolderError> {
        let own = match self.folder() {
            Err(error) if error.is_not_found() => {
                return Err(FolderError::NotOwn { path: self.path.clone(), why: "it is gone".to_owned() });
            }
            own => own?,
        };
        let path = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        let opened = openat(&own.file, "..", TO_LIST, Mode::empty());
        Ok(Folder { file: opened.map_err(failed(&path, "opened"))?.into(), path })
    }

    /// Makes it, and the folders above it, where there is none; also where it was removed while the agent ran.
    ///
    /// # Errors
    /// As [`OwnFolder::folder`].
    pub fn make(&self) -> Result<(), FolderError> {
        let mut state = self.state();
        match self.folder_of(&mut state) {
            Err(error) if error.is_not_found() => {}
            found => return found.map(drop),
        }
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(io_error(&self.path, "made", io::ErrorKind::InvalidFilename.into()));
        };
        let above = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        above.map_err(|source| io_error(parent, "made", source))?;
        let made = Folder::open(parent)?.make_own(name, self.trust)?;
        *state = State::Open(Opened::by(made)?);
        Ok(())
    }

    fn folder_of(&self, state: &mut State) -> Result<Arc<Folder>, FolderError> {
        match state {
            State::Open(opened) => opened.still_at(&self.path),
            State::NotYet => {
                let opened = Opened::by(Folder::open_own(&self.path, self.trust)?)?;
                let folder = Arc::clone(&opened.folder);
                *state = State::Open(opened);
                Ok(folder)
            }
            State::Ended => {
                Err(io_error(&self.path, "used", io::Error::other("the agent that opened it has ended")))
            }
        }
    }

    /// The agent ends: lets go of the folder, for another one.
    pub fn end(&self) {
        *self.state() = State::Ended;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    fn by(folder: Folder) -> Result<Self, FolderError> {
        let lock = folder.lock()?;
        Ok(Self { id: folder.id()?, folder: Arc::new(folder), _lock: lock })
    }

    /// It, if `path` still leads to it.
    fn still_at(&self, path: &Path) -> Result<Arc<Folder>, FolderError> {
        let moved = |instead: &str| {
            let why = format!("the one that this agent works in was moved away{instead}");
            FolderError::NotOwn { path: path.to_owned(), why }
        };
        match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if (found.st_dev, found.st_ino) == self.id => Ok(Arc::clone(&self.folder)),
            Ok(found) => Err(moved(match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => ", and another one stands in its place",
                FileType::Symlink => ", and a link stands in its place",
                FileType::RegularFile
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => ", and a file stands in its place",
            })),
            // Removed, it has no name any more; moved, it has one somewhere.
            Err(rustix::io::Errno::NOENT) if self.folder.metadata()?.nlink() > 0 => Err(moved("")),
            Err(errno) => Err(failed(path, "opened")(errno)),
        }
    }
}

impl Folder {
    /// As [`Folder::make`], and it is keyward's own.
    fn make_own(&self, name: &OsStr, trust: Trust) -> Result<Self, FolderError> {
        match mkdirat(&self.file, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => self.own_folder(name, trust),
            Err(errno) => Err(failed(&self.path.join(name), "made")(errno)),
        }
    }
}
