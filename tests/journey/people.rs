//! A person's revert: in the middle of a healthy canary, with the flag, at rest, and while all else is on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::input::Verb;
use backstop::core::record::Decision;
use backstop::core::state::PhaseKind;

use crate::rig::{House, SERVICE, Shape, agent, code, line, revert};

/// Whether a file's definition gives everybody the safe variant, by its two levers.
pub(crate) fn is_off(file: &Path) -> bool {
    let text = fs::read_to_string(file).expect("the flag file");
    let file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let flag = &file["flags"]["new-checkout"];
    let targeting = flag.get("targeting").is_none_or(|rule| rule.is_null() || rule.as_object().is_some_and(serde_json::Map::is_empty));
    flag["defaultVariant"] == "off" && targeting
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_reverts_a_healthy_canary_and_the_flag_goes_off() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 100);
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("fine as far as numbers go")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    assert!(!is_off(&house.flags()));
    let answer = house.command(revert()).await;
    assert!(answer.revert.is_some(), "{answer:?}");
    let view = house.until_phase(PhaseKind::Reverted, 30).await;
    assert_eq!(code(&view), "BS090");
    assert!(is_off(&house.flags()), "{}", fs::read_to_string(house.flags()).unwrap_or_default());
    assert_eq!(view.stable.as_ref(), Some(&v1));
    let done = view.revert.expect("a revert");
    assert!(done.traffic_back.is_some() && done.flags_safe.is_some() && done.release_back.is_some(), "{done:?}");
    // The same again names the same revert and moves nothing.
    let again = house.command(revert()).await;
    assert_eq!(again.revert, answer.revert);
    assert_eq!(house.view().phase, PhaseKind::Reverted);
    // An agent does not undo a person's word; a person does.
    let refused = house.deploy_to(SERVICE, &v2, agent("once more")).await;
    assert_eq!((refused.accepted, refused.reason.code()), (false, "BS050"));
    house.command(Verb::Lift { release: None }).await;
    house.until_phase(PhaseKind::Idle, 10).await;
    let visits = traffic.stop().await;
    assert!(visits.iter().all(|visit| visit.status == Some(200)), "nobody noticed");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_a_persons_revert_goes_to_the_previous_known_good() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let v2 = house.release("v2", &[]);
    house.settle(&v2).await;
    let traffic = Traffic::start(house.address(SERVICE), 100);
    house.command(revert()).await;
    let view = house.until_phase(PhaseKind::Reverted, 40).await;
    assert_eq!(view.stable.as_ref(), Some(&v1));
    assert!(line(&view, &v2).quarantined);
    assert!(!line(&view, &v1).quarantined);
    let visits = traffic.stop().await;
    let lost: Vec<_> = visits.iter().filter(|visit| visit.status != Some(200)).map(|visit| (visit.status, visit.took)).collect();
    assert!(lost.is_empty(), "traffic follows the release without a gap: {lost:?} of {}", visits.len());
    assert_eq!(visits.last().and_then(|visit| visit.release.clone()), Some(v1.id.clone()));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_paused_and_disarmed_a_persons_revert_is_obeyed() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let v2 = house.release("v2", &[("ERROR_RATIO", "0.2")]);
    let traffic = Traffic::start(house.address(SERVICE), 100);
    house.command(Verb::Disarm { span: backstop::core::time::Span::minutes(5) }).await;
    house.deploy(&v2, agent("bad, and nobody armed")).await;
    // The breach is seen, told, and left to people.
    house.pages.until("BS077", Duration::from_secs(30)).await;
    assert_eq!(house.view().phase, PhaseKind::Advancing);
    assert!(!house.decided(Decision::Revert));
    house.command(Verb::Freeze).await;
    house.command(Verb::Pause).await;
    house.command(revert()).await;
    let view = house.until_phase(PhaseKind::Reverted, 30).await;
    assert_eq!(view.stable.as_ref(), Some(&v1));
    drop(traffic.stop().await);
    house.end().await;
}
