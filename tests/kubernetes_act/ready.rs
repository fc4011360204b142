//! Whether a revert would work is known before it is needed.

use std::time::Duration;

use backstop::core::release::Release;
use backstop::core::spec::GuardedRollout;
use backstop::core::state::Guard;
use backstop::core::time::Span;
use backstop::world::kubernetes::Cluster as Act;
use backstop::world::perform::Subjects;
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment};
use crate::rig::{act_as, image};
use crate::{bed, cluster};

/// The workload `store/web` of a cluster of its own: what is forbidden here is forbidden to everybody.
struct Web {
    cluster: Cluster,
    act: Act,
    guard: Guard,
    first: Release,
}

impl Web {
    async fn open(strategy: Value) -> Self {
        let cluster = Cluster::start(1);
        cluster.apply_gateway_api();
        cluster.kubectl(&["create", "namespace", "store"]);
        cluster.apply(&deployment("web", 4, &image('a'), None).replace("namespace: default", "namespace: store"));
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "store"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]},
        });
        cluster.apply(&service.to_string());
        let spec: GuardedRollout = serde_json::from_value(json!({
            "workload": {"deployment": {"name": "web"}}, "arms": {"by": "pod"}, "source": "nowhere", "attestation": {"policy": "release"},
            "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "errors_total", "total": "requests_total"}}],
            "strategy": strategy,
        }))
        .expect("a rollout");
        let guard = Guard { key: "store/web".into(), uid: "uid".into(), spec: spec.into(), interval: Span::seconds(1) };
        let act = act_as(&cluster.backstop()).await;
        let first = act.see(&guard, &[]).await.expect("it is seen").spec.expect("a template").release.expect("a release");
        Self { cluster, act, guard, first }
    }

    fn route(&self) {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web", "namespace": "store"},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
        });
        self.cluster.apply(&route.to_string());
    }

    fn deploy(&self, image: &str) {
        let change = json!({"spec": {"paused": true, "template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
        self.cluster.kubectl(&["patch", "deployment", "web", "--namespace=store", "--patch", &change.to_string()]);
    }

    /// Asks until the answer is so: rights and policies hold a moment after they were written.
    async fn asked(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        let subjects = Subjects {
            guard: self.guard.clone(),
            policy: std::sync::Arc::default(),
            generation: 1,
            stable: Some(self.first.id.clone()),
            way_back: Some(self.first.id.clone()),
            revert: None,
            reverting: None,
            ledger: Vec::new(),
        };
        let mut last = Vec::new();
        for _ in 0..600 {
            last = self.act.ready(&subjects, &self.first).await;
            if holds(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("never {what}: {last:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_stop_a_revert_is_told_by_name() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("what_would_stop_a_revert_is_told_by_name", missing);
    }
    let steps = json!({"canary": {"route": {"httpRoute": {"name": "web"}}, "steps": [{"weight": "5%", "bake": "1m"}]}});
    let web = Web::open(steps).await;
    let said = web.asked("without its route", |all| !all.is_empty()).await;
    assert!(said[0].contains("there is no HTTPRoute store/web"), "{said:?}");
    web.route();
    web.asked("ready", <[String]>::is_empty).await;
    web.deploy(&image('b'));
    web.asked("ready while another template waits in the workload", <[String]>::is_empty).await;

    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight", "namespace": "store"}, "spec": {"hard": {"pods": "4"}},
    });
    web.cluster.apply(&quota.to_string());
    // A quarter of four may stop first: there is room.
    web.asked("ready, for a pod stops before one starts", <[String]>::is_empty).await;
    let careful = r#"{"spec":{"strategy":{"rollingUpdate":{"maxUnavailable":0}}}}"#;
    web.cluster.kubectl(&["patch", "deployment", "web", "--namespace=store", "--patch", careful]);
    let said = web.asked("out of room", |all| !all.is_empty()).await;
    assert!(
        said.len() == 1 && said[0].contains("the ResourceQuota tight has no room for one pod more: count/pods 4")
            || said[0].contains("pods 4 of 4 used"),
        "{said:?}"
    );
    web.cluster.kubectl(&["delete", "resourcequota", "tight", "--namespace=store"]);
    web.asked("ready again", <[String]>::is_empty).await;

    // Somebody else's policy that would refuse the very writes of a revert.
    let deny = |resource: &str, group: &str| {
        format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: no-{resource}}}\nspec:\n  \
             matchConstraints: {{resourceRules: [{{apiGroups: [{group}], apiVersions: ['*'], operations: [UPDATE], resources: [{resource}]}}]}}\n  \
             validations: [{{expression: 'false', message: nobody touches {resource}}}]\n---\n\
             apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: no-{resource}}}\n\
             spec: {{policyName: no-{resource}, validationActions: [Deny]}}\n"
        )
    };
    for (resource, group, names) in
        [("httproutes", "gateway.networking.k8s.io", "the router does not take"), ("deployments", "apps", "does not take the restore")]
    {
        web.cluster.apply(&deny(resource, group));
        let said = web.asked("refused", |all| !all.is_empty()).await;
        assert!(said[0].contains(names) && said[0].contains(&format!("nobody touches {resource}")), "{said:?}");
        web.cluster.kubectl(&["delete", "validatingadmissionpolicybinding", &format!("no-{resource}")]);
        web.asked("ready again", <[String]>::is_empty).await;
    }

    web.cluster.kubectl(&["delete", "clusterrolebinding", "backstop-guard"]);
    // An answer about rights counts for some seconds.
    let said = web.asked("without rights", |all| all.iter().any(|one| one.contains("no right to"))).await;
    assert!(said.iter().any(|one| one.contains("no right to patch deployments in store")), "{said:?}");
    assert!(said.iter().any(|one| one.contains("no right to patch httproutes in store: weights")), "{said:?}");
    assert!(said.iter().any(|one| one.contains("no right to patch guardedrollouts/status")), "{said:?}");
}
