//! Private endpoints to the project's vault.

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    encryption::EncryptionAtRest,
    event::EventType,
    id::{EndpointId, ProjectId},
    private_endpoint::{EndpointStatus, PrivateEndpoint, azure_location},
};
use keyward_store::{Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Content, Operation, Reply, Request, grants::PROJECT_OWNER};
use crate::{handler, http::error::ApiError};

const LIST: &str = "/api/atlas/v2/groups/{groupId}/encryptionAtRest/{cloudProvider}/privateEndpoints";
const ONE: &str =
    "/api/atlas/v2/groups/{groupId}/encryptionAtRest/{cloudProvider}/privateEndpoints/{endpointId}";
const V1: &[&str] = &["2023-01-01"];

/// Its operations. Reading asks for an owner too, as in Atlas.
pub fn operations() -> Vec<Operation> {
    let operation = |id, method, path, handler| Operation {
        id,
        method,
        path,
        versions: V1,
        requires: PROJECT_OWNER,
        handler,
    };
    vec![
        operation("listGroupEncryptionAtRestPrivateEndpoints", Method::GET, LIST, handler!(list)),
        operation("createGroupEncryptionAtRestPrivateEndpoint", Method::POST, LIST, handler!(create)),
        operation("getGroupEncryptionAtRestPrivateEndpoint", Method::GET, ONE, handler!(get)),
        operation(
            "requestGroupEncryptionAtRestPrivateEndpointDeletion",
            Method::DELETE,
            ONE,
            handler!(request_deletion),
        ),
    ]
}

/// What is asked for; what the server sets is read and ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewEndpoint {
    region_name: String,
    #[serde(rename = "cloudProvider", default)]
    _cloud_provider: serde::de::IgnoredAny,
    #[serde(rename = "errorMessage", default)]
    _error_message: serde::de::IgnoredAny,
    #[serde(rename = "id", default)]
    _id: serde::de::IgnoredAny,
    #[serde(rename = "privateEndpointConnectionName", default)]
    _connection_name: serde::de::IgnoredAny,
    #[serde(rename = "status", default)]
    _status: serde::de::IgnoredAny,
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    // Nothing is stored for another provider.
    let endpoints = match provider(&request)? {
        Provider::Azure => request.app.store().read().await?.list::<PrivateEndpoint>(project).await?,
        Provider::Aws => Vec::new(),
    };
    Reply::list(&request, endpoints.iter().map(|endpoint| view(endpoint)).collect())
}

async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let new: NewEndpoint = request.parse()?;
    if let Provider::Aws = provider(&request)? {
        return Err(ApiError::new(Code::EncryptionAtRestProviderNotSupported)
            .detail("keyward does not support private endpoints to AWS KMS yet.")
            .param("AWS"));
    }
    if azure_location(&new.region_name).is_none() {
        return Err(ApiError::new(Code::InvalidEnumValue)
            .detail("The attribute regionName is no region of Azure.")
            .param("regionName")
            .field("regionName", "is no region of Azure"));
    }
    let (app, now) = (&request.app, request.now());
    let mut change = app.store().change().await?;
    let stored = change.get::<EncryptionAtRest>(project).await?;
    let Some(vault) = stored.as_ref().and_then(|stored| stored.azure_key_vault.as_ref()) else {
        return Err(ApiError::new(Code::EncryptionAtRestNotEnabled).param(project));
    };
    if !vault.require_private_networking {
        return Err(ApiError::new(Code::PrivateEndpointNotRequired));
    }
    if change.find::<PrivateEndpoint>(project, &new.region_name).await?.is_some() {
        return Err(ApiError::new(Code::PrivateEndpointExists).param(&new.region_name));
    }
    let id: EndpointId = app.make_id();
    let Some(place) = app.keys().endpoint_place(vault, &new.region_name, &format!("keyward-{id}")) else {
        return Err(ApiError::new(Code::PrivateEndpointRegionNotServed).param(&new.region_name));
    };
    let endpoint = PrivateEndpoint {
        id,
        project,
        region_name: new.region_name,
        status: EndpointStatus::Initiating,
        error_message: None,
        connection_name: None,
        resource_id: place.resource_id,
        subnet_id: place.subnet_id,
        vault_id: vault.vault_id(),
        created: now,
        since: now,
    };
    change.insert(&endpoint).await?;
    let event = request
        .event(EventType::PrivateEndpointCreated)
        .detail("privateEndpointId", id.to_string())
        .detail("regionName", endpoint.region_name.clone());
    change.commit(event, now).await?;
    app.nudge().jobs();
    Ok(Reply::with(StatusCode::ACCEPTED, Content::Json(view(&endpoint))))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let endpoint = find(&mut request.app.store().read().await?, &request, project).await?;
    Ok(Reply::ok(view(&endpoint)))
}

async fn request_deletion(request: Request) -> Result<Reply, ApiError> {
    let (app, now, project) = (&request.app, request.now(), request.project()?);
    let mut change = app.store().change().await?;
    let mut endpoint = find(&mut change, &request, project).await?;
    match endpoint.status {
        EndpointStatus::Initiating => {
            return Err(ApiError::new(Code::PrivateEndpointDeleteBlocked).param(endpoint.id));
        }
        // Asked for already.
        EndpointStatus::Deleting => return Ok(Reply::empty(StatusCode::NO_CONTENT)),
        EndpointStatus::PendingAcceptance
        | EndpointStatus::Active
        | EndpointStatus::Failed
        | EndpointStatus::PendingRecreation => {}
    }
    endpoint.status = EndpointStatus::Deleting;
    endpoint.since = now;
    endpoint.error_message = None;
    change.update(&endpoint.document, endpoint.revision).await?;
    let event = request
        .event(EventType::PrivateEndpointDeleted)
        .detail("privateEndpointId", endpoint.id.to_string())
        .detail("regionName", endpoint.region_name.clone());
    change.commit(event, now).await?;
    app.nudge().jobs();
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

enum Provider {
    Azure,
    Aws,
}

fn provider(request: &Request) -> Result<Provider, ApiError> {
    match request.param("cloudProvider") {
        "AZURE" => Ok(Provider::Azure),
        "AWS" => Ok(Provider::Aws),
        _ => Err(ApiError::new(Code::InvalidPathParameter)
            .detail("The path's cloudProvider is neither AZURE nor AWS.")
            .param("cloudProvider")),
    }
}

async fn find(
    tx: &mut Tx,
    request: &Request,
    project: ProjectId,
) -> Result<Stored<PrivateEndpoint>, ApiError> {
    let id: EndpointId = request.id("endpointId")?;
    let not_found = || ApiError::new(Code::PrivateEndpointNotFound).param(id);
    if let Provider::Aws = provider(request)? {
        return Err(not_found());
    }
    let found = tx.get::<PrivateEndpoint>(id).await?;
    found.filter(|endpoint| endpoint.project == project).ok_or_else(not_found)
}

fn view(endpoint: &PrivateEndpoint) -> Value {
    let mut shown = json!({
        "cloudProvider": "AZURE",
        "id": endpoint.id,
        "regionName": endpoint.region_name,
        "status": endpoint.status,
    });
    if let Some(message) = &endpoint.error_message {
        shown["errorMessage"] = json!(message);
    }
    if let Some(name) = &endpoint.connection_name {
        shown["privateEndpointConnectionName"] = json!(name);
    }
    shown
}
