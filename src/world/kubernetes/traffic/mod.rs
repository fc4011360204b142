//! Which release gets which share of new requests, by whatever moves them.
//!
//! A share is written where the router reads it: the weights of an `HTTPRoute`'s or `GRPCRoute`'s backends, those of a
//! `VirtualService`'s destinations, a Service's selector, or the numbers of pods. Nothing is asked of the cluster before traffic
//! moves toward stable: two reads, one write.

mod ratio;
mod routes;
mod service;
mod shares;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use self::shares::Table;
use super::access::{Access, DEPLOYMENT, GRPC_ROUTE, HTTP_ROUTE, Kind, SERVICE, VIRTUAL_SERVICE, annotation, name};
use super::answer::Fault;
use super::scene::{Scene, arm_of};
use super::{ARM_OF, COPY_OF, RELEASE};
use crate::core::release::ReleaseId;
use crate::core::spec::{Percent, Route, Strategy};
use crate::core::work::{Effect, Fence};
use crate::world::perform::Subjects;

/// Shares of new requests.
pub(super) type Weights = BTreeMap<ReleaseId, Percent>;

/// The arms beside the workload, and the Services that lead to them.
struct Beside {
    arms: Vec<Json>,
    services: Vec<Json>,
}

fn route(subjects: &Subjects) -> Result<&Route, Fault> {
    subjects.guard.spec.strategy.route().ok_or_else(|| Fault::Invalid("this rollout moves no traffic".into()))
}

/// The kind and name of what is written.
fn routed(route: &Route) -> Option<(Kind, &str)> {
    match route {
        Route::HttpRoute(named) => Some((HTTP_ROUTE, &named.name)),
        Route::GrpcRoute(named) => Some((GRPC_ROUTE, &named.name)),
        Route::VirtualService(named) => Some((VIRTUAL_SERVICE, &named.name)),
        Route::Service(named) => Some((SERVICE, &named.name)),
        Route::ReplicaRatio {} => None,
    }
}

async fn beside(access: &Access, workload: &str) -> Result<Beside, Fault> {
    let of = format!("{ARM_OF}={workload}");
    let (arms, services) = futures::try_join!(access.list_now(DEPLOYMENT, &of), access.list_now(SERVICE, &of))?;
    Ok(Beside { arms, services })
}

impl Beside {
    /// Where each release's requests go. What has no arm is the workload's own.
    fn table(&self, weights: &Weights) -> Table {
        let mut table = Table::default();
        for (release, share) in weights {
            let arm = arm_of(&self.arms, release).is_some();
            if !arm {
                table.own += share.fraction();
                continue;
            }
            for service in self.services.iter().filter(|service| annotation(service, RELEASE) == Some(release.0.as_str())) {
                let base = annotation(service, COPY_OF).unwrap_or_default();
                table.arms.entry(base.to_owned()).or_default().insert(name(service).to_owned(), share.fraction());
            }
        }
        for service in &self.services {
            let base = annotation(service, COPY_OF).unwrap_or_default().to_owned();
            table.arms.entry(base).or_default().entry(name(service).to_owned()).or_insert(0.0);
        }
        table
    }
}

/// Whether this only leads back to stable: then nothing is waited for.
fn is_safe(effect: &Effect, weights: &Weights) -> bool {
    matches!(&effect.fence, Fence::Stable(stable) if weights.get(stable) == Some(&Percent::FULL))
}

/// Gives each release its share.
pub(super) async fn put(access: &Access, subjects: &Subjects, effect: &Effect, weights: &Weights) -> Result<bool, Fault> {
    let (kind, workload) = super::scene::object(&subjects.guard.spec.workload)?;
    // What is observed has nothing that moves its traffic: it follows the pods.
    if matches!(subjects.guard.spec.strategy, Strategy::Observe(_)) {
        return Ok(false);
    }
    let moved_by = route(subjects)?;
    let safe = is_safe(effect, weights);
    let Some((routed, route_name)) = routed(moved_by) else {
        return ratio::put(access, subjects, effect, weights).await;
    };
    let (object, beside) = futures::try_join!(access.must(routed, route_name), beside(access, workload))?;
    if !safe {
        grow(access, &beside, weights, &access.must(kind, workload).await?).await?;
    }
    match moved_by {
        Route::Service(_) => service::put(access, subjects, effect, &object, &beside, weights).await,
        _ => routes::put(access, subjects, effect, routed, &object, &beside.table(weights), safe).await,
    }
}

/// Members first, requests then.
async fn grow(access: &Access, beside: &Beside, weights: &Weights, main: &Json) -> Result<(), Fault> {
    let replicas = main["spec"]["replicas"].as_u64().map_or(1, |_| super::access::number(&main["spec"]["replicas"]));
    for (release, share) in weights.iter().filter(|(_, share)| **share > Percent::ZERO) {
        if let Some(arm) = arm_of(&beside.arms, release) {
            super::arm::scale(access, arm, super::arm::members_for(replicas, *share)).await?;
        }
    }
    Ok(())
}

/// That a release gets no requests any more.
pub(super) async fn must_be_idle(access: &Access, subjects: &Subjects, release: &ReleaseId) -> Result<(), Fault> {
    let (_, workload) = super::scene::object(&subjects.guard.spec.workload)?;
    let Some((routed, route_name)) = subjects.guard.spec.strategy.route().and_then(routed) else { return Ok(()) };
    let (object, beside) = futures::try_join!(access.get(routed, route_name), beside(access, workload))?;
    let Some(object) = object else { return Ok(()) };
    let services: Vec<&str> = beside.of(release);
    let share = match routed {
        SERVICE => service::leads_to(&object, release),
        _ => services
            .iter()
            .map(|service| shares::share_of(routes::rules(routed, &object), routed == VIRTUAL_SERVICE, service))
            .fold(0.0, f64::max),
    };
    if share > 0.0 { Err(Fault::Pending(format!("{release} still gets {:.1}% of the requests", share * 100.0))) } else { Ok(()) }
}

impl Beside {
    fn of(&self, release: &ReleaseId) -> Vec<&str> {
        self.services.iter().filter(|service| annotation(service, RELEASE) == Some(release.0.as_str())).map(name).collect()
    }
}

/// Takes a release that gets nothing out of the route.
pub(super) async fn forget(access: &Access, subjects: &Subjects, release: &ReleaseId) -> Result<(), Fault> {
    let (_, workload) = super::scene::object(&subjects.guard.spec.workload)?;
    let Some((routed, route_name)) = subjects.guard.spec.strategy.route().and_then(routed) else { return Ok(()) };
    if routed == SERVICE {
        return Ok(());
    }
    let (object, beside) = futures::try_join!(access.get(routed, route_name), beside(access, workload))?;
    let Some(object) = object else { return Ok(()) };
    routes::drop_idle(access, routed, &object, &beside.of(release)).await
}

/// The shares as the router has them; absent where nothing says.
pub(super) async fn seen(access: &Access, scene: &Scene, moved_by: Option<&Route>) -> Result<Weights, Fault> {
    let own = scene.own_ready();
    let Some((routed, route_name)) = moved_by.and_then(routed) else { return Ok(ratio::seen(scene)) };
    let Some(object) = access.get(routed, route_name).await? else { return Ok(Weights::new()) };
    let services = access.list(SERVICE, &format!("{ARM_OF}={}", name(&scene.main))).await?;
    let mut weights = Weights::new();
    let mut left = 1.0;
    for service in &services {
        let Some(release) = annotation(service, RELEASE).map(|id| ReleaseId(id.to_owned())) else { continue };
        let share = match routed {
            SERVICE => service::leads_to(&object, &release),
            _ => shares::share_of(routes::rules(routed, &object), routed == VIRTUAL_SERVICE, name(service)),
        };
        if share > 0.0 {
            left -= share;
            weights.insert(release, Percent::new(share * 100.0));
        }
    }
    let total: u32 = own.values().sum();
    for (release, ready) in own.into_iter().filter(|_| left > 1e-9 && total > 0) {
        let share = weights.get(&release).map_or(0.0, |known| known.percent()) + left * 100.0 * f64::from(ready) / f64::from(total);
        if ready > 0 {
            weights.insert(release, Percent::new((share * 1e6).round() / 1e6));
        }
    }
    Ok(weights)
}

/// Whether the router would take a write: the same patch as a dry run.
pub(super) async fn would_take(access: &Access, subjects: &Subjects) -> Result<(), Fault> {
    let Some((routed, route_name)) = subjects.guard.spec.strategy.route().and_then(routed) else { return Ok(()) };
    let object = access.must(routed, route_name).await?;
    let mut edits = super::access::Edits::default();
    edits.annotate(&object, "backstop.dev/probe", Some("dry run"));
    access.patch(routed, route_name, edits, true).await.map(drop)
}
