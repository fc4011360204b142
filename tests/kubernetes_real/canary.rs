//! The main story: an agent deploys, backstop verifies, judges on real traffic, and promotes or puts back.

use std::time::Duration;

use backstop::world::clock;

use crate::bed;
use crate::guarded::{Guarded, PATIENCE};
use crate::shop::{self, Shop, Traffic};

/// The weights of the route's backends, by Service.
fn weights(guarded: &Guarded) -> Vec<(String, u64)> {
    let route = guarded.shop.get("httproute", &["checkout"]);
    let backends = route["spec"]["rules"][0]["backendRefs"].as_array().cloned().unwrap_or_default();
    backends.iter().map(|one| (one["name"].as_str().unwrap_or_default().to_owned(), one["weight"].as_u64().unwrap_or(1))).collect()
}

#[test]
fn a_bad_canary_of_an_agent_goes_back_and_no_stable_pod_moves() {
    if let Some(missing) = shop::missing() {
        return bed::skip("a_bad_canary_of_an_agent_goes_back_and_no_stable_pod_moves", &missing);
    }
    let shop = Shop::open();
    let stable = shop.until_ready(&shop.v1, 3);
    let guarded = Guarded::start(shop, "driven", |guard| guard);
    let traffic = Traffic::start(&guarded.shop.router);

    guarded.deploy(&guarded.shop.bad);
    let now = guarded.deployment();
    assert_eq!(now["spec"]["paused"], true, "paused in the write itself");
    assert_eq!(now["metadata"]["annotations"]["backstop.dev/requester"], "system:serviceaccount:shop:deployer");
    guarded.until_phase("Advancing", PATIENCE);
    guarded.until("the candidate gets its share", || weights(&guarded).iter().any(|(_, weight)| *weight > 0 && *weight < 50).then_some(()));
    let status = guarded.until_phase("Reverted", PATIENCE);
    assert_eq!(status["stable"]["image"], guarded.shop.v1.as_str(), "{status:#}");
    let explained = guarded.backstop(&["explain", "shop/checkout"]).expect("it can be explained");
    assert!(explained.contains("BS001") && explained.contains("availability"), "judged on real counters: {explained}");

    assert_eq!(guarded.image(), guarded.shop.v1, "the template is restored");
    assert!(!guarded.deployment()["spec"]["paused"].as_bool().unwrap_or(false), "and no longer paused");
    assert_eq!(guarded.shop.until_ready(&guarded.shop.v1, 3), stable, "no stable pod moved");
    let sent = clock::instant();
    guarded.until("good traffic alone", || traffic.visits().iter().any(|visit| visit.sent > sent + Duration::from_secs(2)).then_some(()));
    let visits = traffic.visits();
    let dropped: Vec<_> = visits.iter().filter(|visit| !visit.said.contains(' ') || visit.said.starts_with("dropped")).collect();
    assert!(dropped.is_empty(), "no request was dropped: {dropped:?}");
    assert!(visits.iter().filter(|visit| visit.sent > sent).all(|visit| visit.said == "200 v1"), "all traffic is back");
    let refused =
        guarded.agent.kubectl(&["--namespace=shop", "set", "image", "deployment/checkout", &format!("checkout={}", guarded.shop.bad)], "");
    assert!(refused.as_ref().is_err_and(|said| said.contains("quarantined")), "it stays out: {refused:?}");
}

#[test]
fn a_good_canary_of_an_agent_is_promoted_and_becomes_known_good() {
    if let Some(missing) = shop::missing() {
        return bed::skip("a_good_canary_of_an_agent_is_promoted_and_becomes_known_good", &missing);
    }
    // Judged by what its pods say themselves: no Prometheus takes part.
    let shop = Shop::open();
    let prometheus = format!("prometheus:\n    url: {}\n    scrapeInterval: 1s", shop.metrics.server.url());
    let guarded = Guarded::start(shop, "driven", |guard| {
        assert!(guard.contains(&prometheus), "{guard}");
        guard.replace(&prometheus, "scrape:\n    pods: {port: 8080}\n    every: 1s")
    });
    let traffic = Traffic::start(&guarded.shop.router);
    guarded.deploy(&guarded.shop.v2);
    guarded.until_phase("Watching", PATIENCE);
    let status = guarded.until_phase("Idle", PATIENCE);
    assert_eq!(status["stable"]["image"], guarded.shop.v2.as_str(), "{status:#}");
    guarded.shop.until_ready(&guarded.shop.v2, 3);
    let visits = traffic.visits();
    assert!(visits.iter().all(|visit| visit.said.starts_with("200 v")), "no request failed");
    assert_eq!(visits.last().map(|visit| visit.said.as_str()), Some("200 v2"));
}
