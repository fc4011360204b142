//! What `backstop install` prints, applied to a real API server: it is taken as it is, and it does what it says.

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

use std::path::Path;
use std::time::Duration;

use backstop::spec::install::access::{Access, Place, TABLE};
use cluster::{Cluster, User, deployment};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);
const IMAGE: &str = "registry.example/backstop@sha256:9999999999999999999999999999999999999999999999999999999999999999";

fn image(digit: char) -> String {
    format!("registry.example/store/checkout@sha256:{}", String::from(digit).repeat(64))
}

fn printed(more: &[&str]) -> String {
    bed::run(Path::new(env!("CARGO_BIN_EXE_backstop")), &[&["install", "--image", IMAGE], more].concat())
}

/// A cluster into which backstop was installed, and the account that its controller has.
fn installed(more: &[&str]) -> (Cluster, User) {
    let cluster = Cluster::start(1);
    for namespace in ["shop", "pay"] {
        cluster.kubectl(&["create", "namespace", namespace]);
    }
    cluster.apply(&printed(more));
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
    let backstop = cluster.token("backstop-system", "backstop");
    (cluster, backstop)
}

/// Whether somebody may do this; the API server's own answer.
fn may(user: &User, verb: &str, resource: &str, group: &str, namespace: Option<&str>) -> bool {
    may_touch(user, verb, (resource, group, ""), namespace)
}

/// The same of a row of the table; what is created is not asked for by its name.
fn has(user: &User, verb: &str, row: &Access, namespace: Option<&str>) -> bool {
    let name = row.name().filter(|_| verb != "create").unwrap_or_default();
    may_touch(user, verb, (row.resource, row.group, name), namespace)
}

fn may_touch(user: &User, verb: &str, (resource, group, name): (&str, &str, &str), namespace: Option<&str>) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "verb": verb, "resource": resource, "subresource": subresource, "group": group, "namespace": namespace.unwrap_or_default(),
            "name": name,
        }},
    });
    let said = user.kubectl(&["create", "--validate=false", "--output=json", "--filename=-"], &review.to_string()).expect("a review");
    serde_json::from_str::<Value>(&said).expect("JSON")["status"]["allowed"] == true
}

/// The first of the table's rights that the controller does not have in a guarded namespace, or has in another one.
fn wrong(backstop: &User, guarded: &str, other: &str) -> Option<String> {
    for one in TABLE {
        let (inside, outside) = match one.place {
            Place::Own => (Some("backstop-system"), Some(guarded)),
            Place::Guarded => (Some(guarded), Some(other)),
            Place::Cluster => (None, None),
        };
        for verb in one.verbs {
            if !has(backstop, verb, &one, inside) {
                return Some(format!("it may not {verb} {} in {inside:?}", one.resource));
            }
            let elsewhere = TABLE.iter().any(|two| two.resource == one.resource && two.place != one.place && two.verbs.contains(verb));
            if outside.is_some() && !elsewhere && has(backstop, verb, &one, outside) {
                return Some(format!("it may {verb} {} in {outside:?}", one.resource));
            }
        }
    }
    None
}

#[test]
fn with_namespaces_the_rights_are_the_tables_and_end_at_their_border() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("with_namespaces_the_rights_are_the_tables_and_end_at_their_border", missing);
    }
    let (cluster, backstop) = installed(&["--namespaces", "shop", "--log-volume", "1Gi"]);
    let right = bed::eventually(SOON, || wrong(&backstop, "shop", "pay").is_none().then_some(()));
    assert!(right.is_some(), "{:?}", wrong(&backstop, "shop", "pay"));
    for namespace in [Some("shop"), Some("pay"), Some("kube-system"), None] {
        assert!(!may(&backstop, "get", "secrets", "", namespace), "it reads secrets of {namespace:?}");
    }
    for (verb, resource, group) in
        [("create", "pods", ""), ("delete", "namespaces", ""), ("patch", "clusterroles", "rbac.authorization.k8s.io")]
    {
        assert!(!may(&backstop, verb, resource, group, Some("shop")), "it may {verb} {resource}");
    }
    let claims = bed::eventually(SOON, || {
        let claims = cluster.get("persistentvolumeclaims", &["--namespace=backstop-system"]);
        (claims.as_array()?.len() == 2).then_some(())
    });
    assert!(claims.is_some(), "each replica has a volume of its own");
}

#[test]
fn the_whole_cluster_is_guarded_by_pods_that_may_run_and_nobody_is_anything_yet() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("the_whole_cluster_is_guarded_by_pods_that_may_run_and_nobody_is_anything_yet", missing);
    }
    let (cluster, backstop) = installed(&[]);
    // Applied again, nothing is changed and nobody is in anybody's way.
    cluster.apply(&printed(&[]));
    let pods = || {
        let pods = cluster.get("pods", &["--namespace=backstop-system"]);
        (pods.as_array()?.iter().filter(|pod| pod["status"]["phase"] == "Running").count() == 2).then_some(pods)
    };
    // The namespace enforces the restricted standard: a pod that breaks it would never be made.
    let pods = bed::eventually(SOON, pods).expect("both replicas are let in");
    assert_eq!(pods[0]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    let right = bed::eventually(SOON, || {
        TABLE
            .iter()
            .filter(|one| one.place == Place::Guarded)
            .all(|one| one.verbs.iter().all(|verb| has(&backstop, verb, one, Some("pay"))))
            .then_some(())
    });
    assert!(right.is_some(), "every namespace is guarded");
    assert!(!may(&backstop, "get", "secrets", "", Some("pay")));

    // Requests of the controller have seats of their own.
    let level = cluster.get("prioritylevelconfiguration", &["backstop-revert"]);
    assert_eq!(level["spec"]["limited"]["limitResponse"]["type"], "Queue", "{level}");
    let dangling = |schema: &Value| {
        let conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Dangling" && one["status"] == "False")
    };
    for name in ["backstop-revert", "backstop"] {
        let bound = bed::eventually(SOON, || dangling(&cluster.get("flowschema", &[name])).then_some(()));
        assert!(bound.is_some(), "{name} leads to no seats: {}", cluster.get("flowschema", &[name]));
    }

    let alice = cluster.user("alice");
    assert!(!may(&alice, "revert", "guardedrollouts", "backstop.dev", Some("shop")));
    cluster.kubectl(&["create", "rolebinding", "oncall", "--namespace=shop", "--clusterrole=backstop-oncall", "--group=people"]);
    let revert = bed::eventually(SOON, || may(&alice, "revert", "guardedrollouts", "backstop.dev", Some("shop")).then_some(()));
    assert!(revert.is_some(), "on call they revert");
    assert!(may(&alice, "patch", "deployments", "apps", Some("shop")), "with the controller or without it");
    for verb in ["override-hold", "loosen", "delete"] {
        assert!(!may(&alice, verb, "guardedrollouts", "backstop.dev", Some("shop")), "and do not {verb}");
    }
    assert!(!may(&alice, "revert", "guardedrollouts", "backstop.dev", Some("pay")), "nor elsewhere");
    let agent = cluster.service_account("shop", "agent");
    cluster.kubectl(&["create", "rolebinding", "agent", "--namespace=shop", "--clusterrole=backstop-agent", "--serviceaccount=shop:agent"]);
    let asks = bed::eventually(SOON, || may(&agent, "ask", "guardedrollouts", "backstop.dev", Some("shop")).then_some(()));
    assert!(asks.is_some(), "an agent asks");
    assert!(!may(&agent, "patch", "deployments", "apps", Some("shop")), "and touches nothing");
}

/// `shop/checkout`, guarded, with an agent that may do everything in its namespace, and the admission policies of an installation.
struct Guarded {
    cluster: Cluster,
    agent: User,
    backstop: User,
}

fn guarded() -> Guarded {
    let (cluster, backstop) = installed(&[]);
    cluster.apply(&deployment("checkout", 2, &image('a'), None).replace("namespace: default", "namespace: shop"));
    let agent = cluster.service_account("shop", "agent");
    cluster.kubectl(&["create", "rolebinding", "agent", "--namespace=shop", "--clusterrole=admin", "--serviceaccount=shop:agent"]);
    let mark = ["label", "deployment", "checkout", "--namespace=shop", "backstop.dev/guarded=driven"];
    let marked = bed::eventually(SOON, || backstop.kubectl(&mark, "").ok());
    assert!(marked.is_some(), "the controller's own rights are enough to mark what it guards: {:?}", backstop.kubectl(&mark, ""));
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "checkout", "namespace": "shop", "labels": {"backstop.dev/guarded": "driven"}},
        "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 80}]},
    });
    let made = bed::eventually(SOON, || backstop.apply(&service.to_string()).ok());
    assert!(made.is_some(), "and its Service: {:?}", backstop.apply(&service.to_string()));
    let selectors = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "backstop-guarded", "namespace": "shop"},
        "data": {"Deployment.checkout": "app=checkout", "StatefulSet.ledger": "app=ledger,tier=store"},
    });
    let noted = bed::eventually(SOON, || backstop.apply(&selectors.to_string()).ok());
    assert!(noted.is_some(), "and to note what selects it: {:?}", backstop.apply(&selectors.to_string()));
    // Policies hold a moment after they were written, each by itself.
    let intruder = intruder("probe", &json!({"app": "checkout"})).to_string();
    let dry = |text: &str| agent.kubectl(&["apply", "--server-side", "--dry-run=server", "--filename=-"], text).is_err();
    let relabel = ["label", "service", "checkout", "--namespace=shop", "backstop.dev/guarded-", "--dry-run=server"];
    let unmark = ["label", "deployment", "checkout", "--namespace=shop", "backstop.dev/guarded-", "--dry-run=server"];
    let hold = || (dry(&intruder) && agent.kubectl(&relabel, "").is_err() && agent.kubectl(&unmark, "").is_err()).then_some(());
    assert!(bed::eventually(SOON, hold).is_some(), "the admission policies do not hold");
    Guarded { cluster, agent, backstop }
}

fn intruder(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"nodeSelector": {"node": "simulated"}, "containers": [{"name": "main", "image": image('e')}]},
    })
}

impl Guarded {
    fn live(&self, selector: &str) -> usize {
        self.cluster.get("pods", &["--namespace=shop", &format!("--selector={selector}")]).as_array().map_or(0, Vec::len)
    }

    fn refused(&self, yaml: &Value) -> String {
        self.agent.apply(&yaml.to_string()).expect_err("an agent may not do this")
    }
}

#[test]
fn nobody_slips_pods_or_routes_under_a_guard() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("nobody_slips_pods_or_routes_under_a_guard", missing);
    }
    let shop = guarded();
    assert!(bed::eventually(SOON, || (shop.live("app=checkout") == 2).then_some(())).is_some(), "its own pods are let in");

    let said = shop.refused(&intruder("evil", &json!({"app": "checkout"})));
    assert!(said.contains("guarded Deployment checkout"), "{said}");
    let said = shop.refused(&intruder("evil", &json!({"app": "ledger", "tier": "store"})));
    assert!(said.contains("guarded StatefulSet ledger"), "{said}");
    let unnote = ["patch", "configmap", "backstop-guarded", "--namespace=shop", "--type=merge", "--patch", r#"{"data":null}"#];
    let said = shop.agent.kubectl(&unnote, "").expect_err("nor makes the check blind");
    assert!(said.contains("override-hold"), "{said}");
    shop.agent.apply(&intruder("other", &json!({"app": "other"})).to_string()).expect("other pods are nobody's business");
    let relabelled = shop.agent.kubectl(&["label", "pod", "other", "--namespace=shop", "--overwrite", "app=checkout"], "");
    assert!(relabelled.expect_err("nor later").contains("guarded Deployment checkout"));
    // A second Deployment with the Service's labels is taken, and never gets a pod.
    let mut second: Value = serde_saphyr::from_str(&deployment("second", 3, &image('e'), None)).expect("YAML");
    second["metadata"]["namespace"] = json!("shop");
    for place in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        *second.pointer_mut(place).expect("labels") = json!({"app": "checkout", "of": "second"});
    }
    shop.agent.apply(&second.to_string()).expect("a Deployment may be written");
    let held = bed::eventually(SOON, || {
        let second = shop.cluster.get("deployment", &["second", "--namespace=shop"]);
        second["status"]["conditions"].to_string().contains("guarded Deployment checkout").then_some(())
    });
    assert!(held.is_some(), "and says why: {}", shop.cluster.get("deployment", &["second", "--namespace=shop"]));
    // Nor under the name of one of backstop's own copies.
    second["metadata"]["name"] = json!("checkout-candidate");
    second["metadata"]["labels"]["backstop.dev/of"] = json!("checkout");
    for place in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        *second.pointer_mut(place).expect("labels") = json!({"app": "checkout", "backstop.dev/of": "checkout"});
    }
    let said = shop.refused(&second);
    assert!(said.contains("belongs to a guard"), "{said}");
    shop.backstop.apply(&second.to_string()).expect("backstop makes its candidate");
    assert!(bed::eventually(SOON, || (shop.live("app=checkout") == 5).then_some(())).is_some(), "whose pods are let in");
    assert_eq!(shop.live("of=second"), 0, "the other's are not");

    let turn = r#"{"spec":{"selector":{"app":"other"}}}"#;
    let patch = |user: &User| user.kubectl(&["patch", "service", "checkout", "--namespace=shop", "--type=merge", "--patch", turn], "");
    assert!(patch(&shop.agent).expect_err("the selector is backstop's").contains("override-hold"));
    let removed = shop.agent.kubectl(&["delete", "service", "checkout", "--namespace=shop"], "");
    assert!(removed.expect_err("so is the Service").contains("override-hold"));
    let port = r#"{"spec":{"ports":[{"port":80,"name":"http"}]}}"#;
    let ports = shop.agent.kubectl(&["patch", "service", "checkout", "--namespace=shop", "--type=merge", "--patch", port], "");
    assert!(ports.is_ok(), "its ports are the team's: {ports:?}");
    patch(&shop.backstop).expect("backstop switches");
    patch(&shop.cluster.admin()).expect("a person with override-hold does");
}

#[test]
fn while_a_revert_runs_only_override_hold_supersedes() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("while_a_revert_runs_only_override_hold_supersedes", missing);
    }
    let shop = guarded();
    let annotate =
        |user: &User, what: &str| user.kubectl(&["annotate", "deployment", "checkout", "--namespace=shop", "--overwrite", what], "");
    annotate(&shop.backstop, "backstop.dev/reverting=rv-1").expect("backstop says that it reverts");
    let said = annotate(&shop.agent, "backstop.dev/reverting-").expect_err("an agent does not end it");
    assert!(said.contains("backstop's own"), "{said}");
    let said = annotate(&shop.agent, "backstop.dev/generation=99").expect_err("nor moves a fence");
    assert!(said.contains("backstop's own"), "{said}");
    let to = |user: &User| user.kubectl(&["set", "image", "deployment/checkout", "--namespace=shop", &format!("main={}", image('b'))], "");
    assert!(to(&shop.agent).expect_err("an agent does not supersede").contains("a revert is under way"));
    let alice = shop.cluster.user("alice");
    shop.cluster.kubectl(&["create", "rolebinding", "people", "--namespace=shop", "--clusterrole=admin", "--group=people"]);
    let refused = bed::eventually(SOON, || to(&alice).err().filter(|said| said.contains("a revert is under way")));
    assert!(refused.is_some(), "nor does a person without the right: {:?}", to(&alice));
    shop.cluster.kubectl(&["create", "rolebinding", "sre", "--namespace=shop", "--clusterrole=backstop-sre", "--group=people"]);
    assert!(bed::eventually(SOON, || to(&alice).ok()).is_some(), "one with override-hold does: {:?}", to(&alice));
    annotate(&shop.backstop, "backstop.dev/reverting-").expect("the revert ends");
    let again = shop.agent.kubectl(&["set", "image", "deployment/checkout", "--namespace=shop", &format!("main={}", image('c'))], "");
    assert!(again.is_ok(), "then everybody deploys again: {again:?}");
}

#[test]
fn on_call_reverts_past_the_policies_and_an_agent_cannot_pretend_to() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("on_call_reverts_past_the_policies_and_an_agent_cannot_pretend_to", missing);
    }
    let shop = guarded();
    let set = ["set", "image", "deployment/checkout", "--namespace=shop", &format!("main={}", image('b'))];
    shop.agent.kubectl(&set, "").expect("an agent deploys");
    let checkout = || shop.cluster.get("deployment", &["checkout", "--namespace=shop"]);
    assert_eq!(checkout()["spec"]["paused"], true);
    // What the command line writes without the controller.
    let revert = json!({
        "metadata": {"annotations": {"backstop.dev/revision": "{\"generation\":1}", "backstop.dev/written": "v1"}},
        "spec": {"paused": null, "template": {"spec": {"containers": [{"name": "main", "image": image('a')}]}}},
    })
    .to_string();
    let turn =
        json!({"metadata": {"annotations": {"backstop.dev/revision": "{\"generation\":1}"}}, "spec": {"selector": {"app": "other"}}})
            .to_string();
    let patch = |user: &User, kind: &str, patch: &str| user.kubectl(&["patch", kind, "checkout", "--namespace=shop", "--patch", patch], "");
    assert!(patch(&shop.agent, "deployment", &revert).expect_err("an agent does not").contains("backstop's own"));
    assert!(patch(&shop.agent, "service", &turn).expect_err("nor with the Service").contains("override-hold"));
    let alice = shop.cluster.user("alice");
    shop.cluster.kubectl(&["create", "rolebinding", "oncall", "--namespace=shop", "--clusterrole=backstop-oncall", "--group=people"]);
    let done = bed::eventually(SOON, || patch(&alice, "deployment", &revert).ok());
    assert!(done.is_some(), "on call they revert: {:?}", patch(&alice, "deployment", &revert));
    let now = checkout();
    assert!(now["spec"]["paused"].is_null(), "and it goes on: {now}");
    assert_eq!(now["metadata"]["annotations"]["backstop.dev/requester"], "alice");
    patch(&alice, "service", &turn).expect("with the Service, too");
    // A plain change by the same person is paused like anybody's.
    alice.kubectl(&set, "").expect("they may deploy");
    assert_eq!(checkout()["spec"]["paused"], true);
}
