//! Projects (Atlas: groups).

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    cluster::Cluster,
    count::counted,
    event::EventType,
    id::{OrgId, ProjectId, UserId},
    node::EnrolledNode,
    organization::Organization,
    project::{Project, ProjectSettings, RegionUsage, Tag},
    role::{OrgRole, ProjectRole, Requirement},
    user::User,
};
use keyward_store::{PrincipalId, Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Content, Operation, Reply, Request, alert_configs,
    grants::{PROJECT_OWNER, PROJECT_READER, check_length, check_name, invalid},
    time,
};
use crate::{customer_key, handler, http::error::ApiError};

/// Most labels of a project.
const MOST_TAGS: usize = 50;
const V1: &[&str] = &["2023-01-01"];

/// Its operations.
pub fn operations() -> Vec<Operation> {
    use Requirement::Authenticated;
    let operation =
        |id, method, path, requires, handler| Operation { id, method, path, versions: V1, requires, handler };
    vec![
        operation("listGroups", Method::GET, "/api/atlas/v2/groups", Authenticated, handler!(list)),
        operation("createGroup", Method::POST, "/api/atlas/v2/groups", Authenticated, handler!(create)),
        operation(
            "getGroupByName",
            Method::GET,
            "/api/atlas/v2/groups/byName/{groupName}",
            Authenticated,
            handler!(get_by_name),
        ),
        operation("getGroup", Method::GET, "/api/atlas/v2/groups/{groupId}", PROJECT_READER, handler!(get)),
        operation(
            "updateGroup",
            Method::PATCH,
            "/api/atlas/v2/groups/{groupId}",
            PROJECT_OWNER,
            handler!(update),
        ),
        operation(
            "deleteGroup",
            Method::DELETE,
            "/api/atlas/v2/groups/{groupId}",
            PROJECT_OWNER,
            handler!(delete),
        ),
        operation(
            "getGroupSettings",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/settings",
            PROJECT_READER,
            handler!(get_settings),
        ),
        operation(
            "updateGroupSettings",
            Method::PATCH,
            "/api/atlas/v2/groups/{groupId}/settings",
            PROJECT_OWNER,
            handler!(update_settings),
        ),
        operation(
            "listGroupLimits",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/limits",
            PROJECT_READER,
            handler!(list_limits),
        ),
        operation(
            "listGroupTeams",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/teams",
            PROJECT_READER,
            handler!(list_teams),
        ),
        operation(
            "getGroupIpAddresses",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/ipAddresses",
            PROJECT_READER,
            handler!(get_ip_addresses),
        ),
    ]
}

/// A project as it is asked for. What the server sets is read and ignored: clients send back what they got.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewProject {
    name: String,
    org_id: OrgId,
    #[serde(default)]
    region_usage_restrictions: Option<RegionUsage>,
    #[serde(default)]
    tags: Option<Vec<Tag>>,
    #[serde(default)]
    with_default_alerts_settings: Option<bool>,
    #[serde(rename = "id", default)]
    _id: serde::de::IgnoredAny,
    #[serde(rename = "created", default)]
    _created: serde::de::IgnoredAny,
    #[serde(rename = "clusterCount", default)]
    _cluster_count: serde::de::IgnoredAny,
    #[serde(rename = "links", default)]
    _links: serde::de::IgnoredAny,
}

/// A change of a project.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProjectChange {
    name: Option<String>,
    tags: Option<Vec<Tag>>,
    with_default_alerts_settings: Option<bool>,
}

async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewProject = request.parse()?;
    check_name("name", &new.name)?;
    let tags = new.tags.unwrap_or_default();
    check_tags(&tags)?;
    let owner = owner_asked_for(&request)?;
    let (app, now) = (&request.app, request.now());
    let mut change = app.store().change().await?;
    let missing = || ApiError::new(Code::OrgNotFound).param(new.org_id);
    let org = change.get::<Organization>(new.org_id).await?.ok_or_else(missing)?;
    let creators = Requirement::Org(&[OrgRole::OrgGroupCreator, OrgRole::OrgOwner]);
    request.principal.grants.allow(creators, Some(new.org_id), None).map_err(|refusal| match refusal {
        keyward_model::role::Refusal::MissingRole => ApiError::new(Code::NotOrgGroupCreator),
        keyward_model::role::Refusal::NotInOrg | keyward_model::role::Refusal::NotInProject => missing(),
    })?;
    if change.find::<Project>(new.org_id, &new.name).await?.is_some() {
        return Err(ApiError::new(Code::GroupAlreadyExists).param(&new.name));
    }
    let project = Project {
        id: app.make_id(),
        org: new.org_id,
        name: new.name,
        created: now,
        tags,
        region_usage_restrictions: new.region_usage_restrictions.unwrap_or_default(),
        with_default_alerts_settings: new
            .with_default_alerts_settings
            .unwrap_or(!org.skip_default_alerts_settings),
        settings: ProjectSettings::default(),
    };
    change.insert(&project).await?;
    let creator = request.principal.principal_id().ok_or_else(|| ApiError::new(Code::Unauthenticated))?;
    change.set_project_roles(&creator, project.id, &[ProjectRole::GroupOwner]).await?;
    if let Some(owner) = owner {
        let missing = || ApiError::new(Code::UserNotFound).param(owner);
        change.get::<User>(owner).await?.ok_or_else(missing)?;
        let id = PrincipalId::User(owner);
        if super::grants::org_roles(&change.grants(&id).await?, new.org_id).is_empty() {
            return Err(missing());
        }
        change.set_project_roles(&id, project.id, &[ProjectRole::GroupOwner]).await?;
    }
    let event = request.event(EventType::ProjectCreated).org(project.org).project(project.id);
    change.commit(event.detail("name", project.name.clone()), now).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(view(&request, &project, 0))))
}

/// The user whom the query makes an owner beside the caller.
fn owner_asked_for(request: &Request) -> Result<Option<UserId>, ApiError> {
    let Some(text) = request.query("projectOwnerId").filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        ApiError::new(Code::InvalidQueryParameter)
            .detail("The query parameter projectOwnerId is the id of a user.")
            .param("projectOwnerId")
    })
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let projects = visible(&request, tx.list_all::<Project>().await?);
    page(&request, &mut tx, projects).await
}

/// The projects that the caller may read.
fn visible(request: &Request, projects: Vec<Stored<Project>>) -> Vec<Project> {
    let grants = &request.principal.grants;
    let readable =
        |project: &Project| grants.allow(PROJECT_READER, Some(project.org), Some(project.id)).is_ok();
    projects.into_iter().map(|stored| stored.document).filter(readable).collect()
}

/// The projects of an organization that the caller may read, a page of them.
pub(crate) async fn list_of_org(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let mut projects = visible(&request, tx.list::<Project>(request.org()?).await?);
    if let Some(name) = request.query("name") {
        projects.retain(|project| project.name.to_lowercase().contains(&name.to_lowercase()));
    }
    page(&request, &mut tx, projects).await
}

async fn page(request: &Request, tx: &mut Tx, projects: Vec<Project>) -> Result<Reply, ApiError> {
    let (page, total) = request.page()?.of_list(projects);
    let mut shown = Vec::new();
    for project in page {
        let clusters = cluster_count(tx, project.id).await?;
        shown.push(view(request, &project, clusters));
    }
    Ok(Reply::page(shown, total))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let project = load(&mut tx, request.project()?).await?;
    let clusters = cluster_count(&mut tx, project.id).await?;
    Ok(Reply::ok(view(&request, &project, clusters)))
}

async fn get_by_name(request: Request) -> Result<Reply, ApiError> {
    let name = request.param("groupName").to_owned();
    let mut tx = request.app.store().read().await?;
    let found = visible(&request, tx.named::<Project>(&name).await?).into_iter().next();
    let project = found.ok_or_else(|| ApiError::new(Code::GroupNameNotFound).param(&name))?;
    let clusters = cluster_count(&mut tx, project.id).await?;
    Ok(Reply::ok(view(&request, &project, clusters)))
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    let asked: ProjectChange = request.parse()?;
    if let Some(name) = &asked.name {
        check_name("name", name)?;
    }
    if let Some(tags) = &asked.tags {
        check_tags(tags)?;
    }
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut project = load(&mut change, request.project()?).await?;
    let before = project.document.clone();
    if let Some(name) = asked.name {
        let namesake = change.find::<Project>(project.org, &name).await?;
        if namesake.is_some_and(|namesake| namesake.id != project.id) {
            return Err(ApiError::new(Code::GroupAlreadyExists).param(&name));
        }
        project.document.name = name;
    }
    project.document.tags = asked.tags.unwrap_or(project.document.tags);
    project.document.with_default_alerts_settings =
        asked.with_default_alerts_settings.unwrap_or(before.with_default_alerts_settings);
    let clusters = cluster_count(&mut change, project.id).await?;
    if project.document != before {
        let renamed = project.document.name != before.name;
        let event_type = if renamed { EventType::ProjectRenamed } else { EventType::ProjectTagsModified };
        change.update(&project.document, project.revision).await?;
        change.commit(request.event(event_type).detail("name", project.name.clone()), now).await?;
    }
    Ok(Reply::ok(view(&request, &project, clusters)))
}

async fn delete(request: Request) -> Result<Reply, ApiError> {
    let (now, id) = (request.now(), request.project()?);
    let mut change = request.app.store().change().await?;
    let project = load(&mut change, id).await?;
    let clusters = cluster_count(&mut change, id).await?;
    if clusters > 0 {
        return Err(ApiError::new(Code::CannotCloseGroupActiveAtlasClusters)
            .detail(format!("The project still has {}.", counted(clusters, "cluster", "clusters")))
            .param(id));
    }
    // Those that are in no cluster stand in nobody's way, and are let go: each is revoked, and works on as it is.
    let nodes = change.list::<EnrolledNode>(id).await?;
    for node in nodes.iter().filter(|node| node.revoked_at.is_none()) {
        change.tell_node(node.node_id).await?;
        let event = request
            .event(EventType::NodeRevoked)
            .detail("nodeId", node.node_id.to_string())
            .detail("name", node.name.clone())
            .detail("projectDeleted", true);
        change.also(event, now).await?;
    }
    customer_key::change::drop_all(&mut change, id).await?;
    alert_configs::drop_all(&mut change, id).await?;
    change.drop_project_grants(id).await?;
    change.delete_everything_of(id).await?;
    change.delete::<Project>(id).await?;
    change.commit(request.event(EventType::ProjectDeleted).detail("name", project.name.clone()), now).await?;
    for node in &nodes {
        request.app.nudge().node(node.node_id);
    }
    request.app.nudge().jobs();
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn get_settings(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    Ok(Reply::ok(json!(load(&mut tx, request.project()?).await?.settings)))
}

async fn update_settings(mut request: Request) -> Result<Reply, ApiError> {
    let asked: serde_json::Map<String, Value> = request.parse()?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut project = load(&mut change, request.project()?).await?;
    let before = project.settings.clone();
    project.document.settings = merged(&before, asked)?;
    if project.settings != before {
        change.update(&project.document, project.revision).await?;
        change.commit(request.event(EventType::ProjectSettingsUpdated), now).await?;
    }
    Ok(Reply::ok(json!(project.settings)))
}

/// Settings with some of them replaced; names that are none are refused.
pub(crate) fn merged<S>(before: &S, asked: serde_json::Map<String, Value>) -> Result<S, ApiError>
where
    S: serde::Serialize + serde::de::DeserializeOwned,
{
    let mut whole = match serde_json::to_value(before) {
        Ok(Value::Object(whole)) => whole,
        Ok(_) | Err(_) => return Err(ApiError::new(Code::UnexpectedError)),
    };
    for (name, value) in asked {
        if !whole.contains_key(&name) {
            return Err(invalid(&name, "is not known"));
        }
        whole.insert(name, value);
    }
    crate::http::body::parse(Value::Object(whole))
}

/// keyward sets no limits of its own.
async fn list_limits(_request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::ok(json!([])))
}

/// keyward has no teams.
async fn list_teams(request: Request) -> Result<Reply, ApiError> {
    request.page()?;
    Ok(Reply::page(Vec::new(), 0))
}

/// The clusters run on the project's own hosts: none is keyward's.
async fn get_ip_addresses(request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::ok(json!({"groupId": request.project()?, "services": {"clusters": []}})))
}

/// The project of the request. The pipeline has seen it, so it is gone only if it was deleted since.
pub(crate) async fn load(tx: &mut Tx, id: ProjectId) -> Result<Stored<Project>, ApiError> {
    tx.get::<Project>(id).await?.ok_or_else(|| ApiError::new(Code::GroupNotFound).param(id))
}

/// How many clusters a project has.
async fn cluster_count(tx: &mut Tx, project: ProjectId) -> Result<u64, ApiError> {
    Ok(tx.page::<Cluster>(project, 0, 0).await?.1)
}

fn view(request: &Request, project: &Project, clusters: u64) -> Value {
    json!({
        "clusterCount": clusters,
        "created": time(project.created),
        "id": project.id,
        "links": [{"href": request.href(&format!("/api/atlas/v2/groups/{}", project.id)), "rel": "self"}],
        "name": project.name,
        "orgId": project.org,
        "regionUsageRestrictions": project.region_usage_restrictions,
        "tags": project.tags,
        "withDefaultAlertsSettings": project.with_default_alerts_settings,
    })
}

fn check_tags(tags: &[Tag]) -> Result<(), ApiError> {
    if tags.len() > MOST_TAGS {
        return Err(invalid("tags", &format!("has more than {MOST_TAGS} entries")));
    }
    for (index, tag) in tags.iter().enumerate() {
        check_length("tags.key", &tag.key, 255)?;
        check_length("tags.value", &tag.value, 255)?;
        if tags[..index].iter().any(|other| other.key == tag.key) {
            return Err(invalid("tags.key", "comes twice"));
        }
    }
    Ok(())
}
