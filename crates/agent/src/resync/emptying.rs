//! Deleting a member's data, file by file.
//!
//! What makes the files a database goes first and the file by which WiredTiger knows its folder last: cut off
//! anywhere, what is left is opened by no database process, and deleting it goes on where it was. `.keyward`
//! is never touched, and nothing outside the data path: a link is neither followed nor removed.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use crate::{
    disk::{Disk, Entry, EntryKind, remove_if_there},
    folder::DEEPEST,
};

/// Kept: keyward's own, and what a file system puts there.
const KEPT: [&str; 2] = [".keyward", "lost+found"];
/// Without these the rest opens as no database.
const FIRST: [&str; 4] = ["WiredTiger.turtle", "WiredTiger.turtle.set", "WiredTiger.wt", "_mdb_catalog.wt"];
/// While these are there and the first ones are not, neither mongod nor WiredTiger makes a new database
/// beside the rest.
const LAST: [&str; 4] = ["storage.bson", "mongod.lock", "WiredTiger.lock", "WiredTiger"];

/// Why the data could not be deleted, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum EmptyingError {
    /// The file system said no.
    #[error("{} could not be {what}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A link: what it names may be anything.
    #[error("{} is a link, and keyward deletes nothing through one", .0.display())]
    Link(PathBuf),
    /// Folders in folders without end.
    #[error("{} lies deeper than any database's files", .0.display())]
    TooDeep(PathBuf),
    /// The agent ends.
    #[error("the agent is ending")]
    CutOff,
}

impl EmptyingError {
    /// What to do next.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check owner and permissions: the agent must be able to delete there",
            Self::Link(_) => {
                "with the database stopped, move what it names into the data path, or mount it there"
            }
            Self::TooDeep(_) => "with the database stopped, find out what it is, and move it away",
            Self::CutOff => "it goes on when the agent is started again",
        }
    }
}

/// Whether anything but empty folders is left of the data.
pub(crate) fn anything_left(disk: &dyn Disk, data_path: &Path) -> Result<bool, EmptyingError> {
    for entry in top(disk, data_path)? {
        if entry.kind != EntryKind::Folder || any_within(disk, &data_path.join(&entry.name), 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fails when there is a link anywhere in the data.
pub(crate) fn refuse_links(disk: &dyn Disk, data_path: &Path) -> Result<(), EmptyingError> {
    let mut folders = vec![(data_path.to_owned(), top(disk, data_path)?, 0)];
    while let Some((folder, entries, depth)) = folders.pop() {
        for entry in entries {
            let path = folder.join(&entry.name);
            match entry.kind {
                EntryKind::Link => return Err(EmptyingError::Link(path)),
                EntryKind::Folder => {
                    let below = list(disk, &path, depth + 1)?;
                    folders.push((path, below, depth + 1));
                }
                EntryKind::File => {}
            }
        }
    }
    Ok(())
}

/// Deletes all data of `data_path`; durable when it returns. Asks `goes_on` before each file, and tells
/// `deleted` of each.
pub(crate) fn empty(
    disk: &dyn Disk,
    data_path: &Path,
    goes_on: &dyn Fn() -> bool,
    deleted: &mut dyn FnMut(),
) -> Result<(), EmptyingError> {
    refuse_links(disk, data_path)?;
    let named = |name: &OsStr, names: &[&str]| names.iter().any(|known| name == *known);
    let (last, rest): (Vec<Entry>, Vec<Entry>) =
        top(disk, data_path)?.into_iter().partition(|entry| named(&entry.name, &LAST));
    let (first, rest): (Vec<Entry>, Vec<Entry>) =
        rest.into_iter().partition(|entry| named(&entry.name, &FIRST));
    for entries in [first, rest, last] {
        remove_all(disk, (data_path, 0), &entries, goes_on, deleted)?;
        disk.sync_dir(data_path).map_err(failed(data_path, "synced"))?;
    }
    Ok(())
}

fn remove_all(
    disk: &dyn Disk,
    (folder, depth): (&Path, usize),
    entries: &[Entry],
    goes_on: &dyn Fn() -> bool,
    deleted: &mut dyn FnMut(),
) -> Result<(), EmptyingError> {
    for entry in entries {
        let path = folder.join(&entry.name);
        match entry.kind {
            EntryKind::Link => return Err(EmptyingError::Link(path)),
            EntryKind::Folder => {
                let below = list(disk, &path, depth + 1)?;
                remove_all(disk, (&path, depth + 1), &below, goes_on, deleted)?;
                disk.sync_dir(&path).map_err(failed(&path, "synced"))?;
                match disk.remove_dir(&path) {
                    // Something is mounted there: it stays, empty.
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(failed(&path, "deleted"))?,
                }
            }
            EntryKind::File => {
                if !goes_on() {
                    return Err(EmptyingError::CutOff);
                }
                remove_if_there(disk, &path).map_err(failed(&path, "deleted"))?;
                deleted();
            }
        }
    }
    Ok(())
}

fn any_within(disk: &dyn Disk, folder: &Path, depth: usize) -> Result<bool, EmptyingError> {
    for entry in list(disk, folder, depth)? {
        if entry.kind != EntryKind::Folder || any_within(disk, &folder.join(&entry.name), depth + 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn list(disk: &dyn Disk, folder: &Path, depth: usize) -> Result<Vec<Entry>, EmptyingError> {
    if depth > DEEPEST {
        return Err(EmptyingError::TooDeep(folder.to_owned()));
    }
    disk.list(folder).map_err(failed(folder, "read"))
}

fn top(disk: &dyn Disk, data_path: &Path) -> Result<Vec<Entry>, EmptyingError> {
    let mut entries = disk.list(data_path).map_err(failed(data_path, "read"))?;
    entries.retain(|entry| KEPT.iter().all(|kept| entry.name != *kept));
    Ok(entries)
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> EmptyingError {
    let path = path.to_owned();
    move |source| EmptyingError::Io { path, what, source }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::disk::{
        HostDisk,
        fake::{Contents, FakeDisk, Names, Torn},
    };

    const FILES: [&str; 9] = [
        "/db/WiredTiger",
        "/db/WiredTiger.lock",
        "/db/WiredTiger.turtle",
        "/db/WiredTiger.wt",
        "/db/journal/WiredTigerLog.1",
        "/db/shop/collection/0.wt",
        "/db/shop/index/1.wt",
        "/db/rollback/x.bson",
        "/db/storage.bson",
    ];
    const KEPT_FILES: [&str; 2] = ["/db/.keyward/keystore.json", "/db/.keyward/assignments"];

    fn data() -> FakeDisk {
        let disk = FakeDisk::default();
        for name in FILES.iter().chain(&KEPT_FILES) {
            let path = Path::new(name);
            disk.write(path, b"x").unwrap();
            disk.sync_file(path).unwrap();
            disk.sync_dir(path.parent().unwrap()).unwrap();
        }
        disk
    }

    fn empty_all(disk: &FakeDisk) -> Result<(), EmptyingError> {
        empty(disk, Path::new("/db"), &|| true, &mut || {})
    }

    fn left(disk: &FakeDisk) -> Vec<String> {
        disk.files().keys().map(|path| path.display().to_string()).collect()
    }

    /// After every power cut the keystore is there, what is left is no database that anything opens, and
    /// deleting goes on to its end.
    #[test]
    fn a_power_cut_anywhere_leaves_no_database_and_never_takes_the_keystore() {
        let mut cuts = 0;
        for operations in 0.. {
            let disk = data();
            disk.lose_power_after(operations);
            let outcome = empty_all(&disk);
            for kept in 0..=disk.pending_names() {
                let disk = disk.after_power_cut(Contents::Kept, Names { kept, torn: Torn::No });
                let names = left(&disk);
                for keystore in KEPT_FILES {
                    assert!(names.iter().any(|name| name == keystore), "{names:?}");
                }
                let is_there = |name: &str| names.iter().any(|there| there == name);
                let data_left = names.iter().any(|name| name.ends_with(".wt"));
                if !is_there("/db/WiredTiger.wt") && data_left {
                    assert!(is_there("/db/WiredTiger"), "a new database could be made beside {names:?}");
                }
                if outcome.is_ok() {
                    assert_eq!(names, ["/db/.keyward/assignments", "/db/.keyward/keystore.json"]);
                }
                empty_all(&disk).unwrap();
                assert!(!anything_left(&disk, Path::new("/db")).unwrap());
                assert_eq!(left(&disk).len(), KEPT_FILES.len());
                cuts += 1;
            }
            if outcome.is_ok() {
                break;
            }
        }
        assert!(cuts > FILES.len(), "{cuts}: the power was really cut");
    }

    /// Whoever owns the data path can make them, one in the other; the agent must not end in them.
    #[test]
    fn folders_without_end_are_refused_before_anything_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder =
            rustix::fs::open(dir.path(), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        fs::write(dir.path().join("WiredTiger.wt"), "x").unwrap();
        for _ in 0..2_000 {
            rustix::fs::mkdirat(&folder, "d", rustix::fs::Mode::RWXU).unwrap();
            folder =
                rustix::fs::openat(&folder, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
                    .unwrap();
        }
        let error = empty(&HostDisk, dir.path(), &|| true, &mut || {}).unwrap_err();
        assert!(matches!(error, EmptyingError::TooDeep(_)), "{error}");
        assert!(dir.path().join("WiredTiger.wt").exists());
        fs::remove_file(dir.path().join("WiredTiger.wt")).unwrap();
        assert!(matches!(anything_left(&HostDisk, dir.path()), Err(EmptyingError::TooDeep(_))));
        // So that the folder can be removed by its path.
        drop(folder);
        std::process::Command::new("rm").arg("-rf").arg(dir.path()).status().unwrap();
    }

    #[test]
    fn nothing_is_deleted_through_a_link_or_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (data_path, elsewhere) = (dir.path().join("db"), dir.path().join("elsewhere"));
        fs::create_dir_all(data_path.join("shop")).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(elsewhere.join("precious"), "x").unwrap();
        fs::write(data_path.join("WiredTiger.wt"), "x").unwrap();
        symlink(&elsewhere, data_path.join("shop/journal")).unwrap();
        let error = empty(&HostDisk, &data_path, &|| true, &mut || {}).unwrap_err();
        assert!(matches!(&error, EmptyingError::Link(path) if path.ends_with("shop/journal")), "{error}");
        assert!(data_path.join("WiredTiger.wt").exists(), "refused before anything is deleted");
        fs::remove_file(data_path.join("shop/journal")).unwrap();
        let cut = empty(&HostDisk, &data_path, &|| false, &mut || {}).unwrap_err();
        assert!(matches!(cut, EmptyingError::CutOff) && data_path.join("WiredTiger.wt").exists());
        let mut count = 0;
        empty(&HostDisk, &data_path, &|| true, &mut || count += 1).unwrap();
        assert_eq!((count, fs::read_dir(&data_path).unwrap().count()), (1, 0));
        assert!(elsewhere.join("precious").exists());
    }
}
