//! The selector of a Service: everything to the workload's own pods, or everything to a copy's.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::api::{DEPLOYMENT, SERVICE};
use super::super::fences;
use super::super::workload::{OF, RELEASE, Workload, name};
use super::Shares;
use crate::core::input::Outcome;
use crate::core::spec::Percent;

/// On the Service: the selector as people wrote it, while it selects a copy.
const WRITTEN: &str = "backstop.dev/selector";

/// Switches the Service; whether it had to be.
pub(super) async fn write(workload: &Workload<'_>, service: &str, shares: &Shares) -> Result<bool, Outcome> {
    let copy = match shares.copies.first_key_value() {
        None => None,
        Some((copy, share)) if *share == Percent::FULL => Some(copy.as_str()),
        Some((_, share)) => {
            return Err(Outcome::Invalid(format!("a Service's selector gives everything or nothing, not {share}: use a route")));
        }
    };
    let wanted = match copy {
        Some(copy) => {
            let copy = workload.objects.get(DEPLOYMENT, copy).await?;
            Some(copy.map(|copy| copy["spec"]["selector"]["matchLabels"].clone()).unwrap_or_default())
        }
        None => None,
    };
    let rewritten = workload.objects.rewrite(SERVICE, service, |object, edit| {
        let written = object["metadata"]["annotations"][WRITTEN].as_str();
        match (&wanted, written) {
            (Some(labels), _) => {
                if written.is_none() {
                    edit.annotate(WRITTEN, Some(object["spec"]["selector"].to_string()));
                }
                edit.set("/spec/selector", labels.clone());
            }
            (None, Some(written)) => {
                let selector = serde_json::from_str(written).map_err(|_| broken(service))?;
                edit.set("/spec/selector", selector);
                edit.annotate(WRITTEN, None);
            }
            (None, None) if object["spec"]["selector"][OF].is_string() => return Err(broken(service)),
            (None, None) => {}
        }
        fences::pass(workload, object, edit)
    });
    Ok(rewritten.await?.1)
}

fn broken(service: &str) -> Outcome {
    Outcome::Invalid(format!("Service {service} selects a copy, and its annotation {WRITTEN} does not say what it selected before"))
}

/// Whether the Service selects a copy.
pub(super) async fn names(workload: &Workload<'_>, service: &str, copy: &str) -> Result<bool, Outcome> {
    let Some(service) = workload.objects.get(SERVICE, service).await? else { return Ok(false) };
    let copy = workload.objects.get(DEPLOYMENT, copy).await?.unwrap_or_default();
    let release = &copy["metadata"]["labels"][RELEASE];
    Ok(release.is_string() && service["spec"]["selector"][RELEASE] == *release)
}

/// The copy that it selects.
pub(super) fn shares(service: &Value, copies: &[Value]) -> BTreeMap<String, Percent> {
    let selected = copies.iter().filter(|copy| {
        let release = &copy["metadata"]["labels"][RELEASE];
        release.is_string() && service["spec"]["selector"][RELEASE] == *release
    });
    selected.map(|copy| (name(copy).to_owned(), Percent::FULL)).collect()
}
