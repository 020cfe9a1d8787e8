//! Private endpoints to a vault, through Azure Resource Manager: asked for in our network, approved by the vault's
//! owner.
//!
//! The endpoint is a resource of ours; the connection that it asks for is the vault's. A connection that was
//! rejected or removed is final for its endpoint: another one has to be made.

use std::sync::Arc;

use http::header;
use keyward_model::Class;
use serde::Deserialize;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::{
    classify::Stage,
    config::{AzureConfig, ConfigError},
    names::HostNames,
    token::Tokens,
    transport::{Failure, Reply, Request, Transport, wiped_body},
};
use crate::Facts;

/// `Microsoft.Network`.
const NETWORK_VERSION: &str = "2024-05-01";
/// `Microsoft.KeyVault`.
const VAULT_VERSION: &str = "2026-02-01";

/// ARM, as one application may use it for private endpoints.
#[derive(Debug)]
pub struct PrivateLink {
    arm: Url,
    tokens: Tokens,
    transport: Transport,
}

/// A private endpoint to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPrivateEndpoint {
    /// ARM id of the endpoint:
    /// `/subscriptions/…/resourceGroups/…/providers/Microsoft.Network/privateEndpoints/NAME`.
    pub id: String,
    /// Azure's name of its region (`westeurope`).
    pub location: String,
    /// ARM id of the subnet it gets its address from.
    pub subnet_id: String,
    /// ARM id of the vault.
    pub vault_id: String,
    /// What the vault's owner reads beside the request, at most 140 characters.
    pub message: String,
}

/// A private endpoint as ARM shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeenEndpoint {
    /// There is none.
    Absent,
    /// Azure is at work on it.
    Provisioning,
    /// Azure could not make it.
    ProvisioningFailed,
    /// It is there, and its connection to the vault is in this state.
    Connection {
        /// `Pending`, `Approved`, `Rejected` or `Disconnected`.
        state: ConnectionState,
        /// What the vault's owner wrote.
        description: String,
    },
}

/// State of a connection to a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ConnectionState {
    /// Waits for the vault's owner.
    Pending,
    /// Traffic is let in.
    Approved,
    /// The owner refused; final.
    Rejected,
    /// The owner removed it; final.
    Disconnected,
}

/// A call of ARM that did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Azure Resource Manager: {} ({facts})", class.text())]
pub struct ArmError {
    /// What it means.
    pub class: Class,
    /// What is known of the answer.
    pub facts: Box<Facts>,
}

impl From<Failure> for ArmError {
    fn from(failure: Failure) -> Self {
        Self { class: failure.class, facts: Box::new(failure.facts) }
    }
}

impl PrivateLink {
    /// Sets up the client. Nothing is sent, and no credential is read yet.
    pub fn new(config: &AzureConfig) -> Result<Self, ConfigError> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(problem);
        }
        let places = config.places();
        let transport = Transport::secure(config, Arc::new(HostNames))?;
        let tokens = Tokens::new(config, places.authorities[0].clone(), transport.clone())?;
        Ok(Self { arm: places.arm, tokens, transport })
    }

    /// Asks for an endpoint with a connection that the vault's owner has to approve. Asking again for the same one
    /// changes nothing.
    pub async fn request(&self, asked: &NewPrivateEndpoint) -> Result<SeenEndpoint, ArmError> {
        let name = asked.id.rsplit('/').next().unwrap_or_default();
        let body = json!({
            "location": asked.location,
            "properties": {
                "subnet": { "id": asked.subnet_id },
                "manualPrivateLinkServiceConnections": [{
                    "name": name,
                    "properties": {
                        "privateLinkServiceId": asked.vault_id,
                        "groupIds": ["vault"],
                        "requestMessage": asked.message,
                    },
                }],
            },
        });
        let url = self.at(&asked.id, NETWORK_VERSION);
        let body = wiped_body(Zeroizing::new(body.to_string().into_bytes()));
        let reply = self.send(Request::put(url.clone(), "application/json", body)).await?;
        Ok(read_endpoint(&reply.body).map_err(|why| Failure::new(Class::Malformed, &url, why))?)
    }

    /// Looks at an endpoint by its ARM id.
    pub async fn look(&self, id: &str) -> Result<SeenEndpoint, ArmError> {
        let url = self.at(id, NETWORK_VERSION);
        match self.send(Request::get(url.clone())).await {
            Ok(reply) => {
                Ok(read_endpoint(&reply.body).map_err(|why| Failure::new(Class::Malformed, &url, why))?)
            }
            Err(failure) if is_absent(&failure) => Ok(SeenEndpoint::Absent),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Deletes an endpoint by its ARM id; one that is not there counts as deleted.
    pub async fn delete(&self, id: &str) -> Result<(), ArmError> {
        match self.send(Request::delete(self.at(id, NETWORK_VERSION))).await {
            Ok(_) => Ok(()),
            Err(failure) if is_absent(&failure) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The name that the vault gave the connection of an endpoint, for the owner to approve it by. Needs
    /// `vaults/read`; `None` when the vault does not list it.
    pub async fn connection_name(
        &self,
        vault_id: &str,
        endpoint_id: &str,
    ) -> Result<Option<String>, ArmError> {
        let url = self.at(&format!("{vault_id}/privateEndpointConnections"), VAULT_VERSION);
        let reply = self.send(Request::get(url.clone())).await?;
        let list: Connections = serde_json::from_slice(&reply.body).map_err(|_| {
            Failure::new(Class::Malformed, &url, "the answer is not a list of private endpoint connections")
        })?;
        let of_ours = |connection: &Connection| {
            let endpoint = connection.properties.private_endpoint.as_ref();
            endpoint.is_some_and(|endpoint| endpoint.id.eq_ignore_ascii_case(endpoint_id))
        };
        Ok(list.value.into_iter().find(of_ours).map(|connection| connection.name))
    }

    async fn send(&self, mut request: Request) -> Result<Reply, Failure> {
        let resource = self.arm.as_str().trim_end_matches('/');
        let bearer = self.tokens.get(resource).await?;
        request.headers.insert(header::AUTHORIZATION, bearer.header);
        let reply = self.transport.send(request).await?;
        if reply.status == 401 {
            self.tokens.forget(resource).await;
        }
        match reply.classify(Stage::ResourceManager) {
            (Class::Success, _) => Ok(reply),
            (class, facts) => Err(Failure { class, facts }),
        }
    }

    fn at(&self, path: &str, version: &str) -> Url {
        let mut url = self.arm.clone();
        url.set_path(path);
        url.query_pairs_mut().append_pair("api-version", version);
        url
    }
}

fn is_absent(failure: &Failure) -> bool {
    failure.facts.http_status == Some(404)
        && matches!(
            failure.facts.code.as_deref(),
            Some("ResourceNotFound" | "ResourceGroupNotFound" | "NotFound")
        )
}

fn read_endpoint(body: &[u8]) -> Result<SeenEndpoint, &'static str> {
    let endpoint: Endpoint =
        serde_json::from_slice(body).map_err(|_| "the answer is not a private endpoint")?;
    let properties = endpoint.properties;
    match properties.provisioning_state.as_str() {
        "Succeeded" => {}
        "Failed" | "Canceled" => return Ok(SeenEndpoint::ProvisioningFailed),
        _ => return Ok(SeenEndpoint::Provisioning),
    }
    let mut links = properties
        .manual_private_link_service_connections
        .into_iter()
        .chain(properties.private_link_service_connections);
    let link = links.next().ok_or("the private endpoint asks for no connection")?;
    let state = link.properties.private_link_service_connection_state;
    Ok(SeenEndpoint::Connection { state: state.status, description: state.description.unwrap_or_default() })
}

#[derive(Deserialize)]
struct Endpoint {
    properties: EndpointProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointProperties {
    provisioning_state: String,
    #[serde(default)]
    manual_private_link_service_connections: Vec<Link>,
    #[serde(default)]
    private_link_service_connections: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    properties: LinkProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinkProperties {
    private_link_service_connection_state: LinkState,
}

#[derive(Deserialize)]
struct LinkState {
    status: ConnectionState,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Connections {
    value: Vec<Connection>,
}

#[derive(Deserialize)]
struct Connection {
    name: String,
    properties: ConnectionProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionProperties {
    private_endpoint: Option<EndpointReference>,
}

#[derive(Deserialize)]
struct EndpointReference {
    id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(provisioning: &str, list: &str, status: &str) -> Result<SeenEndpoint, &'static str> {
        let body = json!({
            "name": "kw-1",
            "properties": {
                "provisioningState": provisioning,
                list: [{ "name": "kw-1", "properties": {
                    "privateLinkServiceConnectionState": { "status": status, "description": "by the owner" },
                }}],
            },
        });
        read_endpoint(body.to_string().as_bytes())
    }

    #[test]
    fn an_endpoint_is_read_from_either_list_of_connections() {
        let states = [
            ("Pending", ConnectionState::Pending),
            ("Approved", ConnectionState::Approved),
            ("Rejected", ConnectionState::Rejected),
            ("Disconnected", ConnectionState::Disconnected),
        ];
        for list in ["manualPrivateLinkServiceConnections", "privateLinkServiceConnections"] {
            for (text, state) in states {
                let seen = read("Succeeded", list, text);
                assert_eq!(seen, Ok(SeenEndpoint::Connection { state, description: "by the owner".into() }));
            }
        }
        let list = "manualPrivateLinkServiceConnections";
        assert_eq!(read("Updating", list, "Pending"), Ok(SeenEndpoint::Provisioning));
        assert_eq!(read("Failed", list, "Pending"), Ok(SeenEndpoint::ProvisioningFailed));
        assert!(read("Succeeded", list, "Odd").is_err());
        assert!(read("Succeeded", "elsewhere", "Pending").is_err());
        assert!(read_endpoint(b"[]").is_err());
    }
}
