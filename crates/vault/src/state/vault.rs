//! The vault as a resource: access, network, private endpoints, deletion.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{DeletedKey, Key, UnixSeconds};
use crate::authorize::Permission;

/// One vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vault {
    /// Name, the first label of its host in Azure.
    pub name: String,
    /// Azure region.
    pub location: String,
    /// Subscription id, a UUID.
    pub subscription_id: String,
    /// Resource group.
    pub resource_group: String,
    /// `standard` or `premium`; the latter offers RSA-HSM.
    pub sku: String,
    /// Which of the two access models decides.
    pub access_model: AccessModel,
    /// Whether purging is refused to everyone.
    pub purge_protection: bool,
    /// How long what is deleted can be recovered, days (7 to 90).
    pub retention_days: u32,
    /// When the vault was made.
    pub created: UnixSeconds,
    /// Who may reach it over the network.
    pub network: NetworkRules,
    /// Private endpoint connections by name.
    pub private_endpoints: BTreeMap<String, PrivateEndpointConnection>,
    /// Access policies, in force when `access_model` is `Policy`.
    pub policies: Vec<PolicyEntry>,
    /// Role assignments at the vault's scope or at one key's. Data actions are in force when `access_model` is `Rbac`,
    /// control-plane actions always.
    pub roles: Vec<RoleAssignment>,
    /// Live keys by name.
    pub keys: BTreeMap<String, Key>,
    /// Soft-deleted keys by name.
    pub deleted_keys: BTreeMap<String, DeletedKey>,
    /// Set while the vault is soft-deleted.
    pub deletion: Option<VaultDeletion>,
}

/// Access model of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessModel {
    /// Access policies kept in the vault.
    Policy,
    /// Azure role assignments.
    Rbac,
}

/// Firewall and public access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkRules {
    /// `false`: only approved private endpoints. The double cannot tell how a request came in, so all traffic
    /// counts as private once one connection is approved.
    pub public_access: bool,
    /// `false`: only `ip_rules` are let in.
    pub default_allow: bool,
    /// Addresses or CIDR ranges that are let in.
    pub ip_rules: Vec<String>,
}

impl Default for NetworkRules {
    fn default() -> Self {
        Self { public_access: true, default_allow: true, ip_rules: Vec::new() }
    }
}

/// One private endpoint connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrivateEndpointConnection {
    /// Where the request stands.
    pub status: ConnectionStatus,
    /// What the requester or the approver wrote.
    pub description: String,
    /// Resource id of the private endpoint.
    pub private_endpoint_id: String,
    /// Azure region of the private endpoint, where it was made through ARM.
    #[serde(default)]
    pub location: Option<String>,
}

/// State of a private endpoint connection. `Rejected` and `Disconnected` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionStatus {
    /// Waits for the vault's owner.
    Pending,
    /// Traffic is let in.
    Approved,
    /// Refused by the owner.
    Rejected,
    /// The endpoint is gone.
    Disconnected,
}

/// One entry of the vault's access policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyEntry {
    /// Whom it is for.
    pub object_id: String,
    /// Key permissions.
    pub permissions: BTreeSet<Permission>,
    /// From when on it is felt.
    pub from: UnixSeconds,
    /// Until when it is still felt, once removed.
    pub until: Option<UnixSeconds>,
}

/// One role assignment at the vault's scope, or at one key's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoleAssignment {
    /// Assignment id, a UUID.
    pub id: String,
    /// Whom it is for.
    pub object_id: String,
    /// The key that it holds for; without one, all of the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Name of the role, or `custom`.
    pub role: String,
    /// Key permissions it brings.
    pub permissions: BTreeSet<Permission>,
    /// Whether it brings `Microsoft.KeyVault/vaults/read`.
    pub vault_read: bool,
    /// Whether it brings the right to approve private endpoint connections.
    pub vault_write: bool,
    /// From when on it is felt.
    pub from: UnixSeconds,
    /// Until when it is still felt, once removed.
    pub until: Option<UnixSeconds>,
}

/// A soft-deleted vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultDeletion {
    /// When it was deleted.
    pub deleted: UnixSeconds,
    /// When it goes for good.
    pub scheduled_purge: UnixSeconds,
}

impl RoleAssignment {
    /// Whether its scope covers a key, or with `None` the whole vault. Names compare without case.
    pub fn covers(&self, key: Option<&str>) -> bool {
        match (&self.key, key) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(asked)) => own.eq_ignore_ascii_case(asked),
        }
    }
}

impl Vault {
    /// ARM resource id.
    pub fn resource_id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.KeyVault/vaults/{}",
            self.subscription_id, self.resource_group, self.name
        )
    }

    /// `recoveryLevel` of its keys.
    pub fn recovery_level(&self) -> &'static str {
        match (self.retention_days < 90, self.purge_protection) {
            (false, false) => "Recoverable+Purgeable",
            (false, true) => "Recoverable",
            (true, false) => "CustomizedRecoverable+Purgeable",
            (true, true) => "CustomizedRecoverable",
        }
    }

    /// Soft-deletes the vault. Its role assignments are gone for good, as in Azure; access policies stay, and so
    /// do control-plane rights, which count as given on the subscription.
    pub fn delete(&mut self, now: UnixSeconds) {
        let scheduled_purge = now + i64::from(self.retention_days) * 86_400;
        self.deletion = Some(VaultDeletion { deleted: now, scheduled_purge });
        for role in &mut self.roles {
            role.permissions.clear();
        }
        self.roles.retain(|role| role.vault_read || role.vault_write);
    }

    /// Takes a soft-deleted vault back; `false` when it wasn't deleted.
    pub fn recover(&mut self) -> bool {
        self.deletion.take().is_some()
    }

    /// Forgets grants whose removal has been felt. Called by every step that changes grants.
    pub fn drop_ended_grants(&mut self, now: UnixSeconds) {
        self.policies.retain(|p| p.until.is_none_or(|until| until > now));
        self.roles.retain(|r| r.until.is_none_or(|until| until > now));
    }
}
