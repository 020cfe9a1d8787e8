//! Two ways of doing a thing, timed in turns, so that a change of the machine's speed meets both.

use std::time::{Duration, Instant};

/// Rounds of one comparison; the median ratio is reported.
const ROUNDS: usize = 301;

/// One side of a comparison: `prepare` is not timed, `run` is.
pub trait Side {
    fn prepare(&mut self) {}
    fn run(&mut self);
}

/// Prints `ratio NAME VALUE at-least LIMIT`, where VALUE is how fast `ours` is compared with `reference` (1 = as fast).
pub fn report(name: &str, at_least: f64, reference: &mut dyn Side, ours: &mut dyn Side) {
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            // Who goes first changes from round to round.
            let (a, b) = if round % 2 == 0 {
                let a = time(reference);
                (a, time(ours))
            } else {
                let b = time(ours);
                (time(reference), b)
            };
            a.as_secs_f64() / b.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("ratio {name} {:.3} at-least {at_least}", ratios[ROUNDS / 2]);
}

fn time(side: &mut dyn Side) -> Duration {
    side.prepare();
    let start = Instant::now();
    side.run();
    start.elapsed()
}
