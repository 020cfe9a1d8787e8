//! Brings private endpoints on: asks Azure for them, looks whether the vault's owner approved, makes removed ones
//! anew, and deletes them.

use std::time::Duration;

use async_trait::async_trait;
use keyward_model::{
    Timestamp,
    private_endpoint::{EndpointStatus, Next, PrivateEndpoint, Seen, Step, azure_location, next},
};
use keyward_store::{Lease, Stored};

use super::{
    JobStatus,
    driver::{Job, JobError},
};
use crate::{
    App,
    customer_key::{Asked, EndpointPlace, change::Loaded},
};

/// A pass ends when this much time is spent, well before its lease does: the next one goes on.
const LONGEST_PASS: Duration = Duration::from_secs(40);

/// The job.
#[derive(Debug)]
pub(super) struct PrivateEndpoints;

#[async_trait]
impl Job for PrivateEndpoints {
    fn name(&self) -> &'static str {
        "privateEndpoints"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(15)
    }

    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError> {
        let all: Vec<Stored<PrivateEndpoint>> = app.store().read().await?.list_all().await?;
        let began = tokio::time::Instant::now();
        let (mut endpoints, mut changed) = (0, 0);
        for endpoint in all {
            if began.elapsed() > LONGEST_PASS {
                break;
            }
            // What is rejected or failed waits for its owner alone.
            if endpoint.status == EndpointStatus::Failed {
                continue;
            }
            endpoints += 1;
            match bring_on(app, lease, &endpoint, now).await {
                Ok(true) => changed += 1,
                Ok(false) => {}
                // Its owner changed it meanwhile.
                Err(JobError::Store(error)) if error.may_repeat() => app.nudge().jobs(),
                Err(error) => return Err(error),
            }
        }
        Ok(JobStatus::PrivateEndpoints { endpoints, changed })
    }
}

async fn bring_on(
    app: &App,
    lease: &Lease,
    endpoint: &Stored<PrivateEndpoint>,
    now: Timestamp,
) -> Result<bool, JobError> {
    let loaded = Loaded::read(&mut app.store().read().await?, endpoint.project).await?;
    let Some(asked) = loaded.asked() else {
        return Err(JobError::Contradiction(format!(
            "project {} has a private endpoint and no customer key",
            endpoint.project
        )));
    };
    let keys = app.keys();
    let seen = keys.look_at_endpoint(&asked, &endpoint.resource_id).await;
    let decided = next(endpoint.status, endpoint.since, &seen, now);
    let mut after = moved(endpoint, &decided, now);
    match decided.step {
        Step::Wait => {}
        Step::Create => {
            let seen = request(app, &asked, endpoint).await;
            // Right after the request there may be nothing to see yet: that is no reason to ask again now.
            let decided = next(after.status, after.since, &seen, now);
            after = moved(&after, &decided, now);
        }
        Step::Delete => {
            if let Err(why) = keys.delete_endpoint(&asked, &endpoint.resource_id).await {
                after.error_message = Some(why);
            }
        }
        Step::Forget => {
            let mut observation = app.store().observe().await?;
            observation.require_lease(lease).await?;
            observation.delete::<PrivateEndpoint>(endpoint.id).await?;
            observation.commit().await?;
            app.nudge().jobs();
            return Ok(true);
        }
    }
    if matches!(after.status, EndpointStatus::PendingAcceptance | EndpointStatus::Active)
        && after.connection_name.is_none()
    {
        let own = endpoint.resource_id.rsplit('/').next().unwrap_or_default().to_owned();
        after.connection_name =
            Some(keys.connection_name(&asked, &endpoint.resource_id).await.unwrap_or(own));
    }
    if after == endpoint.document {
        return Ok(false);
    }
    let mut observation = app.store().observe().await?;
    observation.require_lease(lease).await?;
    observation.update(&after, endpoint.revision).await?;
    observation.commit().await?;
    if after.status != endpoint.status {
        tracing::info!(
            project = %endpoint.project,
            region = endpoint.region_name,
            status = after.status.as_str(),
            "a private endpoint moved on"
        );
        // A removed one is looked at again soon, to be made anew; so is one that is being deleted.
        app.nudge().jobs();
    }
    Ok(true)
}

async fn request(app: &App, asked: &Asked, endpoint: &PrivateEndpoint) -> Seen {
    let Some(location) = azure_location(&endpoint.region_name) else {
        return Seen::Unseen { why: format!("There is no region {}.", endpoint.region_name) };
    };
    let place = EndpointPlace {
        resource_id: endpoint.resource_id.clone(),
        location: location.to_owned(),
        subnet_id: endpoint.subnet_id.clone(),
    };
    app.keys().request_endpoint(asked, &place).await
}

fn moved(endpoint: &PrivateEndpoint, decided: &Next, now: Timestamp) -> PrivateEndpoint {
    let mut after = endpoint.clone();
    if after.status != decided.status {
        after.status = decided.status;
        after.since = now;
    }
    after.error_message.clone_from(&decided.error_message);
    if decided.status == EndpointStatus::PendingRecreation {
        // The next one has a connection of its own.
        after.connection_name = None;
    }
    after
}
