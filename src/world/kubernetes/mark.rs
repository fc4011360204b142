//! What admission policies go by: the label on what is guarded, and the annotation while a revert of it is under way.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use super::objects::{FIELD_MANAGER, unavailable};
use crate::world::store::Unavailable;

/// The label.
pub const GUARDED: &str = "backstop.dev/guarded";
/// The annotation: the id of the revert.
pub(super) const REVERTING: &str = "backstop.dev/reverting";

/// What a workload bears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// `driven` or `observed`; absent if it is not guarded.
    pub guarded: Option<&'static str>,
    /// The revert that has begun and is not held yet.
    pub reverting: Option<String>,
}

/// Has a workload bear exactly these marks. Whether something had to be written.
///
/// # Errors
/// The API server does not take it.
pub async fn mark(client: &Client, namespace: &str, kind: &str, name: &str, marks: &Marks) -> Result<bool, Unavailable> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let say = |error: kube::Error| unavailable(&format!("{kind} {namespace}/{name}"), &error);
    let Some(found) = api.get_metadata_opt(name).await.map_err(say)? else { return Ok(false) };
    let label = found.metadata.labels.as_ref().and_then(|labels| labels.get(GUARDED));
    let annotation = found.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVERTING));
    if label.map(String::as_str) == marks.guarded && annotation == marks.reverting.as_ref() {
        return Ok(false);
    }
    let patch = Patch::Merge(json!({"metadata": {"labels": {GUARDED: marks.guarded}, "annotations": {REVERTING: marks.reverting}}}));
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch_metadata(name, &parameters, &patch).await.map(|_| true).map_err(say)
}
