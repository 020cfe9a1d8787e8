//! A cluster as its nodes see it: what each reported, what is asked of it, and what everything waits for.

use http::{Method, StatusCode};
use keyward_model::{
    Timestamp,
    cluster::NodeRotation,
    event::EventType,
    id::NodeId,
    plan::{self, NodePlan, Plan, Waiting},
    role::{ProjectRole, Requirement},
};
use serde_json::{Value, json};

use crate::{
    api::{Content, Operation, Reply, Request, clusters, grants::PROJECT_READER, time},
    handler,
    http::error::ApiError,
    jobs::fleet::{Fleet, Scope},
};

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "listClusterNodes",
            method: Method::GET,
            path: "/api/keyward/v1/groups/{groupId}/clusters/{clusterName}/nodes",
            versions: &[],
            requires: PROJECT_READER,
            handler: handler!(nodes),
        },
        Operation {
            id: "rotateClusterMasterKeys",
            method: Method::POST,
            path: "/api/keyward/v1/groups/{groupId}/clusters/{clusterName}/rotateMasterKeys",
            versions: &[],
            requires: Requirement::Project(&[ProjectRole::GroupClusterManager]),
            handler: handler!(rotate),
        },
    ]
}

async fn nodes(request: Request) -> Result<Reply, ApiError> {
    let (project, now) = (request.project()?, request.now());
    let mut tx = request.app.store().read().await?;
    let cluster = clusters::find(&mut tx, project, request.param("clusterName")).await?;
    let fleet = Fleet::load(&mut tx, Scope::Project(project)).await?;
    drop(tx);
    let (plan, _, violations) = fleet.plan(now);
    let members: Vec<Value> =
        fleet.members(cluster.id).map(|node| member(&fleet, &plan, now, node.node_id)).collect();
    let own = plan.clusters.iter().find(|own| own.cluster == cluster.id);
    let name = |id: NodeId| fleet.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let waiting: Vec<Value> =
        own.map_or(&[][..], |own| &own.waiting).iter().map(|waiting| shown(waiting, None, &name)).collect();
    Ok(Reply::ok(json!({
        "results": members,
        "totalCount": members.len(),
        "cluster": {
            "name": cluster.name,
            "state": cluster.state.as_str(),
            "nodesWanted": cluster.intent.node_count(),
            "waiting": waiting,
            "violations": violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
    })))
}

/// Notes that every member's present master key is to go. Those that are to go already are not noted again.
async fn rotate(request: Request) -> Result<Reply, ApiError> {
    let (project, now) = (request.project()?, request.now());
    let mut change = request.app.store().change().await?;
    let mut cluster = clusters::find(&mut change, project, request.param("clusterName")).await?;
    let nodes = change.list::<keyward_model::node::EnrolledNode>(project).await?;
    let reports = change.reports(project).await?;
    let noted: Vec<NodeRotation> = nodes
        .iter()
        .filter(|node| node.cluster == Some(cluster.id) && node.revoked_at.is_none())
        .filter_map(|node| {
            let report = reports.iter().find(|report| report.observed.node_id == node.node_id)?;
            let master_key = report.observed.status.master_key.as_ref()?.id.clone();
            Some(NodeRotation { node: node.node_id, master_key, asked_at: now })
        })
        .filter(|new| {
            cluster.rotations.iter().all(|old| (old.node, &old.master_key) != (new.node, &new.master_key))
        })
        .collect();
    let ids: Vec<String> = noted.iter().map(|rotation| rotation.node.to_string()).collect();
    if !noted.is_empty() {
        cluster.rotations.retain(|old| noted.iter().all(|new| new.node != old.node));
        cluster.rotations.extend(noted);
        change.update(&cluster.document, cluster.revision).await?;
        let event = request
            .event(EventType::MasterKeyRotationScheduled)
            .cluster(cluster.name.clone())
            .detail("nodes", ids.clone());
        change.commit(event, now).await?;
        request.app.nudge().jobs();
    }
    Ok(Reply::with(StatusCode::ACCEPTED, Content::Json(json!({ "nodes": ids }))))
}

fn member(fleet: &Fleet, plan: &Plan, now: Timestamp, id: NodeId) -> Value {
    let name = |id: NodeId| fleet.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let planned = plan.nodes.iter().find(|planned| planned.node == id);
    let node = fleet.nodes.get(&id);
    let desired = fleet.desired.get(&id);
    let wanted = desired.and_then(|desired| desired.encryption.as_ref());
    let revision = desired.map_or(0, |desired| desired.revision);
    let mut shown = json!({
        "id": id,
        "name": name(id),
        "hostname": node.map(|node| node.hostname.clone()),
        "wantedCustomerKey": wanted.map(|key| key.key_identifier.to_string()),
        "revision": revision,
        "done": planned.is_some_and(|planned| done(fleet, planned)),
        "work": planned.and_then(|planned| planned.work),
        "waiting": planned.map_or(&[][..], |planned| &planned.waiting).iter().map(|waiting| self::shown(waiting, Some(id), &name)).collect::<Vec<_>>(),
    });
    let Some(report) = fleet.reports.get(&id) else {
        shown["silent"] = json!(true);
        return shown;
    };
    let (observed, status) = (&report.observed, &report.observed.status);
    let age_ms = now.epoch_ms() - report.received_at.epoch_ms();
    let seen = json!({
        "address": observed.address,
        "agentVersion": observed.agent_version,
        "state": status.state,
        "reason": status.reason,
        "since": time(status.since),
        "verdict": status.verdict,
        "customerKey": status.customer_key.as_ref().map(|key| key.key_identifier.to_string()),
        "encrypted": status.customer_key.is_some(),
        "masterKeyId": status.master_key.as_ref().map(|key| key.id.clone()),
        "masterKeyCreatedAt": status.master_key.as_ref().map(|key| time(key.created_at)),
        "masterKeyAgeDays": status.master_key.as_ref().map(|key| {
            (now.epoch_ms() - key.created_at.epoch_ms()).max(0) / 86_400_000
        }),
        "masterKeyHeld": status.master_key_held,
        "replicaState": observed.replica_state,
        "engine": status.engine.as_ref().map(|engine| json!({"kind": engine.kind, "version": engine.version})),
        "reportedAt": time(report.received_at),
        "silent": age_ms > plan::SILENT_AFTER_MS,
        "doneRevision": observed.done_revision,
        "progress": observed.progress,
        "heldBack": observed.held_back.iter().map(|held| json!({
            "what": held.what,
            "reason": held.reason,
            "hint": held.hint,
            "needsApproval": held.needs_approval,
            "approval": held.approval,
        })).collect::<Vec<_>>(),
        "warnings": status.warnings,
    });
    if let (Value::Object(shown), Value::Object(seen)) = (&mut shown, seen) {
        shown.extend(seen);
    }
    shown
}

/// Whether a node has reported all that is asked of it, and nothing more is to be asked.
fn done(fleet: &Fleet, planned: &NodePlan) -> bool {
    let Some(desired) = fleet.desired.get(&planned.node) else { return false };
    let reported = fleet.reports.get(&planned.node).map_or(0, |report| report.observed.done_revision);
    desired.cluster.is_some()
        && reported >= desired.revision
        && planned.work.is_none()
        && planned.waiting.is_empty()
}

/// Something that waits, typed and in words; nodes by name, and `own`, whose page it is, as this node.
fn shown(waiting: &Waiting, own: Option<NodeId>, name: &dyn Fn(NodeId) -> String) -> Value {
    let mut on = serde_json::to_value(&waiting.on).unwrap_or_default();
    let mut text = waiting.text(own);
    if let Some(node) = on.get("node").and_then(Value::as_str).and_then(|node| node.parse::<NodeId>().ok()) {
        text = text.replace(&node.to_string(), &name(node));
        on["nodeName"] = json!(name(node));
    }
    if let Some(opens) =
        on.get("opens").and_then(|opens| serde_json::from_value::<Timestamp>(opens.clone()).ok())
    {
        on["opens"] = json!(time(opens));
    }
    json!({"work": waiting.work, "on": on, "text": text})
}
