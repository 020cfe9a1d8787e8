//! The planner: what every node should do now, and what everything else waits for.
//!
//! [`plan`] is a function of `now` and of everything the server knows, wishes and reports alike; it remembers
//! nothing. Running it again changes nothing until a report, a wish or the clock does. Each thing that it does not
//! do yet carries a [`WaitingOn`]. [`check`] looks at any plan with other eyes before it is carried out.
//!
//! ```text
//!   wishes (projects, clusters) ─┐
//!   asked of the nodes so far ───┼─▶ plan ─▶ nodes:    key, rotation, run, membership
//!   reports of the nodes ────────┘           clusters: nodes to place, rotations to note, state
//! ```

mod check;
mod cluster;
mod rotation;
mod waiting;

use std::collections::HashMap;

use crate::{
    KeyIdentifier, NodeState, Timestamp, Verdict,
    cluster::{ClusterState, KeyProvider, NodeRotation},
    id::{ClusterId, NodeId, ProjectId},
    maintenance::{Advance, Maintenance, Opening, advance},
    sync::DesiredRun,
};

pub use check::{Violation, check};
pub use waiting::{Waiting, WaitingOn, Work};

/// A master key is rotated before it is older than this, unless a deferral or a late window says otherwise.
pub const ROTATION_MS: i64 = 90 * DAY_MS;
/// A node that has not reported for this long is silent.
pub const SILENT_AFTER_MS: i64 = 5 * 60_000;

const DAY_MS: i64 = 86_400_000;
const WEEK_MS: i64 = 7 * DAY_MS;

/// All that a plan is made from, read at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The projects, each once.
    pub projects: Vec<Project>,
    /// The clusters, each once.
    pub clusters: Vec<Cluster>,
    /// The enrolled nodes, each once.
    pub nodes: Vec<Node>,
}

/// What a project's owner wants.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// The customer key; `None` when none is configured.
    pub key: Option<KeyIdentifier>,
    /// When maintenance may start, and where the current one stands.
    pub maintenance: Maintenance,
}

/// What a cluster's owner wants, as far as a plan cares.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Whose it is.
    pub project: ProjectId,
    /// Whose customer key encrypts it.
    pub provider: KeyProvider,
    /// Whether it was encrypted with the project's key and should no longer be.
    pub switch_off: bool,
    /// How many nodes it should have.
    pub node_count: usize,
    /// Whether its databases should be stopped.
    pub paused: bool,
    /// Whether it should go.
    pub deleting: bool,
    /// Whether it has ever been as wanted.
    pub ready: bool,
    /// [`crate::cluster::Cluster::rotations`].
    pub rotations: Vec<NodeRotation>,
}

/// A node: where it belongs, what was asked of it, what it says of itself. Three things, never mixed.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Whose it is.
    pub project: ProjectId,
    /// Its cluster; `None` while it is free.
    pub cluster: Option<ClusterId>,
    /// What the server asked of it last.
    pub asked: Asked,
    /// Its last report; `None` before the first.
    pub seen: Option<Seen>,
}

/// The desired state that a node was given last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its revision; 0 when nothing was ever asked.
    pub revision: u64,
    /// Whether it names a cluster.
    pub member: bool,
    /// The customer key it names.
    pub key: Option<KeyIdentifier>,
    /// Whether it takes back the customer key that an encrypted member was given before.
    pub off: bool,
    /// The master key it asks to be rid of.
    pub rotate: Option<String>,
    /// Whether the database should run.
    pub run: DesiredRun,
    /// Whether a primary should step down.
    pub step_down: bool,
    /// Whether it is to be emptied and filled again, encrypted.
    pub resync: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            revision: 0,
            member: false,
            key: None,
            off: false,
            rotate: None,
            run: DesiredRun::Unmanaged,
            step_down: false,
            resync: false,
        }
    }
}

/// What a node reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When the report came, by the server's clock.
    pub at: Timestamp,
    /// Where the node is in its life.
    pub state: NodeState,
    /// What it makes of the customer key.
    pub verdict: Verdict,
    /// The customer key that wraps its master key.
    pub key: Option<KeyIdentifier>,
    /// Its master key: id, and when it was made by the node's clock.
    pub master_key: Option<(String, Timestamp)>,
    /// Whether the agent holds the master key.
    pub master_key_held: bool,
    /// The revision of desired state that is carried out in full.
    pub done_revision: u64,
    /// Whether something waits for `keyward node approve`.
    pub needs_approval: bool,
    /// The state in the replica set, where there is one.
    pub member: Option<MemberState>,
    /// Whether its data is not encrypted: the operator's own database, adopted as it is.
    pub unencrypted: bool,
}

/// A member's state in its replica set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Takes writes.
    Primary,
    /// Follows.
    Secondary,
    /// Anything else: starting, recovering, down, removed.
    Other,
}

/// What should be asked of all nodes, and noted of all clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// When it was made.
    pub at: Timestamp,
    /// One entry for each node, by node id.
    pub nodes: Vec<NodePlan>,
    /// One entry for each cluster, by cluster id.
    pub clusters: Vec<ClusterPlan>,
    /// The next step of each project's maintenance, by project id.
    pub maintenance: Vec<Advance>,
}

/// What should be asked of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// The node.
    pub node: NodeId,
    /// The cluster it should know itself a member of.
    pub cluster: Option<ClusterId>,
    /// The customer key.
    pub key: KeyWant,
    /// The master key to be rid of, if the node still has it.
    pub rotate: Option<String>,
    /// Whether the database should run.
    pub run: DesiredRun,
    /// Whether a primary should step down.
    pub step_down: bool,
    /// Whether its unencrypted data is to be deleted and filled again by the others, encrypted.
    pub resync: bool,
    /// The work that is on its way on this node by this plan.
    pub work: Option<Work>,
    /// What is to be done on it and is not done yet, each with what it waits for.
    pub waiting: Vec<Waiting>,
}

/// What a plan says about a node's customer key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyWant {
    /// As it was asked last.
    Leave,
    /// The project's.
    Use,
    /// None any more: the node's host has to approve it, and its data stays encrypted under the one in use.
    Off,
}

/// Where the encryption of an existing cluster stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    /// No member has data that is not encrypted; of a cluster that is to be encrypted, all have said so.
    None,
    /// Some member has, or has not said, and it is asked of nobody yet, or not wanted.
    Waits,
    /// A member was asked, and not all have reported that they are encrypted and whole.
    UnderWay,
}

/// What should be noted of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlan {
    /// The cluster.
    pub cluster: ClusterId,
    /// What the reports add up to.
    pub state: ClusterState,
    /// Free nodes that become its members.
    pub place: Vec<NodeId>,
    /// Members that have reported their release.
    pub released: Vec<NodeId>,
    /// Rotations that start now.
    pub rotate: Vec<NodeRotation>,
    /// What the cluster as a whole waits for.
    pub waiting: Vec<Waiting>,
    /// Whether members are being filled again, encrypted: from the first that is asked until all are.
    pub resync: Resync,
    /// Whether nothing of a deleted cluster is left.
    pub gone: bool,
}

/// What every node should do now.
pub fn plan(now: Timestamp, state: &State) -> Plan {
    let projects: HashMap<ProjectId, &Project> =
        state.projects.iter().map(|project| (project.id, project)).collect();
    let mut clusters: Vec<&Cluster> = state.clusters.iter().collect();
    clusters.sort_unstable_by_key(|cluster| cluster.id);
    let index: HashMap<ClusterId, usize> =
        clusters.iter().enumerate().map(|(at, cluster)| (cluster.id, at)).collect();
    let mut members: Vec<Vec<&Node>> = vec![Vec::new(); clusters.len()];
    let mut free: HashMap<ProjectId, Vec<&Node>> = HashMap::new();
    let mut nodes: Vec<&Node> = state.nodes.iter().collect();
    nodes.sort_unstable_by_key(|node| node.id);
    for node in &nodes {
        match node.cluster.and_then(|id| index.get(&id)) {
            Some(at) => members[*at].push(node),
            None => free.entry(node.project).or_default().push(node),
        }
    }

    let due: Vec<Vec<rotation::Due<'_>>> = clusters
        .iter()
        .zip(&members)
        .map(|(cluster, members)| rotation::due(now, cluster, members))
        .collect();
    let maintenance = maintain(now, state, &clusters, &due);
    let openings: HashMap<ProjectId, Opening> =
        maintenance.iter().map(|step| (step.maintenance.project, step.opening)).collect();

    let mut planned = Plan {
        at: now,
        nodes: Vec::with_capacity(nodes.len()),
        clusters: Vec::with_capacity(clusters.len()),
        maintenance,
    };
    for ((cluster, members), due) in clusters.iter().zip(&members).zip(due) {
        let free = free.entry(cluster.project).or_default();
        let project = projects.get(&cluster.project).copied();
        let opening = openings.get(&cluster.project).copied().unwrap_or(Opening::NothingDue);
        let own = rotation::plan_rotations(now, cluster, due, opening);
        cluster::plan_cluster(now, cluster, project, members, free, own, &mut planned);
    }
    // What is left belongs to nobody: its host's operator decides.
    planned.nodes.extend(
        nodes
            .iter()
            .filter(|node| node.cluster.is_none_or(|id| !index.contains_key(&id)))
            .map(|node| NodePlan::free(node.id)),
    );
    planned.nodes.sort_unstable_by_key(|node| node.node);
    planned
}

/// The next step of each project's maintenance: it is over when no rotation that it was opened for is left.
fn maintain(
    now: Timestamp,
    state: &State,
    clusters: &[&Cluster],
    due: &[Vec<rotation::Due<'_>>],
) -> Vec<Advance> {
    let mut by_project: HashMap<ProjectId, Vec<&rotation::Due<'_>>> = HashMap::new();
    for (cluster, due) in clusters.iter().zip(due) {
        by_project.entry(cluster.project).or_default().extend(due);
    }
    let mut steps: Vec<Advance> = state
        .projects
        .iter()
        .map(|project| {
            let due = by_project.get(&project.id).map_or(&[][..], Vec::as_slice);
            let started = project.maintenance.scheduled.as_ref().and_then(|scheduled| scheduled.started_at);
            let counts = |due: &&&rotation::Due<'_>| match started {
                Some(_) => due.outstanding || due.by.epoch_ms() <= now.epoch_ms().saturating_add(WEEK_MS),
                None => true,
            };
            let due = due.iter().filter(counts).map(|due| due.by).min();
            advance(now, &project.maintenance, due)
        })
        .collect();
    steps.sort_unstable_by_key(|step| step.maintenance.project);
    steps
}

impl NodePlan {
    /// A node of no cluster.
    fn free(node: NodeId) -> Self {
        Self {
            node,
            cluster: None,
            key: KeyWant::Leave,
            rotate: None,
            run: DesiredRun::Unmanaged,
            step_down: false,
            resync: false,
            work: None,
            waiting: Vec::new(),
        }
    }

    /// What is asked when this plan is carried out, by what was asked so far and the project's key. The revision is
    /// the store's to give.
    pub fn asks(&self, asked: &Asked, key: Option<&KeyIdentifier>) -> Asked {
        let (key, off) = match self.key {
            KeyWant::Leave => (asked.key.clone(), asked.off),
            KeyWant::Use => (key.or(asked.key.as_ref()).cloned(), false),
            KeyWant::Off => (None, true),
        };
        Asked {
            revision: asked.revision,
            member: self.cluster.is_some(),
            key,
            off,
            rotate: self.rotate.clone(),
            run: self.run,
            step_down: self.step_down,
            resync: self.resync,
        }
    }
}

impl Node {
    /// Whether the last report came too long ago. A clock that jumped back silences nobody.
    pub(crate) fn silent(&self, now: Timestamp) -> bool {
        self.seen.as_ref().is_none_or(|seen| now.epoch_ms() - seen.at.epoch_ms() > SILENT_AFTER_MS)
    }

    /// Whether all that was asked is carried out.
    pub(crate) fn settled(&self) -> bool {
        let done = self.seen.as_ref().map_or(0, |seen| seen.done_revision);
        done >= self.asked.revision
    }

    /// Whether it is down for its customer key: a new key can only help it.
    pub(crate) fn down_for_its_key(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| {
            matches!(seen.state, NodeState::WaitingForCustomerKey | NodeState::StoppedRevoked)
        })
    }

    pub(crate) fn primary(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.member == Some(MemberState::Primary))
    }

    pub(crate) fn serving(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.state == NodeState::Running)
    }

    /// Whether its data is not encrypted.
    pub(crate) fn unencrypted(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.unencrypted)
    }

    /// Whether it was asked to fill itself again and has not reported that it has.
    pub(crate) fn resyncing(&self) -> bool {
        self.asked.resync && !self.settled()
    }
}
