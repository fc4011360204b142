//! One rollout's task: owns the machine, starts effects and never awaits one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::handle::{Handle, Line, Message};
use super::neighbours::Neighbours;
use super::order::{Committed, Order, Step};
use crate::core::actor::Actor;
use crate::core::input::{Input, Outcome, Scope};
use crate::core::machine::{Answer, Machine};
use crate::core::policy::{self, Policy};
use crate::core::preview::{RevertPlan, View};
use crate::core::record::{Event, Record};
use crate::core::spec::{GuardedRollout, Metadata};
use crate::core::state::{Guard, State};
use crate::core::work::{Action, Commit, Effect, EffectId, Lane};
use crate::spec::Loaded;
use crate::telemetry::work::work;
use crate::world::clock::{self, Clock};
use crate::world::perform::{Performed, Subjects, World};
use crate::world::store::{CommitError, LoadError};

/// Commands that may wait.
const URGENT_MAX: usize = 64;
/// How long a store that does not answer is left alone.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// What every rollout's task shares.
pub struct Shared {
    /// Where effects are performed.
    pub world: World,
    /// The lines to every rollout.
    pub handle: Handle,
    /// The documents that hold now.
    pub loaded: RwLock<Arc<Loaded>>,
    /// Who breaches beside whom.
    pub neighbours: Neighbours,
    /// Rung when that has changed.
    pub changed: Notify,
    /// Whether it is about to be rung.
    ringing: AtomicBool,
    /// Policies as they hold for guards, each once.
    policies: Mutex<Vec<Weak<Policy>>>,
}

/// How long breaches gather before every rollout hears of them: a hundred at once would wake each a hundred times.
const GATHER: Duration = Duration::from_millis(10);

impl Shared {
    /// For rollouts that nobody talks to yet.
    pub fn new(world: World, loaded: Arc<Loaded>) -> Self {
        Self {
            world,
            handle: Handle::new(),
            loaded: RwLock::new(loaded),
            neighbours: Neighbours::default(),
            changed: Notify::new(),
            ringing: AtomicBool::new(false),
            policies: Mutex::default(),
        }
    }

    /// The policy, as one that is held already if there is an equal one: most often the same holds for thousands of guards.
    fn policy(&self, policy: Policy) -> Arc<Policy> {
        let mut held = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(equal) = held.iter().filter_map(Weak::upgrade).find(|held| **held == policy) {
            return equal;
        }
        let policy = Arc::new(policy);
        held.retain(|held| held.strong_count() > 0);
        held.push(Arc::downgrade(&policy));
        policy
    }

    /// Rings soon.
    fn ring(self: &Arc<Self>) {
        if !self.ringing.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                shared.ringing.store(false, Ordering::Relaxed);
                shared.changed.notify_waiters();
            });
        }
    }

    /// The documents that hold now.
    pub fn documents(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What comes back from spawned work.
enum Back {
    Ended(EffectId, Lane, Outcome),
    Looked(crate::core::input::Looked),
    Committed(Committed),
}

/// The policies of one guard, by who asks.
#[derive(Debug, Clone)]
pub struct Policies {
    loaded: Arc<Loaded>,
    metadata: Metadata,
    named: String,
}

impl Policies {
    /// Those that are for this guard.
    pub fn new(loaded: Arc<Loaded>, metadata: Metadata, spec: &GuardedRollout) -> Self {
        Self { loaded, metadata, named: spec.attestation.policy.clone() }
    }

    /// What applies when `actor` asks: every matching policy, the strictest value of each field.
    pub fn of(&self, actor: &Actor) -> Policy {
        let matching = policy::matching(&self.loaded.policies, &self.metadata, actor);
        policy::merge(matching.into_iter().map(|(_, policy)| policy), self.loaded.policies.get(&self.named))
    }

    /// What applies to the guard whoever asks.
    pub fn of_guard(&self) -> Policy {
        let matching = self.loaded.policies.values().filter(|policy| !policy.match_.names_actors() && policy.match_.guard(&self.metadata));
        policy::merge(matching, self.loaded.policies.get(&self.named))
    }
}

/// A rollout's task before it runs.
pub struct Rollout {
    shared: Arc<Shared>,
    guard: Guard,
    policies: Policies,
    policy: Arc<Policy>,
    order: Order<oneshot::Sender<Answer>>,
    scope: Scope,
    /// The rollout's own clock: another replica's may have been ahead when it committed.
    clock: Clock,
    /// The newest revision that was seen in the store, where it tells.
    seen: Option<watch::Receiver<u64>>,
    view: watch::Sender<Arc<(View, RevertPlan)>>,
    urgent: mpsc::Receiver<Message>,
    back: JoinSet<Back>,
    /// Effects that wait for their turn.
    queued: Queued,
}

type Queued = Arc<Mutex<BTreeSet<EffectId>>>;

fn queue(queued: &Queued) -> MutexGuard<'_, BTreeSet<EffectId>> {
    queued.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rollout {
    /// Restores a rollout from the store and connects its line.
    ///
    /// # Errors
    /// The store cannot be read, or its state is not readable.
    pub async fn restore(shared: Arc<Shared>, guard: Guard, policies: Policies) -> Result<Box<Self>, LoadError> {
        let state = shared.world.store().load(&guard.key).await?.unwrap_or_else(State::new);
        // A rollout under way goes on under the policy of whoever asked for it.
        let policy = state.trial.as_ref().map_or_else(|| policies.of_guard(), |trial| policies.of(&trial.request.actor));
        let policy = shared.policy(policy);
        let clock = shared.world.clock().not_before(state.mono);
        shared.neighbours.watch(&guard.key, &guard.spec.source);
        if let Some(revert) = state.last_revert.as_ref().filter(|revert| revert.by.is_none()) {
            // An earlier controller's breach counts as long as if this one had seen it.
            let ago = clock.now().mono.since(revert.since.mono);
            shared.neighbours.breached(&guard.key, shared.world.clock().now().mono.before(ago));
        }
        let machine = Machine::restore(guard.clone(), Arc::clone(&policy), state);
        let (urgent_in, urgent) = mpsc::channel(URGENT_MAX);
        let (view, seen) = watch::channel(Arc::new(look_at(&machine)));
        shared.handle.connect(guard.key.clone(), Line { urgent: urgent_in, view: seen });
        Ok(Box::new(Self {
            shared,
            guard,
            policies,
            policy,
            order: Order::new(machine),
            scope: Scope::default(),
            clock,
            seen: None,
            view,
            urgent,
            back: JoinSet::new(),
            queued: Queued::default(),
        }))
    }

    /// Starts again whenever the store shows a `revision` that is newer than this rollout's own: somebody else decided.
    #[must_use]
    pub fn following(mut self: Box<Self>, revision: watch::Receiver<u64>) -> Box<Self> {
        self.seen = Some(revision);
        self
    }

    /// Runs until `stop` says so; what is under way is left to the next controller.
    pub async fn run(mut self: Box<Self>, mut ordinary: mpsc::Receiver<Box<Input>>, mut stop: watch::Receiver<bool>) {
        let shared = Arc::clone(&self.shared);
        loop {
            // Heard from here on: what changes while this rollout is at work is not missed.
            let changed = shared.changed.notified();
            self.documents();
            // Nothing is decided, and nothing left open is gone on with, but in the knowledge of who breaches beside it.
            self.surroundings();
            self.work(&mut stop).await;
            if *stop.borrow() {
                return;
            }
            let wake = self.order.wake_at().map(|at| tokio::time::Instant::from_std(self.clock.instant_of(at)));
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(message) = self.urgent.recv() => self.arrived(message),
                Some(back) = self.back.join_next() => self.came_back(back),
                () = changed => {}
                _ = stop.changed() => {}
                () = newer(&mut self.seen, self.order.machine().state().revision) => {
                    tracing::info!(rollout = %self.guard.key, "somebody else decided; going on from there");
                    if !Box::pin(self.start_again(&mut stop)).await {
                        return;
                    }
                }
                Some(input) = ordinary.recv() => self.order.push(*input, None),
                () = sleep => {
                    let late = wake.map_or(Duration::ZERO, |due| tokio::time::Instant::now().saturating_duration_since(due));
                    work().woke(late, self.guard.interval.0);
                    self.order.wake();
                }
            }
            // Whatever else is urgent goes in before anything is done.
            while let Ok(message) = self.urgent.try_recv() {
                self.arrived(message);
            }
        }
    }

    fn arrived(&mut self, message: Message) {
        if let Input::Deployed(deployed) = &*message.input {
            let policy = self.policies.of(&deployed.request.actor);
            self.comes_under(policy);
        }
        self.order.push(*message.input, message.answer);
    }

    fn came_back(&mut self, back: Result<Back, tokio::task::JoinError>) {
        match back {
            Ok(Back::Ended(id, lane, outcome)) => self.order.finished(id, lane, outcome),
            Ok(Back::Looked(looked)) => self.order.push(Input::Looked(looked), None),
            Ok(Back::Committed(how)) => self.order.committed(how),
            Err(error) => {
                tracing::error!(rollout = %self.guard.key, %error, "an effect's task broke; it is tried again after its deadline");
            }
        }
    }

    /// Takes in documents that were loaded again. What tightens holds at once; what loosens, for the next attempt.
    fn documents(&mut self) {
        let loaded = self.shared.documents();
        if Arc::ptr_eq(&loaded, &self.policies.loaded) {
            return;
        }
        let Some((metadata, spec)) = loaded.rollouts.get(&self.guard.key) else {
            tracing::warn!(rollout = %self.guard.key, "its document is gone; it stays guarded as before until the controller starts again");
            self.policies.loaded = loaded;
            return;
        };
        self.policies = Policies::new(Arc::clone(&loaded), metadata.clone(), spec);
        let guard = super::standalone::guard(&loaded, self.guard.uid.clone(), &self.guard.key, &self.policies, spec);
        if guard != self.guard {
            self.guard = guard.clone();
            self.shared.neighbours.watch(&guard.key, &guard.spec.source);
            self.order.push(Input::SpecChanged(Box::new(guard)), None);
        }
        let state = self.order.machine().state();
        let policy = match &state.trial {
            Some(trial) if !state.phase.kind().is_resting() => self.policies.of(&trial.request.actor).tighter(&self.policy),
            _ => self.policies.of_guard(),
        };
        self.comes_under(policy);
    }

    fn comes_under(&mut self, policy: Policy) {
        if policy != *self.policy {
            self.policy = self.shared.policy(policy);
            self.order.push(Input::PolicyChanged(Arc::clone(&self.policy)), None);
        }
    }

    /// Tells the machine when freezes or neighbours' breaches changed.
    fn surroundings(&mut self) {
        let scope = self.shared.neighbours.scope(&self.guard.key, self.shared.world.clock().now().mono);
        if scope != self.scope {
            self.scope = scope.clone();
            self.order.push(Input::ScopeChanged(scope), None);
        }
    }

    /// Does everything that does not wait for the world.
    async fn work(&mut self, stop: &mut watch::Receiver<bool>) {
        while let Some(step) = self.order.next(self.clock.now()) {
            match step {
                Step::Start(effect) => self.start(effect),
                Step::Commit(commit) => self.commit(commit),
                Step::Answer(asker, answer) => {
                    // Whoever is answered and looks finds what the answer says.
                    self.show();
                    drop(asker.send(answer));
                }
                Step::Stale => {
                    Box::pin(self.start_again(stop)).await;
                    return;
                }
            }
        }
        self.show();
    }

    /// Shows where the rollout stands to whoever looks.
    fn show(&self) {
        let view = look_at(self.order.machine());
        self.view.send_if_modified(|old| {
            let changed = **old != view;
            if changed {
                *old = Arc::new(view);
            }
            changed
        });
    }

    fn subjects(&self, action: &Action) -> Subjects {
        let state = self.order.machine().state();
        let acts = matches!(
            action,
            Action::EnsureArm { .. } | Action::EnsureWeights { .. } | Action::EnsureRelease { .. } | Action::EnsureHold { .. }
        );
        Subjects {
            guard: self.guard.clone(),
            policy: self.order.machine().limits(),
            generation: state.generation,
            stable: state.stable.clone(),
            way_back: state.way_back().cloned(),
            revert: state.phase.revert().map(|revert| revert.id.clone()),
            reverting: state.phase.revert().filter(|_| state.phase.kind().reverts()).map(|revert| revert.id.clone()),
            ledger: if acts { state.ledger.records().to_vec() } else { Vec::new() },
        }
    }

    fn start(&mut self, effect: Effect) {
        let shared = Arc::clone(&self.shared);
        let (subjects, clock) = (self.subjects(&effect.action), self.clock);
        tracing::debug!(rollout = %self.guard.key, id = %effect.id, action = effect.action.name(), "start");
        // What is tried again while it waits for its turn keeps its place: this try begins with that turn.
        if !queue(&self.queued).insert(effect.id) {
            return;
        }
        let queued = Arc::clone(&self.queued);
        self.back.spawn(async move {
            let begins = || {
                queue(&queued).remove(&effect.id);
            };
            match shared.world.perform(&subjects, &effect, clock, begins).await {
                Performed::Ended(outcome) => Back::Ended(effect.id, effect.lane, outcome),
                Performed::Looked(looked) => Back::Looked(looked),
            }
        });
    }

    fn commit(&mut self, commit: Arc<Commit>) {
        let shared = Arc::clone(&self.shared);
        let key = self.guard.key.clone();
        if commit.records.iter().any(Record::is_breach) {
            shared.neighbours.breached(&key, shared.world.clock().now().mono);
            shared.ring();
        }
        self.back.spawn(async move {
            let begun = clock::instant();
            let ended = shared.world.commit(&key, &commit).await;
            work().committed(outcome_word(&ended), clock::instant().saturating_duration_since(begun));
            match ended {
                Ok(_) => {
                    for record in &commit.records {
                        log(&key, record);
                        shared.handle.publish(Arc::new(record.clone()));
                    }
                    Back::Committed(Committed::Done)
                }
                Err(CommitError::LostSwap { found }) => {
                    tracing::warn!(
                        rollout = key,
                        expected = commit.expected,
                        found,
                        "another controller decided; starting again from its state"
                    );
                    Back::Committed(Committed::Lost)
                }
                Err(CommitError::Unavailable(what)) => {
                    let kept = shared.world.store().spool(&key, &commit).await;
                    tracing::error!(rollout = key, what, ?kept, "the store does not take commits; nothing forward is done until it does");
                    tokio::time::sleep(STORE_PAUSE).await;
                    Back::Committed(Committed::Unavailable)
                }
            }
        });
    }

    /// The swap was lost: what this machine thought is dropped. What it saw stands, and what it was told it is told again.
    /// Whether it has; it does not once `stop` says so.
    async fn start_again(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        self.back.abort_all();
        while self.back.join_next().await.is_some() {}
        queue(&self.queued).clear();
        let state = loop {
            match self.shared.world.store().load(&self.guard.key).await {
                Ok(state) => break state.unwrap_or_else(State::new),
                Err(error) => tracing::error!(rollout = %self.guard.key, %error, "the state cannot be read"),
            }
            tokio::select! {
                () = self.turn_away() => {}
                _ = stop.changed() => return false,
            }
        };
        let observed = self.order.machine().workload().clone();
        self.clock = self.clock.not_before(state.mono);
        self.order.restart(Machine::restore(self.guard.clone(), Arc::clone(&self.policy), state));
        self.order.push(Input::Observed(observed), None);
        self.scope = Scope::default();
        self.surroundings();
        true
    }

    /// Leaves a store that cannot be read alone for a moment. Whoever has asked, or asks meanwhile, is told so at once, and can act without
    /// this controller; what nobody waits for is taken in later.
    async fn turn_away(&mut self) {
        self.order.forget_askers();
        let over = tokio::time::sleep(STORE_PAUSE);
        let mut over = std::pin::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(Message { input, answer }) = self.urgent.recv() => match answer {
                    Some(asker) => drop(asker),
                    None => self.order.push(*input, None),
                },
            }
        }
    }
}

/// Ends when the store shows a revision after `known`; never where it does not tell.
async fn newer(seen: &mut Option<watch::Receiver<u64>>, known: u64) {
    if let Some(seen) = seen
        && seen.wait_for(|revision| *revision > known).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

fn look_at(machine: &Machine) -> (View, RevertPlan) {
    let guard = machine.guard();
    let plan = RevertPlan::of(&guard.key, &guard.uid, &guard.spec, machine.state(), machine.workload());
    (View::of(machine), plan)
}

fn outcome_word<T>(ended: &Result<T, CommitError>) -> &'static str {
    match ended {
        Ok(_) => "done",
        Err(CommitError::LostSwap { .. }) => "lost",
        Err(CommitError::Unavailable(_)) => "unavailable",
    }
}

fn log(key: &str, record: &Record) {
    if let Event::Decision { decision, .. } = &record.event {
        let code = record.reason.as_ref().map_or("", crate::core::reason::Reason::code);
        let reason = record.reason.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::info!(rollout = key, ?decision, code, reason, result = record.result, phase = record.phase, "decided");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::core::actor::Request;
    use crate::core::input::{Commanded, Verb};
    use crate::shell::handle::SendError;
    use crate::shell::standalone::{Setup, guard, open_world};

    const KEY: &str = "shop/checkout";

    async fn shared(dir: &Path) -> Arc<Shared> {
        let rollouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("rollouts");
        let setup = Setup {
            data_dir: dir.to_owned(),
            specs: Vec::new(),
            host_socket: dir.join("host.sock"),
            content: dir.join("content"),
            docker_config: None,
            webhook: None,
        };
        let loaded = Arc::new(crate::spec::load(&[rollouts.join("canary-process.yaml"), rollouts.join("policy.yaml")]));
        Arc::new(Shared::new(open_world(&setup, &Loaded::default()).await.unwrap(), loaded))
    }

    /// Asks until the answer is as wanted; each has to come soon.
    async fn ask_until(handle: &Handle, wanted: impl Fn(&Result<Answer, SendError>) -> bool) {
        for _ in 0..200 {
            let pause = Input::Commanded(Commanded { verb: Verb::Pause, request: Request::default() });
            let answer = tokio::time::timeout(Duration::from_secs(5), handle.ask(KEY, pause)).await.expect("an answer in time");
            if wanted(&answer) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no answer was as wanted");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_state_that_cannot_be_read_keeps_neither_askers_nor_the_end_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path()).await;
        let loaded = shared.documents();
        let (metadata, spec) = &loaded.rollouts[KEY];
        let policies = Policies::new(Arc::clone(&loaded), metadata.clone(), spec);
        let guard = guard(&loaded, "uid".into(), KEY, &policies, spec);
        let rollout = Rollout::restore(Arc::clone(&shared), guard, policies).await.unwrap();
        let ((newest, seen), (stop, stopped), (_eyes, ordinary)) = (watch::channel(0), watch::channel(false), mpsc::channel(1));
        let task = tokio::spawn(rollout.following(seen).run(ordinary, stopped));
        ask_until(&shared.handle, Result::is_ok).await;

        let database = rusqlite::Connection::open(dir.path().join("store/backstop.db")).unwrap();
        database.execute_batch("ALTER TABLE workload RENAME TO away").unwrap();
        newest.send_replace(1_000_000);
        ask_until(&shared.handle, |answer| *answer == Err(SendError::Gone(KEY.into()))).await;
        newest.send_replace(0);
        database.execute_batch("ALTER TABLE away RENAME TO workload").unwrap();
        ask_until(&shared.handle, Result::is_ok).await;

        database.execute_batch("ALTER TABLE workload RENAME TO away").unwrap();
        newest.send_replace(1_000_000);
        ask_until(&shared.handle, Result::is_err).await;
        stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(5), task).await.expect("it ends").unwrap();
    }
}
