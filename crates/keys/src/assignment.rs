//! The assignment journal (`DBPATH/.keyward/assignments`): which spare became the key of which database.
//!
//! Appended to by the encryptor before a database's first table exists, and folded into the keystore by the agent.
//! One record is one line; each is written with a newline before it too, so that a record after a torn one is whole:
//!
//! ```text
//! ⏎1 KEY_ID DATABASE TAG⏎
//!  │   │       │      └── HMAC-SHA-256 over the line up to here, under a key derived from the spare (base64url)
//!  │   │       └── directory name (base64url)
//!  │   └── 32 hexadecimal characters
//!  └── version
//! ```
//!
//! The tag proves that whoever wrote the line held the spare: nobody else can move a database to another key.

use std::{borrow::Borrow, collections::HashMap};

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::{DatabaseKey, KeyId, SecretError, keystore::hkdf_sha256, locked::Locked, scrub::scrubbed};

/// A spare given to a database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The spare.
    pub key_id: KeyId,
    /// The database's directory name.
    pub database: String,
}

/// What a journal holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Journal {
    /// In the order written, each key once.
    pub assignments: Vec<Assignment>,
    /// Bytes of lines that are not whole records: a write cut off by a crash.
    pub torn_bytes: usize,
    /// Whole records that were not believed.
    pub rejected: Vec<Rejected>,
}

/// A whole record that was not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// No key of that id is known.
    #[error("line {line} names key {key_id}, which this node does not have")]
    UnknownKey {
        /// Line number in the journal, from 1.
        line: usize,
        /// The key named.
        key_id: KeyId,
    },
    /// The tag was not made with the spare's key.
    #[error("line {line} about key {key_id} was not written by whoever holds that key")]
    WrongTag {
        /// Line number in the journal, from 1.
        line: usize,
        /// The key named.
        key_id: KeyId,
    },
    /// An earlier record gives the key to another database.
    #[error("line {line} gives key {key_id} to a second database")]
    SecondDatabase {
        /// Line number in the journal, from 1.
        line: usize,
        /// The key named.
        key_id: KeyId,
    },
}

/// Why an assignment cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// No directory can have this name.
    #[error("`{0}` cannot be a database's directory name: 1 to 255 bytes, without `/` and NUL")]
    Name(String),
    /// No memory for the tag's key.
    #[error("the assignment could not be tagged")]
    Secret(#[from] SecretError),
}

/// Whether this can be the name of a database's directory.
pub fn is_database_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// The record to append. `key` is the spare itself.
pub fn encode_assignment(assignment: &Assignment, key: &DatabaseKey) -> Result<Vec<u8>, AssignmentError> {
    if !is_database_name(&assignment.database) {
        return Err(AssignmentError::Name(assignment.database.clone()));
    }
    let fields =
        format!("{VERSION} {} {}", assignment.key_id, BASE64URL_NOPAD.encode(assignment.database.as_bytes()));
    let tag = scrubbed(|| tag_key(key).map(|key| hmac::sign(&key, fields.as_bytes())))?;
    Ok(format!("\n{fields} {}\n", BASE64URL_NOPAD.encode(tag.as_ref())).into_bytes())
}

/// Reads a journal, whatever state a crash left it in. `key_of` gives the key of an id, or `None`.
pub fn decode_assignments<K: Borrow<DatabaseKey>>(
    journal: &[u8],
    mut key_of: impl FnMut(&KeyId) -> Option<K>,
) -> Journal {
    let mut read = Journal::default();
    let mut databases: HashMap<KeyId, String> = HashMap::new();
    for (line, text) in (1..).zip(journal.split_inclusive(|byte| *byte == b'\n')) {
        if text == b"\n" {
            continue;
        }
        let Some(record) = Record::parse(text) else {
            read.torn_bytes += text.len();
            continue;
        };
        let key_id = record.assignment.key_id;
        let verified = match key_of(&key_id) {
            None => Err(Rejected::UnknownKey { line, key_id }),
            Some(key) if !record.was_written_with(key.borrow()) => Err(Rejected::WrongTag { line, key_id }),
            Some(_) => Ok(record.assignment),
        };
        match verified {
            Err(reason) => read.rejected.push(reason),
            Ok(assignment) => match databases.get(&key_id) {
                None => {
                    databases.insert(key_id, assignment.database.clone());
                    read.assignments.push(assignment);
                }
                Some(first) if *first == assignment.database => {}
                Some(_) => read.rejected.push(Rejected::SecondDatabase { line, key_id }),
            },
        }
    }
    read
}

/// First field of every record.
const VERSION: &str = "1";

/// A line in the shape of a record.
struct Record<'a> {
    assignment: Assignment,
    tagged: &'a [u8],
    tag: [u8; 32],
}

impl<'a> Record<'a> {
    /// `None` for anything that a whole write cannot have left.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n")?;
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (version, id, name, tag) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if version != VERSION.as_bytes() {
            return None;
        }
        let key_id = std::str::from_utf8(id).ok()?.parse().ok()?;
        let database = String::from_utf8(BASE64URL_NOPAD.decode(name).ok()?).ok()?;
        let tagged = line.get(..line.len() - tag.len() - 1)?;
        let tag = BASE64URL_NOPAD.decode(tag).ok()?.try_into().ok()?;
        is_database_name(&database).then_some(Self {
            assignment: Assignment { key_id, database },
            tagged,
            tag,
        })
    }

    fn was_written_with(&self, key: &DatabaseKey) -> bool {
        scrubbed(|| tag_key(key).is_ok_and(|key| hmac::verify(&key, self.tagged, &self.tag).is_ok()))
    }
}

fn tag_key(key: &DatabaseKey) -> Result<hmac::Key, SecretError> {
    let mut derived = Locked::zeroed()?;
    hkdf_sha256(key.expose(), b"keyward assignment v1", derived.get_mut())?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &derived.get()[..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Spares(Vec<(KeyId, DatabaseKey)>);

    impl Spares {
        fn make(n: u8) -> Self {
            let spare = |n| (KeyId::from_bytes([n; 16]), DatabaseKey::take_from(&mut [n; 32]).unwrap());
            Self((0..n).map(spare).collect())
        }

        fn record(&self, spare: usize, database: &str) -> Vec<u8> {
            let (key_id, key) = &self.0[spare];
            encode_assignment(&Assignment { key_id: *key_id, database: database.to_owned() }, key).unwrap()
        }

        fn read(&self, journal: &[u8]) -> Journal {
            decode_assignments(journal, |id| self.0.iter().find(|(i, _)| i == id).map(|(_, key)| key))
        }
    }

    fn databases(journal: &Journal) -> Vec<&str> {
        journal.assignments.iter().map(|assignment| assignment.database.as_str()).collect()
    }

    #[test]
    fn records_read_back_in_order() {
        let spares = Spares::make(3);
        let journal =
            [spares.record(2, "alpha"), spares.record(0, "b c\n%ä"), spares.record(2, "alpha")].concat();
        let read = spares.read(&journal);
        assert_eq!(databases(&read), ["alpha", "b c\n%ä"]);
        assert_eq!((read.torn_bytes, &read.rejected[..]), (0, &[][..]));
        assert_eq!(spares.read(b""), Journal::default());
    }

    /// Computed by another program from `docs/keystore-format.md`: journals of this version are read for ever.
    #[test]
    fn a_record_is_as_documented() {
        let key = DatabaseKey::take_from(&mut [7; 32]).unwrap();
        let assignment = Assignment { key_id: KeyId::from_bytes([0xab; 16]), database: "älpha".to_owned() };
        let record =
            "\n1 abababababababababababababababab w6RscGhh NlMfLv6XUgzpm_-PU4pM4BpKVnkf2H7jNq6YrByKrBA\n";
        assert_eq!(encode_assignment(&assignment, &key).unwrap(), record.as_bytes());
        let read = decode_assignments(record.as_bytes(), |_| Some(&key));
        assert_eq!((read.assignments, read.rejected), (vec![assignment], vec![]));
    }

    #[test]
    fn a_journal_torn_at_every_byte_keeps_what_was_whole_and_what_follows() {
        let spares = Spares::make(3);
        let (first, second, third) =
            (spares.record(0, "alpha"), spares.record(1, "beta"), spares.record(2, "gamma"));
        for len in 0..second.len() {
            let torn = [&first[..], &second[..len]].concat();
            let read = spares.read(&torn);
            assert_eq!(databases(&read), ["alpha"], "cut after {len}");
            assert!(read.rejected.is_empty(), "cut after {len}");
            assert_eq!(read.torn_bytes, len.saturating_sub(1), "cut after {len}");

            let read = spares.read(&[torn, third.clone()].concat());
            // Without its last newline the second record is whole once another follows.
            let expected: &[&str] =
                if len == second.len() - 1 { &["alpha", "beta", "gamma"] } else { &["alpha", "gamma"] };
            assert_eq!(databases(&read), expected, "cut after {len}");
        }
    }

    #[test]
    fn zeroes_that_a_crash_left_are_torn() {
        let spares = Spares::make(2);
        let journal = [spares.record(0, "alpha"), vec![0; 4096], spares.record(1, "beta")].concat();
        let read = spares.read(&journal);
        assert_eq!(databases(&read), ["alpha", "beta"]);
        assert_eq!(read.torn_bytes, 4097);
    }

    #[test]
    fn records_that_were_not_written_with_the_spare_are_rejected() {
        let spares = Spares::make(2);
        let key_id = spares.0[0].0;
        let assignment = Assignment { key_id, database: "alpha".to_owned() };
        let forged = encode_assignment(&assignment, &spares.0[1].1).unwrap();
        let unknown = Spares::make(3).record(2, "beta");
        let twice = spares.record(1, "delta");
        let journal = [forged, unknown, spares.record(1, "gamma"), twice].concat();
        let read = spares.read(&journal);
        assert_eq!(databases(&read), ["gamma"]);
        assert_eq!(
            read.rejected,
            [
                Rejected::WrongTag { line: 2, key_id },
                Rejected::UnknownKey { line: 4, key_id: KeyId::from_bytes([2; 16]) },
                Rejected::SecondDatabase { line: 8, key_id: spares.0[1].0 },
            ]
        );
    }

    #[test]
    fn names_that_no_directory_has_are_refused() {
        let key = DatabaseKey::make().unwrap();
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "a\0b", &long] {
            let assignment = Assignment { key_id: KeyId::make(), database: name.to_owned() };
            assert_eq!(encode_assignment(&assignment, &key), Err(AssignmentError::Name(name.to_owned())));
        }
        assert!(is_database_name(&long[1..]));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_never_changes_an_assignment(bit in 0..8_000_usize) {
            let spares = Spares::make(2);
            let mut journal = spares.record(0, "alpha");
            let bit = bit % (journal.len() * 8);
            journal[bit / 8] ^= 1 << (bit % 8);
            let read = spares.read(&journal);
            prop_assert!(read.assignments.is_empty() || databases(&read) == ["alpha"]);
        }

        #[test]
        fn random_bytes_are_torn(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Spares::make(2).read(&bytes).assignments.is_empty());
        }
    }
}
