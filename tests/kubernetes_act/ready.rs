//! Whether a revert would work is known before it is needed.

use std::time::Duration;

use serde_json::json;

use crate::stage::{SOON, Stage, image};
use crate::{bed, cluster};

impl Stage {
    /// Asks until the answer is so: rights and policies hold a moment after they were written.
    async fn asked(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut last = Vec::new();
        for _ in 0..SOON.as_secs() * 5 {
            let target = self.first.clone();
            last = self.hands.ready(&self.subjects(&target.id), &target).await;
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
    let stage = Stage::open(steps).await;
    let said = stage.asked("without its route", |all| !all.is_empty()).await;
    assert!(said[0].contains("there is no HTTPRoute store/web"), "{said:?}");
    stage.route();
    stage.asked("ready", <[String]>::is_empty).await;
    stage.deploy(&image('b')).await;
    stage.asked("ready while another template waits in the workload", <[String]>::is_empty).await;

    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight", "namespace": "store"}, "spec": {"hard": {"pods": "4"}},
    });
    stage.cluster.apply(&quota.to_string());
    // A quarter of four may stop first: there is room.
    stage.asked("ready, for a pod stops before one starts", <[String]>::is_empty).await;
    let careful = r#"{"spec":{"strategy":{"rollingUpdate":{"maxUnavailable":0}}}}"#;
    stage.cluster.kubectl(&["patch", "deployment", "web", "--namespace=store", "--patch", careful]);
    let said = stage.asked("out of room", |all| !all.is_empty()).await;
    assert!(
        said.len() == 1 && said[0].contains("the ResourceQuota tight has no room for one pod more: count/pods 4")
            || said[0].contains("pods 4 of 4 used"),
        "{said:?}"
    );
    stage.cluster.kubectl(&["delete", "resourcequota", "tight", "--namespace=store"]);
    stage.asked("ready again", <[String]>::is_empty).await;

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
        stage.cluster.apply(&deny(resource, group));
        let said = stage.asked("refused", |all| !all.is_empty()).await;
        assert!(said[0].contains(names) && said[0].contains(&format!("nobody touches {resource}")), "{said:?}");
        stage.cluster.kubectl(&["delete", "validatingadmissionpolicybinding", &format!("no-{resource}")]);
        stage.asked("ready again", <[String]>::is_empty).await;
    }

    stage.cluster.kubectl(&["delete", "clusterrolebinding", "backstop-guard"]);
    let said = stage.asked("without rights", |all| !all.is_empty()).await;
    assert!(said.iter().any(|one| one.contains("no right to patch deployments in store")), "{said:?}");
    assert!(said.iter().any(|one| one.contains("no right to patch httproutes in store: weights")), "{said:?}");
    assert!(said.iter().any(|one| one.contains("no right to patch guardedrollouts/status")), "{said:?}");
}
