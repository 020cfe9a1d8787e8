//! Runs the jobs: each on its own timer and at every nudge, one pass at a time, on one server at a time.
//!
//! A job takes no input: it looks at what is wished and what is reported, so a restart, a lost nudge and the usual
//! case are one path. It does not retry within a pass; the next pass is the retry.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use keyward_model::Timestamp;
use keyward_store::{Lease, StoreError};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::JobStatus;
use crate::{App, link::AuthorityError};

/// How long a lease holds; a server that dies keeps a job waiting for that long.
const LEASE_MS: u32 = 60_000;
/// A job rests this many times as long as its last pass took, so that nudges never take a core.
const REST: u32 = 5;
/// The shortest rest.
const SHORTEST_REST: Duration = Duration::from_millis(50);
/// The rest where another server has the job: it hears of every nudge, and this one is only to take over.
const REST_ELSEWHERE: Duration = Duration::from_secs(1);
/// The longest rest before a nudge is followed.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// A reconciler.
#[async_trait]
pub trait Job: Send + Sync + 'static {
    /// Its name, in `camelCase`.
    fn name(&self) -> &'static str;

    /// How long it sleeps at most.
    fn interval(&self) -> Duration;

    /// One pass. What it writes, it writes under `lease`.
    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError>;
}

/// Why a pass ended early. The next one starts from the beginning.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// What is stored contradicts itself.
    #[error("{0}")]
    Contradiction(String),
    /// The agents' authority.
    #[error("the authority of agents: {0}")]
    Authority(#[from] AuthorityError),
}

/// What a job did last on this server.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    /// The job.
    pub name: &'static str,
    /// How long it sleeps at most, in seconds.
    pub interval_s: u64,
    /// Passes that began on this server.
    pub passes: u64,
    /// Passes of them that failed.
    pub failures: u64,
    /// Whether another server has the job.
    pub elsewhere: bool,
    /// When the last pass began.
    pub started: Option<Timestamp>,
    /// How long it took, in milliseconds.
    pub took_ms: Option<u64>,
    /// What came of it.
    pub status: Option<JobStatus>,
    /// Why the last pass failed, if it did.
    pub error: Option<String>,
}

/// What every job did last on this server.
#[derive(Debug, Clone, Default)]
pub struct Activities(Arc<Mutex<BTreeMap<&'static str, Activity>>>);

impl Activities {
    /// All of them, by name.
    pub fn all(&self) -> Vec<Activity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn note(&self, job: &dyn Job, change: impl FnOnce(&mut Activity)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let activity = all.entry(job.name()).or_insert_with(|| Activity {
            name: job.name(),
            interval_s: job.interval().as_secs(),
            passes: 0,
            failures: 0,
            elsewhere: false,
            started: None,
            took_ms: None,
            status: None,
            error: None,
        });
        change(activity);
    }
}

/// Runs `jobs` until the server stops.
pub(super) fn start(app: &App, tasks: &TaskTracker, jobs: Vec<Box<dyn Job>>) {
    let holder = uuid::Uuid::new_v4().to_string();
    for job in jobs {
        app.activities().note(&*job, |_| {});
        tasks.spawn(run(app.clone(), job, holder.clone()));
    }
}

async fn run(app: App, job: Box<dyn Job>, holder: String) {
    let mut nudges = app.nudge().job_nudges();
    let mut held: Option<Lease> = None;
    while !app.stop().is_cancelled() {
        nudges.mark_unchanged();
        let began = Instant::now();
        match app.store().lease(job.name(), &holder, LEASE_MS, app.now()).await {
            Ok(Some(lease)) => {
                pass(&app, &*job, &lease).await;
                held = Some(lease);
            }
            Ok(None) => {
                held = None;
                app.activities().note(&*job, |activity| activity.elsewhere = true);
            }
            Err(error) => failed(&app, &*job, &error.into()),
        }
        let shortest = if held.is_some() { SHORTEST_REST } else { REST_ELSEWHERE };
        let rest = (began.elapsed() * REST).clamp(shortest, LONGEST_REST);
        let interval = job.interval();
        let waited = async {
            tokio::time::sleep(rest).await;
            let nudged = async {
                // Without a sender the server is gone; then the stop ends the wait.
                if nudges.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            drop(tokio::time::timeout(interval, nudged).await);
        };
        tokio::select! {
            () = waited => {}
            () = app.stop().cancelled() => {}
        }
    }
    if let Some(lease) = held
        && let Err(error) = app.store().release(&lease).await
    {
        tracing::debug!(job = job.name(), %error, "the lease was not given back; it ends by itself");
    }
}

async fn pass(app: &App, job: &dyn Job, lease: &Lease) {
    let (now, began) = (app.now(), Instant::now());
    app.activities().note(job, |activity| {
        activity.passes += 1;
        activity.elsewhere = false;
        activity.started = Some(now);
    });
    match job.pass(app, lease, now).await {
        Ok(status) => app.activities().note(job, |activity| {
            activity.took_ms = u64::try_from(began.elapsed().as_millis()).ok();
            activity.status = Some(status);
            activity.error = None;
        }),
        Err(error) => failed(app, job, &error),
    }
}

fn failed(app: &App, job: &dyn Job, error: &JobError) {
    // A lost race is the usual way of two writers: the next pass sees what the other wrote.
    match error {
        JobError::Store(error) if error.may_repeat() => {
            tracing::debug!(job = job.name(), %error, "the pass is repeated");
        }
        JobError::Store(_) | JobError::Contradiction(_) | JobError::Authority(_) => {
            tracing::warn!(job = job.name(), %error, "the pass failed");
        }
    }
    app.activities().note(job, |activity| {
        activity.failures += 1;
        activity.error = Some(error.to_string());
    });
}
