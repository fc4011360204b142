//! Small guards and made-up traffic for tests.

use std::collections::BTreeMap;

use super::{Config, Judge, StageStart};
use crate::core::input::{Arm, Looked, Role, Sample, Series, SignalId};
use crate::core::spec::{
    Arms, ArmsBy, Artifacts, Attestation, Condition, GuardedRollout, HealthCheck, Histogram, NoData, Objective, Observe, Percent, Process,
    Ratio, Recovery, Retreat, Revert, Rule, Strategy, Watch, Workload,
};
use crate::core::time::Span;

/// A guard with these objectives and, if there are any, one rule that all conditions must meet for five minutes.
pub(crate) fn spec(objectives: Vec<Objective>, conditions: Vec<Condition>) -> GuardedRollout {
    let rule = Rule { all: conditions, any: Vec::new(), for_: Some(Span::minutes(5)), alert: None, query: None };
    let artifacts = Artifacts::Registry {};
    let process =
        Process { listen: "127.0.0.1:0".into(), artifacts, instances: 1, health: HealthCheck::default(), drain: Span::seconds(1) };
    GuardedRollout {
        workload: Workload::Process(process),
        arms: Arms { by: ArmsBy::Route, sticky: false },
        source: "host".into(),
        objectives,
        also_breach_on: if rule.all.is_empty() { Vec::new() } else { vec![rule] },
        strategy: Strategy::Observe(Observe {}),
        watch: Watch { for_: Span::minutes(37), ..Watch::default() },
        attestation: Attestation { policy: "any".into() },
        revert: Revert::default(),
        recovery: Recovery::default(),
        no_data: NoData::default(),
        retreat: Retreat::default(),
    }
}

/// `availability` (99 %, a ratio) and `latency` (99 % within 300 ms).
pub(crate) fn objectives() -> Vec<Objective> {
    let good = "99%".parse().unwrap();
    let ratio = Some(Ratio { bad: "bad".into(), total: "all".into() });
    let histogram = Some(Histogram { metric: "took".into(), within: "300ms".parse().unwrap() });
    vec![
        Objective { name: "availability".into(), good, ratio, histogram: None, strict: false },
        Objective { name: "latency".into(), good, ratio: None, histogram, strict: false },
    ]
}

/// A judge of [`objectives`] at 1 s scrapes, in a stage of this weight that began at 0.
pub(crate) fn judge(weight: f64) -> Judge {
    started(&spec(objectives(), vec![]), weight)
}

/// A judge of a guard at 1 s scrapes, in a stage of this weight that began at 0 without warm-up.
pub(crate) fn started(spec: &GuardedRollout, weight: f64) -> Judge {
    let mut judge = Judge::new(Config::new(spec, &[], Span::seconds(1)).unwrap());
    judge.begin_stage(stage(weight));
    judge
}

/// A stage of this weight, in per cent, that begins at 0 without warm-up.
pub(crate) fn stage(weight: f64) -> StageStart {
    let bake = Span::seconds(10);
    StageStart { weight: Percent::new(weight), warm_up: Span::default(), bake, has_stable: true, fresh: true, origin: Some(0) }
}

/// Counters of both arms, one member each, for `availability` and `latency<=0.3`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic {
    counters: BTreeMap<(&'static str, Arm, Role), f64>,
}

impl Traffic {
    /// An arm serves so many requests, of which so many fail and so many are slow.
    pub(crate) fn serve(&mut self, arm: Arm, total: f64, failed: f64, slow: f64) {
        let gains = [
            ("availability", Role::Total, total),
            ("availability", Role::Bad, failed),
            ("latency<=0.3", Role::Total, total),
            ("latency<=0.3", Role::Good, total - slow),
        ];
        for (signal, role, gain) in gains {
            *self.counters.entry((signal, arm, role)).or_default() += gain;
        }
    }

    /// What a scrape at `at` reads of the arms that answer.
    pub(crate) fn scrape(&self, at: i64, answers: &[Arm]) -> Looked {
        let mut looked = Looked { source_now: at, ..Looked::default() };
        for (&(signal, arm, role), &value) in self.counters.iter().filter(|((_, arm, _), _)| answers.contains(arm)) {
            let series = Series { role, labels: format!("{{arm=\"{arm:?}\"}}"), samples: vec![Sample { at, value }] };
            looked.samples.entry(SignalId(signal.into())).or_default().entry(arm).or_default().push(series);
        }
        looked
    }
}

pub(crate) const BOTH: &[Arm] = &[Arm::Candidate, Arm::Stable];

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
            let radius = libm::sqrt(-2.0 * libm::log(self.uniform()));
            let normal = radius * libm::cos(std::f64::consts::TAU * self.uniform());
            return (mean + libm::sqrt(mean) * normal).round().max(0.0);
        }
        let (limit, mut product, mut count) = (libm::exp(-mean), self.uniform(), 0.0);
        while product > limit {
            product *= self.uniform();
            count += 1.0;
        }
        count
    }
}
