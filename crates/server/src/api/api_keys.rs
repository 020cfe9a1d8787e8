//! API keys of organizations and projects, and their access lists.

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    access_list::AccessList,
    api_key::ApiKey,
    event::EventType,
    id::{ApiKeyId, OrgId},
    role::{Grants, OrgRole, ProjectRole, Requirement},
};
use keyward_store::{Change, Grant, PrincipalId, Stored, Tx};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Operation, Reply, Request,
    access_lists::{self, NewEntry},
    grants::{
        Loss, ORG_OWNER, PROJECT_READER, assignments, check_length, keep_org_owner, keep_project_owner,
        may_set_project_roles, must_own, org_roles, parse_roles, project_roles,
    },
};
use crate::{
    app::make_bytes,
    auth::{Who, digest, secret_of, usage::network_entry},
    handler,
    http::error::ApiError,
};

const V1: &[&str] = &["2023-01-01"];
const ORG_MEMBER: Requirement = Requirement::Org(&[OrgRole::OrgMember]);
const ACCESS_MANAGER: Requirement = Requirement::Project(&[ProjectRole::GroupAccessManager]);

/// Their operations.
pub fn operations() -> Vec<Operation> {
    let operation =
        |id, method, path, requires, handler| Operation { id, method, path, versions: V1, requires, handler };
    const ORG: &str = "/api/atlas/v2/orgs/{orgId}/apiKeys";
    const ORG_ONE: &str = "/api/atlas/v2/orgs/{orgId}/apiKeys/{apiUserId}";
    const LIST: &str = "/api/atlas/v2/orgs/{orgId}/apiKeys/{apiUserId}/accessList";
    const ENTRY: &str = "/api/atlas/v2/orgs/{orgId}/apiKeys/{apiUserId}/accessList/{ipAddress}";
    const PROJECT: &str = "/api/atlas/v2/groups/{groupId}/apiKeys";
    const PROJECT_ONE: &str = "/api/atlas/v2/groups/{groupId}/apiKeys/{apiUserId}";
    vec![
        operation("listOrgApiKeys", Method::GET, ORG, ORG_MEMBER, handler!(list_of_org)),
        operation("createOrgApiKey", Method::POST, ORG, ORG_OWNER, handler!(create_in_org)),
        operation("getOrgApiKey", Method::GET, ORG_ONE, ORG_MEMBER, handler!(get)),
        operation("updateOrgApiKey", Method::PATCH, ORG_ONE, ORG_OWNER, handler!(update_in_org)),
        operation("deleteOrgApiKey", Method::DELETE, ORG_ONE, ORG_OWNER, handler!(delete)),
        operation("listOrgApiKeyAccessListEntries", Method::GET, LIST, ORG_MEMBER, handler!(list_entries)),
        operation("createOrgApiKeyAccessListEntry", Method::POST, LIST, ORG_MEMBER, handler!(add_entries)),
        operation("getOrgApiKeyAccessListEntry", Method::GET, ENTRY, ORG_MEMBER, handler!(get_entry)),
        operation(
            "deleteOrgApiKeyAccessListEntry",
            Method::DELETE,
            ENTRY,
            ORG_MEMBER,
            handler!(delete_entry),
        ),
        operation("listGroupApiKeys", Method::GET, PROJECT, PROJECT_READER, handler!(list_of_project)),
        operation("createGroupApiKey", Method::POST, PROJECT, ACCESS_MANAGER, handler!(create_in_project)),
        // For the project's owner and, so that they can add themselves, the organization's: the handler asks.
        operation("addGroupApiKey", Method::POST, PROJECT_ONE, ACCESS_MANAGER, handler!(add_to_project)),
        operation(
            "updateGroupApiKeyRoles",
            Method::PATCH,
            PROJECT_ONE,
            ACCESS_MANAGER,
            handler!(update_in_project),
        ),
        operation(
            "removeGroupApiKey",
            Method::DELETE,
            PROJECT_ONE,
            ACCESS_MANAGER,
            handler!(remove_from_project),
        ),
    ]
}

/// A new pair of keys.
pub(crate) struct NewPair {
    pub(crate) public_key: String,
    pub(crate) private_key: SecretString,
}

impl NewPair {
    /// Eight lower-case letters and a UUID, as Atlas' keys are.
    pub(crate) fn make() -> Self {
        let letter = |byte: u8| char::from(b'a' + byte % 26);
        let public_key = make_bytes::<8>().map(letter).iter().collect();
        let private_key = uuid::Builder::from_random_bytes(make_bytes()).into_uuid().to_string();
        Self { public_key, private_key: private_key.into() }
    }

    /// What signatures with the pair are checked with.
    pub(crate) fn ha1(&self) -> Zeroizing<String> {
        digest::ha1(&self.public_key, self.private_key.expose_secret())
    }
}

/// An API key as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    desc: String,
    roles: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyChange {
    desc: Option<String>,
    roles: Option<Vec<String>>,
}

/// One of the assignments that adding a key to a project takes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Assignment {
    roles: Vec<String>,
    #[serde(rename = "userId", default)]
    _user_id: serde::de::IgnoredAny,
}

async fn list_of_org(request: Request) -> Result<Reply, ApiError> {
    let org = request.org()?;
    let mut tx = request.app.store().read().await?;
    let page = request.page()?;
    let (keys, total) = tx.page::<ApiKey>(org, page.offset(), page.limit()).await?;
    let mut shown = Vec::new();
    for key in keys {
        let grants = tx.grants(&PrincipalId::ApiKey(key.id)).await?;
        shown.push(view(&request, &key, &grants));
    }
    Ok(Reply::page(shown, total))
}

async fn create_in_org(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewKey = request.parse()?;
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let shown = make_for_org(&request, &mut change, org, new).await?;
    let event = request.event(EventType::ApiKeyCreated).detail("publicKey", shown["publicKey"].clone());
    change.commit(event, now).await?;
    Ok(Reply::ok(shown))
}

/// Makes an API key of an organization, with its private key in what is shown.
pub(crate) async fn make_for_org(
    request: &Request,
    change: &mut Change,
    org: OrgId,
    new: NewKey,
) -> Result<Value, ApiError> {
    let roles: Vec<OrgRole> = parse_roles("roles", &new.roles)?;
    let (key, pair) = make(request, change, org, new.desc).await?;
    let id = PrincipalId::ApiKey(key.id);
    change.set_org_roles(&id, org, &roles).await?;
    let grants = change.grants(&id).await?;
    Ok(with_private_key(view(request, &key, &grants), &pair))
}

async fn make(
    request: &Request,
    change: &mut Change,
    org: OrgId,
    desc: String,
) -> Result<(ApiKey, NewPair), ApiError> {
    check_length("desc", &desc, 250)?;
    let mut pair = NewPair::make();
    while !change.named::<ApiKey>(&pair.public_key).await?.is_empty() {
        pair = NewPair::make();
    }
    let key = ApiKey {
        id: request.app.make_id(),
        org,
        public_key: pair.public_key.clone(),
        desc,
        created: request.now(),
        access_list: AccessList::default(),
    };
    change.insert(&key).await?;
    change.put_secret(&secret_of(&key), pair.ha1().as_bytes()).await?;
    Ok((key, pair))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let key = load(&request, &mut tx).await?;
    let grants = tx.grants(&PrincipalId::ApiKey(key.id)).await?;
    Ok(Reply::ok(view(&request, &key, &grants)))
}

async fn update_in_org(mut request: Request) -> Result<Reply, ApiError> {
    let asked: KeyChange = request.parse()?;
    let roles: Option<Vec<OrgRole>> = asked
        .roles
        .filter(|roles| !roles.is_empty())
        .map(|roles| parse_roles("roles", &roles))
        .transpose()?;
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let mut key = load(&request, &mut change).await?;
    let id = PrincipalId::ApiKey(key.id);
    let before = org_roles(&change.grants(&id).await?, org);
    let mut event = None;
    if let Some(desc) = asked.desc.filter(|desc| *desc != key.desc) {
        check_length("desc", &desc, 250)?;
        key.document.desc = desc;
        change.update(&key.document, key.revision).await?;
        event = Some(EventType::ApiKeyDescriptionChanged);
    }
    if let Some(roles) = roles.filter(|roles| *roles != before) {
        if !roles.contains(&OrgRole::OrgOwner) {
            keep_org_owner(&mut change, org, &id, Loss::Demoted).await?;
        }
        change.set_org_roles(&id, org, &roles).await?;
        event = Some(EventType::ApiKeyRolesChanged);
    }
    let grants = change.grants(&id).await?;
    if let Some(event_type) = event {
        let event = request.event(event_type).detail("publicKey", key.public_key.clone());
        change.commit(event.detail("roles", assignments(&grants, org, None)), now).await?;
    }
    Ok(Reply::ok(view(&request, &key, &grants)))
}

async fn delete(request: Request) -> Result<Reply, ApiError> {
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let key = load(&request, &mut change).await?;
    let id = PrincipalId::ApiKey(key.id);
    keep_org_owner(&mut change, org, &id, Loss::Removed).await?;
    change.drop_grants(&id).await?;
    change.drop_secret(&secret_of(&key)).await?;
    change.delete::<ApiKey>(key.id).await?;
    let event = request.event(EventType::ApiKeyDeleted).detail("publicKey", key.public_key.clone());
    change.commit(event, now).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn list_of_project(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    let mut shown = Vec::new();
    for (member, _) in tx.project_members(project).await? {
        if let PrincipalId::ApiKey(id) = member
            && let Some(key) = tx.get::<ApiKey>(id).await?
        {
            let grants = tx.grants(&member).await?;
            shown.push(view(&request, &key, &grants));
        }
    }
    Reply::list(&request, shown)
}

async fn create_in_project(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewKey = request.parse()?;
    let roles: Vec<ProjectRole> = parse_roles("roles", &new.roles)?;
    may_set_project_roles(&request, &[], &roles)?;
    let (now, org, project) = (request.now(), request.org()?, request.project()?);
    let mut change = request.app.store().change().await?;
    let (key, pair) = make(&request, &mut change, org, new.desc).await?;
    let id = PrincipalId::ApiKey(key.id);
    change.grant(&id, Grant::Org(org, OrgRole::OrgMember)).await?;
    change.set_project_roles(&id, project, &roles).await?;
    let grants = change.grants(&id).await?;
    let event = request.event(EventType::ApiKeyCreated).detail("publicKey", key.public_key.clone());
    change.commit(event.detail("roles", assignments(&grants, org, Some(project))), now).await?;
    Ok(Reply::ok(with_private_key(view(&request, &key, &grants), &pair)))
}

async fn add_to_project(mut request: Request) -> Result<Reply, ApiError> {
    must_own(&request)?;
    let asked: Vec<Assignment> = request.parse()?;
    let names: Vec<String> = asked.into_iter().flat_map(|assignment| assignment.roles).collect();
    let added: Vec<ProjectRole> = parse_roles("roles", &names)?;
    set_in_project(&request, EventType::ApiKeyAddedToProject, |before| [before, &added].concat()).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn update_in_project(mut request: Request) -> Result<Reply, ApiError> {
    let asked: KeyChange = request.parse()?;
    let roles: Option<Vec<ProjectRole>> = asked
        .roles
        .filter(|roles| !roles.is_empty())
        .map(|roles| parse_roles("roles", &roles))
        .transpose()?;
    // Of keys that the project does not have, its access managers learn and change nothing.
    let mut tx = request.app.store().read().await?;
    let key = load(&request, &mut tx).await?;
    if project_roles(&tx.grants(&PrincipalId::ApiKey(key.id)).await?, request.project()?).is_empty() {
        return Err(ApiError::new(Code::ApiKeyNotFound).param(key.id));
    }
    drop(tx);
    if let Some(desc) = asked.desc {
        check_length("desc", &desc, 250)?;
        let now = request.now();
        let mut change = request.app.store().change().await?;
        let mut key = load(&request, &mut change).await?;
        if key.desc != desc {
            key.document.desc = desc;
            change.update(&key.document, key.revision).await?;
            let event = request.event(EventType::ApiKeyDescriptionChanged);
            change.commit(event.detail("publicKey", key.public_key.clone()), now).await?;
        }
    }
    if let Some(roles) = roles {
        set_in_project(&request, EventType::ApiKeyRolesChanged, |_| roles.clone()).await?;
    }
    get(request).await
}

async fn remove_from_project(request: Request) -> Result<Reply, ApiError> {
    set_in_project(&request, EventType::ApiKeyRemovedFromProject, |_| Vec::new()).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Makes `after(before)` the key's roles in the project; none removes it from there.
async fn set_in_project(
    request: &Request,
    event_type: EventType,
    after: impl Fn(&[ProjectRole]) -> Vec<ProjectRole>,
) -> Result<(), ApiError> {
    let (now, project) = (request.now(), request.project()?);
    let mut change = request.app.store().change().await?;
    let key = load(request, &mut change).await?;
    let id = PrincipalId::ApiKey(key.id);
    let mut before = project_roles(&change.grants(&id).await?, project);
    let mut roles = after(&before);
    roles.sort();
    roles.dedup();
    before.sort();
    if event_type != EventType::ApiKeyAddedToProject && before.is_empty() {
        return Err(ApiError::new(Code::ApiKeyNotFound).param(key.id));
    }
    if roles == before {
        return Ok(());
    }
    may_set_project_roles(request, &before, &roles)?;
    if !roles.contains(&ProjectRole::GroupOwner) {
        let loss = if roles.is_empty() { Loss::Removed } else { Loss::Demoted };
        keep_project_owner(&mut change, project, &id, loss).await?;
    }
    change.set_project_roles(&id, project, &roles).await?;
    let event = request.event(event_type).detail("publicKey", key.public_key.clone());
    change.commit(event.detail("roles", json!(roles)), now).await?;
    Ok(())
}

async fn list_entries(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let key = load(&request, &mut tx).await?;
    let uses = tx.usage(&PrincipalId::ApiKey(key.id)).await?;
    Reply::list(&request, access_lists::key_views(&request, &key, &uses))
}

async fn add_entries(mut request: Request) -> Result<Reply, ApiError> {
    let asked: Vec<NewEntry> = request.parse()?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut key = load(&request, &mut change).await?;
    may_change_list(&request, key.id)?;
    let uses = change.usage(&PrincipalId::ApiKey(key.id)).await?;
    let added = access_lists::add(&mut key.document.access_list, asked, now)?;
    if !added.is_empty() {
        change.update(&key.document, key.revision).await?;
        let event = request.event(EventType::ApiKeyAccessListEntryAdded);
        change
            .commit(event.detail("publicKey", key.public_key.clone()).detail("networks", added), now)
            .await?;
    }
    Reply::list(&request, access_lists::key_views(&request, &key, &uses))
}

async fn get_entry(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let key = load(&request, &mut tx).await?;
    let index = access_lists::position(&key.access_list, request.param("ipAddress"))?;
    let uses = tx.usage(&PrincipalId::ApiKey(key.id)).await?;
    let shown = access_lists::key_views(&request, &key, &uses).into_iter().nth(index).unwrap_or_default();
    Ok(Reply::ok(shown))
}

async fn delete_entry(request: Request) -> Result<Reply, ApiError> {
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut key = load(&request, &mut change).await?;
    may_change_list(&request, key.id)?;
    let index = access_lists::position(&key.access_list, request.param("ipAddress"))?;
    let removed = key.document.access_list.entries.remove(index);
    change.update(&key.document, key.revision).await?;
    let (id, entry) = (PrincipalId::ApiKey(key.id), network_entry(&removed.network));
    change.forget_usage(&id, &entry).await?;
    let event =
        request.event(EventType::ApiKeyAccessListEntryDeleted).detail("publicKey", key.public_key.clone());
    change.commit(event.detail("networks", json!([removed.network])), now).await?;
    request.app.usage().forget(&id, &entry);
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// A key changes its own list, and owners every list.
fn may_change_list(request: &Request, key: ApiKeyId) -> Result<(), ApiError> {
    let own = matches!(&request.principal.who, Who::ApiKey { id, .. } if *id == key);
    if own || request.principal.grants.allow(ORG_OWNER, request.org, None).is_ok() {
        return Ok(());
    }
    Err(ApiError::new(Code::UserUnauthorized)
        .detail("An access list is changed by its own key, or with the role ORG_OWNER in the organization."))
}

/// The key of the path, which belongs to the request's organization.
async fn load(request: &Request, tx: &mut Tx) -> Result<Stored<ApiKey>, ApiError> {
    let missing = || ApiError::new(Code::ApiKeyNotFound).param(request.param("apiUserId"));
    let id: ApiKeyId = request.param("apiUserId").parse().map_err(|_| missing())?;
    let org = request.org()?;
    tx.get::<ApiKey>(id).await?.filter(|key| key.org == org).ok_or_else(missing)
}

fn view(request: &Request, key: &ApiKey, grants: &Grants) -> Value {
    let path = format!("/api/atlas/v2/orgs/{}/apiKeys/{}", key.org, key.id);
    json!({
        "desc": key.desc,
        "id": key.id,
        "links": [{"href": request.href(&path), "rel": "self"}],
        "publicKey": key.public_key,
        "roles": assignments(grants, key.org, request.project),
    })
}

/// The one answer that has the private key.
fn with_private_key(mut shown: Value, pair: &NewPair) -> Value {
    shown["privateKey"] = json!(pair.private_key.expose_secret());
    shown
}
