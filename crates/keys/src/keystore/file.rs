//! The bytes of the keystore file.
//!
//! One JSON object in one line. Its last member is the MAC, which covers every byte before it:
//!
//! ```text
//! {"format":"keyward-keystore","version":1,…,"databaseKeys":[…],"mac":"BASE64URL"}⏎
//! └──────────────────── covered by the MAC ────────────────────┘└─ TAIL_BYTES ────┘
//! ```

use std::{borrow::Cow, collections::HashSet};

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DatabaseKeyEntry, KeystoreError, MasterKeyWrap, Purpose, Wrapped};
use crate::{KeyId, NodeId, assignment::is_database_name};

/// The newest format version, the one that is written.
pub(super) const VERSION: u64 = 1;

/// No keystore is longer.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// No keystore has more database keys. (At some 250 bytes each, they fit into `MAX_BYTES`.)
pub(super) const MAX_KEYS: usize = 100_000;

/// No keystore has more wraps.
pub(super) const MAX_WRAPS: usize = 16;

const FORMAT: &str = "keyward-keystore";
const MAC_BYTES: usize = 32;
const TAIL_START: &[u8] = b",\"mac\":\"";
const TAIL_END: &[u8] = b"\"}\n";
const TAIL_BYTES: usize = TAIL_START.len() + 43 + TAIL_END.len();

/// What a keystore says, whatever version it was written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) node_id: NodeId,
    pub(super) generation: u64,
    pub(super) master_key_id: KeyId,
    pub(super) master_key_created_at: Timestamp,
    pub(super) wraps: Vec<MasterKeyWrap>,
    pub(super) entries: Vec<DatabaseKeyEntry>,
}

/// The bytes that the MAC covers, and the MAC.
pub(super) fn split_mac(bytes: &[u8]) -> Result<(&[u8], [u8; MAC_BYTES]), KeystoreError> {
    let malformed = || KeystoreError::Malformed { what: "it does not end in a MAC".to_owned() };
    if !bytes.ends_with(b"\n") && bytes.ends_with(b"}") {
        return Err(KeystoreError::Truncated { bytes: bytes.len() });
    }
    let covered_bytes = bytes.len().checked_sub(TAIL_BYTES).ok_or_else(malformed)?;
    let (covered, tail) = bytes.split_at(covered_bytes);
    let text =
        tail.strip_prefix(TAIL_START).and_then(|tail| tail.strip_suffix(TAIL_END)).ok_or_else(malformed)?;
    let mac = BASE64URL_NOPAD.decode(text).map_err(|_| malformed())?;
    Ok((covered, mac.try_into().map_err(|_| malformed())?))
}

/// Reads and checks everything that can be checked without the master key.
pub(super) fn parse(bytes: &[u8]) -> Result<Contents, KeystoreError> {
    if bytes.is_empty() {
        return Err(KeystoreError::Empty);
    }
    if bytes.len() > MAX_BYTES {
        return Err(KeystoreError::TooLarge { bytes: bytes.len(), limit: MAX_BYTES });
    }
    // A newer version may differ in everything but this member, so it is asked for when the rest does not fit.
    parse_v1(bytes).map_err(|error| match serde_json::from_slice::<Versioned>(bytes) {
        Ok(Versioned { version }) if version > VERSION => {
            KeystoreError::NewerVersion { found: version, newest: VERSION }
        }
        _ => error,
    })
}

/// The bytes that the MAC covers, for `contents`, in the newest version.
pub(super) fn covered(contents: &Contents) -> Result<Vec<u8>, KeystoreError> {
    check(contents)?;
    let file = FileV1 {
        format: FORMAT.into(),
        version: VERSION,
        node_id: contents.node_id,
        generation: contents.generation,
        master_key: MasterKeyV1 {
            id: contents.master_key_id,
            created_at: contents.master_key_created_at,
            wraps: Cow::Borrowed(&contents.wraps),
        },
        database_keys: contents.entries.iter().map(DatabaseKeyV1::from).collect(),
        mac: None,
    };
    let mut bytes = serde_json::to_vec(&file)
        .map_err(|error| KeystoreError::Malformed { what: format!("cannot be written: {error}") })?;
    bytes.pop(); // the closing brace comes after the MAC
    Ok(bytes)
}

/// The whole file from the bytes that the MAC covers.
pub(super) fn with_mac(mut covered: Vec<u8>, mac: &[u8; MAC_BYTES]) -> Vec<u8> {
    covered.extend_from_slice(TAIL_START);
    covered.extend_from_slice(BASE64URL_NOPAD.encode(mac).as_bytes());
    covered.extend_from_slice(TAIL_END);
    covered
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileV1<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    version: u64,
    node_id: NodeId,
    generation: u64,
    master_key: MasterKeyV1<'a>,
    #[serde(borrow)]
    database_keys: Vec<DatabaseKeyV1<'a>>,
    /// Read from the tail; here so that the file is one JSON object to any reader.
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    mac: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MasterKeyV1<'a> {
    id: KeyId,
    created_at: Timestamp,
    wraps: Cow<'a, [MasterKeyWrap]>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DatabaseKeyV1<'a> {
    id: KeyId,
    purpose: PurposeV1,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    database: Option<Cow<'a, str>>,
    created_at: Timestamp,
    #[serde(with = "super::base64url")]
    nonce: [u8; 24],
    #[serde(with = "super::base64url")]
    ciphertext: [u8; 48],
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum PurposeV1 {
    System,
    Database,
    Spare,
}

impl<'a> From<&'a DatabaseKeyEntry> for DatabaseKeyV1<'a> {
    fn from(entry: &'a DatabaseKeyEntry) -> Self {
        let (purpose, database) = match &entry.purpose {
            Purpose::System => (PurposeV1::System, None),
            Purpose::Database(name) => (PurposeV1::Database, Some(name.into())),
            Purpose::Spare => (PurposeV1::Spare, None),
        };
        Self {
            id: entry.id,
            purpose,
            database,
            created_at: entry.created_at,
            nonce: entry.wrapped.nonce,
            ciphertext: entry.wrapped.ciphertext,
        }
    }
}

impl TryFrom<DatabaseKeyV1<'_>> for DatabaseKeyEntry {
    type Error = KeystoreError;

    fn try_from(key: DatabaseKeyV1<'_>) -> Result<Self, Self::Error> {
        let purpose = match (key.purpose, key.database) {
            (PurposeV1::System, None) => Purpose::System,
            (PurposeV1::Spare, None) => Purpose::Spare,
            (PurposeV1::Database, Some(name)) => Purpose::Database(name.into_owned()),
            (PurposeV1::System | PurposeV1::Spare, Some(_)) | (PurposeV1::Database, None) => {
                return Err(KeystoreError::Malformed {
                    what: format!("key {} has a database's name where it should not, or none", key.id),
                });
            }
        };
        let wrapped = Wrapped { nonce: key.nonce, ciphertext: key.ciphertext };
        Ok(Self { id: key.id, purpose, created_at: key.created_at, wrapped })
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Contents, KeystoreError> {
    let file: FileV1<'_> = serde_json::from_slice(bytes).map_err(|error| {
        if error.is_eof() {
            KeystoreError::Truncated { bytes: bytes.len() }
        } else {
            KeystoreError::Malformed { what: error.to_string() }
        }
    })?;
    if file.format != FORMAT {
        return Err(KeystoreError::Malformed { what: format!("`format` is not `{FORMAT}`") });
    }
    if file.version != VERSION {
        return Err(KeystoreError::Malformed {
            what: format!("there is no format version {}", file.version),
        });
    }
    split_mac(bytes)?;
    let entries = file.database_keys.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    let contents = Contents {
        node_id: file.node_id,
        generation: file.generation,
        master_key_id: file.master_key.id,
        master_key_created_at: file.master_key.created_at,
        wraps: file.master_key.wraps.into_owned(),
        entries,
    };
    check(&contents)?;
    Ok(contents)
}

/// What must hold of every keystore, read or to be written.
fn check(contents: &Contents) -> Result<(), KeystoreError> {
    let wraps = &contents.wraps;
    if wraps.is_empty() || wraps.len() > MAX_WRAPS {
        return Err(KeystoreError::WrapCount { found: wraps.len(), limit: MAX_WRAPS });
    }
    let mut identifiers = HashSet::new();
    for wrap in wraps {
        check_wrap(wrap)?;
        if !identifiers.insert(&wrap.key_identifier) {
            return Err(KeystoreError::DuplicateWrap { key_identifier: wrap.key_identifier.clone() });
        }
    }
    let entries = &contents.entries;
    if entries.len() > MAX_KEYS {
        return Err(KeystoreError::TooManyKeys { keys: entries.len(), limit: MAX_KEYS });
    }
    let mut ids = HashSet::with_capacity(entries.len() + 1);
    ids.insert(contents.master_key_id);
    let mut system_keys = 0;
    for entry in entries {
        if !ids.insert(entry.id) {
            return Err(KeystoreError::DuplicateKeyId(entry.id));
        }
        match &entry.purpose {
            Purpose::System => system_keys += 1,
            Purpose::Database(name) if !is_database_name(name) => {
                return Err(KeystoreError::DatabaseName(name.clone()));
            }
            Purpose::Database(_) | Purpose::Spare => {}
        }
    }
    if system_keys != 1 {
        return Err(KeystoreError::SystemKeyCount(system_keys));
    }
    Ok(())
}

fn check_wrap(wrap: &MasterKeyWrap) -> Result<(), KeystoreError> {
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let what = if wrap.key_identifier.is_empty() || wrap.key_identifier.len() > 1024 {
        "its key identifier has no or too many characters"
    } else if !hex(&wrap.public_key_sha256) {
        "publicKeySha256 is not 64 lower-case hexadecimal characters"
    } else if wrap.algorithm != "RSA-OAEP-256" {
        "its algorithm is not RSA-OAEP-256"
    } else if !(1..=1024).contains(&wrap.ciphertext.len())
        || !(1..=1024).contains(&wrap.canary.ciphertext.len())
    {
        "a ciphertext has no or too many bytes"
    } else {
        return Ok(());
    };
    Err(KeystoreError::MalformedWrap { key_identifier: wrap.key_identifier.clone(), what })
}
