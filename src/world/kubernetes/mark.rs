//! What admission policies go by: the label on what is guarded, and the annotation while a revert of it is under way.

use kube::api::{Api, ApiResource, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use super::Cluster;
use super::lean::Lean;
use super::members::selector;
use super::objects::{FIELD_MANAGER, unavailable};
use crate::core::work::Lane;
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

impl Cluster {
    /// Has a workload bear exactly these marks, and its pods told from others. Whether something had to be written; a workload that is
    /// gone keeps what was noted of it while it is guarded.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn mark(&self, namespace: &str, kind: &str, name: &str, marks: &Marks) -> Result<bool, Unavailable> {
        let client = self.client(Lane::Forward);
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
        let api: Api<Lean> = Api::namespaced_with(client.clone(), namespace, &resource);
        let say = |error: kube::Error| unavailable(&format!("{kind} {namespace}/{name}"), &error);
        // Not from the watches: what is marked and what is noted must be the same object, and the newest.
        let found = api.get_opt(name).await.map_err(say)?.map(|Lean(object)| object);
        let noted = match &found {
            _ if marks.guarded.is_none() => self.note_members(namespace, kind, name, None).await?,
            Some(object) => self.note_members(namespace, kind, name, selector(&object.data).as_deref()).await?,
            None => false,
        };
        let Some(found) = found else { return Ok(noted) };
        let label = found.metadata.labels.as_ref().and_then(|labels| labels.get(GUARDED));
        let annotation = found.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVERTING));
        if label.map(String::as_str) == marks.guarded && annotation == marks.reverting.as_ref() {
            return Ok(noted);
        }
        // With its uid: one of the same name that was made meanwhile is another.
        let patch = Patch::Merge(json!({"metadata": {
            "uid": found.metadata.uid,
            "labels": {GUARDED: marks.guarded},
            "annotations": {REVERTING: marks.reverting},
        }}));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        api.patch_metadata(name, &parameters, &patch).await.map(|_| true).map_err(say)
    }
}
