//! Organizations.

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    api_key::ApiKey,
    count::counted,
    event::EventType,
    id::{OrgId, UserId},
    organization::{Organization, OrganizationSettings},
    project::Project,
    role::{OrgRole, Requirement},
    service_account::ServiceAccount,
    user::User,
};
use keyward_store::{PrincipalId, Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Content, Operation, Reply, Request,
    api_keys::{self, NewKey},
    grants::{ORG_OWNER, check_length, check_name},
    projects,
    service_accounts::{self, NewAccount},
};
use crate::{
    auth::{Who, secret_of},
    handler,
    http::error::ApiError,
};

const V1: &[&str] = &["2023-01-01"];
/// Longest address to write to, in characters.
const LONGEST_CONTACT: usize = 254;
/// What everyone with a role in an organization may do.
const ORG_MEMBER: Requirement = Requirement::Org(&[OrgRole::OrgMember]);

/// Their operations.
pub fn operations() -> Vec<Operation> {
    use Requirement::Authenticated;
    let operation =
        |id, method, path, requires, handler| Operation { id, method, path, versions: V1, requires, handler };
    vec![
        operation("listOrgs", Method::GET, "/api/atlas/v2/orgs", Authenticated, handler!(list)),
        operation("createOrg", Method::POST, "/api/atlas/v2/orgs", Authenticated, handler!(create)),
        operation("getOrg", Method::GET, "/api/atlas/v2/orgs/{orgId}", ORG_MEMBER, handler!(get)),
        operation("updateOrg", Method::PATCH, "/api/atlas/v2/orgs/{orgId}", ORG_OWNER, handler!(update)),
        operation("deleteOrg", Method::DELETE, "/api/atlas/v2/orgs/{orgId}", ORG_OWNER, handler!(delete)),
        operation(
            "getOrgGroups",
            Method::GET,
            "/api/atlas/v2/orgs/{orgId}/groups",
            ORG_MEMBER,
            handler!(projects::list_of_org),
        ),
        operation(
            "getOrgSettings",
            Method::GET,
            "/api/atlas/v2/orgs/{orgId}/settings",
            ORG_MEMBER,
            handler!(get_settings),
        ),
        operation(
            "updateOrgSettings",
            Method::PATCH,
            "/api/atlas/v2/orgs/{orgId}/settings",
            ORG_OWNER,
            handler!(update_settings),
        ),
    ]
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewOrg {
    name: String,
    api_key: Option<NewKey>,
    org_owner_id: Option<UserId>,
    service_account: Option<NewAccount>,
    skip_default_alerts_settings: Option<bool>,
    #[serde(rename = "federationSettingsId", default)]
    _federation_settings_id: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OrgChange {
    name: Option<String>,
    skip_default_alerts_settings: Option<bool>,
    #[serde(rename = "id", default)]
    _id: serde::de::IgnoredAny,
    #[serde(rename = "isDeleted", default)]
    _is_deleted: serde::de::IgnoredAny,
    #[serde(rename = "links", default)]
    _links: serde::de::IgnoredAny,
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let name = request.query("name").map(str::to_lowercase);
    let mut shown = Vec::new();
    let mut own: Vec<OrgId> = request.principal.grants.org.iter().map(|(id, _)| *id).collect();
    own.sort();
    own.dedup();
    for id in own {
        let Some(org) = tx.get::<Organization>(id).await? else { continue };
        if name.as_ref().is_none_or(|name| org.name.to_lowercase().starts_with(name)) {
            shown.push(view(&request, &org));
        }
    }
    Reply::list(&request, shown)
}

/// Whoever owns an organization can make another, and owns it.
async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewOrg = request.parse()?;
    check_name("name", &new.name)?;
    let owner = request.principal.principal_id().ok_or_else(|| ApiError::new(Code::Unauthenticated))?;
    if !request.principal.grants.org.iter().any(|(_, role)| *role == OrgRole::OrgOwner) {
        return Err(ApiError::new(Code::UserUnauthorized)
            .detail("createOrg needs the role ORG_OWNER in an organization."));
    }
    let now = request.now();
    let org = Organization {
        id: request.app.make_id(),
        name: new.name,
        created: now,
        skip_default_alerts_settings: new.skip_default_alerts_settings.unwrap_or(false),
        settings: OrganizationSettings::default(),
    };
    let mut change = request.app.store().change().await?;
    change.insert(&org).await?;
    change.set_org_roles(&owner, org.id, &[OrgRole::OrgOwner]).await?;
    if let Some(user) = new.org_owner_id {
        change.get::<User>(user).await?.ok_or_else(|| ApiError::new(Code::UserNotFound).param(user))?;
        change.set_org_roles(&PrincipalId::User(user), org.id, &[OrgRole::OrgOwner]).await?;
    }
    let mut answer = json!({
        "organization": view(&request, &org),
        "skipDefaultAlertsSettings": org.skip_default_alerts_settings,
    });
    if let Some(user) = new.org_owner_id {
        answer["orgOwnerId"] = json!(user);
    }
    if let Some(new) = new.api_key {
        answer["apiKey"] = api_keys::make_for_org(&request, &mut change, org.id, new).await?;
    }
    if let Some(new) = new.service_account {
        answer["serviceAccount"] = service_accounts::make_for_org(&request, &mut change, &org, new).await?;
    }
    let event = request.event(EventType::OrgCreated).org(org.id).detail("name", org.name.clone());
    change.commit(event, now).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(answer)))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let org = load(&mut tx, request.org()?).await?;
    Ok(Reply::ok(view(&request, &org)))
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    let asked: OrgChange = request.parse()?;
    if let Some(name) = &asked.name {
        check_name("name", name)?;
    }
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut org = load(&mut change, request.org()?).await?;
    let before = org.document.clone();
    org.document.name = asked.name.unwrap_or(org.document.name);
    org.document.skip_default_alerts_settings =
        asked.skip_default_alerts_settings.unwrap_or(before.skip_default_alerts_settings);
    if org.document != before {
        change.update(&org.document, org.revision).await?;
        change.commit(request.event(EventType::OrgRenamed).detail("name", org.name.clone()), now).await?;
    }
    Ok(Reply::ok(view(&request, &org)))
}

async fn delete(request: Request) -> Result<Reply, ApiError> {
    let (now, id) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let org = load(&mut change, id).await?;
    let (_, projects) = change.page::<Project>(id, 0, 0).await?;
    if projects > 0 {
        return Err(ApiError::new(Code::CannotDeleteOrgActiveGroups)
            .detail(format!("The organization still has {}.", counted(projects, "project", "projects")))
            .param(id));
    }
    for key in change.list::<ApiKey>(id).await? {
        change.drop_secret(&secret_of(&key)).await?;
        change.drop_grants(&PrincipalId::ApiKey(key.id)).await?;
    }
    for account in change.list::<ServiceAccount>(id).await? {
        change.revoke_access_tokens(&account.client_id).await?;
        change.drop_grants(&PrincipalId::ServiceAccount(account.client_id.clone())).await?;
    }
    change.drop_org_grants(id).await?;
    change.delete_everything_of(id).await?;
    change.delete::<Organization>(id).await?;
    change.commit(request.event(EventType::OrgDeleted).detail("name", org.name.clone()), now).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn get_settings(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    Ok(Reply::ok(settings_view(&load(&mut tx, request.org()?).await?.settings)))
}

async fn update_settings(mut request: Request) -> Result<Reply, ApiError> {
    let asked: serde_json::Map<String, Value> = request.parse()?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut org = load(&mut change, request.org()?).await?;
    let before = org.settings.clone();
    org.document.settings = projects::merged(&before, asked)?;
    for (field, text) in [
        ("securityContact", &org.settings.security_contact),
        ("operationsContact", &org.settings.operations_contact),
    ] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            check_length(field, text, LONGEST_CONTACT)?;
        }
    }
    let hours = org.settings.max_service_account_secret_validity_in_hours;
    if !(8..=keyward_model::organization::LONGEST_SECRET_HOURS).contains(&hours) {
        return Err(super::grants::invalid("maxServiceAccountSecretValidityInHours", "is not 8 to 8760"));
    }
    if org.settings.api_access_list_required && !before.api_access_list_required {
        keep_caller(&request, &mut change).await?;
    }
    if org.settings != before {
        change.update(&org.document, org.revision).await?;
        change.commit(request.event(EventType::OrgSettingsUpdated), now).await?;
    }
    Ok(Reply::ok(settings_view(&org.settings)))
}

/// Refuses to ask for access lists by a caller who has none that lets them in: nobody could take it back.
async fn keep_caller(request: &Request, tx: &mut Tx) -> Result<(), ApiError> {
    let list = match &request.principal.who {
        Who::ApiKey { id, .. } => tx.get::<ApiKey>(id).await?.map(|key| key.document.access_list),
        Who::ServiceAccount { client_id, .. } => {
            tx.get::<ServiceAccount>(client_id).await?.map(|account| account.document.access_list)
        }
        Who::User { .. } | Who::Nobody => None,
    };
    if list.is_some_and(|list| list.entry(request.remote).is_some()) {
        return Ok(());
    }
    let field = "apiAccessListRequired";
    Err(ApiError::new(Code::ValidationError)
        .detail(format!(
            "It would lock you out: your own access list does not have {}. Add it first.",
            request.remote
        ))
        .param(field)
        .field(field, "would lock the caller out"))
}

/// What was never given is left out, but for the contact that Atlas shows as `null`.
fn settings_view(settings: &OrganizationSettings) -> Value {
    let mut shown = json!(settings);
    if let Some(shown) = shown.as_object_mut() {
        shown.retain(|name, value| name == "operationsContact" || !value.is_null());
        if let Some(timeouts) = shown.get_mut("customSessionTimeouts").and_then(Value::as_object_mut) {
            timeouts.retain(|_, value| !value.is_null());
        }
    }
    shown
}

/// The organization of the request.
pub(crate) async fn load(tx: &mut Tx, id: OrgId) -> Result<Stored<Organization>, ApiError> {
    tx.get::<Organization>(id).await?.ok_or_else(|| ApiError::new(Code::OrgNotFound).param(id))
}

fn view(request: &Request, org: &Organization) -> Value {
    json!({
        "id": org.id,
        "isDeleted": false,
        "links": [{"href": request.href(&format!("/api/atlas/v2/orgs/{}", org.id)), "rel": "self"}],
        "name": org.name,
        "skipDefaultAlertsSettings": org.skip_default_alerts_settings,
    })
}
