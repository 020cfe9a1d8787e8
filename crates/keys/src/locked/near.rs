//! Slabs so near each other that few bits say where in them a slot is.
//!
//! Their address space is reserved at once, which costs no memory; it becomes a slab's only when one is needed.

use std::{
    ffi::c_void,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

use rustix::{
    mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect},
    process::{Resource, getrlimit},
};

use super::{CACHE_LINE_BYTES, SLAB_BYTES};

/// Bits of a slot's distance from the start, in units of a cache line: together one gibibyte, in which 1.6 million
/// derived keys find room.
pub(super) const UNIT_BITS: u32 = 24;
const UNIT_BYTES: usize = CACHE_LINE_BYTES;
const MAX_BYTES: usize = UNIT_BYTES << UNIT_BITS;

/// Where the reserved address space begins; null until there is one.
static START: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// How long it is.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// What is left of it.
pub(super) struct Rest {
    used: usize,
    bytes: usize,
    /// From one slab to the next: a slab is locked and advised about by itself, and the kernel does that by its pages.
    stride: usize,
}

impl Rest {
    /// Reserves what there may be of it, perhaps nothing. Of a limited address space (`RLIMIT_AS`) it takes a 64th at the
    /// most: the rest is the database's.
    pub(super) fn reserve() -> Self {
        let stride = SLAB_BYTES.max(rustix::param::page_size());
        let limit = getrlimit(Resource::As).current.and_then(|limit| usize::try_from(limit).ok());
        let mut bytes = MAX_BYTES;
        while limit.is_some_and(|limit| bytes > limit / 64) {
            bytes /= 2;
        }
        while bytes > stride {
            // SAFETY: a new private mapping at an address of the kernel's choice; it touches no existing memory.
            let mapped =
                unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE) };
            if let Ok(start) = mapped {
                // What is not a slab yet would make a core file larger than the process. A kernel that refuses is told
                // again, slab by slab, and then it is noted.
                // SAFETY: exactly the mapping just made; the advice changes only what a core file contains.
                let _ = unsafe { madvise(start, bytes, Advice::LinuxDontDump) };
                BYTES.store(bytes, Ordering::Relaxed);
                START.store(start.cast::<u8>(), Ordering::Release);
                // No slot is zero units from the start: that means no key.
                return Self { used: stride, bytes, stride };
            }
            bytes /= 2;
        }
        Self { used: 0, bytes: 0, stride }
    }

    /// How much was reserved.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Address space for one more slab, readable and writable.
    pub(super) fn slab(&mut self) -> Option<NonNull<u8>> {
        if self.bytes - self.used < self.stride {
            return None;
        }
        // SAFETY: `used + stride <= bytes`, the length of the mapping at `START`.
        let slab = unsafe { START.load(Ordering::Acquire).add(self.used) };
        // SAFETY: these pages belong to the mapping and have never been given out.
        unsafe { mprotect(slab.cast::<c_void>(), self.stride, MprotectFlags::READ | MprotectFlags::WRITE) }
            .ok()?;
        self.used += self.stride;
        NonNull::new(slab)
    }
}

/// How far `slot` is from the start, in units; `None` for a slot of another slab.
pub(super) fn units_to(slot: NonNull<u8>) -> Option<u32> {
    let start = START.load(Ordering::Acquire);
    let bytes = slot.addr().get().checked_sub(start.addr())?;
    // Before there is a start there are no bytes either.
    (bytes < BYTES.load(Ordering::Relaxed)).then(|| u32::try_from(bytes / UNIT_BYTES).ok())?
}

/// The slot so many units from the start.
///
/// # Safety
///
/// `units` came from [`units_to`].
#[inline]
pub(super) unsafe fn slot_at(units: u32) -> NonNull<u8> {
    // `Relaxed`: whoever has `units` got them from an `Acquire` load of what was stored after the start was.
    let start = START.load(Ordering::Relaxed);
    // SAFETY: a slot of the mapping at `START`, by what the caller promises; its address is not null.
    unsafe { NonNull::new_unchecked(start.add(units as usize * UNIT_BYTES)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_gives_no_slab() {
        let stride = SLAB_BYTES;
        assert!(Rest { used: 0, bytes: 0, stride }.slab().is_none());
        assert!(Rest { used: MAX_BYTES, bytes: MAX_BYTES, stride }.slab().is_none());
        assert!(Rest { used: MAX_BYTES - stride + 1, bytes: MAX_BYTES, stride }.slab().is_none());
    }
}
