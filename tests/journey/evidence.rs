//! What is attested may run, and only that goes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::release::{Image, Release};
use backstop::core::spec::Percent;
use backstop::core::state::PhaseKind;

use crate::bed::{self, Registry};
use crate::rig::{House, SERVICE, Shape, agent, code, none_dropped, revert};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_attested_never_starts() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 50);
    let bare = house.unattested("v2");
    house.deploy(&bare, agent("no time for signatures")).await;
    let view = house.until_phase(PhaseKind::Refused, 20).await;
    assert_eq!(code(&view), "BS040");
    assert!(!house.host_view(SERVICE).await.releases.contains_key(&bare.id), "the host never heard of it");
    let visits = traffic.stop().await;
    assert!(visits.iter().all(|visit| visit.status == Some(200) && visit.release.as_ref() == Some(&v1.id)));
    // Neither does it wait in the ledger to become a target.
    assert!(house.controller().handle().view(SERVICE).expect("a view").1.targets.iter().all(|target| target.id != bare.id));
    house.end().await;
}

/// Every file that proves something about a release.
async fn proofs(house: &House, release: &Release) -> Vec<PathBuf> {
    let store = house.controller().shared();
    let capsules = store.world.store().evidence_of(&release.template.image().digest).await.expect("the index of evidence");
    let folder = house.store().join("evidence/sha256");
    capsules.iter().map(|capsule| folder.join(&capsule.hex()[..2]).join(capsule.hex())).collect()
}

fn flip_a_byte(path: &PathBuf) {
    let mut bytes = fs::read(path).expect("the evidence");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("it can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_newest_targets_evidence_was_tampered_with_the_next_older_goes_back_by_name() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let v2 = house.release("v2", &[]);
    house.settle(&v2).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v3 = house.release("v3", &[("ERROR_RATIO", "0.1")]);
    house.deploy(&v3, agent("break it")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    for proof in proofs(&house, &v2).await {
        flip_a_byte(&proof);
    }
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v1), "{:?}", view.revert);
    let skipped = view.revert.expect("a revert").skipped;
    assert!(skipped.iter().any(|(id, reason)| *id == v2.id && reason.code() == "BS042"), "{skipped:?}");
    let visits = traffic.stop().await;
    none_dropped(&visits);
    assert_eq!(visits.last().and_then(|visit| visit.release.clone()), Some(v1.id.clone()));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_evidence_traffic_goes_back_and_a_person_is_paged() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v2 = house.release("v2", &[("ERROR_RATIO", "0.1")]);
    house.deploy(&v2, agent("break it")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    for proof in proofs(&house, &v1).await {
        fs::remove_file(proof).expect("it can be removed");
    }
    house.until("stuck", Duration::from_mins(1), |view| view.phase == PhaseKind::Stuck).await;
    house.pages.until("BS071", Duration::from_secs(10)).await;
    let back = |view: &backstop::core::preview::View| view.observed.get(&v1.id).is_some_and(|share| *share == Percent::FULL);
    house.until("traffic is back all the same", Duration::from_secs(5), back).await;
    let visits = traffic.stop().await;
    none_dropped(&visits);
    assert_eq!(visits.last().and_then(|visit| visit.release.clone()), Some(v1.id.clone()));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_needs_no_registry() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let v2 = house.release("v2", &[]);
    house.settle(&v2).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v3 = house.release("v3", &[("ERROR_RATIO", "0.1")]);
    house.deploy(&v3, agent("break it")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    fs::remove_dir_all(house.layout()).expect("where artifacts came from is gone");
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v2));
    // Even a release that does not run any more starts from what the host kept.
    house.command(backstop::core::input::Verb::Lift { release: None }).await;
    house.until_phase(PhaseKind::Idle, 10).await;
    house.command(revert()).await;
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v1));
    let visits = traffic.stop().await;
    none_dropped(&visits);
    assert_eq!(visits.last().and_then(|visit| visit.release.clone()), Some(v1.id.clone()));

    house.end().await;
}

/// Puts everything of the house's layout into a registry, one manifest after another: where the registry has no list of
/// referrers, each push rewrites the tag that stands in for it.
fn push(house: &House, crane: &Path, repository: &str) {
    let index = house.layout().join("index.json");
    let whole = fs::read_to_string(&index).expect("an index");
    let mut all: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
    let manifests = all["manifests"].as_array().expect("manifests").clone();
    for (at, entry) in manifests.into_iter().enumerate() {
        all["manifests"] = serde_json::json!([entry]);
        fs::write(&index, all.to_string()).expect("an index");
        bed::run(crane, &["push", &house.layout().display().to_string(), &format!("{repository}:part-{at}")]);
    }
    fs::write(&index, whole).expect("an index");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_dies_before_the_revert_costs_neither_proof_nor_bytes() {
    bed::require!("docker-registry");
    bed::require!("crane");
    let mut registry = Registry::start();
    let repository = format!("127.0.0.1:{}/shop/checkout", registry.port);
    let mut shape = Shape::canary();
    shape.artifacts = "{registry: {}}".into();
    let house = House::start(shape).await;
    let published = |label: &str, env: &[(&str, &str)]| {
        let release = house.release(label, env);
        push(&house, &bed::tool("crane").expect("it is there"), &repository);
        let digest = release.template.image().digest.clone();
        house.run_with(Image { repository: repository.clone(), digest }, label, env)
    };
    let v1 = published("v1", &[]);
    house.settle(&v1).await;
    let v2 = published("v2", &[]);
    house.settle(&v2).await;
    house.until("v1 runs no more", Duration::from_secs(10), |view| !view.arms.contains_key(&v1.id)).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v3 = published("v3", &[("ERROR_RATIO", "0.1")]);
    house.deploy(&v3, agent("break it")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    registry.kill();
    fs::remove_dir_all(house.layout()).expect("nothing else has the bytes");
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v2));
    house.command(backstop::core::input::Verb::Lift { release: None }).await;
    house.until_phase(PhaseKind::Idle, 10).await;
    house.command(revert()).await;
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!(view.stable.as_ref(), Some(&v1), "one that runs no more starts from what was kept");
    let visits = traffic.stop().await;
    none_dropped(&visits);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_garbage_collected_is_said_and_costs_no_request() {
    let house = House::start(Shape::canary()).await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let v2 = house.release("v2", &[]);
    house.settle(&v2).await;
    house.until("v1 runs no more", Duration::from_secs(10), |view| !view.arms.contains_key(&v1.id)).await;
    let traffic = Traffic::start(house.address(SERVICE), 100);
    fs::remove_dir_all(house.layout()).expect("the layout");
    fs::remove_dir_all(house.dir().join("host/unpacked")).expect("what was unpacked");
    house.command(revert()).await;
    house.pages.until("BS076", Duration::from_secs(30)).await;
    let view = house.until("stuck", Duration::from_secs(10), |view| view.phase == PhaseKind::Stuck).await;
    assert_eq!(code(&view), "BS071", "{:?}", view.reason);
    house.pages.until("BS071", Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let visits = traffic.stop().await;
    assert!(visits.iter().all(|visit| visit.status == Some(200) && visit.release.as_ref() == Some(&v2.id)), "v2 goes on serving");
    house.end().await;
}
