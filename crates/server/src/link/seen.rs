//! When nodes were heard of, written down together; and the look for what another server changed, for where its
//! word ([`super::notices`]) does not come through.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use keyward_model::{Timestamp, id::NodeId};
use keyward_store::StoreError;

use crate::App;

/// How often.
const EVERY: Duration = Duration::from_secs(2);
/// Heartbeats are written at every this many-th look.
const WRITE_EACH: u32 = 3;
/// Clocks of servers on one store may differ this much, ms.
const CLOCKS_MS: u64 = 10_000;

/// Nodes that said that nothing is new, since the last writing.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<NodeId, Timestamp>>);

impl Seen {
    /// The node was heard of.
    pub(super) fn note(&self, node: NodeId, at: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node, at);
    }

    fn take(&self) -> Vec<(NodeId, Timestamp)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}

/// Writes down and wakes until the server stops.
pub(super) async fn run(app: App, seen: std::sync::Arc<Seen>) {
    let mut newest = 0;
    let mut look: u32 = 0;
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(EVERY) => false,
            () = app.stop().cancelled() => true,
        };
        look = look.wrapping_add(1);
        if stopping || look.is_multiple_of(WRITE_EACH) {
            let batch = seen.take();
            if !batch.is_empty()
                && let Err(error) = write(&app, &batch).await
            {
                tracing::warn!(%error, "it could not be written down when nodes were heard of");
            }
        }
        if stopping {
            return;
        }
        match wake(&app, newest).await {
            Ok(seen) => newest = seen,
            Err(error) => tracing::warn!(%error, "changes of desired state could not be looked for"),
        }
    }
}

async fn write(app: &App, batch: &[(NodeId, Timestamp)]) -> Result<(), StoreError> {
    let mut observation = app.store().observe().await?;
    observation.seen_nodes(batch).await?;
    observation.commit().await
}

/// Wakes the waiting nodes whose desired state has changed since `newest`, by whichever server.
async fn wake(app: &App, newest: u64) -> Result<u64, StoreError> {
    if app.waiting().count() == 0 {
        return Ok(newest);
    }
    // A revision of the future is another server's, whose clock is ahead: what this one's gives comes before it.
    let from = newest.min(u64::try_from(app.now().epoch_ms()).unwrap_or(0)).saturating_sub(CLOCKS_MS);
    let changed = app.store().read().await?.desired_since(from).await?;
    let mut highest = newest;
    for (node, revision) in changed {
        highest = highest.max(revision);
        // Some are looked at twice, within the clocks' difference; a node that has it already goes on waiting.
        app.waiting().wake(node);
    }
    Ok(highest)
}
