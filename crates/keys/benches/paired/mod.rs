//! Ways of doing a thing, timed in turns, so that a change of the machine's speed meets all of them, and in several
//! layouts, since where buffers happen to lie in memory can be worth more than what is compared.

use std::time::{Duration, Instant};

/// How often everything is made anew.
const LAYOUTS: usize = 7;

/// Rounds of one layout.
const ROUNDS: usize = 101;

/// The rounds that count: the fastest tenth, which no other process disturbed, ends here.
const UNDISTURBED: usize = ROUNDS / 10;

/// One side of a comparison: `prepare` is not timed, `run` is. What the side before left of the cache is worth more than
/// many a difference, so `prepare` ends with what `run` does.
pub(crate) trait Side {
    fn prepare(&mut self);
    fn run(&mut self);
}

/// What a round of each side takes, in seconds, in the best of its layouts. `compare` makes the sides and gives what
/// [`in_turns`] says of them.
pub(crate) fn in_layouts<const N: usize>(mut compare: impl FnMut() -> [f64; N]) -> [f64; N] {
    (0..LAYOUTS)
        .map(|layout| {
            // Kept meanwhile, so that what is made next lies elsewhere.
            let _elsewhere = vec![0_u8; layout * 1_040];
            compare()
        })
        .fold([f64::INFINITY; N], |best, times| std::array::from_fn(|side| best[side].min(times[side])))
}

/// Prints `ratio NAME VALUE at-least LIMIT`.
pub(crate) fn print(name: &str, at_least: f64, ratio: f64) {
    println!("ratio {name} {ratio:.3} at-least {at_least}");
}

/// What an undisturbed round of each side takes, in seconds.
pub(crate) fn in_turns<const N: usize>(sides: [&mut dyn Side; N]) -> [f64; N] {
    let mut rounds = [const { Vec::new() }; N];
    for round in 0..ROUNDS {
        // Who goes first changes from round to round, and who goes after whom.
        for turn in 0..N {
            let side = if round % 2 == 0 { (round + turn) % N } else { (round + N - turn) % N };
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
