//! What a plan waits for, typed, and in words for people.

use std::fmt;

use serde::Serialize;

use crate::{NodeState, Timestamp, Verdict, id::NodeId};

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
            WaitingOn::NodeUnhealthy { node, state } if own == Some(*node) => match state {
                Some(state) => format!("{work}: this node is {state}"),
                None => format!("{work}: this node is silent"),
            },
            WaitingOn::Member { node } if own == Some(*node) => {
                format!("{work}: this node is neither primary nor secondary")
            }
            WaitingOn::Report { node }
            | WaitingOn::StepDown { node }
            | WaitingOn::NoReplicaSet { node }
            | WaitingOn::Verdict { node, .. }
            | WaitingOn::Approval { node }
                if own == Some(*node) =>
            {
                format!("{work} waits for {on}")
                    .replace(&format!("the report of node {node}"), "this node's report")
                    .replace(&format!("node {node}"), "this node")
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
            | WaitingOn::Paused => format!("{work} waits for {on}"),
        }
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
        match self {
            WaitingOn::Report { node } => write!(f, "the report of node {node} that it is done"),
            WaitingOn::OtherNode { node } => write!(f, "node {node}, which is being worked on"),
            WaitingOn::NodeUnhealthy { node, state: Some(state) } => {
                write!(f, "node {node} to be well again; it is {state}")
            }
            WaitingOn::NodeUnhealthy { node, state: None } => write!(f, "node {node}, which is silent"),
            WaitingOn::Member { node } => write!(f, "node {node} to be primary or secondary again"),
            WaitingOn::StepDown { node } => write!(f, "another primary than node {node}"),
            WaitingOn::Majority { left, needed } => {
                write!(f, "a majority: {left} members would be left and {needed} are needed")
            }
            WaitingOn::NoReplicaSet { node } => {
                write!(f, "a replica set: nothing could fill node {node} again")
            }
            WaitingOn::Window { opens, days_late, past_day_90: true } => {
                write!(
                    f,
                    "the maintenance window, {opens}, deferred to {days_late} days past day 90 of the master key"
                )
            }
            WaitingOn::Window { opens, .. } => write!(f, "the maintenance window, {opens}"),
            WaitingOn::Verdict { node, verdict } => {
                let says = match verdict {
                    Verdict::Valid => "does not hold its master key",
                    Verdict::Unavailable => "cannot reach the customer key",
                    Verdict::Revoked => "says that the customer key was taken away",
                };
                write!(f, "the customer key: node {node} {says}")
            }
            WaitingOn::Approval { node } => write!(f, "`keyward node approve` on node {node}"),
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
