//! Page encryption against raw in-place AES-256-GCM of aws-lc-rs, and many nonce prefixes against one.
//!
//! `cargo bench -p keyward-keys --bench page`. Criterion gives times; the `ratio` lines compare within one run.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{cell::RefCell, hint::black_box};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BenchmarkId, Criterion, Throughput};
use keyward_keys::{
    DatabaseKey, KeyId,
    page::{OVERHEAD, PageCipher},
};

mod paired;

/// Of AES-GCM.
const TAG_BYTES: usize = 16;

const SIZES_KIB: [usize; 4] = [4, 8, 32, 128];

/// What DESIGN asks for.
const AT_LEAST: f64 = 0.95;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    times(&mut criterion);
    criterion.final_summary();

    for kib in SIZES_KIB {
        let pages = pages_of(kib << 10);
        let mut raw = RawSeal(Raw::new(pages, kib << 10));
        let mut ours = OurSeal(Ours::new(pages, kib << 10, 1));
        paired::report(&format!("page/seal/{kib}KiB"), AT_LEAST, &mut raw, &mut ours);
        let mut raw = RawOpen(Raw::new(pages, kib << 10));
        let mut ours = OurOpen(Ours::new(pages, kib << 10, 1));
        paired::report(&format!("page/open/{kib}KiB"), AT_LEAST, &mut raw, &mut ours);
    }
    for kib in SIZES_KIB {
        many_prefixes(kib);
    }
}

const PREFIXES: usize = 1000;

/// A smaller page is opened in so little time that fetching a key from memory, once a page, takes more than a twentieth
/// of it where the keys have left the processor's cache; the raw cipher's own line shows whether they have.
const FAR_MEMORY_SHOWS_BELOW_KIB: usize = 32;

/// Opening under many prefixes against one; and against the raw cipher under as many keys, which fetches one of them
/// from memory for each page as well.
fn many_prefixes(kib: usize) {
    let pages = RefCell::new(vec![vec![0; (kib << 10) + OVERHEAD]; PREFIXES]);
    let [mut one, mut many] = [1, PREFIXES].map(|prefixes| OpenOfMany::new(&pages, Prefixes::new(prefixes)));
    let [mut raw_one, mut raw_many] = [1, PREFIXES].map(|keys| OpenOfMany::new(&pages, RawKeys::new(keys)));
    let [one, many, raw_one, raw_many] = paired::in_turns([&mut one, &mut many, &mut raw_one, &mut raw_many]);
    let name = format!("page/open-{PREFIXES}-prefixes/{kib}KiB");
    if kib < FAR_MEMORY_SHOWS_BELOW_KIB {
        println!("measure {name} {:.3} of-one-prefix", one / many);
    } else {
        paired::print(&name, AT_LEAST, one / many);
    }
    paired::print(&format!("page/open-{PREFIXES}-prefixes-of-raw/{kib}KiB"), AT_LEAST, raw_many / many);
    println!("measure page/raw-open-{PREFIXES}-keys/{kib}KiB {:.3} of-one-key", raw_one / raw_many);
}

fn times(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("page");
    group.sample_size(20).measurement_time(std::time::Duration::from_secs(1));
    group.warm_up_time(std::time::Duration::from_millis(300));
    for kib in SIZES_KIB {
        group.throughput(Throughput::Bytes((kib << 10) as u64));
        let mut ours = Ours::new(1, kib << 10, 1);
        group.bench_function(BenchmarkId::new("seal", format!("{kib}KiB")), |b| b.iter(|| ours.seal(0)));
        group.bench_function(BenchmarkId::new("open", format!("{kib}KiB")), |b| b.iter(|| ours.open(0)));
        let mut raw = Raw::new(1, kib << 10);
        group.bench_function(BenchmarkId::new("raw-seal", format!("{kib}KiB")), |b| b.iter(|| raw.seal(0)));
    }
    group.finish();
}

/// So many pages that one round takes about a quarter of a millisecond, within the cache.
fn pages_of(bytes: usize) -> usize {
    ((1 << 20) / bytes).max(4)
}

/// AES-256-GCM as aws-lc-rs gives it, in place.
struct Raw {
    key: LessSafeKey,
    pages: Vec<(Vec<u8>, [u8; 16], u64)>,
    next: u64,
}

impl Raw {
    fn new(pages: usize, bytes: usize) -> Self {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
        Self { key, pages: (0..pages).map(|_| (page(bytes), [0; 16], 0)).collect(), next: 0 }
    }

    fn seal(&mut self, at: usize) {
        self.next += 1;
        let (page, tag, number) = &mut self.pages[at];
        *number = self.next;
        let sealed = self.key.seal_in_place_separate_tag(nonce(self.next), Aad::from([1; 17]), page).unwrap();
        tag.copy_from_slice(sealed.as_ref());
    }

    fn open(&mut self, at: usize) {
        let (page, tag, number) = &mut self.pages[at];
        let opened = self.key.open_in_place_separate_tag(nonce(*number), Aad::from([1; 17]), &*tag, page);
        black_box(opened.unwrap());
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The page cipher, from one buffer to another, sealing with `prefixes` ciphers and opening with one.
struct Ours {
    sealers: Vec<PageCipher>,
    opener: PageCipher,
    plain: Vec<u8>,
    sealed: Vec<Vec<u8>>,
    out: Vec<u8>,
}

impl Ours {
    fn new(pages: usize, bytes: usize, prefixes: usize) -> Self {
        let key = DatabaseKey::make().unwrap();
        let cipher = || PageCipher::new(KeyId::from_bytes([1; 16]), &key).unwrap();
        let mut ours = Self {
            sealers: (0..prefixes).map(|_| cipher()).collect(),
            opener: cipher(),
            plain: page(bytes),
            sealed: vec![vec![0; bytes + OVERHEAD]; pages],
            out: vec![0; bytes],
        };
        for at in 0..pages {
            ours.seal(at);
            ours.open(at);
        }
        ours
    }

    fn seal(&mut self, at: usize) {
        let sealer = &self.sealers[at % self.sealers.len()];
        black_box(sealer.seal(&self.plain, &mut self.sealed[at]).unwrap());
    }

    fn open(&mut self, at: usize) {
        black_box(self.opener.open(&self.sealed[at], &mut self.out).unwrap());
    }
}

fn page(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

struct RawSeal(Raw);
struct RawOpen(Raw);
struct OurSeal(Ours);
struct OurOpen(Ours);

impl paired::Side for RawSeal {
    fn run(&mut self) {
        (0..self.0.pages.len()).for_each(|at| self.0.seal(at));
    }
}

impl paired::Side for RawOpen {
    fn prepare(&mut self) {
        (0..self.0.pages.len()).for_each(|at| self.0.seal(at));
    }
    fn run(&mut self) {
        (0..self.0.pages.len()).for_each(|at| self.0.open(at));
    }
}

impl paired::Side for OurSeal {
    fn run(&mut self) {
        (0..self.0.sealed.len()).for_each(|at| self.0.seal(at));
    }
}

impl paired::Side for OurOpen {
    fn prepare(&mut self) {
        (0..self.0.sealed.len()).for_each(|at| self.0.seal(at));
    }
    fn run(&mut self) {
        (0..self.0.sealed.len()).for_each(|at| self.0.open(at));
    }
}

/// Something that seals and opens the pages of [`OpenOfMany`], each by its place, with as many keys as it was made with.
trait Many {
    fn seal(&self, at: usize, plain: &[u8], sealed: &mut [u8]);
    fn open(&self, at: usize, sealed: &[u8], plain: &mut [u8]);
}

/// Opening pages in random order, as a database reads them. All sides of a comparison use the same buffers: where pages
/// happen to lie in memory is worth more than what is compared.
struct OpenOfMany<'a, C> {
    cipher: C,
    plain: Vec<u8>,
    sealed: &'a RefCell<Vec<Vec<u8>>>,
    order: Vec<usize>,
    out: Vec<u8>,
}

impl<'a, C> OpenOfMany<'a, C> {
    fn new(sealed: &'a RefCell<Vec<Vec<u8>>>, cipher: C) -> Self {
        let plain = page(sealed.borrow()[0].len() - OVERHEAD);
        Self { cipher, out: plain.clone(), plain, sealed, order: Vec::new() }
    }
}

impl<C: Many> paired::Side for OpenOfMany<'_, C> {
    fn prepare(&mut self) {
        for (at, page) in self.sealed.borrow_mut().iter_mut().enumerate() {
            self.cipher.seal(at, &self.plain, page);
        }
        // The steady state of this side, not what the other sides' keys left of the cache.
        self.order = random_order();
        self.run();
        self.order = random_order();
    }
    fn run(&mut self) {
        let sealed = self.sealed.borrow();
        for at in &self.order {
            self.cipher.open(*at, &sealed[*at], &mut self.out);
        }
    }
}

/// The page cipher: many that seal, one that opens.
struct Prefixes {
    sealers: Vec<PageCipher>,
    opener: PageCipher,
}

impl Prefixes {
    fn new(prefixes: usize) -> Self {
        let key = DatabaseKey::make().unwrap();
        let cipher = || PageCipher::new(KeyId::from_bytes([1; 16]), &key).unwrap();
        Self { sealers: (0..prefixes).map(|_| cipher()).collect(), opener: cipher() }
    }
}

impl Many for Prefixes {
    fn seal(&self, at: usize, plain: &[u8], sealed: &mut [u8]) {
        black_box(self.sealers[at % self.sealers.len()].seal(plain, sealed).unwrap());
    }
    fn open(&self, _at: usize, sealed: &[u8], plain: &mut [u8]) {
        black_box(self.opener.open(sealed, plain).unwrap());
    }
}

/// The raw cipher: the key of each page is known beforehand, nothing is looked up in the page.
struct RawKeys(Vec<LessSafeKey>);

impl RawKeys {
    fn new(keys: usize) -> Self {
        let key = |_| {
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key).unwrap();
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap())
        };
        Self((0..keys).map(key).collect())
    }

    fn of(&self, at: usize) -> &LessSafeKey {
        &self.0[at % self.0.len()]
    }
}

impl Many for RawKeys {
    fn seal(&self, at: usize, plain: &[u8], sealed: &mut [u8]) {
        let (_, body) = sealed.split_at_mut(OVERHEAD - TAG_BYTES);
        let (ciphertext, tag) = body.split_at_mut(plain.len());
        ciphertext.copy_from_slice(plain);
        let made = self.of(at).seal_in_place_separate_tag(nonce(at as u64), Aad::from([1; 17]), ciphertext);
        tag.copy_from_slice(made.unwrap().as_ref());
    }
    fn open(&self, at: usize, sealed: &[u8], plain: &mut [u8]) {
        let (_, body) = sealed.split_at(OVERHEAD - TAG_BYTES);
        let (ciphertext, tag) = body.split_at(plain.len());
        let aad = Aad::from([1; 17]);
        self.of(at).open_separate_gather(nonce(at as u64), aad, ciphertext, tag, plain).unwrap();
    }
}

/// So many draws among the pages, each as likely.
fn random_order() -> Vec<usize> {
    let mut random = [0; 2 * PREFIXES];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    random
        .chunks(2)
        .map(|pair| usize::from(pair[0]) << 8 | usize::from(pair[1]))
        .map(|n| n % PREFIXES)
        .collect()
}
