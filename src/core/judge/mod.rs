//! Samples in, verdict out. Pure.
//!
//! [`Judge::look`] differences raw counters on a fixed grid (`counters`), feeds each closed interval to the
//! sequential tests ([`sequential`]) and the declared thresholds (`threshold`), and [`Judge::verdict`] says what it
//! all amounts to. Whatever an interval decides depends on the samples alone, never on when somebody looked.

pub mod config;
mod counters;
#[cfg(test)]
mod counting;
#[cfg(test)]
pub(crate) mod fixture;
mod objective;
mod presence;
mod selector;
pub mod sequential;
mod sight;
pub mod signal;
#[cfg(test)]
mod simulation;
mod tape;
#[cfg(test)]
mod tests;
mod threshold;
mod verdict;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::config::{Config, Target};
pub use self::counters::{Grid, Unusable};
pub use self::selector::SelectorError;
pub use self::sight::Sight;
pub use self::tape::Tape;
pub use self::verdict::{Judgement, ObjectiveView};

use self::objective::{Evidence, Finding, Scored};
use self::presence::Presence;
use self::threshold::Pending;
use super::input::{Arm, LookFault, Looked, Role, SignalId};
use super::reason::Reason;
use super::spec::Percent;
use super::time::Span;

/// Closed intervals that are kept per signal: as many as an answer to a retreat, or a recovery, is read from.
const RECENT: usize = 3;

/// Requests of one arm in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Bad requests.
    pub bad: f64,
    /// All requests.
    pub total: f64,
}

/// What candidate and stable counted of one signal.
type Counted = (Result<Count, Unusable>, Result<Count, Unusable>);

/// What one signal counted in one closed interval of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// Which signal.
    pub signal: SignalId,
    /// End of the interval, in milliseconds of the source's clock since the Unix epoch.
    pub edge: i64,
    /// Whether it counts as evidence: not during warm-up, not across a gap of the candidate's, not without it.
    pub scored: bool,
    /// The candidate's requests; absent if it reported nothing, or with a gap.
    pub candidate: Option<Count>,
    /// Stable's requests; absent if it reported nothing, reported with a gap, or has no members.
    pub stable: Option<Count>,
    /// Why the candidate's are absent, if it did report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate_lacks: Option<Unusable>,
    /// Why stable's are absent, if it did report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_lacks: Option<Unusable>,
}

/// One signal at one edge, before it is simplified to an [`Interval`].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    warm: bool,
    candidate: Result<Count, Unusable>,
    stable: Result<Count, Unusable>,
}

impl Reading {
    /// The candidate's requests, if they count as evidence.
    fn scored(&self) -> Option<Count> {
        self.candidate.ok().filter(|_| !self.warm)
    }

    /// Whether there is no telling what the candidate did; merely empty intervals are not broken.
    fn is_broken(&self) -> bool {
        self.warm || matches!(self.candidate, Err(Unusable::Gap | Unusable::Mismatch(..)))
    }

    fn stable_reported(&self) -> bool {
        self.stable != Err(Unusable::Silent)
    }
}

/// What the judge must know of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageStart {
    /// The candidate's share of the traffic.
    pub weight: Percent,
    /// Time from the origin that is not scored.
    pub warm_up: Span,
    /// Scored time that is wanted before the next stage.
    pub bake: Span,
    /// Whether a stable release serves beside the candidate.
    pub has_stable: bool,
    /// Whether the candidate's members started in this generation, so that all their counters began at zero in it.
    /// Otherwise, and always for stable, a series that is there at the first look is taken to have counted before.
    pub fresh: bool,
    /// Begin of the stage in the source's clock, in milliseconds; absent: where that clock stands at the next look.
    pub origin: Option<i64>,
}

type Stage = StageStart;

impl StageStart {
    fn warm_up_millis(&self) -> i64 {
        i64::try_from(self.warm_up.millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
    }

    /// Whether the arms may be compared, as far as the plan goes.
    fn comparable(&self, config: &Config) -> bool {
        // Weights are written in per cent: 90 % leaves 10 % but for the last bit.
        let stable = 1.0 - self.weight.fraction() + 1e-9;
        self.has_stable && !config.sticky && stable >= config::BASELINE_SHARE
    }
}

/// All that a judge remembers; small, and enough to go on bit by bit as if nothing had happened.
///
/// Samples that a restored judge is shown again do not count twice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Checkpoint {
    stage: Option<Stage>,
    grid: Grid,
    /// The signals that the grid's cells are in the order of.
    signals: Vec<SignalId>,
    /// By objective; boxed, because a map keeps room for eleven where one or two are.
    evidence: BTreeMap<String, Box<Evidence>>,
    rules: Vec<Pending>,
    presence: Presence,
    /// How often the candidate was exonerated: each time the tests start afresh at half the level.
    exonerated: u32,
    /// A breach that an interval of this generation has shown.
    breach: Option<Reason>,
    fault: Option<Reason>,
    faulted: u32,
    /// What was wrong with the counters at the last edge.
    mismatch: Option<String>,
    /// The source's clock at the last good look.
    source_now: Option<i64>,
}

impl Checkpoint {
    /// What is held against the candidate, and nothing of where or when it stood.
    #[must_use]
    pub fn against(&self) -> Self {
        Self { evidence: self.evidence.clone(), exonerated: self.exonerated, ..Self::default() }
    }

    /// Whether anything was judged yet.
    pub fn has_begun(&self) -> bool {
        self.stage.is_some() || self.evidence.values().any(|evidence| evidence.log_odds() != 0.0)
    }

    /// Logarithm of the odds against the worst objective.
    pub fn log_odds(&self) -> f64 {
        self.evidence.values().map(|evidence| evidence.log_odds()).fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The judge of one generation of one rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Judge {
    config: Config,
    state: Checkpoint,
    recent: BTreeMap<SignalId, Vec<Interval>>,
}

impl Judge {
    /// A judge who has seen nothing.
    pub fn new(config: Config) -> Self {
        Self::restore(config, Checkpoint::default())
    }

    /// The judge that was at this checkpoint. Only [`Judge::recent`] starts empty.
    pub fn restore(config: Config, mut checkpoint: Checkpoint) -> Self {
        let signals: Vec<SignalId> = config.signals.keys().cloned().collect();
        if checkpoint.signals != signals {
            // Another configuration: what was counted of its signals means nothing here.
            let stage = checkpoint.stage;
            checkpoint.grid = Grid::default();
            checkpoint.grid.begin(stage.and_then(|stage| stage.origin));
            checkpoint.signals = signals;
            checkpoint.rules.clear();
        }
        checkpoint.evidence.retain(|name, _| config.objectives.iter().any(|target| target.name == *name));
        for target in &config.objectives {
            checkpoint.evidence.entry(target.name.clone()).or_default();
        }
        checkpoint.rules.resize(config.rules.len(), Pending::default());
        Self { config, state: checkpoint, recent: BTreeMap::new() }
    }

    /// A judge for a new generation of an unchanged image: the tests keep the evidence, everything else is new.
    pub fn carry(config: Config, checkpoint: &Checkpoint) -> Self {
        let mut judge = Self::new(config);
        judge.state.exonerated = checkpoint.exonerated;
        for (name, evidence) in &mut judge.state.evidence {
            if let Some(known) = checkpoint.evidence.get(name) {
                evidence.clone_from(known);
                evidence.begin();
            }
        }
        judge
    }

    /// All that must be kept to go on after a restart.
    pub fn checkpoint(&self) -> Checkpoint {
        self.state.clone()
    }

    /// What it was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Begins a stage: a new grid, evidence of health from nothing. The tests, and a breach, stay.
    pub fn begin_stage(&mut self, stage: StageStart) {
        self.state.grid.begin(stage.origin);
        self.state.presence.begin(stage.origin);
        for pending in &mut self.state.rules {
            pending.begin(&self.config, stage.origin);
        }
        for evidence in self.state.evidence.values_mut() {
            evidence.begin();
        }
        self.state.stage = Some(stage);
    }

    /// Takes in the answer of a look; returns what it showed, with the intervals that it closed, oldest first.
    ///
    /// An answer that cannot be trusted as a whole changes nothing but the verdict.
    pub fn look(&mut self, looked: &Looked) -> (Sight, Vec<Interval>) {
        let Some(stage) = self.state.stage else { return (Sight::Nothing, Vec::new()) };
        let fault = match &looked.fault {
            Some(fault) => Some(fault_reason(fault.clone())),
            None => self.state.grid.read(&self.config, looked, stage.fresh).err().map(|what| Reason::InvalidData { what }),
        };
        if let Some(reason) = fault {
            self.distrust(reason.clone());
            return (Sight::Fault(reason), Vec::new());
        }
        self.trust(&stage, looked.source_now);
        let mut intervals = Vec::new();
        for closed in self.state.grid.close(&self.config) {
            let counted: Vec<_> = (self.config.signals.values().zip(closed.cells.chunks_exact(2)))
                .map(|(signal, cells)| {
                    let histogram = signal.counters.contains_key(&Role::Good);
                    (cells[0].count(histogram), cells[1].count(histogram))
                })
                .collect();
            self.score(&stage, closed.edge, &counted, &mut intervals);
        }
        let grid = &self.state.grid;
        let seen = [Arm::Candidate, Arm::Stable].map(|arm| grid.newest_of(arm));
        (Sight::Counts { source_now: looked.source_now, newest: grid.newest(), seen, closed: intervals.len() }, intervals)
    }

    /// The answer of a look is not to be had, or not to be believed.
    fn distrust(&mut self, reason: Reason) {
        self.state.fault = Some(reason);
        self.state.faulted = self.state.faulted.saturating_add(1);
    }

    /// The answer of a look was read at this time of the source's clock.
    fn trust(&mut self, stage: &Stage, source_now: i64) {
        if stage.origin.is_none() {
            let origin = self.state.grid.origin();
            self.state.stage = Some(Stage { origin, ..*stage });
            self.state.presence.begin(origin);
            self.state.rules.iter_mut().for_each(|pending| pending.begin(&self.config, origin));
        }
        (self.state.fault, self.state.faulted) = (None, 0);
        self.state.source_now = Some(source_now.max(self.state.source_now.unwrap_or(i64::MIN)));
    }

    /// Scores one closed edge: what each signal counted of the candidate, and of stable.
    fn score(&mut self, stage: &Stage, edge: i64, counted: &[Counted], intervals: &mut Vec<Interval>) {
        let origin = self.state.grid.origin().unwrap_or(edge);
        let warm = edge - self.config.step < origin + stage.warm_up_millis();
        let readings: Vec<Reading> =
            counted.iter().map(|(candidate, stable)| Reading { warm, candidate: *candidate, stable: *stable }).collect();
        self.keep(edge, &readings, intervals);
        self.state.mismatch = mismatch(&self.config, &readings);
        let first = self.config.objectives.first().and_then(|target| self.place(&target.signal)).and_then(|place| readings.get(place));
        let starved = first.and_then(|reading| self.state.presence.step(&self.config, stage, origin, edge, reading));
        let baseline = stage.comparable(&self.config) && self.state.presence.stable_reports(&self.config, edge);
        let mut breach = self.test(stage, edge, baseline, &readings);
        for (rule, pending) in self.config.rules.iter().zip(&mut self.state.rules) {
            if pending.step(&self.config, rule, edge, &readings) {
                breach = breach.or_else(|| Some(Reason::Threshold { rule: rule.text.clone() }));
            }
        }
        self.state.breach = self.state.breach.take().or(breach).or(starved);
    }

    /// Feeds the sequential tests; returns the breach that they show at this edge.
    fn test(&mut self, stage: &Stage, edge: i64, baseline: bool, readings: &[Reading]) -> Option<Reason> {
        let alpha = self.alpha();
        let mut breach = None;
        let alone_is_too_little = stage.comparable(&self.config) && !baseline && self.config.waits_without_stable();
        for target in &self.config.objectives {
            let place = self.config.signals.keys().position(|id| *id == target.signal);
            let Some(reading) = place.and_then(|place| readings.get(place)) else { continue };
            let (Some(candidate), Some(evidence)) = (reading.scored(), self.state.evidence.get_mut(&target.name)) else { continue };
            evidence.step(&self.config, target, alpha, &Scored { edge, candidate, stable: reading.stable.ok(), baseline });
            let finding = evidence.finding(alpha);
            let reverts = match finding {
                Finding::Breach => true,
                Finding::BreachAlone => !alone_is_too_little,
                Finding::Regression => target.strict,
                Finding::Shared | Finding::Comparing | Finding::Quiet => false,
            };
            if reverts && breach.is_none() {
                breach = evidence.reason(finding, &target.name);
            }
        }
        breach
    }

    fn keep(&mut self, edge: i64, readings: &[Reading], intervals: &mut Vec<Interval>) {
        for (id, reading) in self.config.signals.keys().zip(readings) {
            let (candidate, stable) = (reading.candidate.ok(), reading.stable.ok());
            let lacks = |count: Result<Count, Unusable>| count.err().filter(|why| *why != Unusable::Silent);
            let interval = Interval {
                signal: id.clone(),
                edge,
                scored: reading.scored().is_some(),
                candidate,
                stable,
                candidate_lacks: lacks(reading.candidate),
                stable_lacks: lacks(reading.stable),
            };
            let kept = self.recent.entry(id.clone()).or_default();
            if kept.len() >= RECENT {
                kept.remove(0);
            }
            kept.push(interval.clone());
            intervals.push(interval);
        }
    }

    fn place(&self, signal: &SignalId) -> Option<usize> {
        self.config.signals.keys().position(|id| id == signal)
    }

    /// The candidate was found not to be the cause: the tests start afresh, at half the level each time.
    pub fn exonerate(&mut self) {
        self.state.exonerated = self.state.exonerated.saturating_add(1);
        self.state.breach = None;
        self.state.evidence.values_mut().for_each(|evidence| evidence.exonerate());
    }

    /// Scored time in this stage, of the objective that has least.
    pub fn scored(&self) -> Span {
        let intervals = self.state.evidence.values().map(|evidence| evidence.scored()).min().unwrap_or_default();
        Span(std::time::Duration::from_millis(intervals.saturating_mul(self.config.step.unsigned_abs())))
    }

    /// The stage that is judged.
    pub fn stage(&self) -> Option<StageStart> {
        self.state.stage
    }

    /// Where in the source's time the stage begins, in milliseconds; absent until a look has told.
    pub fn origin(&self) -> Option<i64> {
        self.state.stage.and_then(|stage| stage.origin)
    }

    /// Samples after this are still needed, in milliseconds of the source's clock; absent: the last few intervals.
    pub fn since(&self) -> Option<i64> {
        self.state.grid.reached(&self.config)
    }

    /// The last closed intervals of a signal, oldest first; at most 3, and those since the last restart.
    pub fn recent(&self, signal: &SignalId) -> &[Interval] {
        self.recent.get(signal).map_or(&[], Vec::as_slice)
    }

    fn alpha(&self) -> f64 {
        self.config.alpha(self.state.exonerated)
    }
}

fn fault_reason(fault: LookFault) -> Reason {
    match fault {
        LookFault::Down(what) => Reason::SourceDown { what },
        LookFault::Partial(what) => Reason::PartialAnswer { what },
        LookFault::Invalid(what) => Reason::InvalidData { what },
        LookFault::Rejected(what) => Reason::QueryRejected { what },
    }
}

/// What is wrong with the candidate's counters at an edge: roles that do not go together.
fn mismatch(config: &Config, readings: &[Reading]) -> Option<String> {
    config.signals.values().zip(readings).find_map(|(signal, reading)| match reading.candidate {
        Err(Unusable::Mismatch(totals, others)) if signal.counters.contains_key(&Role::Good) => {
            let (total, good) = (&signal.counters[&Role::Total], &signal.counters[&Role::Good]);
            Some(format!("{totals} samples of {total} but {others} of {good}: every member needs a bucket at this bound"))
        }
        Err(Unusable::Mismatch(..)) => Some(format!("`{}` has bad requests but no counter of all requests", signal.objective)),
        _ => None,
    })
}
