//! What a check of a stored configuration changes in what is known of it. Pure.
//!
//! An outage never makes a key invalid, and one refusal alone does not either: it is asked again a minute later.

use keyward_model::{
    Timestamp,
    encryption::{SeenRotation, Validity},
    event::EventType,
};

use super::{VaultRotation, outcome::Outcome};

/// A configuration is checked this often, in milliseconds: every 15 minutes.
pub const INTERVAL_MS: i64 = 15 * 60_000;
/// And this often while something is amiss, in milliseconds.
pub const SHORT_INTERVAL_MS: i64 = 60_000;

/// The vault's rotation policy is looked at this often, in milliseconds: once a day. Where that is not allowed, the
/// customer's log has no more than one line a day of it.
pub const ROTATION_INTERVAL_MS: i64 = 24 * 3_600_000;
/// And this often while nobody answers, in milliseconds: once an hour.
pub const ROTATION_RETRY_MS: i64 = 3_600_000;

/// Whether it is time to look at the vault's rotation policy. A clock that was set back makes it so.
pub fn is_rotation_due(validity: &Validity, now: Timestamp) -> bool {
    let Some(seen) = validity.rotation else { return validity.valid };
    let left_ms = seen.look_again_at.epoch_ms().saturating_sub(now.epoch_ms());
    validity.valid && !(1..=ROTATION_INTERVAL_MS).contains(&left_ms)
}

/// What is known of the vault's rotation policy after it was looked at at `now`. Nobody answering changes nothing.
pub fn rotation_after(was: Option<SeenRotation>, seen: VaultRotation, now: Timestamp) -> SeenRotation {
    let (after_days, wait_ms) = match seen {
        VaultRotation::Seen(days) => (days, ROTATION_INTERVAL_MS),
        VaultRotation::NotSeen => (was.and_then(|was| was.after_days), ROTATION_RETRY_MS),
    };
    SeenRotation { after_days, look_again_at: Timestamp::from_epoch_ms(now.epoch_ms() + wait_ms) }
}

/// Whether it is time to check again. A clock that was set back makes it so.
pub fn is_due(validity: &Validity, now: Timestamp) -> bool {
    let Some(checked_at) = validity.checked_at else { return true };
    let amiss = !validity.valid || validity.refused_at.is_some() || validity.unreachable_since.is_some();
    let interval_ms = if amiss { SHORT_INTERVAL_MS } else { INTERVAL_MS };
    now.epoch_ms().saturating_sub(checked_at.epoch_ms()) >= interval_ms || checked_at > now
}

/// What is known after a check that came to `outcome` at `now`, and the event that tells of it, if it is news.
pub fn after(was: &Validity, outcome: &Outcome, now: Timestamp) -> (Validity, Option<EventType>) {
    let mut is = Validity { checked_at: Some(now), ..was.clone() };
    match outcome {
        Outcome::Accepted { warnings } => {
            is = Validity {
                valid: true,
                checked_at: Some(now),
                warnings: warnings.clone(),
                rotation: was.rotation,
                ..Validity::default()
            };
            let news = match (was.valid, was.unreachable_told) {
                (false, _) => Some(EventType::EncryptionValidationSucceeded),
                (true, true) => Some(EventType::KeyNetworkAccessRestored),
                (true, false) => None,
            };
            (is, news)
        }
        Outcome::Refused { findings, .. } => {
            is.findings = findings.clone();
            // It answers, so it can be reached.
            is.unreachable_since = None;
            is.unreachable_told = false;
            match (was.valid, was.refused_at) {
                (true, None) => {
                    is.refused_at = Some(now);
                    (is, None)
                }
                (true, Some(_)) => {
                    is.valid = false;
                    is.refused_at = None;
                    (is, Some(EventType::EncryptionValidationFailed))
                }
                (false, _) => (is, None),
            }
        }
        Outcome::Unknown { findings, .. } => {
            is.findings = findings.clone();
            is.unreachable_since = was.unreachable_since.or(Some(now));
            let lasts = was.unreachable_since.is_some();
            let news = (lasts && !was.unreachable_told).then_some(EventType::KeyNetworkAccessDenied);
            is.unreachable_told = lasts;
            (is, news)
        }
    }
}

#[cfg(test)]
mod tests {
    use keyward_model::Code;
    use proptest::prelude::*;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_epoch_ms(1_790_000_000_000 + minutes * 60_000)
    }

    fn accepted() -> Outcome {
        Outcome::Accepted { warnings: vec!["w".into()] }
    }

    fn refused() -> Outcome {
        Outcome::Refused { code: Code::AzureKeyVaultKeyNotEnabled, findings: vec!["disabled".into()] }
    }

    fn unknown() -> Outcome {
        Outcome::unknown(["no answer".to_owned()])
    }

    fn valid() -> Validity {
        Validity { valid: true, checked_at: Some(at(0)), ..Validity::default() }
    }

    fn run(start: &Validity, outcomes: &[Outcome]) -> (Validity, Vec<EventType>) {
        let mut told = Vec::new();
        let mut validity = start.clone();
        for (minute, outcome) in (1..).zip(outcomes) {
            let (next, event) = after(&validity, outcome, at(minute));
            validity = next;
            told.extend(event);
        }
        (validity, told)
    }

    #[test]
    fn a_refusal_counts_when_it_is_confirmed() {
        let (validity, told) = run(&valid(), &[refused()]);
        assert!(validity.valid && told.is_empty());
        let (validity, told) = run(&valid(), &[refused(), accepted(), refused()]);
        assert!(validity.valid && told.is_empty());
        let (validity, told) = run(&valid(), &[refused(), refused(), refused()]);
        assert!(!validity.valid);
        assert_eq!(validity.findings, ["disabled"]);
        assert_eq!(told, [EventType::EncryptionValidationFailed]);
        let (validity, told) = run(&validity, &[accepted(), accepted()]);
        assert!(validity.valid && validity.findings.is_empty());
        assert_eq!(validity.warnings, ["w"]);
        assert_eq!(told, [EventType::EncryptionValidationSucceeded]);
    }

    #[test]
    fn an_outage_is_told_once_it_lasts_and_when_it_ends() {
        let (validity, told) = run(&valid(), &[unknown()]);
        assert!(validity.valid && told.is_empty());
        let (validity, told) = run(&valid(), &[unknown(), unknown(), unknown(), accepted(), accepted()]);
        assert!(validity.valid && validity.unreachable_since.is_none());
        assert_eq!(told, [EventType::KeyNetworkAccessDenied, EventType::KeyNetworkAccessRestored]);
    }

    #[test]
    fn it_is_due_sooner_while_something_is_amiss() {
        assert!(is_due(&Validity::default(), at(0)));
        assert!(!is_due(&valid(), at(14)));
        assert!(is_due(&valid(), at(15)));
        assert!(is_due(&valid(), at(-1)), "a clock that was set back");
        let doubted = Validity { refused_at: Some(at(0)), ..valid() };
        assert!(!is_due(&doubted, at(0)) && is_due(&doubted, at(1)));
    }

    #[test]
    fn the_rotation_policy_is_looked_at_once_a_day_and_an_outage_forgets_nothing() {
        let after_hours = |hours: i64| at(hours * 60);
        let mut validity = valid();
        assert!(is_rotation_due(&validity, at(0)));
        assert!(!is_rotation_due(&Validity { valid: false, ..valid() }, at(0)), "first things first");
        let seen = rotation_after(None, VaultRotation::Seen(Some(90)), at(0));
        validity.rotation = Some(seen);
        assert!(!is_rotation_due(&validity, after_hours(23)) && is_rotation_due(&validity, after_hours(24)));
        assert!(is_rotation_due(&validity, after_hours(-1)), "a clock that was set back");
        let silent = rotation_after(Some(seen), VaultRotation::NotSeen, after_hours(24));
        assert_eq!(silent.after_days, Some(90));
        validity.rotation = Some(silent);
        assert!(!is_rotation_due(&validity, at(24 * 60 + 59)) && is_rotation_due(&validity, after_hours(25)));
        let gone = rotation_after(Some(silent), VaultRotation::Seen(None), after_hours(25));
        assert_eq!(gone.after_days, None);
        // A check keeps it.
        let (checked, _) = after(&validity, &accepted(), after_hours(25));
        assert_eq!(checked.rotation, validity.rotation);
    }

    proptest! {
        /// Rule 3: whatever comes, outages alone never change `valid`, and each flip is told exactly once.
        #[test]
        fn any_sequence(kinds in proptest::collection::vec(0..3u8, 0..40), starts_valid in any::<bool>()) {
            let mut validity = Validity { valid: starts_valid, ..Validity::default() };
            for (minute, kind) in (1..).zip(kinds) {
                let outcome = match kind { 0 => accepted(), 1 => refused(), _ => unknown() };
                let (next, told) = after(&validity, &outcome, at(minute));
                let flip = match (validity.valid, next.valid) {
                    (true, false) => Some(EventType::EncryptionValidationFailed),
                    (false, true) => Some(EventType::EncryptionValidationSucceeded),
                    _ => None,
                };
                match flip {
                    Some(flip) => {
                        prop_assert_eq!(told, Some(flip));
                        prop_assert!(kind != 2);
                    }
                    None => prop_assert!(!matches!(
                        told,
                        Some(EventType::EncryptionValidationFailed | EventType::EncryptionValidationSucceeded)
                    )),
                }
                prop_assert_eq!(next.checked_at, Some(at(minute)));
                validity = next;
            }
        }
    }
}
