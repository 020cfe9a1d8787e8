//! Replaces the agents' authority when it has grown old, and lets the one before it go when no node needs it.

use std::time::Duration;

use async_trait::async_trait;
use keyward_model::Timestamp;
use keyward_store::Lease;

use super::{
    JobStatus,
    driver::{Job, JobError},
};
use crate::{
    App,
    link::{Looked, look_after},
};

/// The job's name.
pub(crate) const NAME: &str = "authority";

/// The job.
#[derive(Debug)]
pub(super) struct Authority;

#[async_trait]
impl Job for Authority {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError> {
        let Looked { replaced, retired, nodes, join_tokens } = look_after(app.store(), lease, now).await?;
        Ok(JobStatus::Authority { replaced, retired, nodes, join_tokens })
    }
}
