//! `EnsureWeights`: shares of new requests, by whatever moves them.
//!
//! Toward a candidate the copy is sized and waited for first. Back to stable the route is written before anything else is asked; that
//! no request can reach another release is looked at afterwards, and until then the effect is not done.

mod ratio;
mod rules;
mod selector;

use std::collections::BTreeMap;

use serde_json::Value;

use super::api::{Fault, GRPC_ROUTE, HTTP_ROUTE, Kind, SERVICE, VIRTUAL_SERVICE};
use super::edit::Edit;
use super::workload::{Workload, name, release_of};
use super::{arm, fences, pods, release};
use crate::core::input::Outcome;
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::{Percent, Route};
use crate::core::state::Guard;
use crate::core::time::Span;
use crate::core::work::Lane;

/// Soon enough for what moves within a second.
const SOON: Span = Span(std::time::Duration::from_millis(250));

/// Which Services get which share: the workload's own, and those of its copies.
#[derive(Debug, Clone, Default, PartialEq)]
struct Shares {
    own: Percent,
    copies: BTreeMap<String, Percent>,
}

/// What moves traffic by shares of named backends.
fn routed(route: &Route) -> Option<(Kind, &str)> {
    match route {
        Route::HttpRoute(named) => Some((HTTP_ROUTE, &named.name)),
        Route::GrpcRoute(named) => Some((GRPC_ROUTE, &named.name)),
        Route::VirtualService(named) => Some((VIRTUAL_SERVICE, &named.name)),
        Route::Service(_) | Route::ReplicaRatio {} => None,
    }
}

/// Gives each release its share of new requests; whether something had to be written.
pub(super) async fn ensure(workload: &Workload<'_>, weights: &BTreeMap<ReleaseId, Percent>) -> Result<bool, Outcome> {
    let sum: f64 = weights.values().map(|share| share.percent()).sum();
    if (sum - 100.0).abs() > 0.01 {
        return Err(Outcome::Invalid(format!("weights sum to {sum}%: expected 100%")));
    }
    match workload.route() {
        None => alone(workload, weights).await.map(|()| false),
        Some(Route::ReplicaRatio {}) => ratio::ensure(workload, weights).await,
        Some(route) if workload.effect.lane == Lane::Revert => back(workload, route, weights).await,
        Some(route) => forward(workload, route, weights).await,
    }
}

/// First the write, then the questions.
async fn back(workload: &Workload<'_>, route: &Route, weights: &BTreeMap<ReleaseId, Percent>) -> Result<bool, Outcome> {
    // Without an answer, what serves is in the workload itself: copies are of candidates.
    let copies = workload.copies().await.unwrap_or_default();
    let shares = spread(weights, &copies, None);
    let changed = write(workload, route, &shares, None).await?;
    if shares.own > Percent::ZERO {
        alone(workload, weights).await?;
    }
    Ok(changed)
}

/// Whether the fence of the route lets this effect pass: nothing grows for a step that comes too late.
async fn may_pass(workload: &Workload<'_>, route: &Route) -> Result<(), Outcome> {
    let (kind, named) = match (route, routed(route)) {
        (_, Some(known)) => known,
        (Route::Service(named), None) => (SERVICE, named.name.as_str()),
        (_, None) => return Ok(()),
    };
    let object = rules::read(workload, kind, named).await?;
    fences::pass(workload, &object, &mut Edit::of(&object))
}

/// First the pods, then the write.
async fn forward(workload: &Workload<'_>, route: &Route, weights: &BTreeMap<ReleaseId, Percent>) -> Result<bool, Outcome> {
    may_pass(workload, route).await?;
    let object = workload.read().await?;
    let copies = workload.copies().await?;
    let own = (release::rolled_out(&object).is_ok()).then(|| release_of(&object)).flatten();
    let shares = spread(weights, &copies, own.as_ref());
    let mut changed = false;
    for (called, share) in &shares.copies {
        changed |= ready(workload, &copies, called, arm::share_of(&object, *share)).await?;
    }
    if shares.own > Percent::ZERO {
        let sets = workload.own_sets(&object).await?;
        let homeless = weights.iter().find(|(id, share)| {
            let in_copy = copies.iter().any(|copy| release_of(copy).as_ref() == Some(id));
            **share > Percent::ZERO && !in_copy && !sets.iter().any(|(of, wanted, _)| of == *id && *wanted > 0)
        });
        if let Some((id, _)) = homeless {
            let what = format!("release {id} has no members here: ensure its arm first");
            return Err(Outcome::Transient { what, retry_after: None });
        }
    }
    Ok(write(workload, route, &shares, Some(&object)).await? || changed)
}

/// A release that runs in a copy gets its share there, unless the workload itself runs nothing else by now.
fn spread(weights: &BTreeMap<ReleaseId, Percent>, copies: &[Value], own: Option<&ReleaseId>) -> Shares {
    let mut shares = Shares::default();
    for (id, share) in weights.iter().filter(|(_, share)| **share > Percent::ZERO) {
        let copy = copies.iter().find(|copy| release_of(copy).as_ref() == Some(id)).filter(|_| own != Some(id));
        match copy {
            Some(copy) => drop(shares.copies.insert(name(copy).to_owned(), *share)),
            None => shares.own = Percent::new(shares.own.percent() + share.percent()),
        }
    }
    shares
}

/// Has a copy grow to so many pods, and waits for them; whether it had to grow.
async fn ready(workload: &Workload<'_>, copies: &[Value], called: &str, wanted: u64) -> Result<bool, Outcome> {
    let Some(copy) = copies.iter().find(|copy| name(copy) == called) else { return Ok(false) };
    let grown = copy["spec"]["replicas"].as_u64().unwrap_or(1) < wanted && arm::scale(workload, called, wanted).await?;
    let ready = copy["status"]["readyReplicas"].as_u64().unwrap_or(0);
    if ready < wanted {
        return Err(Outcome::Transient { what: format!("{ready} of {wanted} pods of {called} can serve"), retry_after: Some(SOON) });
    }
    Ok(grown)
}

/// Writes the route. `object` is the workload where Services may be looked up; on the way back nothing is.
async fn write(workload: &Workload<'_>, route: &Route, shares: &Shares, object: Option<&Value>) -> Result<bool, Outcome> {
    match (route, routed(route)) {
        (_, Some((kind, named))) => rules::write(workload, kind, named, shares, object).await,
        (Route::Service(named), None) => selector::write(workload, &named.name, shares).await,
        (_, None) => Ok(false),
    }
}

/// Whether the pods that can serve are all of releases that have a share.
async fn alone(workload: &Workload<'_>, weights: &BTreeMap<ReleaseId, Percent>) -> Result<(), Outcome> {
    let known: Vec<Release> = workload.subjects.ledger.iter().map(|record| record.release.clone()).collect();
    let seen = pods::see(workload.cluster, workload.effect.lane, &workload.subjects.guard, &known).await?;
    let left = seen.own.iter().find(|(id, ready)| **ready > 0 && weights.get(id).is_none_or(|share| *share == Percent::ZERO));
    match left {
        Some((id, ready)) => {
            let what = format!("{ready} pods of release {id} serve until the workload's template is replaced");
            Err(Outcome::Transient { what, retry_after: Some(SOON) })
        }
        None => Ok(()),
    }
}

/// Gives the workload's own pods all requests, after it has rolled; whether that had to be written.
pub(super) async fn to_own(workload: &Workload<'_>, object: &Value) -> Result<bool, Outcome> {
    let Some(route) = workload.route() else { return Ok(false) };
    write(workload, route, &Shares { own: Percent::FULL, copies: BTreeMap::new() }, Some(object)).await
}

/// Whether a request can still reach a copy by the route.
pub(super) async fn reaches(workload: &Workload<'_>, copy: &str) -> Result<bool, Outcome> {
    let Some(route) = workload.route() else { return Ok(false) };
    match (route, routed(route)) {
        (_, Some((kind, named))) => rules::names(workload, kind, named, copy).await,
        (Route::Service(named), None) => selector::names(workload, &named.name, copy).await,
        (_, None) => Ok(false),
    }
}

/// The Service of the workload that its route names.
///
/// # Errors
/// There is none, or more than one.
pub(super) async fn service_of(workload: &Workload<'_>, object: &Value) -> Result<Value, Outcome> {
    let Some((kind, named)) = workload.route().and_then(routed) else { return Err(Outcome::Invalid("no route names a Service".into())) };
    let route = rules::read(workload, kind, named).await?;
    let mut services = workload.services(object).await?;
    services.retain(|service| rules::mentions(kind, &route, name(service)));
    match services.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Outcome::Invalid(format!("{} {named} names no Service that selects the pods of {}", kind.name, workload.name))),
        many => {
            let all: Vec<&str> = many.iter().map(name).collect();
            Err(Outcome::Invalid(format!("{} {named} names {}: expected one Service of {}", kind.name, all.join(" and "), workload.name)))
        }
    }
}

/// The shares of copies as the route has them, by the copy's name; absent where the pods decide.
pub(super) async fn shares(
    objects: &super::api::Objects,
    guard: &Guard,
    copies: &[Value],
) -> Result<Option<BTreeMap<String, Percent>>, Fault> {
    let Some(route) = super::workload::route(guard) else { return Ok(None) };
    match (route, routed(route)) {
        (_, Some((kind, named))) => Ok(objects.get(kind, named).await?.map(|route| rules::shares(kind, &route, copies))),
        (Route::Service(named), None) => Ok(objects.get(SERVICE, &named.name).await?.map(|service| selector::shares(&service, copies))),
        (_, None) => Ok(None),
    }
}
