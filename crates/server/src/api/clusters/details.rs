//! All clusters that the caller may see, by project.

use std::collections::BTreeSet;

use keyward_model::{
    NodeState,
    cluster::{Cluster, ClusterState},
    id::ProjectId,
    organization::Organization,
    project::Project,
    role::{ProjectRole, Requirement},
};
use serde_json::{Value, json};

use super::{Member, Membership, version};
use crate::{
    api::{Reply, Request},
    http::error::ApiError,
};

const READER: Requirement = Requirement::Project(&[ProjectRole::GroupReadOnly]);

/// Answers `listClusterDetails`.
pub(super) async fn list(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let grants = &request.principal.grants;
    let mut projects: Vec<Project> = Vec::new();
    for project in tx.list_all::<Project>().await? {
        if grants.allow(READER, Some(project.org), Some(project.id)).is_ok() {
            projects.push(project.document);
        }
    }
    let (page, total) = request.page()?.of_list(projects);
    let mut shown = Vec::with_capacity(page.len());
    for project in page {
        let org = tx.get::<Organization>(project.org).await?;
        let members = Membership::load(&mut tx, project.id).await?;
        let clusters = tx.list::<Cluster>(project.id).await?;
        let alerts = open_alerts(&mut tx, project.id).await?;
        let clusters: Vec<Value> = clusters
            .iter()
            .map(|cluster| {
                let open = alerts.iter().filter(|name| **name == cluster.name).count();
                summary(cluster, &members.of(cluster), open)
            })
            .collect();
        shown.push(json!({
            "clusters": clusters,
            "groupId": project.id,
            "groupName": project.name,
            "orgId": project.org,
            "orgName": org.map(|org| org.document.name),
            "planType": "Self-managed",
            "tags": [],
        }));
    }
    Ok(Reply::page(shown, total))
}

/// The names of the clusters that open alerts are about, one for each alert.
async fn open_alerts(tx: &mut keyward_store::Tx, project: ProjectId) -> Result<Vec<String>, ApiError> {
    let alerts = tx.list::<keyward_model::alert::Alert>(project).await?;
    Ok(alerts
        .into_iter()
        .filter(|alert| alert.status == keyward_model::alert::AlertStatus::Open)
        .filter_map(|alert| alert.document.subject.cluster.clone())
        .collect())
}

fn summary(cluster: &Cluster, members: &[Member<'_>], alerts: usize) -> Value {
    let running = members
        .iter()
        .filter(|(_, report)| report.is_some_and(|report| report.observed.status.state == NodeState::Running))
        .count();
    let availability = match (cluster.state, running) {
        (_, 0) if cluster.ready_at.is_some() => "dead",
        (_, 0) => "unavailable",
        (ClusterState::Idle, running) if running == members.len() => "available",
        (_, running) if running * 2 > members.len() => "warning",
        (_, _) => "unavailable",
    };
    let versions: BTreeSet<String> = std::iter::once(version(cluster, members)).collect();
    json!({
        "alertCount": alerts,
        "authEnabled": false,
        "availability": availability,
        "backupEnabled": cluster.intent.settings.backup_enabled,
        "clusterId": cluster.id,
        "dataSizeBytes": 0,
        "name": cluster.name,
        "nodeCount": members.len(),
        "sslEnabled": false,
        "type": "REPLICA_SET",
        "versions": versions,
    })
}
