//! When to try a call again. Pure: time and chance come in as arguments.

use std::time::Duration;

use keyward_model::Class;

/// Bounds of the tries of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// No try begins later than this after the first one began.
    pub budget: Duration,
    /// Wait before the second try; it doubles from try to try.
    pub first_delay: Duration,
    /// The longest wait that we choose ourselves.
    pub longest_delay: Duration,
}

impl RetryPolicy {
    /// For work that someone waits for: 1, 2, 4, 8 s as Azure's throttling guide asks for, within half a minute.
    pub const WORK: RetryPolicy = RetryPolicy {
        attempts: 5,
        budget: Duration::from_secs(30),
        first_delay: Duration::from_secs(1),
        longest_delay: Duration::from_secs(16),
    };

    /// For a probe, which comes again by itself: one more try, soon, so that a single lost packet is no evidence.
    pub const PROBE: RetryPolicy = RetryPolicy {
        attempts: 2,
        budget: Duration::from_secs(5),
        first_delay: Duration::from_millis(500),
        longest_delay: Duration::from_millis(500),
    };

    /// How long to wait before the next try; `None` ends the trying.
    ///
    /// `tried` tries are done, `elapsed` since the first one began. `jitter` in 0..=1 spreads the waits of many
    /// nodes: half of our own delay is fixed, half is chance. A `Retry-After` is never undercut; when it does not
    /// fit in the budget there is no further try.
    pub fn next_delay(
        &self,
        class: Class,
        tried: u32,
        retry_after: Option<Duration>,
        elapsed: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        if tried >= self.attempts || !passes_by_itself(class) {
            return None;
        }
        let doubled =
            self.first_delay.saturating_mul(1u32.checked_shl(tried.saturating_sub(1)).unwrap_or(u32::MAX));
        let own = doubled.min(self.longest_delay);
        let spread = own.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let delay = match retry_after {
            // Everyone was told the same moment: come after it, not all at once.
            Some(asked) => asked.saturating_add(spread / 2),
            None => spread,
        };
        (elapsed.saturating_add(delay) <= self.budget).then_some(delay)
    }
}

/// Whether the same request may get another answer a moment later.
fn passes_by_itself(class: Class) -> bool {
    match class {
        Class::TimedOut
        | Class::ConnectionFailed
        | Class::NameNotResolved
        | Class::Throttled
        | Class::ServerFault
        | Class::DirectoryUnavailable
        // Seen for good tokens: the same one worked a second later.
        | Class::Unauthorized => true,
        Class::Success
        | Class::KeyDisabled
        | Class::KeyDeleted
        | Class::VaultDeleted
        | Class::ApplicationDisabled
        | Class::DeniedByPolicy
        | Class::DeniedByRbac
        | Class::OperationTakenOff
        | Class::KeyPurged
        | Class::ApplicationDeleted
        | Class::TlsFailed
        | Class::DeniedByFirewall
        | Class::DeniedByPrivateLink
        | Class::ClientSecretExpired
        | Class::CredentialRejected
        | Class::Misconfigured
        | Class::KeyNotCurrent
        | Class::BadCiphertext
        | Class::Malformed => false,
    }
}
