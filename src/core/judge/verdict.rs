//! What it all amounts to.

use serde::{Deserialize, Serialize};

use super::Judge;
use super::config::BETA;
use super::objective::Finding;
use super::presence::{Presence, scrapes};
use crate::core::mutant::Mutant;
use crate::core::reason::{Counts, Reason, Verdict};

/// A verdict, with what explains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// What is known of each objective, in the order written.
    pub objectives: Vec<ObjectiveView>,
    /// What else should be said, such as that stable is dark and the candidate judged alone.
    pub notes: Vec<Reason>,
    /// Scrapes since the newest sample of any arm, at the last good look.
    pub silent: u32,
    /// Looks in a row that gave no trustworthy answer.
    pub faulted: u32,
}

/// What is known of one objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveView {
    /// Name of the objective.
    pub name: String,
    /// What was scored in this generation, and the evidence against the candidate.
    pub counts: Counts,
    /// Natural logarithm of the odds at which the tests give alarm.
    pub alarm: f64,
    /// Natural logarithm of the odds for health in this stage.
    pub health: f64,
    /// Natural logarithm of the odds for health that are wanted.
    pub healthy: f64,
    /// Good requests still missing for that, if no bad one comes.
    pub missing: u64,
    /// End of the interval in which errors seem to have begun, in milliseconds of the source's clock.
    pub onset: Option<i64>,
}

impl Judge {
    /// The verdict on all that was seen.
    pub fn verdict(&self) -> Judgement {
        let objectives = self.views();
        let verdict = match (self.breach(), self.wait(&objectives)) {
            (Some(reason), _) => Verdict::Breach(reason),
            (None, Some(reason)) => Verdict::Inconclusive(reason),
            (None, None) => Verdict::Pass,
        };
        let notes = self.dark_stable().into_iter().collect();
        Judgement { verdict, objectives, notes, silent: self.silent(), faulted: self.state.faulted }
    }

    /// A reason to go back.
    fn breach(&self) -> Option<Reason> {
        self.state.breach.clone().or_else(|| self.dark_candidate().filter(|_| self.config.reverts_when_dark()))
    }

    /// A reason to wait, the gravest first.
    fn wait(&self, objectives: &[ObjectiveView]) -> Option<Reason> {
        self.found(Finding::Shared)
            .or_else(|| self.no_data())
            .or_else(|| self.found(Finding::Comparing))
            .or_else(|| self.found(Finding::Regression))
            .or_else(|| self.state.presence.no_traffic().then_some(Reason::NoTraffic {}))
            .or_else(|| self.unfinished(objectives))
    }

    /// The first objective of which this was found at its last scored interval.
    fn found(&self, wanted: Finding) -> Option<Reason> {
        let alpha = self.alpha();
        self.config.objectives.iter().find_map(|target| {
            let evidence = self.state.evidence.get(&target.name)?;
            (evidence.finding(alpha) == wanted).then(|| evidence.reason(wanted, &target.name))?
        })
    }

    fn no_data(&self) -> Option<Reason> {
        let stale = self.silent() > self.config.no_data.after.0 && !Mutant::StaleIgnored.lives();
        (self.state.fault.clone())
            .or_else(|| stale.then(|| Reason::Stale { scrapes: self.silent() }))
            .or_else(|| self.state.mismatch.clone().map(|what| Reason::InvalidData { what }))
            .or_else(|| self.dark_candidate())
            .or_else(|| self.dark_stable().filter(|_| self.config.waits_without_stable()))
    }

    fn unfinished(&self, objectives: &[ObjectiveView]) -> Option<Reason> {
        let bake = self.state.stage.map(|stage| stage.bake).unwrap_or_default();
        let scored = self.scored();
        if self.state.stage.is_none() || scored < bake {
            return Some(Reason::Baking { scored, bake });
        }
        let worst = objectives
            .iter()
            .rev()
            .max_by_key(|view| view.missing)
            .filter(|view| view.missing > 0 && !Mutant::InsufficientPasses.lives())?;
        Some(Reason::Insufficient { objective: worst.name.clone(), missing: worst.missing })
    }

    fn dark_candidate(&self) -> Option<Reason> {
        let stage = self.state.stage.filter(|_| self.silent() <= self.config.no_data.after.0)?;
        let missed = self.state.presence.candidate_dark(&self.config, &stage, &self.state.grid)?;
        Some(Reason::CandidateDark { scrapes: missed })
    }

    fn dark_stable(&self) -> Option<Reason> {
        let stage = self.state.stage?;
        Presence::stable_dark(&self.config, &stage, &self.state.grid).then_some(Reason::StableDark {})
    }

    /// Scrapes since the newest sample of any arm, or since the stage began if none has come.
    fn silent(&self) -> u32 {
        let since = self.state.grid.newest().max(self.state.grid.origin());
        match (self.state.source_now, since) {
            (Some(now), Some(since)) => scrapes(now - since, &self.config),
            _ => 0,
        }
    }

    fn views(&self) -> Vec<ObjectiveView> {
        let alarm = -libm::log(self.alpha());
        let view = |target: &super::Target| {
            let evidence = self.state.evidence.get(&target.name)?;
            let (health, missing) = evidence.health(target);
            let (counts, onset) = (evidence.counts(false), evidence.onset());
            Some(ObjectiveView { name: target.name.clone(), counts, alarm, health, healthy: -libm::log(BETA), missing, onset })
        };
        self.config.objectives.iter().filter_map(view).collect()
    }
}
