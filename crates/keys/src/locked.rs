//! Memory for keys: pages that are locked, left out of core files, optionally not inherited by a fork, and wiped.
//!
//! Keys are small and many, and `mlock` counts whole pages against `RLIMIT_MEMLOCK`, so they share slabs: one
//! mapping of [`SLAB_BYTES`] cut into slots of one size. A freed slot is wiped and reused; slabs are kept for the
//! life of the process. When the limit does not allow another locked page the slab is used unlocked, and
//! [`memory_lock`] says so: a node that cannot lock memory still starts, and its status shows it.
//!
//! The one room of this crate with `unsafe` code.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ffi::c_void,
    fmt,
    mem::{MaybeUninit, align_of, needs_drop, size_of},
    ptr::{self, NonNull},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};
use zeroize::Zeroize as _;

use crate::secret::SecretError;

mod gcm_key;
mod near;
mod process_mark;

pub(crate) use gcm_key::{BUCKET_KEYS, BorrowedGcmKey, GcmKey, KeyBucket, Seen, TAG_BYTES, prefetch};
pub(crate) use process_mark::ProcessMark;

/// One mapping: four pages of 4 KiB, or one of 16 KiB. Small, so that a limit of 64 KiB still locks some.
const SLAB_BYTES: usize = 16 * 1024;

/// A slot is one small slot, or as many cache lines as it takes; both also are its alignment.
const SMALL_SLOT_BYTES: usize = 32;
const CACHE_LINE_BYTES: usize = 64;

/// Whether the memory that holds keys is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryLock {
    /// Every slab made so far is locked and left out of core files.
    Locked,
    /// At least one slab could not be protected.
    NotLocked {
        /// What the kernel said to what, in words for an operator.
        reason: String,
    },
}

/// The state of all slabs made so far.
pub fn memory_lock() -> MemoryLock {
    match &slabs().unprotected {
        None => MemoryLock::Locked,
        Some(reason) => MemoryLock::NotLocked { reason: reason.clone() },
    }
}

/// Keeps slabs made from now on out of forked children. For the agent: a child of it must not inherit keys.
///
/// Call it before the first key is made; slabs that exist already are marked too.
pub fn set_dont_fork(on: bool) {
    let mut slabs = slabs();
    slabs.dont_fork = on;
    let advice = if on { Advice::LinuxDontFork } else { Advice::LinuxDoFork };
    for slab in slabs.made.clone() {
        // SAFETY: the range is a mapping of ours that is never unmapped; both advices change only what a later
        // fork inherits.
        let result = unsafe { madvise(slab.0.as_ptr().cast::<c_void>(), SLAB_BYTES, advice) };
        if let Err(error) = result {
            slabs.note("keep keys out of forked children", error);
        }
    }
}

/// A value in a slot of locked memory. Wiped when dropped.
pub(crate) struct Locked<T> {
    slot: NonNull<T>,
}

// SAFETY: `Locked` owns its value as `Box` does; the slot is reachable through nothing else.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: as for `Box`: a shared `Locked` gives out only `&T`.
unsafe impl<T: Sync> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Moves `value` into a slot. The bits it leaves behind on the stack are the caller's to wipe.
    pub(crate) fn new(value: T) -> Result<Self, SecretError> {
        let slot = take_slot(const { SlotKind::anywhere(slot_bytes::<T>()) })?.cast::<T>();
        // SAFETY: the slot is at least `size_of::<T>()` bytes, aligned for `T` (both checked in `slot_bytes`),
        // writable, and no one else's.
        unsafe { slot.write(value) };
        Ok(Self { slot })
    }

    /// The value.
    pub(crate) fn get(&self) -> &T {
        // SAFETY: the slot holds a valid `T` from construction to drop; shared borrows follow `self`'s.
        unsafe { self.slot.as_ref() }
    }

    /// The value, to change in place.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        // SAFETY: as for `get`, and `&mut self` is exclusive.
        unsafe { self.slot.as_mut() }
    }
}

impl<const N: usize> Locked<[u8; N]> {
    /// Zero bytes, to be filled in place.
    pub(crate) fn zeroed() -> Result<Self, SecretError> {
        Self::new([0; N])
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        if needs_drop::<T>() {
            // SAFETY: the value is valid and never used again.
            unsafe { self.slot.drop_in_place() };
        }
        give_back(self.slot.cast::<u8>(), const { SlotKind::anywhere(slot_bytes::<T>()) });
    }
}

impl<T> fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

/// What a slot is for: its size, and whether it lies in a slab that is [`near`] while there are any.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SlotKind {
    bytes: usize,
    near: bool,
}

impl SlotKind {
    const fn anywhere(bytes: usize) -> Self {
        Self { bytes, near: false }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slab(NonNull<u8>);

// SAFETY: the address of a mapping that lives as long as the process; what is in it is guarded by `Locked`.
unsafe impl Send for Slab {}

struct Slabs {
    made: Vec<Slab>,
    /// Free slots by their kind, the lowest first: keys stay close together, which the processor's caches like.
    free: BTreeMap<SlotKind, BinaryHeap<Reverse<Slab>>>,
    near: Option<near::Rest>,
    unprotected: Option<String>,
    dont_fork: bool,
}

impl Slabs {
    fn note(&mut self, what: &str, error: rustix::io::Errno) {
        self.unprotected.get_or_insert_with(|| match error {
            rustix::io::Errno::NOMEM | rustix::io::Errno::AGAIN | rustix::io::Errno::PERM => {
                format!("cannot {what}: {error}; RLIMIT_MEMLOCK is too small for all keys")
            }
            other => format!("cannot {what}: {other}"),
        });
    }

    fn add(&mut self, kind: SlotKind) -> Result<(), SecretError> {
        let near = kind.near.then(|| self.near.get_or_insert_with(near::Rest::reserve).slab()).flatten();
        let start = match near {
            Some(start) => start,
            None => map_slab()?,
        };
        let page = start.as_ptr().cast::<c_void>();
        // SAFETY: exactly the slab just made, which holds nothing yet.
        if let Err(error) = unsafe { mlock(page, SLAB_BYTES) } {
            self.note("lock memory for keys", error);
        }
        // SAFETY: as above; the advice changes only what a core file contains.
        if let Err(error) = unsafe { madvise(page, SLAB_BYTES, Advice::LinuxDontDump) } {
            self.note("leave keys out of core files", error);
        }
        if self.dont_fork {
            // SAFETY: as above; the advice changes only what a fork inherits.
            if let Err(error) = unsafe { madvise(page, SLAB_BYTES, Advice::LinuxDontFork) } {
                self.note("keep keys out of forked children", error);
            }
        }
        self.made.push(Slab(start));
        // What the slots leave over comes first: where a cipher's context began at a page's start, an AMD EPYC of 2024
        // took 6 % longer to seal with it.
        let (slots, over) = (SLAB_BYTES / kind.bytes, SLAB_BYTES % kind.bytes);
        let free = self.free.entry(kind).or_default();
        for index in 0..slots {
            // SAFETY: `over + slots * bytes` is `SLAB_BYTES`: the slot stays inside the slab. It is aligned as the slab
            // and its size are, for `over` is a multiple of `SMALL_SLOT_BYTES` or `CACHE_LINE_BYTES` as well.
            free.push(Reverse(Slab(unsafe { start.add(over + index * kind.bytes) })));
        }
        Ok(())
    }
}

/// A slab at an address of the kernel's choice.
fn map_slab() -> Result<NonNull<u8>, SecretError> {
    // SAFETY: a new private mapping at an address of the kernel's choice; it touches no existing memory.
    let mapped = unsafe {
        mmap_anonymous(ptr::null_mut(), SLAB_BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let start = mapped.map_err(|error| SecretError::NoMemory(error.to_string()))?.cast::<u8>();
    NonNull::new(start).ok_or_else(|| SecretError::NoMemory("mapped at address zero".to_owned()))
}

fn slabs() -> MutexGuard<'static, Slabs> {
    static SLABS: Mutex<Slabs> = Mutex::new(Slabs {
        made: Vec::new(),
        free: BTreeMap::new(),
        near: None,
        unprotected: None,
        dont_fork: false,
    });
    // The lists are whole after every statement that can panic, so a poisoned lock is still good.
    SLABS.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn slot_bytes<T>() -> usize {
    let size = size_of::<T>();
    let unit = if size <= SMALL_SLOT_BYTES { SMALL_SLOT_BYTES } else { CACHE_LINE_BYTES };
    assert!(size > 0 && size <= SLAB_BYTES && align_of::<T>() <= unit);
    size.next_multiple_of(unit)
}

fn take_slot(kind: SlotKind) -> Result<NonNull<u8>, SecretError> {
    let mut slabs = slabs();
    if slabs.free.get(&kind).is_none_or(BinaryHeap::is_empty) {
        slabs.add(kind)?;
    }
    slabs
        .free
        .get_mut(&kind)
        .and_then(BinaryHeap::pop)
        .map(|Reverse(slot)| slot.0)
        .ok_or_else(|| SecretError::NoMemory("a new slab has no slot".to_owned()))
}

fn give_back(slot: NonNull<u8>, kind: SlotKind) {
    // SAFETY: the slot is as long as its kind says, mapped, writable, and its value was dropped just before, so that
    // nothing else refers to it.
    let rest = unsafe { std::slice::from_raw_parts_mut(slot.as_ptr().cast::<MaybeUninit<u8>>(), kind.bytes) };
    rest.zeroize();
    slabs().free.entry(kind).or_default().push(Reverse(Slab(slot)));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::process::{Resource, Rlimit, setrlimit};

    use super::*;
    use crate::{DatabaseKey, KeyId, page::PageCipher};

    #[test]
    fn a_dropped_value_is_wiped_and_its_slot_reused() {
        let mut key = Locked::<[u8; 1000]>::zeroed().unwrap();
        *key.get_mut() = [0xa5; 1000];
        let slot = key.slot;
        drop(key);
        // SAFETY: slabs are never unmapped, and no other test uses slots of this size.
        let left = unsafe { std::slice::from_raw_parts(slot.as_ptr().cast::<u8>(), 1000) };
        assert!(left.iter().all(|byte| *byte == 0));
        assert_eq!(Locked::<[u8; 1000]>::zeroed().unwrap().slot, slot);
    }

    #[test]
    fn debug_shows_no_bytes() {
        insta::assert_debug_snapshot!(Locked::<[u8; 32]>::zeroed().unwrap(), @"Locked(..)");
    }

    #[test]
    fn the_value_itself_is_dropped_once() {
        struct Counts<'a>(&'a AtomicUsize, #[allow(dead_code)] [u8; 700]);
        impl Drop for Counts<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let dropped = AtomicUsize::new(0);
        drop(Locked::new(Counts(&dropped, [0; 700])).unwrap());
        assert_eq!(dropped.into_inner(), 1);
    }

    #[test]
    fn many_threads_get_slots_of_their_own() {
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                scope.spawn(move || {
                    for _ in 0..200 {
                        let mut keys: Vec<_> =
                            (0..20).map(|_| Locked::<[u8; 48]>::zeroed().unwrap()).collect();
                        keys.iter_mut().for_each(|key| *key.get_mut() = [thread; 48]);
                        assert!(keys.iter().all(|key| *key.get() == [thread; 48]));
                    }
                });
            }
        });
    }

    /// The flags of the mapping that holds `address`, as `/proc/self/smaps` shows them.
    fn flags(address: usize) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((Ok(start), Ok(end))) =
                range.map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)))
            {
                inside = (start..end).contains(&address);
            }
            if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags: ")) {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        panic!("no mapping holds {address:x}");
    }

    /// Marking slabs and forking must not meet: both concern the whole process.
    static FORKS: Mutex<()> = Mutex::new(());

    #[test]
    fn slabs_are_locked_left_out_of_core_files_and_kept_from_children_on_demand() {
        let _alone = FORKS.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Locked::<[u8; 32]>::zeroed().unwrap();
        let has = |flag: &str| flags(key.slot.as_ptr() as usize).iter().any(|found| found == flag);
        assert!(has("dd"), "MADV_DONTDUMP");
        assert_eq!(has("lo"), memory_lock() == MemoryLock::Locked);
        set_dont_fork(true);
        assert!(has("dc"), "MADV_DONTFORK");
        let later = Locked::<[u8; 3000]>::zeroed().unwrap();
        assert!(flags(later.slot.as_ptr() as usize).contains(&"dc".to_owned()), "a slab made later");
        let status = in_a_child(|| std::hint::black_box(key.get())[0] == 0);
        assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV, "the child has no such memory");
        set_dont_fork(false);
        assert!(!has("dc"));
    }

    /// Forks, runs `child` there, and gives what `waitpid` says. Holds the slabs' lock meanwhile, so that the child
    /// does not inherit it taken by another thread of this test program.
    fn in_a_child(child: impl FnOnce() -> bool) -> i32 {
        let guard = slabs();
        // SAFETY: the child only runs `child`, which takes no lock but the slabs' (free in the child once `guard` is
        // dropped), and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        drop(guard);
        if pid == 0 {
            let code = i32::from(!child());
            // SAFETY: ends the child without running anything of the test program.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made; `status` is a valid place.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        status
    }

    #[test]
    fn of_little_address_space_keys_take_little() {
        let _alone = FORKS.lock().unwrap_or_else(PoisonError::into_inner);
        let status = in_a_child(|| {
            let limit = Rlimit { current: Some(4 << 30), maximum: None };
            setrlimit(Resource::As, limit).unwrap();
            let mut rest = near::Rest::reserve();
            let slabs = [rest.slab(), rest.slab()].map(|slab| near::units_to(slab.unwrap()).unwrap());
            rest.bytes() == 64 << 20 && slabs[0] < slabs[1]
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn a_forked_child_opens_but_never_seals() {
        let _alone = FORKS.lock().unwrap_or_else(PoisonError::into_inner);
        let id = KeyId::from_bytes([1; 16]);
        let cipher = PageCipher::new(id, &DatabaseKey::make().unwrap()).unwrap();
        let (mut sealed, mut plain) = ([0; 100], [0; 100]);
        let len = cipher.seal(b"page", &mut sealed).unwrap();
        let status = in_a_child(|| {
            let opened = cipher.open(&sealed[..len], &mut plain) == Ok(4);
            let refused = cipher.seal(b"page", &mut sealed) == Err(crate::page::PageError::Forked(id));
            // A cipher of the child's own draws its own prefix; that does not bring the parent's back to life.
            let own = PageCipher::new(id, &DatabaseKey::make().unwrap()).unwrap();
            let sealed_by_own = own.seal(b"page", &mut sealed).is_ok();
            let still_refused = cipher.seal(b"page", &mut sealed).is_err();
            opened && refused && sealed_by_own && still_refused
        });
        assert_eq!(status, 0);
        assert!(cipher.seal(b"page", &mut sealed).is_ok(), "the parent seals on");
    }
}
