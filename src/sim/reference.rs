//! The reference: what may follow upon what. It knows the promises, the traffic as it really was and what was committed;
//! it has neither tests nor tasks nor retries, and each rule is a few lines.

use std::collections::{BTreeMap, VecDeque};

use super::oracle::{Found, Violation};
use super::traffic::EPOCH_MS;
use super::world::World;
use crate::core::actor::Request;
use crate::core::input::{Commanded, Deployed, Input, Parts, Verb};
use crate::core::invariant::Invariant;
use crate::core::judge::Interval;
use crate::core::judge::config::ALPHA;
use crate::core::ledger::Standing;
use crate::core::machine::Machine;
use crate::core::reason::{Counts, Reason};
use crate::core::record::{Decision, Event, Record};
use crate::core::release::Release;
use crate::core::spec::Percent;
use crate::core::state::{Phase, PhaseKind, State, Trial};
use crate::core::work::{Action, Commit, EffectId, Fence};

/// Requests without a bad one that prove a share of bad requests below twice a budget of 1 %.
const PROOF: u64 = 177;

/// Every rule, from one committed state to the next.
///
/// # Errors
/// The broken rule.
pub(super) fn follows(before: &State, commit: &Commit, world: &World) -> Found {
    let step = Step { before, after: &commit.state, records: &commit.records, world };
    step.generations()?;
    step.stages()?;
    step.approved()?;
    step.ends_of_reverts()?;
    step.held_back()?;
    step.holdback()?;
    step.keeps_out()?;
    step.quota()?;
    step.known_good()?;
    for record in &commit.records {
        if let Event::Decision { decision, intervals } = &record.event {
            step.counted(record, intervals)?;
            step.reverted(*decision, record)?;
        }
    }
    Ok(())
}

/// P1: what is safe was started as soon as it was wanted, whatever the store does.
///
/// # Errors
/// The broken rule.
pub(super) fn at_once(machine: &Machine, started: &BTreeMap<EffectId, VecDeque<u64>>) -> Found {
    let now = machine.state().mono;
    let late = machine.state().tasks.values().find(|task| {
        let waits = matches!(task.effect.action, Action::Verify { .. });
        task.safe && !waits && task.attempts == 0 && task.not_before <= now && !started.contains_key(&task.effect.id)
    });
    match late {
        Some(task) => {
            let what = format!("{} {} waits, though it is safe", task.effect.action.name(), task.effect.id);
            Err(Violation::of(Invariant::I8, what))
        }
        None => Ok(()),
    }
}

struct Step<'a> {
    before: &'a State,
    after: &'a State,
    records: &'a [Record],
    world: &'a World,
}

fn broken(invariant: Invariant, what: impl Into<String>) -> Found {
    Err(Violation::of(invariant, what))
}

impl Step<'_> {
    fn decided(&self, wanted: Decision) -> usize {
        self.records.iter().filter(|record| matches!(record.event, Event::Decision { decision, .. } if decision == wanted)).count()
    }

    fn reverts_end(&self) -> bool {
        [Decision::Recovered, Decision::Held, Decision::Stuck].into_iter().any(|end| self.decided(end) > 0)
    }

    fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.records.iter().filter_map(|record| match &record.event {
            Event::Input(input) => Some(&**input),
            Event::Decision { .. } | Event::Wanted(_) => None,
        })
    }

    fn person_said(&self, wanted: fn(&Verb) -> bool) -> bool {
        self.inputs()
            .any(|input| matches!(input, Input::Commanded(Commanded { verb, request }) if request.actor.is_human() && wanted(verb)))
    }

    fn deployed(&self) -> impl Iterator<Item = (&Release, &Request)> {
        self.inputs().filter_map(|input| match input {
            Input::Deployed(Deployed { release, request }) => Some((release, request)),
            _ => None,
        })
    }

    fn new_trial(&self) -> Option<&Trial> {
        let before = self.before.trial.as_ref().map(|trial| (&trial.candidate.id, trial.since));
        self.after.trial.as_deref().filter(|trial| before != Some((&trial.candidate.id, trial.since)))
    }

    /// I13: whoever goes on trial opens a generation.
    fn generations(&self) -> Found {
        if self.new_trial().is_some() && self.after.generation <= self.before.generation {
            return broken(Invariant::I13, "another attempt under the generation of the one before");
        }
        Ok(())
    }

    /// I4: stage after stage, none left out but by a person.
    fn stages(&self) -> Found {
        let Some(trial) = &self.after.trial else { return Ok(()) };
        let last = trial.plan.stages.len();
        let place = |state: &State| match &state.phase {
            Phase::Advancing(advancing) => Some(advancing.stage),
            Phase::Promoting { .. } | Phase::Watching { .. } => Some(last),
            Phase::Admitting { .. } | Phase::AwaitingApproval { .. } => Some(0),
            _ => None,
        };
        let from = if self.before.generation == self.after.generation { place(self.before) } else { Some(0) };
        let (Some(from), Some(to)) = (from, place(self.after)) else { return Ok(()) };
        if to > from + self.decided(Decision::Advance) && !self.person_said(|verb| matches!(verb, Verb::Promote)) {
            return broken(Invariant::I4, format!("from stage {from} to stage {to} of {last} without passing what is between"));
        }
        Ok(())
    }

    /// I14: an attempt goes on with the approvals that were asked for at its admission, by others than its requester.
    fn approved(&self) -> Found {
        let Some(trial) = &self.after.trial else { return Ok(()) };
        if trial.approvals.contains(&trial.request.actor.principal) {
            return broken(Invariant::I14, format!("{} approved what they asked for", trial.request.actor));
        }
        let forward = matches!(self.after.phase.kind(), PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching);
        if forward && trial.approvals.len() < trial.policy.approvals as usize {
            return broken(Invariant::I14, format!("{} of {} approvals, and it goes on", trial.approvals.len(), trial.policy.approvals));
        }
        Ok(())
    }

    /// I6 and I8: a revert ends held, stuck, or by a person's word.
    fn ends_of_reverts(&self) -> Found {
        let reverting = matches!(self.before.phase.kind(), PhaseKind::Reverting | PhaseKind::Recovering);
        // Whoever wants something else meanwhile gets it once the release under revert has lost its traffic.
        if let Phase::Reverting(revert) = &self.before.phase
            && let Some(under) = revert.under.as_ref().filter(|_| revert.parts != Parts::Flags)
            && self.before.queued.is_none()
            && !self.reverts_end()
            && matches!(self.after.phase.kind(), PhaseKind::Admitting | PhaseKind::Advancing)
            && self.after.weight(&under.id) > Percent::ZERO
            && !self.person_said(|verb| matches!(verb, Verb::Lift { .. }))
        {
            return broken(Invariant::I6, format!("a deployment ended the revert of {under}, and it keeps its traffic"));
        }
        if !reverting || self.after.phase.revert().is_some() || self.before.queued.is_some() {
            return Ok(());
        }
        let by_person =
            self.deployed().any(|(_, request)| request.actor.is_human()) || self.person_said(|verb| matches!(verb, Verb::Lift { .. }));
        if by_person {
            return Ok(());
        }
        // It may have ended, and been followed by the next attempt, within one commit.
        if self.reverts_end() {
            return Ok(());
        }
        broken(Invariant::I6, format!("a revert became {} and no person said so", self.after.phase.kind()))
    }

    /// A freeze, a pause, or a revert that is not ready holds forward traffic back.
    fn held_back(&self) -> Found {
        let raised = self.records.iter().any(|record| match &record.event {
            Event::Wanted(effect) => match (&effect.action, &effect.fence, &self.after.trial) {
                (Action::EnsureWeights { weights }, Fence::Generation(_), Some(trial)) => {
                    let id = &trial.candidate.id;
                    weights.get(id).copied().unwrap_or(Percent::ZERO) > self.before.weight(id) && self.after.phase.revert().is_none()
                }
                _ => false,
            },
            _ => false,
        });
        if !raised || self.before.generation != self.after.generation {
            return Ok(());
        }
        let both = |held: fn(&State) -> bool| held(self.before) && held(self.after);
        if both(|state| state.overlays.frozen.is_some()) || both(|state| state.overlays.frozen_around) {
            return broken(Invariant::I2, "more traffic for the candidate under a freeze");
        }
        if both(|state| state.overlays.paused.is_some()) {
            return broken(Invariant::I2, "more traffic for the candidate during a pause");
        }
        let unready = both(|state| {
            let agent = state.trial.as_ref().is_some_and(|trial| !trial.request.actor.is_human());
            agent && state.readiness.as_ref().is_some_and(|readiness| readiness.missing.is_some())
        });
        let same = self.before.readiness.as_ref().map(|readiness| &readiness.target);
        if unready && same == self.after.readiness.as_ref().map(|readiness| &readiness.target) {
            return broken(Invariant::I11, "more traffic for an agent's candidate while no revert is ready");
        }
        Ok(())
    }

    /// I11: what is held back stays with the baseline while the candidate is watched.
    fn holdback(&self) -> Found {
        let (Some(trial), Some(stable)) = (&self.after.trial, &self.after.stable) else { return Ok(()) };
        let watched = matches!(self.after.phase.kind(), PhaseKind::Promoting | PhaseKind::Watching);
        if watched && *stable != trial.candidate.id && self.after.weight(&trial.candidate.id) > trial.plan.holdback.rest() {
            return broken(
                Invariant::I11,
                format!("{} of the requests, though {} are held back", self.after.weight(&trial.candidate.id), trial.plan.holdback),
            );
        }
        Ok(())
    }

    /// I13: the images of a quarantined release do not come back under another template, unless they are known good or a person says so.
    fn keeps_out(&self) -> Found {
        let Some(trial) = self.new_trial().filter(|trial| !trial.request.actor.is_human()) else { return Ok(()) };
        let images = trial.candidate.template.images();
        let ledger = &self.before.ledger;
        let of_image = |standing: fn(&crate::core::ledger::LedgerRecord) -> bool| {
            ledger.records().iter().any(|record| standing(record) && record.release.template.images() == images)
        };
        let lifted = self.person_said(|verb| matches!(verb, Verb::Lift { .. } | Verb::Adopt));
        if of_image(|record| record.quarantined) && !of_image(|record| record.standing == Standing::KnownGood) && !lifted {
            return broken(Invariant::I13, format!("{} is on trial, and its image is quarantined", trial.candidate));
        }
        Ok(())
    }

    /// Automatic restores are few.
    fn quota(&self) -> Found {
        let limit = self.after.trial.as_ref().map_or(0, |trial| trial.policy.restores_per_hour).max(self.world.policy.restores_per_hour);
        let more = self.after.restores.len() > self.before.restores.len();
        if more && self.after.restores.len() > limit as usize {
            return broken(Invariant::I15, format!("{} automatic restores within an hour, and {limit} allowed", self.after.restores.len()));
        }
        Ok(())
    }

    /// I4: a release becomes known good by a pass, or by a person.
    fn known_good(&self) -> Found {
        for record in self.after.ledger.records() {
            let id = &record.release.id;
            if record.standing != Standing::KnownGood || self.before.ledger.is_known_good(id) {
                continue;
            }
            let reason = self.records.iter().find_map(|record| match &record.event {
                Event::Decision { decision: Decision::KnownGood, .. } => record.reason.clone(),
                _ => None,
            });
            match reason {
                Some(Reason::Commanded { .. }) => {}
                Some(Reason::Healthy {}) => {
                    let share = self.world.truth.own_share(&record.release, 0);
                    let served = self.world.traffic.served.get(id).copied().unwrap_or_default();
                    let budget =
                        |trial: &Trial| trial.spec.objectives.iter().map(|objective| objective.good.rest().fraction()).fold(0.01, f64::max);
                    let budget = self.after.trial.as_deref().map_or(0.01, budget);
                    if served < PROOF && budget < 0.011 || share >= 5.0 * budget {
                        let what = format!("{} with {:.0}% errors and {served} requests", record.release, share * 100.0);
                        return broken(Invariant::I4, what);
                    }
                }
                other => return broken(Invariant::I4, format!("{} for {other:?}", record.release)),
            }
        }
        Ok(())
    }

    /// What an interval counted is what was served in it, or in the two seconds before.
    fn counted(&self, record: &Record, intervals: &[Interval]) -> Found {
        let Some(candidate) = &record.release else { return Ok(()) };
        if !matches!(record.phase.as_str(), "Advancing" | "Promoting" | "Watching") || self.world.traffic.lied() {
            return Ok(());
        }
        let millis = |edge: i64| u64::try_from(edge - EPOCH_MS).unwrap_or_default();
        for interval in intervals {
            let Some(count) = interval.candidate.filter(|count| count.total != 0.0) else { continue };
            let until = millis(interval.edge);
            let gained = self.world.traffic.gained(candidate, until.saturating_sub(1_000), until);
            let fits = gained.is_some_and(|(least, most)| (least as f64..=most as f64).contains(&count.total));
            if !fits {
                let what = format!("{} requests counted until {until} ms, where {gained:?} were served", count.total);
                return broken(Invariant::I4, what);
            }
        }
        Ok(())
    }

    /// What a revert rests on, and what follows from it at once.
    fn reverted(&self, decision: Decision, record: &Record) -> Found {
        if decision != Decision::Revert {
            return Ok(());
        }
        self.quarantines()?;
        let Some(reason) = record.reason.as_ref().filter(|reason| !matches!(reason, Reason::Commanded { .. })) else { return Ok(()) };
        let disarmed = self.before.overlays.disarmed_until.is_some_and(|until| record.at.mono < until);
        if disarmed && self.after.overlays.disarmed_until.is_some() {
            return broken(Invariant::I14, format!("an automatic revert while disarmed: {reason}"));
        }
        match reason {
            Reason::Breach { counts, .. } => self.proven(counts, true),
            Reason::BreachAlone { counts, .. } => self.proven(counts, false),
            _ => Ok(()),
        }
    }

    fn quarantines(&self) -> Found {
        let Some(revert) = self.after.phase.revert().filter(|revert| revert.parts != Parts::Flags) else { return Ok(()) };
        let Some(under) = &revert.under else { return Ok(()) };
        let nothing_else = self.before.ledger.targets(None).iter().all(|target| target.release.id == under.id);
        let lifted = self.person_said(|verb| matches!(verb, Verb::Lift { .. } | Verb::Adopt));
        if revert.parts == Parts::All && revert.only.is_none() && self.idles() && nothing_else && !lifted {
            return broken(Invariant::I3, format!("{under} is taken out, and there is nothing else to go back to"));
        }
        if !self.after.ledger.is_quarantined(&under.id) && !lifted {
            return broken(Invariant::I6, format!("{under} is under revert and may be deployed again"));
        }
        Ok(())
    }

    /// Whether nothing is on trial before, and nothing was deployed or known good since.
    fn idles(&self) -> bool {
        let resting = matches!(self.before.phase.kind(), PhaseKind::Idle | PhaseKind::Refused);
        resting && self.before.generation == self.after.generation && self.decided(Decision::KnownGood) == 0
    }

    /// A breach rests on three bad scrapes, on its share of the chance of a false alarm, and on worse service than stable's.
    fn proven(&self, counts: &Counts, compared: bool) -> Found {
        let objectives = self.after.trial.as_ref().map_or(1, |trial| trial.spec.objectives.len()).max(1);
        let wanted = (objectives as f64 / ALPHA).ln();
        // Three scrapes at the cap reach the alarm; fewer reach it only from evidence that was there before, and not by far.
        let evidence = counts.baseline_evidence.map_or(counts.objective_evidence, |baseline| baseline.min(counts.objective_evidence));
        let retreats = self.after.trial.as_ref().map_or(0, |trial| trial.retreats);
        let most = (wanted + f64::from(retreats)) * 4.0 / 3.0 + 1.0;
        if counts.intervals < 3 && evidence > most {
            return broken(Invariant::I15, format!("a breach after {} bad scrapes, at log odds {evidence:.1}", counts.intervals));
        }
        if counts.objective_evidence < wanted - 1e-6 {
            let what = format!("a breach at log odds {:.3} where {objectives} objectives want {wanted:.3}", counts.objective_evidence);
            return broken(Invariant::I15, what);
        }
        let (ours, theirs) = (counts.candidate_bad * counts.stable_total, counts.stable_bad * counts.candidate_total);
        let share = |trial: &Trial| self.world.truth.own_share(&trial.candidate, self.world.now);
        let healthy = self.after.trial.as_ref().is_some_and(|trial| share(trial) < 0.01);
        if compared && healthy && ours <= theirs {
            return broken(Invariant::I15, format!("a breach by a candidate that is no worse than stable: {counts}"));
        }
        Ok(())
    }
}
