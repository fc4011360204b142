//! The controller as a process, on a cluster with simulated pods.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use backstop::spec::crd;
use serde_json::{Value, json};

use crate::bed;
use crate::cluster::{self, Cluster, User};
use crate::house::{self, SYSTEM};
use crate::images::Build;
use crate::replica::{self, Replica, missing, short};

/// How long a step may take on a busy machine.
const SOON: Duration = Duration::from_mins(1);
/// The service's guard.
const KEY: &str = "store/checkout";

/// A cluster with backstop's resources and admission policies, its service account, and a guarded Deployment.
pub(crate) struct Shop {
    pub(crate) cluster: Cluster,
    pub(crate) build: Build,
    pub(crate) backstop: User,
    folder: tempfile::TempDir,
}

impl Shop {
    /// With `image` running in two pods, all of it ready.
    pub(crate) fn open() -> Self {
        let cluster = house::cluster(1);
        let build = Build::new();
        let backstop = cluster.backstop();
        cluster.apply(&build.policy());
        cluster.apply(&replica::nowhere().to_string());
        cluster.apply(&crd::admission(SYSTEM));
        let shop = Self { cluster, build, backstop, folder: tempfile::tempdir().unwrap() };
        replica::write_principals(shop.folder(), "store");
        shop
    }

    /// A guard of the Deployment `name` that observes it.
    pub(crate) fn guard(name: &str) -> Value {
        replica::guard("store", name)
    }

    pub(crate) fn deploy(&self, name: &str, image: &str) {
        let yaml = cluster::deployment(name, 2, image, None).replace("namespace: default", "namespace: store");
        self.cluster.apply(&yaml);
    }

    /// Starts a replica with a folder of its own, or the one that it had.
    pub(crate) fn replica(&self, identity: &str, arguments: &[&str]) -> Replica {
        self.replica_named(identity, identity, arguments, None)
    }

    /// The same with a folder `folder`, and another way to the API server.
    pub(crate) fn replica_named(&self, folder: &str, identity: &str, arguments: &[&str], kubeconfig: Option<&Path>) -> Replica {
        Replica::start(self.folder(), folder, identity, kubeconfig.unwrap_or_else(|| self.backstop.kubeconfig()), arguments)
    }

    /// Runs the command line as on-call does: with the administrator's kubeconfig, and nothing of the controller's.
    pub(crate) fn on_call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(arguments).arg("--kubeconfig").arg(self.cluster.admin().kubeconfig());
        command.arg("--data-dir").arg(self.folder.path().join("on-call")).env("HOME", self.folder.path());
        command.output().unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self, identity: &str) -> String {
        replica::log(self.folder(), identity)
    }

    pub(crate) fn status(&self, name: &str) -> Value {
        self.cluster.get("gro", &[name, "--namespace=store"])["status"].clone()
    }

    /// Waits until the guard's status is so.
    pub(crate) fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = bed::eventually(SOON, || Some(self.status(name)).filter(&holds));
        found.unwrap_or_else(|| panic!("not {what}: {}\n{}", short(&self.status(name)), self.log("a")))
    }

    pub(crate) fn image_of(&self, name: &str) -> String {
        let found = self.cluster.get("deployment", &[name, "--namespace=store"]);
        found["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) fn ok(output: &Output) -> String {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    text.into_owned()
}

#[test]
fn a_running_service_is_found_adopted_deployed_and_reverted_across_a_kill() {
    if let Some(missing) = missing() {
        return bed::skip("a_running_service_is_found_adopted_deployed_and_reverted_across_a_kill", missing);
    }
    let shop = Shop::open();
    let (v1, v2) = (shop.build.image("v1"), shop.build.image("v2"));
    shop.deploy("checkout", &v1);
    let replica = shop.replica("a", &[]);
    shop.cluster.apply(&Shop::guard("checkout").to_string());

    let found = shop.until("checkout", "found", |status| status["stable"]["image"] == v1.as_str());
    assert_eq!((&found["phase"], &found["conditions"][0]["status"]), (&"Idle".into(), &"True".into()), "{}", short(&found));
    let marked =
        || shop.cluster.get("deployment", &["checkout", "--namespace=store"])["metadata"]["labels"]["backstop.dev/guarded"] == "observed";
    assert!(bed::eventually(SOON, || marked().then_some(())).is_some(), "{}", shop.log("a"));
    ok(&replica.tell(&["adopt", KEY, "--reason", "it has run for a year"]));
    shop.until("checkout", "known good", |status| status["verdict"] == "Pass");
    shop.until("checkout", "ready for a revert", |status| status["conditions"][0]["status"] == "True");

    // An agent that no principal names may not deploy; a person may.
    shop.cluster.admin().kubectl(&["set", "image", "--namespace=store", "deployment/checkout", &format!("main={v2}")], "").unwrap();
    let watching = shop.until("checkout", "judged", |status| status["phase"] == "Watching");
    assert_eq!(watching["candidate"]["image"], v2.as_str());
    let records = audit_of(&watching);
    assert!(records.contains("kubernetes:admin") || shop.log("a").contains("kubernetes:admin"), "the stamp says who: {}", shop.log("a"));

    // The only replica dies; the next one goes on from the status, and a person's revert is obeyed at once.
    replica.kill();
    let replica = shop.replica("a", &[]);
    let revert =
        || Some(replica.tell(&["revert", KEY, "--yes", "--no-wait", "--reason", "it is slow"])).filter(|output| output.status.success());
    assert!(bed::eventually(SOON, revert).is_some(), "{:?}\n{}", replica.tell(&["revert", KEY, "--yes", "--no-wait"]), shop.log("a"));
    let restored = bed::eventually(SOON, || (shop.image_of("checkout") == v1).then_some(()));
    assert!(restored.is_some(), "{}\n{}", short(&shop.status("checkout")), shop.log("a"));
    let quarantined = || {
        let records = shop.cluster.get("grec", &["--namespace", SYSTEM]);
        let bad = records.as_array()?.iter().filter(|one| one["status"]["quarantined"] == true).count();
        (bad == 1 && records.as_array()?.len() == 2).then_some(())
    };
    assert!(bed::eventually(SOON, quarantined).is_some(), "{}", shop.cluster.get("grec", &["--namespace", SYSTEM]));

    // The guard is deleted in the middle of it and created again: what is quarantined stays out.
    shop.cluster.kubectl(&["delete", "gro", "checkout", "--namespace=store"]);
    shop.cluster.apply(&Shop::guard("checkout").to_string());
    shop.until("checkout", "found again", |status| status["stable"]["image"] == v1.as_str());
    shop.cluster.kubectl(&["set", "image", "--namespace=store", "deployment/checkout", &format!("main={v2}")]);
    let turned_away = || shop.log("a").lines().rev().find(|line| line.contains("BS050")).map(str::to_owned);
    assert!(bed::eventually(SOON, turned_away).is_some(), "{}", shop.log("a"));
}

fn audit_of(status: &Value) -> String {
    status["records"].to_string()
}

#[test]
fn a_document_that_cannot_be_read_is_told_and_stalls_nobody() {
    if let Some(missing) = missing() {
        return bed::skip("a_document_that_cannot_be_read_is_told_and_stalls_nobody", missing);
    }
    let shop = Shop::open();
    // As an older definition let it in: a field that is no more, and a share that is no number.
    let (name, path) = ("guardedrollouts.backstop.dev", "/spec/versions/0/schema/openAPIV3Schema");
    let loose = json!([{"op": "replace", "path": path, "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]);
    shop.cluster.kubectl(&["patch", "crd", name, "--type=json", "--patch", &loose.to_string()]);
    let mut broken = Shop::guard("broken");
    broken["spec"]["analysis"] = json!({"threshold": "much"});
    broken["spec"]["objectives"][0]["good"] = json!(["99%"]);
    let applied = || shop.cluster.admin().apply(&broken.to_string()).ok();
    assert!(bed::eventually(SOON, applied).is_some());
    let mut dangling = Shop::guard("dangling");
    dangling["spec"]["source"] = json!("nobody");
    shop.cluster.apply(&dangling.to_string());
    let v1 = shop.build.image("v1");
    shop.deploy("checkout", &v1);
    shop.cluster.apply(&Shop::guard("checkout").to_string());
    let _replica = shop.replica("a", &["--namespaces", "store,other"]);
    shop.until("checkout", "found", |status| status["stable"]["image"] == v1.as_str());
    let said = |name: &str, what: &str| {
        let condition =
            |status: &Value| status["conditions"][0]["status"] == "False" && status["conditions"][0]["message"].to_string().contains(what);
        shop.until(name, what, condition)
    };
    said("broken", "analysis");
    said("dangling", "there is no GuardSource `nobody`");
    // Mended, it is guarded.
    shop.deploy("dangling", &v1);
    shop.cluster.apply(&Shop::guard("dangling").to_string());
    shop.until("dangling", "guarded", |status| status["conditions"][0]["status"] == "True" && status["stable"]["image"] == v1.as_str());
}
