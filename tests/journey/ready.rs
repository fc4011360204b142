//! Whether a revert would work is proven while everything is quiet: each thing that it needs is taken away in turn.

use std::fs;
use std::time::Duration;

use backstop::core::input::{Outcome, Verb};
use backstop::core::policy::Policy;
use backstop::core::release::Release;
use backstop::core::state::PhaseKind;
use backstop::core::time::{Mono, Span};
use backstop::core::work::{Action, Effect, EffectId, EvidenceFrom, Fence, Lane};
use backstop::world::perform::{Performed, Subjects};
use rustix::process::Signal;

use crate::rig::{House, SERVICE, Shape, agent, signal};

/// What a proof says now.
async fn proof(house: &House, target: &Release) -> Outcome {
    let (shared, key) = (house.controller().shared(), SERVICE);
    let loaded = shared.documents();
    let (metadata, spec) = loaded.rollouts.get(key).expect("the document");
    let policies = backstop::shell::rollout::Policies::new(loaded.clone(), metadata.clone(), spec);
    let policy: Policy = policies.of_guard();
    let guard = backstop::core::state::Guard {
        key: key.into(),
        uid: shared.world.store().uid(key),
        spec: spec.clone(),
        interval: Span::seconds(1),
    };
    let subjects = Subjects {
        guard,
        policy: policy.into(),
        generation: 1,
        stable: None,
        way_back: None,
        revert: None,
        reverting: None,
        ledger: Vec::new(),
    };
    let clock = *shared.world.clock();
    let effect = Effect {
        id: EffectId { revision: 1, ordinal: 0 },
        fence: Fence::None,
        deadline: Mono(clock.now().mono.0 + 20_000),
        lane: Lane::Forward,
        action: Action::Verify { release: target.clone(), evidence: EvidenceFrom::Store },
    };
    match shared.world.perform(&subjects, &effect, clock, || {}).await {
        Performed::Ended(outcome) => outcome,
        Performed::Looked(_) => unreachable!("it was no look"),
    }
}

async fn lacks(house: &House, target: &Release, what: &str) {
    match proof(house, target).await {
        Outcome::Denied(missing) => assert!(missing.contains(what), "`{what}` is not in: {missing}"),
        other => panic!("ready, though `{what}`: {other:?}"),
    }
}

async fn is_ready(house: &House, target: &Release) {
    let outcome = proof(house, target).await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_revert_needs_is_missed_before_it_is_needed() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    is_ready(&house, &v1).await;

    // The flag's safe variant must be reachable.
    fs::write(house.flags(), r#"{"flags": {}}"#).expect("the flag file");
    lacks(&house, &v1, "new-checkout").await;
    fs::remove_file(house.flags()).expect("it was there");
    lacks(&house, &v1, "flags.json").await;
    house.reset_flag();

    // The artifact must be to be had: where it came from, or unpacked at the host.
    let (layout, aside) = (house.layout(), house.dir().join("aside"));
    fs::rename(&layout, &aside).expect("moved");
    is_ready(&house, &v1).await;
    let unpacked = house.dir().join("host/unpacked");
    fs::rename(&unpacked, house.dir().join("unpacked-aside")).expect("moved");
    lacks(&house, &v1, "cannot be had").await;
    fs::rename(house.dir().join("unpacked-aside"), &unpacked).expect("moved back");
    fs::rename(&aside, &layout).expect("moved back");
    is_ready(&house, &v1).await;

    // The store must take writes.
    let other = rusqlite::Connection::open(house.store().join("backstop.db")).expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    lacks(&house, &v1, "the store does not take writes").await;
    other.execute_batch("ROLLBACK").expect("unlocked");
    drop(other);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    is_ready(&house, &v1).await;

    // Not ready means no forward step for agents; a person may go on.
    fs::remove_file(house.flags()).expect("it was there");
    let v2 = house.release("v2", &[]);
    house.settle(&v2).await;
    let not_ready = |view: &backstop::core::preview::View| {
        view.readiness.as_ref().and_then(|readiness| readiness.missing.as_ref()).is_some_and(|why| why.to_string().contains("flags.json"))
    };
    house.until("not ready", Duration::from_secs(20), not_ready).await;
    house.pages.until("BS053", Duration::from_secs(10)).await;
    let v3 = house.release("v3", &[]);
    house.deploy(&v3, agent("on we go")).await;
    let held = |view: &backstop::core::preview::View| {
        view.phase == PhaseKind::Advancing && view.waiting.as_ref().is_some_and(|why| why.code() == "BS053")
    };
    let view = house.until("held back", Duration::from_secs(20), held).await;
    assert!(view.observed.get(&v3.id).is_none_or(|share| share.fraction() == 0.0), "{:?}", view.observed);
    house.command(Verb::Pause).await;

    // The host must answer.
    signal(house.host_pid(), Signal::STOP);
    let said = proof(&house, &v2).await;
    signal(house.host_pid(), Signal::CONT);
    match said {
        Outcome::Denied(missing) => assert!(missing.contains("the host"), "{missing}"),
        other => panic!("{other:?}"),
    }
    house.end().await;
}
