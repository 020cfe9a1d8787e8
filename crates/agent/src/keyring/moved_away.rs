//! The database's user owns the folder that keyward's own stands in: before any access it may have moved that
//! one away and put something else there. Nothing of a step goes there, nothing there is believed, and moved
//! back it is as if nothing had been.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    Keyring, KeyringError,
    crash::{OPERATIONS, assert_nothing_lost},
    doubles::{NOW, TableVault, all_keys, keyring_on, start},
};
use crate::{
    disk::{Disk, Entry, HostDisk, NodeDisk},
    folder::{Folder, FolderError, Trust},
    keystore::{Found, KeystoreFileError},
    node::chain,
};

/// What stands in the place of keyward's own folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    Link,
    Folder,
    Nothing,
}

const ALL: [Instead; 3] = [Instead::Link, Instead::Folder, Instead::Nothing];

/// A node's folders. `elsewhere` is as keyward's own was some generations ago.
struct Site {
    dir: tempfile::TempDir,
    vault: TableVault,
}

impl Site {
    fn new() -> Self {
        // Only names matter here, and there are many steps.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let site = Self { dir: memory, vault: TableVault::default() };
        let disk = site.disk();
        let ring = site.ring(Arc::clone(&disk) as _);
        start(&ring, &site.vault, false).unwrap();
        fs::create_dir(site.elsewhere()).unwrap();
        fs::set_permissions(site.elsewhere(), fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["keystore.json", "keystore.next", "keystore.previous", "assignments"] {
            fs::copy(site.own().join("keystore.json"), site.elsewhere().join(name)).unwrap();
        }
        ring.refill(NOW).unwrap();
        disk.end();
        site
    }

    fn own(&self) -> PathBuf {
        self.dir.path().join("db/.keyward")
    }

    fn moved(&self) -> PathBuf {
        self.dir.path().join("db/moved")
    }

    fn elsewhere(&self) -> PathBuf {
        self.dir.path().join("elsewhere")
    }

    fn disk(&self) -> Arc<NodeDisk> {
        Arc::new(NodeDisk::open(&self.own(), Trust::own()).unwrap())
    }

    fn ring(&self, disk: Arc<dyn Disk>) -> Keyring {
        keyring_on(disk, &self.own(), &self.dir.path().join("state"))
    }

    fn move_away(&self, instead: Instead) {
        fs::rename(self.own(), self.moved()).unwrap();
        match instead {
            Instead::Link => symlink(self.elsewhere(), self.own()).unwrap(),
            Instead::Folder => fs::rename(self.elsewhere(), self.own()).unwrap(),
            Instead::Nothing => {}
        }
    }

    fn move_back(&self, instead: Instead) {
        match instead {
            Instead::Link => fs::remove_file(self.own()).unwrap(),
            Instead::Folder => fs::rename(self.own(), self.elsewhere()).unwrap(),
            Instead::Nothing => {}
        }
        fs::rename(self.moved(), self.own()).unwrap();
    }

    /// Everything that must not change while it is moved away.
    fn elsewhere_as_it_is(&self, instead: Instead) -> BTreeMap<OsString, Vec<u8>> {
        let folder = if instead == Instead::Folder { self.own() } else { self.elsewhere() };
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    }
}

/// A disk on which keyward's own folder is moved away before the access of some number.
struct Moving {
    disk: Arc<NodeDisk>,
    site: Arc<Site>,
    left: AtomicUsize,
    instead: Instead,
}

impl Moving {
    fn access(&self, path: &Path) -> &NodeDisk {
        if path.starts_with(self.site.own()) && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.site.move_away(self.instead);
        }
        &self.disk
    }

    fn move_after(&self, accesses: usize) {
        self.left.store(accesses + 1, Ordering::SeqCst);
    }

    fn is_moved(&self) -> bool {
        self.site.moved().exists()
    }
}

impl Disk for Moving {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.access(path).read(path)
    }

    fn read_at_most(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        self.access(path).read_at_most(path, limit)
    }

    fn read_back(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.access(path).read_back(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.access(path).write(path, bytes)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.access(path).sync_file(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.access(from).link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.access(from).rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.access(path).remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.access(path).sync_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.access(path).create_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.access(path).exists(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.access(path).list(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.access(path).remove_dir(path)
    }

    fn own_folder(&self, path: &Path, trust: Trust) -> Result<Folder, FolderError> {
        self.access(path).own_folder(path, trust)
    }
}

/// Says what happened, to what, and what to do.
fn assert_refused(error: &KeyringError, what: &str) {
    let refused = matches!(
        error,
        KeyringError::File(KeystoreFileError::Folder { source: FolderError::NotOwn { .. }, .. })
    ) || matches!(error, KeyringError::Journal { source, .. } if crate::folder::refusal(source).is_some());
    assert!(refused, "{what}: {error:?}");
    let text = chain(error);
    assert!(text.contains("db/.keyward is not the agent's own folder: "), "{what}: {text}");
    assert!(text.contains("was moved away"), "{what}: {text}");
    assert!(error.hint().contains("move it back"), "{what}: {}", error.hint());
}

#[test]
fn no_step_goes_to_what_stands_in_its_place() {
    let mut moves = 0;
    for (name, operation) in OPERATIONS {
        for instead in ALL {
            for accesses in 0.. {
                let what = format!("{name}, {instead:?} before access {accesses}");
                let site = Arc::new(Site::new());
                let disk = Arc::new(Moving {
                    disk: site.disk(),
                    site: Arc::clone(&site),
                    left: AtomicUsize::new(usize::MAX),
                    instead,
                });
                let ring = site.ring(Arc::clone(&disk) as _);
                start(&ring, &site.vault, true).unwrap();
                let had = all_keys(&ring);
                let before = site.elsewhere_as_it_is(Instead::Nothing);
                disk.move_after(accesses);
                let outcome = operation(&ring, &site.vault);
                if !disk.is_moved() {
                    outcome.unwrap();
                    break;
                }
                moves += 1;
                if let Err(error) = &outcome {
                    assert_refused(error, &what);
                }
                if let Err(error) = ring.watch_over() {
                    assert_refused(&error, &what);
                } else {
                    assert!(!ring.view().unwrap().held, "{what}: the keystore was not missed");
                }
                assert_eq!(site.elsewhere_as_it_is(instead), before, "{what}");
                let given_out = if ring.view().unwrap().held { all_keys(&ring) } else { had.clone() };
                site.move_back(instead);

                for again in 1..=2 {
                    operation(&ring, &site.vault)
                        .unwrap_or_else(|error| panic!("{what}: repeated {again}: {}", chain(&error)));
                }
                assert_nothing_lost(&given_out, &all_keys(&ring), &what);
                disk.disk.end();
                let ring = site.ring(site.disk());
                start(&ring, &site.vault, true)
                    .unwrap_or_else(|error| panic!("{what}: the next agent: {}", chain(&error)));
                assert_nothing_lost(&had, &all_keys(&ring), &what);
                assert_nothing_lost(&given_out, &all_keys(&ring), &what);
                assert_eq!(site.elsewhere_as_it_is(Instead::Nothing), before, "{what}");
            }
        }
    }
    println!("moved away {moves} times");
    assert!(moves > 100, "{moves}: it was really moved");
}

/// The control: by paths alone the same step is led elsewhere.
#[test]
fn by_paths_alone_it_would_be_led_there() {
    let site = Site::new();
    let ring = site.ring(Arc::new(HostDisk));
    start(&ring, &site.vault, true).unwrap();
    let before = site.elsewhere_as_it_is(Instead::Link);
    site.move_away(Instead::Link);
    fs::copy(site.moved().join("keystore.json"), site.elsewhere().join("keystore.json")).unwrap();
    let new = keyward_keys::MasterKey::make().unwrap();
    let wrap = site.vault.verified("1", &new);
    ring.rotate(new, wrap, NOW).unwrap();
    assert_ne!(site.elsewhere_as_it_is(Instead::Link), before);
}

#[test]
fn an_agent_that_starts_meanwhile_takes_nothing_from_there_and_goes_on_once_it_is_back() {
    let site = Site::new();
    let before = site.elsewhere_as_it_is(Instead::Link);
    site.move_away(Instead::Link);
    let ring = site.ring(site.disk());
    for _ in 0..2 {
        let error = start(&ring, &site.vault, true).unwrap_err();
        assert!(chain(&error).contains("a link or a file stands there"), "{}", chain(&error));
        assert!(error.hint().contains("move it back"), "{}", error.hint());
    }
    assert_eq!(site.elsewhere_as_it_is(Instead::Link), before);
    site.move_back(Instead::Link);
    start(&ring, &site.vault, true).unwrap();
    ring.refill(NOW).unwrap();
    // Opened late, it is locked all the same.
    assert!(matches!(NodeDisk::open(&site.own(), Trust::own()), Err(FolderError::Locked(_))));
}

/// Removed altogether, the keys are in memory alone: the folder is made again, and the keystore put back.
#[test]
fn a_folder_that_is_removed_is_made_again() {
    let site = Site::new();
    let disk = site.disk();
    let ring = site.ring(Arc::clone(&disk) as _);
    start(&ring, &site.vault, true).unwrap();
    let (keys, whole) = (all_keys(&ring), fs::read(site.own().join("keystore.json")).unwrap());
    fs::remove_dir_all(site.own()).unwrap();
    assert_eq!(ring.watch_over().unwrap(), Some(Found::PutBack));
    assert_eq!(fs::read(site.own().join("keystore.json")).unwrap(), whole);
    assert_eq!(fs::metadata(site.own()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(matches!(NodeDisk::open(&site.own(), Trust::own()), Err(FolderError::Locked(_))));

    // A link that is put there first is not followed.
    fs::remove_dir_all(site.own()).unwrap();
    symlink(site.elsewhere(), site.own()).unwrap();
    let before = site.elsewhere_as_it_is(Instead::Link);
    let error = ring.refill(NOW).unwrap_err();
    assert!(chain(&error).contains("is not the agent's own folder"), "{}", chain(&error));
    assert_eq!(site.elsewhere_as_it_is(Instead::Link), before);
    fs::remove_file(site.own()).unwrap();
    ring.refill(NOW).unwrap();
    for (id, key) in &keys {
        assert_eq!(all_keys(&ring).get(id), Some(key));
    }
    // After its end nothing is written any more.
    disk.end();
    assert!(ring.refill(NOW).is_err());
}

/// A name in the data path is found folder by folder: one that becomes a link meanwhile leads nowhere.
#[test]
fn what_is_removed_from_the_data_path_goes_through_no_link() {
    let site = Site::new();
    let disk = site.disk();
    let db = site.dir.path().join("db");
    fs::create_dir_all(db.join("shop/index")).unwrap();
    fs::write(db.join("shop/index/keystore.json"), "data").unwrap();
    let before = site.elsewhere_as_it_is(Instead::Link);
    assert_eq!(disk.list(&db.join("shop/index")).unwrap().len(), 1);
    // Listed as a folder, and then:
    fs::rename(db.join("shop/index"), db.join("was")).unwrap();
    symlink(site.elsewhere(), db.join("shop/index")).unwrap();
    let file = db.join("shop/index/keystore.json");
    let refused = disk.remove(&file).unwrap_err();
    assert!(refused.to_string().contains("shop/index is a link"), "{refused}");
    assert!(disk.list(&db.join("shop/index")).is_err() && disk.sync_dir(&db.join("shop/index")).is_err());
    assert_eq!(site.elsewhere_as_it_is(Instead::Link), before);
    HostDisk.remove(&file).unwrap();
    assert_ne!(site.elsewhere_as_it_is(Instead::Link), before, "the control");
    fs::remove_file(db.join("shop/index")).unwrap();
    fs::rename(db.join("was"), db.join("shop/index")).unwrap();
    disk.remove(&file).unwrap();
    disk.remove_dir(&db.join("shop/index")).unwrap();
    assert!(!db.join("shop/index").exists() && !disk.exists(&db.join("shop/index")).unwrap());
}

/// The journal is the database's user's to write: it is not read into memory however long it is made.
#[test]
fn a_journal_without_end_is_refused_unread() {
    let site = Site::new();
    let ring = site.ring(site.disk());
    start(&ring, &site.vault, true).unwrap();
    let journal = fs::File::create(site.own().join("assignments")).unwrap();
    // Sparse: it takes no space.
    journal.set_len(1 << 40).unwrap();
    let began = std::time::Instant::now();
    let error = ring.fold_journal(NOW).unwrap_err();
    assert!(
        matches!(&error, KeyringError::Journal { source, .. }
        if source.kind() == io::ErrorKind::FileTooLarge),
        "{error:?}"
    );
    assert!(error.hint().contains("far longer"), "{}", error.hint());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    // A running node gets its keys back all the same.
    assert!(ring.wipe(std::time::Duration::ZERO));
    start(&ring, &site.vault, true).unwrap();
    assert!(ring.view().unwrap().held);
}
