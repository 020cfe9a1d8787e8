//! Developer commands: `cargo xtask tidy | lint | test | bench [--check] | ci`.
//!
//! Each prints its steps with their times and ends with a summary; each exits non-zero when any step failed.

#![forbid(unsafe_code)]
// Talking to the developer on the terminal is what these commands are for.
#![allow(clippy::print_stdout)]

mod bench;
mod lint;
mod step;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

use crate::step::Steps;

/// Developer commands of keyward.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Checks what the compiler does not: crate direction, purity, sizes, words, links.
    Tidy,
    /// rustfmt, clippy with warnings as errors, cargo-deny where it is installed.
    Lint,
    /// Fetches what the tests need, builds, and runs every test.
    Test,
    /// Runs the benchmarks and writes their ratios to target/bench.
    Bench {
        /// Fail when a ratio is below its aim.
        #[arg(long)]
        check: bool,
        /// Leave WiredTiger's wtperf out: only the page cipher and the keystore.
        #[arg(long)]
        skip_wtperf: bool,
    },
    /// tidy, lint and test.
    Ci,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let mut steps = Steps::new();
    match command {
        Command::Tidy => tidy::run(&mut steps),
        Command::Lint => lint::run(&mut steps),
        Command::Test => test::run(&mut steps),
        Command::Bench { check, skip_wtperf } => {
            bench::run(&mut steps, &bench::Options { check, skip_wtperf })
        }
        Command::Ci => {
            tidy::run(&mut steps);
            lint::run(&mut steps);
            test::run(&mut steps);
        }
    }
    steps.finish()
}
