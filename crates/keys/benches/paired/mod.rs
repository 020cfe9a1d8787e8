//! Two ways of doing a thing, timed in turns, so that a change of the machine's speed meets both.

use std::time::{Duration, Instant};

/// Rounds of one comparison.
const ROUNDS: usize = 301;

/// The rounds that count: the fastest tenth, which no other process disturbed, ends here.
const UNDISTURBED: usize = ROUNDS / 10;

/// One side of a comparison: `prepare` is not timed, `run` is.
pub(crate) trait Side {
    fn prepare(&mut self) {}
    fn run(&mut self);
}

/// Compares two sides and prints how fast `ours` is compared with `reference` (1 = as fast).
pub(crate) fn report(name: &str, at_least: f64, reference: &mut dyn Side, ours: &mut dyn Side) {
    let [theirs, own] = in_turns([reference, ours]);
    print(name, at_least, theirs / own);
}

/// Prints `ratio NAME VALUE at-least LIMIT`.
pub(crate) fn print(name: &str, at_least: f64, ratio: f64) {
    println!("ratio {name} {ratio:.3} at-least {at_least}");
}

/// What an undisturbed round of each side takes, in seconds.
pub(crate) fn in_turns<const N: usize>(sides: [&mut dyn Side; N]) -> [f64; N] {
    let mut rounds = [const { Vec::new() }; N];
    for round in 0..ROUNDS {
        // Who goes first changes from round to round.
        for turn in 0..N {
            let side = (round + turn) % N;
            rounds[side].push(time(sides[side]));
        }
    }
    rounds.map(|mut times: Vec<Duration>| {
        times.sort();
        times[UNDISTURBED].as_secs_f64()
    })
}

fn time(side: &mut dyn Side) -> Duration {
    side.prepare();
    let start = Instant::now();
    side.run();
    start.elapsed()
}
