//! How a candidate fails, and the counters that tell of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::core::input::{Looked, Role, Sample, Series, SignalId};
use crate::core::judge::Config;
use crate::core::release::{Release, ReleaseId};
use crate::core::work::LookPlan;
use crate::sim::prng::Random;
use crate::sim::traffic::EPOCH_MS;

/// Scrapes that the source remembers.
const KEPT: usize = 40;
/// A good release fails this part of what each objective allows.
pub const HEALTHY: f64 = 0.1;
/// A bad one fails this many times what each objective allows.
pub const BAD: f64 = 5.0;
/// A flapping candidate is bad for so long, in milliseconds, once in every [`FLAP_EVERY`].
const FLAP: u64 = 10_000;
const FLAP_EVERY: u64 = 60_000;
/// A slow burn takes so much of the planned watch to get from healthy to bad.
const BURN: f64 = 0.5;
/// An outage of what all share lasts so long, in milliseconds.
const OUTAGE: u64 = 300_000;

/// A way to fail, or not to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// As good as stable.
    Healthy,
    /// Bad from its first request.
    Cliff,
    /// Bad once half of the planned watch has passed.
    LateCliff,
    /// Slowly from healthy to bad.
    SlowBurn,
    /// Slow from its first request, without errors.
    TailLatency,
    /// Bad for ten seconds of each minute.
    Flapping,
    /// Nobody sends requests.
    NoTraffic,
    /// What both releases depend on fails for five minutes.
    SharedCause,
}

impl Model {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Cliff => "cliff",
            Self::LateCliff => "late-cliff",
            Self::SlowBurn => "slow-burn",
            Self::TailLatency => "tail-latency",
            Self::Flapping => "flapping",
            Self::NoTraffic => "no-traffic",
            Self::SharedCause => "shared-cause",
        }
    }

    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Healthy,
        Self::Cliff,
        Self::LateCliff,
        Self::SlowBurn,
        Self::TailLatency,
        Self::Flapping,
        Self::NoTraffic,
        Self::SharedCause,
    ];

    /// Whether the candidate is to blame.
    pub fn is_at_fault(self) -> bool {
        !matches!(self, Self::Healthy | Self::NoTraffic | Self::SharedCause)
    }

    /// What happens, in a few words.
    pub fn story(self) -> &'static str {
        match self {
            Self::Healthy => "as good as stable",
            Self::Cliff => "bad from the first request",
            Self::LateCliff => "bad from half of the planned watch on",
            Self::SlowBurn => "ever worse, until half of the planned watch has passed",
            Self::TailLatency => "slow from the first request, no errors",
            Self::Flapping => "bad for 10 s of each minute",
            Self::NoTraffic => "nobody sends requests",
            Self::SharedCause => "a dependency of both releases fails for 5 min",
        }
    }

    /// When its trouble begins, in milliseconds since the candidate's first request. Of a slow burn: when it passes the limit.
    fn onset(self, planned: u64) -> u64 {
        match self {
            Self::LateCliff | Self::SharedCause => planned / 2,
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a watch")]
            Self::SlowBurn => (planned as f64 * BURN * (1.0 - HEALTHY) / (BAD - HEALTHY)) as u64,
            _ => 0,
        }
    }

    /// How many times the limit a release fails, `age` milliseconds after the candidate's first request.
    fn times(self, candidate: bool, slow: bool, age: u64, planned: u64) -> f64 {
        let bad = match self {
            Self::Cliff => candidate,
            Self::LateCliff => candidate && age >= self.onset(planned),
            Self::TailLatency => candidate && slow,
            Self::Flapping => candidate && age % FLAP_EVERY < FLAP,
            Self::SharedCause => (self.onset(planned)..self.onset(planned) + OUTAGE).contains(&age),
            Self::SlowBurn if candidate => {
                let way = (age as f64 / (planned as f64 * BURN).max(1.0)).min(1.0);
                return HEALTHY + (BAD - HEALTHY) * way;
            }
            Self::SlowBurn | Self::Healthy | Self::NoTraffic => false,
        };
        if bad { BAD } else { HEALTHY }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Cliff => "cliff",
            Self::LateCliff => "late-cliff",
            Self::SlowBurn => "slow-burn",
            Self::TailLatency => "tail-latency",
            Self::Flapping => "flapping",
            Self::NoTraffic => "no-traffic",
            Self::SharedCause => "shared-cause",
        })
    }
}

/// What is counted of a signal.
#[derive(Debug, Clone)]
struct Counted {
    id: SignalId,
    /// A histogram: slow requests are bad, and good ones are counted.
    slow: bool,
    /// The signal that an objective is judged by, not a further bound of a rule.
    judged: bool,
    budget: f64,
}

/// Counters of one release.
#[derive(Debug, Clone, Default)]
struct Counters {
    total: u64,
    /// By signal.
    bad: Vec<u64>,
    scrapes: VecDeque<(u64, u64, Vec<u64>)>,
}

/// The requests of a rehearsal, and the source that counts them.
#[derive(Debug)]
pub struct Service {
    model: Model,
    signals: Vec<Counted>,
    /// Requests a second, of all releases.
    rate: f64,
    /// The source's scrape interval, in milliseconds.
    step: u64,
    /// All bakes and the watch, in milliseconds.
    planned: u64,
    candidate: ReleaseId,
    /// When the candidate got its first request.
    born: Option<u64>,
    counters: BTreeMap<ReleaseId, Counters>,
    /// Requests of the candidate, and how many were bad for any objective, at the worst.
    pub candidate_served: (u64, u64),
    /// The same of the others.
    pub others_served: (u64, u64),
}

impl Service {
    /// A service of `rate` requests a second that is judged by `config`.
    pub fn new(model: Model, config: &Config, rate: f64, candidate: ReleaseId) -> Self {
        let signals = config.signals.values().map(|signal| {
            let target = config.objectives.iter().find(|target| target.name == signal.objective);
            let budget = target.map_or(0.01, |target| target.budget);
            let judged = target.is_some_and(|target| target.signal == signal.id);
            Counted { id: signal.id.clone(), slow: signal.counters.contains_key(&Role::Good), judged, budget }
        });
        Self {
            model,
            signals: signals.collect(),
            rate,
            step: config.step.unsigned_abs().max(1),
            planned: config.planned.unsigned_abs(),
            candidate,
            born: None,
            counters: BTreeMap::new(),
            candidate_served: (0, 0),
            others_served: (0, 0),
        }
    }

    /// When the trouble begins, in milliseconds of the life; absent until the candidate got a request, and without trouble.
    pub fn onset(&self) -> Option<u64> {
        let born = self.born.filter(|_| !matches!(self.model, Model::Healthy | Model::NoTraffic))?;
        Some(born + self.model.onset(self.planned))
    }

    /// One second of requests: share and liveness of each release.
    pub fn second(&mut self, random: &mut Random, now: u64, arms: &[(Release, f64, bool)], by_release: &mut BTreeMap<ReleaseId, u64>) {
        let silent = self.model == Model::NoTraffic;
        for (release, weight, _) in arms.iter().filter(|(_, _, live)| *live) {
            let candidate = release.id == self.candidate;
            let requests = if silent && self.counters.contains_key(&self.candidate) { 0 } else { random.poisson(self.rate * weight) };
            if candidate && *weight > 0.0 {
                self.born.get_or_insert(now);
            }
            *by_release.entry(release.id.clone()).or_default() += requests;
            let age = self.born.map_or(0, |born| now - born);
            let counters = self.counters.entry(release.id.clone()).or_default();
            counters.bad.resize(self.signals.len(), 0);
            counters.total += requests;
            let mut worst = 0;
            for (signal, bad) in self.signals.iter().zip(&mut counters.bad) {
                let times = if self.born.is_some() { self.model.times(candidate, signal.slow, age, self.planned) } else { HEALTHY };
                let drawn = random.poisson(requests as f64 * signal.budget * times).min(requests);
                *bad += drawn;
                worst = if signal.judged { drawn.max(worst) } else { worst };
            }
            let served = if candidate { &mut self.candidate_served } else { &mut self.others_served };
            *served = (served.0 + requests, served.1 + worst);
            if now.is_multiple_of(self.step) || counters.scrapes.is_empty() {
                counters.scrapes.push_back((now, counters.total, counters.bad.clone()));
                if counters.scrapes.len() > KEPT {
                    counters.scrapes.pop_front();
                }
            }
        }
    }

    /// The members of a release stopped: their counters are gone.
    pub fn stop(&mut self, release: &ReleaseId) {
        self.counters.remove(release);
    }

    /// What the source answers at `now`.
    pub fn look(&self, plan: &LookPlan, now: u64) -> Looked {
        let at = |ms: u64| EPOCH_MS + i64::try_from(ms).unwrap_or_default();
        let mut looked = Looked { source_now: at(now), ..Looked::default() };
        for (place, signal) in self.signals.iter().enumerate().filter(|(_, signal)| plan.signals.contains_key(&signal.id)) {
            let other = if signal.slow { Role::Good } else { Role::Bad };
            for (arm, release) in &plan.arms {
                let series = looked.samples.entry(signal.id.clone()).or_default().entry(*arm).or_default();
                let Some(counters) = self.counters.get(release) else { continue };
                let wanted = counters.scrapes.iter().filter(|(ms, ..)| plan.since.is_none_or(|since| at(*ms) > since));
                let wanted: Vec<_> = wanted.rev().take(if plan.since.is_some() { KEPT } else { 5 }).collect();
                for role in [Role::Total, other] {
                    let value = |total: u64, bad: u64| match role {
                        Role::Total => total,
                        Role::Bad => bad,
                        Role::Good => total - bad,
                    };
                    let sample = |(ms, total, bad): &&(u64, u64, Vec<u64>)| Sample { at: at(*ms), value: value(*total, bad[place]) as f64 };
                    let samples: Vec<_> = wanted.iter().rev().map(sample).collect();
                    if !samples.is_empty() {
                        series.push(Series { role, labels: format!("{{release=\"{release}\"}}"), samples });
                    }
                }
            }
        }
        looked
    }
}
