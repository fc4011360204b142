//! The other routes: GRPCRoute, VirtualService, and a Service's selector for blue-green.

use backstop::core::input::Outcome;
use serde_json::{Value, json};

use crate::rig::Rig;

fn canary(route: &Value) -> Value {
    json!({"canary": {"route": route, "steps": [{"weight": "20%", "bake": "2m"}]}})
}

#[test]
fn a_grpc_route_and_a_virtual_service_are_split_like_an_http_route() {
    crate::needs_cluster!("a_grpc_route_and_a_virtual_service_are_split_like_an_http_route");
    let rig = Rig::deployment("grpc", 2, &canary(&json!({"grpcRoute": {"name": "grpc"}})));
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "grpc", "namespace": "default"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "grpc", "port": 80}]}]},
    });
    rig.cluster.apply(&route.to_string());
    let b = rig.deploys('b', &json!({}));
    rig.does(&rig.arm(&b, true));
    rig.does_with(&rig.step(&b, 12.5), || rig.gateway("grpcroute"));
    let weights = |rig: &Rig| -> Vec<Value> {
        let route = rig.cluster.get("grpcroute", &["grpc"]);
        route["spec"]["rules"][0]["backendRefs"].as_array().expect("backends").iter().map(|one| one["weight"].clone()).collect()
    };
    assert_eq!(weights(&rig), [json!(8750), json!(1250)]);
    rig.does_with(&rig.back(), || rig.gateway("grpcroute"));
    assert_eq!(weights(&rig), [json!(1)]);

    let rig = Rig::deployment("mesh", 2, &canary(&json!({"virtualService": {"name": "mesh"}})));
    let host = "mesh.default.svc.cluster.local";
    let route = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "mesh", "namespace": "default"},
        "spec": {"hosts": ["mesh"], "http": [{"timeout": "2s", "route": [{"destination": {"host": host, "port": {"number": 80}}}]}]},
    });
    rig.cluster.apply(&route.to_string());
    let b = rig.deploys('b', &json!({}));
    rig.does(&rig.arm(&b, true));
    rig.does(&rig.step(&b, 20.0));
    let rule = || rig.cluster.get("virtualservice", &["mesh"])["spec"]["http"][0].clone();
    let destination = |host: &str| json!({"host": host, "port": {"number": 80}});
    let expected = json!([
        {"destination": destination(host), "weight": 80},
        {"destination": destination("mesh-candidate.default.svc.cluster.local"), "weight": 20},
    ]);
    assert_eq!((&rule()["route"], &rule()["timeout"]), (&expected, &json!("2s")));
    rig.does(&rig.back());
    assert_eq!(rule()["route"], json!([{"destination": destination(host), "weight": 100}]));
}

#[test]
fn a_route_that_cannot_be_split_says_so_and_can_still_be_taken_back() {
    crate::needs_cluster!("a_route_that_cannot_be_split_says_so_and_can_still_be_taken_back");
    let rig = Rig::deployment("shared", 1, &canary(&json!({"httpRoute": {"name": "shared"}})));
    let b = rig.deploys('b', &json!({}));
    let arm = rig.arm(&b, true);
    let said = rig.once(&arm);
    assert!(matches!(&said, Outcome::Invalid(what) if what.contains("there is no HTTPRoute shared")), "{said:?}");
    let route = |backends: &Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "shared", "namespace": "default"},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": backends}]},
        })
        .to_string()
    };
    rig.cluster.apply(&route(&json!([{"name": "other", "port": 80}])));
    assert!(matches!(rig.once(&arm), Outcome::Invalid(_)), "it names no Service of the workload");
    rig.cluster.apply(&route(&json!([{"name": "shared", "port": 80}, {"name": "other", "port": 80}])));
    rig.does(&arm);
    rig.until("the candidate is ready", |seen| seen.observed.arms.get(&b.id).is_some_and(|arm| arm.is_ready()));
    let said = rig.once(&rig.step(&b, 20.0));
    assert!(matches!(&said, Outcome::Invalid(what) if what.contains("between shared and other")), "{said:?}");
    rig.does(&rig.back());
}

#[test]
fn a_blue_green_whose_new_pods_crash_after_the_switch_is_back_at_once() {
    crate::needs_cluster!("a_blue_green_whose_new_pods_crash_after_the_switch_is_back_at_once");
    let rig = Rig::deployment("cart", 3, &json!({"blueGreen": {"route": {"service": {"name": "cart"}}, "bake": "5m"}}));
    let a = rig.stable();
    let b = rig.deploys('b', &json!({}));
    rig.does(&rig.arm(&b, true));
    rig.until("the preview is ready", |seen| seen.observed.arms.get(&b.id).is_some_and(|arm| arm.wanted == 3 && arm.is_ready()));
    assert_eq!(rig.observed().weights[&a].percent(), 100.0);
    assert!(matches!(rig.once(&rig.step(&b, 50.0)), Outcome::Invalid(_)), "everything or nothing");
    rig.does(&rig.step(&b, 100.0));
    assert_eq!(rig.observed().weights.into_iter().collect::<Vec<_>>(), [(b.id.clone(), backstop::core::spec::Percent::FULL)]);
    assert!(matches!(rig.once(&rig.arm(&b, false)), Outcome::Transient { .. }), "what has traffic is not stopped");

    rig.crash(&b.id);
    let failing = rig.until("it fails", |seen| seen.observed.arms[&b.id].ready == 0).observed.arms[&b.id].failing.clone();
    assert!(failing.as_deref().is_some_and(|what| what.starts_with("CrashLoopBackOff")), "{failing:?}");
    rig.does(&rig.back());
    let service = rig.cluster.get("service", &["cart"]);
    assert_eq!(service["spec"]["selector"], json!({"app": "cart"}));
    assert_eq!((rig.behind_service(), rig.observed().arms[&a].ready), (3, 3), "the old pods never moved");
    assert!(rig.does(&rig.restore(&rig.release(&a))));
    rig.does(&rig.arm(&b, false));

    let c = rig.deploys('c', &json!({}));
    rig.does(&rig.arm(&c, true));
    rig.does(&rig.step(&c, 100.0));
    rig.does(&rig.promote(&c));
    assert_eq!(rig.cluster.get("service", &["cart"])["spec"]["selector"], json!({"app": "cart"}));
    rig.until("the workload runs it", |seen| seen.observed.arms.len() == 1 && seen.observed.arms[&c.id].ready == 3);
}
