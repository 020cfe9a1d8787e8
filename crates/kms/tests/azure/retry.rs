//! When a call is tried again.

use std::time::Duration;

use keyward_kms::azure::retry::RetryPolicy;
use keyward_model::{Class, Weight};
use proptest::prelude::*;

const WORK: RetryPolicy = RetryPolicy::WORK;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// 1, 2, 4, 8 s: half fixed, half chance.
#[test]
fn delays_double() {
    let delay = |tried, jitter| WORK.next_delay(Class::ServerFault, tried, None, Duration::ZERO, jitter);
    assert_eq!([1, 2, 3, 4].map(|n| delay(n, 1.0)), [1000, 2000, 4000, 8000].map(|n| Some(ms(n))));
    assert_eq!([1, 2, 3, 4].map(|n| delay(n, 0.0)), [500, 1000, 2000, 4000].map(|n| Some(ms(n))));
    assert_eq!(delay(5, 0.0), None, "five tries in all");
    let patient = RetryPolicy { attempts: 100, budget: Duration::from_secs(10_000), ..WORK };
    for tried in [6, 40, 99] {
        let delay = patient.next_delay(Class::Throttled, tried, None, Duration::ZERO, 1.0);
        assert_eq!(delay, Some(Duration::from_secs(16)), "bounded after {tried}");
    }
}

/// Never earlier than asked; when that is too late there is no further try.
#[test]
fn retry_after_is_respected() {
    let asked = |s, jitter| {
        WORK.next_delay(Class::Throttled, 1, Some(Duration::from_secs(s)), Duration::from_secs(2), jitter)
    };
    assert_eq!(asked(10, 0.0), Some(ms(10_250)));
    assert_eq!(asked(10, 1.0), Some(ms(10_500)));
    assert_eq!(asked(0, 0.0), Some(ms(250)));
    assert_eq!(asked(28, 0.0), None, "2 s gone, 28 s asked for, chance on top: over 30 s");
    assert_eq!(asked(u64::MAX, 0.0), None);
}

#[test]
fn the_budget_ends_the_trying() {
    let delay = |elapsed| WORK.next_delay(Class::TimedOut, 2, None, Duration::from_secs(elapsed), 1.0);
    assert_eq!(delay(28), Some(Duration::from_secs(2)));
    assert_eq!(delay(29), None);
}

/// What passes by itself is tried again; an answer that stands is not.
#[test]
fn only_what_passes_by_itself_is_tried_again() {
    let again: Vec<Class> = Class::ALL
        .into_iter()
        .filter(|class| WORK.next_delay(*class, 1, None, Duration::ZERO, 0.5).is_some())
        .collect();
    assert_eq!(
        again,
        [
            Class::TimedOut,
            Class::ConnectionFailed,
            Class::NameNotResolved,
            Class::Unauthorized,
            Class::Throttled,
            Class::ServerFault,
            Class::DirectoryUnavailable
        ]
    );
}

proptest! {
    #[test]
    fn bounds_hold(
        class in prop::sample::select(Class::ALL.to_vec()),
        tried in 1u32..200,
        retry_after_s in prop::option::of(any::<u64>()),
        elapsed_ms in 0u64..100_000,
        jitter in -1.0f64..2.0,
        probe in any::<bool>(),
    ) {
        let policy = if probe { RetryPolicy::PROBE } else { WORK };
        let retry_after = retry_after_s.map(Duration::from_secs);
        if let Some(delay) = policy.next_delay(class, tried, retry_after, ms(elapsed_ms), jitter) {
            prop_assert!(tried < policy.attempts);
            prop_assert!(ms(elapsed_ms) + delay <= policy.budget);
            prop_assert!(delay >= retry_after.unwrap_or(policy.first_delay / 2));
            prop_assert_eq!(class.weight(), Weight::Neutral);
        }
    }
}
