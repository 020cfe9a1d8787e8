//! Snapshots of a node to a URL and back: ciphertext only, opened by the customer key alone.
//!
//! Owns what a snapshot consists of and how a node's files become consistent. It never decrypts a page, and nothing
//! that mongod writes in the clear belongs into a snapshot. Nor does it copy what a link in the data path
//! leads to, but for the folders that the operator put elsewhere ([`crate::folder`]).

mod create;
mod files;
mod manifest;
mod restore;
mod store;

use std::{io, path::PathBuf};

use keyward_keys::keystore::KeystoreError;

pub use create::{Taken, create};
pub use manifest::{
    EngineOfSnapshot, FORMAT_VERSION, FileEntry, Manifest, ManifestError, Method, NodeOfSnapshot,
};
pub use restore::{Restored, restore};

use crate::{
    admin::Failure,
    engine::{EngineError, database::DatabaseError},
    folder::FolderError,
    node::{NodeError, chain},
};

/// Why a snapshot was not taken or not restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The customer key was taken away.
    #[error("the customer key is revoked: the snapshot was not completed")]
    Revoked,
    /// A URL of no known kind.
    #[error("{url} is no place for snapshots: {why}")]
    Url {
        /// The URL, without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file with the store's credentials.
    #[error("the file {} with the credentials for snapshots cannot be read", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error("{place} failed")]
    Store {
        /// The place, without credentials.
        place: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// Something is there already.
    #[error("there is something at {place} already")]
    NotEmpty {
        /// The place.
        place: String,
    },
    /// Nothing is there, or something incomplete.
    #[error("there is no snapshot at {place}")]
    NoSnapshot {
        /// The place.
        place: String,
    },
    /// The manifest cannot be used.
    #[error("the snapshot cannot be used")]
    Manifest(#[source] ManifestError),
    /// A file is missing or is not what the manifest says.
    #[error("the file {path} of the snapshot is missing or damaged")]
    Damaged {
        /// As the manifest names it.
        path: String,
    },
    /// The snapshot is of another kind of engine.
    #[error("the snapshot is of an engine of kind {of}, this node's is {here}")]
    OtherEngine {
        /// The snapshot's.
        of: String,
        /// This node's.
        here: String,
    },
    /// There is data in the data path.
    #[error("the data path {} is not empty", path.display())]
    DataPathNotEmpty {
        /// The data path.
        path: PathBuf,
    },
    /// Too little space.
    #[error("{} has {free} bytes free, the snapshot needs {needed}", path.display())]
    NoSpace {
        /// The data path.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A local file.
    #[error("{} cannot be read or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in a folder is not what it should be.
    #[error(transparent)]
    Folder(FolderError),
    /// The snapshot's keystore.
    #[error("the keystore cannot be used")]
    Keystore(#[source] KeystoreError),
    /// The manifest could not be written as JSON.
    #[error("the manifest cannot be written")]
    Encode(#[source] serde_json::Error),
    /// The engine.
    #[error("the engine's files cannot be used")]
    Engine(#[source] EngineError),
    /// The engine's protocol.
    #[error("the engine did not make its files consistent")]
    Database(#[source] DatabaseError),
    /// The lock against writes.
    #[error("the engine's writes could not be held, or were not let go yet")]
    Lock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node, or its customer key.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A task of the agent died.
    #[error("the work was ended")]
    Ended,
}

impl SnapshotError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Revoked => "give the customer key back; then repeat".to_owned(),
            Self::Url { .. } => "use file:///DIR, az://CONTAINER/PATH or s3://BUCKET/PATH".to_owned(),
            Self::Credentials { .. } => {
                "check snapshots.credentials_file: lines such as azure_storage_account_name = \"…\""
                    .to_owned()
            }
            Self::Store { .. } => {
                "check the URL, the network and the credentials for it; then repeat".to_owned()
            }
            Self::NotEmpty { .. } => "name a place where nothing is yet: one URL per snapshot".to_owned(),
            Self::NoSnapshot { .. } => {
                "check the URL; an aborted snapshot has no manifest.json and cannot be restored".to_owned()
            }
            Self::Manifest(ManifestError::Newer { .. }) => "use a newer keyward".to_owned(),
            Self::Manifest(_) | Self::Damaged { .. } | Self::Keystore(_) => {
                "the snapshot is damaged: use another one".to_owned()
            }
            Self::OtherEngine { .. } => "restore it on a node with that engine".to_owned(),
            Self::DataPathNotEmpty { .. } => {
                "restore on a new node (initial = \"restore\"), or move the old data away first".to_owned()
            }
            Self::NoSpace { .. } => "make space, or restore on a larger disk".to_owned(),
            Self::File { .. } => "check the file's owner and mode, and the space on the disk".to_owned(),
            Self::Folder(error) => error.hint().to_owned(),
            Self::Encode(_) | Self::Ended => "repeat it; if it fails again, see the agent's log".to_owned(),
            Self::Engine(error) => error.hint(),
            Self::Database(error) => error.hint(),
            Self::Lock(_) => "repeat it when the engine answers again; see `keyward node status`".to_owned(),
            Self::Node(error) => error.hint(),
        }
    }
}

impl From<FolderError> for SnapshotError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Io { path, source, .. } => Self::File { path, source },
            refused @ (FolderError::Link { .. }
            | FolderError::Owner { .. }
            | FolderError::NotOwn { .. }
            | FolderError::Locked(_)
            | FolderError::NotPlain(_)
            | FolderError::TooDeep(_)) => Self::Folder(refused),
        }
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        let code = match &error {
            SnapshotError::Node(_) => None,
            SnapshotError::Revoked => Some("CUSTOMER_KEY_REVOKED"),
            SnapshotError::Url { .. } => Some("SNAPSHOT_URL"),
            SnapshotError::Credentials { .. } | SnapshotError::Store { .. } => Some("SNAPSHOT_STORE"),
            SnapshotError::NotEmpty { .. } => Some("SNAPSHOT_EXISTS"),
            SnapshotError::NoSnapshot { .. } => Some("NO_SNAPSHOT"),
            SnapshotError::Manifest(_) | SnapshotError::Damaged { .. } | SnapshotError::Keystore(_) => {
                Some("SNAPSHOT_DAMAGED")
            }
            SnapshotError::OtherEngine { .. } => Some("SNAPSHOT_OF_OTHER_ENGINE"),
            SnapshotError::DataPathNotEmpty { .. } => Some("DATA_PATH_NOT_EMPTY"),
            SnapshotError::NoSpace { .. } => Some("NO_SPACE"),
            SnapshotError::File { .. } | SnapshotError::Folder(_) => Some("FILE"),
            SnapshotError::Engine(_) | SnapshotError::Database(_) | SnapshotError::Lock(_) => Some("ENGINE"),
            SnapshotError::Encode(_) | SnapshotError::Ended => Some("INTERNAL"),
        };
        match (code, error) {
            (None, SnapshotError::Node(error)) => error.into(),
            (code, error) => Self {
                code: code.unwrap_or("INTERNAL").to_owned(),
                message: chain(&error),
                hint: error.hint(),
                exit: if matches!(error, SnapshotError::Revoked) { 3 } else { 1 },
            },
        }
    }
}
