//! How a client reaches a development vault.

use std::time::Duration;

use keyward_kms::azure::{AzureConfig, Cloud, Credential, Endpoints};
use keyward_model::KeyIdentifier;
use keyward_vault::VaultDescription;

/// As the vault's first application, in the vault that `key` lies in.
pub(crate) fn of(vault: &VaultDescription, key: &KeyIdentifier, credential: Credential) -> AzureConfig {
    AzureConfig {
        tenant_id: vault.tenant_id.clone(),
        client_id: vault.client_id.clone(),
        credential,
        cloud: Cloud::Custom(Endpoints {
            authority: vault.authority.parse().unwrap(),
            arm_url: vault.arm_url.parse().unwrap(),
            vault_hosts: vec![key.vault_host().to_owned()],
            vault_resource: "https://vault.azure.net".into(),
        }),
        ca_file: Some(vault.ca_file.clone()),
        subscription_id: Some(vault.subscription_id.clone()),
        resource_group: Some(vault.resource_group.clone()),
        call_timeout: Duration::from_secs(5),
        require_private_networking: false,
    }
}
