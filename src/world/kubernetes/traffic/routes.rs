//! Routes with weights: `HTTPRoute` and `GRPCRoute` of the Gateway API, `VirtualService` of Istio. Edited as they are, so that no field
//! of a newer version is lost.

use serde_json::{Value as Json, json};

use super::shares::{self, Table};
use crate::core::work::Effect;
use crate::world::kubernetes::access::{Access, Edits, Kind, VIRTUAL_SERVICE, name};
use crate::world::kubernetes::answer::Fault;
use crate::world::kubernetes::fences;
use crate::world::perform::Subjects;

/// Where the rules are, and where the entries of each.
fn places(kind: Kind) -> (&'static str, &'static str) {
    if kind == VIRTUAL_SERVICE { ("http", "route") } else { ("rules", "backendRefs") }
}

/// The entries of every rule.
pub(super) fn rules(kind: Kind, object: &Json) -> Vec<&[Json]> {
    let (rules, entries) = places(kind);
    let of = |rule: &'_ Json| rule.get(entries).and_then(Json::as_array).map(Vec::as_slice).map_or(0, <[Json]>::len);
    let all = object["spec"][rules].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|rule| of(rule) > 0).filter_map(|rule| rule[entries].as_array()).map(Vec::as_slice).collect()
}

/// Rewrites the entries of every rule.
fn rewrite(kind: Kind, object: &Json, edits: &mut Edits, change: impl Fn(&[Json]) -> Vec<Json>) -> usize {
    let (rules, entries) = places(kind);
    let mut touched = 0;
    for (place, rule) in object["spec"][rules].as_array().into_iter().flatten().enumerate() {
        let Some(before) = rule[entries].as_array() else { continue };
        let after = change(before);
        if after != *before {
            edits.set(&format!("/spec/{rules}/{place}/{entries}"), Some(&json!(before)), Some(&json!(after)));
            touched += 1;
        }
    }
    touched
}

/// Gives each release its share, in every rule that names the workload's Service.
pub(super) async fn put(
    access: &Access,
    subjects: &Subjects,
    effect: &Effect,
    kind: Kind,
    object: &Json,
    table: &Table,
    safe: bool,
) -> Result<bool, Fault> {
    let mesh = kind == VIRTUAL_SERVICE;
    let mut edits = Edits::default();
    fences::pass(object, subjects, effect, &mut edits)?;
    let leads_somewhere = table.arms.is_empty() || rules(kind, object).iter().any(|rule| names(rule, table, mesh));
    if !safe && !leads_somewhere {
        let wanted: Vec<&str> = table.arms.keys().map(String::as_str).collect();
        return Err(Fault::Invalid(format!("no rule of {} {} leads to {}", kind.1, name(object), wanted.join(" or "))));
    }
    let touched = rewrite(kind, object, &mut edits, |entries| shares::split(entries, table, mesh));
    let mut now = object.clone();
    if !edits.is_empty() {
        now = access.patch(kind, name(object), edits, false).await?;
    }
    let wanted = |entries: &[Json]| shares::split(entries, table, mesh);
    if !rules(kind, &now).into_iter().all(|entries| wanted(entries) == entries) {
        return Err(Fault::Pending(format!("{} {} was written, and reads otherwise", kind.1, name(object))));
    }
    if !safe && !mesh {
        accepted(kind, &now)?;
    }
    Ok(touched > 0)
}

fn names(entries: &[Json], table: &Table, mesh: bool) -> bool {
    entries.iter().any(|entry| table.arms.contains_key(shares::backend(entry, mesh)))
}

/// Whether each gateway has taken the route as it is now, and knows its backends.
fn accepted(kind: Kind, object: &Json) -> Result<(), Fault> {
    let pending = |what: String| Err(Fault::Pending(format!("{} {}: {what}", kind.1, name(object))));
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    let parents = object["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if parents.is_empty() {
        return pending("no gateway has taken it yet".into());
    }
    for parent in parents {
        for wanted in ["Accepted", "ResolvedRefs"] {
            let conditions = parent["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let condition = conditions.iter().find(|one| one["type"] == wanted);
            let current = condition.filter(|one| one["observedGeneration"].as_i64().unwrap_or_default() >= generation);
            match current {
                Some(one) if one["status"] == "True" => {}
                Some(one) => return pending(format!("{wanted} is {}: {}", one["status"], one["message"].as_str().unwrap_or_default())),
                None => return pending(format!("{wanted} is not said of it as it is now")),
            }
        }
    }
    Ok(())
}

/// Takes Services that get nothing out of every rule.
pub(super) async fn drop_idle(access: &Access, kind: Kind, object: &Json, services: &[&str]) -> Result<(), Fault> {
    let mesh = kind == VIRTUAL_SERVICE;
    if services.iter().any(|service| shares::share_of(rules(kind, object), mesh, service) > 0.0) {
        return Err(Fault::Raced);
    }
    let mut edits = Edits::default();
    rewrite(kind, object, &mut edits, |entries| {
        let other =
            |entry: &Json| shares::backend(entry, mesh).contains("-candidate-") && !services.contains(&shares::backend(entry, mesh));
        shares::without(entries, services, entries.iter().any(other), mesh)
    });
    if edits.is_empty() {
        return Ok(());
    }
    access.patch(kind, name(object), edits, false).await.map(drop)
}
