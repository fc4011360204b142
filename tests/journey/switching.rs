//! Traffic: canaries that go on, canaries that go back, and the instant switch.

use std::fs;
use std::time::Duration;

use backstop::cli::demo::load::{Traffic, Visit};
use backstop::core::ledger::Standing;
use backstop::core::reason::Reason;
use backstop::core::record::Decision;
use backstop::core::release::Release;
use backstop::core::spec::Percent;
use backstop::core::state::PhaseKind;

use crate::rig::{House, SERVICE, Shape, agent, code, line, none_dropped, person};

/// Share of answers by a release among the last `count`.
fn share(visits: &[Visit], release: &Release, count: usize) -> f64 {
    let last = &visits[visits.len().saturating_sub(count)..];
    let by = last.iter().filter(|visit| visit.release.as_ref() == Some(&release.id)).count();
    by as f64 / last.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_canary_goes_back_and_a_good_one_stays() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("make it faster")).await;
    let good =
        |view: &backstop::core::preview::View| view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&v2);
    let view = house.until("v2 is stable", Duration::from_mins(1), good).await;
    assert_eq!(line(&view, &v2).standing, Standing::KnownGood);

    let v3 = house.release("v3", &[("ERROR_RATIO", "0.05")]);
    house.deploy(&v3, agent("tidy up")).await;
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v2));
    assert_eq!(code(&view), "BS001");
    let bad = line(&view, &v3);
    assert!(bad.quarantined && bad.standing == Standing::Bad);
    assert!(house.pages.codes().contains(&"BS001".to_owned()));
    let visits = traffic.stop().await;
    none_dropped(&visits);
    assert!(share(&visits, &v2, 100) > 0.99, "all traffic is back");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blue_green_switches_at_once_and_back_to_the_same_warm_process() {
    let house = House::start(Shape::blue_green()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let warm = house.pids(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v2 = house.release("v2", &[("ERROR_RATIO", "0.1")]);
    house.deploy(&v2, agent("all at once")).await;
    let full = |view: &backstop::core::preview::View| view.observed.get(&v2.id).is_some_and(|share| *share == Percent::FULL);
    house.until("v2 has all the traffic", Duration::from_secs(20), full).await;
    assert_eq!(house.pids(&v1).await, warm, "the old release is kept warm");
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v1));
    assert_eq!(house.pids(&v1).await, warm, "the way back was a switch, not a start");
    let visits = traffic.stop().await;
    none_dropped(&visits);

    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v3 = house.release("v3", &[]);
    house.deploy(&v3, agent("fixed")).await;
    let good =
        |view: &backstop::core::preview::View| view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&v3);
    house.until("v3 is stable", Duration::from_mins(1), good).await;
    let visits = traffic.stop().await;
    none_dropped(&visits);
    assert!(share(&visits, &v3, 50) > 0.99, "v3 has all traffic");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_tail_goes_back() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 150);
    let v2 = house.release("v2", &[("SLOW_RATIO", "0.1"), ("SLOW_MS", "600")]);
    house.deploy(&v2, agent("cache less")).await;
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert!(matches!(&view.reason, Some(Reason::Breach { objective, .. }) if objective == "latency"), "{:?}", view.reason);
    let visits = traffic.stop().await;
    none_dropped(&visits);
    assert!(visits.iter().all(|visit| visit.status == Some(200)), "no request failed: it was slow");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_outage_is_nobodys_fault() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("a good one on a bad day")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    fs::write(house.outage(), "0.3").expect("an outage");
    house.until("retreat", Duration::from_secs(30), |view| view.step.as_deref() == Some("retreated")).await;
    let gone = |view: &backstop::core::preview::View| view.observed.get(&v2.id).is_none_or(|share| *share == Percent::ZERO);
    house.until("no traffic for v2", Duration::from_secs(5), gone).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    fs::remove_file(house.outage()).expect("the outage ends");
    let good =
        |view: &backstop::core::preview::View| view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&v2);
    let view = house.until("v2 is stable after all", Duration::from_secs(90), good).await;
    assert!(!house.decided(Decision::Revert), "{:?}", house.decisions(SERVICE));
    assert!(house.decided(Decision::Exonerate));
    assert!(!line(&view, &v2).quarantined);
    assert!(house.pages.codes().contains(&"BS020".to_owned()), "somebody was told: {:?}", house.pages.codes());
    none_dropped(&traffic.stop().await);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_deployment_takes_over_and_starts_at_nothing() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 100);
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("one")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    let v3 = house.release("v3", &[]);
    house.deploy(&v3, person("two")).await;
    let good =
        |view: &backstop::core::preview::View| view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&v3);
    let view = house.until("v3 is stable", Duration::from_mins(1), good).await;
    assert_eq!(line(&view, &v2).standing, Standing::Unproven, "v2 was neither proven nor blamed");
    assert!(house.pids(&v2).await.is_empty(), "v2 does not run any more");
    none_dropped(&traffic.stop().await);
    house.end().await;
}
