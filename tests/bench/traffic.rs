//! Made-up traffic: seeded counts, and what a scrape of them reads.

use std::collections::BTreeMap;

use backstop::core::input::{Arm, Looked, Role, Sample, Series, SignalId};

/// `SplitMix64` (Steele, Lea and Flood, 2014): small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from 0 to 1, never 0.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A count of mean `mean`: exactly Poisson when small, its normal limit when large.
    pub(crate) fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 30.0 {
            let radius = (-2.0 * self.uniform().ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * self.uniform()).cos();
            return (mean + mean.sqrt() * normal).round().max(0.0);
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.uniform(), 0.0);
        while product > limit {
            product *= self.uniform();
            count += 1.0;
        }
        count
    }
}

/// What one arm served in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Second {
    pub(crate) total: f64,
    pub(crate) failed: f64,
    pub(crate) slow: f64,
}

/// Counters of both arms, one member each, for the objectives `availability` and `latency` (within 300 ms).
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    arms: BTreeMap<Arm, Second>,
}

impl Counters {
    /// An arm serves.
    pub(crate) fn serve(&mut self, arm: Arm, second: Second) {
        let sum = self.arms.entry(arm).or_default();
        sum.total += second.total;
        sum.failed += second.failed;
        sum.slow += second.slow;
    }

    /// What a scrape at `at` (milliseconds of the source's clock) reads.
    pub(crate) fn scrape(&self, at: i64) -> Looked {
        let mut looked = Looked { source_now: at, ..Looked::default() };
        for (arm, sum) in &self.arms {
            let series = [
                ("availability", Role::Total, sum.total),
                ("availability", Role::Bad, sum.failed),
                ("latency<=0.3", Role::Total, sum.total),
                ("latency<=0.3", Role::Good, sum.total - sum.slow),
            ];
            for (signal, role, value) in series {
                let series = Series { role, labels: format!("{{arm=\"{arm:?}\"}}"), samples: vec![Sample { at, value }] };
                looked.samples.entry(SignalId(signal.into())).or_default().entry(*arm).or_default().push(series);
            }
        }
        looked
    }
}

/// A second of traffic in which a tenth of all requests goes to the candidate, which fails this share of them.
pub(crate) fn second(random: &mut Random, rate: f64, bad: f64) -> Second {
    let failed = random.poisson(rate * bad);
    let total = failed + random.poisson(rate * (1.0 - bad));
    // A thousandth is slow, whatever else happens.
    Second { total, failed, slow: random.poisson(rate * 0.001).min(total) }
}
