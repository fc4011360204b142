//! A real Prometheus that scrapes real pods.
//!
//! Debian builds Prometheus without the discovery of Kubernetes' pods, so a loop here watches them and writes the file that
//! Prometheus reads its targets from. The labels are those that everybody sets from `__meta_kubernetes_pod_*`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::User;
use super::background::Loop;
use crate::bed::{self, Server};

/// A Prometheus that scrapes, each second, every pod with a container port named `http`. Its series have the labels `job`
/// (the pod's label `app`), `namespace`, `pod` and `pod_template_hash`. Needs the tool `prometheus`.
pub struct Metrics {
    _discovery: Loop,
    /// The server itself.
    pub server: Server,
}

impl Metrics {
    /// Starts it with what this user sees.
    pub fn start(user: &User) -> Self {
        let server = bed::Prometheus::start(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n  - job_name: pods\n    \
             file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]\n",
        );
        let targets = server.folder().join("targets.json");
        let discovery = Loop::start(user, async move |client| {
            let (pods, writer) = reflector::store();
            let mut events = watcher(Api::<Pod>::all(client), watcher::Config::default()).default_backoff().reflect(writer).boxed();
            while events.next().await.is_some() {
                write(&targets, &pods.state());
            }
        });
        Self { _discovery: discovery, server }
    }
}

fn write(targets: &Path, pods: &[Arc<Pod>]) {
    let all: Vec<Value> = pods.iter().filter_map(|pod| target(pod)).collect();
    let fresh = targets.with_extension("new");
    fs::write(&fresh, json!(all).to_string()).expect("the targets");
    fs::rename(&fresh, targets).expect("the targets in one step");
}

fn target(pod: &Pod) -> Option<Value> {
    let address = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Running"))?.pod_ip.as_deref()?;
    let mut ports = pod.spec.as_ref()?.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some("http"))?.container_port;
    let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
    let labels =
        json!({"job": label("app"), "namespace": pod.namespace(), "pod": pod.name_any(), "pod_template_hash": label("pod-template-hash")});
    Some(json!({"targets": [format!("{address}:{port}")], "labels": labels}))
}
