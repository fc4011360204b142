//! One life of a workload: controllers, faults and the world, event by event.

mod told;

use std::cmp::{Ordering, Reverse};
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::faults::Faults;
use super::oracle::{Oracle, Violation};
use super::prng::Random;
use super::reference;
use super::traffic::{EPOCH_MS, Traffic};
use super::words::{describe, outcome_name};
use super::world::World;
use crate::core::input::{Input, Looked, Observation, Observed, Outcome, Scope};
use crate::core::machine::{Answer, Machine};
use crate::core::policy::Policy;
use crate::core::record::Record;
use crate::core::release::ReleaseId;
use crate::core::replay::Replay;
use crate::core::state::{Guard, PhaseKind, State};
use crate::core::time::{Mono, Now, Span};
use crate::core::work::{Action, Commit, Effect, EffectId, Lane};
use crate::shell::neighbours::Neighbours;
use crate::shell::order::{Committed, Order, Step};

/// Steps that one event may cause; more is a loop.
const STEPS_MAX: usize = 400;
/// Tries of one effect within ten seconds; more is a loop.
const TRIES_MAX: usize = 40;
/// Lines of the transcript that are kept.
const LINES: usize = 40;
/// How often a workload is looked at, in milliseconds.
const OBSERVE_EVERY: u64 = 500;

/// A controller.
#[derive(Debug)]
pub struct Replica {
    /// Its rollout; absent while it is dead.
    pub order: Option<Order<u32>>,
    /// When it tried which effect, since it lives.
    tried: BTreeMap<EffectId, VecDeque<u64>>,
    scope: Scope,
    epoch: u64,
    started: u64,
    base: u64,
    drift: f64,
    wall_offset: i64,
    wake: Option<(u64, u64)>,
    wakes: u64,
    seen: Option<Arc<Observed>>,
}

#[derive(Debug, Clone)]
enum Event {
    Wake { replica: usize, serial: u64 },
    Perform { replica: usize, epoch: u64, effect: Effect, stable: Option<ReleaseId>, answer: Fate },
    Ended { replica: usize, epoch: u64, id: EffectId, lane: Lane, outcome: Outcome },
    Look { replica: usize, epoch: u64, effect: Effect },
    Looked { replica: usize, epoch: u64, looked: Looked },
    Commit { replica: usize, epoch: u64, commit: Arc<Commit> },
    Committed { replica: usize, epoch: u64, how: Committed },
    Observe { replica: usize, epoch: u64 },
    Return { replica: usize },
    Second,
}

/// An event to come. The first is the greatest, as a heap wants it.
#[derive(Debug)]
struct Due {
    at: u64,
    serial: u64,
    event: Box<Event>,
}

impl Due {
    fn rank(&self) -> Reverse<(u64, u64)> {
        Reverse((self.at, self.serial))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// What becomes of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Lost,
    Unknown,
    Again,
}

/// A life.
#[derive(Debug)]
pub struct Life {
    /// The world.
    pub world: World,
    /// What goes wrong.
    pub faults: Faults,
    /// The generator.
    pub random: Random,
    /// The controllers.
    pub replicas: Vec<Replica>,
    /// What was seen so far.
    pub oracle: Oracle,
    /// The last lines of the transcript.
    pub lines: VecDeque<String>,
    /// How many lines are kept; with 0 none is written at all.
    pub keep: usize,
    /// Digest of all lines.
    pub digest: u64,
    /// Answers by asker.
    pub answers: BTreeMap<u32, Answer>,
    /// The first broken rule.
    pub violation: Option<Violation>,
    /// Steps of all controllers so far.
    pub steps: u64,
    /// Kill the controller after this step.
    pub crash_after: Option<u64>,
    /// Who breaches beside this rollout; shared with other lives where there are some.
    pub neighbours: Arc<Neighbours>,
    /// Looks of all controllers so far.
    pub looks: u64,
    queue: BinaryHeap<Due>,
    serial: u64,
    asked: u32,
}

impl Life {
    /// A life of `replicas` controllers.
    pub fn new(seed: u64, guard: Guard, policy: impl Into<Arc<Policy>>, faults: Faults, replicas: usize) -> Self {
        let mut life = Self {
            world: World::new(guard, policy),
            faults,
            random: Random::new(seed),
            replicas: Vec::new(),
            oracle: Oracle::default(),
            lines: VecDeque::new(),
            keep: LINES,
            digest: 0xcbf2_9ce4_8422_2325,
            answers: BTreeMap::new(),
            violation: None,
            steps: 0,
            crash_after: None,
            neighbours: Arc::default(),
            looks: 0,
            queue: BinaryHeap::new(),
            serial: 0,
            asked: 0,
        };
        life.world.start = life.faults.start;
        life.oracle.fighting = replicas > 1;
        life.oracle.replay = Some(Replay::default());
        for replica in 0..replicas.max(1) {
            let drift = (life.random.share() * 2.0 - 1.0) * life.faults.drift;
            life.replicas.push(Replica {
                order: None,
                tried: BTreeMap::new(),
                scope: Scope::default(),
                epoch: 0,
                started: 0,
                base: 0,
                drift,
                wall_offset: 0,
                wake: None,
                wakes: 0,
                seen: None,
            });
            life.start(replica);
        }
        life.at(1000, Event::Second);
        life
    }

    // ------------------------------------------------------------------------------------------------ what tests say

    /// Lets time pass.
    pub fn run(&mut self, seconds: u64) {
        let until = self.world.now + seconds * 1000;
        self.run_until(until, |_| false);
    }

    /// Lets time pass until `reached`, at most so long; whether it was reached.
    pub fn until(&mut self, seconds: u64, reached: impl Fn(&Self) -> bool) -> bool {
        let until = self.world.now + seconds * 1000;
        self.run_until(until, &reached) || reached(self)
    }

    fn run_until(&mut self, until: u64, reached: impl Fn(&Self) -> bool) -> bool {
        while self.violation.is_none() && !reached(self) {
            if !self.turn(until) {
                return false;
            }
        }
        true
    }

    /// Lets the next event happen, if it is due until then; otherwise it is then.
    pub(super) fn turn(&mut self, until: u64) -> bool {
        let due = self.queue.peek_mut().filter(|due| due.at <= until).map(PeekMut::pop);
        let Some(Due { at, event, .. }) = due else {
            self.world.now = self.world.now.max(until);
            return false;
        };
        self.world.now = self.world.now.max(at);
        self.happen(*event);
        true
    }

    /// Steps a controller's wall clock, in milliseconds.
    pub(super) fn step_clock(&mut self, replica: usize, by: i64) {
        self.replicas[replica].wall_offset += by;
    }

    /// The committed state.
    pub fn state(&self) -> State {
        self.committed().map_or_else(State::new, Clone::clone)
    }

    /// The committed state, unless nothing was committed yet.
    pub fn committed(&self) -> Option<&State> {
        self.world.state.as_deref()
    }

    /// The phase that the first living controller is in.
    pub fn phase(&self) -> PhaseKind {
        self.machine().map_or_else(|| self.state().phase.kind(), |machine| machine.state().phase.kind())
    }

    /// The machine of the first living controller.
    pub fn machine(&self) -> Option<&Machine> {
        self.replicas.iter().find_map(|replica| replica.order.as_ref()).map(Order::machine)
    }

    /// Kills a controller; it comes back later.
    pub fn crash(&mut self, replica: usize, away: u64) {
        self.note(|| format!("r{replica} dies"));
        self.replicas[replica].order = None;
        self.replicas[replica].epoch += 1;
        self.at(away, Event::Return { replica });
    }

    /// Drops the faults, and all controllers but one.
    pub fn heal(&mut self) {
        self.note(|| "healed".to_owned());
        self.faults = Faults { start: self.faults.start, ..Faults::none() };
        (self.world.store_back_at, self.world.host_back_at) = (0, 0);
        (self.world.registry, self.world.webhook) = (true, true);
        self.world.flag_service = super::world::FlagService::Obeys;
        self.world.registry_lies = false;
        self.world.mend();
        self.world.traffic.lied |= self.world.traffic.lie.take().is_some();
        self.world.source = super::world::Source::Answers;
        self.world.truth.outage = None;
        self.world.guard.interval = crate::core::time::Span::seconds(1);
        for replica in 1..self.replicas.len() {
            self.replicas[replica].order = None;
            self.replicas[replica].epoch += 1;
        }
        self.queue.retain(|due| !matches!(*due.event, Event::Return { replica } if replica > 0));
        if self.replicas[0].order.is_none() {
            self.queue.retain(|due| !matches!(*due.event, Event::Return { .. }));
            self.start(0);
        }
    }

    // ------------------------------------------------------------------------------------------------ controllers

    pub(super) fn start(&mut self, replica: usize) {
        for (before, commit) in self.world.replay_spool() {
            let found = self.oracle.committed(before.as_deref(), &commit, &self.world);
            self.hold(found);
        }
        let state = self.state();
        let (revision, committed) = (state.revision, state.mono);
        let machine = Machine::restore(self.world.guard.clone(), self.world.policy.clone(), state);
        let mut order = match self.replicas[replica].order.take() {
            // Alive: it lost the swap, and what it was told is told to the next.
            Some(mut order) => {
                order.restart(machine);
                order
            }
            None => Order::new(machine),
        };
        let known = self.mono(replica).0;
        let it = &mut self.replicas[replica];
        it.epoch += 1;
        // A controller's clock goes on from the newest that it knows of.
        it.base = known.max(committed.0);
        it.started = self.world.now;
        (it.wake, it.seen) = (None, None);
        it.tried = BTreeMap::new();
        // It goes on in the knowledge of who breaches beside it.
        it.scope = self.neighbours.scope(&self.world.guard.key, Mono(self.world.now));
        if it.scope != Scope::default() {
            order.push(Input::ScopeChanged(it.scope.clone()), None);
        }
        it.order = Some(order);
        let epoch = it.epoch;
        self.note(|| format!("r{replica} starts at revision {revision}"));
        self.at(60, Event::Observe { replica, epoch });
        self.drain(replica);
    }

    fn mono(&self, replica: usize) -> Mono {
        let it = &self.replicas[replica];
        let elapsed = (self.world.now - it.started) as f64 * (1.0 + it.drift);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a life is short")]
        Mono(it.base + elapsed as u64)
    }

    fn clock(&self, replica: usize) -> Now {
        let wall = EPOCH_MS + i64::try_from(self.world.now).unwrap_or_default() + self.replicas[replica].wall_offset;
        Now { wall: jiff::Timestamp::from_millisecond(wall).unwrap_or_default(), mono: self.mono(replica) }
    }

    /// Does everything that does not wait for the world.
    fn drain(&mut self, replica: usize) {
        for _ in 0..STEPS_MAX {
            if self.violation.is_some() {
                return;
            }
            let now = self.clock(replica);
            let Some(order) = &mut self.replicas[replica].order else { return };
            let step = order.next(now);
            self.steps += 1;
            if self.crash_after.is_some_and(|after| self.steps > after) {
                self.crash_after = None;
                self.crash(replica, 50);
                return;
            }
            match step {
                None => return self.rest(replica),
                Some(Step::Stale) => {
                    self.note(|| format!("r{replica} lost the swap"));
                    return self.start(replica);
                }
                Some(Step::Start(effect)) => self.begin(replica, effect),
                Some(Step::Commit(commit)) => self.send_commit(replica, commit),
                Some(Step::Answer(asker, answer)) => {
                    self.note(|| format!("r{replica} answers {}: {}", answer.accepted, answer.reason));
                    let machine = self.replicas[replica].order.as_ref().map(Order::machine);
                    let found = machine.map(|machine| self.oracle.answered(asker, &answer, machine));
                    self.hold(found.unwrap_or(Ok(())));
                    self.answers.insert(asker, answer);
                }
            }
        }
        self.hold(Err(Violation::loops(format!("r{replica} takes more than {STEPS_MAX} steps at once"))));
    }

    /// Nothing to do: a wake-up is set.
    fn rest(&mut self, replica: usize) {
        let now = self.mono(replica);
        let Some(order) = self.replicas[replica].order.as_ref() else { return };
        let tried = &self.replicas[replica].tried;
        let found = self.oracle.rests(order, self.world.now).and_then(|()| reference::at_once(order.machine(), tried));
        let due = order.wake_at().map(|at| {
            let it = &self.replicas[replica];
            let ahead = at.0.saturating_sub(now.0) as f64 / (1.0 + it.drift);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a life is short")]
            let ahead = libm::ceil(ahead) as u64;
            self.world.now + ahead.max(1)
        });
        self.hold(found);
        if let Some(due) = due
            && self.replicas[replica].wake.is_none_or(|(_, at)| at != due)
        {
            self.serial += 1;
            let serial = self.serial;
            self.replicas[replica].wake = Some((serial, due));
            self.queue.push(Due { at: due, serial, event: Box::new(Event::Wake { replica, serial }) });
        }
        if due.is_none() {
            self.replicas[replica].wake = None;
        }
    }

    fn begin(&mut self, replica: usize, effect: Effect) {
        let epoch = self.replicas[replica].epoch;
        let wait = self.latency();
        if let Action::Look(_) = &effect.action {
            return self.at(wait, Event::Look { replica, epoch, effect });
        }
        self.note(|| format!("r{replica} starts {} {}", effect.id, describe(&effect)));
        let found = self.oracle.starts(&effect, &self.world).and_then(|()| self.tries(replica, &effect));
        self.hold(found);
        let stable = self.replicas[replica].order.as_ref().and_then(|order| order.machine().state().way_back().cloned());
        let quiet = matches!(effect.action, Action::Record);
        let hit = |probability: f64, random: &mut Random| !quiet && random.chance(probability);
        if hit(self.faults.hangs, &mut self.random) {
            let late = self.random.between(5_000, 90_000);
            return self.at(late, Event::Perform { replica, epoch, effect, stable, answer: Fate::Answered });
        }
        let (faults, random) = (&self.faults, &mut self.random);
        let refused = if hit(faults.busy, random) {
            let wait = Span(Duration::from_millis(random.between(0, 5_000)));
            Some(Outcome::Transient { what: "too many requests".into(), retry_after: Some(wait) })
        } else if hit(faults.transient, random) {
            Some(Outcome::Transient { what: "not now".into(), retry_after: None })
        } else if hit(faults.denied, random) {
            Some(Outcome::Denied("no right to".into()))
        } else if hit(faults.invalid, random) {
            Some(Outcome::Invalid("not understood".into()))
        } else if matches!(effect.action, Action::EnsureFlag(_) | Action::EnsureArm { .. }) && hit(faults.lying, random) {
            Some(Outcome::Done { changed: true, observed: Observation::Nothing })
        } else {
            None
        };
        if let Some(outcome) = refused {
            return self.at(wait, Event::Ended { replica, epoch, id: effect.id, lane: effect.lane, outcome });
        }
        let answer = match () {
            () if hit(faults.lost, random) => Fate::Lost,
            () if hit(faults.unknown, random) => Fate::Unknown,
            () => Fate::Answered,
        };
        let happens = answer == Fate::Answered || random.chance(0.5);
        let doubled = hit(faults.doubled, random);
        if doubled {
            let later = wait + self.latency() + self.latency();
            self.at(later, Event::Perform { replica, epoch, effect: effect.clone(), stable: stable.clone(), answer: Fate::Again });
        }
        if happens {
            self.at(wait, Event::Perform { replica, epoch, effect, stable, answer });
        } else if answer == Fate::Unknown {
            let outcome = Outcome::Unknown("no answer".into());
            self.at(wait, Event::Ended { replica, epoch, id: effect.id, lane: effect.lane, outcome });
        }
    }

    fn send_commit(&mut self, replica: usize, commit: Arc<Commit>) {
        let epoch = self.replicas[replica].epoch;
        if self.random.chance(self.faults.store_down) {
            self.world.store_back_at = self.world.now + self.random.between(100, 5_000);
        }
        let wait = self.random.between(1, 10);
        self.at(wait, Event::Commit { replica, epoch, commit });
    }

    // ------------------------------------------------------------------------------------------------ events

    fn happen(&mut self, event: Event) {
        match event {
            Event::Second => self.second(),
            Event::Wake { replica, serial } => {
                if self.replicas[replica].wake.is_some_and(|(wanted, _)| wanted == serial) {
                    self.replicas[replica].wake = None;
                    self.replicas[replica].wakes += 1;
                    if let Some(order) = &mut self.replicas[replica].order {
                        order.wake();
                    }
                    self.drain(replica);
                }
            }
            Event::Perform { replica, epoch, effect, stable, answer } => self.perform(replica, epoch, &effect, stable, answer),
            Event::Ended { replica, epoch, id, lane, outcome } => {
                self.note(|| format!("r{replica} hears {id} {}", outcome_name(&outcome)));
                self.give(replica, epoch, |order| order.finished(id, lane, outcome));
            }
            Event::Look { replica, epoch, effect } => self.look(replica, epoch, &effect),
            Event::Looked { replica, epoch, looked } => self.give(replica, epoch, |order| order.push(Input::Looked(looked), None)),
            Event::Commit { replica, epoch, commit } => self.commit(replica, epoch, &commit),
            Event::Committed { replica, epoch, how } => self.give(replica, epoch, |order| order.committed(how)),
            Event::Observe { replica, epoch } => self.observe(replica, epoch),
            Event::Return { replica } => {
                if self.replicas[replica].order.is_none() {
                    self.start(replica);
                }
            }
        }
    }

    fn give(&mut self, replica: usize, epoch: u64, how: impl FnOnce(&mut Order<u32>)) {
        let it = &mut self.replicas[replica];
        if it.epoch == epoch
            && let Some(order) = &mut it.order
        {
            how(order);
            self.drain(replica);
        }
    }

    fn perform(&mut self, replica: usize, epoch: u64, effect: &Effect, stable: Option<ReleaseId>, answer: Fate) {
        let before = self.oracle.before(&self.world);
        let outcome = self.world.perform(effect, stable);
        let found = self.oracle.performed(effect, &outcome, &before, &self.world);
        self.note(|| format!("world {} {}: {}", effect.id, describe(effect), outcome_name(&outcome)));
        self.hold(found);
        let host = matches!(effect.action, Action::EnsureArm { .. } | Action::EnsureWeights { .. } | Action::EnsureRelease { .. });
        if host {
            for replica in 0..self.replicas.len() {
                let epoch = self.replicas[replica].epoch;
                self.at(50, Event::Observe { replica, epoch });
            }
        }
        let (id, lane) = (effect.id, effect.lane);
        let wait = self.latency();
        match answer {
            Fate::Answered => self.at(wait, Event::Ended { replica, epoch, id, lane, outcome }),
            Fate::Unknown => self.at(wait, Event::Ended { replica, epoch, id, lane, outcome: Outcome::Unknown("no answer".into()) }),
            Fate::Lost | Fate::Again => {}
        }
    }

    fn look(&mut self, replica: usize, epoch: u64, effect: &Effect) {
        let Action::Look(plan) = &effect.action else { return };
        self.looks += 1;
        let looked = if self.random.chance(self.faults.look_fault) {
            Traffic::fault(&mut self.random)
        } else {
            let stale = if self.random.chance(self.faults.look_stale) { self.random.between(1_000, 30_000) } else { 0 };
            self.world.look(plan, stale)
        };
        if self.random.chance(self.faults.lost) {
            return;
        }
        let wait = self.latency();
        if self.mono(replica).after(Duration::from_millis(wait)) > effect.deadline {
            // Nobody waits for it any longer.
            return;
        }
        self.at(wait, Event::Looked { replica, epoch, looked });
    }

    fn commit(&mut self, replica: usize, epoch: u64, commit: &Commit) {
        let before = self.world.state.clone();
        let how = self.world.commit(commit);
        self.note(|| format!("store r{replica} {} -> {how:?} {}", commit.state.revision, commit.state.phase.kind()));
        self.oracle.unsure |= how == Committed::Unavailable && self.oracle.fighting;
        if how == Committed::Unavailable && self.world.spool.iter().all(|kept| kept.state.revision != commit.state.revision) {
            self.world.spool.push(commit.clone());
        }
        if how == Committed::Done {
            self.world.spool.retain(|kept| kept.state.revision > commit.state.revision);
            let found = self.oracle.committed(before.as_deref(), commit, &self.world);
            self.hold(found);
        }
        // A neighbour hears of it as soon as it is decided.
        if commit.records.iter().any(Record::is_breach) {
            self.neighbours.breached(&self.world.guard.key, Mono(self.world.now));
        }
        if self.replicas[replica].epoch == epoch && self.random.chance(self.faults.torn_commit) {
            let away = self.random.between(50, self.faults.away);
            return self.crash(replica, away);
        }
        let wait = if how == Committed::Unavailable { 500 } else { 1 };
        self.at(wait, Event::Committed { replica, epoch, how });
    }

    fn observe(&mut self, replica: usize, epoch: u64) {
        if self.replicas[replica].epoch != epoch || self.replicas[replica].order.is_none() {
            return;
        }
        let observed = Arc::new(self.world.observed());
        // An effect's own reading may be older than this one and have come in after it: then it is told again, as the shell does.
        let believed = self.replicas[replica].order.as_ref().map(|order| order.machine().workload());
        let news = self.replicas[replica].seen.as_ref() != Some(&observed) || believed != Some(&observed);
        if news && self.world.now >= self.world.host_back_at {
            self.replicas[replica].seen = Some(Arc::clone(&observed));
            self.give(replica, epoch, |order| order.push(Input::Observed(observed), None));
        }
    }

    fn second(&mut self) {
        self.world.second(&mut self.random);
        self.at(1000, Event::Second);
        for replica in 0..self.replicas.len() {
            let epoch = self.replicas[replica].epoch;
            self.at(1, Event::Observe { replica, epoch });
            self.at(OBSERVE_EVERY, Event::Observe { replica, epoch });
            if self.replicas[replica].order.is_some() && self.random.chance(self.faults.crash) {
                let away = self.random.between(50, self.faults.away);
                self.crash(replica, away);
            }
            if self.random.chance(self.faults.step) {
                let by = i64::try_from(self.random.between(0, 7_200_000)).unwrap_or_default() - 3_600_000;
                self.replicas[replica].wall_offset = by;
            }
        }
        let arms: Vec<ReleaseId> = self.world.members.keys().cloned().collect();
        for id in arms {
            if self.random.chance(self.faults.member_dies) {
                let ready_at = self.world.now + self.world.start;
                self.note(|| format!("members of {id} start again"));
                self.world.traffic.reset(&id, self.world.now);
                self.world.members.entry(id).or_default().ready_at = ready_at;
            }
        }
        let wakes = std::mem::take(&mut self.steps_of_second());
        if wakes > 2_000 {
            self.hold(Err(Violation::loops(format!("{wakes} steps within a second"))));
        }
        self.surroundings();
        let found = self.oracle.second(&self.world);
        self.hold(found);
    }

    /// Tells every controller when freezes or neighbours' breaches changed.
    fn surroundings(&mut self) {
        let scope = self.neighbours.scope(&self.world.guard.key, Mono(self.world.now));
        self.oracle.surrounded(&scope, self.world.now);
        for replica in 0..self.replicas.len() {
            let it = &mut self.replicas[replica];
            if it.scope != scope
                && let Some(order) = &mut it.order
            {
                it.scope = scope.clone();
                order.push(Input::ScopeChanged(scope.clone()), None);
                self.drain(replica);
            }
        }
    }

    /// Tries of one effect have pauses between them.
    fn tries(&mut self, replica: usize, effect: &Effect) -> Result<(), Violation> {
        let now = self.world.now;
        let tries = self.replicas[replica].tried.entry(effect.id).or_default();
        tries.push_back(now);
        while tries.front().is_some_and(|first| now - first > 10_000) {
            tries.pop_front();
        }
        if tries.len() > TRIES_MAX {
            return Err(Violation::loops(format!("{} {} is tried again without pause", effect.action.name(), effect.id)));
        }
        Ok(())
    }

    fn steps_of_second(&mut self) -> u64 {
        let since = self.oracle.steps_before;
        self.oracle.steps_before = self.steps;
        self.steps - since
    }

    // ------------------------------------------------------------------------------------------------ small things

    fn latency(&mut self) -> u64 {
        self.random.between(1, self.faults.slow.max(1))
    }

    fn at(&mut self, wait: u64, event: Event) {
        self.serial += 1;
        self.queue.push(Due { at: self.world.now + wait, serial: self.serial, event: Box::new(event) });
    }

    fn hold(&mut self, found: Result<(), Violation>) {
        if let Err(violation) = found
            && self.violation.is_none()
        {
            self.note(|| violation.to_string());
            self.violation = Some(violation);
        }
    }

    /// Writes a line of the transcript, if one is kept.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.keep == 0 {
            return;
        }
        // The oldest line makes room for the newest.
        let mut kept = if self.lines.len() < self.keep { String::new() } else { self.lines.pop_front().unwrap_or_default() };
        kept.clear();
        let (seconds, millis) = (self.world.now / 1000, self.world.now % 1000);
        // Writing into a string does not fail.
        let _ = write!(kept, "{seconds:>5}.{millis:03} {}", line());
        for byte in kept.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push_back(kept);
    }
}
