//! Nodes that have joined a project.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use keyward_model::{
    Code,
    cluster::Cluster,
    event::EventType,
    id::{ClusterId, NodeId},
    node::EnrolledNode,
    role::{ProjectRole, Requirement},
};
use keyward_store::{Report, Stored, Tx};
use serde_json::{Value, json};

use crate::{
    api::{Operation, Reply, Request},
    handler,
    http::error::ApiError,
};

const PATH: &str = "/api/keyward/v1/groups/{groupId}/nodes";
const ONE: &str = "/api/keyward/v1/groups/{groupId}/nodes/{nodeId}";
const READERS: Requirement = Requirement::Project(&[ProjectRole::GroupReadOnly]);
const MANAGERS: Requirement = Requirement::Project(&[ProjectRole::GroupClusterManager]);

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "listNodes",
            method: Method::GET,
            path: PATH,
            versions: &[],
            requires: READERS,
            handler: handler!(list),
        },
        Operation {
            id: "getNode",
            method: Method::GET,
            path: ONE,
            versions: &[],
            requires: READERS,
            handler: handler!(get),
        },
        Operation {
            id: "revokeNode",
            method: Method::DELETE,
            path: ONE,
            versions: &[],
            requires: MANAGERS,
            handler: handler!(revoke),
        },
    ]
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let page = request.page()?;
    let mut tx = request.app.store().read().await?;
    let (nodes, total) = tx.page::<EnrolledNode>(project, page.offset(), page.limit()).await?;
    let clusters = cluster_names(&mut tx, project).await?;
    let mut shapes = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let report = tx.report(node.node_id).await?;
        shapes.push(shape(node, report.as_ref(), &clusters, false));
    }
    Ok(Reply::page(shapes, total))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    let node = find(&request, &mut tx).await?;
    let report = tx.report(node.node_id).await?;
    let clusters = cluster_names(&mut tx, project).await?;
    Ok(Reply::ok(shape(&node, report.as_ref(), &clusters, true)))
}

/// From now on the node may neither sync nor renew. It works on with what it has.
async fn revoke(request: Request) -> Result<Reply, ApiError> {
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let mut node = find(&request, &mut change).await?;
    if node.revoked_at.is_some() {
        return Ok(Reply::empty(StatusCode::NO_CONTENT));
    }
    node.revoked_at = Some(now);
    change.update(&node.document, node.revision).await?;
    change.tell_node(node.node_id).await?;
    let event = request
        .event(EventType::NodeRevoked)
        .node(node.node_id)
        .detail("nodeId", node.node_id.to_string())
        .detail("name", node.name.clone());
    change.commit(event, now).await?;
    request.app.nudge().node(node.node_id);
    request.app.nudge().jobs();
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn find(request: &Request, tx: &mut Tx) -> Result<Stored<EnrolledNode>, ApiError> {
    let project = request.project()?;
    let text = request.param("nodeId").to_owned();
    let not_found = || ApiError::new(Code::NodeNotFound).param(&text);
    let node_id: NodeId = text.parse().map_err(|_| not_found())?;
    let node = tx.get::<EnrolledNode>(node_id).await?;
    node.filter(|node| node.project == project).ok_or_else(not_found)
}

async fn cluster_names(
    tx: &mut Tx,
    project: keyward_model::id::ProjectId,
) -> Result<BTreeMap<ClusterId, String>, ApiError> {
    let clusters = tx.list::<Cluster>(project).await?;
    Ok(clusters.into_iter().map(|cluster| (cluster.id, cluster.name.clone())).collect())
}

fn shape(
    node: &EnrolledNode,
    report: Option<&Report>,
    clusters: &BTreeMap<ClusterId, String>,
    whole: bool,
) -> Value {
    let observed = report.map(|report| &report.observed);
    let mut shape = json!({
        "id": node.node_id,
        "name": node.name,
        "hostname": node.hostname,
        "clusterName": node.cluster.as_ref().and_then(|id| clusters.get(id)),
        "enrolledAt": crate::api::time(node.enrolled_at),
        "revokedAt": node.revoked_at.map(crate::api::time),
        "silentSince": node.silent_since.map(crate::api::time),
        "reportedAt": report.map(|report| crate::api::time(report.received_at)),
        "agentVersion": observed.map(|observed| &observed.agent_version),
        "address": observed.map(|observed| &observed.address),
        "state": observed.map(|observed| observed.status.state),
        "verdict": observed.map(|observed| observed.status.verdict),
        "heldBack": observed.map(|observed| &observed.held_back),
        "progress": observed.and_then(|observed| observed.progress.as_ref()),
    });
    if whole {
        shape["status"] = json!(observed.map(|observed| &observed.status));
        shape["wraps"] = json!(observed.map(|observed| &observed.wraps));
        shape["snapshots"] = json!(observed.map(|observed| &observed.snapshots));
    }
    shape
}
