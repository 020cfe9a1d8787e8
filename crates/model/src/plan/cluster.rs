//! The plan of one cluster.

use super::{Cluster, ClusterPlan, KeyWant, Node, NodePlan, Plan, Project, Resync, Waiting, WaitingOn, Work};
use crate::{
    NodeState, Timestamp,
    cluster::{ClusterState, KeyProvider, NodeRotation},
    rollout::{Candidate, Turn, ailment, leaver, turns, unsettled},
    sync::DesiredRun,
};

/// Plans `cluster` and its `members`, which come by node id; takes what it needs from `free`, adds to `own`, which
/// has the rotations already.
pub(super) fn plan_cluster(
    now: Timestamp,
    cluster: &Cluster,
    project: Option<&Project>,
    members: &[&Node],
    free: &mut Vec<&Node>,
    mut own: ClusterPlan,
    planned: &mut Plan,
) {
    let first = planned.nodes.len();
    if cluster.deleting {
        planned.nodes.extend(members.iter().map(|node| release(now, node)));
    } else {
        place(now, cluster, members, free, &mut own);
        let scene = Scene::new(now, cluster, project, members);
        planned.nodes.extend(scene.nodes());
    }
    let plans = &planned.nodes[first..];
    own.released = members
        .iter()
        .zip(plans)
        .filter(|(node, plan)| plan.cluster.is_none() && released(node))
        .map(|(node, _)| node.id)
        .collect();
    own.resync = resync(cluster, members, plans);
    own.gone = cluster.deleting && own.released.len() == members.len();
    own.state = state(now, cluster, project, members, plans);
    planned.clusters.push(own);
}

/// Everything about a cluster that is the same for all its members.
struct Scene<'a> {
    now: Timestamp,
    cluster: &'a Cluster,
    project: Option<&'a Project>,
    members: &'a [&'a Node],
    /// The member that should leave.
    leaver: Option<&'a Node>,
}

impl<'a> Scene<'a> {
    fn new(
        now: Timestamp,
        cluster: &'a Cluster,
        project: Option<&'a Project>,
        members: &'a [&'a Node],
    ) -> Self {
        let leaver = if members.len() > cluster.node_count { leaver(members) } else { None };
        Self { now, cluster, project, members, leaver }
    }

    fn nodes(&self) -> Vec<NodePlan> {
        let needs: Vec<Option<Work>> = self.members.iter().map(|node| self.need(node)).collect();
        let candidates: Vec<Candidate<'_>> = self
            .members
            .iter()
            .zip(&needs)
            .filter_map(|(node, need)| need.map(|work| (*node, work)))
            .filter(|(node, work)| self.rolls(node, *work))
            .map(|(node, work)| Candidate { node, work, begun: self.begun(node, work) })
            .collect();
        let turns = turns(self.now, self.members, &candidates, self.cluster.paused);
        let mut turns = candidates.iter().map(|candidate| candidate.node.id).zip(turns).peekable();
        self.members
            .iter()
            .zip(needs)
            .map(|(node, need)| {
                let turn = turns.next_if(|(id, _)| *id == node.id).map(|(_, turn)| turn);
                self.node(node, need, turn.unwrap_or(Turn::Go))
            })
            .collect()
    }

    /// The first thing that is to be done about a member's keys or membership.
    fn need(&self, node: &Node) -> Option<Work> {
        let seen = node.seen.as_ref()?;
        if self.leaver.is_some_and(|leaver| leaver.id == node.id) {
            return Some(Work::Release);
        }
        if self.cluster.provider == KeyProvider::None {
            let taken_back = node.asked.off && node.settled();
            if self.cluster.switch_off && (node.asked.key.is_some() || node.asked.off) && !taken_back {
                return Some(Work::SwitchOff);
            }
        } else {
            match (self.key(), &seen.key) {
                (None, _) => {}
                // Until it is whole again, whatever else is wished by now.
                (Some(_), _) if node.unencrypted() || node.resyncing() => return Some(Work::Resync),
                (Some(_), None) => return Some(Work::FirstKey),
                (Some(wanted), Some(seen)) if wanted != seen => return Some(Work::MoveKey),
                (Some(_), Some(_)) => {}
            }
        }
        self.rotation(node).map(|_| Work::RotateMasterKey)
    }

    /// Whether a need goes by turns: not where a node serves nobody and can only win.
    fn rolls(&self, node: &Node, work: Work) -> bool {
        work.rolling() && !(work == Work::MoveKey && node.down_for_its_key())
    }

    /// Whether a need was asked of the node already and is not done.
    fn begun(&self, node: &Node, work: Work) -> bool {
        let Some(seen) = &node.seen else { return false };
        match work {
            Work::Release => node.asked.revision > 0 && !node.asked.member,
            // A key that was asked for, be it this one or one that was wished for before.
            Work::MoveKey => node.asked.key.is_some() && node.asked.key != seen.key,
            // One that became primary before it was emptied hands over first, or lets others go before it.
            Work::Resync => node.asked.resync && !(node.unencrypted() && node.primary()),
            Work::RotateMasterKey => {
                node.asked.rotate.is_some()
                    && node.asked.rotate.as_deref() == seen.master_key.as_ref().map(|(id, _)| id.as_str())
            }
            Work::Place | Work::Run | Work::FirstKey | Work::SwitchOff => false,
        }
    }

    /// What is asked of a member.
    fn node(&self, node: &Node, need: Option<Work>, turn: Turn) -> NodePlan {
        let mut plan = NodePlan {
            cluster: Some(self.cluster.id),
            run: if self.cluster.paused { DesiredRun::Stopped } else { DesiredRun::Running },
            ..NodePlan::free(node.id)
        };
        let go = match (&need, turn) {
            (Some(work), Turn::Wait(on)) => {
                plan.waiting.push(Waiting { work: *work, on });
                false
            }
            (Some(work), Turn::StepDown) => {
                plan.step_down = true;
                let approval = node.seen.as_ref().is_some_and(|seen| seen.needs_approval);
                let on = match approval {
                    true => WaitingOn::Approval { node: node.id },
                    false => WaitingOn::StepDown { node: node.id },
                };
                plan.waiting.push(Waiting { work: *work, on });
                false
            }
            (_, Turn::Go) | (None, _) => true,
        };
        plan.key = self.key_want(node, need, go);
        if let Some(work) = need.filter(|_| go) {
            plan.work = Some(work);
            plan.waiting.push(Waiting { work, on: self.in_the_way(node) });
            match work {
                Work::Release => {
                    plan = NodePlan { work: plan.work, waiting: plan.waiting, ..NodePlan::free(node.id) }
                }
                Work::RotateMasterKey => plan.rotate = self.rotation(node).map(|r| r.master_key.clone()),
                Work::Resync => plan.resync = true,
                Work::Place | Work::Run | Work::FirstKey | Work::MoveKey | Work::SwitchOff => {}
            }
        } else if need.is_none() {
            self.rest(node, &mut plan);
        }
        if self.cluster.provider != KeyProvider::None && self.key().is_none() {
            plan.waiting.push(Waiting { work: Work::FirstKey, on: WaitingOn::NoCustomerKey });
        }
        plan
    }

    fn key_want(&self, node: &Node, need: Option<Work>, go: bool) -> KeyWant {
        match need {
            Some(Work::MoveKey | Work::Resync | Work::FirstKey) if go => KeyWant::Use,
            Some(Work::MoveKey | Work::Resync | Work::FirstKey | Work::Release) => KeyWant::Leave,
            Some(Work::SwitchOff) => KeyWant::Off,
            // The key is the right one: new credentials and windows of the project reach every node at once.
            Some(Work::RotateMasterKey | Work::Place | Work::Run) | None => {
                if self.cluster.provider != KeyProvider::None && self.key().is_some() && node.seen.is_some() {
                    KeyWant::Use
                } else if self.cluster.switch_off && node.asked.off {
                    KeyWant::Off
                } else {
                    KeyWant::Leave
                }
            }
        }
    }

    /// What a work that may go on waits for.
    fn in_the_way(&self, node: &Node) -> WaitingOn {
        if node.silent(self.now) {
            WaitingOn::NodeUnhealthy { node: node.id, state: None }
        } else {
            unsettled(node)
        }
    }

    /// A member without work: says so when it is not well or has not done what was asked.
    fn rest(&self, node: &Node, plan: &mut NodePlan) {
        let work = if node.asked.member { Work::Run } else { Work::Place };
        // Nothing is started unencrypted.
        let keyless = node
            .seen
            .as_ref()
            .is_some_and(|seen| seen.key.is_none() && !seen.unencrypted && seen.state != NodeState::Running);
        if keyless && node.asked.member && self.cluster.provider == KeyProvider::None && !self.cluster.paused
        {
            plan.waiting.push(Waiting { work: Work::Run, on: WaitingOn::NoCustomerKey });
            return;
        }
        let on = match ailment(self.now, node, self.cluster.paused) {
            None if node.asked.member && node.asked.run == plan.run => return,
            None => WaitingOn::Report { node: node.id },
            Some(on) => on,
        };
        plan.waiting.push(Waiting { work, on });
    }

    fn key(&self) -> Option<&crate::KeyIdentifier> {
        self.project.and_then(|project| project.key.as_ref())
    }

    /// The rotation that was asked for and is not done.
    fn rotation(&self, node: &Node) -> Option<&NodeRotation> {
        let (id, _) = node.seen.as_ref()?.master_key.as_ref()?;
        self.cluster.rotations.iter().find(|rotation| rotation.node == node.id && rotation.master_key == *id)
    }
}

/// Chooses free nodes: those that run already first.
fn place(now: Timestamp, cluster: &Cluster, members: &[&Node], free: &mut Vec<&Node>, own: &mut ClusterPlan) {
    let missing = cluster.node_count.saturating_sub(members.len());
    if missing == 0 {
        return;
    }
    let unwell = members.iter().find_map(|node| ailment(now, node, cluster.paused));
    if let Some(on) = unwell.filter(|_| cluster.ready) {
        own.waiting.push(Waiting { work: Work::Place, on });
        return;
    }
    let mut usable: Vec<&Node> = free.iter().copied().filter(|node| !node.silent(now)).collect();
    usable.sort_by_key(|node| (!node.serving(), node.id));
    // A voting member more at a time, once the cluster serves.
    usable.truncate(if cluster.ready { 1 } else { missing });
    own.place = usable.iter().map(|node| node.id).collect();
    free.retain(|node| !own.place.contains(&node.id));
    let missing = missing - own.place.len();
    if missing > 0 {
        own.waiting.push(Waiting { work: Work::Place, on: WaitingOn::NoFreeNode { missing } });
    }
}

/// A member of a cluster that goes.
fn release(now: Timestamp, node: &Node) -> NodePlan {
    let mut plan = NodePlan::free(node.id);
    if !released(node) {
        let on = match node.silent(now) && node.seen.is_some() {
            true => WaitingOn::NodeUnhealthy { node: node.id, state: None },
            false => unsettled(node),
        };
        plan.work = Some(Work::Release);
        plan.waiting.push(Waiting { work: Work::Release, on });
    }
    plan
}

/// Whether a node knows that it is in no cluster; one of which nothing was ever asked never knew of any.
fn released(node: &Node) -> bool {
    !node.asked.member && node.settled()
}

/// Whether members are being filled again, encrypted.
fn resync(cluster: &Cluster, members: &[&Node], plans: &[NodePlan]) -> Resync {
    let under_way = |(node, plan): (&&Node, &NodePlan)| plan.resync || node.resyncing();
    let wanted = cluster.provider != KeyProvider::None;
    let keyless = |node: &&Node| node.seen.as_ref().is_none_or(|seen| seen.key.is_none());
    if members.iter().zip(plans).any(under_way) {
        Resync::UnderWay
    } else if members.iter().any(|node| node.unencrypted() || (wanted && keyless(node))) {
        Resync::Waits
    } else {
        Resync::None
    }
}

/// What the reports add up to; nothing is done that no node has reported.
fn state(
    now: Timestamp,
    cluster: &Cluster,
    project: Option<&Project>,
    members: &[&Node],
    plans: &[NodePlan],
) -> ClusterState {
    if cluster.deleting {
        return ClusterState::Deleting;
    }
    let key = project.and_then(|project| project.key.as_ref());
    let done = |(node, plan): (&&Node, &NodePlan)| {
        node.settled()
            && plan.asks(&node.asked, key) == node.asked
            && plan.work.is_none_or(|work| work == Work::RotateMasterKey)
            && plan
                .waiting
                .iter()
                .all(|waiting| waiting.work == Work::RotateMasterKey || waiting.work == Work::Run)
    };
    let all_done = members.len() == cluster.node_count && members.iter().zip(plans).all(done);
    let well = all_done && members.iter().all(|node| ailment(now, node, cluster.paused).is_none());
    // A database that still goes up or down by order is a change, not a repair.
    let moving = members.iter().any(|node| {
        let state = node.seen.as_ref().map(|seen| seen.state);
        cluster.paused && state == Some(NodeState::Running)
    });
    match (cluster.ready, all_done, well) {
        (_, true, true) => ClusterState::Idle,
        (false, ..) => ClusterState::Creating,
        (true, true, false) if !moving => ClusterState::Repairing,
        (true, ..) => ClusterState::Updating,
    }
}
