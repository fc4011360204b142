//! A deployment arrives: admitted, queued, or turned away.

use std::sync::Arc;

use super::{Answer, Machine};
use crate::core::actor::ActorKind;
use crate::core::input::{Deployed, Parts};
use crate::core::judge::Judge;
use crate::core::ledger::QUARANTINED_MAX;
use crate::core::mutant::Mutant;
use crate::core::plan::Plan;
use crate::core::reason::Reason;
use crate::core::record::Decision;
use crate::core::release::Release;
use crate::core::spec::{OnNewer, Percent};
use crate::core::state::{Key, Phase, PhaseKind, Trial};
use crate::core::time::Span;
use crate::core::work::{EvidenceFrom, Fence, Lane};

/// So many releases are quarantined that agents are to bring no more.
pub(super) fn quarantine_full() -> Reason {
    let what =
        format!("{QUARANTINED_MAX} releases are quarantined; agents deploy again once a person has lifted some with `backstop lift`");
    Reason::QuotaExceeded { what }
}

impl Machine {
    pub(super) fn deployed(&mut self, deployed: Deployed) -> String {
        self.touch();
        match self.turned_away(&deployed) {
            None if self.state.candidate().is_some() && self.state.stable.as_ref() == Some(&deployed.release.id) => {
                // Deploying what is stable is going back to it: the attempt under way ends.
                self.supersede(&deployed.release);
                self.judge = None;
                self.judgement = None;
                self.enter(Phase::Idle);
                self.answer = Some(Answer { accepted: true, reason: Reason::SameRelease {}, revert: None });
                "the attempt under way ends".into()
            }
            None => {
                self.admit(deployed);
                self.answer = Some(Answer { accepted: true, reason: Reason::Accepted {}, revert: None });
                "accepted".into()
            }
            Some(reason) => self.turn_away(deployed, reason),
        }
    }

    /// Why this deployment does not go on trial now, if so.
    fn turned_away(&self, deployed: &Deployed) -> Option<Reason> {
        let actor = &deployed.request.actor;
        let id = &deployed.release.id;
        if actor.kind == ActorKind::Unknown {
            return Some(Reason::NotAllowed { what: format!("{actor} may stop things and nothing else") });
        }
        if let Some(running) = self.state.candidate().map(|candidate| &candidate.id).or(self.state.stable.as_ref())
            && running == id
        {
            return Some(Reason::SameRelease {});
        }
        if let Some(name) = self.quarantined_as(&deployed.release, actor.is_human()) {
            return Some(Reason::Quarantined { release: name });
        }
        if self.state.overlays.frozen.is_some() || self.state.overlays.frozen_around {
            return Some(Reason::Frozen {});
        }
        if !actor.is_human() && self.state.ledger.is_full_of_quarantine() {
            return Some(quarantine_full());
        }
        let by = deployed.request.who();
        if let Some(limit) = self.policy.deployments_per_hour.filter(|_| !actor.is_human())
            && self.state.deployments.iter().filter(|(other, _)| other == by).count() >= limit as usize
        {
            return Some(Reason::QuotaExceeded { what: format!("{limit} deployments an hour by {by}") });
        }
        match self.state.phase.kind() {
            // Nobody but a person supersedes a revert until it is held, and a person not before traffic is safe.
            PhaseKind::Reverting | PhaseKind::Recovering => {
                (!self.supersedes_revert(actor.is_human()) && !Mutant::AgentSupersedes.lives()).then_some(Reason::Busy {})
            }
            PhaseKind::Stuck => Some(Reason::Held {}),
            PhaseKind::Idle | PhaseKind::Refused | PhaseKind::Reverted | PhaseKind::Admitting | PhaseKind::AwaitingApproval => None,
            PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching => {
                let on_newer = self.trial().map(|trial| trial.plan.on_newer).unwrap_or_default();
                (on_newer != OnNewer::Supersede).then_some(Reason::Busy {})
            }
        }
    }

    /// Whether a deployment may end the revert under way. Where no live stable took the traffic, the restore alone brings it back.
    fn supersedes_revert(&self, human: bool) -> bool {
        let Phase::Reverting(revert) = &self.state.phase else { return human };
        let under = revert.under.as_ref().map(|under| &under.id);
        let safe = self.state.stable.as_ref().is_some_and(|stable| Some(stable) != under && self.takes_back(stable));
        human && (safe || revert.parts == Parts::Flags || Mutant::RestoreDropped.lives())
    }

    /// The quarantined release that this one is, or whose images it runs again under another template.
    ///
    /// A touched template does not shake a quarantine off; a person may know better, and a known-good image is not
    /// to blame for a broken environment.
    fn quarantined_as(&self, release: &Release, human: bool) -> Option<String> {
        let ledger = &self.state.ledger;
        if ledger.is_quarantined(&release.id) {
            return Some(release.to_string());
        }
        let same = |other: &Release| other.has_images_of(release);
        let vouched = ledger.records().iter().any(|record| ledger.is_known_good(&record.release.id) && same(&record.release));
        if human || vouched || Mutant::QuarantineShakenOff.lives() {
            return None;
        }
        ledger.records().iter().find(|record| record.quarantined && same(&record.release)).map(|record| record.release.to_string())
    }

    fn turn_away(&mut self, deployed: Deployed, reason: Reason) -> String {
        let on_newer = self.trial().map(|trial| trial.plan.on_newer).unwrap_or_default();
        // What a person wants instead comes after the revert; of others nothing is kept that long.
        let after_revert = self.state.phase.kind() == PhaseKind::Reverting && deployed.request.actor.is_human();
        let after_attempt = on_newer == OnNewer::QueueLatest && self.state.candidate().is_some();
        let waits = matches!(reason, Reason::Busy {}) && (after_revert || after_attempt);
        let same = matches!(reason, Reason::SameRelease {});
        self.answer = Some(Answer { accepted: waits || same, reason: reason.clone(), revert: None });
        if waits {
            self.state.queued = Some(Box::new(deployed));
            self.state.queued_policy = Some(self.policy.clone());
            return "queued".into();
        }
        if same {
            return "already running".into();
        }
        self.decide(Decision::Refuse, reason.clone(), "refused");
        // A rollout or a hold under way is not disturbed by what was turned away.
        if matches!(self.state.phase.kind(), PhaseKind::Idle | PhaseKind::Refused) {
            self.enter(Phase::Refused { reason });
        }
        "refused".into()
    }

    fn admit(&mut self, deployed: Deployed) {
        let Deployed { release, request } = deployed;
        self.supersede(&release);
        self.state.generation += u64::from(!Mutant::SameGeneration.lives());
        if !request.actor.is_human() {
            self.state.deployments.push((request.who().to_owned(), self.now.mono));
        }
        let spec = Arc::clone(&self.guard.spec);
        let mut plan = Plan::compile(&spec);
        self.state.ledger.entry(self.now, &release);
        self.ledger_changed.insert(release.id.clone());
        let carried = self.held_against(&release).cloned();
        if carried.as_ref().is_some_and(|carried| self.is_warm(carried)) {
            plan.warm_up = Span::default();
        }
        self.state.trial = Some(Arc::new(Trial {
            candidate: release.clone(),
            request: Arc::new(request),
            spec,
            policy: self.policy.clone(),
            plan,
            since: self.now,
            candidate_attested: None,
            stable_attested: None,
            approvals: Vec::new(),
            judge: None,
            breached: false,
            retreats: 0,
            blind: None,
            shared: false,
        }));
        // What was proven of going back to the candidate says nothing about going back from it.
        self.state.readiness.take_if(|readiness| readiness.target.as_ref() == Some(&release.id));
        // What is held against an unchanged image carries over: nothing shakes it off.
        self.judgement = None;
        if !self.intervals.is_empty() {
            // What was seen before is not about this attempt.
            self.take_checkpoint();
        }
        self.judge = self.judge_config().map(|config| match &carried {
            Some(carried) => Box::new(Judge::carry(config, &carried.against)),
            None => Box::new(Judge::new(config)),
        });
        self.checkpoint();
        let in_use: Vec<_> = [Some(&release.id), self.state.stable.as_ref()].into_iter().flatten().cloned().collect();
        self.state.ledger.trim(&in_use.iter().collect::<Vec<_>>());
        self.enter(Phase::Admitting { until: self.now.mono.after(super::admitting::VERIFY_WITHIN) });
        self.want_verify(&release, EvidenceFrom::Origin, Lane::Forward);
        let stable = self.state.stable.as_ref().and_then(|id| self.state.release(id)).cloned();
        match stable {
            Some(stable) => self.want_verify(&stable, EvidenceFrom::Origin, Lane::Forward),
            None => {
                if let Some(trial) = self.trial_mut() {
                    trial.stable_attested = Some(false);
                }
            }
        }
    }

    /// Ends the attempt under way: traffic back to stable, the old candidate's members stopped.
    fn supersede(&mut self, newer: &Release) {
        // Orders for the old attempt are void; what leads toward a stable release stays wanted.
        let void: Vec<Key> = self
            .state
            .tasks
            .iter()
            .filter(|(key, task)| {
                !matches!(key, Key::Notice(_) | Key::Hold) && !matches!(task.effect.fence, Fence::Stable(_)) && !task.safe
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in &void {
            self.unwant(key);
        }
        if let Some(under) = self.state.phase.revert().filter(|_| !self.state.phase.kind().is_resting()).and_then(|r| r.under.clone())
            && under.id != newer.id
            && self.state.weight(&under.id) == Percent::ZERO
        {
            self.want_arm(&under, false, Lane::Forward);
        }
        let Some(old) = self.state.candidate().cloned() else { return };
        self.set_aside();
        self.decide(Decision::Refuse, Reason::Superseded { release: newer.to_string() }, "superseded");
        if let Some(stable) = self.state.stable.clone().filter(|stable| self.takes_back(stable)) {
            self.want_safe_weights(&stable);
        }
        if old.id != newer.id && self.state.stable.as_ref() != Some(&old.id) {
            self.want_arm(&old, false, Lane::Forward);
        }
    }

    /// Starts what waited for this rollout to end.
    pub(super) fn dequeue(&mut self) -> bool {
        let Some(queued) = self.state.queued.take() else { return false };
        // Whoever asked for something else meanwhile has a policy of their own.
        if let Some(policy) = self.state.queued_policy.take() {
            self.policy = self.tighter_of(&policy);
        }
        // Whoever asked for it had an answer then; whoever is being answered now asked for something else.
        let answer = self.answer.take();
        self.deployed(*queued);
        self.answer = answer;
        true
    }
}
