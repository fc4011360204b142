//! The machine: one per guarded workload. All control flow of a rollout's life is here, one file per working phase.
//!
//! [`Machine::handle`] is the only place where anything changes; [`Machine::next_work`] hands out what is to be
//! done; [`Machine::wake_at`] says when to look again if nothing happens. The machine never waits and never fails:
//! a fault is an outcome, a verdict is a value.

mod admitting;
mod advancing;
mod commanded;
mod deployed;
mod found;
mod journaled;
mod looking;
mod promoting;
mod recovering;
mod resting;
mod reverting;
mod tasks;
mod unjudged;
pub mod verbs;
mod watching;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::actor::Request;
use super::input::{Alerted, ArmHealth, Input, Observed, Scope};
use super::invariant::{self, Invariant};
use super::journal::Taken;
use super::judge::{Judge, Judgement, Tape};
use super::mutant::Mutant;
use super::policy::Policy;
use super::reason::{Reason, Verdict};
use super::record::{Decision, Event, Record};
use super::release::{Release, ReleaseId};
use super::spec::{GuardedRollout, Percent};
use super::state::{Guard, Key, Phase, PhaseKind, State, Trial};
use super::time::{Mono, Now};
use super::work::{Action, Commit, Effect, EffectId, Fence, Lane, Work};

/// Rounds that one input may take through the phases before the machine insists on an input from outside.
const STEPS_MAX: usize = 16;
/// How long what is no decision may wait for a commit: that an effect ended, or is tried again. Whoever goes on from the state without
/// it asks the world once more for what is so already; and each commit costs the store, and all that watch it, more than that.
const GATHER: Duration = Duration::from_secs(1);
/// Intervals that may gather before a checkpoint is committed.
const INTERVALS_MAX: usize = 2_000;
/// Nothing is to be committed.
const NEVER: Mono = Mono(u64::MAX);
/// How long an alert with `trust: wait` may hold a rollout back.
const ALERT_WAIT: Duration = Duration::from_mins(15);
/// How many alerts are remembered, that fire or have ended within the hour.
const ALERTS_MAX: usize = 64;

/// What a requester is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Whether it is done as asked, or already was.
    pub accepted: bool,
    /// Why, or why not.
    pub reason: Reason,
    /// The revert that the answer is about.
    pub revert: Option<String>,
}

/// The state machine of one guarded workload.
#[derive(Debug, Clone)]
pub struct Machine {
    guard: Guard,
    policy: Arc<Policy>,
    state: State,
    now: Now,
    // Memory only, rebuilt after a restore.
    judge: Option<Box<Judge>>,
    judgement: Option<Judgement>,
    intervals: Tape,
    observed: Arc<Observed>,
    // Whether the workload was seen at all: until then nothing is known of its health.
    seen: bool,
    scope: Scope,
    in_flight: BTreeMap<EffectId, tasks::Flight>,
    done: BTreeMap<Key, (Action, Mono)>,
    look: Look,
    proof: resting::Proof,
    waiting: Option<Reason>,
    // Since when a stable release that was found, and is not known good yet, is healthy.
    healthy_since: Option<Mono>,
    answer: Option<Answer>,
    // Whether this machine has heard of anything yet: what was due while no controller ran gets its time from then.
    awake: bool,
    journaled: journaled::Journaled,
    // What the next commit carries.
    records: Vec<Record>,
    ledger_changed: BTreeSet<ReleaseId>,
    ordinal: u32,
    dirty: bool,
    // When that must be committed at the latest.
    due: Mono,
    halted: Option<Invariant>,
}

/// When metrics are read.
#[derive(Debug, Clone, Default)]
struct Look {
    in_flight: Option<(EffectId, Mono)>,
    // The look in flight was asked for before the stage began: what it brings would begin the stage in the past.
    outdated: bool,
    next: Mono,
    count: u32,
}

impl Machine {
    /// A machine that goes on from what was committed.
    pub fn restore(guard: Guard, policy: impl Into<Arc<Policy>>, mut state: State) -> Self {
        if Mutant::TasksForgotten.lives() {
            state.tasks.clear();
        }
        // What was admitted under the document of today shares it.
        if let Some(trial) = &mut state.trial
            && trial.spec == guard.spec
        {
            Arc::make_mut(trial).spec = Arc::clone(&guard.spec);
        }
        let policy = policy.into();
        if let Some(trial) = &mut state.trial
            && trial.policy == policy
        {
            Arc::make_mut(trial).policy = Arc::clone(&policy);
        }
        let mut machine = Self {
            guard,
            policy,
            now: Now { wall: jiff::Timestamp::UNIX_EPOCH, mono: state.mono },
            state,
            judge: None,
            judgement: None,
            intervals: Tape::default(),
            observed: Arc::default(),
            seen: false,
            scope: Scope::default(),
            in_flight: BTreeMap::new(),
            done: BTreeMap::new(),
            look: Look::default(),
            proof: resting::Proof::default(),
            waiting: None,
            healthy_since: None,
            answer: None,
            awake: false,
            journaled: journaled::Journaled::default(),
            records: Vec::new(),
            ledger_changed: BTreeSet::new(),
            ordinal: 0,
            dirty: false,
            due: NEVER,
            halted: None,
        };
        machine.restore_judge();
        machine
    }

    /// Takes a fact in. The only place where anything changes.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.step_begins(now, &input);
        let was_dirty = std::mem::take(&mut self.dirty);
        let taken = match input {
            Input::Looked(looked) => self.looked(&looked),
            input => self.recorded(input),
        };
        self.step_ends(taken);
        self.dirty |= was_dirty;
    }

    /// Takes in what gets a record of its own, if it changes state.
    fn recorded(&mut self, input: Input) -> Taken {
        let before = self.records.len();
        let (request, result) = self.take(&input);
        self.settle();
        if self.dirty {
            let record = self.record(Event::Input(Box::new(input)), None, request, result.into_owned());
            self.records.insert(before, record);
            return Taken::Recorded;
        }
        self.quiet(input)
    }

    fn take(&mut self, input: &Input) -> (Option<Arc<Request>>, Cow<'static, str>) {
        match input {
            Input::Deployed(deployed) => (Some(Arc::new(deployed.request.clone())), self.deployed(deployed.clone()).into()),
            Input::Commanded(command) => (Some(Arc::new(command.request.clone())), self.commanded(command.clone()).into()),
            Input::Found(release) => (None, self.found(release).into()),
            // A look has no record: see `looked`.
            Input::Looked(_) => (None, "".into()),
            Input::Observed(observed) => {
                self.observe(Arc::clone(observed));
                (None, "observed".into())
            }
            Input::Alerted(alerted) => (None, self.alerted(alerted.clone()).into()),
            Input::SpecChanged(guard) => {
                self.guard.clone_from(guard);
                self.touch();
                (None, "accepted; a running attempt keeps its own".into())
            }
            Input::PolicyChanged(policy) => {
                let before = self.limits();
                self.policy = Arc::clone(policy);
                if self.limits().attestation != before.attestation {
                    self.doubt_target();
                }
                self.touch();
                (None, "accepted".into())
            }
            Input::ScopeChanged(scope) => {
                let by = scope.by.as_deref().filter(|_| scope.by != self.scope.by).cloned().map(Arc::new);
                if self.state.overlays.frozen_around != scope.frozen || by.is_some() {
                    self.state.overlays.frozen_around = scope.frozen;
                    self.touch();
                }
                self.scope = scope.clone();
                (by, "accepted".into())
            }
            Input::Finished { id, outcome } => (None, self.finished(*id, outcome)),
            Input::Woke => (None, "time".into()),
        }
    }

    /// Takes a verdict in the place of a look, where every verdict is to be tried. Changes what a look would have changed.
    pub(crate) fn suppose(&mut self, now: Now, verdict: Verdict) {
        self.now = Now { wall: now.wall, mono: now.mono.max(self.now.mono) };
        self.look.in_flight = None;
        if let Some(judge) = &self.judge {
            self.judgement = Some(Judgement { verdict, ..judge.verdict() });
        }
        self.settle();
    }

    /// Lets the phases act until none of them has anything to do.
    fn settle(&mut self) {
        self.expire();
        self.note_found();
        for _ in 0..STEPS_MAX {
            if !self.step() {
                break;
            }
        }
    }

    /// One step of the phase; whether the phase changed.
    fn step(&mut self) -> bool {
        match self.state.phase.kind() {
            PhaseKind::Idle => self.idle(),
            PhaseKind::Admitting => self.admitting(),
            PhaseKind::AwaitingApproval => self.awaiting_approval(),
            PhaseKind::Advancing => self.advancing(),
            PhaseKind::Promoting => self.promoting(),
            PhaseKind::Watching => self.watching(),
            PhaseKind::Reverting => self.reverting(),
            PhaseKind::Recovering => self.recovering(),
            PhaseKind::Refused | PhaseKind::Reverted => self.dequeue(),
            PhaseKind::Stuck => self.stuck_still(),
        }
    }

    /// What must be done now. Empty when there is nothing.
    ///
    /// Without leave to commit (`may_commit`: the store is behind) only what is safe, and what was committed before, is
    /// handed out; the rest gathers, and goes into one commit at the next call with leave.
    pub fn next_work(&mut self, may_commit: bool) -> Work {
        let mut work = Work::default();
        self.asked(may_commit);
        if self.halted.is_none() {
            self.schedule_look(&mut work);
            self.schedule_proof(&mut work);
        }
        self.hand_out(&mut work, may_commit || !self.is_ahead());
        if let Err(invariant) = invariant::check(&self.state, &work) {
            self.halt(invariant, &mut work);
            self.hand_out(&mut work, may_commit || !self.is_ahead());
        }
        if self.is_ahead() && may_commit {
            work.commit = Some(self.commit());
            work.then.push(self.drain());
        }
        self.step_is_over();
        work
    }

    /// Whether something was decided that no commit carries yet, or what is no decision has waited for one long enough.
    pub fn is_ahead(&self) -> bool {
        self.dirty && self.due <= self.now.mono
    }

    /// Whether anything is different from what was committed.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether an effect that was handed out is still to be done: it may have waited for its commit.
    pub fn wants(&self, effect: &Effect) -> bool {
        matches!(effect.action, Action::Record) || self.state.tasks.values().any(|task| task.effect.id == effect.id)
    }

    /// The answer to the last deployment or command, once.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answer.take()
    }

    /// When to call [`handle`](Self::handle) with `Woke` if nothing else happens.
    pub fn wake_at(&self) -> Option<Mono> {
        let tasks = self.state.tasks.values().filter(|task| !self.in_flight.contains_key(&task.effect.id)).map(|task| task.not_before);
        let deadlines = self.state.tasks.values().map(|task| task.effect.deadline);
        let flights = self.in_flight.values().map(|flight| flight.until);
        let looks = self.wants_look().then(|| self.look.in_flight.as_ref().map_or(self.look.next, |(_, until)| *until));
        let phase = match &self.state.phase {
            Phase::Admitting { until } | Phase::AwaitingApproval { until } => Some(*until),
            Phase::Advancing(advancing) => self.stage_deadline(advancing),
            Phase::Watching { since } => Some(self.watch_deadline(*since)),
            Phase::Reverting(revert) | Phase::Recovering(revert) => Some(revert.until),
            Phase::Promoting { since } => Some(since.after(promoting::PROMOTE_WITHIN)),
            Phase::Idle | Phase::Refused { .. } | Phase::Reverted(_) | Phase::Stuck { .. } => None,
        };
        let alerts = self.firing().map(|(_, since)| since.after(ALERT_WAIT)).filter(|until| *until > self.now.mono);
        tasks
            .chain(deadlines)
            .chain(flights)
            .chain(looks)
            .chain(phase)
            .chain(self.state.overlays.disarmed_until)
            .chain(alerts)
            .chain(self.readiness_due())
            .chain(self.adopts_at())
            .chain(self.dirty.then_some(self.due))
            // What was due is handed out or waits for something else; only the future can wake.
            .filter(|at| *at > self.now.mono)
            .min()
    }

    /// The committed state, with what is not committed yet.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The guard.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The policy that applies.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The workload as it was last seen.
    pub fn workload(&self) -> &Arc<Observed> {
        &self.observed
    }

    /// Why nothing moves forward now, if so.
    pub fn waiting(&self) -> Option<&Reason> {
        self.waiting.as_ref()
    }

    /// What the judge last said.
    pub fn judgement(&self) -> Option<&Judgement> {
        self.judgement.as_ref()
    }

    // ------------------------------------------------------------------------------------------------ memory

    /// The guard's document as it binds the running attempt.
    fn spec(&self) -> &GuardedRollout {
        self.state.trial.as_ref().map_or(&self.guard.spec, |trial| &trial.spec)
    }

    fn trial(&self) -> Option<&Trial> {
        self.state.trial.as_deref()
    }

    fn trial_mut(&mut self) -> Option<&mut Trial> {
        self.touch();
        self.state.trial.as_mut().map(Arc::make_mut)
    }

    /// Something was decided: it is committed at once.
    fn touch(&mut self) {
        self.dirty = true;
        self.due = self.now.mono.min(self.due);
    }

    /// Something is different that need not be committed at once.
    fn touch_lightly(&mut self) {
        self.dirty = true;
        self.due = self.now.mono.after(GATHER).min(self.due);
    }

    fn enter(&mut self, phase: Phase) -> bool {
        self.state.phase = phase;
        self.waiting = None;
        self.touch();
        true
    }

    fn health(&self, id: &ReleaseId) -> Option<&ArmHealth> {
        self.observed.arms.get(id)
    }

    /// Whether at least one member of `id` can serve: enough for traffic to be safer there than on a bad release.
    fn is_live(&self, id: &ReleaseId) -> bool {
        // One that is being stopped may still be ready, and wants no members.
        self.health(id).is_some_and(|health| health.ready > 0 && health.wanted > 0)
    }

    /// Whether traffic may go back to `id`: it can serve, and nobody took it out.
    fn takes_back(&self, id: &ReleaseId) -> bool {
        self.is_live(id) && !self.state.ledger.is_quarantined(id)
    }

    fn observe(&mut self, observed: Arc<Observed>) {
        self.observed = observed;
        self.seen = true;
    }

    // ------------------------------------------------------------------------------------------------ records

    fn record(&self, event: Event, reason: Option<Reason>, request: Option<Arc<Request>>, result: String) -> Record {
        let release = self.state.trial.as_ref().map(|trial| &trial.candidate);
        // What happens around the rollout is not the deed of whoever asked for what it is about.
        let around = matches!(&event, Event::Input(input)
            if matches!(**input, Input::ScopeChanged(_) | Input::PolicyChanged(_) | Input::SpecChanged(_)));
        let asked = || {
            let revert = self.state.phase.revert().and_then(|revert| revert.by.clone());
            revert.or_else(|| self.state.trial.as_ref().map(|trial| trial.request.clone())).filter(|_| !around)
        };
        Record {
            at: self.now,
            resource_target: self.guard.key.clone(),
            revision: self.state.revision + 1,
            generation: self.state.generation,
            event,
            phase: self.state.phase.kind().to_string(),
            reason,
            release: release.map(|release| release.id.clone()),
            artifact_digest: release.map(|release| release.template.image().digest.to_string()),
            request: request.or_else(asked),
            result,
        }
    }

    /// Writes a decision down, with the intervals seen since the last one.
    fn decide(&mut self, decision: Decision, reason: Reason, result: impl Into<String>) {
        let intervals = self.intervals.take();
        self.journaled.told = 0;
        let record = self.record(Event::Decision { decision, intervals }, Some(reason), None, result.into());
        self.records.push(record);
        self.checkpoint();
    }

    /// Puts the judge's standing into the state that is committed next.
    fn checkpoint(&mut self) {
        self.note_counters();
        let checkpoint = self.judge.as_deref().map(Judge::checkpoint);
        if let Some(trial) = self.trial_mut()
            && checkpoint.is_some()
        {
            trial.judge = checkpoint;
        }
        self.touch();
    }

    fn commit(&mut self) -> Commit {
        (self.dirty, self.due) = (false, NEVER);
        self.ordinal = 0;
        let expected = self.state.revision;
        self.state.revision += 1;
        self.state.mono = self.now.mono;
        // An emptied map keeps its last node, some kilobytes, for good.
        if self.state.tasks.is_empty() {
            self.state.tasks = BTreeMap::new();
        }
        if self.in_flight.is_empty() {
            self.in_flight = BTreeMap::new();
        }
        let now = self.now.mono;
        self.done.retain(|_, (_, at)| at.after(tasks::AGAIN_AFTER) > now);
        if self.done.is_empty() {
            self.done = BTreeMap::new();
        }
        let changed = std::mem::take(&mut self.ledger_changed);
        let ledger = changed.iter().filter_map(|id| self.state.ledger.get(id)).cloned().collect();
        let (records, journal) = (std::mem::take(&mut self.records), self.journal());
        Commit { expected, state: Arc::new(self.state.clone()), records, ledger, journal }
    }

    fn drain(&mut self) -> Effect {
        Effect {
            id: EffectId { revision: self.state.revision, ordinal: u32::MAX },
            fence: Fence::None,
            deadline: self.now.mono.after(Duration::from_mins(1)),
            lane: Lane::Forward,
            action: Action::Record,
        }
    }

    /// An invariant was about to be broken: nothing forward is done any more, and somebody is told.
    fn halt(&mut self, invariant: Invariant, work: &mut Work) {
        work.then.retain(|effect| matches!(effect.action, Action::Notify(_) | Action::Record));
        if self.halted.replace(invariant).is_none() {
            self.page(Reason::InvariantBroken { invariant: invariant.id().to_owned() });
        }
    }

    /// The invariant that stopped this machine, if one did.
    pub fn halted(&self) -> Option<Invariant> {
        self.halted
    }

    // ------------------------------------------------------------------------------------------------ surroundings

    fn alerted(&mut self, alerted: Alerted) -> String {
        let known = self.state.alerts.get(&alerted.fingerprint);
        // At-least-once and out of order: an episode is its fingerprint and start; `resolved` undoes nothing but a wait.
        let is_over = |known: &Alerted| known.starts_at == alerted.starts_at && !known.firing;
        if known.is_some_and(|(known, _)| known.starts_at > alerted.starts_at || is_over(known) || *known == alerted) {
            return "known".into();
        }
        self.touch();
        let firing = alerted.firing;
        self.state.alerts.insert(alerted.fingerprint.clone(), (alerted, self.now.mono));
        self.bound_alerts();
        if firing {
            "firing".into()
        } else {
            if Mutant::ResolvedUndoes.lives() && self.state.phase.kind() == PhaseKind::Reverting {
                self.enter(Phase::Idle);
            }
            "ended".into()
        }
    }

    /// Ever new label sets fill nothing up: what ended first goes first, then what fires longest, and that is counted.
    fn bound_alerts(&mut self) {
        while self.state.alerts.len() > ALERTS_MAX {
            let oldest = self.state.alerts.iter().min_by_key(|(_, (alert, at))| (alert.firing, *at)).map(|(of, _)| of.clone());
            let Some((alert, _)) = oldest.and_then(|of| self.state.alerts.remove(&of)) else { return };
            self.state.alerts_dropped += u64::from(alert.firing);
        }
    }

    fn firing(&self) -> impl Iterator<Item = &(Alerted, Mono)> {
        self.state.alerts.values().filter(|(alert, _)| alert.firing)
    }

    /// Lets what has a time limit run out.
    fn expire(&mut self) {
        let now = self.now.mono;
        if self.state.overlays.disarmed_until.is_some_and(|until| now >= until) {
            self.state.overlays.disarmed_until = None;
            self.page(Reason::DisarmExpired {});
        }
        if self.state.overlays.disarmed_until.is_none() {
            self.state.overlays.left_to_people.clear();
        }
        let hour = Duration::from_hours(1);
        self.state.restores.retain(|at| now.since(*at) < hour);
        self.state.deployments.retain(|(_, at)| now.since(*at) < hour);
        self.state.alerts.retain(|_, (alert, at)| alert.firing || now.since(*at) < hour);
        self.expire_unjudged();
        self.expire_flights();
        self.expire_tasks();
    }

    /// Why no forward step may be taken now, whatever the judge says.
    fn blocked(&self) -> Option<Reason> {
        self.held().or_else(|| self.unready())
    }

    /// Whoever holds everything back: people, a broken invariant, an alert.
    fn held(&self) -> Option<Reason> {
        let overlays = &self.state.overlays;
        if (overlays.frozen.is_some() || overlays.frozen_around) && !Mutant::FreezeIgnored.lives() {
            return Some(Reason::Frozen {});
        }
        if overlays.paused.is_some() && !Mutant::PauseIgnored.lives() {
            return Some(Reason::Paused {});
        }
        if self.halted.is_some() {
            return Some(Reason::InvariantBroken { invariant: self.halted.map(|i| i.id().to_owned()).unwrap_or_default() });
        }
        let alert = self.firing().find(|(_, since)| self.now.mono.since(*since) < ALERT_WAIT);
        alert.map(|(alert, _)| Reason::AlertWaiting { alert: alert.name.clone() })
    }

    /// Why a revert might not work: then agents' releases get no more requests.
    fn unready(&self) -> Option<Reason> {
        let agent = self.trial().is_some_and(|trial| !trial.request.actor.is_human());
        let target = self.readiness_target().map(|target| target.id.clone());
        // What was never proven is not ready, either.
        let missing = match &self.state.readiness {
            Some(readiness) if readiness.target == target => readiness.missing.as_ref().map(resting::not_ready),
            _ => target.map(|target| Reason::NotReady { what: format!("the evidence of {} is being read", self.state.name(&target)) }),
        };
        missing.filter(|_| agent && !Mutant::ReadinessIgnored.lives())
    }

    /// The limits that bind the attempt under way: a looser policy never binds it, a tighter one does at once.
    pub fn limits(&self) -> Arc<Policy> {
        match &self.state.trial {
            Some(_) if Mutant::LooserPolicyBinds.lives() => Arc::clone(&self.policy),
            Some(trial) if self.state.candidate().is_some() || self.state.phase.revert().is_some() => self.tighter_of(&trial.policy),
            _ => Arc::clone(&self.policy),
        }
    }

    /// The tighter of a policy and the one that is in force; most often they are one.
    fn tighter_of(&self, policy: &Arc<Policy>) -> Arc<Policy> {
        if Arc::ptr_eq(policy, &self.policy) || *policy == self.policy {
            Arc::clone(policy)
        } else {
            Arc::new(policy.tighter(&self.policy))
        }
    }

    fn is_disarmed(&self) -> bool {
        self.state.overlays.disarmed_until.is_some()
    }

    /// An alert that is trusted to revert and began after the candidate was admitted.
    fn reverting_alert(&self) -> Option<Reason> {
        let since = self.trial()?.since.wall;
        let alert = self.firing().find(|(alert, _)| alert.trust == super::spec::Trust::Revert && alert.starts_at >= since);
        alert.map(|(alert, _)| Reason::AlertFiring { alert: alert.name.clone() })
    }

    /// The verdict, with what the judge cannot know: neighbours, alerts, members.
    fn verdict(&self) -> Option<Verdict> {
        if let Some(alert) = self.reverting_alert() {
            return Some(Verdict::Breach(alert));
        }
        if let Some(reason) = self.unhealthy() {
            return Some(Verdict::Breach(reason));
        }
        match self.judgement.as_ref().map(|judgement| judgement.verdict.clone())? {
            // Without a baseline the accused is the only witness; three neighbours that fail at the same time are others.
            Verdict::Breach(Reason::BreachAlone { objective, counts }) if self.scope.breaching_recently >= 3 => {
                Some(Verdict::Inconclusive(Reason::SharedCause { objective, counts }))
            }
            verdict => Some(verdict),
        }
    }

    /// What the candidate's own members say against it.
    fn unhealthy(&self) -> Option<Reason> {
        let candidate = &self.trial()?.candidate.id;
        let what = self.health(candidate)?.failing.clone()?;
        Some(Reason::Unhealthy { what })
    }

    fn candidate(&self) -> Option<Release> {
        self.trial().map(|trial| trial.candidate.clone())
    }

    fn weights_of(&self, candidate: &ReleaseId, share: Percent) -> BTreeMap<ReleaseId, Percent> {
        match &self.state.stable {
            Some(stable) if stable != candidate => [(candidate.clone(), share), (stable.clone(), share.rest())].into(),
            // Nothing else can serve: the first release of a workload gets everything.
            _ => [(candidate.clone(), Percent::FULL)].into(),
        }
    }

    /// Whether the router was told, and said that it did, to use `weights`.
    fn weights_in_place(&self, weights: &BTreeMap<ReleaseId, Percent>) -> bool {
        &self.state.weights == weights && !self.state.tasks.contains_key(&Key::Weights)
    }
}
