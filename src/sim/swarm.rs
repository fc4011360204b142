//! Random lives: drawn, lived in two phases, judged.

use std::fmt;
use std::sync::Arc;

use super::faults::Faults;
use super::house;
use super::life::Life;
use super::oracle::Violation;
use super::people::{self, IMAGES};
use super::prng::Random;
use super::traffic::Lie;
use crate::core::input::{Parts, Verb};
use crate::core::invariant::Invariant;
use crate::core::machine::Machine;
use crate::core::reason::Reason;
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::spec::{Objective, OnDeadline, OnNewer, Percent, Strategy};
use crate::core::state::{Guard, Key, PhaseKind, State, Task};
use crate::core::time::Mono;
use crate::core::work::Action;

/// How long everything may take to come to rest in a world that works, in seconds.
const REST_WITHIN: u64 = 2_400;
/// After so long, in milliseconds, what waits for a person is taken to wait for good: every stage's deadline has passed twice.
const PATIENCE: u64 = 300_000;

/// Looks after which people let a life be.
const LOOKS: u64 = 90;

/// How often a deployer touches a release.
const TOUCHES: u32 = 24;

/// How a life went.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it was drawn from.
    pub seed: u64,
    /// The broken rule, if one was.
    pub violation: Option<Violation>,
    /// The last lines of its transcript.
    pub lines: Vec<String>,
    /// Digest of the whole transcript.
    pub digest: u64,
    /// Commits in it.
    pub commits: u64,
    /// Looks in it, of all controllers.
    pub looks: u64,
    /// The phase at the end.
    pub phase: PhaseKind,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        match &self.violation {
            Some(violation) => {
                writeln!(f, "\nseed {} of {}: {violation}", self.seed, super::REVISION)?;
                write!(f, "again: backstop simulate --self --seed {}", self.seed)
            }
            None => write!(f, "seed {}: {} commits, ends {}, transcript {:016x}", self.seed, self.commits, self.phase, self.digest),
        }
    }
}

/// Draws a life from a seed.
pub fn draw(seed: u64) -> Life {
    let mut random = Random::new(seed ^ 0x5eed_0f11_fe00);
    let faults = if random.chance(0.1) { Faults::none() } else { Faults::draw(&mut random) };
    let replicas = random.pick(&[1, 1, 2, 3]);
    let mut policy = house::policy();
    policy.restores_per_hour = random.pick(&[0, 1, 3, 3]);
    if random.chance(0.2) {
        policy.approvals = u32::try_from(random.between(1, 2)).unwrap_or(1);
        policy.approve_within = crate::core::time::Span::seconds(120);
    }
    let rollouts = random.pick(&[1_u32, 20, 50]);
    let mut life = Life::new(seed, draw_guard(&mut random), policy, faults, replicas);
    for neighbour in 0..rollouts.saturating_sub(1) {
        life.neighbours.watch(&format!("shop/{neighbour}"), "host");
    }
    life.neighbours.watch(&life.world.guard.key, "host");
    let truth = &mut life.world.truth;
    truth.rate = random.pick(&[0, 5, 50, 200, 200]);
    for image in &IMAGES[1..] {
        let digest = Digest::of(image.as_bytes());
        match random.between(0, 7) {
            0..=2 => drop(truth.bad_images.insert(digest, (random.pick(&[0.05, 0.2, 1.0]), 0))),
            3 => drop(truth.bad_images.insert(digest, (0.3, random.between(20, 120) * 1000))),
            4 if random.chance(0.3) => truth.harmful = Some((digest, 0.4)),
            5 if random.chance(0.5) => drop(life.world.broken.insert(digest)),
            _ => {}
        }
    }
    if random.chance(0.08) {
        life.world.traffic.lie = Some((random.pick(&[Lie::Nan, Lie::Nan, Lie::Frozen, Lie::Future]), 0));
    }
    let truth = &mut life.world.truth;
    if random.chance(0.3) {
        let from = random.between(10, 150) * 1000;
        truth.outage = Some((from, from + random.between(2, 90) * 1000, 0.5));
    }
    for image in IMAGES {
        let good = image == "v1" || random.chance(0.9);
        life.world.evidence.entry(Digest::of(image.as_bytes())).or_default().good = good;
    }
    // Tampering is drawn per life, for it does not come and go.
    for image in IMAGES {
        let tampered = random.chance(life.faults.tampered);
        life.world.evidence.entry(Digest::of(image.as_bytes())).or_default().tampered = tampered;
    }
    life
}

fn draw_guard(random: &mut Random) -> Guard {
    let mut strategy = match random.between(0, 4) {
        0 => house::blue_green(),
        1 if random.chance(0.5) => house::observe(),
        _ => house::canary(),
    };
    let (newer, late) = (
        random.pick(&[OnNewer::Supersede, OnNewer::Supersede, OnNewer::QueueLatest, OnNewer::Refuse]),
        random.pick(&[None, Some(OnDeadline::Wait), Some(OnDeadline::Retreat), Some(OnDeadline::Revert)]),
    );
    match &mut strategy {
        Strategy::Canary(canary) => (canary.on_newer, canary.on_deadline) = (newer, late),
        Strategy::BlueGreen(blue_green) => (blue_green.on_newer, blue_green.on_deadline) = (newer, late),
        Strategy::Observe(_) => {}
    }
    let mut guard = house::guard(strategy);
    if random.chance(0.3) {
        let objectives = &mut Arc::make_mut(&mut guard.spec).objectives;
        let latency = Objective { name: "latency".into(), ..objectives[0].clone() };
        objectives.push(latency);
    }
    if matches!(guard.spec.strategy, Strategy::Canary(_)) && random.chance(0.4) {
        Arc::make_mut(&mut guard.spec).watch.holdback = Percent::new(10.0);
    }
    guard
}

/// Lives the life of a seed: safety under faults, then liveness in a healed world.
pub fn live(seed: u64) -> Report {
    live_with(seed, 40)
}

/// The same without a transcript, unless it broke a promise: then it is lived again and told.
pub fn live_untold(seed: u64) -> Report {
    let report = live_with(seed, 0);
    if report.violation.is_some() { live(seed) } else { report }
}

/// The transcripts of these lives in one number: the same whatever built and runs them.
pub fn transcripts(seeds: std::ops::RangeInclusive<u64>) -> u64 {
    seeds.fold(0, |all, seed| (all ^ live(seed).digest).wrapping_mul(0x0100_0000_01b3))
}

/// The same, keeping so many lines of the transcript.
pub fn live_with(seed: u64, lines: usize) -> Report {
    if seed % 20 == 7 {
        let mut life = touched(seed, lines);
        life.violation = life.violation.take().or_else(|| found_out(&life).err());
        rest(&mut life);
        return report(seed, &life);
    }
    if seed % 40 == 13 {
        let mut life = misled(seed, lines);
        rest(&mut life);
        return report(seed, &life);
    }
    let mut life = draw(seed);
    life.keep = lines;
    life.deploy(&house::release("v1", 0), house::person("ann"));
    life.run(3);
    if life.random.chance(0.8) {
        life.until(90, |life| matches!(life.phase(), PhaseKind::Watching | PhaseKind::Idle));
        life.command(Verb::Adopt, house::person("ann"));
    }
    if life.random.chance(0.4) {
        second_good(&mut life);
        choices(&mut life);
    }
    let acts = life.random.between(3, 25);
    for _ in 0..acts {
        let pause = life.random.between(0, 20);
        life.run(pause);
        people::act(&mut life);
        if life.violation.is_some() || life.looks > LOOKS {
            break;
        }
    }
    rest(&mut life);
    report(seed, &life)
}

fn report(seed: u64, life: &Life) -> Report {
    Report {
        seed,
        violation: life.violation.clone(),
        lines: life.lines.iter().cloned().collect(),
        digest: life.digest,
        commits: life.oracle.commits,
        looks: life.looks,
        phase: life.phase(),
    }
}

/// Another release becomes known good, so that there is something to choose from.
fn second_good(life: &mut Life) {
    life.until(10, |life| life.phase() == PhaseKind::Idle);
    let image = life.random.pick(&IMAGES[1..]);
    life.deploy(&house::release(image, 0), house::person("bob"));
    if life.until(5, |life| life.phase() == PhaseKind::Advancing) {
        life.run(1);
        life.command(Verb::Promote, house::person("ann"));
    }
    life.until(5, |life| life.phase() == PhaseKind::Watching);
    life.command(Verb::Adopt, house::person("ann"));
    life.run(2);
}

/// There is something to choose from when a revert comes: what is quarantined, what does not verify, what a wave holds back.
fn choices(life: &mut Life) {
    if life.random.chance(0.3) {
        (0..5).for_each(|other| life.neighbours.breached(&format!("shop/{other}"), Mono(life.world.now)));
        life.run(6);
    }
    if life.random.chance(0.6) {
        let by = life.random.pick(&[house::agent("bot"), house::agent("bot"), house::person("bob")]);
        life.command(Verb::Revert { to: None, parts: Parts::All, break_glass: false }, by);
        life.until(20, |life| life.phase().is_resting());
    }
    if life.random.chance(0.4) {
        let tampered = life.random.chance(0.7);
        life.world.evidence.entry(Digest::of(b"v1")).or_default().tampered = tampered;
        second_good(life);
        life.command(Verb::Revert { to: None, parts: Parts::All, break_glass: false }, house::person("bob"));
        life.run(5);
    }
}

/// Whatever is not a number proves nothing: a bad release goes no further while its source has nothing else to say.
fn misled(seed: u64, lines: usize) -> Life {
    let mut life = clean(seed, lines);
    life.world.traffic.lie = Some((Lie::Nan, life.world.now));
    life.world.truth.bad_images.insert(Digest::of(b"v2"), (0.2, 0));
    life.deploy(&house::release("v2", 0), house::person("bob"));
    life.run(70);
    life
}

/// A life without faults, in which `v1` is known good.
fn clean(seed: u64, lines: usize) -> Life {
    let mut random = Random::new(seed ^ 0x70_0c4e_d000);
    let mut life = Life::new(seed, house::guard(house::canary()), house::policy(), Faults::none(), 1);
    life.keep = lines;
    life.world.truth.rate = random.pick(&[100, 200]);
    for image in ["v1", "v2"] {
        life.world.evidence.entry(Digest::of(image.as_bytes())).or_default().good = true;
    }
    life.deploy(&house::release("v1", 0), house::person("ann"));
    life.until(90, |life| life.phase() == PhaseKind::Watching);
    life.command(Verb::Adopt, house::person("ann"));
    life.run(2);
    life
}

/// A deployer touches a bad release every so often, to shake its evidence off. It must be found out all the same.
fn touched(seed: u64, lines: usize) -> Life {
    let mut life = clean(seed, lines);
    let share = life.random.pick(&[0.05, 0.06]);
    life.world.truth.bad_images.insert(Digest::of(b"v2"), (share, 0));
    let pause = life.random.between(6, 9);
    for touch in 0..TOUCHES {
        life.deploy(&house::release("v2", touch), house::agent("bot"));
        life.run(pause);
    }
    life
}

/// A release that served so many requests, so many of them bad, was taken out: no touch keeps it.
fn found_out(life: &Life) -> Result<(), Violation> {
    let served: u64 = (0..TOUCHES).filter_map(|touch| life.world.traffic.served.get(&house::release("v2", touch).id)).sum();
    if served < 1_500 || !life.oracle.reverted.is_empty() {
        return Ok(());
    }
    let what = format!("{served} requests by a bad image that was touched again and again, and it was never taken out");
    Err(Violation { invariant: Some(Invariant::I13), what })
}

/// Heals the world; people let go; everything must come to rest, with nothing left to do and nothing bad in front.
fn rest(life: &mut Life) {
    if life.violation.is_some() {
        return;
    }
    life.heal();
    let healed = life.world.now;
    for verb in [Verb::Resume, Verb::Thaw, Verb::Arm] {
        life.command(verb, house::person("ann"));
    }
    life.neighbours.freeze("*", false, Some(house::person("ann")));
    life.run(2);
    let quiet = |life: &Life| {
        let Some(machine) = life.machine().filter(|machine| !machine.is_dirty()) else { return false };
        let state = machine.state();
        let unready = matches!(machine.waiting(), Some(Reason::NotReady { .. }));
        let waits = matches!(state.phase.kind(), PhaseKind::Promoting | PhaseKind::Advancing) && unready;
        let waits = waits || shares_the_cause(life, machine);
        let watches = state.phase.kind() == PhaseKind::Watching || waits || life.world.now > healed + PATIENCE && waits_for_requests(life);
        let ended = state.phase.kind().is_resting() && (state.queued.is_none() || state.phase.kind() == PhaseKind::Stuck);
        (ended || watches) && open_for_good(life, state) && !hides(life, machine)
    };
    let rested = life.until(REST_WITHIN, quiet);
    if life.violation.is_none() && !rested {
        let state = life.state();

        let open: Vec<_> = state.tasks.values().map(|task| format!("{} {:?}", task.effect.action.name(), task.trouble)).collect();
        let waiting = life.machine().and_then(|machine| machine.waiting()).map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let what = format!("{} did not come to rest within {REST_WITHIN} s; waiting for {waiting}; open: {open:?}", state.phase.kind());
        life.violation = Some(Violation { invariant: Some(Invariant::I8), what });
        return;
    }
    if life.violation.is_none() {
        life.violation = bad_in_front(life).and_then(|()| life.oracle.ended(&life.world)).err();
    }
}

/// Whether nothing is open but what waits for members that will never serve.
fn open_for_good(life: &Life, state: &State) -> bool {
    let never = |id: &ReleaseId| life.world.members.get(id).is_none_or(|members| members.failing.is_some());
    let waits = |task: &Task| match &task.effect.action {
        Action::EnsureWeights { weights } => weights.iter().any(|(id, share)| *share > Percent::ZERO && never(id)),
        Action::EnsureArm { present, .. } => !present,
        _ => false,
    };
    state.tasks.is_empty() || state.tasks.contains_key(&Key::Weights) && state.tasks.values().all(waits)
}

/// Nothing that was taken out gets requests, if anything known good could serve them.
fn bad_in_front(life: &Life) -> Result<(), Violation> {
    let state = life.state();
    let Some(revert) = state.phase.revert().filter(|revert| revert.parts == crate::core::input::Parts::All) else { return Ok(()) };
    let Some(under) = &revert.under else { return Ok(()) };
    let serves = |stable: &ReleaseId| *stable != under.id && life.world.is_live(stable) && !state.ledger.is_quarantined(stable);
    let other = state.stable.as_ref().is_some_and(serves);
    if other && life.world.weight(&under.id) > 0.0 {
        let what = format!("{under} still gets requests while {}", state.phase.kind());
        return Err(Violation { invariant: Some(Invariant::I8), what });
    }
    Ok(())
}

/// Whether a release that is bad by the truth of the traffic still gets requests and is judged: it must be taken out.
fn hides(life: &Life, machine: &Machine) -> bool {
    let (state, world) = (machine.state(), &life.world);
    let Some(candidate) = state.candidate().filter(|candidate| world.is_live(&candidate.id)) else { return false };
    let share = |release: &Release| world.truth.own_share(release, world.now);
    let stable = state.stable.as_ref().and_then(|id| state.release(id)).is_some_and(|stable| share(stable) > 0.005);
    let harmed = world
        .truth
        .harmful
        .as_ref()
        .is_some_and(|(image, _)| state.trial.as_ref().is_some_and(|_| image == &candidate.template.image().digest));
    let served = world.weight(&candidate.id) * (world.truth.rate as f64) >= 1.0;
    let judged = matches!(state.phase.kind(), PhaseKind::Advancing | PhaseKind::Watching);
    judged && served && share(candidate) >= 0.05 && !stable && !harmed && !loosened(state)
}

/// Whether stable is bad, or exhausts what all share, without the candidate's help: people were paged, and it is theirs to mend.
fn shares_the_cause(life: &Life, machine: &Machine) -> bool {
    let state = machine.state();
    let stable = state.stable.as_ref().and_then(|id| state.release(id));
    let truth = &life.world.truth;
    let bad = stable.is_some_and(|stable| truth.own_share(stable, life.world.now) > 0.005 || truth.is_bad(stable));
    bad && matches!(machine.waiting(), Some(Reason::SharedCause { .. }))
}

/// Whether the document that the attempt was admitted under finds so many errors good.
fn loosened(state: &State) -> bool {
    state.trial.as_ref().is_some_and(|trial| trial.spec.objectives.iter().any(|objective| objective.good < Percent::new(99.0)))
}

/// A guard that says to wait waits for ever if there is nothing to see; people were paged.
fn waits_for_requests(life: &Life) -> bool {
    let Some(state) = life.committed() else { return true };
    let waits = state.trial.as_ref().is_some_and(|trial| match trial.plan.on_deadline {
        Some(OnDeadline::Revert | OnDeadline::Retreat) => false,
        Some(OnDeadline::Wait | OnDeadline::PromoteOnHealth) => true,
        None => trial.request.actor.is_human(),
    });
    let nowhere = state.stable.as_ref().is_none_or(|stable| state.ledger.is_quarantined(stable));
    state.phase.kind() == PhaseKind::Advancing && (waits || nowhere)
}
