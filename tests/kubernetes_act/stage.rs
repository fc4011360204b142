//! A guarded workload, and a writer that performs effects on it.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::core::input::{Observation, Outcome};
use backstop::core::policy::Policy;
use backstop::core::release::{Release, ReleaseId};
use backstop::core::spec::{GuardedRollout, Percent};
use backstop::core::state::Guard;
use backstop::core::time::{Mono, Span};
use backstop::core::work::{Action, Effect, EffectId, Fence, Lane};
use backstop::world::kubernetes::{Cluster as Hands, Seen};
use backstop::world::perform::Subjects;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::bed;
use crate::cluster::{Cluster, deployment};

/// How long a step may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(1);
/// The workload's key.
pub(crate) const KEY: &str = "store/web";

pub(crate) fn image(digit: char) -> String {
    format!("registry.example/store/web@sha256:{}", String::from(digit).repeat(64))
}

/// A cluster in which `store/web` runs with 4 pods behind the Service `web`.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) hands: Hands,
    pub(crate) guard: Guard,
    /// What ran at first.
    pub(crate) first: Release,
    revision: std::cell::Cell<u64>,
}

impl Stage {
    pub(crate) async fn open(strategy: Value) -> Self {
        let cluster = Cluster::start(1);
        cluster.apply_gateway_api();
        cluster.kubectl(&["create", "namespace", "store"]);
        cluster.apply(&deployment("web", 4, &image('a'), None).replace("namespace: default", "namespace: store"));
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "store", "labels": {"team": "shop"}},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        cluster.apply(&service.to_string());
        let config = Kubeconfig::read_from(cluster.backstop().kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let spec: GuardedRollout = serde_json::from_value(json!({
            "workload": {"deployment": {"name": "web"}}, "arms": {"by": "pod"}, "source": "nowhere", "attestation": {"policy": "release"},
            "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "errors_total", "total": "requests_total"}}],
            "strategy": strategy,
        }))
        .unwrap();
        let guard = Guard { key: KEY.into(), uid: "uid".into(), spec: spec.into(), interval: Span::seconds(1) };
        let hands = Hands::new(client.clone(), client);
        let first = hands.see(&guard).await.unwrap().spec.unwrap().release.unwrap();
        let stage = Self { cluster, hands, guard, first, revision: std::cell::Cell::new(1) };
        stage.until("four pods are ready", |seen| seen.observed.arms.values().any(|arm| arm.ready == 4)).await;
        stage
    }

    pub(crate) async fn see(&self) -> Seen {
        self.hands.see(&self.guard).await.unwrap()
    }

    /// Looks until it is so.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        for _ in 0..600 {
            let seen = self.see().await;
            if holds(&seen) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never: {what}: {:#?}", self.see().await.observed);
    }

    /// The release in the workload's own template.
    pub(crate) async fn current(&self) -> Release {
        self.see().await.spec.unwrap().release.unwrap()
    }

    /// Somebody deploys `image`; an admission policy pauses it in the same write.
    pub(crate) async fn deploy(&self, image: &str) -> Release {
        let change = json!({"spec": {"paused": true, "template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
        self.cluster.kubectl(&["patch", "deployment", "web", "--namespace=store", "--patch", &change.to_string()]);
        self.current().await
    }

    /// An effect of the next revision.
    pub(crate) fn effect(&self, action: Action, fence: Fence, lane: Lane) -> Effect {
        self.revision.set(self.revision.get() + 1);
        let id = EffectId { revision: self.revision.get(), ordinal: 0 };
        Effect { id, fence, deadline: Mono(u64::MAX / 2), lane, action }
    }

    pub(crate) fn subjects(&self, stable: &ReleaseId) -> Subjects {
        Subjects {
            guard: self.guard.clone(),
            policy: Policy::default(),
            generation: 1,
            stable: Some(stable.clone()),
            revert: None,
            held: vec![image('f')],
        }
    }

    /// Performs an effect once.
    pub(crate) async fn perform(&self, stable: &ReleaseId, effect: &Effect) -> Outcome {
        self.hands.ensure(&self.subjects(stable), effect).await
    }

    /// Performs an effect until it is done, as the machine would: whether it changed anything the last time.
    pub(crate) async fn done(&self, stable: &ReleaseId, effect: &Effect) -> bool {
        let mut last = None;
        for _ in 0..300 {
            match self.perform(stable, effect).await {
                Outcome::Done { changed, observed: Observation::Nothing } => return changed,
                Outcome::Transient { what, .. } => last = Some(what),
                other => panic!("{}: {other:?}", effect.action.name()),
            }
            self.accept();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} never ends: {last:?}", effect.action.name());
    }

    /// Once done, it is done: the second time nothing changes.
    pub(crate) async fn done_once(&self, stable: &ReleaseId, effect: &Effect) {
        self.done(stable, effect).await;
        let before = self.world();
        assert!(!self.done(stable, effect).await, "{} changes something again", effect.action.name());
        assert_eq!(before, self.world(), "{}: twice is as good as once", effect.action.name());
    }

    /// Specifications of everything in the namespace.
    fn world(&self) -> Vec<Value> {
        let all = self.cluster.get("deployments,services,httproutes,hpa", &["--namespace=store"]);
        all.as_array()
            .unwrap()
            .iter()
            .map(|one| json!([one["kind"], one["metadata"]["name"], one["metadata"]["annotations"], one["spec"]]))
            .collect()
    }

    pub(crate) fn weights(shares: &[(&Release, f64)]) -> Action {
        let weights: BTreeMap<ReleaseId, Percent> =
            shares.iter().map(|(release, share)| (release.id.clone(), Percent::new(*share))).collect();
        Action::EnsureWeights { weights }
    }

    /// The gateway takes the route as it is now.
    pub(crate) fn accept(&self) {
        let Ok(found) = self.cluster.admin().kubectl(&["get", "httproute", "web", "--namespace=store", "--output=json"], "") else {
            return;
        };
        let route: Value = serde_json::from_str(&found).unwrap();
        let condition = |kind: &str| {
            json!({
                "type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": route["metadata"]["generation"],
            })
        };
        let parent = json!({"parentRef": {"name": "edge"}, "controllerName": "example.org/edge", "conditions": [condition("Accepted"), condition("ResolvedRefs")]});
        let patch = json!({"status": {"parents": [parent]}}).to_string();
        self.cluster.kubectl(&[
            "patch",
            "httproute",
            "web",
            "--namespace=store",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ]);
    }

    /// Names and weights of the route's backends.
    pub(crate) fn backends(&self) -> Vec<(String, u64)> {
        let route = self.cluster.get("httproute", &["web", "--namespace=store"]);
        let refs = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap().clone();
        refs.iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one["weight"].as_u64().unwrap())).collect()
    }

    pub(crate) fn route(&self) {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web", "namespace": "store"},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
        });
        self.cluster.apply(&route.to_string());
    }

    /// Names of the pods of the first release: which of them were replaced shows in them.
    pub(crate) fn pods(&self, image: &str) -> Vec<String> {
        let pods = self.cluster.get("pods", &["--namespace=store"]);
        let of = |pod: &&Value| pod["spec"]["containers"][0]["image"] == image && pod["metadata"].get("deletionTimestamp").is_none();
        let mut names: Vec<String> =
            pods.as_array().unwrap().iter().filter(of).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

/// Waits until something that is not for the machine is so.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    assert!(bed::eventually(SOON, || holds().then_some(())).is_some(), "never: {what}");
}
