//! Documents that change while the controller runs.

use std::fs;
use std::time::Duration;

use backstop::core::preview::View;
use backstop::core::release::Release;
use backstop::shell::standalone::StartError;

use crate::people::is_off;
use crate::rig::{House, SERVICE, Shape, agent, revert};

const SECOND: &str = "demo/cart";

/// Waits until a revert has put everything back.
async fn back(house: &House, to: &Release) {
    let done = |view: &View| view.revert.as_ref().is_some_and(|revert| revert.flags_safe.is_some() && revert.release_back.is_some());
    let view = house.until("back", Duration::from_secs(30), done).await;
    assert_eq!(view.stable.as_ref(), Some(to));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rollouts_and_changed_flag_targets_hold_without_a_restart() {
    let mut house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    fs::copy(house.flags(), house.dir().join("moved.json")).expect("a copy");
    house.reshape(|shape| {
        shape.add("cart");
        shape.flags = "moved.json".into();
    });
    assert!(house.controller().handle().line(SECOND).is_none(), "nothing is read before it is asked for");
    house.reload().await.expect("the documents are good");
    house.settle_at(SECOND, &v1).await;

    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("to be taken back")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    house.command(revert()).await;
    back(&house, &v1).await;
    assert!(is_off(&house.dir().join("moved.json")), "the revert moved the flag where it is now");
    assert!(!is_off(&house.flags()), "and not where it was");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_documents_are_not_taken_and_a_missing_one_frees_nobody() {
    let mut house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let broken = house.dir().join("rollouts/broken.yaml");
    fs::write(&broken, "kind: GuardedRollout\nspec: [\n").expect("a file");
    house.reshape(|shape| shape.add("cart"));
    let refused = house.reload().await;
    assert!(matches!(refused, Err(StartError::Spec(_))), "{refused:?}");
    assert!(house.controller().handle().line(SECOND).is_none(), "nothing was half applied");

    fs::remove_file(broken).expect("it is there");
    house.reshape(|shape| shape.remove(SERVICE));
    house.reload().await.expect("the documents are good");
    assert!(house.controller().handle().line(SECOND).is_some());
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("still guarded")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    house.command(revert()).await;
    back(&house, &v1).await;
    house.end().await;
}
