//! Requests, their fate, and the counters that tell of it.

use std::collections::{BTreeMap, VecDeque};

use super::prng::Random;
use crate::core::input::{LookFault, Looked, Role, Sample, Series};
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::work::LookPlan;

/// The source's clock at the begin of a life, in milliseconds since the Unix epoch.
pub const EPOCH_MS: i64 = 1_750_000_000_000;
/// Scrapes that the source remembers.
const KEPT: usize = 60;

/// How requests end.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// Share of bad requests by image, and from when on, in milliseconds; a good image is not listed.
    pub bad_images: BTreeMap<Digest, (f64, u64)>,
    /// Everything fails with this share between these times.
    pub outage: Option<(u64, u64, f64)>,
    /// This image exhausts what all share: while it gets requests, everything fails with this share.
    pub harmful: Option<(Digest, f64)>,
    /// Requests a second.
    pub rate: u64,
}

/// The counters of each release.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    counters: BTreeMap<ReleaseId, (u64, u64)>,
    history: BTreeMap<ReleaseId, VecDeque<(u64, u64, u64)>>,
    /// Requests that met no member that could serve.
    pub dropped: u64,
    /// Requests of each release, whole life.
    pub served: BTreeMap<ReleaseId, u64>,
}

impl Truth {
    /// The share of requests that `release` fails at `now`, alone.
    pub fn own_share(&self, release: &Release, now: u64) -> f64 {
        match self.bad_images.get(&release.template.image().digest) {
            Some((share, since)) if now >= *since => *share,
            _ => 0.0005,
        }
    }

    /// Whether `release` is better not run.
    pub fn is_bad(&self, release: &Release) -> bool {
        let digest = &release.template.image().digest;
        self.bad_images.contains_key(digest) || self.harmful.as_ref().is_some_and(|(harmful, _)| harmful == digest)
    }
}

impl Traffic {
    /// One second of requests: shares and liveness of each release.
    pub fn second(&mut self, random: &mut Random, truth: &Truth, now: u64, arms: &[(Release, f64, bool)]) {
        let outage = truth.outage.filter(|(from, until, _)| (*from..*until).contains(&now)).map_or(0.0, |(_, _, share)| share);
        let harmful = |release: &Release| truth.harmful.as_ref().is_some_and(|(image, _)| *image == release.template.image().digest);
        let harm = arms.iter().any(|(release, weight, live)| *weight > 0.0 && *live && harmful(release));
        let harm = if harm { truth.harmful.as_ref().map_or(0.0, |(_, share)| *share) } else { 0.0 };
        for (release, weight, live) in arms {
            let requests = random.binomial(truth.rate, *weight);
            if !live {
                self.dropped += requests;
                continue;
            }
            let share = truth.own_share(release, now).max(outage).max(harm);
            let bad = random.binomial(requests, share);
            let counter = self.counters.entry(release.id.clone()).or_default();
            counter.0 += requests;
            counter.1 += bad;
            *self.served.entry(release.id.clone()).or_default() += requests;
            let history = self.history.entry(release.id.clone()).or_default();
            history.push_back((now, counter.0, counter.1));
            if history.len() > KEPT {
                history.pop_front();
            }
        }
    }

    /// The members of a release stopped: their counters are gone, and the next ones start at 0.
    pub fn stop(&mut self, release: &ReleaseId) {
        self.counters.remove(release);
        self.history.remove(release);
    }

    /// What the source answers at `now`; `stale` leaves the newest samples out.
    pub fn look(&self, plan: &LookPlan, now: u64, stale: u64) -> Looked {
        let at = |ms: u64| EPOCH_MS + i64::try_from(ms).unwrap_or_default();
        let mut looked = Looked { source_now: at(now), ..Looked::default() };
        for signal in plan.signals.keys() {
            for (arm, release) in &plan.arms {
                let series = looked.samples.entry(signal.clone()).or_default().entry(*arm).or_default();
                let Some(history) = self.history.get(release) else { continue };
                let wanted: Vec<_> = history
                    .iter()
                    .filter(|(ms, ..)| ms + stale <= now && plan.since.is_none_or(|since| at(*ms) > since))
                    .rev()
                    .take(if plan.since.is_some() { KEPT } else { 5 })
                    .collect();
                for role in [Role::Total, Role::Bad] {
                    let sample = |(ms, total, bad): &(u64, u64, u64)| Sample {
                        at: at(*ms),
                        value: if role == Role::Total { *total as f64 } else { *bad as f64 },
                    };
                    let samples: Vec<_> = wanted.iter().rev().map(|counted| sample(counted)).collect();
                    if !samples.is_empty() {
                        series.push(Series { role, labels: format!("{{release=\"{release}\"}}"), samples });
                    }
                }
            }
        }
        looked
    }

    /// An answer that cannot be trusted.
    pub fn fault(random: &mut Random) -> Looked {
        let what = "as the seed drew it".to_owned();
        let fault = match random.between(0, 3) {
            0 => LookFault::Down(what),
            1 => LookFault::Partial(what),
            2 => LookFault::Invalid(what),
            _ => LookFault::Rejected(what),
        };
        Looked { fault: Some(fault), ..Looked::default() }
    }
}
