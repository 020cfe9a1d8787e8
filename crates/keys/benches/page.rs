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

/// Opening under many prefixes against one; and against the raw cipher under as many keys, which is what any way of
/// keeping a thousand keys pays for fetching one of them from memory.
fn many_prefixes(kib: usize) {
    let pages = RefCell::new(vec![vec![0; (kib << 10) + OVERHEAD]; PREFIXES]);
    let [mut one, mut many] = [1, PREFIXES].map(|prefixes| OpenOfMany::new(&pages, prefixes));
    let [mut raw_one, mut raw_many] = [1, PREFIXES].map(|keys| RawOpenOfMany::new(&pages, keys));
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

/// Opening pages that were sealed with `prefixes` ciphers, in random order, as a database reads them. All sides of a
/// comparison use the same buffers: where pages happen to lie in memory is worth more than what is compared.
struct OpenOfMany<'a> {
    sealers: Vec<PageCipher>,
    opener: PageCipher,
    plain: Vec<u8>,
    sealed: &'a RefCell<Vec<Vec<u8>>>,
    order: Vec<usize>,
    out: Vec<u8>,
}

impl<'a> OpenOfMany<'a> {
    fn new(sealed: &'a RefCell<Vec<Vec<u8>>>, prefixes: usize) -> Self {
        let key = DatabaseKey::make().unwrap();
        let cipher = || PageCipher::new(KeyId::from_bytes([1; 16]), &key).unwrap();
        let plain = page(sealed.borrow()[0].len() - OVERHEAD);
        let sealers = (0..prefixes).map(|_| cipher()).collect();
        Self { sealers, opener: cipher(), out: plain.clone(), plain, sealed, order: Vec::new() }
    }
}

impl paired::Side for OpenOfMany<'_> {
    fn prepare(&mut self) {
        for (at, page) in self.sealed.borrow_mut().iter_mut().enumerate() {
            black_box(self.sealers[at % self.sealers.len()].seal(&self.plain, page).unwrap());
        }
        // The steady state of this side, not what the other sides' keys left of the cache.
        self.order = random_order();
        self.run();
        self.order = random_order();
    }
    fn run(&mut self) {
        let sealed = self.sealed.borrow();
        for at in &self.order {
            black_box(self.opener.open(&sealed[*at], &mut self.out).unwrap());
        }
    }
}

/// The same with the raw cipher: the key of each page is known beforehand, nothing is looked up in the page.
struct RawOpenOfMany<'a> {
    keys: Vec<LessSafeKey>,
    plain: Vec<u8>,
    sealed: &'a RefCell<Vec<Vec<u8>>>,
    order: Vec<usize>,
    out: Vec<u8>,
}

impl<'a> RawOpenOfMany<'a> {
    fn new(sealed: &'a RefCell<Vec<Vec<u8>>>, keys: usize) -> Self {
        let key = |_| {
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key).unwrap();
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap())
        };
        let plain = page(sealed.borrow()[0].len() - OVERHEAD);
        let keys = (0..keys).map(key).collect();
        Self { keys, out: plain.clone(), plain, sealed, order: Vec::new() }
    }
}

impl paired::Side for RawOpenOfMany<'_> {
    fn prepare(&mut self) {
        for (at, page) in self.sealed.borrow_mut().iter_mut().enumerate() {
            let (_, body) = page.split_at_mut(OVERHEAD - TAG_BYTES);
            let (ciphertext, tag) = body.split_at_mut(self.plain.len());
            ciphertext.copy_from_slice(&self.plain);
            let key = &self.keys[at % self.keys.len()];
            let sealed = key.seal_in_place_separate_tag(nonce(at as u64), Aad::from([1; 17]), ciphertext);
            tag.copy_from_slice(sealed.unwrap().as_ref());
        }
        self.order = random_order();
        self.run();
        self.order = random_order();
    }
    fn run(&mut self) {
        let sealed = self.sealed.borrow();
        for at in &self.order {
            let (_, body) = sealed[*at].split_at(OVERHEAD - TAG_BYTES);
            let (ciphertext, tag) = body.split_at(body.len() - TAG_BYTES);
            let key = &self.keys[*at % self.keys.len()];
            let aad = Aad::from([1; 17]);
            key.open_separate_gather(nonce(*at as u64), aad, ciphertext, tag, &mut self.out).unwrap();
        }
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
