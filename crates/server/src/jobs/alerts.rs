//! Raises and resolves alerts. What holds, and what follows, is decided by [`keyward_model::alert`].
//!
//! Notifications are not delivered yet: an alert's `lastNotified` stays empty.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use keyward_model::{
    Timestamp,
    alert::{self, Alert, AlertChange, AlertConfig, AlertType, Facts, NodeFacts, Trigger},
    event::{Event, EventType},
    id::ProjectId,
};
use keyward_store::{EventFilter, Lease, Stored};

use super::{
    JobStatus,
    driver::{Job, JobError},
    fleet::{Fleet, Scope},
};
use crate::App;

/// How far back events are looked at. An alert of an event is kept for longer, so none is raised twice.
const EVENTS_MS: i64 = 24 * 3_600_000;
/// Most events of one pass; more than that in a day are not told of one by one.
const EVENTS_MAX: u64 = 1000;
/// How long an alert is kept after its end.
const KEPT_MS: i64 = 90 * 24 * 3_600_000;

/// The job.
#[derive(Debug)]
pub(super) struct Alerts;

#[async_trait]
impl Job for Alerts {
    fn name(&self) -> &'static str {
        "alerts"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn pass(&self, app: &App, lease: &Lease, now: Timestamp) -> Result<JobStatus, JobError> {
        let mut tx = app.store().read().await?;
        let configs = tx.list_all::<AlertConfig>().await?;
        let alerts = tx.list_all::<Alert>().await?;
        let (mut raised, mut changed, mut forgotten) = (0, 0, 0);
        if configs.is_empty() && alerts.is_empty() {
            return Ok(JobStatus::Alerts { projects: 0, raised, changed, forgotten });
        }
        let fleet = Fleet::load(&mut tx, Scope::All).await?;
        let filter = EventFilter {
            types: AlertType::ALL.iter().filter_map(|kind| event_of(*kind)).collect(),
            from: Some(Timestamp::from_epoch_ms(now.epoch_ms() - EVENTS_MS)),
            ..EventFilter::default()
        };
        let (events, _) = tx.events(&filter, 0, EVENTS_MAX).await?;
        drop(tx);

        let mut projects: BTreeMap<ProjectId, Known> = BTreeMap::new();
        for config in configs {
            projects.entry(config.project).or_default().configs.push(config.document);
        }
        for alert in alerts {
            projects.entry(alert.project).or_default().alerts.push(alert);
        }
        for event in events {
            if let Some(known) = event.project.and_then(|project| projects.get_mut(&project)) {
                known.events.push(event);
            }
        }
        for (project, known) in &projects {
            let changes = known.changes(app, &fleet, *project, now);
            let old = known.alerts.iter().filter(|alert| is_forgotten(alert, now));
            let old: Vec<&Stored<Alert>> = old.collect();
            if changes.is_empty() && old.is_empty() {
                continue;
            }
            let mut observation = app.store().observe().await?;
            observation.require_lease(lease).await?;
            for change in &changes {
                match change {
                    AlertChange::Raise(alert) => {
                        observation.insert(alert).await?;
                        raised += 1;
                    }
                    AlertChange::Update(alert) => {
                        // Someone may have acknowledged it meanwhile: then this pass is for nothing.
                        let before = known.alerts.iter().find(|before| before.id == alert.id);
                        if let Some(before) = before {
                            observation.update(alert, before.revision).await?;
                            changed += 1;
                        }
                    }
                }
            }
            for alert in &old {
                observation.delete::<Alert>(alert.id).await?;
                forgotten += 1;
            }
            observation.commit().await?;
        }
        Ok(JobStatus::Alerts { projects: projects.len(), raised, changed, forgotten })
    }
}

/// What a pass knows of a project.
#[derive(Default)]
struct Known {
    configs: Vec<AlertConfig>,
    alerts: Vec<Stored<Alert>>,
    events: Vec<Event>,
}

impl Known {
    fn changes(&self, app: &App, fleet: &Fleet, project: ProjectId, now: Timestamp) -> Vec<AlertChange> {
        let nodes: Vec<NodeFacts<'_>> = fleet
            .nodes
            .values()
            .filter(|node| node.project == project)
            .map(|node| NodeFacts {
                node,
                cluster: node
                    .cluster
                    .and_then(|id| fleet.clusters.get(&id))
                    .map(|cluster| cluster.document.name.as_str()),
                report: fleet.reports.get(&node.node_id).map(|report| (&report.observed, report.received_at)),
            })
            .collect();
        let facts = Facts {
            encryption: fleet.encryption.get(&project).map(|stored| &stored.document),
            vault_rotates_after_days: None,
            nodes: &nodes,
            events: &self.events,
        };
        let alerts: Vec<Alert> = self.alerts.iter().map(|alert| alert.document.clone()).collect();
        let conditions = alert::conditions(now, &facts);
        alert::evaluate(now, &self.configs, &conditions, &alerts, &mut || app.make_id())
    }
}

fn event_of(kind: AlertType) -> Option<EventType> {
    match kind.trigger() {
        Trigger::Event(event) => Some(event),
        Trigger::Condition => None,
    }
}

fn is_forgotten(alert: &Alert, now: Timestamp) -> bool {
    let ended = alert.resolved.filter(|_| !alert.status.is_live());
    ended.is_some_and(|at| now.epoch_ms() - at.epoch_ms() > KEPT_MS)
}
