//! What the server is told of the node.

use keyward_model::{
    NodeStatus,
    id::NodeId,
    sync::{Observed, ObservedWrap},
};

use super::Link;
use crate::node::NodeHandle;

/// The node as it is now, without number and time of the report.
pub(super) fn observe(link: &Link, node_id: NodeId) -> Observed {
    let node = &link.0.node;
    // The link is what the rest of the report says.
    let status = NodeStatus { link: None, ..node.status() };
    let engine = &node.config().engine;
    let state = link.state();
    Observed {
        node_id,
        report: 0,
        at: keyward_model::Timestamp::from_epoch_ms(0),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        address: format!("{}:{}", engine.host, engine.port),
        status,
        wraps: wraps(node),
        done_revision: state.done_revision(),
        progress: state.progress.clone(),
        held_back: state.all_held_back(),
        validated: state.validated.clone(),
        snapshots: node.snapshots(),
        replica_state: node.replica_state(),
        unencrypted: node.unencrypted(),
    }
}

fn wraps(node: &NodeHandle) -> Vec<ObservedWrap> {
    // Nothing is encrypted under a keystore that was made for a resync until the data is written anew.
    let Some(view) = node.keyring().view().filter(|_| !node.unencrypted()) else { return Vec::new() };
    let wraps = view.wraps.iter().map(|wrap| ObservedWrap {
        key_identifier: wrap.key_identifier.clone(),
        public_key_sha256: wrap.public_key_sha256.clone(),
        created_at: keyward_model::Timestamp(wrap.created_at),
    });
    wraps.collect()
}

/// Whether two reports say the same to the server: probes come every minute, and when they were made, by which
/// request, tells nothing new.
pub(super) fn same(a: &Observed, b: &Observed) -> bool {
    core(a) == core(b)
}

fn core(observed: &Observed) -> Observed {
    let mut core = observed.clone();
    core.report = 0;
    core.at = keyward_model::Timestamp::from_epoch_ms(0);
    core.status.evidence.truncate(1);
    for evidence in &mut core.status.evidence {
        evidence.at = keyward_model::Timestamp::from_epoch_ms(0);
        evidence.request_id = None;
        evidence.token_age_s = None;
        evidence.message = None;
    }
    core
}
