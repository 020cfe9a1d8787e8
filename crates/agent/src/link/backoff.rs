//! When to try the server again. Pure: chance comes in as an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// The wait after `failures` failures in a row: doubles up to five minutes; `chance` in 0..=1 spreads the nodes that
/// lost the same server over the upper half of it.
pub(super) fn delay(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(LONGEST).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

/// In 0..1, from the host's random source.
pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_are_bounded_and_spread() {
        assert_eq!(delay(1, 1.0), Duration::from_secs(1));
        assert_eq!(delay(1, 0.0), Duration::from_millis(500));
        assert_eq!(delay(4, 1.0), Duration::from_secs(8));
        for failures in 1..=u32::from(u8::MAX) {
            let (shortest, longest) = (delay(failures, 0.0), delay(failures, 1.0));
            assert!(shortest >= FIRST / 2 && longest <= LONGEST && shortest * 2 == longest, "{failures}");
        }
        assert_eq!(delay(u32::MAX, 1.0), LONGEST);
    }
}
