//! Alert configurations: read, checked, and shown.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    AlertType, Subject, ThresholdRule,
    notification::{Notification, NotificationError, NotificationSecrets},
};
use crate::{
    Timestamp,
    id::{AlertConfigId, NotifierId, ProjectId},
};

/// Most configurations of a project.
pub const CONFIGS_MAX: usize = 500;
/// Most notifications of a configuration.
const NOTIFICATIONS_MAX: usize = 25;
/// Most matchers of a configuration.
const MATCHERS_MAX: usize = 25;
/// Longest value of a matcher, characters.
const LONGEST_VALUE: usize = 512;
/// Largest threshold: ten years in minutes.
const THRESHOLD_MAX: i64 = 10 * 366 * 24 * 60;

/// What a project's owner wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertConfig {
    /// Its id; never changes.
    pub id: AlertConfigId,
    /// Whose it is.
    pub project: ProjectId,
    /// What it is about.
    pub event_type: AlertType,
    /// Whether it raises alerts.
    pub enabled: bool,
    /// All of them must agree.
    pub matchers: Vec<Matcher>,
    /// What has to be exceeded, where the type has a threshold.
    pub threshold: Option<Threshold>,
    /// Whom to tell; 1 to 25.
    pub notifications: Vec<Notification>,
    /// The severity that the owner gives it.
    pub severity_override: Option<Severity>,
    /// Whether it was made when a customer key was first configured. Such a one is made once per project.
    pub automatic: bool,
    /// When an automatic one was deleted: it is kept, unseen, so that it is not made again.
    pub deleted: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
}

/// A condition on what an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Matcher {
    /// What is compared.
    pub field_name: MatcherField,
    /// How.
    pub operator: Operator,
    /// With what.
    pub value: String,
}

/// What a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MatcherField {
    /// The kind of node; keyward's all are `ELECTABLE`.
    AtlasNodeType,
    /// The cluster's name.
    ClusterName,
    /// The host of the node's database.
    Hostname,
    /// Its port.
    Port,
    /// Both.
    HostnameAndPort,
    /// An application; keyward has none, so nothing matches.
    ApplicationId,
    /// The replica set's name.
    ReplicaSetName,
    /// `PRIMARY`, `SECONDARY`, ….
    TypeName,
    /// The shard's name; keyward's clusters have none, so nothing matches.
    ShardName,
}

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Operator {
    /// The same.
    Equals,
    /// Another.
    NotEquals,
    /// The value is part of it.
    Contains,
    /// The value is no part of it.
    NotContains,
    /// It begins with the value.
    StartsWith,
    /// It ends with the value.
    EndsWith,
    /// The value is a regular expression that finds something in it.
    Regex,
}

/// What has to be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    /// How many units.
    pub value: u32,
    /// Of what.
    pub units: Units,
}

/// Units of a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Units {
    /// 60 s.
    Minutes,
    /// 60 min.
    Hours,
    /// 24 h.
    Days,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Odd.
    Warning,
    /// Someone must act.
    Error,
    /// Now.
    Critical,
}

/// A configuration as a request asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    event_type: AlertType,
    enabled: bool,
    matchers: Vec<Matcher>,
    threshold: Option<Threshold>,
    notifications: Vec<Notification>,
    severity_override: Option<Severity>,
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `eventTypeName` is missing.
    #[error("eventTypeName is missing")]
    MissingEventType,
    /// A type that keyward does not watch.
    #[error("keyward raises no alert of type {0}")]
    EventType(String),
    /// No notification.
    #[error("an alert configuration needs at least one notification")]
    MissingNotifications,
    /// The type needs a threshold.
    #[error("{} needs a threshold", .0.as_str())]
    MissingThreshold(AlertType),
    /// The type has none.
    #[error("{} has no threshold", .0.as_str())]
    ThresholdPresent(AlertType),
    /// Units that the type does not count in.
    #[error("the threshold of {} is not counted in these units", .0.as_str())]
    UnitsMismatch(AlertType),
    /// Any operator but `GREATER_THAN`.
    #[error("the threshold of {} must be exceeded: its operator is GREATER_THAN", .0.as_str())]
    Operator(AlertType),
    /// Something about a notification.
    #[error(transparent)]
    Notification(#[from] NotificationError),
    /// A field that there is not.
    #[error("an alert configuration has no {0}")]
    UnknownField(String),
    /// A value that the field cannot have.
    #[error("{field} must be {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it takes.
        expected: &'static str,
    },
}

impl Draft {
    /// Reads a request's body.
    ///
    /// `before` is the configuration that it replaces, with its notifications' secrets: secrets that come back
    /// masked stay. Fields that the server sets are ignored, so that an answer can be sent back as it came.
    pub fn read(
        body: &Map<String, Value>,
        before: Option<(&AlertConfig, &NotificationSecrets)>,
        make_id: &mut dyn FnMut() -> NotifierId,
    ) -> Result<(Self, NotificationSecrets), ConfigError> {
        const KNOWN: [&str; 11] = [
            "eventTypeName",
            "enabled",
            "matchers",
            "threshold",
            "notifications",
            "severityOverride",
            "id",
            "groupId",
            "created",
            "updated",
            "links",
        ];
        let given = |name: &str| body.get(name).filter(|value| !value.is_null());
        let name = given("eventTypeName").ok_or(ConfigError::MissingEventType)?;
        let name = name.as_str().ok_or(ConfigError::Field { field: "eventTypeName", expected: "a text" })?;
        let event_type =
            AlertType::parse(name).ok_or_else(|| ConfigError::EventType(name.chars().take(64).collect()))?;
        let stray = body.iter().find(|(name, value)| !value.is_null() && !KNOWN.contains(&name.as_str()));
        if let Some((stray, _)) = stray {
            return Err(ConfigError::UnknownField(stray.chars().take(64).collect()));
        }
        let enabled = match given("enabled") {
            None => false,
            Some(value) => {
                value.as_bool().ok_or(ConfigError::Field { field: "enabled", expected: "true or false" })?
            }
        };
        let severity_override = given("severityOverride").map(severity).transpose()?;
        let matchers = read_matchers(given("matchers"))?;
        let threshold = read_threshold(event_type, given("threshold"))?;
        let list = match given("notifications") {
            None => return Err(ConfigError::MissingNotifications),
            Some(value) => value
                .as_array()
                .ok_or(ConfigError::Field { field: "notifications", expected: "a list of notifications" })?,
        };
        if list.is_empty() {
            return Err(ConfigError::MissingNotifications);
        }
        if list.len() > NOTIFICATIONS_MAX {
            return Err(ConfigError::Field { field: "notifications", expected: "a list of at most 25" });
        }
        let none = NotificationSecrets::default();
        let old =
            before.map_or((&[][..], &none), |(config, secrets)| (config.notifications.as_slice(), secrets));
        let mut kept = NotificationSecrets::default();
        let mut notifications: Vec<Notification> = Vec::with_capacity(list.len());
        for value in list {
            let object = value
                .as_object()
                .ok_or(ConfigError::Field { field: "notifications", expected: "a list of objects" })?;
            let read = Notification::read(object, old, &mut kept, make_id)?;
            if notifications.iter().any(|other| other.notifier_id == read.notifier_id) {
                return Err(ConfigError::Field {
                    field: "notifications",
                    expected: "without two of the same notifierId",
                });
            }
            notifications.push(read);
        }
        Ok((Self { event_type, enabled, matchers, threshold, notifications, severity_override }, kept))
    }

    /// As a new configuration.
    pub fn created(self, id: AlertConfigId, project: ProjectId, now: Timestamp) -> AlertConfig {
        let Draft { event_type, enabled, matchers, threshold, notifications, severity_override } = self;
        AlertConfig {
            id,
            project,
            event_type,
            enabled,
            matchers,
            threshold,
            notifications,
            severity_override,
            automatic: false,
            deleted: None,
            created: now,
            updated: now,
        }
    }

    /// In place of `before`: id, origin and date of creation stay.
    pub fn replacing(self, before: &AlertConfig, now: Timestamp) -> AlertConfig {
        AlertConfig {
            automatic: before.automatic,
            created: before.created,
            ..self.created(before.id, before.project, now)
        }
        .at(now)
    }
}

impl AlertConfig {
    /// What a project gets when its first customer key is configured: the rotation period that Atlas watches (90
    /// days), and that the key works and can be reached. Made once: their ids follow from the project's, and a
    /// deleted one stays deleted.
    pub fn automatic(project: ProjectId, now: Timestamp) -> Vec<Self> {
        let config =
            |number: u8, event_type: AlertType, threshold: Option<Threshold>, interval_min: u32| Self {
                id: AlertConfigId::from_bytes(derive_bytes(project, number)),
                project,
                event_type,
                enabled: true,
                matchers: Vec::new(),
                threshold,
                notifications: vec![Notification::of_project_role(
                    "GROUP_OWNER",
                    interval_min,
                    NotifierId::from_bytes(derive_bytes(project, number | 0x80)),
                )],
                severity_override: None,
                automatic: true,
                deleted: None,
                created: now,
                updated: now,
            };
        let days = |value| Some(Threshold { value, units: Units::Days });
        vec![
            config(1, AlertType::AzureKeyNeedsRotation, days(90), 24 * 60),
            config(2, AlertType::AzureKeyInvalid, None, 60),
            config(3, AlertType::ConfigNoLongerValid, None, 60),
            config(4, AlertType::NetworkAccessDenied, None, 60),
            config(5, AlertType::ClientSecretExpires, None, 24 * 60),
            config(6, AlertType::NodeHeldBack, None, 60),
        ]
    }

    /// Whether a client of the Atlas Administration API sees it: a type of our own only where a person asked for it
    /// by name, since such clients know only Atlas' types.
    pub fn is_seen_by_atlas_clients(&self) -> bool {
        self.event_type.is_atlas() || !self.automatic
    }

    /// Whether what `subject` is about is meant.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(subject))
    }

    /// The time that must be exceeded, in milliseconds; 0 without a threshold.
    pub fn threshold_ms(&self) -> i64 {
        self.threshold.map_or(0, Threshold::ms)
    }

    /// How long a condition must hold before the first notification, in milliseconds.
    pub fn delay_ms(&self) -> i64 {
        self.notifications.iter().map(|one| i64::from(one.delay_min)).min().unwrap_or(0) * 60_000
    }

    /// As answers show it.
    pub fn shown(&self) -> Value {
        let mut shown = Map::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        put("id", json!(self.id));
        put("groupId", json!(self.project));
        put("eventTypeName", json!(self.event_type));
        put("enabled", json!(self.enabled));
        put("matchers", json!(self.matchers));
        put("notifications", self.notifications.iter().map(Notification::shown).collect());
        if let Some(threshold) = self.threshold {
            let units = threshold.units;
            put(
                "threshold",
                json!({"operator": "GREATER_THAN", "threshold": threshold.value, "units": units}),
            );
        }
        if let Some(severity) = self.severity_override {
            put("severityOverride", json!(severity));
        }
        put("created", json!(whole_seconds(self.created)));
        put("updated", json!(whole_seconds(self.updated)));
        Value::Object(shown)
    }

    fn at(mut self, now: Timestamp) -> Self {
        self.updated = now;
        self
    }
}

impl Threshold {
    /// In milliseconds.
    pub fn ms(self) -> i64 {
        let unit = match self.units {
            Units::Minutes => 60_000,
            Units::Hours => 3_600_000,
            Units::Days => 86_400_000,
        };
        i64::from(self.value) * unit
    }
}

impl Matcher {
    fn matches(&self, subject: &Subject) -> bool {
        let address = subject.address.as_deref();
        let parts = address.and_then(|address| address.rsplit_once(':'));
        let found: Option<&str> = match self.field_name {
            MatcherField::AtlasNodeType => subject.node.as_ref().map(|_| "ELECTABLE"),
            MatcherField::ClusterName => subject.cluster.as_deref(),
            MatcherField::Hostname => parts.map(|(host, _)| host),
            MatcherField::Port => parts.map(|(_, port)| port),
            MatcherField::HostnameAndPort => address,
            MatcherField::ReplicaSetName => subject.replica_set.as_deref(),
            MatcherField::TypeName => subject.member.as_deref(),
            MatcherField::ApplicationId | MatcherField::ShardName => None,
        };
        let value = self.value.as_str();
        match self.operator {
            Operator::Equals => found == Some(value),
            Operator::NotEquals => found != Some(value),
            Operator::Contains => found.is_some_and(|text| text.contains(value)),
            Operator::NotContains => !found.is_some_and(|text| text.contains(value)),
            Operator::StartsWith => found.is_some_and(|text| text.starts_with(value)),
            Operator::EndsWith => found.is_some_and(|text| text.ends_with(value)),
            Operator::Regex => match (found, regex_lite::Regex::new(value)) {
                (Some(text), Ok(regex)) => regex.is_match(text),
                (Some(_) | None, _) => false,
            },
        }
    }
}

/// `2026-08-10T03:07:31Z`.
fn whole_seconds(at: Timestamp) -> String {
    format!("{:.0}", Timestamp::from_epoch_ms(at.epoch_ms().div_euclid(1000) * 1000).0)
}

/// An id that follows from a project's: the same each time, and of no other project.
fn derive_bytes(project: ProjectId, number: u8) -> [u8; 12] {
    let mut bytes = *project.as_bytes();
    // The first byte of a random id: a project's own id is never hit, for `number` is not 0.
    bytes[0] ^= number;
    bytes
}

fn severity(value: &Value) -> Result<Severity, ConfigError> {
    let expected = "INFO, WARNING, ERROR or CRITICAL";
    serde_json::from_value(value.clone())
        .map_err(|_| ConfigError::Field { field: "severityOverride", expected })
}

fn read_matchers(given: Option<&Value>) -> Result<Vec<Matcher>, ConfigError> {
    let Some(given) = given else { return Ok(Vec::new()) };
    let expected = "a list of at most 25 objects with fieldName, operator and value";
    let wrong = || ConfigError::Field { field: "matchers", expected };
    let list = given.as_array().filter(|list| list.len() <= MATCHERS_MAX).ok_or_else(wrong)?;
    let mut matchers = Vec::with_capacity(list.len());
    for value in list {
        let object = value.as_object().ok_or_else(wrong)?;
        if object.keys().any(|name| !matches!(name.as_str(), "fieldName" | "operator" | "value")) {
            return Err(wrong());
        }
        let matcher: Matcher = serde_json::from_value(value.clone()).map_err(|_| wrong())?;
        if matcher.value.chars().count() > LONGEST_VALUE {
            return Err(ConfigError::Field {
                field: "matchers",
                expected: "of values of at most 512 characters",
            });
        }
        if matcher.operator == Operator::Regex && regex_lite::Regex::new(&matcher.value).is_err() {
            return Err(ConfigError::Field { field: "matchers", expected: "of valid regular expressions" });
        }
        matchers.push(matcher);
    }
    Ok(matchers)
}

fn read_threshold(event_type: AlertType, given: Option<&Value>) -> Result<Option<Threshold>, ConfigError> {
    let rule = event_type.threshold();
    let given = match (given, rule) {
        (None, ThresholdRule::None) => return Ok(None),
        (None, ThresholdRule::Days | ThresholdRule::Time) => {
            return Err(ConfigError::MissingThreshold(event_type));
        }
        (Some(_), ThresholdRule::None) => return Err(ConfigError::ThresholdPresent(event_type)),
        (Some(given), ThresholdRule::Days | ThresholdRule::Time) => given,
    };
    let expected = "an object with operator, threshold and units";
    let wrong = || ConfigError::Field { field: "threshold", expected };
    let object = given.as_object().ok_or_else(wrong)?;
    if object.keys().any(|name| !matches!(name.as_str(), "operator" | "threshold" | "units")) {
        return Err(wrong());
    }
    match object.get("operator").filter(|value| !value.is_null()) {
        None => {}
        Some(Value::String(operator)) if operator == "GREATER_THAN" => {}
        Some(_) => return Err(ConfigError::Operator(event_type)),
    }
    let units = match object.get("units").filter(|value| !value.is_null()) {
        None => Units::Days,
        Some(units) => {
            serde_json::from_value(units.clone()).map_err(|_| ConfigError::UnitsMismatch(event_type))?
        }
    };
    if rule == ThresholdRule::Days && units != Units::Days {
        return Err(ConfigError::UnitsMismatch(event_type));
    }
    let value = match object.get("threshold").filter(|value| !value.is_null()) {
        None => return Err(ConfigError::MissingThreshold(event_type)),
        Some(value) => value.as_i64().ok_or_else(wrong)?,
    };
    let value = u32::try_from(value).ok().filter(|_| (1..=THRESHOLD_MAX).contains(&value));
    let value =
        value.ok_or(ConfigError::Field { field: "threshold", expected: "between 1 and ten years" })?;
    let threshold = Threshold { value, units };
    if threshold.ms() > THRESHOLD_MAX * 60_000 {
        return Err(ConfigError::Field { field: "threshold", expected: "between 1 and ten years" });
    }
    Ok(Some(threshold))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: ProjectId = ProjectId::from_bytes([3; 12]);

    fn read(body: Value) -> Result<AlertConfig, ConfigError> {
        let mut make_id = || NotifierId::from_bytes([9; 12]);
        let (draft, _) = Draft::read(body.as_object().unwrap(), None, &mut make_id)?;
        Ok(draft.created(AlertConfigId::from_bytes([1; 12]), PROJECT, Timestamp::from_epoch_ms(0)))
    }

    fn rotation() -> Value {
        json!({
            "eventTypeName": "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION", "enabled": true,
            "threshold": {"operator": "GREATER_THAN", "threshold": 400, "units": "DAYS"},
            "notifications": [{"typeName": "GROUP", "roles": ["GROUP_OWNER"], "intervalMin": 60, "delayMin": 0}],
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = rotation();
        body[name] = value;
        body
    }

    #[test]
    fn an_answer_can_be_sent_back_as_it_came() {
        let config = read(rotation()).unwrap();
        assert_eq!(config.threshold_ms(), 400 * 86_400_000);
        let mut shown = config.shown();
        assert_eq!(shown["created"], "1970-01-01T00:00:00Z");
        shown["links"] = json!([]);
        assert_eq!(read(shown).unwrap(), config);
    }

    #[test]
    fn refuses_with_atlas_reasons() {
        use ConfigError as E;
        let rotation_type = AlertType::AzureKeyNeedsRotation;
        let refused = |body: Value| read(body).unwrap_err();
        assert_eq!(refused(json!({})), E::MissingEventType);
        assert_eq!(
            refused(with("eventTypeName", json!("OUTSIDE_METRIC_THRESHOLD"))),
            E::EventType("OUTSIDE_METRIC_THRESHOLD".into())
        );
        assert_eq!(refused(with("notifications", json!([]))), E::MissingNotifications);
        assert_eq!(refused(with("notifications", Value::Null)), E::MissingNotifications);
        assert_eq!(refused(with("threshold", Value::Null)), E::MissingThreshold(rotation_type));
        assert_eq!(
            refused(with("eventTypeName", json!("HOST_DOWN"))),
            E::ThresholdPresent(AlertType::HostDown)
        );
        let threshold = |operator: &str, value: Value, units: &str| {
            with("threshold", json!({"operator": operator, "threshold": value, "units": units}))
        };
        assert_eq!(refused(threshold("LESS_THAN", json!(1), "DAYS")), E::Operator(rotation_type));
        assert_eq!(refused(threshold("GREATER_THAN", json!(1), "HOURS")), E::UnitsMismatch(rotation_type));
        for value in [json!(0), json!(-1), json!(4_000_000), json!(1.5), json!("1")] {
            assert!(matches!(
                refused(threshold("GREATER_THAN", value, "DAYS")),
                E::Field { field: "threshold", .. }
            ));
        }
        assert!(matches!(
            refused(with("matchers", json!([{"fieldName": "MOOD", "operator": "EQUALS", "value": "x"}]))),
            E::Field { .. }
        ));
        assert!(matches!(
            refused(with("matchers", json!([{"fieldName": "PORT", "operator": "REGEX", "value": "("}]))),
            E::Field { .. }
        ));
        assert_eq!(refused(with("surprise", json!(1))), E::UnknownField("surprise".into()));
        assert!(matches!(
            refused(with("notifications", json!([{"typeName": "GROUP", "intervalMin": 1}]))),
            E::Notification(NotificationError::OutOfRange)
        ));
        let many: Vec<Value> = (0..26).map(|_| json!({"typeName": "GROUP"})).collect();
        assert!(matches!(refused(with("notifications", json!(many))), E::Field { .. }));
    }

    #[test]
    fn matchers_compare_as_they_say() {
        let subject = Subject {
            cluster: Some("orders".into()),
            address: Some("db1.example.com:27017".into()),
            node: Some("db1".into()),
            ..Subject::default()
        };
        let matches = |field_name, operator, value: &str| {
            Matcher { field_name, operator, value: value.into() }.matches(&subject)
        };
        use MatcherField as F;
        assert!(matches(F::ClusterName, Operator::Equals, "orders"));
        assert!(!matches(F::ClusterName, Operator::NotEquals, "orders"));
        assert!(matches(F::Hostname, Operator::StartsWith, "db1"));
        assert!(matches(F::Hostname, Operator::EndsWith, ".com"));
        assert!(matches(F::Port, Operator::Equals, "27017"));
        assert!(matches(F::HostnameAndPort, Operator::Contains, "com:27"));
        assert!(matches(F::HostnameAndPort, Operator::Regex, "^db[0-9]\\."));
        assert!(!matches(F::ReplicaSetName, Operator::Equals, "rs0"));
        assert!(matches(F::ReplicaSetName, Operator::NotContains, "rs"));
        assert!(!matches(F::ShardName, Operator::Contains, ""));
    }

    #[test]
    fn automatic_configurations_are_the_same_each_time_and_atlas_clients_see_atlas_types() {
        let now = Timestamp::from_epoch_ms(1_800_000_000_000);
        let configs = AlertConfig::automatic(PROJECT, now);
        assert_eq!(configs, AlertConfig::automatic(PROJECT, now));
        let ids: std::collections::BTreeSet<_> = configs.iter().map(|config| config.id).collect();
        assert_eq!(ids.len(), configs.len());
        assert_eq!(configs[0].event_type, AlertType::AzureKeyNeedsRotation);
        assert_eq!(configs[0].threshold, Some(Threshold { value: 90, units: Units::Days }));
        for config in &configs {
            assert_eq!(config.is_seen_by_atlas_clients(), config.event_type.is_atlas());
            let mut again = config.shown();
            again["links"] = json!([]);
            assert!(read(again).is_ok(), "{:?}", config.event_type);
        }
    }
}
