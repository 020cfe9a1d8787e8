//! Answer bodies: key bundles and lists.

use serde_json::{Value, json};

use crate::state::{Action, DeletedKey, Key, KeyVersion, RotationPolicy, Trigger, Vault};

/// Makes the URLs in answers: they begin with the host that the caller used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links(String);

impl Links {
    /// `base` is `https://HOST[:PORT]` without a slash at the end.
    pub fn new(base: impl Into<String>) -> Self {
        Self(base.into())
    }

    /// `https://HOST[:PORT]`.
    pub fn base(&self) -> &str {
        &self.0
    }

    /// Key identifier.
    pub fn key(&self, name: &str, version: Option<&str>) -> String {
        match version {
            Some(version) => format!("{}/keys/{name}/{version}", self.0),
            None => format!("{}/keys/{name}", self.0),
        }
    }

    /// KeyBundle.
    pub(crate) fn bundle(&self, vault: &Vault, name: &str, version: &KeyVersion) -> Value {
        let mut key = json!({
            "kid": self.key(name, Some(&version.version)),
            "kty": version.kty,
            "key_ops": version.key_ops,
        });
        match &version.material.point {
            Some(point) => {
                key["crv"] = json!("P-256");
                key["x"] = json!(point.x);
                key["y"] = json!(point.y);
            }
            // A symmetric key shows nothing.
            None if version.material.n.is_empty() => {}
            None => {
                key["n"] = json!(version.material.n);
                key["e"] = json!(version.material.e);
            }
        }
        let mut bundle = json!({ "key": key, "attributes": attributes(vault, version) });
        if !version.tags.is_empty() {
            bundle["tags"] = json!(version.tags);
        }
        bundle
    }

    /// One entry of a list.
    pub(super) fn item(&self, vault: &Vault, name: &str, version: Option<&str>, shown: &KeyVersion) -> Value {
        let mut item = json!({ "kid": self.key(name, version), "attributes": attributes(vault, shown) });
        if !shown.tags.is_empty() {
            item["tags"] = json!(shown.tags);
        }
        item
    }

    /// DeletedKeyBundle.
    pub(super) fn deleted_bundle(&self, vault: &Vault, name: &str, deleted: &DeletedKey) -> Value {
        let shown = deleted.key.newest().map_or_else(|| json!({}), |newest| self.bundle(vault, name, newest));
        self.with_deletion(shown, name, deleted)
    }

    /// One entry of the list of deleted keys.
    pub(super) fn deleted_item(&self, vault: &Vault, name: &str, deleted: &DeletedKey) -> Value {
        let shown = Key::newest(&deleted.key);
        let item = shown.map_or_else(|| json!({}), |newest| self.item(vault, name, None, newest));
        self.with_deletion(item, name, deleted)
    }

    fn with_deletion(&self, mut shown: Value, name: &str, deleted: &DeletedKey) -> Value {
        shown["recoveryId"] = json!(format!("{}/deletedkeys/{name}", self.0));
        shown["deletedDate"] = json!(deleted.deleted);
        shown["scheduledPurgeDate"] = json!(deleted.scheduled_purge);
        shown
    }

    /// Rotation policy; Azure answers a default one (notify 30 days before expiry) when none was set.
    pub(super) fn rotation_policy(&self, name: &str, policy: Option<&RotationPolicy>) -> Value {
        let id = format!("{}/keys/{name}/rotationpolicy", self.0);
        let Some(policy) = policy else {
            return json!({
                "id": id,
                "lifetimeActions": [{ "trigger": { "timeBeforeExpiry": "P30D" }, "action": { "type": "Notify" } }],
                "attributes": {},
            });
        };
        let actions: Vec<Value> = policy
            .lifetime_actions
            .iter()
            .map(|a| {
                let trigger = match &a.trigger {
                    Trigger::TimeAfterCreate(after) => json!({ "timeAfterCreate": after }),
                    Trigger::TimeBeforeExpiry(before) => json!({ "timeBeforeExpiry": before }),
                };
                let action = match a.action {
                    Action::Rotate => "Rotate",
                    Action::Notify => "Notify",
                };
                json!({ "trigger": trigger, "action": { "type": action } })
            })
            .collect();
        let mut attributes = json!({ "created": policy.created, "updated": policy.updated });
        if let Some(expiry) = &policy.expiry_time {
            attributes["expiryTime"] = json!(expiry);
        }
        json!({ "id": id, "lifetimeActions": actions, "attributes": attributes })
    }
}

fn attributes(vault: &Vault, version: &KeyVersion) -> Value {
    let mut attributes = json!({ "enabled": version.enabled });
    if let Some(nbf) = version.not_before {
        attributes["nbf"] = json!(nbf);
    }
    if let Some(exp) = version.expires {
        attributes["exp"] = json!(exp);
    }
    attributes["created"] = json!(version.created);
    attributes["updated"] = json!(version.updated);
    attributes["recoveryLevel"] = json!(vault.recovery_level());
    attributes["recoverableDays"] = json!(vault.retention_days);
    attributes
}
