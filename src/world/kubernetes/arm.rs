//! `EnsureArm`: a release's pods beside those of the workload, as a Deployment that the workload owns.

use serde_json::{Map, Value, json};

use super::api::{DEPLOYMENT, Fault, SERVICE};
use super::hold::QUARANTINED;
use super::workload::{ARM, OF, RELEASE, Workload, name, release_of, uid};
use super::{fences, scaler, traffic};
use crate::core::input::Outcome;
use crate::core::plan::Plan;
use crate::core::release::{Release, ReleaseId, Template};
use crate::core::spec::{Percent, Route};
use crate::core::work::Lane;

/// Has a release's pods run. What is restored runs in the workload itself, and needs no copy.
pub(super) async fn run(workload: &Workload<'_>, release: &Release) -> Result<bool, Outcome> {
    if workload.route().is_none() || workload.kind != DEPLOYMENT || workload.effect.lane == Lane::Revert {
        return Ok(false);
    }
    let (object, _) = workload.objects.rewrite(workload.kind, workload.name, |object, edit| fences::pass(workload, object, edit)).await?;
    if workload.own_sets(&object).await?.iter().any(|(id, wanted, _)| *id == release.id && *wanted > 0) {
        return Ok(false);
    }
    let held = scaler::hold(workload, &object).await?;
    let first = Plan::compile(&workload.subjects.guard.spec).stages.iter().map(|stage| stage.weight).find(|weight| *weight > Percent::ZERO);
    let wanted = share_of(&object, first.unwrap_or(Percent::FULL));
    let arm = if workload.subjects.stable.as_ref() == Some(&release.id) { "baseline" } else { "candidate" };
    Ok(copy(workload, &object, release, arm, wanted).await? || held)
}

/// As many pods as take this share of what the workload's own take now; at least one.
pub(super) fn share_of(object: &Value, share: Percent) -> u64 {
    let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of pods")]
    let part = (replicas as f64 * share.fraction() - 1e-9).ceil() as u64;
    part.max(1)
}

/// A copy with at least so many pods; whether something had to be written.
pub(super) async fn copy(workload: &Workload<'_>, object: &Value, release: &Release, arm: &str, wanted: u64) -> Result<bool, Outcome> {
    let copies = workload.copies().await?;
    let there = copies.iter().find(|copy| release_of(copy).as_ref() == Some(&release.id));
    if let Some(there) = there {
        let service = ensure_service(workload, object, there).await?;
        let enough = there["spec"]["replicas"].as_u64().unwrap_or(1) >= wanted;
        return Ok((!enough && scale(workload, name(there), wanted).await?) || service);
    }
    let Template::Pod(pod) = &*release.template else { return Err(Outcome::Invalid(format!("{release} is no pod template"))) };
    if release.template.release() != release.id {
        return Err(Outcome::Invalid(format!("{} is not the release of its template", release.id)));
    }
    let template = serde_json::to_value(pod.template()).map_err(|error| Outcome::Invalid(error.to_string()))?;
    refuse_quarantined(object, &template, release)?;
    let plain = workload.copy_name(arm);
    let taken = copies.iter().any(|copy| name(copy) == plain);
    let called = if taken { format!("{plain}-{}", &release.id.0[..8.min(release.id.0.len())]) } else { plain };
    let made = document(workload, object, template, &release.id, arm, &called, wanted).await?;
    let made = match workload.objects.create(DEPLOYMENT, &made).await {
        Ok(made) => made,
        Err(Fault::Conflict(_)) => {
            let there = workload.objects.get(DEPLOYMENT, &called).await?.unwrap_or_default();
            if there["metadata"]["labels"][OF] == workload.name {
                return Err(Outcome::Transient { what: format!("Deployment {called} of an attempt before is going"), retry_after: None });
            }
            return Err(Outcome::Invalid(format!("Deployment {called} is there already, and is not backstop's: rename it")));
        }
        Err(fault) => return Err(fault.into()),
    };
    ensure_service(workload, object, &made).await.map(|_| true)
}

fn refuse_quarantined(object: &Value, template: &Value, release: &Release) -> Result<(), Outcome> {
    let containers = template["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let images: Vec<&str> = containers.iter().filter_map(|one| one["image"].as_str()).collect();
    let held = object["metadata"]["annotations"][QUARANTINED].as_str().unwrap_or_default();
    if held.split(' ').any(|list| list == images.join(",")) {
        return Err(Outcome::Denied(format!("release {release} is quarantined: lift that first")));
    }
    Ok(())
}

/// A copy's own labels; with them its selector finds no other pod.
fn own_labels(workload: &Workload<'_>, id: &ReleaseId, arm: &str) -> Map<String, Value> {
    let labels = [(OF, workload.name), (ARM, arm), (RELEASE, &*id.0)];
    labels.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

async fn document(
    workload: &Workload<'_>,
    object: &Value,
    mut template: Value,
    id: &ReleaseId,
    arm: &str,
    called: &str,
    replicas: u64,
) -> Result<Value, Outcome> {
    let own = own_labels(workload, id, arm);
    let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    if !matches!(workload.route(), Some(Route::ReplicaRatio {})) {
        // What moves by route must not get the workload's own share besides.
        for key in told_apart_by(workload, object).await? {
            if let Some(value) = labels.get(&key).and_then(Value::as_str).map(|value| other_value(value, arm)) {
                labels.insert(key, json!(value));
            }
        }
    }
    labels.extend(own.clone());
    template["metadata"]["labels"] = Value::Object(labels);
    let owner = json!([{
        "apiVersion": DEPLOYMENT.api_version(), "kind": "Deployment", "name": workload.name, "uid": uid(object),
        "controller": true, "blockOwnerDeletion": false,
    }]);
    let mut copy = json!({
        "apiVersion": DEPLOYMENT.api_version(), "kind": "Deployment",
        "metadata": {"name": called, "namespace": workload.objects.namespace, "labels": own, "ownerReferences": owner},
        "spec": {"replicas": replicas, "revisionHistoryLimit": 1, "selector": {"matchLabels": own}, "template": template},
    });
    for key in ["progressDeadlineSeconds", "minReadySeconds"] {
        if !object["spec"][key].is_null() {
            copy["spec"][key] = object["spec"][key].clone();
        }
    }
    Ok(copy)
}

/// A label value that no selector of the workload has, within the 63 characters that one may have.
fn other_value(value: &str, arm: &str) -> String {
    let room = 63 - arm.len() - 1;
    let kept: String = value.chars().take(room).collect();
    format!("{}-{arm}", kept.trim_end_matches(['-', '.', '_']))
}

/// The labels by which every Service of the workload is kept from its copies.
async fn told_apart_by(workload: &Workload<'_>, object: &Value) -> Result<Vec<String>, Outcome> {
    let selector = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let mut keys: Vec<String> = Vec::new();
    for service in workload.services(object).await? {
        let used = service["spec"]["selector"].as_object().cloned().unwrap_or_default();
        if used.keys().any(|key| keys.contains(key)) {
            continue;
        }
        keys.extend(selector.keys().find(|key| used.contains_key(*key)).or_else(|| used.keys().next()).cloned());
    }
    Ok(keys)
}

/// The Service of a copy, where a route names Services; whether it had to be made.
async fn ensure_service(workload: &Workload<'_>, object: &Value, copy: &Value) -> Result<bool, Outcome> {
    if !matches!(workload.route(), Some(Route::HttpRoute(_) | Route::GrpcRoute(_) | Route::VirtualService(_))) {
        return Ok(false);
    }
    if let Some(there) = workload.objects.get(SERVICE, name(copy)).await? {
        let owners = there["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        if owners.iter().any(|owner| owner["uid"] == uid(copy)) {
            return Ok(false);
        }
        if there["metadata"]["labels"][OF] == workload.name {
            // That of a copy before, which is about to go with it.
            workload.objects.delete(SERVICE, &there).await?;
            return Err(Outcome::Transient { what: format!("Service {} of an attempt before goes", name(copy)), retry_after: None });
        }
        return Err(Outcome::Invalid(format!("Service {} is there already, and is not backstop's: rename it", name(copy))));
    }
    let of = traffic::service_of(workload, object).await?;
    let mut labels = of["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.extend(copy["metadata"]["labels"].as_object().cloned().unwrap_or_default());
    let kept = ["name", "port", "targetPort", "protocol", "appProtocol"];
    let ports: Vec<Value> = of["spec"]["ports"].as_array().into_iter().flatten().map(|port| only(port, &kept)).collect();
    let mut spec = json!({"ports": ports, "selector": copy["spec"]["selector"]["matchLabels"]});
    if of["spec"]["clusterIP"] == "None" {
        spec["clusterIP"] = json!("None");
    }
    let owner = json!([{"apiVersion": DEPLOYMENT.api_version(), "kind": "Deployment", "name": name(copy), "uid": uid(copy)}]);
    let metadata = json!({"name": name(copy), "namespace": workload.objects.namespace, "labels": labels, "ownerReferences": owner});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    workload.objects.create(SERVICE, &service).await?;
    Ok(true)
}

fn only(value: &Value, keys: &[&str]) -> Value {
    let entries = value.as_object().into_iter().flatten().filter(|(key, _)| keys.contains(&key.as_str()));
    Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Wants so many pods of a copy; whether that had to be written.
pub(super) async fn scale(workload: &Workload<'_>, copy: &str, replicas: u64) -> Result<bool, Outcome> {
    let rewritten = workload.objects.rewrite(DEPLOYMENT, copy, |_, edit| {
        edit.set("/spec/replicas", json!(replicas));
        Ok(())
    });
    Ok(rewritten.await?.1)
}

/// Stops a release's copy; whether there was one. The last one gives the autoscaler its minimum back.
pub(super) async fn stop(workload: &Workload<'_>, id: &ReleaseId) -> Result<bool, Outcome> {
    if workload.route().is_none() || workload.kind != DEPLOYMENT {
        return Ok(false);
    }
    workload.objects.rewrite(workload.kind, workload.name, |object, edit| fences::pass(workload, object, edit)).await?;
    let (leaving, others): (Vec<Value>, Vec<Value>) =
        workload.copies().await?.into_iter().partition(|copy| release_of(copy).as_ref() == Some(id));
    for copy in &leaving {
        remove(workload, copy).await?;
    }
    let given = if others.is_empty() { scaler::give_back(workload).await? } else { false };
    Ok(!leaving.is_empty() || given)
}

/// Deletes a copy that no request can reach any more.
pub(super) async fn remove(workload: &Workload<'_>, copy: &Value) -> Result<(), Outcome> {
    if traffic::reaches(workload, name(copy)).await? {
        let what = format!("the route still names {}: move the traffic first", name(copy));
        return Err(Outcome::Transient { what, retry_after: None });
    }
    if let Some(service) = workload.objects.get(SERVICE, name(copy)).await?.filter(|one| one["metadata"]["labels"][OF] == workload.name) {
        workload.objects.delete(SERVICE, &service).await?;
    }
    Ok(workload.objects.delete(DEPLOYMENT, copy).await?)
}
