//! What is wrong with pods, each with its own reason, and what is no release.

use backstop::core::input::ArmHealth;
use serde_json::{Value, json};

use crate::rig::{Rig, image};

fn ratio() -> Value {
    json!({"canary": {"route": {"replicaRatio": {}}, "steps": [{"weight": "20%", "bake": "2m"}]}})
}

/// What is said of a candidate that behaves as `behaviour` says.
fn failing(rig: &Rig, digit: char, behaviour: &str) -> String {
    let bad = rig.deploys(digit, &json!({"test/behaviour": behaviour}));
    rig.does(&rig.arm(&bad, true));
    let seen = rig.until("it fails", |seen| seen.observed.arms.get(&bad.id).is_some_and(|arm| arm.failing.is_some()));
    assert_eq!(seen.observed.arms[&rig.stable()].failing, None, "stable is well");
    rig.does(&rig.back());
    rig.does(&rig.restore(&rig.release(&rig.stable())));
    rig.does(&rig.arm(&bad, false));
    seen.observed.arms[&bad.id].failing.clone().unwrap_or_default()
}

#[test]
fn each_failure_of_pods_has_its_own_reason() {
    crate::needs_cluster!("each_failure_of_pods_has_its_own_reason");
    let rig = Rig::deployment("sick", 2, &ratio());
    rig.cluster.kubectl(&["patch", "deployment", "sick", "--type=merge", "--patch", r#"{"spec":{"progressDeadlineSeconds":3}}"#]);
    for (digit, behaviour, reason) in [('b', "crash", "CrashLoopBackOff"), ('c', "pull", "ImagePullBackOff")] {
        let said = failing(&rig, digit, behaviour);
        assert!(said.starts_with(reason), "{behaviour}: {said}");
    }
    let said = failing(&rig, 'd', "unready");
    assert!(said.starts_with("ProgressDeadlineExceeded") || said.starts_with("Unready"), "{said}");

    let e = rig.deploys('e', &json!({}));
    rig.does(&rig.arm(&e, true));
    let seen = rig.until("it runs", |seen| seen.observed.arms.get(&e.id).is_some_and(ArmHealth::is_ready));
    let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}});
    let pod = &seen.members[&e.id][0].pod;
    rig.cluster.kubectl(&["patch", "pod", pod, "--subresource=status", "--type=merge", "--patch", &evicted.to_string()]);
    rig.until("it was evicted", |seen| seen.observed.arms[&e.id].failing.as_deref().is_some_and(|what| what.starts_with("Evicted")));
}

#[test]
fn a_tag_is_no_release_and_foreign_pods_and_containers_are_told_apart() {
    crate::needs_cluster!("a_tag_is_no_release_and_foreign_pods_and_containers_are_told_apart");
    let rig = Rig::deployment("told", 2, &ratio());
    let a = rig.stable();
    // A pod and a second Deployment with the workload's labels are none of it.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "told-stray", "namespace": "default", "labels": {"app": "told", "backstop.dev/of": "told"}},
        "spec": {"containers": [{"name": "main", "image": image('f')}]}});
    rig.cluster.apply(&pod.to_string());
    let other = crate::cluster::deployment("told-too", 1, &image('f'), None).replace("app: told-too", "app: told");
    rig.cluster.apply(&other);
    rig.cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pod", "--selector=app=told"]);
    let seen = rig.see();
    assert_eq!((seen.observed.arms.len(), seen.members[&a].len(), seen.observed.arms[&a].ready), (1, 2, 2));
    let member = &seen.members[&a][0];
    assert!(member.ip.is_some() && *member.image_ids == [("main".to_owned(), image('a'))] && member.injected.is_empty(), "{member:?}");
    rig.cluster.kubectl(&["delete", "deployment", "told-too"]);

    rig.cluster.kubectl(&["patch", "deployment", "told", "--type=merge", "--patch", r#"{"spec":{"paused":true}}"#]);
    rig.cluster.kubectl(&["set", "image", "deployment/told", "main=registry.example/store/app:v2"]);
    let seen = rig.see();
    let said = seen.spec.expect("a template").release.expect_err("a tag names no bytes");
    assert!(said.contains("containers[main].image") && said.contains("registry.example/store/app:v2"), "{said}");
    assert_eq!((seen.observed.current, seen.observed.arms[&a].ready), (None, 2), "stable is seen all the same");
    assert!(rig.does(&rig.restore(&rig.release(&a))), "and can be put back");
}
