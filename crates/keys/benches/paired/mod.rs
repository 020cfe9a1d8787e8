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

/// Prints `ratio NAME VALUE at-least LIMIT`, where VALUE is how fast `ours` is compared with `reference` (1 = as fast).
pub(crate) fn report(name: &str, at_least: f64, reference: &mut dyn Side, ours: &mut dyn Side) {
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Who goes first changes from round to round.
        if round % 2 == 0 {
            theirs.push(time(reference));
            own.push(time(ours));
        } else {
            own.push(time(ours));
            theirs.push(time(reference));
        }
    }
    theirs.sort();
    own.sort();
    let ratio = theirs[UNDISTURBED].as_secs_f64() / own[UNDISTURBED].as_secs_f64();
    println!("ratio {name} {ratio:.3} at-least {at_least}");
}

fn time(side: &mut dyn Side) -> Duration {
    side.prepare();
    let start = Instant::now();
    side.run();
    start.elapsed()
}
