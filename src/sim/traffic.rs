//! Requests, their fate, and the counters that tell of it.

use std::collections::{BTreeMap, VecDeque};

use super::prng::Random;
use super::rehearsal::Service;
use crate::core::input::{LookFault, Looked, Role, Sample, Series};
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::work::LookPlan;

/// The source's clock at the begin of a life, in milliseconds since the Unix epoch.
pub const EPOCH_MS: i64 = 1_750_000_000_000;
/// Scrapes that the source remembers.
const KEPT: usize = 60;

/// How a source misleads whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Bad requests are not a number.
    Nan,
    /// The counters stand still while their times go on.
    Frozen,
    /// There are no series.
    Empty,
    /// Samples come from the future.
    Future,
}

/// How requests end.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// Share of bad requests by image, and from when on, in milliseconds; a good image is not listed.
    pub bad_images: BTreeMap<Digest, (f64, u64)>,
    /// Everything fails with this share between these times.
    pub outage: Option<(u64, u64, f64)>,
    /// This image exhausts what all share: while it gets requests, everything fails with this share.
    pub harmful: Option<(Digest, f64)>,
    /// Share of bad requests by image while the flags are in their safe state.
    pub bad_flipped: BTreeMap<Digest, f64>,
    /// Whether they are.
    pub flipped: bool,
    /// Requests a second.
    pub rate: u64,
}

/// The counters of each release.
#[derive(Debug, Default)]
pub struct Traffic {
    /// The service of a rehearsal, in place of all below.
    pub service: Option<Service>,
    counters: BTreeMap<ReleaseId, (u64, u64)>,
    history: BTreeMap<ReleaseId, VecDeque<(u64, u64, u64)>>,
    /// Requests that met no member that could serve.
    pub dropped: u64,
    /// Requests of each release, whole life.
    pub served: BTreeMap<ReleaseId, u64>,
    /// What the source does, and since when, in milliseconds.
    pub lie: Option<(Lie, u64)>,
    /// It did something of that kind before.
    pub lied: bool,
    /// What each release served in each second, whole life: the truth that no look can change.
    gains: BTreeMap<ReleaseId, Vec<(u64, u64)>>,
    /// When each release's counters last began again.
    resets: BTreeMap<ReleaseId, u64>,
    /// Requests that went wrong, whole life.
    pub failed: u64,
}

impl Truth {
    /// The share of requests that `release` fails at `now`, alone.
    pub fn own_share(&self, release: &Release, now: u64) -> f64 {
        let digest = &release.template.image().digest;
        let flipped = self.bad_flipped.get(digest).filter(|_| self.flipped);
        match self.bad_images.get(digest) {
            Some((share, since)) if now >= *since => flipped.map_or(*share, |flipped| flipped.max(*share)),
            _ => flipped.copied().unwrap_or(0.0005),
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
        if let Some(service) = &mut self.service {
            return service.second(random, now, arms, &mut self.served);
        }
        let outage = truth.outage.filter(|(from, until, _)| (*from..*until).contains(&now)).map_or(0.0, |(_, _, share)| share);
        let harmful = |release: &Release| truth.harmful.as_ref().is_some_and(|(image, _)| *image == release.template.image().digest);
        let harm = arms.iter().any(|(release, weight, live)| *weight > 0.0 && *live && harmful(release));
        let harm = if harm { truth.harmful.as_ref().map_or(0.0, |(_, share)| *share) } else { 0.0 };
        // Who is down gets no requests while another that has a share can serve.
        let able: f64 = arms.iter().filter(|(_, _, live)| *live).map(|(_, weight, _)| weight).sum();
        for (release, weight, live) in arms {
            if !live {
                self.dropped += if able > 0.0 { 0 } else { random.binomial(truth.rate, *weight) };
                continue;
            }
            let weight = if able > 0.0 { weight / able } else { 0.0 };
            let requests = random.binomial(truth.rate, weight);
            let share = truth.own_share(release, now).max(outage).max(harm);
            let bad = random.binomial(requests, share);
            let counter = self.counters.entry(release.id.clone()).or_default();
            counter.0 += requests;
            counter.1 += bad;
            self.failed += bad;
            note(&mut self.served, &release.id, requests);
            match self.gains.get_mut(&release.id) {
                Some(gains) => gains.push((now, requests)),
                None => drop(self.gains.insert(release.id.clone(), vec![(now, requests)])),
            }
            let history = self.history.entry(release.id.clone()).or_default();
            history.push_back((now, counter.0, counter.1));
            if history.len() > KEPT {
                history.pop_front();
            }
        }
    }

    /// The members of a release stopped: their counters are gone, and the next ones start at 0.
    pub fn stop(&mut self, release: &ReleaseId) {
        if let Some(service) = &mut self.service {
            service.stop(release);
        }
        self.counters.remove(release);
        self.history.remove(release);
    }

    /// Whether the source misleads, or did, or scrapes at its own times: then what it counted is no single second's.
    pub fn lied(&self) -> bool {
        self.lied || self.lie.is_some() || self.service.is_some()
    }

    /// Members start again, and with them their counters.
    pub fn reset(&mut self, release: &ReleaseId, now: u64) {
        self.counters.remove(release);
        self.resets.insert(release.clone(), now);
    }

    /// What `release` served in the second that ended in `(from, until]`, and in the two before that; none if there was none.
    pub fn gained(&self, release: &ReleaseId, from: u64, until: u64) -> Option<(u64, u64)> {
        let gains = self.gains.get(release)?;
        let after = gains.partition_point(|(at, _)| *at <= until);
        let (at, gain) = *gains[..after].last().filter(|(at, _)| *at > from)?;
        let before = gains[..after - 1].iter().rev().take_while(|(before, _)| *before + 2_500 > at).map(|(_, gain)| gain);
        // A counter that began again may have come as far as it was: then there is no telling.
        let least = if self.resets.get(release).is_some_and(|reset| reset + 4_000 > at) { 0 } else { gain };
        Some((least, gain + before.sum::<u64>()))
    }

    /// What the source answers at `now`; `stale` leaves the newest samples out.
    pub fn look(&self, plan: &LookPlan, now: u64, stale: u64) -> Looked {
        if let Some(service) = &self.service {
            return service.look(plan, now);
        }
        let lie = self.lie;
        let at = |ms: u64| EPOCH_MS + i64::try_from(ms).unwrap_or_default();
        let mut looked = Looked { source_now: at(now), ..Looked::default() };
        for (signal, counters) in &*plan.signals {
            // A histogram has a bucket of the good ones.
            let good = counters.counters.contains_key(&Role::Good);
            for (arm, release) in &plan.arms {
                let series = looked.samples.entry(signal.clone()).or_default().entry(*arm).or_default();
                let Some(history) = self.history.get(release).filter(|_| !matches!(lie, Some((Lie::Empty, _)))) else { continue };
                let frozen = |sample: &(u64, u64, u64)| match lie {
                    Some((Lie::Frozen, since)) if sample.0 > since => {
                        history.iter().rev().find(|(at, ..)| *at <= since).map_or((0, 0), |(_, total, bad)| (*total, *bad))
                    }
                    _ => (sample.1, sample.2),
                };
                let wanted: Vec<_> = history
                    .iter()
                    .filter(|(ms, ..)| ms + stale <= now && plan.since.is_none_or(|since| at(*ms) > since))
                    .rev()
                    .take(if plan.since.is_some() { KEPT } else { 5 })
                    .collect();
                for role in [Role::Total, if good { Role::Good } else { Role::Bad }] {
                    let sample = |counted: &(u64, u64, u64)| {
                        let (total, bad) = frozen(counted);
                        let value = match role {
                            Role::Total => total,
                            Role::Bad => bad,
                            Role::Good => total - bad,
                        } as f64;
                        match lie {
                            Some((Lie::Nan, _)) if role != Role::Total => Sample { at: at(counted.0), value: f64::NAN },
                            Some((Lie::Future, _)) => Sample { at: at(counted.0 + 60_000), value },
                            _ => Sample { at: at(counted.0), value },
                        }
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

fn note(counts: &mut BTreeMap<ReleaseId, u64>, release: &ReleaseId, more: u64) {
    match counts.get_mut(release) {
        Some(count) => *count += more,
        None => drop(counts.insert(release.clone(), more)),
    }
}
