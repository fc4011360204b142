//! The workload's own template: what is promoted becomes it, and what is restored.

use serde_json::{Value as Json, json};

use super::access::{Access, DEPLOYMENT, Edits, annotation, name, number};
use super::answer::Fault;
use super::fences;
use super::scene::{Scene, arm_of, object, release_of};
use super::{LEAVING, RELEASE, WRITTEN};
use crate::core::release::{Release, Template};
use crate::core::spec::Percent;
use crate::core::work::{Effect, Lane};
use crate::world::perform::Subjects;

/// Makes `release` the template of the workload itself, and lets it run.
///
/// The patch replaces the template and ends the pause, and nothing else: replicas, strategy and all other fields are other
/// people's. Where the template comes back before any pod of the new one was started, no pod moves.
pub(super) async fn put(access: &Access, subjects: &Subjects, effect: &Effect, release: &Release) -> Result<bool, Fault> {
    let (kind, workload) = object(&subjects.guard.spec.workload)?;
    let main = access.must(kind, workload).await?;
    let mut edits = Edits::default();
    fences::pass(&main, subjects, effect, &mut edits)?;
    let before = &main["spec"]["template"];
    let is_there = release_of(before).is_ok_and(|there| there.id == release.id);
    let paused = main["spec"].get("paused").filter(|paused| **paused == json!(true));
    let changes = !is_there || paused.is_some();
    if !is_there {
        edits.set("/spec/template", Some(before), Some(&template(release, before)?));
    } else if paused.is_some() {
        // What goes on is what was read.
        edits.expect("/spec/template", before);
    }
    edits.set("/spec/paused", paused, None);
    if changes || annotation(&main, WRITTEN) != Some(release.id.0.as_str()) {
        edits.annotate(&main, WRITTEN, Some(&release.id.0));
    }
    if !edits.is_empty() {
        access.patch(kind, workload, edits, false).await?;
    }
    if kind == DEPLOYMENT && effect.lane == Lane::Forward {
        settle(access, subjects, effect, release).await?;
    }
    Ok(changes)
}

/// The template to write: the release's own, with the labels that the selector needs.
pub(super) fn template(release: &Release, before: &Json) -> Result<Json, Fault> {
    let Template::Pod(pod) = &release.template else { return Err(Fault::Invalid("a process does not run in a pod".into())) };
    let mut template = serde_json::to_value(pod.template()).map_err(|error| Fault::Invalid(error.to_string()))?;
    if template["metadata"]["labels"].is_null()
        && let Some(labels) = before["metadata"].get("labels")
    {
        template["metadata"]["labels"] = labels.clone();
    }
    Ok(template)
}

/// Moves a promoted release from its arm into the workload: once all of the workload's own pods are of that release, its
/// traffic goes there, and the arm goes away.
async fn settle(access: &Access, subjects: &Subjects, effect: &Effect, release: &Release) -> Result<(), Fault> {
    let scene = Scene::read(access, &subjects.guard.spec.workload).await?;
    let Some(arm) = scene.arms.iter().find(|arm| annotation(arm, RELEASE) == Some(release.id.0.as_str())) else { return Ok(()) };
    let (own, wanted) = (scene.own_ready(), scene.replicas());
    let ready = own.get(&release.id).copied().unwrap_or_default();
    let others = own.iter().any(|(id, ready)| *id != release.id && *ready > 0);
    let noticed = number(&scene.main["status"]["observedGeneration"]) >= number(&scene.main["metadata"]["generation"]);
    if !noticed || ready < wanted || others {
        return Err(Fault::Pending(format!("{ready} of {wanted} pods of {} are of {release}", name(&scene.main))));
    }
    if arm_of(&scene.arms, &release.id).is_some() {
        let mut edits = Edits::default();
        edits.annotate(arm, LEAVING, Some("true"));
        access.patch(DEPLOYMENT, name(arm), edits, false).await?;
    }
    let weights = [(release.id.clone(), Percent::FULL)].into();
    super::traffic::put(access, subjects, effect, &weights).await?;
    super::arm::take_down(access, subjects, &scene.arms, &release.id).await?;
    super::autoscaler::release(access, &scene.main).await
}
