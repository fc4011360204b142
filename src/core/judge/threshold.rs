//! Declared thresholds with exactly the timing of a Prometheus alert, evaluated at each edge of the grid.
//!
//! A rule becomes pending at the first evaluation that finds it true, and fires at the first one at least `for`
//! later if each between found it true too. An evaluation without data counts as false, and so does a missing one.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::sequential::Exact;
use super::signal;
use super::{Count, Reading};
use crate::core::input::SignalId;
use crate::core::spec::{self, Objective};
use crate::core::time::Span;

/// A rule of `alsoBreachOn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    /// Whether every condition must hold, or one.
    all: bool,
    conditions: Vec<Condition>,
    /// How long it must hold, in milliseconds.
    hold: i64,
    /// The rule in words.
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    signal: SignalId,
    test: Test,
    /// The window in milliseconds.
    over: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Test {
    /// The share of bad requests is above this.
    Bad(f64),
    /// This quantile lies above the bound by which the signal tells bad from good.
    Quantile(f64),
}

impl Test {
    fn holds(self, count: Count) -> bool {
        match self {
            Self::Bad(share) => count.bad > share * count.total,
            // The rank of the quantile lies beyond the requests within the bound.
            Self::Quantile(quantile) => count.total - count.bad < quantile * count.total,
        }
    }
}

fn millis(span: Span) -> i64 {
    i64::try_from(span.millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

impl Rule {
    /// Reads a rule; none for alerts, and for conditions that `signal::signals` refuses.
    pub(super) fn new(rule: &spec::Rule, objectives: &[Objective]) -> Option<Self> {
        let all = rule.any.is_empty();
        let written = if all { &rule.all } else { &rule.any };
        let conditions: Option<Vec<_>> = written.iter().map(|condition| Condition::new(condition, objectives)).collect();
        let conditions = conditions.filter(|conditions| !conditions.is_empty())?;
        let mut text = written.iter().map(describe).collect::<Vec<_>>().join(if all { " and " } else { " or " });
        if let Some(hold) = rule.for_ {
            text = format!("{text}, for {hold}");
        }
        Some(Self { all, conditions, hold: rule.for_.map_or(0, millis), text })
    }
}

fn describe(condition: &spec::Condition) -> String {
    let (name, over) = (&condition.objective, condition.over);
    match (condition.bad, condition.quantile, condition.value) {
        (Some(bad), ..) => format!("{name}: bad {bad} over {over}"),
        (None, Some(quantile), Some(value)) => format!("{name}: p{} {value} over {over}", (quantile * 1e5).round() / 1e3),
        _ => name.clone(),
    }
}

impl Condition {
    fn new(condition: &spec::Condition, objectives: &[Objective]) -> Option<Self> {
        let objective = objectives.iter().find(|objective| objective.name == condition.objective)?;
        let (signal, test) = match (condition.bad, condition.quantile, condition.value) {
            (Some(bad), ..) => (signal::of(objective), Test::Bad(bad.0.fraction())),
            (None, Some(quantile), Some(value)) => (signal::bounded(&objective.name, value.0), Test::Quantile(quantile)),
            _ => return None,
        };
        Some(Self { signal, test, over: millis(condition.over).max(1) })
    }
}

/// The candidate's requests in a sliding window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Window(VecDeque<(i64, Exact, Exact)>);

impl Window {
    /// Takes in an interval and forgets those that ended `over` or longer before it.
    fn push(&mut self, edge: i64, over: i64, count: Option<Count>) {
        self.0.extend(count.map(|count| (edge, Exact(count.bad), Exact(count.total))));
        while self.0.front().is_some_and(|(old, ..)| *old <= edge - over) {
            self.0.pop_front();
        }
    }

    /// The requests in it; none if there were none.
    fn sum(&self) -> Option<Count> {
        let add = |sum: Count, (_, bad, total): &(i64, Exact, Exact)| Count { bad: sum.bad + bad.0, total: sum.total + total.0 };
        Some(self.0.iter().fold(Count::default(), add)).filter(|sum| sum.total > 0.0)
    }
}

/// What is remembered of one rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pending {
    /// The evaluation that first found it true.
    since: Option<i64>,
    /// The evaluation before this one.
    evaluated: Option<i64>,
    windows: Vec<Window>,
}

impl Pending {
    /// A new stage has its own grid: a short pause in evaluations on its account is no gap.
    pub(super) fn begin(&mut self, config: &Config, origin: Option<i64>) {
        let pause = config.silence() + 2 * config.step;
        if let (Some(origin), Some(evaluated)) = (origin, self.evaluated)
            && (0..=pause).contains(&(origin - evaluated))
        {
            self.evaluated = Some(origin);
        }
    }

    /// Evaluates the rule at an edge, for which there is a reading of every signal. True if it fires.
    pub(super) fn step(&mut self, config: &Config, rule: &Rule, edge: i64, readings: &[Reading]) -> bool {
        self.windows.resize(rule.conditions.len(), Window::default());
        if self.evaluated.is_some_and(|before| edge - before > config.gap()) {
            self.since = None;
        }
        self.evaluated = Some(edge);
        let mut held = 0;
        for (condition, window) in rule.conditions.iter().zip(&mut self.windows) {
            let reading = config.signals.keys().position(|id| *id == condition.signal).and_then(|place| readings.get(place));
            window.push(edge, condition.over, reading.and_then(Reading::scored));
            // Warm-up and a gap are missing data; an interval in which merely nothing came leaves the window as it is.
            let broken = reading.is_none_or(Reading::is_broken);
            held += usize::from(!broken && window.sum().is_some_and(|count| condition.test.holds(count)));
        }
        let holds = if rule.all { held == rule.conditions.len() } else { held > 0 };
        if !holds {
            self.since = None;
            return false;
        }
        edge - *self.since.get_or_insert(edge) >= rule.hold
    }
}
