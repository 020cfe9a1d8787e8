//! From a project's configuration to what its nodes are told. Pure.

use keyward_model::{
    Timestamp,
    encryption::{AzureKeyVault, EncryptionAtRest},
    sync::{DesiredCredential, DesiredEncryption},
};

/// What nodes are told of the project's customer key; `None` while there is none.
///
/// `secret` is the client secret as the store has it. A configuration with a role has none: the hosts prove
/// themselves.
pub fn desired(stored: &EncryptionAtRest, secret: Option<&str>) -> Option<DesiredEncryption> {
    let vault = stored.azure_key_vault.as_ref()?;
    desired_for(vault, secret, stored, stored.client_secret_expires)
}

/// The same for a configuration that is not stored yet; the rest is as stored.
pub fn desired_for(
    vault: &AzureKeyVault,
    secret: Option<&str>,
    stored: &EncryptionAtRest,
    client_secret_expires: Option<Timestamp>,
) -> Option<DesiredEncryption> {
    let credential = match (vault.role_id, secret) {
        (Some(_), _) => DesiredCredential::OfTheHost,
        (None, Some(secret)) => DesiredCredential::ClientSecret { secret: secret.to_owned() },
        (None, None) => return None,
    };
    Some(DesiredEncryption {
        key_identifier: vault.key().ok()?,
        azure_environment: vault.azure_environment,
        tenant_id: vault.tenant_id.clone(),
        client_id: vault.client_id.clone(),
        subscription_id: Some(vault.subscription_id.clone()),
        resource_group_name: Some(vault.resource_group_name.clone()),
        credential,
        require_private_networking: vault.require_private_networking,
        policy: stored.policy,
        client_secret_expires,
    })
}
