//! What a GET of `encryptionAtRest` shows. Pure.

use keyward_model::encryption::{AzureEnvironment, EncryptionAtRest};
use serde_json::{Value, json};

/// All three providers' objects: clients index into the one they configured. Never a secret.
pub fn view(stored: &EncryptionAtRest) -> Value {
    let off = || json!({ "enabled": false });
    let azure = match &stored.azure_key_vault {
        None => off(),
        Some(vault) => {
            let mut shown = json!({
                "azureEnvironment": environment(vault.azure_environment),
                "clientID": vault.client_id,
                "enabled": true,
                "keyIdentifier": vault.key_identifier,
                "keyVaultName": vault.key_vault_name,
                "requirePrivateNetworking": vault.require_private_networking,
                "resourceGroupName": vault.resource_group_name,
                "subscriptionID": vault.subscription_id,
                "tenantID": vault.tenant_id,
                "valid": stored.validity.valid,
            });
            // Only where it was given: Terraform takes one that appears for a change.
            if let Some(role) = vault.role_id {
                shown["roleId"] = json!(role);
            }
            shown
        }
    };
    json!({
        "awsKms": off(),
        "azureKeyVault": azure,
        "enabledForSearchNodes": stored.enabled_for_search_nodes,
        "googleCloudKms": off(),
    })
}

/// The API's name of an environment.
pub fn environment(environment: AzureEnvironment) -> &'static str {
    match environment {
        AzureEnvironment::Azure => "AZURE",
        AzureEnvironment::AzureChina => "AZURE_CHINA",
        AzureEnvironment::AzureUsGovernment => "AZURE_US_GOVERNMENT",
    }
}
