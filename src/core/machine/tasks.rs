//! Wanted effects: handed out, tried again, done.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use super::reverting::AWAKE_FOR;
use crate::core::backoff;
use crate::core::input::{Observation, Outcome};
use crate::core::mutant::Mutant;
use crate::core::reason::Reason;
use crate::core::record::{Decision, Event};
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::Percent;
use crate::core::state::{Key, Phase, PhaseKind, Task};
use crate::core::time::Mono;
use crate::core::work::{Action, Effect, EffectId, EvidenceFrom, Fence, Lane, Notice, Work};

/// How long an effect may be tried when its phase has no deadline of its own.
const EFFECT_WITHIN: Duration = Duration::from_mins(10);
/// How long one try may take. A revert does not wait for a connection that hangs: the second try is a read if the first worked.
const TRY_WITHIN: Duration = Duration::from_secs(65);
const REVERT_TRY_WITHIN: Duration = Duration::from_secs(10);
/// How long one try to read the evidence of a possible revert target may take: it is a few local bytes.
const PROOF_TRY_WITHIN: Duration = Duration::from_secs(3);
/// The same effect is not done again sooner, whatever the world says of itself.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is said of an effect that was tried for too long, once.
const LATE: &str = "not done in time: ";

/// A try under way. Memory only.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    key: Key,
    pub(super) until: Mono,
}

/// How long an effect is left alone after so many tries.
fn pause(task: &Task, attempts: u32) -> Duration {
    match task.effect.lane {
        Lane::Revert => backoff::urgent(attempts),
        Lane::Forward => backoff::wait(attempts),
    }
}

impl Machine {
    /// Wants an effect. The same wish again changes nothing; another wish of the same name replaces the older.
    pub(super) fn want(&mut self, key: Key, action: Action, fence: Fence, lane: Lane, safe: bool) {
        if let Some(task) = self.state.tasks.get(&key)
            && task.effect.action == action
            && task.effect.fence == fence
        {
            return;
        }
        let id = self.next_id();
        let deadline = match self.state.phase.revert() {
            // A store that does not answer says nothing against a target, and has no other one either: the revert's deadline decides.
            Some(revert) if matches!(key, Key::Verify(_, EvidenceFrom::Store)) => revert.until.after(PROOF_TRY_WITHIN),
            Some(revert) if lane == Lane::Revert && revert.until > self.now.mono => revert.until,
            _ => self.now.mono.after(EFFECT_WITHIN),
        };
        // A world that says "done" and shows otherwise is asked again, but not without pause.
        // What is safe never pauses, and another order in between makes it a new wish.
        let again = match self.done.get(&key) {
            Some((done, at)) if *done == action && !safe => Some(at.after(AGAIN_AFTER)),
            Some(_) => {
                self.done.remove(&key);
                None
            }
            None => None,
        };
        let not_before = again.map_or(self.now.mono, |again| again.max(self.now.mono));
        let task = Task::new(id, action, fence, lane, safe, not_before, deadline);
        let record = self.record(Event::Wanted(Box::new(task.effect.clone())), None, None, "wanted".into());
        self.records.push(record);
        self.state.tasks.insert(key, task);
        self.touch();
    }

    fn next_id(&mut self) -> EffectId {
        let id = EffectId { revision: self.state.revision + 1, ordinal: self.ordinal };
        self.ordinal += 1;
        id
    }

    /// Forward traffic: only after the commit, void for an older generation.
    pub(super) fn want_weights(&mut self, weights: BTreeMap<ReleaseId, Percent>) {
        if self.weights_in_place(&weights) {
            return;
        }
        self.state.weights.clone_from(&weights);
        let fence = Fence::Generation(self.state.generation);
        self.want(Key::Weights, Action::EnsureWeights { weights }, fence, Lane::Forward, false);
    }

    /// Traffic to a live stable: at once.
    pub(super) fn want_safe_weights(&mut self, stable: &ReleaseId) {
        let weights: BTreeMap<_, _> = [(stable.clone(), Percent::FULL)].into();
        self.state.weights.clone_from(&weights);
        let fence = Fence::Stable(stable.clone());
        self.want(Key::Weights, Action::EnsureWeights { weights }, fence, Lane::Revert, true);
    }

    /// Forward traffic to what is stable now: it stays valid when a newer attempt begins.
    pub(super) fn want_all_on_stable(&mut self, stable: &ReleaseId) {
        let weights: BTreeMap<_, _> = [(stable.clone(), Percent::FULL)].into();
        self.state.weights.clone_from(&weights);
        self.want(Key::Weights, Action::EnsureWeights { weights }, Fence::Stable(stable.clone()), Lane::Forward, false);
    }

    /// A release's members run, unless they are seen to be wanted already.
    pub(super) fn want_running(&mut self, release: &Release, lane: Lane) {
        let key = Key::Arm(release.id.clone());
        let leaving = |task: &Task| matches!(task.effect.action, Action::EnsureArm { present: false, .. });
        if self.state.tasks.get(&key).is_some_and(leaving) {
            self.unwant(&key);
        }
        if self.health(&release.id).is_none_or(|health| health.wanted == 0) {
            self.want_arm(release, true, lane);
        }
    }

    /// A release's members run, or stop. What has traffic is not stopped.
    pub(super) fn want_arm(&mut self, release: &Release, present: bool, lane: Lane) {
        if !present && self.state.weight(&release.id) > Percent::ZERO {
            return;
        }
        let action = Action::EnsureArm { release: release.clone(), present };
        // Cleaning up beside stable goes on when a newer attempt begins; starting something belongs to its attempt.
        let stable = self.state.way_back().cloned().filter(|stable| !present && *stable != release.id);
        let fence = stable.map_or(Fence::Generation(self.state.generation), Fence::Stable);
        self.want(Key::Arm(release.id.clone()), action, fence, lane, false);
    }

    pub(super) fn want_verify(&mut self, release: &Release, evidence: EvidenceFrom, lane: Lane) {
        let action = Action::Verify { release: release.clone(), evidence };
        // Reading what is kept moves nothing, and a revert waits for it: it does not wait for the commit.
        let safe = evidence == EvidenceFrom::Store;
        self.want(Key::Verify(release.id.clone(), evidence), action, Fence::None, lane, safe);
    }

    pub(super) fn want_release(&mut self, release: &Release, lane: Lane) {
        let action = Action::EnsureRelease { release: release.clone() };
        let settled = self.state.stable.clone().filter(|stable| *stable == release.id && lane == Lane::Forward);
        let fence = settled.map_or(Fence::Generation(self.state.generation), Fence::Stable);
        self.want(Key::Release, action, fence, lane, false);
    }

    /// Keeps exactly the quarantined releases out.
    pub(super) fn want_hold(&mut self) {
        let action = Action::EnsureHold { quarantined: self.state.ledger.quarantined() };
        self.want(Key::Hold, action, Fence::None, Lane::Forward, false);
    }

    /// Gets somebody up.
    pub(super) fn page(&mut self, reason: Reason) {
        self.tell(reason, true);
    }

    /// Tells people who are awake.
    pub(super) fn notify(&mut self, reason: Reason) {
        self.tell(reason, false);
    }

    fn tell(&mut self, reason: Reason, page: bool) {
        let number = (self.state.revision + 1) << 20 | u64::from(self.ordinal);
        let text = format!("{}: {reason}", self.guard.key);
        self.want(Key::Notice(number), Action::Notify(Notice { page, reason, text }), Fence::None, Lane::Forward, false);
    }

    /// Drops a wish.
    pub(super) fn unwant(&mut self, key: &Key) {
        if self.state.tasks.remove(key).is_some() {
            self.touch();
        }
    }

    /// Whether nothing of this name is wanted any more: it was done, or never wished.
    pub(super) fn is_done(&self, key: &Key) -> bool {
        !self.state.tasks.contains_key(key)
    }

    /// Hands out every task that is due and not under way; what is not safe only `with_rest`.
    pub(super) fn hand_out(&mut self, work: &mut Work, with_rest: bool) {
        let now = self.now.mono;
        for (key, task) in &self.state.tasks {
            if task.not_before > now || self.in_flight.contains_key(&task.effect.id) {
                continue;
            }
            if !task.safe && (!with_rest || self.held_up(key, task)) {
                continue;
            }
            let patience = match (&task.effect.action, task.effect.lane) {
                (Action::Verify { evidence: EvidenceFrom::Store, .. }, _) => PROOF_TRY_WITHIN,
                (_, Lane::Revert) => REVERT_TRY_WITHIN,
                (_, Lane::Forward) => TRY_WITHIN,
            };
            self.journaled.moved = true;
            self.in_flight.insert(task.effect.id, Flight { key: key.clone(), until: now.after(patience) });
            if task.safe { work.safe.push(task.effect.clone()) } else { work.then.push(task.effect.clone()) }
        }
        // Flags and traffic before the rest, in the order of their names; the shell starts them together anyway.
        work.safe.sort_by_key(|effect| effect.lane);
    }

    /// Whether a task must wait for another one to end.
    fn held_up(&self, key: &Key, task: &Task) -> bool {
        let notice = matches!(task.effect.action, Action::Notify(_));
        // Members are stopped when no request can reach them any more, and another release is the workload's own.
        let leaving = matches!(task.effect.action, Action::EnsureArm { present: false, .. })
            && (self.state.tasks.contains_key(&Key::Weights) || self.state.tasks.contains_key(&Key::Release));
        // An older order under the same name must not land after this one; a revert does not wait for that, its fence tells.
        let behind = task.effect.lane == Lane::Forward && self.in_flight.values().any(|flight| flight.key == *key);
        (self.halted.is_some() && !notice) || leaving || behind
    }

    /// Tries again what got no answer.
    pub(super) fn expire_flights(&mut self) {
        let now = self.now.mono;
        if Mutant::LostIsLost.lives() {
            return;
        }
        let lost: Vec<(EffectId, Key)> =
            self.in_flight.iter().filter(|(_, flight)| now >= flight.until).map(|(id, flight)| (*id, flight.key.clone())).collect();
        for (id, key) in lost {
            self.journaled.moved = true;
            self.in_flight.remove(&id);
            if self.state.tasks.get(&key).is_some_and(|task| task.effect.id == id) {
                self.try_again(&key, Duration::ZERO, "no answer");
            }
        }
    }

    /// An effect ended. Returns how, in words.
    pub(super) fn finished(&mut self, id: EffectId, outcome: &Outcome) -> Cow<'static, str> {
        self.journaled.moved |= self.in_flight.remove(&id).is_some();
        if self.proven(id, outcome) {
            return "readiness".into();
        }
        let Some(key) = self.state.tasks.iter().find(|(_, task)| task.effect.id == id).map(|(key, _)| key.clone()) else {
            return "of no interest any more".into();
        };
        let Some(task) = self.state.tasks.get(&key).cloned() else { return "".into() };
        let name = task.effect.action.name();
        match outcome {
            Outcome::Done { changed, observed } => {
                self.state.tasks.remove(&key);
                self.touch_lightly();
                // Whether it may be asked for again at once is asked of neither.
                if !matches!(key, Key::Notice(_) | Key::Verify(..)) {
                    self.done.insert(key.clone(), (task.effect.action.clone(), self.now.mono));
                }
                self.done(&key, &task.effect, observed);
                format!("{name}: done{}", if *changed { "" } else { ", nothing to change" }).into()
            }
            Outcome::Transient { .. } if matches!(key, Key::Notice(_)) && Mutant::NoticeDropped.lives() => {
                self.unwant(&key);
                "dropped".into()
            }
            Outcome::Transient { .. } if self.still_serves(&task) => {
                self.unwant(&key);
                format!("{name}: it serves, and nothing is to take over").into()
            }
            Outcome::Transient { what, retry_after } => {
                let wait = retry_after.map_or_else(|| pause(&task, task.attempts + 1), Duration::from);
                self.try_again(&key, wait, what);
                format!("{name}: {what}").into()
            }
            Outcome::Unknown(what) => {
                self.try_again(&key, Duration::ZERO, what);
                format!("{name}: unknown whether it happened: {what}").into()
            }
            Outcome::Superseded(what) => {
                self.touch();
                // Somebody newer decided: either this machine is stale and its next swap is lost, or the world catches up.
                self.ask_anew(&key);
                self.try_again(&key, Duration::from_secs(1), what);
                format!("{name}: superseded: {what}").into()
            }
            Outcome::Denied(what) | Outcome::Invalid(what) => {
                self.touch();
                self.failed(&key, &task, what);
                format!("{name}: failed: {what}").into()
            }
        }
    }

    /// What was superseded is asked for anew: what this attempt still wants from an earlier one, such as the end of members, under
    /// its own generation.
    fn ask_anew(&mut self, key: &Key) {
        let generation = self.state.generation;
        let way_back = self.state.way_back().cloned();
        let Some(task) = self.state.tasks.get_mut(key) else { return };
        if let (Fence::Stable(of), Action::EnsureArm { release, present: false }) = (&task.effect.fence, &task.effect.action)
            && Some(of) != way_back.as_ref()
        {
            // Traffic leads elsewhere by now. What it leads to is not stopped; the members of others still are.
            if way_back.as_ref() == Some(&release.id) {
                self.state.tasks.remove(key);
            } else {
                task.effect.fence = way_back.map_or(Fence::Generation(generation), Fence::Stable);
            }
            return;
        }
        if matches!(task.effect.fence, Fence::Generation(of) if of < generation) {
            task.effect.fence = Fence::Generation(generation);
        }
        // Shares that somebody set who did not get to commit them: this machine's come after, unless its own commit is lost.
        if let (Fence::Generation(_), Action::EnsureWeights { .. }) = (&task.effect.fence, &task.effect.action) {
            let effect = task.effect.clone();
            // A forward step is one again, and needs its way back.
            if effect.lane == Lane::Forward && self.no_way_back().is_some() {
                return;
            }
            let effect = Effect { id: self.next_id(), ..effect };
            let record = self.record(Event::Wanted(Box::new(effect.clone())), None, None, "wanted again".into());
            self.records.push(record);
            self.state.tasks.entry(key.clone()).and_modify(|task| task.effect = effect);
        }
    }

    /// Whether members that were to stop have requests, or are the workload's own, and nothing is to take over: the order that
    /// would have was given up before the world had it. Who serves is not stopped.
    fn still_serves(&self, task: &Task) -> bool {
        let Action::EnsureArm { release, present: false } = &task.effect.action else { return false };
        let share = self.observed.weights.get(&release.id).copied().unwrap_or(Percent::ZERO);
        let own = self.observed.current.as_ref() == Some(&release.id) && !self.state.tasks.contains_key(&Key::Release);
        task.attempts >= 3 && (own || share > Percent::ZERO && !self.state.tasks.contains_key(&Key::Weights))
    }

    fn try_again(&mut self, key: &Key, wait: Duration, what: &str) {
        let now = self.now.mono;
        self.touch_lightly();
        if let Some(task) = self.state.tasks.get_mut(key) {
            if Mutant::RetryAtOnce.lives() {
                task.not_before = now;
                return;
            }
            task.attempts += 1;
            // Even an unknown outcome waits after a few tries: nothing spins.
            let wait = if task.attempts > 3 { wait.max(pause(task, task.attempts)) } else { wait };
            task.not_before = now.after(wait);
            task.trouble = Some(what.to_owned());
        }
    }

    fn done(&mut self, key: &Key, effect: &Effect, observed: &Observation) {
        match observed {
            Observation::Workload(observed) => self.observe(Arc::clone(observed)),
            Observation::Facts(facts) => {
                if let Action::Verify { release, evidence } = &effect.action {
                    let lacking = self.lacking(release, facts);
                    self.verified(release, *evidence, lacking);
                }
            }
            Observation::Nothing => {}
        }
        if let (Key::Weights, Action::EnsureWeights { weights }) = (key, &effect.action) {
            self.shifted(&weights.clone());
        }
    }

    /// An effect can never work as asked. A revert goes on trying what might be mended from outside until its deadline.
    fn failed(&mut self, key: &Key, task: &Task, what: &str) {
        let reason = Reason::EffectFailed { effect: task.effect.action.name().to_owned(), what: what.to_owned() };
        if let Action::Verify { release, evidence } = &task.effect.action {
            self.state.tasks.remove(key);
            let unavailable = Reason::EvidenceUnavailable { what: what.to_owned() };
            self.verified(&release.clone(), *evidence, Some(unavailable));
            return;
        }
        if matches!(task.effect.action, Action::Notify(_)) {
            self.try_again(key, Duration::from_secs(10), what);
            return;
        }
        if task.attempts == 0 {
            self.page(reason.clone());
        }
        let forward = matches!(self.state.phase.kind(), PhaseKind::Advancing | PhaseKind::Promoting)
            && matches!(task.effect.fence, Fence::Generation(of) if of == self.state.generation)
            && task.effect.lane == Lane::Forward;
        if forward && !self.is_disarmed() {
            self.state.tasks.remove(key);
            self.breach(reason);
        } else {
            self.try_again(key, Duration::from_secs(1), what);
        }
    }

    /// Nothing was tried while no controller ran: what fell due then is tried for a while before it is given up.
    pub(super) fn wake_up(&mut self) {
        if std::mem::replace(&mut self.awake, true) {
            return;
        }
        let now = self.now.mono;
        let least = now.after(AWAKE_FOR.max(self.guard.interval.times(6).0));
        if let Phase::Reverting(revert) | Phase::Recovering(revert) = &mut self.state.phase {
            revert.until = revert.until.max(least);
        }
        for task in self.state.tasks.values_mut().filter(|task| task.effect.deadline <= now) {
            task.effect.deadline = least;
        }
    }

    /// Gives up what was tried for too long.
    pub(super) fn expire_tasks(&mut self) {
        let now = self.now.mono;
        let late: Vec<(Key, Task)> = self
            .state
            .tasks
            .iter()
            .filter(|(key, task)| now >= task.effect.deadline && !matches!(key, Key::Notice(_)))
            .map(|(key, task)| (key.clone(), task.clone()))
            .collect();
        for (key, task) in late {
            self.touch();
            let what = task.trouble.clone().unwrap_or_else(|| "no answer".into());
            let what = what.trim_start_matches(LATE).to_owned();
            self.in_flight.remove(&task.effect.id);
            match &task.effect.action {
                Action::Verify { .. } => self.failed(&key, &task, &format!("not verified in time: {what}")),
                // A safe state stays wanted for ever; somebody was paged when the revert got stuck. What waits for another order
                // is late with that one.
                _ if task.safe || task.effect.lane == Lane::Revert || self.held_up(&key, &task) => self.extend(&key, now),
                _ => {
                    let task = Task { attempts: 0, ..task };
                    self.extend(&key, now);
                    self.failed(&key, &task, &format!("{LATE}{what}"));
                }
            }
        }
    }

    fn extend(&mut self, key: &Key, now: Mono) {
        if let Some(task) = self.state.tasks.get_mut(key) {
            task.effect.deadline = now.after(EFFECT_WITHIN);
            self.touch();
        }
    }

    /// A release was verified, or `refused`. Whoever waits for that goes on.
    fn verified(&mut self, release: &Release, evidence: EvidenceFrom, refused: Option<Reason>) {
        match evidence {
            EvidenceFrom::Origin => {
                self.verified_as_found(release, refused.clone());
                self.verified_at_admission(release, refused);
            }
            EvidenceFrom::Store => self.verified_for_revert(release, refused),
        }
    }

    /// Writes a skipped target down.
    pub(super) fn skip(&mut self, release: &ReleaseId, why: &Reason) {
        let reason = Reason::TargetSkipped { release: self.state.name(release), why: why.to_string() };
        self.decide(Decision::Skip, reason, "skipped");
    }
}
