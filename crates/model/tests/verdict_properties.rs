//! Properties of the one function that decides about a revocation, over generated histories.

use keyward_model::{
    BootInstant, Class, Judgement, RevocationPolicy, Verdict, Weight,
    verdict::{judge, judge_at_start},
};
use proptest::prelude::*;

/// One piece of evidence: milliseconds since the one before, whether the host was rebooted before it, its class.
type Step = (u64, bool, Class);

fn any_class() -> impl Strategy<Value = Class> {
    prop::sample::select(Class::ALL.to_vec())
}

fn class_of(weights: &'static [Weight]) -> impl Strategy<Value = Class> {
    prop::sample::select(
        Class::ALL.into_iter().filter(|class| weights.contains(&class.weight())).collect::<Vec<_>>(),
    )
}

/// Pauses around the limits that matter: nothing, a probe interval, just under, at and over gap and windows.
fn pause_ms() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        Just(1),
        Just(20_000),
        Just(30_000),
        Just(60_000),
        Just(300_000),
        Just(599_999),
        Just(600_000),
        Just(600_001),
        0u64..1_000_000,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    (pause_ms(), prop::bool::weighted(0.05), any_class())
}

fn policy() -> impl Strategy<Value = RevocationPolicy> {
    prop_oneof![
        3 => Just(RevocationPolicy::default()),
        1 => (1u32..6, 0u64..120_000, 0u64..900_000, 1u64..900_000).prop_map(
            |(refusals, strong_window_ms, longer_by_ms, gap_ms)| RevocationPolicy {
                refusals,
                strong_window_ms,
                denial_window_ms: strong_window_ms + longer_by_ms,
                gap_ms,
            }
        ),
    ]
}

/// Puts steps on the boot clock. A rebooted host starts at 0 under a new id.
fn timeline(steps: &[Step]) -> Vec<(BootInstant, Class)> {
    let (mut boot, mut ms) = (0, 1_000);
    let mut seen = Vec::new();
    for (pause_ms, rebooted, class) in steps {
        if *rebooted {
            (boot, ms) = (boot + 1, 0);
        }
        ms += pause_ms;
        seen.push((BootInstant { boot_id: format!("boot-{boot}"), ms }, *class));
    }
    seen
}

fn judge_all(before: Judgement, seen: &[(BootInstant, Class)], policy: &RevocationPolicy) -> Judgement {
    seen.iter().fold(before, |judgement, (at, class)| judge(&judgement, *class, at, policy))
}

fn is_refusal(class: Class) -> bool {
    matches!(class.weight(), Weight::Strong | Weight::Denial)
}

/// DESIGN rules 3 and 4 told over the whole history at once, without any remembered state.
fn told_from_history(seen: &[(BootInstant, Class)], policy: &RevocationPolicy) -> Verdict {
    let Some((_, last)) = seen.last() else { return Verdict::Unavailable };
    if last.weight() == Weight::Success {
        return Verdict::Valid;
    }
    let since_success =
        seen.iter().rposition(|(_, class)| class.weight() == Weight::Success).map_or(0, |at| at + 1);
    let refusals: Vec<_> = seen[since_success..].iter().filter(|(_, class)| is_refusal(*class)).collect();
    for first in 0..refusals.len() {
        let starts_a_run = first == 0 || !follows(&refusals[first - 1].0, &refusals[first].0, policy);
        if !starts_a_run {
            continue;
        }
        for end in first..refusals.len() {
            if end > first && !follows(&refusals[end - 1].0, &refusals[end].0, policy) {
                break;
            }
            let run = &refusals[first..=end];
            let has_denial = run.iter().any(|(_, class)| class.weight() == Weight::Denial);
            let window_ms = if has_denial { policy.denial_window_ms } else { policy.strong_window_ms };
            let span_ms = run[run.len() - 1].0.ms - run[0].0.ms;
            if run.len() >= policy.refusals as usize && span_ms >= window_ms {
                return Verdict::Revoked;
            }
        }
    }
    Verdict::Unavailable
}

fn follows(earlier: &BootInstant, later: &BootInstant, policy: &RevocationPolicy) -> bool {
    earlier.boot_id == later.boot_id && later.ms - earlier.ms <= policy.gap_ms
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The step-by-step function and the rules told over the whole history agree, after every step.
    #[test]
    fn agrees_with_the_rules_told_from_the_whole_history(
        steps in prop::collection::vec(step(), 0..40),
        policy in policy(),
    ) {
        let seen = timeline(&steps);
        let mut judgement = Judgement::default();
        for (n, (at, class)) in seen.iter().enumerate() {
            judgement = judge(&judgement, *class, at, &policy);
            prop_assert_eq!(judgement.verdict, told_from_history(&seen[..=n], &policy));
        }
    }

    /// An outage is no revocation, however long it lasts and whatever it looks like.
    #[test]
    fn neutral_evidence_alone_never_revokes(
        steps in prop::collection::vec((0u64..100_000_000, prop::bool::weighted(0.05), class_of(&[Weight::Neutral])), 1..200),
        policy in policy(),
        valid_before in any::<bool>(),
    ) {
        let verdict = if valid_before { Verdict::Valid } else { Verdict::Unavailable };
        let after = judge_all(Judgement { verdict, refusals: None }, &timeline(&steps), &policy);
        prop_assert_eq!(after, Judgement { verdict: Verdict::Unavailable, refusals: None });
    }

    /// A success makes everything before it as if it had not been.
    #[test]
    fn a_success_forgets_all(
        before in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..20),
        policy in policy(),
    ) {
        let success = (1, false, Class::Success);
        let steps: Vec<Step> = before.iter().copied().chain([success]).chain(after).collect();
        let seen = timeline(&steps);
        let (earlier, later) = seen.split_at(before.len() + 1);
        let at_success = judge_all(Judgement::default(), earlier, &policy);
        let fresh = Judgement { verdict: Verdict::Valid, refusals: None };
        prop_assert_eq!(&at_success, &fresh);
        prop_assert_eq!(judge_all(at_success, later, &policy), judge_all(fresh, later, &policy));
    }

    /// Neutral evidence put in anywhere takes nothing from a run and adds nothing to it.
    #[test]
    fn neutral_evidence_leaves_the_run_alone(
        steps in prop::collection::vec(step(), 1..30),
        noise in class_of(&[Weight::Neutral]),
        policy in policy(),
    ) {
        let seen = timeline(&steps);
        let noisy: Vec<_> = seen.iter().cloned().flat_map(|(at, class)| [(at.clone(), noise), (at, class)]).collect();
        let plain = judge_all(Judgement::default(), &seen, &policy);
        let disturbed = judge_all(Judgement::default(), &noisy, &policy);
        prop_assert_eq!(plain, disturbed);
    }

    /// Refusals each further apart than the gap, or each after a reboot, never add up.
    #[test]
    fn refusals_apart_never_add_up(
        steps in prop::collection::vec((600_001u64..10_000_000, class_of(&[Weight::Strong, Weight::Denial])), 1..50),
        by_reboot in any::<bool>(),
    ) {
        let steps: Vec<Step> =
            steps.into_iter().map(|(pause, class)| (if by_reboot { 1 } else { pause }, by_reboot, class)).collect();
        let after = judge_all(Judgement::default(), &timeline(&steps), &RevocationPolicy::default());
        prop_assert_eq!(after.verdict, Verdict::Unavailable);
        prop_assert_eq!(after.refusals.map(|run| run.count), Some(1));
    }

    /// A denial anywhere in a run asks for the long window, wherever it stands.
    #[test]
    fn a_mixed_run_takes_the_longer_window(
        strong in prop::collection::vec(class_of(&[Weight::Strong]), 3..30),
        denial in class_of(&[Weight::Denial]),
        place in any::<prop::sample::Index>(),
    ) {
        let mut classes = strong;
        // The denial comes before the strong ones could have decided by themselves.
        classes.insert(place.index(3), denial);
        let steps: Vec<Step> = classes.iter().map(|class| (20_000, false, *class)).collect();
        let policy = RevocationPolicy::default();
        for (n, (at, _)) in timeline(&steps).iter().enumerate() {
            let seen = &timeline(&steps)[..=n];
            let expected = if at.ms - seen[0].0.ms >= 600_000 { Verdict::Revoked } else { Verdict::Unavailable };
            prop_assert_eq!(judge_all(Judgement::default(), seen, &policy).verdict, expected);
        }
    }

    /// What is remembered survives being written and read between any two steps: a restart of the agent.
    #[test]
    fn survives_serialization_between_steps(steps in prop::collection::vec(step(), 1..40), policy in policy()) {
        let (mut kept, mut reread) = (Judgement::default(), Judgement::default());
        for (at, class) in timeline(&steps) {
            kept = judge(&kept, class, &at, &policy);
            let text = serde_json::to_string(&judge(&reread, class, &at, &policy)).unwrap();
            reread = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&kept, &reread);
        }
    }

    /// Once revoked, only a success changes the verdict.
    #[test]
    fn revoked_holds(steps in prop::collection::vec(step(), 1..40), policy in policy()) {
        let mut before = Judgement::default();
        for (at, class) in timeline(&steps) {
            let after = judge(&before, class, &at, &policy);
            if before.verdict == Verdict::Revoked && class.weight() != Weight::Success {
                prop_assert_eq!(after.verdict, Verdict::Revoked);
            }
            before = after;
        }
    }
}

/// Each limit at its exact value and one millisecond, or one refusal, beside it.
#[test]
fn exact_boundaries() {
    use Class::{DeniedByRbac as D, KeyDisabled as S, TimedOut as N};
    use Verdict::{Revoked, Unavailable};
    type Seen = &'static [(u64, Class)];
    #[rustfmt::skip]
    let cases: &[(&str, Seen, Verdict)] = &[
        ("two refusals are not enough",          &[(0, S), (600_000, S)],                              Unavailable),
        ("three, a millisecond early",           &[(0, S), (1, S), (59_999, S)],                       Unavailable),
        ("three, to the millisecond",            &[(0, S), (1, S), (60_000, S)],                       Revoked),
        ("all three at the end",                 &[(0, S), (60_000, S), (60_000, S)],                  Revoked),
        ("denials, a millisecond early",         &[(0, D), (1, D), (599_999, D)],                      Unavailable),
        ("denials, to the millisecond",          &[(0, D), (1, D), (600_000, D)],                      Revoked),
        ("mixed, at the short window",           &[(0, S), (1, D), (60_000, S)],                       Unavailable),
        ("mixed, at the long window",            &[(0, S), (1, D), (600_000, S)],                      Revoked),
        ("denial last, long window not over",    &[(0, S), (30_000, S), (60_000, D)],                  Unavailable),
        ("gap of exactly ten minutes joins",     &[(0, S), (600_000, S), (600_001, S)],                Revoked),
        ("one millisecond more starts anew",     &[(0, S), (600_001, S), (600_002, S)],                Unavailable),
        ("and the new run can decide",           &[(0, S), (600_001, S), (600_002, S), (660_001, S)],  Revoked),
        ("an outage fills no gap",               &[(0, S), (300_000, N), (600_001, S), (600_002, S)],  Unavailable),
        ("outage between is neutral",            &[(0, S), (1, N), (30_000, S), (2, N), (60_000, S)],  Revoked),
        ("outage does not end a revocation",     &[(0, S), (1, S), (60_000, S), (70_000, N)],          Revoked),
        ("a clock that runs back starts anew",   &[(100_000, S), (130_000, S), (90_000, S)],           Unavailable),
    ];
    for (name, seen, expected) in cases {
        let seen: Vec<_> =
            seen.iter().map(|(ms, class)| (BootInstant { boot_id: "b".into(), ms: *ms }, *class)).collect();
        let judged = judge_all(Judgement::default(), &seen, &RevocationPolicy::default());
        assert_eq!(judged.verdict, *expected, "{name}");
    }
}

/// A reboot between refusals: boot clocks cannot be compared, so the count starts anew.
#[test]
fn a_reboot_starts_the_count_anew() {
    let at = |boot: &str, ms| BootInstant { boot_id: boot.into(), ms };
    let seen = [
        (at("one", 0), Class::KeyDisabled),
        (at("one", 50_000), Class::KeyDisabled),
        (at("two", 60_000), Class::KeyDisabled),
        (at("two", 100_000), Class::KeyDisabled),
    ];
    let judged = judge_all(Judgement::default(), &seen, &RevocationPolicy::default());
    assert_eq!(judged.verdict, Verdict::Unavailable);
    let run = judged.refusals.unwrap();
    assert_eq!((run.count, run.first), (2, at("two", 60_000)));
}

/// At a start nothing is in memory yet: one definite refusal is enough, an outage is still none.
#[test]
fn at_start_one_refusal_is_enough() {
    for class in Class::ALL {
        let expected = match class.weight() {
            Weight::Success => Verdict::Valid,
            Weight::Strong | Weight::Denial => Verdict::Revoked,
            Weight::Neutral => Verdict::Unavailable,
        };
        assert_eq!(judge_at_start(class), expected, "{class:?}");
    }
}
