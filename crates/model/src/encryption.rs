//! What a project owner says about the project's customer key.
//!
//! Follows `azureKeyVault` of the Atlas Administration API. Every text that a person gave is kept as it was given,
//! so that it can be echoed exactly. Never holds the client secret.

use serde::{Deserialize, Serialize};

use crate::{
    KeyIdentifier, KeyIdentifierError, RevocationPolicy, Timestamp,
    id::{CloudRoleId, NodeId, ProjectId},
};

/// Which Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AzureEnvironment {
    /// The public one; a development vault where the server's file names one.
    #[default]
    Azure,
    /// Operated by 21Vianet.
    AzureChina,
    /// US government.
    AzureUsGovernment,
}

/// A project's customer key in Azure Key Vault, as its owner configured it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AzureKeyVault {
    /// Which Azure.
    pub azure_environment: AzureEnvironment,
    /// The application (client) id.
    pub client_id: String,
    /// The tenant of vault and application.
    pub tenant_id: String,
    /// The vault's subscription.
    pub subscription_id: String,
    /// The vault's resource group.
    pub resource_group_name: String,
    /// The vault's name.
    pub key_vault_name: String,
    /// The key identifier, as it was given.
    pub key_identifier: String,
    /// The cloud provider access role used instead of a client secret.
    pub role_id: Option<CloudRoleId>,
    /// Whether agents refuse to reach the vault over a public address.
    pub require_private_networking: bool,
}

impl EncryptionAtRest {
    /// Of a project that never configured any.
    pub fn none(project: ProjectId) -> Self {
        Self {
            project,
            azure_key_vault: None,
            enabled_for_search_nodes: false,
            policy: RevocationPolicy::default(),
            validity: Validity::default(),
            key_changed_at: None,
            client_secret_expires: None,
            former_keys: Vec::new(),
        }
    }
}

impl AzureKeyVault {
    /// The vault's ARM id.
    pub fn vault_id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.KeyVault/vaults/{}",
            self.subscription_id, self.resource_group_name, self.key_vault_name
        )
    }

    /// The key identifier, parsed.
    pub fn key(&self) -> Result<KeyIdentifier, KeyIdentifierError> {
        self.key_identifier.parse()
    }
}

/// Encryption at rest of a project: what is desired, and what the last check of it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionAtRest {
    /// Whose it is.
    pub project: ProjectId,
    /// The configuration; `None` when Azure Key Vault was never configured or was removed.
    pub azure_key_vault: Option<AzureKeyVault>,
    /// Whether search nodes are included. Stored and echoed; keyward has no search nodes.
    pub enabled_for_search_nodes: bool,
    /// When refusals become a revocation on this project's nodes.
    pub policy: RevocationPolicy,
    /// What the last check saw. Not part of what is desired.
    pub validity: Validity,
    /// When the key identifier was set last: from here the rotation alert counts.
    pub key_changed_at: Option<Timestamp>,
    /// When the client secret expires, as far as it is known.
    pub client_secret_expires: Option<Timestamp>,
    /// Key identifiers of before that snapshots may still need, oldest first.
    pub former_keys: Vec<FormerKey>,
}

/// A key identifier that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FormerKey {
    /// As it was given.
    pub key_identifier: String,
    /// When it was set.
    pub from: Timestamp,
    /// When another took its place.
    pub until: Timestamp,
}

/// What the last check of a configuration saw.
///
/// An outage says nothing about the key: it leaves `valid` as it was, and is shown by `unreachable_since`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validity {
    /// Whether the last check that reached the vault could wrap and unwrap.
    pub valid: bool,
    /// When the last check ran.
    pub checked_at: Option<Timestamp>,
    /// Since when checks do not reach the vault.
    #[serde(default)]
    pub unreachable_since: Option<Timestamp>,
    /// Whether it was said that they do not.
    #[serde(default)]
    pub unreachable_told: bool,
    /// When a refusal came that has not been confirmed yet: one alone may be Azure's mistake.
    #[serde(default)]
    pub refused_at: Option<Timestamp>,
    /// What was found, in sentences for a person.
    pub findings: Vec<String>,
    /// What needs attention although the key works: no purge protection, no `vaults/read`, …
    pub warnings: Vec<String>,
    /// What the vault's rotation policy of the key said when it was looked at last; `None` when it was not yet.
    #[serde(default)]
    pub rotation: Option<SeenRotation>,
}

/// How often the vault makes a new version of the customer key by itself, as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenRotation {
    /// So many days after the last one; `None` when it does not, or when it is not for us to know.
    pub after_days: Option<u32>,
    /// When to look again.
    pub look_again_at: Timestamp,
}

/// A customer key to be tried out from a node, because the server has no way of its own to the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationRequest {
    /// Names it; the node's answer carries it.
    pub id: String,
    /// The project.
    pub project: ProjectId,
    /// Who tries it out.
    pub node: NodeId,
    /// What to try.
    pub vault: AzureKeyVault,
    /// The client secret, sealed by the server key, in hexadecimal; `None` with a role.
    pub sealed_secret: Option<String>,
    /// When it was asked for. Nobody waits for an answer after a minute.
    pub asked_at: Timestamp,
}
