//! The two times keyward uses: wall-clock time for people, boot time for windows.

use serde::{Deserialize, Serialize};

/// Wall-clock time, to the millisecond. Written as RFC 3339 in UTC; never used to measure a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub jiff::Timestamp);

impl Timestamp {
    /// From milliseconds since the Unix epoch; values out of jiff's range are clamped to the epoch.
    pub fn from_epoch_ms(ms: i64) -> Self {
        Self(jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }

    /// Milliseconds since the Unix epoch.
    pub fn epoch_ms(self) -> i64 {
        self.0.as_millisecond()
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

/// A moment on the host's boot clock (`CLOCK_BOOTTIME`): milliseconds since boot `boot_id`.
///
/// It survives a restart of the agent and counts while the host sleeps. Two moments of different boots cannot
/// be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootInstant {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Milliseconds since that boot.
    pub ms: u64,
}

impl BootInstant {
    /// Milliseconds from `earlier` to `self`; `None` when the host was rebooted between them or the order is
    /// wrong.
    pub fn ms_since(&self, earlier: &Self) -> Option<u64> {
        if self.boot_id == earlier.boot_id { self.ms.checked_sub(earlier.ms) } else { None }
    }
}
