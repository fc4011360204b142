//! Keeping quarantined releases out at the API server's own door: the admission policies read what is written here.

use super::access::{Access, Edits};
use super::answer::Fault;
use super::scene::object;
use crate::world::perform::Subjects;

/// Quarantined lists of images: those of a release joined by commas, releases apart by spaces.
const QUARANTINED: &str = "backstop.dev/quarantined";
/// That backstop guards the workload, and whether it moves its traffic: `driven` or `observed`.
const GUARDED: &str = "backstop.dev/guarded";

/// Writes down what may not come back.
pub(super) async fn put(access: &Access, subjects: &Subjects) -> Result<bool, Fault> {
    let (kind, workload) = object(&subjects.guard.spec.workload)?;
    let main = access.must(kind, workload).await?;
    let text = subjects.held.join(" ");
    let mut edits = Edits::default();
    let known = super::access::annotation(&main, QUARANTINED).unwrap_or_default();
    if known != text {
        edits.annotate(&main, QUARANTINED, Some(text.as_str()).filter(|text| !text.is_empty()));
    }
    let changed = !edits.is_empty();
    if changed {
        access.patch(kind, workload, edits, false).await?;
    }
    Ok(changed)
}

/// Marks the workload as guarded, so that the admission policies look after it.
pub(super) async fn mark(access: &Access, subjects: &crate::core::state::Guard, driven: bool) -> Result<bool, Fault> {
    let (kind, workload) = object(&subjects.spec.workload)?;
    let main = access.must(kind, workload).await?;
    let mark = if driven { "driven" } else { "observed" };
    let before = main["metadata"]["labels"].get(GUARDED);
    if before.and_then(serde_json::Value::as_str) == Some(mark) {
        return Ok(false);
    }
    let mut edits = Edits::default();
    let labels = main["metadata"].get("labels").filter(|labels| labels.is_object());
    match labels {
        Some(_) => edits.set(&format!("/metadata/labels/{}", super::access::escape(GUARDED)), before, Some(&mark.into())),
        None => edits.set("/metadata/labels", None, Some(&serde_json::json!({GUARDED: mark}))),
    }
    access.patch(kind, workload, edits, false).await?;
    Ok(true)
}
