//! Alerts: what is watched, what a project's owner wants to hear of, and what is raised and resolved.
//!
//! Follows `alertConfigs` and `alerts` of the Atlas Administration API. [`conditions`] turns what is known of a
//! project into conditions, [`evaluate`] turns conditions and configurations into changes of alerts; both are
//! functions of values and `now`. Nothing here delivers a notification.

mod conditions;
mod config;
mod evaluate;
mod notification;

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    event::EventType,
    id::{AlertConfigId, AlertId, EventId, ProjectId},
};

pub use conditions::{Condition, Facts, NodeFacts, SECRET_EXPIRY_DAYS, SILENT_AFTER_S, conditions};
pub use config::{
    AlertConfig, CONFIGS_MAX, ConfigError, Draft, Matcher, MatcherField, Operator, Severity, Threshold, Units,
};
pub use evaluate::{AlertChange, evaluate};
pub use notification::{Notification, NotificationError, NotificationSecrets};

/// What an alert configuration may ask for.
macro_rules! alert_types {
    ($($variant:ident, $name:literal, $trigger:expr, $threshold:expr, $text:literal;)*) => {
        /// What can be alerted of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum AlertType {
            $(#[doc = $text] #[serde(rename = $name)] $variant,)*
        }

        impl AlertType {
            /// All of them.
            pub const ALL: &'static [AlertType] = &[$(AlertType::$variant,)*];

            /// The name in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(AlertType::$variant => $name,)* }
            }

            /// The type of this name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(AlertType::$variant),)* _ => None }
            }

            /// What raises it.
            pub const fn trigger(self) -> Trigger {
                match self { $(AlertType::$variant => $trigger,)* }
            }

            /// Whether a configuration of it has a threshold.
            pub const fn threshold(self) -> ThresholdRule {
                match self { $(AlertType::$variant => $threshold,)* }
            }

            /// One line for a person.
            pub const fn text(self) -> &'static str {
                match self { $(AlertType::$variant => $text,)* }
            }
        }
    };
}

alert_types! {
    AzureKeyNeedsRotation, "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION", Trigger::Condition, ThresholdRule::Days, "The customer key has not been replaced for too long.";
    AzureKeyInvalid, "AZURE_ENCRYPTION_KEY_INVALID", Trigger::Condition, ThresholdRule::None, "The customer key itself cannot be used: disabled, deleted, or without the operation.";
    ConfigNoLongerValid, "ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID", Trigger::Condition, ThresholdRule::None, "The customer key is refused, or the credentials for it are.";
    NetworkAccessDenied, "ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED", Trigger::Condition, ThresholdRule::None, "The vault cannot be reached.";
    UpdateStalled, "ENCRYPTION_AT_REST_CONFIG_UPDATE_STALLED", Trigger::Condition, ThresholdRule::Time, "A master key is not yet under the customer key that the project has.";
    HostDown, "HOST_DOWN", Trigger::Condition, ThresholdRule::None, "A node has not reported, or its database does not run.";
    NoPrimary, "NO_PRIMARY", Trigger::Condition, ThresholdRule::None, "A replica set has no primary.";
    ClientSecretExpires, "KEYWARD_CLIENT_SECRET_EXPIRES", Trigger::Condition, ThresholdRule::None, "The client secret for the vault expires soon.";
    NodeHeldBack, "KEYWARD_NODE_HELD_BACK", Trigger::Condition, ThresholdRule::None, "A node does not do what the server wants without `keyward node approve`, or could not.";
    MaintenanceInAdvance, "MAINTENANCE_IN_ADVANCED", Trigger::Event(EventType::MaintenanceInAdvance), ThresholdRule::None, "Maintenance was announced.";
    MaintenanceAutoDeferred, "MAINTENANCE_AUTO_DEFERRED", Trigger::Event(EventType::MaintenanceAutoDeferred), ThresholdRule::None, "Maintenance was put off by a week by itself.";
    MaintenanceStarted, "MAINTENANCE_STARTED", Trigger::Event(EventType::MaintenanceStarted), ThresholdRule::None, "Maintenance began.";
    MaintenanceCompleted, "MAINTENANCE_COMPLETED", Trigger::Event(EventType::MaintenanceCompleted), ThresholdRule::None, "Maintenance ended.";
    MaintenanceNoLongerNeeded, "MAINTENANCE_NO_LONGER_NEEDED", Trigger::Event(EventType::MaintenanceNoLongerNeeded), ThresholdRule::None, "Announced maintenance is off.";
    JoinedProject, "JOINED_GROUP", Trigger::Event(EventType::UserJoinedProject), ThresholdRule::None, "A user was added to the project.";
    RemovedFromProject, "REMOVED_FROM_GROUP", Trigger::Event(EventType::UserRemovedFromProject), ThresholdRule::None, "A user was removed from the project.";
    UserRolesChanged, "USER_ROLES_CHANGED_AUDIT", Trigger::Event(EventType::UserRolesChanged), ThresholdRule::None, "A user's roles were changed.";
    SnapshotSucceeded, "CPS_SNAPSHOT_SUCCESSFUL", Trigger::Event(EventType::SnapshotSucceeded), ThresholdRule::None, "A snapshot was made.";
    SnapshotFailed, "CPS_SNAPSHOT_FAILED", Trigger::Event(EventType::SnapshotFailed), ThresholdRule::None, "A snapshot could not be made.";
}

/// What raises an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Something that holds, and ends.
    Condition,
    /// Something that happened: the alert is closed as soon as it is raised.
    Event(EventType),
}

/// What threshold a type of alert has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThresholdRule {
    /// None; a configuration with one is refused.
    None,
    /// A number of days that must be exceeded.
    Days,
    /// A time that must be exceeded, in minutes, hours or days.
    Time,
}

impl AlertType {
    /// Whether the name is the Atlas Administration API's; else it is ours.
    pub fn is_atlas(self) -> bool {
        !self.as_str().starts_with("KEYWARD_")
    }
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Its id.
    pub id: AlertId,
    /// Whose it is.
    pub project: ProjectId,
    /// The configuration that asked for it.
    pub config: AlertConfigId,
    /// What it is about.
    pub event_type: AlertType,
    /// What of that kind it is about.
    pub subject: Subject,
    /// What was found, in a sentence for a person. It follows what is found while the alert lasts.
    pub text: String,
    /// Where it stands.
    pub status: AlertStatus,
    /// Since when what it is about holds.
    pub since: Timestamp,
    /// When it was raised.
    pub created: Timestamp,
    /// When it changed last.
    pub updated: Timestamp,
    /// When it ended.
    pub resolved: Option<Timestamp>,
    /// When a notification was delivered last. Stays `None`: nothing delivers yet.
    pub last_notified: Option<Timestamp>,
    /// Who has seen it.
    pub acknowledged: Option<Acknowledgement>,
}

/// What an alert is about: it is the same alert while this is the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The cluster's name.
    pub cluster: Option<String>,
    /// The replica set's name.
    pub replica_set: Option<String>,
    /// The node's name.
    pub node: Option<String>,
    /// `host:port` of the node's database.
    pub address: Option<String>,
    /// The state of the member in its replica set: `PRIMARY`, `SECONDARY`, ….
    pub member: Option<String>,
    /// The step of a warning that is repeated, in days.
    pub stage_days: Option<u16>,
    /// The event that raised it.
    pub event: Option<EventId>,
}

impl Subject {
    /// The cluster's name.
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AlertStatus {
    /// What it is about holds, but not yet for as long as every notification waits.
    Tracking,
    /// It is raised.
    Open,
    /// What it was about is over.
    Closed,
    /// Its configuration was switched off or deleted meanwhile.
    Cancelled,
}

impl AlertStatus {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            AlertStatus::Tracking => "TRACKING",
            AlertStatus::Open => "OPEN",
            AlertStatus::Closed => "CLOSED",
            AlertStatus::Cancelled => "CANCELLED",
        }
    }

    /// Whether the alert may still change.
    pub fn is_live(self) -> bool {
        matches!(self, AlertStatus::Tracking | AlertStatus::Open)
    }
}

/// That someone has seen an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// Until when it is quiet.
    pub until: Timestamp,
    /// What they say about it.
    pub comment: Option<String>,
    /// Who.
    pub by: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_reads_back_and_is_there_once() {
        let names: BTreeSet<_> = AlertType::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), AlertType::ALL.len());
        for &kind in AlertType::ALL {
            assert_eq!(AlertType::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            if let Trigger::Event(event) = kind.trigger() {
                assert_eq!(event.as_str(), kind.as_str(), "an alert is named as the event that raises it");
            }
        }
        assert_eq!(AlertType::parse("OUTSIDE_METRIC_THRESHOLD"), None);
    }
}
