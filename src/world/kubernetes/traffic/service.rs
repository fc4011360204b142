//! A Service whose selector is switched: everything or nothing.

use serde_json::{Value as Json, json};

use super::{Beside, Weights};
use crate::core::release::ReleaseId;
use crate::core::spec::Percent;
use crate::core::work::Effect;
use crate::world::kubernetes::access::{Access, Edits, SERVICE, annotation, name};
use crate::world::kubernetes::answer::Fault;
use crate::world::kubernetes::scene::arm_of;
use crate::world::kubernetes::{ARM_OF, RELEASE, fences};
use crate::world::perform::Subjects;

/// The selector that people wrote, while another is in its place.
const SELECTOR: &str = "backstop.dev/selector";

/// Switches the Service to the one release that gets everything.
pub(super) async fn put(
    access: &Access,
    subjects: &Subjects,
    effect: &Effect,
    service: &Json,
    beside: &Beside,
    weights: &Weights,
) -> Result<bool, Fault> {
    let whole = weights.iter().find(|(_, share)| **share == Percent::FULL).map(|(release, _)| release);
    let Some(release) = whole else {
        return Err(Fault::Invalid("a Service's selector gives everything or nothing: shares need a route".into()));
    };
    let mut edits = Edits::default();
    fences::pass(service, subjects, effect, &mut edits)?;
    let before = &service["spec"]["selector"];
    let written = annotation(service, SELECTOR).and_then(|text| serde_json::from_str::<Json>(text).ok());
    let own = written.clone().unwrap_or_else(|| before.clone());
    let (wanted, kept) = match arm_of(&beside.arms, release) {
        Some(arm) => (json!({ARM_OF: arm["metadata"]["labels"][ARM_OF], RELEASE: release.0}), Some(own.to_string())),
        None => (own, None),
    };
    let changed = wanted != *before;
    if changed {
        edits.set("/spec/selector", Some(before), Some(&wanted));
        edits.annotate(service, SELECTOR, kept.as_deref());
    }
    if !edits.is_empty() {
        let now = access.patch(SERVICE, name(service), edits, false).await?;
        if now["spec"]["selector"] != wanted {
            return Err(Fault::Pending(format!("Service {} was written, and reads otherwise", name(service))));
        }
    }
    Ok(changed)
}

/// 1 if the Service leads to this release's arm, 0 if not.
pub(super) fn leads_to(service: &Json, release: &ReleaseId) -> f64 {
    f64::from(u8::from(service["spec"]["selector"].get(RELEASE).and_then(Json::as_str) == Some(release.0.as_str())))
}
