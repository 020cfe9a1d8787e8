//! Cloud provider access: service principals that a customer key is used as, in place of a client secret.

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    cloud_role::CloudRole,
    encryption::EncryptionAtRest,
    event::EventType,
    id::{CloudRoleId, ProjectId},
};
use keyward_store::{Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Operation, Reply, Request,
    grants::{PROJECT_OWNER, PROJECT_READER},
    time,
};
use crate::{handler, http::error::ApiError};

const LIST: &str = "/api/atlas/v2/groups/{groupId}/cloudProviderAccess";
const ONE: &str = "/api/atlas/v2/groups/{groupId}/cloudProviderAccess/{roleId}";
const DEAUTHORIZE: &str = "/api/atlas/v2/groups/{groupId}/cloudProviderAccess/{cloudProvider}/{roleId}";
const V1: &[&str] = &["2023-01-01"];
/// Most roles of a project.
const MOST_ROLES: usize = 100;

/// Its operations.
pub fn operations() -> Vec<Operation> {
    let operation =
        |id, method, path, requires, handler| Operation { id, method, path, versions: V1, requires, handler };
    vec![
        operation("listGroupCloudProviderAccess", Method::GET, LIST, PROJECT_READER, handler!(list)),
        operation("createGroupCloudProviderAccess", Method::POST, LIST, PROJECT_OWNER, handler!(create)),
        operation("getGroupCloudProviderAccess", Method::GET, ONE, PROJECT_READER, handler!(get)),
        operation(
            "authorizeGroupCloudProviderAccessRole",
            Method::PATCH,
            ONE,
            PROJECT_OWNER,
            handler!(authorize),
        ),
        operation(
            "deauthorizeGroupCloudProviderAccessRole",
            Method::DELETE,
            DEAUTHORIZE,
            PROJECT_OWNER,
            handler!(deauthorize),
        ),
    ]
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum Provider {
    Aws,
    Azure,
    Gcp,
}

/// A service principal as it is given; what the server sets is read and ignored, and so is what other providers
/// have, which are refused by name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Given {
    provider_name: Provider,
    atlas_azure_app_id: Option<String>,
    service_principal_id: Option<String>,
    tenant_id: Option<String>,
    #[serde(rename = "_id", default)]
    _id: serde::de::IgnoredAny,
    #[serde(rename = "createdDate", default)]
    _created: serde::de::IgnoredAny,
    #[serde(rename = "lastUpdatedDate", default)]
    _updated: serde::de::IgnoredAny,
    #[serde(rename = "featureUsages", default)]
    _usages: serde::de::IgnoredAny,
    #[serde(rename = "roleId", default)]
    _role_id: serde::de::IgnoredAny,
    #[serde(rename = "iamAssumedRoleArn", default)]
    _arn: serde::de::IgnoredAny,
}

impl Given {
    fn of_azure(&self) -> Result<(), ApiError> {
        match self.provider_name {
            Provider::Azure => Ok(()),
            Provider::Aws | Provider::Gcp => {
                Err(ApiError::new(Code::CloudProviderAccessProviderNotSupported).param("providerName"))
            }
        }
    }
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    let used = used(&mut tx, project).await?;
    let roles = tx.list::<CloudRole>(project).await?;
    let shown: Vec<Value> = roles.iter().map(|role| view(role, used == Some(role.id))).collect();
    Ok(Reply::ok(json!({ "awsIamRoles": [], "azureServicePrincipals": shown, "gcpServiceAccounts": [] })))
}

async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let (given, project, now): (Given, _, _) = (request.parse()?, request.project()?, request.now());
    given.of_azure()?;
    let role = CloudRole {
        id: request.app.make_id(),
        project,
        atlas_azure_app_id: needed("atlasAzureAppId", given.atlas_azure_app_id)?,
        service_principal_id: needed("servicePrincipalId", given.service_principal_id)?,
        tenant_id: needed("tenantId", given.tenant_id)?,
        created: now,
        updated: now,
    };
    let mut change = request.app.store().change().await?;
    if change.list::<CloudRole>(project).await?.len() >= MOST_ROLES {
        return Err(ApiError::new(Code::ValidationError)
            .detail(format!("A project has at most {MOST_ROLES} cloud provider access roles.")));
    }
    change.insert(&role).await?;
    change.commit(about(&request, EventType::CloudRoleAdded, &role), now).await?;
    Ok(Reply::ok(view(&role, false)))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    let role = find(&mut tx, &request, project).await?;
    let used = used(&mut tx, project).await?;
    Ok(Reply::ok(view(&role, used == Some(role.id))))
}

/// Sets what is given. A role that a customer key is used as keeps its application and tenant: nodes were told them.
async fn authorize(mut request: Request) -> Result<Reply, ApiError> {
    let (given, project, now): (Given, _, _) = (request.parse()?, request.project()?, request.now());
    given.of_azure()?;
    let mut change = request.app.store().change().await?;
    let mut role = find(&mut change, &request, project).await?;
    let is_used = used(&mut change, project).await? == Some(role.id);
    let before = role.document.clone();
    if given.atlas_azure_app_id.is_some() {
        role.atlas_azure_app_id = needed("atlasAzureAppId", given.atlas_azure_app_id)?;
    }
    if given.service_principal_id.is_some() {
        role.service_principal_id = needed("servicePrincipalId", given.service_principal_id)?;
    }
    if given.tenant_id.is_some() {
        role.tenant_id = needed("tenantId", given.tenant_id)?;
    }
    if role.document == before {
        return Ok(Reply::ok(view(&role, is_used)));
    }
    let moved = role.atlas_azure_app_id != before.atlas_azure_app_id || role.tenant_id != before.tenant_id;
    if is_used && moved {
        return Err(in_use(&role));
    }
    role.updated = now;
    change.update(&role.document, role.revision).await?;
    change.commit(about(&request, EventType::CloudRoleUpdated, &role), now).await?;
    Ok(Reply::ok(view(&role, is_used)))
}

async fn deauthorize(request: Request) -> Result<Reply, ApiError> {
    let (project, now) = (request.project()?, request.now());
    match request.param("cloudProvider") {
        "AZURE" => {}
        "AWS" | "GCP" => {
            let id: CloudRoleId = request.id("roleId")?;
            return Err(ApiError::new(Code::CloudProviderAccessRoleNotFound).param(id));
        }
        _ => {
            return Err(ApiError::new(Code::InvalidPathParameter)
                .detail("The path's cloudProvider is none of AWS, AZURE and GCP.")
                .param("cloudProvider"));
        }
    }
    let mut change = request.app.store().change().await?;
    let role = find(&mut change, &request, project).await?;
    if used(&mut change, project).await? == Some(role.id) {
        return Err(in_use(&role));
    }
    change.delete::<CloudRole>(role.id).await?;
    change.commit(about(&request, EventType::CloudRoleDeleted, &role), now).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn find(tx: &mut Tx, request: &Request, project: ProjectId) -> Result<Stored<CloudRole>, ApiError> {
    let id: CloudRoleId = request.id("roleId")?;
    let role = tx.get::<CloudRole>(id).await?.filter(|role| role.project == project);
    role.ok_or_else(|| ApiError::new(Code::CloudProviderAccessRoleNotFound).param(id))
}

/// The role that the project's customer key is used as.
async fn used(tx: &mut Tx, project: ProjectId) -> Result<Option<CloudRoleId>, ApiError> {
    let stored = tx.get::<EncryptionAtRest>(project).await?;
    Ok(stored.and_then(|stored| stored.document.azure_key_vault).and_then(|vault| vault.role_id))
}

fn in_use(role: &CloudRole) -> ApiError {
    ApiError::new(Code::CloudProviderAccessRoleInUse)
        .detail(format!("The project's customer key is used as role {}.", role.id))
        .param(role.id)
}

fn needed(name: &str, given: Option<String>) -> Result<String, ApiError> {
    let Some(text) = given else {
        return Err(ApiError::new(Code::MissingAttribute)
            .detail(format!("The attribute {name} is missing."))
            .param(name)
            .field(name, "is missing"));
    };
    if text.len() == 36 && uuid::Uuid::try_parse(&text).is_ok() {
        return Ok(text);
    }
    Err(ApiError::new(Code::InvalidAttribute)
        .detail(format!("The attribute {name} is not a UUID."))
        .param(name)
        .field(name, "is not a UUID"))
}

fn about(request: &Request, kind: EventType, role: &CloudRole) -> keyward_model::event::NewEvent {
    request
        .event(kind)
        .detail("roleId", role.id.to_string())
        .detail("atlasAzureAppId", role.atlas_azure_app_id.clone())
        .detail("tenantId", role.tenant_id.clone())
}

fn view(role: &CloudRole, is_used: bool) -> Value {
    let usages = if is_used {
        json!([{ "featureType": "ENCRYPTION_AT_REST", "featureId": { "groupId": role.project } }])
    } else {
        json!([])
    };
    json!({
        "_id": role.id,
        "atlasAzureAppId": role.atlas_azure_app_id,
        "createdDate": time(role.created),
        "featureUsages": usages,
        "lastUpdatedDate": time(role.updated),
        "providerName": "AZURE",
        "servicePrincipalId": role.service_principal_id,
        "tenantId": role.tenant_id,
    })
}
