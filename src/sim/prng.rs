//! A small seeded generator, the same on every machine.

use std::time::Duration;

/// `SplitMix64` (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from 0 to 1, never 1.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    /// Evenly from `low` to `high`, both counted.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high.saturating_sub(low) + 1)
    }

    /// A span from `low` to `high` milliseconds.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// One of `choices`; there must be one.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        let at = usize::try_from(self.bits() % choices.len().max(1) as u64).unwrap_or_default();
        choices[at].clone()
    }

    /// A count of mean `mean`: exactly Poisson when small, its normal limit when large.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 30.0 {
            let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.share()));
            let normal = radius * libm::cos(std::f64::consts::TAU * self.share());
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not below 0")]
            return libm::round(mean + libm::sqrt(mean) * normal).max(0.0) as u64;
        }
        let (limit, mut product, mut count) = (libm::exp(-mean), self.share(), 0);
        while product > limit {
            product *= self.share();
            count += 1;
        }
        count
    }

    /// How many of `n` things of this probability happen: exact for small numbers, a normal limit for large ones.
    pub fn binomial(&mut self, n: u64, probability: f64) -> u64 {
        if n <= 64 {
            return (0..n).filter(|_| self.chance(probability)).count() as u64;
        }
        let mean = n as f64 * probability;
        let spread = libm::sqrt(mean * (1.0 - probability));
        let normal = (0..12).map(|_| self.share()).sum::<f64>() - 6.0;
        let drawn = libm::round(mean + spread * normal).clamp(0.0, n as f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=n")]
        {
            drawn as u64
        }
    }
}
