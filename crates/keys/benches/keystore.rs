//! A keystore with 10,000 database keys: open it, add one, rotate its master key.
//!
//! `cargo bench -p keyward-keys --bench keystore`. The `value` lines are read by `cargo xtask bench --check`.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::Criterion;
use jiff::Timestamp;
use keyward_keys::{
    MasterKey, NodeId,
    keystore::{CanaryWrap, FileImage, MasterKeyWrap, OpenKeystore, Provider, SealedKeystore, VerifiedWrap},
};

/// One system key and 9,999 spares.
const SPARES: usize = 9_999;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let (keystore, image) =
        OpenKeystore::create(NodeId::make(), master(1), verified(&master(1)), SPARES, now()).unwrap();
    let new = master(2);
    let open = || SealedKeystore::parse(&image.bytes).unwrap().open(master(1)).unwrap();
    let add_one = || keystore.add_spares(1, now()).unwrap();
    let rotate = || keystore.rotate_master_key(&new, verified(&new), now()).unwrap();
    criterion.bench_function("keystore/open", |b| b.iter(open));
    criterion.bench_function("keystore/add-one", |b| b.iter(add_one));
    criterion.bench_function("keystore/rotate", |b| b.iter(rotate));
    criterion.final_summary();

    let (added, rotated): (FileImage, FileImage) = (add_one(), rotate());
    milliseconds("open", open);
    milliseconds("add-one", add_one);
    milliseconds("add-one-commit", || open_then(open(), |keystore| keystore.commit(&added).unwrap()));
    milliseconds("rotate", rotate);
    milliseconds("rotate-commit", || {
        open_then(open(), |keystore| keystore.commit_rotated(&rotated, master(2)).unwrap())
    });
    println!("value keystore/add-one-writes {} bytes", added.bytes.len());
    println!("value keystore/rotate-writes {} bytes", rotated.bytes.len());
}

/// Runs `commit`; the opening before it is part of the time.
fn open_then(mut keystore: OpenKeystore, commit: impl FnOnce(&mut OpenKeystore)) -> OpenKeystore {
    commit(&mut keystore);
    keystore
}

/// Prints `value keystore/NAME N ms`, the median of some runs.
fn milliseconds<R>(name: &str, mut work: impl FnMut() -> R) {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let start = Instant::now();
            let result = black_box(work());
            let time = start.elapsed();
            drop(result);
            time
        })
        .collect();
    times.sort();
    println!("value keystore/{name} {:.2} ms", times[times.len() / 2].as_secs_f64() * 1e3);
}

fn master(byte: u8) -> MasterKey {
    MasterKey::take_from(&mut [byte; 32]).unwrap()
}

fn verified(of: &MasterKey) -> Vec<VerifiedWrap> {
    let wrap = MasterKeyWrap {
        provider: Provider::AzureKeyVault,
        key_identifier: "https://contoso.vault.azure.net/keys/cmk/00000000000000000000000000000000"
            .to_owned(),
        public_key_sha256: "00".repeat(32),
        algorithm: "RSA-OAEP-256".to_owned(),
        ciphertext: vec![0; 256],
        created_at: now(),
        canary: CanaryWrap { ciphertext: vec![0; 256], sha256: [0; 32] },
    };
    vec![wrap.verified(of, of.expose()).unwrap()]
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00.123456Z".parse().unwrap()
}
