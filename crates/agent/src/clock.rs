//! The two clocks, read in one place.

use std::{fs, io};

use keyward_model::{BootInstant, Timestamp};

/// The host's clocks.
#[derive(Debug, Clone)]
pub struct Clock {
    boot_id: String,
}

impl Clock {
    /// Reads the boot's id.
    pub fn open() -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot_id })
    }

    /// Wall-clock time: for people.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_epoch_ms(jiff::Timestamp::now().as_millisecond())
    }

    /// Milliseconds on the boot clock: for windows and time-outs.
    pub fn boot_ms(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ms = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
        u64::try_from(ms).unwrap_or_default()
    }

    /// The same, with the boot it belongs to.
    pub fn boot_instant(&self) -> BootInstant {
        BootInstant { boot_id: self.boot_id.clone(), ms: self.boot_ms() }
    }
}
