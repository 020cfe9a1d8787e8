//! `wtperf` four ways within one run: no encryption, keyward, an encryptor that is nothing but the raw cipher, WiredTiger's
//! reference encryptor over libsodium.
//!
//! Two loads: inserts, and random reads from a cache far smaller than the table, so that nearly every read decrypts a
//! 32 KiB page. The variants take turns, for their throughput, and then run side by side, for their processor time: a
//! machine's speed changes while others use it, and only at the same moment do all see the same machine. Reported is the
//! median of the rounds' own ratios. Prints
//! `ratio NAME VALUE at-least LIMIT` and `measure NAME VALUE UNIT`; `cargo xtask bench` collects them. Started by it: the
//! encryptors need release builds.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod comparison;
mod key_server;
mod wtperf;

use anyhow::Result;
use keyward_testkit::{built, wiredtiger};

use crate::comparison::{Comparison, KEYWARD, NONE, RAW, Ratio, SODIUM};
use crate::key_server::KeyServer;
use crate::wtperf::{Load, Outcome, Run};

/// Rounds of inserts, of reads in turns, and of reads side by side.
const INSERTS: usize = 4;
const READS: usize = 6;
const READS_SIDE_BY_SIDE: usize = 8;

fn main() -> Result<()> {
    let wiredtiger = wiredtiger::v11_3_1()?;
    let keys = KeyServer::start()?;
    let encryptor = built::encryptor_library()?;
    let raw_cipher = built::example("libraw_cipher.so")?;
    let raw_config = format!(
        "extensions=[{}=(early_load=true,entry=raw_cipher_extension_init)],encryption=(name=raw)",
        raw_cipher.display()
    );
    let mut variants =
        vec![(NONE, String::new()), (KEYWARD, keys.wiredtiger_config(&encryptor)), (RAW, raw_config)];
    match &wiredtiger.sodium {
        Some(sodium) => variants.push((SODIUM, sodium_config(sodium))),
        None => println!("note libsodium's headers are not installed: no comparison with its encryptor"),
    }

    let names = || variants.iter().map(|(name, _)| *name);
    let mut inserts = Comparison::new(names());
    for round in 0..INSERTS {
        println!("# inserts: round {} of {INSERTS}", round + 1);
        for at in turns(round, variants.len()) {
            inserts.add(at, Run::new(&wiredtiger, &variants[at].1)?.fill(Load::Insert)?);
        }
    }
    print_medians("insert/throughput", "operations/s", &inserts, |outcome| outcome.operations_per_s);
    print_medians("insert/cpu", "µs/operation", &inserts, |outcome| outcome.cpu_us_per_operation);

    let mut filled = Vec::new();
    for (_, config) in &variants {
        let run = Run::new(&wiredtiger, config)?;
        run.fill(Load::Read)?;
        filled.push(run);
    }
    let mut reads = Comparison::new(names());
    for round in 0..READS {
        println!("# reads: round {} of {READS}", round + 1);
        for at in turns(round, variants.len()) {
            reads.add(at, filled[at].read()?);
        }
    }
    print_medians("read/throughput", "operations/s", &reads, |outcome| outcome.operations_per_s);
    print_ratios("read/throughput", &reads.of_throughput());

    let mut side_by_side = Comparison::new(names());
    for round in 0..READS_SIDE_BY_SIDE {
        println!("# reads side by side: round {} of {READS_SIDE_BY_SIDE}", round + 1);
        let running: Vec<_> = filled.iter().map(Run::start_reading).collect::<Result<_>>()?;
        for (at, running) in running.into_iter().enumerate() {
            side_by_side.add(at, running.outcome()?);
        }
    }
    print_medians("read/cpu", "µs/operation", &side_by_side, |outcome| outcome.cpu_us_per_operation);
    print_ratios("read/cpu", &side_by_side.of_cpu());
    Ok(())
}

fn print_medians(load: &str, unit: &str, comparison: &Comparison, of: fn(&Outcome) -> f64) {
    for (variant, value) in comparison.medians(of) {
        println!("measure wtperf/{load}/{variant} {value:.1} {unit}");
    }
}

/// Nothing is said of what cannot be told.
fn print_ratios(load: &str, ratios: &[Ratio]) {
    for Ratio { name, value, at_least } in ratios {
        if let Some(value) = value {
            println!("ratio wtperf/{load}/{name} {value:.3} at-least {at_least}");
        }
    }
}

/// The order of the variants in a round: each begins in turn, and every second round goes backwards, so that what one
/// leaves behind in the machine's caches does not always fall upon the same other.
fn turns(round: usize, variants: usize) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..variants).map(|turn| (round / 2 + turn) % variants).collect();
    if round % 2 == 1 {
        turns.reverse();
    }
    turns
}

fn sodium_config(library: &std::path::Path) -> String {
    // A key of this benchmark only, in the form the reference encryptor wants.
    let key = "42".repeat(32);
    format!("extensions=[{}=(early_load=true)],encryption=(name=sodium,secretkey={key})", library.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_its_turn_and_neighbours_change_places() {
        let mut pairs = std::collections::HashSet::new();
        for round in 0..8 {
            let turns = turns(round, 4);
            assert_eq!(turns.iter().copied().collect::<std::collections::BTreeSet<_>>(), (0..4).collect());
            pairs.extend(turns.windows(2).map(|pair| (pair[0], pair[1])));
        }
        assert!(pairs.contains(&(1, 2)) && pairs.contains(&(2, 1)));
    }
}
