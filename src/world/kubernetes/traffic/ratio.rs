//! No router: an arm's share of the ready pods is its share of the traffic, as near as whole pods come.

use serde_json::json;

use super::Weights;
use crate::core::release::ReleaseId;
use crate::core::spec::Percent;
use crate::core::work::Effect;
use crate::world::kubernetes::access::{Access, DEPLOYMENT, Edits, annotation, name, number};
use crate::world::kubernetes::answer::Fault;
use crate::world::kubernetes::scene::{Scene, arm_of};
use crate::world::kubernetes::{RELEASE, WRITTEN, fences};
use crate::world::perform::Subjects;

/// Members that an arm needs beside `own` for its share; none if it gets everything.
fn members(own: u32, share: Percent) -> Option<u32> {
    let rest = 1.0 - share.fraction();
    if rest <= 1e-9 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of pods")]
    let count = (f64::from(own) * share.fraction() / rest).round() as u32;
    Some(if share > Percent::ZERO { count.max(1) } else { 0 })
}

/// Gives each arm as many members as make its share; everything for an arm means that the workload itself becomes it.
pub(super) async fn put(access: &Access, subjects: &Subjects, effect: &Effect, weights: &Weights) -> Result<bool, Fault> {
    let scene = Scene::read(access, &subjects.guard.spec.workload).await?;
    let mut edits = Edits::default();
    fences::pass(&scene.main, subjects, effect, &mut edits)?;
    let mut whole = None;
    let mut pending = None;
    let mut changed = false;
    for arm in &scene.arms {
        let release = ReleaseId(annotation(arm, RELEASE).unwrap_or_default().to_owned());
        let share =
            if arm_of(&scene.arms, &release).is_some() { weights.get(&release).copied().unwrap_or(Percent::ZERO) } else { Percent::ZERO };
        let Some(wanted) = members(scene.replicas(), share) else {
            whole = Some(release);
            continue;
        };
        let old = &arm["spec"]["replicas"];
        if number(old) != wanted {
            let mut scaled = Edits::default();
            scaled.set("/spec/replicas", Some(old), Some(&json!(wanted)));
            access.patch(DEPLOYMENT, name(arm), scaled, false).await?;
            changed = true;
        }
        let ready = number(&arm["status"]["readyReplicas"]);
        if ready != wanted || changed {
            pending = Some(format!("{ready} members of {} are ready, {wanted} are wanted", name(arm)));
        }
    }
    if let Some(release) = whole {
        let paused = scene.main["spec"].get("paused").filter(|paused| **paused == json!(true));
        changed |= paused.is_some();
        edits.set("/spec/paused", paused, None);
        if paused.is_some() {
            edits.annotate(&scene.main, WRITTEN, Some(&release.0));
        }
        let own = scene.own_ready();
        if own.iter().any(|(id, ready)| *id != release && *ready > 0) || own.get(&release).is_none_or(|ready| *ready < scene.replicas()) {
            pending = Some(format!("not all pods of {} are of {release} yet", name(&scene.main)));
        }
    }
    if !edits.is_empty() {
        access.patch(DEPLOYMENT, name(&scene.main), edits, false).await?;
    }
    pending.map_or(Ok(changed), |what| Err(Fault::Pending(what)))
}

/// The share of each release among the ready pods.
pub(super) fn seen(scene: &Scene) -> Weights {
    let mut ready: std::collections::BTreeMap<ReleaseId, u32> = std::collections::BTreeMap::new();
    for member in scene.members().filter(|member| crate::world::kubernetes::pods::is_ready(member.pod)) {
        *ready.entry(member.release.clone()).or_default() += 1;
    }
    let total: u32 = ready.values().sum();
    let share = |count: u32| Percent::new((f64::from(count) / f64::from(total) * 1e8).round() / 1e6);
    ready.into_iter().filter(|_| total > 0).map(|(release, count)| (release, share(count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pods_come_as_near_as_they_can() {
        let of = |own, percent| members(own, Percent::new(percent));
        assert_eq!((of(9, 10.0), of(3, 5.0), of(4, 50.0), of(10, 0.0)), (Some(1), Some(1), Some(4), Some(0)));
        assert_eq!(of(4, 100.0), None);
    }
}
