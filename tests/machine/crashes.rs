//! A crash anywhere changes nothing but the time.

use super::*;

type End = (PhaseKind, Option<ReleaseId>, Vec<ReleaseId>, Vec<(ReleaseId, Percent)>, Option<Target>);

fn end(life: &Life) -> End {
    let state = life.state();
    let weights = life.world.observed().weights.into_iter().filter(|(_, share)| *share > Percent::ZERO).collect();
    let target = state.phase.revert().map(|revert| revert.target.clone());
    (state.phase.kind(), state.stable.clone(), state.ledger.quarantined(), weights, target)
}

/// Who gets no answer asks again.
fn insist(life: &mut Life, ask: impl Fn(&mut Life) -> Option<Answer>) {
    assert!((0..3).any(|_| ask(life).is_some()), "no answer");
}

/// Plays a script with a crash after each step of the controller, in turn; the end must not depend on it.
fn crash_anywhere(script: impl Fn(&mut Life)) {
    let play = |crash_after: Option<u64>| {
        let mut life = house_of_two();
        let begin = life.steps;
        life.crash_after = crash_after.map(|after| begin + after);
        script(&mut life);
        let rested =
            life.until(600, |life| life.phase().is_resting() && life.state().phase.kind().is_resting() && life.state().tasks.is_empty());
        fine(&life);
        assert!(rested, "crash after {crash_after:?}: {}", life.phase());
        (end(&life), life.steps - begin)
    };
    let (expected, steps) = play(None);
    let stride = (steps / 120).max(1);
    for after in (0..steps).step_by(usize::try_from(stride).unwrap()) {
        assert_eq!(play(Some(after)).0, expected, "crash after step {after} of {steps}");
    }
}

#[test]
fn a_crash_anywhere_in_a_good_rollout_changes_nothing() {
    crash_anywhere(|life| {
        insist(life, |life| life.deployed(&v(3), person("ann")));
        life.run(60);
    });
}

#[test]
fn a_crash_anywhere_in_a_breach_changes_nothing() {
    crash_anywhere(|life| {
        spoil(life, &v(3), 0.5);
        insist(life, |life| life.deployed(&v(3), person("ann")));
        life.run(60);
    });
}

#[test]
fn a_crash_anywhere_in_a_restore_changes_nothing() {
    crash_anywhere(|life| {
        insist(life, |life| life.commanded(REVERT, person("ann")));
        life.run(60);
    });
}

#[test]
fn a_crash_anywhere_on_the_way_to_stuck_changes_nothing() {
    crash_anywhere(|life| {
        for number in [1, 2] {
            life.world.evidence.entry(image(&v(number))).or_default().tampered = true;
        }
        insist(life, |life| life.commanded(REVERT, person("ann")));
        life.run(60);
    });
}

#[test]
fn a_controller_that_starts_decides_by_all_that_the_source_has_of_the_stage() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.run(3);
    spoil(&mut life, &v(3), 0.5);
    // It breaks while nobody looks, and the source has all of it.
    life.crash(0, 8_000);
    life.run(8);
    let start = life.world.now;
    reach(&mut life, PhaseKind::Reverting, 10);
    assert!(life.world.now - start <= 1_100, "{} ms after its start", life.world.now - start);
    reach(&mut life, PhaseKind::Reverted, 200);
    is_back(&life, &v(3), &v(2));
}
