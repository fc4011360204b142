//! No router: pods of both arms stand behind the same Service, and a share of pods is a share of requests.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::workload::{Workload, name, release_of};
use super::super::{arm, fences, release, scaler};
use super::{SOON, alone, ready};
use crate::core::input::Outcome;
use crate::core::release::ReleaseId;
use crate::core::spec::Percent;
use crate::core::work::Lane;

/// The largest share by pods that are added, four times those of the workload; beyond it the workload itself rolls.
const ADDED_MAX: f64 = 80.0;

/// Gives each release its share of the pods; whether something had to be written.
pub(super) async fn ensure(workload: &Workload<'_>, weights: &BTreeMap<ReleaseId, Percent>) -> Result<bool, Outcome> {
    let (object, _) = workload.objects.rewrite(workload.kind, workload.name, |object, edit| fences::pass(workload, object, edit)).await?;
    let copies = workload.copies().await?;
    let shares: Vec<(&ReleaseId, Percent)> =
        weights.iter().filter(|(_, share)| **share > Percent::ZERO).map(|(id, share)| (id, *share)).collect();
    match shares.as_slice() {
        [(all, _)] => everything(workload, &object, &copies, all, weights).await,
        [one, other] => {
            let (candidate, stable) = if workload.subjects.stable.as_ref() == Some(one.0) { (other, one) } else { (one, other) };
            if candidate.1.percent() > ADDED_MAX {
                return promote(workload, &object, &copies, (candidate.0, *stable), weights).await;
            }
            let Some(copy) = copy_of(&copies, candidate.0) else {
                let what = format!("release {} has no members here: ensure its arm first", candidate.0);
                return Err(Outcome::Transient { what, retry_after: None });
            };
            ready(workload, &copies, name(copy), beside(&object, candidate.1)).await
        }
        _ => Err(Outcome::Invalid("pods are shared between two releases at most".into())),
    }
}

fn copy_of<'a>(copies: &'a [Value], id: &ReleaseId) -> Option<&'a Value> {
    copies.iter().find(|copy| release_of(copy).as_ref() == Some(id))
}

/// So many pods beside the workload's own that they are this share of all.
fn beside(object: &Value, share: Percent) -> u64 {
    arm::share_of(object, Percent::new(100.0 * share.percent() / share.rest().percent()))
}

/// Takes every other release out from behind the Service. Copies go at once; the workload's own pods with its template.
async fn everything(
    workload: &Workload<'_>,
    object: &Value,
    copies: &[Value],
    all: &ReleaseId,
    weights: &BTreeMap<ReleaseId, Percent>,
) -> Result<bool, Outcome> {
    let mut changed = false;
    let rolls = release_of(object).as_ref() == Some(all) && workload.effect.lane == Lane::Forward;
    if rolls {
        // The last stage: other pods go when these can serve.
        changed |= roll(workload, all).await?;
        release::rolled_out(&workload.read().await?)?;
    }
    for copy in copies.iter().filter(|copy| release_of(copy).as_ref() != Some(all)) {
        changed |= arm::scale(workload, name(copy), 0).await?;
    }
    let own = alone(workload, weights).await;
    let Some(copy) = copy_of(copies, all) else { return own.map(|()| changed) };
    if own.is_err() {
        // It takes what the others leave, until the workload runs it.
        let enough = object["spec"]["replicas"].as_u64().unwrap_or(1);
        if copy["spec"]["replicas"].as_u64().unwrap_or(1) < enough {
            arm::scale(workload, name(copy), enough).await?;
        }
        return own.map(|()| changed);
    }
    arm::remove(workload, copy).await?;
    scaler::give_back(workload).await?;
    Ok(true)
}

/// Rolls the workload itself, with the held-back share in a copy of stable that is there first.
async fn promote(
    workload: &Workload<'_>,
    object: &Value,
    copies: &[Value],
    (candidate, (stable, held_back)): (&ReleaseId, (&ReleaseId, Percent)),
    weights: &BTreeMap<ReleaseId, Percent>,
) -> Result<bool, Outcome> {
    let baseline = beside(object, held_back);
    let Some(release) = workload.known(stable) else {
        return Err(Outcome::Transient { what: format!("the template of release {stable} is not known"), retry_after: None });
    };
    let Some(copy) = copy_of(copies, stable) else {
        arm::copy(workload, object, release, "baseline", baseline).await?;
        return Err(Outcome::Transient { what: format!("{baseline} pods of {release} start as baseline"), retry_after: Some(SOON) });
    };
    let mut changed = ready(workload, copies, name(copy), baseline).await?;
    changed |= roll(workload, candidate).await?;
    release::rolled_out(&workload.read().await?)?;
    if let Some(copy) = copy_of(copies, candidate) {
        arm::remove(workload, copy).await?;
        changed = true;
    }
    alone(workload, weights).await?;
    Ok(changed)
}

/// Lets the workload roll to the template that waits in it.
async fn roll(workload: &Workload<'_>, id: &ReleaseId) -> Result<bool, Outcome> {
    let rewritten = workload.objects.rewrite(workload.kind, workload.name, |object, edit| {
        if release_of(object).as_ref() != Some(id) {
            return Err(Outcome::Superseded(format!("{} has another template by now", workload.name)));
        }
        if object["spec"]["paused"] == true {
            edit.set("/spec/paused", Value::Null);
        }
        fences::pass(workload, object, edit)
    });
    Ok(rewritten.await?.1)
}
