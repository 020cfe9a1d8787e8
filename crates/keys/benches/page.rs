//! Page encryption against the raw AES-256-GCM of aws-lc-rs in the same buffers, and many nonce prefixes against one.
//!
//! `cargo bench -p keyward-keys --bench page`. Criterion gives times; the `ratio` lines compare within one run.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{cell::RefCell, fs::File, hint::black_box, os::unix::fs::FileExt as _, time::Duration};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BenchmarkId, Criterion, Throughput};
use keyward_keys::{
    DatabaseKey, KeyId,
    page::{OVERHEAD, PageCipher},
};

mod paired;

/// Of AES-GCM.
const TAG_BYTES: usize = 16;

/// Where the ciphertext of a page begins. Not at a multiple of the processor's vectors, which costs it some speed.
const HEADER_BYTES: usize = OVERHEAD - TAG_BYTES;

const SIZES_KIB: [usize; 4] = [4, 8, 32, 128];

/// What DESIGN asks for.
const AT_LEAST: f64 = 0.95;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    times(&mut criterion);
    criterion.final_summary();

    for kib in SIZES_KIB {
        against_raw(kib);
    }
    for kib in SIZES_KIB {
        many_prefixes(kib);
    }
}

fn times(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("page");
    group.sample_size(20).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    for kib in SIZES_KIB {
        group.throughput(Throughput::Bytes((kib << 10) as u64));
        let (pages, ours, raw) = (Pages::new(1, kib), PagesOf::new(1), RawKeys::new(1));
        let size = format!("{kib}KiB");
        group.bench_function(BenchmarkId::new("raw-seal", &size), |b| b.iter(|| pages.seal(&raw, 0)));
        group.bench_function(BenchmarkId::new("seal", &size), |b| b.iter(|| pages.seal(&ours, 0)));
        group.bench_function(BenchmarkId::new("open", &size), |b| b.iter(|| pages.open(&ours, 0)));
    }
    group.finish();
}

/// Sealing and opening against the raw cipher, from one buffer to another as an engine asks for it. Beside it, as a
/// measure, the raw cipher in place, which no encryptor of pages can be: its output has a header and is another buffer.
fn against_raw(kib: usize) {
    let [raw_seal, seal, in_place] = paired::in_layouts(|| {
        let pages = Pages::within_cache(kib);
        let (raw, ours) = (RawKeys::new(1), PagesOf::new(1));
        let [mut raw, mut ours] =
            [&raw as &dyn Cipher, &ours].map(|cipher| Sealing { cipher, pages: &pages });
        paired::in_turns([&mut raw, &mut ours, &mut SealingInPlace::new(&pages)])
    });
    let [raw_open, open] = paired::in_layouts(|| {
        let pages = Pages::within_cache(kib);
        let (raw, ours) = (RawKeys::new(1), PagesOf::new(1));
        let [mut raw, mut ours] =
            [&raw as &dyn Cipher, &ours].map(|cipher| Opening::in_order(cipher, &pages));
        paired::in_turns([&mut raw, &mut ours])
    });
    paired::print(&format!("page/seal/{kib}KiB"), AT_LEAST, raw_seal / seal);
    paired::print(&format!("page/open/{kib}KiB"), AT_LEAST, raw_open / open);
    println!("measure page/seal/{kib}KiB {:.3} of-raw-in-place", in_place / seal);
}

const PREFIXES: usize = 1000;

/// Opening under many prefixes against one, the pages in random order, in memory and read from a file.
///
/// A page says in its header which key it needs, and 1,000 keys do not fit into a processor's fast caches beside the
/// pages: each page waits for its key to come from memory, whoever opens it. How much the raw cipher loses by that is
/// what can be; the page cipher may lose a twentieth more.
fn many_prefixes(kib: usize) {
    let [one, many, raw_one, raw_many] = paired::in_layouts(|| {
        let pages = Pages::new(PREFIXES, kib);
        let ours = [1, PREFIXES].map(PagesOf::new);
        let raw = [1, PREFIXES].map(RawKeys::new);
        let [mut one, mut many] = ours.each_ref().map(|cipher| Opening::in_random_order(cipher, &pages));
        let [mut raw_one, mut raw_many] =
            raw.each_ref().map(|cipher| Opening::in_random_order(cipher, &pages));
        paired::in_turns([&mut one, &mut many, &mut raw_one, &mut raw_many])
    });
    let [read_one, read_many] = paired::in_layouts(|| {
        let (pages, file) = (Pages::new(PREFIXES, kib), tempfile::tempfile().unwrap());
        let ours = [1, PREFIXES].map(PagesOf::new);
        let [mut one, mut many] =
            ours.each_ref().map(|cipher| Opening::in_random_order(cipher, &pages).from(&file));
        paired::in_turns([&mut one, &mut many])
    });
    let name = format!("page/open-{PREFIXES}-prefixes");
    println!("measure {name}/{kib}KiB {:.3} of-one-prefix", one / many);
    println!("measure page/raw-open-{PREFIXES}-keys/{kib}KiB {:.3} of-one-key", raw_one / raw_many);
    println!(
        "measure page/read-and-open-{PREFIXES}-prefixes/{kib}KiB {:.3} of-one-prefix",
        read_one / read_many
    );
    let of_what_can_be = (one / many) / (raw_one / raw_many);
    paired::print(&format!("{name}-of-what-can-be/{kib}KiB"), AT_LEAST, of_what_can_be);
}

/// Something that seals pages, each by its place, with as many keys as it was made with, and opens any.
trait Cipher {
    /// Seals `plain` into `sealed`, which is [`OVERHEAD`] longer.
    fn seal(&self, at: usize, plain: &[u8], sealed: &mut [u8]);
    fn open(&self, sealed: &[u8], plain: &mut [u8]);
}

/// The page cipher: many that seal, one that opens.
struct PagesOf {
    sealers: Vec<PageCipher>,
    opener: PageCipher,
}

impl PagesOf {
    fn new(prefixes: usize) -> Self {
        let key = DatabaseKey::make().unwrap();
        let cipher = || PageCipher::new(KeyId::from_bytes([1; 16]), &key).unwrap();
        Self { sealers: (0..prefixes).map(|_| cipher()).collect(), opener: cipher() }
    }
}

impl Cipher for PagesOf {
    fn seal(&self, at: usize, plain: &[u8], sealed: &mut [u8]) {
        black_box(self.sealers[at % self.sealers.len()].seal(plain, sealed).unwrap());
    }
    fn open(&self, sealed: &[u8], plain: &mut [u8]) {
        black_box(self.opener.open(sealed, plain).unwrap());
    }
}

/// The raw cipher with as many keys in a row. Each page says in its first bytes which one it needs, as it must where any
/// page may be asked for next: no way of finding the key of a page can do with less.
struct RawKeys(Vec<LessSafeKey>);

impl RawKeys {
    fn new(keys: usize) -> Self {
        Self((0..keys).map(|_| random_key()).collect())
    }
}

impl Cipher for RawKeys {
    fn seal(&self, at: usize, plain: &[u8], sealed: &mut [u8]) {
        let [number, key] = [at, at % self.0.len()].map(|n| u16::try_from(n).unwrap());
        let (header, body) = sealed.split_at_mut(HEADER_BYTES);
        header[..2].copy_from_slice(&number.to_le_bytes());
        header[2..4].copy_from_slice(&key.to_le_bytes());
        let key = &self.0[usize::from(key)];
        key.seal_in_place_scatter(nonce(number), Aad::from([1; 17]), &mut [], plain, body).unwrap();
    }
    fn open(&self, sealed: &[u8], plain: &mut [u8]) {
        let (header, body) = sealed.split_at(HEADER_BYTES);
        let (ciphertext, tag) = body.split_at(plain.len());
        let [number, key] = [0, 2].map(|at| u16::from_le_bytes([header[at], header[at + 1]]));
        let key = &self.0[usize::from(key)];
        key.open_separate_gather(nonce(number), Aad::from([1; 17]), ciphertext, tag, plain).unwrap();
    }
}

fn random_key() -> LessSafeKey {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).unwrap();
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap())
}

fn nonce(number: u16) -> Nonce {
    let mut bytes = [0; 12];
    bytes[10..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Buffers, the same for all sides of a comparison.
struct Pages {
    plain: Vec<u8>,
    sealed: RefCell<Vec<Vec<u8>>>,
    opened: RefCell<Vec<u8>>,
}

impl Pages {
    fn new(pages: usize, kib: usize) -> Self {
        let plain: Vec<u8> = (0..kib << 10).map(|at| (at % 251) as u8).collect();
        let sealed = vec![vec![0; plain.len() + OVERHEAD]; pages];
        Self { opened: RefCell::new(plain.clone()), plain, sealed: RefCell::new(sealed) }
    }

    /// So many pages that all buffers lie in a processor's cache of 512 KiB.
    fn within_cache(kib: usize) -> Self {
        Self::new((256 / kib).max(1), kib)
    }

    fn len(&self) -> usize {
        self.sealed.borrow().len()
    }

    fn seal(&self, cipher: &dyn Cipher, at: usize) {
        cipher.seal(at, &self.plain, &mut self.sealed.borrow_mut()[at]);
    }

    fn open(&self, cipher: &dyn Cipher, at: usize) {
        cipher.open(&self.sealed.borrow()[at], &mut self.opened.borrow_mut());
    }
}

struct Sealing<'a> {
    cipher: &'a dyn Cipher,
    pages: &'a Pages,
}

impl paired::Side for Sealing<'_> {
    fn prepare(&mut self) {
        self.run();
    }
    fn run(&mut self) {
        (0..self.pages.len()).for_each(|at| self.pages.seal(self.cipher, at));
    }
}

/// The raw cipher on what stands where the ciphertext goes, whatever it is.
struct SealingInPlace<'a> {
    key: LessSafeKey,
    pages: &'a Pages,
}

impl<'a> SealingInPlace<'a> {
    fn new(pages: &'a Pages) -> Self {
        Self { key: random_key(), pages }
    }
}

impl paired::Side for SealingInPlace<'_> {
    fn prepare(&mut self) {
        self.run();
    }
    fn run(&mut self) {
        for (at, page) in self.pages.sealed.borrow_mut().iter_mut().enumerate() {
            let (ciphertext, tag) = page[HEADER_BYTES..].split_at_mut(self.pages.plain.len());
            let (nonce, aad) = (nonce(u16::try_from(at).unwrap()), Aad::from([1; 17]));
            let made = self.key.seal_in_place_separate_tag(nonce, aad, ciphertext);
            tag.copy_from_slice(made.unwrap().as_ref());
        }
    }
}

struct Opening<'a> {
    cipher: &'a dyn Cipher,
    pages: &'a Pages,
    order: fn(usize) -> Vec<usize>,
    next: Vec<usize>,
    file: Option<(&'a File, Vec<u8>)>,
}

impl<'a> Opening<'a> {
    fn in_order(cipher: &'a dyn Cipher, pages: &'a Pages) -> Self {
        Self { cipher, pages, order: |pages| (0..pages).collect(), next: Vec::new(), file: None }
    }

    /// As a database reads them.
    fn in_random_order(cipher: &'a dyn Cipher, pages: &'a Pages) -> Self {
        Self { order: random_order, ..Self::in_order(cipher, pages) }
    }

    /// Each page is read from `file` before it is opened, as an engine does it; the file lies in the page cache.
    fn from(self, file: &'a File) -> Self {
        let buffer = self.pages.sealed.borrow()[0].clone();
        Self { file: Some((file, buffer)), ..self }
    }
}

impl paired::Side for Opening<'_> {
    fn prepare(&mut self) {
        (0..self.pages.len()).for_each(|at| self.pages.seal(self.cipher, at));
        if let Some((file, _)) = &self.file {
            let mut offset = 0;
            for page in self.pages.sealed.borrow().iter() {
                file.write_all_at(page, offset).unwrap();
                offset += page.len() as u64;
            }
        }
        // The steady state of this side, not what the other sides' keys left of the cache.
        self.next = (self.order)(self.pages.len());
        self.run();
        self.next = (self.order)(self.pages.len());
    }
    fn run(&mut self) {
        for at in &self.next {
            match &mut self.file {
                None => self.pages.open(self.cipher, *at),
                Some((file, page)) => {
                    let offset = (at * page.len()) as u64;
                    file.read_exact_at(page, offset).unwrap();
                    self.cipher.open(page, &mut self.pages.opened.borrow_mut());
                }
            }
        }
    }
}

/// As many draws as there are pages, each page as likely.
fn random_order(pages: usize) -> Vec<usize> {
    let mut random = vec![0; 4 * pages];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    random
        .chunks(4)
        .map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
        .map(|number| number % pages)
        .collect()
}
