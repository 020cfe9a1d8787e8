//! The keystore: a node's wrapped master key and wrapped database keys, as bytes in and bytes out.
//!
//! Reading has two halves: [`SealedKeystore::parse`] needs no key, [`SealedKeystore::open`] takes the master key and
//! verifies everything. Writing is a step of [`OpenKeystore`]: it returns the next [`FileImage`]; the caller has it
//! checked (`check_next`), makes it durable, reads it back, and only then takes it in (`become_next`). The format is
//! described in `docs/keystore-format.md`.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    error::KeystoreError,
    open::{OpenKeystore, Successor},
};
use self::{
    file::Contents,
    wrapping::{Place, WrappingKeys},
};
use crate::{DatabaseKey, KeyId, MasterKey, NodeId, scrub::scrubbed};

mod base64url;
mod error;
mod file;
mod open;
mod wrapping;

pub(crate) use self::wrapping::hkdf_sha256;

/// The vault that wrapped a master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// Azure Key Vault.
    AzureKeyVault,
}

/// What a database key is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// What belongs to no database: journal, history store, metadata, catalog.
    System,
    /// The database with this directory name.
    Database(String),
    /// Not yet given to a database.
    Spare,
}

/// The master key as the vault wrapped it, under one version of one customer key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MasterKeyWrap {
    /// The vault's kind.
    pub provider: Provider,
    /// The full key identifier, with version.
    pub key_identifier: String,
    /// SHA-256 of the customer key's public key (DER, SubjectPublicKeyInfo), 64 lower-case hexadecimal characters.
    pub public_key_sha256: String,
    /// `RSA-OAEP-256`.
    pub algorithm: String,
    /// What the vault answered to `wrap`.
    #[serde(with = "base64url")]
    pub ciphertext: Vec<u8>,
    /// When it was wrapped.
    pub created_at: Timestamp,
    /// What a probe unwraps.
    pub canary: CanaryWrap,
}

/// The canary as the vault wrapped it, under the same customer key version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CanaryWrap {
    /// What the vault answered to `wrap`.
    #[serde(with = "base64url")]
    pub ciphertext: Vec<u8>,
    /// SHA-256 of the canary, so that a probe can check the answer.
    #[serde(with = "base64url")]
    pub sha256: [u8; 32],
}

/// A wrap that was unwrapped by the vault once, with the right answer. Only such a wrap may be a node's only one.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedWrap {
    wrap: MasterKeyWrap,
    /// Says which master key it is of, and nothing about the key: a wrap of another one would lose every database key.
    of: [u8; 32],
}

impl MasterKeyWrap {
    /// Compares what the vault unwrapped from `ciphertext` with the master key that was wrapped.
    pub fn verified(self, master: &MasterKey, unwrapped: &[u8]) -> Result<VerifiedWrap, KeystoreError> {
        if master.is(unwrapped) {
            Ok(VerifiedWrap { wrap: self, of: wrapping::fingerprint(master)? })
        } else {
            Err(KeystoreError::WrapMismatch { key_identifier: self.key_identifier })
        }
    }
}

impl VerifiedWrap {
    /// The wrap.
    pub fn wrap(&self) -> &MasterKeyWrap {
        &self.wrap
    }

    /// The wraps, if all of them are of `master`.
    fn all_of(wraps: Vec<Self>, master: &MasterKey) -> Result<Vec<MasterKeyWrap>, KeystoreError> {
        let of = wrapping::fingerprint(master)?;
        let its = |verified: Self| {
            let VerifiedWrap { wrap, of: other } = verified;
            if other == of {
                Ok(wrap)
            } else {
                Err(KeystoreError::WrapMismatch { key_identifier: wrap.key_identifier })
            }
        };
        wraps.into_iter().map(its).collect()
    }
}

impl fmt::Debug for VerifiedWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifiedWrap").field(&self.wrap).finish()
    }
}

/// A wrapped database key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseKeyEntry {
    /// Its id.
    pub id: KeyId,
    /// What it is for.
    pub purpose: Purpose,
    /// When it was made.
    pub created_at: Timestamp,
    wrapped: Wrapped,
}

/// A database key under the master key: XAES-256-GCM, nonce random, tag at the end of the ciphertext.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wrapped {
    nonce: [u8; 24],
    ciphertext: [u8; 48],
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapped(..)")
    }
}

/// What to write next: the whole file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileImage {
    /// The generation that these bytes say.
    pub generation: u64,
    /// The file. Ciphertext and public facts only.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for FileImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileImage(generation {}, {} bytes)", self.generation, self.bytes.len())
    }
}

/// A parsed keystore. Nothing in it is believed yet.
#[derive(Clone)]
pub struct SealedKeystore {
    contents: Contents,
    bytes: Vec<u8>,
}

impl SealedKeystore {
    /// Reads the file. Old versions are read for ever.
    ///
    /// Everything is checked that can be without the master key: shape, sizes, ids that occur twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeystoreError> {
        Ok(Self { contents: file::parse(bytes)?, bytes: bytes.to_vec() })
    }

    /// The file, byte for byte.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The node whose keys these are.
    pub fn node_id(&self) -> NodeId {
        self.contents.node_id
    }

    /// Counts the steps of this file.
    pub fn generation(&self) -> u64 {
        self.contents.generation
    }

    /// The wraps of the master key, oldest first; at least one.
    pub fn wraps(&self) -> &[MasterKeyWrap] {
        &self.contents.wraps
    }

    /// The id of the master key.
    pub fn master_key_id(&self) -> KeyId {
        self.contents.master_key_id
    }

    /// When the master key was made.
    pub fn master_key_created_at(&self) -> Timestamp {
        self.contents.master_key_created_at
    }

    /// Every database key, oldest first.
    pub fn entries(&self) -> &[DatabaseKeyEntry] {
        &self.contents.entries
    }

    /// The entry of one database key.
    pub fn entry(&self, id: &KeyId) -> Option<&DatabaseKeyEntry> {
        self.entries().iter().find(|entry| entry.id == *id)
    }

    /// The key of `.system`.
    pub fn system_key_id(&self) -> KeyId {
        let system = self.entries().iter().find(|entry| entry.purpose == Purpose::System);
        system.expect("a keystore without a system key does not parse").id
    }

    /// How many spares there are.
    pub fn spares(&self) -> usize {
        self.entries().iter().filter(|entry| entry.purpose == Purpose::Spare).count()
    }

    /// Refuses a keystore of another node.
    pub fn check_node(&self, expected: NodeId) -> Result<(), KeystoreError> {
        let found = self.node_id();
        if found == expected { Ok(()) } else { Err(KeystoreError::WrongNode { found, expected }) }
    }

    /// Refuses a keystore older than the newest generation ever seen of this node.
    pub fn check_replay(&self, seen_generation: u64) -> Result<(), KeystoreError> {
        let found = self.generation();
        if found >= seen_generation {
            Ok(())
        } else {
            Err(KeystoreError::OlderGeneration { found, seen: seen_generation })
        }
    }

    /// Verifies the MAC over the file's exact bytes and that every database key unwraps, all in one.
    pub fn open(self, master: MasterKey) -> Result<OpenKeystore, KeystoreError> {
        self.verify(&master)?;
        Ok(OpenKeystore { sealed: self, master })
    }

    fn verify(&self, master: &MasterKey) -> Result<(), KeystoreError> {
        scrubbed(|| {
            let keys = WrappingKeys::derive(master)?;
            let (covered, mac) = file::split_mac(&self.bytes)?;
            if !keys.mac_fits(covered, &mac) {
                // Which of the two is wrong: the file, or the key?
                for entry in self.entries() {
                    if keys.unwrap(&self.place(entry), &entry.wrapped)?.is_some() {
                        return Err(KeystoreError::MacMismatch);
                    }
                }
                return Err(KeystoreError::WrongMasterKey(self.master_key_id()));
            }
            for entry in self.entries() {
                self.unwrap(&keys, entry)?;
            }
            Ok(())
        })
    }

    fn unwrap(&self, keys: &WrappingKeys, entry: &DatabaseKeyEntry) -> Result<DatabaseKey, KeystoreError> {
        keys.unwrap(&self.place(entry), &entry.wrapped)?.ok_or(KeystoreError::KeyDoesNotUnwrap(entry.id))
    }

    fn place<'a>(&self, entry: &'a DatabaseKeyEntry) -> Place<'a> {
        Place { node_id: self.node_id(), key_id: entry.id, purpose: &entry.purpose }
    }
}

impl fmt::Debug for SealedKeystore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKeystore")
            .field("node_id", &self.node_id())
            .field("generation", &self.generation())
            .field("master_key_id", &self.master_key_id())
            .finish_non_exhaustive()
    }
}
