//! With a limit on locked memory that is too small, keys are made all the same, and the state says so.
//!
//! One test in a process of its own, because the limit is the process's.
#![allow(clippy::unwrap_used, missing_docs)]

use keyward_keys::{DatabaseKey, MemoryLock, memory_lock};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

#[test]
fn a_small_memlock_limit_is_survived_and_reported() {
    // Root may lock without limit; a container's process usually may not.
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).unwrap();
    let maximum = getrlimit(Resource::Memlock).maximum;
    setrlimit(Resource::Memlock, Rlimit { current: Some(64 << 10), maximum }).unwrap();

    let mut keys = vec![DatabaseKey::make().unwrap()];
    assert_eq!(memory_lock(), MemoryLock::Locked, "64 KiB are enough for some keys");
    keys.extend((0..5_000).map(|_| DatabaseKey::make().unwrap()));
    let MemoryLock::NotLocked { reason } = memory_lock() else {
        panic!("160 KB of keys cannot be locked in 64 KiB");
    };
    assert!(reason.contains("RLIMIT_MEMLOCK"), "{reason}");
    assert!(keys.iter().all(|key| key.is(key.expose())));
    assert!(!keys[0].is(keys[5_000].expose()));
}
