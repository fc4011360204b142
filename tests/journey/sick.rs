//! Candidates that are unwell as processes.

use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::input::Verb;
use backstop::core::state::PhaseKind;

use crate::rig::{House, SERVICE, Shape, agent, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_live_goes_back_and_the_stable_one_serves() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 100);
    for (label, ill) in [("never-healthy", ("FAIL_HEALTH", "1")), ("dies-in-a-loop", ("EXIT_AFTER", "100"))] {
        let sick = house.release(label, &[ill]);
        house.deploy(&sick, agent(label)).await;
        let view = house.until_phase(PhaseKind::Reverted, 60).await;
        assert_eq!(code(&view), "BS007", "{label}: {:?}", view.reason);
        house.command(Verb::Lift { release: None }).await;
        house.until_phase(PhaseKind::Idle, 10).await;
    }
    let visits = traffic.stop().await;
    // A process may die with a request in its hands: that one is lost, and no other.
    let lost: Vec<_> = visits.iter().filter(|visit| visit.status != Some(200)).collect();
    assert!(lost.iter().all(|visit| visit.release.as_ref().is_some_and(|release| *release != v1.id)) && lost.len() <= 3, "{lost:?}");
    assert_eq!(visits.last().and_then(|visit| visit.release.clone()), Some(v1.id.clone()));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_goes_back() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 100);
    let hangs = house.release("hangs", &[("HANG", "1")]);
    house.deploy(&hangs, agent("wait for it")).await;
    let view = house.until("reverted", Duration::from_mins(1), |view| view.phase == PhaseKind::Reverted).await;
    assert_eq!(view.stable.as_ref(), Some(&v1));
    eprintln!("a candidate that hangs went back because of {} after {:?}", code(&view), view.reason);
    let visits = traffic.stop().await;
    assert_eq!(visits.last().and_then(|visit| visit.release.clone()), Some(v1.id.clone()));
    house.end().await;
}
