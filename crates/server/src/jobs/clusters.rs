//! Brings the states of clusters up to date with what their nodes reported; gives free nodes to clusters and takes
//! released ones back; ends what was deleted.

use std::time::Duration;

use async_trait::async_trait;
use keyward_model::{
    Timestamp,
    cluster::{Cluster, ClusterState, KeyProvider},
    event::{Actor, EventType, NewEvent},
    id::{ClusterId, NodeId},
    plan::{ClusterPlan, Resync},
};
use keyward_store::{Document, Lease, StoreError, Stored};

use super::{
    JobStatus,
    driver::{Job, JobError},
    fleet::{Fleet, Scope},
};
use crate::App;

const NAME: &str = "clusters";

/// The job.
#[derive(Debug)]
pub(super) struct Clusters;

#[async_trait]
impl Job for Clusters {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(15)
    }

    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError> {
        let mut tx = app.store().read().await?;
        let fleet = Fleet::load(&mut tx, Scope::All).await?;
        drop(tx);
        let (plan, _, violations) = fleet.plan(now);
        let (mut changed, mut placed, mut released, mut deleted) = (0, 0, 0, 0);
        // A plan that contradicts itself moves no nodes; the job for desired states says so.
        if violations.is_empty() {
            for own in &plan.clusters {
                let Some(stored) = fleet.clusters.get(&own.cluster) else { continue };
                for node in &own.place {
                    assign(app, lease, now, &fleet, *node, Some(stored)).await?;
                    placed += 1;
                }
                for node in &own.released {
                    assign(app, lease, now, &fleet, *node, None).await?;
                    released += 1;
                }
            }
        }
        for own in &plan.clusters {
            let Some(stored) = fleet.clusters.get(&own.cluster) else { continue };
            if own.gone {
                end(app, lease, now, stored).await?;
                deleted += 1;
            } else if note_resync(app, lease, now, stored, own).await? {
                // The rest of what there is to store of it, in the next pass: its revision has moved.
                app.nudge().jobs();
                changed += 1;
            } else if settle(app, lease, now, stored, own).await? {
                changed += 1;
            }
        }
        if placed + released + deleted > 0 {
            app.nudge().jobs();
        }
        Ok(JobStatus::Clusters { clusters: plan.clusters.len(), changed, placed, released, deleted })
    }
}

fn event(event_type: EventType, cluster: &Cluster) -> NewEvent {
    NewEvent::new(event_type, Actor::Job { name: NAME.to_owned() })
        .project(cluster.project)
        .cluster(cluster.name.clone())
}

/// Makes a node a member of `to`, or free.
async fn assign(
    app: &App,
    lease: &Lease,
    now: Timestamp,
    fleet: &Fleet,
    node: NodeId,
    to: Option<&Stored<Cluster>>,
) -> Result<(), JobError> {
    let Some(stored) = fleet.nodes.get(&node) else { return Ok(()) };
    let from = |id: ClusterId| fleet.clusters.get(&id);
    let Some(cluster) = to.or_else(|| stored.cluster.and_then(from)) else { return Ok(()) };
    let mut changed = stored.document.clone();
    changed.cluster = to.map(|cluster| cluster.id);
    let event_type = if to.is_some() { EventType::NodeAssigned } else { EventType::NodeReleased };
    let event =
        event(event_type, cluster).detail("node", stored.name.clone()).detail("nodeId", node.to_string());
    Ok(record(app, lease, (&changed, stored.revision), event, now).await?)
}

/// Stores the state that the reports add up to; whether it is another one.
async fn settle(
    app: &App,
    lease: &Lease,
    now: Timestamp,
    stored: &Stored<Cluster>,
    own: &ClusterPlan,
) -> Result<bool, JobError> {
    let mut cluster = stored.document.clone();
    let former = cluster.state;
    let first = own.state == ClusterState::Idle && cluster.ready_at.is_none();
    if own.state == former && !first {
        return Ok(false);
    }
    cluster.state = own.state;
    if first {
        cluster.ready_at = Some(now);
    }
    let event = match (former, own.state) {
        (_, ClusterState::Idle) if first => Some(event(EventType::ClusterReady, &cluster)),
        (ClusterState::Updating, ClusterState::Idle) => {
            Some(event(EventType::ClusterUpdateCompleted, &cluster))
        }
        (_, ClusterState::Updating) => Some(event(EventType::ClusterUpdateStarted, &cluster)),
        // Nothing of what is wished changed: this is what the nodes say.
        (
            _,
            ClusterState::Idle | ClusterState::Creating | ClusterState::Repairing | ClusterState::Deleting,
        ) => None,
    };
    match event {
        Some(event) => {
            let event = event.detail("from", former.as_str());
            record(app, lease, (&cluster, stored.revision), event, now).await?;
        }
        None => observe(app, lease, &cluster, stored.revision).await?,
    }
    Ok(true)
}

/// Stores a document that was read at this revision, with the event of its change.
async fn record<D: Document>(
    app: &App,
    lease: &Lease,
    (document, revision): (&D, i64),
    event: NewEvent,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut change = app.store().change().await?;
    change.require_lease(lease).await?;
    change.update(document, revision).await?;
    change.commit(event, now).await?;
    Ok(())
}

/// Stores what the nodes say of a cluster: nobody changed a wish, so there is no event.
async fn observe(app: &App, lease: &Lease, cluster: &Cluster, revision: i64) -> Result<(), StoreError> {
    let mut observation = app.store().observe().await?;
    observation.require_lease(lease).await?;
    observation.update(cluster, revision).await?;
    observation.commit().await
}

/// Stores that members began to be filled again, encrypted, or that all of them are; whether that is new.
async fn note_resync(
    app: &App,
    lease: &Lease,
    now: Timestamp,
    stored: &Stored<Cluster>,
    own: &ClusterPlan,
) -> Result<bool, JobError> {
    let mut cluster = stored.document.clone();
    let wanted = cluster.intent.encryption_at_rest_provider != KeyProvider::None;
    let event_type = match (cluster.resync_since, own.resync) {
        (None, Resync::UnderWay) => EventType::ClusterResyncStarted,
        (Some(_), Resync::None) => EventType::ClusterResyncCompleted,
        // No longer wanted: the members that are left stay as they are.
        (Some(_), Resync::Waits) if !wanted => {
            cluster.resync_since = None;
            observe(app, lease, &cluster, stored.revision).await?;
            return Ok(true);
        }
        (None, Resync::None | Resync::Waits) | (Some(_), Resync::UnderWay | Resync::Waits) => {
            return Ok(false);
        }
    };
    let mut event = event(event_type, &cluster);
    if let Some(since) = cluster.resync_since {
        event = event.detail("since", since.to_string());
    }
    cluster.resync_since = cluster.resync_since.is_none().then_some(now);
    record(app, lease, (&cluster, stored.revision), event, now).await?;
    Ok(true)
}

/// Forgets a cluster whose nodes have all reported their release.
async fn end(app: &App, lease: &Lease, now: Timestamp, stored: &Stored<Cluster>) -> Result<(), JobError> {
    let mut change = app.store().change().await?;
    change.require_lease(lease).await?;
    // A node may have been placed meanwhile, by the pass of another server.
    let left = change.list::<keyward_model::node::EnrolledNode>(stored.project).await?;
    if left.iter().any(|node| node.cluster == Some(stored.id) && node.revoked_at.is_none()) {
        return Ok(());
    }
    change.delete::<Cluster>(stored.id).await?;
    change.commit(event(EventType::ClusterDeleted, stored), now).await?;
    Ok(())
}
