//! `wtperf` three ways within one run: no encryption, keyward, WiredTiger's reference encryptor over libsodium.
//!
//! Two loads: inserts, and random reads from a cache far smaller than the table, so that nearly every read decrypts a
//! 32 KiB page. Rounds are interleaved, the best of each compared. Prints `ratio NAME VALUE at-least LIMIT` and
//! `measure NAME VALUE UNIT`; `cargo xtask bench` collects them. Started by it: both need release builds.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod key_server;
mod raw_cipher;
mod wtperf;

use anyhow::Result;
use keyward_testkit::{built, wiredtiger};

use crate::key_server::KeyServer;
use crate::raw_cipher::RawCipher;
use crate::wtperf::{Load, Outcome, Run};

/// Rounds of each variant; the best is reported.
const ROUNDS: usize = 3;
/// The aim for reads: libsodium's throughput times this, or what the machine's raw cipher lets through.
const TWICE: f64 = 2.0;

fn main() -> Result<()> {
    let wiredtiger = wiredtiger::v11_3_1()?;
    let keys = KeyServer::start()?;
    let library = built::encryptor_library()?;
    let mut variants = vec![("none", String::new()), ("keyward", keys.wiredtiger_config(&library))];
    match &wiredtiger.sodium {
        Some(sodium) => variants.push(("libsodium", sodium_config(sodium))),
        None => println!("note libsodium's headers are not installed: no comparison with its encryptor"),
    }

    let mut outcomes: Vec<(&str, Vec<Outcome>, Vec<Outcome>)> =
        variants.iter().map(|(name, _)| (*name, Vec::new(), Vec::new())).collect();
    let mut raw = Vec::new();
    for round in 0..ROUNDS {
        for ((name, config), (_, inserts, reads)) in variants.iter().zip(&mut outcomes) {
            println!("# round {}: {name}", round + 1);
            inserts.push(Run::new(&wiredtiger, config)?.load(Load::Insert)?);
            reads.push(Run::new(&wiredtiger, config)?.load(Load::Read)?);
        }
        // In turns with the loads: a machine's speed changes while others use it.
        raw.push(raw_cipher::measure());
    }
    let raw = RawCipher::best(&raw);
    for (load, pick) in [(Load::Insert, 0), (Load::Read, 1)] {
        let of = |name: &str| {
            let found = outcomes.iter().find(|(variant, ..)| *variant == name);
            found.and_then(|(_, inserts, reads)| Outcome::best(if pick == 0 { inserts } else { reads }))
        };
        report(load, raw, of("none"), of("keyward"), of("libsodium"));
    }
    Ok(())
}

fn report(
    load: Load,
    raw: RawCipher,
    none: Option<Outcome>,
    keyward: Option<Outcome>,
    sodium: Option<Outcome>,
) {
    let load_name = load.name();
    for (name, outcome) in [("none", none), ("keyward", keyward), ("libsodium", sodium)] {
        let Some(outcome) = outcome else { continue };
        println!("measure wtperf/{load_name}/{name}/throughput {:.0} operations/s", outcome.operations_per_s);
        println!("measure wtperf/{load_name}/{name}/cpu {:.3} µs/operation", outcome.cpu_us_per_operation);
    }
    let (Some(none), Some(keyward)) = (none, keyward) else { return };
    // What the raw cipher would cost for the bytes that this run moved.
    println!("measure wtperf/{load_name}/raw-cipher/open {:.2} GB/s", 1e-3 / raw.open_us_per_byte);
    let explained = none.cpu_us_per_operation
        + keyward.bytes_read_per_operation * raw.open_us_per_byte
        + keyward.bytes_written_per_operation * raw.seal_us_per_byte;
    println!("measure wtperf/{load_name}/explained/cpu {explained:.3} µs/operation");
    // And what WiredTiger itself adds as soon as there is an encryptor, whichever: one more copy of each page read.
    let copy = keyward.bytes_read_per_operation * raw.copy_us_per_byte;
    println!("measure wtperf/{load_name}/wiredtiger-copy/cpu {copy:.3} µs/operation");
    let limits = if load == Load::Read { (0.95, 0.95) } else { (0.0, 0.0) };
    ratio(load_name, "raw-cipher-explains", explained / keyward.cpu_us_per_operation, 0.0);
    ratio(
        load_name,
        "raw-cipher-and-copy-explain",
        (explained + copy) / keyward.cpu_us_per_operation,
        limits.0,
    );
    ratio(load_name, "keyward-to-none-throughput", keyward.operations_per_s / none.operations_per_s, 0.0);
    if let Some(sodium) = sodium {
        let value = keyward.operations_per_s / sodium.operations_per_s;
        ratio(load_name, "keyward-to-libsodium-throughput", value, 0.0);
        // What an encryptor that costs nothing but the raw cipher would reach: the bound that this machine sets. Where
        // AES has no wide instructions it is below the aim, and nobody could reach that.
        let bound = sodium.cpu_us_per_operation / (explained + copy);
        ratio(load_name, "bound-of-this-machine-to-libsodium", bound, 0.0);
        let aim = TWICE.min(bound);
        ratio(load_name, "keyward-to-libsodium-of-what-can-be", value / aim, limits.1);
        ratio(
            load_name,
            "libsodium-to-keyward-cpu",
            sodium.cpu_us_per_operation / keyward.cpu_us_per_operation,
            0.0,
        );
    }
}

fn ratio(load: &str, name: &str, value: f64, at_least: f64) {
    println!("ratio wtperf/{load}/{name} {value:.3} at-least {at_least}");
}

fn sodium_config(library: &std::path::Path) -> String {
    // A key of this benchmark only, in the form the reference encryptor wants.
    let key = "42".repeat(32);
    format!("extensions=[{}=(early_load=true)],encryption=(name=sodium,secretkey={key})", library.display())
}
