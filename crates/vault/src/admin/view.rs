//! What the admin API shows.

use serde::{Deserialize, Serialize};

use crate::fault::ActiveFault;
use crate::keys_api::Links;
use crate::service::{Service, machine_now};
use crate::state::{
    AccessModel, ConnectionStatus, Key, NetworkRules, Settings, State, UnixSeconds, VaultDeletion,
};

/// The vault at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct VaultStatus {
    pub url: String,
    pub name: String,
    pub location: String,
    pub tenant_id: String,
    pub resource_id: String,
    pub access_model: AccessModel,
    pub purge_protection: bool,
    pub retention_days: u32,
    pub network: NetworkRules,
    pub deletion: Option<VaultDeletion>,
    pub faults: Vec<ActiveFault>,
    pub settings: Settings,
    /// Seconds since the epoch on the vault's clock.
    pub now: UnixSeconds,
}

/// A key with its versions, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct KeyView {
    pub name: String,
    pub versions: Vec<KeyVersionView>,
    /// Set while the key is soft-deleted.
    pub deleted: Option<UnixSeconds>,
    pub scheduled_purge: Option<UnixSeconds>,
    /// When the rotation policy next makes a version.
    pub rotation_due: Option<UnixSeconds>,
}

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct KeyVersionView {
    pub version: String,
    pub key_identifier: String,
    pub kty: String,
    pub key_size: u32,
    pub key_ops: Vec<String>,
    pub enabled: bool,
    pub not_before: Option<UnixSeconds>,
    pub expires: Option<UnixSeconds>,
    pub created: UnixSeconds,
}

impl KeyView {
    /// Identifier of the newest version.
    pub fn key_identifier(&self) -> Option<&str> {
        self.versions.last().map(|v| v.key_identifier.as_str())
    }
}

/// A private endpoint connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct PrivateEndpointView {
    pub name: String,
    pub status: ConnectionStatus,
    pub description: String,
}

pub(super) fn status(service: &Service) -> VaultStatus {
    let state = service.state();
    let now = machine_now();
    VaultStatus {
        url: service.endpoints().vault.clone(),
        name: state.vault.name.clone(),
        location: state.vault.location.clone(),
        tenant_id: state.directory.tenant_id.clone(),
        resource_id: state.vault.resource_id(),
        access_model: state.vault.access_model,
        purge_protection: state.vault.purge_protection,
        retention_days: state.vault.retention_days,
        network: state.vault.network.clone(),
        deletion: state.vault.deletion.clone(),
        faults: state.faults.iter().filter(|f| f.until.is_none_or(|until| now < until)).cloned().collect(),
        settings: state.settings.clone(),
        now: service.now(),
    }
}

pub(super) fn keys(service: &Service) -> Vec<KeyView> {
    let state = service.state();
    let live = state.vault.keys.iter().map(|(name, key)| view(service, name, key, None));
    let deleted = state
        .vault
        .deleted_keys
        .iter()
        .map(|(name, d)| view(service, name, &d.key, Some((d.deleted, d.scheduled_purge))));
    live.chain(deleted).collect()
}

pub(super) fn private_endpoints(state: &State) -> Vec<PrivateEndpointView> {
    state
        .vault
        .private_endpoints
        .iter()
        .map(|(name, c)| PrivateEndpointView {
            name: name.clone(),
            status: c.status,
            description: c.description.clone(),
        })
        .collect()
}

fn view(service: &Service, name: &str, key: &Key, deletion: Option<(UnixSeconds, UnixSeconds)>) -> KeyView {
    let links = Links::new(service.endpoints().vault.clone());
    let versions = key
        .versions
        .iter()
        .map(|v| KeyVersionView {
            version: v.version.clone(),
            key_identifier: links.key(name, Some(&v.version)),
            kty: v.kty.clone(),
            key_size: v.material.bits(),
            key_ops: v.key_ops.clone(),
            enabled: v.enabled,
            not_before: v.not_before,
            expires: v.expires,
            created: v.created,
        })
        .collect();
    KeyView {
        name: name.to_owned(),
        versions,
        deleted: deletion.map(|(deleted, _)| deleted),
        scheduled_purge: deletion.map(|(_, purge)| purge),
        rotation_due: key.rotation_due(),
    }
}
