//! Routes whose rules name backends with weights: `HTTPRoute` and `GRPCRoute` of the Gateway API, and Istio's `VirtualService`.
//!
//! In every rule that names the workload's Service, the copies get a backend of their own beside it, with the same port and filters.
//! A backend without a share is taken out. So the way back needs no look at anything but the route itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::api::{Kind, VIRTUAL_SERVICE};
use super::super::fences;
use super::super::workload::{Workload, name};
use super::{SOON, Shares};
use crate::core::input::Outcome;
use crate::core::spec::Percent;
use crate::core::work::Lane;

/// On the route: the workload's own Service, so that the way back need not ask for it.
const SERVICE: &str = "backstop.dev/service";

/// Where rules are, and where a rule has its backends.
fn fields(kind: Kind) -> (&'static str, &'static str) {
    if kind == VIRTUAL_SERVICE { ("http", "route") } else { ("rules", "backendRefs") }
}

/// The Service that a backend names: of a host, its first part.
fn backend(kind: Kind, backend: &Value) -> Option<&str> {
    if kind == VIRTUAL_SERVICE {
        return backend["destination"]["host"].as_str()?.split('.').next();
    }
    let of_core = backend["group"].as_str().unwrap_or_default().is_empty() && backend["kind"].as_str().unwrap_or("Service") == "Service";
    of_core.then(|| backend["name"].as_str()).flatten()
}

/// The same backend with another Service.
fn renamed(kind: Kind, backend: &Value, service: &str) -> Value {
    let mut other = backend.clone();
    if kind != VIRTUAL_SERVICE {
        other["name"] = json!(service);
        return other;
    }
    let host = backend["destination"]["host"].as_str().unwrap_or_default();
    let host = host.split_once('.').map_or_else(|| service.to_owned(), |(_, domain)| format!("{service}.{domain}"));
    other["destination"]["host"] = json!(host);
    other["destination"].as_object_mut().map(|destination| destination.remove("subset"));
    other
}

fn rules(kind: Kind, route: &Value) -> &[Value] {
    route["spec"][fields(kind).0].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn backends(kind: Kind, rule: &Value) -> &[Value] {
    rule[fields(kind).1].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn weight(backend: &Value) -> u64 {
    backend["weight"].as_u64().unwrap_or(1)
}

/// The route, which must be there.
pub(super) async fn read(workload: &Workload<'_>, kind: Kind, named: &str) -> Result<Value, Outcome> {
    let found = workload.objects.get(kind, named).await?;
    found.ok_or_else(|| Outcome::Invalid(format!("there is no {} {named} in namespace {}", kind.name, workload.objects.namespace)))
}

/// Whether any rule names this Service.
pub(super) fn mentions(kind: Kind, route: &Value, service: &str) -> bool {
    rules(kind, route).iter().flat_map(|rule| backends(kind, rule)).any(|one| backend(kind, one) == Some(service))
}

/// Whether the route names this Service.
pub(super) async fn names(workload: &Workload<'_>, kind: Kind, named: &str, service: &str) -> Result<bool, Outcome> {
    Ok(workload.objects.get(kind, named).await?.is_some_and(|route| mentions(kind, &route, service)))
}

/// The share of each copy: the largest that any rule gives it.
pub(super) fn shares(kind: Kind, route: &Value, copies: &[Value]) -> BTreeMap<String, Percent> {
    let mut shares = BTreeMap::new();
    for rule in rules(kind, route) {
        let all: u64 = backends(kind, rule).iter().map(weight).sum();
        for copy in copies.iter().map(name) {
            let of: u64 = backends(kind, rule).iter().filter(|one| backend(kind, one) == Some(copy)).map(weight).sum();
            if of > 0 {
                let share = Percent::new(of as f64 * 100.0 / all as f64);
                let known = shares.entry(copy.to_owned()).or_insert(share);
                *known = Percent::new(known.percent().max(share.percent()));
            }
        }
    }
    shares
}

/// Writes the shares into every rule that names the workload's Service; whether that had to be written.
pub(super) async fn write(
    workload: &Workload<'_>,
    kind: Kind,
    named: &str,
    shares: &Shares,
    object: Option<&Value>,
) -> Result<bool, Outcome> {
    let own: Option<Vec<Value>> = match object {
        Some(object) => Some(workload.services(object).await?),
        None => None,
    };
    let (route, changed) = workload
        .objects
        .rewrite(kind, named, |route, edit| {
            let noted = route["metadata"]["annotations"][SERVICE].as_str();
            let is_own = |service: &str| match &own {
                Some(own) => own.iter().any(|one| name(one) == service),
                None => noted == Some(service),
            };
            let (list, key) = fields(kind);
            let mut service = None;
            for (index, rule) in rules(kind, route).iter().enumerate() {
                let Some((wanted, of)) = split(workload, kind, backends(kind, rule), shares, &is_own)
                    .map_err(|what| Outcome::Invalid(format!("{} {named}, rule {}: {what}", kind.name, index + 1)))?
                else {
                    continue;
                };
                service = Some(of);
                if let Some(wanted) = wanted {
                    edit.set(&format!("/spec/{list}/{index}/{key}"), Value::Array(wanted));
                }
            }
            match service {
                Some(service) => edit.annotate(SERVICE, (!shares.copies.is_empty()).then_some(service)),
                None if own.is_some() => {
                    let what = format!("{} {named} names no Service that selects the pods of {}", kind.name, workload.name);
                    return Err(Outcome::Invalid(what));
                }
                None => {}
            }
            fences::pass(workload, route, edit)
        })
        .await?;
    confirmed(kind, &route, workload.effect.lane)?;
    Ok(changed)
}

/// What the backends of a rule must be, if they are not so yet, and the Service that is split; `None` for a rule of others.
#[allow(clippy::type_complexity, reason = "said once")]
fn split(
    workload: &Workload<'_>,
    kind: Kind,
    now: &[Value],
    shares: &Shares,
    is_own: &dyn Fn(&str) -> bool,
) -> Result<Option<(Option<Vec<Value>>, String)>, String> {
    let copy = |one: &&Value| backend(kind, one).is_some_and(|service| workload.is_copy(service));
    let split = now.iter().any(|one| copy(&one));
    let others: Vec<&Value> = now.iter().filter(|one| !copy(one)).collect();
    // What stands alone beside a copy was split.
    let alone = others.first().filter(|_| split && others.len() == 1).copied();
    let Some(own) = others.iter().find(|one| backend(kind, one).is_some_and(is_own)).copied().or(alone) else {
        return if split { Err("a copy's Service stands where the workload's own is not known".into()) } else { Ok(None) };
    };
    let service = backend(kind, own).unwrap_or_default().to_owned();
    if shares.copies.is_empty() {
        if !split {
            return Ok(Some((None, service)));
        }
        let wanted = others.into_iter().map(|one| {
            let mut kept = one.clone();
            if std::ptr::eq(one, own) {
                kept["weight"] = json!(if kind == VIRTUAL_SERVICE { 100 } else { 1 });
            }
            kept
        });
        return Ok(Some((Some(wanted.collect()), service)));
    }
    if let Some(other) = others.iter().find(|one| !std::ptr::eq(**one, own) && weight(one) > 0) {
        let other = backend(kind, other).unwrap_or("another backend").to_owned();
        return Err(format!("it shares its requests between {service} and {other}: the Service must have them alone to be split"));
    }
    let scale = scale(kind, shares);
    let mut wanted: Vec<Value> = Vec::new();
    for one in others {
        let mut kept = one.clone();
        if std::ptr::eq(one, own) {
            kept["weight"] = json!(whole(shares.own, scale));
        }
        wanted.push(kept);
        if std::ptr::eq(one, own) {
            for (called, share) in &shares.copies {
                let mut added = renamed(kind, own, called);
                added["weight"] = json!(whole(*share, scale));
                wanted.push(added);
            }
        }
    }
    Ok(Some((Some(wanted), service)))
}

/// Weights are whole numbers: of a hundred where shares are, of ten thousand otherwise. Istio's sum to a hundred.
fn scale(kind: Kind, shares: &Shares) -> f64 {
    let are_whole = shares.copies.values().all(|share| share.percent().fract() == 0.0);
    if are_whole || kind == VIRTUAL_SERVICE { 1.0 } else { 100.0 }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000")]
fn whole(share: Percent, scale: f64) -> u64 {
    (share.percent() * scale).round() as u64
}

/// Whether the gateways use the route as it is now. Forward they must also have taken it; on the way back it is enough that they
/// have seen it, and where none ever spoke there is nobody to wait for.
fn confirmed(kind: Kind, route: &Value, lane: Lane) -> Result<(), Outcome> {
    if kind == VIRTUAL_SERVICE {
        return Ok(());
    }
    let wait = |what: String| Err(Outcome::Transient { what, retry_after: Some(SOON) });
    let parents = route["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if parents.is_empty() && lane == Lane::Forward {
        return wait(format!("no gateway has taken {} {} yet", kind.name, name(route)));
    }
    let generation = route["metadata"]["generation"].as_i64();
    for parent in parents {
        let conditions = parent["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let gateway = parent["parentRef"]["name"].as_str().unwrap_or("a gateway");
        let fresh: Vec<&Value> = conditions.iter().filter(|one| one["observedGeneration"].as_i64() >= generation).collect();
        if fresh.is_empty() {
            return wait(format!("{gateway} has not seen the weights yet"));
        }
        for wanted in ["Accepted", "ResolvedRefs"].into_iter().filter(|_| lane == Lane::Forward) {
            match fresh.iter().find(|one| one["type"] == wanted) {
                Some(one) if one["status"] == "True" => {}
                Some(one) => return wait(format!("{gateway} says {wanted} is false: {}", one["message"].as_str().unwrap_or_default())),
                None => return wait(format!("{gateway} does not say {wanted} yet")),
            }
        }
    }
    Ok(())
}
