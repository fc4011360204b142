//! Every state within reach, breadth first: one workload, two releases, all verdicts, commands and outcomes, and a crash
//! allowed anywhere. Two states are one if they differ in nothing but times, counters and messages.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use super::house;
use super::oracle::Violation;
use crate::core::actor::Request;
use crate::core::input::{ArmHealth, Commanded, Deployed, Input, Observation, Observed, Outcome, Parts, Verb};
use crate::core::invariant::Invariant;
use crate::core::machine::Machine;
use crate::core::reason::{Counts, Reason, Verdict};
use crate::core::spec::{Percent, Strategy};
use crate::core::state::{Guard, Phase, PhaseKind, State};
use crate::core::time::{Mono, Now, Span};
use crate::core::work::{Action, Effect, Work};
use crate::host::decide;
use crate::host::record::WorkloadRecord;
use crate::host::wire::Ensure;

/// Effects under way that are told apart; the newest beyond that wait.
const FLIGHTS: usize = 2;

/// Paths that the lanes expand before what they found is put together, in order.
const BATCH: usize = 512;
/// Threads that expand.
const LANES: usize = 2;

/// A state of machine and world.
#[derive(Debug, Clone)]
struct Node {
    machine: Machine,
    committed: Arc<State>,
    host: WorkloadRecord,
    failing: bool,
    flights: Vec<Effect>,
    now: Mono,
}

/// The way to a state: its root, and of each step the place among the choices with the crash. A state is some ten kilobytes,
/// its way a few bytes, and going it again costs less than the steps that are tried from there.
#[derive(Debug, Clone)]
struct Way {
    root: usize,
    steps: Vec<(u8, Crash)>,
}

/// What was found.
#[derive(Debug)]
pub struct Explored {
    /// Distinct states.
    pub states: usize,
    /// Transitions tried.
    pub transitions: u64,
    /// The longest shortest path.
    pub depth: usize,
    /// The first broken rule, with the way to it.
    pub violation: Option<(Violation, Vec<&'static str>)>,
}

/// What may happen next.
#[derive(Debug, Clone)]
enum Move {
    Tell(&'static str, Arc<Input>),
    Suppose(&'static str, Arc<Verdict>),
    Seen { failing: bool },
    End(usize, Option<Outcome>),
    Later,
}

impl Move {
    fn name(&self) -> &'static str {
        match self {
            Self::Tell(name, _) | Self::Suppose(name, _) => name,
            Self::Seen { failing: false } => "seen",
            Self::Seen { failing: true } => "seen failing",
            Self::End(_, None) => "done",
            Self::End(_, Some(Outcome::Denied(_))) => "denied",
            Self::End(_, Some(_)) => "transient",
            Self::Later => "later",
        }
    }
}

/// Goes through at most `most` distinct states. What is found does not depend on the number of threads.
pub fn explore(most: usize) -> Explored {
    let mut guard = house::guard(house::canary());
    if let Strategy::Canary(canary) = &mut Arc::make_mut(&mut guard.spec).strategy {
        canary.steps.truncate(1);
    }
    let first = root(guard);
    let mut roots = vec![first.clone()];
    roots.extend(settled(first));
    let mut seen: BTreeSet<u64> = roots.iter().map(digest).collect();
    let mut explored = Explored { states: seen.len(), transitions: 0, depth: 0, violation: None };
    let mut queue: VecDeque<Way> = (0..roots.len()).map(|root| Way { root, steps: Vec::new() }).collect();
    while !queue.is_empty() && seen.len() < most {
        let batch: Vec<Way> = queue.drain(..queue.len().min(BATCH)).collect();
        for lane in expand(&roots, &batch, &seen) {
            explored.transitions += lane.transitions;
            for (digest, way) in lane.found {
                if seen.len() < most && seen.insert(digest) {
                    explored.depth = explored.depth.max(way.steps.len());
                    queue.push_back(way);
                }
            }
            if let (Some((violation, way)), None) = (lane.violation, &explored.violation) {
                explored.violation = Some((violation, names(&roots, &way)));
            }
        }
        explored.states = seen.len();
        if explored.violation.is_some() {
            break;
        }
    }
    explored
}

/// What one thread found.
#[derive(Default)]
struct Lane {
    transitions: u64,
    found: Vec<(u64, Way)>,
    violation: Option<(Violation, Way)>,
}

/// Tries every step from the end of every way, the lanes side by side.
fn expand(roots: &[Node], batch: &[Way], seen: &BTreeSet<u64>) -> Vec<Lane> {
    let share = batch.len().div_ceil(LANES).max(1);
    std::thread::scope(|scope| {
        let lanes: Vec<_> = batch.chunks(share).map(|ways| scope.spawn(|| one_lane(roots, ways, seen))).collect();
        lanes.into_iter().filter_map(|lane| lane.join().ok()).collect()
    })
}

fn one_lane(roots: &[Node], ways: &[Way], seen: &BTreeSet<u64>) -> Lane {
    let mut lane = Lane::default();
    let mut new = BTreeSet::new();
    for way in ways {
        let node = go(roots, way);
        for (place, choice) in (0..).zip(moves(&node)) {
            for crash in crashes(&choice).iter().copied() {
                let mut next = node.clone();
                lane.transitions += 1;
                let steps = || Way { root: way.root, steps: way.steps.iter().copied().chain([(place, crash)]).collect() };
                if let Err(violation) = step(&mut next, &choice, crash) {
                    lane.violation = Some((violation, steps()));
                    return lane;
                }
                let digest = digest(&next);
                if !seen.contains(&digest) && new.insert(digest) {
                    lane.found.push((digest, steps()));
                }
            }
        }
    }
    lane
}

/// A crash before the commit forgets what happened, whatever it was: one is enough.
fn crashes(choice: &Move) -> &'static [Crash] {
    match choice {
        Move::Later => &[Crash::No, Crash::BeforeCommit, Crash::AfterCommit],
        Move::Tell(..) | Move::Suppose(..) | Move::Seen { .. } | Move::End(..) => &[Crash::No, Crash::AfterCommit],
    }
}

/// Goes a way again.
fn go(roots: &[Node], way: &Way) -> Node {
    let mut node = roots[way.root].clone();
    for (place, crash) in &way.steps {
        if let Some(choice) = moves(&node).into_iter().nth(usize::from(*place)) {
            // It was gone before, and broke nothing.
            let _ = step(&mut node, &choice, *crash);
        }
    }
    node
}

/// A way in words.
fn names(roots: &[Node], way: &Way) -> Vec<&'static str> {
    let mut node = roots[way.root].clone();
    let mut names = if way.root == 0 { Vec::new() } else { vec!["v1 is known good"] };
    for (place, crash) in &way.steps {
        let Some(choice) = moves(&node).into_iter().nth(usize::from(*place)) else { break };
        names.push(choice.name());
        names.extend((*crash != Crash::No).then_some("crash"));
        let _ = step(&mut node, &choice, *crash);
    }
    names
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    No,
    BeforeCommit,
    AfterCommit,
}

fn root(guard: Guard) -> Node {
    let process = house::process(&guard.spec.workload);
    let (state, policy) = (State::new(), house::policy());
    let machine = Machine::restore(guard, policy, state.clone());
    let host = WorkloadRecord::new("shop", "checkout", process);
    Node { machine, committed: Arc::new(state), host, failing: false, flights: Vec::new(), now: Mono(0) }
}

/// The same with `v1` known good: the straight way there.
fn settled(mut node: Node) -> Option<Node> {
    let ann = house::person("ann");
    let deploys = Input::Deployed(Deployed { release: house::release("v1", 0), request: ann });
    step(&mut node, &Move::Tell("ann deploys v1", Arc::new(deploys)), Crash::No).ok()?;
    for _ in 0..100 {
        let choice = if !node.flights.is_empty() {
            Move::End(0, None)
        } else if node.machine.workload().arms.len() < node.host.arms.len() {
            Move::Seen { failing: false }
        } else {
            Move::Suppose("pass", Arc::new(Verdict::Pass))
        };
        step(&mut node, &choice, Crash::No).ok()?;
        let state = node.machine.state();
        if state.phase.kind() == PhaseKind::Idle && state.stable.is_some() && state.tasks.is_empty() {
            return Some(node);
        }
    }
    None
}

/// What may be said at any time.
static TOLD: LazyLock<Vec<Move>> = LazyLock::new(|| {
    let (ann, bot) = (house::person("ann"), house::agent("bot"));
    let deploy = |name, image, by: &Request| {
        Move::Tell(name, Arc::new(Input::Deployed(Deployed { release: house::release(image, 0), request: by.clone() })))
    };
    let say = |name, verb, by: &Request| Move::Tell(name, Arc::new(Input::Commanded(Commanded { verb, request: by.clone() })));
    let revert = |parts| Verb::Revert { to: None, parts, break_glass: false };
    vec![
        deploy("ann deploys v1", "v1", &ann),
        deploy("ann deploys v2", "v2", &ann),
        deploy("bot deploys v2", "v2", &bot),
        say("revert", revert(Parts::All), &ann),
        say("bot reverts", revert(Parts::All), &bot),
        say("revert flags", revert(Parts::Flags), &ann),
        say("revert traffic", revert(Parts::Traffic), &ann),
        say("lift", Verb::Lift { release: None }, &ann),
        say("pause", Verb::Pause, &ann),
        say("resume", Verb::Resume, &ann),
        say("promote", Verb::Promote, &ann),
        say("disarm", Verb::Disarm { span: Span::seconds(30) }, &ann),
        say("adopt", Verb::Adopt, &ann),
        Move::Seen { failing: false },
        Move::Seen { failing: true },
        Move::Later,
    ]
});

/// What the judge may say while something is on trial or watched.
static SUPPOSED: LazyLock<Vec<Move>> = LazyLock::new(|| {
    let (objective, counts) = ("availability".to_owned(), Counts::default());
    let suppose = |name, verdict| Move::Suppose(name, Arc::new(verdict));
    vec![
        suppose("pass", Verdict::Pass),
        suppose("breach", Verdict::Breach(Reason::Breach { objective: objective.clone(), counts: counts.clone() })),
        suppose("shared", Verdict::Inconclusive(Reason::SharedCause { objective, counts })),
        suppose("blind", Verdict::Inconclusive(Reason::NoTraffic {})),
    ]
});

fn moves(node: &Node) -> Vec<Move> {
    let mut moves = TOLD.clone();
    if matches!(node.machine.state().phase.kind(), PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching) {
        moves.extend(SUPPOSED.iter().cloned());
    }
    for flight in 0..node.flights.len().min(FLIGHTS) {
        moves.push(Move::End(flight, None));
        moves.push(Move::End(flight, Some(Outcome::Transient { what: "not now".into(), retry_after: None })));
        moves.push(Move::End(flight, Some(Outcome::Denied("no".into()))));
    }
    moves
}

fn observed(node: &Node, failing: bool) -> Observed {
    let candidate = node.machine.state().candidate().map(|candidate| &candidate.id);
    let arms = node.host.arms.keys().map(|id| {
        let bad = failing && Some(id) == candidate;
        (id.clone(), ArmHealth { wanted: 1, ready: u16::from(!bad), failing: bad.then(|| "crash loop".to_owned()) })
    });
    Observed { arms: arms.collect(), weights: node.host.weights.clone(), current: node.host.current.clone() }
}

/// One thing happens, and the controller dies or not.
fn step(node: &mut Node, choice: &Move, crash: Crash) -> Result<(), Violation> {
    let broken = |invariant, what: &str| Violation { invariant: Some(invariant), what: what.to_owned() };
    node.now = node.now.after(std::time::Duration::from_millis(10));
    let mut person_reverts = false;
    match choice {
        Move::Tell(_, input) => {
            let reverts = |told: &Commanded| matches!(told.verb, Verb::Revert { parts: Parts::All, .. }) && told.request.actor.is_human();
            person_reverts = matches!(&**input, Input::Commanded(told) if reverts(told));
            node.machine.handle(now(node), Input::clone(input));
        }
        Move::Suppose(_, verdict) => node.machine.suppose(now(node), Verdict::clone(verdict)),
        Move::Seen { failing } => {
            let seen = observed(node, *failing);
            node.failing = seen.arms.values().any(|arm| arm.failing.is_some());
            node.machine.handle(now(node), Input::Observed(Arc::new(seen)));
        }
        Move::Later => {
            let Some(at) = node.machine.wake_at() else { return Ok(()) };
            node.now = node.now.max(at);
            node.machine.handle(now(node), Input::Woke);
        }
        Move::End(flight, outcome) => end(node, *flight, outcome.clone())?,
    }
    let answer = node.machine.answer();
    if person_reverts && let Some(answer) = answer {
        let nowhere = matches!(answer.reason, Reason::NoTarget {} | Reason::NothingToDo { .. });
        let obeyed = node.machine.state().phase.revert().is_some() || node.machine.state().phase.kind() == PhaseKind::Idle;
        if !(nowhere || answer.accepted && obeyed) {
            return Err(broken(Invariant::I6, &answer.reason.to_string()));
        }
    }
    take_work(node, crash);
    if let Some(invariant) = node.machine.halted() {
        return Err(broken(invariant, "the machine halted itself"));
    }
    let phase = node.machine.state().phase.kind();
    if node.machine.wake_at().is_none() && (!phase.is_resting() || !node.machine.state().tasks.is_empty()) {
        return Err(broken(Invariant::I12, &format!("{phase} sleeps for ever")));
    }
    Ok(())
}

fn now(node: &Node) -> Now {
    Now { wall: jiff::Timestamp::UNIX_EPOCH, mono: node.now }
}

/// Takes the work in hand: what is safe starts, the commit is written, and the rest starts, as far as the controller lives.
fn take_work(node: &mut Node, crash: Crash) {
    let Work { safe, commit, then } = node.machine.next_work(true);
    let told = |effect: &&Effect| matches!(effect.action, Action::Notify(_));
    let told: Vec<_> = then.iter().filter(told).filter(|_| crash == Crash::No).map(|effect| effect.id).collect();
    let moves = |effect: &Effect| !matches!(effect.action, Action::Look(_) | Action::Record | Action::Notify(_));
    node.flights.extend(safe.into_iter().filter(moves));
    if crash != Crash::BeforeCommit {
        if let Some(commit) = commit {
            node.committed = commit.state;
        }
        if crash == Crash::No {
            node.flights.extend(then.into_iter().filter(moves));
        }
    }
    if crash != Crash::No {
        let (guard, policy) = (node.machine.guard().clone(), Arc::clone(node.machine.policy()));
        node.machine = Machine::restore(guard, policy, State::clone(&node.committed));
        node.flights.clear();
        node.machine.handle(now(node), Input::Woke);
        take_work(node, Crash::No);
    }
    // Telling people succeeds at once; other worlds are the swarm's.
    for id in told {
        node.machine.handle(now(node), Input::Finished { id, outcome: Outcome::Done { changed: true, observed: Observation::Nothing } });
        take_work(node, Crash::No);
    }
}

/// An effect ends; the world does it if no outcome is given.
fn end(node: &mut Node, flight: usize, outcome: Option<Outcome>) -> Result<(), Violation> {
    let effect = node.flights.remove(flight);
    let done = Outcome::Done { changed: true, observed: Observation::Nothing };
    let outcome = outcome.unwrap_or_else(|| match &effect.action {
        Action::Verify { release, .. } => {
            Outcome::Done { changed: false, observed: Observation::Facts(Box::new(house::facts(release, true))) }
        }
        Action::EnsureArm { .. } | Action::EnsureWeights { .. } | Action::EnsureRelease { .. } | Action::EnsureHold { .. } => {
            let asked = Ensure::of(&effect, node.machine.state().stable.clone());
            match decide::ensure(&mut node.host, &asked) {
                Ok(()) => Outcome::Done { changed: true, observed: Observation::Workload(Arc::new(observed(node, node.failing))) },
                Err(outcome) => outcome,
            }
        }
        Action::Look(_) | Action::EnsureFlag(_) | Action::Notify(_) | Action::Record => done,
    });
    if let (Action::EnsureWeights { weights }, Some(trial)) = (&effect.action, &node.committed.trial)
        && matches!(outcome, Outcome::Done { .. })
        && trial.breached
        && node.committed.ledger.is_quarantined(&trial.candidate.id)
        && node.machine.wants(&effect)
        && weights.get(&trial.candidate.id).is_some_and(|share| *share > Percent::ZERO)
    {
        let what = format!("{} gets requests after its breach", trial.candidate);
        return Err(Violation { invariant: Some(Invariant::I2), what });
    }
    node.machine.handle(now(node), Input::Finished { id: effect.id, outcome });
    Ok(())
}

/// What tells two states apart.
fn digest(node: &Node) -> u64 {
    let state = node.machine.state();
    let mut text = Hash(0xcbf2_9ce4_8422_2325);
    let due = |at: Mono| at <= node.now;
    let phase = match &state.phase {
        Phase::Admitting { until } | Phase::AwaitingApproval { until } => due(*until).to_string(),
        Phase::Advancing(advancing) => format!("{} {}", advancing.stage, step_name(&advancing.step)),
        Phase::Reverting(revert) | Phase::Recovering(revert) | Phase::Reverted(revert) | Phase::Stuck { revert, .. } => {
            let back = (revert.traffic_back.is_some(), revert.flags_safe.is_some(), revert.release_back.is_some());
            let under = revert.under.as_ref().map(|release| &release.id);
            format!("{:?} {:?} {under:?} {back:?} {} {}", revert.parts, revert.target, revert.by_person(), revert.skipped.len())
        }
        Phase::Idle | Phase::Refused { .. } | Phase::Promoting { .. } | Phase::Watching { .. } => String::new(),
    };
    let overlays = (state.overlays.paused.is_some(), state.overlays.frozen.is_some(), state.overlays.disarmed_until.is_some());
    let _ = write!(text, "{} {phase} {overlays:?} {:?} {:?}", state.phase.kind(), state.stable, state.weights);
    for (key, task) in state.tasks.iter().filter(|(_, task)| !matches!(task.effect.action, Action::Notify(_))) {
        let present = matches!(task.effect.action, Action::EnsureArm { present: true, .. });
        let _ = write!(text, "|{key:?} {} {present} {} {}", task.safe, task.attempts.min(2), due(task.not_before));
    }
    for record in state.ledger.records() {
        let _ = write!(text, "|{} {:?} {}", record.release.id, record.standing, record.quarantined);
    }
    if let Some(trial) = &state.trial {
        let attested = (trial.candidate_attested, trial.stable_attested);
        let _ = write!(text, "|{} {attested:?} {} {}", trial.candidate.id, trial.breached, trial.retreats.min(2));
        let _ = write!(text, " {:?} {:?}", trial.request.actor.kind, (trial.blind.is_some(), trial.shared));
    }
    let verdict = node.machine.judgement().map(|judgement| match &judgement.verdict {
        Verdict::Pass => "pass",
        Verdict::Breach(_) => "breach",
        Verdict::Inconclusive(reason) => reason.code(),
    });
    let ready = state.readiness.as_ref().map(|readiness| (&readiness.target, readiness.missing.is_some()));
    let flights: Vec<_> = node.flights.iter().map(|effect| effect.action.name()).collect();
    let (arms, host) = (&node.machine.workload().arms, &node.host);
    let hosted: Vec<_> = host.arms.keys().collect();
    let _ =
        write!(text, "|{verdict:?} {ready:?} {flights:?} {arms:?} {hosted:?} {:?} {:?} {:?}", host.weights, host.current, host.quarantined);
    text.0
}

/// FNV-1a over what is written: of a million states two meet with a chance of 3e-8.
struct Hash(u64);

impl std::fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Ok(())
    }
}

fn step_name(step: &crate::core::state::StageStep) -> String {
    use crate::core::state::StageStep;
    match step {
        StageStep::Starting => "starting".into(),
        StageStep::Shifting => "shifting".into(),
        StageStep::Judging => "judging".into(),
        StageStep::Retreated(retreated) => format!("retreated {:?} {}", retreated.test, retreated.since.is_some()),
    }
}
