//! Checks configured customer keys again, so that `valid` says what is true. It decides nothing for nodes: they judge
//! by their own probes. Looks at the vault's rotation policy too, for the alert about the key's age.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use keyward_model::{
    Timestamp,
    encryption::EncryptionAtRest,
    event::{Actor, NewEvent},
};
use keyward_store::{Lease, Stored};
use serde_json::json;

use super::{
    JobStatus,
    driver::{Job, JobError},
};
use crate::{
    App,
    customer_key::{
        VaultRotation,
        change::{Loaded, try_out},
        outcome::Outcome,
        recheck,
    },
};

/// Projects that are checked in one pass at most: a pass ends well before its lease does.
const MOST_AT_ONCE: usize = 16;
/// Checks that run side by side.
const SIDE_BY_SIDE: usize = 16;

/// The job.
#[derive(Debug)]
pub(super) struct CustomerKeys;

#[async_trait]
impl Job for CustomerKeys {
    fn name(&self) -> &'static str {
        "customerKeys"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError> {
        let mut due: Vec<Stored<EncryptionAtRest>> = app.store().read().await?.list_all().await?;
        due.retain(|stored| stored.azure_key_vault.is_some() && Due::of(stored, now).any());
        // Who waited longest comes first.
        due.sort_by_key(|stored| stored.validity.checked_at);
        due.truncate(MOST_AT_ONCE);
        let checks = due.into_iter().map(|stored| async move {
            let seen = look(app, &stored, Due::of(&stored, now)).await?;
            note(app, lease, &stored, seen).await
        });
        let done: Vec<Result<Noted, JobError>> =
            stream::iter(checks).buffer_unordered(SIDE_BY_SIDE).collect().await;
        let (mut checked, mut unreachable, mut flipped) = (0, 0, 0);
        for noted in done {
            match noted {
                Ok(noted) => {
                    checked += usize::from(noted.checked);
                    unreachable += usize::from(noted.unreachable);
                    flipped += usize::from(noted.flipped);
                }
                // Someone configured it anew meanwhile: that was checked.
                Err(JobError::Store(error)) if error.may_repeat() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(JobStatus::CustomerKeys { checked, unreachable, flipped })
    }
}

/// What it is time for.
#[derive(Debug, Clone, Copy)]
struct Due {
    check: bool,
    rotation: bool,
}

impl Due {
    fn of(stored: &EncryptionAtRest, now: Timestamp) -> Self {
        Self {
            check: recheck::is_due(&stored.validity, now),
            rotation: recheck::is_rotation_due(&stored.validity, now),
        }
    }

    fn any(self) -> bool {
        self.check || self.rotation
    }
}

/// What was asked for, and what came of it.
#[derive(Default)]
struct Looked {
    outcome: Option<Outcome>,
    rotation: Option<VaultRotation>,
}

async fn look(app: &App, stored: &EncryptionAtRest, due: Due) -> Result<Looked, JobError> {
    let loaded = Loaded::read(&mut app.store().read().await?, stored.project).await?;
    let Some(asked) = loaded.asked() else { return Ok(Looked::default()) };
    let outcome = match due.check {
        true => match try_out(app, stored.project, &asked, false).await {
            Ok(outcome) => Some(outcome),
            Err(error) => return Err(JobError::Contradiction(error.to_string())),
        },
        false => None,
    };
    let answers = matches!(outcome, None | Some(Outcome::Accepted { .. }));
    let rotation = if due.rotation && answers { Some(app.keys().rotation(&asked).await) } else { None };
    Ok(Looked { outcome, rotation })
}

#[derive(Default)]
struct Noted {
    checked: bool,
    unreachable: bool,
    flipped: bool,
}

async fn note(
    app: &App,
    lease: &Lease,
    stored: &Stored<EncryptionAtRest>,
    looked: Looked,
) -> Result<Noted, JobError> {
    let now = app.now();
    let (mut validity, news) = match &looked.outcome {
        Some(outcome) => recheck::after(&stored.validity, outcome, now),
        None => (stored.validity.clone(), None),
    };
    if let Some(seen) = looked.rotation {
        validity.rotation = Some(recheck::rotation_after(validity.rotation, seen, now));
    }
    if validity == stored.validity {
        return Ok(Noted::default());
    }
    let noted = Noted {
        checked: looked.outcome.is_some(),
        unreachable: validity.unreachable_since.is_some(),
        flipped: validity.valid != stored.validity.valid,
    };
    let findings = validity.findings.clone();
    let next = EncryptionAtRest { validity, ..stored.document.clone() };
    match news {
        None => {
            let mut observation = app.store().observe().await?;
            observation.require_lease(lease).await?;
            observation.update(&next, stored.revision).await?;
            observation.commit().await?;
        }
        Some(kind) => {
            let mut change = app.store().change().await?;
            change.require_lease(lease).await?;
            change.update(&next, stored.revision).await?;
            let mut event = NewEvent::new(kind, Actor::Job { name: "customerKeys".to_owned() })
                .project(stored.project)
                .detail("findings", json!(findings));
            if let Some(vault) = &next.azure_key_vault {
                event = event.detail("keyIdentifier", vault.key_identifier.clone());
            }
            change.commit(event, now).await?;
        }
    }
    Ok(noted)
}
