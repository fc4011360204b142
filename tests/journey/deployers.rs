//! Deployers that do not take no for an answer.

use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::ledger::Standing;
use backstop::core::state::PhaseKind;
use backstop::world::clock;

use crate::rig::{House, SERVICE, Shape, agent, line};

#[tokio::test(flavor = "multi_thread")]
async fn touching_the_release_shakes_nothing_off() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let bad = house.release("bad", &[("ERROR_RATIO", "0.1"), ("TOUCH", "0")]);
    house.deploy(&bad, agent("touch 0")).await;
    let begin = clock::instant();
    let mut touches = 0;
    let refused = loop {
        tokio::time::sleep(Duration::from_secs(4)).await;
        touches += 1;
        let touch = touches.to_string();
        let again = house.run_with(bad.template.image().clone(), "bad", &[("ERROR_RATIO", "0.1"), ("TOUCH", &touch)]);
        let answer = house.deploy_to(SERVICE, &again, agent(&format!("touch {touch}"))).await;
        if !answer.accepted {
            break answer;
        }
        assert!(begin.elapsed() < Duration::from_mins(1), "{touches} touches and still on trial");
    };
    assert!(["BS050", "BS059"].contains(&refused.reason.code()), "{refused:?}");
    let view = house.until_phase(PhaseKind::Reverted, 30).await;
    assert_eq!(view.stable.as_ref(), Some(&v1));
    eprintln!("a deployer that touches its release every 4 s was stopped after {touches} touches, {:?}", begin.elapsed());
    // Nor does it later: the same, touched again, and the very same.
    let once_more = house.run_with(bad.template.image().clone(), "bad", &[("ERROR_RATIO", "0.1"), ("TOUCH", "again")]);
    for release in [&once_more, view.revert.as_ref().and_then(|revert| revert.under.as_ref()).expect("what was reverted")] {
        let answer = house.deploy_to(SERVICE, release, agent("again")).await;
        assert_eq!((answer.accepted, answer.reason.code()), (false, "BS050"), "{answer:?}");
    }
    assert_eq!(house.view().phase, PhaseKind::Reverted);
    drop(traffic.stop().await);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_good_image_is_not_to_blame_for_a_broken_environment() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let broken = house.run_with(v1.template.image().clone(), "v1", &[("ERROR_RATIO", "0.1")]);
    house.deploy(&broken, agent("new settings")).await;
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v1), "the image with its good environment is what went back");
    assert_eq!(line(&view, &v1).standing, Standing::KnownGood);
    assert!(!line(&view, &v1).quarantined && line(&view, &broken).quarantined);
    let mended = house.run_with(v1.template.image().clone(), "v1", &[("GREETING", "good day")]);
    house.deploy(&mended, agent("better settings")).await;
    let good = |view: &backstop::core::preview::View| {
        view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&mended)
    };
    house.until("the image with better settings is stable", Duration::from_mins(1), good).await;
    drop(traffic.stop().await);
    house.end().await;
}
