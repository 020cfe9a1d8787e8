//! Memory for keys: pages that are locked, left out of core files, optionally not inherited by a fork, and wiped.
//!
//! Keys are small and many, and `mlock` counts whole pages against `RLIMIT_MEMLOCK`, so they share slabs: one
//! mapping of [`SLAB_BYTES`] cut into slots of one size. A freed slot is wiped and reused; slabs are kept for the
//! life of the process. When the limit does not allow another locked page the slab is used unlocked, and
//! [`memory_lock`] says so: a node that cannot lock memory still starts, and its status shows it.
//!
//! The one file of this crate with `unsafe` code.

use std::{
    collections::BTreeMap,
    ffi::c_void,
    fmt,
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit, align_of, needs_drop, size_of},
    ops::Deref,
    ptr::{self, NonNull},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    },
};

use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open_gather,
    EVP_AEAD_CTX_seal_scatter, EVP_aead_aes_256_gcm,
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};
use zeroize::Zeroize as _;

use crate::{secret::SecretError, xaes::PREFIX_BYTES};

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
        let slot = take_slot(const { slot_bytes::<T>() })?.cast::<T>();
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
        give_back(self.slot.cast::<u8>(), const { slot_bytes::<T>() });
    }
}

impl<T> fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

/// An AES-256-GCM key: aws-lc's context, key schedule included, in a slot. Clones share it.
///
/// aws-lc-rs keeps this context on the C heap, neither locked nor left out of core files, and behind pointers that cost
/// more cache misses than a page's decryption allows for; hence aws-lc itself, for these three functions.
pub(crate) struct GcmKey {
    slot: NonNull<GcmSlot>,
}

#[repr(C)]
struct GcmSlot {
    context: EVP_AEAD_CTX,
    /// How many `GcmKey`s there are of this slot.
    owners: AtomicUsize,
    /// The nonce prefix that the key was derived for.
    prefix: [u8; PREFIX_BYTES],
}

// SAFETY: after `new`, aws-lc only reads the context (it documents sealing and opening with one context from several
// threads as safe), and `owners` is atomic.
unsafe impl Send for GcmKey {}
// SAFETY: as above.
unsafe impl Sync for GcmKey {}

pub(crate) const TAG_BYTES: usize = 16;

impl GcmKey {
    /// The key that was derived for `prefix`.
    pub(crate) fn new(key: &[u8; 32], prefix: &[u8; PREFIX_BYTES]) -> Result<Self, SecretError> {
        let slot = take_slot(const { slot_bytes::<GcmSlot>() })?.cast::<GcmSlot>();
        // SAFETY: the slot is large enough and aligned for a `GcmSlot` and no one else's. `context` is only handed to
        // aws-lc, whose `EVP_AEAD_CTX_init` takes uninitialized memory; the key is 32 readable bytes, which is what
        // AES-256 takes.
        let made = unsafe {
            (&raw mut (*slot.as_ptr()).owners).write(AtomicUsize::new(1));
            (&raw mut (*slot.as_ptr()).prefix).write(*prefix);
            EVP_AEAD_CTX_init(
                &raw mut (*slot.as_ptr()).context,
                EVP_aead_aes_256_gcm(),
                key.as_ptr(),
                key.len(),
                TAG_BYTES,
                ptr::null_mut(),
            )
        };
        if made == 1 {
            Ok(Self { slot })
        } else {
            give_back(slot.cast::<u8>(), const { slot_bytes::<GcmSlot>() });
            Err(SecretError::NoMemory("no AES-GCM context".to_owned()))
        }
    }

    /// The nonce prefix that the key was derived for.
    #[inline]
    pub(crate) fn prefix(&self) -> &[u8; PREFIX_BYTES] {
        // SAFETY: the slot is valid while `self` is, and `prefix` never changes after `new`.
        unsafe { &(*self.slot.as_ptr()).prefix }
    }

    /// Asks for all of the context at once, before the cipher asks for it line by line.
    #[inline]
    fn prefetch(&self) {
        prefetch_lines(self.slot.as_ptr().cast::<u8>(), size_of::<GcmSlot>());
    }

    /// Encrypts `plain` to `out` and its tag, which together are as long as `plain` plus [`TAG_BYTES`].
    #[inline]
    pub(crate) fn seal(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8], out: &mut [u8]) -> bool {
        let Some(tag_at) = out.len().checked_sub(TAG_BYTES) else { return false };
        if tag_at != plain.len() {
            return false;
        }
        let (out, tag) = out.split_at_mut(tag_at);
        let mut tag_bytes = 0;
        // SAFETY: the context was initialized in `new` and is only read. Every pointer comes with the length of its
        // slice; `out` is as long as `plain` (checked above), `tag` is `TAG_BYTES` long, and none overlaps another
        // because they are distinct borrows.
        let sealed = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                &raw const (*self.slot.as_ptr()).context,
                out.as_mut_ptr(),
                tag.as_mut_ptr(),
                &mut tag_bytes,
                tag.len(),
                nonce.as_ptr(),
                nonce.len(),
                plain.as_ptr(),
                plain.len(),
                ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        sealed == 1 && tag_bytes == TAG_BYTES
    }

    /// Decrypts `sealed` to `out` of the same length; false, and `out` zeroed, when the tag does not verify.
    #[inline]
    pub(crate) fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_BYTES],
        out: &mut [u8],
    ) -> bool {
        if sealed.len() != out.len() {
            return false;
        }
        // SAFETY: as for `seal`: `out` is as long as `sealed`.
        let opened = unsafe {
            EVP_AEAD_CTX_open_gather(
                &raw const (*self.slot.as_ptr()).context,
                out.as_mut_ptr(),
                nonce.as_ptr(),
                nonce.len(),
                sealed.as_ptr(),
                sealed.len(),
                tag.as_ptr(),
                tag.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        opened == 1
    }
}

/// Asks for `bytes`, which will be read soon.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    prefetch_lines(bytes.as_ptr(), bytes.len());
}

#[inline]
fn prefetch_lines(start: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..len).step_by(CACHE_LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault; the address is inside the caller's memory all the same.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.cast::<i8>().add(offset)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len);
}

impl Clone for GcmKey {
    fn clone(&self) -> Self {
        // SAFETY: the slot is valid while `self` is. `Relaxed` suffices, as for `Arc`: the new owner comes from one.
        unsafe { &(*self.slot.as_ptr()).owners }.fetch_add(1, Ordering::Relaxed);
        Self { slot: self.slot }
    }
}

impl Drop for GcmKey {
    fn drop(&mut self) {
        // SAFETY: the slot is valid while `self` is.
        if unsafe { &(*self.slot.as_ptr()).owners }.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire); // every other owner's use happens before the wiping
        // SAFETY: this was the last owner, and the context was initialized in `new`.
        unsafe { EVP_AEAD_CTX_cleanup(&raw mut (*self.slot.as_ptr()).context) };
        give_back(self.slot.cast::<u8>(), const { slot_bytes::<GcmSlot>() });
    }
}

impl fmt::Debug for GcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GcmKey(..)")
    }
}

/// A place for one [`GcmKey`], filled once and read without a lock: eight bytes.
///
/// Slots are aligned to a cache line, so the low bits of their address are free: they hold a few bits of the prefix, by
/// which nearly every other key is passed over without looking at it.
#[derive(Default)]
pub(crate) struct KeyCell(AtomicPtr<GcmSlot>);

/// What is in a [`KeyCell`].
pub(crate) enum Seen<'a> {
    /// The key of the prefix that was asked for.
    This(BorrowedGcmKey<'a>),
    /// Another one.
    Other,
    /// Nothing yet.
    Empty,
}

const TAG_MASK: usize = CACHE_LINE_BYTES - 1;
const _: () = assert!(size_of::<GcmSlot>() > SMALL_SLOT_BYTES, "slots are aligned to a cache line");

impl KeyCell {
    /// Looks for the key of `prefix`; when it is here all of it is asked for from memory.
    #[inline]
    pub(crate) fn look(&self, prefix: &[u8; PREFIX_BYTES]) -> Seen<'_> {
        let Some(tagged) = NonNull::new(self.0.load(Ordering::Acquire)) else { return Seen::Empty };
        if tagged.addr().get() & TAG_MASK != tag_of(prefix) {
            return Seen::Other;
        }
        let key = BorrowedGcmKey::untagged(tagged);
        key.prefetch();
        if key.prefix() == prefix { Seen::This(key) } else { Seen::Other }
    }

    /// What is here, whichever it is.
    pub(crate) fn get(&self) -> Option<BorrowedGcmKey<'_>> {
        NonNull::new(self.0.load(Ordering::Acquire)).map(BorrowedGcmKey::untagged)
    }

    /// Puts a clone of `key` here, unless something is here already.
    pub(crate) fn fill(&self, key: &GcmKey) -> bool {
        let owned = ManuallyDrop::new(key.clone());
        let tagged = owned.slot.as_ptr().map_addr(|address| address | tag_of(key.prefix()));
        let filled =
            self.0.compare_exchange(ptr::null_mut(), tagged, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !filled {
            drop(ManuallyDrop::into_inner(owned));
        }
        filled
    }
}

/// Bits of the prefix that do not say where in a table its key is.
#[inline]
fn tag_of(prefix: &[u8; PREFIX_BYTES]) -> usize {
    usize::from(prefix[PREFIX_BYTES - 1]) & TAG_MASK
}

impl Drop for KeyCell {
    fn drop(&mut self) {
        if let Some(key) = self.get() {
            // The cell's own share of the key, given up by no one else: `fill` set it once.
            drop(ManuallyDrop::into_inner(key.key));
        }
    }
}

/// A key that a [`KeyCell`] owns.
pub(crate) struct BorrowedGcmKey<'a> {
    key: ManuallyDrop<GcmKey>,
    cell: PhantomData<&'a KeyCell>,
}

impl BorrowedGcmKey<'_> {
    #[inline]
    fn untagged(tagged: NonNull<GcmSlot>) -> Self {
        // The tag takes none of the bits that the address has: a slot is aligned to `TAG_MASK + 1`.
        let slot = tagged.as_ptr().map_addr(|address| address & !TAG_MASK);
        let slot = NonNull::new(slot).expect("a slot is at no address below a cache line");
        Self { key: ManuallyDrop::new(GcmKey { slot }), cell: PhantomData }
    }
}

impl Deref for BorrowedGcmKey<'_> {
    type Target = GcmKey;

    #[inline]
    fn deref(&self) -> &GcmKey {
        &self.key
    }
}

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

#[derive(Clone, Copy)]
struct Slab(NonNull<u8>);

// SAFETY: the address of a mapping that lives as long as the process; what is in it is guarded by `Locked`.
unsafe impl Send for Slab {}

struct Slabs {
    made: Vec<Slab>,
    /// Free slots by their size.
    free: BTreeMap<usize, Vec<Slab>>,
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

    fn add(&mut self, slot: usize) -> Result<(), SecretError> {
        // SAFETY: a new private mapping at an address of the kernel's choice; it touches no existing memory.
        let mapped = unsafe {
            mmap_anonymous(ptr::null_mut(), SLAB_BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let page = mapped.map_err(|error| SecretError::NoMemory(error.to_string()))?;
        let start = NonNull::new(page.cast::<u8>())
            .ok_or_else(|| SecretError::NoMemory("mapped at address zero".to_owned()))?;
        // SAFETY: exactly the mapping just made, which holds nothing yet.
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
        let free = self.free.entry(slot).or_default();
        for index in (0..SLAB_BYTES / slot).rev() {
            // SAFETY: `index * slot + slot <= SLAB_BYTES`: the offset stays inside the mapping.
            free.push(Slab(unsafe { start.add(index * slot) }));
        }
        Ok(())
    }
}

fn slabs() -> MutexGuard<'static, Slabs> {
    static SLABS: Mutex<Slabs> =
        Mutex::new(Slabs { made: Vec::new(), free: BTreeMap::new(), unprotected: None, dont_fork: false });
    // The lists are whole after every statement that can panic, so a poisoned lock is still good.
    SLABS.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn slot_bytes<T>() -> usize {
    let size = size_of::<T>();
    let unit = if size <= SMALL_SLOT_BYTES { SMALL_SLOT_BYTES } else { CACHE_LINE_BYTES };
    assert!(size > 0 && size <= SLAB_BYTES && align_of::<T>() <= unit);
    size.next_multiple_of(unit)
}

fn take_slot(bytes: usize) -> Result<NonNull<u8>, SecretError> {
    let mut slabs = slabs();
    if slabs.free.get(&bytes).is_none_or(Vec::is_empty) {
        slabs.add(bytes)?;
    }
    slabs
        .free
        .get_mut(&bytes)
        .and_then(Vec::pop)
        .map(|slot| slot.0)
        .ok_or_else(|| SecretError::NoMemory("a new slab has no slot".to_owned()))
}

fn give_back(slot: NonNull<u8>, bytes: usize) {
    // SAFETY: the slot is `bytes` long, mapped, writable, and its value was dropped just before, so that nothing
    // else refers to it.
    let rest = unsafe { std::slice::from_raw_parts_mut(slot.as_ptr().cast::<MaybeUninit<u8>>(), bytes) };
    rest.zeroize();
    slabs().free.entry(bytes).or_default().push(Slab(slot));
}

#[cfg(test)]
mod tests {
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
        insta::assert_debug_snapshot!(GcmKey::new(&[7; 32], &[0; PREFIX_BYTES]).unwrap(), @"GcmKey(..)");
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
    fn a_gcm_key_is_wiped_with_its_last_owner() {
        let key = GcmKey::new(&[7; 32], &[0; PREFIX_BYTES]).unwrap();
        let slot = key.slot;
        let bytes = || {
            // SAFETY: slabs are never unmapped; only read while this test owns the slot or just gave it back.
            unsafe { std::slice::from_raw_parts(slot.as_ptr().cast::<u8>(), size_of::<EVP_AEAD_CTX>()) }
        };
        let second = key.clone();
        drop(key);
        assert!(bytes().windows(16).any(|window| window == [7; 16]), "the first round key is the key itself");
        let mut out = [0; 19];
        assert!(second.seal(&[0; 12], b"", b"abc", &mut out));
        drop(second);
        // Another test may have taken the slot meanwhile, but not for a key of sevens.
        assert!(!bytes().windows(16).any(|window| window == [7; 16]));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let key = GcmKey::new(&[7; 32], &[0; PREFIX_BYTES]).unwrap();
        let mut out = [0; 20];
        for len in [0, 15, 18, 20] {
            assert!(!key.seal(&[0; 12], b"", b"abc", &mut out[..len]));
        }
        assert!(!key.open(&[0; 12], b"", b"abc", &[0; 16], &mut out[..2]));
        assert!(!key.open(&[0; 12], b"", b"abc", &[0; 16], &mut out[..3]));
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
