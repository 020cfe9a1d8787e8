//! Whom an alert tells: read, checked, and shown without its secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::NotifierId;

/// Shortest time between two notifications of one alert, minutes.
const INTERVAL_MIN: i64 = 5;
/// Longest time for any of them, minutes: 30 days.
const LONGEST_MIN: i64 = 30 * 24 * 60;
/// Longest text of a field, characters.
const LONGEST_TEXT: usize = 4096;

/// A way that an alert is told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Names it.
    pub notifier_id: NotifierId,
    /// `EMAIL`, `GROUP`, `WEBHOOK`, ….
    pub type_name: String,
    /// Time between two notifications while the alert is open, minutes.
    pub interval_min: Option<u32>,
    /// How long the condition must hold first, minutes.
    pub delay_min: u32,
    /// What else the type asks for, as it was given; secrets only by their mask.
    pub fields: Map<String, Value>,
}

/// The secrets of a configuration's notifications, by notifier and field. They are sealed wherever they are kept.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationSecrets(BTreeMap<String, BTreeMap<String, String>>);

impl std::fmt::Debug for NotificationSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |fields: &BTreeMap<String, String>| fields.keys().cloned().collect::<Vec<_>>();
        f.debug_map().entries(self.0.iter().map(|(notifier, fields)| (notifier, names(fields)))).finish()
    }
}

impl NotificationSecrets {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The secret in `field` of `notifier`.
    pub fn of(&self, notifier: NotifierId, field: &str) -> Option<&str> {
        self.0.get(&notifier.to_string())?.get(field).map(String::as_str)
    }

    fn put(&mut self, notifier: NotifierId, field: &str, secret: String) {
        self.0.entry(notifier.to_string()).or_default().insert(field.to_owned(), secret);
    }
}

/// What is wrong with a notification. Names the field, never repeats its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotificationError {
    /// No such type.
    #[error("typeName of a notification is none of {}", names())]
    UnknownType,
    /// A field that the type does not have.
    #[error("a notification of type {type_name} has no {field}")]
    UnknownField {
        /// The type.
        type_name: String,
        /// The field.
        field: String,
    },
    /// A field that the type must have.
    #[error("a notification of type {type_name} needs {field}")]
    MissingField {
        /// The type.
        type_name: String,
        /// The field.
        field: &'static str,
    },
    /// A value that the field cannot have.
    #[error("{field} of a notification must be {expected}")]
    Field {
        /// The field.
        field: String,
        /// What it takes.
        expected: &'static str,
    },
    /// `intervalMin` or `delayMin` is out of range.
    #[error(
        "intervalMin of a notification is at least {INTERVAL_MIN} and delayMin at least 0, and neither more than {LONGEST_MIN}"
    )]
    OutOfRange,
}

/// How a field is read.
#[derive(Clone, Copy)]
enum Field {
    Text,
    Email,
    Flag,
    ProjectRoles,
    OrgRoles,
    Choice(&'static [&'static str]),
    Id,
    /// Shown by its last characters.
    Secret,
    /// A URL that lets its holder in: shown up to the host.
    SecretUrl,
    /// Not shown at all.
    Hidden,
}

/// A type of notification: its fields, and which of them it needs.
struct Kind {
    name: &'static str,
    fields: &'static [(&'static str, Field)],
    needs: &'static [&'static str],
}

const MAILS: [(&str, Field); 2] = [("emailEnabled", Field::Flag), ("smsEnabled", Field::Flag)];

const KINDS: &[Kind] = &[
    Kind {
        name: "DATADOG",
        fields: &[
            ("datadogApiKey", Field::Secret),
            ("datadogRegion", Field::Choice(&["US", "EU", "US3", "US5", "AP1", "US1_FED"])),
        ],
        needs: &["datadogApiKey"],
    },
    Kind { name: "EMAIL", fields: &[("emailAddress", Field::Email)], needs: &["emailAddress"] },
    Kind { name: "GROUP", fields: &[MAILS[0], MAILS[1], ("roles", Field::ProjectRoles)], needs: &[] },
    Kind {
        name: "HIP_CHAT",
        fields: &[("notificationToken", Field::Secret), ("roomName", Field::Text)],
        needs: &["notificationToken", "roomName"],
    },
    Kind {
        name: "MICROSOFT_TEAMS",
        fields: &[("microsoftTeamsWebhookUrl", Field::SecretUrl)],
        needs: &["microsoftTeamsWebhookUrl"],
    },
    Kind {
        name: "OPS_GENIE",
        fields: &[("opsGenieApiKey", Field::Secret), ("opsGenieRegion", Field::Choice(&["US", "EU"]))],
        needs: &["opsGenieApiKey"],
    },
    Kind { name: "ORG", fields: &[MAILS[0], MAILS[1], ("roles", Field::OrgRoles)], needs: &[] },
    Kind {
        name: "PAGER_DUTY",
        fields: &[("region", Field::Choice(&["US", "EU"])), ("serviceKey", Field::Secret)],
        needs: &["serviceKey"],
    },
    Kind {
        name: "SLACK",
        fields: &[("apiToken", Field::Secret), ("channelName", Field::Text)],
        needs: &["channelName"],
    },
    Kind { name: "SMS", fields: &[("mobileNumber", Field::Text)], needs: &["mobileNumber"] },
    Kind {
        name: "TEAM",
        fields: &[MAILS[0], MAILS[1], ("teamId", Field::Id), ("teamName", Field::Text)],
        needs: &["teamId"],
    },
    Kind { name: "USER", fields: &[MAILS[0], MAILS[1], ("username", Field::Email)], needs: &["username"] },
    Kind {
        name: "VICTOR_OPS",
        fields: &[("victorOpsApiKey", Field::Secret), ("victorOpsRoutingKey", Field::Text)],
        needs: &["victorOpsApiKey"],
    },
    Kind {
        name: "WEBHOOK",
        fields: &[
            ("webhookBodyTemplate", Field::Hidden),
            ("webhookHeadersTemplate", Field::Hidden),
            ("webhookSecret", Field::Hidden),
            ("webhookUrl", Field::SecretUrl),
        ],
        needs: &["webhookUrl"],
    },
];

const PROJECT_ROLES: &str = "names of roles in a project, such as GROUP_OWNER";
const ORG_ROLES: &[&str] = &[
    "ORG_OWNER",
    "ORG_MEMBER",
    "ORG_GROUP_CREATOR",
    "ORG_BILLING_ADMIN",
    "ORG_BILLING_READ_ONLY",
    "ORG_READ_ONLY",
];

fn names() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

impl Notification {
    /// Reads one notification of a request.
    ///
    /// `before` are the configuration's notifications and their secrets so far: a secret that comes back as it was
    /// shown, or not at all, stays. New secrets go to `kept`. `make_id` makes the id of a new one.
    pub fn read(
        given: &Map<String, Value>,
        before: (&[Notification], &NotificationSecrets),
        kept: &mut NotificationSecrets,
        make_id: &mut dyn FnMut() -> NotifierId,
    ) -> Result<Self, NotificationError> {
        let type_name = given.get("typeName").and_then(Value::as_str);
        let kind =
            KINDS.iter().find(|kind| Some(kind.name) == type_name).ok_or(NotificationError::UnknownType)?;
        let known: Option<&Notification> = match given.get("notifierId").filter(|id| !id.is_null()) {
            None => None,
            Some(id) => {
                let expected = "24 lower-case hexadecimal characters";
                let wrong = || NotificationError::Field { field: "notifierId".to_owned(), expected };
                let id: NotifierId = id.as_str().and_then(|id| id.parse().ok()).ok_or_else(wrong)?;
                before.0.iter().find(|old| old.notifier_id == id && old.type_name == kind.name)
            }
        };
        let notifier_id = known.map_or_else(make_id, |old| old.notifier_id);
        let mut read = Self {
            notifier_id,
            type_name: kind.name.to_owned(),
            interval_min: minutes(given, "intervalMin", INTERVAL_MIN)?,
            delay_min: minutes(given, "delayMin", 0)?.unwrap_or(0),
            fields: Map::new(),
        };
        for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
            if matches!(name.as_str(), "typeName" | "notifierId" | "intervalMin" | "delayMin") {
                continue;
            }
            let Some((field, how)) = kind.fields.iter().find(|(field, _)| field == name) else {
                return Err(NotificationError::UnknownField {
                    type_name: kind.name.to_owned(),
                    field: name.chars().take(64).collect(),
                });
            };
            check(field, *how, value)?;
            let (Some(text), Field::Secret | Field::SecretUrl | Field::Hidden) = (value.as_str(), how) else {
                read.fields.insert(name.clone(), value.clone());
                continue;
            };
            let same = known.and_then(|old| old.fields.get(name)).is_some_and(|mask| mask == text);
            let secret = match before.1.of(notifier_id, field) {
                Some(stored) if same => stored.to_owned(),
                Some(_) | None => text.to_owned(),
            };
            read.fields.insert(name.clone(), Value::String(masked(*how, &secret)));
            kept.put(notifier_id, field, secret);
        }
        // What a client does not send of a notification that it names stays: answers never show it in full.
        for (field, how) in kind.fields {
            let secret = matches!(how, Field::Secret | Field::SecretUrl | Field::Hidden);
            if secret
                && !read.fields.contains_key(*field)
                && let Some(stored) = before.1.of(notifier_id, field)
            {
                read.fields.insert((*field).to_owned(), Value::String(masked(*how, stored)));
                kept.put(notifier_id, field, stored.to_owned());
            }
        }
        match kind.needs.iter().find(|field| !read.fields.contains_key(**field)) {
            Some(field) => Err(NotificationError::MissingField { type_name: kind.name.to_owned(), field }),
            None => Ok(read),
        }
    }

    /// To everyone with `role` in the project, by mail: what an automatic configuration has.
    pub fn of_project_role(role: &str, interval_min: u32, notifier_id: NotifierId) -> Self {
        let mut fields = Map::new();
        fields.insert("emailEnabled".to_owned(), Value::Bool(true));
        fields.insert("smsEnabled".to_owned(), Value::Bool(false));
        fields.insert("roles".to_owned(), Value::Array(vec![Value::String(role.to_owned())]));
        Self {
            notifier_id,
            type_name: "GROUP".to_owned(),
            interval_min: Some(interval_min),
            delay_min: 0,
            fields,
        }
    }

    /// As answers show it.
    pub fn shown(&self) -> Value {
        let mut shown = Map::new();
        shown.insert("typeName".to_owned(), self.type_name.clone().into());
        shown.insert("notifierId".to_owned(), self.notifier_id.to_string().into());
        if let Some(interval) = self.interval_min {
            shown.insert("intervalMin".to_owned(), interval.into());
        }
        shown.insert("delayMin".to_owned(), self.delay_min.into());
        shown.extend(self.fields.clone());
        Value::Object(shown)
    }
}

fn minutes(given: &Map<String, Value>, name: &str, least: i64) -> Result<Option<u32>, NotificationError> {
    let Some(value) = given.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let expected = "a whole number of minutes";
    let number =
        value.as_i64().ok_or_else(|| NotificationError::Field { field: name.to_owned(), expected })?;
    match u32::try_from(number) {
        Ok(minutes) if (least..=LONGEST_MIN).contains(&number) => Ok(Some(minutes)),
        Ok(_) | Err(_) => Err(NotificationError::OutOfRange),
    }
}

fn check(name: &str, how: Field, value: &Value) -> Result<(), NotificationError> {
    let refused = |expected| Err(NotificationError::Field { field: name.to_owned(), expected });
    let text = |value: &Value| -> Option<String> {
        let text = value.as_str()?;
        let fits = !text.is_empty() && text.chars().count() <= LONGEST_TEXT;
        (fits && !text.chars().any(|c| c == '\0')).then(|| text.to_owned())
    };
    let texts = |value: &Value| -> Option<Vec<String>> { value.as_array()?.iter().map(text).collect() };
    match how {
        Field::Flag => {
            if value.is_boolean() {
                Ok(())
            } else {
                refused("true or false")
            }
        }
        Field::Text | Field::Secret | Field::Hidden => {
            if text(value).is_some() {
                Ok(())
            } else {
                refused("a text of 1 to 4096 characters")
            }
        }
        Field::Email => match text(value) {
            Some(text) if is_email(&text) => Ok(()),
            Some(_) | None => refused("an e-mail address"),
        },
        Field::SecretUrl => match text(value) {
            // What was shown of it comes back as it was shown.
            Some(text)
                if url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) =>
            {
                Ok(())
            }
            Some(_) | None => refused("an http or https URL"),
        },
        Field::Id => match text(value) {
            Some(text)
                if text.len() == 24
                    && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) =>
            {
                Ok(())
            }
            Some(_) | None => refused("24 lower-case hexadecimal characters"),
        },
        Field::Choice(choices) => match text(value) {
            Some(text) if choices.contains(&text.as_str()) => Ok(()),
            Some(_) | None => refused("one of its possible values"),
        },
        Field::ProjectRoles => match texts(value) {
            Some(_) => Ok(()),
            None => refused(PROJECT_ROLES),
        },
        Field::OrgRoles => match texts(value) {
            Some(roles) if roles.iter().all(|role| ORG_ROLES.contains(&role.as_str())) => Ok(()),
            Some(_) | None => refused("names of roles in an organization, such as ORG_OWNER"),
        },
    }
}

fn is_email(text: &str) -> bool {
    let parts: Vec<&str> = text.split('@').collect();
    matches!(parts.as_slice(), [name, host] if !name.is_empty() && !host.is_empty())
        && !text.contains(char::is_whitespace)
}

fn masked(how: Field, secret: &str) -> String {
    match how {
        Field::SecretUrl => match url::Url::parse(secret) {
            Ok(url) => format!("{}://{}/****", url.scheme(), url.host_str().unwrap_or_default()),
            Err(_) => "****".to_owned(),
        },
        Field::Secret if secret.chars().count() >= 12 => {
            let last: Vec<char> = secret.chars().rev().take(4).collect();
            format!("****{}", last.into_iter().rev().collect::<String>())
        }
        Field::Secret
        | Field::Hidden
        | Field::Text
        | Field::Email
        | Field::Flag
        | Field::ProjectRoles
        | Field::OrgRoles
        | Field::Choice(_)
        | Field::Id => "****".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(
        given: Value,
        before: (&[Notification], &NotificationSecrets),
    ) -> Result<(Notification, NotificationSecrets), NotificationError> {
        let mut kept = NotificationSecrets::default();
        let mut next = 0;
        let mut make_id = || {
            next += 1;
            NotifierId::from_bytes([next; 12])
        };
        let notification = Notification::read(given.as_object().unwrap(), before, &mut kept, &mut make_id)?;
        Ok((notification, kept))
    }

    const NONE: (&[Notification], &NotificationSecrets) = (&[], &NotificationSecrets(BTreeMap::new()));

    #[test]
    fn a_secret_is_shown_by_its_end_and_stays_when_it_comes_back() {
        let given = json!({"typeName": "SLACK", "channelName": "#ops", "apiToken": "xoxb-123456789-abcd", "intervalMin": 5});
        let (first, secrets) = read(given, NONE).unwrap();
        let shown = first.shown();
        assert_eq!(shown["apiToken"], "****abcd");
        assert!(!format!("{first:?}{secrets:?}").contains("123456789"));
        assert_eq!(secrets.of(first.notifier_id, "apiToken"), Some("xoxb-123456789-abcd"));

        let (again, kept) = read(shown.clone(), (std::slice::from_ref(&first), &secrets)).unwrap();
        assert_eq!((again, &kept), (first.clone(), &secrets));
        let mut without = shown.clone();
        without.as_object_mut().unwrap().remove("apiToken");
        let (again, kept) = read(without, (std::slice::from_ref(&first), &secrets)).unwrap();
        assert_eq!((again, &kept), (first.clone(), &secrets));
        let mut other = shown;
        other["apiToken"] = "xoxb-another-secret".into();
        let (changed, kept) = read(other, (std::slice::from_ref(&first), &secrets)).unwrap();
        assert_eq!(changed.notifier_id, first.notifier_id);
        assert_eq!(kept.of(first.notifier_id, "apiToken"), Some("xoxb-another-secret"));
    }

    #[test]
    fn a_webhook_shows_its_host_alone() {
        let given = json!({"typeName": "WEBHOOK", "webhookUrl": "https://hooks.example.com/T0/secret?x=1", "webhookSecret": "s3cr3t"});
        let (webhook, secrets) = read(given, NONE).unwrap();
        assert_eq!(webhook.shown()["webhookUrl"], "https://hooks.example.com/****");
        assert_eq!(webhook.shown()["webhookSecret"], "****");
        let (again, kept) = read(webhook.shown(), (std::slice::from_ref(&webhook), &secrets)).unwrap();
        assert_eq!((again, kept), (webhook, secrets));
    }

    #[test]
    fn refuses_what_is_no_notification() {
        use NotificationError as E;
        let refused = |given: Value| read(given, NONE).unwrap_err();
        assert_eq!(refused(json!({"typeName": "PIGEON"})), E::UnknownType);
        assert_eq!(refused(json!({})), E::UnknownType);
        assert_eq!(refused(json!({"typeName": "GROUP", "intervalMin": 4})), E::OutOfRange);
        assert_eq!(refused(json!({"typeName": "GROUP", "delayMin": -1})), E::OutOfRange);
        let missing = E::MissingField { type_name: "EMAIL".into(), field: "emailAddress" };
        assert_eq!(refused(json!({"typeName": "EMAIL"})), missing);
        let unknown = E::UnknownField { type_name: "EMAIL".into(), field: "apiToken".into() };
        assert_eq!(refused(json!({"typeName": "EMAIL", "apiToken": "x"})), unknown);
        for (field, value) in
            [("emailAddress", json!("nobody")), ("emailAddress", json!(1)), ("intervalMin", json!("5"))]
        {
            let mut given = json!({"typeName": "EMAIL", "emailAddress": "a@example.com"});
            given[field] = value;
            assert!(matches!(refused(given), E::Field { .. }), "{field}");
        }
        let leaky = refused(json!({"typeName": "WEBHOOK", "webhookUrl": "sesame-open"}));
        assert!(!leaky.to_string().contains("sesame"), "{leaky}");
    }

    #[test]
    fn what_a_type_needs_it_has() {
        for kind in KINDS {
            for needed in kind.needs {
                assert!(kind.fields.iter().any(|(field, _)| field == needed), "{}: {needed}", kind.name);
            }
        }
    }
}
