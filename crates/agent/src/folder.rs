//! Folders that somebody else may write to, worked on by open descriptors.
//!
//! The agent often is root, and the database's user owns DBPATH: whoever takes over a database process can
//! put a link there that leads to any file of the host. Owns how the agent opens, copies, moves and removes
//! there all the same: name by name below an open folder, never by a path that could be bent meanwhile.
//!
//! - A file is opened if it is a plain one, never through a link, and only if it is the database's user's: what
//!   that user cannot read does not get copied, not by another name of the file either.
//! - A link to a folder is followed if root or the agent's user made it (the operator, who put `journal` on
//!   another disk) and what it leads to is the database's user's. Nobody can make a link in another's name; but
//!   who owns DBPATH can move one that is there, which is why the second half is asked as well.
//!
//! Where the database runs under the agent's own user nothing is to be gained by a link, and owners do not
//! matter.
//!
//! keyward's own folder there is opened once, and stays the one that was opened ([`OwnFolder`]).

mod own;

use std::{
    ffi::{CStr, OsStr, OsString},
    fs::{File, Metadata, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::{
        ffi::OsStringExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, fchown},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, linkat, mkdirat, openat, readlinkat,
    renameat, statat, unlinkat,
};

pub use own::OwnFolder;

use crate::{
    config::EngineConfig,
    engine::{EngineError, user_ids},
};

/// No database lies deeper.
pub const DEEPEST: usize = 32;

/// Why something in a folder was not touched.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system said no.
    #[error("{} could not be {what}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A link that is not followed.
    #[error("{} is a link that the agent does not follow: {why}", path.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Not the database's user's.
    #[error("{} is of user {found}, and the database's user is {expected}", path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// Where keyward's own folder should be there is something else.
    #[error("{} is not the agent's own folder: {why}", path.display())]
    NotOwn {
        /// Where it should be.
        path: PathBuf,
        /// What is there, or what became of it.
        why: String,
    },
    /// Another agent works in it.
    #[error("another agent works on {}", .0.display())]
    Locked(PathBuf),
    /// A pipe, a device, or something that became one.
    #[error("{} is no plain file", .0.display())]
    NotPlain(PathBuf),
    /// Folders in folders without end.
    #[error("{} lies too deep, or leads back to a folder above it", .0.display())]
    TooDeep(PathBuf),
}

impl FolderError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check owner, permissions and health of that path, and the space on the disk",
            Self::Link { .. } => {
                "a file: put it in the place of the link; a folder on another disk: mount it there, or make the link \
                 as root, to a folder of the database's user. If nobody made that link, the database may be in \
                 wrong hands"
            }
            Self::Owner { .. } => {
                "chown it to the database's user, if it is the database's; else find out how it came there"
            }
            Self::NotOwn { .. } => {
                "nothing was written there and nothing believed: the agent's own folder holds the node's keys, so \
                 do not delete it. Find out who moved it, move away what stands in its place, and move it back, \
                 with the agent's user as its owner and writable for nobody else; if the folder that is there now is \
                 the right one, restart the agent"
            }
            Self::Locked(_) => "stop the other agent, or give this one a data_path and state_dir of its own",
            Self::NotPlain(_) | Self::TooDeep(_) => "a database writes nothing of the kind: move it away",
        }
    }

    /// Whether it was only that nothing is there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl From<FolderError> for io::Error {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Io { source, .. } => source,
            refused @ (FolderError::Link { .. }
            | FolderError::Owner { .. }
            | FolderError::NotOwn { .. }
            | FolderError::Locked(_)
            | FolderError::NotPlain(_)
            | FolderError::TooDeep(_)) => Self::other(refused),
        }
    }
}

/// What of an error of a file system is a refusal of ours.
pub fn refusal(error: &io::Error) -> Option<&FolderError> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Whose files are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// The database's user's.
    OfDatabase,
    /// Anybody's, unless another user's file has another name as well.
    NotShared,
    /// Anybody's.
    Any,
}

/// Who may have made what is in a folder, and what is opened there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    agent: u32,
    database: u32,
    files: Files,
}

impl Trust {
    /// In the data path of a node with this engine.
    pub fn data_path(engine: &EngineConfig) -> Result<Self, EngineError> {
        let agent = own_uid();
        let database = match engine.user.as_deref() {
            Some(user) => user_ids(user)?.0,
            None => agent,
        };
        Ok(Self { agent, database, files: Files::OfDatabase })
    }

    /// In a folder that nobody but the agent writes to.
    pub fn own() -> Self {
        Self { agent: own_uid(), database: own_uid(), files: Files::Any }
    }

    /// In a copy of a data path, from wherever: it is as its owner made it.
    pub fn copy_in(folder: &Folder) -> Result<Self, FolderError> {
        Ok(Self { agent: own_uid(), database: folder.metadata()?.uid(), files: Files::NotShared })
    }

    /// Also files of others: for what tells nobody what it read.
    #[must_use]
    pub fn any_file(self) -> Self {
        Self { files: Files::Any, ..self }
    }

    fn apart(self) -> bool {
        self.agent != self.database
    }

    /// Whether a folder of `uid` can be keyward's own.
    fn is_own_of(self, uid: u32) -> bool {
        !self.apart() || uid == self.agent || uid == 0
    }

    /// Whether a link that `uid` made is followed.
    fn follows_link_of(self, uid: u32) -> bool {
        uid == 0 || uid == self.agent
    }

    /// Whether a folder of `uid` is entered through a link.
    fn enters_folder_of(self, uid: u32) -> bool {
        !self.apart() || uid == self.database
    }

    /// Whether a file of `uid` with so many names is opened.
    fn opens_file_of(self, uid: u32, names: u64) -> bool {
        let of_database = !self.apart() || uid == self.database;
        match self.files {
            Files::Any => true,
            Files::NotShared => of_database || names == 1,
            Files::OfDatabase => of_database,
        }
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// What a walk comes to.
#[derive(Debug)]
pub enum Seen {
    /// A plain file.
    File {
        /// Relative to where the walk began.
        path: PathBuf,
        /// Bytes.
        size: u64,
    },
    /// A link to a file, or to nothing. It is not followed.
    FileLink(PathBuf),
    /// Something that is not entered.
    Refused(FolderError),
}

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    file: File,
    path: PathBuf,
}

const TO_READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);
const TO_LIST: OFlags = TO_READ.union(OFlags::DIRECTORY);

impl Folder {
    /// Opens `path`, wherever it leads: the operator named it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let opened = rustix::fs::open(path, TO_LIST, Mode::empty());
        Ok(Self { file: opened.map_err(failed(path, "opened"))?.into(), path: path.to_owned() })
    }

    /// Opens keyward's own folder, which stands in one that the database's user may change. It is no link,
    /// the agent's, and nobody else may write to it.
    pub fn open_own(path: &Path, trust: Trust) -> Result<Self, FolderError> {
        let opened = rustix::fs::open(path, TO_LIST | OFlags::NOFOLLOW, Mode::empty());
        Self::own(opened.map_err(not_own(path))?.into(), path, trust)
    }

    /// As [`Folder::open_own`], by its name in this one.
    fn own_folder(&self, name: &OsStr, trust: Trust) -> Result<Self, FolderError> {
        let path = self.path.join(name);
        let opened = openat(&self.file, name, TO_LIST | OFlags::NOFOLLOW, Mode::empty());
        Self::own(opened.map_err(not_own(&path))?.into(), &path, trust)
    }

    fn own(file: File, path: &Path, trust: Trust) -> Result<Self, FolderError> {
        const WRITABLE_FOR_OTHERS: u32 = 0o022;
        let folder = Self { file, path: path.to_owned() };
        let found = folder.metadata()?;
        let why = if !trust.is_own_of(found.uid()) {
            format!("user {} owns it, and the agent's is {}", found.uid(), trust.agent)
        } else if found.mode() & WRITABLE_FOR_OTHERS != 0 {
            format!("others may write to it (mode {:04o})", found.mode() & 0o7777)
        } else {
            return Ok(folder);
        };
        Err(FolderError::NotOwn { path: folder.path, why })
    }

    /// Takes the lock of this folder. Fails at once when another agent has it.
    pub fn lock(&self) -> Result<FolderLock, FolderError> {
        let path = self.path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = openat(&self.file, "lock", flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed(&path, "opened"))?
            .into();
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FolderError::Locked(self.path.clone())),
            Err(errno) => Err(failed(&path, "locked")(errno)),
        }
    }

    /// As it was named, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file system says of it.
    pub fn metadata(&self) -> Result<Metadata, FolderError> {
        self.file.metadata().map_err(|source| self.io("read", source))
    }

    /// A second handle on it.
    pub fn again(&self) -> Result<Self, FolderError> {
        let file = self.file.try_clone().map_err(|source| self.io("opened", source))?;
        Ok(Self { file, path: self.path.clone() })
    }

    /// What is in it, by name.
    pub fn entries(&self) -> Result<Vec<(OsString, FileType)>, FolderError> {
        let read = |errno: rustix::io::Errno| self.io("read", errno.into());
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.file).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = own_name(entry.file_name());
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                // Not every file system says.
                kind = match statat(&self.file, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(errno) => return Err(read(errno)),
                };
            }
            entries.push((name, kind));
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    /// Device and number: the same for the same folder, whatever it is called.
    fn id(&self) -> Result<(u64, u64), FolderError> {
        let found = self.metadata()?;
        Ok((found.dev(), found.ino()))
    }

    /// Whether something has that name.
    pub fn has(&self, name: &OsStr) -> Result<bool, FolderError> {
        match statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed(&self.path.join(name), "looked for")(errno)),
        }
    }

    /// The folder of that name in it, and no link.
    pub fn real_folder(&self, name: &OsStr) -> Result<Self, FolderError> {
        let path = self.path.join(name);
        match openat(&self.file, name, TO_LIST | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(opened) => Ok(Self { file: opened.into(), path }),
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                Err(FolderError::Link { path, why: "a folder was expected there".to_owned() })
            }
            Err(errno) => Err(failed(&path, "opened")(errno)),
        }
    }

    /// The folder of that name in it: a real one, or one behind a link that is followed.
    pub fn folder(&self, name: &OsStr, trust: Trust) -> Result<Self, FolderError> {
        let path = self.path.join(name);
        match openat(&self.file, name, TO_LIST | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(opened) => Ok(Self { file: opened.into(), path }),
            Err(errno @ (rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP)) => {
                self.behind_link(name, path, trust, errno)
            }
            Err(errno) => Err(failed(&path, "opened")(errno)),
        }
    }

    fn behind_link(
        &self,
        name: &OsStr,
        path: PathBuf,
        trust: Trust,
        errno: rustix::io::Errno,
    ) -> Result<Self, FolderError> {
        // The link itself is opened, so that what is looked at and what is followed is one and the same.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link: File =
            openat(&self.file, name, flags, Mode::empty()).map_err(failed(&path, "opened"))?.into();
        let of_link = link.metadata().map_err(|source| io_error(&path, "read", source))?;
        if !of_link.file_type().is_symlink() {
            return Err(failed(&path, "opened")(errno));
        }
        if !trust.follows_link_of(of_link.uid()) {
            let why = format!("user {} made it, neither root nor the agent's user", of_link.uid());
            return Err(FolderError::Link { path, why });
        }
        let target = readlinkat(&link, "", Vec::new()).map_err(failed(&path, "read"))?;
        let opened =
            openat(&self.file, &*target, TO_LIST, Mode::empty()).map_err(failed(&path, "followed"))?;
        let folder = Self { file: opened.into(), path };
        let found = folder.metadata()?.uid();
        if trust.enters_folder_of(found) {
            Ok(folder)
        } else {
            let why =
                format!("it leads to a folder of user {found}, not of the database's ({})", trust.database);
            Err(FolderError::Link { path: folder.path, why })
        }
    }

    /// Opens the plain file of that name in it.
    pub fn file(&self, name: &OsStr, trust: Trust) -> Result<File, FolderError> {
        let path = self.path.join(name);
        // A pipe would wait for somebody to write into it.
        let flags = TO_READ | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file: File = match openat(&self.file, name, flags, Mode::empty()) {
            Ok(opened) => opened.into(),
            Err(rustix::io::Errno::LOOP) => return Err(file_link(path)),
            Err(errno) => return Err(failed(&path, "opened")(errno)),
        };
        let metadata = file.metadata().map_err(|source| io_error(&path, "read", source))?;
        if !metadata.is_file() {
            return Err(FolderError::NotPlain(path));
        }
        if !trust.opens_file_of(metadata.uid(), metadata.nlink()) {
            return Err(FolderError::Owner { path, found: metadata.uid(), expected: trust.database });
        }
        Ok(file)
    }

    /// Opens the plain file at `relative`, a path of plain names.
    pub fn file_at(&self, relative: &Path, trust: Trust) -> Result<File, FolderError> {
        let mut reached: Option<Self> = None;
        let (parents, name) = self.split(relative)?;
        for parent in parents {
            let next = reached.as_ref().unwrap_or(self).folder(parent, trust)?;
            reached = Some(next);
        }
        reached.as_ref().unwrap_or(self).file(name, trust)
    }

    /// Makes a file at `relative`, readable by the agent's user alone, and the folders that it needs. It must
    /// not be there yet.
    pub fn create_at(&self, relative: &Path) -> Result<File, FolderError> {
        let mut reached: Option<Self> = None;
        let (parents, name) = self.split(relative)?;
        for parent in parents {
            let next = reached.as_ref().unwrap_or(self).make(parent)?;
            reached = Some(next);
        }
        reached.as_ref().unwrap_or(self).create(name)
    }

    /// Makes a file in it, readable by the agent's user alone. It must not be there yet.
    pub fn create(&self, name: &OsStr) -> Result<File, FolderError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&self.file, name, flags, Mode::RUSR | Mode::WUSR);
        Ok(made.map_err(failed(&self.path.join(name), "made"))?.into())
    }

    /// Everything that the plain file of that name holds.
    pub fn read(&self, name: &OsStr) -> Result<Vec<u8>, FolderError> {
        self.content(name, &mut self.file(name, Trust::own())?)
    }

    /// As [`Folder::read`], for a file that somebody else writes: it may hold no more than `limit` bytes.
    pub fn read_at_most(&self, name: &OsStr, limit: u64, trust: Trust) -> Result<Vec<u8>, FolderError> {
        let mut bytes = Vec::new();
        let read = self.file(name, trust)?.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        let read = read.and_then(|read| match u64::try_from(read) {
            Ok(read) if read <= limit => Ok(()),
            Ok(_) | Err(_) => Err(io::ErrorKind::FileTooLarge.into()),
        });
        read.map_err(|source| io_error(&self.path.join(name), "read", source))?;
        Ok(bytes)
    }

    /// As [`Folder::read`], but past the page cache where the system allows it.
    pub fn read_back(&self, name: &OsStr) -> Result<Vec<u8>, FolderError> {
        let mut file = self.file(name, Trust::own())?;
        // Only advice: some file systems ignore it, none fails a read for it.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        self.content(name, &mut file)
    }

    fn content(&self, name: &OsStr, file: &mut File) -> Result<Vec<u8>, FolderError> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| io_error(&self.path.join(name), "read", source))?;
        Ok(bytes)
    }

    /// Makes the file of that name, readable by the agent's user alone, with `bytes`. A file that had the name
    /// loses it, and keeps what it holds.
    pub fn write(&self, name: &OsStr, bytes: &[u8]) -> Result<(), FolderError> {
        match unlinkat(&self.file, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(failed(&self.path.join(name), "replaced")(errno)),
        }
        let written = self.create(name)?.write_all(bytes);
        written.map_err(|source| io_error(&self.path.join(name), "written", source))
    }

    /// Waits until the content of the file of that name is on stable storage.
    pub fn sync_file(&self, name: &OsStr) -> Result<(), FolderError> {
        let synced = self.file(name, Trust::own())?.sync_all();
        synced.map_err(|source| io_error(&self.path.join(name), "synced", source))
    }

    /// Gives the file of that name a second one.
    pub fn link(&self, from: &OsStr, to: &OsStr) -> Result<(), FolderError> {
        let linked = linkat(&self.file, from, &self.file, to, AtFlags::empty());
        linked.map_err(failed(&self.path.join(to), "linked"))
    }

    /// Gives what has that name another one, in place of whatever had it.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> Result<(), FolderError> {
        renameat(&self.file, from, &self.file, to).map_err(failed(&self.path.join(to), "renamed"))
    }

    /// Takes away the name of a file or a link.
    pub fn remove_file(&self, name: &OsStr) -> Result<(), FolderError> {
        unlinkat(&self.file, name, AtFlags::empty()).map_err(failed(&self.path.join(name), "removed"))
    }

    /// Takes an empty folder away.
    pub fn remove_empty(&self, name: &OsStr) -> Result<(), FolderError> {
        unlinkat(&self.file, name, AtFlags::REMOVEDIR).map_err(failed(&self.path.join(name), "removed"))
    }

    /// Opens the file of that name to add to it, made where it is missing.
    pub fn append_to(&self, name: &OsStr) -> Result<File, FolderError> {
        // A pipe that nobody reads would wait.
        let how = OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | how;
        match openat(&self.file, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(opened) => Ok(opened.into()),
            Err(rustix::io::Errno::LOOP) => Err(file_link(self.path.join(name))),
            Err(errno) => Err(failed(&self.path.join(name), "opened")(errno)),
        }
    }

    /// The folder of that name in it, made where it is missing.
    pub fn make(&self, name: &OsStr) -> Result<Self, FolderError> {
        let path = self.path.join(name);
        match mkdirat(&self.file, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed(&path, "made")(errno)),
        }
        let opened = openat(&self.file, name, TO_LIST | OFlags::NOFOLLOW, Mode::empty());
        Ok(Self { file: opened.map_err(failed(&path, "opened"))?.into(), path })
    }

    /// Moves what has that name into `to`, under the same name.
    pub fn move_into(&self, name: &OsStr, to: &Self) -> Result<(), FolderError> {
        renameat(&self.file, name, &to.file, name).map_err(failed(&to.path.join(name), "put in place"))
    }

    /// Removes what has that name, with everything in it; nothing to do where nothing has it. No link is
    /// followed.
    pub fn remove(&self, name: &OsStr) -> Result<(), FolderError> {
        let path = self.path.join(name);
        match unlinkat(&self.file, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
            // What a folder answers differs between file systems.
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
            Err(errno) => return Err(failed(&path, "removed")(errno)),
        }
        let opened = openat(&self.file, name, TO_LIST | OFlags::NOFOLLOW, Mode::empty());
        let folder = Self { file: opened.map_err(failed(&path, "removed"))?.into(), path };
        for (below, _) in folder.entries()? {
            folder.remove(&below)?;
        }
        match unlinkat(&self.file, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(&folder.path, "removed")(errno)),
        }
    }

    /// Gives it to another user and group; what is in it stays whose it is.
    pub fn give_to(&self, (uid, gid): (u32, u32)) -> Result<(), FolderError> {
        fchown(&self.file, Some(uid), Some(gid))
            .map_err(|source| self.io("given to the database's user", source))
    }

    /// Changes who may do what with it.
    pub fn set_mode(&self, mode: u32) -> Result<(), FolderError> {
        let permissions = Permissions::from_mode(mode);
        self.file
            .set_permissions(permissions)
            .map_err(|source| self.io("opened to the database's user", source))
    }

    /// Waits until the names in it are on stable storage.
    pub fn sync(&self) -> Result<(), FolderError> {
        self.file.sync_all().map_err(|source| self.io("synced", source))
    }

    /// Makes everything below it outlast a power cut, and gives it to `owner`. Only where nobody else writes.
    pub fn settle_all(&self, owner: Option<(u32, u32)>) -> Result<(), FolderError> {
        for (name, kind) in self.entries()? {
            if kind == FileType::Directory {
                let folder = self.folder(&name, Trust::own())?;
                folder.settle_all(owner)?;
                owner.map_or(Ok(()), |owner| folder.give_to(owner))?;
                folder.sync()?;
            } else {
                let path = self.path.join(&name);
                let file = self.file(&name, Trust::own())?;
                if let Some((uid, gid)) = owner {
                    fchown(&file, Some(uid), Some(gid))
                        .map_err(|source| io_error(&path, "given to the database's user", source))?;
                }
                file.sync_all().map_err(|source| io_error(&path, "synced", source))?;
            }
        }
        self.sync()
    }

    /// Goes through every folder below it that `enter` lets in, in the order of names, and tells `see` of
    /// what it comes to. What is gone by the time that it is looked at is passed over.
    pub fn walk(
        &self,
        trust: Trust,
        enter: &dyn Fn(&Path) -> bool,
        see: &mut dyn FnMut(Seen) -> Result<(), FolderError>,
    ) -> Result<(), FolderError> {
        let own = self.metadata()?;
        let mut above = vec![(own.dev(), own.ino())];
        self.walk_below(Path::new(""), trust, enter, see, &mut above)
    }

    fn walk_below(
        &self,
        at: &Path,
        trust: Trust,
        enter: &dyn Fn(&Path) -> bool,
        see: &mut dyn FnMut(Seen) -> Result<(), FolderError>,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<(), FolderError> {
        for (name, kind) in self.entries()? {
            let relative = at.join(&name);
            let is_folder = match kind {
                FileType::RegularFile => {
                    // Only to add it up: what is opened is looked at again.
                    if let Ok(stat) = statat(&self.file, &name, AtFlags::SYMLINK_NOFOLLOW) {
                        let size = u64::try_from(stat.st_size).unwrap_or(0);
                        see(Seen::File { path: relative.clone(), size })?;
                    }
                    false
                }
                FileType::Directory => true,
                FileType::Symlink => {
                    let leads_to = statat(&self.file, &name, AtFlags::empty());
                    let folder = leads_to
                        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
                    if !folder && enter(&relative) {
                        see(Seen::FileLink(relative.clone()))?;
                    }
                    folder
                }
                // They keep nothing.
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => false,
            };
            if !is_folder || !enter(&relative) {
                continue;
            }
            let entered = self.folder(&name, trust).and_then(|folder| {
                let found = folder.metadata()?;
                let known = (found.dev(), found.ino());
                if above.contains(&known) || above.len() > DEEPEST {
                    return Err(FolderError::TooDeep(folder.path));
                }
                above.push(known);
                Ok(folder)
            });
            match entered {
                Ok(folder) => {
                    let walked = folder.walk_below(&relative, trust, enter, see, above);
                    above.pop();
                    walked?;
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => see(Seen::Refused(error))?,
            }
        }
        Ok(())
    }

    fn split<'a>(&self, relative: &'a Path) -> Result<(Vec<&'a OsStr>, &'a OsStr), FolderError> {
        let mut names = Vec::new();
        for part in relative.components() {
            match part {
                Component::Normal(name) => names.push(name),
                Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
                    return Err(self.no_name(relative));
                }
            }
        }
        let name = names.pop().ok_or_else(|| self.no_name(relative))?;
        Ok((names, name))
    }

    fn no_name(&self, relative: &Path) -> FolderError {
        io_error(&self.path.join(relative), "named", io::ErrorKind::InvalidFilename.into())
    }

    fn io(&self, what: &'static str, source: io::Error) -> FolderError {
        io_error(&self.path, what, source)
    }
}

/// The lock of a folder, for as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    /// The lock goes with the descriptor.
    _file: File,
}

/// The refusal of a link where a file should be.
pub fn file_link(path: PathBuf) -> FolderError {
    FolderError::Link { path, why: "files are not opened through links".to_owned() }
}

fn own_name(name: &CStr) -> OsString {
    OsString::from_vec(name.to_bytes().to_vec())
}

fn io_error(path: &Path, what: &'static str, source: io::Error) -> FolderError {
    FolderError::Io { path: path.to_owned(), what, source }
}

/// A link or a file where keyward's own folder should be is a refusal.
fn not_own(path: &Path) -> impl FnOnce(rustix::io::Errno) -> FolderError {
    let path = path.to_owned();
    move |errno| match errno {
        rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
            FolderError::NotOwn { path, why: "a link or a file stands there".to_owned() }
        }
        errno => failed(&path, "opened")(errno),
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(rustix::io::Errno) -> FolderError {
    let path = path.to_owned();
    move |errno| FolderError::Io { path, what, source: errno.into() }
}

#[cfg(test)]
mod tests;
