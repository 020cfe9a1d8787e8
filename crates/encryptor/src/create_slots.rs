//! Wrappers for `create`, one for each method that was found in a session table.
//!
//! A process has several session tables (ordinary, read-only, minimal, and those of a second copy of WiredTiger), each with a
//! `create` of its own. A wrapper must know which one it stands for, without a lock and without a word in the session: so each
//! gets a numbered wrapper, for the life of the process.
#![allow(unsafe_code, reason = "the wrappers are called by C")]

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ffi::{CreateFn, WtSession, guard};

const SLOTS: usize = 16;

static ORIGINALS: [AtomicUsize; SLOTS] = [const { AtomicUsize::new(0) }; SLOTS];

static WRAPPERS: [CreateFn; SLOTS] = [
    wrapper::<0>,
    wrapper::<1>,
    wrapper::<2>,
    wrapper::<3>,
    wrapper::<4>,
    wrapper::<5>,
    wrapper::<6>,
    wrapper::<7>,
    wrapper::<8>,
    wrapper::<9>,
    wrapper::<10>,
    wrapper::<11>,
    wrapper::<12>,
    wrapper::<13>,
    wrapper::<14>,
    wrapper::<15>,
];

/// The wrapper that stands for the method at `original`; `None` once a process has shown more methods than any has.
pub(crate) fn wrapper_of(original: usize) -> Option<CreateFn> {
    for (slot, wrapper) in ORIGINALS.iter().zip(WRAPPERS) {
        match slot.compare_exchange(0, original, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(wrapper),
            Err(taken) if taken == original => return Some(wrapper),
            Err(_) => {}
        }
    }
    None
}

/// # Safety
/// As WiredTiger's `create`.
unsafe extern "C" fn wrapper<const SLOT: usize>(
    session: *mut WtSession,
    uri: *const c_char,
    config: *const c_char,
) -> c_int {
    guard(|| {
        let original = ORIGINALS[SLOT].load(Ordering::Acquire);
        // SAFETY: a wrapper is handed out only after its slot was filled with a verified `create`.
        let original = unsafe { std::mem::transmute::<usize, CreateFn>(original) };
        // SAFETY: the caller's arguments.
        unsafe { crate::extension::create(original, session, uri, config) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(wrapper: Option<CreateFn>) -> Option<usize> {
        wrapper.map(|wrapper| wrapper as usize)
    }

    #[test]
    fn one_method_has_one_wrapper_and_they_run_out_without_harm() {
        let first = address(wrapper_of(0x1000));
        assert!(first.is_some());
        assert_eq!(address(wrapper_of(0x1000)), first);
        let mut seen = vec![first];
        for method in 0x2000..0x2000 + SLOTS - 1 {
            let wrapper = address(wrapper_of(method));
            assert!(wrapper.is_some() && !seen.contains(&wrapper));
            seen.push(wrapper);
        }
        assert_eq!(address(wrapper_of(0x9000)), None);
        assert_eq!(address(wrapper_of(0x1000)), first);
    }
}
