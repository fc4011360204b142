//! Advancing: stage by stage, each judged, with a retreat when both arms are bad.

use std::time::Duration;

use super::Machine;
use crate::core::judge::{Config, Count, Judge, StageStart};
use crate::core::mutant::Mutant;
use crate::core::plan::{Gate, Stage};
use crate::core::reason::{Counts, Reason, Verdict};
use crate::core::record::Decision;
use crate::core::release::ReleaseId;
use crate::core::spec::{OnDeadline, Percent};
use crate::core::state::{Advancing, Key, Phase, RetreatTest, Retreated, StageStep};
use crate::core::time::{Mono, Span};
use crate::core::work::Lane;

/// Scrapes within which errors must go, or come back, to tell harm from coincidence.
const RETREAT_SCRAPES: u32 = 3;

impl Machine {
    /// What the judge is told about the running attempt.
    pub(super) fn judge_config(&self) -> Option<Config> {
        let trial = self.trial()?;
        Config::new(&trial.spec, &[], self.guard.interval).ok()
    }

    pub(super) fn restore_judge(&mut self) {
        if matches!(self.state.phase, Phase::Recovering(_)) {
            self.judge = self.fresh_eyes().map(Box::new);
            return;
        }
        let Some(config) = self.judge_config().filter(|_| self.state.candidate().is_some()) else { return };
        let checkpoint = self.trial().and_then(|trial| trial.judge.clone());
        let judge = match checkpoint {
            Some(checkpoint) => Judge::restore(config, checkpoint),
            None => Judge::new(config),
        };
        self.judge = Some(Box::new(judge));
    }

    fn stage(&self, index: usize) -> Option<Stage> {
        self.trial()?.plan.stages.get(index).copied()
    }

    pub(super) fn stage_deadline(&self, advancing: &Advancing) -> Option<Mono> {
        let stage = self.stage(advancing.stage)?;
        match &advancing.step {
            StageStep::Retreated(retreated) => Some(retreated.decided.after(self.trial()?.spec.retreat.for_)),
            StageStep::Starting | StageStep::Shifting | StageStep::Judging => Some(advancing.since.after(stage.deadline)),
        }
    }

    pub(super) fn advancing(&mut self) -> bool {
        let Phase::Advancing(advancing) = self.state.phase.clone() else { return false };
        let (Some(stage), Some(candidate)) = (self.stage(advancing.stage), self.candidate()) else {
            return self.enter(Phase::Promoting { since: self.now.mono });
        };
        match &advancing.step {
            StageStep::Retreated(retreated) => return self.retreated(&advancing, &retreated.clone()),
            StageStep::Starting => {
                self.want_running(&candidate, Lane::Forward);
                if self.is_ready(&candidate.id) && self.is_done(&Key::Arm(candidate.id.clone())) && self.unhealthy().is_none() {
                    return self.shift(&advancing, &candidate.id, stage.weight);
                }
            }
            StageStep::Shifting => {
                let weights = self.weights_of(&candidate.id, stage.weight);
                self.want_weights(weights.clone());
                if self.weights_in_place(&weights) {
                    self.begin_stage(&advancing, stage);
                    return true;
                }
            }
            StageStep::Judging => {}
        }
        self.judged(&advancing, stage, &candidate.id)
    }

    pub(super) fn is_ready(&self, id: &ReleaseId) -> bool {
        self.health(id).is_some_and(crate::core::input::ArmHealth::is_ready)
    }

    /// A forward step: only when nothing holds it back. One that has the share already, left by an attempt before, takes no step: it is
    /// judged, whether a revert is proven or not.
    fn shift(&mut self, advancing: &Advancing, candidate: &ReleaseId, weight: Percent) -> bool {
        let has = self.observed.weights.get(candidate).is_some_and(|share| *share >= weight && weight > Percent::ZERO);
        let blocked = if has { self.held() } else { self.blocked() };
        if let Some(reason) = blocked.or_else(|| self.no_way_back()) {
            self.waiting = Some(reason);
            return false;
        }
        let weights = self.weights_of(candidate, weight);
        self.want_weights(weights);
        self.enter(Phase::Advancing(Advancing { step: StageStep::Shifting, ..advancing.clone() }))
    }

    /// Traffic moves toward a candidate only while stable could take it all back.
    pub(super) fn no_way_back(&mut self) -> Option<Reason> {
        let stable = self.state.stable.as_ref().filter(|stable| self.candidate().is_none_or(|candidate| candidate.id != **stable))?;
        let stable = self.state.release(stable).filter(|stable| !self.is_live(&stable.id) && !Mutant::NoWayBack.lives()).cloned()?;
        self.want_running(&stable, Lane::Forward);
        Some(Reason::NotReady { what: format!("{stable} has no member that can serve") })
    }

    /// The candidate's members start, or go on, in a stage of their own.
    pub(super) fn start_stage(&mut self, stage: usize) -> bool {
        if self.stage(stage).is_none() {
            return self.enter(Phase::Promoting { since: self.now.mono });
        }
        self.enter(Phase::Advancing(Advancing { stage, since: self.now.mono, step: StageStep::Starting }))
    }

    fn begin_stage(&mut self, advancing: &Advancing, stage: Stage) {
        let first = advancing.stage == 0 || self.stage(advancing.stage - 1).is_some_and(|before| before.weight == Percent::ZERO);
        let warm_up = if first { self.trial().map(|trial| trial.plan.warm_up).unwrap_or_default() } else { Span::default() };
        self.start_judging(StageStart {
            weight: stage.weight,
            warm_up,
            bake: stage.bake,
            has_stable: self.has_baseline(),
            ..StageStart::default()
        });
        self.enter(Phase::Advancing(Advancing { step: StageStep::Judging, ..advancing.clone() }));
    }

    pub(super) fn start_judging(&mut self, start: StageStart) {
        self.judgement = None;
        self.look.outdated = self.look.in_flight.is_some();
        self.note_counters();
        if let Some(judge) = &mut self.judge {
            judge.begin_stage(start);
        }
        self.checkpoint();
    }

    /// Whether stable gets requests that the candidate's can be compared with.
    pub(super) fn has_baseline(&self) -> bool {
        let Some(stable) = &self.state.stable else { return false };
        self.state.weight(stable) > Percent::ZERO && self.trial().is_some_and(|trial| &trial.candidate.id != stable)
    }

    fn judged(&mut self, advancing: &Advancing, stage: Stage, candidate: &ReleaseId) -> bool {
        let judging = advancing.step == StageStep::Judging;
        let verdict = self.fair_verdict();
        let pass = verdict == Some(Verdict::Pass);
        match verdict {
            Some(Verdict::Breach(reason)) => return self.breach(reason),
            Some(Verdict::Inconclusive(reason @ Reason::SharedCause { .. })) if judging && Mutant::SharedCauseReverts.lives() => {
                return self.breach(reason);
            }
            Some(Verdict::Inconclusive(Reason::SharedCause { objective, counts })) if judging => {
                return self.retreat(advancing, Reason::SharedCause { objective, counts });
            }
            Some(Verdict::Inconclusive(reason)) => self.wait(reason),
            Some(Verdict::Pass) | None => self.waiting = None,
        }
        let passed = judging
            && match stage.gate {
                Gate::Health => self.is_ready(candidate),
                Gate::Judge => pass || Mutant::WallClockBake.lives() && self.baked_by_the_wall(stage),
            };
        if passed {
            return self.next_stage(advancing);
        }
        let blind = self.trial().and_then(|trial| trial.blind).map(|(since, _)| since.after(self.spec().no_data.deadline));
        if self.now.mono >= advancing.since.after(stage.deadline) || blind.is_some_and(|until| self.now.mono >= until) {
            return self.deadline(advancing);
        }
        false
    }

    /// What [`Mutant::WallClockBake`] goes by.
    fn baked_by_the_wall(&self, stage: Stage) -> bool {
        let since = self.trial().map_or(self.now.wall, |trial| trial.since.wall);
        self.now.wall.duration_since(since).as_millis() >= i128::from(stage.bake.millis())
    }

    /// Nothing moves; a person hears of it when that lasts without data.
    pub(super) fn wait(&mut self, reason: Reason) {
        let without_data = matches!(
            reason,
            Reason::NoTraffic {}
                | Reason::Stale { .. }
                | Reason::InvalidData { .. }
                | Reason::SourceDown { .. }
                | Reason::PartialAnswer { .. }
                | Reason::QueryRejected { .. }
        );
        let now = self.now.mono;
        let page = Duration::from(self.spec().no_data.page);
        let blind = self.trial().and_then(|trial| trial.blind);
        match (without_data, blind) {
            (true, None) => self.set_blind(Some((now, false))),
            (true, Some((since, false))) if now.since(since) >= page => {
                self.set_blind(Some((since, true)));
                self.page(reason.clone());
            }
            (false, Some(_)) => self.set_blind(None),
            (true, Some(_)) | (false, None) => {}
        }
        self.waiting = Some(reason);
    }

    fn set_blind(&mut self, blind: Option<(Mono, bool)>) {
        if let Some(trial) = self.trial_mut() {
            trial.blind = blind;
        }
    }

    fn next_stage(&mut self, advancing: &Advancing) -> bool {
        if let Some(reason) = self.blocked() {
            self.waiting = Some(reason);
            return false;
        }
        self.decide(Decision::Advance, Reason::Healthy {}, format!("stage {} passed", advancing.stage + 1));
        self.start_stage(advancing.stage + if Mutant::StageSkipped.lives() { 2 } else { 1 })
    }

    fn deadline(&mut self, advancing: &Advancing) -> bool {
        let Some(trial) = self.trial().filter(|_| !Mutant::DeadlineForgotten.lives()) else { return false };
        let by_default = if trial.request.actor.is_human() { OnDeadline::Wait } else { OnDeadline::Revert };
        let action = trial.plan.on_deadline.unwrap_or(by_default);
        // What passed while no controller ran takes effect as soon as it is seen what runs; whether that is well is not known before.
        if !self.seen && matches!(action, OnDeadline::Retreat | OnDeadline::PromoteOnHealth) {
            return false;
        }
        let missing = self.waiting.as_ref().map_or_else(|| "no verdict".to_owned(), ToString::to_string);
        let reason = Reason::Deadline { stage: advancing.stage + 1, missing };
        let candidate = trial.candidate.id.clone();
        match action {
            OnDeadline::Revert => self.breach(reason),
            OnDeadline::PromoteOnHealth if self.limits().promote_on_health && self.is_ready(&candidate) && self.blocked().is_none() => {
                self.decide(Decision::Advance, Reason::PromotedOnHealth {}, format!("stage {} passed on health", advancing.stage + 1));
                self.start_stage(advancing.stage + 1)
            }
            OnDeadline::Retreat => self.give_up(advancing, reason),
            OnDeadline::Wait | OnDeadline::PromoteOnHealth => self.wait_longer(advancing, reason),
        }
    }

    /// The attempt ends without blame: traffic to stable, members stopped, and it may be tried again.
    fn give_up(&mut self, advancing: &Advancing, reason: Reason) -> bool {
        let Some(stable) = self.state.stable.clone().filter(|stable| self.takes_back(stable)) else {
            return self.wait_longer(advancing, reason);
        };
        self.page(reason.clone());
        self.want_safe_weights(&stable);
        self.refuse(reason);
        true
    }

    fn wait_longer(&mut self, advancing: &Advancing, reason: Reason) -> bool {
        self.page(reason.clone());
        self.decide(Decision::Wait, reason, "waiting beyond the deadline");
        // Another full deadline, also of having no data: the page is repeated then.
        if self.trial().is_some_and(|trial| trial.blind.is_some()) {
            self.set_blind(Some((self.now.mono, true)));
        }
        self.enter(Phase::Advancing(Advancing { since: self.now.mono, ..advancing.clone() }));
        false
    }

    // ------------------------------------------------------------------------------------------------ retreat

    fn retreat(&mut self, advancing: &Advancing, reason: Reason) -> bool {
        let Reason::SharedCause { objective, .. } = &reason else { return false };
        let objective = objective.clone();
        let Some(stable) = self.state.stable.clone().filter(|stable| self.takes_back(stable)) else {
            // Without a live stable there is nowhere to go.
            self.sit_out(reason);
            return false;
        };
        self.page(reason.clone());
        self.decide(Decision::Retreat, reason, "weight to 0 without blame");
        if let Some(trial) = self.trial_mut() {
            trial.retreats += 1;
            trial.shared = false;
        }
        self.want_safe_weights(&stable);
        let retreated = Retreated { since: None, decided: self.now.mono, objective, test: RetreatTest::Gone };
        self.enter(Phase::Advancing(Advancing { step: StageStep::Retreated(retreated), ..advancing.clone() }))
    }

    /// A shared cause, and nowhere to retreat to: a person is told once, and nothing moves.
    pub(super) fn sit_out(&mut self, reason: Reason) {
        if self.trial().is_some_and(|trial| !trial.shared) {
            self.page(reason.clone());
            self.set_shared(true);
        }
        self.wait(reason);
    }

    fn set_shared(&mut self, shared: bool) {
        if let Some(trial) = self.trial_mut() {
            trial.shared = shared;
        }
    }

    /// The verdict. What was counted while a shared cause was sat out speaks for and against nobody: as soon as the verdict would
    /// rest on it, the tests and the stage's bake start afresh.
    pub(super) fn fair_verdict(&mut self) -> Option<Verdict> {
        let verdict = self.verdict();
        let rests_on_counts = matches!(
            verdict,
            Some(
                Verdict::Pass
                    | Verdict::Breach(Reason::Breach { .. } | Reason::BreachAlone { .. })
                    | Verdict::Inconclusive(Reason::Baking { .. } | Reason::Insufficient { .. })
            )
        );
        if !rests_on_counts || self.trial().is_none_or(|trial| !trial.shared) {
            return verdict;
        }
        self.set_shared(false);
        self.acquit_of_shared();
        if let Some(stage) = self.judge.as_deref().and_then(Judge::stage) {
            self.start_judging(StageStart { warm_up: Span::default(), origin: None, ..stage });
        }
        None
    }

    /// The candidate is not what made both arms bad.
    fn acquit_of_shared(&mut self) {
        if let Some(judge) = &mut self.judge {
            judge.exonerate();
        }
        self.decide(Decision::Exonerate, Reason::Exonerated {}, "going on");
        self.judgement = None;
    }

    fn retreated(&mut self, advancing: &Advancing, retreated: &Retreated) -> bool {
        if let Some(reason) = self.reverting_alert().or_else(|| self.unhealthy()) {
            return self.breach(reason);
        }
        if !self.is_done(&Key::Weights) {
            return false;
        }
        let Some(since) = retreated.since else {
            let weight = self.retreat_weight(retreated.test);
            // Without the candidate's requests it is stable alone that is looked at.
            let has_stable = retreated.test == RetreatTest::Gone || self.has_baseline();
            self.start_judging(StageStart { weight, has_stable, ..StageStart::default() });
            let retreated = Retreated { since: Some(self.now.mono), ..retreated.clone() };
            return self.enter(Phase::Advancing(Advancing { step: StageStep::Retreated(retreated), ..advancing.clone() }));
        };
        // Whatever the retreat was for: a candidate that has requests again is judged by them.
        if retreated.test == RetreatTest::Retry
            && let Some(Verdict::Breach(reason)) = self.verdict()
        {
            return self.breach(reason);
        }
        let late = self.now.mono >= retreated.decided.after(self.spec().retreat.for_);
        let in_time = self.now.mono.since(since) <= self.guard.interval.times(RETREAT_SCRAPES + 2).0;
        match (retreated.test, self.stable_is_bad(&retreated.objective)) {
            (RetreatTest::Gone, Some(false)) if in_time => self.retry(advancing, retreated),
            (RetreatTest::Retry, Some(true)) if in_time => self.breach(Reason::SharedHarm { objective: retreated.objective.clone() }),
            // Errors that stay without the candidate, or do not come back with it, are not the candidate's.
            (RetreatTest::Gone, Some(false)) => self.exonerate(advancing),
            (RetreatTest::Retry, Some(false)) if !in_time => self.exonerate(advancing),
            _ if late => self.exonerate(advancing),
            _ => false,
        }
    }

    fn retreat_weight(&self, test: RetreatTest) -> Percent {
        match test {
            RetreatTest::Gone => Percent::ZERO,
            RetreatTest::Retry => self.first_weight(),
        }
    }

    fn first_weight(&self) -> Percent {
        let stages = self.trial().map(|trial| trial.plan.stages.clone()).unwrap_or_default();
        stages.iter().map(|stage| stage.weight).find(|weight| *weight > Percent::ZERO).unwrap_or(Percent::ZERO)
    }

    /// Whether stable breaks the objective in the last three scrapes; absent with fewer of them.
    fn stable_is_bad(&self, objective: &str) -> Option<bool> {
        let count = self.stable_lately(objective, RETREAT_SCRAPES as usize)?;
        let allowed = self.spec().objectives.iter().find(|o| o.name == objective)?.good.rest().fraction();
        (count.total > 0.0).then_some(count.bad > allowed * count.total)
    }

    /// Stable's requests in the last `scrapes` intervals; absent with fewer of them.
    pub(super) fn stable_lately(&self, objective: &str, scrapes: usize) -> Option<Count> {
        let judge = self.judge.as_ref()?;
        let target = judge.config().objectives.iter().find(|target| target.name == objective)?;
        let recent = judge.recent(&target.signal);
        let lately = &recent[recent.len().checked_sub(scrapes)?..];
        let counts = lately.iter().filter_map(|interval| interval.stable);
        Some(counts.fold(Count::default(), |sum, count| Count { bad: sum.bad + count.bad, total: sum.total + count.total }))
    }

    /// One retry at the first step's weight.
    fn retry(&mut self, advancing: &Advancing, retreated: &Retreated) -> bool {
        if let Some(reason) = self.blocked().or_else(|| self.no_way_back()) {
            self.waiting = Some(reason);
            return false;
        }
        let Some(candidate) = self.candidate() else { return false };
        let weights = self.weights_of(&candidate.id, self.first_weight());
        self.want_weights(weights);
        let retreated = Retreated { since: None, test: RetreatTest::Retry, ..retreated.clone() };
        self.enter(Phase::Advancing(Advancing { step: StageStep::Retreated(retreated), ..advancing.clone() }))
    }

    fn exonerate(&mut self, advancing: &Advancing) -> bool {
        // While stable is bad without the candidate's help, going on would only repeat the retreat; and where the candidate has
        // requests, it may be its help.
        if let Phase::Advancing(Advancing { step: StageStep::Retreated(retreated), .. }) = self.state.phase.clone()
            && let Some(count) = self.stable_lately(&retreated.objective, RETREAT_SCRAPES as usize)
            && self.stable_is_bad(&retreated.objective) == Some(true)
        {
            let counts = Counts { stable_bad: count.bad, stable_total: count.total, ..Counts::default() };
            let reason = Reason::SharedCause { objective: retreated.objective, counts };
            return match retreated.test {
                RetreatTest::Gone => {
                    self.waiting = Some(reason);
                    false
                }
                RetreatTest::Retry => self.retreat(advancing, reason),
            };
        }
        if let Some(reason) = self.blocked() {
            self.waiting = Some(reason);
            return false;
        }
        self.acquit_of_shared();
        self.enter(Phase::Advancing(Advancing { since: self.now.mono, step: StageStep::Starting, ..advancing.clone() }))
    }
}
