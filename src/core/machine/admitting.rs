//! Admitting: candidate and running release are verified, and people are asked, before anything gets traffic.

use std::time::Duration;

use super::Machine;
use crate::core::reason::Reason;
use crate::core::record::Decision;
use crate::core::release::Release;
use crate::core::state::{Key, Phase, PhaseKind};
use crate::core::work::EvidenceFrom;

/// How long verification at admission may take.
pub(super) const VERIFY_WITHIN: Duration = Duration::from_mins(2);

impl Machine {
    /// The evidence of a release was read at its origin.
    pub(super) fn verified_at_admission(&mut self, release: &Release, refused: Option<Reason>) {
        if self.state.phase.kind() != PhaseKind::Admitting {
            return;
        }
        let Some(trial) = self.trial_mut() else { return };
        if trial.candidate.id == release.id {
            trial.candidate_attested = Some(refused.is_none());
            if let Some(reason) = refused {
                self.refuse(reason);
            }
        } else {
            trial.stable_attested = Some(refused.is_none());
            if let Some(reason) = refused {
                // The rollout may go on under a person's eyes, but everybody must know that this one would not go back.
                self.notify(Reason::NotReady { what: reason.to_string() });
            }
        }
    }

    pub(super) fn refuse(&mut self, reason: Reason) {
        self.decide(Decision::Refuse, reason.clone(), "refused");
        let candidate = self.candidate();
        if let Some(candidate) = candidate
            && self.state.stable.as_ref() != Some(&candidate.id)
            && self.observed.arms.contains_key(&candidate.id)
        {
            self.want_arm(&candidate, false, crate::core::work::Lane::Forward);
        }
        // Nobody waits for the proofs any more.
        self.unwant_proofs();
        self.set_aside();
        self.judge = None;
        self.enter(Phase::Refused { reason });
    }

    pub(super) fn admitting(&mut self) -> bool {
        let Phase::Admitting { until } = self.state.phase else { return false };
        let Some(trial) = self.trial() else { return self.enter(Phase::Idle) };
        let (Some(true), Some(stable)) = (trial.candidate_attested, trial.stable_attested) else {
            if self.now.mono >= until {
                self.refuse(Reason::EvidenceUnavailable { what: "verification took too long".into() });
                return true;
            }
            return false;
        };
        let human = trial.request.actor.is_human();
        if !stable && !human && self.readiness_target().is_none() {
            let what = "no known-good, attested release to go back to; a person must deploy or adopt the first".to_owned();
            self.refuse(Reason::NotReady { what });
            return true;
        }
        let limits = self.limits();
        if limits.approvals > 0 {
            let until = self.now.mono.after(limits.approve_within);
            self.notify(Reason::ApprovalNeeded { approvals: limits.approvals });
            return self.enter(Phase::AwaitingApproval { until });
        }
        self.begin()
    }

    pub(super) fn awaiting_approval(&mut self) -> bool {
        let Phase::AwaitingApproval { until } = self.state.phase else { return false };
        let wanted = self.limits().approvals as usize;
        let given = self.trial().map_or(0, |trial| trial.approvals.len());
        if given >= wanted {
            return self.begin();
        }
        if self.now.mono >= until {
            self.refuse(Reason::ApprovalExpired {});
            return true;
        }
        self.waiting = Some(Reason::ApprovalNeeded { approvals: u32::try_from(wanted - given).unwrap_or(u32::MAX) });
        false
    }

    fn unwant_proofs(&mut self) {
        let proofs: Vec<Key> = self.state.tasks.keys().filter(|key| matches!(key, Key::Verify(_, EvidenceFrom::Origin))).cloned().collect();
        for key in &proofs {
            self.unwant(key);
        }
    }

    fn begin(&mut self) -> bool {
        self.decide(Decision::Admit, Reason::Admitted {}, "admitted");
        if self.trial().is_some_and(|trial| trial.plan.stages.is_empty()) {
            return self.enter(Phase::Promoting { since: self.now.mono });
        }
        self.start_stage(0)
    }
}
