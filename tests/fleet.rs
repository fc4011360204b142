//! Many rollouts in one controller: what one of them suffers is not the others' business, and a wave has another cause.

#[path = "bed/mod.rs"]
mod bed;
#[path = "rig/mod.rs"]
mod rig;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use backstop::cli::demo::load::{Traffic, Visit};
use backstop::core::preview::View;
use backstop::core::release::Release;
use backstop::core::spec::Percent;
use backstop::core::state::PhaseKind;
use backstop::world::clock;

use rig::{House, NAMESPACE, Shape, agent, code, none_dropped, person};

/// Takes every connection and never says a word; its address.
fn mute() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let held: Vec<_> = listener.incoming().collect();
        drop(held);
    });
    address
}

fn judged(view: &View) -> bool {
    view.step.as_deref() == Some("judging")
}

/// From the candidate's first answer to its last.
fn exposure(visits: &[Visit], candidate: &Release) -> Duration {
    let mut times = visits.iter().filter(|visit| visit.release.as_ref() == Some(&candidate.id)).map(|visit| visit.sent);
    let Some(first) = times.next() else { return Duration::ZERO };
    let last = times.max().unwrap_or(first);
    last.duration_since(first)
}

/// Deploys a release that fails one request in five and waits until it is reverted: how long it served.
async fn breach(house: &House, service: &str, label: &str) -> Duration {
    let traffic = Traffic::start(house.address(service), 200);
    let bad = house.release(label, &[("ERROR_RATIO", "0.2")]);
    let answer = house.deploy_to(service, &bad, person("break it")).await;
    assert!(answer.accepted, "{answer:?}");
    let back = |view: &View| view.phase == PhaseKind::Reverted && view.open.iter().all(|(action, _)| action == "notify");
    house.until_of(service, "reverted", Duration::from_mins(1), back).await;
    exposure(&traffic.stop().await, &bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_sources_that_hang_cost_the_sixty_first_nothing() {
    let names: Vec<String> = (0..61).map(|number| format!("s{number:02}")).collect();
    let mut shape = Shape::of(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (well, hanging) = (format!("{NAMESPACE}/s60"), names[..60].iter().map(|name| format!("{NAMESPACE}/{name}")).collect::<Vec<_>>());
    let address = mute();
    shape.documents = format!(
        "---\napiVersion: backstop.dev/v1alpha1\nkind: GuardSource\nmetadata: {{name: mute}}\n\
         spec: {{prometheus: {{url: \"http://{address}\", scrapeInterval: 1s}}}}\n"
    );
    shape.sources = hanging.iter().map(|service| (service.clone(), "mute".to_owned())).collect();
    let house = House::start(shape).await;
    let v1 = house.release("v1", &[]);
    house.settle_at(&well, &v1).await;
    let alone = breach(&house, &well, "bad-alone").await;
    house.command_to(&well, backstop::core::input::Verb::Lift { release: None }, person("again")).await;

    for service in &hanging {
        let answer = house.deploy_to(service, &v1, person("watch it")).await;
        assert!(answer.accepted, "{answer:?}");
    }
    for service in &hanging {
        house.until_of(service, "judged", Duration::from_secs(90), judged).await;
    }
    // Every one of them waits for its source by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let beside = breach(&house, &well, "bad-beside").await;
    eprintln!("a bad candidate served for {alone:?} alone, for {beside:?} beside sixty rollouts whose source hangs");
    assert!(beside < alone + Duration::from_secs(3), "{beside:?} beside the others, {alone:?} alone");
    let moved = hanging.iter().filter(|service| house.view_of(service).phase != PhaseKind::Advancing).count();
    assert_eq!(moved, 0, "no data is neither good news nor a breach");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_that_breach_together_get_their_traffic_back_and_restores_wait() {
    let names: Vec<String> = (0..30).map(|number| format!("s{number:02}")).collect();
    let services: Vec<String> = names.iter().map(|name| format!("{NAMESPACE}/{name}")).collect();
    let house = House::start(Shape::of(&names.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let (v0, v1) = (house.release("v0", &[]), house.release("v1", &[]));
    for release in [&v0, &v1] {
        futures::future::join_all(services.iter().map(|service| house.settle_at(service, release))).await;
    }
    let bad = house.release("bad", &[("ERROR_RATIO", "1")]);
    for service in &services {
        let answer = house.deploy_to(service, &bad, agent("everywhere at once")).await;
        assert!(answer.accepted, "{answer:?}");
    }
    for service in &services {
        house.until_of(service, "judged", Duration::from_mins(1), judged).await;
    }
    // The newest target of all cannot be proven any more: going back would change something, for each of them.
    let store = house.controller().shared();
    for capsule in store.world.store().evidence_of(&v1.template.image().digest).await.expect("the index of evidence") {
        let path = house.store().join("evidence/sha256").join(&capsule.hex()[..2]).join(capsule.hex());
        fs::remove_file(path).expect("the evidence goes");
    }
    let begin = clock::instant();
    let traffic: Vec<Traffic> = services.iter().map(|service| Traffic::start(house.address(service), 10)).collect();
    for service in &services {
        let gone = |view: &View| view.observed.get(&bad.id).copied().unwrap_or(Percent::ZERO) == Percent::ZERO;
        house.until_of(service, "traffic is back", Duration::from_mins(1), gone).await;
    }
    eprintln!("thirty rollouts that breach together: traffic of all was back {:?} after the first request", begin.elapsed());
    for service in &services {
        let rests = |view: &View| matches!(view.phase, PhaseKind::Stuck | PhaseKind::Reverted);
        house.until_of(service, "an end", Duration::from_mins(1), rests).await;
    }
    let views: Vec<View> = services.iter().map(|service| house.view_of(service)).collect();
    let waiting = views.iter().filter(|view| view.phase == PhaseKind::Stuck && code(view) == "BS074").count();
    let restored = views.iter().filter(|view| view.phase == PhaseKind::Reverted).count();
    eprintln!("of thirty, {waiting} wait for a person, {restored} were restored before that was a wave");
    assert_eq!(waiting + restored, 30, "{:?}", views.iter().map(|view| (view.phase, code(view))).collect::<Vec<_>>());
    assert!(restored <= 3, "a wave has another cause: {restored} were restored");
    assert!(house.pages.codes().iter().any(|code| code == "BS074"), "somebody was told");
    for traffic in traffic {
        let visits = traffic.stop().await;
        none_dropped(&visits);
        assert!(visits.last().is_some_and(|visit| visit.status == Some(200)), "the stable one serves");
    }
    house.end().await;
}
