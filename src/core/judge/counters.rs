//! Raw samples in, exact counts on a fixed grid out.
//!
//! The grid starts at the stage's origin and its step is the scrape interval. What a counter gained between two
//! samples belongs to the interval that holds the later one. Everything here is decided by the samples' own times,
//! never by when somebody looked, so that any way of cutting the same samples into looks counts the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Count;
use super::config::Config;
use super::sequential::Exact;
use crate::core::input::{Arm, Looked, Role, SignalId};
use crate::core::mutant::Mutant;

/// The most series that one judge follows.
const MOST_SERIES: usize = 20_000;

/// No time lies farther from the epoch than this, in milliseconds: 35,000 years.
const FARTHEST: u64 = 1 << 50;

/// The last sample of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Last {
    at: i64,
    value: Exact,
}

/// What one arm's counters of one signal gained in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    total: Exact,
    other: Exact,
    totals: u32,
    others: u32,
    gap: bool,
}

/// Why an arm's cell is not a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unusable {
    /// The arm did not report.
    Silent,
    /// A series came back after a gap: its difference belongs to no interval.
    Gap,
    /// So many samples of the total, and so many of the other role, that do not go together.
    Mismatch(u32, u32),
}

impl Cell {
    /// Takes in a sample, and what its counter gained; nothing if that spans a gap.
    fn add(&mut self, role: Role, gained: Option<f64>) {
        let (sum, samples) = match role {
            Role::Total => (&mut self.total.0, &mut self.totals),
            Role::Bad | Role::Good => (&mut self.other.0, &mut self.others),
        };
        *samples += 1;
        match gained {
            Some(gained) => *sum += gained,
            None => self.gap = true,
        }
    }

    /// The requests counted. Of a histogram every member must have the bucket; without a total nothing is known.
    pub(super) fn count(&self, histogram: bool) -> Result<Count, Unusable> {
        if self.totals == 0 && self.others == 0 {
            return Err(Unusable::Silent);
        }
        if self.gap {
            return Err(Unusable::Gap);
        }
        if self.totals == 0 || (histogram && self.totals != self.others) {
            return Err(Unusable::Mismatch(self.totals, self.others));
        }
        let (total, other) = (self.total.0, self.other.0);
        let bad = if histogram { (total - other).max(0.0) } else { other };
        // Counters of one scrape are not read at one instant: a bad request may be counted before its total.
        Ok(Count { bad, total: total.max(bad) })
    }
}

/// One closed interval: its edge, and a cell per signal and arm (candidate first), in the order of the signals.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Closed {
    pub(super) edge: i64,
    pub(super) cells: Vec<Cell>,
}

/// The counters' memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grid {
    /// Begin of the stage, in the source's time. Absent until the first look of the first stage.
    origin: Option<i64>,
    /// The last edge that was closed.
    edge: Option<i64>,
    /// Time of the newest sample, and of the newest scrape before that one.
    newest: Option<(i64, Option<i64>)>,
    /// Times of the first and the newest sample of each arm.
    seen: BTreeMap<Arm, (i64, i64)>,
    series: BTreeMap<u64, Last>,
    open: BTreeMap<i64, Vec<Cell>>,
}

/// A sample with its place.
struct Raw {
    at: i64,
    key: u64,
    value: f64,
    cell: usize,
    arm: Arm,
    role: Role,
}

/// Names a series by a number: FNV-1a over signal, arm, role and labels. Two of ten thousand series meet with a
/// chance of 3e-12.
fn key(signal: &SignalId, arm: Arm, role: Role, labels: &str) -> u64 {
    let place = [0xff, arm as u8, role as u8];
    let bytes = signal.0.bytes().chain(place).chain(labels.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Grid {
    /// Starts a stage. Without an origin the grid goes on from where the source's clock stands at the next look.
    pub(super) fn begin(&mut self, origin: Option<i64>) {
        self.open.clear();
        self.origin = origin;
        self.edge = origin;
    }

    pub(super) fn origin(&self) -> Option<i64> {
        self.origin
    }

    pub(super) fn newest(&self) -> Option<i64> {
        self.newest.map(|(at, _)| at)
    }

    /// Time of an arm's newest sample.
    pub(super) fn newest_of(&self, arm: Arm) -> Option<i64> {
        self.seen.get(&arm).map(|(_, newest)| *newest)
    }

    /// The last sample time that every series which still reports has reached; later ones are still needed.
    pub(super) fn reached(&self, config: &Config) -> Option<i64> {
        let newest = self.newest()?;
        self.series.values().map(|last| last.at).filter(|at| newest - at < config.silence()).min()
    }

    /// Takes in what a look showed, without its samples: enough for a verdict, and not for another look.
    pub(super) fn recall(&mut self, source_now: i64, newest: Option<i64>, seen: [Option<i64>; 2]) {
        let origin = *self.origin.get_or_insert(source_now);
        self.edge.get_or_insert(origin);
        self.newest = newest.map(|newest| (newest, None));
        for (arm, newest) in [Arm::Candidate, Arm::Stable].into_iter().zip(seen) {
            if let Some(newest) = newest {
                self.seen.entry(arm).or_insert((newest, newest)).1 = newest;
            }
        }
    }

    /// Takes in the samples of one look. `fresh`: the candidate's members started in this generation, so that its
    /// counters began at zero here.
    ///
    /// # Errors
    /// What is wrong with the samples. Nothing is taken in then.
    pub(super) fn read(&mut self, config: &Config, looked: &Looked, fresh: bool) -> Result<(), String> {
        let raws = gather(config, looked)?;
        if self.series.len() > MOST_SERIES {
            return Err(format!("more than {MOST_SERIES} series; narrow the selectors"));
        }
        let origin = *self.origin.get_or_insert(looked.source_now);
        let edge = *self.edge.get_or_insert(origin);
        for raw in raws {
            self.take(config, &raw, origin, edge, fresh);
        }
        Ok(())
    }

    fn take(&mut self, config: &Config, raw: &Raw, origin: i64, edge: i64, fresh: bool) {
        let known = self.series.get(&raw.key).copied();
        if known.is_some_and(|last| raw.at <= last.at) {
            return; // Read before.
        }
        let (value, at) = (raw.value, raw.at);
        let before = self.scrape_before(at);
        let first = self.note(raw);
        let born = (fresh && raw.arm == Arm::Candidate) || at > first + config.step;
        // Since when, and from which value, the counter gained.
        let (since, base) = match known {
            Some(last) if value < last.value.0 && !Mutant::ResetAsGain.lives() => (last.at, 0.0), // A reset: it began again at zero.
            Some(last) => (last.at, last.value.0),
            // Absent at the scrape before, so that it counts from zero.
            None if born => (before.map_or(origin, |at| at.max(origin)), 0.0),
            // It may have counted long before anybody looked.
            None => (at, value),
        };
        if at <= edge {
            // Older than the stage: only a base. Late for an interval that is closed: its gain counts with the next.
            if at <= origin {
                self.series.insert(raw.key, Last { at, value: Exact(value) });
            } else if known.is_none() {
                self.series.insert(raw.key, Last { at, value: Exact(base) });
            }
            return;
        }
        self.series.insert(raw.key, Last { at, value: Exact(value) });
        let index = (at - origin + config.step - 1).div_euclid(config.step);
        let cells = self.open.entry(origin + index * config.step).or_insert_with(|| vec![Cell::default(); 2 * config.signals.len()]);
        let Some(cell) = cells.get_mut(raw.cell) else { return };
        cell.add(raw.role, (at - since <= config.gap()).then_some(value - base));
    }

    /// The newest scrape, of any series, before `at`.
    fn scrape_before(&self, at: i64) -> Option<i64> {
        match self.newest {
            Some((newest, _)) if at > newest => Some(newest),
            Some((newest, before)) if at == newest => before,
            // Late: others have gone on meanwhile, so the source was being read.
            Some(_) => Some(at),
            None => None,
        }
    }

    /// Notes when samples came; tells when the arm's first did.
    fn note(&mut self, raw: &Raw) -> i64 {
        self.newest = match self.newest {
            Some((newest, _)) if raw.at > newest => Some((raw.at, Some(newest))),
            None => Some((raw.at, None)),
            known => known,
        };
        let seen = self.seen.entry(raw.arm).or_insert((raw.at, raw.at));
        seen.0 = seen.0.min(raw.at);
        seen.1 = seen.1.max(raw.at);
        seen.0
    }

    /// Closes the intervals whose edge every live series has reached, oldest first. Intervals without any sample
    /// are skipped.
    pub(super) fn close(&mut self, config: &Config) -> Vec<Closed> {
        let Some(reached) = self.reached(config) else { return Vec::new() };
        let still_open = self.open.split_off(&reached.saturating_add(1));
        let closed = std::mem::replace(&mut self.open, still_open);
        self.edge = closed.keys().next_back().copied().or(self.edge);
        closed.into_iter().map(|(edge, cells)| Closed { edge, cells }).collect()
    }
}

/// Checks the samples of a look and puts them in the order of their times.
fn gather(config: &Config, looked: &Looked) -> Result<Vec<Raw>, String> {
    if looked.source_now.unsigned_abs() > FARTHEST {
        return Err(format!("the source's clock says {} ms", looked.source_now));
    }
    let ahead = looked.source_now + config.step.min(FARTHEST.cast_signed());
    let mut raws = Vec::new();
    for (place, (id, signal)) in config.signals.iter().enumerate() {
        for (&arm, list) in looked.samples.get(id).into_iter().flatten() {
            for series in list {
                if !signal.counters.contains_key(&series.role) {
                    return Err(format!("`{}` has a series of the role {:?}, which it does not read", id.0, series.role));
                }
                let key = key(id, arm, series.role, &series.labels);
                let cell = 2 * place + usize::from(arm == Arm::Stable);
                for sample in &series.samples {
                    let (at, mut value) = (sample.at, sample.value);
                    if value.is_nan() && Mutant::NanAsPass.lives() {
                        value = 0.0;
                    }
                    if !value.is_finite() || value < 0.0 {
                        return Err(format!("the counter {} of `{}` has the value {value}", series.labels, id.0));
                    }
                    if at < -FARTHEST.cast_signed() {
                        return Err(format!("the counter {} of `{}` has a sample from {at} ms", series.labels, id.0));
                    }
                    if at > ahead {
                        let seconds = (at - looked.source_now) / 1000;
                        return Err(format!("the counter {} of `{}` has a sample from {seconds} s in the future", series.labels, id.0));
                    }
                    let at = if Mutant::IntervalsByLook.lives() { looked.source_now } else { at };
                    raws.push(Raw { at, key, value, cell, arm, role: series.role });
                }
            }
        }
    }
    raws.sort_unstable_by_key(|raw| (raw.at, raw.key));
    Ok(raws)
}
