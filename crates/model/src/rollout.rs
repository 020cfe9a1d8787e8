//! One node at a time: which member of a cluster may be worked on now.
//!
//! Pure and small on purpose: every rolling work of [`crate::plan`] goes through [`turns`]. What was begun goes on;
//! something new begins only when nothing is on its way and every other member is well. Work that takes a member
//! down keeps a majority and takes the primary last, after a step-down. Key work, which nobody notices, begins with
//! the nodes that hold their master key.

use crate::{
    NodeState, Timestamp, Verdict,
    id::NodeId,
    plan::{MemberState, Node, WaitingOn, Work},
};

/// A member that needs rolling work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) node: &'a Node,
    pub(crate) work: Work,
    /// Whether it was asked for already.
    pub(crate) begun: bool,
}

/// What a candidate may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its work, now.
    Go,
    /// Step down first.
    StepDown,
    /// Nothing yet.
    Wait(WaitingOn),
}

/// What each of `candidates` may do, in their order. `members` are all of the cluster's, by node id.
pub(crate) fn turns(
    now: Timestamp,
    members: &[&Node],
    candidates: &[Candidate<'_>],
    paused: bool,
) -> Vec<Turn> {
    let begun = candidates.iter().find(|candidate| candidate.begun).map(|candidate| candidate.node.id);
    let mut turns: Vec<Option<Turn>> = candidates
        .iter()
        .map(|candidate| match begun {
            Some(_) if candidate.begun => Some(Turn::Go),
            Some(node) => Some(Turn::Wait(WaitingOn::OtherNode { node })),
            None => None,
        })
        .collect();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|at| {
        let Candidate { node, work, .. } = candidates[*at];
        let held = node.seen.as_ref().is_some_and(|seen| seen.master_key_held);
        (work.disruptive() && node.primary(), !held, node.primary(), node.id)
    });
    let mut taken = None;
    for at in order {
        let turn = &mut turns[at];
        if turn.is_some() {
            continue;
        }
        *turn = Some(match taken {
            Some(node) => Turn::Wait(WaitingOn::OtherNode { node }),
            None => {
                let turn = admit(now, members, candidates[at], paused);
                if !matches!(turn, Turn::Wait(_)) {
                    taken = Some(candidates[at].node.id);
                }
                turn
            }
        });
    }
    turns.into_iter().flatten().collect()
}

/// Why a member is not well, if it is not.
pub(crate) fn ailment(now: Timestamp, node: &Node, paused: bool) -> Option<WaitingOn> {
    let Some(seen) = node.seen.as_ref().filter(|_| !node.silent(now)) else {
        return Some(WaitingOn::NodeUnhealthy { node: node.id, state: None });
    };
    let wanted = if paused { NodeState::Stopped } else { NodeState::Running };
    if seen.state != wanted {
        Some(WaitingOn::NodeUnhealthy { node: node.id, state: Some(seen.state) })
    } else if !node.settled() {
        Some(unsettled(node))
    } else if !paused && seen.member == Some(MemberState::Other) {
        Some(WaitingOn::Member { node: node.id })
    } else {
        None
    }
}

/// What a node that has not done all that was asked waits for.
pub(crate) fn unsettled(node: &Node) -> WaitingOn {
    if node.seen.as_ref().is_some_and(|seen| seen.needs_approval) {
        WaitingOn::Approval { node: node.id }
    } else {
        WaitingOn::Report { node: node.id }
    }
}

fn admit(now: Timestamp, members: &[&Node], candidate: Candidate<'_>, paused: bool) -> Turn {
    let Candidate { node, work, .. } = candidate;
    let others = || members.iter().filter(|member| member.id != node.id);
    if paused && work != Work::MoveKey {
        return Turn::Wait(WaitingOn::Paused);
    }
    if let Some(on) = others().find_map(|other| ailment(now, other, paused)) {
        return Turn::Wait(on);
    }
    // A primary that was asked to hand over goes on with that.
    let handing_over = work.disruptive() && node.asked.step_down && node.primary();
    match ailment(now, node, paused) {
        Some(WaitingOn::Report { .. } | WaitingOn::Approval { .. }) if handing_over => {}
        Some(on) => return Turn::Wait(on),
        None => {}
    }
    if work == Work::RotateMasterKey
        && let Some(on) = key_out_of_reach(node)
    {
        return Turn::Wait(on);
    }
    if !work.disruptive() {
        return Turn::Go;
    }
    if work != Work::Release && node.seen.as_ref().is_none_or(|seen| seen.member.is_none()) {
        return Turn::Wait(WaitingOn::NoReplicaSet { node: node.id });
    }
    let (left, needed) = (others().count(), majority(members.len()));
    if left < needed {
        Turn::Wait(WaitingOn::Majority { left, needed })
    } else if node.primary() {
        Turn::StepDown
    } else {
        Turn::Go
    }
}

/// A rotation unwraps and wraps: it needs the customer key and the master key.
fn key_out_of_reach(node: &Node) -> Option<WaitingOn> {
    let seen = node.seen.as_ref()?;
    let ready = seen.verdict == Verdict::Valid && seen.master_key_held;
    (!ready).then_some(WaitingOn::Verdict { node: node.id, verdict: seen.verdict })
}

/// How many of `members` are a majority.
pub(crate) fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// The member that leaves when there are too many: one that was asked to already, else the last by id that is not
/// primary.
pub(crate) fn leaver<'a>(members: &[&'a Node]) -> Option<&'a Node> {
    let leaving: Option<NodeId> = members
        .iter()
        .find(|node| node.asked.revision > 0 && !node.asked.member && node.cluster.is_some())
        .map(|node| node.id);
    members
        .iter()
        .rev()
        .find(|node| leaving.map_or(!node.primary(), |id| id == node.id))
        .or(members.last())
        .copied()
}
