//! A workload in a cluster that all tests share, and a rollout's memory of it.

#![allow(dead_code, unreachable_pub, reason = "a part of one test crate")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use backstop::core::input::{Observed, Outcome};
use backstop::core::ledger::{LedgerRecord, Standing};
use backstop::core::release::{Release, ReleaseId};
use backstop::core::spec::Percent;
use backstop::core::state::Guard;
use backstop::core::time::{Mono, Now, Span};
use backstop::core::work::{Action, Effect, EffectId, Fence, Lane};
use backstop::world::clock;
use backstop::world::kubernetes::{Cluster as Act, Seen};
use backstop::world::perform::Subjects;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::bed;
use crate::cluster::{self, Cluster, User};

pub const SOON: Duration = Duration::from_mins(2);

pub fn image(digit: char) -> String {
    format!("registry.example/store/app@sha256:{}", String::from(digit).repeat(64))
}

/// The first part of what is needed that is missing here.
pub fn missing() -> Option<&'static str> {
    cluster::missing().or_else(|| bed::tool("gateway-api.yaml").is_none().then_some("gateway-api.yaml"))
}

/// One cluster for all tests that run at the same time; it ends with the last of them.
pub fn shared() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(Cluster::start(2));
    let gateway = bed::tool("gateway-api.yaml").expect("call missing first");
    cluster.kubectl(&["apply", "--server-side", "--filename", &gateway.display().to_string()]);
    cluster.apply(VIRTUAL_SERVICES);
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
    cluster.backstop();
    *shared = Arc::downgrade(&cluster);
    cluster
}

/// Backstop's own account there, with the rights that `backstop install` gives it.
pub fn backstop(cluster: &Cluster) -> User {
    cluster.user("backstop-system-backstop")
}

/// As much of Istio's resource as backstop touches.
const VIRTUAL_SERVICES: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: virtualservices.networking.istio.io}
spec:
  group: networking.istio.io
  scope: Namespaced
  names: {kind: VirtualService, plural: virtualservices, singular: virtualservice}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
";

/// A guarded workload `default/NAME`.
pub struct Rig {
    pub cluster: Arc<Cluster>,
    pub name: String,
    pub act: Act,
    runtime: Runtime,
    guard: Guard,
    kind: &'static str,
    revision: Cell<u64>,
    pub generation: Cell<u64>,
    pub stable: RefCell<Option<ReleaseId>>,
    ledger: RefCell<BTreeMap<ReleaseId, LedgerRecord>>,
}

impl Rig {
    /// A Deployment of `replicas` pods of image `a`, with a Service, guarded by `strategy`.
    pub fn deployment(name: &str, replicas: u32, strategy: &Value) -> Self {
        let rig = Self::new("deployment", name, strategy);
        rig.cluster.apply(&cluster::deployment(name, replicas, &image('a'), None));
        rig.cluster.apply(&service(name));
        rig.settle(replicas);
        rig
    }

    /// Guards a workload of another kind, which `document` makes.
    pub fn of(kind: &'static str, name: &str, replicas: u32, document: &Value) -> Self {
        let rig = Self::new(kind, name, &json!({"observe": {}}));
        rig.cluster.apply(&document.to_string());
        rig.settle(replicas);
        rig
    }

    fn new(kind: &'static str, name: &str, strategy: &Value) -> Self {
        let cluster = shared();
        let runtime = Runtime::new().expect("a runtime");
        let act = runtime.block_on(act_as(&backstop(&cluster)));
        let spec = json!({
            "workload": {kind: {"name": name}}, "arms": {"by": "pod"}, "source": "prometheus", "attestation": {"policy": "release"},
            "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "bad_total", "total": "all_total"}}],
            "strategy": strategy,
        });
        let spec: backstop::core::spec::GuardedRollout = serde_json::from_value(spec).expect("a rollout");
        let guard = Guard { key: format!("default/{name}"), uid: "u-1".into(), spec: spec.into(), interval: Span::seconds(1) };
        Self {
            cluster,
            name: name.into(),
            act,
            runtime,
            guard,
            kind,
            revision: Cell::new(1),
            generation: Cell::new(1),
            stable: RefCell::new(None),
            ledger: RefCell::default(),
        }
    }

    /// From now on effects are those of somebody else.
    pub fn becomes(&mut self, user: &User) {
        self.act = self.runtime.block_on(act_as(user));
    }

    /// What runs is stable and known good.
    fn settle(&self, replicas: u32) {
        let replicas = u16::try_from(replicas).expect("a few");
        self.until("all pods are ready", |seen| seen.observed.arms.values().any(|arm| arm.ready == replicas));
        let stable = self.template();
        self.know(&stable, Standing::KnownGood);
        *self.stable.borrow_mut() = Some(stable.id);
    }

    pub fn know(&self, release: &Release, standing: Standing) {
        let since = Now { wall: clock::wall(), mono: Mono::default() };
        let record = LedgerRecord {
            release: release.clone(),
            standing,
            quarantined: standing == Standing::Bad,
            since,
            last_good: None,
            why: String::new(),
        };
        self.ledger.borrow_mut().insert(release.id.clone(), record);
    }

    /// The release that the workload's own template is now.
    pub fn template(&self) -> Release {
        self.see().spec.expect("a workload").release.expect("a release")
    }

    pub fn stable(&self) -> ReleaseId {
        self.stable.borrow().clone().expect("a stable release")
    }

    /// Deploys an image as an agent does, with what the admission policy adds; the new release is on trial from now on.
    pub fn deploys(&self, digit: char, annotations: &Value) -> Release {
        let patch = json!({
            "metadata": {"annotations": {"backstop.dev/requester": "system:serviceaccount:default:agent"}},
            "spec": {"paused": true, "template": {"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "main", "image": image(digit)}]}}},
        });
        self.cluster.kubectl(&["patch", "deployment", &self.name, "--type=strategic", "--patch", &patch.to_string()]);
        let release = self.template();
        self.know(&release, Standing::Unproven);
        self.generation.set(self.generation.get() + 1);
        release
    }

    pub fn see(&self) -> Seen {
        let known: Vec<Release> = self.ledger.borrow().values().map(|record| record.release.clone()).collect();
        self.runtime.block_on(self.act.see(&self.guard, &known)).expect("the API server answers")
    }

    pub fn observed(&self) -> Observed {
        self.see().observed
    }

    /// Waits until what is seen is as said.
    pub fn until(&self, what: &str, so: impl Fn(&Seen) -> bool) -> Seen {
        let seen = bed::eventually(SOON, || Some(self.see()).filter(&so));
        seen.unwrap_or_else(|| panic!("{}: not so: {what}: {:#?}", self.name, self.see()))
    }

    pub fn effect(&self, action: Action, fence: Fence, lane: Lane) -> Effect {
        self.revision.set(self.revision.get() + 1);
        let id = EffectId { revision: self.revision.get(), ordinal: 0 };
        Effect { id, fence, deadline: Mono::default(), lane, action }
    }

    pub fn once(&self, effect: &Effect) -> Outcome {
        let subjects = Subjects {
            guard: self.guard.clone(),
            policy: Arc::default(),
            generation: self.generation.get(),
            stable: self.stable.borrow().clone(),
            way_back: self.stable.borrow().clone(),
            revert: None,
            reverting: None,
            ledger: self.ledger.borrow().values().cloned().collect(),
        };
        self.runtime.block_on(self.act.ensure(&subjects, effect))
    }

    /// Tries until it is done; whether something had to be written the last time. `meanwhile` is done before each try.
    pub fn does_with(&self, effect: &Effect, meanwhile: impl Fn()) -> bool {
        let mut last = None;
        let done = bed::eventually(SOON, || {
            meanwhile();
            match self.once(effect) {
                Outcome::Done { changed, .. } => Some(changed),
                transient @ Outcome::Transient { .. } => {
                    last = Some(transient);
                    None
                }
                other => panic!("{}: {:?}: {other:?}", self.name, effect.action),
            }
        });
        done.unwrap_or_else(|| panic!("{}: {:?} is not done: {last:?}\n{:#?}", self.name, effect.action, self.observed()))
    }

    pub fn does(&self, effect: &Effect) -> bool {
        self.does_with(effect, || {})
    }

    fn of_generation(&self) -> Fence {
        Fence::Generation(self.generation.get())
    }

    pub fn arm(&self, release: &Release, present: bool) -> Effect {
        self.effect(Action::EnsureArm { release: release.clone(), present }, self.of_generation(), Lane::Forward)
    }

    /// A forward step.
    pub fn step(&self, candidate: &Release, share: f64) -> Effect {
        self.effect(Action::EnsureWeights { weights: self.shares(&candidate.id, share) }, self.of_generation(), Lane::Forward)
    }

    fn shares(&self, candidate: &ReleaseId, share: f64) -> BTreeMap<ReleaseId, Percent> {
        let mut weights: BTreeMap<_, _> = [(candidate.clone(), Percent::new(share))].into();
        if share < 100.0 {
            weights.insert(self.stable(), Percent::new(100.0 - share));
        }
        weights
    }

    /// All traffic to stable, at once.
    pub fn back(&self) -> Effect {
        let weights = [(self.stable(), Percent::FULL)].into();
        self.effect(Action::EnsureWeights { weights }, Fence::Stable(self.stable()), Lane::Revert)
    }

    pub fn restore(&self, release: &Release) -> Effect {
        self.effect(Action::EnsureRelease { release: release.clone() }, self.of_generation(), Lane::Revert)
    }

    /// The end of a watch: the candidate is stable, and the workload's own.
    pub fn promote(&self, release: &Release) -> Effect {
        *self.stable.borrow_mut() = Some(release.id.clone());
        self.know(release, Standing::KnownGood);
        self.effect(Action::EnsureRelease { release: release.clone() }, Fence::Stable(release.id.clone()), Lane::Forward)
    }

    pub fn release(&self, id: &ReleaseId) -> Release {
        self.ledger.borrow()[id].release.clone()
    }

    /// The workload's object.
    pub fn object(&self) -> Value {
        self.cluster.get(self.kind, &[&self.name])
    }

    pub fn copy(&self) -> Option<Value> {
        let copies = self.cluster.get("deployments", &[&format!("--selector=backstop.dev/of={}", self.name)]);
        copies.as_array().and_then(|copies| copies.first()).cloned()
    }

    /// Uids of the living pods of a release.
    pub fn pods(&self, id: &ReleaseId) -> BTreeSet<String> {
        self.see().members.get(id).into_iter().flatten().map(|member| member.uid.clone()).collect()
    }

    /// Every pod that the workload's Service selects.
    pub fn behind_service(&self) -> usize {
        let selector = self.cluster.get("service", &[&self.name])["spec"]["selector"].clone();
        let terms: Vec<String> = selector
            .as_object()
            .expect("a selector")
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let pods = self.cluster.get("pods", &[&format!("--selector={}", terms.join(","))]);
        pods.as_array().expect("a list").iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count()
    }

    /// Has every pod of a release crash from now on.
    pub fn crash(&self, id: &ReleaseId) {
        let status = json!({"status": {
            "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 5,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}}],
        }});
        for member in &self.see().members[id] {
            self.cluster.kubectl(&["patch", "pod", &member.pod, "--subresource=status", "--type=merge", "--patch", &status.to_string()]);
        }
    }

    /// A gateway takes a route as it is now.
    pub fn gateway(&self, kind: &str) {
        let generation = self.cluster.get(kind, &[&self.name])["metadata"]["generation"].clone();
        let condition = |name: &str| json!({"type": name, "status": "True", "reason": name, "message": "", "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"status": {"parents": [{
            "parentRef": {"name": "edge"}, "controllerName": "test/edge", "conditions": [condition("Accepted"), condition("ResolvedRefs")],
        }]}});
        self.cluster.kubectl(&["patch", kind, &self.name, "--subresource=status", "--type=merge", "--patch", &status.to_string()]);
    }
}

pub async fn act_as(user: &User) -> Act {
    Act::new(user.client().await, user.client().await, user.client().await)
}

fn service(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default", "labels": {"scraped": "yes"}},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
    .to_string()
}

/// The scenario's name where it cannot run here.
#[macro_export]
macro_rules! needs_cluster {
    ($name:literal) => {
        if let Some(missing) = $crate::rig::missing() {
            return $crate::bed::skip($name, missing);
        }
    };
}
