//! Raises and resolves alerts. What holds, and what follows, is decided by [`keyward_model::alert`].
//!
//! An alert that opens or closes is told of by an event of its own. Notifications are not delivered yet: an alert's
//! `lastNotified` stays empty.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use keyward_model::{
    Timestamp,
    alert::{self, Alert, AlertChange, AlertConfig, AlertStatus, AlertType, Facts, NodeFacts, Trigger},
    event::{Actor, Event, EventType, NewEvent},
    id::ProjectId,
};
use keyward_store::{EventFilter, Lease, Stored};
use serde_json::json;

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
            let (told, quiet): (Vec<_>, Vec<_>) = changes
                .into_iter()
                .map(|change| (known.news(&change), change))
                .partition(|(news, _)| news.is_some());
            for (news, change) in told {
                let Some(news) = news else { continue };
                tell(app, lease, known, &change, news, now).await?;
                match change {
                    AlertChange::Raise(_) => raised += 1,
                    AlertChange::Update(_) => changed += 1,
                }
            }
            let changes: Vec<AlertChange> = quiet.into_iter().map(|(_, change)| change).collect();
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
            vault_rotates_after_days: fleet
                .encryption
                .get(&project)
                .and_then(|stored| stored.validity.rotation)
                .and_then(|rotation| rotation.after_days),
            nodes: &nodes,
            events: &self.events,
        };
        let alerts: Vec<Alert> = self.alerts.iter().map(|alert| alert.document.clone()).collect();
        let conditions = alert::conditions(now, &facts);
        alert::evaluate(now, &self.configs, &conditions, &alerts, &mut || app.make_id())
    }

    fn news(&self, change: &AlertChange) -> Option<EventType> {
        match change {
            AlertChange::Raise(alert) => news(None, alert),
            AlertChange::Update(alert) => {
                let before = self.alerts.iter().find(|before| before.id == alert.id)?;
                news(Some(before), alert)
            }
        }
    }
}

/// The event that tells of an alert's change: it opened, or it was open and ended. What an event raised is told by
/// that event.
fn news(before: Option<&Alert>, after: &Alert) -> Option<EventType> {
    match after.event_type.trigger() {
        Trigger::Event(_) => return None,
        Trigger::Condition => {}
    }
    let was_open = before.is_some_and(|before| before.status == AlertStatus::Open);
    match after.status {
        AlertStatus::Open if !was_open => Some(EventType::AlertOpened),
        AlertStatus::Closed | AlertStatus::Cancelled if was_open => Some(EventType::AlertClosed),
        AlertStatus::Open | AlertStatus::Tracking | AlertStatus::Closed | AlertStatus::Cancelled => None,
    }
}

/// Writes an alert that opened or closed, with its event.
async fn tell(
    app: &App,
    lease: &Lease,
    known: &Known,
    changed: &AlertChange,
    kind: EventType,
    now: Timestamp,
) -> Result<(), JobError> {
    let mut change = app.store().change().await?;
    change.require_lease(lease).await?;
    let alert = match changed {
        AlertChange::Raise(alert) => {
            change.insert(alert).await?;
            alert
        }
        AlertChange::Update(alert) => {
            // Someone may have acknowledged it meanwhile: then this pass is for nothing.
            let revision =
                known.alerts.iter().find(|before| before.id == alert.id).map(|known| known.revision);
            change.update(alert, revision.unwrap_or_default()).await?;
            alert
        }
    };
    let mut event = NewEvent::new(kind, Actor::Job { name: "alerts".to_owned() })
        .project(alert.project)
        .detail("alertId", json!(alert.id))
        .detail("alertConfigId", json!(alert.config))
        .detail("alertType", alert.event_type.as_str())
        .detail("status", json!(alert.status))
        .detail("text", alert.text.clone());
    event.cluster = alert.subject.cluster.clone();
    change.commit(event, now).await?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use keyward_model::{
        alert::Subject,
        id::{AlertConfigId, AlertId},
    };

    use super::*;

    fn alert(event_type: AlertType, status: AlertStatus) -> Alert {
        let at = Timestamp::from_epoch_ms(0);
        Alert {
            id: AlertId::from_bytes([1; 12]),
            project: ProjectId::from_bytes([2; 12]),
            config: AlertConfigId::from_bytes([3; 12]),
            event_type,
            subject: Subject::default(),
            text: String::new(),
            status,
            since: at,
            created: at,
            updated: at,
            resolved: None,
            last_notified: None,
            acknowledged: None,
        }
    }

    /// One event when it opens, one when it ends; none for what was never open, or was told of by its own event.
    #[test]
    fn opening_and_closing_are_news() {
        use AlertStatus::{Cancelled, Closed, Open, Tracking};
        let told = |before: Option<AlertStatus>, after| {
            let of = |status| alert(AlertType::HostDown, status);
            news(before.map(of).as_ref(), &of(after))
        };
        assert_eq!(told(None, Open), Some(EventType::AlertOpened));
        assert_eq!(told(Some(Tracking), Open), Some(EventType::AlertOpened));
        assert_eq!(told(Some(Open), Closed), Some(EventType::AlertClosed));
        assert_eq!(told(Some(Open), Cancelled), Some(EventType::AlertClosed));
        for (before, after) in
            [(None, Tracking), (Some(Open), Open), (Some(Tracking), Closed), (Some(Tracking), Cancelled)]
        {
            assert_eq!(told(before, after), None, "{before:?} {after:?}");
        }
        for &kind in AlertType::ALL.iter().filter(|kind| event_of(**kind).is_some()) {
            assert_eq!(news(None, &alert(kind, Closed)), None, "{kind:?}");
        }
    }
}
