//! Page encryption: XAES-256-GCM under a database key.
//!
//! ```text
//!  0        1                17                  29                  41                    len-16      len
//!  ┌────────┬────────────────┬───────────────────┬───────────────────┬──────────────────────┬───────────┐
//!  │ format │     key id     │    nonce prefix   │  nonce counter    │      ciphertext      │    tag    │
//!  │ 1 byte │    16 bytes    │ 12 bytes, random  │ 12 bytes, BE      │  as long as the page │ 16 bytes  │
//!  └────────┴────────────────┴───────────────────┴───────────────────┴──────────────────────┴───────────┘
//!  └─ associated data ───────┘└──────── XAES-256-GCM nonce ──────────┘
//! ```

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    DatabaseKey, KeyId, SecretError,
    locked::{GcmKey, ProcessMark, TAG_BYTES, prefetch},
    prefix_table::PrefixTable,
    scrub::scrubbed,
    xaes::{NONCE_BYTES, PREFIX_BYTES, Xaes},
};

/// The format byte of a page.
pub const FORMAT: u8 = 1;

/// How much longer a sealed page is than the page: format, key id, nonce, tag.
pub const OVERHEAD: usize = HEADER_BYTES + TAG_BYTES;

/// Why a page could not be sealed or opened. Never says anything about the page's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Shorter than the header and the tag.
    #[error("the block is {0} bytes long: too short for an encrypted page")]
    TooShort(usize),
    /// The output buffer cannot hold the result.
    #[error("the output buffer has {have} bytes and needs {need}")]
    OutputTooSmall {
        /// What the result needs.
        need: usize,
        /// What was given.
        have: usize,
    },
    /// Not the format byte of this version.
    #[error("page format {0} is not known to this version")]
    UnknownFormat(u8),
    /// Sealed under another key.
    #[error("the page is sealed under key {found}, not {expected}")]
    OtherKey {
        /// The key id in the page's header.
        found: KeyId,
        /// This cipher's key id.
        expected: KeyId,
    },
    /// The tag does not fit: the page was changed, or the key is not its key.
    #[error(
        "the page sealed under key {0} does not verify: it was changed on disk, or the key is not its key"
    )]
    DoesNotVerify(KeyId),
    /// A child process must not seal with its parent's cipher: both would count from the same nonce.
    #[error("this process is a fork of the one that opened the cipher for key {0}, and must not seal")]
    Forked(KeyId),
    /// No memory or randomness for another derived key.
    #[error("no memory or randomness to derive a key from key {0}")]
    NoResources(KeyId),
}

/// The page cipher of one database key. Shared by all threads; opening takes no lock.
///
/// A key is derived once per nonce prefix and kept until the cipher is dropped, so that pages written over many
/// openings of the database read as fast as new ones.
pub struct PageCipher {
    id: KeyId,
    made_in: ProcessMark,
    xaes: Xaes,
    pages_per_prefix: u64,
    sealing: Sealing,
    known: PrefixTable,
}

impl PageCipher {
    /// Draws a nonce prefix of its own for sealing.
    pub fn new(id: KeyId, key: &DatabaseKey) -> Result<Self, PageError> {
        Self::with_pages_per_prefix(id, key, PAGES_PER_PREFIX)
    }

    fn with_pages_per_prefix(id: KeyId, key: &DatabaseKey, pages_per_prefix: u64) -> Result<Self, PageError> {
        let made_in = ProcessMark::here();
        let (xaes, sealing) = scrubbed(|| {
            let xaes = Xaes::new(key.expose())?;
            let sealing = Sealing::draw(&xaes)?;
            Ok((xaes, sealing))
        })
        .map_err(|_: SecretError| PageError::NoResources(id))?;
        let known = PrefixTable::default();
        known.insert(&sealing.key);
        Ok(Self { id, made_in, xaes, pages_per_prefix, sealing, known })
    }

    /// The id of the database key.
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// Seals `plain` into the first bytes of `out`; returns their number, `plain.len() + OVERHEAD`.
    pub fn seal(&self, plain: &[u8], out: &mut [u8]) -> Result<usize, PageError> {
        let need = plain.len() + OVERHEAD;
        let have = out.len();
        let out = out.get_mut(..need).ok_or(PageError::OutputTooSmall { need, have })?;
        if !self.made_in.is_here() {
            return Err(PageError::Forked(self.id));
        }
        let (sealing, page) = self.next_nonce()?;
        let mut suffix = [0; 12];
        suffix[4..].copy_from_slice(&page.to_be_bytes());
        let (header, body) = out.split_at_mut(HEADER_BYTES);
        header[0] = FORMAT;
        header[1..AAD_BYTES].copy_from_slice(self.id.as_bytes());
        header[AAD_BYTES..PREFIX_END].copy_from_slice(sealing.key.prefix());
        header[PREFIX_END..].copy_from_slice(&suffix);
        if sealing.key.seal(&suffix, &header[..AAD_BYTES], plain, body) {
            Ok(need)
        } else {
            Err(PageError::NoResources(self.id))
        }
    }

    /// Opens `sealed` (exactly one sealed page) into the first bytes of `out`; returns their number.
    ///
    /// When it fails, what it wrote to `out` is wiped.
    pub fn open(&self, sealed: &[u8], out: &mut [u8]) -> Result<usize, PageError> {
        // With many prefixes in use the key is far away too; the page comes meanwhile.
        prefetch(&sealed[..sealed.len().min(AHEAD_BYTES)]);
        let page = SealedPage::parse(sealed)?;
        if page.key_id != self.id {
            return Err(PageError::OtherKey { found: page.key_id, expected: self.id });
        }
        let (need, have) = (page.ciphertext.len(), out.len());
        let out = out.get_mut(..need).ok_or(PageError::OutputTooSmall { need, have })?;
        let opened = match self.known.get(page.prefix) {
            Some(key) => page.open(&key, out),
            None => self.open_first(&page, out)?,
        };
        if opened { Ok(need) } else { Err(PageError::DoesNotVerify(self.id)) }
    }

    /// Opens the first page seen of a prefix. Only a page that verifies gets its prefix remembered.
    #[cold]
    fn open_first(&self, page: &SealedPage<'_>, out: &mut [u8]) -> Result<bool, PageError> {
        let key = scrubbed(|| self.xaes.derive(page.prefix)).map_err(|_| PageError::NoResources(self.id))?;
        let opened = page.open(&key, out);
        if opened {
            self.known.insert(&key);
        }
        Ok(opened)
    }

    /// A nonce never given out before: a prefix, and a number below `pages_per_prefix` in it.
    fn next_nonce(&self) -> Result<(&Sealing, u64), PageError> {
        let mut sealing = &self.sealing;
        loop {
            // A prefix that is used up goes on counting, by at most one a thread and call: 2^64 is out of reach.
            let page = sealing.pages.fetch_add(1, Ordering::Relaxed);
            if page < self.pages_per_prefix {
                return Ok((sealing, page));
            }
            sealing = match sealing.next.get() {
                Some(next) => next,
                None => {
                    let drawn = scrubbed(|| Sealing::draw(&self.xaes));
                    let drawn = drawn.map_err(|_| PageError::NoResources(self.id))?;
                    let next = sealing.next.get_or_init(|| Box::new(drawn));
                    self.known.insert(&next.key);
                    next
                }
            };
        }
    }
}

impl fmt::Debug for PageCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageCipher({}, ..)", self.id)
    }
}

/// A page's header says which key it was sealed under; anyone may ask.
pub fn key_id_of(sealed: &[u8]) -> Result<KeyId, PageError> {
    SealedPage::parse(sealed).map(|page| page.key_id)
}

/// After so many pages a new prefix, and with it a new AES key, is drawn: GCM bounds what one key may seal.
const PAGES_PER_PREFIX: u64 = 1 << 32;

/// How much of a page is asked for at once; the processor's own prefetcher goes on from there.
const AHEAD_BYTES: usize = 1024;

const AAD_BYTES: usize = 17;
const PREFIX_END: usize = AAD_BYTES + PREFIX_BYTES;
const HEADER_BYTES: usize = AAD_BYTES + NONCE_BYTES;

/// The key of a sealing prefix and how many pages were sealed with it; the next one once it is used up.
struct Sealing {
    key: GcmKey,
    pages: AtomicU64,
    next: OnceLock<Box<Sealing>>,
}

impl Sealing {
    fn draw(xaes: &Xaes) -> Result<Self, SecretError> {
        let mut prefix = [0; PREFIX_BYTES];
        aws_lc_rs::rand::fill(&mut prefix).map_err(|_| SecretError::NoRandomness)?;
        let key = xaes.derive(&prefix)?;
        Ok(Self { key, pages: AtomicU64::new(0), next: OnceLock::new() })
    }
}

struct SealedPage<'a> {
    key_id: KeyId,
    prefix: &'a [u8; PREFIX_BYTES],
    suffix: &'a [u8; 12],
    aad: &'a [u8],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> SealedPage<'a> {
    #[inline]
    fn parse(sealed: &'a [u8]) -> Result<Self, PageError> {
        let too_short = || PageError::TooShort(sealed.len());
        let (aad, rest) = sealed.split_at_checked(AAD_BYTES).ok_or_else(too_short)?;
        let (prefix, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
        let (suffix, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
        let (ciphertext, tag) = rest.split_last_chunk().ok_or_else(too_short)?;
        let (format, key_id) = aad.split_first_chunk::<1>().ok_or_else(too_short)?;
        if format[0] != FORMAT {
            return Err(PageError::UnknownFormat(format[0]));
        }
        let key_id = KeyId::from_bytes(key_id.try_into().map_err(|_| too_short())?);
        Ok(Self { key_id, prefix, suffix, aad, ciphertext, tag })
    }

    #[inline]
    fn open(&self, key: &GcmKey, out: &mut [u8]) -> bool {
        key.open(self.suffix, self.aad, self.ciphertext, self.tag, out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn cipher(id: u8, key: u8) -> PageCipher {
        cipher_of(id, key, PAGES_PER_PREFIX)
    }

    fn cipher_of(id: u8, key: u8, pages_per_prefix: u64) -> PageCipher {
        let key = DatabaseKey::take_from(&mut [key; 32]).unwrap();
        PageCipher::with_pages_per_prefix(KeyId::from_bytes([id; 16]), &key, pages_per_prefix).unwrap()
    }

    fn seal(cipher: &PageCipher, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0xee; plain.len() + OVERHEAD];
        assert_eq!(cipher.seal(plain, &mut out), Ok(out.len()));
        out
    }

    fn open(cipher: &PageCipher, sealed: &[u8]) -> Result<Vec<u8>, PageError> {
        let mut out = vec![0xee; sealed.len()];
        let result = cipher.open(sealed, &mut out);
        out.truncate(result?);
        Ok(out)
    }

    #[test]
    fn pages_of_any_size_read_back() {
        let cipher = cipher(1, 2);
        for size in [0, 1, 15, 16, 17, 4096, 32 << 10, 131_073] {
            let plain: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            assert_eq!(open(&cipher, &seal(&cipher, &plain)), Ok(plain), "{size} bytes");
        }
    }

    #[test]
    fn the_header_is_as_documented_and_any_xaes_256_gcm_reads_the_page() {
        let cipher = cipher(0xab, 2);
        seal(&cipher, b"first");
        let sealed = seal(&cipher, b"second");
        assert_eq!((sealed[0], &sealed[1..17]), (1, &[0xab; 16][..]));
        assert_eq!(sealed[29..41], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let derived = Xaes::new(&[2; 32]).unwrap().derive(sealed[17..29].try_into().unwrap()).unwrap();
        let (ciphertext, tag) = sealed[41..].split_last_chunk().unwrap();
        let mut plain = [0; 6];
        assert!(derived.open(sealed[29..41].try_into().unwrap(), &sealed[..17], ciphertext, tag, &mut plain));
        assert_eq!(&plain, b"second");
    }

    #[test]
    fn every_flipped_bit_is_found_and_the_output_wiped() {
        let cipher = cipher(1, 2);
        let sealed = seal(&cipher, b"a page of a database");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut out = [0; 20];
            let error = cipher.open(&changed, &mut out).unwrap_err();
            match bit / 8 {
                0 => assert_eq!(error, PageError::UnknownFormat(changed[0])),
                1..17 => assert!(matches!(error, PageError::OtherKey { .. })),
                _ => assert_eq!(error, PageError::DoesNotVerify(cipher.key_id())),
            }
            assert_eq!(out, [0; 20], "bit {bit}");
        }
    }

    #[test]
    fn a_forged_prefix_is_not_remembered() {
        let (cipher, other) = (cipher(1, 2), cipher(1, 3));
        let foreign = seal(&other, b"under another key with the same id");
        assert_eq!(open(&cipher, &foreign), Err(PageError::DoesNotVerify(cipher.key_id())));
        assert!(cipher.known.get(foreign[17..29].try_into().unwrap()).is_none());
    }

    #[test]
    fn short_blocks_and_small_buffers_are_errors() {
        let cipher = cipher(1, 2);
        let sealed = seal(&cipher, b"");
        for len in 0..OVERHEAD {
            assert_eq!(open(&cipher, &sealed[..len]), Err(PageError::TooShort(len)));
        }
        let mut small = [0; OVERHEAD + 2];
        let need = OVERHEAD + 3;
        assert_eq!(cipher.seal(b"abc", &mut small), Err(PageError::OutputTooSmall { need, have: need - 1 }));
        let sealed = seal(&cipher, b"abc");
        assert_eq!(cipher.open(&sealed, &mut [0; 2]), Err(PageError::OutputTooSmall { need: 3, have: 2 }));
        assert_eq!(key_id_of(&sealed), Ok(cipher.key_id()));
    }

    #[test]
    fn pages_of_earlier_openings_read_back() {
        let newest = cipher(1, 2);
        let pages: Vec<_> = (0..300_u32).map(|n| seal(&cipher(1, 2), &n.to_le_bytes())).collect();
        for _ in 0..2 {
            for (n, page) in (0..300_u32).zip(&pages) {
                assert_eq!(open(&newest, page), Ok(n.to_le_bytes().to_vec()));
            }
        }
        assert!(pages.iter().all(|page| newest.known.get(page[17..29].try_into().unwrap()).is_some()));
    }

    #[test]
    fn no_nonce_is_given_out_twice_while_prefixes_run_out_under_many_threads() {
        let cipher = cipher_of(1, 2, 7);
        let per_thread: Vec<Vec<Vec<u8>>> = std::thread::scope(|scope| {
            let seal_many = || (0..250_u32).map(|n| seal(&cipher, &n.to_le_bytes())).collect();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(seal_many)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let pages: Vec<_> = per_thread.concat();
        let nonces: HashSet<_> = pages.iter().map(|page| &page[17..41]).collect();
        assert_eq!(nonces.len(), 8 * 250);
        let mut per_prefix = std::collections::HashMap::new();
        for page in &pages {
            *per_prefix.entry(&page[17..29]).or_insert(0) += 1;
            assert!(open(&cipher, page).is_ok());
        }
        assert!(per_prefix.values().all(|pages| *pages <= 7));
        assert_eq!(per_prefix.len(), (8 * 250_usize).div_ceil(7));
    }

    /// GCM bounds what one key may seal.
    #[test]
    fn a_prefix_seals_no_more_than_2_to_the_32_pages() {
        assert_eq!(cipher(1, 2).pages_per_prefix, 1 << 32);
        let made = PageCipher::new(KeyId::make(), &DatabaseKey::make().unwrap()).unwrap();
        assert_eq!(made.pages_per_prefix, 1 << 32);
        // At the bound itself: the last page of a prefix, and the first of the next.
        let last = (1 << 32) - 1;
        made.sealing.pages.store(last, Ordering::Relaxed);
        let (before, after) = (seal(&made, b"last"), seal(&made, b"first"));
        assert_eq!(before[29..41], [&[0; 8][..], &[0xff; 4]].concat());
        assert_eq!(after[29..41], [0; 12]);
        assert_ne!(before[17..29], after[17..29]);
        assert_eq!(open(&made, &before).unwrap(), b"last");
        assert_eq!(open(&made, &after).unwrap(), b"first");
    }

    /// What is remembered of a prefix is found without deriving it again: the second page of each of many prefixes.
    #[test]
    fn pages_of_many_prefixes_are_derived_once_each() {
        let reader = cipher(1, 2);
        let writers: Vec<_> = (0..200).map(|_| cipher(1, 2)).collect();
        for round in 0..3_u32 {
            for writer in &writers {
                let page = seal(writer, &round.to_le_bytes());
                assert_eq!(reader.known.get(page[17..29].try_into().unwrap()).is_some(), round > 0);
                assert_eq!(open(&reader, &page), Ok(round.to_le_bytes().to_vec()));
            }
        }
    }

    #[test]
    fn debug_shows_the_id_and_no_key() {
        insta::assert_debug_snapshot!(cipher(1, 2), @"PageCipher(01010101010101010101010101010101, ..)");
        let error = PageError::DoesNotVerify(KeyId::from_bytes([1; 16]));
        insta::assert_snapshot!(format!("{error:?}"), @"DoesNotVerify(KeyId(01010101010101010101010101010101))");
    }
}
