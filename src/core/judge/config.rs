//! What a judge is told once per generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::signal::{self, Signal, SignalError};
use super::threshold::Rule;
use crate::core::input::SignalId;
use crate::core::mutant::Mutant;
use crate::core::plan::Plan;
use crate::core::spec::{CandidateDark, GuardedRollout, NoData, Objective, StableDark};
use crate::core::time::Span;

/// Chance of a false revert over a whole rollout, divided among its objectives.
pub const ALPHA: f64 = 1e-3;

/// Chance of calling a candidate healthy whose share of bad requests is twice what the objective allows.
pub const BETA: f64 = 0.05;

/// How many times worse than stable a candidate may be before the comparison counts against it.
pub const DELTA: f64 = 1.5;

/// Share of the traffic that stable needs for a comparison.
pub const BASELINE_SHARE: f64 = 0.10;

/// Everything about a rollout that the judge needs. Derived from the guard; never changes within a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// What is read, by name.
    pub signals: Arc<BTreeMap<SignalId, Signal>>,
    /// What is judged, in the order written.
    pub objectives: Vec<Target>,
    /// Thresholds.
    pub(super) rules: Vec<Rule>,
    /// The source's scrape interval, which is the grid's step, in milliseconds.
    pub step: i64,
    /// All bakes and the watch together, in milliseconds: over it the unknown onset is spread.
    pub planned: i64,
    /// Whether requests stick to an arm, so that the arms cannot be compared.
    pub sticky: bool,
    /// What missing data means.
    pub no_data: NoData,
}

/// One objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Name.
    pub name: String,
    /// The signal that it is judged by.
    pub signal: SignalId,
    /// Share of requests that may be bad.
    pub budget: f64,
    /// Whether a regression within the objective reverts.
    pub strict: bool,
}

impl Config {
    /// Reads a guard, with the objectives that policies add, for a source of this scrape interval.
    ///
    /// # Errors
    /// [`SignalError`] if a selector, objective or condition cannot be read.
    pub fn new(spec: &GuardedRollout, added: &[Objective], step: Span) -> Result<Self, SignalError> {
        let objectives: Vec<Objective> = spec.objectives.iter().chain(added).cloned().collect();
        let signals = signal::read(&objectives, spec)?;
        // An objective of 100 % or 0 % leaves nothing to test; the nearest that does stands in.
        let budget = |objective: &Objective| objective.good.rest().fraction().clamp(1e-6, 0.99);
        let targets = objectives.iter().map(|objective| Target {
            name: objective.name.clone(),
            signal: signal::of(objective),
            budget: budget(objective),
            strict: objective.strict,
        });
        let millis = |span: Span| i64::try_from(span.millis()).unwrap_or(i64::MAX / 4).clamp(1, i64::MAX / 4);
        Ok(Self {
            objectives: targets.collect(),
            rules: spec.also_breach_on.iter().filter_map(|rule| Rule::new(rule, &objectives)).collect(),
            signals: Arc::new(signals),
            step: millis(step),
            planned: millis(Plan::compile(spec).watched()),
            sticky: spec.arms.sticky,
            no_data: spec.no_data,
        })
    }

    /// How long a series may be silent before it counts as stopped, in milliseconds.
    pub fn silence(&self) -> i64 {
        self.step.saturating_mul(i64::from(self.no_data.after.0))
    }

    /// The longest time between two samples of a series whose difference is still counted: one scrape may be
    /// missed, and scrapes jitter.
    pub fn gap(&self) -> i64 {
        self.step.saturating_mul(5) / 2
    }

    /// Wealth that goes on an onset in one interval, as a share of the half that is spread.
    pub(super) fn onset_share(&self) -> f64 {
        self.step as f64 / self.planned as f64
    }

    /// The level of each objective's tests after so many exonerations.
    pub fn alpha(&self, exonerated: u32) -> f64 {
        let objectives = if Mutant::AlphaNotDivided.lives() { 1 } else { self.objectives.len().max(1) };
        ALPHA / objectives as f64 / f64::from(1 << exonerated.min(20))
    }

    pub(super) fn reverts_when_dark(&self) -> bool {
        self.no_data.candidate_dark == CandidateDark::Revert
    }

    pub(super) fn waits_without_stable(&self) -> bool {
        self.no_data.stable_dark == StableDark::Wait
    }
}
