//! Says in the audit log when a node falls silent, and when it is heard of again: each once, whichever server does it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use keyward_model::{
    Timestamp,
    event::{Actor, EventType, NewEvent},
    node::{EnrolledNode, silence},
};
use keyward_store::{Lease, StoreError, Stored};

use super::{
    JobStatus,
    driver::{Job, JobError},
};
use crate::App;

const NAME: &str = "hosts";
/// Two passes further apart than this, by the server's clock: in between nobody listened, or the clock jumped.
const GAP_MS: i64 = 2 * 60_000;
/// Silence is a matter of minutes: nudges are not followed more often than this, by the server's clock.
const LOOK_EACH_MS: i64 = 10_000;

/// The job.
#[derive(Debug, Default)]
pub(super) struct Hosts(Mutex<Option<(Listening, JobStatus)>>);

/// Since when passes have followed each other.
#[derive(Debug, Clone, Copy)]
struct Listening {
    from: Timestamp,
    last: Timestamp,
}

impl Listening {
    /// With a pass at `now`.
    fn goes_on(before: Option<Self>, now: Timestamp) -> Self {
        match before {
            Some(before) if (now.epoch_ms() - before.last.epoch_ms()).abs() <= GAP_MS => {
                Self { last: now, ..before }
            }
            Some(_) | None => Self { from: now, last: now },
        }
    }
}

#[async_trait]
impl Job for Hosts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError> {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((listening, status)) = &before
            && (0..LOOK_EACH_MS).contains(&(now.epoch_ms() - listening.last.epoch_ms()))
        {
            return Ok(status.clone());
        }
        let listening = Listening::goes_on(before.map(|(listening, _)| listening), now);
        let mut tx = app.store().read().await?;
        let nodes = tx.list_all::<EnrolledNode>().await?;
        let heard = tx.heard().await?;
        drop(tx);
        let (mut down, mut up) = (0, 0);
        for node in nodes.iter().filter(|node| node.revoked_at.is_none()) {
            let heard = heard.get(&node.node_id).copied();
            let Some(silent_since) = silence(now, listening.from, heard, node.silent_since) else { continue };
            tell(app, lease, now, node, silent_since).await?;
            match silent_since {
                Some(_) => down += 1,
                None => up += 1,
            }
        }
        let status = JobStatus::Hosts { nodes: nodes.len(), down, up };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((listening, status.clone()));
        Ok(status)
    }
}

async fn tell(
    app: &App,
    lease: &Lease,
    now: Timestamp,
    node: &Stored<EnrolledNode>,
    silent_since: Option<Timestamp>,
) -> Result<(), StoreError> {
    let (event_type, since) = match (silent_since, node.silent_since) {
        (Some(since), _) => (EventType::HostDown, Some(since)),
        (None, since) => (EventType::HostUp, since),
    };
    let mut change = app.store().change().await?;
    change.require_lease(lease).await?;
    let changed = EnrolledNode { silent_since, ..node.document.clone() };
    change.update(&changed, node.revision).await?;
    let mut event = NewEvent::new(event_type, Actor::Job { name: NAME.to_owned() })
        .node(node.node_id)
        .detail("node", node.name.clone())
        .detail("nodeId", node.node_id.to_string());
    if let Some(since) = since {
        event = event.detail("silentSince", since.to_string());
    }
    change.commit(event, now).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_between_passes_begins_the_listening_anew() {
        let at = |seconds: i64| Timestamp::from_epoch_ms(seconds * 1000);
        let mut listening = Listening::goes_on(None, at(1000));
        for seconds in [1030, 1060, 1180] {
            listening = Listening::goes_on(Some(listening), at(seconds));
            assert_eq!(listening.from, at(1000));
        }
        assert_eq!(Listening::goes_on(Some(listening), at(1301)).from, at(1301), "ahead, or away");
        assert_eq!(Listening::goes_on(Some(listening), at(900)).from, at(900), "back");
    }
}
