//! Reverting: stop the bleeding, then restore, then hold.
//!
//! Flags and traffic to a live stable are wanted before anything is looked up, verified or scaled; nothing stands in
//! front of them. Which release is restored is decided after that.

use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use crate::core::actor::Request;
use crate::core::attest::TARGET_AGE;
use crate::core::input::Parts;
use crate::core::ledger::Standing;
use crate::core::mutant::Mutant;
use crate::core::reason::Reason;
use crate::core::record::Decision;
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::{Percent, Restore};
use crate::core::state::{Key, Phase, PhaseKind, Revert, Target, Task, revert_id};
use crate::core::work::{Action, EvidenceFrom, Fence, Lane};

/// How long a revert may take until a person is paged.
pub(super) const REVERT_WITHIN: Duration = Duration::from_mins(5);
/// How long a revert is tried at least after a controller started.
pub(super) const AWAKE_FOR: Duration = Duration::from_mins(1);
/// How many known-good releases are tried.
pub(super) const TARGETS_MAX: usize = 5;

/// How a revert was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub(super) by: Option<Arc<Request>>,
    pub(super) parts: Parts,
    pub(super) only: Option<ReleaseId>,
    pub(super) break_glass: bool,
}

impl Machine {
    /// A breach: back, unless people keep that to themselves.
    pub(super) fn breach(&mut self, reason: Reason) -> bool {
        if self.is_disarmed() && !Mutant::DisarmIgnored.lives() {
            let disarmed = Reason::Disarmed { instead_of: reason.to_string() };
            if self.state.overlays.left_to_people.insert(reason.code().to_owned()) {
                self.page(disarmed.clone());
            }
            self.waiting = Some(disarmed);
            return false;
        }
        self.begin_revert_automatically(reason);
        true
    }

    pub(super) fn begin_revert_automatically(&mut self, reason: Reason) {
        self.begin_revert(reason, Asked::default());
    }

    pub(super) fn begin_revert(&mut self, reason: Reason, asked: Asked) {
        let candidate = self.state.candidate().cloned();
        let under = candidate.or_else(|| self.state.stable.as_ref().and_then(|id| self.state.release(id)).cloned());
        let revert = Revert {
            id: revert_id(&self.guard.uid, self.state.generation, under.as_ref().map(|release| &release.id)),
            generation: self.state.generation,
            under,
            reason: reason.clone(),
            by: asked.by,
            since: self.now,
            until: self.now.mono.after(REVERT_WITHIN),
            parts: asked.parts,
            only: asked.only,
            break_glass: asked.break_glass,
            target: Target::Nothing,
            skipped: Vec::new(),
            traffic_back: None,
            flags_safe: None,
            release_back: None,
        };
        self.take_back(Box::new(revert), reason);
    }

    /// Starts, or starts again, a revert: every effect of it is wanted from here.
    pub(super) fn take_back(&mut self, revert: Box<Revert>, reason: Reason) {
        if let Some(trial) = self.trial_mut() {
            trial.breached = true;
        }
        // Forward orders of this attempt are void before the first of the revert is given.
        let moves = |key: &Key| matches!(key, Key::Release | Key::Weights | Key::Arm(_));
        let of_attempt = |task: &Task| matches!(task.effect.fence, Fence::Generation(_)) && task.effect.lane == Lane::Forward;
        // So is what would still put the release under revert in place: it may be stable, and its own order not done yet.
        let under = revert.under.as_ref().filter(|_| revert.parts != Parts::Flags).map(|release| &release.id);
        let of_under = |task: &Task| match &task.effect.action {
            Action::EnsureRelease { release } => Some(&release.id) == under,
            Action::EnsureWeights { weights } => under.and_then(|under| weights.get(under)).is_some_and(|share| *share > Percent::ZERO),
            _ => false,
        };
        let void: Vec<Key> = self
            .state
            .tasks
            .iter()
            .filter(|(key, task)| moves(key) && (of_attempt(task) || of_under(task)))
            .map(|(key, _)| key.clone())
            .collect();
        for key in void.iter().filter(|_| !Mutant::WeightAfterBreach.lives()) {
            self.unwant(key);
        }
        self.state.phase = Phase::Reverting(revert.clone());
        self.waiting = None;
        if revert.parts != Parts::Traffic {
            self.want_flags();
        }
        if revert.parts != Parts::Flags {
            self.want_traffic_back();
        }
        self.decide(Decision::Revert, reason.clone(), revert.id.clone());
        self.quarantine(&revert);
        self.page(reason);
        self.state.last_revert = Some(revert);
        self.choose();
        self.touch();
    }

    fn revert(&self) -> Option<&Revert> {
        match &self.state.phase {
            Phase::Reverting(revert) | Phase::Recovering(revert) | Phase::Stuck { revert, .. } => Some(revert),
            _ => None,
        }
    }

    pub(super) fn revert_mut(&mut self) -> Option<&mut Revert> {
        self.touch();
        match &mut self.state.phase {
            Phase::Reverting(revert) | Phase::Recovering(revert) | Phase::Stuck { revert, .. } => Some(revert),
            _ => None,
        }
    }

    /// Somebody was called; traffic still goes where it is safe as soon as something can serve there.
    pub(super) fn stuck_still(&mut self) -> bool {
        let Phase::Stuck { revert, .. } = self.state.phase.clone() else { return false };
        if revert.traffic_back.is_none() {
            self.follow_with_traffic(&revert);
        }
        false
    }

    pub(super) fn want_flags(&mut self) {
        let stable = self.state.way_back().cloned();
        for flag in self.state.flags(&self.guard.spec) {
            let fence = stable.clone().map_or(Fence::None, Fence::Stable);
            let key = Key::Flag(flag.use_.clone(), flag.flag.clone());
            self.want(key, Action::EnsureFlag(flag), fence, Lane::Revert, true);
        }
    }

    /// Traffic to stable if it can serve: one ready member is enough, for it is better than the release that broke.
    fn want_traffic_back(&mut self) {
        let under = self.revert().and_then(|revert| revert.under.as_ref()).map(|release| release.id.clone());
        let stable = self.state.stable.clone().filter(|stable| Some(stable) != under.as_ref());
        if let Some(stable) = stable.filter(|stable| self.takes_back(stable)) {
            self.want_safe_weights(&stable);
        }
    }

    fn quarantine(&mut self, revert: &Revert) {
        let Some(under) = revert.under.clone() else { return };
        if revert.parts == Parts::Flags {
            return;
        }
        let now = self.now;
        let on_trial = self.trial().is_some_and(|trial| trial.candidate.id == under.id);
        let record = self.state.ledger.entry(now, &under);
        record.quarantined = !Mutant::QuarantineForgotten.lives();
        if on_trial && record.standing == Standing::Unproven {
            record.standing = Standing::Bad;
        }
        record.since = now;
        revert.reason.code().clone_into(&mut record.why);
        self.ledger_changed.insert(under.id.clone());
        self.acquit(&under);
        self.tell_if_full();
        if !Mutant::HoldNotWritten.lives() {
            self.want_hold();
        }
    }

    /// Somebody said no to it before it got traffic.
    pub(super) fn keep_out(&mut self, release: &Release, why: &Reason) {
        let now = self.now;
        let record = self.state.ledger.entry(now, release);
        record.quarantined = true;
        record.since = now;
        why.code().clone_into(&mut record.why);
        self.ledger_changed.insert(release.id.clone());
        self.tell_if_full();
        self.want_hold();
    }

    /// Nothing leaves quarantine to make room: when there is none left, people hear of it, and agents are turned away.
    fn tell_if_full(&mut self) {
        if self.state.ledger.is_full_of_quarantine() {
            self.page(super::deployed::quarantine_full());
        }
    }

    // ------------------------------------------------------------------------------------------------ target

    /// Picks the newest target that was not passed over, and has it verified.
    fn choose(&mut self) {
        let Some(revert) = self.revert().cloned() else { return };
        if revert.parts != Parts::All || self.spec().revert.restore == Restore::Nothing {
            self.set_target(Target::Nothing);
            return;
        }
        let under = revert.under.as_ref().map(|release| release.id.clone());
        let tried = |id: &ReleaseId| revert.skipped.iter().any(|(skipped, _)| skipped == id);
        let age = |at: Option<crate::core::time::Now>| at.map(|at| self.now.mono.since(at.mono));
        let next = match &revert.only {
            Some(only) => self.state.release(only).filter(|release| !tried(&release.id)).cloned(),
            None => self
                .state
                .ledger
                .targets(under.as_ref())
                .into_iter()
                .take(TARGETS_MAX)
                .filter(|record| age(record.last_good).is_none_or(|age| age <= TARGET_AGE.0))
                .find(|record| !tried(&record.release.id))
                .map(|record| record.release.clone()),
        };
        let Some(next) = next else {
            self.set_target(Target::NoneLeft);
            return;
        };
        self.set_target(Target::Verifying(next.id.clone()));
        if revert.break_glass || Mutant::TargetUnverified.lives() {
            self.verified_for_revert(&next, None);
        } else {
            self.want_verify(&next, EvidenceFrom::Store, Lane::Revert);
        }
    }

    /// A policy that has changed has its say on a target that was chosen, and is not in place yet.
    pub(super) fn doubt_target(&mut self) {
        let Phase::Reverting(revert) = self.state.phase.clone() else { return };
        let Target::Chosen(target) = &revert.target else { return };
        let Some(release) = self.state.release(target).cloned().filter(|_| !revert.break_glass && !self.is_done(&Key::Release)) else {
            return;
        };
        self.unwant(&Key::Release);
        self.unwant(&Key::Arm(target.clone()));
        if !revert.by_person() && !self.is_restored(target) {
            self.state.restores.pop();
        }
        self.set_target(Target::Verifying(target.clone()));
        self.want_verify(&release, EvidenceFrom::Store, Lane::Revert);
    }

    fn set_target(&mut self, target: Target) {
        if let Some(revert) = self.revert_mut() {
            revert.target = target;
        }
    }

    /// The stored evidence of a possible target was verified again, or `refused`.
    pub(super) fn verified_for_revert(&mut self, release: &Release, refused: Option<Reason>) {
        let Some(revert) = self.revert().cloned() else { return };
        if revert.target != Target::Verifying(release.id.clone()) || self.state.phase.kind() == PhaseKind::Stuck {
            return;
        }
        if let Some(reason) = refused {
            self.skip(&release.id, &reason);
            if let Some(revert) = self.revert_mut() {
                revert.skipped.push((release.id.clone(), reason));
            }
            self.choose();
            return;
        }
        let asked_by_person = revert.by_person();
        if !asked_by_person && let Some(reason) = self.restore_held_back(&release.id) {
            self.page(reason);
            self.set_target(Target::Waiting);
            return;
        }
        if !asked_by_person && !self.is_restored(&release.id) {
            self.state.restores.push(self.now.mono);
        }
        self.decide(Decision::Choose, Reason::Admitted {}, format!("{release} goes back"));
        self.set_target(Target::Chosen(release.id.clone()));
        self.want_arm(release, true, Lane::Revert);
        self.want_release(release, Lane::Revert);
    }

    /// Whether the workload's own specification already names this release.
    fn is_restored(&self, id: &ReleaseId) -> bool {
        // Before the workload was seen, what was last put there.
        self.observed.current.as_ref().or(self.state.stable.as_ref()) == Some(id)
    }

    /// Why an automatic restore waits for a person: a wave of breaches has another cause, and so has a service that reverts all the time.
    fn restore_held_back(&self, target: &ReleaseId) -> Option<Reason> {
        if self.is_restored(target) {
            return None;
        }
        let breaching = self.scope.breaching + 1;
        let wave = self.scope.watched.div_ceil(10).max(3);
        let limits = self.limits();
        if limits.breaker && breaching >= wave && !Mutant::BreakerIgnored.lives() {
            return Some(Reason::BreakerOpen { breaching, watched: self.scope.watched });
        }
        let restores = u32::try_from(self.state.restores.len()).unwrap_or(u32::MAX);
        (restores >= limits.restores_per_hour && !Mutant::QuotaIgnored.lives()).then_some(Reason::RestoreQuota { restores })
    }

    // ------------------------------------------------------------------------------------------------ progress

    /// The router uses these shares now.
    pub(super) fn shifted(&mut self, weights: &std::collections::BTreeMap<ReleaseId, Percent>) {
        let now = self.now.mono;
        let Some(revert) = self.revert() else { return };
        let under = revert.under.as_ref().map(|release| release.id.clone());
        let gone = under.is_none_or(|under| weights.get(&under).copied().unwrap_or(Percent::ZERO) == Percent::ZERO);
        if gone && let Some(revert) = self.revert_mut() {
            revert.traffic_back.get_or_insert(now);
        }
    }

    pub(super) fn reverting(&mut self) -> bool {
        let Phase::Reverting(revert) = self.state.phase.clone() else { return false };
        if self.pass_over_dead(&revert) {
            return true;
        }
        self.follow_with_traffic(&revert);
        let flags_safe = !self.state.tasks.keys().any(|key| matches!(key, Key::Flag(..)));
        let release_back = matches!(revert.target, Target::Chosen(_)) && self.is_done(&Key::Release);
        let now = self.now.mono;
        if (flags_safe != revert.flags_safe.is_some() || release_back != revert.release_back.is_some())
            && let Some(revert) = self.revert_mut()
        {
            revert.flags_safe = flags_safe.then(|| revert.flags_safe.unwrap_or(now));
            revert.release_back = release_back.then(|| revert.release_back.unwrap_or(now));
        }
        let Phase::Reverting(revert) = self.state.phase.clone() else { return false };
        let traffic = revert.parts == Parts::Flags || (revert.traffic_back.is_some() && self.is_done(&Key::Weights));
        // A live stable takes the traffic first; where another release goes back, it follows once that one can serve.
        let there = match &revert.target {
            Target::Chosen(target) => self.state.weight(target) == Percent::FULL,
            Target::Verifying(_) | Target::Nothing | Target::Waiting | Target::NoneLeft => true,
        };
        match &revert.target {
            Target::Chosen(_) | Target::Nothing if traffic && there && flags_safe && (release_back || revert.target == Target::Nothing) => {
                return self.recover(revert);
            }
            Target::NoneLeft if flags_safe && (traffic || !self.state.tasks.contains_key(&Key::Weights)) => {
                return self.stuck(Reason::NoTarget {});
            }
            Target::Waiting if flags_safe && traffic => {
                let reason = self.restore_held_back_now();
                return self.stuck(reason);
            }
            _ => {}
        }
        if self.now.mono >= revert.until {
            let what = self.open_ends();
            return self.stuck(Reason::NotRecovered { what });
        }
        false
    }

    /// A target whose members cannot start is passed over like one that does not verify.
    fn pass_over_dead(&mut self, revert: &Revert) -> bool {
        let Target::Chosen(target) = &revert.target else { return false };
        let dead = self.health(target).filter(|health| health.ready == 0).and_then(|health| health.failing.clone());
        let Some(what) = dead.filter(|_| self.is_done(&Key::Arm(target.clone()))) else { return false };
        let reason = Reason::EffectFailed { effect: "ensureArm".into(), what };
        self.skip(target, &reason);
        self.page(reason.clone());
        if let Some(revert) = self.revert_mut() {
            revert.skipped.push((target.clone(), reason));
        }
        self.choose();
        // The last one goes on trying: what is missing may come back, and a person may ask again.
        let others = self.revert().is_some_and(|revert| revert.target != Target::NoneLeft);
        if others && let Some(dead) = self.state.release(target).cloned() {
            self.want_arm(&dead, false, Lane::Forward);
        }
        true
    }

    fn restore_held_back_now(&self) -> Reason {
        let target = ReleaseId("".into());
        self.restore_held_back(&target).unwrap_or(Reason::BreakerOpen { breaching: self.scope.breaching + 1, watched: self.scope.watched })
    }

    /// Moves traffic to the target once it can serve, where no live stable took it already.
    fn follow_with_traffic(&mut self, revert: &Revert) {
        if revert.parts == Parts::Flags {
            return;
        }
        let under = revert.under.as_ref().map(|release| release.id.clone());
        if let Target::Chosen(target) = &revert.target
            && self.is_live(target)
        {
            let there = self.state.weight(target) == Percent::FULL
                && (revert.traffic_back.is_some() || self.state.tasks.contains_key(&Key::Weights));
            if !there && Some(target) != under.as_ref() {
                let weights = [(target.clone(), Percent::FULL)].into();
                self.state.weights = [(target.clone(), Percent::FULL)].into();
                let fence = Fence::Generation(self.state.generation);
                self.want(Key::Weights, Action::EnsureWeights { weights }, fence, Lane::Revert, false);
            }
        } else if revert.traffic_back.is_none() && !self.state.tasks.contains_key(&Key::Weights) {
            // Stable may have become ready after the breach.
            self.want_traffic_back();
        }
    }

    fn open_ends(&self) -> String {
        let open: Vec<String> = self
            .state
            .tasks
            .iter()
            .filter(|(key, _)| !matches!(key, Key::Notice(_)))
            .map(|(_, task)| format!("{} ({})", task.effect.action.name(), task.trouble.as_deref().unwrap_or("no answer")))
            .collect();
        if open.is_empty() { "no member of the target can serve".into() } else { format!("still open: {}", open.join(", ")) }
    }

    /// A person is needed; traffic and flags stay as they are, and stay wanted.
    pub(super) fn stuck(&mut self, reason: Reason) -> bool {
        let Some(revert) = self.revert().cloned().map(Box::new) else { return false };
        // A target is chosen anew when somebody asks again.
        self.state.tasks.retain(|key, _| !matches!(key, Key::Verify(_, EvidenceFrom::Store)));
        self.decide(Decision::Stuck, reason.clone(), "stuck");
        self.page(reason.clone());
        self.state.last_revert = Some(revert.clone());
        self.judge = None;
        self.enter(Phase::Stuck { reason, revert })
    }

    fn recover(&mut self, mut revert: Box<Revert>) -> bool {
        let before = self.state.stable.clone();
        if let Target::Chosen(target) = &revert.target {
            self.state.stable = Some(target.clone());
            // What serves now is what the next revert goes back to first.
            if let Some(release) = self.state.release(target).cloned() {
                self.state.ledger.entry(self.now, &release).last_good = Some(self.now);
                self.ledger_changed.insert(release.id);
            }
        }
        revert.until = self.now.mono.after(self.spec().recovery.deadline);
        let serving = self.serving();
        let replaced = before.and_then(|before| self.state.release(&before)).cloned();
        for old in revert.under.clone().into_iter().chain(replaced) {
            // Only what has no traffic any more, and is not what traffic came back to.
            if revert.parts == Parts::All && serving.as_ref() != Some(&old.id) && self.state.stable.as_ref() != Some(&old.id) {
                self.want_arm(&old, false, Lane::Forward);
            }
        }
        self.state.last_revert = Some(revert.clone());
        self.start_recovery();
        self.enter(Phase::Recovering(revert))
    }

    /// What a command means while a revert is under way: the running one is named, not doubled.
    pub(super) fn attach(&self) -> Option<String> {
        self.state.phase.revert().map(|revert| revert.id.clone())
    }

    /// Tries a stuck revert again, with everything wanted anew.
    pub(super) fn retry_revert(&mut self, asked: Asked, reason: &Reason) {
        let Phase::Stuck { revert, .. } = self.state.phase.clone() else { return };
        let person = asked.by.as_ref().is_some_and(|by| by.actor.is_human());
        let nowhere = asked.only.is_none() && revert.parts == Parts::Flags && self.nowhere_to_go();
        let revert = Revert {
            // A person's word stays a person's, and only a person may be content with a part.
            by: if person || !revert.by_person() { asked.by } else { revert.by },
            until: self.now.mono.after(REVERT_WITHIN),
            parts: if person && !nowhere { asked.parts } else { revert.parts },
            only: asked.only,
            break_glass: asked.break_glass,
            skipped: Vec::new(),
            target: Target::Nothing,
            ..*revert
        };
        self.take_back(Box::new(revert), reason.clone());
    }
}
