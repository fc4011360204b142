//! The label on what is guarded: admission policies go by it.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use super::objects::{FIELD_MANAGER, unavailable};
use crate::world::store::Unavailable;

/// The label.
pub const GUARDED: &str = "backstop.dev/guarded";

/// Labels a workload as `driven` or `observed`; takes the label away if `how` is absent. Whether something had to be written.
///
/// # Errors
/// The API server does not take it.
pub async fn mark(client: &Client, namespace: &str, kind: &str, name: &str, how: Option<&str>) -> Result<bool, Unavailable> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let say = |error: kube::Error| unavailable(&format!("{kind} {namespace}/{name}"), &error);
    let Some(found) = api.get_metadata_opt(name).await.map_err(say)? else { return Ok(false) };
    if found.metadata.labels.as_ref().and_then(|labels| labels.get(GUARDED)).map(String::as_str) == how {
        return Ok(false);
    }
    let patch = Patch::Merge(json!({"metadata": {"labels": {GUARDED: how}}}));
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch_metadata(name, &parameters, &patch).await.map(|_| true).map_err(say)
}
