//! How often one may guess: refused signatures, passwords and tokens, by address and by name.
//!
//! Kept in memory: a restart forgets, and each of several servers counts for itself.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use keyward_model::Timestamp;

/// Refusals in a row that an address has before it must wait.
const ADDRESS_BURST: u32 = 50;
/// An address gets one back in this time, ms.
const ADDRESS_REFILL_MS: i64 = 1_000;
/// Refusals in a row that a name has before it must wait.
const NAME_BURST: u32 = 20;
/// A name gets one back in this time, ms.
const NAME_REFILL_MS: i64 = 3_000;
/// Most addresses and most names that are remembered; beyond it those that are nearest to being forgotten go.
const MOST: usize = 10_000;

/// Counts refusals.
#[derive(Debug)]
pub struct Limits {
    addresses: Mutex<Buckets<IpAddr>>,
    names: Mutex<Buckets<String>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            addresses: Mutex::new(Buckets::new(ADDRESS_BURST, ADDRESS_REFILL_MS)),
            names: Mutex::new(Buckets::new(NAME_BURST, NAME_REFILL_MS)),
        }
    }
}

impl Limits {
    /// Whether `address` may try to sign in as `name`; else the seconds to wait.
    pub fn may_try(&self, address: IpAddr, name: Option<&str>, now: Timestamp) -> Result<(), u64> {
        let network = network(address);
        lock(&self.addresses).check(&network, now)?;
        name.map_or(Ok(()), |name| lock(&self.names).check(&shortened(name), now))
    }

    /// Notes a refusal.
    pub fn refused(&self, address: IpAddr, name: Option<&str>, now: Timestamp) {
        lock(&self.addresses).take(network(address), now);
        if let Some(name) = name {
            lock(&self.names).take(shortened(name), now);
        }
    }
}

/// Who has one IPv6 address has its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token bucket per key, as the moment at which it will be full again.
#[derive(Debug)]
struct Buckets<K> {
    full_at_ms: HashMap<K, i64>,
    burst: u32,
    refill_ms: i64,
}

impl<K: std::hash::Hash + Eq + Clone> Buckets<K> {
    fn new(burst: u32, refill_ms: i64) -> Self {
        Self { full_at_ms: HashMap::new(), burst, refill_ms }
    }

    fn check(&self, key: &K, now: Timestamp) -> Result<(), u64> {
        let Some(full_at) = self.full_at_ms.get(key) else { return Ok(()) };
        // A clock that went back must not lock anyone out: no more than a whole bucket can be missing.
        let whole = i64::from(self.burst) * self.refill_ms;
        let missing = (full_at - now.epoch_ms()).min(whole);
        let wait_ms = missing - (whole - self.refill_ms);
        if wait_ms <= 0 { Ok(()) } else { Err((wait_ms as u64).div_ceil(1000).max(1)) }
    }

    fn take(&mut self, key: K, now: Timestamp) {
        let now_ms = now.epoch_ms();
        if self.full_at_ms.len() >= MOST && !self.full_at_ms.contains_key(&key) {
            self.full_at_ms.retain(|_, full_at| *full_at > now_ms);
            if self.full_at_ms.len() >= MOST
                && let Some(nearest) =
                    self.full_at_ms.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
            {
                self.full_at_ms.remove(&nearest);
            }
        }
        let whole = i64::from(self.burst) * self.refill_ms;
        let entry = self.full_at_ms.entry(key).or_insert(now_ms);
        *entry = ((*entry).clamp(now_ms, now_ms + whole) + self.refill_ms).min(now_ms + whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_epoch_ms(1_000_000 + ms)
    }

    #[test]
    fn an_address_waits_after_its_burst_and_gets_on_with_time() {
        let limits = Limits::default();
        for index in 0..ADDRESS_BURST {
            assert_eq!(limits.may_try(HERE, None, at(0)), Ok(()), "{index}");
            limits.refused(HERE, None, at(0));
        }
        assert_eq!(limits.may_try(HERE, None, at(0)), Err(1));
        assert_eq!(limits.may_try("10.0.0.1".parse().unwrap(), None, at(0)), Ok(()));
        assert_eq!(limits.may_try(HERE, None, at(ADDRESS_REFILL_MS)), Ok(()));
        limits.refused(HERE, None, at(ADDRESS_REFILL_MS));
        assert!(limits.may_try(HERE, None, at(ADDRESS_REFILL_MS)).is_err());
    }

    #[test]
    fn a_name_is_limited_from_all_addresses_together() {
        let limits = Limits::default();
        for index in 0..NAME_BURST {
            limits.refused(IpAddr::V4(index.into()), Some("abcdefgh"), at(0));
        }
        let fresh: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(limits.may_try(fresh, Some("abcdefgh"), at(0)).is_err());
        assert_eq!(limits.may_try(fresh, Some("other"), at(0)), Ok(()));
        assert_eq!(limits.may_try(fresh, Some("abcdefgh"), at(NAME_REFILL_MS)), Ok(()));
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn a_clock_that_jumps_back_locks_nobody_out_for_long() {
        let limits = Limits::default();
        for _ in 0..ADDRESS_BURST {
            limits.refused(HERE, None, at(3_600_000));
        }
        let wait = limits.may_try(HERE, None, at(0)).unwrap_err();
        assert!(wait <= (ADDRESS_REFILL_MS as u64).div_ceil(1000), "{wait}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut buckets = Buckets::new(3, 1000);
        for key in 0..(MOST + 10) {
            buckets.take(key, at(0));
        }
        assert_eq!(buckets.full_at_ms.len(), MOST);
    }
}
