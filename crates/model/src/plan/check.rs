//! Looks for contradictions in a plan, by other ways than the planner's.

use std::collections::{HashMap, HashSet};

use super::{Asked, Cluster, KeyWant, MemberState, Node, NodePlan, Plan, ROTATION_MS, State, Work};
use crate::{
    NodeState,
    cluster::{ClusterState, KeyProvider},
    id::{ClusterId, NodeId},
};

/// A contradiction: a plan with one is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// A node stands in the plan twice, or not at all.
    #[error("node {0} stands in the plan {1} times")]
    NodeCount(NodeId, usize),
    /// A cluster stands in the plan twice, or not at all.
    #[error("cluster {0} stands in the plan {1} times")]
    ClusterCount(ClusterId, usize),
    /// Work begins on a node while another one of the cluster is being worked on.
    #[error("work begins on node {0} while node {1} of its cluster is being worked on")]
    TwoNodes(NodeId, NodeId),
    /// Work begins on a node while another one of the cluster does not serve.
    #[error("work begins on node {0} while node {1} of its cluster is not well")]
    Unwell(NodeId, NodeId),
    /// A primary is taken down.
    #[error("node {0} is primary and would be taken down")]
    Primary(NodeId),
    /// No majority would be left.
    #[error("taking node {0} down leaves no majority of its cluster")]
    NoMajority(NodeId),
    /// A member is to be emptied that does not serve unencrypted data, or without a customer key to fill it under.
    #[error("node {0} would be emptied, and its cluster does not ask for that")]
    Resync(NodeId),
    /// Two members of a cluster are being emptied or filled at once.
    #[error("node {0} is emptied while node {1} of its cluster is not whole")]
    TwoResyncs(NodeId, NodeId),
    /// A customer key for a node that should have none, or that nobody configured.
    #[error("node {0} is given a customer key that its project or cluster does not name")]
    Key(NodeId),
    /// Encryption is switched off for a cluster that is encrypted.
    #[error("encryption is switched off on node {0}, whose cluster is encrypted")]
    Off(NodeId),
    /// A rotation of a master key that nobody noted, or that the node no longer has.
    #[error("node {0} is to rotate a master key that is not noted or not its own")]
    Rotation(NodeId),
    /// A rotation so soon after another.
    #[error("the master key of node {0} was rotated less than 90 days ago")]
    RotatedTwice(NodeId),
    /// A node of another project, of another cluster, or one that two clusters want.
    #[error("node {0} cannot be placed in cluster {1}")]
    Placement(NodeId, ClusterId),
    /// A member is let go without a reason.
    #[error("node {0} is released from a cluster that needs it")]
    Release(NodeId),
    /// A cluster is shown as ready before its nodes reported it.
    #[error("cluster {0} is called IDLE although node {1} has not reported all that is wanted")]
    Idle(ClusterId, NodeId),
    /// A cluster that is not ready, with nothing asked and no reason given.
    #[error("cluster {0} is not ready, nothing new is asked of its nodes, and no reason is given")]
    Silent(ClusterId),
}

/// Every contradiction in `plan`, which was made from `state`.
pub fn check(plan: &Plan, state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    let nodes: HashMap<NodeId, &Node> = state.nodes.iter().map(|node| (node.id, node)).collect();
    counts(plan, state, &mut found);
    let plans: HashMap<NodeId, &NodePlan> = plan.nodes.iter().map(|plan| (plan.node, plan)).collect();
    let mut members: HashMap<ClusterId, Vec<(&Node, &NodePlan)>> = HashMap::new();
    for node in &state.nodes {
        if let (Some(cluster), Some(plan)) = (node.cluster, plans.get(&node.id)) {
            members.entry(cluster).or_default().push((node, plan));
        }
    }
    let mut placed = HashSet::new();
    let planned: HashMap<ClusterId, &super::ClusterPlan> =
        plan.clusters.iter().map(|cluster| (cluster.cluster, cluster)).collect();
    let keys: HashMap<_, _> =
        state.projects.iter().map(|project| (project.id, project.key.as_ref())).collect();
    for cluster in &state.clusters {
        let Some(own) = planned.get(&cluster.id) else { continue };
        let members = members.get(&cluster.id).map_or(&[][..], Vec::as_slice);
        let key = keys.get(&cluster.project).copied().flatten();
        for (node, plan) in members {
            keys_of(cluster, key.is_some(), node, plan, &mut found);
        }
        turns(cluster, key, members, &mut found);
        resyncs(cluster, key, members, &mut found);
        releases(cluster, members, &mut found);
        for rotation in &own.rotate {
            let recent = cluster.rotations.iter().any(|old| {
                let since = plan.at.epoch_ms() - old.asked_at.epoch_ms();
                old.node == rotation.node && (0..ROTATION_MS - super::WEEK_MS).contains(&since)
            });
            if recent {
                found.push(Violation::RotatedTwice(rotation.node));
            }
        }
        for node in &own.place {
            let fits = nodes.get(node).is_some_and(|node| {
                node.project == cluster.project
                    && node.cluster.is_none_or(|other| !planned.contains_key(&other))
            });
            if !fits || !placed.insert(*node) || cluster.deleting {
                found.push(Violation::Placement(*node, cluster.id));
            }
        }
        if own.state == ClusterState::Idle {
            let late = |(node, _): &&(&Node, &NodePlan)| !reported(cluster, key, node);
            found.extend(members.iter().find(late).map(|(node, _)| Violation::Idle(cluster.id, node.id)));
        } else if !explained(own, key, members) {
            found.push(Violation::Silent(cluster.id));
        }
    }
    found
}

fn counts(plan: &Plan, state: &State, found: &mut Vec<Violation>) {
    let mut nodes: HashMap<NodeId, usize> = state.nodes.iter().map(|node| (node.id, 0)).collect();
    for planned in &plan.nodes {
        *nodes.entry(planned.node).or_default() += 1;
    }
    found.extend(nodes.into_iter().filter(|(_, n)| *n != 1).map(|(id, n)| Violation::NodeCount(id, n)));
    let mut clusters: HashMap<ClusterId, usize> =
        state.clusters.iter().map(|cluster| (cluster.id, 0)).collect();
    for planned in &plan.clusters {
        *clusters.entry(planned.cluster).or_default() += 1;
    }
    found.extend(clusters.into_iter().filter(|(_, n)| *n != 1).map(|(id, n)| Violation::ClusterCount(id, n)));
}

fn keys_of(cluster: &Cluster, key: bool, node: &Node, plan: &NodePlan, found: &mut Vec<Violation>) {
    match plan.key {
        KeyWant::Use if cluster.provider == KeyProvider::None || !key => found.push(Violation::Key(node.id)),
        KeyWant::Off if cluster.provider != KeyProvider::None || !cluster.switch_off => {
            found.push(Violation::Off(node.id));
        }
        KeyWant::Use | KeyWant::Off | KeyWant::Leave => {}
    }
    if let Some(id) = &plan.rotate {
        let noted = cluster.rotations.iter().any(|r| r.node == node.id && r.master_key == *id);
        let own = node.seen.as_ref().and_then(|seen| seen.master_key.as_ref()).is_some_and(|(o, _)| o == id);
        if !noted || !own {
            found.push(Violation::Rotation(node.id));
        }
    }
}

/// At most one serving node has rolling work that was not on its way before.
fn turns(
    cluster: &Cluster,
    key: Option<&crate::KeyIdentifier>,
    members: &[(&Node, &NodePlan)],
    found: &mut Vec<Violation>,
) {
    let serving = |node: &Node| {
        node.seen.as_ref().is_some_and(|seen| match seen.state {
            NodeState::Running => true,
            NodeState::Stopped => cluster.paused,
            NodeState::Starting
            | NodeState::WaitingForCustomerKey
            | NodeState::StoppedRevoked
            | NodeState::Failed => false,
        })
    };
    for (node, plan) in members {
        let asks = plan.asks(&node.asked, key);
        let Some(work) = begins(node, &asks).filter(|_| serving(node) && !cluster.deleting) else { continue };
        for (other, other_plan) in members.iter().filter(|(other, _)| other.id != node.id) {
            let at_work = on_its_way(other) || begins(other, &other_plan.asks(&other.asked, key)).is_some();
            if !serving(other) || !other.settled() {
                found.push(Violation::Unwell(node.id, other.id));
            } else if at_work {
                found.push(Violation::TwoNodes(node.id, other.id));
            }
        }
        if work.disruptive() {
            let seen = node.seen.as_ref();
            if seen.is_some_and(|seen| seen.member == Some(MemberState::Primary)) {
                found.push(Violation::Primary(node.id));
            }
            if (members.len() - 1) * 2 <= members.len() {
                found.push(Violation::NoMajority(node.id));
            }
        }
    }
}

/// The rolling work that a node is asked for now and was not asked for before.
fn begins(node: &Node, asks: &Asked) -> Option<Work> {
    let seen = node.seen.as_ref()?;
    let newly = asks.key != node.asked.key;
    if asks.resync && !node.asked.resync {
        Some(Work::Resync)
    } else if node.asked.member && !asks.member {
        Some(Work::Release)
    } else if newly && asks.key.is_none() {
        None
    } else if newly && seen.key.is_some() && asks.key != seen.key && !on_its_way(node) {
        Some(Work::MoveKey)
    } else if asks.rotate.is_some() && asks.rotate != node.asked.rotate {
        Some(Work::RotateMasterKey)
    } else {
        None
    }
}

/// Whether a node has rolling work that it has not reported done.
fn on_its_way(node: &Node) -> bool {
    let Some(seen) = &node.seen else { return false };
    let id = seen.master_key.as_ref().map(|(id, _)| id);
    // A key alone means nothing to a database that is not encrypted.
    (node.asked.key.is_some() && node.asked.key != seen.key && !seen.unencrypted)
        || (node.asked.resync && !node.settled())
        || (node.asked.rotate.is_some() && node.asked.rotate.as_ref() == id)
}

/// Data is deleted only of members that say that theirs is not encrypted, where the cluster wants it so, of one at a
/// time, and never of a primary: also not when it was asked for before it became one.
fn resyncs(
    cluster: &Cluster,
    key: Option<&crate::KeyIdentifier>,
    members: &[(&Node, &NodePlan)],
    found: &mut Vec<Violation>,
) {
    let unencrypted = |node: &Node| node.seen.as_ref().is_some_and(|seen| seen.unencrypted);
    let resyncing: Vec<&Node> =
        members.iter().filter(|(_, plan)| plan.resync).map(|(node, _)| *node).collect();
    for (node, plan) in members.iter().filter(|(_, plan)| plan.resync) {
        let begun = node.asked.resync && !node.settled();
        let wanted = cluster.provider != KeyProvider::None && key.is_some() && !cluster.deleting;
        let serves = node.seen.as_ref().is_some_and(|seen| seen.state == NodeState::Running);
        if !wanted || plan.key != KeyWant::Use || !(begun || (unencrypted(node) && serves)) {
            found.push(Violation::Resync(node.id));
        }
        let primary = node.seen.as_ref().is_some_and(|seen| seen.member == Some(MemberState::Primary));
        if primary && unencrypted(node) {
            found.push(Violation::Primary(node.id));
        }
    }
    if let [one, other, ..] = resyncing[..] {
        found.push(Violation::TwoResyncs(one.id, other.id));
    }
}

fn releases(cluster: &Cluster, members: &[(&Node, &NodePlan)], found: &mut Vec<Violation>) {
    if cluster.deleting {
        return;
    }
    let mut left = members.len();
    for (node, _) in members.iter().filter(|(_, plan)| plan.cluster != Some(cluster.id)) {
        left -= 1;
        if left < cluster.node_count {
            found.push(Violation::Release(node.id));
        }
    }
}

/// Whether a node has reported all that its cluster wants of it.
fn reported(cluster: &Cluster, key: Option<&crate::KeyIdentifier>, node: &Node) -> bool {
    let Some(seen) = &node.seen else { return false };
    let encrypted = cluster.provider == KeyProvider::None || (key.is_some() && seen.key.as_ref() == key);
    let off = !cluster.switch_off || cluster.provider != KeyProvider::None || node.asked.key.is_none();
    let runs = seen.state == if cluster.paused { NodeState::Stopped } else { NodeState::Running };
    encrypted && off && runs && node.asked.member && seen.done_revision >= node.asked.revision
}

/// Whether a cluster that is not ready moves, or says why not.
fn explained(
    own: &super::ClusterPlan,
    key: Option<&crate::KeyIdentifier>,
    members: &[(&Node, &NodePlan)],
) -> bool {
    own.gone
        || !own.place.is_empty()
        || !own.released.is_empty()
        || !own.waiting.is_empty()
        || members.iter().any(|(node, plan)| {
            !plan.waiting.is_empty() || plan.asks(&node.asked, key) != node.asked || !node.settled()
        })
}
