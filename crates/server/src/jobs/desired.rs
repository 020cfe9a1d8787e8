//! Brings what is asked of every node up to date with what is wished and reported.
//!
//! Reads all at one moment, plans, checks the plan, and stores what changed. What a contradiction concerns is left
//! as it is, and said in an event.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use keyward_model::{
    Timestamp,
    event::{Actor, EventType, NewEvent, Outcome},
    id::{ClusterId, NodeId, ProjectId},
    maintenance::{self, Advance},
    plan::{ClusterPlan, KeyWant, NodePlan, Plan, Violation},
    sync::{self, DesiredCluster, DesiredEncryption, Validation},
};
use keyward_store::{Lease, StoreError};

use super::{
    JobStatus,
    driver::{Job, JobError},
    fleet::{Fleet, Scope},
};
use crate::{
    App,
    customer_key::{self, secret_owner},
};

const NAME: &str = "desired";

/// The job.
#[derive(Debug, Default)]
pub(super) struct Desired {
    /// Contradictions that were said in an event already.
    said: Mutex<HashSet<Violation>>,
}

#[async_trait]
impl Job for Desired {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(15)
    }

    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError> {
        let mut tx = app.store().read().await?;
        let fleet = Fleet::load(&mut tx, Scope::All).await?;
        let keys = keys(&mut tx, &fleet).await?;
        let validations = customer_key::validations(&mut tx, app.store().key(), now).await?;
        drop(tx);
        let (plan, _, violations) = fleet.plan(now);
        let frozen = Frozen::of(&violations, &fleet);
        self.say(app, lease, now, &violations, &fleet).await?;

        let mut rotations = 0;
        for own in plan.clusters.iter().filter(|own| !own.rotate.is_empty() && !frozen.cluster(own.cluster)) {
            note_rotations(app, lease, now, &fleet, own).await?;
            rotations += own.rotate.len();
        }
        for step in &plan.maintenance {
            store_maintenance(app, lease, now, &fleet, step).await?;
        }
        let asked = ask(app, lease, now, &fleet, &plan, &frozen, &keys, &validations).await?;
        // What was noted just now is asked for in the next pass.
        if rotations > 0 {
            app.nudge().jobs();
        }
        let waiting = plan.nodes.iter().map(|node| node.waiting.len()).sum::<usize>()
            + plan.clusters.iter().map(|own| own.waiting.len()).sum::<usize>();
        let violations = violations.iter().map(ToString::to_string).collect();
        Ok(JobStatus::Desired { nodes: plan.nodes.len(), asked, rotations, waiting, violations })
    }
}

impl Desired {
    /// One event for each contradiction, once.
    async fn say(
        &self,
        app: &App,
        lease: &Lease,
        now: Timestamp,
        violations: &[Violation],
        fleet: &Fleet,
    ) -> Result<(), JobError> {
        let new: Vec<&Violation> = {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            violations.iter().filter(|violation| !said.contains(violation)).collect()
        };
        for violation in &new {
            tracing::error!(%violation, "the plan contradicts itself; what it concerns is not carried out");
            let mut change = app.store().change().await?;
            change.require_lease(lease).await?;
            let mut event = NewEvent::new(EventType::PlanRefused, actor())
                .outcome(Outcome::Failed)
                .detail("violation", violation.to_string());
            if let Some(cluster) = concerned(violation, fleet).and_then(|id| fleet.clusters.get(&id)) {
                event = event.project(cluster.project).cluster(cluster.name.clone());
            }
            change.commit(event, now).await?;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *said = violations.iter().cloned().collect();
        Ok(())
    }
}

fn actor() -> Actor {
    Actor::Job { name: NAME.to_owned() }
}

/// What is not carried out, for its contradictions.
#[derive(Debug, Default)]
struct Frozen {
    clusters: HashSet<ClusterId>,
    all: bool,
}

impl Frozen {
    fn of(violations: &[Violation], fleet: &Fleet) -> Self {
        let mut frozen = Self::default();
        for violation in violations {
            match concerned(violation, fleet) {
                Some(cluster) => drop(frozen.clusters.insert(cluster)),
                None => frozen.all = true,
            }
        }
        frozen
    }

    fn cluster(&self, cluster: ClusterId) -> bool {
        self.all || self.clusters.contains(&cluster)
    }
}

/// The cluster that a contradiction is about; `None` for all of them.
fn concerned(violation: &Violation, fleet: &Fleet) -> Option<ClusterId> {
    match violation {
        Violation::ClusterCount(..) | Violation::NodeCount(..) => None,
        Violation::Placement(_, cluster) | Violation::Idle(cluster, _) | Violation::Silent(cluster) => {
            Some(*cluster)
        }
        Violation::TwoNodes(node, _)
        | Violation::TwoResyncs(node, _)
        | Violation::Resync(node)
        | Violation::Unwell(node, _)
        | Violation::Primary(node)
        | Violation::NoMajority(node)
        | Violation::Key(node)
        | Violation::Off(node)
        | Violation::Rotation(node)
        | Violation::RotatedTwice(node)
        | Violation::Release(node) => fleet.nodes.get(node).and_then(|node| node.cluster),
    }
}

/// What the nodes of each project are told of its customer key.
async fn keys(
    tx: &mut keyward_store::Tx,
    fleet: &Fleet,
) -> Result<HashMap<ProjectId, DesiredEncryption>, StoreError> {
    let mut keys = HashMap::new();
    for (project, stored) in &fleet.encryption {
        if stored.azure_key_vault.is_none() {
            continue;
        }
        let secret = tx.secret(&secret_owner(*project)).await?;
        let secret = secret.as_ref().and_then(|secret| std::str::from_utf8(secret).ok());
        keys.extend(customer_key::desired::desired(stored, secret).map(|key| (*project, key)));
    }
    Ok(keys)
}

async fn note_rotations(
    app: &App,
    lease: &Lease,
    now: Timestamp,
    fleet: &Fleet,
    own: &ClusterPlan,
) -> Result<(), JobError> {
    let Some(stored) = fleet.clusters.get(&own.cluster) else { return Ok(()) };
    let mut cluster = stored.document.clone();
    cluster.rotations.retain(|old| own.rotate.iter().all(|new| new.node != old.node));
    cluster.rotations.extend(own.rotate.iter().cloned());
    let nodes: Vec<String> = own.rotate.iter().map(|rotation| rotation.node.to_string()).collect();
    let mut change = app.store().change().await?;
    change.require_lease(lease).await?;
    change.update(&cluster, stored.revision).await?;
    let event = NewEvent::new(EventType::MasterKeyRotationScheduled, actor())
        .project(cluster.project)
        .cluster(cluster.name.clone())
        .detail("nodes", nodes);
    change.commit(event, now).await?;
    Ok(())
}

/// Stores a step of a project's maintenance with its events; the first one carries the step.
async fn store_maintenance(
    app: &App,
    lease: &Lease,
    now: Timestamp,
    fleet: &Fleet,
    step: &Advance,
) -> Result<(), JobError> {
    let project = step.maintenance.project;
    let stored = fleet.maintenance.get(&project);
    if stored.is_some_and(|stored| stored.document == step.maintenance)
        || (stored.is_none() && step.maintenance == maintenance::Maintenance::new(project))
    {
        return Ok(());
    }
    if step.changes.is_empty() {
        let mut observation = app.store().observe().await?;
        observation.require_lease(lease).await?;
        match stored {
            Some(stored) => drop(observation.update(&step.maintenance, stored.revision).await?),
            None => observation.insert(&step.maintenance).await?,
        }
        return Ok(observation.commit().await?);
    }
    for (number, happened) in step.changes.iter().enumerate() {
        let mut change = app.store().change().await?;
        change.require_lease(lease).await?;
        if number == 0 {
            match stored {
                Some(stored) => drop(change.update(&step.maintenance, stored.revision).await?),
                None => change.insert(&step.maintenance).await?,
            }
        }
        let (event_type, start) = match happened {
            maintenance::Change::Announced(start) => (EventType::MaintenanceInAdvance, Some(start)),
            maintenance::Change::AutoDeferred(start) => (EventType::MaintenanceAutoDeferred, Some(start)),
            maintenance::Change::Moved(start) => (EventType::MaintenanceScheduledForNextWindow, Some(start)),
            maintenance::Change::Started => (EventType::MaintenanceStarted, None),
            maintenance::Change::Completed => (EventType::MaintenanceCompleted, None),
            maintenance::Change::NoLongerNeeded => (EventType::MaintenanceNoLongerNeeded, None),
        };
        let mut event = NewEvent::new(event_type, actor()).project(project);
        if let Some(start) = start {
            event = event.detail("start", start.to_string());
        }
        change.commit(event, now).await?;
    }
    Ok(())
}

/// Stores what is asked of the nodes, and wakes those that are asked for something new.
#[allow(clippy::too_many_arguments)]
async fn ask(
    app: &App,
    lease: &Lease,
    now: Timestamp,
    fleet: &Fleet,
    plan: &Plan,
    frozen: &Frozen,
    keys: &HashMap<ProjectId, DesiredEncryption>,
    validations: &HashMap<NodeId, Vec<Validation>>,
) -> Result<usize, JobError> {
    let clusters: BTreeMap<ClusterId, DesiredCluster> =
        fleet.clusters.keys().map(|id| (*id, placement(fleet, *id))).collect();
    let mut changed: Vec<sync::Desired> = Vec::new();
    let mut nodes: Vec<NodeId> = Vec::new();
    for planned in &plan.nodes {
        let Some(node) = fleet.nodes.get(&planned.node) else { continue };
        if frozen.all || node.cluster.is_some_and(|cluster| frozen.cluster(cluster)) {
            continue;
        }
        let before = fleet.desired.get(&planned.node);
        let key = keys.get(&node.project);
        let cluster = planned.cluster.and_then(|id| clusters.get(&id));
        let own = validations.get(&planned.node).map_or(&[][..], Vec::as_slice);
        let wanted = desired(planned, before, key, cluster, own);
        if before.map_or_else(|| !is_nothing(&wanted), |before| *before != wanted) {
            changed.push(wanted);
            nodes.push(planned.node);
        }
    }
    if changed.is_empty() {
        return Ok(0);
    }
    let mut observation = app.store().observe().await?;
    observation.require_lease(lease).await?;
    for (node, wanted) in nodes.iter().zip(&changed) {
        observation.put_desired(*node, wanted, now).await?;
    }
    observation.commit().await?;
    for node in &nodes {
        app.nudge().node(*node);
    }
    Ok(nodes.len())
}

/// What a member is told of its cluster.
fn placement(fleet: &Fleet, cluster: ClusterId) -> DesiredCluster {
    let name = fleet.clusters.get(&cluster).map_or_else(String::new, |cluster| cluster.name.clone());
    let members = fleet
        .members(cluster)
        .filter_map(|node| fleet.reports.get(&node.node_id))
        .map(|report| report.observed.address.clone())
        .filter(|address| !address.is_empty())
        .collect();
    DesiredCluster { replica_set: name.clone(), name, members }
}

/// The desired state that a plan means, under the revision of the one before.
fn desired(
    planned: &NodePlan,
    before: Option<&sync::Desired>,
    key: Option<&DesiredEncryption>,
    cluster: Option<&DesiredCluster>,
    validations: &[Validation],
) -> sync::Desired {
    let former = || before.and_then(|before| before.encryption.clone());
    sync::Desired {
        revision: before.map_or(0, |before| before.revision),
        cluster: cluster.cloned(),
        encryption: match planned.key {
            KeyWant::Use => key.cloned().or_else(former),
            KeyWant::Leave => former(),
            KeyWant::Off => None,
        },
        rotate_master_key: planned.rotate.clone(),
        run: planned.run,
        step_down: planned.step_down,
        resync: planned.resync,
        validations: validations.to_vec(),
    }
}

/// Whether a desired state asks for nothing at all.
fn is_nothing(desired: &sync::Desired) -> bool {
    desired.cluster.is_none()
        && desired.encryption.is_none()
        && desired.validations.is_empty()
        && desired.run == sync::DesiredRun::Unmanaged
}

#[cfg(test)]
mod tests {
    use keyward_model::node::EnrolledNode;
    use keyward_store::Stored;

    use super::*;

    #[test]
    fn what_a_contradiction_concerns_is_frozen_and_the_rest_is_not() {
        let (one, other) = (ClusterId::from_bytes([1; 12]), ClusterId::from_bytes([2; 12]));
        let node = NodeId(uuid::Uuid::from_u128(7));
        let enrolled = EnrolledNode {
            node_id: node,
            project: ProjectId::from_bytes([3; 12]),
            name: "n7".into(),
            hostname: "h".into(),
            cluster: Some(one),
            public_key_sha256: String::new(),
            enrolled_at: Timestamp::from_epoch_ms(0),
            revoked_at: None,
            silent_since: None,
            authority: None,
        };
        let fleet = Fleet {
            nodes: [(node, Stored { document: enrolled, revision: 1 })].into_iter().collect(),
            ..Fleet::default()
        };
        let frozen = Frozen::of(&[Violation::Primary(node)], &fleet);
        assert!(frozen.cluster(one) && !frozen.cluster(other) && !frozen.all);
        let frozen = Frozen::of(&[Violation::Idle(other, node)], &fleet);
        assert!(frozen.cluster(other) && !frozen.cluster(one));
        assert!(Frozen::of(&[Violation::NodeCount(node, 2)], &fleet).cluster(other));
        assert!(!Frozen::of(&[], &fleet).cluster(one));
    }
}
