//! Promoting: to 100 %, less what is held back as a baseline.

use std::time::Duration;

use super::Machine;
use crate::core::judge::StageStart;
use crate::core::mutant::Mutant;
use crate::core::reason::{Reason, Verdict};
use crate::core::record::Decision;
use crate::core::spec::Percent;
use crate::core::state::{Key, Phase};
use crate::core::time::Span;
use crate::core::work::Lane;

/// How long the switch to 100 % may take until a person is paged.
pub(super) const PROMOTE_WITHIN: Duration = Duration::from_mins(5);

impl Machine {
    pub(super) fn promoting(&mut self) -> bool {
        let Phase::Promoting { since } = self.state.phase else { return false };
        let (Some(candidate), Some(plan)) = (self.candidate(), self.trial().map(|trial| trial.plan.clone())) else {
            return self.enter(Phase::Idle);
        };
        if let Some(Verdict::Breach(reason)) = self.fair_verdict() {
            return self.breach(reason);
        }
        let share = if Mutant::HoldbackIgnored.lives() { Percent::FULL } else { plan.holdback.rest() };
        let weights = self.weights_of(&candidate.id, share);
        if !plan.drives {
            self.state.weights.clone_from(&weights);
        } else if !self.weights_in_place(&weights) {
            // A person's word may come before the members are up.
            self.want_running(&candidate, Lane::Forward);
            let starting = (!self.is_ready(&candidate.id)).then(|| Reason::NotReady { what: format!("{candidate} is still starting") });
            match self.blocked().or_else(|| self.no_way_back()).or(starting) {
                Some(reason) => self.waiting = Some(reason),
                None => self.want_weights(weights.clone()),
            }
            if self.now.mono >= since.after(PROMOTE_WITHIN) {
                self.page(Reason::EffectFailed { effect: "ensureWeights".into(), what: "the switch to 100 % takes too long".into() });
                self.state.phase = Phase::Promoting { since: self.now.mono };
                self.touch();
            }
            return false;
        }
        if !self.is_done(&Key::Weights) {
            return false;
        }
        self.decide(Decision::Promote, Reason::Healthy {}, format!("at {}", plan.holdback.rest()));
        let start = StageStart {
            weight: self.state.weight(&candidate.id),
            warm_up: if plan.stages.is_empty() { plan.warm_up } else { Span::default() },
            bake: plan.watch,
            has_stable: self.has_baseline(),
            ..StageStart::default()
        };
        self.start_judging(start);
        self.enter(Phase::Watching { since: self.now.mono })
    }
}
