//! What a plan waits for, typed, and in words for people.

use std::fmt;

use serde::Serialize;

use crate::{NodeState, Timestamp, Verdict, count::counted, id::NodeId};

/// Something that is to be done and is not done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What.
    pub work: Work,
    /// What it waits for.
    pub on: WaitingOn,
}

/// What is to be done on a node or a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// A free node becomes a member.
    Place,
    /// A member becomes free.
    Release,
    /// The database is started or stopped.
    Run,
    /// A node without data gets its first customer key.
    FirstKey,
    /// The master key moves under another customer key.
    MoveKey,
    /// The master key is rotated.
    RotateMasterKey,
    /// A member with unencrypted data is emptied and filled again from the others, encrypted.
    Resync,
    /// The customer key is taken back from the node. Nothing restarts, and what is encrypted stays so.
    SwitchOff,
}

/// What something waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum WaitingOn {
    /// The node was asked and has not reported it done.
    Report {
        /// The node.
        node: NodeId,
    },
    /// Another node of the cluster is being worked on.
    OtherNode {
        /// That one.
        node: NodeId,
    },
    /// A node of the cluster is not well.
    NodeUnhealthy {
        /// That one.
        node: NodeId,
        /// What it says of itself; `None` when it is silent.
        state: Option<NodeState>,
    },
    /// A member is neither primary nor secondary.
    Member {
        /// That one.
        node: NodeId,
    },
    /// Another member is to become primary first.
    StepDown {
        /// The present primary.
        node: NodeId,
    },
    /// Too few members would be left.
    Majority {
        /// Members that would serve meanwhile.
        left: usize,
        /// Members that are needed.
        needed: usize,
    },
    /// The node is in no replica set that could fill it again.
    NoReplicaSet {
        /// The node.
        node: NodeId,
    },
    /// The maintenance window.
    Window {
        /// When it opens.
        opens: Timestamp,
        /// Whole days from day 90 of the oldest master key until it opens; 0 when it opens before.
        days_late: i64,
        /// Whether deferrals moved it past day 90 of a master key.
        past_day_90: bool,
    },
    /// The customer key does not answer.
    Verdict {
        /// The node that says so.
        node: NodeId,
        /// What it says.
        verdict: Verdict,
    },
    /// `keyward node approve` on the node's host.
    Approval {
        /// The node.
        node: NodeId,
    },
    /// Enrolled nodes of the project without a cluster.
    NoFreeNode {
        /// How many are missing.
        missing: usize,
    },
    /// A customer key: on the project, and named by the cluster.
    NoCustomerKey,
    /// The cluster is paused.
    Paused,
}

impl Waiting {
    /// In words for people, on the page of node `own`: what it waits for itself is said of "this node".
    pub fn text(&self, own: Option<NodeId>) -> String {
        let Waiting { work, on } = self;
        match on {
            // What is wrong with the node itself is said, not waited for.
            WaitingOn::NodeUnhealthy { node, state } if own == Some(*node) => match state {
                Some(state) => format!("{work}: this node is {state}"),
                None => format!("{work}: this node is silent"),
            },
            WaitingOn::Member { node } if own == Some(*node) => {
                format!("{work}: this node is neither primary nor secondary")
            }
            WaitingOn::Report { .. }
            | WaitingOn::OtherNode { .. }
            | WaitingOn::NodeUnhealthy { .. }
            | WaitingOn::Member { .. }
            | WaitingOn::StepDown { .. }
            | WaitingOn::Majority { .. }
            | WaitingOn::NoReplicaSet { .. }
            | WaitingOn::Window { .. }
            | WaitingOn::Verdict { .. }
            | WaitingOn::Approval { .. }
            | WaitingOn::NoFreeNode { .. }
            | WaitingOn::NoCustomerKey
            | WaitingOn::Paused => format!("{work} waits for {}", InWords { on, own }),
        }
    }
}

/// What is waited for, on the page of a node.
struct InWords<'w> {
    on: &'w WaitingOn,
    own: Option<NodeId>,
}

/// What a node is called there.
struct Called {
    node: NodeId,
    own: bool,
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.own { f.write_str("this node") } else { write!(f, "node {}", self.node) }
    }
}

impl Work {
    /// Whether it must not happen on two nodes of a cluster at a time.
    pub fn rolling(self) -> bool {
        match self {
            Work::MoveKey | Work::RotateMasterKey | Work::Resync | Work::Release => true,
            Work::Place | Work::Run | Work::FirstKey | Work::SwitchOff => false,
        }
    }

    /// Whether the node does not serve meanwhile.
    pub fn disruptive(self) -> bool {
        match self {
            Work::Resync | Work::Release => true,
            Work::MoveKey
            | Work::RotateMasterKey
            | Work::Place
            | Work::Run
            | Work::FirstKey
            | Work::SwitchOff => false,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Work::Place => "placing a node",
            Work::Release => "releasing the node",
            Work::Run => "starting or stopping the database",
            Work::FirstKey => "setting the customer key",
            Work::MoveKey => "moving the master key under the new customer key",
            Work::RotateMasterKey => "rotating the master key",
            Work::Resync => "filling the member again, encrypted",
            Work::SwitchOff => "switching encryption off",
        })
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        InWords { on: self, own: None }.fmt(f)
    }
}

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let called = |node: &NodeId| Called { node: *node, own: self.own == Some(*node) };
        match self.on {
            WaitingOn::Report { node } => match called(node) {
                Called { own: true, .. } => f.write_str("this node's report that it is done"),
                other => write!(f, "the report of {other} that it is done"),
            },
            WaitingOn::OtherNode { node } => write!(f, "{}, which is being worked on", called(node)),
            WaitingOn::NodeUnhealthy { node, state: Some(state) } => {
                write!(f, "{} to be well again; it is {state}", called(node))
            }
            WaitingOn::NodeUnhealthy { node, state: None } => write!(f, "{}, which is silent", called(node)),
            WaitingOn::Member { node } => write!(f, "{} to be primary or secondary again", called(node)),
            WaitingOn::StepDown { node } => write!(f, "another primary than {}", called(node)),
            WaitingOn::Majority { left, needed } => {
                let members = counted(*left, "member", "members");
                let are = if *needed == 1 { "is" } else { "are" };
                write!(f, "a majority: {members} would be left and {needed} {are} needed")
            }
            WaitingOn::NoReplicaSet { node } => {
                write!(f, "a replica set: nothing could fill {} again", called(node))
            }
            WaitingOn::Window { opens, days_late, past_day_90: true } => {
                let late = counted(*days_late, "day", "days");
                write!(f, "the maintenance window, {opens}, deferred to {late} past day 90 of the master key")
            }
            WaitingOn::Window { opens, .. } => write!(f, "the maintenance window, {opens}"),
            WaitingOn::Verdict { node, verdict } => {
                let says = match verdict {
                    Verdict::Valid => "does not hold its master key",
                    Verdict::Unavailable => "cannot reach the customer key",
                    Verdict::Revoked => "says that the customer key was taken away",
                };
                write!(f, "the customer key: {} {says}", called(node))
            }
            WaitingOn::Approval { node } => write!(f, "`keyward node approve` on {}", called(node)),
            WaitingOn::NoFreeNode { missing: 1 } => {
                f.write_str("1 more enrolled node of the project that belongs to no cluster")
            }
            WaitingOn::NoFreeNode { missing } => {
                write!(f, "{missing} more enrolled nodes of the project that belong to no cluster")
            }
            WaitingOn::NoCustomerKey => {
                f.write_str("a customer key: configure one on the project and set encryptionAtRestProvider")
            }
            WaitingOn::Paused => f.write_str("the cluster to be resumed; it is paused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_own_part_is_said_of_this_node() {
        let (own, other) = (NodeId(uuid::Uuid::from_u128(1)), NodeId(uuid::Uuid::from_u128(2)));
        let text = |on: &dyn Fn(NodeId) -> WaitingOn, node| {
            Waiting { work: Work::MoveKey, on: on(node) }.text(Some(own))
        };
        type Made = (&'static dyn Fn(NodeId) -> WaitingOn, &'static str, &'static str);
        let all: [Made; 8] = [
            (
                &|node| WaitingOn::Report { node },
                " waits for this node's report that it is done",
                " waits for the report of NODE that it is done",
            ),
            (
                &|node| WaitingOn::OtherNode { node },
                " waits for this node, which is being worked on",
                " waits for NODE, which is being worked on",
            ),
            (
                &|node| WaitingOn::NodeUnhealthy { node, state: Some(NodeState::Stopped) },
                ": this node is stopped",
                " waits for NODE to be well again; it is stopped",
            ),
            (
                &|node| WaitingOn::Member { node },
                ": this node is neither primary nor secondary",
                " waits for NODE to be primary or secondary again",
            ),
            (
                &|node| WaitingOn::StepDown { node },
                " waits for another primary than this node",
                " waits for another primary than NODE",
            ),
            (
                &|node| WaitingOn::NoReplicaSet { node },
                " waits for a replica set: nothing could fill this node again",
                " waits for a replica set: nothing could fill NODE again",
            ),
            (
                &|node| WaitingOn::Verdict { node, verdict: Verdict::Unavailable },
                " waits for the customer key: this node cannot reach the customer key",
                " waits for the customer key: NODE cannot reach the customer key",
            ),
            (
                &|node| WaitingOn::Approval { node },
                " waits for `keyward node approve` on this node",
                " waits for `keyward node approve` on NODE",
            ),
        ];
        for (on, of_own, of_other) in all {
            let work = Work::MoveKey;
            assert_eq!(text(on, own), format!("{work}{of_own}"));
            assert_eq!(
                text(on, other),
                format!("{work}{}", of_other.replace("NODE", &format!("node {other}")))
            );
        }
    }

    #[test]
    fn one_is_no_plural() {
        let text = |on: WaitingOn| on.to_string();
        let opens = Timestamp::from_epoch_ms(0);
        let window = |days_late| text(WaitingOn::Window { opens, days_late, past_day_90: true });
        assert!(window(1).ends_with("deferred to 1 day past day 90 of the master key"), "{}", window(1));
        assert!(window(2).ends_with("deferred to 2 days past day 90 of the master key"), "{}", window(2));
        assert_eq!(
            text(WaitingOn::Majority { left: 1, needed: 2 }),
            "a majority: 1 member would be left and 2 are needed"
        );
        assert_eq!(
            text(WaitingOn::NoFreeNode { missing: 1 }),
            "1 more enrolled node of the project that belongs to no cluster"
        );
        assert_eq!(
            text(WaitingOn::NoFreeNode { missing: 2 }),
            "2 more enrolled nodes of the project that belong to no cluster"
        );
    }
}
