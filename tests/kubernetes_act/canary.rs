//! A canary of a plain Deployment by an `HTTPRoute`: forward, back, and promoted.

use backstop::core::input::Outcome;
use backstop::core::ledger::Standing;
use backstop::core::spec::Percent;
use backstop::core::work::{Action, Fence, Lane};
use serde_json::{Value, json};

use crate::rig::{Rig, image};

fn canary() -> Value {
    json!({"canary": {"route": {"httpRoute": {"name": "NAME"}}, "steps": [{"weight": "5%", "bake": "2m"}, {"weight": "50%", "bake": "2m"}]}})
}

fn rig(name: &str, replicas: u32) -> Rig {
    let mut strategy = canary();
    strategy["canary"]["route"]["httpRoute"]["name"] = json!(name);
    let rig = Rig::deployment(name, replicas, &strategy);
    let filters = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-shop", "value": "1"}]}}]);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "default"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [
            {"backendRefs": [{"name": name, "port": 80, "filters": filters}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/api"}}], "backendRefs": [{"name": name, "port": 80}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/other"}}], "backendRefs": [{"name": "other", "port": 80}]},
        ]},
    });
    rig.cluster.apply(&route.to_string());
    rig
}

/// Name and weight of each backend, rule by rule.
fn backends(rig: &Rig) -> Vec<Vec<(String, u64)>> {
    let route = rig.cluster.get("httproute", &[&rig.name]);
    let rules = route["spec"]["rules"].as_array().expect("rules").clone();
    let of = |one: &Value| (one["name"].as_str().unwrap_or_default().to_owned(), one["weight"].as_u64().unwrap_or(1));
    rules.iter().map(|rule| rule["backendRefs"].as_array().expect("backends").iter().map(of).collect()).collect()
}

fn split(name: &str, own: u64, candidate: u64) -> Vec<(String, u64)> {
    vec![(name.to_owned(), own), (format!("{name}-candidate"), candidate)]
}

fn untouched(name: &str) -> Vec<Vec<(String, u64)>> {
    vec![vec![(name.to_owned(), 1)], vec![(name.to_owned(), 1)], vec![("other".to_owned(), 1)]]
}

#[test]
fn a_canary_moves_in_every_rule_and_its_revert_moves_no_stable_pod() {
    crate::needs_cluster!("a_canary_moves_in_every_rule_and_its_revert_moves_no_stable_pod");
    let rig = rig("moves", 4);
    rig.cluster.kubectl(&["autoscale", "deployment", "moves", "--min=2", "--max=9", "--cpu-percent=50"]);
    let (a, before) = (rig.stable(), rig.observed());
    assert_eq!((before.current.as_ref(), before.weights[&a].percent()), (Some(&a), 100.0));
    let stable_pods = rig.pods(&a);

    let b = rig.deploys('b', &json!({}));
    let seen = rig.see();
    assert_eq!((seen.observed.current, seen.observed.arms.keys().collect::<Vec<_>>()), (Some(b.id.clone()), vec![&a]));
    let spec = seen.spec.expect("a template");
    assert!(spec.paused && !spec.own && spec.requester.as_deref() == Some("system:serviceaccount:default:agent"), "{spec:?}");

    let arm = rig.arm(&b, true);
    assert!(rig.does(&arm));
    assert!(!rig.does(&arm), "twice is as once");
    assert_eq!(rig.cluster.get("hpa", &["moves"])["spec"]["minReplicas"], 4, "stable's minimum is held");
    rig.until("the candidate is ready", |seen| seen.observed.arms.get(&b.id).is_some_and(|arm| arm.wanted == 1 && arm.is_ready()));
    assert_eq!(rig.behind_service(), 4, "the candidate gets nothing by stable's Service");
    let scraped = rig.cluster.get("service", &["moves-candidate"]);
    assert_eq!((&scraped["metadata"]["labels"]["scraped"], &scraped["spec"]["ports"][0]["targetPort"]), (&json!("yes"), &json!(8080)));

    let step = rig.step(&b, 5.0);
    let waits = rig.once(&step);
    assert!(matches!(&waits, Outcome::Transient { what, .. } if what.contains("no gateway")), "{waits:?}");
    rig.gateway("httproute");
    assert!(!rig.does(&step), "it was written before");
    assert_eq!(backends(&rig), [split("moves", 95, 5), split("moves", 95, 5), vec![("other".to_owned(), 1)]]);
    assert_eq!(
        rig.cluster.get("httproute", &["moves"])["spec"]["rules"][0]["backendRefs"][1]["filters"][0]["type"],
        "RequestHeaderModifier"
    );
    assert_eq!(rig.observed().weights[&b.id], Percent::new(5.0));
    let half = rig.step(&b, 50.0);
    rig.does_with(&half, || rig.gateway("httproute"));
    assert_eq!(rig.copy().expect("a copy")["spec"]["replicas"], 2);

    let late = rig.step(&b, 80.0);
    let back = rig.back();
    let begin = backstop::world::clock::instant();
    rig.once(&back);
    eprintln!("traffic was written back within {:.1?}", begin.elapsed());
    assert_eq!(backends(&rig), untouched("moves"), "traffic is back before any gateway says a word");
    rig.does_with(&back, || rig.gateway("httproute"));
    assert!(matches!(rig.once(&late), Outcome::Superseded(_)), "a step that was under way comes too late");
    assert_eq!(rig.copy().expect("a copy")["spec"]["replicas"], 2, "and nothing grows for it");

    rig.know(&b, Standing::Bad);
    assert!(rig.does(&rig.restore(&rig.release(&a))));
    let restored = rig.object();
    assert_eq!((&restored["spec"]["paused"], &restored["spec"]["replicas"]), (&Value::Null, &json!(4)));
    let lifted = rig.effect(Action::EnsureHold { quarantined: Vec::new() }, Fence::None, Lane::Forward);
    assert!(rig.does(&rig.effect(Action::EnsureHold { quarantined: vec![b.id.clone()] }, Fence::None, Lane::Forward)));
    assert!(matches!(rig.once(&lifted), Outcome::Superseded(_)), "a hold that was under way comes too late");
    assert_eq!(rig.object()["metadata"]["annotations"]["backstop.dev/quarantined"], image('b'));
    assert!(rig.does(&rig.arm(&b, false)));
    rig.until("the candidate is gone", |seen| !seen.observed.arms.contains_key(&b.id));
    assert!(rig.see().spec.expect("a template").own);
    assert_eq!(rig.pods(&a), stable_pods, "no stable pod moved");
    assert_eq!(rig.cluster.get("hpa", &["moves"])["spec"]["minReplicas"], 2, "the minimum is given back");
    assert!(matches!(rig.once(&rig.arm(&b, true)), Outcome::Denied(_)), "what is quarantined is not started");
}

#[test]
fn a_watched_candidate_becomes_the_workload_and_its_copy_goes() {
    crate::needs_cluster!("a_watched_candidate_becomes_the_workload_and_its_copy_goes");
    let rig = rig("stays", 3);
    let b = rig.deploys('b', &json!({}));
    rig.does(&rig.arm(&b, true));
    rig.does_with(&rig.step(&b, 100.0), || rig.gateway("httproute"));
    assert_eq!(rig.copy().expect("a copy")["spec"]["replicas"], 3, "as many as took the traffic before");
    assert_eq!(rig.pods(&rig.stable()).len(), 3, "and the way back is warm");
    let promote = rig.promote(&b);
    rig.does_with(&promote, || rig.gateway("httproute"));
    assert_eq!(backends(&rig), untouched("stays"));
    assert!(rig.copy().is_none());
    let seen = rig.until("one release runs", |seen| seen.observed.arms.len() == 1);
    assert_eq!((seen.observed.arms[&b.id].ready, seen.observed.weights[&b.id].percent()), (3, 100.0));
    assert!(!rig.does(&promote), "twice is as once");
}

#[test]
fn nothing_stands_in_front_of_the_way_back() {
    crate::needs_cluster!("nothing_stands_in_front_of_the_way_back");
    let rig = rig("blocked", 4);
    let a = rig.stable();
    let b = rig.deploys('b', &json!({}));
    rig.does(&rig.arm(&b, true));
    rig.does_with(&rig.step(&b, 50.0), || rig.gateway("httproute"));
    // Three of stable's four pods crash, the candidate crashes, the autoscaler scales, the gateway is dead.
    let members = rig.see().members[&a].clone();
    rig.crash(&b.id);
    for member in &members[..3] {
        rig.cluster.kubectl(&["delete", "pod", &member.pod, "--wait=false"]);
    }
    rig.cluster.kubectl(&["scale", "deployment", "blocked", "--replicas=6"]);
    let said = rig.once(&rig.back());
    assert_eq!(backends(&rig), untouched("blocked"), "{said:?}");
    assert!(rig.does(&rig.restore(&rig.release(&a))));
    assert_eq!(rig.object()["spec"]["replicas"], 6, "what the autoscaler wants is its own");
    // The Service, its copy's and the workload are gone: the route can still be written.
    let c = rig.deploys('c', &json!({}));
    rig.does(&rig.arm(&b, false));
    rig.does(&rig.arm(&c, true));
    rig.does_with(&rig.step(&c, 50.0), || rig.gateway("httproute"));
    let service = rig.cluster.get("service", &["blocked-candidate"]);
    assert_eq!(service["spec"]["selector"]["backstop.dev/release"], *c.id.0, "the copy before left nothing behind");
    rig.cluster.kubectl(&["delete", "service", "blocked", "blocked-candidate", "--ignore-not-found"]);
    rig.cluster.kubectl(&["delete", "deployment", "blocked", "--cascade=orphan"]);
    rig.once(&rig.back());
    assert_eq!(backends(&rig), untouched("blocked"));
}

#[test]
fn a_newer_template_is_not_overwritten_until_it_was_answered() {
    crate::needs_cluster!("a_newer_template_is_not_overwritten_until_it_was_answered");
    let rig = rig("newer", 2);
    let a = rig.release(&rig.stable());
    let b = rig.deploys('b', &json!({}));
    rig.know(&b, Standing::Bad);
    rig.cluster.kubectl(&["set", "image", "deployment/newer", &format!("main={}", image('c'))]);
    let restore = rig.restore(&a);
    assert!(matches!(rig.once(&restore), Outcome::Superseded(_)));
    let unseen = rig.template();
    rig.act.answered("default/newer", &unseen.id);
    assert!(rig.does(&restore));
    assert_eq!(rig.template().id, a.id);

    // A restart is the same release, and its pods stay when the release comes back.
    rig.cluster.kubectl(&["rollout", "restart", "deployment/newer"]);
    rig.cluster.kubectl(&["rollout", "status", "deployment/newer", "--timeout=60s"]);
    let restarted = rig.pods(&a.id);
    let d = rig.deploys('d', &json!({}));
    assert!(rig.does(&rig.restore(&a)));
    rig.cluster.kubectl(&["rollout", "status", "deployment/newer", "--timeout=60s"]);
    assert_eq!(rig.pods(&a.id), restarted);
    assert!(rig.pods(&d.id).is_empty());
    // An older attempt has nothing to say.
    let stale = rig.effect(Action::EnsureRelease { release: d }, Fence::Generation(1), Lane::Revert);
    assert!(matches!(rig.once(&stale), Outcome::Superseded(_)));
}

#[test]
fn what_an_attacker_writes_into_a_replica_set_never_goes_back() {
    crate::needs_cluster!("what_an_attacker_writes_into_a_replica_set_never_goes_back");
    let rig = rig("edited", 1);
    let a = rig.release(&rig.stable());
    rig.deploys('b', &json!({}));
    let sets = rig.cluster.get("replicasets", &["--selector=app=edited"]);
    let set = sets[0]["metadata"]["name"].as_str().expect("a name");
    let edit = json!([{"op": "add", "path": "/spec/template/spec/containers/0/env", "value": [{"name": "EVIL", "value": "1"}]}]);
    rig.cluster.kubectl(&["patch", "replicaset", set, "--type=json", "--patch", &edit.to_string()]);
    let seen = rig.observed();
    assert_eq!(seen.arms.get(&a.id).map(|arm| arm.ready), Some(1), "its pods are stable's all the same: {seen:?}");
    assert!(rig.does(&rig.restore(&a)));
    assert_eq!(rig.template().id, a.id);
    assert_eq!(rig.object()["spec"]["template"]["spec"]["containers"][0]["env"], Value::Null);
}
