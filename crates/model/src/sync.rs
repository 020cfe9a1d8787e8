//! The contract between server and agents: desired state down, observed state up.
//!
//! Both are whole states, not changes: a message that is lost, repeated or late changes nothing. The server numbers
//! what it desires of a node (`revision`), the agent numbers what it reports (`report`); an older one is ignored.
//! Nothing here can hold a master key or a database key.

use serde::{Deserialize, Serialize};

use crate::{
    Class, KeyIdentifier, NodeStatus, RevocationPolicy, Timestamp, encryption::AzureEnvironment, id::NodeId,
};

/// The version of this contract that this build speaks.
pub const VERSION: u16 = 1;

/// What an agent says when it enrols: a certificate request and who it is. The token goes in the HTTP header
/// `authorization: Bearer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// [`VERSION`] of the agent.
    pub version: u16,
    /// The node's id.
    pub node_id: NodeId,
    /// The node's name.
    pub name: String,
    /// Host name of the machine.
    pub hostname: String,
    /// PEM of a PKCS #10 request for a key that stays on the node.
    pub certificate_request: String,
}

/// What the server answers to an enrolment or a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// PEM of the node's certificate.
    pub certificate: String,
    /// PEM of the certificate authorities that the server's agent listener is under.
    pub authorities: String,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

/// What an agent says when its host takes the node away from the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leave {
    /// [`VERSION`] of the agent.
    pub version: u16,
    /// Whether it leaves although it is a member of a cluster.
    pub force: bool,
}

/// What a member of a cluster that means to leave can do: its agent says so, and so does the server.
pub const LEAVE_MEMBER_HINT: &str = "delete the cluster, or give it fewer nodes, and wait until this one is free; or leave with --force: the cluster \
     then lacks a member until another node takes its place";

/// What the server answers to a node that leaves: its certificate counts no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// When the server let it go.
    pub at: Timestamp,
}

/// Why the server does not answer an agent as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct AgentRefusal {
    /// What kind of refusal it is.
    pub code: AgentRefusalCode,
    /// What happened, to what.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// What kind of refusal an [`AgentRefusal`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AgentRefusalCode {
    /// The join token is unknown, used or too old.
    TokenRefused,
    /// The call needs a certificate.
    CertificateMissing,
    /// The certificate has ended, or does not hold yet: it can be renewed.
    CertificateExpired,
    /// The certificate's key is not the one that the node enrolled with.
    CertificateUnknown,
    /// The node was revoked, or is not known.
    NodeRevoked,
    /// The node belongs to another project.
    NodeTaken,
    /// The node is a member of a cluster.
    NodeInCluster,
    /// The agent speaks another version of the contract.
    Version,
    /// The request cannot be understood.
    BadRequest,
    /// It is too large.
    TooLarge,
    /// Too many of them.
    TooMany,
    /// The server cannot answer now.
    Unavailable,
}

/// One call: what is observed, and which desired state the agent already has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    /// [`VERSION`] of the agent.
    pub version: u16,
    /// The number of the agent's newest report.
    pub report: u64,
    /// That report; `None` when the server has said that it has stored it.
    pub observed: Option<Observed>,
    /// The revision of the newest desired state the agent has seen; 0 for none. The server answers at once when it
    /// has another one, else when one comes or the wait is over.
    pub have_revision: u64,
    /// [`SyncAnswer::digest`] of that state: after its store was put back from a backup, a server may have given the
    /// same number to something else.
    pub have_digest: Option<String>,
    /// How long the server may hold the answer back, in seconds.
    pub wait_s: u16,
    /// SHA-256 of [`Enrolled::authorities`] as the agent keeps them, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities_sha256: Option<String>,
}

/// The server's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncAnswer {
    /// What is desired; `None` when the agent has seen it already.
    pub desired: Option<Desired>,
    /// Names the content of `desired`; opaque to the agent.
    pub digest: Option<String>,
    /// The `report` that the server has stored. Less than the agent's: it is sent again, in full.
    pub stored_report: u64,
    /// Whether the node should renew its certificate now: the server's authority was replaced, or the one before it was
    /// let go. A renewal gives the authorities to trust from then on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renew: bool,
}

/// What the server wants of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// Grows with every change for this node, never repeats.
    pub revision: u64,
    /// The cluster the node belongs to; `None` while it is free.
    pub cluster: Option<DesiredCluster>,
    /// The customer key; `None` leaves what the node has.
    pub encryption: Option<DesiredEncryption>,
    /// Rotate the master key if it is still this one.
    pub rotate_master_key: Option<String>,
    /// Whether the database should run.
    pub run: DesiredRun,
    /// Hand over to another member, if this one is primary.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub step_down: bool,
    /// With `encryption`: this member's data is not encrypted; empty it and have it filled again by the others,
    /// encrypted. Needs the host's approval.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resync: bool,
    /// Customer keys to try out on the server's behalf.
    pub validations: Vec<Validation>,
}

/// Where a node belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredCluster {
    /// The cluster's name.
    pub name: String,
    /// The replica set's name.
    pub replica_set: String,
    /// `host:port` of every member, in the order of the set's configuration.
    pub members: Vec<String>,
}

/// Whether the database should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DesiredRun {
    /// As the host's operator says.
    Unmanaged,
    /// It should run.
    Running,
    /// It should be stopped; the data stays.
    Stopped,
}

/// The customer key that a node should use, and how to reach it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredEncryption {
    /// The key identifier.
    pub key_identifier: KeyIdentifier,
    /// Which Azure.
    pub azure_environment: AzureEnvironment,
    /// The tenant. The agent's own file pins which ones it accepts.
    pub tenant_id: String,
    /// The application (client) id.
    pub client_id: String,
    /// The vault's subscription.
    pub subscription_id: Option<String>,
    /// The vault's resource group.
    pub resource_group_name: Option<String>,
    /// How the application proves itself.
    pub credential: DesiredCredential,
    /// Whether the vault may be reached over a private address only.
    pub require_private_networking: bool,
    /// When refusals become a revocation.
    pub policy: RevocationPolicy,
    /// When the client secret expires, as far as it is known.
    pub client_secret_expires: Option<Timestamp>,
}

impl std::fmt::Debug for DesiredEncryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DesiredEncryption")
            .field("key_identifier", &self.key_identifier.to_string())
            .field("tenant_id", &self.tenant_id)
            .field("client_id", &self.client_id)
            .field("credential", &self.credential)
            .field("require_private_networking", &self.require_private_networking)
            .finish_non_exhaustive()
    }
}

/// How the application proves itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum DesiredCredential {
    /// A client secret; the node keeps it in a file that only the agent reads.
    ClientSecret {
        /// The secret.
        secret: String,
    },
    /// The host's own identity, or the credential that the node's file names.
    OfTheHost,
}

impl std::fmt::Debug for DesiredCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DesiredCredential::ClientSecret { .. } => f.write_str("ClientSecret"),
            DesiredCredential::OfTheHost => f.write_str("OfTheHost"),
        }
    }
}

/// A customer key to try out from the node, before the server stores a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// Names the request; the answer carries it.
    pub id: String,
    /// What to try.
    pub encryption: DesiredEncryption,
}

/// What came of a [`Validation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validated {
    /// [`Validation::id`].
    pub id: String,
    /// What was found; empty when all is well.
    pub findings: Vec<ValidationFinding>,
}

/// One finding of a validation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationFinding {
    /// Whether the key cannot be used as it is; else it is a warning.
    pub refuses: bool,
    /// Whether it tells of an outage rather than of a refusal.
    pub outage: bool,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub hint: String,
    /// The class of the answer behind it, when it was an answer.
    #[serde(default)]
    pub class: Option<Class>,
    /// When the vault, or Entra ID, asked to be tried again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

/// What an agent sees of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The node.
    pub node_id: NodeId,
    /// Grows with every report, also over restarts of the agent; the server ignores an older one.
    pub report: u64,
    /// When it was seen, by the node's clock.
    pub at: Timestamp,
    /// keyward's version on the node.
    pub agent_version: String,
    /// `host:port` under which clients reach the database.
    pub address: String,
    /// All of `node status`.
    pub status: NodeStatus,
    /// The customer keys that the keystore's master key is wrapped under, newest last.
    pub wraps: Vec<ObservedWrap>,
    /// The revision of desired state that has been carried out in full; 0 for none.
    pub done_revision: u64,
    /// What is being done, for people: "moving the master key under …".
    pub progress: Option<String>,
    /// What the node will not do without `keyward node approve`, or could not do.
    pub held_back: Vec<HeldBack>,
    /// Answers to [`Desired::validations`].
    pub validated: Vec<Validated>,
    /// Snapshots that this node made and knows of, each with the customer key it needs.
    pub snapshots: Vec<ObservedSnapshot>,
    /// The member's state in its replica set, where it is in one: `PRIMARY`, `SECONDARY`, …
    pub replica_state: Option<String>,
    /// Whether its data path holds data that is not encrypted: the operator's own database, adopted as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unencrypted: bool,
}

/// A wrap in the keystore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedWrap {
    /// The customer key.
    pub key_identifier: String,
    /// SHA-256 of its public key.
    pub public_key_sha256: String,
    /// When the wrap was made.
    pub created_at: Timestamp,
}

/// A snapshot and the customer key it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedSnapshot {
    /// Its URL, without credentials.
    pub url: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The customer key.
    pub key_identifier: String,
    /// The master key.
    pub master_key_id: String,
}

/// Something that a node will not do, or could not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    /// The revision that asked for it.
    pub revision: u64,
    /// Whether `keyward node approve` lets it through; else it failed and is tried again.
    pub needs_approval: bool,
    /// The line that lets it through in the node's file (`[server] approve = ["…"]`), where approval is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// What it is.
    pub what: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub hint: String,
}
