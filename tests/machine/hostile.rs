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
        life.state().trial.unwrap().judge.expect("evidence is in the committed state")
    };
    let touched = evidence_after(release("v3", 1));
    assert_eq!(evidence_after(mirrored("v3", 1)), touched);
    assert_ne!(evidence_after(release("v4", 1)), touched);
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
    life.tell(Input::PolicyChanged(Box::new(strict)));
    accepted(life.deployed(&v(3), agent("bot")));
    // Somebody whom a looser policy is for asks for what runs already: that changes nothing for who waits.
    life.tell(Input::PolicyChanged(Box::new(house::policy())));
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
