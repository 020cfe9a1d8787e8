//! What a check of a stored configuration changes in what is known of it. Pure.
//!
//! An outage never makes a key invalid, and one refusal alone does not either: it is asked again a minute later.

use keyward_model::{Timestamp, encryption::Validity, event::EventType};

use super::outcome::Outcome;

/// A configuration is checked this often, in milliseconds: every 15 minutes.
pub const INTERVAL_MS: i64 = 15 * 60_000;
/// And this often while something is amiss, in milliseconds.
pub const SHORT_INTERVAL_MS: i64 = 60_000;

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
                ..Validity::default()
            };
            let news = match (was.valid, was.unreachable_told) {
                (false, _) => Some(EventType::EncryptionValid),
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
                    (is, Some(EventType::EncryptionNoLongerValid))
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
        assert_eq!(told, [EventType::EncryptionNoLongerValid]);
        let (validity, told) = run(&validity, &[accepted(), accepted()]);
        assert!(validity.valid && validity.findings.is_empty());
        assert_eq!(validity.warnings, ["w"]);
        assert_eq!(told, [EventType::EncryptionValid]);
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

    proptest! {
        /// Rule 3: whatever comes, outages alone never change `valid`, and each flip is told exactly once.
        #[test]
        fn any_sequence(kinds in proptest::collection::vec(0..3u8, 0..40), starts_valid in any::<bool>()) {
            let mut validity = Validity { valid: starts_valid, ..Validity::default() };
            for (minute, kind) in (1..).zip(kinds) {
                let outcome = match kind { 0 => accepted(), 1 => refused(), _ => unknown() };
                let (next, told) = after(&validity, &outcome, at(minute));
                let flip = match (validity.valid, next.valid) {
                    (true, false) => Some(EventType::EncryptionNoLongerValid),
                    (false, true) => Some(EventType::EncryptionValid),
                    _ => None,
                };
                match flip {
                    Some(flip) => {
                        prop_assert_eq!(told, Some(flip));
                        prop_assert!(kind != 2);
                    }
                    None => prop_assert!(!matches!(
                        told,
                        Some(EventType::EncryptionNoLongerValid | EventType::EncryptionValid)
                    )),
                }
                prop_assert_eq!(next.checked_at, Some(at(minute)));
                validity = next;
            }
        }
    }
}
