//! Arms: a release's members beside the workload, in a Deployment of their own with a Service of their own.
//!
//! An arm's pods have the labels of their template, less what makes a Service select them where a router splits the traffic:
//! there one label of the Service's selector gets another value, and the arm's own Service selects by backstop's labels. Where
//! the share of pods is the share of traffic they keep all labels.

use serde_json::{Value as Json, json};

use super::access::{Access, DEPLOYMENT, Edits, SERVICE, annotation, name, number, selects};
use super::answer::Fault;
use super::fences;
use super::scene::{Scene, arm_of};
use super::{ARM_OF, COPY_OF, LEAVING, RELEASE};
use crate::core::release::{Release, ReleaseId, Template};
use crate::core::spec::{GuardedRollout, Percent, Route, Strategy};
use crate::core::work::{Effect, Lane};
use crate::world::perform::Subjects;

/// The longest name that an arm's name is made from.
const NAME_MAX: usize = 40;

/// Name of what runs `release` beside `name`.
pub(super) fn beside(name: &str, release: &ReleaseId) -> String {
    let short: String = name.chars().take(NAME_MAX).collect();
    format!("{}-candidate-{}", short.trim_end_matches('-'), release.0.chars().take(8).collect::<String>())
}

/// How many members carry a share as well as `replicas` carry all.
pub(super) fn members_for(replicas: u32, share: Percent) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count is a count")]
    let needed = (f64::from(replicas) * share.fraction() - 1e-9).ceil().max(0.0) as u32;
    needed.clamp(1, replicas.max(1))
}

/// The share that an arm begins with.
fn first_share(spec: &GuardedRollout) -> Percent {
    match &spec.strategy {
        Strategy::Canary(canary) => canary.steps.first().map_or(Percent::ZERO, |step| step.weight),
        // The switch is at once, so all of it must be there before.
        Strategy::BlueGreen(_) => Percent::FULL,
        Strategy::Observe(_) => Percent::ZERO,
    }
}

/// Runs a release's members beside the workload. Done when they were asked for; how they are is seen.
pub(super) async fn start(access: &Access, subjects: &Subjects, effect: &Effect, release: &Release) -> Result<bool, Fault> {
    let spec = &subjects.guard.spec;
    // A restore goes into the workload itself; beside it there would be nobody to take it away.
    if effect.lane == Lane::Revert || spec.strategy.route().is_none() {
        return Ok(false);
    }
    let scene = Scene::read(access, &spec.workload).await?;
    let mut edits = Edits::default();
    fences::pass(&scene.main, subjects, effect, &mut edits)?;
    if scene.own_ready().keys().any(|own| *own == release.id) || arm_of(&scene.arms, &release.id).is_some() {
        return Ok(false);
    }
    let Template::Pod(pod) = &release.template else { return Err(Fault::Invalid("a process does not run in a pod".into())) };
    let template = serde_json::to_value(pod.template()).map_err(|error| Fault::Invalid(error.to_string()))?;
    let own = services(access, &template["metadata"]["labels"]).await?;
    let split = !matches!(spec.strategy.route(), Some(Route::ReplicaRatio {}));
    if split && own.is_empty() {
        return Err(Fault::Invalid(format!("no Service selects the pods of {}", name(&scene.main))));
    }
    let replicas = members_for(scene.replicas(), first_share(spec));
    super::autoscaler::hold(access, &scene).await?;
    if !edits.is_empty() {
        access.patch(DEPLOYMENT, name(&scene.main), edits, false).await?;
    }
    for service in own.iter().filter(|_| split) {
        made(access.create(SERVICE, &copy_of(service, &scene.main, release)).await)?;
    }
    made(access.create(DEPLOYMENT, &deployment(&scene.main, release, template, replicas, if split { &own } else { &[] })).await)?;
    Ok(true)
}

/// Made now, or by somebody before: the names say what they are.
fn made(created: Result<(), Fault>) -> Result<(), Fault> {
    match created {
        Err(Fault::Raced) => Ok(()),
        other => other,
    }
}

/// The workload's own Services: those whose selector is among the labels of its pods.
pub(super) async fn services(access: &Access, labels: &Json) -> Result<Vec<Json>, Fault> {
    let all = access.list(SERVICE, "").await?;
    let own = |service: &Json| annotation(service, COPY_OF).is_none() && selects(&service["spec"]["selector"], labels);
    Ok(all.into_iter().filter(own).collect())
}

fn owner(main: &Json) -> Json {
    json!([{
        "apiVersion": "apps/v1", "kind": "Deployment", "name": main["metadata"]["name"], "uid": main["metadata"]["uid"],
        "controller": false, "blockOwnerDeletion": false,
    }])
}

fn copy_of(service: &Json, main: &Json, release: &Release) -> Json {
    let ports: Vec<Json> = service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let mut port = port.clone();
            port.as_object_mut().and_then(|port| port.remove("nodePort"));
            port
        })
        .collect();
    let mut labels = service["metadata"].get("labels").cloned().filter(Json::is_object).unwrap_or_else(|| json!({}));
    labels[ARM_OF] = main["metadata"]["name"].clone();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": beside(name(service), &release.id), "labels": labels, "ownerReferences": owner(main),
            "annotations": {COPY_OF: name(service), RELEASE: release.id.0},
        },
        "spec": {"selector": {ARM_OF: main["metadata"]["name"], RELEASE: release.id.0}, "ports": ports},
    })
}

fn deployment(main: &Json, release: &Release, mut template: Json, replicas: u32, split_from: &[Json]) -> Json {
    let workload = &main["metadata"]["name"];
    let own = json!({ARM_OF: workload, RELEASE: release.id.0});
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    for service in split_from {
        unselect(&mut template["metadata"]["labels"], &service["spec"]["selector"]);
    }
    for (key, value) in own.as_object().into_iter().flatten() {
        template["metadata"]["labels"][key] = value.clone();
    }
    let mut spec = json!({
        "replicas": replicas, "revisionHistoryLimit": 0, "selector": {"matchLabels": own}, "template": template,
    });
    for field in ["strategy", "minReadySeconds", "progressDeadlineSeconds"] {
        if let Some(value) = main["spec"].get(field) {
            spec[field] = value.clone();
        }
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": beside(name(main), &release.id), "labels": {ARM_OF: workload}, "ownerReferences": owner(main),
            "annotations": {RELEASE: release.id.0},
        },
        "spec": spec,
    })
}

/// Changes one label so that `selector` does not select any more; the last one, for the first is often what metrics go by.
fn unselect(labels: &mut Json, selector: &Json) {
    if !selects(selector, labels) {
        return;
    }
    let Some(key) = selector.as_object().and_then(|selector| selector.keys().last().cloned()) else { return };
    let value: String = labels[&key].as_str().unwrap_or_default().chars().take(52).collect();
    labels[&key] = json!(format!("{}-candidate", value.trim_end_matches(['-', '_', '.'])));
}

/// Gives an arm as many members as its share needs; `Pending` until they are ready.
pub(super) async fn scale(access: &Access, arm: &Json, wanted: u32) -> Result<bool, Fault> {
    let old = &arm["spec"]["replicas"];
    let mut changed = false;
    if number(old) < wanted {
        let mut edits = Edits::default();
        edits.set("/spec/replicas", Some(old), Some(&json!(wanted)));
        access.patch(DEPLOYMENT, name(arm), edits, false).await?;
        changed = true;
    }
    let ready = number(&arm["status"]["readyReplicas"]);
    if ready < wanted {
        return Err(Fault::Pending(format!("{ready} of {wanted} members of {} are ready", name(arm))));
    }
    Ok(changed)
}

/// Takes a release's arm down, once nothing is routed to it. What is the workload's own is left to Kubernetes.
pub(super) async fn stop(access: &Access, subjects: &Subjects, effect: &Effect, release: &Release) -> Result<bool, Fault> {
    let spec = &subjects.guard.spec;
    let (kind, workload) = super::scene::object(&spec.workload)?;
    let (main, arms) = futures::try_join!(access.must(kind, workload), super::scene::arms(access, workload))?;
    let mut edits = Edits::default();
    fences::pass(&main, subjects, effect, &mut edits)?;
    let gone = take_down(access, subjects, &arms, &release.id).await?;
    let left = arms.iter().filter(|arm| annotation(arm, RELEASE) != Some(release.id.0.as_str())).count();
    if left == 0 {
        super::autoscaler::release(access, &main).await?;
    }
    Ok(gone)
}

/// Takes the arms of a release down: out of the route first.
pub(super) async fn take_down(access: &Access, subjects: &Subjects, arms: &[Json], release: &ReleaseId) -> Result<bool, Fault> {
    let runs = |arm: &&Json| annotation(arm, RELEASE) == Some(release.0.as_str());
    let Some(arm) = arms.iter().find(runs) else { return Ok(false) };
    super::traffic::must_be_idle(access, subjects, release).await?;
    if annotation(arm, LEAVING).is_none() {
        let mut edits = Edits::default();
        edits.annotate(arm, LEAVING, Some("true"));
        access.patch(DEPLOYMENT, name(arm), edits, false).await?;
    }
    super::traffic::forget(access, subjects, release).await?;
    access.delete(DEPLOYMENT, arm).await?;
    for service in access.list(SERVICE, &format!("{ARM_OF}={}", arm["metadata"]["labels"][ARM_OF].as_str().unwrap_or_default())).await? {
        if annotation(&service, RELEASE) == Some(release.0.as_str()) {
            access.delete(SERVICE, &service).await?;
        }
    }
    Ok(true)
}
