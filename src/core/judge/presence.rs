//! Who reports, who is silent, and who completes far less than its weight.

use serde::{Deserialize, Serialize};

use super::Stage;
use super::config::Config;
use super::counters::Grid;
use super::objective::Onset;
use super::sequential::{Exact, STARVED, Track, evidence, evidences};
use super::{Count, Reading};
use crate::core::input::Arm;
use crate::core::reason::Reason;

/// Chance of calling a candidate starved that gets a quarter of its share.
const STARVED_ALPHA: f64 = 1e-6;

/// Scrapes without progress that "starved" takes.
const STARVED_SCRAPES: f64 = 5.0;

/// A candidate is starved below this part of its share. Balancers that spread connections, not requests, miss the
/// share, but not by so much.
const STARVED_PART: f64 = 0.25;

/// Requests that a candidate must have been due before its never having reported means anything: many services
/// show a counter only from the first request on.
const DUE_BEFORE_DARK: f64 = 20.0;

/// Intervals without a request until "no traffic" is said.
const IDLE: u32 = 10;

/// What is remembered of who reports, in this stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Presence {
    /// The last edge at which stable had reported.
    stable: Option<i64>,
    /// Intervals in a row in which the candidate completed nothing.
    idle: u32,
    /// Requests that its weight would have given it in this stage.
    due: Exact,
    starving: Track,
    onset: Onset,
}

impl Presence {
    pub(super) fn begin(&mut self, origin: Option<i64>) {
        *self = Self { stable: origin, ..Self::default() };
    }

    /// Whether stable counts as reporting at an edge.
    pub(super) fn stable_reports(&self, config: &Config, edge: i64) -> bool {
        self.stable.is_some_and(|last| edge - last < config.silence())
    }

    /// Takes in one edge; `reading` is that of the first objective. Tells if the candidate starves.
    pub(super) fn step(&mut self, config: &Config, stage: &Stage, origin: i64, edge: i64, reading: &Reading) -> Option<Reason> {
        if reading.stable_reported() {
            self.stable = Some(edge);
        }
        let (candidate, stable) = (reading.candidate.ok(), reading.stable.ok());
        let completed = candidate.map_or(0.0, |count| count.total);
        self.idle = if completed > 0.0 { 0 } else { self.idle.saturating_add(1) };
        let weight = stage.weight.fraction();
        if weight <= 0.0 || weight >= 1.0 || !stage.has_stable {
            return None;
        }
        self.due.0 += stable.map_or(0.0, |count| count.total) * weight / (1.0 - weight);
        // Just after a step the router still moves, and requests that take long have not come back yet.
        let settled = edge - origin > config.silence() && !reading.warm;
        match (candidate, stable) {
            (Some(candidate), Some(stable)) if settled && !config.sticky => self.starve(config, weight, edge, candidate, stable),
            _ => None,
        }
    }

    fn starve(&mut self, config: &Config, weight: f64, edge: i64, candidate: Count, stable: Count) -> Option<Reason> {
        let (all, least) = (candidate.total + stable.total, STARVED_PART * weight);
        let cap = (-libm::log(STARVED_ALPHA) + libm::log(16.0)) / STARVED_SCRAPES;
        let share = self.starving.onset(config.onset_share());
        self.starving.step(&evidences(candidate.total, all, least, &STARVED), share, cap);
        self.onset.add(edge, evidence(candidate.total, all, least, 0.2), candidate, Some(stable));
        let (completed, others) = self.onset.completed();
        let expected = weight * (completed + others);
        (self.starving.odds() >= 1.0 / STARVED_ALPHA).then_some(Reason::Starved { completed, expected })
    }

    /// Whether nothing has come for long enough to say so.
    pub(super) fn no_traffic(&self) -> bool {
        self.idle >= IDLE
    }

    /// How many scrapes the candidate has missed, if stable reports meanwhile and the candidate should.
    pub(super) fn candidate_dark(&self, config: &Config, stage: &Stage, grid: &Grid) -> Option<u32> {
        let (origin, stable) = (grid.origin()?, grid.newest_of(Arm::Stable)?);
        if stage.weight.fraction() <= 0.0 || !stage.has_stable {
            return None;
        }
        let since = match grid.newest_of(Arm::Candidate) {
            Some(newest) => newest.max(origin),
            None if self.due.0 >= DUE_BEFORE_DARK => origin + stage.warm_up_millis(),
            None => return None,
        };
        (stable - since >= config.silence()).then(|| scrapes(stable - since, config))
    }

    /// Whether stable stopped reporting while the candidate goes on.
    pub(super) fn stable_dark(config: &Config, stage: &Stage, grid: &Grid) -> bool {
        let (Some(origin), Some(candidate)) = (grid.origin(), grid.newest_of(Arm::Candidate)) else { return false };
        let since = grid.newest_of(Arm::Stable).unwrap_or(origin).max(origin);
        stage.has_stable && candidate - since >= config.silence()
    }
}

/// A time as a number of scrapes, rounded down.
pub(super) fn scrapes(millis: i64, config: &Config) -> u32 {
    u32::try_from((millis / config.step).max(0)).unwrap_or(u32::MAX)
}
