//! Two controllers on one store and one host at the same time.

use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::input::{Commanded, Input};
use backstop::core::preview::View;
use backstop::core::state::PhaseKind;
use backstop::shell::standalone::Controller;
use backstop::world::audit;

use crate::outside::{Counted, Outside};
use crate::rig::{House, SERVICE, Shape, agent, person, revert};

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_on_one_store_do_no_harm_and_obey_a_person_at_either() {
    let mut house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let other = Controller::start(&house.setup).await.expect("a second controller");
    let traffic = Traffic::start(house.address(SERVICE), 100);
    let outside = Outside::watch(house.dir());
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("a good one")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    let mark = outside.mark();
    // The person asks the one that does not know of the deployment.
    let input = Input::Commanded(Commanded { verb: revert(), request: person("at the other one") });
    let answer = other.handle().ask(SERVICE, input).await.expect("an answer");
    assert!(answer.accepted, "{answer:?}");
    let mut view = other.handle().line(SERVICE).expect("the rollout").view;
    let back = |view: &View| view.phase == PhaseKind::Reverted && view.observed.keys().eq([&v1.id]);
    // The view is not held on to: its writer would wait for that.
    let seen = tokio::time::timeout(Duration::from_secs(30), view.wait_for(|view| back(&view.0))).await.is_ok();
    assert!(seen, "the other one did not revert: {:?}", other.handle().view(SERVICE).map(|view| view.0.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counted = outside.since(mark, &v2);
    assert_eq!((counted.taken_out, counted.raised, counted.held), (1, 0, 1), "{counted:?}");
    assert!(matches!(counted, Counted { started: 0, restored: 0, .. }), "{counted:?}");
    // The first one finds that out as soon as it wants to write.
    let answer = house.deploy_to(SERVICE, &v2, agent("again")).await;
    assert!(!answer.accepted || house.view().phase != PhaseKind::Advancing, "{answer:?}");
    let visits = traffic.stop().await;
    assert!(visits.iter().all(|visit| visit.status == Some(200)), "nobody noticed");
    other.stop().await;
    let public = house.controller().shared().world.store().local().public().clone();
    house.stop_controller().await;
    let verified = audit::verify(&house.store(), &public);
    assert!(verified.is_ok(), "{verified:?}");
}
