//! What should have happened: far simpler than the machine, and blind to how it decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use super::reference;
use super::world::World;
use crate::core::actor::ActorKind;
use crate::core::input::{Commanded, Input, Observation, Outcome, Parts, Scope, Verb};
use crate::core::invariant::Invariant;
use crate::core::machine::{Answer, Machine};
use crate::core::reason::{Reason, Verdict};
use crate::core::record::{Decision, Event, Record};
use crate::core::release::{Digest, ReleaseId};
use crate::core::replay::{Recorded, Replay};
use crate::core::spec::Percent;
use crate::core::state::{Key, Phase, PhaseKind, StageStep, State, Target};
use crate::core::work::{Action, Commit, Effect, EffectId, EvidenceFrom, Fence, Lane};
use crate::host::record::WorkloadRecord;
use crate::shell::order::Order;

/// The same write that changes nothing, within a minute: more is a loop.
const REPEATS_MAX: usize = 40;

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which; absent where a life got out of hand.
    pub invariant: Option<Invariant>,
    /// What was seen.
    pub what: String,
}

impl Violation {
    pub(super) fn of(invariant: Invariant, what: impl Into<String>) -> Self {
        Self { invariant: Some(invariant), what: what.into() }
    }

    /// Something goes on and on.
    pub fn loops(what: impl Into<String>) -> Self {
        Self { invariant: None, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.invariant {
            Some(invariant) => write!(f, "{invariant} Seen: {}", self.what),
            None => write!(f, "a life got out of hand: {}", self.what),
        }
    }
}

pub(super) type Found = Result<(), Violation>;

/// The host before a write.
#[derive(Debug, Clone)]
pub struct Before {
    host: WorkloadRecord,
    live: Vec<ReleaseId>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Oracle {
    asks: BTreeMap<u32, Input>,
    /// When each stage of each generation was first judged, in true milliseconds, and its bake.
    judged: BTreeMap<(u64, usize), (u64, Duration)>,
    /// When each write was done that changed nothing, within the last minute.
    repeats: Vec<(Action, VecDeque<u64>)>,
    /// The revision that committed the breach of each generation.
    breached: BTreeMap<u64, u64>,
    /// The newest order about weights that the router has obeyed.
    weighed: Option<EffectId>,
    /// People's reverts that were accepted.
    obeyed: Vec<Commanded>,
    /// Several controllers fight, and each starts again what it does not know to be done.
    pub fighting: bool,
    /// One of several controllers kept a commit where the others do not see it.
    pub unsure: bool,
    /// Commits so far.
    pub commits: u64,
    /// Effects performed so far, by name.
    pub performed: BTreeMap<&'static str, u64>,
    /// Which wish to read each release's stored evidence for a revert was the last, and whether a reading for it proved anything.
    proven: BTreeMap<ReleaseId, (EffectId, bool)>,
    /// Digests that policy denies, and since when.
    denied: BTreeMap<Digest, u64>,
    /// Since when so many neighbours breach that restores wait.
    wave: Option<u64>,
    /// When each revert began to recover.
    recovering: BTreeMap<String, u64>,
    /// The newest generation that the world has obeyed.
    obeyed_generation: u64,
    /// Restores that were started.
    started: BTreeSet<EffectId>,
    /// Orders for forward traffic that were seen.
    ordered: BTreeSet<EffectId>,
    /// A person skipped all checks.
    glass: bool,
    /// Automatic reverts so far, by image.
    pub reverted: BTreeMap<String, u64>,
    /// Steps at the begin of this second.
    pub steps_before: u64,
    /// What was committed so far, run again from its records; absent where that is left out.
    pub replay: Option<Replay>,
}

impl Oracle {
    /// A fact that is answered goes in.
    pub fn asked(&mut self, asked: u32, input: &Input) {
        self.asks.insert(asked, input.clone());
    }

    /// I6 and I14: people's reverts are obeyed on receipt, and agents loosen nothing.
    ///
    /// # Errors
    /// The broken rule.
    pub fn answered(&mut self, asked: u32, answer: &Answer, machine: &Machine) -> Found {
        let Some(Input::Commanded(command)) = self.asks.get(&asked) else { return Ok(()) };
        let person = command.request.actor.is_human();
        let phase = machine.state().phase.kind();
        match &command.verb {
            Verb::Revert { to: None, parts: Parts::All, break_glass: false } if person => {
                let nowhere = matches!(answer.reason, Reason::NoTarget {} | Reason::NothingToDo { .. });
                if answer.accepted && !nowhere {
                    self.obeyed.push(command.clone());
                } else if !nowhere {
                    return Err(Violation::of(Invariant::I6, format!("a person's revert got `{}` while {phase}", answer.reason)));
                }
            }
            Verb::Lift { .. } | Verb::Resume | Verb::Promote | Verb::Approve | Verb::Thaw | Verb::Disarm { .. } | Verb::Adopt
                if !person && answer.accepted && !matches!(answer.reason, Reason::NothingToDo { .. }) =>
            {
                return Err(Violation::of(Invariant::I14, format!("{:?} by {} was accepted", command.verb, command.request.actor)));
            }
            _ => {}
        }
        Ok(())
    }

    /// I12, and that the guard before the work saw nothing wrong.
    ///
    /// # Errors
    /// The broken rule.
    pub fn rests(&mut self, order: &Order<u32>, now: u64) -> Found {
        let machine = order.machine();
        if let Some(invariant) = machine.halted() {
            return Err(Violation::of(invariant, "the machine halted itself"));
        }
        let phase = machine.state().phase.kind();
        let wake = order.wake_at();
        let state = machine.state();
        if let Phase::Recovering(revert) = &state.phase {
            self.recovering.entry(revert.id.clone()).or_insert(now);
        }
        if let (Phase::Advancing(advancing), Some(trial)) = (&state.phase, &state.trial)
            && advancing.step == StageStep::Judging
            && let Some(stage) = trial.plan.stages.get(advancing.stage)
        {
            self.judged.entry((state.generation, advancing.stage)).or_insert((now, stage.bake.0));
        }
        self.way_back(machine)?;
        if let Some(judgement) = machine.judgement().filter(|judgement| judgement.verdict == Verdict::Pass) {
            let after = state.trial.as_ref().map_or(u32::MAX, |trial| trial.spec.no_data.after.0);
            if judgement.silent > after && state.candidate().is_some() {
                return Err(Violation::of(Invariant::I4, format!("a pass, and nothing was heard for {} scrapes", judgement.silent)));
            }
        }
        if wake.is_none() && (!phase.is_resting() || !machine.state().tasks.is_empty()) {
            let tasks: Vec<_> = machine.state().tasks.values().map(|task| task.effect.action.name()).collect();
            return Err(Violation::of(Invariant::I12, format!("{phase} sleeps for ever, with {tasks:?} open")));
        }
        Ok(())
    }

    /// I11: traffic is ordered toward a candidate only while stable is seen to be able to take it back.
    fn way_back(&mut self, machine: &Machine) -> Found {
        let state = machine.state();
        let (Some(task), Some(candidate), Some(stable)) = (state.tasks.get(&Key::Weights), state.candidate(), &state.stable) else {
            return Ok(());
        };
        let Action::EnsureWeights { weights } = &task.effect.action else { return Ok(()) };
        let forward = weights.get(&candidate.id).is_some_and(|share| *share > Percent::ZERO) && *stable != candidate.id;
        if !forward || !self.ordered.insert(task.effect.id) {
            return Ok(());
        }
        match machine.workload().arms.get(stable) {
            Some(health) if health.ready == 0 => {
                Err(Violation::of(Invariant::I11, format!("{candidate} gets traffic, and no member of stable can serve")))
            }
            _ => Ok(()),
        }
    }

    /// I5: what is not safe was committed before.
    ///
    /// # Errors
    /// The broken rule.
    pub fn starts(&mut self, effect: &Effect, world: &World) -> Found {
        let safe = match &effect.action {
            Action::Look(_) | Action::Verify { .. } | Action::EnsureFlag(_) | Action::Record => true,
            Action::EnsureWeights { weights } => {
                matches!(&effect.fence, Fence::Stable(stable) if weights.get(stable) == Some(&Percent::FULL))
            }
            Action::EnsureArm { .. } | Action::EnsureRelease { .. } | Action::EnsureHold { .. } | Action::Notify(_) => false,
        };
        if let (Action::EnsureRelease { release }, Lane::Revert) = (&effect.action, effect.lane) {
            self.glass |= world_glass(world);
            let unread = self.started.insert(effect.id) && self.proven.get(&release.id).is_none_or(|(_, good)| !good);
            if unread && !self.glass {
                return Err(Violation::of(Invariant::I1, format!("{release} goes back, and its evidence was not read")));
            }
        }
        let promised = world.promised.get(&effect.id).is_some_and(|promised| promised.action == effect.action);
        if safe || promised {
            return Ok(());
        }
        Err(Violation::of(Invariant::I5, format!("{} {} starts without its commit", effect.action.name(), effect.id)))
    }

    /// The host as it is before a write.
    pub fn before(&self, world: &World) -> Before {
        Before { host: world.host.clone(), live: world.host.arms.keys().filter(|id| world.is_live(id)).cloned().collect() }
    }

    /// I1, I2, I11 as the world sees them, and no endless repetition.
    ///
    /// # Errors
    /// The broken rule.
    pub fn performed(&mut self, effect: &Effect, outcome: &Outcome, before: &Before, world: &World) -> Found {
        *self.performed.entry(effect.action.name()).or_default() += 1;
        let Outcome::Done { changed, observed } = outcome else { return Ok(()) };
        if let (Action::Verify { release, evidence: EvidenceFrom::Store }, Observation::Facts(facts)) = (&effect.action, observed) {
            let good = facts.images.iter().all(|image| !image.statements.is_empty());
            // An answer may be long on its way, and a later reading show something else.
            if effect.lane == Lane::Revert {
                let known = self.proven.get(&release.id).is_some_and(|(id, good)| *id == effect.id && *good);
                self.proven.insert(release.id.clone(), (effect.id, good || known));
            }
        }
        self.repeated(effect, *changed, world.now)?;
        self.in_order(effect, before, world)?;
        let state = world.state.as_deref();
        if world.host.weights != before.host.weights {
            let since = state.and_then(|state| self.breached.get(&state.generation)).copied();
            // An order given before the breach may come in before the first one after it; never later.
            let newer = self.weighed.is_some_and(|newest| newest.revision > effect.id.revision);
            let late = since.is_some_and(|since| effect.id.revision >= since || newer);
            weighed(before, world, state, late)?;
        }
        if matches!(effect.action, Action::EnsureWeights { .. }) {
            self.weighed = self.weighed.max(Some(effect.id));
        }
        if let Action::EnsureArm { release, present: false } = &effect.action {
            let gone = before.host.arms.contains_key(&release.id);
            if gone && let Some(state) = state.filter(|state| on_trial(state)) {
                let good = state.ledger.is_known_good(&release.id) && state.stable.as_ref() == Some(&release.id);
                if good {
                    return Err(Violation::of(Invariant::I11, format!("the way back to {release} was taken down")));
                }
            }
        }
        if let Action::EnsureArm { release, present: true } | Action::EnsureRelease { release } = &effect.action {
            let good = world.evidence.get(&release.template.image().digest).is_some_and(|evidence| evidence.good);
            self.glass |= world_glass(world);
            if !self.glass && !good {
                return Err(Violation::of(Invariant::I1, format!("{release} was put in place without proof")));
            }
        }
        Ok(())
    }

    /// I13: what the world has obeyed is not undone by what was decided before it.
    fn in_order(&mut self, effect: &Effect, before: &Before, world: &World) -> Found {
        let Fence::Generation(of) = effect.fence else { return Ok(()) };
        if of < self.obeyed_generation {
            let what =
                format!("{} {} of generation {of} was obeyed after generation {}", effect.action.name(), effect.id, self.obeyed_generation);
            return Err(Violation::of(Invariant::I13, what));
        }
        self.obeyed_generation = of;
        let late = matches!(effect.action, Action::EnsureWeights { .. }) && self.weighed.is_some_and(|newest| effect.id < newest);
        if late && world.host.weights != before.host.weights {
            return Err(Violation::of(Invariant::I2, format!("weights of {} came after those of {:?}", effect.id, self.weighed)));
        }
        Ok(())
    }

    fn repeated(&mut self, effect: &Effect, changed: bool, now: u64) -> Found {
        if changed || self.fighting || matches!(effect.action, Action::Verify { .. } | Action::Record) {
            return Ok(());
        }
        self.repeats.retain_mut(|(_, times)| {
            while times.front().is_some_and(|first| now - first > 60_000) {
                times.pop_front();
            }
            !times.is_empty()
        });
        let place = self.repeats.iter().position(|(action, _)| *action == effect.action).unwrap_or_else(|| {
            self.repeats.push((effect.action.clone(), VecDeque::new()));
            self.repeats.len() - 1
        });
        let times = &mut self.repeats[place].1;
        times.push_back(now);
        if times.len() > REPEATS_MAX {
            return Err(Violation::loops(format!("{} again and again, changing nothing", effect.action.name())));
        }
        Ok(())
    }

    /// I4, I9, I13, I14 and I15, from one committed state to the next.
    ///
    /// # Errors
    /// The broken rule.
    pub fn committed(&mut self, before: Option<&State>, commit: &Commit, world: &World) -> Found {
        self.commits += 1;
        self.replayed(commit)?;
        let after = &*commit.state;
        let first = State::new();
        let before = before.unwrap_or(&first);
        if after.generation < before.generation {
            return Err(Violation::of(Invariant::I13, "an older generation was committed"));
        }
        if after.trial.as_ref().is_some_and(|trial| trial.breached) {
            self.breached.entry(after.generation).or_insert(after.revision);
        }
        reference::follows(before, commit, world)?;
        self.choices(before, commit, world.now)?;
        self.recovers(commit, world.now)?;
        loosened(before, commit)?;
        self.baked(before, after, &commit.records, world.now)?;
        let shared = commit.records.iter().any(|record| {
            matches!(record.event, Event::Decision { decision: Decision::Revert, .. })
                && matches!(record.reason, Some(Reason::SharedCause { .. }))
        });
        if shared {
            return Err(Violation::of(Invariant::I15, "a shared cause began a revert"));
        }
        if after.phase.kind() == PhaseKind::Stuck && before.phase.kind() != PhaseKind::Stuck {
            let paged = commit.records.iter().any(
                |record| matches!(&record.event, Event::Wanted(effect) if matches!(&effect.action, Action::Notify(notice) if notice.page)),
            );
            if !paged {
                return Err(Violation::of(Invariant::I8, "stuck, and nobody was paged"));
            }
        }
        Ok(())
    }

    /// I1 and I15: no denied digest goes back, and in a wave nothing does by itself.
    fn choices(&mut self, before: &State, commit: &Commit, now: u64) -> Found {
        self.glass |= commit.records.iter().any(|record| matches!(&record.reason, Some(Reason::BreakGlass { .. })));
        for record in commit.records.iter().filter(|record| record.is_breach()) {
            *self.reverted.entry(record.artifact_digest.clone().unwrap_or_default()).or_default() += 1;
        }
        let chose = |record: &&Record| matches!(record.event, Event::Decision { decision: Decision::Choose, .. });
        let Some(chosen) = commit.records.iter().rfind(chose) else { return Ok(()) };
        let Some(revert) = commit.state.phase.revert() else { return Ok(()) };
        // A commit may wait for its store; what it says was decided before.
        let long = |since: u64| since + 15_000 < chosen.at.mono.0;
        if let Target::Chosen(target) = &revert.target
            && let Some(release) = commit.state.release(target)
            && !revert.break_glass
            && self.denied.get(&release.template.image().digest).is_some_and(|since| long(*since))
        {
            return Err(Violation::of(Invariant::I1, format!("{release} goes back, and policy denies it")));
        }
        // Policy may have turned the breaker off before the attempt began.
        let breaker = commit.state.trial.as_ref().is_none_or(|trial| trial.policy.breaker);
        if breaker && commit.state.restores.len() > before.restores.len() && self.wave.is_some_and(|since| since + 4_000 < now) {
            return Err(Violation::of(Invariant::I15, "a restore in a wave of breaches"));
        }
        Ok(())
    }

    /// I8: recovery is seen, not assumed: three scrapes take two seconds.
    fn recovers(&mut self, commit: &Commit, now: u64) -> Found {
        let recovered = commit.records.iter().any(|record| matches!(record.event, Event::Decision { decision: Decision::Recovered, .. }));
        if let Phase::Reverted(revert) = &commit.state.phase
            && recovered
            && self.recovering.get(&revert.id).is_none_or(|since| now < since + 1_000)
        {
            return Err(Violation::of(Invariant::I8, "recovered before anybody could have looked"));
        }
        Ok(())
    }

    /// Policy denies these from now on.
    pub fn denies(&mut self, digests: &[Digest], now: u64) {
        self.denied.retain(|digest, _| digests.contains(digest));
        for digest in digests {
            self.denied.entry(digest.clone()).or_insert(now);
        }
    }

    /// What surrounds the rollout changed, or did not.
    pub fn surrounded(&mut self, scope: &Scope, now: u64) {
        let open = scope.breaching + 1 >= scope.watched.div_ceil(10).max(3);
        self.wave = if open { self.wave.or(Some(now)) } else { None };
    }

    /// I6: after a person's revert nothing goes forward.
    ///
    /// # Errors
    /// The broken rule.
    pub fn heard(&self, asked: u32, machine: &Machine) -> Found {
        let Some(Input::Commanded(command)) = self.asks.get(&asked) else { return Ok(()) };
        let all = matches!(command.verb, Verb::Revert { to: None, parts: Parts::All, .. });
        if all && command.request.actor.is_human() && machine.state().candidate().is_some() {
            let phase = machine.state().phase.kind();
            return Err(Violation::of(Invariant::I6, format!("a person's revert, and it is still {phase}")));
        }
        Ok(())
    }

    /// I10: the records lead to the same decisions and the same state again.
    fn replayed(&mut self, commit: &Commit) -> Found {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let recorded = Recorded { revision: commit.state.revision, records: &commit.records, journal: &commit.journal };
        let again = replay.next(recorded).map_err(|divergence| {
            let at = divergence.ordinal.map_or(String::new(), |ordinal| format!(", record {ordinal}"));
            Violation::of(Invariant::I10, format!("revision {}{at}\n{divergence}", divergence.revision))
        })?;
        if again.state == commit.state && again.ledger == commit.ledger {
            return Ok(());
        }
        Err(Violation::of(Invariant::I10, format!("revision {}: the decisions are the same, and the state is not", commit.state.revision)))
    }

    /// I9: a stage passes no sooner than its bake, by true time.
    fn baked(&mut self, before: &State, after: &State, records: &[Record], now: u64) -> Found {
        let passed = records.iter().any(|record| {
            let advance = matches!(record.event, Event::Decision { decision: Decision::Advance, .. });
            advance && record.reason == Some(Reason::Healthy {})
        });
        if passed
            && let Phase::Advancing(was) = &before.phase
            && before.generation == after.generation
        {
            let Some((since, bake)) = self.judged.get(&(before.generation, was.stage)) else { return Ok(()) };
            let baked = Duration::from_millis(now - since) + Duration::from_secs(2);
            if baked < *bake {
                return Err(Violation::of(Invariant::I9, format!("a stage of {bake:?} passed after {baked:?}")));
            }
        }
        Ok(())
    }

    /// I6: what a person was told is done is on record for ever.
    ///
    /// # Errors
    /// The broken rule.
    pub fn ended(&self, world: &World) -> Found {
        let recorded = |command: &Commanded| {
            world.log.iter().any(|record| matches!(&record.event, Event::Input(input) if **input == Input::Commanded(command.clone())))
        };
        let untold =
            world.promised.values().find(|effect| matches!(effect.action, Action::Notify(_)) && !world.told.contains_key(&effect.id));
        if let Some(effect) = untold {
            return Err(Violation::of(Invariant::I8, format!("nobody ever got the notice {}", effect.id)));
        }
        let quarantined: Option<BTreeSet<_>> = world.state.as_ref().map(|state| state.ledger.quarantined().into_iter().collect());
        if quarantined.is_some_and(|quarantined| quarantined != world.host.quarantined) {
            return Err(Violation::of(Invariant::I6, "the hold at the workload's door is not the ledger's"));
        }
        match self.obeyed.iter().find(|command| !recorded(command)) {
            // Spools are one controller's own; of several, the store must be there.
            Some(command) if !self.unsure => Err(Violation::of(Invariant::I6, format!("{:?} was accepted and forgotten", command.verb))),
            _ => Ok(()),
        }
    }

    /// I11: shares sum to 100.
    ///
    /// # Errors
    /// The broken rule.
    pub fn second(&mut self, world: &World) -> Found {
        let sum: f64 = world.host.weights.values().map(|share| share.fraction()).sum();
        if !world.host.weights.is_empty() && (sum - 1.0).abs() > 1e-9 {
            return Err(Violation::of(Invariant::I11, format!("shares sum to {sum}")));
        }
        Ok(())
    }
}

fn on_trial(state: &State) -> bool {
    let phase = matches!(state.phase.kind(), PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching);
    phase && state.candidate().is_some_and(|candidate| !state.ledger.is_known_good(&candidate.id))
}

fn world_glass(world: &World) -> bool {
    world.state.as_ref().and_then(|state| state.phase.revert()).is_some_and(|revert| revert.break_glass)
}

/// I2 and I11: who got more requests than before, and whether it may, and can, serve them.
fn weighed(before: &Before, world: &World, state: Option<&State>, late: bool) -> Found {
    for (id, share) in &world.host.weights {
        if *share <= before.host.weight(id) {
            continue;
        }
        if let Some(state) = state
            && let Some(trial) = &state.trial
            && late
            && trial.breached
            && trial.candidate.id == *id
            && state.ledger.is_quarantined(id)
        {
            return Err(Violation::of(Invariant::I2, format!("{} got {share} after its breach", state.name(id))));
        }
        let others: Vec<_> = before.live.iter().filter(|live| *live != id && before.host.weight(live) > Percent::ZERO).collect();
        if !world.is_live(id) && !before.live.contains(id) && !others.is_empty() {
            return Err(Violation::of(Invariant::I11, format!("{id} got {share} without a member that can serve, away from {others:?}")));
        }
    }
    Ok(())
}

/// I14: what is loosened in a commit, a person said in it.
fn loosened(before: &State, commit: &Commit) -> Found {
    let after = &*commit.state;
    let said = |wanted: fn(&Verb) -> bool| {
        commit.records.iter().any(|record| match &record.event {
            Event::Input(input) => match &**input {
                Input::Commanded(command) => command.request.actor.kind == ActorKind::Human && wanted(&command.verb),
                _ => false,
            },
            _ => false,
        })
    };
    let thawed = before.overlays.frozen.is_some() && after.overlays.frozen.is_none();
    if thawed && !said(|verb| matches!(verb, Verb::Thaw)) {
        return Err(Violation::of(Invariant::I14, "a freeze ended without a person's thaw"));
    }
    let resumed = before.overlays.paused.is_some() && after.overlays.paused.is_none();
    if resumed && !said(|verb| matches!(verb, Verb::Resume)) {
        return Err(Violation::of(Invariant::I14, "a pause ended without a person"));
    }
    let lifted = before.ledger.quarantined().into_iter().any(|id| !after.ledger.is_quarantined(&id));
    if lifted && !said(|verb| matches!(verb, Verb::Lift { .. } | Verb::Adopt)) {
        return Err(Violation::of(Invariant::I14, "a quarantine ended without a person"));
    }
    let disarmed = before.overlays.disarmed_until.is_none() && after.overlays.disarmed_until.is_some();
    if disarmed && !said(|verb| matches!(verb, Verb::Disarm { .. })) {
        return Err(Violation::of(Invariant::I14, "disarmed without a person"));
    }
    Ok(())
}
