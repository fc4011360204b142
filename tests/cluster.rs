//! The control plane that later tests rely on does what they rely on.

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

use std::time::Duration;

use backstop::world::clock;
use cluster::{Cluster, deployment};

const SOON: Duration = Duration::from_mins(1);
const FIRST: &str = "registry.example/shop/checkout@sha256:1111111111111111111111111111111111111111111111111111111111111111";
const SECOND: &str = "registry.example/shop/checkout@sha256:2222222222222222222222222222222222222222222222222222222222222222";

#[test]
fn pods_of_real_deployments_are_ready_roll_out_and_fail_on_demand() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("pods_of_real_deployments_are_ready_roll_out_and_fail_on_demand", missing);
    }
    let begin = clock::instant();
    let cluster = Cluster::start(2);
    eprintln!("the cluster is up after {:.1?}", begin.elapsed());

    cluster.apply(&deployment("checkout", 5, FIRST, None));
    let ready = |image: &'static str| {
        let pods = cluster.get("pods", &["--selector=app=checkout"]);
        let pods = pods.as_array().expect("a list");
        let live: Vec<_> = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
        let as_wanted =
            live.iter().filter(|pod| cluster::is_ready(pod) && pod["status"]["containerStatuses"][0]["imageID"] == image).count();
        (live.len() == 5 && as_wanted == 5).then_some(())
    };
    assert!(bed::eventually(SOON, || ready(FIRST)).is_some(), "five pods are ready: {}", cluster.get("pods", &[]));

    let rolled = clock::instant();
    cluster.kubectl(&["set", "image", "deployment/checkout", &format!("main={SECOND}")]);
    assert!(bed::eventually(SOON, || ready(SECOND)).is_some(), "the new image rolls out: {}", cluster.get("pods", &[]));
    eprintln!("five pods were replaced within {:.1?}", rolled.elapsed());

    for (behaviour, reason) in [("crash", "CrashLoopBackOff"), ("pull", "ImagePullBackOff")] {
        cluster.apply(&deployment(behaviour, 1, FIRST, Some(behaviour)));
        let selector = format!("--selector=app={behaviour}");
        let waits = || {
            let pods = cluster.get("pods", &[&selector]);
            (pods[0]["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason).then_some(())
        };
        assert!(bed::eventually(SOON, waits).is_some(), "{behaviour}: {}", cluster.get("pods", &[&selector]));
    }
    cluster.apply(&deployment("unready", 1, FIRST, Some("unready")));
    let running = || (cluster.get("pods", &["--selector=app=unready"])[0]["status"]["phase"] == "Running").then_some(());
    assert!(bed::eventually(SOON, running).is_some(), "a pod that is never ready runs");
    assert!(!cluster::is_ready(&cluster.get("pods", &["--selector=app=unready"])[0]), "and is not ready");
}

#[test]
fn an_agent_has_its_own_name_and_no_rights_but_those_given() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("an_agent_has_its_own_name_and_no_rights_but_those_given", missing);
    }
    let cluster = Cluster::start(1);
    cluster.apply(&deployment("checkout", 1, FIRST, None));
    let agent = cluster.service_account("default", "agent");
    let change = format!("main={SECOND}");
    let set = ["set", "image", "deployment/checkout", &change];
    let refused = agent.kubectl(&set, "").expect_err("an agent has no rights at first");
    assert!(refused.contains("system:serviceaccount:default:agent"), "{refused}");

    cluster.kubectl(&["create", "role", "deployer", "--verb=get,patch", "--resource=deployments.apps"]);
    cluster.kubectl(&["create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount=default:agent"]);
    let allowed = bed::eventually(SOON, || agent.kubectl(&set, "").ok());
    assert!(allowed.is_some(), "with the role it may patch Deployments");
    let by_agent = |write: &serde_json::Value| {
        write["user"]["username"] == "system:serviceaccount:default:agent"
            && write["verb"] == "patch"
            && write["objectRef"]["name"] == "checkout"
            && write["responseStatus"]["code"] == 200
    };
    assert_eq!(cluster.writes().iter().filter(|write| by_agent(write)).count(), 1, "the API server's audit log has the one write");
}
