//! What a node reports of itself: the shape of `keyward node status --json`.

use serde::{Deserialize, Serialize};

use crate::{Evidence, KeyIdentifier, Timestamp, Verdict, sync::HeldBack};

/// Where a node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// The keystore is being opened or the engine is coming up.
    Starting,
    /// The engine runs and its encryptor has said hello.
    Running,
    /// The customer key could not be asked; the agent tries again by itself.
    WaitingForCustomerKey,
    /// The customer key was taken away; the node starts by itself once it answers again.
    StoppedRevoked,
    /// Stopped by the operator.
    Stopped,
    /// Something that does not mend itself; `reason` says what to do.
    Failed,
}

impl NodeState {
    /// As it stands in JSON, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Starting => "starting",
            NodeState::Running => "running",
            NodeState::WaitingForCustomerKey => "waitingForCustomerKey",
            NodeState::StoppedRevoked => "stoppedRevoked",
            NodeState::Stopped => "stopped",
            NodeState::Failed => "failed",
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `keyward node status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// Where it is in its life.
    pub state: NodeState,
    /// What the evidence adds up to.
    pub verdict: Verdict,
    /// Why `state` is what it is, in a sentence for a person.
    pub reason: String,
    /// The last probes, newest first, at most 20.
    pub evidence: Vec<Evidence>,
    /// The customer key that wraps the master key now.
    pub customer_key: Option<CustomerKeyStatus>,
    /// The master key in use, or the one in the keystore.
    pub master_key: Option<MasterKeyStatus>,
    /// Whether the agent holds the master key in memory.
    pub master_key_held: bool,
    /// Whether keys are on locked memory; `false` is shown as `not locked`.
    pub memory_locked: bool,
    /// The database keys, without the spares.
    pub database_keys: Vec<DatabaseKeyStatus>,
    /// Spare database keys in the keystore.
    pub spare_database_keys: u32,
    /// The database process, when there is one.
    pub engine: Option<EngineStatus>,
    /// When `state` was entered.
    pub since: Timestamp,
    /// Things that a person should look at, although the node works.
    pub warnings: Vec<String>,
    /// The server that this node has joined, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkStatus>,
}

/// How a node stands with its server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// The server.
    pub server: String,
    /// When it answered last, since the agent's start.
    pub last_contact: Option<Timestamp>,
    /// Why it does not answer now.
    pub problem: Option<String>,
    /// The revision of the newest desired state that was accepted; 0 for none.
    pub accepted_revision: u64,
    /// The revision that has been carried out in full.
    pub done_revision: u64,
    /// What is being done on the server's word.
    pub progress: Option<String>,
    /// What the node will not do without `keyward node approve`, or could not do.
    pub held_back: Vec<HeldBack>,
}

/// The customer key as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerKeyStatus {
    /// Its identifier, with the version.
    pub key_identifier: KeyIdentifier,
    /// SHA-256 of its public key's DER `SubjectPublicKeyInfo`, hexadecimal.
    pub public_key_sha256: String,
}

/// The master key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterKeyStatus {
    /// Random, says nothing of the key.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A database key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseKeyStatus {
    /// The key id, as WiredTiger's `keyid`.
    pub id: String,
    /// The database, or `.system`.
    pub database: String,
    /// When the key was made.
    pub created_at: Timestamp,
}

/// The database process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineStatus {
    /// `mongod` or `secantusdb`.
    pub kind: String,
    /// What the engine says of its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
}
