//! A canary of a plain Deployment, by a route and by numbers of pods.

use backstop::core::input::Outcome;
use backstop::core::work::{Action, Fence, Lane};
use serde_json::json;

use crate::stage::{Stage, eventually, image};
use crate::{bed, cluster};

fn steps(route: serde_json::Value) -> serde_json::Value {
    json!({"canary": {"route": route, "steps": [{"weight": "5%", "bake": "1m"}, {"weight": "50%", "bake": "1m"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_by_a_route_goes_back_without_moving_a_stable_pod() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("a_canary_by_a_route_goes_back_without_moving_a_stable_pod", missing);
    }
    let stage = Stage::open(steps(json!({"httpRoute": {"name": "web"}}))).await;
    stage.route();
    let hpa = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web", "namespace": "store"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "minReplicas": 2, "maxReplicas": 8},
    });
    stage.cluster.apply(&hpa.to_string());
    let v1 = stage.current().await;
    let stable_pods = stage.pods(&image('a'));
    let v2 = stage.deploy(&image('b')).await;
    assert_ne!(v1.id, v2.id);
    let (one, stable) = (Fence::Generation(1), Fence::Stable(v1.id.clone()));

    let start = stage.effect(Action::EnsureArm { release: v2.clone(), present: true }, one.clone(), Lane::Forward);
    stage.done_once(&v1.id, &start).await;
    let seen = stage.until("the candidate is ready", |seen| seen.observed.arms.get(&v2.id).is_some_and(|arm| arm.ready == 1)).await;
    assert_eq!((seen.observed.arms[&v2.id].wanted, seen.observed.arms[&v1.id].ready), (1, 4), "a twentieth of four is one");
    assert_eq!(seen.observed.current.as_ref(), Some(&v2.id), "it waits in the workload, paused");
    assert_eq!(seen.observed.weights[&v1.id].percent(), 100.0);
    assert_eq!(seen.members[&v2.id].len(), 1);
    let endpoints = stage.cluster.get("pods", &["--namespace=store", "--selector=app=web"]);
    assert_eq!(endpoints.as_array().unwrap().len(), 4, "the workload's own Service does not select the candidate");
    let minimum = || stage.cluster.get("hpa", &["web", "--namespace=store"])["spec"]["minReplicas"].clone();
    assert_eq!(minimum(), 4, "stable keeps what it has while a candidate is on trial");

    let shift = stage.effect(Stage::weights(&[(&v2, 5.0), (&v1, 95.0)]), one.clone(), Lane::Forward);
    let first = stage.perform(&v1.id, &shift).await;
    assert!(matches!(&first, Outcome::Transient { what, .. } if what.contains("no gateway")), "{first:?}");
    stage.done_once(&v1.id, &shift).await;
    let arm = format!("web-candidate-{}", &v2.id.0[..8]);
    assert_eq!(stage.backends(), [("web".to_owned(), 950), (arm.clone(), 50)]);
    assert_eq!(stage.see().await.observed.weights[&v2.id].percent(), 5.0);

    let half = stage.effect(Stage::weights(&[(&v2, 50.0), (&v1, 50.0)]), one.clone(), Lane::Forward);
    stage.done(&v1.id, &half).await;
    assert_eq!(stage.pods(&image('b')).len(), 2, "members come before requests");

    let idle = stage.effect(Action::EnsureArm { release: v2.clone(), present: false }, stable.clone(), Lane::Forward);
    let refused = stage.perform(&v1.id, &idle).await;
    assert!(matches!(&refused, Outcome::Transient { what, .. } if what.contains("still gets 50.0%")), "{refused:?}");

    let late = stage.effect(Stage::weights(&[(&v2, 5.0), (&v1, 95.0)]), one.clone(), Lane::Forward);
    let back = stage.effect(Stage::weights(&[(&v1, 100.0)]), stable.clone(), Lane::Revert);
    assert!(matches!(stage.perform(&v1.id, &back).await, Outcome::Done { changed: true, .. }), "one write, and nothing is waited for");
    assert_eq!(stage.backends(), [("web".to_owned(), 1000), (arm, 0)]);
    let superseded = stage.perform(&v1.id, &late).await;
    assert!(matches!(superseded, Outcome::Superseded(_)), "a step that was on its way gives nothing back: {superseded:?}");

    let restore = stage.effect(Action::EnsureRelease { release: v1.clone() }, one.clone(), Lane::Revert);
    stage.done_once(&v1.id, &restore).await;
    stage.done_once(&v1.id, &idle).await;
    let seen = stage.until("the candidate is gone", |seen| !seen.observed.arms.contains_key(&v2.id)).await;
    assert_eq!(seen.observed.current.as_ref(), Some(&v1.id));
    assert!(seen.spec.unwrap().own, "backstop wrote it");
    assert_eq!(stage.pods(&image('a')), stable_pods, "no stable pod moved");
    assert_eq!(stage.backends(), [("web".to_owned(), 1)]);
    assert_eq!(minimum(), 2, "what was held is given back");
    assert!(stage.cluster.get("deployment", &["web", "--namespace=store"])["spec"]["paused"].is_null());

    let hold = stage.effect(Action::EnsureHold { quarantined: vec![v2.id.clone()] }, Fence::None, Lane::Forward);
    stage.done_once(&v1.id, &hold).await;
    let marked = stage.cluster.get("deployment", &["web", "--namespace=store"]);
    assert_eq!(marked["metadata"]["annotations"]["backstop.dev/quarantined"], image('f'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_by_a_route_becomes_the_workload() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("a_canary_by_a_route_becomes_the_workload", missing);
    }
    let stage = Stage::open(steps(json!({"httpRoute": {"name": "web"}}))).await;
    stage.route();
    let v1 = stage.current().await;
    let v2 = stage.deploy(&image('b')).await;
    let one = Fence::Generation(1);
    for action in [Action::EnsureArm { release: v2.clone(), present: true }, Stage::weights(&[(&v2, 100.0), (&v1, 0.0)])] {
        let effect = stage.effect(action, one.clone(), Lane::Forward);
        stage.done(&v1.id, &effect).await;
    }
    assert_eq!(stage.pods(&image('b')).len(), 4, "all of the traffic needs all of the members");
    assert_eq!(stage.pods(&image('a')).len(), 4, "and the way back stays warm");
    let settled = Fence::Stable(v2.id.clone());
    for action in [Stage::weights(&[(&v2, 100.0)]), Action::EnsureRelease { release: v2.clone() }] {
        let effect = stage.effect(action, settled.clone(), Lane::Forward);
        stage.done_once(&v2.id, &effect).await;
    }
    assert_eq!(stage.backends(), [("web".to_owned(), 1)], "the route reads as its authors wrote it");
    let seen = stage.until("only v2 is left", |seen| seen.observed.arms.len() == 1).await;
    assert_eq!(seen.observed.arms[&v2.id].ready, 4);
    let deployments = stage.cluster.get("deployments", &["--namespace=store"]);
    assert_eq!(deployments.as_array().unwrap().len(), 1, "nothing is left beside the workload");
    eventually("nothing of v1 runs", || stage.pods(&image('a')).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_router_pods_are_the_shares() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("without_a_router_pods_are_the_shares", missing);
    }
    let stage = Stage::open(steps(json!({"replicaRatio": {}}))).await;
    let v1 = stage.current().await;
    let v2 = stage.deploy(&image('b')).await;
    let (one, stable) = (Fence::Generation(1), Fence::Stable(v1.id.clone()));
    for action in [Action::EnsureArm { release: v2.clone(), present: true }, Stage::weights(&[(&v2, 50.0), (&v1, 50.0)])] {
        let effect = stage.effect(action, one.clone(), Lane::Forward);
        stage.done(&v1.id, &effect).await;
    }
    let selected = || stage.cluster.get("pods", &["--namespace=store", "--selector=app=web"]).as_array().unwrap().len();
    assert_eq!((stage.pods(&image('b')).len(), selected()), (4, 8), "the Service selects both");
    assert_eq!(stage.see().await.observed.weights[&v2.id].percent(), 50.0);
    let back = stage.effect(Stage::weights(&[(&v1, 100.0)]), stable, Lane::Revert);
    stage.done(&v1.id, &back).await;
    eventually("no pod of the candidate is left", || stage.pods(&image('b')).is_empty());

    let again = stage.effect(Stage::weights(&[(&v2, 100.0), (&v1, 0.0)]), Fence::Generation(2), Lane::Forward);
    stage.done(&v1.id, &again).await;
    eventually("the workload itself is the candidate", || stage.pods(&image('a')).is_empty() && stage.pods(&image('b')).len() >= 4);
}
