//! When master keys are due, and which rotations start now.

use super::{Cluster, ClusterPlan, DAY_MS, Node, ROTATION_MS, Resync, WEEK_MS, Waiting, WaitingOn, Work};
use crate::{
    Timestamp,
    cluster::{ClusterState, KeyProvider, NodeRotation},
    id::NodeId,
    maintenance::Opening,
};

/// A master key and when it is to be rotated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due<'a> {
    node: NodeId,
    master_key: &'a str,
    /// By when.
    pub(super) by: Timestamp,
    /// Whether its rotation is noted already.
    pub(super) outstanding: bool,
}

/// When the master keys of a cluster are due.
///
/// A master key is as old as the node says. One that is new by a rotation of ours counts from when that was asked
/// for, if that is later: a node whose clock is behind would seem to need another rotation at once. A rotation that
/// was asked for in the future says that our own clock was wrong then, and counts for nothing.
pub(super) fn due<'a>(now: Timestamp, cluster: &Cluster, members: &[&'a Node]) -> Vec<Due<'a>> {
    if cluster.provider == KeyProvider::None || cluster.deleting {
        return Vec::new();
    }
    members
        .iter()
        .filter_map(|node| {
            let (id, created) = node.seen.as_ref()?.master_key.as_ref()?;
            let noted = cluster.rotations.iter().find(|rotation| rotation.node == node.id);
            let outstanding = noted.is_some_and(|noted| noted.master_key == *id);
            let asked = noted.map(|noted| noted.asked_at).filter(|asked| *asked <= now && !outstanding);
            let from = asked.map_or(*created, |asked| asked.max(*created));
            let by = Timestamp::from_epoch_ms(from.epoch_ms().saturating_add(ROTATION_MS));
            Some(Due { node: node.id, master_key: id, by, outstanding })
        })
        .collect()
}

/// The plan of a cluster with the rotations that start now, and nothing else yet.
///
/// What would be due before the next weekly window starts with the rest; without a window, within a week too, so
/// that a cluster's nodes go round together.
pub(super) fn plan_rotations(
    now: Timestamp,
    cluster: &Cluster,
    due: Vec<Due<'_>>,
    opening: Opening,
) -> ClusterPlan {
    let mut own = ClusterPlan {
        cluster: cluster.id,
        state: ClusterState::Creating,
        place: Vec::new(),
        released: Vec::new(),
        rotate: Vec::new(),
        waiting: Vec::new(),
        resync: Resync::None,
        gone: false,
    };
    let horizon = now.epoch_ms().saturating_add(WEEK_MS);
    let soon: Vec<Due<'_>> =
        due.into_iter().filter(|due| !due.outstanding && due.by.epoch_ms() <= horizon).collect();
    let Some(oldest) = soon.iter().map(|due| due.by).min() else { return own };
    let mut wait = |on| own.waiting.push(Waiting { work: Work::RotateMasterKey, on });
    match opening {
        Opening::NothingDue => {}
        Opening::Waits { until, past_deadline } => {
            let days_late = ((until.epoch_ms() - oldest.epoch_ms()) / DAY_MS).max(0);
            wait(WaitingOn::Window { opens: until, days_late, past_day_90: past_deadline });
        }
        Opening::Open if cluster.paused => wait(WaitingOn::Paused),
        Opening::Open => {
            let noted = soon.into_iter().map(|due| NodeRotation {
                node: due.node,
                master_key: due.master_key.to_owned(),
                asked_at: now,
            });
            own.rotate = noted.collect();
        }
    }
    own
}
