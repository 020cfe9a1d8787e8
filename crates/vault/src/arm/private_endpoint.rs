//! Private endpoints (`Microsoft.Network/privateEndpoints`) to the vault: what the requester sees of a connection.
//! Pure.
//!
//! The endpoint is the requester's resource. Who may make one in the requester's own resource group is none of the
//! vault's business: any application of the tenant may here.

use serde::Deserialize;
use serde_json::{Value, json};

use super::is_named;
use crate::answer::{Answer, Caller, Refusal};
use crate::authorize::authorize_arm;
use crate::state::{ConnectionStatus, PrivateEndpointConnection, UnixSeconds, Vault};

/// A private endpoint named by its resource id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointScope {
    /// Subscription id.
    pub subscription: String,
    /// Resource group.
    pub resource_group: String,
    /// Name.
    pub name: String,
}

impl EndpointScope {
    fn resource_id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Network/privateEndpoints/{}",
            self.subscription, self.resource_group, self.name
        )
    }

    fn not_found(&self) -> Refusal {
        Refusal::ArmNotFound {
            resource: format!("Microsoft.Network/privateEndpoints/{}", self.name),
            resource_group: self.resource_group.clone(),
        }
    }

    /// The connection that this endpoint asked for, by its name in the vault; ARM ids ignore case.
    fn connection<'a>(&self, vault: &'a Vault) -> Option<(&'a String, &'a PrivateEndpointConnection)> {
        let id = self.resource_id();
        vault.private_endpoints.iter().find(|(_, c)| c.private_endpoint_id.eq_ignore_ascii_case(&id))
    }
}

pub(super) fn show(vault: &Vault, scope: &EndpointScope) -> Result<Answer, Refusal> {
    let (_, connection) = scope.connection(vault).ok_or_else(|| scope.not_found())?;
    Ok(Answer::ok(resource(vault, scope, connection)))
}

/// Makes an endpoint and its connection: approved at once when the caller may approve and asked for that, else
/// pending. One that is there stays as it is.
pub(super) fn put(
    vault: &mut Vault,
    scope: &EndpointScope,
    caller: &Caller,
    body: &[u8],
    now: UnixSeconds,
) -> Result<Answer, Refusal> {
    let asked = read(vault, body)?;
    if scope.connection(vault).is_none() {
        if asked.automatic {
            authorize_arm(vault, caller, true, now)?;
        }
        if vault.private_endpoints.contains_key(&scope.name) {
            return Err(Refusal::BadParameter(format!(
                "The vault has a private endpoint connection {} of another endpoint.",
                scope.name
            )));
        }
        let connection = PrivateEndpointConnection {
            status: if asked.automatic { ConnectionStatus::Approved } else { ConnectionStatus::Pending },
            description: asked.message,
            private_endpoint_id: scope.resource_id(),
            location: Some(asked.location),
        };
        vault.private_endpoints.insert(scope.name.clone(), connection);
    }
    show(vault, scope)
}

/// Takes the endpoint away, and its connection with it.
pub(super) fn delete(vault: &mut Vault, scope: &EndpointScope) -> Answer {
    let name = scope.connection(vault).map(|(name, _)| name.clone());
    match name {
        Some(name) => {
            vault.private_endpoints.remove(&name);
            Answer { status: 202, ..Answer::ok(Value::Null) }
        }
        None => Answer { status: 204, ..Answer::ok(Value::Null) },
    }
}

struct Asked {
    location: String,
    message: String,
    automatic: bool,
}

fn read(vault: &Vault, body: &[u8]) -> Result<Asked, Refusal> {
    #[derive(Deserialize)]
    struct Wire {
        location: String,
        properties: Properties,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Properties {
        subnet: Subnet,
        #[serde(default)]
        private_link_service_connections: Vec<Link>,
        #[serde(default)]
        manual_private_link_service_connections: Vec<Link>,
    }
    #[derive(Deserialize)]
    struct Subnet {
        id: String,
    }
    #[derive(Deserialize)]
    struct Link {
        properties: LinkProperties,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct LinkProperties {
        private_link_service_id: String,
        group_ids: Vec<String>,
        #[serde(default)]
        request_message: String,
    }
    let bad = |why: &str| Refusal::BadParameter(why.to_owned());
    let wire: Wire =
        serde_json::from_slice(body).map_err(|e| bad(&format!("The request body cannot be read: {e}")))?;
    if wire.properties.subnet.id.is_empty() {
        return Err(bad("A private endpoint needs a subnet."));
    }
    let automatic = !wire.properties.private_link_service_connections.is_empty();
    let mut links = wire
        .properties
        .private_link_service_connections
        .into_iter()
        .chain(wire.properties.manual_private_link_service_connections);
    let (Some(link), None) = (links.next(), links.next()) else {
        return Err(bad("A private endpoint asks for exactly one connection."));
    };
    let asked = link.properties;
    let (group, name) = asked.private_link_service_id.rsplit_once('/').unwrap_or_default();
    let own_id = vault.resource_id();
    let own_group = own_id.rsplit_once('/').map_or("", |(group, _)| group);
    if !group.eq_ignore_ascii_case(own_group) || !is_named(vault, name) || vault.deletion.is_some() {
        return Err(Refusal::ArmNotFound {
            resource: format!("Microsoft.KeyVault/vaults/{name}"),
            resource_group: vault.resource_group.clone(),
        });
    }
    if asked.group_ids != ["vault"] {
        return Err(bad("A vault's private link resource is called vault."));
    }
    if asked.request_message.chars().count() > 140 {
        return Err(bad("A request message has at most 140 characters."));
    }
    Ok(Asked { location: wire.location, message: asked.request_message, automatic })
}

fn resource(vault: &Vault, scope: &EndpointScope, connection: &PrivateEndpointConnection) -> Value {
    json!({
        "id": scope.resource_id(),
        "name": scope.name,
        "type": "Microsoft.Network/privateEndpoints",
        "location": connection.location.as_deref().unwrap_or(&vault.location),
        "properties": {
            "provisioningState": "Succeeded",
            "privateLinkServiceConnections": [],
            "manualPrivateLinkServiceConnections": [{
                "name": scope.name,
                "properties": {
                    "provisioningState": "Succeeded",
                    "privateLinkServiceId": vault.resource_id(),
                    "groupIds": ["vault"],
                    "privateLinkServiceConnectionState": {
                        "status": format!("{:?}", connection.status),
                        "description": connection.description,
                        "actionsRequired": "None",
                    },
                },
            }],
        },
    })
}
