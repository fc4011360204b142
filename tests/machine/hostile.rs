//! What somebody tries who wants a bad release live, or sees the controller come back late.

use backstop::core::actor::Request;
use backstop::core::policy::Policy;

use super::*;

/// The same bytes under another repository's name.
fn mirrored(image: &str, touch: u32) -> Release {
    let release = release(image, touch);
    let process = release.template.as_process().unwrap().clone();
    let mirror = backstop::core::release::Image { repository: format!("mirror-{touch}/checkout"), ..process.image };
    Release::new(backstop::core::release::Template::process(mirror, process.command, process.env), None)
}

#[test]
fn another_name_for_the_same_image_does_not_shake_evidence_off() {
    let evidence_after = |newer: Release| {
        let mut life = house_of_two();
        spoil(&mut life, &v(3), 0.03);
        accepted(life.deployed(&v(3), agent("bot")));
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
        life.run(6);
        accepted(life.deployed(&newer, agent("bot")));
        life.state().trial.unwrap().judge.clone().expect("evidence is in the committed state")
    };
    let touched = evidence_after(release("v3", 1));
    assert_eq!(evidence_after(mirrored("v3", 1)), touched);
    assert_ne!(evidence_after(release("v4", 1)), touched);
}

#[test]
fn something_else_in_between_does_not_shake_evidence_off() {
    // A bad release, then another, then the bad one again: each too short to be found out by itself.
    let mut life = house_of_two();
    life.world.truth.rate = 60;
    spoil(&mut life, &v(3), 0.05);
    for round in 0..60 {
        let next = if round % 2 == 0 { release("v3", round) } else { release("v4", round) };
        life.deployed(&next, agent("bot"));
        life.run(8);
        if life.state().last_revert.is_some() {
            break;
        }
    }
    fine(&life);
    let revert = life.state().last_revert.expect("reverted in the end");
    assert!(revert.under.unwrap().has_images_of(&v(3)), "and it is the bad one");
}

#[test]
fn going_back_to_stable_in_between_does_not_shake_evidence_off() {
    let mut life = house_of_two();
    life.world.truth.rate = 60;
    spoil(&mut life, &v(3), 0.05);
    for round in 0..60 {
        let next = if round % 2 == 0 { v(3) } else { v(2) };
        life.deployed(&next, agent("bot"));
        life.run(8);
        if life.state().last_revert.is_some() {
            return fine(&life);
        }
    }
    panic!("never reverted: {}", life.phase());
}

#[test]
fn what_is_held_against_a_release_is_bounded_in_number_and_time() {
    let mut life = house_of_two();
    spoil(&mut life, &v(3), 0.03);
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.run(6);
    assert!(life.state().last_revert.is_none());
    for round in 0..20 {
        let other = release(&format!("v{}", 4 + round), 0);
        life.world.evidence.entry(image(&other)).or_default().good = true;
        life.deployed(&other, person("ann"));
        life.run(20);
    }
    fine(&life);
    assert_eq!(life.state().unjudged.len(), 8);
    let images: Vec<_> = life.state().unjudged.iter().map(|one| one.images.clone()).collect();
    assert!(images.contains(&v(3).digests()), "those with most against them stay");
    reach(&mut life, PhaseKind::Idle, 200);
    life.run(25 * 3600);
    life.deployed(&v(5), person("ann"));
    assert!(life.state().unjudged.is_empty(), "{:?}", life.state().unjudged);
}

#[test]
fn what_waits_is_bound_by_the_policy_of_who_asked_for_it() {
    let mut strategy = house::canary();
    if let Strategy::Canary(canary) = &mut strategy {
        canary.on_newer = OnNewer::QueueLatest;
    }
    let mut life = life_with(guard(strategy), house::policy());
    settle(&mut life, &v(1));
    accepted(life.deployed(&v(2), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(2)) == 0.2));
    let strict = Policy { approvals: 1, approve_within: Span::minutes(5), ..house::policy() };
    life.tell(Input::PolicyChanged(std::sync::Arc::new(strict)));
    accepted(life.deployed(&v(3), agent("bot")));
    // Somebody whom a looser policy is for asks for what runs already: that changes nothing for who waits.
    life.tell(Input::PolicyChanged(std::sync::Arc::new(house::policy())));
    accepted(life.deployed(&v(2), person("ann")));
    assert!(life.until(200, |life| life.state().stable == Some(v(2).id)));
    reach(&mut life, PhaseKind::AwaitingApproval, 30);
}

#[test]
fn two_credentials_of_one_person_are_one_person() {
    let by = |principal: &str, scope: &str| {
        let request = person(principal);
        Request { token_scope_id: Some(scope.into()), ..request }
    };
    let policy = Policy { approvals: 2, approve_within: Span::minutes(5), ..house::policy() };
    let mut life = life_with(guard(house::canary()), policy);
    accepted(life.deployed(&v(1), by("uid:1000:ann", "ann")));
    reach(&mut life, PhaseKind::AwaitingApproval, 30);
    assert!(matches!(refused(life.commanded(Verb::Approve, by("token:ann", "ann"))), Reason::NotAllowed { .. }));
    accepted(life.commanded(Verb::Approve, by("token:bob", "bob")));
    accepted(life.commanded(Verb::Approve, by("uid:1001:bob", "bob")));
    assert_eq!(life.phase(), PhaseKind::AwaitingApproval);
    accepted(life.commanded(Verb::Approve, by("token:eve", "eve")));
    reach(&mut life, PhaseKind::Advancing, 5);
}

#[test]
fn an_agent_cannot_deploy_more_often_under_other_names() {
    let policy = Policy { deployments_per_hour: Some(2), ..house::policy() };
    let mut life = life_with(guard(house::canary()), policy);
    settle(&mut life, &v(1));
    let named = |name: &str| {
        let request = agent("token:release");
        let actor = backstop::core::actor::Actor { agent_id: Some(name.into()), ..request.actor };
        Request { actor, ..request }
    };
    accepted(life.deployed(&v(2), named("a")));
    accepted(life.deployed(&v(3), named("b")));
    assert!(matches!(refused(life.deployed(&v(4), named("c"))), Reason::QuotaExceeded { .. }));
}

#[test]
fn a_deadline_that_passed_while_no_controller_ran_is_not_a_failure() {
    // In the middle of the revert, and while its effect is watched.
    for phase in [PhaseKind::Reverting, PhaseKind::Recovering] {
        let mut life = house_of_two();
        accepted(life.commanded(REVERT, person("ann")));
        assert!(life.until(20, |life| life.state().phase.kind() == phase));
        life.crash(0, 400_000);
        life.run(401);
        assert!(life.until(120, |life| life.state().phase.kind().is_resting()), "{}", life.phase());
        fine(&life);
        assert_eq!(life.phase(), PhaseKind::Reverted, "from {phase}: {:?}", pages(&life));
        assert_eq!(weight(&life, &v(1)), 1.0);
    }
}

#[test]
fn a_stage_deadline_that_passes_while_no_controller_runs_has_its_consequence_at_once() {
    for (on_deadline, ends) in [
        (OnDeadline::Revert, PhaseKind::Reverted),
        (OnDeadline::Retreat, PhaseKind::Refused),
        (OnDeadline::PromoteOnHealth, PhaseKind::Advancing),
        (OnDeadline::Wait, PhaseKind::Advancing),
    ] {
        let mut strategy = house::canary();
        if let Strategy::Canary(canary) = &mut strategy {
            canary.on_deadline = Some(on_deadline);
        }
        let policy = Policy { promote_on_health: true, ..house::policy() };
        let mut life = life_with(guard(strategy), policy);
        settle(&mut life, &v(1));
        settle(&mut life, &v(2));
        // Nobody uses the service, so there is no verdict; the stage lasts two minutes.
        life.world.truth.rate = 0;
        accepted(life.deployed(&v(3), agent("bot")));
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
        let told = pages(&life).len();
        life.crash(0, 200_000);
        life.run(200);
        // Not another two minutes: as soon as it is seen what runs.
        life.run(3);
        fine(&life);
        match on_deadline {
            OnDeadline::Revert | OnDeadline::Retreat => assert_eq!(weight(&life, &v(2)), 1.0, "{on_deadline:?}: {}", life.phase()),
            OnDeadline::PromoteOnHealth => assert_eq!(weight(&life, &v(3)), 0.5, "{:?}", life.state().phase),
            OnDeadline::Wait => {
                assert_eq!(weight(&life, &v(3)), 0.2);
                assert_eq!(pages(&life)[told..].iter().filter(|code| **code == "BS009").count(), 1, "{:?}", pages(&life));
            }
        }
        // Without requests nothing speaks for the recovery; it ends at its own deadline.
        reach(&mut life, ends, 90);
    }
}

#[test]
fn quarantine_is_bounded_and_lets_nothing_back_in() {
    let mut life = house_of_two();
    let bad = |number: u32| release(&format!("bad{number}"), 0);
    for number in 0..100 {
        life.world.evidence.entry(image(&bad(number))).or_default().good = true;
        // An agent asks, and a person says no before it gets anywhere.
        let answer = life.deployed(&bad(number), agent("bot")).expect("an answer");
        if !answer.accepted {
            assert!(matches!(answer.reason, Reason::QuotaExceeded { .. }), "{:?}", answer.reason);
            break;
        }
        accepted(life.commanded(REVERT, person("ann")));
        life.run(1);
    }
    fine(&life);
    assert_eq!(life.state().ledger.quarantined().len(), 64);
    assert!(pages(&life).contains(&"BS061"), "loudly: {:?}", pages(&life));
    for number in [0, 63] {
        assert!(life.state().ledger.is_quarantined(&bad(number).id), "the oldest, too");
        assert!(!life.deployed(&bad(number), agent("bot")).unwrap().accepted);
    }
    // A person is not kept from the way forward, and what is lifted leaves.
    accepted(life.deployed(&v(3), person("ann")));
    reach(&mut life, PhaseKind::Idle, 200);
    accepted(life.commanded(Verb::Lift { release: None }, person("ann")));
    settle(&mut life, &v(4));
    assert!(life.state().ledger.records().len() <= 20, "{}", life.state().ledger.records().len());
    accepted(life.deployed(&v(5), agent("bot")));
}

#[test]
fn known_good_releases_are_bounded_and_the_newest_stay() {
    let mut life = house_of_two();
    for number in 10..40 {
        let good = v(number);
        life.world.evidence.entry(image(&good)).or_default().good = true;
        settle(&mut life, &good);
    }
    let state = life.state();
    assert_eq!(state.ledger.records().len(), 20);
    assert!(state.ledger.is_known_good(&v(39).id) && state.ledger.is_known_good(&v(21).id));
}

#[test]
fn who_freezes_everything_is_on_the_record_and_nobody_else() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), agent("bot")));
    for (frozen, name) in [(true, "ann"), (true, "bob"), (false, "eve")] {
        life.tell(Input::ScopeChanged(Scope { frozen, by: Some(Box::new(person(name))), ..Scope::default() }));
        life.run(5);
    }
    life.tell(Input::ScopeChanged(Scope { frozen: true, ..Scope::default() }));
    life.run(5);
    let around =
        life.world.log.iter().filter(|record| matches!(&record.event, Event::Input(input) if matches!(**input, Input::ScopeChanged(_))));
    let by: Vec<Option<&str>> = around.map(|record| record.request.as_ref().map(|by| by.actor.principal.as_str())).collect();
    assert_eq!(by, [Some("ann"), Some("bob"), Some("eve"), None]);
}

#[tokio::test]
async fn a_full_line_turns_nobody_away() {
    use backstop::core::input::Observed;
    use backstop::core::preview::{RevertPlan, View};
    use backstop::core::state::State;
    use backstop::shell::handle::{Handle, Line, Message, SendError};
    use tokio::sync::{mpsc, watch};

    let key = "shop/checkout";
    let (state, observed) = (State::new(), Observed::default());
    let plan = RevertPlan::of(key, "uid", &guard(house::canary()).spec, &state, &observed);
    let handle = Handle::new();
    let (urgent, mut arrives) = mpsc::channel::<Message>(1);
    handle.connect(key.into(), Line { urgent, view: watch::channel(Arc::new((View::of_state(key, &state, &observed), plan))).1 });
    handle.tell(key, Input::Woke).unwrap();
    assert_eq!(handle.tell(key, Input::Woke), Err(SendError::Busy(key.into())));
    let taken = async {
        while let Some(message) = arrives.recv().await {
            let Some(answer) = message.answer else { continue };
            return answer.send(Answer { accepted: true, reason: Reason::Accepted {}, revert: None }).unwrap();
        }
    };
    let (answer, ()) = tokio::join!(handle.ask(key, Input::Woke), taken);
    assert!(answer.unwrap().accepted);
}
