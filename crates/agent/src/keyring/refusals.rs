//! Keystores that must not be used, and disks that cannot be written: a clear error, and nothing overwritten.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use keyward_keys::{
    MasterKey,
    keystore::{KeystoreError, OpenKeystore, SealedKeystore},
};

use super::{
    Keyring, KeyringError,
    doubles::{NOW, TableVault, all_keys, keyring, keyring_on, keyward_dir, main_file, start, state_dir},
};
use crate::{
    disk::{Disk as _, fake::FakeDisk, hanging::HangingDisk},
    keystore::{Found, KeystoreFileError},
};

struct Node {
    disk: Arc<FakeDisk>,
    vault: TableVault,
}

impl Node {
    /// A node with a few generations behind it.
    fn new() -> Self {
        let node = Self { disk: Arc::new(FakeDisk::default()), vault: TableVault::default() };
        node.started().refill(NOW).unwrap();
        node
    }

    fn started(&self) -> Keyring {
        let ring = keyring(&self.disk);
        start(&ring, &self.vault, false).unwrap();
        ring
    }

    fn keystore(&self) -> Vec<u8> {
        self.disk.read(&main_file()).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        self.disk.write(&main_file(), bytes).unwrap();
    }

    /// Starts; the error, after seeing that nothing on disk changed.
    fn refusal(&self) -> KeyringError {
        let before = self.disk.files();
        let ring = keyring(&self.disk);
        let error = start(&ring, &self.vault, true).unwrap_err();
        assert_eq!(self.disk.files(), before, "nothing is overwritten");
        assert!(!error.hint().is_empty());
        error
    }
}

fn file_error(error: KeyringError) -> KeystoreFileError {
    let KeyringError::File(error) = error else { panic!("expected an error of the file, got {error:?}") };
    error
}

#[test]
fn a_truncated_keystore_is_refused_at_every_length() {
    let node = Node::new();
    let whole = node.keystore();
    for len in 0..whole.len() {
        node.put(&whole[..len]);
        let error = node.refusal();
        assert!(matches!(error, KeyringError::File(_) | KeyringError::Keystore(_)), "{len}: {error:?}");
    }
    node.put(&whole);
    start(&keyring(&node.disk), &node.vault, true).unwrap();
}

#[test]
fn a_flipped_bit_is_refused_wherever_it_is() {
    let node = Node::new();
    let whole = node.keystore();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 7);
        node.put(&bytes);
        let before = node.disk.files();
        let ring = keyring(&node.disk);
        // A wrap that was changed is one that the vault does not unwrap.
        let unwraps = |ring: &Keyring| {
            let view = ring.view().unwrap();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.vault.unwrap(&view.wraps[0])))
        };
        let outcome = match ring.load(true) {
            Err(error) => Err(error),
            Ok(Some(_)) => panic!("byte {at}: taken for a new node"),
            Ok(None) => match quiet(|| unwraps(&ring)) {
                Ok(mut master) => {
                    let key = ring.view().unwrap().wraps[0].key_identifier.clone();
                    ring.open(&mut master, &key, NOW)
                }
                Err(_) => continue,
            },
        };
        assert!(outcome.is_err(), "byte {at} flipped and nobody noticed");
        assert_eq!(node.disk.files(), before, "byte {at}: nothing is overwritten");
    }
}

/// The expected panics of the table would fill the log.
fn quiet<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = HOOK.lock();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let out = work();
    std::panic::set_hook(hook);
    out
}

#[test]
fn a_replayed_keystore_is_refused() {
    let node = Node::new();
    let old = node.keystore();
    let ring = node.started();
    let new = MasterKey::make().unwrap();
    let wrap = node.vault.verified("1", &new);
    ring.rotate(new, wrap, NOW).unwrap();
    node.put(&old);
    let error = file_error(node.refusal());
    assert!(matches!(error, KeystoreFileError::Replayed { found, seen, .. } if found < seen), "{error:?}");
    // Nor does an operator's approval bring it back: that would be the attack.
    assert!(keyring(&node.disk).approve().is_err());
}

#[test]
fn a_keystore_of_another_node_is_recognised() {
    let node = Node::new();
    let other = Node::new();
    node.put(&other.keystore());
    assert!(matches!(file_error(node.refusal()), KeystoreFileError::OtherNode { .. }));
}

#[test]
fn a_keystore_unknown_to_this_agent_needs_the_operator() {
    let node = Node::new();
    node.disk.remove(&state_dir().join("node.json")).unwrap();
    let error = file_error(node.refusal());
    assert!(matches!(error, KeystoreFileError::Unknown { .. }));
    assert!(error.hint().contains("keyward node restore") && error.hint().contains("keyward node approve"));
    keyring(&node.disk).approve().unwrap();
    node.started();
}

#[test]
fn a_missing_keystore_beside_data_is_no_new_node() {
    let node = Node::new();
    node.disk.remove(&main_file()).unwrap();
    assert!(matches!(file_error(node.refusal()), KeystoreFileError::Missing { .. }));
    // Nor is an empty data path, as a file system that is not mounted shows it.
    let ring = keyring(&node.disk);
    assert!(matches!(
        file_error(start(&ring, &node.vault, false).unwrap_err()),
        KeystoreFileError::Missing { why: "this node had one", .. }
    ));
}

#[test]
fn a_keystore_of_a_newer_version_is_refused_by_name() {
    let node = Node::new();
    let text = String::from_utf8(node.keystore()).unwrap();
    let newer = ["\"version\":1", "\"version\": 1", "\"formatVersion\":1", "\"formatVersion\": 1"]
        .into_iter()
        .find(|version| text.contains(version))
        .map(|version| text.replacen(version, &version.replace('1', "99"), 1))
        .expect("the file says its version");
    node.put(newer.as_bytes());
    let text = crate::node::chain(&node.refusal());
    assert!(text.contains("99"), "{text}");
}

#[test]
fn a_full_or_read_only_disk_stops_a_step_and_spoils_nothing() {
    let node = Node::new();
    let ring = node.started();
    let keys = all_keys(&ring);
    let before: BTreeMap<PathBuf, Vec<u8>> = node.disk.files();
    let used: usize = before.values().map(Vec::len).sum();
    for spoil in ["full", "read-only"] {
        for room in 0..3 {
            match spoil {
                "full" => node.disk.set_space(Some(used + room * 300)),
                _ => node.disk.set_read_only(true),
            }
            let new = MasterKey::make().unwrap();
            let wrap = node.vault.verified("1", &new);
            let error = ring.rotate(new, wrap, NOW).unwrap_err();
            let word = if spoil == "full" { "free space" } else { "writable" };
            assert!(error.hint().contains(word), "{spoil}: {}", error.hint());
            assert_eq!(node.disk.files(), before, "{spoil}");
            assert_eq!(all_keys(&ring), keys);
        }
        node.disk.set_space(None);
        node.disk.set_read_only(false);
    }
    let new = MasterKey::make().unwrap();
    let wrap = node.vault.verified("1", &new);
    ring.rotate(new, wrap, NOW).unwrap();
    assert_eq!(all_keys(&node.started()), keys);
}

#[test]
fn a_new_node_on_a_full_disk_is_made_once_there_is_room() {
    let disk = Arc::new(FakeDisk::default());
    let vault = TableVault::default();
    disk.set_space(Some(200));
    assert!(start(&keyring(&disk), &vault, false).is_err());
    disk.set_space(None);
    start(&keyring(&disk), &vault, false).unwrap();
}

/// Who removes it does not know that the database runs on keys that are nowhere else.
#[test]
fn a_keystore_that_goes_while_the_agent_has_it_is_put_back() {
    let node = Node::new();
    let ring = node.started();
    let (keys, whole) = (all_keys(&ring), node.keystore());
    assert_eq!(ring.watch_over().unwrap(), Some(Found::AsWritten));
    node.disk.remove(&main_file()).unwrap();
    assert_eq!(ring.watch_over().unwrap(), Some(Found::PutBack));
    assert_eq!(node.keystore(), whole);
    assert_eq!(ring.watch_over().unwrap(), Some(Found::AsWritten));

    // A step that finds it gone puts it back too.
    node.disk.remove(&main_file()).unwrap();
    ring.refill(NOW).unwrap();
    for (id, key) in &keys {
        assert_eq!(all_keys(&node.started()).get(id), Some(key));
    }

    // What somebody wrote there is left alone, and told; moved away, the newest generation is written anew.
    let ring = node.started();
    let whole = node.keystore();
    for other in [&b"not a keystore"[..], &Node::new().keystore()] {
        node.put(other);
        assert_eq!(ring.watch_over().unwrap(), Some(Found::Changed));
        let error = file_error(ring.refill(NOW).unwrap_err());
        assert!(matches!(error, KeystoreFileError::Changed(_)), "{error:?}");
        assert_eq!(node.keystore(), other, "nothing is overwritten");
        node.disk.remove(&main_file()).unwrap();
        ring.watch_over().unwrap();
        assert_eq!(node.keystore(), whole);
    }

    // Without the master key nothing vouches for what is in memory.
    assert!(ring.wipe(Duration::ZERO));
    node.disk.remove(&main_file()).unwrap();
    assert_eq!(ring.watch_over().unwrap(), None);
    assert!(!node.disk.files().contains_key(&main_file()));
}

/// A disk that hangs keeps a step, and the step has the keys. Whoever comes next finds them wiped, and keys that were
/// unwrapped afterwards stay.
#[test]
fn keys_are_wiped_after_the_step_that_has_them_and_before_the_next() {
    let vault = TableVault::default();
    let (disk, switch) = HangingDisk::of(Arc::new(FakeDisk::default()));
    let ring = keyring_on(disk, &keyward_dir(), &state_dir());
    start(&ring, &vault, false).unwrap();
    let held = || ring.view().unwrap().held;
    switch.hang(&keyward_dir());
    std::thread::scope(|scope| {
        let step = scope.spawn(|| ring.refill(NOW));
        while switch.waiting() == 0 {
            std::thread::yield_now();
        }
        assert!(!ring.wipe(Duration::ZERO) && held(), "it does not wait for the disk");
        let next = scope.spawn(|| ring.keys_not_in(&mut HashSet::new(), false));
        switch.answer();
        step.join().unwrap().unwrap();
        assert!(matches!(next.join().unwrap(), Err(KeyringError::NotHeld)));
    });
    assert!(!held());
    start(&ring, &vault, true).unwrap();
    ring.wipe_when_free();
    assert!(held(), "nobody asked for these to be wiped");
    assert!(ring.wipe(Duration::ZERO) && !held());
}

/// A faulty image must not get as far as to take the place of the generation before it.
#[test]
fn a_step_is_verified_before_the_disk_is_touched() {
    let node = Node::new();
    let ring = node.started();
    let before = node.disk.files();
    let mut content = ring.lock();
    let generation = SealedKeystore::parse(&node.keystore()).unwrap().generation();
    // Another keystore of this node under the same master key: all of it verifies, and it has none of the keys.
    let error = ring.step(&mut content, |open| {
        let master = MasterKey::take_from(&mut open.master_key().expose().clone())?;
        let wrap = node.vault.verified("1", &master);
        let (mut other, _) = OpenKeystore::create(open.sealed().node_id(), master, vec![wrap], 1, NOW.0)?;
        while other.sealed().generation() < generation {
            let image = other.add_spares(1, NOW.0)?;
            other.commit(&image)?;
        }
        other.add_spares(1, NOW.0).map(Some)
    });
    assert!(matches!(error, Err(KeyringError::Keystore(KeystoreError::KeyLost(_)))), "{error:?}");
    drop(content);
    assert_eq!(node.disk.files(), before);
    ring.refill(NOW).unwrap();
}

/// Nobody asks for a keystore to be approved while its keys are in use; whoever does changes nothing.
#[test]
fn approving_while_the_keys_are_in_use_changes_nothing() {
    let node = Node::new();
    let ring = node.started();
    let other = Node::new().keystore();
    let (claim, whole) = (node.disk.read(&state_dir().join("node.json")).unwrap(), node.keystore());
    node.put(&other);
    assert!(!ring.approve().unwrap());
    assert_eq!(node.disk.read(&state_dir().join("node.json")).unwrap(), claim);
    // Nor does another node's become this one's own by it.
    let stopped = keyring(&node.disk);
    assert!(matches!(file_error(stopped.approve().unwrap_err()), KeystoreFileError::OtherNode { .. }));
    node.put(&whole);
    ring.refill(NOW).unwrap();
}

/// An agent that comes to a full disk still gets its master key: the engine that runs needs nothing written.
#[test]
fn a_full_disk_keeps_no_running_node_from_its_keys_and_no_key_in_a_failed_one() {
    let node = Node::new();
    let ring = node.started();
    let master = ring.master_key_to_wrap().unwrap();
    let staged = node.vault.wrap("2", &MasterKey::take_from(&mut master.clone()).unwrap());
    ring.stage(staged).unwrap();
    let used: usize = node.disk.files().values().map(Vec::len).sum();
    node.disk.set_space(Some(used));
    let ring = keyring(&node.disk);
    start(&ring, &node.vault, true).unwrap();
    assert!(ring.view().unwrap().held);
    assert_eq!(ring.view().unwrap().wraps.len(), 2, "what needs the disk is done later");
    node.disk.set_space(None);
    ring.unstage().unwrap();
    assert_eq!(ring.view().unwrap().wraps.len(), 1);

    // What the agent remembers is damaged: no start, and nothing left in memory.
    node.disk.write(&state_dir().join("node.json"), b"{").unwrap();
    let ring = keyring(&node.disk);
    assert!(start(&ring, &node.vault, true).is_err());
    assert!(ring.view().is_none_or(|view| !view.held));
}

/// The data of the node that was here may lie elsewhere, and its keys are in that file alone.
#[test]
fn a_restore_keeps_the_keystore_that_it_replaces() {
    let node = Node::new();
    let whole = node.keystore();
    let source = Node::new();
    for _ in 0..2 {
        let sealed = SealedKeystore::parse(&source.keystore()).unwrap();
        let mut old = source.vault.unwrap(&sealed.wraps()[0]);
        let opened = sealed.open(MasterKey::take_from(&mut old).unwrap()).unwrap();
        let ring = keyring(&node.disk);
        let new = MasterKey::make().unwrap();
        let wrap = node.vault.verified("9", &new);
        let seen = ring.seen_generation().unwrap();
        let node_id = SealedKeystore::parse(&whole).unwrap().node_id();
        let image = opened.adopt_as_new_node(node_id, &new, vec![wrap.clone()], seen, NOW.0).unwrap();
        ring.install(&image, new, wrap).unwrap();
        let kept = node.disk.read(&main_file().with_file_name("keystore.replaced-1")).unwrap();
        assert_eq!(kept, whole);
    }
    assert_ne!(node.keystore(), whole);
    assert!(node.disk.files().contains_key(&main_file().with_file_name("keystore.replaced-2")));
}
