//! Leaving: a node's host takes it away from this server.

use hyper::body::Incoming;
use keyward_model::{
    cluster::Cluster,
    event::{Actor, EventType, NewEvent},
    sync::{AgentRefusalCode, LEAVE_MEMBER_HINT, Leave, Left},
};

use super::{
    Endpoint,
    answer::{Refused, check_version, json, known, read, shown},
};
use crate::http::listener::Peer;

/// Lets the node go: its certificate counts no longer, and its place in a cluster is free. Asked of an ended
/// certificate too: a node that was away for long may leave without renewing first.
pub(super) async fn leave(
    endpoint: &Endpoint,
    peer: &Peer,
    request: http::Request<Incoming>,
) -> Result<Vec<u8>, Refused> {
    let shown = shown(endpoint, peer)?;
    let asked: Leave = read(request.into_body()).await?;
    check_version(asked.version)?;
    let app = &endpoint.app;
    let now = app.now();
    let mut change = app.store().change().await?;
    let mut node = known(&mut change, &shown).await?;
    let cluster = match node.cluster {
        Some(id) => change.get::<Cluster>(id).await?.map(|cluster| cluster.name.clone()),
        None => None,
    };
    if let Some(cluster) = cluster.as_deref().filter(|_| !asked.force) {
        return Err(Refused::new(
            AgentRefusalCode::NodeInCluster,
            format!("node {} is a member of the cluster {cluster}", node.name),
            LEAVE_MEMBER_HINT,
        ));
    }
    node.revoked_at = Some(now);
    change.update(&node.document, node.revision).await?;
    change.tell_node(node.node_id).await?;
    let actor = Actor::Node { id: node.node_id, name: node.name.clone() };
    let event = NewEvent::new(EventType::NodeLeft, actor)
        .detail("nodeId", node.node_id.to_string())
        .detail("name", node.name.clone())
        .detail("force", asked.force);
    change.commit(event, now).await?;
    app.waiting().wake(node.node_id);
    app.nudge().jobs();
    json(&Left { at: now })
}
