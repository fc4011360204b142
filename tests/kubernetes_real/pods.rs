//! The bed itself: real pods roll out beside simulated ones, get the traffic that a route gives them, and are scraped.

use backstop::world::clock;

use crate::bed;
use crate::cluster;
use crate::shop::{self, SOON, Shop, name};

/// Gives `weights` to Services, in the one rule of the route.
fn weigh(shop: &Shop, weights: &[(&str, u32)]) {
    let backends: Vec<String> =
        weights.iter().map(|(service, weight)| format!(r#"{{"name": "{service}", "port": 80, "weight": {weight}}}"#)).collect();
    let patch = format!(r#"{{"spec": {{"rules": [{{"backendRefs": [{}]}}]}}}}"#, backends.join(", "));
    shop.kubectl(&["patch", "httproute", "checkout", "--type=merge", "--patch", &patch]);
}

/// A second Deployment of the same service with its own Service, as a canary is one.
fn add_canary(shop: &Shop) -> String {
    let yaml = shop::example("service.yaml", &[("V1", &shop.bad)]);
    let two: Vec<&str> = yaml.split("---\n").filter(|part| part.contains("kind: Deployment") || part.contains("kind: Service\n")).collect();
    let canary =
        two.join("---\n").replace("name: checkout\n  namespace", "name: canary\n  namespace").replace("app: checkout", "app: canary");
    shop.cluster.apply(&canary.replace("replicas: 3", "replicas: 1"));
    shop.kubectl(&["rollout", "status", "deployment/canary", "--timeout=60s"]);
    let pods = shop.get("pods", &["--selector=app=canary"]);
    name(&pods[0])
}

#[test]
fn real_pods_roll_out_are_routed_by_weight_and_scraped() {
    if let Some(missing) = shop::missing() {
        return bed::skip("real_pods_roll_out_are_routed_by_weight_and_scraped", &missing);
    }
    let begin = clock::instant();
    let shop = Shop::open();
    eprintln!("a control plane, a real node, signed images and three pods after {:.1?}", begin.elapsed());
    shop.cluster.apply(&cluster::deployment("simulated", 2, &shop.v1, None));
    let begin = clock::instant();
    shop.kubectl(&["set", "image", "deployment/checkout", &format!("checkout={}", shop.v2)]);
    let stable = shop.until_ready(&shop.v2, 3);
    eprintln!("three real pods were replaced within {:.1?}", begin.elapsed());
    shop.cluster.kubectl(&["rollout", "status", "deployment/simulated", "--timeout=60s"]);

    let canary = add_canary(&shop);
    weigh(&shop, &[("checkout", 90), ("canary", 10)]);
    let holds = |kind: &'static str| {
        let route = shop.get("httproute", &["checkout"]);
        let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        let current = |one: &serde_json::Value| one["observedGeneration"] == route["metadata"]["generation"];
        conditions.iter().any(|one| one["type"] == kind && one["status"] == "True" && current(one)).then_some(())
    };
    for kind in ["Accepted", "ResolvedRefs"] {
        assert!(bed::eventually(SOON, || holds(kind)).is_some(), "{kind}: {}", shop.get("httproute", &["checkout"]));
    }
    let found = shop.answers(1000);
    let share = |text: &str| found.get(text).copied().unwrap_or_default();
    assert_eq!(share("200 v2") + share("200 bad") + share("500 bad broke"), 1000, "{found:?}");
    // Binomial with n = 1000 and p = 0.1: five standard deviations are 47.
    assert!((53..=147).contains(&(share("200 bad") + share("500 bad broke"))), "{found:?}");
    assert!(share("500 bad broke") >= 2, "one in twenty fails: {found:?}");

    let total = |label: &'static str| shop.counted(label, r#"http_requests_total{job=~"checkout|canary"}"#);
    let all = bed::eventually(SOON, || (total("namespace").get("shop") >= Some(&1000.0)).then_some(()));
    assert!(all.is_some(), "every answer was counted: {:?}", total("pod"));
    let scraped: Vec<String> = total("pod").into_keys().collect();
    assert!(stable.iter().chain([&canary]).all(|pod| scraped.contains(pod)), "{scraped:?}");
    let simulated = shop.cluster.get("pods", &["--selector=app=simulated"]);
    let is_simulated = |pod: &String| simulated.as_array().is_some_and(|pods| pods.iter().any(|one| name(one) == *pod));
    assert!(!scraped.iter().any(is_simulated), "a simulated pod has nothing to scrape");
    assert!(total("pod_template_hash").len() >= 2, "one hash for each release");
    let errors = shop.counted("pod", r#"http_requests_total{code="500"}"#);
    assert_eq!(errors.get(&canary), Some(&(share("500 bad broke") as f64)), "{errors:?}");
    assert!(stable.iter().all(|pod| errors.get(pod) == Some(&0.0)), "{errors:?}");

    weigh(&shop, &[("checkout", 100), ("canary", 0)]);
    let back = bed::eventually(SOON, || (shop.answers(40).get("200 v2") == Some(&40)).then_some(()));
    assert!(back.is_some(), "all traffic goes back: {:?}", shop.answers(40));
    shop.kubectl(&["scale", "deployment/checkout", "--replicas=0"]);
    let nobody = bed::eventually(SOON, || (shop.answers(5).get("503") == Some(&5)).then_some(()));
    assert!(nobody.is_some(), "without a pod nobody answers, and not another backend: {:?}", shop.answers(5));
}
