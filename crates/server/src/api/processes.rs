//! Database processes: the members of the project's clusters, as they reported themselves.

use http::Method;
use keyward_model::{Code, NodeState, cluster::Cluster};
use serde_json::{Value, json};

use super::{
    Operation, Reply, Request,
    clusters::{Member, Membership, numbers},
    grants::PROJECT_READER,
    time,
};
use crate::{handler, http::error::ApiError};

const V1: &[&str] = &["2023-01-01"];

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "listGroupProcesses",
            method: Method::GET,
            path: "/api/atlas/v2/groups/{groupId}/processes",
            versions: V1,
            requires: PROJECT_READER,
            handler: handler!(list),
        },
        Operation {
            id: "getGroupProcess",
            method: Method::GET,
            path: "/api/atlas/v2/groups/{groupId}/processes/{processId}",
            versions: V1,
            requires: PROJECT_READER,
            handler: handler!(get),
        },
    ]
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let shown = all(&request).await?;
    Reply::list(&request, shown)
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let id = request.param("processId");
    let found = all(&request).await?.into_iter().find(|process| process["id"] == id);
    found.map(Reply::ok).ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        ApiError::new(Code::ProcessNotFound).param(shown)
    })
}

async fn all(request: &Request) -> Result<Vec<Value>, ApiError> {
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    let clusters = tx.list::<Cluster>(project).await?;
    let members = Membership::load(&mut tx, project).await?;
    let of = |cluster: &Cluster| {
        members
            .of(cluster)
            .into_iter()
            .filter_map(|member| view(request, cluster, member))
            .collect::<Vec<_>>()
    };
    Ok(clusters.iter().flat_map(|cluster| of(cluster)).collect())
}

fn view(request: &Request, cluster: &Cluster, (node, report): Member<'_>) -> Option<Value> {
    let report = report?;
    let address = &report.observed.address;
    let (hostname, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let status = &report.observed.status;
    let kind = match (report.observed.replica_state.as_deref(), status.state) {
        (Some("PRIMARY"), _) => "REPLICA_PRIMARY",
        (Some("SECONDARY"), _) => "REPLICA_SECONDARY",
        (Some(_), NodeState::Running) => "RECOVERING",
        (None, NodeState::Running) => "SHARD_STANDALONE",
        (_, _) => "NO_DATA",
    };
    let href = request.href(&format!("/api/atlas/v2/groups/{}/processes/{address}", cluster.project));
    let mut shown = json!({
        "id": address,
        "groupId": cluster.project,
        "hostname": hostname.trim_matches(['[', ']']),
        "port": port,
        "replicaSetName": cluster.replica_set(),
        "typeName": kind,
        "userAlias": node.name,
        "created": time(node.enrolled_at),
        "lastPing": time(report.received_at),
        "links": [{"rel": "self", "href": href}],
    });
    if let Some([major, minor, patch]) = status.engine.as_ref().and_then(|engine| numbers(&engine.version)) {
        shown["version"] = json!(format!("{major}.{minor}.{patch}"));
    }
    Some(shown)
}
