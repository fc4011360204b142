//! What fits which kind of workload: strategies, routes, arms and sources.

use std::collections::BTreeMap;

use super::{Guard, Sheet};
use crate::core::spec::{ArmsBy, Route, Strategy, Workload};
use crate::spec::code;
use crate::spec::document::Kind;
use crate::spec::finding::Finding;
use crate::spec::load::{At, Loaded};
use crate::spec::references::HOST;

pub(super) fn check(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    match &guard.rollout.workload {
        Workload::Process(_) => process(sheet, guard),
        Workload::Deployment(named) => {
            super::name(sheet, "/spec/workload/deployment/name", &named.name);
            route(sheet, guard);
            metrics(sheet, guard);
        }
        Workload::StatefulSet(named) => {
            super::name(sheet, "/spec/workload/statefulSet/name", &named.name);
            observed(sheet, guard, "StatefulSet");
            metrics(sheet, guard);
        }
        Workload::DaemonSet(named) => {
            super::name(sheet, "/spec/workload/daemonSet/name", &named.name);
            observed(sheet, guard, "DaemonSet");
            metrics(sheet, guard);
        }
    }
}

/// Where the strategy is written.
fn written(strategy: &Strategy) -> &'static str {
    match strategy {
        Strategy::Canary(_) => "/spec/strategy/canary",
        Strategy::BlueGreen(_) => "/spec/strategy/blueGreen",
        Strategy::Observe(_) => "/spec/strategy/observe",
    }
}

fn process(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    let rollout = guard.rollout;
    if rollout.strategy.route().is_some() {
        let finding = Finding::error(code::UNFIT, "the traffic of a process is moved by the host's own proxy");
        sheet.push_key(&format!("{}/route", written(&rollout.strategy)), finding.fix("leave `route` out"));
    }
    if matches!(rollout.arms.by, ArmsBy::Pod | ArmsBy::Workload(_)) {
        let finding = Finding::error(code::UNFIT, "a process has no pods").expected("`route`, or `label: …`");
        sheet.push("/spec/arms/by", finding);
    }
    if scrapes_pods(sheet, guard) {
        let finding = Finding::error(code::UNFIT, format!("the source `{}` scrapes pods, and a process has none", rollout.source));
        sheet.push("/spec/source", finding.expected("a source with `prometheus`, or `scrape` with `urls`"));
    }
}

/// A Deployment that is driven says what moves its traffic.
fn route(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    const CANARY: &str = "`httpRoute`, `grpcRoute`, `virtualService` or `replicaRatio`";
    const SWITCH: &str = "`service`, `httpRoute`, `grpcRoute` or `virtualService`";
    let base = written(&guard.rollout.strategy);
    let expected = match &guard.rollout.strategy {
        Strategy::Canary(_) => CANARY,
        Strategy::BlueGreen(_) => SWITCH,
        Strategy::Observe(_) => return,
    };
    let named = match (guard.rollout.strategy.route(), &guard.rollout.strategy) {
        (None, _) => {
            let finding = Finding::error(code::UNFIT, "nothing is named that could move the traffic of a Deployment");
            let fix = format!("add `route: {{httpRoute: {{name: {}}}}}`, or another route", guard.metadata.name);
            return sheet.push(base, finding.expected(expected).fix(fix));
        }
        (Some(Route::Service(_)), Strategy::Canary(_)) => {
            let finding = Finding::error(code::UNFIT, "the selector of a Service takes all pods or none: it has no weights");
            return sheet.push_key(&format!("{base}/route/service"), finding.expected(expected));
        }
        (Some(Route::ReplicaRatio {}), Strategy::BlueGreen(_)) => {
            let finding = Finding::error(code::UNFIT, "a share of the pods is no switch");
            return sheet.push_key(&format!("{base}/route/replicaRatio"), finding.expected(expected));
        }
        (Some(Route::ReplicaRatio {}), _) => None,
        (Some(Route::HttpRoute(named)), _) => Some(("httpRoute", named)),
        (Some(Route::GrpcRoute(named)), _) => Some(("grpcRoute", named)),
        (Some(Route::VirtualService(named)), _) => Some(("virtualService", named)),
        (Some(Route::Service(named)), _) => Some(("service", named)),
    };
    if let Some((kind, named)) = named {
        super::name(sheet, &format!("{base}/route/{kind}/name"), &named.name);
    }
}

fn observed(sheet: &mut Sheet<'_>, guard: &Guard<'_>, kind: &str) {
    let strategy = &guard.rollout.strategy;
    if !matches!(strategy, Strategy::Observe(_)) {
        let message = format!("a {kind} cannot run two releases side by side: its own controller replaces the pods");
        sheet.push_key(written(strategy), Finding::error(code::UNFIT, message).expected("`observe: {}`"));
    }
}

/// The host sees no pods, and every router on Kubernetes labels its counters in a way of its own.
fn metrics(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    if guard.rollout.source == HOST {
        let finding = Finding::error(code::UNFIT, format!("the source `{HOST}` counts the requests of processes, never of pods"));
        let pointer = if sheet.loaded.is_written(sheet.at, "/spec/source") { "/spec/source" } else { "/spec" };
        sheet.push(pointer, finding.fix("name the `GuardSource` that has the service's metrics: `source: …`"));
    }
    if guard.rollout.arms.by == ArmsBy::Route {
        let finding = Finding::error(code::UNFIT, "only the proxy of `backstop host` labels its counters with the release");
        sheet.push("/spec/arms/by", finding.expected("`pod`, `label: …`, or `workload: …` for what a router counts"));
    }
    if matches!((&guard.rollout.arms.by, &guard.rollout.strategy), (ArmsBy::Workload(_), Strategy::Observe(_))) {
        let finding = Finding::error(code::UNFIT, "what is observed runs both releases in one workload: its name tells none apart");
        sheet.push("/spec/arms/by", finding.expected("`pod`, or `label: …`"));
    }
    if guard.rollout.arms.by != ArmsBy::Pod && scrapes_pods(sheet, guard) {
        let finding = Finding::error(code::UNFIT, format!("the source `{}` scrapes pods, each under its name", guard.rollout.source));
        sheet.push("/spec/arms/by", finding.expected("`pod`"));
    }
}

fn scrapes_pods(sheet: &Sheet<'_>, guard: &Guard<'_>) -> bool {
    let source = sheet.loaded.sources.get(&guard.rollout.source);
    source.and_then(|source| source.scrape.as_ref()).is_some_and(|scrape| scrape.pods.is_some())
}

/// No two guards on one object.
pub(super) fn check_twice(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let mut taken: BTreeMap<_, &str> = BTreeMap::new();
    for (key, (metadata, rollout)) in &loaded.rollouts {
        let Some((kind, name)) = rollout.workload.object() else { continue };
        let at = |key| At { kind: Kind::GuardedRollout, key };
        let Some(first) = taken.get(&(metadata.namespace(), kind, name)) else {
            taken.insert((metadata.namespace(), kind, name), key);
            continue;
        };
        let mut finding = Finding::error(code::TWICE, format!("`{first}` guards the {kind} `{name}` already"));
        finding.place = loaded.place(at(key), "/spec/workload");
        if let Some(place) = loaded.place(at(first), "/spec/workload") {
            finding = finding.related("here", place);
        }
        findings.push(finding.fix("put both into one document"));
    }
}
