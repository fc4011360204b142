//! Sequential tests: evidence that may be looked at after every scrape without spending its guarantee.
//!
//! One interval with `k` bad of `n` requests multiplies the odds of "the odds of a bad request are `m` times those
//! of a share `q`" against "the share is at most `q`" by `m^k / (1 + (m − 1) q)^n`. The products, and any mixture of
//! them fixed in advance, are test supermartingales: by Ville's inequality the chance that such a mixture ever
//! reaches `1/α`, however often one looks, is at most α.
//!
//! Two mixtures are taken: over the effect size `m` ([`GRID`]), and over the unknown onset, by holding back wealth
//! (`cash`) that is invested interval by interval (a Shiryaev–Roberts procedure with a proper prior). What one
//! interval may add is capped, so that a single burst of errors can never give alarm.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::core::mutant::Mutant;

/// Effect sizes of the alarm tests, of equal weight: how many times the odds of a bad request are multiplied.
pub const GRID: [f64; 8] = [1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// Effect sizes of the test for health, of equal weight.
pub const HEALTHY: [f64; 4] = [0.5, 0.2, 0.1, 0.02];

/// Effect sizes of the test for starvation, of equal weight.
pub const STARVED: [f64; 8] = [0.7, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01];

/// Wealth that is stretched beyond the planned watch.
const RESERVE: f64 = 0.1;

/// Steps that are more than enough for a root of a convex curve.
const NEWTON: usize = 60;

/// Wealth is kept below this: an alarm that nobody obeys must not overflow.
const CEILING: f64 = 1e280;

/// A number that survives any serialisation bit by bit: written as the integer that its bits spell.
///
/// Text parsers may be off by a unit in the last place, and a judge restored from text must go on identically.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Exact(pub f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0.to_bits().cast_signed())
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(|bits| Self(f64::from_bits(bits.cast_unsigned())))
    }
}

/// Logarithm of the odds that one interval adds: `k ln m − n ln(1 + (m − 1) q)`.
pub fn evidence(k: f64, n: f64, q: f64, m: f64) -> f64 {
    k * libm::log(m) - n * libm::log1p((m - 1.0) * q)
}

/// The same for each effect size.
pub fn evidences<const N: usize>(k: f64, n: f64, q: f64, grid: &[f64; N]) -> [f64; N] {
    std::array::from_fn(|j| evidence(k, n, q, grid[j]))
}

/// `ln(mean(exp(x)))` without overflow.
pub fn log_mean_exp<const N: usize>(logs: &[f64; N]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return top;
    }
    let sum: f64 = logs.iter().map(|log| libm::exp(log - top)).sum();
    top + libm::log(sum / N as f64)
}

/// The candidate's share of the bad requests if its rate were `delta` times stable's.
pub fn fair_share(delta: f64, candidate_total: f64, stable_total: f64) -> f64 {
    delta * candidate_total / (delta * candidate_total + stable_total)
}

/// Logarithm of the odds against "the share of bad requests is at least `p1`", after `k` bad of `n`.
pub fn health(k: f64, n: f64, p1: f64) -> f64 {
    log_mean_exp(&evidences(k, n, p1, &HEALTHY))
}

/// Good requests that must still come, without a bad one, until [`health`] reaches `ln(1/beta)`.
pub fn missing(k: f64, n: f64, p1: f64, beta: f64) -> u64 {
    const MOST: u64 = 1 << 52;
    let wanted = -libm::log(beta);
    let now = evidences(k, n, p1, &HEALTHY);
    if log_mean_exp(&now) >= wanted {
        return 0;
    }
    // Without a bad one among them, requests move each effect size by a step of its own.
    let each = evidences(0.0, 1.0, p1, &HEALTHY);
    let after = |more: f64| -> [f64; HEALTHY.len()] { std::array::from_fn(|j| now[j] + more * each[j]) };
    // One effect size alone is enough there. The curve is convex and rises, so that Newton's steps from above fall short of nothing.
    let alone = |j: usize| (wanted + libm::log(HEALTHY.len() as f64) - now[j]) / each[j];
    let mut more = (0..HEALTHY.len()).map(alone).fold(MOST as f64, f64::min);
    for _ in 0..NEWTON {
        let logs = after(more);
        let value = log_mean_exp(&logs);
        let slope = logs.iter().zip(&each).map(|(log, each)| libm::exp(log - value) * each).sum::<f64>() / HEALTHY.len() as f64;
        let step = (wanted - value) / slope;
        more = (more + step).clamp(0.0, MOST as f64);
        if step.abs() < 0.25 {
            break;
        }
    }
    let enough = |more: u64| log_mean_exp(&after(more as f64)) >= wanted;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let mut more = libm::ceil(more) as u64;
    while more > 1 && enough(more - 1) {
        more -= 1;
    }
    while more < MOST && !enough(more) {
        more += 1;
    }
    more
}

/// What one interval may add to the logarithm of a test's odds, so that about `K` bad scrapes are needed for alarm
/// (three for K = 3; five or six for K = 6, by how many effect sizes reach the cap).
pub fn cap(alpha: f64, scrapes: f64) -> f64 {
    (-libm::log(alpha) + libm::log(GRID.len() as f64) + std::f64::consts::LN_2) / scrapes
}

/// The wealth of one test: invested per effect size, and held back for a later onset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    wealth: [Exact; 8],
    cash: Exact,
    started: bool,
}

impl Default for Track {
    fn default() -> Self {
        Self { wealth: [Exact(0.0); 8], cash: Exact(1.0), started: false }
    }
}

impl Track {
    /// Takes in one interval: `added` is its evidence per effect size, `invest` the wealth put on an onset here,
    /// chosen without looking at the interval.
    pub fn step(&mut self, added: &[f64; 8], invest: f64, cap: f64) {
        let invest = invest.min(self.cash.0);
        self.cash.0 -= invest;
        self.started = true;
        for (wealth, added) in self.wealth.iter_mut().zip(added) {
            let cap = if Mutant::CapForgotten.lives() { f64::INFINITY } else { cap };
            wealth.0 = ((wealth.0 + invest) * libm::exp(added.min(cap))).min(CEILING);
        }
    }

    /// The wealth to put on an onset in this interval, which is `share` of the planned watch: half at the first,
    /// the other half evenly over the plan. Watches overrun their plans, so the last of it is stretched: the
    /// remainder then falls as one over time, and is never used up.
    pub fn onset(&self, share: f64) -> f64 {
        if !self.started {
            return 0.5;
        }
        let left = (self.cash.0 / RESERVE).min(1.0);
        0.5 * share * left * left
    }

    /// The odds now. Alarm at `1/α`.
    pub fn odds(&self) -> f64 {
        self.cash.0 + self.wealth.iter().map(|wealth| wealth.0).sum::<f64>() / 8.0
    }

    /// Their natural logarithm; finite, so that it can be printed and serialised.
    pub fn log_odds(&self) -> f64 {
        libm::log(self.odds().max(f64::MIN_POSITIVE))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn vectors(kind: &str) -> Vec<Value> {
        let text = include_str!("../../../tests/vectors/judging.json");
        let all: Value = serde_json::from_str(text).unwrap();
        let found: Vec<Value> = all["vectors"].as_array().unwrap().iter().filter(|vector| vector["kind"] == kind).cloned().collect();
        assert!(!found.is_empty(), "no vectors of kind {kind}");
        found
    }

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(number).collect()
    }

    fn close(id: &Value, got: f64, wanted: f64) {
        let tolerance = 1e-9 * wanted.abs().max(1.0);
        assert!((got - wanted).abs() <= tolerance, "{id}: got {got}, wanted {wanted}");
    }

    fn two_sample(interval: &Value, delta: f64) -> [f64; 8] {
        let [kc, nc, kb, nb] = ["kc", "nc", "kb", "nb"].map(|name| number(&interval[name]));
        if nc == 0.0 || nb == 0.0 { [0.0; 8] } else { evidences(kc, kc + kb, fair_share(delta, nc, nb), &GRID) }
    }

    #[test]
    fn one_sample_grid_vectors() {
        for vector in vectors("one_sample_grid") {
            let [k, n, p0] = ["k", "n", "p0"].map(|name| number(&vector["input"][name]));
            close(&vector["id"], log_mean_exp(&evidences(k, n, p0, &GRID)), number(&vector["logE"]));
        }
    }

    #[test]
    fn tempered_vectors() {
        for vector in vectors("one_sample_grid_tempered") {
            let [k, n, p0, phi] = ["k", "n", "p0", "phi"].map(|name| number(&vector["input"][name]));
            close(&vector["id"], log_mean_exp(&evidences(k, n, p0, &GRID).map(|log| log / phi)), number(&vector["logE"]));
        }
    }

    #[test]
    fn two_sample_grid_vectors() {
        for vector in vectors("two_sample_grid") {
            let mut sums = [0.0; 8];
            for interval in vector["input"]["intervals"].as_array().unwrap() {
                let added = two_sample(interval, number(&vector["input"]["delta"]));
                sums = std::array::from_fn(|j| sums[j] + added[j]);
            }
            close(&vector["id"], log_mean_exp(&sums), number(&vector["logE"]));
        }
    }

    #[test]
    fn promote_vectors() {
        for vector in vectors("promote") {
            let [k, n, p1] = ["k", "n", "p1"].map(|name| number(&vector["input"][name]));
            close(&vector["id"], health(k, n, p1), number(&vector["logE"]));
        }
    }

    #[test]
    fn onset_and_judge_vectors() {
        for (kind, list) in [("onset_one", "steps"), ("judge_slo", "steps"), ("onset_two", "intervals"), ("judge_base", "intervals")] {
            for vector in vectors(kind) {
                let input = &vector["input"];
                let cap = input["alpha"].as_f64().map_or(f64::INFINITY, |alpha| cap(alpha, number(&input["K"])));
                if let Some(wanted) = vector["cap"].as_f64() {
                    close(&vector["id"], cap, wanted);
                }
                let mut track = Track::default();
                let steps = input[list].as_array().unwrap().iter().zip(numbers(&input["v"])).zip(numbers(&vector["logM"]));
                for ((step, invest), wanted) in steps {
                    let added = match input["delta"].as_f64() {
                        Some(delta) => two_sample(step, delta),
                        None => evidences(number(&step["k"]), number(&step["n"]), number(&input["p0"]), &GRID),
                    };
                    track.step(&added, invest, cap);
                    close(&vector["id"], track.log_odds(), wanted);
                }
            }
        }
    }

    #[test]
    fn missing_is_the_smallest_that_suffices() {
        // From the table of clean requests at beta 5 %.
        for (p1, k, wanted) in [(0.02, 0.0, 177), (0.01, 0.0, 354), (0.005, 0.0, 709), (0.001, 0.0, 3551)] {
            assert_eq!(missing(k, 0.0, p1, 0.05), wanted);
        }
        for (k, n) in [(0.0, 100.0), (1.0, 50.0), (7.0, 40.0), (3.0, 10_000.0)] {
            let more = missing(k, n, 0.02, 0.05);
            assert!(health(k, n + more as f64, 0.02) >= -libm::log(0.05));
            assert!(more == 0 || health(k, n + (more - 1) as f64, 0.02) < -libm::log(0.05));
        }
    }

    #[test]
    fn fewer_scrapes_than_k_never_give_alarm() {
        for alpha in [1e-3, 5e-4, 2.5e-4, 1e-6] {
            // Where every effect size is at the cap the mixture over them costs nothing: K = 6 then takes five.
            for (scrapes, harmless) in [(3_u8, 2), (6, 4)] {
                let mut track = Track::default();
                let bound = cap(alpha, f64::from(scrapes));
                for _ in 0..harmless {
                    let share = track.onset(0.1);
                    track.step(&[f64::INFINITY; 8], share, bound);
                    assert!(track.odds() < 1.0 / alpha);
                }
            }
        }
    }

    #[test]
    fn nothing_overflows_and_every_bit_survives() {
        let mut track = Track::default();
        for round in 0..10_000 {
            let added = if round % 2_000 < 1_000 { [3.0; 8] } else { [-0.7; 8] };
            let share = track.onset(1e-3);
            track.step(&added, share, 5.0);
            assert!(track.odds().is_finite() && track.log_odds().is_finite());
        }
        let text = serde_json::to_string(&track).unwrap();
        assert_eq!(serde_json::from_str::<Track>(&text).unwrap(), track);
    }
}
