//! `EnsureHold`: which releases the API server keeps out, as the admission policies read it.

use super::fences;
use super::workload::Workload;
use crate::core::input::Outcome;
use crate::core::ledger::{LedgerRecord, Standing};
use crate::core::release::{Release, ReleaseId, Template};

/// On the workload: image lists of containers, separated by spaces; the images of one release are joined by commas.
pub(super) const QUARANTINED: &str = "backstop.dev/quarantined";

/// Keeps exactly these releases out.
pub(super) async fn ensure(workload: &Workload<'_>, quarantined: &[ReleaseId]) -> Result<bool, Outcome> {
    let wanted = annotation(&workload.subjects.ledger, quarantined);
    let rewritten = workload.objects.rewrite(workload.kind, workload.name, |object, edit| {
        edit.annotate(QUARANTINED, wanted.clone());
        fences::pass(workload, object, edit)
    });
    Ok(rewritten.await?.1)
}

/// What is known good as well is not kept out by its images: its environment was to blame.
fn annotation(ledger: &[LedgerRecord], quarantined: &[ReleaseId]) -> Option<String> {
    let good = |list: &String| {
        ledger.iter().any(|one| one.standing == Standing::KnownGood && !one.quarantined && images(&one.release).as_ref() == Some(list))
    };
    let held = ledger.iter().filter(|record| quarantined.contains(&record.release.id));
    let mut lists: Vec<String> = held.filter_map(|record| images(&record.release)).filter(|list| !good(list)).collect();
    lists.sort();
    lists.dedup();
    (!lists.is_empty()).then(|| lists.join(" "))
}

/// The images of a release's containers as they are written in its template.
fn images(release: &Release) -> Option<String> {
    let Template::Pod(pod) = &*release.template else { return None };
    let containers = pod.template().get("spec")?.get("containers")?.list();
    let images: Vec<&str> = containers.iter().filter_map(|one| one.get("image")?.text()).collect();
    Some(images.join(","))
}
