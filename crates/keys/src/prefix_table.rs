//! Derived keys by nonce prefix: many readers, no lock, entries kept until the table is dropped.
//!
//! Open addressing over buckets whose places are filled once, four bytes a key, so that little of the table is lost from
//! the processor's cache while pages stream through it; the prefix itself lies beside the key that is needed anyway. A
//! level that has become too full is followed by a level twice as large that begins with the same entries, so that a
//! look-up asks only the newest level. After the last level the table takes no more: those prefixes are derived again
//! for each page.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    locked::{BUCKET_KEYS, BorrowedGcmKey, GcmKey, KeyBucket, Seen},
    xaes::PREFIX_BYTES,
};

type Prefix = [u8; PREFIX_BYTES];

/// Sizes 4, 8, 16, … 16,384: small for a database opened once, room for some 10,000 openings.
const LEVELS: usize = 13;

/// In how many buckets, from its first one on, an entry may lie.
const PROBES: usize = 16;

#[derive(Default)]
pub(crate) struct PrefixTable {
    levels: [OnceLock<Level>; LEVELS],
    newest: AtomicUsize,
}

impl PrefixTable {
    #[inline]
    pub(crate) fn get(&self, prefix: &Prefix) -> Option<BorrowedGcmKey<'_>> {
        let level = self.levels[self.newest.load(Ordering::Acquire)].get()?;
        for bucket in level.window(prefix) {
            match bucket.look(prefix) {
                Seen::This(key) => return Some(key),
                Seen::Others => {}
                // Entries are never taken out: room for more ends the search.
                Seen::Room => return None,
            }
        }
        None
    }

    /// Keeps `key`, unless the table is full, another thread was faster, or the key is too far away for a bucket.
    pub(crate) fn insert(&self, key: &GcmKey) {
        if !key.is_near() {
            return;
        }
        loop {
            let newest = self.newest.load(Ordering::Acquire);
            let level = self.levels[newest].get_or_init(|| Level::empty(newest));
            if newest + 1 == LEVELS {
                level.put(key);
                return;
            }
            if level.has_room() && level.put(key) {
                return;
            }
            self.levels[newest + 1].get_or_init(|| {
                let larger = Level::empty(newest + 1);
                for key in level.buckets.iter().flat_map(KeyBucket::keys) {
                    larger.put(&key);
                }
                larger
            });
            self.newest.fetch_max(newest + 1, Ordering::AcqRel);
        }
    }
}

struct Level {
    buckets: Box<[KeyBucket]>,
    kept: AtomicUsize,
}

impl Level {
    fn empty(level: usize) -> Self {
        let buckets = (0..1_usize << level).map(|_| KeyBucket::default()).collect();
        Self { buckets, kept: AtomicUsize::new(0) }
    }

    /// Half full is full: few keys do not fit into their first bucket.
    fn has_room(&self) -> bool {
        self.kept.load(Ordering::Relaxed) < self.buckets.len() * BUCKET_KEYS / 2
    }

    /// False when the window of the key's prefix is full of other entries.
    fn put(&self, key: &GcmKey) -> bool {
        for bucket in self.window(key.prefix()) {
            if matches!(bucket.look(key.prefix()), Seen::This(_)) {
                return true;
            }
            if bucket.add(key) {
                self.kept.fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// The buckets where `prefix` may be, in order. Prefixes are random, and only those of pages that verified get in,
    /// so their first bytes serve as the hash.
    #[inline]
    fn window(&self, prefix: &Prefix) -> impl Iterator<Item = &KeyBucket> {
        let [a, b, c, d, ..] = *prefix;
        let first = u32::from_le_bytes([a, b, c, d]) as usize;
        let mask = self.buckets.len() - 1;
        (0..PROBES.min(self.buckets.len())).map(move |step| &self.buckets[first.wrapping_add(step) & mask])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xaes::Xaes;

    fn prefix(n: u32) -> Prefix {
        // Spread as random prefixes are (the finalizer of MurmurHash3, a bijection).
        let mut x = n;
        for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)] {
            x = (x ^ (x >> shift)).wrapping_mul(factor);
        }
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..4].copy_from_slice(&(x ^ (x >> 16)).to_le_bytes());
        prefix
    }

    #[test]
    fn it_grows_keeps_everything_and_stops_at_its_bound() {
        let xaes = Xaes::new(&[1; 32]).unwrap();
        let table = PrefixTable::default();
        assert!(table.get(&prefix(0)).is_none());
        for n in 0..8_000 {
            table.insert(&xaes.derive(&prefix(n)).unwrap());
            assert!(table.get(&prefix(n)).is_some(), "{n}");
        }
        assert!((0..8_000).all(|n| table.get(&prefix(n)).is_some()));
        for n in 8_000..40_000 {
            table.insert(&xaes.derive(&prefix(n)).unwrap());
        }
        let kept = (0..40_000).filter(|n| table.get(&prefix(*n)).is_some()).count();
        assert!((8_000..=16_384).contains(&kept), "{kept}");
        assert_eq!(table.levels[LEVELS - 1].get().unwrap().buckets.len() * BUCKET_KEYS, 16_384);
    }

    #[test]
    fn colliding_prefixes_fill_a_window_and_no_more() {
        let xaes = Xaes::new(&[1; 32]).unwrap();
        let table = PrefixTable::default();
        let colliding = |n: u8| {
            let mut prefix = [0; PREFIX_BYTES];
            prefix[PREFIX_BYTES - 1] = n;
            prefix
        };
        for n in 0..100 {
            table.insert(&xaes.derive(&colliding(n)).unwrap());
        }
        assert_eq!((0..100).filter(|n| table.get(&colliding(*n)).is_some()).count(), PROBES * BUCKET_KEYS);
    }

    #[test]
    fn threads_that_insert_and_read_agree() {
        let xaes = Xaes::new(&[1; 32]).unwrap();
        let table = PrefixTable::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..500 {
                        if table.get(&prefix(n)).is_none() {
                            table.insert(&xaes.derive(&prefix(n)).unwrap());
                        }
                    }
                });
            }
        });
        // An entry that was inserted into an old level while a new one was made may be missing; it is derived again.
        let kept = (0..500).filter(|n| table.get(&prefix(*n)).is_some()).count();
        assert!(kept >= 490, "{kept}");
    }
}
