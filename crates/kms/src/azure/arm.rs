//! Azure Resource Manager: how the vault itself is set up, and whether it was deleted. Used where granted; what
//! it does not tell is never held against the customer.

use std::collections::BTreeSet;

use http::header;
use keyward_model::Class;
use serde::Deserialize;
use url::Url;

use super::{
    classify::{SecondLook, Stage},
    token::Tokens,
    transport::{Failure, Reply, Request, Transport},
};

/// Older control-plane versions retire in February 2027.
const API_VERSION: &str = "2026-02-01";
/// Pages of the list of deleted vaults that are read at most.
const MOST_PAGES: usize = 10;
/// Regions that are asked for one deleted vault at most.
const MOST_LOCATIONS: usize = 4;

/// The vaults of one resource group, seen through ARM.
#[derive(Debug)]
pub(super) struct Arm {
    url: Url,
    subscription_id: String,
    resource_group: String,
    transport: Transport,
}

/// How a vault is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VaultSetup {
    pub(super) location: String,
    pub(super) tenant_id: String,
    pub(super) soft_delete: bool,
    pub(super) purge_protection: bool,
    /// Public network access is switched off, and no private endpoint connection is approved.
    pub(super) unreachable: bool,
}

impl Arm {
    pub(super) fn new(
        url: Url,
        subscription_id: String,
        resource_group: String,
        transport: Transport,
    ) -> Self {
        Self { url, subscription_id, resource_group, transport }
    }

    /// Reads the vault's set-up (`Microsoft.KeyVault/vaults/read`).
    pub(super) async fn read_vault(&self, tokens: &Tokens, vault_name: &str) -> Result<VaultSetup, Failure> {
        let url = self.at(&self.vault_path(vault_name));
        let reply = self.get(tokens, url.clone()).await?;
        read_vault_setup(&reply.body).map_err(|why| Failure::new(Class::Malformed, &url, why))
    }

    /// Whether the vault is gone and stands among the deleted ones: both, or it is not confirmed.
    pub(super) async fn look_among_deleted(
        &self,
        tokens: &Tokens,
        vault_name: &str,
        location: Option<&str>,
    ) -> SecondLook {
        match self.read_vault(tokens, vault_name).await {
            Err(failure) if failure.facts.code.as_deref() == Some("ResourceNotFound") => {}
            Ok(_) | Err(_) => return SecondLook::NotConfirmed,
        }
        let there = match location {
            Some(location) => self.is_deleted_in(tokens, vault_name, location).await,
            None => Ok(false),
        };
        let found = match there {
            Ok(true) => Ok(true),
            // Who answered last may have been the paired region, which is not where a vault is kept.
            Ok(false) | Err(_) => self.is_deleted_anywhere(tokens, vault_name).await,
        };
        match found {
            Ok(true) => SecondLook::AmongTheDeleted,
            Ok(false) | Err(_) => SecondLook::NotConfirmed,
        }
    }

    async fn is_deleted_in(
        &self,
        tokens: &Tokens,
        vault_name: &str,
        location: &str,
    ) -> Result<bool, Failure> {
        let path = format!(
            "/subscriptions/{}/providers/Microsoft.KeyVault/locations/{location}/deletedVaults/{vault_name}",
            self.subscription_id
        );
        let reply = self.get(tokens, self.at(&path)).await?;
        // ARM found it by name and region; what is left to see is that it was this group's.
        let vault = serde_json::from_slice::<DeletedVault>(&reply.body).ok();
        Ok(vault.is_some_and(|vault| vault.was_in(&self.group_path())))
    }

    /// The region is not known: after a restart, with the vault gone, nothing says it any more.
    async fn is_deleted_anywhere(&self, tokens: &Tokens, vault_name: &str) -> Result<bool, Failure> {
        let (was, group) = (self.vault_path(vault_name), self.group_path());
        let mut locations = BTreeSet::new();
        let mut next = Some(self.at(&format!(
            "/subscriptions/{}/providers/Microsoft.KeyVault/deletedVaults",
            self.subscription_id
        )));
        for _ in 0..MOST_PAGES {
            let Some(url) = next.take() else { break };
            let reply = self.get(tokens, url.clone()).await?;
            let page: DeletedVaults = serde_json::from_slice(&reply.body).map_err(|_| {
                Failure::new(Class::Malformed, &url, "the answer is not a list of deleted vaults")
            })?;
            if page.value.iter().any(|vault| vault.was(&was)) {
                return Ok(true);
            }
            let of_group = page.value.into_iter().filter(|vault| vault.was_in(&group));
            locations.extend(of_group.filter_map(|vault| vault.properties.location));
            // A page elsewhere would take our token elsewhere.
            next = page.next_link.filter(|link| link.origin() == self.url.origin());
        }
        // A host that is not Azure's need not begin with the vault's name: ARM is asked where a vault of this
        // group was deleted, by the name that it goes by for us.
        for location in locations.iter().take(MOST_LOCATIONS) {
            if self.is_deleted_in(tokens, vault_name, location).await.unwrap_or(false) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn get(&self, tokens: &Tokens, url: Url) -> Result<Reply, Failure> {
        let resource = self.url.as_str().trim_end_matches('/');
        let bearer = tokens.get(resource).await?;
        let mut request = Request::get(url);
        request.headers.insert(header::AUTHORIZATION, bearer.header);
        let reply = self.transport.send(request).await?;
        if reply.status == 401 {
            tokens.forget(resource).await;
        }
        match reply.classify(Stage::ResourceManager) {
            (Class::Success, _) => Ok(reply),
            (class, facts) => Err(Failure { class, facts }),
        }
    }

    fn vault_path(&self, vault_name: &str) -> String {
        format!("{}{vault_name}", self.group_path())
    }

    /// What the ids of this group's vaults begin with.
    fn group_path(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.KeyVault/vaults/",
            self.subscription_id, self.resource_group
        )
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        url
    }
}

fn read_vault_setup(body: &[u8]) -> Result<VaultSetup, &'static str> {
    #[derive(Deserialize)]
    struct Vault {
        location: String,
        properties: Properties,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Properties {
        tenant_id: String,
        enable_soft_delete: Option<bool>,
        enable_purge_protection: Option<bool>,
        public_network_access: Option<String>,
        #[serde(default)]
        private_endpoint_connections: Vec<Connection>,
    }
    #[derive(Deserialize)]
    struct Connection {
        properties: ConnectionProperties,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ConnectionProperties {
        private_link_service_connection_state: Option<ConnectionState>,
    }
    #[derive(Deserialize)]
    struct ConnectionState {
        status: Option<String>,
    }
    let vault: Vault = serde_json::from_slice(body).map_err(|_| "the answer is not a vault")?;
    let is_approved = |connection: &Connection| {
        let state = connection.properties.private_link_service_connection_state.as_ref();
        state.and_then(|state| state.status.as_deref()) == Some("Approved")
    };
    let public = vault.properties.public_network_access.as_deref() != Some("Disabled");
    Ok(VaultSetup {
        location: vault.location,
        tenant_id: vault.properties.tenant_id,
        // Soft delete is on unless said otherwise; purge protection is absent when off.
        soft_delete: vault.properties.enable_soft_delete.unwrap_or(true),
        purge_protection: vault.properties.enable_purge_protection.unwrap_or(false),
        unreachable: !public && !vault.properties.private_endpoint_connections.iter().any(is_approved),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeletedVaults {
    value: Vec<DeletedVault>,
    next_link: Option<Url>,
}

#[derive(Deserialize)]
struct DeletedVault {
    properties: DeletedVaultProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeletedVaultProperties {
    vault_id: String,
    location: Option<String>,
}

impl DeletedVault {
    /// Whether it was the vault at this ARM path; ARM ids ignore case.
    fn was(&self, path: &str) -> bool {
        self.properties.vault_id.eq_ignore_ascii_case(path)
    }

    fn was_in(&self, group_path: &str) -> bool {
        let id = self.properties.vault_id.to_ascii_lowercase();
        id.starts_with(&group_path.to_ascii_lowercase())
    }
}
