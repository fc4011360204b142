//! What is guarded changes, goes, or fails, and so does what is said of it.

use serde_json::json;

use crate::rig::{Day, needs_cluster};

#[test]
fn the_controller_dies_with_an_automatic_breach_pending() {
    needs_cluster!("the_controller_dies_with_an_automatic_breach_pending");
    let day = Day::open("killed");
    let controller = day.settled();
    day.held_up(|| day.deploy_crashing(&day.house.v2));
    controller.kill();
    day.mended();
    let begin = backstop::world::clock::instant();
    let _controller = day.controller();
    day.until("restored", || day.image() == day.house.v1);
    println!("from the start of the next controller to the template back: {:?}", begin.elapsed());
    day.until_reverted();
}

#[test]
fn the_document_is_invalid_and_the_history_gone_when_it_breaks() {
    needs_cluster!("the_document_is_invalid_and_the_history_gone_when_it_breaks");
    let day = Day::open("invalid");
    day.kubectl(&["patch", "deployment", "checkout", "--patch", r#"{"spec":{"revisionHistoryLimit":0}}"#]);
    let controller = day.on_trial();
    day.until("without a history", || {
        let sets = day.object(&format!("/apis/apps/v1/namespaces/{}/replicasets", day.namespace));
        sets["items"].as_array().is_some_and(|all| all.len() == 1)
    });
    // A person approves it in the same write.
    let broken = r#"{"metadata":{"annotations":{"backstop.dev/approved":"2"}},"spec":{"source":"nobody"}}"#;
    day.kubectl(&["patch", "gro", "checkout", "--type=merge", "--patch", broken]);
    day.until("told", || day.status()["conditions"].to_string().contains("nobody"));
    day.revert(&controller);
    day.until_reverted();
}

#[test]
fn a_workload_that_is_deleted_in_a_revert_and_created_again_is_put_right() {
    needs_cluster!("a_workload_that_is_deleted_in_a_revert_and_created_again_is_put_right");
    let day = Day::open("again");
    let controller = day.on_trial();
    day.held_up(|| day.revert(&controller));
    day.kubectl(&["delete", "deployment", "checkout"]);
    day.mended();
    day.house.cluster.apply(&day.workload().replace(&day.house.v1, &day.house.v2));
    day.until_reverted();
    day.until("marked again", || day.deployment()["metadata"]["labels"]["backstop.dev/guarded"] == "observed");
    let selectors = day.object(&format!("/api/v1/namespaces/{}/configmaps/backstop-guarded", day.namespace))["data"].clone();
    assert_eq!(selectors["Deployment.checkout"], "app=checkout", "and its pods are told from others");
}

#[test]
fn a_namespace_that_is_being_deleted_in_a_revert_stops_no_other() {
    needs_cluster!("a_namespace_that_is_being_deleted_in_a_revert_stops_no_other");
    let day = Day::open("ending");
    let controller = day.on_trial();
    // It stays for as long as something in it wants to be finished.
    let kept = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "namespace": day.namespace, "finalizers": ["test/kept"]}});
    day.house.cluster.apply(&kept.to_string());
    day.held_up(|| day.revert(&controller));
    day.house.cluster.kubectl(&["delete", "namespace", day.namespace, "--wait=false"]);
    day.mended();
    day.until("gone", || day.status().is_null());
    assert!(controller.tell(&["status"]).status.success(), "the controller lives");
    day.kubectl(&["patch", "configmap", "kept", "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#]);
    day.until("ended", || day.object(&format!("/api/v1/namespaces/{}", day.namespace)).is_null());
    assert!(controller.tell(&["status"]).status.success(), "the controller lives");
}

#[test]
fn an_autoscaler_scales_while_a_crashing_release_is_taken_back() {
    needs_cluster!("an_autoscaler_scales_while_a_crashing_release_is_taken_back");
    let day = Day::open("scaled");
    let _controller = day.settled();
    day.kubectl(&["patch", "deployment", "checkout", "--patch", r#"{"spec":{"replicas":10}}"#]);
    day.until("ten pods", || day.deployment()["status"]["readyReplicas"] == 10);
    day.held_up(|| day.deploy_crashing(&day.house.v2));
    let scale = |replicas: &str| day.kubectl(&["scale", "deployment", "checkout", "--replicas", replicas]);
    scale("7");
    day.mended();
    scale("9");
    day.until("restored", || day.image() == day.house.v1);
    day.until("nine of stable", || day.deployment()["status"]["readyReplicas"] == 9 && day.deployment()["status"]["updatedReplicas"] == 9);
    assert_eq!(day.deployment()["spec"]["replicas"], 9, "what the autoscaler wants is its own");
}

#[test]
fn a_pod_that_runs_another_image_than_was_verified_is_told_of_and_blamed_for_nothing() {
    needs_cluster!("a_pod_that_runs_another_image_than_was_verified_is_told_of_and_blamed_for_nothing");
    let day = Day::open("others");
    let _controller = day.settled();
    let verified = || {
        let status = day.status();
        let found = status["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == "ImagesVerified").cloned());
        found.unwrap_or_default()
    };
    day.until("as verified", || verified()["status"] == "True");
    let pod = day.pods("app=checkout").remove(0);
    let name = pod["metadata"]["name"].as_str().unwrap();
    let report = |id: &str| {
        let patch = json!([{"op": "replace", "path": "/status/containerStatuses/0/imageID", "value": id}]).to_string();
        day.kubectl(&["patch", "pod", name, "--subresource=status", "--type=json", "--patch", &patch]);
    };
    report(&day.house.v2);
    day.until("told", || verified()["status"] == "False");
    let said = verified()["message"].as_str().unwrap().to_owned();
    let digest = |image: &str| image.rsplit_once('@').unwrap().1.to_owned();
    assert!(said.contains(name) && said.contains(&digest(&day.house.v1)) && said.contains(&digest(&day.house.v2)), "{said}");
    // A node may name an image in another way than its template does.
    assert_eq!(day.phase(), "Idle");
    report(&day.house.v1);
    day.until("well again", || verified()["status"] == "True");
}
