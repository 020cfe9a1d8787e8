//! Users of organizations and projects: names that roles are given to.
//!
//! A user is active as soon as it is named: keyward sends no invitations, and users do not sign in.

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    event::EventType,
    id::{OrgId, ProjectId, UserId},
    project::Project,
    role::{Grants, OrgRole, ProjectRole, Requirement},
    user::User,
};
use keyward_store::{Change, Grant, PrincipalId, Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Content, Operation, Reply, Request,
    grants::{
        Loss, ORG_OWNER, PROJECT_READER, assignments, invalid, keep_org_owner, keep_project_owner,
        may_set_project_roles, must_own, org_roles, parse_roles, project_roles, role_name,
    },
    time,
};
use crate::{
    handler,
    http::{error::ApiError, version::ApiVersion},
};

const V1: &[&str] = &["2023-01-01"];
const V2: &[&str] = &["2025-02-19"];
const BOTH: &[&str] = &["2023-01-01", "2025-02-19"];
const NEWER: ApiVersion = ApiVersion::of(2025, 2, 19);
const ORG_MEMBER: Requirement = Requirement::Org(&[OrgRole::OrgMember]);
const ACCESS_MANAGER: Requirement = Requirement::Project(&[ProjectRole::GroupAccessManager]);

/// Their operations.
pub fn operations() -> Vec<Operation> {
    use Requirement::Authenticated;
    let operation = |id, method, path, versions, requires, handler| Operation {
        id,
        method,
        path,
        versions,
        requires,
        handler,
    };
    const ORG: &str = "/api/atlas/v2/orgs/{orgId}/users";
    const ORG_ONE: &str = "/api/atlas/v2/orgs/{orgId}/users/{userId}";
    const PROJECT: &str = "/api/atlas/v2/groups/{groupId}/users";
    const PROJECT_ONE: &str = "/api/atlas/v2/groups/{groupId}/users/{userId}";
    vec![
        operation("listOrgUsers", Method::GET, ORG, BOTH, ORG_MEMBER, handler!(list_of_org)),
        operation("createOrgUser", Method::POST, ORG, V2, ORG_OWNER, handler!(add_to_org)),
        operation("getOrgUser", Method::GET, ORG_ONE, V2, ORG_MEMBER, handler!(get_in_org)),
        operation("updateOrgUser", Method::PATCH, ORG_ONE, V2, ORG_OWNER, handler!(update_in_org)),
        operation("removeOrgUser", Method::DELETE, ORG_ONE, BOTH, ORG_OWNER, handler!(remove_from_org)),
        operation(
            "updateOrgUserRoles",
            Method::PUT,
            "/api/atlas/v2/orgs/{orgId}/users/{userId}/roles",
            V1,
            ORG_OWNER,
            handler!(set_org_roles),
        ),
        operation(
            "addOrgUserRole",
            Method::POST,
            "/api/atlas/v2/orgs/{orgId}/users/{userId}:addRole",
            V2,
            ORG_OWNER,
            handler!(add_org_role),
        ),
        operation(
            "removeOrgUserRole",
            Method::POST,
            "/api/atlas/v2/orgs/{orgId}/users/{userId}:removeRole",
            V2,
            ORG_OWNER,
            handler!(remove_org_role),
        ),
        operation("listGroupUsers", Method::GET, PROJECT, BOTH, PROJECT_READER, handler!(list_of_project)),
        operation("addGroupUsers", Method::POST, PROJECT, V2, ACCESS_MANAGER, handler!(add_to_project)),
        operation("getGroupUser", Method::GET, PROJECT_ONE, V2, PROJECT_READER, handler!(get_in_project)),
        operation(
            "removeGroupUser",
            Method::DELETE,
            PROJECT_ONE,
            BOTH,
            ACCESS_MANAGER,
            handler!(remove_from_project),
        ),
        // For owners of the project or its organization: the handler asks.
        operation(
            "updateGroupUserRoles",
            Method::PUT,
            "/api/atlas/v2/groups/{groupId}/users/{userId}/roles",
            V1,
            ACCESS_MANAGER,
            handler!(set_project_roles),
        ),
        operation(
            "addGroupUserRole",
            Method::POST,
            "/api/atlas/v2/groups/{groupId}/users/{userId}:addRole",
            V2,
            ACCESS_MANAGER,
            handler!(add_project_role),
        ),
        operation(
            "removeGroupUserRole",
            Method::POST,
            "/api/atlas/v2/groups/{groupId}/users/{userId}:removeRole",
            V2,
            ACCESS_MANAGER,
            handler!(remove_project_role),
        ),
        operation(
            "addGroupAccessUser",
            Method::POST,
            "/api/atlas/v2/groups/{groupId}/access",
            &["2023-02-01"],
            ACCESS_MANAGER,
            handler!(invite_to_project),
        ),
        operation("getUser", Method::GET, "/api/atlas/v2/users/{userId}", V1, Authenticated, handler!(get)),
        operation(
            "getUserByName",
            Method::GET,
            "/api/atlas/v2/users/byName/{userName}",
            V1,
            Authenticated,
            handler!(get_by_name),
        ),
    ]
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewOrgUser {
    username: String,
    roles: OrgUserRoles,
    #[serde(default)]
    team_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OrgUserRoles {
    org_roles: Vec<String>,
    #[serde(default)]
    group_role_assignments: Option<Vec<ProjectRoles>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProjectRoles {
    group_id: ProjectId,
    group_roles: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OrgUserChange {
    roles: Option<OrgUserRoles>,
    #[serde(default)]
    team_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProjectUser {
    username: String,
    roles: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OneOrgRole {
    org_role: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OneProjectRole {
    group_role: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AllOrgRoles {
    org_roles: Vec<String>,
    #[serde(rename = "links", default)]
    _links: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AllProjectRoles {
    group_roles: Vec<String>,
    #[serde(rename = "links", default)]
    _links: serde::de::IgnoredAny,
}

async fn list_of_org(request: Request) -> Result<Reply, ApiError> {
    let org = request.org()?;
    let asked = Asked::of(&request)?;
    let mut tx = request.app.store().read().await?;
    let mut shown = Vec::new();
    for (member, _) in tx.org_members(org).await? {
        if let Some(user) = user_of(&mut tx, &member).await?
            && asked.names(&user)
        {
            shown.push(if request.version >= NEWER {
                org_view(&user, &tx.grants(&member).await?, &mut tx, org).await?
            } else {
                old_view(&request, &user, &tx.grants(&member).await?)
            });
        }
    }
    Reply::list(&request, shown)
}

async fn list_of_project(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let asked = Asked::of(&request)?;
    let mut tx = request.app.store().read().await?;
    let mut shown = Vec::new();
    for (member, roles) in tx.project_members(project).await? {
        if let Some(user) = user_of(&mut tx, &member).await?
            && asked.names(&user)
        {
            shown.push(if request.version >= NEWER {
                project_view(&user, &roles)
            } else {
                old_view(&request, &user, &tx.grants(&member).await?)
            });
        }
    }
    Reply::list(&request, shown)
}

/// What a membership of an organization can be. All of ours are the first: nobody is invited and waited for.
const MEMBERSHIPS: [&str; 4] = ["ACTIVE", "PENDING", "INVITATION_EXPIRED", "INVITATION_REJECTED"];

/// Which users the query asks for.
struct Asked<'r> {
    username: Option<&'r str>,
    /// Whether it asks for those who are members now.
    members: bool,
}

impl<'r> Asked<'r> {
    fn of(request: &'r Request) -> Result<Self, ApiError> {
        let mut members = true;
        for name in ["orgMembershipStatus", "orgMembershipStatuses"] {
            let known = |status: &str| MEMBERSHIPS.iter().position(|one| *one == status);
            let statuses = request.choices(name, &MEMBERSHIPS.join(", "), known)?;
            members &= statuses.is_empty() || statuses.contains(&0);
        }
        Ok(Self { username: request.query("username"), members })
    }

    fn names(&self, user: &User) -> bool {
        self.members && self.username.is_none_or(|name| user.username == name)
    }
}

async fn user_of(tx: &mut Tx, member: &PrincipalId) -> Result<Option<User>, ApiError> {
    match member {
        PrincipalId::User(id) => Ok(tx.get::<User>(id).await?.map(|user| user.document)),
        PrincipalId::ApiKey(_) | PrincipalId::ServiceAccount(_) => Ok(None),
    }
}

async fn add_to_org(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewOrgUser = request.parse()?;
    check_username(&new.username)?;
    no_teams(&new.team_ids)?;
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let user = find_or_make(&request, &mut change, &new.username).await?;
    let id = PrincipalId::User(user.id);
    if !org_roles(&change.grants(&id).await?, org).is_empty() {
        return Err(ApiError::new(Code::UserAlreadyExists).param(&user.username));
    }
    set_all(&mut change, org, &id, new.roles).await?;
    let grants = change.grants(&id).await?;
    let shown = org_view(&user, &grants, &mut change, org).await?;
    let event = request.event(EventType::UserJoinedOrg).detail("targetUsername", user.username.clone());
    change.commit(event.detail("roles", assignments(&grants, org, None)), now).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(shown)))
}

/// Makes these the user's roles in the organization and, where given, in its projects.
async fn set_all(
    change: &mut Change,
    org: OrgId,
    id: &PrincipalId,
    roles: OrgUserRoles,
) -> Result<(), ApiError> {
    let in_org: Vec<OrgRole> = parse_roles("roles.orgRoles", &roles.org_roles)?;
    if !in_org.contains(&OrgRole::OrgOwner) {
        keep_org_owner(change, org, id, Loss::Demoted).await?;
    }
    change.set_org_roles(id, org, &in_org).await?;
    let Some(wanted) = roles.group_role_assignments else { return Ok(()) };
    let mut listed = Vec::new();
    for assignment in wanted {
        let project = assignment.group_id;
        let found = change.get::<Project>(project).await?.filter(|found| found.org == org);
        if found.is_none() {
            return Err(ApiError::new(Code::GroupNotFound).param(project));
        }
        let roles: Vec<ProjectRole> =
            parse_roles("groupRoleAssignments.groupRoles", &assignment.group_roles)?;
        if !roles.contains(&ProjectRole::GroupOwner) {
            keep_project_owner(change, project, id, Loss::Demoted).await?;
        }
        change.set_project_roles(id, project, &roles).await?;
        listed.push(project);
    }
    // The list is the whole: what it does not name is taken.
    let grants = change.grants(id).await?;
    for project in projects_of_org(change, org, &grants).await? {
        if !listed.contains(&project) {
            keep_project_owner(change, project, id, Loss::Removed).await?;
            change.set_project_roles(id, project, &[]).await?;
        }
    }
    Ok(())
}

/// The projects of `org` in which these grants are, each once.
async fn projects_of_org(tx: &mut Tx, org: OrgId, grants: &Grants) -> Result<Vec<ProjectId>, ApiError> {
    let mut all: Vec<ProjectId> = grants.project.iter().map(|(project, _)| *project).collect();
    all.sort();
    all.dedup();
    let mut own = Vec::new();
    for project in all {
        if tx.get::<Project>(project).await?.is_some_and(|found| found.org == org) {
            own.push(project);
        }
    }
    Ok(own)
}

async fn get_in_org(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let (user, grants) = member_of_org(&request, &mut tx).await?;
    Ok(Reply::ok(org_view(&user, &grants, &mut tx, request.org()?).await?))
}

async fn update_in_org(mut request: Request) -> Result<Reply, ApiError> {
    let asked: OrgUserChange = request.parse()?;
    no_teams(&asked.team_ids)?;
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let (user, before) = member_of_org(&request, &mut change).await?;
    let id = PrincipalId::User(user.id);
    if let Some(roles) = asked.roles {
        set_all(&mut change, org, &id, roles).await?;
    }
    roles_changed(&request, change, &user, &before, now).await?;
    get_in_org(request).await
}

/// Commits what a user's roles have become, if anything changed.
async fn roles_changed(
    request: &Request,
    mut change: Change,
    user: &User,
    before: &Grants,
    now: keyward_model::Timestamp,
) -> Result<(), ApiError> {
    let after = change.grants(&PrincipalId::User(user.id)).await?;
    if after != *before {
        let event =
            request.event(EventType::UserRolesChanged).detail("targetUsername", user.username.clone());
        let org = request.org()?;
        change.commit(event.detail("roles", assignments(&after, org, request.project)), now).await?;
    }
    Ok(())
}

async fn remove_from_org(request: Request) -> Result<Reply, ApiError> {
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let (user, grants) = member_of_org(&request, &mut change).await?;
    let id = PrincipalId::User(user.id);
    keep_org_owner(&mut change, org, &id, Loss::Removed).await?;
    for project in projects_of_org(&mut change, org, &grants).await? {
        keep_project_owner(&mut change, project, &id, Loss::Removed).await?;
        change.set_project_roles(&id, project, &[]).await?;
    }
    change.set_org_roles(&id, org, &[]).await?;
    let event = request.event(EventType::UserRemovedFromOrg).detail("targetUsername", user.username.clone());
    change.commit(event, now).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn set_org_roles(mut request: Request) -> Result<Reply, ApiError> {
    let asked: AllOrgRoles = request.parse()?;
    let roles: Vec<OrgRole> = parse_roles("orgRoles", &asked.org_roles)?;
    change_org_roles(&request, |_| roles.clone()).await?;
    Ok(Reply::ok(json!({"orgRoles": roles})))
}

async fn add_org_role(mut request: Request) -> Result<Reply, ApiError> {
    let asked: OneOrgRole = request.parse()?;
    let added: Vec<OrgRole> = parse_roles("orgRole", &[asked.org_role])?;
    change_org_roles(&request, |before| [before, &added].concat()).await?;
    get_in_org(request).await
}

async fn remove_org_role(mut request: Request) -> Result<Reply, ApiError> {
    let asked: OneOrgRole = request.parse()?;
    let removed: Vec<OrgRole> = parse_roles("orgRole", &[asked.org_role])?;
    change_org_roles(&request, |before| {
        before.iter().copied().filter(|role| !removed.contains(role)).collect()
    })
    .await?;
    get_in_org(request).await
}

async fn change_org_roles(
    request: &Request,
    after: impl Fn(&[OrgRole]) -> Vec<OrgRole>,
) -> Result<(), ApiError> {
    let (now, org) = (request.now(), request.org()?);
    let mut change = request.app.store().change().await?;
    let (user, before) = member_of_org(request, &mut change).await?;
    let id = PrincipalId::User(user.id);
    let roles = after(&org_roles(&before, org));
    if roles.is_empty() {
        return Err(ApiError::new(Code::ValidationError)
            .detail("A user has at least one role in the organization; remove the user instead."));
    }
    if !roles.contains(&OrgRole::OrgOwner) {
        keep_org_owner(&mut change, org, &id, Loss::Demoted).await?;
    }
    change.set_org_roles(&id, org, &roles).await?;
    roles_changed(request, change, &user, &before, now).await
}

async fn add_to_project(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewProjectUser = request.parse()?;
    let (user, roles) = join_project(&request, new).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(project_view(&user, &roles))))
}

/// The older way: an invitation that is accepted at once.
async fn invite_to_project(mut request: Request) -> Result<Reply, ApiError> {
    must_own(&request)?;
    let new: NewProjectUser = request.parse()?;
    join_project(&request, new).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn join_project(request: &Request, new: NewProjectUser) -> Result<(User, Vec<ProjectRole>), ApiError> {
    check_username(&new.username)?;
    let roles: Vec<ProjectRole> = parse_roles("roles", &new.roles)?;
    let (now, org, project) = (request.now(), request.org()?, request.project()?);
    let mut change = request.app.store().change().await?;
    let user = find_or_make(request, &mut change, &new.username).await?;
    let id = PrincipalId::User(user.id);
    if !project_roles(&change.grants(&id).await?, project).is_empty() {
        return Err(ApiError::new(Code::UserAlreadyExists).param(&user.username));
    }
    may_set_project_roles(request, &[], &roles)?;
    if org_roles(&change.grants(&id).await?, org).is_empty() {
        change.grant(&id, Grant::Org(org, OrgRole::OrgMember)).await?;
    }
    change.set_project_roles(&id, project, &roles).await?;
    let event = request.event(EventType::UserJoinedProject).detail("targetUsername", user.username.clone());
    change.commit(event.detail("roles", json!(roles)), now).await?;
    Ok((user, roles))
}

async fn get_in_project(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let (user, grants) = member_of_project(&request, &mut tx).await?;
    Ok(Reply::ok(project_view(&user, &project_roles(&grants, request.project()?))))
}

async fn remove_from_project(request: Request) -> Result<Reply, ApiError> {
    let (now, project) = (request.now(), request.project()?);
    let mut change = request.app.store().change().await?;
    let (user, grants) = member_of_project(&request, &mut change).await?;
    let id = PrincipalId::User(user.id);
    may_set_project_roles(&request, &project_roles(&grants, project), &[])?;
    keep_project_owner(&mut change, project, &id, Loss::Removed).await?;
    change.set_project_roles(&id, project, &[]).await?;
    let event =
        request.event(EventType::UserRemovedFromProject).detail("targetUsername", user.username.clone());
    change.commit(event, now).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn set_project_roles(mut request: Request) -> Result<Reply, ApiError> {
    must_own(&request)?;
    let asked: AllProjectRoles = request.parse()?;
    let roles: Vec<ProjectRole> = parse_roles("groupRoles", &asked.group_roles)?;
    change_project_roles(&request, |_| roles.clone()).await?;
    Ok(Reply::ok(json!({"groupRoles": roles})))
}

async fn add_project_role(mut request: Request) -> Result<Reply, ApiError> {
    let asked: OneProjectRole = request.parse()?;
    let added: Vec<ProjectRole> = parse_roles("groupRole", &[asked.group_role])?;
    change_project_roles(&request, |before| [before, &added].concat()).await?;
    get_in_project(request).await
}

async fn remove_project_role(mut request: Request) -> Result<Reply, ApiError> {
    let asked: OneProjectRole = request.parse()?;
    let removed: Vec<ProjectRole> = parse_roles("groupRole", &[asked.group_role])?;
    change_project_roles(&request, |before| {
        before.iter().copied().filter(|role| !removed.contains(role)).collect()
    })
    .await?;
    get_in_project(request).await
}

async fn change_project_roles(
    request: &Request,
    after: impl Fn(&[ProjectRole]) -> Vec<ProjectRole>,
) -> Result<(), ApiError> {
    let (now, org, project) = (request.now(), request.org()?, request.project()?);
    let mut change = request.app.store().change().await?;
    // An organization's member is given their first role in a project in this way too.
    let missing = || ApiError::new(Code::UserNotFound).param(request.param("userId"));
    let (user, before) = load(request, &mut change).await?;
    if org_roles(&before, org).is_empty() && project_roles(&before, project).is_empty() {
        return Err(missing());
    }
    let id = PrincipalId::User(user.id);
    let of_before = project_roles(&before, project);
    let roles = after(&of_before);
    if roles.is_empty() {
        return Err(ApiError::new(Code::ValidationError)
            .detail("A user has at least one role in the project; remove the user instead."));
    }
    may_set_project_roles(request, &of_before, &roles)?;
    if !roles.contains(&ProjectRole::GroupOwner) {
        keep_project_owner(&mut change, project, &id, Loss::Demoted).await?;
    }
    change.set_project_roles(&id, project, &roles).await?;
    roles_changed(request, change, &user, &before, now).await
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let (user, grants) = load(&request, &mut tx).await?;
    shared(&request, user, &grants)
}

async fn get_by_name(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let name = request.param("userName");
    let missing = || ApiError::new(Code::UserNotFound).param(name);
    let user = tx.find::<User>("", name).await?.ok_or_else(missing)?;
    let grants = tx.grants(&PrincipalId::User(user.id)).await?;
    shared(&request, user.document, &grants)
}

/// Shows a user to who shares an organization with them; to others they do not exist.
fn shared(request: &Request, user: User, grants: &Grants) -> Result<Reply, ApiError> {
    let own = &request.principal.grants.org;
    if grants.org.iter().any(|(org, _)| own.iter().any(|(own, _)| own == org)) {
        return Ok(Reply::ok(old_view(request, &user, grants)));
    }
    Err(ApiError::new(Code::UserNotFound).param(request.path.first().map_or("", |(_, value)| value)))
}

/// The user of the path, and their roles.
async fn load(request: &Request, tx: &mut Tx) -> Result<(User, Grants), ApiError> {
    let missing = || ApiError::new(Code::UserNotFound).param(request.param("userId"));
    let id: UserId = request.param("userId").parse().map_err(|_| missing())?;
    let user: Stored<User> = tx.get::<User>(id).await?.ok_or_else(missing)?;
    let grants = tx.grants(&PrincipalId::User(id)).await?;
    Ok((user.document, grants))
}

async fn member_of_org(request: &Request, tx: &mut Tx) -> Result<(User, Grants), ApiError> {
    let (user, grants) = load(request, tx).await?;
    if org_roles(&grants, request.org()?).is_empty() {
        return Err(ApiError::new(Code::UserNotFound).param(user.id));
    }
    Ok((user, grants))
}

async fn member_of_project(request: &Request, tx: &mut Tx) -> Result<(User, Grants), ApiError> {
    let (user, grants) = load(request, tx).await?;
    if project_roles(&grants, request.project()?).is_empty() {
        return Err(ApiError::new(Code::UserNotFound).param(user.id));
    }
    Ok((user, grants))
}

async fn find_or_make(request: &Request, change: &mut Change, username: &str) -> Result<User, ApiError> {
    if let Some(user) = change.find::<User>("", username).await? {
        return Ok(user.document);
    }
    let user = User { id: request.app.make_id(), username: username.to_owned(), created: request.now() };
    change.insert(&user).await?;
    Ok(user)
}

/// An e-mail address, as far as it matters: it names someone and cannot be mistaken.
fn check_username(username: &str) -> Result<(), ApiError> {
    let plain = username.len() <= 254 && !username.chars().any(|c| c.is_whitespace() || c.is_control());
    let parts = username.rsplit_once('@').filter(|(name, host)| {
        !name.is_empty() && host.contains('.') && !host.starts_with('.') && !host.ends_with('.')
    });
    if plain && parts.is_some() { Ok(()) } else { Err(invalid("username", "is no e-mail address")) }
}

fn no_teams(ids: &[String]) -> Result<(), ApiError> {
    if ids.is_empty() { Ok(()) } else { Err(invalid("teamIds", "names a team, and keyward has none")) }
}

async fn org_view(user: &User, grants: &Grants, tx: &mut Tx, org: OrgId) -> Result<Value, ApiError> {
    let mut projects = Vec::new();
    for project in projects_of_org(tx, org, grants).await? {
        projects.push(json!({"groupId": project, "groupRoles": project_roles(grants, project)}));
    }
    let mut shown = base_view(user);
    shown["roles"] = json!({"groupRoleAssignments": projects, "orgRoles": org_roles(grants, org)});
    shown["teamIds"] = json!([]);
    Ok(shown)
}

fn project_view(user: &User, roles: &[ProjectRole]) -> Value {
    let mut shown = base_view(user);
    shown["roles"] = json!(roles);
    shown
}

fn base_view(user: &User) -> Value {
    json!({
        "createdAt": time(user.created),
        "firstName": "",
        "id": user.id,
        "lastName": "",
        "orgMembershipStatus": "ACTIVE",
        "username": user.username,
    })
}

/// As versions before 2025-02-19 show a user. What the document asks for and keyward does not know is said to be
/// unknown; the password, which it also asks for, is in no answer.
fn old_view(request: &Request, user: &User, grants: &Grants) -> Value {
    let seen = |org: OrgId| request.principal.grants.org.iter().any(|(own, _)| *own == org);
    let mut roles: Vec<Value> = grants
        .org
        .iter()
        .filter(|(org, _)| seen(*org))
        .map(|(org, role)| json!({"orgId": org, "roleName": role_name(role)}))
        .collect();
    // Of projects only those that the caller may read.
    let readable = |project: ProjectId| {
        request.project == Some(project)
            || request.principal.grants.project.iter().any(|(own, _)| *own == project)
    };
    roles.extend(
        grants
            .project
            .iter()
            .filter(|(project, _)| readable(*project))
            .map(|(project, role)| json!({"groupId": project, "roleName": role_name(role)})),
    );
    json!({
        // ISO 3166 leaves ZZ to its users; CLDR has it for an unknown country.
        "country": "ZZ",
        "createdAt": time(user.created),
        "emailAddress": user.username,
        "firstName": "",
        "id": user.id,
        "lastName": "",
        "links": [{"href": request.href(&format!("/api/atlas/v2/users/{}", user.id)), "rel": "self"}],
        "mobileNumber": "",
        "roles": roles,
        "teamIds": [],
        "username": user.username,
    })
}
