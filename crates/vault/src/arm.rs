//! Azure Resource Manager, as far as a vault is concerned: reading it, deleted vaults, private endpoint
//! connections and the private endpoints that ask for them. Pure.

mod private_endpoint;

use serde::Deserialize;
use serde_json::{Value, json};

pub use private_endpoint::EndpointScope;

use crate::answer::{Answer, Caller, Refusal};
use crate::authorize::{Permission, authorize_arm};
use crate::state::{
    AccessModel, ConnectionStatus, Directory, PolicyEntry, PrivateEndpointConnection, State, UnixSeconds,
    Vault, VaultDeletion,
};

/// A call of ARM.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ArmCall {
    Vault(Scope),
    DeletedVault { subscription: String, location: String, vault: String },
    DeletedVaults { subscription: String },
    Connections(Scope),
    Connection { scope: Scope, name: String },
    SetConnection { scope: Scope, name: String },
    PrivateLinkResources(Scope),
    Endpoint(EndpointScope),
    PutEndpoint(EndpointScope),
    DeleteEndpoint(EndpointScope),
}

/// A vault named by its resource id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Subscription id.
    pub subscription: String,
    /// Resource group.
    pub resource_group: String,
    /// Vault name.
    pub vault: String,
}

impl ArmCall {
    /// Name for the access log.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Vault(_) => "ArmVaultGet",
            Self::DeletedVault { .. } => "ArmDeletedVaultGet",
            Self::DeletedVaults { .. } => "ArmDeletedVaultList",
            Self::Connections(_) => "ArmPrivateEndpointConnectionList",
            Self::Connection { .. } => "ArmPrivateEndpointConnectionGet",
            Self::SetConnection { .. } => "ArmPrivateEndpointConnectionPut",
            Self::PrivateLinkResources(_) => "ArmPrivateLinkResourceList",
            Self::Endpoint(_) => "ArmPrivateEndpointGet",
            Self::PutEndpoint(_) => "ArmPrivateEndpointPut",
            Self::DeleteEndpoint(_) => "ArmPrivateEndpointDelete",
        }
    }

    /// Whether it changes the vault.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::SetConnection { .. } | Self::PutEndpoint(_) | Self::DeleteEndpoint(_))
    }
}

/// Reads method and path; resource types compare without case, as ARM does.
pub fn route(method: &str, path: &str) -> Result<ArmCall, Refusal> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let lower: Vec<String> = segments.iter().map(|s| s.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let text = |at: usize| segments.get(at).copied().unwrap_or_default().to_owned();
    let scope = || Scope { subscription: text(1), resource_group: text(3), vault: text(7) };
    match (lower.as_slice(), method) {
        (
            ["subscriptions", _, "resourcegroups", _, "providers", "microsoft.keyvault", "vaults", _],
            "GET",
        ) => Ok(ArmCall::Vault(scope())),
        (["subscriptions", _, "providers", "microsoft.keyvault", "deletedvaults"], "GET") => {
            Ok(ArmCall::DeletedVaults { subscription: text(1) })
        }
        (
            ["subscriptions", _, "providers", "microsoft.keyvault", "locations", _, "deletedvaults", _],
            "GET",
        ) => Ok(ArmCall::DeletedVault { subscription: text(1), location: text(5), vault: text(7) }),
        (
            [
                "subscriptions",
                _,
                "resourcegroups",
                _,
                "providers",
                "microsoft.keyvault",
                "vaults",
                _,
                "privateendpointconnections",
                rest @ ..,
            ],
            _,
        ) => match (rest, method) {
            ([], "GET") => Ok(ArmCall::Connections(scope())),
            ([_], "GET") => Ok(ArmCall::Connection { scope: scope(), name: text(9) }),
            ([_], "PUT") => Ok(ArmCall::SetConnection { scope: scope(), name: text(9) }),
            ([] | [_], _) => Err(Refusal::MethodNotAllowed),
            _ => Err(Refusal::NoSuchPath),
        },
        (
            [
                "subscriptions",
                _,
                "resourcegroups",
                _,
                "providers",
                "microsoft.keyvault",
                "vaults",
                _,
                "privatelinkresources",
            ],
            "GET",
        ) => Ok(ArmCall::PrivateLinkResources(scope())),
        (
            [
                "subscriptions",
                _,
                "resourcegroups",
                _,
                "providers",
                "microsoft.network",
                "privateendpoints",
                _,
            ],
            _,
        ) => {
            let scope = EndpointScope { subscription: text(1), resource_group: text(3), name: text(7) };
            match method {
                "GET" => Ok(ArmCall::Endpoint(scope)),
                "PUT" => Ok(ArmCall::PutEndpoint(scope)),
                "DELETE" => Ok(ArmCall::DeleteEndpoint(scope)),
                _ => Err(Refusal::MethodNotAllowed),
            }
        }
        _ => Err(Refusal::NoSuchPath),
    }
}

/// Does a call. Only those that [`ArmCall::is_write`] names change the state.
pub fn answer(
    state: &mut State,
    call: &ArmCall,
    caller: &Caller,
    body: &[u8],
    now: UnixSeconds,
    vault_uri: &str,
) -> Result<Answer, Refusal> {
    match call {
        ArmCall::DeletedVault { subscription, location, vault } => {
            let known = &state.vault;
            authorize_arm(known, caller, false, now)?;
            let same = known.subscription_id.eq_ignore_ascii_case(subscription)
                && known.location.eq_ignore_ascii_case(location)
                && is_named(known, vault);
            match (&known.deletion, same) {
                (Some(deletion), true) => Ok(Answer::ok(deleted_resource(known, deletion))),
                (Some(_) | None, _) => {
                    Err(Refusal::ArmDeletedVaultNotFound { vault: vault.clone(), location: location.clone() })
                }
            }
        }
        ArmCall::DeletedVaults { subscription } => {
            let known = &state.vault;
            authorize_arm(known, caller, false, now)?;
            let here = known.subscription_id.eq_ignore_ascii_case(subscription);
            let deletion = known.deletion.as_ref().filter(|_| here);
            let value: Vec<Value> = deletion.iter().map(|d| deleted_resource(known, d)).collect();
            Ok(Answer::ok(json!({ "value": value })))
        }
        ArmCall::Vault(scope) => {
            let vault = in_scope(state, scope, caller, false, now)?;
            Ok(Answer::ok(vault_resource(vault, &state.directory, vault_uri)))
        }
        ArmCall::Connections(scope) => {
            let vault = in_scope(state, scope, caller, false, now)?;
            let value: Vec<Value> =
                vault.private_endpoints.iter().map(|(name, c)| connection_resource(vault, name, c)).collect();
            Ok(Answer::ok(json!({ "value": value })))
        }
        ArmCall::Connection { scope, name } => {
            let vault = in_scope(state, scope, caller, false, now)?;
            match vault.private_endpoints.get(name) {
                Some(connection) => Ok(Answer::ok(connection_resource(vault, name, connection))),
                None => Err(connection_not_found(scope, name)),
            }
        }
        ArmCall::SetConnection { scope, name } => {
            in_scope(state, scope, caller, true, now)?;
            let (status, description) = read_connection(body)?;
            if !state.vault.private_endpoints.contains_key(name) {
                return Err(connection_not_found(scope, name));
            }
            set_connection(&mut state.vault, name, status, &description)?;
            let vault = &state.vault;
            let shown = vault.private_endpoints.get(name).map(|c| connection_resource(vault, name, c));
            Ok(Answer::ok(shown.unwrap_or(Value::Null)))
        }
        ArmCall::Endpoint(scope) => private_endpoint::show(&state.vault, scope),
        ArmCall::PutEndpoint(scope) => private_endpoint::put(&mut state.vault, scope, caller, body, now),
        ArmCall::DeleteEndpoint(scope) => Ok(private_endpoint::delete(&mut state.vault, scope)),
        ArmCall::PrivateLinkResources(scope) => {
            let vault = in_scope(state, scope, caller, false, now)?;
            Ok(Answer::ok(json!({ "value": [{
                "id": format!("{}/privateLinkResources/vault", vault.resource_id()),
                "name": "vault",
                "type": "Microsoft.KeyVault/vaults/privateLinkResources",
                "properties": {
                    "groupId": "vault",
                    "requiredMembers": ["default"],
                    "requiredZoneNames": ["privatelink.vaultcore.azure.net"],
                },
            }]})))
        }
    }
}

/// Moves a private endpoint connection to another state.
pub fn set_connection(
    vault: &mut Vault,
    name: &str,
    status: ConnectionStatus,
    description: &str,
) -> Result<(), Refusal> {
    let resource_group = vault.resource_group.clone();
    let Some(connection) = vault.private_endpoints.get_mut(name) else {
        let resource = format!("Microsoft.KeyVault/vaults/{}/privateEndpointConnections/{name}", vault.name);
        return Err(Refusal::ArmNotFound { resource, resource_group });
    };
    if matches!(connection.status, ConnectionStatus::Rejected | ConnectionStatus::Disconnected)
        && connection.status != status
    {
        return Err(Refusal::ConnectionIsFinal {
            name: name.to_owned(),
            status: format!("{:?}", connection.status),
        });
    }
    connection.status = status;
    connection.description = description.to_owned();
    Ok(())
}

fn in_scope<'a>(
    state: &'a State,
    scope: &Scope,
    caller: &Caller,
    write: bool,
    now: UnixSeconds,
) -> Result<&'a Vault, Refusal> {
    let vault = &state.vault;
    authorize_arm(vault, caller, write, now)?;
    let same = vault.subscription_id.eq_ignore_ascii_case(&scope.subscription)
        && vault.resource_group.eq_ignore_ascii_case(&scope.resource_group)
        && is_named(vault, &scope.vault);
    if same && vault.deletion.is_none() {
        Ok(vault)
    } else {
        Err(Refusal::ArmNotFound {
            resource: format!("Microsoft.KeyVault/vaults/{}", scope.vault),
            resource_group: scope.resource_group.clone(),
        })
    }
}

/// A vault goes by the first label of its host; on a development machine that is `localhost`.
fn is_named(vault: &Vault, name: &str) -> bool {
    vault.name.eq_ignore_ascii_case(name) || name.eq_ignore_ascii_case("localhost")
}

fn deleted_resource(vault: &Vault, deletion: &VaultDeletion) -> Value {
    json!({
        "id": format!(
            "/subscriptions/{}/providers/Microsoft.KeyVault/locations/{}/deletedVaults/{}",
            vault.subscription_id, vault.location, vault.name
        ),
        "name": vault.name,
        "type": "Microsoft.KeyVault/deletedVaults",
        "properties": {
            "vaultId": vault.resource_id(),
            "location": vault.location,
            "deletionDate": rfc3339(deletion.deleted),
            "scheduledPurgeDate": rfc3339(deletion.scheduled_purge),
            "purgeProtectionEnabled": vault.purge_protection,
        },
    })
}

fn connection_not_found(scope: &Scope, name: &str) -> Refusal {
    Refusal::ArmNotFound {
        resource: format!("Microsoft.KeyVault/vaults/{}/privateEndpointConnections/{name}", scope.vault),
        resource_group: scope.resource_group.clone(),
    }
}

fn read_connection(body: &[u8]) -> Result<(ConnectionStatus, String), Refusal> {
    #[derive(Deserialize)]
    struct Wire {
        properties: Properties,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Properties {
        private_link_service_connection_state: ConnectionState,
    }
    #[derive(Deserialize)]
    struct ConnectionState {
        status: ConnectionStatus,
        #[serde(default)]
        description: String,
    }
    let wire: Wire = serde_json::from_slice(body)
        .map_err(|e| Refusal::BadParameter(format!("The request body cannot be read: {e}")))?;
    let state = wire.properties.private_link_service_connection_state;
    Ok((state.status, state.description))
}

fn vault_resource(vault: &Vault, directory: &Directory, vault_uri: &str) -> Value {
    let connections: Vec<Value> = vault
        .private_endpoints
        .iter()
        .map(|(name, c)| {
            let shown = connection_resource(vault, name, c);
            json!({ "id": shown["id"], "properties": shown["properties"] })
        })
        .collect();
    let mut properties = json!({
        "sku": { "family": "A", "name": vault.sku },
        "tenantId": directory.tenant_id,
        "accessPolicies": vault.policies.iter().map(|p| policy(directory, p)).collect::<Vec<_>>(),
        "enabledForDeployment": false,
        "enableSoftDelete": true,
        "softDeleteRetentionInDays": vault.retention_days,
        "enableRbacAuthorization": vault.access_model == AccessModel::Rbac,
        "vaultUri": format!("{vault_uri}/"),
        "provisioningState": "Succeeded",
        "publicNetworkAccess": if vault.network.public_access { "Enabled" } else { "Disabled" },
        "networkAcls": {
            "bypass": "None",
            "defaultAction": if vault.network.default_allow { "Allow" } else { "Deny" },
            "ipRules": vault.network.ip_rules.iter().map(|r| json!({ "value": r })).collect::<Vec<_>>(),
            "virtualNetworkRules": [],
        },
    });
    // Azure leaves it out when off.
    if vault.purge_protection {
        properties["enablePurgeProtection"] = json!(true);
    }
    if !connections.is_empty() {
        properties["privateEndpointConnections"] = json!(connections);
    }
    json!({
        "id": vault.resource_id(),
        "name": vault.name,
        "type": "Microsoft.KeyVault/vaults",
        "location": vault.location,
        "tags": {},
        "systemData": { "createdAt": rfc3339(vault.created) },
        "properties": properties,
    })
}

fn policy(directory: &Directory, entry: &PolicyEntry) -> Value {
    let words: Vec<&str> = entry.permissions.iter().map(|p: &Permission| p.policy_word()).collect();
    json!({
        "tenantId": directory.tenant_id,
        "objectId": entry.object_id,
        "permissions": { "keys": words, "secrets": [], "certificates": [] },
    })
}

fn connection_resource(vault: &Vault, name: &str, connection: &PrivateEndpointConnection) -> Value {
    json!({
        "id": format!("{}/privateEndpointConnections/{name}", vault.resource_id()),
        "name": name,
        "type": "Microsoft.KeyVault/vaults/privateEndpointConnections",
        "location": vault.location,
        "properties": {
            "provisioningState": "Succeeded",
            "privateEndpoint": { "id": connection.private_endpoint_id },
            "privateLinkServiceConnectionState": {
                "status": format!("{:?}", connection.status),
                "description": connection.description,
                "actionsRequired": "None",
            },
        },
    })
}

fn rfc3339(time: UnixSeconds) -> String {
    jiff::Timestamp::from_second(time).unwrap_or_default().to_string()
}
