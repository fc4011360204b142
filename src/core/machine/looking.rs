//! Looking: when metrics are read, of whom, and what becomes of the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{INTERVALS_MAX, Machine};
use crate::core::input::{Arm, Looked};
use crate::core::journal::Taken;
use crate::core::judge::{Interval, Sight};
use crate::core::reason::Reason;
use crate::core::record::Decision;
use crate::core::release::ReleaseId;
use crate::core::state::Phase;
use crate::core::time::Span;
use crate::core::work::{Action, Effect, EffectId, Fence, Lane, LookPlan, Work};

impl Machine {
    pub(super) fn wants_look(&self) -> bool {
        match &self.state.phase {
            Phase::Advancing(_) | Phase::Promoting { .. } | Phase::Watching { .. } | Phase::Recovering(_) => self.judge.is_some(),
            Phase::Idle
            | Phase::Admitting { .. }
            | Phase::Refused { .. }
            | Phase::AwaitingApproval { .. }
            | Phase::Reverting(_)
            | Phase::Reverted(_)
            | Phase::Stuck { .. } => false,
        }
    }

    pub(super) fn schedule_look(&mut self, work: &mut Work) {
        if let Some((_, until)) = self.look.in_flight
            && self.now.mono >= until
        {
            // The answer got lost; the judge learns nothing from that.
            (self.look.in_flight, self.look.outdated) = (None, false);
        }
        if !self.wants_look() || self.look.in_flight.is_some() || self.now.mono < self.look.next {
            return;
        }
        let Some(judge) = &self.judge else { return };
        let interval = self.guard.interval;
        let spec = self.spec();
        let plan = LookPlan {
            source: spec.source.clone(),
            signals: Arc::clone(&judge.config().signals),
            arm_label: spec.arms.by.label().to_owned(),
            arms: self.compared(),
            members: BTreeMap::new(),
            since: judge.since(),
        };
        // Twice the interval, so that a slow answer is still an answer, and at most 20 s so that a hanging one is not waited for.
        let patience = interval.times(2).0.clamp(Duration::from_secs(2), Duration::from_secs(20));
        self.look.count = self.look.count.wrapping_add(1);
        let id = EffectId { revision: self.state.revision, ordinal: u32::MAX - 1 - (self.look.count % 1_000_000) };
        let deadline = self.now.mono.after(patience);
        self.look.in_flight = Some((id, deadline));
        self.look.next = self.now.mono.after(interval);
        work.safe.push(Effect { id, fence: Fence::None, deadline, lane: Lane::Forward, action: Action::Look(plan) });
    }

    /// The release of each arm that is compared now.
    pub(super) fn compared(&self) -> BTreeMap<Arm, ReleaseId> {
        let mut arms = BTreeMap::new();
        if let Phase::Recovering(_) = self.state.phase {
            arms.extend(self.serving().map(|id| (Arm::Stable, id)));
            return arms;
        }
        arms.extend(self.trial().map(|trial| (Arm::Candidate, trial.candidate.id.clone())));
        arms.extend(self.state.stable.clone().map(|id| (Arm::Stable, id)));
        arms
    }

    /// The release with the largest wanted share.
    pub(super) fn serving(&self) -> Option<ReleaseId> {
        self.state.weights.iter().max_by(|a, b| a.1.fraction().total_cmp(&b.1.fraction())).map(|(id, _)| id.clone())
    }

    pub(super) fn looked(&mut self, looked: &Looked) -> Taken {
        self.look.in_flight = None;
        if std::mem::take(&mut self.look.outdated) {
            self.settle();
            return Taken::Looked(Sight::Outdated);
        }
        let begins = self.judge.as_ref().is_some_and(|judge| judge.origin().is_none());
        let seen = self.judge.as_mut().map(|judge| judge.look(looked));
        let (sight, closed) = seen.unwrap_or((Sight::Nothing, Vec::new()));
        self.saw(&closed, begins);
        Taken::Looked(sight)
    }

    /// A look was judged; whether it was asked for when nobody knew where in the source's time the stage begins.
    ///
    /// That is committed as soon as it is known: a controller that goes on from there reads all samples since then again, and one that
    /// did not know would begin the stage at its own start and let a breach that is under way gather anew.
    pub(super) fn saw(&mut self, closed: &[Interval], begins: bool) {
        if let Some(judge) = &self.judge {
            self.judgement = Some(judge.verdict());
        }
        self.counters_moved();
        for interval in closed {
            self.intervals.push(interval);
        }
        let has_begun = begins && self.judge.as_ref().is_some_and(|judge| judge.origin().is_some());
        if self.intervals.len() >= INTERVALS_MAX || has_begun && !matches!(self.state.phase, Phase::Recovering(_)) {
            self.take_checkpoint();
        }
        self.settle();
    }

    /// Commits where the judge stands, and what was taken in, before too much of it gathers.
    pub(super) fn take_checkpoint(&mut self) {
        let (scored, bake) = (Span::default(), Span::default());
        self.decide(Decision::Checkpoint, Reason::Baking { scored, bake }, "checkpoint");
    }
}
