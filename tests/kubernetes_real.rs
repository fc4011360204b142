//! Real pods on a real node, with real traffic, images and metrics.

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::world::clock;
use bed::Server;
use cluster::Cluster;
use cluster::metrics::Metrics;
use cluster::router::Router;
use serde_json::Value;

const SOON: Duration = Duration::from_mins(1);

/// The names of the pods of `app` that are ready and not about to go, if there are `count` and they run this image.
fn ready(cluster: &Cluster, app: &str, count: usize, image: &str) -> Option<Vec<String>> {
    let pods = cluster.get("pods", &[&format!("--selector=app={app}")]);
    let live: Vec<&Value> = pods.as_array()?.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    let as_wanted = |pod: &&&Value| cluster::is_ready(pod) && pod["spec"]["containers"][0]["image"] == image;
    let names: Vec<String> = live.iter().filter(as_wanted).filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect();
    (names.len() == count && live.len() == count).then_some(names)
}

fn deployment(name: &str, replicas: usize, image: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         nodeSelector: {{node: real}}\n      terminationGracePeriodSeconds: 2\n      automountServiceAccountToken: false\n      \
         containers:\n        - name: main\n          image: {image}\n          ports: [{{name: http, containerPort: 8080}}]\n          \
         readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}\n"
    )
}

/// A route that sends `weights` to Services, at a Gateway that the tests' own router stands for.
fn route(name: &str, weights: &[(&str, u32)]) -> String {
    let backends: Vec<String> =
        weights.iter().map(|(service, weight)| format!("{{name: {service}, port: 80, weight: {weight}}}")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         parentRefs: [{{name: edge}}]\n  rules: [{{backendRefs: [{}]}}]\n",
        backends.join(", ")
    )
}

/// What the sum of a counter's last values is in Prometheus, for each value of a label.
fn counted(prometheus: &Server, label: &str, selector: &str) -> BTreeMap<String, f64> {
    let query = format!("/api/v1/query?query=sum%20by({label})({})", selector.replace('"', "%22"));
    let Ok((200, body)) = bed::get(prometheus.port, &query) else { return BTreeMap::new() };
    let answer: Value = serde_json::from_str(&body).expect("Prometheus answers in JSON");
    let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let value = |one: &Value| Some((one["metric"][label].as_str()?.to_owned(), one["value"][1].as_str()?.parse().ok()?));
    series.iter().filter_map(value).collect()
}

/// Sends `count` requests, one after another: how many got each answer.
fn answers(router: &Router, count: usize) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let answer = match bed::get(router.address().port(), "/") {
            Ok((status, body)) => format!("{status} {}", body.trim()),
            Err(why) => why.to_string(),
        };
        *found.entry(answer).or_default() += 1;
    }
    found
}

#[test]
fn real_pods_roll_out_are_routed_by_weight_and_scraped() {
    if let Some(missing) = cluster::node::missing() {
        return bed::skip("real_pods_roll_out_are_routed_by_weight_and_scraped", &missing);
    }
    bed::require!("haproxy");
    bed::require!("prometheus");
    let begin = clock::instant();
    let cluster = Cluster::start_with_real_node(1);
    cluster.apply_gateway_api();
    let push = |version: &str, behaviour: &[(&str, &str)]| cluster.images().push("shop/checkout", version, behaviour);
    let (v1, v2, bad) = (push("v1", &[]), push("v2", &[]), push("bad", &[("ERROR_RATIO", "0.05")]));
    eprintln!("a control plane, a real node and images after {:.1?}", begin.elapsed());
    let until_ready = |app: &str, count: usize, image: &str| {
        let found = bed::eventually(SOON, || ready(&cluster, app, count, image));
        found.unwrap_or_else(|| panic!("{count} pods of {app} are not ready: {}", cluster.get("pods", &[])))
    };
    cluster.apply(&cluster::deployment("simulated", 2, &v1, None));
    cluster.apply(&deployment("checkout", 3, &v1));
    until_ready("checkout", 3, &v1);
    let begin = clock::instant();
    cluster.kubectl(&["set", "image", "deployment/checkout", &format!("main={v2}")]);
    let stable = until_ready("checkout", 3, &v2);
    eprintln!("three real pods were replaced within {:.1?}", begin.elapsed());
    let simulated = until_ready("simulated", 2, &v1);

    cluster.apply(&deployment("canary", 1, &bad));
    let canary = until_ready("canary", 1, &bad);
    cluster.apply(&route("checkout", &[("checkout", 90), ("canary", 10)]));
    let router = Router::start(&cluster.admin(), "default", "checkout");
    let condition = |kind: &'static str| {
        let route = cluster.get("httproute", &["checkout"]);
        let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == kind && one["status"] == "True").then_some(())
    };
    for kind in ["Accepted", "ResolvedRefs"] {
        assert!(bed::eventually(SOON, || condition(kind)).is_some(), "{kind}: {}", cluster.get("httproute", &["checkout"]));
    }
    let prometheus = Metrics::start(&cluster.admin());
    let found = answers(&router, 1000);
    let share = |text: &str| found.get(text).copied().unwrap_or_default();
    assert_eq!(share("200 v2") + share("200 bad") + share("500 bad broke"), 1000, "{found:?}");
    // Binomial with n = 1000 and p = 0.1: five standard deviations are 47.
    let to_canary = share("200 bad") + share("500 bad broke");
    assert!((53..=147).contains(&to_canary), "{found:?}");
    assert!(share("500 bad broke") >= 2, "one in twenty fails: {found:?}");

    let total = |label: &'static str| counted(&prometheus.server, label, r#"http_requests_total{job=~"checkout|canary"}"#);
    let all = bed::eventually(SOON, || (total("namespace").get("default") == Some(&1000.0)).then_some(()));
    assert!(all.is_some(), "every answer was counted: {:?}", total("pod"));
    let pods: Vec<String> = total("pod").into_keys().collect();
    assert!(stable.iter().chain(&canary).all(|pod| pods.contains(pod)), "{pods:?}");
    assert!(!simulated.iter().any(|pod| pods.contains(pod)), "a simulated pod has nothing to scrape");
    assert_eq!(total("pod_template_hash").len(), 2, "one hash for each release");
    let errors = counted(&prometheus.server, "pod", r#"http_requests_total{code="500"}"#);
    assert_eq!(errors.get(&canary[0]), Some(&(share("500 bad broke") as f64)), "{errors:?}");
    assert!(stable.iter().all(|pod| errors.get(pod) == Some(&0.0)), "{errors:?}");

    cluster.apply(&route("checkout", &[("checkout", 100), ("canary", 0)]));
    let back = bed::eventually(SOON, || (answers(&router, 40).get("200 v2") == Some(&40)).then_some(()));
    assert!(back.is_some(), "all traffic goes back: {:?}", answers(&router, 40));
    cluster.kubectl(&["scale", "deployment/checkout", "--replicas=0"]);
    let nobody = bed::eventually(SOON, || (answers(&router, 5).get("503 ") == Some(&5)).then_some(()));
    assert!(nobody.is_some(), "without a pod nobody answers, and not another backend: {:?}", answers(&router, 5));
}
