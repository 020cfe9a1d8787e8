//! Clusters.
//!
//! A request only says what is wished; what a cluster is, its nodes report. The jobs bring the two together.

mod body;
mod details;
mod legacy;
mod places;
mod regions;
mod view;

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    cluster::{Cluster, ClusterState, Container, KeyProvider},
    encryption::EncryptionAtRest,
    event::EventType,
    id::{ContainerId, ContainerKind, ProjectId},
    node::EnrolledNode,
    role::{ProjectRole, Requirement},
};
use keyward_store::{Change, Report, Stored, Tx};
use serde_json::{Value, json};

use super::{
    Content, Operation, Reply, Request,
    grants::{PROJECT_OWNER, PROJECT_READER},
};
use crate::{
    handler,
    http::{error::ApiError, version::ApiVersion},
};

use body::{ClusterBody, Shape};

pub(crate) use places::provider;
pub(crate) use view::{Member, numbers, version};

/// Protocols that a cluster's nodes may speak.
pub(crate) const TLS_PROTOCOLS: &[&str] = &["TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"];
/// Whose cipher suites.
pub(crate) const CIPHER_MODES: &[&str] = &["CUSTOM", "DEFAULT"];
/// Cipher suites of TLS 1.2 that can be chosen.
pub(crate) const CIPHERS_12: &[&str] =
    &["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
/// Cipher suites of TLS 1.3 that can be chosen.
pub(crate) const CIPHERS_13: &[&str] = &[
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_128_CCM_SHA256",
];

const READ: &[&str] = &["2023-01-01", "2023-02-01", "2024-08-05"];
const WRITE: &[&str] = &["2023-01-01", "2023-02-01", "2024-08-05", "2024-10-23"];
const CREATOR: Requirement = Requirement::Project(&[ProjectRole::GroupClusterCreator]);
const MANAGER: Requirement = Requirement::Project(&[ProjectRole::GroupClusterManager]);
const LIST: &str = "/api/atlas/v2/groups/{groupId}/clusters";
const ONE: &str = "/api/atlas/v2/groups/{groupId}/clusters/{clusterName}";

/// Its operations.
pub fn operations() -> Vec<Operation> {
    let operation = |id, method, path, versions, requires, handler| Operation {
        id,
        method,
        path,
        versions,
        requires,
        handler,
    };
    vec![
        operation("listGroupClusters", Method::GET, LIST, READ, PROJECT_READER, handler!(list)),
        operation("createGroupCluster", Method::POST, LIST, WRITE, CREATOR, handler!(create)),
        operation("getGroupCluster", Method::GET, ONE, READ, PROJECT_READER, handler!(get)),
        operation("updateGroupCluster", Method::PATCH, ONE, WRITE, MANAGER, handler!(update)),
        operation(
            "deleteGroupCluster",
            Method::DELETE,
            ONE,
            &["2023-01-01", "2023-02-01"],
            PROJECT_OWNER,
            handler!(delete),
        ),
        operation(
            "getGroupClusterStatus",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/clusters/{clusterName}/status",
            &["2023-01-01"],
            PROJECT_READER,
            handler!(status),
        ),
        operation(
            "listGroupClusterProviderRegions",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/clusters/provider/regions",
            &["2023-01-01"],
            PROJECT_READER,
            handler!(regions::list),
        ),
        operation(
            "listClusterDetails",
            Method::GET,
            "/api/atlas/v2/clusters",
            &["2023-01-01"],
            Requirement::Authenticated,
            handler!(details::list),
        ),
    ]
}

/// The project's cluster of this name.
pub(crate) async fn find(tx: &mut Tx, project: ProjectId, name: &str) -> Result<Stored<Cluster>, ApiError> {
    tx.find::<Cluster>(project, name).await?.ok_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        ApiError::new(Code::ClusterNotFound)
            .detail(format!("No cluster named {shown} exists in group {project}."))
            .param(shown)
            .param(project)
    })
}

/// Nodes of clusters and their newest reports.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    nodes: Vec<Stored<EnrolledNode>>,
    reports: Vec<Report>,
}

impl Membership {
    /// Of one project.
    pub(crate) async fn load(tx: &mut Tx, project: ProjectId) -> Result<Self, ApiError> {
        Ok(Self { nodes: tx.list::<EnrolledNode>(project).await?, reports: tx.reports(project).await? })
    }

    /// The members of a cluster, in the order of its replica set's configuration.
    pub(crate) fn of(&self, cluster: &Cluster) -> Vec<Member<'_>> {
        self.nodes
            .iter()
            .filter(|node| node.cluster == Some(cluster.id) && node.revoked_at.is_none())
            .map(|node| {
                let report = self.reports.iter().find(|report| report.observed.node_id == node.node_id);
                (&node.document, report)
            })
            .collect()
    }
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let page = request.page()?;
    request.flag("includeDeletedWithRetainedBackups", false)?;
    let mut tx = request.app.store().read().await?;
    let (clusters, total) = tx.page::<Cluster>(project, page.offset(), page.limit()).await?;
    let members = Membership::load(&mut tx, project).await?;
    let shown = clusters.iter().map(|cluster| show(&request, cluster, &members)).collect();
    Ok(Reply::page(shown, total))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    let cluster = find(&mut tx, project, request.param("clusterName")).await?;
    let members = Membership::load(&mut tx, project).await?;
    Ok(Reply::ok(show(&request, &cluster, &members)))
}

async fn status(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let cluster = find(&mut tx, request.project()?, request.param("clusterName")).await?;
    let applied = matches!(cluster.state, ClusterState::Idle | ClusterState::Repairing);
    let href = request.href(&format!("{}/status", path(&cluster)));
    Ok(Reply::ok(json!({
        "changeStatus": if applied { "APPLIED" } else { "PENDING" },
        "links": [{"rel": "self", "href": href}],
    })))
}

async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let (body, shape) = parse(&mut request)?;
    let name = body::checked_name(&body)?;
    let app = request.app.clone();
    let mut make_id = || app.make_id::<ContainerKind>().to_string();
    let intent = body::created(body, shape, &mut make_id)?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    check_provider(&mut change, project, intent.encryption_at_rest_provider).await?;
    if change.find::<Cluster>(project, &name).await?.is_some() {
        return Err(ApiError::new(Code::DuplicateClusterName)
            .detail(format!("A cluster named {name} is already present in group {project}."))
            .param(&name)
            .param(project));
    }
    let cluster = Cluster {
        id: request.app.make_id(),
        project,
        name,
        intent,
        created: now,
        state: ClusterState::Creating,
        ready_at: None,
        delete_asked: None,
        switched_off: false,
        rotations: Vec::new(),
        resync_since: None,
    };
    change.insert(&cluster).await?;
    add_containers(&mut change, &request, &cluster).await?;
    let event = request
        .event(EventType::ClusterCreated)
        .cluster(cluster.name.clone())
        .detail("encryptionAtRestProvider", cluster.intent.encryption_at_rest_provider.as_str())
        .detail("nodes", cluster.intent.node_count());
    change.commit(event, now).await?;
    request.app.nudge().jobs();
    let shown = show(&request, &cluster, &Membership::default());
    Ok(Reply::with(StatusCode::CREATED, Content::Json(shown)))
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let (body, shape) = parse(&mut request)?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut cluster = find(&mut change, project, request.param("clusterName")).await?;
    if body.name.as_ref().is_some_and(|name| *name != cluster.name) {
        return Err(body::wrong("name", "cannot be changed"));
    }
    if cluster.delete_asked.is_some() {
        return Err(already_deleting(&cluster));
    }
    let app = request.app.clone();
    let mut make_id = || app.make_id::<ContainerKind>().to_string();
    let before = cluster.intent.clone();
    let intent = body::merged(&before, body, shape, &mut make_id)?;
    if intent.mongo_db_major_version != before.mongo_db_major_version {
        return Err(ApiError::new(Code::MongoDbVersionIsTheHosts).param("mongoDBMajorVersion"));
    }
    if before.paused && intent.paused && intent != before {
        return Err(ApiError::new(Code::CannotUpdatePausedCluster).param(&cluster.name));
    }
    if intent.encryption_at_rest_provider != before.encryption_at_rest_provider {
        check_provider(&mut change, project, intent.encryption_at_rest_provider).await?;
        cluster.switched_off = intent.encryption_at_rest_provider == KeyProvider::None;
    }
    let concerns_nodes = intent.encryption_at_rest_provider != before.encryption_at_rest_provider
        || intent.paused != before.paused
        || intent.node_count() != before.node_count();
    if intent != before {
        let only_tags =
            keyward_model::cluster::ClusterIntent { tags: before.tags.clone(), ..intent.clone() } == before;
        cluster.document.intent = intent;
        if concerns_nodes && cluster.ready_at.is_some() {
            cluster.state = ClusterState::Updating;
        }
        change.update(&cluster.document, cluster.revision).await?;
        add_containers(&mut change, &request, &cluster).await?;
        let kind = if only_tags { EventType::ClusterTagsModified } else { EventType::ClusterUpdateSubmitted };
        let event = request
            .event(kind)
            .cluster(cluster.name.clone())
            .detail("encryptionAtRestProvider", cluster.intent.encryption_at_rest_provider.as_str());
        change.commit(event, now).await?;
        request.app.nudge().jobs();
    } else {
        drop(change);
    }
    let mut tx = request.app.store().read().await?;
    let members = Membership::load(&mut tx, project).await?;
    Ok(Reply::ok(show(&request, &cluster, &members)))
}

async fn delete(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    request.flag("retainBackups", false)?;
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut cluster = find(&mut change, project, request.param("clusterName")).await?;
    if cluster.delete_asked.is_some() {
        return Err(already_deleting(&cluster));
    }
    if cluster.intent.termination_protection_enabled {
        return Err(ApiError::new(Code::CannotTerminateProtectedCluster)
            .detail(format!("Cluster {} is protected from termination.", cluster.name))
            .param(&cluster.name));
    }
    cluster.delete_asked = Some(now);
    cluster.state = ClusterState::Deleting;
    change.update(&cluster.document, cluster.revision).await?;
    change
        .commit(request.event(EventType::ClusterDeleteSubmitted).cluster(cluster.name.clone()), now)
        .await?;
    request.app.nudge().jobs();
    Ok(Reply::with(StatusCode::ACCEPTED, Content::Json(json!({}))))
}

/// The body and its shape.
fn parse(request: &mut Request) -> Result<(ClusterBody, Shape), ApiError> {
    if is_legacy(request.version) {
        return Ok((legacy::body(request.parse()?)?, Shape::Counted));
    }
    Ok((request.parse::<ClusterBody>()?, shape(request.version)))
}

fn show(request: &Request, cluster: &Cluster, members: &Membership) -> Value {
    let href = request.href(&path(cluster));
    let members = members.of(cluster);
    if is_legacy(request.version) {
        return legacy::view(cluster, &members, &href);
    }
    view::cluster(cluster, &members, shape(request.version), &href)
}

fn shape(version: ApiVersion) -> Shape {
    if version >= ApiVersion::of(2024, 8, 5) { Shape::PerShard } else { Shape::Counted }
}

fn is_legacy(version: ApiVersion) -> bool {
    version < ApiVersion::of(2023, 2, 1)
}

fn path(cluster: &Cluster) -> String {
    format!("/api/atlas/v2/groups/{}/clusters/{}", cluster.project, cluster.name)
}

fn already_deleting(cluster: &Cluster) -> ApiError {
    ApiError::new(Code::ClusterAlreadyRequestedDeletion)
        .detail(format!("Cluster {} has already been requested for deletion.", cluster.name))
        .param(&cluster.name)
}

/// A provider needs a customer key on the project first.
async fn check_provider(
    change: &mut Change,
    project: ProjectId,
    provider: KeyProvider,
) -> Result<(), ApiError> {
    let configured = match provider {
        KeyProvider::None => true,
        KeyProvider::Azure => {
            let stored = change.get::<EncryptionAtRest>(project).await?;
            stored.is_some_and(|stored| stored.azure_key_vault.is_some())
        }
        KeyProvider::Aws | KeyProvider::Gcp => false,
    };
    if configured {
        return Ok(());
    }
    Err(ApiError::new(Code::EncryptionAtRestNotEnabled)
        .detail(format!("Encryption at rest with {} is not enabled for group {project}.", provider.as_str()))
        .param(project))
}

/// Clients look for a container in each region that a cluster is in.
async fn add_containers(change: &mut Change, request: &Request, cluster: &Cluster) -> Result<(), ApiError> {
    let there = change.list::<Container>(cluster.project).await?;
    for (provider, region) in cluster.intent.regions() {
        let same =
            |container: &Stored<Container>| container.provider_name == provider && container.region == region;
        if !there.iter().any(same) {
            let id: ContainerId = request.app.make_id();
            let container = Container {
                id,
                project: cluster.project,
                provider_name: provider.to_owned(),
                region: region.to_owned(),
                atlas_cidr_block: super::containers::NO_NETWORK.to_owned(),
                regions: Vec::new(),
            };
            change.insert(&container).await?;
        }
    }
    Ok(())
}
