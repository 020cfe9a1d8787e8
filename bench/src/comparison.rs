//! What the variants took, compared round by round.

use crate::wtperf::Outcome;

pub(crate) const NONE: &str = "none";
pub(crate) const KEYWARD: &str = "keyward";
pub(crate) const RAW: &str = "raw-cipher";
pub(crate) const SODIUM: &str = "libsodium";

/// The aim for reads: libsodium's throughput times this, or what the raw cipher lets through on this machine.
const TWICE: f64 = 2.0;
/// How much of what an encryptor that is nothing but the cipher reaches must be reached.
const NEARLY_ALL: f64 = 0.95;

/// The outcomes of one load: a list of rounds for each variant.
pub(crate) struct Comparison {
    variants: Vec<(&'static str, Vec<Outcome>)>,
}

/// The median of the rounds' own ratios.
#[derive(Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) name: &'static str,
    /// `None` where a variant is missing.
    pub(crate) value: Option<f64>,
    /// What `bench --check` asks for; 0 for nothing.
    pub(crate) at_least: f64,
}

impl Comparison {
    pub(crate) fn new(names: impl Iterator<Item = &'static str>) -> Self {
        Self { variants: names.map(|name| (name, Vec::new())).collect() }
    }

    /// The next round's outcome of the variant at `at`.
    pub(crate) fn add(&mut self, at: usize, outcome: Outcome) {
        self.variants[at].1.push(outcome);
    }

    /// The median of each variant, by name.
    pub(crate) fn medians(&self, of: fn(&Outcome) -> f64) -> Vec<(&'static str, f64)> {
        let median = |rounds: &[Outcome]| median(rounds.iter().map(of));
        self.variants.iter().filter_map(|(name, rounds)| Some((*name, median(rounds)?))).collect()
    }

    /// Of variants that took turns: what each let through.
    pub(crate) fn of_throughput(&self) -> Vec<Ratio> {
        let of = |one: &str, other: &str| {
            self.over_rounds([one, other], |[one, other]| one.operations_per_s / other.operations_per_s)
        };
        let sodium = self.over_rounds([SODIUM, KEYWARD], |[sodium, keyward]| {
            sodium.cpu_us_per_operation / keyward.cpu_us_per_operation
        });
        // Where AES has no wide instructions the raw cipher itself is below the aim: nobody could reach that.
        let of_what_can_be = self.over_rounds([KEYWARD, RAW, SODIUM], |[keyward, raw, sodium]| {
            keyward.operations_per_s / (TWICE * sodium.operations_per_s).min(raw.operations_per_s)
        });
        vec![
            Ratio::unchecked("keyward-to-none", of(KEYWARD, NONE)),
            Ratio::unchecked("keyward-to-raw-cipher", of(KEYWARD, RAW)),
            Ratio::unchecked("keyward-to-libsodium", of(KEYWARD, SODIUM)),
            Ratio::unchecked("raw-cipher-to-libsodium", of(RAW, SODIUM)),
            Ratio::unchecked("libsodium-to-keyward-cpu", sodium),
            Ratio {
                name: "keyward-to-libsodium-of-what-can-be",
                value: of_what_can_be,
                at_least: NEARLY_ALL,
            },
        ]
    }

    /// Of variants that took short turns: processor time. Whatever keyward does beside the cipher is missing from what
    /// the raw cipher explains. The gap to no encryption is a small part of what a read takes, and varies with all of it: how
    /// sure its ratio is stands beside it.
    pub(crate) fn of_cpu(&self) -> Vec<Ratio> {
        let cpu = |outcome: &Outcome| outcome.cpu_us_per_operation;
        let explains = self.over_rounds([RAW, KEYWARD], |[raw, keyward]| cpu(raw) / cpu(keyward));
        let of_the_gap = self.each_round([NONE, RAW, KEYWARD], |[none, raw, keyward]| {
            (cpu(raw) - cpu(none)) / (cpu(keyward) - cpu(none))
        });
        let (low, high) = median_between(&of_the_gap).unzip();
        vec![
            Ratio { name: "raw-cipher-explains", value: explains, at_least: NEARLY_ALL },
            Ratio {
                name: "raw-cipher-explains-of-the-gap",
                value: median(of_the_gap.into_iter()),
                at_least: NEARLY_ALL,
            },
            Ratio::unchecked("raw-cipher-explains-of-the-gap/from", low),
            Ratio::unchecked("raw-cipher-explains-of-the-gap/to", high),
        ]
    }

    fn over_rounds<const N: usize>(
        &self,
        names: [&str; N],
        what: impl Fn([&Outcome; N]) -> f64,
    ) -> Option<f64> {
        median(self.each_round(names, what).into_iter())
    }

    /// Empty where a variant is missing.
    fn each_round<const N: usize>(&self, names: [&str; N], what: impl Fn([&Outcome; N]) -> f64) -> Vec<f64> {
        let rounds_of = |name: &str| {
            let found = self.variants.iter().find(|(variant, _)| *variant == name);
            found.map(|(_, rounds)| &rounds[..]).unwrap_or_default()
        };
        let lists = names.map(rounds_of);
        let rounds = lists.iter().map(|list| list.len()).min().unwrap_or_default();
        (0..rounds).map(|round| what(lists.map(|list| &list[round]))).collect()
    }
}

impl Ratio {
    fn unchecked(name: &'static str, value: Option<f64>) -> Self {
        Self { name, value, at_least: 0.0 }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    Some(if values.len() % 2 == 1 { *upper } else { f64::midpoint(values[middle - 1], *upper) })
}

/// The mean of the half of the values that is in the middle: they come in steps of the kernel's clock, and one may be far off.
pub(crate) fn middle_half(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let outer = values.len() / 4;
    let middle = values.get(outer..values.len() - outer).filter(|middle| !middle.is_empty())?;
    Some(middle.iter().sum::<f64>() / middle.len() as f64)
}

/// Between which of the values the median of what they were drawn from is, at least 19 times out of 20, however it is
/// distributed: each value is below that median as a coin falls on one side. `None` for fewer than six.
fn median_between(values: &[f64]) -> Option<(f64, f64)> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let count = values.len() as u32;
    // Chances of 0, 1, 2, … of `count` coins on one side, summed up until they are a fortieth: the other side has another.
    let mut chance = 0.5_f64.powf(f64::from(count));
    let (mut sum, mut left_out) = (chance, 0);
    while sum <= 0.025 {
        left_out += 1;
        chance *= f64::from(count - left_out + 1) / f64::from(left_out);
        sum += chance;
    }
    let low = left_out.checked_sub(1)? as usize;
    Some((values[low], values[values.len() - 1 - low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(operations_per_s: f64, cpu_us_per_operation: f64) -> Outcome {
        Outcome { operations_per_s, cpu_us_per_operation }
    }

    fn comparison(names: &[&'static str], rounds: &[&[Outcome]]) -> Comparison {
        let mut comparison = Comparison::new(names.iter().copied());
        for outcomes in rounds {
            for (at, outcome) in outcomes.iter().enumerate() {
                comparison.add(at, *outcome);
            }
        }
        comparison
    }

    fn value(ratios: Vec<Ratio>, name: &str) -> Option<f64> {
        ratios.into_iter().find(|ratio| ratio.name == name).and_then(|ratio| ratio.value)
    }

    #[test]
    fn medians_of_odd_and_even_lists() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn the_middle_half_leaves_out_what_is_far_off() {
        assert_eq!(middle_half(vec![9.0, 2.0, 1.0, 3.0, 0.0]), Some(2.0));
        assert_eq!(middle_half(vec![1.0, 2.0]), Some(1.5));
        assert_eq!(middle_half(vec![7.0]), Some(7.0));
        assert_eq!(middle_half(vec![]), None);
    }

    /// As in published tables of this interval: the second and ninth of ten, the sixth and fifteenth of twenty.
    #[test]
    fn the_median_is_between() {
        let numbered = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_between(&numbered(5)), None);
        assert_eq!(median_between(&numbered(6)), Some((1.0, 6.0)));
        assert_eq!(median_between(&numbered(10)), Some((2.0, 9.0)));
        assert_eq!(median_between(&numbered(20)), Some((6.0, 15.0)));
        assert_eq!(median_between(&numbered(24)), Some((7.0, 18.0)));
        assert_eq!(median_between(&[]), None);
    }

    #[test]
    fn a_machine_that_slows_down_between_rounds_changes_no_ratio() {
        let fast = [round(100.0, 10.0), round(50.0, 20.0), round(50.0, 20.0)];
        let slow = [round(50.0, 20.0), round(25.0, 40.0), round(25.0, 40.0)];
        let comparison = comparison(&[NONE, KEYWARD, RAW], &[&fast, &slow, &slow]);
        assert_eq!(value(comparison.of_cpu(), "raw-cipher-explains"), Some(1.0));
        assert_eq!(value(comparison.of_cpu(), "raw-cipher-explains-of-the-gap"), Some(1.0));
        assert_eq!(value(comparison.of_throughput(), "keyward-to-none"), Some(0.5));
        assert_eq!(value(comparison.of_throughput(), "keyward-to-libsodium"), None);
        let medians = comparison.medians(|outcome| outcome.operations_per_s);
        assert_eq!(medians, [(NONE, 50.0), (KEYWARD, 25.0), (RAW, 25.0)]);
    }

    #[test]
    fn what_keyward_does_beside_the_cipher_is_seen() {
        let rounds = [round(1.0, 10.0), round(1.0, 25.0), round(1.0, 20.0)];
        let comparison = comparison(&[NONE, KEYWARD, RAW], &[&rounds]);
        assert_eq!(value(comparison.of_cpu(), "raw-cipher-explains"), Some(0.8));
        assert_eq!(value(comparison.of_cpu(), "raw-cipher-explains-of-the-gap"), Some(10.0 / 15.0));
    }

    #[test]
    fn twice_libsodium_is_the_aim_where_the_raw_cipher_reaches_it() {
        let of = |keyward: f64, raw: f64, sodium: f64| {
            let rounds = [round(9.0, 1.0), round(keyward, 1.0), round(raw, 1.0), round(sodium, 1.0)];
            let comparison = comparison(&[NONE, KEYWARD, RAW, SODIUM], &[&rounds]);
            value(comparison.of_throughput(), "keyward-to-libsodium-of-what-can-be")
        };
        assert_eq!(of(6.0, 6.0, 2.0), Some(1.5));
        assert_eq!(of(3.0, 3.0, 2.0), Some(1.0));
        assert_eq!(of(2.0, 4.0, 2.0), Some(0.5));
    }
}
