//! A world that fails, and what is promised then.

use super::*;

#[test]
fn a_flag_service_that_never_obeys_ends_in_a_page_and_is_tried_on() {
    for service in [FlagService::Down, FlagService::Denies] {
        let mut life = house_of_two();
        accepted(life.deployed(&v(3), agent("bot")));
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
        life.world.flag_service = service;
        spoil(&mut life, &v(3), 0.5);
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.0), "traffic does not wait for the flag");
        reach(&mut life, PhaseKind::Stuck, 330);
        life.run(20);
        assert!(pages(&life).contains(&"BS073"), "{:?}", pages(&life));
        life.world.flag_service = FlagService::Obeys;
        assert!(life.until(30, |life| life.world.flags.contains_key("new")), "still wanted");
    }
}

#[test]
fn a_dead_host_does_not_stop_the_revert_for_ever() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    let now = life.world.now;
    life.world.host_back_at = now + 100_000;
    spoil(&mut life, &v(3), 0.5);
    life.run(95);
    assert_eq!(life.phase(), PhaseKind::Reverting);
    reach(&mut life, PhaseKind::Reverted, 90);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn answers_that_get_lost_delay_a_revert_by_seconds() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.faults.lost = 0.7;
    life.commanded(REVERT, person("ann"));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.0));
    life.faults.lost = 0.0;
    reach(&mut life, PhaseKind::Reverted, 120);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn a_store_that_is_away_does_not_stop_what_is_safe() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    let now = life.world.now;
    life.world.store_back_at = now + 120_000;
    spoil(&mut life, &v(3), 0.5);
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.0), "traffic");
    assert!(life.until(5, |life| life.world.flags.contains_key("new")), "flags");
    assert!(!life.oracle.performed.contains_key("ensureHold"), "nothing else");
    reach(&mut life, PhaseKind::Reverted, 240);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn a_late_forward_step_does_not_undo_a_revert() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.faults.doubled = 1.0;
    life.faults.slow = 4_000;
    assert!(life.until(60, |life| life.state().tasks.values().any(|task| matches!(task.effect.action, Action::EnsureWeights { .. }))));
    life.commanded(REVERT, person("ann"));
    assert!(life.until(30, |life| weight(life, &v(3)) == 0.0));
    life.run(30);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn at_a_deadline_the_guard_decides() {
    for (late, phase) in
        [(OnDeadline::Retreat, PhaseKind::Refused), (OnDeadline::Revert, PhaseKind::Reverted), (OnDeadline::Wait, PhaseKind::Advancing)]
    {
        let mut strategy = house::canary();
        if let Strategy::Canary(canary) = &mut strategy {
            canary.on_deadline = Some(late);
        }
        let mut life = life_with(guard(strategy), house::policy());
        settle(&mut life, &v(1));
        life.world.truth.rate = 0;
        accepted(life.deployed(&v(2), person("ann")));
        life.run(400);
        fine(&life);
        assert_eq!(life.phase(), phase, "{late:?}");
        assert_eq!(weight(&life, &v(2)) == 0.0, late != OnDeadline::Wait);
        assert_eq!(life.state().ledger.is_quarantined(&v(2).id), late == OnDeadline::Revert);
        assert!(pages(&life).contains(&"BS009"), "{:?}", pages(&life));
    }
}

#[test]
fn without_requests_nothing_becomes_known_good_and_the_way_back_stays_warm() {
    let mut life = life();
    settle(&mut life, &v(1));
    accepted(life.deployed(&v(2), person("ann")));
    reach(&mut life, PhaseKind::Watching, 120);
    life.world.truth.rate = 0;
    life.run(7_200);
    fine(&life);
    assert_eq!(life.phase(), PhaseKind::Watching);
    assert!(!life.state().ledger.is_known_good(&v(2).id));
    assert!(life.world.is_live(&v(1).id));
    accepted(life.commanded(Verb::Adopt, person("ann")));
    reach(&mut life, PhaseKind::Idle, 5);
    assert!(life.state().ledger.is_known_good(&v(2).id));
}
