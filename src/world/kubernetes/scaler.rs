//! The workload's autoscaler: while a copy takes its traffic, stable must not shrink for want of load.

use serde_json::{Value, json};

use super::api::{Fault, SCALER};
use super::workload::{Workload, name};
use crate::core::input::Outcome;

/// On the autoscaler: the minimum that it had, `unset` if it named none.
const MINIMUM: &str = "backstop.dev/min-replicas";

/// Holds the minimum at what runs now; whether that had to be written.
pub(super) async fn hold(workload: &Workload<'_>, object: &Value) -> Result<bool, Outcome> {
    let Some(scaler) = find(workload).await? else { return Ok(false) };
    let now = object["spec"]["replicas"].as_u64().unwrap_or(1);
    let rewritten = workload.objects.rewrite(SCALER, &scaler, |scaler, edit| {
        if !scaler["metadata"]["annotations"][MINIMUM].is_null() {
            return Ok(());
        }
        let minimum = &scaler["spec"]["minReplicas"];
        let held = now.min(scaler["spec"]["maxReplicas"].as_u64().unwrap_or(now)).max(minimum.as_u64().unwrap_or(1));
        edit.annotate(MINIMUM, Some(minimum.as_u64().map_or_else(|| "unset".to_owned(), |minimum| minimum.to_string())));
        edit.set("/spec/minReplicas", json!(held));
        Ok(())
    });
    Ok(rewritten.await?.1)
}

/// Gives the minimum back; whether that had to be written.
pub(super) async fn give_back(workload: &Workload<'_>) -> Result<bool, Outcome> {
    let Some(scaler) = find(workload).await? else { return Ok(false) };
    let rewritten = workload.objects.rewrite(SCALER, &scaler, |scaler, edit| {
        if let Some(before) = scaler["metadata"]["annotations"][MINIMUM].as_str() {
            // An autoscaler without a minimum has 1.
            edit.set("/spec/minReplicas", json!(before.parse::<u64>().unwrap_or(1)));
            edit.annotate(MINIMUM, None);
        }
        Ok(())
    });
    Ok(rewritten.await?.1)
}

async fn find(workload: &Workload<'_>) -> Result<Option<String>, Fault> {
    let scalers = workload.objects.list(SCALER, "").await?;
    let of = |scaler: &&Value| {
        let target = &scaler["spec"]["scaleTargetRef"];
        target["kind"] == workload.kind.name && target["name"] == workload.name
    };
    Ok(scalers.iter().find(of).map(|scaler| name(scaler).to_owned()))
}
