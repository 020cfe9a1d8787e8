//! Why a keystore could not be read, or a step not made.

use crate::{KeyId, NodeId, SecretError};

/// Why a keystore could not be read, or a step not made. Nothing was changed in any of these cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The file has no bytes.
    #[error("the keystore is empty")]
    Empty,
    /// The file ends too early.
    #[error("the keystore is cut off after {bytes} bytes")]
    Truncated {
        /// Its length.
        bytes: usize,
    },
    /// Longer than any keystore.
    #[error("the keystore has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not the format of a keystore.
    #[error("the keystore is malformed: {what}")]
    Malformed {
        /// What does not fit, with line and column.
        what: String,
    },
    /// Written by a newer keyward.
    #[error("the keystore has format version {found}; this program reads versions 1 to {newest}")]
    NewerVersion {
        /// Its version.
        found: u64,
        /// The newest version known here.
        newest: u64,
    },
    /// Not a single wrap of the master key, or too many.
    #[error("the keystore has {found} wraps of its master key instead of 1 to {limit}")]
    WrapCount {
        /// How many.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Two wraps under one customer key version.
    #[error("the keystore has two wraps of its master key under {key_identifier}")]
    DuplicateWrap {
        /// The customer key.
        key_identifier: String,
    },
    /// A wrap that cannot have come from a vault.
    #[error("the wrap of the master key under `{key_identifier}` is malformed: {what}")]
    MalformedWrap {
        /// The customer key.
        key_identifier: String,
        /// What does not fit.
        what: &'static str,
    },
    /// A key id twice.
    #[error("the keystore has two keys with id {0}")]
    DuplicateKeyId(KeyId),
    /// Not exactly one system key.
    #[error("the keystore has {0} system keys instead of one")]
    SystemKeyCount(usize),
    /// The MAC does not fit the bytes, though database keys unwrap: the file was changed.
    #[error("the keystore was changed after it was written: its MAC does not fit")]
    MacMismatch,
    /// Neither the MAC fits nor does any database key unwrap.
    #[error("the master key {0} of the keystore is another one than the key that was unwrapped")]
    WrongMasterKey(KeyId),
    /// The MAC fits, yet a database key does not unwrap: it was wrapped by other code than this.
    #[error("database key {0} of the keystore does not unwrap")]
    KeyDoesNotUnwrap(KeyId),
    /// A keystore of another node.
    #[error("the keystore belongs to node {found}, not to {expected}")]
    WrongNode {
        /// The node it names.
        found: NodeId,
        /// The node asked for.
        expected: NodeId,
    },
    /// An older keystore was put back.
    #[error("the keystore is generation {found}, but this node has already had generation {seen}")]
    OlderGeneration {
        /// Its generation.
        found: u64,
        /// The newest one seen.
        seen: u64,
    },
    /// Another step came first.
    #[error("the step leads to generation {image}, but the keystore is at generation {current} now")]
    GenerationMoved {
        /// What the image says.
        image: u64,
        /// What the keystore is at.
        current: u64,
    },
    /// The image says another generation than the step that made it.
    #[error("the file says generation {found}, the step that made it {expected}")]
    OtherGeneration {
        /// What the bytes say.
        found: u64,
        /// What goes with them.
        expected: u64,
    },
    /// The next image lacks a database key, or has another one under its id.
    #[error("database key {0} would be lost by this step")]
    KeyLost(KeyId),
    /// The next image gives a database's key to something else.
    #[error("database key {0} would change its purpose by this step")]
    PurposeChanged(KeyId),
    /// `check_next` of a rotation's image.
    #[error("the step leads to master key {found}, not to {expected}")]
    OtherMasterKey {
        /// The master key id of the image.
        found: KeyId,
        /// The one expected.
        expected: KeyId,
    },
    /// The new master key is the old one.
    #[error("the new master key is the same as the old one")]
    SameMasterKey,
    /// No such key.
    #[error("the keystore has no key {0}")]
    UnknownKey(KeyId),
    /// The key is not a spare, and not this database's.
    #[error("key {key_id} cannot become the key of database `{database}`: it is not a spare")]
    NotASpare {
        /// The key.
        key_id: KeyId,
        /// The database.
        database: String,
    },
    /// No directory can have this name.
    #[error("`{0}` cannot be a database's directory name: 1 to 255 bytes, without `/` and NUL")]
    DatabaseName(String),
    /// More keys than a keystore holds.
    #[error("the keystore would hold {keys} database keys, more than the limit of {limit}")]
    TooManyKeys {
        /// How many.
        keys: usize,
        /// The limit.
        limit: usize,
    },
    /// No such wrap.
    #[error("the keystore has no wrap of its master key under {key_identifier}")]
    UnknownWrap {
        /// The customer key.
        key_identifier: String,
    },
    /// The vault unwrapped something else than was wrapped.
    #[error("what was unwrapped with {key_identifier} is not this node's master key")]
    WrapMismatch {
        /// The customer key.
        key_identifier: String,
    },
    /// The generation cannot be counted further.
    #[error("the keystore's generation {0} is the last one")]
    LastGeneration(u64),
    /// No memory or randomness for a key.
    #[error("a key of the keystore could not be made or kept")]
    Secret(#[from] SecretError),
}

impl KeystoreError {
    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty | Self::Truncated { .. } | Self::TooLarge { .. } | Self::Malformed { .. } => {
                "put back the newest keystore of this node: from `keyward node keystore export` or a snapshot"
            }
            Self::NewerVersion { .. } => "run the keyward version that wrote it, or a newer one",
            Self::WrapCount { .. }
            | Self::DuplicateWrap { .. }
            | Self::MalformedWrap { .. }
            | Self::DuplicateKeyId(_)
            | Self::SystemKeyCount(_)
            | Self::MacMismatch
            | Self::KeyDoesNotUnwrap(_) => {
                "the file was changed outside keyward; put back the newest keystore of this node"
            }
            Self::WrongMasterKey(_) => {
                "check that the wrapped master key in the file was not replaced, and that the vault is the right one"
            }
            Self::WrongNode { .. } => {
                "a copied data path becomes a new node with `keyward node restore --from file://DBPATH`"
            }
            Self::OlderGeneration { .. } => {
                "put back the newest keystore; to go back on purpose, restore a snapshot"
            }
            Self::GenerationMoved { .. } | Self::OtherGeneration { .. } => {
                "another step was made meanwhile; repeat this one"
            }
            Self::KeyLost(_)
            | Self::PurposeChanged(_)
            | Self::OtherMasterKey { .. }
            | Self::SameMasterKey
            | Self::LastGeneration(_) => "nothing was written; this is a fault in keyward, please report it",
            Self::UnknownKey(_) | Self::NotASpare { .. } | Self::DatabaseName(_) => {
                "the assignment journal and the keystore do not belong together; check what was copied where"
            }
            Self::TooManyKeys { .. } => "use one key per node for a node with so many databases",
            Self::UnknownWrap { .. } => "repeat the rewrap from its beginning",
            Self::WrapMismatch { .. } => {
                "the old wrap is still in place; check that the customer key is the one that wrapped, and repeat"
            }
            Self::Secret(error) => error.hint(),
        }
    }
}
