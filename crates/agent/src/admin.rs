//! The admin socket: what an operator asks of a running agent.
//!
//! Owns the shapes on that socket. HTTP/1.1 and JSON over a unix socket; only root and the agent's own user are
//! let in. A change is answered with lines of JSON: any number of `progress`, then one `result` or `error`.

pub mod client;
pub mod progress;
pub mod server;

use keyward_model::KeyIdentifier;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{node::NodeError, node::chain};

/// Something to do.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// Start the engine.
    Start,
    /// Stop it.
    Stop,
    /// Show that no plaintext is on disk.
    Prove,
    /// Make a new master key.
    RotateMasterKey,
    /// Move the master key under another customer key.
    Rewrap {
        /// Which.
        key_identifier: KeyIdentifier,
    },
    /// Copy the node's data.
    Snapshot {
        /// Where to.
        to: Url,
    },
    /// Take the node's data from a copy.
    Restore {
        /// Where from.
        from: Url,
    },
    /// Join the server that made the token.
    Join {
        /// The token.
        token: String,
    },
    /// Leave the server that was joined.
    Leave {
        /// Although the node is a member of a cluster, or the server does not answer.
        force: bool,
    },
    /// Approve what waits for this host's approval.
    Approve {
        /// What of it, as [`client::AdminClient::approvals`] names it; `None`: all of it.
        approvals: Option<Vec<String>>,
    },
    /// Give the keystore's bytes: ciphertext.
    KeystoreExport,
}

impl Request {
    /// Its path on the socket.
    pub fn path(&self) -> &'static str {
        match self {
            Request::Start => "/v1/start",
            Request::Stop => "/v1/stop",
            Request::Prove => "/v1/prove",
            Request::RotateMasterKey => "/v1/rotate-master-key",
            Request::Rewrap { .. } => "/v1/rewrap",
            Request::Snapshot { .. } => "/v1/snapshot",
            Request::Restore { .. } => "/v1/restore",
            Request::Join { .. } => "/v1/join",
            Request::Leave { .. } => "/v1/leave",
            Request::Approve { .. } => "/v1/approve",
            Request::KeystoreExport => "/v1/keystore-export",
        }
    }

    /// Its body.
    pub fn body(&self) -> serde_json::Value {
        match self {
            Request::Rewrap { key_identifier } => serde_json::json!({ "keyIdentifier": key_identifier }),
            Request::Snapshot { to } => serde_json::json!({ "to": to }),
            Request::Restore { from } => serde_json::json!({ "from": from }),
            Request::Join { token } => serde_json::json!({ "token": token }),
            Request::Leave { force } => serde_json::json!({ "force": force }),
            Request::Approve { approvals } => serde_json::json!({ "approvals": approvals }),
            Request::Start
            | Request::Stop
            | Request::Prove
            | Request::RotateMasterKey
            | Request::KeystoreExport => serde_json::json!({}),
        }
    }
}

/// Without the join token: whoever has it may join.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = f.debug_struct(self.path());
        if matches!(self, Request::Join { .. }) {
            text.finish_non_exhaustive()
        } else {
            text.field("body", &self.body()).finish()
        }
    }
}

/// How far something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressLine {
    /// What is being done.
    pub step: String,
    /// How much of it.
    pub done: u64,
    /// Of how much; 0 when nobody knows.
    pub total: u64,
    /// What is counted.
    pub unit: String,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// `UPPER_SNAKE`.
    pub code: String,
    /// What happened, to what, and why.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// The command line's exit code: 1 failed, 3 the customer key is revoked, 4 it is unavailable.
    pub exit: u8,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// Not done yet.
    Progress(ProgressLine),
    /// Done.
    Result(serde_json::Value),
    /// Not done.
    Error(Failure),
}

/// `keyward node keystore export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedKeystore {
    /// The keystore's generation.
    pub generation: u64,
    /// The file's exact bytes (its MAC covers each of them), base64.
    pub keystore_base64: String,
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self { code: error.code().to_owned(), message: chain(&error), hint: error.hint(), exit: error.exit() }
    }
}
