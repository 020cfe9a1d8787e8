//! The keystore's steps: what they keep, what they refuse, and what a changed file leads to.
#![allow(clippy::unwrap_used, missing_docs)]

use jiff::Timestamp;
use keyward_keys::{
    DatabaseKey, KeyId, MasterKey, NodeId,
    assignment::Assignment,
    keystore::{
        CanaryWrap, FileImage, KeystoreError, MasterKeyWrap, OpenKeystore, Provider, Purpose, SealedKeystore,
        VerifiedWrap,
    },
};
use proptest::prelude::*;

fn now() -> Timestamp {
    "2026-03-01T12:00:00.5Z".parse().unwrap()
}

fn master(byte: u8) -> MasterKey {
    MasterKey::take_from(&mut [byte; 32]).unwrap()
}

fn wrap(version: &str) -> MasterKeyWrap {
    MasterKeyWrap {
        provider: Provider::AzureKeyVault,
        key_identifier: format!("https://v.vault.azure.net/keys/cmk/{version}"),
        public_key_sha256: "ab".repeat(32),
        algorithm: "RSA-OAEP-256".to_owned(),
        ciphertext: vec![0x5a; 256],
        created_at: now(),
        canary: CanaryWrap { ciphertext: vec![2; 256], sha256: [3; 32] },
    }
}

fn verified(version: &str, of: &MasterKey) -> Vec<VerifiedWrap> {
    vec![wrap(version).verified(of, of.expose()).unwrap()]
}

fn create(spares: usize) -> (OpenKeystore, FileImage) {
    let key = master(1);
    let wraps = verified("v1", &key);
    OpenKeystore::create(NodeId::make(), key, wraps, spares, now()).unwrap()
}

fn reopen(image: &FileImage, key: MasterKey) -> Result<OpenKeystore, KeystoreError> {
    SealedKeystore::parse(&image.bytes)?.open(key)
}

fn assign(keystore: &OpenKeystore, spare: usize, database: &str) -> Assignment {
    let spares = keystore.sealed().entries().iter().filter(|entry| entry.purpose == Purpose::Spare);
    Assignment { key_id: spares.map(|entry| entry.id).nth(spare).unwrap(), database: database.to_owned() }
}

#[test]
fn a_new_keystore_reads_back() {
    let (keystore, image) = create(3);
    assert_eq!((image.generation, keystore.sealed().generation()), (1, 1));
    let again = reopen(&image, master(1)).unwrap();
    assert_eq!(again.sealed().entries().len(), 4);
    assert_eq!(again.sealed().spares(), 3);
    assert_eq!(again.sealed().bytes(), image.bytes);
    assert_eq!(again.sealed().wraps(), [wrap("v1")]);
    assert_eq!(again.sealed().master_key_created_at(), now());
    let system = again.system_key_id();
    assert_eq!(again.sealed().entry(&system).unwrap().purpose, Purpose::System);
    for (entry, key) in again.database_keys().unwrap() {
        assert!(keystore.database_key(&entry.id).unwrap().is(key.expose()));
    }
    let unknown = KeyId::from_bytes([9; 16]);
    assert_eq!(again.database_key(&unknown).unwrap_err(), KeystoreError::UnknownKey(unknown));
}

#[test]
fn the_file_holds_no_key() {
    let (keystore, image) = create(3);
    let keys: Vec<[u8; 32]> =
        keystore.database_keys().unwrap().iter().map(|(_, key)| *key.expose()).chain([[1; 32]]).collect();
    let text = String::from_utf8(image.bytes).unwrap();
    assert_eq!(keys.len(), 5);
    for key in keys {
        assert!(!text.contains(&data_encoding::BASE64URL_NOPAD.encode(&key)));
        assert!(!text.contains(&data_encoding::BASE64.encode(&key)));
        assert!(!text.contains(&data_encoding::HEXLOWER.encode(&key)));
    }
}

#[test]
fn debug_names_ids_and_no_bytes() {
    let (keystore, image) = create(0);
    let image = FileImage { bytes: image.bytes[..7].to_vec(), ..image };
    insta::assert_snapshot!(format!("{image:?}"), @"FileImage(generation 1, 7 bytes)");
    let (node, id) = (keystore.sealed().node_id(), keystore.sealed().master_key_id());
    let system = keystore.system_key_id();
    let shown = format!("{keystore:#?}\n{:#?}", keystore.sealed().entries());
    let shown = shown
        .replace(&node.to_string(), "[node]")
        .replace(&id.to_string(), "[master key id]")
        .replace(&system.to_string(), "[key id]");
    insta::assert_snapshot!(shown, @r"
    OpenKeystore {
        sealed: SealedKeystore {
            node_id: NodeId([node]),
            generation: 1,
            master_key_id: KeyId([master key id]),
            ..
        },
        master: MasterKey(..),
    }
    [
        DatabaseKeyEntry {
            id: KeyId([key id]),
            purpose: System,
            created_at: 2026-03-01T12:00:00.5Z,
            wrapped: Wrapped(..),
        },
    ]
    ");
}

#[test]
fn every_flipped_bit_and_every_cut_is_an_error() {
    let (_, image) = create(1);
    for bit in 0..image.bytes.len() * 8 {
        let mut bytes = image.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = reopen(&FileImage { generation: 1, bytes }, master(1));
        assert!(result.is_err(), "bit {bit}");
    }
    for len in 0..image.bytes.len() {
        let result = SealedKeystore::parse(&image.bytes[..len]).map(|_| ());
        let expected = if len == 0 { KeystoreError::Empty } else { KeystoreError::Truncated { bytes: len } };
        assert_eq!(result, Err(expected));
    }
}

#[test]
fn another_master_key_is_told_from_a_changed_file() {
    let (keystore, image) = create(1);
    assert_eq!(
        reopen(&image, master(2)).map(|_| ()),
        Err(KeystoreError::WrongMasterKey(keystore.sealed().master_key_id()))
    );
    let text = String::from_utf8(image.bytes).unwrap();
    let bytes = text.replace("\"generation\":1,", "\"generation\":7,").into_bytes();
    assert_eq!(
        reopen(&FileImage { generation: 7, bytes }, master(1)).map(|_| ()),
        Err(KeystoreError::MacMismatch)
    );
}

#[test]
fn another_node_and_an_older_generation_are_refused() {
    let (keystore, _) = create(0);
    let (found, expected) = (keystore.sealed().node_id(), NodeId::make());
    assert_eq!(keystore.sealed().check_node(found), Ok(()));
    assert_eq!(keystore.sealed().check_node(expected), Err(KeystoreError::WrongNode { found, expected }));
    assert_eq!(keystore.sealed().check_replay(1), Ok(()));
    assert_eq!(keystore.sealed().check_replay(2), Err(KeystoreError::OlderGeneration { found: 1, seen: 2 }));
}

#[test]
fn spares_become_database_keys_once() {
    let (mut keystore, _) = create(3);
    let alpha = assign(&keystore, 0, "alpha");
    let before = keystore.database_key(&alpha.key_id).unwrap();
    let image = keystore.fold(std::slice::from_ref(&alpha)).unwrap().unwrap();
    keystore.commit(&image).unwrap();
    assert_eq!(
        keystore.sealed().entry(&alpha.key_id).unwrap().purpose,
        Purpose::Database("alpha".to_owned())
    );
    assert!(keystore.database_key(&alpha.key_id).unwrap().is(before.expose()));
    assert_eq!(keystore.fold(std::slice::from_ref(&alpha)), Ok(None), "repeated after a failure");

    let elsewhere = Assignment { database: "beta".to_owned(), ..alpha.clone() };
    let refused = Err(KeystoreError::NotASpare { key_id: alpha.key_id, database: "beta".to_owned() });
    assert_eq!(keystore.fold(&[elsewhere]), refused);
    let twice = assign(&keystore, 0, "beta");
    assert!(keystore.fold(&[twice.clone(), Assignment { database: "gamma".to_owned(), ..twice }]).is_err());
    let system = Assignment { key_id: keystore.system_key_id(), database: "beta".to_owned() };
    assert!(matches!(keystore.fold(&[system]), Err(KeystoreError::NotASpare { .. })));
    let unknown = Assignment { key_id: KeyId::from_bytes([0; 16]), database: "beta".to_owned() };
    assert_eq!(keystore.fold(&[unknown]), Err(KeystoreError::UnknownKey(KeyId::from_bytes([0; 16]))));
    let bad = assign(&keystore, 0, "a/b");
    assert_eq!(keystore.fold(&[bad]), Err(KeystoreError::DatabaseName("a/b".to_owned())));
}

#[test]
fn two_steps_from_one_generation_cannot_both_be_taken() {
    let (mut keystore, _) = create(1);
    let (first, second) = (keystore.add_spares(1, now()).unwrap(), keystore.add_spares(2, now()).unwrap());
    keystore.check_next(&first).unwrap();
    keystore.commit(&first).unwrap();
    let moved = Err(KeystoreError::GenerationMoved { image: 2, current: 2 });
    assert_eq!(keystore.check_next(&second).map(drop), moved);
    assert_eq!(keystore.commit(&second), moved);
    assert_eq!(keystore.sealed().spares(), 2);
    let lying = FileImage { generation: 3, bytes: second.bytes };
    assert_eq!(keystore.commit(&lying), Err(KeystoreError::OtherGeneration { found: 2, expected: 3 }));
}

#[test]
fn a_keystore_becomes_only_what_was_made_of_it() {
    let ((mut keystore, _), (other, _)) = (create(1), create(1));
    let image = other.add_spares(1, now()).unwrap();
    let next = other.check_next(&image).unwrap();
    let (found, expected) = (other.sealed().node_id(), keystore.sealed().node_id());
    assert_eq!(keystore.become_next(next), Err(KeystoreError::WrongNode { found, expected }));
    assert_eq!((keystore.sealed().node_id(), keystore.sealed().generation()), (expected, 1));
}

#[test]
fn a_step_that_would_lose_a_key_is_not_taken() {
    let (mut keystore, _) = create(1);
    // Another keystore of the same node under the same master key: verifies, and has none of the keys.
    let node = keystore.sealed().node_id();
    let (other, _) = OpenKeystore::create(node, master(1), verified("v1", &master(1)), 1, now()).unwrap();
    let image = other.add_spares(1, now()).unwrap();
    assert_eq!(keystore.commit(&image), Err(KeystoreError::KeyLost(keystore.system_key_id())));
    assert_eq!(keystore.sealed().generation(), 1);
}

#[test]
fn rotation_keeps_every_key_under_another_master_key() {
    let (mut keystore, old_image) = create(2);
    let old: Vec<_> = keystore.database_keys().unwrap();
    let old_id = keystore.sealed().master_key_id();
    let image = keystore.rotate_master_key(&master(2), verified("v1", &master(2)), now()).unwrap();

    // A crash leaves the one file or the other; each opens with the key that its wraps hold.
    assert!(reopen(&old_image, master(1)).is_ok());
    assert!(reopen(&image, master(2)).is_ok());
    assert!(matches!(reopen(&image, master(1)), Err(KeystoreError::WrongMasterKey(_))));

    assert!(matches!(keystore.commit(&image), Err(KeystoreError::WrongMasterKey(_))));
    keystore.commit_rotated(&image, master(2)).unwrap();
    assert_ne!(keystore.sealed().master_key_id(), old_id);
    for (entry, key) in &old {
        assert!(keystore.database_key(&entry.id).unwrap().is(key.expose()));
    }
    assert_eq!(
        keystore.rotate_master_key(&master(2), verified("v1", &master(2)), now()),
        Err(KeystoreError::SameMasterKey)
    );
}

#[test]
fn a_rewrap_keeps_the_old_wrap_until_the_new_one_was_unwrapped() {
    let (mut keystore, _) = create(1);
    let ids = |keystore: &OpenKeystore| -> Vec<String> {
        keystore.sealed().wraps().iter().map(|wrap| wrap.key_identifier[35..].to_owned()).collect()
    };
    let image = keystore.stage_wrap(wrap("v2")).unwrap();
    keystore.commit(&image).unwrap();
    assert_eq!(ids(&keystore), ["v1", "v2"]);

    let v2 = wrap("v2").key_identifier;
    let mismatch = Err(KeystoreError::WrapMismatch { key_identifier: v2.clone() });
    assert_eq!(keystore.verify_wrap(&v2, &[9; 32]), mismatch);
    assert_eq!(keystore.verify_wrap(&v2, &[1; 31]), mismatch);
    let unknown = wrap("v3").key_identifier;
    assert_eq!(
        keystore.verify_wrap(&unknown, &[1; 32]),
        Err(KeystoreError::UnknownWrap { key_identifier: unknown })
    );
    let proof = keystore.verify_wrap(&v2, &[1; 32]).unwrap();

    // Staged again meanwhile, with another ciphertext: the proof no longer fits.
    let mut restaged = wrap("v2");
    restaged.ciphertext = vec![5; 256];
    let image = keystore.stage_wrap(restaged).unwrap();
    keystore.commit(&image).unwrap();
    assert_eq!(
        keystore.forget_wraps(std::slice::from_ref(&proof)),
        Err(KeystoreError::UnknownWrap { key_identifier: v2.clone() })
    );
    let proof = keystore.verify_wrap(&v2, &[1; 32]).unwrap();
    let image = keystore.forget_wraps(std::slice::from_ref(&proof)).unwrap().unwrap();
    keystore.commit(&image).unwrap();
    assert_eq!(ids(&keystore), ["v2"]);
    assert_eq!(keystore.forget_wraps(&[proof]), Ok(None), "repeated after a failure");
    assert!(matches!(keystore.forget_wraps(&[]), Err(KeystoreError::WrapCount { found: 0, .. })));
    assert_eq!(
        keystore.stage_wrap(wrap("v2")),
        Err(KeystoreError::DuplicateWrap { key_identifier: v2 }),
        "the only wrap is not replaced by one that nobody unwrapped"
    );
}

#[test]
fn a_wrap_is_believed_only_with_the_right_answer() {
    let key = master(1);
    assert!(wrap("v1").verified(&key, &[1; 32]).is_ok());
    for answer in [&[2; 32][..], &[1; 31], &[1; 33], &[]] {
        assert!(matches!(wrap("v1").verified(&key, answer), Err(KeystoreError::WrapMismatch { .. })));
    }
}

/// A keystore whose wraps unwrap to another master key than its own has lost every database key.
#[test]
fn a_wrap_verified_for_another_master_key_is_not_taken() {
    let mismatch =
        |version: &str| KeystoreError::WrapMismatch { key_identifier: wrap(version).key_identifier };
    let created = OpenKeystore::create(NodeId::make(), master(1), verified("v1", &master(2)), 1, now());
    assert_eq!(created.map(drop), Err(mismatch("v1")));
    let (keystore, _) = create(1);
    // Of the key that is being left; one of two; none at all.
    let both = [verified("v1", &master(2)), verified("v2", &master(1))].concat();
    for (wraps, refusal) in [
        (verified("v1", &master(1)), mismatch("v1")),
        (both, mismatch("v2")),
        (Vec::new(), KeystoreError::WrapCount { found: 0, limit: 16 }),
    ] {
        let rotated = keystore.rotate_master_key(&master(2), wraps.clone(), now());
        assert_eq!(rotated.map(drop), Err(refusal.clone()));
        let adopted = keystore.adopt_as_new_node(NodeId::make(), &master(2), wraps, 0, now());
        assert_eq!(adopted.map(drop), Err(refusal));
    }
    // The very wrap that is in the file, but unwrapped to something else.
    let foreign = verified("v1", &master(2));
    assert_eq!(keystore.forget_wraps(&foreign), Err(mismatch("v1")));
    assert_eq!(keystore.forget_wraps(&verified("v1", &master(1))), Ok(None));
    let shown = format!("{:?}", verified("v1", &master(1)));
    assert!(shown.starts_with("[VerifiedWrap(MasterKeyWrap {") && !shown.contains("of:"), "{shown}");
}

#[test]
fn wraps_that_no_vault_made_are_refused() {
    let (keystore, _) = create(0);
    let changes: [fn(&mut MasterKeyWrap); 5] = [
        |wrap| wrap.key_identifier.clear(),
        |wrap| wrap.public_key_sha256.make_ascii_uppercase(),
        |wrap| wrap.algorithm = "RSA1_5".to_owned(),
        |wrap| wrap.ciphertext.clear(),
        |wrap| wrap.canary.ciphertext = vec![0; 2000],
    ];
    for change in changes {
        let mut wrap = wrap("v2");
        change(&mut wrap);
        assert!(matches!(keystore.stage_wrap(wrap), Err(KeystoreError::MalformedWrap { .. })));
    }
    let mut full = keystore;
    for n in 2..=16 {
        let image = full.stage_wrap(wrap(&format!("v{n}"))).unwrap();
        full.commit(&image).unwrap();
    }
    assert_eq!(full.stage_wrap(wrap("v17")), Err(KeystoreError::WrapCount { found: 17, limit: 16 }));
}

#[test]
fn an_adopted_keystore_is_another_nodes_with_the_same_keys() {
    let (mut keystore, _) = create(2);
    let image = keystore.fold(&[assign(&keystore, 0, "alpha")]).unwrap().unwrap();
    keystore.commit(&image).unwrap();
    let node = NodeId::make();
    let wraps = verified("other", &master(7));
    let image = keystore.adopt_as_new_node(node, &master(7), wraps, 40, now()).unwrap();
    assert_eq!(image.generation, 41);
    let adopted = reopen(&image, master(7)).unwrap();
    assert_eq!(adopted.sealed().node_id(), node);
    assert_ne!(adopted.sealed().master_key_id(), keystore.sealed().master_key_id());
    for (entry, key) in keystore.database_keys().unwrap() {
        assert_eq!(adopted.sealed().entry(&entry.id).unwrap().purpose, entry.purpose);
        assert!(adopted.database_key(&entry.id).unwrap().is(key.expose()));
    }
    let image = FileImage { generation: 3, bytes: image.bytes };
    assert!(keystore.commit(&image).is_err(), "it is not a step of this file");
}

#[test]
fn limits_are_errors() {
    let (keystore, _) = create(0);
    assert_eq!(
        keystore.add_spares(100_000, now()),
        Err(KeystoreError::TooManyKeys { keys: 100_001, limit: 100_000 })
    );
    assert_eq!(
        keystore.add_spares(usize::MAX, now()).map(|_| ()),
        Err(KeystoreError::TooManyKeys { keys: usize::MAX, limit: 100_000 })
    );
    let last =
        keystore.adopt_as_new_node(NodeId::make(), &master(2), verified("v1", &master(2)), u64::MAX, now());
    assert_eq!(last, Err(KeystoreError::LastGeneration(u64::MAX)));
    let huge = vec![b' '; (64 << 20) + 1];
    assert!(matches!(SealedKeystore::parse(&huge), Err(KeystoreError::TooLarge { .. })));
}

#[derive(Debug, Clone)]
enum Step {
    AddSpares(usize),
    Fold(usize, String),
    Rotate(u8),
    Stage(u8),
    Forget,
    Adopt(u8),
    /// The image is made and written, and the process dies before or after that.
    Crash {
        written: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_usize).prop_map(Step::AddSpares),
        (0..4_usize, "[a-z]{1,3}").prop_map(|(at, name)| Step::Fold(at, name)),
        (1..250_u8).prop_map(Step::Rotate),
        (0..5_u8).prop_map(Step::Stage),
        Just(Step::Forget),
        (1..250_u8).prop_map(Step::Adopt),
        any::<bool>().prop_map(|written| Step::Crash { written }),
    ];
    prop::collection::vec(step, 1..25)
}

/// What the outside world knows: the file on disk, the master key that the vault gives for it, every key ever seen.
struct World {
    keystore: OpenKeystore,
    disk: FileImage,
    key: [u8; 32],
    seen: Vec<(KeyId, DatabaseKey, Purpose)>,
    seen_generation: u64,
}

impl World {
    fn new() -> Self {
        let (keystore, disk) = create(2);
        let mut world = Self { keystore, disk, key: [1; 32], seen: Vec::new(), seen_generation: 1 };
        world.check();
        world
    }

    fn write(&mut self, image: FileImage) {
        self.keystore.commit(&image).unwrap();
        self.disk = image;
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::AddSpares(n) => self.write(self.keystore.add_spares(*n, now()).unwrap()),
            Step::Fold(at, database) => {
                let entries = self.keystore.sealed().entries();
                let spare = entries.iter().filter(|entry| entry.purpose == Purpose::Spare).nth(*at);
                if let Some(key_id) = spare.map(|entry| entry.id) {
                    let assignment = Assignment { key_id, database: database.clone() };
                    self.write(self.keystore.fold(&[assignment]).unwrap().unwrap());
                }
            }
            Step::Rotate(byte) if [*byte; 32] != self.key => {
                let new = master(*byte);
                let image = self.keystore.rotate_master_key(&new, verified("v1", &new), now()).unwrap();
                self.key = *new.expose();
                self.keystore.commit_rotated(&image, new).unwrap();
                self.disk = image;
            }
            Step::Stage(n) => {
                if let Ok(image) = self.keystore.stage_wrap(wrap(&format!("s{n}"))) {
                    self.write(image);
                }
            }
            Step::Forget => {
                let last = self.keystore.sealed().wraps().last().unwrap().key_identifier.clone();
                let proof = self.keystore.verify_wrap(&last, &self.key).unwrap();
                if let Some(image) = self.keystore.forget_wraps(&[proof]).unwrap() {
                    self.write(image);
                }
            }
            Step::Adopt(byte) if [*byte; 32] != self.key => {
                let new = master(*byte);
                let wraps = verified("a", &new);
                let node = NodeId::make();
                self.disk =
                    self.keystore.adopt_as_new_node(node, &new, wraps, self.seen_generation, now()).unwrap();
                self.key = *new.expose();
                self.keystore = reopen(&self.disk, new).unwrap();
            }
            Step::Crash { written } => {
                let image = self.keystore.add_spares(1, now()).unwrap();
                if *written {
                    self.disk = image;
                }
                self.keystore =
                    reopen(&self.disk, MasterKey::take_from(&mut self.key.clone()).unwrap()).unwrap();
            }
            Step::Rotate(_) | Step::Adopt(_) => {}
        }
        self.check();
    }

    /// The file on disk opens with the key that its wraps hold, is not older, and has every key ever seen.
    fn check(&mut self) {
        let opened = reopen(&self.disk, MasterKey::take_from(&mut self.key.clone()).unwrap()).unwrap();
        opened.sealed().check_replay(self.seen_generation).unwrap();
        self.seen_generation = self.disk.generation;
        let mut now_there = opened.database_keys().unwrap();
        for (id, key, purpose) in &self.seen {
            let at = now_there.iter().position(|(entry, _)| entry.id == *id).expect("a key was lost");
            let (entry, found) = now_there.swap_remove(at);
            assert!(found.is(key.expose()), "key {id} became another one");
            assert!(*purpose == Purpose::Spare || entry.purpose == *purpose);
        }
        for (entry, key) in now_there {
            let reused = self.seen.iter().any(|(id, old, _)| *id == entry.id || old.is(key.expose()));
            assert!(!reused, "an id or a key was used twice");
        }
        self.seen = opened
            .database_keys()
            .unwrap()
            .into_iter()
            .map(|(entry, key)| (entry.id, key, entry.purpose))
            .collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_steps_and_crashes_loses_or_reuses_a_key(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
    }

    #[test]
    fn random_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(SealedKeystore::parse(&bytes).is_err());
    }

    #[test]
    fn a_changed_file_never_opens(at in any::<prop::sample::Index>(), cut in 0..40_usize, insert in prop::collection::vec(any::<u8>(), 0..40)) {
        let (_, image) = create(1);
        let mut bytes = image.bytes.clone();
        let from = at.index(bytes.len());
        let to = (from + cut).min(bytes.len());
        bytes.splice(from..to, insert);
        prop_assume!(bytes != image.bytes);
        let changed = FileImage { generation: 1, bytes };
        prop_assert!(reopen(&changed, master(1)).is_err());
    }
}
