//! Many guarded Deployments on one control plane, a gateway that takes every route, and the controller beside them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::Request;
use backstop::spec::crd;
use backstop::world::clock;
use futures::stream::{self, StreamExt as _};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::Store;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use serde_json::{Value, json};

use crate::cluster::background::Loop;
use crate::cluster::{Cluster, User, gateway};
use crate::images::Build;
use crate::replica::{self, Replica};
use crate::source::Source;
use crate::{bed, cluster, process};

/// Backstop's namespace.
const SYSTEM: &str = "backstop-system";
/// The namespace of all services.
pub(crate) const NAMESPACE: &str = "bench";
/// Requests under way at once while the town is built.
const BUILDERS: usize = 24;
/// Command lines that run at once.
const TELLERS: usize = 8;
/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_mins(15);

/// The control plane and what is on it.
pub(crate) struct Town {
    pub(crate) cluster: Cluster,
    pub(crate) build: Build,
    pub(crate) client: Client,
    pub(crate) source: Source,
    backstop: User,
    folder: tempfile::TempDir,
    guards: Store<DynamicObject>,
    restored: Restored,
    _gateway: Loop,
}

/// When each service's template became that of `v1` again, in microseconds since 1970.
type Restored = Arc<Mutex<BTreeMap<usize, i64>>>;

/// A controller that ends with this guard.
pub(crate) struct Controller {
    replica: Replica,
    probes: u16,
}

impl Controller {
    /// Memory in megabytes, and processor time so far.
    pub(crate) fn used(&self) -> (f64, Duration) {
        (process::resident(self.replica.pid()), process::busy(self.replica.pid()))
    }

    /// The sum of one of its counters, whatever the labels.
    pub(crate) fn counted(&self, name: &str) -> f64 {
        let (_, metrics) = bed::get(self.probes, "/metrics").unwrap();
        let ours = |line: &&str| line.starts_with(&format!("backstop_{name}_total"));
        metrics.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Runs the command line against it, until it does what it is told.
    pub(crate) fn tell(&self, arguments: &[&str]) {
        let mut last = None;
        let told = bed::eventually(PATIENCE, || {
            let output = self.replica.tell(arguments);
            let done = output.status.success();
            last = Some(output);
            done.then_some(())
        });
        assert!(told.is_some(), "{arguments:?}: {last:?}");
    }
}

impl Town {
    /// `services` Deployments of `replicas` pods of the image `v1`, each with a Service, a route and a guard; metrics each `interval` ms.
    pub(crate) async fn build(services: usize, replicas: u32, interval: i64) -> Self {
        let cluster = Cluster::start(3);
        cluster.apply_gateway_api();
        cluster.apply(&bed::run(Path::new(env!("CARGO_BIN_EXE_backstop")), &["crd"]));
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
        let backstop = cluster.backstop();
        cluster.kubectl(&["create", "namespace", NAMESPACE]);
        let build = Build::new();
        let source = Source::start(interval).await;
        cluster.apply(&crd::admission(SYSTEM));
        cluster.apply(&policy(&build, false).to_string());
        cluster.apply(&metrics(source.port, interval).to_string());
        let client = cluster.admin().client().await;
        let gateway = gateway::start(&cluster.admin(), NAMESPACE);
        let v1 = build.image("v1");
        let (guards, restored) = (watched(&client), restorations(&client, v1.clone()));
        let folder = tempfile::tempdir().unwrap();
        let town = Self { cluster, build, client, source, backstop, folder, guards, restored, _gateway: gateway };
        replica::write_principals(town.folder.path(), NAMESPACE);
        let (all, image) = (0..services, &v1);
        stream::iter(all).for_each_concurrent(BUILDERS, |number| town.settle(number, replicas, image)).await;
        town.until("every pod is ready", || async {
            let all = town.list("/apis/apps/v1/namespaces/bench/deployments").await;
            all.iter().filter(|one| one["status"]["readyReplicas"] == replicas).count() == services
        })
        .await;
        town
    }

    async fn settle(&self, number: usize, replicas: u32, image: &str) {
        let name = format!("service-{number}");
        let deployment = cluster::deployment(&name, replicas, image, None).replace("namespace: default", "namespace: bench");
        let deployment: Value = serde_saphyr::from_str(&deployment).unwrap();
        self.create("/apis/apps/v1/namespaces/bench/deployments", &deployment).await;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}});
        self.create("/api/v1/namespaces/bench/services", &service).await;
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": name, "port": 80}]}]},
        });
        self.create("/apis/gateway.networking.k8s.io/v1/namespaces/bench/httproutes", &route).await;
        self.create("/apis/backstop.dev/v1alpha1/namespaces/bench/guardedrollouts", &guard(&name)).await;
    }

    async fn create(&self, path: &str, object: &Value) {
        let request = Request::post(path).header("content-type", "application/json").body(object.to_string().into_bytes()).unwrap();
        let created: kube::Result<Value> = self.client.request(request).await;
        created.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// The objects of a path.
    pub(crate) async fn list(&self, path: &str) -> Vec<Value> {
        let request = Request::get(path).body(Vec::new()).unwrap();
        let mut found: Value = self.client.request(request).await.unwrap();
        serde_json::from_value(found["items"].take()).unwrap()
    }

    /// The status of every guard, by the number of its service, as a watch tells it: lists of hundreds would be a load of their own.
    fn statuses(&self) -> Vec<(usize, Value)> {
        self.guards.state().iter().map(|one| (number_of(&json!(one.metadata.name)), one.data["status"].clone())).collect()
    }

    /// Which of these services have had their template restored since then, and when.
    pub(crate) fn restored(&self, services: &[usize], since: i64) -> BTreeMap<usize, i64> {
        let restored = self.restored.lock().unwrap();
        restored.iter().filter(|(number, at)| services.contains(number) && **at >= since).map(|(number, at)| (*number, *at)).collect()
    }

    /// Waits until it is so.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, so: impl Fn() -> F) {
        let begin = clock::instant();
        while !so().await {
            assert!(begin.elapsed() < PATIENCE, "not so within {PATIENCE:?}: {what}\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        println!("  {what}: {:.1} s", begin.elapsed().as_secs_f64());
    }

    /// Waits until the guards of these services are all so.
    pub(crate) async fn until_all(&self, what: &str, services: &[usize], so: impl Fn(&Value) -> bool) {
        self.until(what, || async {
            let statuses = self.statuses();
            statuses.iter().filter(|(number, status)| services.contains(number) && so(status)).count() == services.len()
        })
        .await;
    }

    /// The end of what controllers wrote.
    fn tail(&self) -> String {
        let log = replica::log(self.folder.path(), "a");
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    /// Starts a controller.
    pub(crate) fn controller(&self, identity: &str) -> Controller {
        let probes = bed::free_port();
        let address = format!("--probes=127.0.0.1:{probes}");
        let replica = Replica::start(self.folder.path(), identity, identity, self.backstop.kubeconfig(), &[&address]);
        Controller { replica, probes }
    }

    /// Calls what runs known good.
    pub(crate) async fn adopt(&self, controller: &Controller, services: &[usize]) {
        self.until_all("every guard has found its service", services, |status| status["stable"]["image"].is_string()).await;
        let adopt = |number: &usize| controller.tell(&["adopt", &format!("{NAMESPACE}/service-{number}")]);
        std::thread::scope(|scope| {
            for share in services.chunks(services.len().div_ceil(TELLERS).max(1)) {
                scope.spawn(move || share.iter().for_each(adopt));
            }
        });
        self.until_all("every release is known good", services, |status| status["verdict"] == "Pass").await;
    }

    /// Has these services deploy `image`, and waits until each candidate has requests and is judged: those of them that still are.
    pub(crate) async fn deploy(&self, image: &str, services: &[usize]) -> Vec<usize> {
        self.source.heal();
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}).to_string();
        let patch = &patch;
        stream::iter(services)
            .for_each_concurrent(BUILDERS, |number| async move {
                let request = Request::patch(format!("/apis/apps/v1/namespaces/bench/deployments/service-{number}"));
                let request = request.header("content-type", "application/strategic-merge-patch+json").body(patch.clone().into_bytes());
                let patched: kube::Result<Value> = self.client.request(request.unwrap()).await;
                patched.unwrap();
            })
            .await;
        self.until_all(&format!("{} candidates have requests", services.len()), services, |status| {
            status["phase"] == "Advancing" && status["candidate"]["image"] == image && weight(status) > 0.0
        })
        .await;
        // Past the first looks at the candidate: what has no samples is not judged.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (on_trial, left): (Vec<_>, Vec<_>) = self
            .statuses()
            .into_iter()
            .filter(|(number, _)| services.contains(number))
            .partition(|(_, status)| status["phase"] == "Advancing");
        for (number, status) in &left {
            println!("  service-{number} is on trial no more: {} {} {}", status["phase"], status["reason"], status["message"]);
        }
        on_trial.into_iter().map(|(number, _)| number).collect()
    }

    /// Has the breaker hold restores back, or not.
    pub(crate) fn breaker(&self, on: bool) {
        self.cluster.apply(&policy(&self.build, on).to_string());
    }

    /// Requests of backstop's that the API server has dispatched so far, as its flow control counts them.
    pub(crate) fn requests(&self) -> f64 {
        let metrics = self.cluster.kubectl(&["get", "--raw=/metrics"]);
        let ours = |line: &&str| {
            line.starts_with("apiserver_flowcontrol_dispatched_requests_total") && line.contains("flow_schema=\"service-accounts\"")
        };
        metrics.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What backstop wrote in the namespace so far: when it came in (in microseconds), the verb, resource and name.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let ours = |entry: &Value| {
            entry["user"]["username"] == "system:serviceaccount:backstop-system:backstop" && entry["objectRef"]["namespace"] == NAMESPACE
                // Readiness tries writes that nobody keeps.
                && !entry["requestURI"].as_str().is_some_and(|uri| uri.contains("dryRun"))
        };
        let write = |entry: &Value| {
            let at: jiff::Timestamp = entry["requestReceivedTimestamp"].as_str()?.parse().ok()?;
            let done: jiff::Timestamp = entry["stageTimestamp"].as_str()?.parse().ok()?;
            let text = |field: &str| entry["objectRef"][field].as_str().unwrap_or_default().to_owned();
            let code = entry["responseStatus"]["code"].as_u64().unwrap_or(0);
            let number = number_of(&entry["objectRef"]["name"]);
            Some(Write { at: at.as_microsecond(), done: done.as_microsecond(), resource: text("resource"), number, code })
        };
        self.cluster.writes().iter().filter(|entry| ours(entry)).filter_map(write).collect()
    }
}

/// A write of backstop's, as the API server's audit log has it.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    /// When it was received, in microseconds since 1970.
    pub(crate) at: i64,
    /// When it was answered.
    pub(crate) done: i64,
    pub(crate) resource: String,
    /// Of which service.
    pub(crate) number: usize,
    pub(crate) code: u64,
}

/// The candidate's share of requests, in percent.
fn weight(status: &Value) -> f64 {
    status["weight"].as_str().and_then(|text| text.trim_end_matches('%').parse().ok()).unwrap_or(0.0)
}

/// The number in `service-NUMBER…`.
fn number_of(name: &Value) -> usize {
    name.as_str().and_then(|name| name.split('-').nth(1)?.parse().ok()).unwrap_or(usize::MAX)
}

/// The signatures that are wanted; what limits restores is off, unless the breaker is what is measured.
fn policy(build: &Build, breaker: bool) -> Value {
    let mut policy: Value = serde_json::from_str(&build.policy()).expect("a policy");
    policy["spec"]["floors"] = json!({"breaker": breaker, "restoresPerHour": 1000});
    policy
}

fn metrics(port: u16, interval: i64) -> Value {
    json!({
        "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardSource", "metadata": {"name": "flips"},
        "spec": {"prometheus": {"url": format!("http://127.0.0.1:{port}"), "scrapeInterval": format!("{interval}ms")}},
    })
}

fn guard(name: &str) -> Value {
    json!({
        "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardedRollout", "metadata": {"name": name},
        "spec": {
            "workload": {"deployment": {"name": name}}, "arms": {"by": "pod"}, "source": "flips",
            "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "errors_total", "total": "requests_total"}}],
            "strategy": {"canary": {
                "route": {"httpRoute": {"name": name}}, "candidate": {"warmUp": "1s"},
                "steps": [{"weight": "10%", "bake": "1h", "deadline": "3h"}],
            }},
            "watch": {"for": "30m", "holdback": "10%"}, "attestation": {"policy": "release"},
        },
    })
}

/// Notes when a watch tells that a service's template is that of this image again. Marks of what is guarded are writes of the same objects.
fn restorations(client: &Client, image: String) -> Restored {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
    let restored = Restored::default();
    let told = Arc::clone(&restored);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
    tokio::spawn(async move {
        let mut known: BTreeMap<usize, String> = BTreeMap::new();
        while let Some(event) = events.next().await {
            let Ok(object) = event else { continue };
            let name = object.metadata.name.unwrap_or_default();
            if name.ends_with("-candidate") {
                continue;
            }
            let now = object.data["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
            let before = known.insert(number_of(&json!(name)), now.clone());
            if now == image && before.is_some_and(|before| before != image) {
                told.lock().unwrap().insert(number_of(&json!(name)), clock::wall().as_microsecond());
            }
        }
    });
    restored
}

/// The guards as a watch tells them.
fn watched(client: &Client) -> Store<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("backstop.dev", "v1alpha1", "GuardedRollout"));
    let writer = reflector::store::Writer::new(kind.clone());
    let store = writer.as_reader();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().reflect(writer).boxed();
    tokio::spawn(async move { while events.next().await.is_some() {} });
    store
}
