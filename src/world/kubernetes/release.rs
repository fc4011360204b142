//! `EnsureRelease`: which template is the workload's own.

use serde_json::{Value, json};

use super::api::{DEPLOYMENT, POD, STATEFUL_SET};
use super::edit::Edit;
use super::mark::REVERTING;
use super::workload::{STAMPS, WROTE, Workload, is_owned, release as release_in, revisions, selector, uid};
use super::{arm, fences, scaler, traffic};
use crate::core::input::Outcome;
use crate::core::release::{Release, ReleaseId, Template};
use crate::core::time::Span;
use crate::core::work::Lane;

/// What `kubectl rollout restart` writes: the same release, in other pods.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// Makes a release the workload's own: by writing its template back, or by letting go on what waits.
pub(super) async fn ensure(workload: &Workload<'_>, release: &Release) -> Result<bool, Outcome> {
    let Template::Pod(pod) = &*release.template else { return Err(Outcome::Invalid(format!("{release} is no pod template"))) };
    if release.template.release() != release.id {
        return Err(Outcome::Invalid(format!("{} is not the release of its template", release.id)));
    }
    let mut template = serde_json::to_value(pod.template()).map_err(|error| Outcome::Invalid(error.to_string()))?;
    if workload.effect.lane == Lane::Revert || workload.kind != DEPLOYMENT {
        keep_pods(workload, &release.id, &mut template).await;
        let changed = write(workload, &release.id, &template).await?;
        return Ok(unblock(workload, &release.id).await? || changed);
    }
    promote(workload, &release.id, &template).await
}

/// Pods that run the release already keep running: what a restart noted in their template is no part of the release, and stays.
///
/// The rest of a `ReplicaSet`'s template is never used, for anybody who may write it could have changed it.
async fn keep_pods(workload: &Workload<'_>, id: &ReleaseId, template: &mut Value) {
    if workload.kind != DEPLOYMENT {
        return;
    }
    let Ok(object) = workload.read().await else { return };
    let Ok(sets) = workload.own_sets(&object).await else { return };
    let most = sets.into_iter().filter(|(of, wanted, _)| of == id && *wanted > 0).max_by_key(|(_, wanted, _)| *wanted);
    let Some((_, _, set)) = most else { return };
    let restarted = set["spec"]["template"]["metadata"]["annotations"][RESTARTED].clone();
    if restarted.is_string() {
        template["metadata"]["annotations"][RESTARTED] = restarted;
    } else if let Some(annotations) = template.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(RESTARTED);
        if annotations.is_empty() {
            template.pointer_mut("/metadata").and_then(Value::as_object_mut).map(|metadata| metadata.remove("annotations"));
        }
    }
}

/// Writes the whole template back, un-paused, and nothing else.
async fn write(workload: &Workload<'_>, id: &ReleaseId, template: &Value) -> Result<bool, Outcome> {
    let rewritten = workload.objects.rewrite(workload.kind, workload.name, |object, edit| {
        replace(workload, object, edit, id, template)?;
        if object["spec"]["paused"] == true {
            edit.set("/spec/paused", Value::Null);
        }
        // From this write on nobody gets in between.
        if edit.changes() {
            edit.note(REVERTING, workload.subjects.reverting.clone());
        }
        fences::pass(workload, object, edit)
    });
    Ok(rewritten.await?.1)
}

/// A `StatefulSet` replaces no pod while another one is not ready, so the pods that broke it would keep it broken: they are deleted.
async fn unblock(workload: &Workload<'_>, id: &ReleaseId) -> Result<bool, Outcome> {
    if workload.kind != STATEFUL_SET {
        return Ok(false);
    }
    let object = workload.read().await?;
    let releases = revisions(&workload.objects, &object).await?;
    let pods = workload.objects.list(POD, &selector(&object)).await?;
    let broken = pods.iter().filter(|pod| {
        let revision = pod["metadata"]["labels"]["controller-revision-hash"].as_str().unwrap_or_default();
        let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let serves = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        is_owned(pod, uid(&object)) && !serves && releases.get(revision).is_some_and(|of| of.id != *id)
    });
    let mut any = false;
    for pod in broken.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
        workload.objects.delete(POD, pod).await?;
        any = true;
    }
    Ok(any)
}

/// Wants a template where another release's is. One that nobody has told the machine of is newer than this order.
fn replace(workload: &Workload<'_>, object: &Value, edit: &mut Edit, id: &ReleaseId, template: &Value) -> Result<(), Outcome> {
    if let Ok(now) = release_in(&object["spec"]["template"]) {
        if now.id == *id {
            return Ok(());
        }
        let answered = workload.cluster.has_answered(&workload.subjects.guard.key, &now.id);
        let wrote = object["metadata"]["annotations"][WROTE] == *now.id.0;
        if workload.known(&now.id).is_none() && !answered && !wrote {
            return Err(Outcome::Superseded(format!("{} has a newer template: release {}", workload.name, now.id)));
        }
    }
    edit.set("/spec/template", template.clone());
    edit.annotate(WROTE, Some(id.to_string()));
    for stamp in STAMPS {
        edit.annotate(stamp, None);
    }
    Ok(())
}

/// Lets the workload roll to what was watched, and hands the traffic over from the copy once that is done.
async fn promote(workload: &Workload<'_>, id: &ReleaseId, template: &Value) -> Result<bool, Outcome> {
    let (object, mut changed) = workload
        .objects
        .rewrite(workload.kind, workload.name, |object, edit| {
            let own = object["metadata"]["annotations"][WROTE].as_str();
            match release_in(&object["spec"]["template"]) {
                Ok(now) if now.id == *id => {}
                Ok(now) if own == Some(&*now.id.0) => replace(workload, object, edit, id, template)?,
                _ => return Err(Outcome::Superseded(format!("{} has another template by now", workload.name))),
            }
            if object["spec"]["paused"] == true {
                edit.set("/spec/paused", Value::Null);
            }
            fences::pass(workload, object, edit)
        })
        .await?;
    rolled_out(&object)?;
    changed |= traffic::to_own(workload, &object).await?;
    for copy in workload.copies().await? {
        arm::remove(workload, &copy).await?;
        changed = true;
    }
    Ok(scaler::give_back(workload).await? || changed)
}

/// Whether every pod of a Deployment is one of its template, and can serve.
pub(super) fn rolled_out(object: &Value) -> Result<(), Outcome> {
    let number = |part: &str, key: &str| object[part][key].as_u64().unwrap_or(0);
    let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
    let seen = object["status"]["observedGeneration"].as_u64() >= object["metadata"]["generation"].as_u64();
    let (updated, all, available) =
        (number("status", "updatedReplicas"), number("status", "replicas"), number("status", "availableReplicas"));
    if seen && object["spec"]["paused"] != json!(true) && updated >= wanted && all == updated && available >= wanted {
        return Ok(());
    }
    let what = format!("{updated} of {wanted} pods are replaced, {available} are available");
    Err(Outcome::Transient { what, retry_after: Some(Span::seconds(1)) })
}
