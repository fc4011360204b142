//! What a real API server makes of the custom resources and the admission policies.

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstop::spec::crd;
use cluster::{Cluster, User, deployment};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);

/// What a document is changed by, so that it is wrong.
type Change<'a> = &'a dyn Fn(&mut Value);

fn image(digit: char) -> String {
    format!("registry.example/store/checkout@sha256:{}", String::from(digit).repeat(64))
}

/// A cluster that knows the custom resources, as `backstop crd` prints them.
fn cluster_with_resources() -> Cluster {
    let cluster = Cluster::start(1);
    let definitions = bed::run(Path::new(env!("CARGO_BIN_EXE_backstop")), &["crd"]);
    cluster.apply(&definitions);
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
    cluster.kubectl(&["create", "namespace", "store"]);
    cluster.kubectl(&["create", "namespace", "backstop-system"]);
    cluster
}

fn shipped(file: &str) -> String {
    fs::read_to_string(bed::repository("rollouts").join(file)).expect("a shipped document")
}

/// The API server's refusal of a change to a valid rollout.
fn refusal(cluster: &Cluster, change: Change<'_>) -> String {
    let mut rollout: Value = serde_saphyr::from_str(&shipped("canary-deployment.yaml")).expect("YAML");
    change(&mut rollout);
    let applied =
        cluster.admin().kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename=-"], &rollout.to_string());
    applied.expect_err("the API server takes no such rollout")
}

#[test]
fn an_api_server_takes_what_is_shipped_and_refuses_what_is_broken() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("an_api_server_takes_what_is_shipped_and_refuses_what_is_broken", missing);
    }
    let cluster = cluster_with_resources();
    for file in ["canary-deployment.yaml", "blue-green-deployment.yaml", "observe-statefulset.yaml", "policy.yaml"] {
        cluster.apply(&shipped(file));
    }
    assert_eq!(cluster.get("gro", &["--all-namespaces"]).as_array().map(Vec::len), Some(3));
    let shown = cluster.kubectl(&["get", "gro", "--namespace=store"]);
    let columns: Vec<&str> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "PHASE", "WEIGHT", "VERDICT", "REASON", "AGE"]);

    let broken: [(&str, Change<'_>); 8] = [
        ("spec.workload", &|one| one["spec"]["workload"]["statefulSet"] = json!({"name": "checkout"})),
        ("spec.workload", &|one| one["spec"]["workload"] = json!({})),
        ("spec.workload.process", &|one| {
            one["spec"]["workload"] = json!({"process": {"listen": "127.0.0.1:0", "artifacts": {"registry": {}}}});
        }),
        ("good", &|one| one["spec"]["objectives"][0]["good"] = json!("mostly")),
        ("surprise", &|one| one["spec"]["surprise"] = json!(1)),
        ("objectives[0]", &|one| one["spec"]["objectives"][0]["histogram"] = json!({"metric": "a", "within": "1s"})),
        ("spec.attestation", &|one| drop(one["spec"].as_object_mut().expect("a mapping").remove("attestation"))),
        ("by", &|one| one["spec"]["arms"]["by"] = json!(5)),
    ];
    for (names, change) in broken {
        let said = refusal(&cluster, change);
        assert!(said.contains(names), "`{names}` is not named: {said}");
    }

    let record = json!({
        "apiVersion": "backstop.dev/v1alpha1", "kind": "ReleaseRecord", "metadata": {"name": "r1", "namespace": "backstop-system"},
        "spec": {"workload": {"namespace": "store", "kind": "Deployment", "name": "checkout"}, "release": "abc", "images": [], "content": ""},
    });
    cluster.apply(&record.to_string());
    let change = ["patch", "grec", "r1", "--namespace=backstop-system", "--type=merge", "--patch", r#"{"spec":{"label":"v2"}}"#];
    let said = cluster.admin().kubectl(&change, "").expect_err("a record never changes");
    assert!(said.contains("never changes"), "{said}");
}

/// A cluster in which `default/checkout` is guarded, with an agent that may deploy and backstop's own account.
struct Guarded {
    cluster: Cluster,
    agent: User,
    backstop: User,
}

const MARK: [&str; 4] = ["label", "deployment", "checkout", "backstop.dev/guarded=driven"];

fn guarded() -> Guarded {
    let cluster = cluster_with_resources();
    cluster.apply(&deployment("checkout", 2, &image('a'), None));
    let agent = cluster.service_account("default", "agent");
    cluster.kubectl(&["create", "rolebinding", "agent", "--clusterrole=admin", "--serviceaccount=default:agent"]);
    let edit = [
        "create",
        "clusterrole",
        "guards",
        "--verb=get,patch,delete",
        "--resource=guardedrollouts.backstop.dev,guardpolicies.backstop.dev",
    ];
    cluster.kubectl(&edit);
    cluster.kubectl(&["create", "clusterrolebinding", "guards", "--clusterrole=guards", "--serviceaccount=default:agent"]);
    let backstop = cluster.service_account("backstop-system", "backstop");
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "backstop",
        "--clusterrole=cluster-admin",
        "--serviceaccount=backstop-system:backstop",
    ]);
    cluster.apply(&shipped("policy.yaml"));
    cluster.apply(&crd::admission("backstop-system"));
    // Policies hold a moment after they were written, each by itself.
    let try_mark = [MARK.as_slice(), &["--dry-run=server"]].concat();
    let try_weaken = ["patch", "gpol", "release", "--type=merge", "--dry-run=server", "--patch", r#"{"metadata":{"labels":{"x":"y"}}}"#];
    let hold = || {
        let marked = cluster.admin().kubectl(&try_mark, "").is_err();
        (marked && agent.kubectl(&try_weaken, "").is_err()).then_some(())
    };
    assert!(bed::eventually(SOON, hold).is_some(), "the admission policies do not hold: {:?}", agent.kubectl(&try_weaken, ""));
    let marked = bed::eventually(SOON, || backstop.kubectl(&MARK, "").ok());
    assert!(marked.is_some(), "backstop marks what it guards: {:?}", backstop.kubectl(&MARK, ""));
    Guarded { cluster, agent, backstop }
}

impl Guarded {
    fn checkout(&self) -> Value {
        self.cluster.get("deployment", &["checkout"])
    }

    /// What the API server says to an agent that tries this.
    fn refused(&self, arguments: &[&str]) -> String {
        let before = self.checkout();
        let said = self.agent.kubectl(arguments, "").expect_err("an agent may not do this");
        let same = |part: &str| assert_eq!(before["spec"][part], self.checkout()["spec"][part], "{arguments:?} changed nothing");
        ["template", "paused"].into_iter().for_each(same);
        said
    }
}

#[test]
fn who_changed_a_template_is_stamped_and_nothing_new_runs_unseen() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("who_changed_a_template_is_stamped_and_nothing_new_runs_unseen", missing);
    }
    let shop = guarded();
    let replica_sets = || shop.cluster.get("replicasets", &["--selector=app=checkout"]).as_array().map(Vec::len);
    assert!(bed::eventually(SOON, || (replica_sets() == Some(1)).then_some(())).is_some());

    let change = json!({
        "metadata": {"annotations": {"backstop.dev/requester": "human:alice"}},
        "spec": {"template": {"spec": {"containers": [{"name": "main", "image": image('b')}]}}},
    });
    shop.agent.kubectl(&["patch", "deployment", "checkout", "--patch", &change.to_string()], "").expect("an agent may deploy");
    let now = shop.checkout();
    let stamp = |name: &str| now["metadata"]["annotations"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(stamp("backstop.dev/requester"), "system:serviceaccount:default:agent", "the credential says who, not the claim");
    assert!(!stamp("backstop.dev/requester-uid").is_empty() && stamp("backstop.dev/credential-id").starts_with("JTI="), "{now}");
    assert_eq!(now["spec"]["paused"], true, "it is paused in the same write");

    let scaled = shop.agent.kubectl(&["scale", "deployment", "checkout", "--replicas=4"], "");
    assert!(scaled.is_ok(), "scaling is no deployment: {scaled:?}");
    let all_stable = || {
        let pods = shop.cluster.get("pods", &["--selector=app=checkout"]);
        let old = pods
            .as_array()?
            .iter()
            .filter(|pod| pod["spec"]["containers"][0]["image"] == image('a').as_str() && cluster::is_ready(pod))
            .count();
        (old == 4 && pods.as_array()?.len() == 4).then_some(())
    };
    assert!(bed::eventually(SOON, all_stable).is_some(), "a paused Deployment scales what it had: {}", shop.cluster.get("pods", &[]));
    assert_eq!(replica_sets(), Some(1), "no pod of the new release was ever started");

    let template = json!([
        {"op": "test", "path": "/spec/template/spec/containers/0/image", "value": image('b')},
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image('a')},
        {"op": "remove", "path": "/spec/paused"},
    ]);
    shop.backstop
        .kubectl(&["patch", "deployment", "checkout", "--type=json", "--patch", &template.to_string()], "")
        .expect("backstop restores");
    assert!(shop.checkout()["spec"]["paused"].is_null(), "what backstop restores is not paused");
    assert_eq!(replica_sets(), Some(1), "and no stable pod moved");

    shop.cluster.apply(&deployment("free", 1, "registry.example/free:latest", None));
    shop.agent
        .kubectl(&["set", "image", "deployment/free", "main=registry.example/free:next"], "")
        .expect("what is not guarded is left alone");
    assert!(shop.cluster.get("deployment", &["free"])["spec"]["paused"].is_null());
}

#[test]
fn an_agent_can_neither_forge_nor_go_on_nor_weaken_its_guard() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("an_agent_can_neither_forge_nor_go_on_nor_weaken_its_guard", missing);
    }
    let shop = guarded();
    let quarantine = format!("backstop.dev/quarantined={}", image('c'));
    shop.backstop.kubectl(&["annotate", "deployment", "checkout", &quarantine], "").expect("backstop quarantines");
    let to = |image: &str| format!("main={image}");

    let said = shop.refused(&["annotate", "deployment", "checkout", "--overwrite", "backstop.dev/requester=human:alice"]);
    assert!(said.contains("stamped by the API server"), "{said}");
    let said = shop.refused(&["set", "image", "deployment/checkout", "main=registry.example/store/checkout:v2"]);
    assert!(said.contains("by digest"), "{said}");
    let said = shop.refused(&["set", "image", "deployment/checkout", &to(&image('c'))]);
    assert!(said.contains("quarantined"), "{said}");
    let said = shop.refused(&["annotate", "deployment", "checkout", "backstop.dev/quarantined-"]);
    assert!(said.contains("backstop's own"), "{said}");
    shop.agent.kubectl(&["set", "image", "deployment/checkout", &to(&image('b'))], "").expect("an agent may deploy");
    let said = shop.refused(&["rollout", "resume", "deployment/checkout"]);
    assert!(said.contains("verified and judged"), "{said}");
    let said = shop.refused(&["label", "deployment", "checkout", "backstop.dev/guarded-"]);
    assert!(said.contains("backstop's own"), "{said}");
    let out = r#"{"metadata":{"labels":{"backstop.dev/guarded":null}},"spec":{"paused":false,"template":{"metadata":{"annotations":{"x":"y"}}}}}"#;
    shop.refused(&["patch", "deployment", "checkout", "--type=merge", "--patch", out]);

    shop.cluster.apply(&shipped("canary-deployment.yaml"));
    let weaken = ["patch", "gro", "checkout", "--namespace=store", "--type=merge", "--patch", r#"{"spec":{"watch":{"for":"1m"}}}"#];
    let said = shop.agent.kubectl(&weaken, "").expect_err("an agent does not weaken its guard");
    assert!(said.contains("`loosen`"), "{said}");
    let said = shop.agent.kubectl(&["delete", "gro", "checkout", "--namespace=store"], "").expect_err("nor does it delete it");
    assert!(said.contains("`loosen`"), "{said}");
    shop.cluster.kubectl(&weaken);

    let resumed = shop.cluster.admin().kubectl(&["rollout", "resume", "deployment/checkout"], "");
    assert!(resumed.is_ok(), "a person with the verb override-hold goes on: {resumed:?}");
}
