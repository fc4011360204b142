//! Blue-green by a Service's selector.

use backstop::core::input::Outcome;
use backstop::core::work::{Action, Fence, Lane};
use serde_json::json;

use crate::stage::{Stage, image};
use crate::{bed, cluster};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_switched_and_back_at_once_even_if_the_new_pods_crashed() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("a_service_is_switched_and_back_at_once_even_if_the_new_pods_crashed", missing);
    }
    let stage = Stage::open(json!({"blueGreen": {"route": {"service": {"name": "web"}}, "bake": "1m"}})).await;
    let v1 = stage.current().await;
    let v2 = stage.deploy(&image('b')).await;
    let one = Fence::Generation(1);
    let start = stage.effect(Action::EnsureArm { release: v2.clone(), present: true }, one.clone(), Lane::Forward);
    stage.done(&v1.id, &start).await;
    stage.until("the preview is whole", |seen| seen.observed.arms.get(&v2.id).is_some_and(|arm| arm.ready == 4)).await;
    let selector = || stage.cluster.get("service", &["web", "--namespace=store"])["spec"]["selector"].clone();
    assert_eq!(selector(), json!({"app": "web"}));

    let half = stage.effect(Stage::weights(&[(&v2, 50.0), (&v1, 50.0)]), one.clone(), Lane::Forward);
    assert!(matches!(stage.perform(&v1.id, &half).await, Outcome::Invalid(_)), "a selector gives everything or nothing");
    let switch = stage.effect(Stage::weights(&[(&v2, 100.0), (&v1, 0.0)]), one, Lane::Forward);
    stage.done_once(&v1.id, &switch).await;
    let selected = stage.cluster.get("pods", &["--namespace=store", &format!("--selector=backstop.dev/release={}", v2.id)]);
    assert_eq!(selector()["backstop.dev/release"], json!(v2.id.0));
    assert_eq!(selected.as_array().unwrap().len(), 4);
    assert_eq!(stage.see().await.observed.weights[&v2.id].percent(), 100.0);
    assert_eq!(stage.pods(&image('a')).len(), 4, "the old one is warm");

    let arm = format!("web-candidate-{}", &v2.id.0[..8]);
    stage.cluster.kubectl(&["scale", "deployment", &arm, "--namespace=store", "--replicas=0"]);
    let back = stage.effect(Stage::weights(&[(&v1, 100.0)]), Fence::Stable(v1.id.clone()), Lane::Revert);
    assert!(matches!(stage.perform(&v1.id, &back).await, Outcome::Done { changed: true, .. }));
    assert_eq!(selector(), json!({"app": "web"}));
}
