//! AES-256-GCM keys in locked memory, and the buckets in which many are found by their nonce prefix.

use std::{
    fmt,
    marker::PhantomData,
    mem::{ManuallyDrop, size_of},
    ops::Deref,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open_gather,
    EVP_AEAD_CTX_seal_scatter, EVP_aead_aes_256_gcm,
};

use super::{CACHE_LINE_BYTES, SlotKind, give_back, near, slot_bytes, take_slot};
use crate::{secret::SecretError, xaes::PREFIX_BYTES};

const GCM_SLOT: SlotKind = SlotKind { bytes: slot_bytes::<GcmSlot>(), near: true };

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
        Self::in_slot(take_slot(GCM_SLOT)?, key, prefix)
    }

    /// The key in a slot that `take_slot(GCM_SLOT)` gave.
    fn in_slot(slot: NonNull<u8>, key: &[u8; 32], prefix: &[u8; PREFIX_BYTES]) -> Result<Self, SecretError> {
        let slot = slot.cast::<GcmSlot>();
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
            give_back(slot.cast::<u8>(), GCM_SLOT);
            Err(SecretError::NoMemory("no AES-GCM context".to_owned()))
        }
    }

    /// The nonce prefix that the key was derived for.
    #[inline]
    pub(crate) fn prefix(&self) -> &[u8; PREFIX_BYTES] {
        // SAFETY: the slot is valid while `self` is, and `prefix` never changes after `new`.
        unsafe { &(*self.slot.as_ptr()).prefix }
    }

    /// Whether a [`KeyBucket`] can hold it: not when the address space of [`near`] is used up.
    pub(crate) fn is_near(&self) -> bool {
        near::units_to(self.slot.cast::<u8>()).is_some()
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
        give_back(self.slot.cast::<u8>(), GCM_SLOT);
    }
}

impl fmt::Debug for GcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GcmKey(..)")
    }
}

/// Places for [`BUCKET_KEYS`] keys, filled in order and once each, and read without a lock: four bytes a key, of which
/// 24 bits say where its slot is ([`near`]) and the others are bits of its prefix ([`tag_of`]), by which nearly every
/// other key is passed over without looking at it.
///
/// All places are compared at once and without a branch: where in its bucket a key is differs from page to page, and a
/// processor that guesses wrong loses more than the comparison costs.
#[derive(Default)]
#[repr(align(16))]
pub(crate) struct KeyBucket([AtomicU32; BUCKET_KEYS]);

pub(crate) const BUCKET_KEYS: usize = 4;

/// A place of a [`KeyBucket`] that holds no key.
const NO_KEY: u32 = 0;

/// What is in a [`KeyBucket`].
pub(crate) enum Seen<'a> {
    /// The key of the prefix that was asked for.
    This(BorrowedGcmKey<'a>),
    /// Others, as many as fit.
    Others,
    /// Fewer than fit, and not the one that was asked for.
    Room,
}

impl KeyBucket {
    /// Looks for the key of `prefix`; when it is here all of it is asked for from memory.
    #[inline]
    pub(crate) fn look(&self, prefix: &[u8; PREFIX_BYTES]) -> Seen<'_> {
        let tag = tag_of(prefix);
        let places = self.0.each_ref().map(|place| place.load(Ordering::Acquire));
        let mut alike = 0_u32;
        for (at, place) in places.iter().enumerate() {
            alike |= u32::from((place ^ tag) & TAG_MASK == 0) << at;
        }
        while alike != 0 {
            if let Some(key) = BorrowedGcmKey::at(places[alike.trailing_zeros() as usize]) {
                key.prefetch();
                if key.prefix() == prefix {
                    return Seen::This(key);
                }
            }
            alike &= alike - 1;
        }
        if places[BUCKET_KEYS - 1] == NO_KEY { Seen::Room } else { Seen::Others }
    }

    /// What is here.
    pub(crate) fn keys(&self) -> impl Iterator<Item = BorrowedGcmKey<'_>> {
        self.0.iter().filter_map(|place| BorrowedGcmKey::at(place.load(Ordering::Acquire)))
    }

    /// Puts a clone of `key` here, if there is room and the key is near.
    pub(crate) fn add(&self, key: &GcmKey) -> bool {
        let Some(units) = near::units_to(key.slot.cast::<u8>()) else { return false };
        let owned = ManuallyDrop::new(key.clone());
        let filled = units << TAG_BITS | tag_of(key.prefix());
        let added = self
            .0
            .iter()
            .any(|place| place.compare_exchange(NO_KEY, filled, Ordering::AcqRel, Ordering::Acquire).is_ok());
        if !added {
            drop(ManuallyDrop::into_inner(owned));
        }
        added
    }
}

const TAG_BITS: u32 = u32::BITS - near::UNIT_BITS;
const TAG_MASK: u32 = (1 << TAG_BITS) - 1;

/// Bits of the prefix that do not say where in a table its key is.
#[inline]
fn tag_of(prefix: &[u8; PREFIX_BYTES]) -> u32 {
    u32::from(prefix[PREFIX_BYTES - 1]) & TAG_MASK
}

impl Drop for KeyBucket {
    fn drop(&mut self) {
        for key in self.keys() {
            // The bucket's own share of the key, given up by no one else: `add` put it here once.
            drop(ManuallyDrop::into_inner(key.key));
        }
    }
}

/// A key that a [`KeyBucket`] owns.
pub(crate) struct BorrowedGcmKey<'a> {
    key: ManuallyDrop<GcmKey>,
    bucket: PhantomData<&'a KeyBucket>,
}

impl BorrowedGcmKey<'_> {
    /// The key that a place of a bucket holds.
    #[inline]
    fn at(place: u32) -> Option<Self> {
        if place == NO_KEY {
            return None;
        }
        // SAFETY: a place holds what `KeyBucket::add` put there, whose number of units came from `units_to`.
        let slot = unsafe { near::slot_at(place >> TAG_BITS) }.cast::<GcmSlot>();
        Some(Self { key: ManuallyDrop::new(GcmKey { slot }), bucket: PhantomData })
    }
}

impl Deref for BorrowedGcmKey<'_> {
    type Target = GcmKey;

    #[inline]
    fn deref(&self) -> &GcmKey {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locked::{SLAB_BYTES, map_slab};

    fn key(prefix: [u8; PREFIX_BYTES]) -> GcmKey {
        GcmKey::new(&[prefix[0]; 32], &prefix).unwrap()
    }

    #[test]
    fn debug_shows_no_bytes() {
        insta::assert_debug_snapshot!(key([7; PREFIX_BYTES]), @"GcmKey(..)");
    }

    #[test]
    fn a_bucket_finds_each_of_its_keys_and_no_other() {
        let bucket = KeyBucket::default();
        assert!(matches!(bucket.look(&[0; PREFIX_BYTES]), Seen::Room), "no key is not a key of zeros");
        // The first two are alike but for bytes that the tag does not hold.
        let prefixes = [[0; PREFIX_BYTES], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [2; 12], [3; 12]];
        for (at, prefix) in prefixes.iter().enumerate() {
            assert!(matches!(bucket.look(prefix), Seen::Room), "{at}");
            assert!(bucket.add(&key(*prefix)));
        }
        for prefix in &prefixes {
            assert!(matches!(bucket.look(prefix), Seen::This(found) if found.prefix() == prefix));
        }
        assert!(matches!(bucket.look(&[4; PREFIX_BYTES]), Seen::Others));
        assert!(!bucket.add(&key([4; PREFIX_BYTES])), "it is full");
        assert_eq!(bucket.keys().map(|key| *key.prefix()).collect::<Vec<_>>(), prefixes);
    }

    #[test]
    fn a_bucket_keeps_a_key_alive_until_it_is_dropped() {
        let (bucket, key) = (KeyBucket::default(), key([9; PREFIX_BYTES]));
        let slot = key.slot;
        // SAFETY: slabs are never unmapped, and `owners` is only read, while this test owns the key.
        let owners = || unsafe { &(*slot.as_ptr()).owners }.load(Ordering::Relaxed);
        assert!(bucket.add(&key));
        assert_eq!(owners(), 2);
        drop(bucket);
        assert_eq!(owners(), 1);
    }

    #[test]
    fn no_key_begins_at_the_start_of_a_page() {
        let keys: Vec<_> = (0..200).map(|n| key([n; PREFIX_BYTES])).collect();
        assert!(keys.iter().all(|key| key.slot.addr().get() % 4096 != 0));
        assert!(keys.iter().all(|key| key.slot.addr().get() % CACHE_LINE_BYTES == 0));
    }

    #[test]
    fn a_key_that_is_far_away_works_and_is_not_kept() {
        let slab = map_slab().unwrap();
        // Never given back: other tests take their slots to be near.
        let far = ManuallyDrop::new(GcmKey::in_slot(slab, &[5; 32], &[5; PREFIX_BYTES]).unwrap());
        assert!(!far.is_near());
        let bucket = KeyBucket::default();
        assert!(!bucket.add(&far));
        assert!(matches!(bucket.look(&[5; PREFIX_BYTES]), Seen::Room));
        let table = crate::prefix_table::PrefixTable::default();
        table.insert(&far);
        assert!(table.get(&[5; PREFIX_BYTES]).is_none());
        let mut out = [0; 19];
        assert!(far.seal(&[0; 12], b"", b"abc", &mut out));
        const { assert!(GCM_SLOT.bytes <= SLAB_BYTES) };
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
}
