//! How often one may guess: refused signatures, secrets and tokens, by address and by name.
//!
//! An address that guessed too often is not heard for a while. A name that was guessed at too often still lets in who
//! has its key: else anyone could lock its owner out, and keys are too long to be guessed.
//!
//! Kept in memory: a restart forgets, and each of several servers counts for itself.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use keyward_model::Timestamp;

use super::buckets::Buckets;

/// Refusals in a row that an address has before it must wait.
const ADDRESS_BURST: u32 = 50;
/// An address gets one back in this time, ms.
const ADDRESS_REFILL_MS: i64 = 1_000;
/// Refusals in a row that a name has before it must wait.
const NAME_BURST: u32 = 20;
/// A name gets one back in this time, ms.
const NAME_REFILL_MS: i64 = 3_000;

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
    /// Whether `address` may try to sign in; else the seconds to wait.
    pub fn may_try(&self, address: IpAddr, now: Timestamp) -> Result<(), u64> {
        lock(&self.addresses).check(&network(address), now.epoch_ms()).map_err(seconds)
    }

    /// Notes a refusal. `Err`: there were too many of that name already; the seconds to wait.
    pub fn refused(&self, address: IpAddr, name: Option<&str>, now: Timestamp) -> Result<(), u64> {
        let now_ms = now.epoch_ms();
        lock(&self.addresses).take(network(address), now_ms);
        let Some(name) = name.map(shortened) else { return Ok(()) };
        let mut names = lock(&self.names);
        let enough = names.check(&name, now_ms).map_err(seconds);
        names.take(name, now_ms);
        enough
    }
}

fn seconds(wait_ms: i64) -> u64 {
    wait_ms.unsigned_abs().div_ceil(1000).max(1)
}

/// Who has one IPv6 address has its whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
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
            assert_eq!(limits.may_try(HERE, at(0)), Ok(()), "{index}");
            assert_eq!(limits.refused(HERE, None, at(0)), Ok(()));
        }
        assert_eq!(limits.may_try(HERE, at(0)), Err(1));
        assert_eq!(limits.may_try("10.0.0.1".parse().unwrap(), at(0)), Ok(()));
        assert_eq!(limits.may_try(HERE, at(ADDRESS_REFILL_MS)), Ok(()));
        limits.refused(HERE, None, at(ADDRESS_REFILL_MS)).unwrap();
        assert!(limits.may_try(HERE, at(ADDRESS_REFILL_MS)).is_err());
    }

    #[test]
    fn guesses_at_a_name_are_limited_from_all_addresses_together_and_lock_nobody_out() {
        let limits = Limits::default();
        for index in 0..NAME_BURST {
            assert_eq!(limits.refused(IpAddr::V4(index.into()), Some("abcdefgh"), at(0)), Ok(()));
        }
        let fresh: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(limits.refused(fresh, Some("abcdefgh"), at(0)), Err(3));
        assert_eq!(limits.may_try(fresh, at(0)), Ok(()), "who has the key is let in");
        assert_eq!(limits.refused(fresh, Some("other"), at(0)), Ok(()));
        assert_eq!(limits.refused(fresh, Some("abcdefgh"), at(NAME_REFILL_MS)), Ok(()));
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
            limits.refused(HERE, None, at(3_600_000)).unwrap();
        }
        let wait = limits.may_try(HERE, at(0)).unwrap_err();
        assert!(wait <= (ADDRESS_REFILL_MS as u64).div_ceil(1000), "{wait}");
    }
}
