//! What a house guards, as documents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::NAMESPACE;

/// The parts of the documents that tests vary.
#[derive(Debug, Clone)]
pub struct Shape {
    addresses: BTreeMap<String, SocketAddr>,
    /// `canary: …` or `blueGreen: …`.
    pub strategy: String,
    /// The fields of `watch`.
    pub watch: String,
    /// Name of the metrics source.
    pub source: String,
    /// Sources of single services, where they have their own.
    pub sources: BTreeMap<String, String>,
    /// Where artifacts come from; `DIR` stands for the house's folder.
    pub artifacts: String,
    /// Further fields of the process's `health`.
    pub health: String,
    /// Further fields of `spec`, indented by two.
    pub more: String,
    /// Further documents, each with its own `---`.
    pub documents: String,
    /// File of the flag definitions, in the house's folder.
    pub flags: String,
    /// Requests that count: selector of the counter in front of its labels.
    pub labels: String,
}

impl Shape {
    /// One service, half of its traffic to the candidate.
    pub fn canary() -> Self {
        Self::of(&["checkout"])
    }

    /// The same for several services.
    pub fn of(services: &[&str]) -> Self {
        let taken: Vec<TcpListener> = services.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses = taken.iter().map(|listener| listener.local_addr().expect("an address"));
        Self {
            addresses: services.iter().map(|name| format!("{NAMESPACE}/{name}")).zip(addresses).collect(),
            strategy: "canary: {candidate: {warmUp: 1s}, steps: [{weight: 50%, bake: 3s, deadline: 2m}]}".into(),
            watch: "for: 3s, holdback: 10%".into(),
            source: "host".into(),
            sources: BTreeMap::new(),
            artifacts: "{layout: {path: DIR/layout}}".into(),
            health: ", startWithin: 3s".into(),
            more: String::new(),
            documents: String::new(),
            flags: "flags.json".into(),
            labels: String::new(),
        }
    }

    /// One service, switched at once.
    pub fn blue_green() -> Self {
        let strategy = "blueGreen: {candidate: {warmUp: 1s}, bake: 3s, deadline: 2m}".into();
        Self { strategy, watch: "for: 3s".into(), ..Self::canary() }
    }

    /// Where a service answers.
    pub fn address(&self, service: &str) -> SocketAddr {
        self.addresses[service]
    }

    /// Guards one more service.
    pub fn add(&mut self, service: &str) {
        self.addresses.extend(Self::of(&[service]).addresses);
    }

    /// Guards a service no more.
    pub fn remove(&mut self, service: &str) {
        self.addresses.remove(service);
    }

    /// Every service's name.
    pub fn services(&self) -> impl Iterator<Item = &String> {
        self.addresses.keys()
    }

    pub(super) fn documents(&self, dir: &Path, key: &str) -> String {
        let mut text = String::new();
        for (service, address) in &self.addresses {
            text.push_str(&self.guard(service, *address, dir));
            text.push_str("---\n");
        }
        let key = key.trim_end().replace('\n', "\n            ");
        let _ = write!(
            text,
            r#"apiVersion: backstop.dev/v1alpha1
kind: GuardPolicy
metadata: {{name: release}}
spec:
  attestation:
    authorities:
      - name: release-key
        key:
          data: |
            {key}
    require: [{{kind: signature}}, {{kind: provenance}}, {{kind: sbom}}]
---
apiVersion: backstop.dev/v1alpha1
kind: FlagTarget
metadata: {{name: flags}}
spec:
  file: {{path: "{}/{}"}}
"#,
            dir.display(),
            self.flags
        );
        text.push_str(&self.documents);
        text
    }

    fn guard(&self, service: &str, address: SocketAddr, dir: &Path) -> String {
        let Self { strategy, watch, health, more, labels, .. } = self;
        let source = self.sources.get(service).unwrap_or(&self.source);
        let name = service.rsplit('/').next().unwrap_or(service);
        let dir = dir.display();
        let artifacts = self.artifacts.replace("DIR", &dir.to_string());
        format!(
            r#"apiVersion: backstop.dev/v1alpha1
kind: GuardedRollout
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  workload:
    process:
      listen: "{address}"
      artifacts: {artifacts}
      health: {{path: /healthz, every: 100ms{health}}}
      drain: 2s
  arms: {{by: route}}
  source: {source}
  objectives:
    - name: availability
      good: 99.5%
      ratio:
        bad: 'backstop_host_requests_total{{workload="{service}",class="5xx"{labels}}}'
        total: 'backstop_host_requests_total{{workload="{service}"{labels}}}'
    - name: latency
      good: 99%
      histogram: {{metric: 'backstop_host_request_duration_seconds{{workload="{service}"{labels}}}', within: 300ms}}
  strategy:
    {strategy}
  watch: {{{watch}}}
  attestation: {{policy: release}}
  revert:
    flags: [{{use: flags, flag: new-checkout, to: {{variant: "off"}}}}]
  recovery: {{deadline: 30s}}
  retreat: {{for: 8s}}
{more}"#
        )
    }
}
