//! Real pods on a real node, with real traffic, images and metrics.

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

use std::time::Duration;

use cluster::Cluster;
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

#[test]
fn real_pods_roll_out_beside_simulated_ones() {
    if let Some(missing) = cluster::node::missing() {
        return bed::skip("real_pods_roll_out_beside_simulated_ones", &missing);
    }
    let cluster = Cluster::start_with_real_node(1);
    let v1 = cluster.images().push("shop/checkout", "v1", &[]);
    let v2 = cluster.images().push("shop/checkout", "v2", &[]);
    cluster.apply(&deployment("checkout", 3, &v1));
    assert!(bed::eventually(SOON, || ready(&cluster, "checkout", 3, &v1)).is_some(), "three pods: {}", cluster.get("pods", &[]));
    cluster.kubectl(&["set", "image", "deployment/checkout", &format!("main={v2}")]);
    assert!(bed::eventually(SOON, || ready(&cluster, "checkout", 3, &v2)).is_some(), "rolled out: {}", cluster.get("pods", &[]));
}
