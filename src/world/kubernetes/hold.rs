//! Keeping quarantined releases out at the API server's own door: the admission policies read what is written here.

use super::access::{Access, Edits};
use super::answer::Fault;
use super::scene::object;
use crate::world::perform::Subjects;

/// Quarantined lists of images: those of a release joined by commas, releases apart by spaces.
const QUARANTINED: &str = "backstop.dev/quarantined";

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
