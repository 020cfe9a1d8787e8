//! `wtperf` four ways within one run: no encryption, keyward, an encryptor that is nothing but the raw cipher, WiredTiger's
//! reference encryptor over libsodium.
//!
//! Two loads: inserts, and random reads from a cache far smaller than the table, so that nearly every read decrypts a
//! 32 KiB page. The variants take turns, for their throughput. For the processor time of a read all but libsodium's take
//! short turns, a tenth of a second each: a machine's speed changes while others use it, and so all see the same machine.
//! What it takes to open and close a database is measured apart and counts as no operation's. Reported is the median of
//! the rounds' own ratios. Prints
//! `ratio NAME VALUE at-least LIMIT` and `measure NAME VALUE UNIT`; `cargo xtask bench` collects them. Started by it: the
//! encryptors need release builds.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod comparison;
mod key_server;
mod wtperf;

use anyhow::Result;
use keyward_testkit::{
    built,
    wiredtiger::{self, WiredTiger},
};

use crate::comparison::{Comparison, KEYWARD, NONE, RAW, Ratio, SODIUM, middle_half};
use crate::key_server::KeyServer;
use crate::wtperf::{Load, Outcome, Run, take_turns};

/// Rounds of inserts, of reads, and of reads in short turns.
const INSERTS: usize = 4;
const READS: usize = 6;
const READS_IN_SHORT_TURNS: usize = 24;
/// After so many of the last the tables are filled anew: where their blocks happen to lie is worth something too.
const READS_PER_FILL: usize = 6;
/// How often each variant's database is opened and closed, for the processor time of that.
const OPENINGS: usize = 48;
/// For the gap to no encryption.
const IN_SHORT_TURNS: [&str; 3] = [NONE, KEYWARD, RAW];

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
    let all: Vec<usize> = (0..variants.len()).collect();
    let filled = fill(&wiredtiger, &variants, &all)?;
    let opening_cpu_s = opening_cpu_s(&filled)?;
    for (name, seconds) in names().zip(&opening_cpu_s) {
        println!("measure wtperf/open-and-close/cpu/{name} {:.0} ms", seconds * 1e3);
    }

    let mut inserts = Comparison::new(names());
    for round in 0..INSERTS {
        println!("# inserts: round {} of {INSERTS}", round + 1);
        for at in turns(round, variants.len()) {
            inserts.add(at, Run::new(&wiredtiger, &variants[at].1)?.fill(Load::Insert, opening_cpu_s[at])?);
        }
    }
    print_medians("insert/throughput", "operations/s", &inserts, |outcome| outcome.operations_per_s);
    print_medians("insert/cpu", "µs/operation", &inserts, |outcome| outcome.cpu_us_per_operation);

    let mut reads = Comparison::new(names());
    for round in 0..READS {
        println!("# reads: round {} of {READS}", round + 1);
        for at in turns(round, variants.len()) {
            reads.add(at, filled[at].read(opening_cpu_s[at])?);
        }
    }
    print_medians("read/throughput", "operations/s", &reads, |outcome| outcome.operations_per_s);
    print_medians("read/cpu-in-turns", "µs/operation", &reads, |outcome| outcome.cpu_us_per_operation);
    print_ratios("read/throughput", &reads.of_throughput());
    drop(filled);

    let which: Vec<usize> = all.into_iter().filter(|at| IN_SHORT_TURNS.contains(&variants[*at].0)).collect();
    let mut in_short_turns = Comparison::new(names());
    let mut filled = Vec::new();
    for round in 0..READS_IN_SHORT_TURNS {
        println!("# reads in short turns: round {} of {READS_IN_SHORT_TURNS}", round + 1);
        if round % READS_PER_FILL == 0 {
            filled.clear();
            filled = fill(&wiredtiger, &variants, &which)?;
        }
        let running: Vec<_> = filled.iter().map(Run::start_reading_in_turns).collect::<Result<_>>()?;
        take_turns(&running)?;
        for (at, running) in which.iter().zip(running) {
            in_short_turns.add(*at, running.outcome(opening_cpu_s[*at])?);
        }
    }
    print_medians("read/cpu", "µs/operation", &in_short_turns, |outcome| outcome.cpu_us_per_operation);
    print_ratios("read/cpu", &in_short_turns.of_cpu());
    Ok(())
}

/// A database of each variant at `which`, filled to be read from.
fn fill<'a>(
    wiredtiger: &'a WiredTiger,
    variants: &'a [(&'static str, String)],
    which: &[usize],
) -> Result<Vec<Run<'a>>> {
    let runs: Vec<_> =
        which.iter().map(|at| Run::new(wiredtiger, &variants[*at].1)).collect::<Result<_>>()?;
    let filling: Vec<_> = runs.iter().map(|run| run.start_filling(Load::Read)).collect::<Result<_>>()?;
    for filling in filling {
        filling.outcome(0.0)?;
    }
    Ok(runs)
}

/// What opening and closing each takes, in seconds of processor time.
fn opening_cpu_s(filled: &[Run<'_>]) -> Result<Vec<f64>> {
    let mut seconds = vec![Vec::new(); filled.len()];
    for round in 0..OPENINGS {
        for at in turns(round, filled.len()) {
            seconds[at].push(filled[at].opening_cpu_s()?);
        }
    }
    Ok(seconds.into_iter().map(|seconds| middle_half(seconds).unwrap_or_default()).collect())
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
