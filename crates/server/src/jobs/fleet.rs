//! What plans are made from, read at one moment.

use std::collections::{BTreeMap, HashMap};

use keyward_model::{
    NodeStatus, Timestamp,
    cluster::{Cluster, KeyProvider},
    encryption::EncryptionAtRest,
    id::{ClusterId, NodeId, ProjectId},
    maintenance::Maintenance,
    node::EnrolledNode,
    plan::{self, Asked, MemberState, Plan, Seen, Violation},
    sync::{Desired, Observed},
};
use keyward_store::{Report, StoreError, Stored, Tx};

/// Clusters, nodes, their reports, and what was asked of them.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By id.
    pub clusters: BTreeMap<ClusterId, Stored<Cluster>>,
    /// By id; without those that are revoked.
    pub nodes: BTreeMap<NodeId, Stored<EnrolledNode>>,
    /// The newest report of each node.
    pub reports: HashMap<NodeId, Report>,
    /// What each node was asked last.
    pub desired: HashMap<NodeId, Desired>,
    /// What each project says about its customer key.
    pub encryption: BTreeMap<ProjectId, Stored<EncryptionAtRest>>,
    /// The maintenance of each project that has any.
    pub maintenance: BTreeMap<ProjectId, Stored<Maintenance>>,
}

/// Whose fleet.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// Everybody's.
    All,
    /// One project's.
    Project(ProjectId),
}

impl Fleet {
    /// Reads it.
    pub async fn load(tx: &mut Tx, scope: Scope) -> Result<Self, StoreError> {
        let (clusters, nodes, reports, encryption, maintenance, desired) = match scope {
            Scope::All => (
                tx.list_all::<Cluster>().await?,
                tx.list_all::<EnrolledNode>().await?,
                tx.all_reports().await?,
                tx.list_all::<EncryptionAtRest>().await?,
                tx.list_all::<Maintenance>().await?,
                tx.all_desired().await?,
            ),
            Scope::Project(project) => {
                let nodes = tx.list::<EnrolledNode>(project).await?;
                let mut desired = Vec::new();
                for node in &nodes {
                    desired.extend(tx.desired(node.node_id).await?.map(|desired| (node.node_id, desired)));
                }
                (
                    tx.list::<Cluster>(project).await?,
                    nodes,
                    tx.reports(project).await?,
                    tx.get::<EncryptionAtRest>(project).await?.into_iter().collect(),
                    tx.get::<Maintenance>(project).await?.into_iter().collect(),
                    desired,
                )
            }
        };
        Ok(Self {
            clusters: clusters.into_iter().map(|cluster| (cluster.id, cluster)).collect(),
            nodes: nodes
                .into_iter()
                .filter(|node| node.revoked_at.is_none())
                .map(|node| (node.node_id, node))
                .collect(),
            reports: reports.into_iter().map(|report| (report.observed.node_id, report)).collect(),
            desired: desired.into_iter().collect(),
            encryption: encryption.into_iter().map(|found| (found.project, found)).collect(),
            maintenance: maintenance.into_iter().map(|found| (found.project, found)).collect(),
        })
    }

    /// The plan, what it was made from, and its contradictions.
    pub fn plan(&self, now: Timestamp) -> (Plan, plan::State, Vec<Violation>) {
        let state = self.state();
        let plan = plan::plan(now, &state);
        let violations = plan::check(&plan, &state);
        (plan, state, violations)
    }

    /// The nodes of a cluster, in the order of the replica set's configuration.
    pub fn members(&self, cluster: ClusterId) -> impl Iterator<Item = &Stored<EnrolledNode>> {
        self.nodes.values().filter(move |node| node.cluster == Some(cluster))
    }

    fn state(&self) -> plan::State {
        let mut projects: BTreeMap<ProjectId, plan::Project> = BTreeMap::new();
        let named =
            self.clusters.values().map(|cluster| cluster.project).chain(self.maintenance.keys().copied());
        for id in named {
            projects.entry(id).or_insert_with(|| plan::Project {
                id,
                key: self
                    .encryption
                    .get(&id)
                    .and_then(|found| found.azure_key_vault.as_ref())
                    .and_then(|vault| vault.key().ok()),
                maintenance: self
                    .maintenance
                    .get(&id)
                    .map_or_else(|| Maintenance::new(id), |found| found.document.clone()),
            });
        }
        plan::State {
            projects: projects.into_values().collect(),
            clusters: self.clusters.values().map(|cluster| wanted(cluster)).collect(),
            nodes: self.nodes.values().map(|node| self.node(node)).collect(),
        }
    }

    fn node(&self, node: &EnrolledNode) -> plan::Node {
        let cluster = node.cluster.and_then(|id| self.clusters.get(&id));
        let switch_off = cluster.is_some_and(|cluster| switch_off(cluster));
        plan::Node {
            id: node.node_id,
            project: node.project,
            cluster: node.cluster,
            asked: self
                .desired
                .get(&node.node_id)
                .map_or_else(Asked::default, |desired| asked(desired, switch_off)),
            seen: self.reports.get(&node.node_id).map(|report| seen(report.received_at, &report.observed)),
        }
    }
}

/// What a plan needs to know of a cluster.
fn wanted(cluster: &Cluster) -> plan::Cluster {
    plan::Cluster {
        id: cluster.id,
        project: cluster.project,
        provider: cluster.intent.encryption_at_rest_provider,
        switch_off: switch_off(cluster),
        node_count: cluster.intent.node_count(),
        paused: cluster.intent.paused,
        deleting: cluster.delete_asked.is_some(),
        ready: cluster.ready_at.is_some(),
        rotations: cluster.rotations.clone(),
    }
}

fn switch_off(cluster: &Cluster) -> bool {
    cluster.switched_off && cluster.intent.encryption_at_rest_provider == KeyProvider::None
}

/// What was asked, as a plan sees it. A member that was given a key once is given none only to take it back.
fn asked(desired: &Desired, switch_off: bool) -> Asked {
    Asked {
        revision: desired.revision,
        member: desired.cluster.is_some(),
        key: desired.encryption.as_ref().map(|encryption| encryption.key_identifier.clone()),
        off: switch_off && desired.cluster.is_some() && desired.encryption.is_none(),
        rotate: desired.rotate_master_key.clone(),
        run: desired.run,
        step_down: desired.step_down,
        resync: desired.resync,
    }
}

/// What was reported, as a plan sees it.
fn seen(at: Timestamp, observed: &Observed) -> Seen {
    let status: &NodeStatus = &observed.status;
    Seen {
        at,
        state: status.state,
        verdict: status.verdict,
        key: status.customer_key.as_ref().map(|key| key.key_identifier.clone()),
        master_key: status.master_key.as_ref().map(|key| (key.id.clone(), key.created_at)),
        master_key_held: status.master_key_held,
        done_revision: observed.done_revision,
        needs_approval: observed.held_back.iter().any(|held| held.needs_approval),
        member: observed.replica_state.as_deref().map(|state| match state {
            "PRIMARY" => MemberState::Primary,
            "SECONDARY" => MemberState::Secondary,
            _ => MemberState::Other,
        }),
        unencrypted: observed.unencrypted,
    }
}
