//! Token buckets by key. Pure: the time comes in, in any unit that the owner counts in.

use std::{collections::HashMap, hash::Hash};

/// Most keys that are remembered; beyond it those that are nearest to being forgotten go.
pub(crate) const MOST: usize = 10_000;

/// A token bucket per key, as the moment at which it will be full again.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    full_at: HashMap<K, i64>,
    burst: u32,
    refill: i64,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// Each holds `burst` tokens and gets one back in `refill`.
    pub(crate) fn new(burst: u32, refill: i64) -> Self {
        Self { full_at: HashMap::new(), burst, refill }
    }

    /// Whether there is a token; else how long until there is one.
    pub(crate) fn check(&self, key: &K, now: i64) -> Result<(), i64> {
        let wait = self.missing(key, now) - (self.whole() - self.refill);
        if wait <= 0 { Ok(()) } else { Err(wait) }
    }

    /// Takes a token, where there is one.
    pub(crate) fn take(&mut self, key: K, now: i64) {
        if self.full_at.len() >= MOST && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MOST
                && let Some(nearest) =
                    self.full_at.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
            {
                self.full_at.remove(&nearest);
            }
        }
        let whole = self.whole();
        let entry = self.full_at.entry(key).or_insert(now);
        *entry = ((*entry).clamp(now, now + whole) + self.refill).min(now + whole);
    }

    /// How many tokens there are.
    pub(crate) fn left(&self, key: &K, now: i64) -> u32 {
        // One that has come back in part is not there yet.
        let missing = (self.missing(key, now).max(0) + self.refill - 1) / self.refill;
        self.burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// Time until the bucket is full. A clock that went back must not lock anyone out: no more than a whole bucket
    /// can be missing.
    fn missing(&self, key: &K, now: i64) -> i64 {
        self.full_at.get(key).map_or(0, |full_at| (full_at - now).min(self.whole()))
    }

    fn whole(&self) -> i64 {
        i64::from(self.burst) * self.refill
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let mut buckets = Buckets::new(3, 1000);
        for left in [3, 2, 1] {
            assert_eq!((buckets.left(&"a", 0), buckets.check(&"a", 0)), (left, Ok(())));
            buckets.take("a", 0);
        }
        assert_eq!((buckets.left(&"a", 0), buckets.check(&"a", 0)), (0, Err(1000)));
        assert_eq!(buckets.check(&"a", 400), Err(600));
        assert_eq!((buckets.left(&"a", 1000), buckets.check(&"a", 1000)), (1, Ok(())));
        assert_eq!(buckets.left(&"a", 9000), 3);
        assert_eq!(buckets.left(&"b", 0), 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut buckets = Buckets::new(3, 1000);
        for key in 0..(MOST + 10) {
            buckets.take(key, 0);
        }
        assert_eq!(buckets.full_at.len(), MOST);
    }

    proptest! {
        /// In any stretch of time no more is let through than a whole bucket and what came back meanwhile, whatever
        /// the clock does; and who waits as long as told is let through.
        #[test]
        fn no_more_than_the_rate(steps in proptest::collection::vec(0_i64..300, 1..200), burst in 1_u32..10) {
            let mut buckets = Buckets::new(burst, 100);
            let (mut now, mut taken) = (0, 0_i64);
            for step in steps {
                now += step;
                match buckets.check(&(), now) {
                    Ok(()) => {
                        prop_assert!(buckets.left(&(), now) >= 1);
                        buckets.take((), now);
                        taken += 1;
                    }
                    Err(wait) => {
                        prop_assert_eq!(buckets.left(&(), now), 0);
                        prop_assert!((1..=100).contains(&wait));
                        prop_assert_eq!(buckets.check(&(), now + wait), Ok(()));
                    }
                }
                prop_assert!(taken <= i64::from(burst) + now / 100);
            }
            prop_assert!(buckets.check(&(), -1_000_000).map_or_else(|wait| wait <= 100, |()| true));
        }
    }
}
