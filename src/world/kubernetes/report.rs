//! What is wrong with a guard, said in its status.

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::objects::{FIELD_MANAGER, resource, unavailable};
use super::status::{condition, dated};
use crate::spec::crd::{ConditionStatus, StatusCondition};
use crate::world::store::Unavailable;

/// The condition that says whether backstop can do with a guard what it says.
const READY: &str = "Ready";
/// Its reason if not.
const INVALID: &str = "Invalid";

/// The condition that says so.
pub(super) fn ready(trouble: Option<&str>) -> StatusCondition {
    match trouble {
        Some(what) => condition(READY, ConditionStatus::False, INVALID, what),
        None => condition(READY, ConditionStatus::True, "Guarded", "backstop watches this workload"),
    }
}

/// Whether the conditions say so already.
pub fn is_known(conditions: &[StatusCondition], what: Option<&str>) -> bool {
    let said = conditions.iter().find(|one| one.r#type == READY && one.reason == INVALID);
    said.map(|one| one.message.as_str()) == what
}

/// Says `what` is wrong with a guard; nothing, if that has ended.
///
/// # Errors
/// The API server does not take it.
pub async fn trouble(
    client: &Client,
    key: &str,
    before: &[StatusCondition],
    what: Option<&str>,
    generation: Option<i64>,
) -> Result<(), Unavailable> {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource("GuardedRollout"));
    let patch = Patch::Merge(json!({"status": {"conditions": dated(vec![ready(what)], before, generation)}}));
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch_status(name, &parameters, &patch).await.map(drop).map_err(|error| unavailable(&format!("GuardedRollout {key}"), &error))
}
