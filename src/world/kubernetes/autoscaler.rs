//! Autoscalers of the workload: while a candidate is on trial, stable keeps at least the members it had, so that it can take
//! all traffic back at once.

use serde_json::{Value as Json, json};

use super::access::{AUTOSCALER, Access, Edits, annotation, name, number};
use super::answer::Fault;
use super::scene::Scene;

/// The least number of members that somebody else wanted, while ours is in its place.
const MINIMUM: &str = "backstop.dev/min-replicas";

async fn of(access: &Access, main: &Json) -> Result<Vec<Json>, Fault> {
    let all = match access.list(AUTOSCALER, "").await {
        // Without the right to read them there are none to hold; `ready` says so.
        Err(Fault::Api(kube::Error::Api(status))) if status.code == 403 => Vec::new(),
        other => other?,
    };
    let aims = |one: &Json| {
        one["spec"]["scaleTargetRef"]["kind"] == "Deployment" && one["spec"]["scaleTargetRef"]["name"] == main["metadata"]["name"]
    };
    Ok(all.into_iter().filter(aims).collect())
}

/// Holds the minimum at what runs now.
pub(super) async fn hold(access: &Access, scene: &Scene) -> Result<(), Fault> {
    for autoscaler in of(access, &scene.main).await? {
        let before = &autoscaler["spec"]["minReplicas"];
        let most = number(&autoscaler["spec"]["maxReplicas"]);
        let wanted = scene.replicas().min(most);
        if annotation(&autoscaler, MINIMUM).is_some() || number(before) >= wanted {
            continue;
        }
        let mut edits = Edits::default();
        edits.set("/spec/minReplicas", Some(before).filter(|before| !before.is_null()), Some(&json!(wanted)));
        edits.annotate(&autoscaler, MINIMUM, Some(&number(before).max(1).to_string()));
        access.patch(AUTOSCALER, name(&autoscaler), edits, false).await?;
    }
    Ok(())
}

/// Gives back what was held.
pub(super) async fn release(access: &Access, main: &Json) -> Result<(), Fault> {
    for autoscaler in of(access, main).await? {
        let Some(minimum) = annotation(&autoscaler, MINIMUM).and_then(|text| text.parse::<u32>().ok()) else { continue };
        let mut edits = Edits::default();
        edits.set("/spec/minReplicas", Some(&autoscaler["spec"]["minReplicas"]), Some(&json!(minimum)));
        edits.annotate(&autoscaler, MINIMUM, None);
        access.patch(AUTOSCALER, name(&autoscaler), edits, false).await?;
    }
    Ok(())
}
