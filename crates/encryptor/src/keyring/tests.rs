use std::path::Path;
use std::sync::Arc;

use keyward_keys::assignment::decode_assignments;

use super::*;

fn wire(id: u8, purpose: Purpose) -> WireKey {
    WireKey { id: KeyId::from_bytes([id; 16]), purpose, key: key(id) }
}

fn key(id: u8) -> DatabaseKey {
    DatabaseKey::take_from(&mut [id; 32]).unwrap()
}

fn id(id: u8) -> KeyId {
    KeyId::from_bytes([id; 16])
}

/// System key 1, `alpha` has key 2, spares are 10 and 11.
fn keyring() -> Keyring {
    Keyring::new(
        id(1),
        vec![
            wire(1, Purpose::System),
            wire(2, Purpose::Database("alpha".to_owned())),
            wire(10, Purpose::Spare),
            wire(11, Purpose::Spare),
        ],
    )
}

fn journal(home: &Path) -> AssignmentJournal {
    std::fs::create_dir_all(home.join(".keyward")).unwrap();
    AssignmentJournal::of(home).unwrap().unwrap()
}

fn recorded(home: &Path) -> Vec<(String, KeyId)> {
    let bytes = std::fs::read(home.join(".keyward/assignments")).unwrap_or_default();
    let journal = decode_assignments(&bytes, |id| Some(key(id.as_bytes()[0])));
    assert!(journal.rejected.is_empty() && journal.torn_bytes == 0, "{journal:?}");
    journal.assignments.into_iter().map(|assignment| (assignment.database, assignment.key_id)).collect()
}

const NO_WAIT: Duration = Duration::from_millis(1);

#[test]
fn a_database_keeps_its_key_and_a_new_one_takes_a_spare_durably() {
    let home = tempfile::tempdir().unwrap();
    let (keyring, journal) = (keyring(), journal(home.path()));
    assert_eq!(keyring.assign("alpha", &journal).unwrap(), Assigned::Known(id(2)));
    assert!(recorded(home.path()).is_empty());
    let assignment = Assignment { key_id: id(10), database: "beta".to_owned() };
    assert_eq!(keyring.assign("beta", &journal).unwrap(), Assigned::Now { assignment, spares: 1 });
    assert_eq!(keyring.assign("beta", &journal).unwrap(), Assigned::Known(id(10)));
    assert_eq!(recorded(home.path()), [("beta".to_owned(), id(10))]);
    assert!(keyring.is_in_use(&id(10)) && !keyring.is_in_use(&id(11)) && !keyring.is_in_use(&id(99)));
}

#[test]
fn spares_run_out_with_a_message_and_come_back() {
    let home = tempfile::tempdir().unwrap();
    let (keyring, journal) = (Arc::new(keyring()), journal(home.path()));
    for database in ["b", "c"] {
        keyring.assign(database, &journal).unwrap();
    }
    let error = keyring.assign_within("d", &journal, NO_WAIT).unwrap_err();
    assert!(error.to_string().contains("no spare database key left for database d"), "{error}");
    let waiting = {
        let keyring = Arc::clone(&keyring);
        std::thread::spawn(move || keyring.assign_within("d", &journal, Duration::from_secs(60)))
    };
    std::thread::sleep(Duration::from_millis(20));
    keyring.take_in(vec![wire(12, Purpose::Spare)]);
    let assigned = waiting.join().unwrap().unwrap();
    assert!(matches!(assigned, Assigned::Now { assignment, spares: 0 } if assignment.key_id == id(12)));
}

#[test]
fn many_threads_give_one_database_one_key() {
    let home = tempfile::tempdir().unwrap();
    let (keyring, journal) = (keyring(), journal(home.path()));
    let ids: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| match keyring.assign("beta", &journal).unwrap() {
                    Assigned::Known(id) => id,
                    Assigned::Now { assignment, .. } => assignment.key_id,
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|other| *other == id(10)));
    assert_eq!(recorded(home.path()).len(), 1);
    assert_eq!(keyring.spares(), 1);
}

/// Many databases at once: each gets a key, no key goes to two of them, and the journal says the same.
#[test]
fn many_threads_give_many_databases_keys_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let journal = journal(home.path());
    let spares = (0..32).map(|number| wire(number + 10, Purpose::Spare)).collect();
    let keyring = Keyring::new(id(1), spares);
    let given: HashMap<String, KeyId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|number| {
                let (keyring, journal) = (&keyring, &journal);
                scope.spawn(move || {
                    let database = format!("d{number}");
                    let Assigned::Now { assignment, .. } = keyring.assign(&database, journal).unwrap() else {
                        panic!("{database} had a key before");
                    };
                    (database, assignment.key_id)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: std::collections::HashSet<_> = given.values().collect();
    assert_eq!((given.len(), distinct.len(), keyring.spares()), (32, 32, 0));
    assert_eq!(recorded(home.path()).into_iter().collect::<HashMap<_, _>>(), given);
}

/// Who waits for a spare waits so long and no longer, however many wait before it.
#[test]
fn those_who_wait_for_spares_do_not_wait_one_after_the_other() {
    let home = tempfile::tempdir().unwrap();
    let journal = journal(home.path());
    let keyring = Keyring::new(id(1), Vec::new());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (keyring, journal) = (&keyring, &journal);
            scope.spawn(move || {
                let error = keyring
                    .assign_within(&format!("d{number}"), journal, Duration::from_millis(300))
                    .unwrap_err();
                assert!(matches!(error, AssignError::NoSpare { .. }));
            });
        }
    });
    let waited = begun.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
}

#[test]
fn names_of_every_kind_of_directory_are_recorded_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let journal = journal(home.path());
    // As mongod escapes what a directory can't have, and what it never makes.
    let names = ["my.32db", "a.46b", &"x".repeat(255), "ä ö", "a=b,c(d)", "line\nbreak"].map(str::to_owned);
    let spares = (0..6).map(|number| wire(number + 10, Purpose::Spare)).collect();
    let keyring = Keyring::new(id(1), spares);
    for name in &names {
        keyring.assign(name, &journal).unwrap();
    }
    let recorded = recorded(home.path());
    assert_eq!(recorded.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
    for name in ["", ".", "..", "a/b", &"x".repeat(256)] {
        let keyring = self::keyring();
        assert!(matches!(keyring.assign(name, &journal), Err(AssignError::Record(_))), "{name:?}");
        assert_eq!(keyring.spares(), 2, "{name:?} took a spare");
    }
}

/// The disk says no in every way: the spare stays with its database, in this process, and no other gets it.
#[test]
fn a_failing_sync_and_a_full_disk_lose_no_spare() {
    for device in ["/dev/full", "/dev/null"] {
        let home = tempfile::tempdir().unwrap();
        let (keyring, journal) = (keyring(), journal(home.path()));
        let path = home.path().join(".keyward/assignments");
        std::os::unix::fs::symlink(device, &path).unwrap();
        for _ in 0..3 {
            let error = keyring.assign("beta", &journal).unwrap_err();
            assert!(matches!(error, AssignError::Journal { .. }), "{device}: {error}");
            assert_eq!(keyring.key_of("beta"), None, "{device}");
        }
        std::fs::remove_file(&path).unwrap();
        keyring.assign("gamma", &journal).unwrap();
        keyring.assign("beta", &journal).unwrap();
        assert_eq!(
            recorded(home.path()),
            [("gamma".to_owned(), id(11)), ("beta".to_owned(), id(10))],
            "{device}"
        );
    }
}

#[test]
fn an_assignment_that_failed_keeps_its_spare_for_that_database() {
    let home = tempfile::tempdir().unwrap();
    let (keyring, journal) = (keyring(), journal(home.path()));
    let obstacle = home.path().join(".keyward/assignments");
    std::fs::create_dir(&obstacle).unwrap();
    for _ in 0..5 {
        assert!(matches!(keyring.assign("beta", &journal), Err(AssignError::Journal { .. })));
    }
    assert_eq!(keyring.spares(), 1);
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(matches!(
        keyring.assign("gamma", &journal).unwrap(),
        Assigned::Now { assignment, .. } if assignment.key_id == id(11)
    ));
    assert!(matches!(
        keyring.assign_within("beta", &journal, NO_WAIT).unwrap(),
        Assigned::Now { assignment, .. } if assignment.key_id == id(10)
    ));
}

#[test]
fn what_the_agent_sends_again_changes_nothing_in_use() {
    let home = tempfile::tempdir().unwrap();
    let (keyring, journal) = (keyring(), journal(home.path()));
    keyring.assign("beta", &journal).unwrap();
    // The agent hasn't read the journal yet, and calls the key a spare.
    assert!(keyring.take_in(vec![wire(10, Purpose::Spare), wire(11, Purpose::Spare)]).is_empty());
    assert_eq!(keyring.spares(), 1);
    assert_eq!(keyring.assign("beta", &journal).unwrap(), Assigned::Known(id(10)));
    // The agent says another key than the one in use.
    let conflicts = keyring.take_in(vec![wire(30, Purpose::Database("beta".to_owned()))]);
    assert_eq!(conflicts, [Conflict { database: "beta".to_owned(), used: id(10), offered: id(30) }]);
    assert_eq!(keyring.assign("beta", &journal).unwrap(), Assigned::Known(id(10)));
    assert!(keyring.cipher(id(30)).is_ok(), "what is on disk under it must be readable");
    // A spare that became a database's key elsewhere is no spare any more.
    keyring.take_in(vec![wire(11, Purpose::Database("other".to_owned()))]);
    assert_eq!(keyring.spares(), 0);
}

#[test]
fn an_unknown_key_has_no_cipher() {
    let error = keyring().cipher(id(77)).unwrap_err();
    assert_eq!(error.to_string(), format!("the agent has sent no database key {}", id(77)));
}

/// Cut off anywhere, the journal is repaired, believed as far as it is whole, and appended to.
#[test]
fn a_journal_torn_at_every_byte_loses_no_whole_record() {
    let home = tempfile::tempdir().unwrap();
    let whole = {
        let (keyring, journal) = (keyring(), journal(home.path()));
        keyring.assign("beta", &journal).unwrap();
        keyring.assign("gamma", &journal).unwrap();
        std::fs::read(home.path().join(".keyward/assignments")).unwrap()
    };
    let mut seen = HashMap::new();
    for cut in 0..=whole.len() {
        let home = tempfile::tempdir().unwrap();
        let journal = journal(home.path());
        std::fs::write(home.path().join(".keyward/assignments"), &whole[..cut]).unwrap();
        journal.repair().unwrap();
        let believed = recorded(home.path());
        *seen.entry(believed.len()).or_insert(0) += 1;
        // As the agent would welcome it: what is believed is assigned, the rest are spares.
        let purpose = |id: KeyId| match believed.iter().find(|(_, assigned)| *assigned == id) {
            Some((database, _)) => Purpose::Database(database.clone()),
            None => Purpose::Spare,
        };
        let keyring =
            Keyring::new(id(1), (10..=12).map(|number| wire(number, purpose(id(number)))).collect());
        for database in ["delta", "beta", "gamma"] {
            keyring.assign_within(database, &journal, NO_WAIT).unwrap();
        }
        let recorded = recorded(home.path());
        let databases: std::collections::HashSet<_> = recorded.iter().map(|(database, _)| database).collect();
        let keys: std::collections::HashSet<_> = recorded.iter().map(|(_, key_id)| key_id).collect();
        assert_eq!((recorded.len(), databases.len(), keys.len()), (3, 3, 3), "cut at {cut}: {recorded:?}");
    }
    assert!(seen.len() == 3, "cuts left 0, 1 and 2 records: {seen:?}");
}
