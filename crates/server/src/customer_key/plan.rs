//! What a PATCH comes to: merged with what is stored, or refused. Pure.

use keyward_model::{
    Code, KeyIdentifier, KeyIdentifierError,
    cloud_role::CloudRole,
    encryption::{AzureEnvironment, AzureKeyVault, EncryptionAtRest},
};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::patch::{AzureFields, AzurePatch, Patch, wrong};
use crate::http::error::ApiError;

/// What a PATCH is decided upon.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What is stored.
    pub stored: &'a EncryptionAtRest,
    /// The client secret that is stored.
    pub secret: Option<&'a SecretString>,
    /// Regions of the private endpoints that exist, those being deleted included.
    pub endpoints: &'a [String],
    /// Names of the clusters that use the customer key.
    pub clusters: &'a [String],
    /// The project's cloud provider access roles.
    pub roles: &'a [CloudRole],
    /// Whether vaults answer under names of their own: a development vault does not.
    pub vaults_have_names: bool,
}

/// What is to be stored.
#[derive(Debug)]
pub struct Plan {
    /// The configuration; `None` switches it off.
    pub vault: Option<AzureKeyVault>,
    /// Whether search nodes are included.
    pub search_nodes: bool,
    /// The client secret.
    pub secret: SecretPlan,
    /// Whether the vault has to be asked before. It is whenever the configuration was given, changed or not: who
    /// saves it once more wants to know whether it works.
    pub check: bool,
    /// Whether credentials changed: new ones take a while to be known everywhere in Azure.
    pub new_credential: bool,
    /// Whether the customer key becomes another one than there was.
    pub key_replaced: bool,
    /// The names of the fields that change; empty when nothing does.
    pub changed: Vec<&'static str>,
}

/// What becomes of the client secret.
#[derive(Debug)]
pub enum SecretPlan {
    /// It stays.
    Keep,
    /// It is replaced.
    Set(SecretString),
    /// It goes.
    Drop,
}

/// Merges `patch` with what is stored, or refuses it.
pub fn plan(patch: Patch, at: Situation<'_>) -> Result<Plan, ApiError> {
    let search_nodes = patch.search_nodes.unwrap_or(at.stored.enabled_for_search_nodes);
    let stored = at.stored.azure_key_vault.as_ref();
    let mut plan = match patch.azure {
        AzurePatch::Untouched => unchanged(stored, search_nodes),
        AzurePatch::Disable => disable(stored, search_nodes, at)?,
        AzurePatch::Set(given) => set(*given, search_nodes, at)?,
    };
    if search_nodes != at.stored.enabled_for_search_nodes {
        plan.changed.push("enabledForSearchNodes");
    }
    Ok(plan)
}

fn unchanged(stored: Option<&AzureKeyVault>, search_nodes: bool) -> Plan {
    Plan {
        vault: stored.cloned(),
        search_nodes,
        secret: SecretPlan::Keep,
        check: false,
        new_credential: false,
        key_replaced: false,
        changed: Vec::new(),
    }
}

fn disable(stored: Option<&AzureKeyVault>, search_nodes: bool, at: Situation<'_>) -> Result<Plan, ApiError> {
    if stored.is_none() {
        return Ok(unchanged(None, search_nodes));
    }
    if !at.clusters.is_empty() {
        let names = at.clusters.join(", ");
        let mut error = ApiError::new(Code::CannotDisableEncryptionAtRestUsedByClusters)
            .detail(format!("The customer key cannot be switched off: it is used by {names}."));
        for name in at.clusters {
            error = error.param(name);
        }
        return Err(error);
    }
    if !at.endpoints.is_empty() {
        let mut error = ApiError::new(Code::CannotDisableEncryptionAtRestDueToPrivateEndpoints);
        for region in at.endpoints {
            error = error.param(region);
        }
        return Err(error);
    }
    let secret = SecretPlan::Drop;
    Ok(Plan { vault: None, secret, changed: vec!["enabled"], ..unchanged(None, search_nodes) })
}

fn set(given: AzureFields, search_nodes: bool, at: Situation<'_>) -> Result<Plan, ApiError> {
    let stored = at.stored.azure_key_vault.as_ref();
    if stored.is_none() && !given.enabled {
        return Err(missing(&["enabled"]));
    }
    let role = role_of(&given, stored, at)?;
    let vault = merge(&given, stored, role)?;
    let has_credential =
        role.is_some() || given.secret.is_some() || (at.secret.is_some() && vault.role_id.is_none());
    if !has_credential {
        return Err(missing(&["secret"]).detail(
            "The attribute azureKeyVault.secret is missing: give a client secret, or roleId to use a service principal.",
        ));
    }
    let key = identifier(&vault, at.vaults_have_names)?;
    if let Some(stored) = stored {
        guard_private_networking(stored, &vault, at)?;
    }
    let secret = match (given.secret, &vault.role_id) {
        // Terraform sends the secret with every change.
        (Some(secret), _) if at.secret.is_some_and(|stored| same(stored, &secret)) => SecretPlan::Keep,
        (Some(secret), _) => SecretPlan::Set(secret),
        (None, Some(_)) if at.secret.is_some() => SecretPlan::Drop,
        (None, _) => SecretPlan::Keep,
    };
    let mut changed = stored.map_or_else(|| vec!["enabled"], |stored| differences(stored, &vault));
    let secret_set = matches!(secret, SecretPlan::Set(_));
    if secret_set {
        changed.push("secret");
    }
    let credential_fields = ["enabled", "clientID", "tenantID", "secret", "roleId"];
    Ok(Plan {
        search_nodes,
        secret,
        check: true,
        new_credential: changed.iter().any(|field| credential_fields.contains(field)),
        key_replaced: stored.is_some_and(|stored| stored.key().ok().as_ref() != Some(&key)),
        changed,
        vault: Some(vault),
    })
}

fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret().as_bytes().ct_eq(other.expose_secret().as_bytes()).into()
}

/// The role in force: the one given, or the stored one unless a secret takes its place.
fn role_of<'a>(
    given: &AzureFields,
    stored: Option<&AzureKeyVault>,
    at: Situation<'a>,
) -> Result<Option<&'a CloudRole>, ApiError> {
    let id = match (given.role_id, &given.secret) {
        (Some(id), _) => id,
        (None, Some(_)) => return Ok(None),
        (None, None) => match stored.and_then(|stored| stored.role_id) {
            Some(id) => id,
            None => return Ok(None),
        },
    };
    match at.roles.iter().find(|role| role.id == id) {
        Some(role) => Ok(Some(role)),
        None => Err(ApiError::new(Code::CloudProviderAccessRoleNotFound)
            .detail(format!("The project has no cloud provider access role {id}."))
            .param(id)),
    }
}

fn merge(
    given: &AzureFields,
    stored: Option<&AzureKeyVault>,
    role: Option<&CloudRole>,
) -> Result<AzureKeyVault, ApiError> {
    let pick = |given: &Option<String>, stored: Option<&String>| given.clone().or_else(|| stored.cloned());
    // A role brings its application and tenant; those of a credential it replaces are not kept.
    let of_role = |of: fn(&CloudRole) -> &String| match (given.role_id, role) {
        (Some(_), Some(role)) => Some(of(role).clone()),
        _ => None,
    };
    let client_id = given.client_id.clone().or_else(|| of_role(|role| &role.atlas_azure_app_id));
    let tenant_id = given.tenant_id.clone().or_else(|| of_role(|role| &role.tenant_id));
    let client_id = pick(&client_id, stored.map(|stored| &stored.client_id));
    let tenant_id = pick(&tenant_id, stored.map(|stored| &stored.tenant_id));
    let subscription_id = pick(&given.subscription_id, stored.map(|stored| &stored.subscription_id));
    let resource_group_name =
        pick(&given.resource_group_name, stored.map(|stored| &stored.resource_group_name));
    let key_vault_name = pick(&given.key_vault_name, stored.map(|stored| &stored.key_vault_name));
    let key_identifier = pick(&given.key_identifier, stored.map(|stored| &stored.key_identifier));
    let absent: Vec<&str> = [
        ("clientID", &client_id),
        ("tenantID", &tenant_id),
        ("subscriptionID", &subscription_id),
        ("resourceGroupName", &resource_group_name),
        ("keyVaultName", &key_vault_name),
        ("keyIdentifier", &key_identifier),
    ]
    .into_iter()
    .filter(|(_, value)| value.is_none())
    .map(|(name, _)| name)
    .collect();
    let (
        Some(client_id),
        Some(tenant_id),
        Some(subscription_id),
        Some(resource_group_name),
        Some(key_vault_name),
        Some(key_identifier),
    ) = (client_id, tenant_id, subscription_id, resource_group_name, key_vault_name, key_identifier)
    else {
        return Err(missing(&absent));
    };
    if let Some(role) = role.filter(|role| !role.tenant_id.eq_ignore_ascii_case(&tenant_id)) {
        let what = format!("is not the tenant of the role {}", role.id);
        return Err(wrong("azureKeyVault.tenantID", what));
    }
    Ok(AzureKeyVault {
        azure_environment: given
            .environment
            .or(stored.map(|stored| stored.azure_environment))
            .unwrap_or_default(),
        client_id,
        tenant_id,
        subscription_id,
        resource_group_name,
        key_vault_name,
        key_identifier,
        role_id: role.map(|role| role.id),
        require_private_networking: given
            .require_private_networking
            .or(stored.map(|stored| stored.require_private_networking))
            .unwrap_or_default(),
    })
}

/// The key identifier, which must name a key of the vault that is named beside it.
fn identifier(vault: &AzureKeyVault, vaults_have_names: bool) -> Result<KeyIdentifier, ApiError> {
    let malformed = |why: String| {
        ApiError::new(Code::AzureKeyVaultKeyIdentifierInvalidFormat)
            .detail(format!("The attribute azureKeyVault.keyIdentifier is malformed: {why}."))
            .param("azureKeyVault.keyIdentifier")
            .field("azureKeyVault.keyIdentifier", why)
    };
    let key = vault.key().map_err(|error: KeyIdentifierError| malformed(error.to_string()))?;
    let suffix = match vault.azure_environment {
        AzureEnvironment::Azure if !vaults_have_names => return Ok(key),
        AzureEnvironment::Azure => "vault.azure.net",
        AzureEnvironment::AzureChina => "vault.azure.cn",
        AzureEnvironment::AzureUsGovernment => "vault.usgovcloudapi.net",
    };
    let expected = format!("{}.{suffix}", vault.key_vault_name);
    if !key.vault_host().eq_ignore_ascii_case(&expected) {
        let why = format!("it is in {}, not in {expected}, which keyVaultName names", key.vault_host());
        return Err(malformed(why));
    }
    Ok(key)
}

fn guard_private_networking(
    stored: &AzureKeyVault,
    next: &AzureKeyVault,
    at: Situation<'_>,
) -> Result<(), ApiError> {
    let giving_up = stored.require_private_networking && !next.require_private_networking;
    if giving_up && !at.endpoints.is_empty() {
        return Err(ApiError::new(Code::CannotStopRequiringPrivateNetworking));
    }
    let set_up =
        !at.endpoints.is_empty() || (stored.require_private_networking && next.require_private_networking);
    let fixed = ["keyVaultName", "resourceGroupName", "subscriptionID"];
    let moved = differences(stored, next).into_iter().filter(|field| fixed.contains(field));
    match (set_up, moved.collect::<Vec<_>>().as_slice()) {
        (true, [first, ..]) => {
            let path = format!("azureKeyVault.{first}");
            Err(ApiError::new(Code::EncryptionAtRestVaultIsFixed)
                .param(&path)
                .field(path, "cannot be changed"))
        }
        (true, []) | (false, _) => Ok(()),
    }
}

/// The API's names of the fields in which two configurations differ.
fn differences(one: &AzureKeyVault, other: &AzureKeyVault) -> Vec<&'static str> {
    let AzureKeyVault {
        azure_environment,
        client_id,
        tenant_id,
        subscription_id,
        resource_group_name,
        key_vault_name,
        key_identifier,
        role_id,
        require_private_networking,
    } = one;
    [
        ("azureEnvironment", *azure_environment != other.azure_environment),
        ("clientID", *client_id != other.client_id),
        ("tenantID", *tenant_id != other.tenant_id),
        ("subscriptionID", *subscription_id != other.subscription_id),
        ("resourceGroupName", *resource_group_name != other.resource_group_name),
        ("keyVaultName", *key_vault_name != other.key_vault_name),
        ("keyIdentifier", *key_identifier != other.key_identifier),
        ("roleId", *role_id != other.role_id),
        ("requirePrivateNetworking", *require_private_networking != other.require_private_networking),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| name)
    .collect()
}

fn missing(names: &[&str]) -> ApiError {
    let code = if names.len() == 1 { Code::MissingAttribute } else { Code::MissingAttributes };
    let paths: Vec<String> = names.iter().map(|name| format!("azureKeyVault.{name}")).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let mut error = ApiError::new(code).detail(format!("{} {verb} missing.", paths.join(", ")));
    for path in paths {
        error = error.param(&path).field(path, "is missing");
    }
    error
}

#[cfg(test)]
mod tests;
