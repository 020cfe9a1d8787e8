//! Key Vault's rotation policy of a key: how often the vault makes a new version by itself. Pure.

use jiff::{Span, Unit, civil::date};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    #[serde(default)]
    lifetime_actions: Vec<LifetimeAction>,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Deserialize)]
struct LifetimeAction {
    trigger: Trigger,
    action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trigger {
    time_after_create: Option<String>,
    time_before_expiry: Option<String>,
}

#[derive(Deserialize)]
struct Action {
    r#type: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    expiry_time: Option<String>,
}

/// The days from one version to the next; `None` when the policy rotates nothing. Every key has a policy: where
/// nobody set one, it only notifies.
pub(super) fn rotates_after_days(body: &[u8]) -> Result<Option<u32>, &'static str> {
    let policy: Policy = serde_json::from_slice(body).map_err(|_| "the answer is not a rotation policy")?;
    let expiry = policy.attributes.expiry_time.as_deref();
    let mut shortest: Option<u32> = None;
    for LifetimeAction { trigger, action } in &policy.lifetime_actions {
        if !action.r#type.eq_ignore_ascii_case("rotate") {
            continue;
        }
        let after = match (&trigger.time_after_create, &trigger.time_before_expiry, expiry) {
            (Some(after), _, _) => Some(days(after)?),
            (None, Some(before), Some(expiry)) => Some(days(expiry)?.saturating_sub(days(before)?)),
            // It never expires, so nothing is before its expiry.
            (None, Some(_), None) | (None, None, _) => None,
        };
        shortest = [shortest, after].into_iter().flatten().min();
    }
    Ok(shortest)
}

/// An ISO 8601 duration in days, months and years as in a year of 365.
fn days(duration: &str) -> Result<u32, &'static str> {
    let wrong = "the rotation policy has a time that is no ISO 8601 duration";
    // jiff reads other notations too.
    if !duration.starts_with('P') {
        return Err(wrong);
    }
    let span: Span = duration.parse().map_err(|_| wrong)?;
    let days = span.total((Unit::Day, date(2001, 1, 1))).map_err(|_| wrong)?;
    // The range was checked; the fraction of a day is of no use.
    if (0.0..=100_000.0).contains(&days) { Ok(days as u32) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(policy: serde_json::Value) -> Result<Option<u32>, &'static str> {
        rotates_after_days(policy.to_string().as_bytes())
    }

    fn action(trigger: &str, time: &str, kind: &str) -> serde_json::Value {
        json!({"trigger": {trigger: time}, "action": {"type": kind}})
    }

    #[test]
    fn what_rotates_when() {
        let after = action("timeAfterCreate", "P90D", "Rotate");
        let before = action("timeBeforeExpiry", "P30D", "rotate");
        let told = action("timeBeforeExpiry", "P30D", "Notify");
        let with = |actions: &[&serde_json::Value], expiry: Option<&str>| {
            read(json!({"id": "https://v/keys/k/rotationpolicy", "lifetimeActions": actions,
                        "attributes": {"expiryTime": expiry, "created": 1, "updated": 1}}))
        };
        assert_eq!(with(&[&after, &told], None), Ok(Some(90)));
        assert_eq!(with(&[&before, &told], Some("P1Y")), Ok(Some(335)));
        assert_eq!(with(&[&before], None), Ok(None));
        assert_eq!(with(&[&told], Some("P2Y")), Ok(None));
        assert_eq!(with(&[&after, &before], Some("P2M")), Ok(Some(29)), "the one that comes first");
        assert_eq!(with(&[&action("timeAfterCreate", "P18M", "Rotate")], None), Ok(Some(546)));
        assert_eq!(read(json!({})), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for time in ["", "90 days", "ninety", "-P1D", "P", "P9999999999D"] {
            assert!(
                read(json!({"lifetimeActions": [action("timeAfterCreate", time, "Rotate")]})).is_err(),
                "{time:?}"
            );
        }
        assert!(rotates_after_days(b"7").is_err());
        assert!(rotates_after_days(b"").is_err());
    }
}
