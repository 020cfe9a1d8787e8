//! Leaves no key behind on the stack.

/// Deeper than anything aws-lc or this crate does with a key.
const SCRUBBED_BYTES: usize = 16 * 1024;

/// Runs `work`, then overwrites the stack that it used. The result must not itself be key material.
///
/// Moves and key schedules leave copies in frames that were returned from; a core file would show them.
pub fn scrubbed<R>(work: impl FnOnce() -> R) -> R {
    #[inline(never)]
    fn below<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    let result = below(work);
    zeroize::zeroize_stack::<SCRUBBED_BYTES>();
    result
}
