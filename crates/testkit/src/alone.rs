//! Tests that take the whole machine, one after the other, whoever runs them.
//!
//! `cargo nextest` knows groups; `cargo test` starts as many at a time as there are cores, in one process per test
//! program. A lock on a file holds between threads and between processes.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, Result};

/// The right to run alone, until it is dropped.
#[derive(Debug)]
pub struct Alone(#[allow(dead_code, reason = "the lock goes with the descriptor")] fs::File);

impl Alone {
    /// Waits until no other test runs that asked for this. Blocks; a test that asks twice waits for itself.
    pub fn wait() -> Result<Self> {
        let path = lock_file();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let open = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = open.with_context(|| format!("{} cannot be opened", path.display()))?;
        match file.lock() {
            Ok(()) => Ok(Self(file)),
            // A folder on a file system without locks: the tests are only slower, or tighter, together.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Self(file)),
            Err(error) => Err(error).with_context(|| format!("{} cannot be locked", path.display())),
        }
    }
}

fn lock_file() -> PathBuf {
    crate::target_dir().join("tmp").join("one-test-at-a-time.lock")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Alone;

    #[test]
    fn threads_take_turns() {
        let (inside, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _alone = Alone::wait().expect("a lock");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        turns.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 80);
    }
}
