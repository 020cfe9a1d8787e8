//! What the evidence adds up to (DESIGN rules 3 and 4). One pure function decides: [`judge`].

use serde::{Deserialize, Serialize};

use crate::{BootInstant, Class, Weight};

/// What the evidence adds up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// The customer key answers.
    Valid,
    /// It cannot be used now, and nothing says for certain that it was taken away.
    Unavailable,
    /// It was taken away.
    Revoked,
}

/// When refusals add up to `Revoked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationPolicy {
    /// Refusals needed, of either weight.
    pub refusals: u32,
    /// Time from the first to the last of them when all are strong, in milliseconds.
    pub strong_window_ms: u64,
    /// The same when any of them is a denial, in milliseconds.
    pub denial_window_ms: u64,
    /// Two refusals further apart than this are no run, in milliseconds.
    pub gap_ms: u64,
}

impl Default for RevocationPolicy {
    fn default() -> Self {
        Self { refusals: 3, strong_window_ms: 60_000, denial_window_ms: 600_000, gap_ms: 600_000 }
    }
}

/// Refusals in a row, with nothing but neutral evidence between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalRun {
    /// The first refusal.
    pub first: BootInstant,
    /// The last one.
    pub last: BootInstant,
    /// How many.
    pub count: u32,
    /// Whether any of them is a denial, so that the longer window holds.
    pub has_denial: bool,
}

/// All that [`judge`] remembers. The agent keeps it across its restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// The verdict now.
    pub verdict: Verdict,
    /// The refusals that have not been answered by a success yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<RefusalRun>,
}

impl Default for Judgement {
    /// Nothing is known yet.
    fn default() -> Self {
        Self { verdict: Verdict::Unavailable, refusals: None }
    }
}

/// Adds one piece of evidence, seen at `at`, to what was known before.
///
/// - A success makes the verdict `Valid` and forgets every refusal.
/// - A refusal extends the run; the run makes the verdict `Revoked` once it has `policy.refusals` members over
///   the window that its weakest member asks for. Before that the verdict is `Unavailable`.
/// - Neutral evidence never changes a run; it makes `Valid` into `Unavailable` and leaves `Revoked` as it is.
/// - A gap longer than `policy.gap_ms` between two refusals, or a reboot of the host, starts a new run.
pub fn judge(before: &Judgement, class: Class, at: &BootInstant, policy: &RevocationPolicy) -> Judgement {
    let has_denial = match class.weight() {
        Weight::Success => return Judgement { verdict: Verdict::Valid, refusals: None },
        Weight::Neutral => {
            let verdict = match before.verdict {
                Verdict::Revoked => Verdict::Revoked,
                Verdict::Valid | Verdict::Unavailable => Verdict::Unavailable,
            };
            return Judgement { verdict, refusals: before.refusals.clone() };
        }
        Weight::Strong => false,
        Weight::Denial => true,
    };
    let joined =
        before.refusals.as_ref().filter(|run| at.ms_since(&run.last).is_some_and(|gap| gap <= policy.gap_ms));
    let run = match joined {
        Some(run) => RefusalRun {
            first: run.first.clone(),
            last: at.clone(),
            count: run.count.saturating_add(1),
            has_denial: run.has_denial || has_denial,
        },
        None => RefusalRun { first: at.clone(), last: at.clone(), count: 1, has_denial },
    };
    let window_ms = if run.has_denial { policy.denial_window_ms } else { policy.strong_window_ms };
    let long_enough = run.last.ms_since(&run.first).is_some_and(|span| span >= window_ms);
    let revoked = before.verdict == Verdict::Revoked || (run.count >= policy.refusals && long_enough);
    let verdict = if revoked { Verdict::Revoked } else { Verdict::Unavailable };
    Judgement { verdict, refusals: Some(run) }
}

/// The verdict at a start of the node, when no key is in memory yet: one refusal is enough (DESIGN rule 4).
pub fn judge_at_start(class: Class) -> Verdict {
    match class.weight() {
        Weight::Success => Verdict::Valid,
        Weight::Strong | Weight::Denial => Verdict::Revoked,
        Weight::Neutral => Verdict::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant { boot_id: "b".into(), ms }
    }

    fn run(seen: &[(u64, Class)]) -> Judgement {
        let policy = RevocationPolicy::default();
        seen.iter()
            .fold(Judgement::default(), |before, (ms, class)| judge(&before, *class, &at(*ms), &policy))
    }

    #[test]
    fn three_strong_refusals_over_a_minute_revoke() {
        assert_eq!(
            run(&[(0, Class::KeyDisabled), (30_000, Class::KeyDisabled), (59_999, Class::KeyDisabled)])
                .verdict,
            Verdict::Unavailable
        );
        assert_eq!(
            run(&[(0, Class::KeyDisabled), (30_000, Class::KeyDisabled), (60_000, Class::KeyDisabled)])
                .verdict,
            Verdict::Revoked
        );
    }

    #[test]
    fn mixed_refusals_take_the_longer_window() {
        let early = [(0, Class::KeyDisabled), (60_000, Class::DeniedByRbac), (120_000, Class::KeyDisabled)];
        assert_eq!(run(&early).verdict, Verdict::Unavailable);
        let late = [(0, Class::KeyDisabled), (300_000, Class::DeniedByRbac), (600_000, Class::KeyDisabled)];
        assert_eq!(run(&late).verdict, Verdict::Revoked);
    }

    #[test]
    fn an_outage_is_neutral_and_a_success_resets() {
        let with_outage = [
            (0, Class::KeyDisabled),
            (20_000, Class::TimedOut),
            (30_000, Class::KeyDisabled),
            (60_000, Class::KeyDisabled),
        ];
        assert_eq!(run(&with_outage).verdict, Verdict::Revoked);
        let with_success = [
            (0, Class::KeyDisabled),
            (20_000, Class::Success),
            (30_000, Class::KeyDisabled),
            (60_000, Class::KeyDisabled),
        ];
        assert_eq!(run(&with_success).verdict, Verdict::Unavailable);
    }

    #[test]
    fn revoked_holds_until_a_success() {
        let seen = [
            (0, Class::KeyDisabled),
            (30_000, Class::KeyDisabled),
            (60_000, Class::KeyDisabled),
            (90_000, Class::TimedOut),
            (5_000_000, Class::KeyDisabled),
        ];
        assert_eq!(run(&seen).verdict, Verdict::Revoked);
        let healed = judge(&run(&seen), Class::Success, &at(5_000_001), &RevocationPolicy::default());
        assert_eq!(healed, Judgement { verdict: Verdict::Valid, refusals: None });
    }
}
