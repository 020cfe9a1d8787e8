//! Power cuts: every keystore operation is cut off after each of its disk operations, with every outcome that the
//! disk may have. Reopening must succeed, no key that was ever durable may be lost, and the operation must be
//! repeatable.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keyward_keys::{
    KeyId, MasterKey, NodeId,
    assignment::{Assignment, encode_assignment},
};

use super::{
    Keyring, KeyringError,
    doubles::{NOW, TableVault, all_keys, identifier, is_probeable, keyring, start},
};
use crate::disk::fake::{Contents, FakeDisk, Hiccup, Names, Torn};

pub(super) type Operation = fn(&Keyring, &TableVault) -> Result<(), KeyringError>;

fn open_again(keyring: &Keyring, vault: &TableVault) -> Result<(), KeyringError> {
    assert!(keyring.wipe(Duration::ZERO));
    start(keyring, vault, true)
}

fn refill(keyring: &Keyring, _: &TableVault) -> Result<(), KeyringError> {
    keyring.refill(NOW)
}

fn fold(keyring: &Keyring, _: &TableVault) -> Result<(), KeyringError> {
    let spares = keyring.keys_not_in(&mut Default::default(), true)?;
    let key_id = spares.iter().map(|key| key.id).min().expect("there is a spare");
    keyring.fold(&[Assignment { key_id, database: format!("db-{key_id}") }], NOW)
}

fn rotate(keyring: &Keyring, vault: &TableVault) -> Result<(), KeyringError> {
    let new = MasterKey::make().unwrap();
    let wrap = vault.verified("1", &new);
    keyring.rotate(new, wrap, NOW)
}

fn stage(keyring: &Keyring, vault: &TableVault) -> Result<(), KeyringError> {
    assert_ne!(keyring.view().unwrap().primary, Some(identifier("2")));
    let master = keyring.master_key_to_wrap()?;
    let wrap = vault.wrap("2", &MasterKey::take_from(&mut master.clone()).unwrap());
    keyring.stage(wrap)
}

fn unstage(keyring: &Keyring, vault: &TableVault) -> Result<(), KeyringError> {
    stage(keyring, vault)?;
    keyring.unstage()
}

fn rewrap(keyring: &Keyring, vault: &TableVault) -> Result<(), KeyringError> {
    let master = keyring.master_key_to_wrap()?;
    if keyring.view().unwrap().primary == Some(identifier("2")) {
        return keyring.unstage();
    }
    stage(keyring, vault)?;
    keyring.rely_on(&identifier("2"), &master)
}

fn rotate_then_rewrap_then_rotate(keyring: &Keyring, vault: &TableVault) -> Result<(), KeyringError> {
    rotate(keyring, vault)?;
    rewrap(keyring, vault)?;
    let new = MasterKey::make().unwrap();
    let wrap = vault.verified("2", &new);
    keyring.rotate(new, wrap, NOW)
}

pub(super) const OPERATIONS: [(&str, Operation); 8] = [
    ("open", open_again),
    ("refill", refill),
    ("fold", fold),
    ("rotate", rotate),
    ("stage", stage),
    ("unstage", unstage),
    ("rewrap", rewrap),
    ("rotate, rewrap, rotate", rotate_then_rewrap_then_rotate),
];

pub(super) fn assert_nothing_lost(
    had: &BTreeMap<KeyId, [u8; 32]>,
    now: &BTreeMap<KeyId, [u8; 32]>,
    what: &str,
) {
    for (id, key) in had {
        assert_eq!(now.get(id), Some(key), "{what}: key {id} is lost or another");
    }
}

#[test]
fn no_power_cut_in_an_operation_loses_a_key() {
    let vault = TableVault::default();
    for (name, operation) in OPERATIONS {
        let disk = Arc::new(FakeDisk::default());
        let ring = keyring(&disk);
        start(&ring, &vault, false).unwrap();
        fold(&ring, &vault).unwrap();
        let base = disk.after_power_cut(Contents::Kept, Names { kept: usize::MAX, torn: Torn::No });
        let mut cuts = 0;
        for operations in 0.. {
            let disk = Arc::new(base.clone());
            let ring = keyring(&disk);
            start(&ring, &vault, true).unwrap();
            let had = all_keys(&ring);
            let before = ring.view().unwrap();
            disk.lose_power_after(operations);
            let outcome = operation(&ring, &vault);
            // What memory holds never runs ahead of the disk: nothing but durable keys was ever given out.
            let given_out = if ring.view().unwrap().held { all_keys(&ring) } else { had.clone() };
            for (cut, left) in disk.after_power_cuts() {
                let what = format!("{name}, power cut after {operations} operations, {cut}");
                let left = Arc::new(left);
                assert_eq!(is_probeable(&left), Some(Ok(())), "{what}");
                let ring = keyring(&left);
                if let Err(error) = start(&ring, &vault, true) {
                    panic!("{what}: {}; files: {:?}", crate::node::chain(&error), left.files().keys());
                }
                let now = all_keys(&ring);
                assert_nothing_lost(&had, &now, &what);
                assert_nothing_lost(&given_out, &now, &what);
                let view = ring.view().unwrap();
                assert!(view.generation >= before.generation, "{what}");
                for old in &before.database_keys {
                    assert!(view.database_keys.contains(old), "{what}: {old:?}");
                }
                assert_eq!(view.wraps.len(), 1, "{what}: leftovers of a rewrap go at the next start");
                operation(&ring, &vault)
                    .unwrap_or_else(|error| panic!("{what}: not repeatable: {}", crate::node::chain(&error)));
                cuts += 1;
            }
            if !disk.has_lost_power() {
                outcome.unwrap_or_else(|error| panic!("{name}: {}", crate::node::chain(&error)));
                break;
            }
        }
        println!("{name}: {cuts} power cuts");
        assert!(cuts >= 9, "{name}: the power was really cut");
    }
}

/// One operation of the disk fails, and the agent lives on: the step may be repeated at once, and nothing is lost.
#[test]
fn a_disk_that_fails_once_leaves_a_keyring_that_goes_on() {
    let vault = TableVault::default();
    for (name, operation) in OPERATIONS {
        for how in [Hiccup::Before, Hiccup::After] {
            for operations in 0.. {
                let what = format!("{name}, {how:?} operation {operations}");
                let disk = Arc::new(FakeDisk::default());
                let ring = keyring(&disk);
                start(&ring, &vault, false).unwrap();
                fold(&ring, &vault).unwrap();
                let had = all_keys(&ring);
                let before = ring.view().unwrap();
                disk.hiccup_after(operations, how);
                let first = operation(&ring, &vault);
                if disk.hiccup_pending() {
                    first.unwrap();
                    break;
                }
                let given_out = if ring.view().unwrap().held { all_keys(&ring) } else { had.clone() };
                for again in 1..=2 {
                    operation(&ring, &vault).unwrap_or_else(|error| {
                        panic!("{what}: repeated {again}: {}", crate::node::chain(&error))
                    });
                }
                let now = all_keys(&ring);
                assert_nothing_lost(&had, &now, &what);
                assert_nothing_lost(&given_out, &now, &what);
                let view = ring.view().unwrap();
                assert!(view.generation >= before.generation && view.held, "{what}");
                assert!(view.wraps.iter().any(|wrap| Some(&wrap.key_identifier) == view.primary.as_ref()));
                assert_eq!(is_probeable(&disk), Some(Ok(())), "{what}");
                let ring = keyring(&disk);
                start(&ring, &vault, true).unwrap();
                assert_nothing_lost(&now, &all_keys(&ring), &what);
            }
        }
    }
}

/// The keystore is put back under a second name of its file. Where that name stays, the next step must not write
/// into the one keystore there is.
#[test]
fn no_power_cut_after_a_put_back_that_failed_loses_a_key() {
    let vault = TableVault::default();
    let mut cuts = 0;
    for failing in 0.. {
        let mut all_failed = true;
        for operations in 0.. {
            let disk = Arc::new(FakeDisk::default());
            let ring = keyring(&disk);
            start(&ring, &vault, false).unwrap();
            let had = all_keys(&ring);
            crate::disk::Disk::remove(&*disk, &super::doubles::main_file()).unwrap();
            disk.hiccup_after(failing, Hiccup::Before);
            let put_back = ring.watch_over();
            all_failed = !disk.hiccup_pending();
            if !all_failed {
                put_back.unwrap();
                break;
            }
            disk.lose_power_after(operations);
            let outcome = ring.refill(NOW);
            // Before it was put back there is nothing that a power cut could leave.
            let there = disk.files().contains_key(&super::doubles::main_file());
            for (cut, left) in disk.after_power_cuts().into_iter().filter(|_| there && put_back.is_err()) {
                let what =
                    format!("put back but for operation {failing}, power cut after {operations}, {cut}");
                let left = Arc::new(left);
                let ring = keyring(&left);
                match start(&ring, &vault, true) {
                    Ok(()) => assert_nothing_lost(&had, &all_keys(&ring), &what),
                    // Its name was not durable yet.
                    Err(error) => assert!(
                        !left.files().contains_key(&super::doubles::main_file()),
                        "{what}: {}",
                        crate::node::chain(&error)
                    ),
                }
                cuts += 1;
            }
            if !disk.has_lost_power() {
                outcome.unwrap();
                break;
            }
        }
        if !all_failed {
            break;
        }
    }
    assert!(cuts > 20, "{cuts}: the power was really cut");
}

/// As the encryptor does it: gives a spare to a database, and writes that down behind what the journal holds.
fn write_down(ring: &Keyring) -> Result<Assignment, KeyringError> {
    let spares = ring.keys_not_in(&mut Default::default(), true)?;
    let spare = spares.iter().max_by_key(|spare| spare.id).expect("there is a spare");
    let assignment = Assignment { key_id: spare.id, database: format!("db-{}", spare.id) };
    let written = || {
        let mut journal = crate::disk::read_if_there(&*ring.disk, &ring.journal)?.unwrap_or_default();
        journal.extend(encode_assignment(&assignment, &spare.key).expect("the name is good"));
        ring.disk.write(&ring.journal, &journal)?;
        ring.disk.sync_file(&ring.journal)?;
        ring.disk.sync_dir(ring.journal.parent().expect("it is in a folder"))
    };
    written().map_err(ring.journal_error("written"))?;
    Ok(assignment)
}

/// What the database's process has written down before it made a table is known for good, however the agent that
/// takes it in is cut off: else the table's pages would be under a spare that goes to another database.
#[test]
fn no_power_cut_while_a_journal_is_taken_in_loses_an_assignment() {
    let vault = TableVault::default();
    let disk = Arc::new(FakeDisk::default());
    let ring = keyring(&disk);
    start(&ring, &vault, false).unwrap();
    let base = disk.after_power_cut(Contents::Kept, Names { kept: usize::MAX, torn: Torn::No });
    let ways: [(&str, Operation); 2] =
        [("folds", |ring, _| ring.fold_journal(NOW)), ("retires", |ring, _| ring.retire_journal(NOW))];
    for (name, take_in) in ways {
        let mut known_after = 0;
        for operations in 0.. {
            let disk = Arc::new(base.clone());
            let ring = keyring(&disk);
            start(&ring, &vault, true).unwrap();
            let had = all_keys(&ring);
            disk.lose_power_after(operations);
            let written = write_down(&ring);
            let outcome = if written.is_ok() { take_in(&ring, &vault) } else { Ok(()) };
            for (cut, left) in disk.after_power_cuts() {
                let what = format!("an agent that {name}, power cut after {operations} operations, {cut}");
                let ring = keyring(&Arc::new(left));
                start(&ring, &vault, true)
                    .unwrap_or_else(|error| panic!("{what}: {}", crate::node::chain(&error)));
                assert_nothing_lost(&had, &all_keys(&ring), &what);
                if let Ok(assignment) = &written {
                    let view = ring.view().unwrap();
                    let found = view.database_keys.iter().find(|key| key.database == assignment.database);
                    assert_eq!(
                        found.map(|key| key.id.clone()),
                        Some(assignment.key_id.to_string()),
                        "{what}: the database's key is forgotten"
                    );
                    known_after += 1;
                }
                write_down(&ring)
                    .and_then(|_| take_in(&ring, &vault))
                    .unwrap_or_else(|error| panic!("{what}: not repeatable: {}", crate::node::chain(&error)));
            }
            if !disk.has_lost_power() {
                outcome.unwrap_or_else(|error| panic!("{name}: {}", crate::node::chain(&error)));
                let left = disk.files().contains_key(&ring.journal);
                assert_eq!(left, name == "folds", "a retired journal is gone");
                break;
            }
        }
        assert!(known_after >= 9, "{name}: {known_after} power cuts after it was written down");
    }
}

#[test]
fn no_power_cut_while_a_node_is_made_keeps_it_from_being_made() {
    let vault = TableVault::default();
    for operations in 0.. {
        let disk = Arc::new(FakeDisk::default());
        disk.lose_power_after(operations);
        let ring = keyring(&disk);
        let outcome = start(&ring, &vault, false);
        let made = ring.view().map(|_| all_keys(&ring));
        for (cut, left) in disk.after_power_cuts() {
            let what = format!("power cut after {operations} operations, {cut}");
            let left = Arc::new(left);
            assert!(
                is_probeable(&left).is_none_or(|found| found.is_ok()),
                "{what}: {:?}",
                is_probeable(&left)
            );
            let ring = keyring(&left);
            start(&ring, &vault, false)
                .unwrap_or_else(|error| panic!("{what}: {}", crate::node::chain(&error)));
            if let (Ok(()), Some(made)) = (&outcome, &made) {
                assert_nothing_lost(made, &all_keys(&ring), &what);
            }
        }
        if !disk.has_lost_power() {
            assert!(outcome.is_ok() && operations > 8);
            break;
        }
    }
}

#[test]
fn no_power_cut_in_the_recovery_from_a_power_cut_loses_a_key() {
    let vault = TableVault::default();
    let disk = Arc::new(FakeDisk::default());
    let ring = keyring(&disk);
    start(&ring, &vault, false).unwrap();
    let had = all_keys(&ring);
    let start_of_rotation = disk.operations();
    let whole = Arc::new((*disk).clone());
    rotate(
        &{
            let ring = keyring(&whole);
            start(&ring, &vault, true).unwrap();
            ring
        },
        &vault,
    )
    .unwrap();
    let length = whole.operations() - start_of_rotation;
    let mut recoveries = 0;
    for first in 0..=length {
        let disk = Arc::new((*disk).clone());
        let ring = keyring(&disk);
        start(&ring, &vault, true).unwrap();
        disk.lose_power_after(first);
        let _ = rotate(&ring, &vault);
        for (first_cut, left) in disk.after_power_cuts() {
            for second in 0.. {
                let left = Arc::new(left.clone());
                left.lose_power_after(second);
                let ring = keyring(&left);
                let _ = start(&ring, &vault, true);
                for (second_cut, left) in left.after_power_cuts() {
                    let what = format!("cuts after {first} ({first_cut}) and {second} ({second_cut})");
                    let ring = keyring(&Arc::new(left));
                    start(&ring, &vault, true)
                        .unwrap_or_else(|error| panic!("{what}: {}", crate::node::chain(&error)));
                    assert_nothing_lost(&had, &all_keys(&ring), &what);
                    recoveries += 1;
                }
                if !left.has_lost_power() {
                    break;
                }
            }
        }
    }
    println!("{recoveries} recoveries");
}

#[test]
fn no_power_cut_in_a_restore_starts_from_the_wrong_keystore() {
    let vault = TableVault::default();
    let source = Arc::new(FakeDisk::default());
    let ring = keyring(&source);
    start(&ring, &vault, false).unwrap();
    fold(&ring, &vault).unwrap();
    let had = all_keys(&ring);
    let node_id = NodeId::make();
    let restore = |ring: &Keyring| -> Result<(), KeyringError> {
        let copied = source.files()[&super::doubles::main_file()].clone();
        let sealed = keyward_keys::keystore::SealedKeystore::parse(&copied)?;
        let mut old = vault.unwrap(&sealed.wraps()[0]);
        let opened = sealed.open(MasterKey::take_from(&mut old).unwrap())?;
        let new = MasterKey::make().unwrap();
        let wrap = vault.verified("9", &new);
        let image =
            opened.adopt_as_new_node(node_id, &new, vec![wrap.clone()], ring.seen_generation()?, NOW.0)?;
        ring.install(&image, new, wrap)
    };
    for operations in 0.. {
        let disk = Arc::new(FakeDisk::default());
        disk.lose_power_after(operations);
        let ring = keyring(&disk);
        let outcome = restore(&ring);
        for (cut, left) in disk.after_power_cuts() {
            let what = format!("power cut after {operations} operations, {cut}");
            let left = Arc::new(left);
            // The data is there already: either the keystore is this node's own, or the start is refused.
            let ring = keyring(&left);
            match start(&ring, &vault, true) {
                Ok(()) => assert_nothing_lost(&had, &all_keys(&ring), &what),
                Err(error) => {
                    assert!(outcome.is_err(), "{what}: {}", crate::node::chain(&error));
                    let ring = keyring(&left);
                    restore(&ring).unwrap_or_else(|e| panic!("{what}: {}", crate::node::chain(&e)));
                    start(&ring, &vault, true).unwrap();
                    assert_nothing_lost(&had, &all_keys(&ring), &what);
                }
            }
        }
        if outcome.is_ok() {
            break;
        }
    }
}
