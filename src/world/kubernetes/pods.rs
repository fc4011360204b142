//! What pods tell of themselves: ready, or failing and why.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use serde_json::Value as Json;

use super::scene::{Member, Scene};
use crate::core::input::ArmHealth;
use crate::core::release::{Digest, Release, ReleaseId};

/// Whether a pod can serve, and is not about to end.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Why a pod fails, if it does: what speaks for itself, and does not get better by waiting.
fn failing(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    if status.reason.as_deref() == Some("Evicted") {
        return Some(format!("evicted: pod {name}: {}", status.message.as_deref().unwrap_or("no reason given")));
    }
    let statuses = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    statuses.into_iter().find_map(|container| container_fails(&name, container))
}

fn container_fails(pod: &str, container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let kind = match reason {
        "CrashLoopBackOff" => format!("crash loop after {} restarts", container.restart_count),
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => "its image cannot be pulled".to_owned(),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => "it cannot be started".to_owned(),
        _ => return None,
    };
    let said = waiting.message.as_deref().map(|said| format!(": {}", cut(said))).unwrap_or_default();
    Some(format!("{kind}: container {} of pod {pod} ({reason}){said}", container.name))
}

/// The first line of a message that others wrote, at most 200 characters of it.
fn cut(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// That a Deployment made no progress within its own deadline.
fn stalled(deployment: &Json) -> Option<String> {
    let conditions = deployment["status"]["conditions"].as_array()?;
    let stalled = |one: &&Json| one["type"] == "Progressing" && one["status"] == "False" && one["reason"] == "ProgressDeadlineExceeded";
    let condition = conditions.iter().find(stalled)?;
    Some(format!("never ready: {}", cut(condition["message"].as_str().unwrap_or("the progress deadline has passed"))))
}

/// Bytes that run and are not those of the template: the name of the container, and what it runs.
fn other_bytes(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let wanted = &spec.containers.iter().find(|container| container.name == status.name)?.image.as_ref()?.rsplit_once('@')?.1;
        let runs: Digest = status.image_id.rsplit_once('@')?.1.parse().ok()?;
        (runs.as_str() != *wanted)
            .then(|| format!("other bytes: container {} of pod {} runs {runs} instead of {wanted}", status.name, pod.name_any()))
    })
}

/// The health of each release's members.
pub(super) fn health(scene: &Scene) -> BTreeMap<ReleaseId, ArmHealth> {
    let small = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    let wanted = scene.wanted();
    let mut arms: BTreeMap<ReleaseId, ArmHealth> =
        wanted.into_iter().map(|(release, wanted)| (release, ArmHealth { wanted: small(wanted), ..ArmHealth::default() })).collect();
    for Member { pod, release } in scene.members() {
        let arm = arms.entry(release.clone()).or_default();
        arm.ready = arm.ready.saturating_add(u16::from(is_ready(pod)));
        arm.failing = arm.failing.take().or_else(|| failing(pod)).or_else(|| other_bytes(pod));
    }
    let main = super::scene::release_of(&scene.main["spec"]["template"]).map(|release: Release| release.id);
    let paused = scene.main["spec"]["paused"] == true;
    let own = main.ok().filter(|_| !paused).map(|id| (id, &scene.main));
    let beside = scene.arms.iter().filter_map(|arm| Some((ReleaseId(super::access::annotation(arm, super::RELEASE)?.to_owned()), arm)));
    for (id, deployment) in own.into_iter().chain(beside) {
        if let Some(arm) = arms.get_mut(&id) {
            arm.failing = arm.failing.take().or_else(|| stalled(deployment));
        }
    }
    arms
}

/// Containers that run in a pod and are not of its template: somebody put them in on the way.
pub(super) fn injected(pod: &Pod, template: &Json) -> Vec<String> {
    let listed: Vec<&str> =
        template["spec"]["containers"].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str()).collect();
    let runs = pod.spec.iter().flat_map(|spec| &spec.containers);
    runs.filter(|container| !listed.contains(&container.name.as_str())).map(|container| container.name.clone()).collect()
}
