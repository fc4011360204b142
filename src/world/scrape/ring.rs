//! The recent samples of the watched series. Pure: times are handed in, in milliseconds of the scraper's clock.
//!
//! The index goes metric → arm label → release → selector, so that a scraped line and a look both find their place by
//! name, whatever the number of rollouts. Whether a series matches a selector is decided once, when it is first seen.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use crate::core::input::{Sample, Series};
use crate::core::judge::signal::{MatchOp, Selector};
use crate::core::work::LookPlan;
use crate::world::exposition::{Counter, Exposition};
use crate::world::series::{Matchers, canonical};

/// Samples kept per series; readers look far more often than every 60 scrapes.
const KEPT: usize = 60;

/// Series kept per source. More mean that label values never repeat, and the source is not scraped until they age out.
const SERIES: usize = 400_000;

/// The label that keeps the series of several endpoints apart.
const ENDPOINT: &str = "scrape_url";

/// How far an explicit timestamp may be ahead of the scrape, in milliseconds.
const AHEAD: i64 = 1_000;

/// How old an explicit timestamp may be, in milliseconds; an older sample counts as missing (as Prometheus' staleness does).
const BEHIND: i64 = 300_000;

type BySelector = BTreeMap<String, Watch>;
type ByRelease = BTreeMap<String, BySelector>;

/// Everything that is watched.
#[derive(Debug, Default)]
pub(super) struct Watches {
    metrics: BTreeMap<String, BTreeMap<String, ByRelease>>,
    series: usize,
}

/// The series of one selector and release.
#[derive(Debug)]
struct Watch {
    matchers: Matchers,
    asked_at: i64,
    series: BTreeMap<String, Ring>,
}

/// The recent samples of one series; empty for a series that does not match.
#[derive(Debug)]
struct Ring {
    is_wanted: bool,
    seen_at: i64,
    samples: VecDeque<Sample>,
}

impl Watches {
    pub(super) fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// The names of the watched metrics.
    pub(super) fn metrics(&self) -> impl Iterator<Item = &String> {
        self.metrics.keys()
    }

    /// Watches what a look reads. True if something of it was not watched before.
    ///
    /// # Errors
    /// A matcher cannot be used; nothing of the look is watched for longer then.
    pub(super) fn register(&mut self, plan: &LookPlan, now: i64) -> Result<bool, String> {
        let mut is_new = false;
        for selector in plan.signals.values().flat_map(|signal| signal.counters.values()) {
            let key = key(selector);
            for release in plan.all_values() {
                if let Some(watch) = self.watch_mut(&selector.metric, &plan.arm_label, release, &key) {
                    watch.asked_at = now;
                    continue;
                }
                let watch = Watch { matchers: Matchers::compile(&selector.matchers)?, asked_at: now, series: BTreeMap::new() };
                let labels = self.metrics.entry(selector.metric.clone()).or_default();
                let releases = labels.entry(plan.arm_label.clone()).or_default();
                releases.entry(release.to_owned()).or_default().insert(key.clone(), watch);
                is_new = true;
            }
        }
        Ok(is_new)
    }

    fn watch_mut(&mut self, metric: &str, label: &str, release: &str, key: &str) -> Option<&mut Watch> {
        self.metrics.get_mut(metric)?.get_mut(label)?.get_mut(release)?.get_mut(key)
    }

    /// Takes the counters of one scrape of one endpoint, started at `started` and read at `read`.
    ///
    /// # Errors
    /// A timestamp from the future, or too many series; nothing is taken then.
    pub(super) fn ingest(&mut self, exposition: &Exposition<'_>, url: &str, started: i64, read: i64) -> Result<(), String> {
        if self.series > SERIES {
            return Err(format!("more than {SERIES} series within a minute: label values do not repeat"));
        }
        if let Some(future) = exposition.counters.iter().find(|counter| counter.at.is_some_and(|at| at > read + AHEAD)) {
            let ahead = future.at.unwrap_or(read) - read;
            return Err(format!("line {}: `{}` has a timestamp {ahead} ms ahead of our clock", future.line, future.metric));
        }
        for counter in &exposition.counters {
            let at = counter.at.map_or(started, |at| at.min(read));
            let Some(labels) = self.metrics.get_mut(counter.metric.as_ref()).filter(|_| at >= started - BEHIND) else { continue };
            for (label, releases) in labels {
                if let Some(watches) = releases.get_mut(counter.label(label)) {
                    self.series += take(watches, counter, url, Sample { at, value: counter.value }, started);
                }
            }
        }
        Ok(())
    }

    /// The series of one selector and release with the samples after `since`.
    pub(super) fn read(
        &self,
        selector: &Selector,
        arm_label: &str,
        release: &str,
        since: i64,
    ) -> Option<impl Iterator<Item = (&String, Vec<Sample>)>> {
        let watch = self.metrics.get(&selector.metric)?.get(arm_label)?.get(release)?.get(&key(selector))?;
        let wanted = watch.series.iter().filter(|(_, ring)| ring.is_wanted);
        Some(wanted.map(move |(labels, ring)| (labels, ring.after(since))))
    }

    /// Forgets what nobody asked for, and series that were not seen, since `before`.
    pub(super) fn forget(&mut self, before: i64) {
        let mut series = 0;
        self.metrics.retain(|_, labels| {
            labels.retain(|_, releases| {
                releases.retain(|_, watches| {
                    watches.retain(|_, watch| watch.asked_at >= before);
                    for watch in watches.values_mut() {
                        watch.series.retain(|_, ring| ring.seen_at >= before);
                        series += watch.series.len();
                    }
                    !watches.is_empty()
                });
                !releases.is_empty()
            });
            !labels.is_empty()
        });
        self.series = series;
    }
}

/// Puts a sample into its series under every selector. Returns how many series are new.
fn take(watches: &mut BySelector, counter: &Counter<'_>, url: &str, sample: Sample, seen_at: i64) -> usize {
    let mut pairs: Vec<(&str, &str)> = counter.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    pairs.retain(|(name, _)| *name != ENDPOINT);
    pairs.insert(pairs.partition_point(|(name, _)| *name < ENDPOINT), (ENDPOINT, url));
    let labels = canonical(pairs);
    let mut new = 0;
    for watch in watches.values_mut() {
        if let Some(ring) = watch.series.get_mut(&labels) {
            ring.push(sample, seen_at);
        } else {
            let is_wanted = watch.matchers.matches(|name| counter.label(name));
            let mut ring = Ring { is_wanted, seen_at, samples: VecDeque::new() };
            ring.push(sample, seen_at);
            watch.series.insert(labels.clone(), ring);
            new += 1;
        }
    }
    new
}

impl Ring {
    fn push(&mut self, sample: Sample, seen_at: i64) {
        self.seen_at = seen_at;
        // The same explicit timestamp again is the same sample again.
        if self.is_wanted && self.samples.back().is_none_or(|last| last.at < sample.at) {
            if self.samples.len() == KEPT {
                self.samples.pop_front();
            }
            self.samples.push_back(sample);
        }
    }

    fn after(&self, since: i64) -> Vec<Sample> {
        self.samples.range(self.samples.partition_point(|sample| sample.at <= since)..).copied().collect()
    }
}

/// A selector's matchers as a key.
fn key(selector: &Selector) -> String {
    let mut key = String::new();
    for matcher in &selector.matchers {
        let sign = match matcher.op {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        };
        // No label and no value can hold the separators and be confused: lengths lead.
        let _ = write!(key, "{}:{}{sign}{}:{},", matcher.label.len(), matcher.label, matcher.value.len(), matcher.value);
    }
    key
}

/// A series for the core.
pub(super) fn series(role: crate::core::input::Role, labels: &str, samples: Vec<Sample>) -> Series {
    Series { role, labels: labels.to_owned(), samples }
}

#[cfg(test)]
mod tests;
