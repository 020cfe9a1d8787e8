//! Which process made something, so that a forked child does not take itself for its parent.

use std::{
    mem::size_of,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// Tells the process that made something from its forked children.
///
/// Remembered in a page that the kernel empties in a child (`MADV_WIPEONFORK`), so that asking costs one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessMark(u64);

impl ProcessMark {
    /// The mark of this process.
    pub(crate) fn here() -> Self {
        match fork_page() {
            ForkPage::Wiped(mark) => {
                let seen = mark.load(Ordering::Relaxed);
                if seen != 0 {
                    return Self(seen);
                }
                // A number that no ancestor used: the counter lives in ordinary memory, which a child inherits.
                static LAST: AtomicU64 = AtomicU64::new(0);
                let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                match mark.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => Self(fresh),
                    Err(other) => Self(other),
                }
            }
            ForkPage::Pid => Self(pid()),
        }
    }

    /// Whether the mark was made by this very process, not by one it was forked from.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        match fork_page() {
            ForkPage::Wiped(mark) => mark.load(Ordering::Relaxed) == self.0,
            ForkPage::Pid => pid() == self.0,
        }
    }
}

enum ForkPage {
    Wiped(&'static AtomicU64),
    /// A kernel before 4.14, or no memory: ask for the process id each time.
    Pid,
}

fn pid() -> u64 {
    u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs())
}

fn fork_page() -> &'static ForkPage {
    static PAGE: OnceLock<ForkPage> = OnceLock::new();
    PAGE.get_or_init(|| {
        let len = size_of::<AtomicU64>(); // the kernel rounds up to a page
        // SAFETY: a new private mapping at an address of the kernel's choice; it touches no existing memory.
        let mapped = unsafe {
            mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let Ok(page) = mapped else { return ForkPage::Pid };
        // SAFETY: the whole mapping just made, which holds nothing yet.
        if unsafe { madvise(page, len, Advice::LinuxWipeOnFork) }.is_err() {
            return ForkPage::Pid;
        }
        // SAFETY: page-aligned, zeroed (a valid `AtomicU64`), never unmapped, and only ever used atomically.
        ForkPage::Wiped(unsafe { AtomicU64::from_ptr(page.cast::<u64>()) })
    })
}
