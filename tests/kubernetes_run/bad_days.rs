//! What goes wrong, and what must not come of it.

use std::time::Duration;

use serde_json::Value;

use crate::bed;
use crate::controller::{Shop, ok};
use crate::faults::{Bad, Fault, Proxy};
use crate::house::SYSTEM;
use crate::replica::{Replica, missing, short};

const SOON: Duration = Duration::from_mins(1);
const KEY: &str = "store/checkout";

/// A service whose candidate `v2` is judged beside known-good `v1`.
fn on_trial(shop: &Shop, adopt: impl Fn()) -> (String, String) {
    let (v1, v2) = (shop.build.image("v1"), shop.build.image("v2"));
    shop.deploy("checkout", &v1);
    shop.cluster.apply(&Shop::guard("checkout").to_string());
    shop.until("checkout", "found", |status| status["stable"]["image"] == v1.as_str());
    adopt();
    shop.until("checkout", "known good", |status| status["verdict"] == "Pass");
    shop.cluster.kubectl(&["set", "image", "--namespace=store", "deployment/checkout", &format!("main={v2}")]);
    shop.until("checkout", "judged", |status| status["phase"] == "Watching");
    (v1, v2)
}

fn restored(shop: &Shop, image: &str) {
    let restored = bed::eventually(SOON, || (shop.image_of("checkout") == image).then_some(()));
    assert!(restored.is_some(), "{}\n{}", short(&shop.status("checkout")), shop.log("a"));
}

fn quarantined(shop: &Shop) -> usize {
    let records = shop.cluster.get("grec", &["--namespace", SYSTEM]);
    let signed = |one: &&Value| one["status"]["quarantined"] == true && one["status"]["signature"].is_string();
    records.as_array().map_or(0, |records| records.iter().filter(signed).count())
}

#[test]
fn two_controllers_without_leases_decide_once() {
    if let Some(missing) = missing() {
        return bed::skip("two_controllers_without_leases_decide_once", missing);
    }
    let shop = Shop::open();
    // Each believes that it is the only one.
    let (a, b) = (shop.replica("a", &[]), shop.replica_named("b", "a", &[], None));
    let adopt = || drop(ok(&bed::eventually(SOON, || Some(a.tell(&["adopt", KEY])).filter(|output| output.status.success())).unwrap()));
    let (v1, _) = on_trial(&shop, adopt);
    let standing = |replica: &Replica| {
        let output = replica.tell(&["status", KEY, "--json"]);
        // A replica that has just started does not guard it yet.
        let at: Value = if output.status.success() { serde_json::from_slice(&output.stdout).unwrap() } else { Value::Null };
        let view = if at["view"].is_object() { at["view"].clone() } else { at };
        (view["revision"].clone(), view["generation"].clone(), view["phase"].clone())
    };
    let agreed = || {
        let (a, b) = (standing(&a), standing(&b));
        (a == b && a.0.is_u64()).then_some(a)
    };
    let at = bed::eventually(SOON, agreed).unwrap_or_else(|| panic!("{:?} {:?}", standing(&a), standing(&b)));
    assert_eq!(at.1, 1, "both saw the template change, and it is one attempt");
    ok(&b.tell(&["revert", KEY, "--yes", "--no-wait"]));
    restored(&shop, &v1);
    assert!(bed::eventually(SOON, agreed).is_some(), "{:?} {:?}", standing(&a), standing(&b));
    assert!(bed::eventually(SOON, || (quarantined(&shop) == 1).then_some(())).is_some());
    // Each has what it committed itself in its log, and that is whole.
    for replica in [&a, &b] {
        let verified = bed::eventually(SOON, || Some(replica.tell(&["audit", "verify"])).filter(|output| output.status.success()));
        assert!(verified.is_some(), "{:?}", replica.tell(&["audit", "verify"]));
    }
}

#[test]
fn a_revert_goes_through_conflicts_throttling_and_errors_and_a_lost_replica() {
    if let Some(missing) = missing() {
        return bed::skip("a_revert_goes_through_conflicts_throttling_and_errors_and_a_lost_replica", missing);
    }
    let shop = Shop::open();
    let proxy = Proxy::start(&shop.backstop, shop.folder());
    let a = shop.replica_named("a", "a", &[], Some(proxy.kubeconfig()));
    let adopt = || drop(ok(&bed::eventually(SOON, || Some(a.tell(&["adopt", KEY])).filter(|output| output.status.success())).unwrap()));
    let (v1, v2) = on_trial(&shop, adopt);
    // The status is written after a conflict, throttling and errors; the template cannot be written at all.
    proxy.fail(vec![
        Fault::once("PATCH", "guardedrollouts/checkout/status", &[409, 429, 503, 500, 409, 504, 503].map(Bad::Answer)),
        Fault::always("PATCH", "deployments/checkout", Bad::Answer(503)),
    ]);
    ok(&a.tell(&["revert", KEY, "--yes", "--no-wait"]));
    shop.until("checkout", "reverting", |status| status["phase"] == "Reverting");
    assert!(proxy.served().len() >= 7, "{:?}", proxy.served());
    assert_eq!(shop.image_of("checkout"), v2);

    // Its replica is gone; another one, which can write, takes over and goes on.
    let b = shop.replica("b", &[]);
    let ready = || shop.log("b").contains("the controller runs").then_some(());
    assert!(bed::eventually(SOON, ready).is_some(), "{}", shop.log("b"));
    a.kill();
    let killed = backstop::world::clock::instant();
    restored(&shop, &v1);
    println!("from the kill of the active replica to the template back: {:?}", killed.elapsed());
    drop(b);
}

/// An admission policy of somebody else's that keeps an image out of Deployments.
fn objection(image: &str) -> (Value, Value) {
    let kind = |kind: &str, spec: Value| {
        let version = "admissionregistration.k8s.io/v1";
        serde_json::json!({"apiVersion": version, "kind": kind, "metadata": {"name": "friday"}, "spec": spec})
    };
    let policy = serde_json::json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [
            {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]},
        ]},
        "validations": [{"expression": format!("object.spec.template.spec.containers[0].image != '{image}'"), "message": "not on a Friday"}],
    });
    let binding = serde_json::json!({"policyName": "friday", "validationActions": ["Deny"]});
    (kind("ValidatingAdmissionPolicy", policy), kind("ValidatingAdmissionPolicyBinding", binding))
}

fn kubectl_finds_the_plug_in(shop: &Shop) {
    let folder = shop.folder().join("plug-ins");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_backstop"), folder.join("kubectl-backstop")).unwrap();
    let mut kubectl = std::process::Command::new(bed::tool("kubectl").expect("kubectl"));
    kubectl.args(["backstop", "status"]).env("PATH", &folder).env("HOME", shop.folder());
    let status = ok(&kubectl.env("KUBECONFIG", shop.cluster.admin().kubeconfig()).output().unwrap());
    assert!(status.contains(KEY) && status.contains("Watching"), "{status}");
}

fn a_dry_run_tries_what_the_revert_writes(shop: &Shop, v1: &str, v2: &str) {
    let dry = shop.on_call(&["revert", "checkout", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(10), "{dry:?}");
    let before = shop.cluster.get("deployment", &["checkout", "--namespace=store"]);
    assert_eq!(before["spec"]["template"]["spec"]["containers"][0]["image"], v2);
    assert!(before["metadata"]["annotations"]["backstop.dev/reverting"].is_null(), "nothing is kept: {before}");
    // Whatever the API server has against the write of the template, it says before it matters.
    let (policy, binding) = objection(v1);
    shop.cluster.apply(&policy.to_string());
    shop.cluster.apply(&binding.to_string());
    let objects = || Some(shop.on_call(&["revert", "checkout", "--dry-run"])).filter(|dry| dry.status.code() == Some(5));
    let said = bed::eventually(SOON, objects).unwrap_or_else(|| panic!("{:?}", shop.on_call(&["revert", "checkout", "--dry-run"])));
    assert!(String::from_utf8_lossy(&said.stderr).contains("not on a Friday"), "{said:?}");
    let flags = shop.on_call(&["revert", "checkout", "--dry-run", "--flag-only"]);
    assert_eq!(flags.status.code(), Some(0), "what would not be written is not tried: {flags:?}");
    shop.cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "friday"]);
    let lets = || (shop.on_call(&["revert", "checkout", "--dry-run"]).status.code() == Some(10)).then_some(());
    assert!(bed::eventually(SOON, lets).is_some(), "{:?}", shop.on_call(&["revert", "checkout", "--dry-run"]));
    let deployment = shop.cluster.get("deployment", &["checkout", "--namespace=store"]);
    let written = |object: &Value| (object["metadata"]["generation"].clone(), object["metadata"]["annotations"].clone());
    assert_eq!(written(&deployment), written(&before), "no dry run wrote anything");
}

#[test]
fn on_call_reverts_without_the_controller_and_it_takes_over() {
    if let Some(missing) = missing() {
        return bed::skip("on_call_reverts_without_the_controller_and_it_takes_over", missing);
    }
    let shop = Shop::open();
    let a = shop.replica("a", &[]);
    let adopt = || drop(ok(&bed::eventually(SOON, || Some(a.tell(&["adopt", KEY])).filter(|output| output.status.success())).unwrap()));
    let (v1, v2) = on_trial(&shop, adopt);
    shop.until("checkout", "ready for a revert", |status| {
        status["conditions"].as_array().is_some_and(|all| all.iter().any(|one| one["type"] == "RevertReady" && one["status"] == "True"))
    });
    // The controller is scaled to zero.
    a.kill();
    let status = ok(&shop.on_call(&["status"]));
    assert!(status.contains(KEY) && status.contains("Watching"), "{status}");
    kubectl_finds_the_plug_in(&shop);
    a_dry_run_tries_what_the_revert_writes(&shop, &v1, &v2);
    ok(&shop.on_call(&["ready", "checkout"]));
    ok(&shop.on_call(&["revert", "checkout", "--yes", "--reason", "INC-7"]));
    assert_eq!(shop.image_of("checkout"), v1, "{}", short(&shop.status("checkout")));
    let status = shop.status("checkout");
    assert_eq!((&status["phase"], &status["reason"]), (&"Recovering".into(), &"BS090".into()), "{}", short(&status));
    let message = status["message"].to_string();
    assert!(message.contains("INC-7") && message.contains("waits until"), "why, and what for: {message}");
    let changes = ok(&shop.on_call(&["changes"]));
    assert!(changes.contains("kubernetes:admin"), "{changes}");
    assert_eq!(quarantined(&shop), 0, "a command line signs nothing");
    let lift = shop.on_call(&["lift", "checkout", "--reason", "no"]);
    assert!(String::from_utf8_lossy(&lift.stderr).contains("for the controller itself"), "{lift:?}");

    // Nobody gets in between, though no controller runs: but for a person with the right.
    let agent = shop.cluster.service_account("store", "deployer");
    shop.cluster.kubectl(&[
        "create",
        "rolebinding",
        "deployer",
        "--namespace=store",
        "--clusterrole=edit",
        "--serviceaccount=store:deployer",
    ]);
    let v3 = format!("main={}", shop.build.unsigned("v3"));
    let deploy = ["set", "image", "--namespace=store", "deployment/checkout", &v3];
    let refused = || agent.kubectl(&deploy, "").err().filter(|said| said.contains("a revert is under way"));
    assert!(bed::eventually(SOON, refused).is_some(), "{:?}", agent.kubectl(&deploy, ""));
    shop.cluster.kubectl(&[deploy.as_slice(), &["--dry-run=server"]].concat());

    // It comes back, and goes on from there: what was quarantined is signed now.
    let a = shop.replica("a", &[]);
    let signed = bed::eventually(SOON, || (quarantined(&shop) == 1).then_some(()));
    assert!(signed.is_some(), "{}\n{}", shop.cluster.kubectl(&["get", "grec", "--namespace", SYSTEM]), shop.log("a"));
    // A command line beside it is heard, too.
    ok(&shop.on_call(&["freeze", "checkout"]));
    let heard = || Some(ok(&a.tell(&["status", KEY, "--json"]))).filter(|text| text.contains("frozen"));
    assert!(bed::eventually(SOON, heard).is_some(), "{}", shop.log("a"));
    ok(&shop.on_call(&["freeze", "--all", "--reason", "INC-9"]));
    let recorded = || shop.status("checkout")["records"].to_string().contains("INC-9").then_some(());
    assert!(bed::eventually(SOON, recorded).is_some(), "who, and why: {}", short(&shop.status("checkout")));
    assert!(shop.cluster.get("configmap", &["backstop-freezes", "--namespace", SYSTEM])["data"]["_all"].is_string());
    // The revert ends, and with it what kept others out.
    assert!(agent.kubectl(&deploy, "").expect_err("it is not over").contains("a revert is under way"));
    ok(&a.tell(&["lift", KEY, "--reason", "INC-7 is over"]));
    let over = || agent.kubectl(&deploy, "").ok();
    assert!(bed::eventually(SOON, over).is_some(), "{:?} {}", agent.kubectl(&deploy, ""), short(&shop.status("checkout")));
}
