//! Scripted lives: one promise each, with the machine, judge and order that run in production.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::float_cmp, reason = "shares are written, not computed")]

mod crashes;
mod failing;
mod hostile;
mod people;

use std::sync::Arc;
use std::time::Duration;

use backstop::core::actor::ActorKind;
use backstop::core::input::{Alerted, Input, Parts, Scope, Verb};
use backstop::core::ledger::Standing;
use backstop::core::machine::verbs::{Meaning, VerbKind};
use backstop::core::machine::{Answer, Machine};
use backstop::core::policy::Policy;
use backstop::core::reason::Reason;
use backstop::core::record::{Decision, Event};
use backstop::core::release::{Digest, Release, ReleaseId};
use backstop::core::spec::{OnDeadline, OnNewer, Percent, Strategy, Trust};
use backstop::core::state::{Guard, PhaseKind, State, Target};
use backstop::core::time::{Now, Span};
use backstop::core::work::{Action, Effect, EvidenceFrom};
use backstop::sim::faults::Faults;
use backstop::sim::house::{self, agent, guard, person, release};
use backstop::sim::life::Life;
use backstop::sim::traffic::EPOCH_MS;
use backstop::sim::world::FlagService;

const REVERT: Verb = Verb::Revert { to: None, parts: Parts::All, break_glass: false };

fn v(number: u32) -> Release {
    release(&format!("v{number}"), 0)
}

fn image(of: &Release) -> Digest {
    of.template.image().digest.clone()
}

fn life_with(guard: Guard, policy: Policy) -> Life {
    let mut life = Life::new(7, guard, policy, Faults::none(), 1);
    for number in 1..=6 {
        life.world.evidence.entry(image(&v(number))).or_default().good = true;
    }
    life
}

fn life() -> Life {
    life_with(guard(house::canary()), house::policy())
}

fn fine(life: &Life) {
    let lines: Vec<&str> = life.lines.iter().map(String::as_str).collect();
    assert!(life.violation.is_none(), "{}\n{}", life.violation.as_ref().unwrap(), lines.join("\n"));
}

fn reach(life: &mut Life, phase: PhaseKind, within: u64) {
    let reached = life.until(within, |life| life.phase() == phase && life.state().phase.kind() == phase);
    fine(life);
    let lines: Vec<&str> = life.lines.iter().map(String::as_str).collect();
    assert!(reached, "not {phase} within {within} s but {}: {:?}\n{}", life.phase(), life.state().phase, lines.join("\n"));
}

fn accepted(answer: Option<Answer>) -> Answer {
    let answer = answer.expect("an answer");
    assert!(answer.accepted, "{answer:?}");
    answer
}

fn refused(answer: Option<Answer>) -> Reason {
    let answer = answer.expect("an answer");
    assert!(!answer.accepted, "{answer:?}");
    answer.reason
}

/// Deploys and lets it become known good.
fn settle(life: &mut Life, release: &Release) {
    accepted(life.deployed(release, person("ann")));
    reach(life, PhaseKind::Idle, 300);
    assert!(life.state().ledger.is_known_good(&release.id), "{:?}", life.state().ledger.get(&release.id));
    assert!(life.until(10, |life| life.state().tasks.is_empty()));
    fine(life);
}

/// `v1`, then `v2`, are known good; `v2` is stable.
fn house_of_two() -> Life {
    let mut life = life();
    settle(&mut life, &v(1));
    settle(&mut life, &v(2));
    life
}

fn spoil(life: &mut Life, release: &Release, share: f64) {
    let now = life.world.now;
    life.world.truth.bad_images.insert(image(release), (share, now));
}

fn weight(life: &Life, release: &Release) -> f64 {
    life.world.weight(&release.id)
}

fn pages(life: &Life) -> Vec<&'static str> {
    life.world.told.values().filter(|notice| notice.page).map(|notice| notice.reason.code()).collect()
}

fn decided(life: &Life, wanted: Decision) -> Vec<Option<Reason>> {
    let decisions = life.world.log.iter().filter(|record| matches!(record.event, Event::Decision { decision, .. } if decision == wanted));
    decisions.map(|record| record.reason.clone()).collect()
}

fn is_back(life: &Life, bad: &Release, good: &Release) {
    fine(life);
    assert!(weight(life, bad) == 0.0 && weight(life, good) == 1.0, "{:?}", life.world.observed().weights);
    let state = life.state();
    assert_eq!(state.stable.as_ref(), Some(&good.id));
    assert!(state.ledger.is_quarantined(&bad.id));
}

// ------------------------------------------------------------------------------------------------ the way forward

#[test]
fn a_good_canary_is_promoted_and_becomes_known_good() {
    let life = house_of_two();
    assert_eq!(weight(&life, &v(2)), 1.0);
    assert_eq!(life.world.observed().current, Some(v(2).id));
    assert!(!life.world.observed().arms.contains_key(&v(1).id), "the old release was stopped");
    assert!(pages(&life).is_empty(), "{:?}", pages(&life));
    assert!(life.world.traffic.dropped <= 100, "{} requests met nobody", life.world.traffic.dropped);
}

#[test]
fn nothing_is_committed_while_nothing_happens() {
    let mut life = house_of_two();
    life.run(120);
    let (commits, performed) = (life.oracle.commits, life.oracle.performed.clone());
    life.run(3_600);
    fine(&life);
    assert_eq!(life.oracle.commits, commits);
    let writes =
        |of: &std::collections::BTreeMap<&'static str, u64>| of.iter().filter(|(name, _)| **name != "verify").map(|(_, n)| n).sum::<u64>();
    assert_eq!(writes(&life.oracle.performed), writes(&performed));
}

#[test]
fn a_life_writes_each_thing_a_few_times() {
    let mut life = house_of_two();
    life.run(60);
    for (name, most) in [("ensureWeights", 10), ("ensureArm", 6), ("ensureRelease", 4), ("ensureHold", 0), ("ensureFlag", 0)] {
        let done = life.oracle.performed.get(name).copied().unwrap_or_default();
        assert!(done <= most, "{name}: {done}");
    }
    assert!(life.oracle.commits < 80, "{} commits", life.oracle.commits);
}

#[test]
fn blue_green_switches_at_once_and_keeps_the_old_one_warm() {
    let mut life = life_with(guard(house::blue_green()), house::policy());
    settle(&mut life, &v(1));
    accepted(life.deployed(&v(2), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(2)) == 1.0));
    assert!(life.world.is_live(&v(1).id), "the way back is warm");
    reach(&mut life, PhaseKind::Idle, 120);
    spoil(&mut life, &v(3), 0.3);
    accepted(life.deployed(&v(3), agent("bot")));
    reach(&mut life, PhaseKind::Reverted, 120);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn observe_judges_what_others_roll_out() {
    let mut life = life_with(guard(house::observe()), house::policy());
    accepted(life.deployed(&v(1), person("ann")));
    reach(&mut life, PhaseKind::Watching, 60);
    assert!(!life.oracle.performed.contains_key("ensureWeights"), "nothing is driven");
}

// ------------------------------------------------------------------------------------------------ breaches

#[test]
fn a_breach_in_each_stage_goes_back() {
    for weight_then in [0.2, 0.5] {
        let mut life = house_of_two();
        accepted(life.deployed(&v(3), agent("bot")));
        assert!(life.until(120, |life| weight(life, &v(3)) == weight_then));
        spoil(&mut life, &v(3), 0.3);
        let before = life.world.now;
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.0));
        assert!(life.world.now - before < 30_000, "{} ms", life.world.now - before);
        reach(&mut life, PhaseKind::Reverted, 60);
        is_back(&life, &v(3), &v(2));
        assert!(life.world.flags.contains_key("new"), "the flag is safe");
        assert_eq!(life.state().ledger.get(&v(3).id).unwrap().standing, Standing::Bad);
        assert_eq!(decided(&life, Decision::Choose).len(), 1);
    }
}

#[test]
fn a_breach_while_watching_goes_back_with_and_without_a_holdback() {
    for holdback in [0.0, 10.0] {
        let mut guard = guard(house::canary());
        Arc::make_mut(&mut guard.spec).watch.holdback = Percent::new(holdback);
        let mut life = life_with(guard, house::policy());
        settle(&mut life, &v(1));
        accepted(life.deployed(&v(2), agent("bot")));
        reach(&mut life, PhaseKind::Watching, 120);
        assert!((weight(&life, &v(2)) - (1.0 - holdback / 100.0)).abs() < 1e-9);
        spoil(&mut life, &v(2), 0.3);
        reach(&mut life, PhaseKind::Reverted, 120);
        is_back(&life, &v(2), &v(1));
        assert!(life.world.traffic.dropped <= 100, "{} requests met nobody", life.world.traffic.dropped);
    }
}

#[test]
fn a_breach_while_promoting_goes_back() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.commanded(Verb::Pause, person("ann"));
    life.commanded(Verb::Promote, person("ann"));
    assert_eq!(life.phase(), PhaseKind::Promoting);
    spoil(&mut life, &v(3), 0.5);
    reach(&mut life, PhaseKind::Reverted, 90);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn a_candidate_that_never_gets_ready_goes_back_without_traffic() {
    let mut life = house_of_two();
    life.world.broken.insert(image(&v(3)));
    accepted(life.deployed(&v(3), agent("bot")));
    reach(&mut life, PhaseKind::Reverted, 60);
    is_back(&life, &v(3), &v(2));
    assert_eq!(life.world.traffic.served.get(&v(3).id), None);
}

#[test]
fn an_effect_that_can_never_work_goes_back() {
    for outcome in ["denied", "invalid"] {
        let mut life = house_of_two();
        accepted(life.deployed(&v(3), person("ann")));
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
        match outcome {
            "denied" => life.faults.denied = 1.0,
            _ => life.faults.invalid = 1.0,
        }
        assert!(life.until(60, |life| life.phase() == PhaseKind::Reverting), "{outcome}");
        life.run(5);
        (life.faults.denied, life.faults.invalid) = (0.0, 0.0);
        let ended = life.until(200, |life| life.phase().is_resting());
        fine(&life);
        assert!(ended, "{outcome}: {}", life.phase());
        assert_eq!(weight(&life, &v(2)), 1.0);
        assert!(life.until(30, |life| pages(life).contains(&"BS076")), "{:?}", pages(&life));
    }
}

// ------------------------------------------------------------------------------------------------ proof

#[test]
fn a_person_may_begin_and_an_agent_may_not() {
    let mut life = life();
    accepted(life.deployed(&v(1), agent("bot")));
    reach(&mut life, PhaseKind::Refused, 30);
    assert!(matches!(decided(&life, Decision::Refuse)[0], Some(Reason::NotReady { .. })));
    accepted(life.deployed(&v(1), person("ann")));
    reach(&mut life, PhaseKind::Advancing, 30);
}

#[test]
fn an_unattested_candidate_is_refused() {
    let mut life = house_of_two();
    life.world.evidence.entry(image(&v(3))).or_default().good = false;
    accepted(life.deployed(&v(3), person("ann")));
    reach(&mut life, PhaseKind::Refused, 30);
    assert!(matches!(decided(&life, Decision::Refuse)[0], Some(Reason::NotAttested { .. })));
    assert!(!life.world.observed().arms.contains_key(&v(3).id));
}

#[test]
fn a_registry_that_does_not_answer_refuses_in_time() {
    let mut life = house_of_two();
    life.world.registry = false;
    accepted(life.deployed(&v(3), person("ann")));
    reach(&mut life, PhaseKind::Refused, 150);
    assert!(life.until(60, |life| life.state().tasks.is_empty()), "nobody asks on: {:?}", life.state().tasks);
}

#[test]
fn tampered_evidence_leads_to_the_next_older_target() {
    let mut life = house_of_two();
    settle(&mut life, &v(3));
    accepted(life.deployed(&v(4), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(4)) == 0.2));
    life.world.evidence.entry(image(&v(3))).or_default().tampered = true;
    spoil(&mut life, &v(4), 0.5);
    reach(&mut life, PhaseKind::Reverted, 90);
    is_back(&life, &v(4), &v(2));
    let skipped = decided(&life, Decision::Skip);
    assert!(matches!(&skipped[..], [Some(Reason::TargetSkipped { release, .. })] if release.contains("v3")), "{skipped:?}");
    assert!(life.until(10, |life| !life.world.observed().arms.contains_key(&v(3).id)), "what was replaced is stopped");
}

#[test]
fn without_a_target_traffic_and_flags_still_move() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    for number in [1, 2] {
        life.world.evidence.entry(image(&v(number))).or_default().tampered = true;
    }
    spoil(&mut life, &v(3), 0.5);
    reach(&mut life, PhaseKind::Stuck, 90);
    assert_eq!(weight(&life, &v(2)), 1.0);
    assert!(life.world.flags.contains_key("new"));
    assert!(life.until(5, |life| pages(life).contains(&"BS071")), "{:?}", pages(&life));
    // The evidence is put right: a person's word tries again.
    life.world.evidence.entry(image(&v(2))).or_default().tampered = false;
    accepted(life.commanded(REVERT, person("ann")));
    reach(&mut life, PhaseKind::Reverted, 60);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn proof_that_gets_lost_stops_agents_until_it_is_back() {
    let mut life = house_of_two();
    life.run(70);
    life.world.evidence.entry(image(&v(1))).or_default().tampered = true;
    life.world.evidence.entry(image(&v(2))).or_default().tampered = true;
    accepted(life.deployed(&v(3), agent("bot")));
    life.run(70);
    assert!(weight(&life, &v(3)) <= 0.2, "{}", weight(&life, &v(3)));
    assert!(pages(&life).contains(&"BS053"), "{:?}", pages(&life));
    fine(&life);
}

#[test]
fn what_was_missing_for_a_revert_is_not_told_of_when_it_is_over() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    life.world.evidence.entry(image(&v(2))).or_default().tampered = true;
    life.run(70);
    let missing = |life: &Life| life.state().readiness.is_some_and(|readiness| readiness.missing.is_some());
    assert!(missing(&life) && pages(&life).contains(&"BS053"), "{:?}", life.state().readiness);
    life.world.evidence.entry(image(&v(2))).or_default().tampered = false;
    accepted(life.commanded(REVERT, person("ann")));
    reach(&mut life, PhaseKind::Reverted, 60);
    is_back(&life, &v(3), &v(2));
    assert!(!missing(&life), "{:?}", life.state().readiness);
    // It is proven anew for the next attempt, before an agent goes on.
    accepted(life.deployed(&v(4), agent("bot")));
    let proven = |life: &Life| life.state().readiness.is_some_and(|readiness| readiness.missing.is_none());
    assert!(life.until(60, proven), "{:?}", life.state().readiness);
    fine(&life);
}

#[test]
fn what_was_proven_before_a_start_is_proven_again_in_the_minute_after_it_and_not_all_at_once() {
    let mut life = house_of_two();
    life.run(70);
    let state = life.state();
    assert!(state.readiness.as_ref().is_some_and(|readiness| readiness.missing.is_none()), "{:?}", state.readiness);
    let start = Now { wall: jiff::Timestamp::UNIX_EPOCH, mono: state.mono.after(Duration::from_secs(1)) };
    let proofs = |machine: &mut Machine, now: Now| {
        machine.handle(now, Input::Woke);
        let proves = |effect: &Effect| matches!(effect.action, Action::Verify { evidence: EvidenceFrom::Store, .. });
        machine.next_work(true).safe.iter().filter(|effect| proves(effect)).count()
    };
    let mut at_once = 0;
    for number in 0..100 {
        let guard = Guard { key: format!("shop/service-{number}"), ..life.world.guard.clone() };
        let mut machine = Machine::restore(guard.clone(), house::policy(), state.clone());
        at_once += proofs(&mut machine, start);
        let later = Now { mono: start.mono.after(Duration::from_mins(1)), ..start };
        assert!(machine.wake_at().is_some_and(|at| at <= later.mono));
        assert_eq!(proofs(&mut machine, later), 1);
        // What is not known to hold is proven now.
        let mut unproven = Machine::restore(guard, house::policy(), State { readiness: None, ..state.clone() });
        assert_eq!(proofs(&mut unproven, start), 1);
    }
    assert!(at_once < 5, "{at_once} of 100");
}

// ------------------------------------------------------------------------------------------------ shared causes

#[test]
fn an_outage_of_what_both_share_blames_nobody() {
    for seconds in [25, 120] {
        let mut life = house_of_two();
        accepted(life.deployed(&v(3), person("ann")));
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
        life.run(4);
        let now = life.world.now;
        life.world.truth.outage = Some((now, now + seconds * 1000, 0.5));
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.0), "{seconds}: {}", life.phase());
        reach(&mut life, PhaseKind::Idle, 600);
        assert!(life.state().ledger.is_known_good(&v(3).id));
        assert!(!decided(&life, Decision::Retreat).is_empty() && !decided(&life, Decision::Exonerate).is_empty());
        assert!(decided(&life, Decision::Revert).is_empty());
    }
}

#[test]
fn what_is_gathered_while_a_shared_cause_is_sat_out_blames_nobody() {
    let mut guard = guard(house::canary());
    Arc::make_mut(&mut guard.spec).watch.holdback = Percent::new(10.0);
    let mut life = life_with(guard, house::policy());
    settle(&mut life, &v(1));
    accepted(life.deployed(&v(2), agent("bot")));
    reach(&mut life, PhaseKind::Watching, 120);
    life.run(4);
    let now = life.world.now;
    life.world.truth.outage = Some((now, now + 30_000, 0.5));
    assert!(life.until(20, |life| pages(life).contains(&"BS020")));
    // A controller that starts again tells nobody again.
    for _ in 0..3 {
        life.crash(0, 500);
        life.run(5);
    }
    assert_eq!(pages(&life).iter().filter(|code| **code == "BS020").count(), 1);
    assert!(life.until(60, |life| life.world.now > now + 30_000));
    // What would give alarm by then counts from nothing instead.
    spoil(&mut life, &v(2), 1.0);
    assert!(life.until(30, |life| !decided(life, Decision::Exonerate).is_empty()));
    life.world.truth.bad_images.remove(&image(&v(2)));
    reach(&mut life, PhaseKind::Idle, 900);
    assert!(decided(&life, Decision::Revert).is_empty());
    // What is bad for longer goes back all the same.
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    spoil(&mut life, &v(3), 0.5);
    reach(&mut life, PhaseKind::Reverted, 200);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn a_candidate_that_harms_what_both_share_goes_back() {
    let mut life = house_of_two();
    life.world.truth.harmful = Some((image(&v(3)), 0.5));
    accepted(life.deployed(&v(3), person("ann")));
    reach(&mut life, PhaseKind::Reverted, 200);
    is_back(&life, &v(3), &v(2));
    assert!(decided(&life, Decision::Revert).iter().any(|reason| matches!(reason, Some(Reason::SharedHarm { .. }))));
}

#[test]
fn a_wave_of_breaches_holds_restores_back_but_not_traffic() {
    let mut life = house_of_two();
    settle(&mut life, &v(3));
    accepted(life.deployed(&v(4), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(4)) == 0.2));
    // The release that runs cannot be proven any more, so that going back needs a restore.
    life.world.evidence.entry(image(&v(3))).or_default().tampered = true;
    life.tell(Input::ScopeChanged(Scope { frozen: false, breaching: 4, breaching_recently: 0, watched: 20, by: None }));
    spoil(&mut life, &v(4), 0.5);
    reach(&mut life, PhaseKind::Stuck, 90);
    assert_eq!((weight(&life, &v(4)), weight(&life, &v(3))), (0.0, 1.0));
    assert!(life.until(5, |life| pages(life).contains(&"BS074")));
    accepted(life.commanded(REVERT, person("ann")));
    reach(&mut life, PhaseKind::Reverted, 60);
    is_back(&life, &v(4), &v(2));
}

#[test]
fn too_many_restores_wait_for_a_person() {
    let policy = Policy { restores_per_hour: 0, ..house::policy() };
    let mut life = life_with(guard(house::canary()), policy);
    settle(&mut life, &v(1));
    settle(&mut life, &v(2));
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.world.evidence.entry(image(&v(2))).or_default().tampered = true;
    spoil(&mut life, &v(3), 0.5);
    reach(&mut life, PhaseKind::Stuck, 90);
    assert!(life.until(5, |life| pages(life).contains(&"BS075")), "{:?}", pages(&life));
    assert_eq!(weight(&life, &v(2)), 1.0);
}
