//! The jobs: reconcilers, each one pass at a time.

mod alerts;
mod authority;
mod clusters;
mod customer_keys;
mod desired;
mod driver;
pub mod fleet;
mod hosts;
mod private_endpoints;

use serde::Serialize;
use tokio_util::task::TaskTracker;

use crate::App;

pub(crate) use authority::NAME as AUTHORITY;
pub use driver::{Activities, Activity, Job, JobError};

/// What came of a pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum JobStatus {
    /// Alerts were raised and resolved.
    Alerts {
        /// Projects that were looked at.
        projects: usize,
        /// Alerts that were raised.
        raised: usize,
        /// Alerts that changed.
        changed: usize,
        /// Alerts that ended long ago and were forgotten.
        forgotten: usize,
    },
    /// Desired states were brought up to date.
    Desired {
        /// Nodes that were looked at.
        nodes: usize,
        /// Nodes that are asked for something new.
        asked: usize,
        /// Rotations of master keys that were noted.
        rotations: usize,
        /// Things that wait for something.
        waiting: usize,
        /// Contradictions in the plan: what they concern was not carried out.
        violations: Vec<String>,
    },
    /// The states of clusters were brought up to date.
    Clusters {
        /// Clusters that were looked at.
        clusters: usize,
        /// Clusters whose state changed.
        changed: usize,
        /// Nodes that were given to a cluster.
        placed: usize,
        /// Nodes that were taken from a cluster.
        released: usize,
        /// Clusters that are gone.
        deleted: usize,
    },
    /// The authority that agents trust was replaced, or the one before it let go, where it was time.
    Authority {
        /// Whether it was replaced.
        replaced: bool,
        /// Whether the one before it was let go.
        retired: bool,
        /// Nodes that would not find back without the one before it.
        nodes: usize,
        /// Join tokens that name that one.
        join_tokens: usize,
    },
    /// Customer keys were checked again.
    CustomerKeys {
        /// Projects whose key was checked.
        checked: usize,
        /// Those of them whose vault could not be reached.
        unreachable: usize,
        /// Those of them whose key is refused now, or works again.
        flipped: usize,
    },
    /// It was said which nodes fell silent, and which are heard of again.
    Hosts {
        /// Nodes that were looked at.
        nodes: usize,
        /// Those of them that fell silent.
        down: usize,
        /// Those of them that are heard of again.
        up: usize,
    },
    /// Private endpoints were brought on.
    PrivateEndpoints {
        /// Endpoints that were looked at.
        endpoints: usize,
        /// Those of them whose status or message changed.
        changed: usize,
    },
}

/// Runs every job until the server stops.
pub(crate) fn start(app: App, tasks: &TaskTracker) {
    let jobs: Vec<Box<dyn Job>> = vec![
        Box::new(desired::Desired::default()),
        Box::new(clusters::Clusters),
        Box::new(alerts::Alerts),
        Box::new(hosts::Hosts::default()),
        Box::new(authority::Authority),
        Box::new(customer_keys::CustomerKeys),
        Box::new(private_endpoints::PrivateEndpoints),
    ];
    driver::start(&app, tasks, jobs);
}
