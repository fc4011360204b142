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
