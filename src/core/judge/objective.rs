//! The evidence about one objective.

use serde::{Deserialize, Serialize};

use super::Count;
use super::config::{BASELINE_SHARE, BETA, Config, DELTA, Target};
use super::sequential::{Exact, GRID, Track, cap, evidence, evidences, fair_share, health, missing};
use crate::core::mutant::Mutant;
use crate::core::reason::{Counts, Reason};

/// Bad scrapes that a revert takes.
const REVERT_SCRAPES: f64 = 3.0;

/// Bad scrapes that a wait for a regression takes. That test stands alone, so bursts must not reach it.
const WAIT_SCRAPES: f64 = 6.0;

/// Requests of both arms over which it is told whether stable serves: enough that a tenth is never taken for a twentieth
/// (five standard deviations), however many of them are bad.
const SERVING: f64 = 1000.0;

/// Requests of both arms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sums {
    candidate_bad: Exact,
    candidate_total: Exact,
    stable_bad: Exact,
    stable_total: Exact,
    intervals: u64,
}

impl Sums {
    fn add(&mut self, candidate: Count, stable: Option<Count>) {
        let stable = stable.unwrap_or_default();
        self.candidate_bad.0 += candidate.bad;
        self.candidate_total.0 += candidate.total;
        self.stable_bad.0 += stable.bad;
        self.stable_total.0 += stable.total;
        self.intervals += 1;
    }

    fn fade(&mut self, left: f64) {
        for sum in [&mut self.candidate_bad, &mut self.candidate_total, &mut self.stable_bad, &mut self.stable_total] {
            sum.0 *= left;
        }
    }
}

/// Where the errors seem to have begun: sums since a cumulative sum of evidence was last at zero (Page's CUSUM).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Onset {
    height: Exact,
    sums: Sums,
    at: Option<i64>,
}

impl Onset {
    pub(super) fn add(&mut self, edge: i64, added: f64, candidate: Count, stable: Option<Count>) {
        let height = self.height.0 + added;
        if height <= 0.0 {
            *self = Self::default();
            return;
        }
        self.height.0 = height;
        self.at.get_or_insert(edge);
        self.sums.add(candidate, stable);
    }

    /// Requests that the candidate and stable completed since.
    pub(super) fn completed(&self) -> (f64, f64) {
        (self.sums.candidate_total.0, self.sums.stable_total.0)
    }
}

/// A scored interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scored {
    pub(super) edge: i64,
    pub(super) candidate: Count,
    pub(super) stable: Option<Count>,
    /// Whether the arms may be compared at all in this stage, and stable reports.
    pub(super) baseline: bool,
}

/// What the evidence of one interval amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Both tests alarm.
    Breach,
    /// The objective's test alarms and there is nothing to compare with.
    BreachAlone,
    /// The objective's test alarms and stable is just as bad.
    Shared,
    /// The objective's test alarms; stable is better, but the comparison has not seen enough.
    Comparing,
    /// Worse than stable within the objective.
    Regression,
    /// None of these.
    Quiet,
}

/// Three tracks and what explains them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Evidence {
    /// Against "within the objective".
    within: Track,
    /// Against "no worse than stable", for reverts.
    compared: Track,
    /// The same with a lower cap, for waits.
    regressed: Track,
    /// Everything scored in this generation.
    total: Sums,
    /// Since the errors seem to have begun.
    onset: Onset,
    /// About the last twenty bad requests of both arms.
    recent: Sums,
    /// About the last thousand requests of both arms: the candidate's, and stable's.
    #[serde(default)]
    serving: (Exact, Exact),
    /// Of this stage.
    stage: Sums,
    /// Whether the last scored interval could be compared with stable.
    comparable: bool,
}

impl Evidence {
    /// A new stage: evidence of health starts at nothing; the tracks go on.
    pub(super) fn begin(&mut self) {
        if Mutant::EvidenceCarriedOver.lives() {
            return;
        }
        self.stage = Sums::default();
    }

    /// Fresh tracks, after the candidate was found not to be the cause.
    pub(super) fn exonerate(&mut self) {
        *self = Self { total: self.total, stage: self.stage, ..Self::default() };
    }

    /// Takes in a scored interval.
    pub(super) fn step(&mut self, config: &Config, target: &Target, alpha: f64, scored: &Scored) {
        let Scored { edge, candidate, stable, baseline } = *scored;
        let share = config.onset_share();
        let added = evidences(candidate.bad, candidate.total, target.budget, &GRID);
        self.within.step(&added, self.within.onset(share), cap(alpha, REVERT_SCRAPES));
        let versus = stable.filter(|stable| candidate.total > 0.0 && stable.total > 0.0).filter(|_| baseline);
        if baseline {
            let added = versus.map_or([0.0; 8], |stable| {
                let bad = candidate.bad + stable.bad;
                if bad > 0.0 { evidences(candidate.bad, bad, fair_share(DELTA, candidate.total, stable.total), &GRID) } else { [0.0; 8] }
            });
            self.compared.step(&added, self.compared.onset(share), cap(alpha, REVERT_SCRAPES));
            self.regressed.step(&added, self.regressed.onset(share), cap(alpha, WAIT_SCRAPES));
        }
        let bad = candidate.bad + stable.map_or(0.0, |stable| stable.bad);
        self.recent.fade((1.0 - bad / 20.0).max(0.0));
        self.recent.add(candidate, stable);
        let served = stable.map_or(0.0, |stable| stable.total);
        let left = (1.0 - (candidate.total + served) / SERVING).max(0.0);
        self.serving = (Exact(self.serving.0.0 * left + candidate.total), Exact(self.serving.1.0 * left + served));
        self.total.add(candidate, stable);
        self.stage.add(candidate, stable);
        self.onset.add(edge, evidence(candidate.bad, candidate.total, target.budget, 3.0), candidate, stable);
        self.comparable = baseline && self.stable_serves();
    }

    /// Whether stable lately completed enough requests to be a yardstick: half of the share that is asked for,
    /// because at exactly that share the counts lie around it.
    fn stable_serves(&self) -> bool {
        let (candidate, stable) = (self.serving.0.0, self.serving.1.0);
        stable > 0.0 && stable >= BASELINE_SHARE / 2.0 * (candidate + stable)
    }

    pub(super) fn finding(&self, alpha: f64) -> Finding {
        let alarm = |track: &Track| track.odds() >= 1.0 / alpha;
        match (alarm(&self.within), self.comparable) {
            (true, false) => Finding::BreachAlone,
            (true, true) if alarm(&self.compared) || Mutant::TwoSamplesIgnored.lives() => Finding::Breach,
            (true, true) if self.stable_is_better() => Finding::Comparing,
            (true, true) => Finding::Shared,
            (false, true) if alarm(&self.regressed) => Finding::Regression,
            (false, _) => Finding::Quiet,
        }
    }

    /// Whether, of about the last twenty bad requests, the candidate has more than `DELTA` times its share.
    fn stable_is_better(&self) -> bool {
        let recent = &self.recent;
        recent.candidate_bad.0 * recent.stable_total.0 > DELTA * recent.stable_bad.0 * recent.candidate_total.0
    }

    /// What a finding is called, with its counts.
    pub(super) fn reason(&self, finding: Finding, name: &str) -> Option<Reason> {
        let objective = name.to_owned();
        match finding {
            Finding::Breach => Some(Reason::Breach { objective, counts: self.counts(true) }),
            Finding::BreachAlone => Some(Reason::BreachAlone { objective, counts: self.counts(true) }),
            Finding::Shared => Some(Reason::SharedCause { objective, counts: self.counts(true) }),
            Finding::Comparing => Some(Reason::Comparing { objective, counts: self.counts(true) }),
            Finding::Regression => Some(Reason::Regression { objective, counts: self.counts(false) }),
            Finding::Quiet => None,
        }
    }

    /// What was counted: since the errors seem to have begun, if they have and it is wanted, else in all.
    pub(super) fn counts(&self, since_onset: bool) -> Counts {
        let sums = if since_onset && self.onset.at.is_some() { &self.onset.sums } else { &self.total };
        Counts {
            candidate_bad: sums.candidate_bad.0,
            candidate_total: sums.candidate_total.0,
            stable_bad: sums.stable_bad.0,
            stable_total: sums.stable_total.0,
            objective_evidence: self.within.log_odds(),
            baseline_evidence: self.comparable.then(|| self.compared.log_odds()),
            intervals: sums.intervals,
        }
    }

    /// Logarithm of the odds against "within the objective".
    pub(super) fn log_odds(&self) -> f64 {
        self.within.log_odds()
    }

    /// Edge of the interval in which the errors seem to have begun.
    pub(super) fn onset(&self) -> Option<i64> {
        self.onset.at
    }

    /// Intervals scored in this stage.
    pub(super) fn scored(&self) -> u64 {
        self.stage.intervals
    }

    /// Logarithm of the odds for health in this stage, and the good requests still missing.
    pub(super) fn health(&self, target: &Target) -> (f64, u64) {
        let (bad, total, p1) = (self.stage.candidate_bad.0, self.stage.candidate_total.0, (2.0 * target.budget).min(0.99));
        (health(bad, total, p1), missing(bad, total, p1, BETA))
    }
}
