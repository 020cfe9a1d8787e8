//! Service accounts of organizations and projects, their secrets and access lists.

use http::{Method, StatusCode};
use keyward_model::{
    Code, Timestamp,
    access_list::AccessList,
    event::EventType,
    id::ProjectId,
    organization::Organization,
    role::{Grants, OrgRole, ProjectRole, Requirement},
    service_account::{AccountSecret, CLIENT_ID_PREFIX, MOST_SECRETS, SECRET_PREFIX, ServiceAccount},
};
use keyward_store::{Change, Grant, PrincipalId, Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Content, Operation, Reply, Request,
    access_lists::{self, NewEntry, Uses},
    grants::{
        Loss, ORG_OWNER, PROJECT_OWNER, PROJECT_READER, assignments, check_length, invalid, keep_org_owner,
        keep_project_owner, may_set_project_roles, org_roles, parse_roles, project_roles,
    },
    orgs, time,
};
use crate::{
    app::make_bytes,
    auth::{
        oauth::sha256,
        usage::{network_entry, secret_entry},
    },
    handler,
    http::error::ApiError,
};

const V1: &[&str] = &["2024-08-05"];
const ORG_READER: Requirement = Requirement::Org(&[OrgRole::OrgReadOnly]);
const ACCESS_MANAGER: Requirement = Requirement::Project(&[ProjectRole::GroupAccessManager]);

/// Their operations.
pub fn operations() -> Vec<Operation> {
    let operation =
        |id, method, path, requires, handler| Operation { id, method, path, versions: V1, requires, handler };
    const ORG: &str = "/api/atlas/v2/orgs/{orgId}/serviceAccounts";
    const ORG_ONE: &str = "/api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}";
    const ORG_LIST: &str = "/api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}/accessList";
    const ORG_ENTRY: &str = "/api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}/accessList/{ipAddress}";
    const ORG_SECRETS: &str = "/api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}/secrets";
    const ORG_SECRET: &str = "/api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}/secrets/{secretId}";
    const PROJECT: &str = "/api/atlas/v2/groups/{groupId}/serviceAccounts";
    const ONE: &str = "/api/atlas/v2/groups/{groupId}/serviceAccounts/{clientId}";
    const LIST: &str = "/api/atlas/v2/groups/{groupId}/serviceAccounts/{clientId}/accessList";
    const ENTRY: &str = "/api/atlas/v2/groups/{groupId}/serviceAccounts/{clientId}/accessList/{ipAddress}";
    const SECRETS: &str = "/api/atlas/v2/groups/{groupId}/serviceAccounts/{clientId}/secrets";
    const SECRET: &str = "/api/atlas/v2/groups/{groupId}/serviceAccounts/{clientId}/secrets/{secretId}";
    const GROUPS: &str = "/api/atlas/v2/orgs/{orgId}/serviceAccounts/{clientId}/groups";
    const INVITE: &str = "/api/atlas/v2/groups/{groupId}/serviceAccounts/{clientId}:invite";
    vec![
        operation("listOrgServiceAccounts", Method::GET, ORG, ORG_READER, handler!(list_of_org)),
        operation("createOrgServiceAccount", Method::POST, ORG, ORG_OWNER, handler!(create_in_org)),
        operation("getOrgServiceAccount", Method::GET, ORG_ONE, ORG_READER, handler!(get)),
        operation("updateOrgServiceAccount", Method::PATCH, ORG_ONE, ORG_OWNER, handler!(update)),
        operation("deleteOrgServiceAccount", Method::DELETE, ORG_ONE, ORG_OWNER, handler!(delete)),
        operation(
            "listOrgServiceAccountAccessList",
            Method::GET,
            ORG_LIST,
            ORG_READER,
            handler!(list_entries),
        ),
        operation(
            "createOrgServiceAccountAccessList",
            Method::POST,
            ORG_LIST,
            ORG_OWNER,
            handler!(add_entries),
        ),
        operation(
            "deleteOrgServiceAccountAccessListEntry",
            Method::DELETE,
            ORG_ENTRY,
            ORG_OWNER,
            handler!(delete_entry),
        ),
        operation("getOrgServiceAccountGroups", Method::GET, GROUPS, ORG_READER, handler!(list_projects)),
        operation(
            "createOrgServiceAccountSecret",
            Method::POST,
            ORG_SECRETS,
            ORG_OWNER,
            handler!(create_secret),
        ),
        operation(
            "deleteOrgServiceAccountSecret",
            Method::DELETE,
            ORG_SECRET,
            ORG_OWNER,
            handler!(delete_secret),
        ),
        operation(
            "listGroupServiceAccounts",
            Method::GET,
            PROJECT,
            PROJECT_READER,
            handler!(list_of_project),
        ),
        operation(
            "createGroupServiceAccount",
            Method::POST,
            PROJECT,
            PROJECT_OWNER,
            handler!(create_in_project),
        ),
        operation("getGroupServiceAccount", Method::GET, ONE, PROJECT_READER, handler!(get)),
        operation("updateGroupServiceAccount", Method::PATCH, ONE, PROJECT_OWNER, handler!(update)),
        operation(
            "deleteGroupServiceAccount",
            Method::DELETE,
            ONE,
            PROJECT_OWNER,
            handler!(remove_from_project),
        ),
        operation(
            "listGroupServiceAccountAccessList",
            Method::GET,
            LIST,
            PROJECT_READER,
            handler!(list_entries),
        ),
        operation(
            "createGroupServiceAccountAccessList",
            Method::POST,
            LIST,
            ACCESS_MANAGER,
            handler!(add_entries),
        ),
        operation(
            "deleteGroupServiceAccountAccessListEntry",
            Method::DELETE,
            ENTRY,
            ACCESS_MANAGER,
            handler!(delete_entry),
        ),
        operation(
            "createGroupServiceAccountSecret",
            Method::POST,
            SECRETS,
            PROJECT_OWNER,
            handler!(create_secret),
        ),
        operation(
            "deleteGroupServiceAccountSecret",
            Method::DELETE,
            SECRET,
            PROJECT_OWNER,
            handler!(delete_secret),
        ),
        operation("inviteGroupServiceAccount", Method::POST, INVITE, ORG_OWNER, handler!(invite)),
    ]
}

/// A service account as it is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewAccount {
    name: String,
    description: String,
    roles: Vec<String>,
    secret_expires_after_hours: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountChange {
    name: Option<String>,
    description: Option<String>,
    roles: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewSecret {
    secret_expires_after_hours: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    roles: Vec<String>,
}

async fn list_of_org(request: Request) -> Result<Reply, ApiError> {
    let page = request.page()?;
    let mut tx = request.app.store().read().await?;
    let (accounts, total) = tx.page::<ServiceAccount>(request.org()?, page.offset(), page.limit()).await?;
    let mut shown = Vec::new();
    for account in accounts {
        let (grants, uses) = known(&mut tx, &account).await?;
        shown.push(view(&request, &account, &grants, &uses));
    }
    Ok(Reply::page(shown, total))
}

async fn list_of_project(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let mut shown = Vec::new();
    for (member, _) in tx.project_members(request.project()?).await? {
        if let PrincipalId::ServiceAccount(client_id) = &member
            && let Some(account) = tx.get::<ServiceAccount>(client_id).await?
        {
            let (grants, uses) = known(&mut tx, &account).await?;
            shown.push(view(&request, &account, &grants, &uses));
        }
    }
    Reply::list(&request, shown)
}

async fn create_in_org(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewAccount = request.parse()?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let org = orgs::load(&mut change, request.org()?).await?;
    let shown = make_for_org(&request, &mut change, &org, new).await?;
    let event = request.event(EventType::ServiceAccountCreated).detail("clientId", shown["clientId"].clone());
    change.commit(event.detail("roles", shown["roles"].clone()), now).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(shown)))
}

/// Makes a service account of an organization, with its secret in what is shown.
pub(crate) async fn make_for_org(
    request: &Request,
    change: &mut Change,
    org: &Organization,
    new: NewAccount,
) -> Result<Value, ApiError> {
    let roles: Vec<OrgRole> = parse_roles("roles", &new.roles)?;
    let (account, secret) = make(request, change, org, &new).await?;
    let id = principal(&account);
    change.set_org_roles(&id, org.id, &roles).await?;
    let mut shown = view(request, &account, &Grants::default(), &Uses::new());
    shown["roles"] = json!(roles);
    Ok(with_secret(shown, 0, &secret))
}

async fn make(
    request: &Request,
    change: &mut Change,
    org: &Organization,
    new: &NewAccount,
) -> Result<(ServiceAccount, Zeroizing<String>), ApiError> {
    check_text("name", &new.name, 64)?;
    check_text("description", &new.description, 250)?;
    let (made, secret) = make_secret(request, org, new.secret_expires_after_hours)?;
    let account = ServiceAccount {
        client_id: format!("{CLIENT_ID_PREFIX}{}", data_encoding::HEXLOWER.encode(&make_bytes::<12>())),
        org: org.id,
        name: new.name.clone(),
        description: new.description.clone(),
        created: request.now(),
        secrets: vec![made],
        access_list: AccessList::default(),
    };
    change.insert(&account).await?;
    Ok((account, secret))
}

fn make_secret(
    request: &Request,
    org: &Organization,
    hours: u32,
) -> Result<(AccountSecret, Zeroizing<String>), ApiError> {
    let most = org.settings.max_service_account_secret_validity_in_hours;
    if !(1..=most).contains(&hours) {
        return Err(invalid("secretExpiresAfterHours", &format!("is not 1 to {most}")));
    }
    let now = request.now();
    let random = data_encoding::BASE64URL_NOPAD.encode(&make_bytes::<30>());
    let secret = Zeroizing::new(format!("{SECRET_PREFIX}{random}"));
    let made = AccountSecret {
        id: request.app.make_id(),
        created: now,
        expires: Timestamp::from_epoch_ms(now.epoch_ms() + i64::from(hours) * 3_600_000),
        masked: format!("{SECRET_PREFIX}...{}", &random[random.len() - 4..]),
        sha256: sha256(&secret),
    };
    Ok((made, secret))
}

async fn create_in_project(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewAccount = request.parse()?;
    let roles: Vec<ProjectRole> = parse_roles("roles", &new.roles)?;
    let (now, org, project) = (request.now(), request.org()?, request.project()?);
    let mut change = request.app.store().change().await?;
    let org = orgs::load(&mut change, org).await?;
    let (account, secret) = make(&request, &mut change, &org, &new).await?;
    let id = principal(&account);
    change.grant(&id, Grant::Org(org.id, OrgRole::OrgMember)).await?;
    change.set_project_roles(&id, project, &roles).await?;
    let grants = change.grants(&id).await?;
    let shown = view(&request, &account, &grants, &Uses::new());
    let event = request.event(EventType::ServiceAccountCreated).detail("clientId", account.client_id.clone());
    change.commit(event.detail("roles", json!(roles)), now).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(with_secret(shown, 0, &secret))))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let account = load(&request, &mut tx).await?;
    let (grants, uses) = known(&mut tx, &account).await?;
    Ok(Reply::ok(view(&request, &account, &grants, &uses)))
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    let asked: AccountChange = request.parse()?;
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let mut account = load(&request, &mut change).await?;
    may_change(&request, &mut change, &account).await?;
    let id = principal(&account);
    let before = (account.document.clone(), change.grants(&id).await?);
    if let Some(name) = asked.name {
        check_text("name", &name, 64)?;
        account.document.name = name;
    }
    if let Some(description) = asked.description {
        check_text("description", &description, 250)?;
        account.document.description = description;
    }
    if let Some(names) = asked.roles.filter(|names| !names.is_empty()) {
        match request.project {
            Some(project) => {
                let roles: Vec<ProjectRole> = parse_roles("roles", &names)?;
                if !roles.contains(&ProjectRole::GroupOwner) {
                    keep_project_owner(&mut change, project, &id, Loss::Demoted).await?;
                }
                change.set_project_roles(&id, project, &roles).await?;
            }
            None => {
                let roles: Vec<OrgRole> = parse_roles("roles", &names)?;
                if !roles.contains(&OrgRole::OrgOwner) {
                    keep_org_owner(&mut change, org, &id, Loss::Demoted).await?;
                }
                change.set_org_roles(&id, org, &roles).await?;
            }
        }
    }
    if account.document != before.0 {
        change.update(&account.document, account.revision).await?;
    }
    let (grants, uses) = known(&mut change, &account).await?;
    let shown = view(&request, &account, &grants, &uses);
    let event_type = if grants != before.1 {
        Some(EventType::ServiceAccountRolesChanged)
    } else {
        (account.document != before.0).then_some(EventType::ServiceAccountDetailsChanged)
    };
    if let Some(event_type) = event_type {
        let event = request.event(event_type).detail("clientId", account.client_id.clone());
        change.commit(event.detail("roles", assignments(&grants, org, request.project)), now).await?;
    }
    Ok(Reply::ok(shown))
}

async fn delete(request: Request) -> Result<Reply, ApiError> {
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let account = load(&request, &mut change).await?;
    let id = principal(&account);
    keep_org_owner(&mut change, org, &id, Loss::Removed).await?;
    change.drop_grants(&id).await?;
    change.revoke_access_tokens(&account.client_id).await?;
    change.delete::<ServiceAccount>(&account.client_id).await?;
    let event = request.event(EventType::ServiceAccountDeleted).detail("clientId", account.client_id.clone());
    change.commit(event, now).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn remove_from_project(request: Request) -> Result<Reply, ApiError> {
    set_in_project(&request, EventType::ServiceAccountRemovedFromProject, &[]).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn invite(mut request: Request) -> Result<Reply, ApiError> {
    let asked: Invitation = request.parse()?;
    let roles: Vec<ProjectRole> = parse_roles("roles", &asked.roles)?;
    set_in_project(&request, EventType::ServiceAccountAddedToProject, &roles).await?;
    get(request).await
}

async fn set_in_project(
    request: &Request,
    event_type: EventType,
    roles: &[ProjectRole],
) -> Result<(), ApiError> {
    let (now, project) = (request.now(), request.project()?);
    let mut change = request.app.store().change().await?;
    let account = load_in_org(request, &mut change).await?;
    let id = principal(&account);
    let before = project_roles(&change.grants(&id).await?, project);
    if roles.is_empty() && before.is_empty() {
        return Err(ApiError::new(Code::ServiceAccountNotFound).param(&account.client_id));
    }
    may_set_project_roles(request, &before, roles)?;
    if !roles.contains(&ProjectRole::GroupOwner) {
        let loss = if roles.is_empty() { Loss::Removed } else { Loss::Demoted };
        keep_project_owner(&mut change, project, &id, loss).await?;
    }
    change.set_project_roles(&id, project, roles).await?;
    let event = request.event(event_type).detail("clientId", account.client_id.clone());
    change.commit(event.detail("roles", json!(roles)), now).await?;
    Ok(())
}

async fn list_projects(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let account = load(&request, &mut tx).await?;
    let grants = tx.grants(&principal(&account)).await?;
    let mut projects: Vec<ProjectId> = grants.project.iter().map(|(project, _)| *project).collect();
    projects.dedup();
    let shown = projects
        .into_iter()
        .map(|project| json!({"groupId": project, "roles": project_roles(&grants, project)}))
        .collect();
    Reply::list(&request, shown)
}

async fn create_secret(mut request: Request) -> Result<Reply, ApiError> {
    let asked: NewSecret = request.parse()?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let org = orgs::load(&mut change, request.org()?).await?;
    let mut account = load(&request, &mut change).await?;
    may_change(&request, &mut change, &account).await?;
    account.document.secrets.retain(|secret| secret.expires > now);
    if account.secrets.len() >= MOST_SECRETS {
        return Err(ApiError::new(Code::TooManySecrets).param(&account.client_id));
    }
    let (made, secret) = make_secret(&request, &org, asked.secret_expires_after_hours)?;
    let mut shown = secret_view(&made, &Uses::new());
    shown["secret"] = json!(*secret);
    let id = made.id;
    account.document.secrets.push(made);
    change.update(&account.document, account.revision).await?;
    let event =
        request.event(EventType::ServiceAccountSecretAdded).detail("clientId", account.client_id.clone());
    change.commit(event.detail("secretId", json!(id)), now).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(shown)))
}

async fn delete_secret(request: Request) -> Result<Reply, ApiError> {
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut account = load(&request, &mut change).await?;
    may_change(&request, &mut change, &account).await?;
    let wanted = request.param("secretId");
    let missing = || ApiError::new(Code::ServiceAccountSecretNotFound).param(wanted);
    let index =
        account.secrets.iter().position(|secret| secret.id.to_string() == wanted).ok_or_else(missing)?;
    let removed = account.document.secrets.remove(index);
    change.update(&account.document, account.revision).await?;
    let (id, entry) = (principal(&account), secret_entry(removed.id));
    change.forget_usage(&id, &entry).await?;
    // Tokens do not remember which secret they were had for: all end.
    change.revoke_access_tokens(&account.client_id).await?;
    let event =
        request.event(EventType::ServiceAccountSecretDeleted).detail("clientId", account.client_id.clone());
    change.commit(event.detail("secretId", wanted), now).await?;
    request.app.usage().forget(&id, &entry);
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Who makes a secret of an account can act as it: a project's owner only for accounts that can do nothing beyond
/// the project.
async fn may_change(request: &Request, tx: &mut Tx, account: &ServiceAccount) -> Result<(), ApiError> {
    if request.principal.grants.allow(ORG_OWNER, request.org, None).is_ok() {
        return Ok(());
    }
    let grants = tx.grants(&principal(account)).await?;
    let beyond = grants.org.iter().any(|(_, role)| *role != OrgRole::OrgMember)
        || grants.project.iter().any(|(project, _)| Some(*project) != request.project);
    if !beyond {
        return Ok(());
    }
    Err(ApiError::new(Code::AccessForbidden).detail(
        "The service account has roles outside the project: only an owner of the organization changes it.",
    ))
}

async fn list_entries(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let account = load(&request, &mut tx).await?;
    let uses = tx.usage(&principal(&account)).await?;
    Reply::list(&request, access_lists::account_views(&account, &uses))
}

async fn add_entries(mut request: Request) -> Result<Reply, ApiError> {
    let asked: Vec<NewEntry> = request.parse()?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut account = load(&request, &mut change).await?;
    may_change(&request, &mut change, &account).await?;
    let uses = change.usage(&principal(&account)).await?;
    let added = access_lists::add(&mut account.document.access_list, asked, now)?;
    if !added.is_empty() {
        change.update(&account.document, account.revision).await?;
        let event = request.event(EventType::ServiceAccountAccessListEntryAdded);
        change
            .commit(event.detail("clientId", account.client_id.clone()).detail("networks", added), now)
            .await?;
    }
    Reply::list(&request, access_lists::account_views(&account, &uses))
}

async fn delete_entry(request: Request) -> Result<Reply, ApiError> {
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut account = load(&request, &mut change).await?;
    may_change(&request, &mut change, &account).await?;
    let index = access_lists::position(&account.access_list, request.param("ipAddress"))?;
    let removed = account.document.access_list.entries.remove(index);
    change.update(&account.document, account.revision).await?;
    let (id, entry) = (principal(&account), network_entry(&removed.network));
    change.forget_usage(&id, &entry).await?;
    let event = request.event(EventType::ServiceAccountAccessListEntryDeleted);
    let event = event.detail("clientId", account.client_id.clone());
    change.commit(event.detail("networks", json!([removed.network])), now).await?;
    request.app.usage().forget(&id, &entry);
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// The service account of the path: of the organization, and, where the path names a project, with a role there.
async fn load(request: &Request, tx: &mut Tx) -> Result<Stored<ServiceAccount>, ApiError> {
    let account = load_in_org(request, tx).await?;
    if let Some(project) = request.project {
        let grants = tx.grants(&principal(&account)).await?;
        if project_roles(&grants, project).is_empty() {
            return Err(ApiError::new(Code::ServiceAccountNotFound).param(&account.client_id));
        }
    }
    Ok(account)
}

async fn load_in_org(request: &Request, tx: &mut Tx) -> Result<Stored<ServiceAccount>, ApiError> {
    let client_id = request.param("clientId");
    let org = request.org()?;
    tx.get::<ServiceAccount>(client_id)
        .await?
        .filter(|account| account.org == org)
        .ok_or_else(|| ApiError::new(Code::ServiceAccountNotFound).param(client_id))
}

/// A service account's roles, and when what is its was used.
async fn known(tx: &mut Tx, account: &ServiceAccount) -> Result<(Grants, Uses), ApiError> {
    let id = principal(account);
    Ok((tx.grants(&id).await?, tx.usage(&id).await?))
}

fn principal(account: &ServiceAccount) -> PrincipalId {
    PrincipalId::ServiceAccount(account.client_id.clone())
}

fn view(request: &Request, account: &ServiceAccount, grants: &Grants, uses: &Uses) -> Value {
    let roles = match request.project {
        Some(project) => json!(project_roles(grants, project)),
        None => json!(org_roles(grants, account.org)),
    };
    json!({
        "clientId": account.client_id,
        "createdAt": time(account.created),
        "description": account.description,
        "name": account.name,
        "roles": roles,
        "secrets": account.secrets.iter().map(|secret| secret_view(secret, uses)).collect::<Vec<_>>(),
    })
}

fn secret_view(secret: &AccountSecret, uses: &Uses) -> Value {
    json!({
        "createdAt": time(secret.created),
        "expiresAt": time(secret.expires),
        "id": secret.id,
        "lastUsedAt": uses.get(&secret_entry(secret.id)).map(|used| time(used.last_at)),
        "maskedSecretValue": secret.masked,
    })
}

/// The one answer that has the secret.
fn with_secret(mut shown: Value, index: usize, secret: &str) -> Value {
    let entry = &mut shown["secrets"][index];
    entry["secret"] = json!(secret);
    if let Some(entry) = entry.as_object_mut() {
        entry.shift_remove("maskedSecretValue");
    }
    shown
}

/// Letters, digits, spaces and some signs.
fn check_text(field: &str, text: &str, most: usize) -> Result<(), ApiError> {
    check_length(field, text, most)?;
    let fits = |c: char| c.is_alphanumeric() || "-_.,' ".contains(c);
    if text.chars().all(fits) {
        Ok(())
    } else {
        Err(invalid(field, "has more than letters, digits, spaces and - _ . , '"))
    }
}
