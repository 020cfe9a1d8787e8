//! Rotation policies: when is a key due for a new version?

use serde::{Deserialize, Serialize};

use super::{Key, UnixSeconds, Vault};

/// What PUT rotationpolicy sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotationPolicy {
    /// What happens when.
    pub lifetime_actions: Vec<LifetimeAction>,
    /// ISO 8601 duration from the creation of a version to its expiry.
    pub expiry_time: Option<String>,
    /// When the policy was first set.
    pub created: UnixSeconds,
    /// When it last changed.
    pub updated: UnixSeconds,
}

/// One action of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LifetimeAction {
    /// When.
    pub trigger: Trigger,
    /// What.
    pub action: Action,
}

/// When an action is due: ISO 8601 durations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// So long after the newest version was made.
    TimeAfterCreate(String),
    /// So long before the newest version expires.
    TimeBeforeExpiry(String),
}

/// What an action does. `Notify` raises an event in Azure; the double sends none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Makes a new version.
    Rotate,
    /// Tells somebody.
    Notify,
}

/// `from` plus an ISO 8601 duration, in UTC (months and years as in the calendar); `None` when the duration
/// can't be read or leaves the range of dates.
pub fn add_duration(from: UnixSeconds, iso_8601: &str) -> Option<UnixSeconds> {
    shift(from, iso_8601, false)
}

fn shift(from: UnixSeconds, iso_8601: &str, back: bool) -> Option<UnixSeconds> {
    // jiff reads other notations too.
    let span: jiff::Span = iso_8601.starts_with('P').then(|| iso_8601.parse().ok())??;
    let span = if back { span.negate() } else { span };
    let start = jiff::Timestamp::from_second(from).ok()?.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    Some(start.checked_add(span).ok()?.timestamp().as_second())
}

impl Key {
    /// When the policy next wants a new version; `None` when nothing is to happen.
    pub fn rotation_due(&self) -> Option<UnixSeconds> {
        let policy = self.rotation_policy.as_ref()?;
        let newest = self.newest()?;
        policy
            .lifetime_actions
            .iter()
            .filter(|a| a.action == Action::Rotate)
            .filter_map(|a| match &a.trigger {
                Trigger::TimeAfterCreate(after) => shift(newest.created, after, false),
                Trigger::TimeBeforeExpiry(before) => shift(newest.expires?, before, true),
            })
            .min()
    }
}

impl Vault {
    /// Names of live keys whose rotation is due.
    pub fn rotations_due(&self, now: UnixSeconds) -> Vec<String> {
        self.keys
            .iter()
            .filter(|(_, key)| key.rotation_due().is_some_and(|due| due <= now))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::add_duration;

    #[test]
    fn durations_follow_the_calendar() {
        let new_year = 1_767_225_600; // 2026-01-01T00:00:00Z
        assert_eq!(add_duration(new_year, "P90D"), Some(new_year + 90 * 86_400));
        assert_eq!(add_duration(new_year, "P1M"), Some(new_year + 31 * 86_400));
        assert_eq!(add_duration(new_year, "P2Y"), Some(new_year + (365 + 365) * 86_400));
        for wrong in ["ninety days", "2 years", "-P1D", ""] {
            assert_eq!(add_duration(new_year, wrong), None, "{wrong:?}");
        }
    }
}
