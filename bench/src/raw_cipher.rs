//! What AES-256-GCM and a copy cost on this machine, at the page size that the read load moves.

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustix::time::{ClockId, clock_gettime};

const PAGE_BYTES: usize = 32 << 10;
/// Pages that a copy goes to in turns: as many as the cache of the read load holds.
const CACHED_PAGES: usize = 512;
const TIME: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCipher {
    pub(crate) seal_us_per_byte: f64,
    pub(crate) open_us_per_byte: f64,
    /// WiredTiger copies a page that was decrypted, and not compressed, from its scratch buffer to the cache.
    pub(crate) copy_us_per_byte: f64,
}

impl RawCipher {
    fn combine(all: &[Self], with: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Self {
        let of = |value: fn(&Self) -> f64| with(&mut all.iter().map(value));
        Self {
            seal_us_per_byte: of(|raw| raw.seal_us_per_byte),
            open_us_per_byte: of(|raw| raw.open_us_per_byte),
            copy_us_per_byte: of(|raw| raw.copy_us_per_byte),
        }
    }

    /// The least of each cost, over rounds.
    pub(crate) fn best(rounds: &[Self]) -> Self {
        Self::combine(rounds, |values| values.fold(f64::INFINITY, f64::min))
    }
}

/// On all cores at once, as the loads keep them all busy: a core whose neighbour works is slower. The mean of them.
pub(crate) fn measure() -> RawCipher {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all: Vec<RawCipher> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(measure_on_one_core)).collect();
        threads.into_iter().map(|thread| thread.join().expect("the cipher does not panic")).collect()
    });
    RawCipher::combine(&all, |values| values.sum::<f64>() / cores as f64)
}

fn measure_on_one_core() -> RawCipher {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map(LessSafeKey::new).expect("32 bytes are a key");
    let nonce = || Nonce::assume_unique_for_key([9; 12]);
    let mut page = vec![0_u8; PAGE_BYTES];
    let seal_us_per_byte = per_byte(|| {
        let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut page);
        black_box(tag.is_ok());
    });
    let plain = vec![1_u8; PAGE_BYTES];
    let mut sealed = plain.clone();
    let tag =
        key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut sealed).expect("a page can be sealed");
    let mut out = vec![0_u8; PAGE_BYTES];
    let open_us_per_byte = per_byte(|| {
        let opened = key.open_separate_gather(nonce(), Aad::empty(), &sealed, tag.as_ref(), &mut out);
        opened.expect("what was sealed opens");
        black_box(&out);
    });
    assert_eq!(out, plain);
    let mut cached = vec![vec![0_u8; PAGE_BYTES]; CACHED_PAGES];
    let mut next = (0..CACHED_PAGES).cycle();
    let copy_us_per_byte = per_byte(|| {
        let page = &mut cached[next.next().unwrap_or_default()];
        page.copy_from_slice(&out);
        black_box(page);
    });
    RawCipher { seal_us_per_byte, open_us_per_byte, copy_us_per_byte }
}

/// Microseconds of this thread's processor time for a byte: what else runs on the machine does not count.
fn per_byte(mut page: impl FnMut()) -> f64 {
    let begun = cpu_time();
    let mut pages = 0_u32;
    while cpu_time().saturating_sub(begun) < TIME {
        for _ in 0..64 {
            page();
        }
        pages += 64;
    }
    cpu_time().saturating_sub(begun).as_secs_f64() * 1e6 / (f64::from(pages) * PAGE_BYTES as f64)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
