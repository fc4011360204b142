//! What is seen of pods that do not do well, and of what is not the workload's.

use serde_json::json;

use crate::stage::{Stage, image};
use crate::{bed, cluster};

#[tokio::test(flavor = "multi_thread")]
async fn sick_pods_are_named_and_strangers_are_not_counted() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("sick_pods_are_named_and_strangers_are_not_counted", missing);
    }
    let stage = Stage::open(json!({"observe": {}})).await;
    let v1 = stage.current().await;
    stage.cluster.apply(
        &cluster::deployment("stranger", 1, &image('c'), None)
            .replace("namespace: default", "namespace: store")
            .replace("app: stranger", "app: web, own: stranger"),
    );
    for (digit, behaviour, said) in [('b', "crash", "crash loop"), ('d', "pull", "cannot be pulled")] {
        let change = json!({"spec": {"template": {
            "metadata": {"annotations": {"test/behaviour": behaviour}}, "spec": {"containers": [{"name": "main", "image": image(digit)}]},
        }}});
        stage.cluster.kubectl(&["patch", "deployment", "web", "--namespace=store", "--patch", &change.to_string()]);
        let sick = stage.current().await;
        let seen = stage
            .until(said, |seen| seen.observed.arms.get(&sick.id).and_then(|arm| arm.failing.as_ref()).is_some_and(|why| why.contains(said)))
            .await;
        assert!(seen.observed.arms[&v1.id].ready >= 3, "Kubernetes keeps most of the old ones: {:?}", seen.observed);
        assert_eq!(seen.observed.arms[&v1.id].failing, None);
    }
    let seen = stage.see().await;
    let pods: usize = seen.members.values().map(Vec::len).sum();
    let own = stage.cluster.get("pods", &["--namespace=store", "--selector=app=web,!own"]);
    assert!(pods <= own.as_array().unwrap().len(), "a pod of another Deployment is no member");
    let unready = json!({"spec": {"progressDeadlineSeconds": 3, "minReadySeconds": 0, "template": {
        "metadata": {"annotations": {"test/behaviour": "unready"}}, "spec": {"containers": [{"name": "main", "image": image('e')}]},
    }}});
    stage.cluster.kubectl(&["patch", "deployment", "web", "--namespace=store", "--patch", &unready.to_string()]);
    let late = stage.current().await;
    stage
        .until("never ready", |seen| {
            seen.observed.arms.get(&late.id).and_then(|arm| arm.failing.as_ref()).is_some_and(|why| why.contains("never ready"))
        })
        .await;

    let tagged = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "registry.example/store/web:v9"}]}}}});
    stage.cluster.kubectl(&["patch", "deployment", "web", "--namespace=store", "--patch", &tagged.to_string()]);
    let seen = stage.see().await;
    let why = seen.spec.unwrap().release.unwrap_err();
    assert!(why.contains("containers[main].image") && seen.observed.current.is_none(), "{why}");
}
