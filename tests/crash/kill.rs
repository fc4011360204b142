//! The controller is killed at random moments of reverts, and stopped in the middle of a canary.

use std::fs;
use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::input::Verb;
use backstop::core::ledger::Standing;
use backstop::core::preview::View;
use backstop::core::record::{Decision, Event};
use backstop::core::release::Release;
use backstop::core::state::PhaseKind;
use backstop::world::keys::Public;
use backstop::world::{audit, clock};
use rustix::process::Signal;

use crate::bed;
use crate::outside::{Counted, Outside};
use crate::program::{Program, command, say};
use crate::rig::{House, SERVICE, Shape, line, none_dropped, revert};

/// Numbers from a seed (xorshift, Marsaglia 2003), so that a failing run can be had again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

pub(crate) fn settled(view: &View, phase: PhaseKind) -> bool {
    view.phase == phase && view.open.iter().all(|(action, _)| action == "notify")
}

/// How many times each generation decided to revert, by the log.
fn reverts_by_generation(house: &House) -> Vec<(u64, usize)> {
    let mut counts = std::collections::BTreeMap::<u64, usize>::new();
    for entry in audit::show(&house.store(), audit::Filter::default()).expect("the log can be read") {
        let record = entry.expect("an entry").record().expect("its parts");
        if let Some(record) = record
            && matches!(record.event, Event::Decision { decision: Decision::Revert, .. })
        {
            *counts.entry(record.generation).or_default() += 1;
        }
    }
    counts.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_during_reverts_ends_each_and_does_nothing_twice() {
    let rounds = if bed::long() { 100 } else { 8 };
    let seed = 0x5eed_ba5e_ba11;
    let house = House::without_controller(Shape::canary()).await;
    let mut program = Program::start(house.dir());
    let v1 = house.release("v1", &[]);
    program.settle(&v1);
    let traffic = Traffic::start(house.address(SERVICE), 60);
    let outside = Outside::watch(house.dir());
    let mut dice = Dice(seed);
    let (mut lost, mut late) = (0, 0);
    let (mut first, mut back) = (None, Vec::new());
    for round in 0..rounds {
        house.reset_flag();
        let automatic = round % 4 == 3;
        let env: &[(&str, &str)] = if automatic { &[("ERROR_RATIO", "0.5")] } else { &[] };
        let candidate = house.release(&format!("c{round}"), env);
        program.deploy(&candidate);
        let on_trial = |view: &View| view.candidate.as_ref() == Some(&candidate) && view.step.as_deref() == Some("judging");
        program.until("on trial", Duration::from_secs(30), on_trial);
        let mark = outside.mark();
        let wait = if automatic {
            2500 + dice.below(2500)
        } else {
            let dir = house.dir().to_owned();
            std::thread::spawn(move || command(&dir, revert()));
            dice.below(if round % 2 == 0 { 40 } else { 400 })
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        program.kill();
        drop(program);
        let begin = clock::instant();
        program = Program::start(house.dir());
        // The word did not arrive before the end, or the breach was not seen yet: said again, as a person would.
        let view = program.view().expect("a view");
        if !automatic && view.phase == PhaseKind::Advancing {
            lost += 1;
            program.command(revert());
        } else if view.phase == PhaseKind::Advancing {
            late += 1;
        }
        let decided = view.phase != PhaseKind::Advancing;
        let view = program.until(&format!("round {round} is reverted"), Duration::from_mins(1), |view| settled(view, PhaseKind::Reverted));
        check(&outside.since(mark, &candidate), &view, &v1, &candidate, &format!("round {round}, {wait} ms, seed {seed:#x}"));
        back.extend(outside.taken_out_after(begin, &candidate).filter(|_| decided).map(|at| (at - begin).as_millis()));
        first = first.or_else(|| view.revert.as_ref().map(|revert| revert.id.clone()));
        program.command(Verb::Lift { release: None });
        program.until("at rest", Duration::from_secs(20), |view| settled(view, PhaseKind::Idle));
    }
    let visits = traffic.stop().await;
    none_dropped(&visits);
    eprintln!("{rounds} kills during reverts: {lost} before the command was recorded, {late} before the breach was");
    back.sort_unstable();
    eprintln!("start to traffic back, where a revert was on record and traffic was not back yet: {back:?} ms");
    program.kill();
    let counts = reverts_by_generation(&house);
    assert_eq!(counts.len(), rounds, "one revert per candidate: {counts:?}");
    assert!(counts.iter().all(|(_, count)| *count == 1), "each was decided once: {counts:?}");
    let verified = audit::verify(&house.store(), &Public::load(&house.store().join("keys")).expect("the public keys"));
    assert!(verified.is_ok(), "{verified:?}");
    let (code, said) = say(house.dir(), &["audit", "verify"]);
    assert_eq!(code, 0, "{said}");
    replays(&house);
    // The first revert is found by its id, long after others of the same rollout.
    let (code, said) = say(house.dir(), &["explain", &first.expect("a revert")]);
    assert!(code == 0 && said.contains("decided to revert") && said.contains("c0"), "{code}: {said}");
}

/// What was decided over all these lives of a controller is decided again from the exported log.
pub(crate) fn replays(house: &House) {
    let (code, log) = say(house.dir(), &["audit", "export"]);
    assert_eq!(code, 0, "{log}");
    let file = house.dir().join("log.jsonl");
    std::fs::write(&file, &log).expect("the log can be written");
    let (code, said) = say(house.dir(), &["replay", &file.display().to_string()]);
    assert!(code == 0 && said.contains("all as recorded"), "{code}: {said}");
    eprintln!("{said}");
    // Another decision than was made, and a line that is missing, are found.
    std::fs::write(&file, log.replacen("\"decision\":\"revert\"", "\"decision\":\"retreat\"", 1)).expect("the log can be written");
    let (code, said) = say(house.dir(), &["replay", &file.display().to_string()]);
    assert!(code == 1 && said.contains("recorded: decided to retreat") && said.contains("now:      decided to revert"), "{code}: {said}");
    let lines: Vec<&str> = log.lines().collect();
    std::fs::write(&file, [&lines[..7], &lines[8..]].concat().join("\n")).expect("the log can be written");
    let (code, said) = say(house.dir(), &["replay", &file.display().to_string()]);
    assert!(code == 3 && said.contains("entries are missing or out of order"), "{code}: {said}");
}

fn check(counted: &Counted, view: &View, stable: &Release, candidate: &Release, when: &str) {
    assert_eq!(view.stable.as_ref(), Some(stable), "{when}");
    let bad = line(view, candidate);
    assert!(bad.quarantined && bad.standing == Standing::Bad, "{when}: {bad:?}");
    let wanted = Counted { taken_out: 1, ended: 1, held: 1, flag: 1, ..Counted::default() };
    assert_eq!(*counted, wanted, "{when}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_was_stopped_for_a_while_goes_on_without_harm() {
    let house = House::without_controller(Shape::canary()).await;
    let program = Program::start(house.dir());
    let v1 = house.release("v1", &[]);
    program.settle(&v1);
    let traffic = Traffic::start(house.address(SERVICE), 150);
    let v2 = house.release("v2", &[]);
    program.deploy(&v2);
    program.until("on trial", Duration::from_secs(30), |view| view.step.as_deref() == Some("judging"));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    program.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(5)).await;
    program.signal(Signal::CONT);
    let good = |view: &View| settled(view, PhaseKind::Idle) && view.stable.as_ref() == Some(&v2);
    let view = program.until("v2 is stable", Duration::from_mins(1), good);
    assert_eq!(line(&view, &v2).standing, Standing::KnownGood);
    let visits = traffic.stop().await;
    assert!(visits.iter().all(|visit| visit.status == Some(200)), "traffic went on without the controller");
    assert!(reverts_by_generation(&house).is_empty());
    assert!(fs::metadata(house.dir().join("controller.log")).is_ok());
}
