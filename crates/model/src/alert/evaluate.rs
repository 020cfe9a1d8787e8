//! From conditions and configurations to changes of alerts.

use std::collections::BTreeMap;

use super::{Alert, AlertConfig, AlertStatus, Condition, Subject, Trigger};
use crate::{
    Timestamp,
    id::{AlertConfigId, AlertId},
};

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlertChange {
    /// A new alert.
    Raise(Alert),
    /// An alert that is there, as it is now.
    Update(Alert),
}

/// What changes of `alerts`, given what holds at `now`.
///
/// `alerts` are those of the project that are still live, and those of events that are still looked at. A condition
/// has one live alert per configuration and subject; while it holds nothing is raised twice, whatever is repeated.
pub fn evaluate(
    now: Timestamp,
    configs: &[AlertConfig],
    conditions: &[Condition],
    alerts: &[Alert],
    make_id: &mut dyn FnMut() -> AlertId,
) -> Vec<AlertChange> {
    let mut changes = Vec::new();
    let mut known: BTreeMap<(AlertConfigId, &Subject), &Alert> = BTreeMap::new();
    for alert in alerts.iter().filter(|alert| alert.status.is_live() || alert.subject.event.is_some()) {
        known.insert((alert.config, &alert.subject), alert);
    }
    for config in configs.iter().filter(|config| config.enabled && config.deleted.is_none()) {
        for condition in conditions.iter().filter(|condition| config.wants(now, condition)) {
            match known.remove(&(config.id, &condition.subject)) {
                None => changes.push(AlertChange::Raise(raised(now, config, condition, make_id()))),
                Some(alert) if alert.status.is_live() => {
                    let status = status(now, config, alert.since.min(condition.since));
                    // An open alert does not go back to waiting when its configuration learns to wait.
                    let status = if alert.status == AlertStatus::Open { AlertStatus::Open } else { status };
                    if alert.status != status || alert.text != condition.text {
                        let text = condition.text.clone();
                        changes.push(AlertChange::Update(Alert {
                            status,
                            text,
                            updated: now,
                            ..alert.clone()
                        }));
                    }
                }
                // An event that raised its alert before.
                Some(_) => {}
            }
        }
    }
    // What is left has no condition any more, or no configuration that wants it.
    for alert in known.into_values().filter(|alert| alert.status.is_live()) {
        let wanted = configs
            .iter()
            .any(|config| config.id == alert.config && config.enabled && config.deleted.is_none());
        let status = if wanted { AlertStatus::Closed } else { AlertStatus::Cancelled };
        changes.push(AlertChange::Update(Alert {
            status,
            resolved: Some(now),
            updated: now,
            ..alert.clone()
        }));
    }
    changes
}

impl AlertConfig {
    fn wants(&self, now: Timestamp, condition: &Condition) -> bool {
        let held_ms = now.epoch_ms().saturating_sub(condition.since.epoch_ms());
        let long_enough = match (self.threshold, condition.at_least_ms) {
            (None, _) => true,
            // The vault replaces the key by itself: nobody is warned before it had the time to.
            (Some(_), at_least_ms) => held_ms > self.threshold_ms().max(at_least_ms),
        };
        // What happened before the configuration was made is not news.
        let news = match self.event_type.trigger() {
            Trigger::Condition => true,
            Trigger::Event(_) => condition.since >= self.created,
        };
        self.event_type == condition.event_type && long_enough && news && self.matches(&condition.subject)
    }
}

fn raised(now: Timestamp, config: &AlertConfig, condition: &Condition, id: AlertId) -> Alert {
    let event = matches!(config.event_type.trigger(), Trigger::Event(_));
    Alert {
        id,
        project: config.project,
        config: config.id,
        event_type: config.event_type,
        subject: condition.subject.clone(),
        text: condition.text.clone(),
        status: status(now, config, condition.since),
        since: condition.since,
        created: now,
        updated: now,
        resolved: event.then_some(now),
        last_notified: None,
        acknowledged: None,
    }
}

fn status(now: Timestamp, config: &AlertConfig, since: Timestamp) -> AlertStatus {
    match config.event_type.trigger() {
        Trigger::Event(_) => AlertStatus::Closed,
        Trigger::Condition => {
            let held_ms = now.epoch_ms().saturating_sub(since.epoch_ms());
            let waits_ms = config.delay_ms().saturating_add(config.threshold_ms());
            if config.delay_ms() > 0 && held_ms < waits_ms {
                AlertStatus::Tracking
            } else {
                AlertStatus::Open
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        alert::{AlertType, Draft},
        id::{EventId, NotifierId, ProjectId},
    };

    const PROJECT: ProjectId = ProjectId::from_bytes([3; 12]);
    const MINUTE: i64 = 60_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_epoch_ms(ms)
    }

    fn config(
        number: u8,
        event_type: AlertType,
        delay_min: u32,
        threshold: Option<(u32, &str)>,
    ) -> AlertConfig {
        let mut body = json!({
            "eventTypeName": event_type, "enabled": true,
            "notifications": [{"typeName": "GROUP", "delayMin": delay_min}],
        });
        if let Some((value, units)) = threshold {
            body["threshold"] = json!({"operator": "GREATER_THAN", "threshold": value, "units": units});
        }
        let mut make_id = || NotifierId::from_bytes([number; 12]);
        let (draft, _) = Draft::read(body.as_object().unwrap(), None, &mut make_id).unwrap();
        draft.created(AlertConfigId::from_bytes([number; 12]), PROJECT, at(0))
    }

    fn condition(event_type: AlertType, node: &str, since: i64) -> Condition {
        Condition {
            event_type,
            subject: Subject { node: Some(node.into()), ..Subject::default() },
            since: at(since),
            at_least_ms: 0,
            text: format!("{node} is down."),
        }
    }

    /// A project's alerts, driven as the job drives them.
    #[derive(Default)]
    struct Site {
        alerts: Vec<Alert>,
        made: u8,
    }

    impl Site {
        fn pass(&mut self, now: i64, configs: &[AlertConfig], conditions: &[Condition]) -> usize {
            let mut made = self.made;
            let mut make_id = || {
                made += 1;
                AlertId::from_bytes([made; 12])
            };
            let changes = evaluate(at(now), configs, conditions, &self.alerts, &mut make_id);
            self.made = made;
            for change in &changes {
                match change {
                    AlertChange::Raise(alert) => self.alerts.push(alert.clone()),
                    AlertChange::Update(alert) => {
                        let place = self.alerts.iter_mut().find(|old| old.id == alert.id);
                        *place.expect("an alert that is there") = alert.clone();
                    }
                }
            }
            changes.len()
        }

        fn statuses(&self) -> Vec<AlertStatus> {
            self.alerts.iter().map(|alert| alert.status).collect()
        }
    }

    #[test]
    fn an_alert_waits_opens_and_closes_and_is_raised_anew() {
        let configs = [config(1, AlertType::HostDown, 2, None)];
        let down = [condition(AlertType::HostDown, "db1", 0)];
        let mut site = Site::default();
        assert_eq!(site.pass(MINUTE, &configs, &down), 1);
        assert_eq!(site.statuses(), [AlertStatus::Tracking]);
        assert_eq!(site.pass(MINUTE + 1, &configs, &down), 0);
        assert_eq!(site.pass(2 * MINUTE, &configs, &down), 1);
        assert_eq!(site.statuses(), [AlertStatus::Open]);
        assert_eq!(site.pass(3 * MINUTE, &configs, &[]), 1);
        assert_eq!(site.statuses(), [AlertStatus::Closed]);
        assert_eq!(site.alerts[0].resolved, Some(at(3 * MINUTE)));
        let again = [condition(AlertType::HostDown, "db1", 4 * MINUTE)];
        site.pass(7 * MINUTE, &configs, &again);
        assert_eq!(site.statuses(), [AlertStatus::Closed, AlertStatus::Open]);
    }

    #[test]
    fn an_alert_without_its_configuration_is_cancelled() {
        let mut configs = [config(1, AlertType::HostDown, 0, None)];
        let down = [condition(AlertType::HostDown, "db1", 0)];
        let mut site = Site::default();
        site.pass(1, &configs, &down);
        configs[0].enabled = false;
        site.pass(2, &configs, &down);
        assert_eq!(site.statuses(), [AlertStatus::Cancelled]);
    }

    #[test]
    fn a_threshold_must_be_exceeded_and_the_vaults_own_rotation_counts() {
        let day = 86_400_000;
        let configs = [config(1, AlertType::AzureKeyNeedsRotation, 0, Some((90, "DAYS")))];
        let mut old = condition(AlertType::AzureKeyNeedsRotation, "", 0);
        let mut site = Site::default();
        assert_eq!(site.pass(90 * day, &configs, std::slice::from_ref(&old)), 0);
        assert_eq!(site.pass(90 * day + 1, &configs, std::slice::from_ref(&old)), 1);
        // The key is replaced: the time starts anew.
        old.since = at(91 * day);
        site.pass(92 * day, &configs, std::slice::from_ref(&old));
        assert_eq!(site.statuses(), [AlertStatus::Closed]);
        // A vault that rotates once a year is not nagged after 90 days.
        old.at_least_ms = 372 * day;
        assert_eq!(site.pass(300 * day, &configs, std::slice::from_ref(&old)), 0);
        assert_eq!(site.pass(464 * day, &configs, std::slice::from_ref(&old)), 1);
    }

    #[test]
    fn an_event_raises_one_closed_alert() {
        let configs = [config(1, AlertType::JoinedProject, 0, None)];
        let mut joined = condition(AlertType::JoinedProject, "", 10);
        joined.subject = Subject { event: Some(EventId::from_bytes([7; 12])), ..Subject::default() };
        let mut site = Site::default();
        site.pass(20, &configs, std::slice::from_ref(&joined));
        site.pass(30, &configs, std::slice::from_ref(&joined));
        assert_eq!(site.statuses(), [AlertStatus::Closed]);
    }

    proptest! {
        #[test]
        fn a_pass_repeated_changes_nothing_and_live_alerts_are_those_that_hold(
            passes in prop::collection::vec((1_i64..50, prop::collection::vec(any::<bool>(), 3), any::<bool>()), 1..20),
        ) {
            let mut site = Site::default();
            let mut now = 0;
            let mut since = [0; 3];
            for (step, holds, enabled) in passes {
                now += step * MINUTE;
                let mut configs = [config(1, AlertType::HostDown, 5, None), config(2, AlertType::HostDown, 0, None)];
                configs[0].enabled = enabled;
                let mut conditions = Vec::new();
                for (node, holds) in holds.iter().enumerate() {
                    if *holds { conditions.push(condition(AlertType::HostDown, &format!("db{node}"), since[node])); }
                    else { since[node] = now; }
                }
                site.pass(now, &configs, &conditions);
                prop_assert_eq!(site.pass(now, &configs, &conditions), 0);
                let live = site.alerts.iter().filter(|alert| alert.status.is_live()).count();
                prop_assert_eq!(live, conditions.len() * if enabled { 2 } else { 1 });
                for alert in &site.alerts {
                    prop_assert_eq!(alert.resolved.is_some(), !alert.status.is_live());
                }
            }
        }
    }
}
