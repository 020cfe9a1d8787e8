//! Derived keys by nonce prefix: many readers, no lock, entries kept until the table is dropped.
//!
//! Open addressing over slots that are written once. A level that has become too full is followed by a level four
//! times as large that begins with the same entries, so that a look-up asks only the newest level. After the last
//! level the table takes no more: those prefixes are derived again for each page.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use crate::{locked::GcmKey, xaes::PREFIX_BYTES};

type Prefix = [u8; PREFIX_BYTES];
type Slot = OnceLock<(Prefix, GcmKey)>;

/// Sizes 4, 16, 64, … 16,384: small for a database opened once, room for some 10,000 openings.
const LEVELS: usize = 7;

/// How many neighbours of its first slot an entry may lie in.
const PROBES: usize = 64;

#[derive(Default)]
pub(crate) struct PrefixTable {
    levels: [OnceLock<Level>; LEVELS],
    newest: AtomicUsize,
}

impl PrefixTable {
    #[inline]
    pub(crate) fn get(&self, prefix: &Prefix) -> Option<&GcmKey> {
        let level = self.levels[self.newest.load(Ordering::Acquire)].get()?;
        for slot in level.window(prefix) {
            // Entries are never taken out: an empty slot ends the search.
            let (found, key) = slot.get()?;
            if found == prefix {
                return Some(key);
            }
        }
        None
    }

    /// Keeps `key`, unless the table is full or another thread was faster.
    pub(crate) fn insert(&self, prefix: Prefix, key: &GcmKey) {
        loop {
            let newest = self.newest.load(Ordering::Acquire);
            let level = self.levels[newest].get_or_init(|| Level::empty(newest));
            if newest + 1 == LEVELS {
                level.put(prefix, key);
                return;
            }
            if level.has_room() && level.put(prefix, key) {
                return;
            }
            self.levels[newest + 1].get_or_init(|| {
                let larger = Level::empty(newest + 1);
                for (prefix, key) in level.slots.iter().filter_map(OnceLock::get) {
                    larger.put(*prefix, key);
                }
                larger
            });
            self.newest.fetch_max(newest + 1, Ordering::AcqRel);
        }
    }
}

struct Level {
    slots: Box<[Slot]>,
    kept: AtomicUsize,
}

impl Level {
    fn empty(level: usize) -> Self {
        Self { slots: (0..4_usize << (2 * level)).map(|_| Slot::new()).collect(), kept: AtomicUsize::new(0) }
    }

    /// Half full is full: searches stay short.
    fn has_room(&self) -> bool {
        self.kept.load(Ordering::Relaxed) < self.slots.len() / 2
    }

    /// False when the window of `prefix` is full of other entries.
    fn put(&self, prefix: Prefix, key: &GcmKey) -> bool {
        self.window(&prefix).any(|slot| {
            let mut added = false;
            let (found, _) = slot.get_or_init(|| {
                added = true;
                (prefix, key.clone())
            });
            self.kept.fetch_add(usize::from(added), Ordering::Relaxed);
            *found == prefix
        })
    }

    /// The slots where `prefix` may be, in order. Prefixes are random, and only those of pages that verified get in,
    /// so their first bytes serve as the hash.
    #[inline]
    fn window(&self, prefix: &Prefix) -> impl Iterator<Item = &Slot> {
        let [a, b, c, d, ..] = *prefix;
        let first = u32::from_le_bytes([a, b, c, d]) as usize;
        let mask = self.slots.len() - 1;
        (0..PROBES.min(self.slots.len())).map(move |step| &self.slots[first.wrapping_add(step) & mask])
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
        let key = Xaes::new(&[1; 32]).unwrap().derive(&[0; PREFIX_BYTES]).unwrap();
        let table = PrefixTable::default();
        assert!(table.get(&prefix(0)).is_none());
        for n in 0..8_000 {
            table.insert(prefix(n), &key);
            assert!(table.get(&prefix(n)).is_some(), "{n}");
        }
        assert!((0..8_000).all(|n| table.get(&prefix(n)).is_some()));
        for n in 8_000..60_000 {
            table.insert(prefix(n), &key);
        }
        let kept = (0..60_000).filter(|n| table.get(&prefix(*n)).is_some()).count();
        assert!((8_000..=16_384).contains(&kept), "{kept}");
        assert_eq!(table.levels[LEVELS - 1].get().unwrap().slots.len(), 16_384);
    }

    #[test]
    fn colliding_prefixes_fill_a_window_and_no_more() {
        let key = Xaes::new(&[1; 32]).unwrap().derive(&[0; PREFIX_BYTES]).unwrap();
        let table = PrefixTable::default();
        let colliding = |n: u8| {
            let mut prefix = [0; PREFIX_BYTES];
            prefix[PREFIX_BYTES - 1] = n;
            prefix
        };
        for n in 0..100 {
            table.insert(colliding(n), &key);
        }
        assert_eq!((0..100).filter(|n| table.get(&colliding(*n)).is_some()).count(), PROBES);
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
                            table.insert(prefix(n), &xaes.derive(&prefix(n)).unwrap());
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
