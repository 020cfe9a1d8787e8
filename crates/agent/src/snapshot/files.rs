//! Files of a data path: listing those that belong into a snapshot, copying them, unpacking SecantusDB's archive.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::ioctl_ficlone;

use super::{
    SnapshotError,
    manifest::{belongs, may_hold},
};
use crate::{
    config::Config,
    folder::{Folder, Seen, Trust, file_link},
    node::NodeHandle,
};

/// A folder, and what is believed in it.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) folder: Folder,
    pub(super) trust: Trust,
}

impl Tree {
    /// The data path of a node.
    pub(super) fn data_path(config: &Config) -> Result<Self, SnapshotError> {
        let trust = Trust::data_path(&config.engine).map_err(SnapshotError::Engine)?;
        Ok(Self { folder: Folder::open(&config.data_path)?, trust })
    }

    /// A copy of a data path.
    pub(super) fn copied(root: &Path) -> Result<Self, SnapshotError> {
        let folder = Folder::open(root)?;
        let trust = Trust::copy_in(&folder)?;
        Ok(Self { folder, trust })
    }

    /// Opens a file of it.
    pub(super) fn open(&self, relative: &Path) -> Result<File, SnapshotError> {
        Ok(self.folder.file_at(relative, self.trust)?)
    }
}

/// What belongs into a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Paths, relative to the folder, in order.
    pub(super) paths: Vec<PathBuf>,
    /// Bytes of all of them.
    pub(super) bytes: u64,
}

/// All files of `tree` that belong into a snapshot.
///
/// # Errors
/// Something there is a link that is not followed: better no snapshot than one that lacks a file.
pub(super) fn list(tree: &Tree) -> Result<Listed, SnapshotError> {
    let mut listed = Listed::default();
    tree.folder.walk(tree.trust, &may_hold, &mut |seen| match seen {
        Seen::File { path, size } if belongs(&path) => {
            listed.paths.push(path);
            listed.bytes += size;
            Ok(())
        }
        Seen::FileLink(path) if belongs(&path) => Err(file_link(tree.folder.path().join(path))),
        Seen::File { .. } | Seen::FileLink(_) => Ok(()),
        Seen::Refused(error) => Err(error),
    })?;
    Ok(listed)
}

/// How [`copy`] copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// `FICLONE`: both files share their blocks; takes no time and no space. What lies on another file system
    /// is copied byte by byte, as long as that is no more than so many bytes in all.
    Reflink {
        /// Of all files together.
        or_bytes: u64,
    },
    /// Reflinks where they work, else byte by byte.
    ReflinkOrBytes,
}

/// What [`copy`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// Every file.
    All,
    /// Too much cannot be reflinked: not every file is there.
    TooManyBytes,
}

/// Whether files of `from` can be reflinked into `to`: tried with a file of our own.
pub(super) fn can_reflink(from: &Folder, to: &Folder) -> bool {
    let name = OsString::from(format!(".keyward-reflink-{}", std::process::id()));
    // Never through a name that stands there already: the folder is the engine's, and a link may lead
    // anywhere.
    let Ok(mut source) = from.create(&name) else { return false };
    let tried = source.write_all(&[0; 4096]).and_then(|()| {
        let target = to.create(OsStr::new(".reflink"))?;
        Ok(ioctl_ficlone(&target, &source)?)
    });
    // Ours, and of no use any more.
    let _ = from.remove(&name);
    let _ = to.remove(OsStr::new(".reflink"));
    tried.is_ok()
}

/// Copies `relative` files from `from` to `to`.
pub(super) fn copy(
    from: &Tree,
    to: &Folder,
    relative: &[PathBuf],
    copying: Copying,
    progress: &dyn Fn(u64),
) -> Result<Copied, SnapshotError> {
    let mut left = match copying {
        Copying::Reflink { or_bytes } => or_bytes,
        Copying::ReflinkOrBytes => u64::MAX,
    };
    for path in relative {
        let mut source = from.open(path)?;
        let mut target = to.create_at(path)?;
        let failed = |source| SnapshotError::File { path: from.folder.path().join(path), source };
        let size = source.metadata().map_err(failed)?.len();
        if ioctl_ficlone(&target, &source).is_err() {
            let Some(less) = left.checked_sub(size) else { return Ok(Copied::TooManyBytes) };
            left = less;
            io::copy(&mut source, &mut target).map_err(failed)?;
        }
        progress(size);
    }
    Ok(Copied::All)
}

/// Removes `names` right below `root`, whichever of them are there, for good.
pub(super) fn remove(root: &Folder, names: &[String]) -> Result<(), SnapshotError> {
    for name in names {
        let plain = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if !plain || name.contains('/') || name == ".keyward" {
            let path = root.path().join(name);
            return Err(SnapshotError::File { path, source: io::ErrorKind::InvalidFilename.into() });
        }
        root.remove(OsStr::new(name))?;
    }
    Ok(root.sync()?)
}

/// Unpacks SecantusDB's backup into `to`: only plain files that belong into a snapshot. Gives what was left out.
///
/// # Errors
/// The archive is damaged, or names a path outside `to`.
pub(super) fn unpack(archive: File, shown: &Path, to: &Folder) -> Result<Vec<String>, SnapshotError> {
    let failed = |source| SnapshotError::File { path: shown.to_owned(), source };
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(archive)));
    let mut left_out = Vec::new();
    for entry in tar.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || !entry.header().entry_type().is_file() {
            let why = format!("the archive names {}, which is no plain file", path.display());
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        if !belongs(&path) {
            left_out.push(path.display().to_string());
            continue;
        }
        let mut out = to.create_at(&path)?;
        let unwritable = |source| SnapshotError::File { path: to.path().join(&path), source };
        let size = entry.size();
        if io::copy(&mut entry.by_ref().take(size), &mut out).map_err(unwritable)? != size {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(left_out)
}

/// A folder in keyward's own that goes with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Staging {
    within: Folder,
    name: OsString,
    folder: Folder,
}

impl Staging {
    /// Makes `name` in `within` anew; what an earlier, killed operation left there goes first.
    pub(super) fn make(within: Folder, name: &str) -> Result<Self, SnapshotError> {
        let name = OsString::from(name);
        within.remove(&name)?;
        let folder = within.make(&name)?;
        Ok(Self { within, name, folder })
    }

    /// As [`Staging::make`], in the `.keyward` of a node.
    pub(super) fn in_data_path(node: &NodeHandle, name: &str) -> Result<Self, SnapshotError> {
        Self::make(own_folder(node)?, name)
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What is in it: the agent put it there.
    pub(super) fn tree(&self) -> Result<Tree, SnapshotError> {
        Ok(Tree { folder: self.folder.again()?, trust: Trust::own() })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = self.within.remove(&self.name) {
            tracing::warn!("{}", crate::node::chain(&error));
        }
    }
}

/// `DBPATH/.keyward`, which stands in a folder of the database's user.
pub(super) fn own_folder(node: &NodeHandle) -> Result<Folder, SnapshotError> {
    let config = node.config();
    let trust = Trust::data_path(&config.engine).map_err(SnapshotError::Engine)?;
    Ok(node.disk().own_folder(&config.keyward_dir(), trust)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::FolderError;

    fn unpacked(archive: &Path, to: &Path) -> Result<Vec<String>, SnapshotError> {
        fs::create_dir_all(to).unwrap();
        unpack(File::open(archive).unwrap(), archive, &Folder::open(to).unwrap())
    }

    fn names_in(root: &Path) -> Vec<PathBuf> {
        list(&Tree::copied(root).unwrap()).unwrap().paths
    }

    fn archive(path: &Path, entries: &[(&str, &[u8], tar::EntryType)]) {
        let gz = flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        for (name, content, kind) in entries {
            let mut header = tar::Header::new_gnu();
            // `set_path` refuses `..`: an attacker's archive would not.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap().flush().unwrap();
    }

    #[test]
    fn an_archive_is_unpacked_without_what_does_not_belong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar.gz");
        let regular = tar::EntryType::Regular;
        archive(&file, &[("x.wt", b"data", regular), ("pitr-manifest.json", b"{}", regular)]);
        let to = dir.path().join("to");
        assert_eq!(unpacked(&file, &to).unwrap(), ["pitr-manifest.json"]);
        assert_eq!(fs::read(to.join("x.wt")).unwrap(), b"data");
        assert!(!to.join("pitr-manifest.json").exists());
    }

    #[test]
    fn an_archive_cannot_write_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        for (n, (name, kind)) in [
            ("../x.wt", tar::EntryType::Regular),
            ("/tmp/x.wt", tar::EntryType::Regular),
            ("x.wt", tar::EntryType::Symlink),
        ]
        .into_iter()
        .enumerate()
        {
            let file = dir.path().join(format!("{n}.tar.gz"));
            archive(&file, &[(name, b"", kind)]);
            assert!(unpacked(&file, &dir.path().join("to")).is_err(), "{name}");
        }
        assert!(!dir.path().join("x.wt").exists());
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar.gz");
        let content: Vec<u8> =
            (0..100_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        archive(&file, &[("x.wt", &content, tar::EntryType::Regular)]);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert!(unpacked(&file, &dir.path().join("to")).is_err());
    }

    #[test]
    fn copies_have_the_same_content_and_the_operators_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("db");
        fs::create_dir_all(db.join("alpha")).unwrap();
        fs::create_dir_all(dir.path().join("elsewhere")).unwrap();
        fs::write(db.join("alpha/c.wt"), b"one").unwrap();
        fs::write(dir.path().join("elsewhere/WiredTigerLog.0000000001"), b"two").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), db.join("journal")).unwrap();
        fs::write(db.join("mongod.lock"), b"1").unwrap();
        let tree = Tree::copied(&db).unwrap();
        let files = list(&tree).unwrap();
        assert_eq!(files.paths, [Path::new("alpha/c.wt"), Path::new("journal/WiredTigerLog.0000000001")]);
        assert_eq!(files.bytes, 6);
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let folder = Folder::open(&to).unwrap();
        let copied = copy(&tree, &folder, &files.paths, Copying::ReflinkOrBytes, &|_| {}).unwrap();
        assert_eq!(copied, Copied::All);
        assert_eq!(names_in(&to), files.paths);
        assert_eq!(fs::read(to.join("journal/WiredTigerLog.0000000001")).unwrap(), b"two");
    }

    #[test]
    fn trying_a_reflink_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (db, to) = (dir.path().join("db"), dir.path().join("to"));
        let precious = dir.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        fs::create_dir(&db).unwrap();
        fs::create_dir(&to).unwrap();
        let trap = db.join(format!(".keyward-reflink-{}", std::process::id()));
        std::os::unix::fs::symlink(&precious, trap).unwrap();
        assert!(!can_reflink(&Folder::open(&db).unwrap(), &Folder::open(&to).unwrap()));
        assert_eq!(fs::read(&precious).unwrap(), b"kept");
    }

    #[test]
    fn only_names_right_below_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("db/alpha")).unwrap();
        for name in ["outside", "db/alpha/c.wt", "db/x.wt", "db/kept.wt"] {
            fs::write(dir.path().join(name), "1").unwrap();
        }
        let db = Folder::open(&dir.path().join("db")).unwrap();
        remove(&db, &["alpha".to_owned(), "x.wt".to_owned(), "never-came".to_owned()]).unwrap();
        assert_eq!(names_in(db.path()), [Path::new("kept.wt")]);
        for bad in ["../outside", "", "/etc", "a/b", "..", ".keyward"] {
            assert!(remove(&db, &[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(dir.path().join("outside").exists());
    }

    #[test]
    fn trying_a_reflink_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        can_reflink(&Folder::open(dir.path()).unwrap(), &Folder::open(&to).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }

    /// What the database process could make root copy, if it were taken over.
    #[test]
    fn a_file_behind_a_link_is_not_copied_and_the_link_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (db, secret) = (dir.path().join("db"), dir.path().join("secret"));
        fs::create_dir_all(db.join("alpha")).unwrap();
        fs::write(&secret, "SECRET").unwrap();
        std::os::unix::fs::symlink(&secret, db.join("alpha/c.wt")).unwrap();
        let tree = Tree::copied(&db).unwrap();
        let error = list(&tree).unwrap_err();
        assert!(error.to_string().contains("alpha/c.wt is a link"), "{error}");
        assert!(error.hint().contains("put it in the place of the link"), "{}", error.hint());
        // It became one after it was listed.
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let copied = copy(
            &tree,
            &Folder::open(&to).unwrap(),
            &["alpha/c.wt".into()],
            Copying::ReflinkOrBytes,
            &|_| {},
        );
        assert!(matches!(copied, Err(SnapshotError::Folder(FolderError::Link { .. }))), "{copied:?}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        // What does not belong into a snapshot is nobody's concern.
        fs::remove_file(db.join("alpha/c.wt")).unwrap();
        std::os::unix::fs::symlink(&secret, db.join("mongod.log")).unwrap();
        std::os::unix::fs::symlink("/", db.join("_tmp")).unwrap();
        assert_eq!(names_in(&db), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_copy_is_not_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["db/alpha", "elsewhere", "to"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("db/alpha/c.wt"), "one").unwrap();
        fs::write(dir.path().join("elsewhere/c.wt"), "kept").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("to/alpha")).unwrap();
        let tree = Tree::copied(&dir.path().join("db")).unwrap();
        let to = Folder::open(&dir.path().join("to")).unwrap();
        assert!(copy(&tree, &to, &["alpha/c.wt".into()], Copying::ReflinkOrBytes, &|_| {}).is_err());
        assert_eq!(fs::read(dir.path().join("elsewhere/c.wt")).unwrap(), b"kept");
    }

    /// A folder with reflinks has none to another file system: a journal there is copied, or everything is
    /// left.
    #[test]
    fn what_lies_on_another_file_system_is_copied_byte_by_byte_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
            keyward_testkit::skip!("there is no second file system at /dev/shm");
        };
        let (db, to) = (dir.path().join("db"), dir.path().join("to"));
        fs::create_dir(&db).unwrap();
        let log: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(other.path().join("WiredTigerLog.0000000001"), &log).unwrap();
        std::os::unix::fs::symlink(other.path(), db.join("journal")).unwrap();
        let tree = Tree::copied(&db).unwrap();
        let paths = list(&tree).unwrap().paths;
        let size = log.len() as u64;
        for (or_bytes, wanted) in [(size - 1, Copied::TooManyBytes), (size, Copied::All)] {
            fs::create_dir(&to).unwrap();
            let folder = Folder::open(&to).unwrap();
            let copied = copy(&tree, &folder, &paths, Copying::Reflink { or_bytes }, &|_| {}).unwrap();
            assert_eq!(copied, wanted);
            if wanted == Copied::All {
                assert_eq!(fs::read(to.join("journal/WiredTigerLog.0000000001")).unwrap(), log);
            }
            fs::remove_dir_all(&to).unwrap();
        }
    }
}
