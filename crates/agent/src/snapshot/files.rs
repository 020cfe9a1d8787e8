//! Files of a data path: listing those that belong into a snapshot, copying them, unpacking SecantusDB's archive.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::ioctl_ficlone;
use walkdir::WalkDir;

use super::{SnapshotError, manifest::belongs};

/// Paths below `root` (relative to it) of all files that belong into a snapshot, in order.
pub(super) fn list(root: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let mut all = Vec::new();
    for entry in WalkDir::new(root).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            SnapshotError::File { path, source: error.into() }
        })?;
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        if entry.file_type().is_file() && belongs(relative) {
            all.push(relative.to_owned());
        }
    }
    Ok(all)
}

/// How [`copy`] copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// `FICLONE`: both files share their blocks; takes no time and no space.
    Reflink,
    /// As that where it works, else byte by byte.
    ReflinkOrBytes,
}

/// Whether files of `from` can be reflinked into `to`: tried with a file of our own.
pub(super) fn can_reflink(from: &Path, to: &Path) -> bool {
    let source = from.join(format!(".keyward-reflink-{}", std::process::id()));
    let target = to.join(".reflink");
    // Never through a name that stands there already: the folder is the engine's, and the link may lead anywhere.
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&source);
    let Ok(mut made) = made else { return false };
    let tried = made.write_all(&[0; 4096]).and_then(|()| copy_one(&source, &target, Copying::Reflink));
    // Ours, and of no use any more.
    let _ = fs::remove_file(&source);
    let _ = fs::remove_file(&target);
    tried.is_ok()
}

/// Copies `relative` files from `from` to `to`.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    relative: &[PathBuf],
    copying: Copying,
    progress: &dyn Fn(u64),
) -> Result<(), SnapshotError> {
    for path in relative {
        let target = to.join(path);
        make_folder(target.parent().unwrap_or(to))?;
        copy_one(&from.join(path), &target, copying)
            .map_err(|source| SnapshotError::File { path: from.join(path), source })?;
        progress(fs::metadata(&target).map_or(0, |m| m.len()));
    }
    Ok(())
}

fn copy_one(from: &Path, to: &Path, copying: Copying) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    match copying {
        Copying::Reflink => Ok(ioctl_ficlone(&target, &source)?),
        Copying::ReflinkOrBytes => {
            if ioctl_ficlone(&target, &source).is_err() {
                io::copy(&mut source, &mut target)?;
            }
            Ok(())
        }
    }
}

/// Makes `folder` (mode 0700) and those above it.
pub(super) fn make_folder(folder: &Path) -> Result<(), SnapshotError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| SnapshotError::File { path: folder.to_owned(), source })
}

/// Removes `names` right below `root`, whichever of them are there, for good.
pub(super) fn remove(root: &Path, names: &[String]) -> Result<(), SnapshotError> {
    for name in names {
        let path = root.join(name);
        let failed = |source| SnapshotError::File { path: path.clone(), source };
        let plain = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if !plain || name == ".keyward" {
            return Err(failed(io::ErrorKind::InvalidFilename.into()));
        }
        let removed = match fs::symlink_metadata(&path) {
            Ok(there) if there.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(failed)?;
    }
    let failed = |source| SnapshotError::File { path: root.to_owned(), source };
    File::open(root).and_then(|f| f.sync_all()).map_err(failed)
}

/// Unpacks SecantusDB's backup into `to`: only plain files that belong into a snapshot. Gives what was left out.
///
/// # Errors
/// The archive is damaged, or names a path outside `to`.
pub(super) fn unpack(archive: &Path, to: &Path) -> Result<Vec<String>, SnapshotError> {
    let failed = |source| SnapshotError::File { path: archive.to_owned(), source };
    let file = File::open(archive).map_err(failed)?;
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(file)));
    let mut left_out = Vec::new();
    for entry in tar.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        let plain = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if !plain || !entry.header().entry_type().is_file() {
            let why = format!("the archive names {}, which is no plain file", path.display());
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        if !belongs(&path) {
            left_out.push(path.display().to_string());
            continue;
        }
        let target = to.join(&path);
        make_folder(target.parent().unwrap_or(to))?;
        let unwritable = |source| SnapshotError::File { path: target.clone(), source };
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
        let size = entry.size();
        let copied = out
            .as_mut()
            .map_err(|e| io::Error::new(e.kind(), e.to_string()))
            .and_then(|out| io::copy(&mut entry.by_ref().take(size), out));
        if copied.map_err(unwritable)? != size {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(left_out)
}

/// A folder that goes with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Staging(PathBuf);

impl Staging {
    /// Makes `path` anew; what an earlier, killed operation left there goes first.
    pub(super) fn make(path: PathBuf) -> Result<Self, SnapshotError> {
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SnapshotError::File { path, source }),
        }
        make_folder(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// Makes names in `folder` and in all folders below it outlast a power cut.
pub(super) fn sync_folders(folder: &Path) -> Result<(), SnapshotError> {
    for entry in WalkDir::new(folder).into_iter().flatten().filter(|e| e.file_type().is_dir()) {
        File::open(entry.path())
            .and_then(|f| f.sync_all())
            .map_err(|source| SnapshotError::File { path: entry.path().to_owned(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(unpack(&file, &to).unwrap(), ["pitr-manifest.json"]);
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
            assert!(unpack(&file, &dir.path().join("to")).is_err(), "{name}");
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
        assert!(unpack(&file, &dir.path().join("to")).is_err());
    }

    #[test]
    fn copies_have_the_same_content_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("db");
        fs::create_dir_all(db.join("alpha")).unwrap();
        fs::create_dir_all(dir.path().join("elsewhere")).unwrap();
        fs::write(db.join("alpha/c.wt"), b"one").unwrap();
        fs::write(dir.path().join("elsewhere/WiredTigerLog.0000000001"), b"two").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), db.join("journal")).unwrap();
        fs::write(db.join("mongod.lock"), b"1").unwrap();
        let files = list(&db).unwrap();
        assert_eq!(files, [Path::new("alpha/c.wt"), Path::new("journal/WiredTigerLog.0000000001")]);
        let to = dir.path().join("to");
        copy(&db, &to, &files, Copying::ReflinkOrBytes, &|_| {}).unwrap();
        assert_eq!(list(&to).unwrap(), files);
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
        assert!(!can_reflink(&db, &to));
        assert_eq!(fs::read(&precious).unwrap(), b"kept");
    }

    #[test]
    fn only_names_right_below_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("db/alpha")).unwrap();
        for name in ["outside", "db/alpha/c.wt", "db/x.wt", "db/kept.wt"] {
            fs::write(dir.path().join(name), "1").unwrap();
        }
        let db = dir.path().join("db");
        remove(&db, &["alpha".to_owned(), "x.wt".to_owned(), "never-came".to_owned()]).unwrap();
        assert_eq!(list(&db).unwrap(), [Path::new("kept.wt")]);
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
        can_reflink(dir.path(), &to);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
