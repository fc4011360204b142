//! The API server has a bad day.

use std::time::Duration;

use crate::faults::{Bad, Fault};
use crate::replica;
use crate::rig::{Day, needs_cluster};

#[test]
fn the_api_server_is_down_in_the_middle_of_a_revert() {
    needs_cluster!("the_api_server_is_down_in_the_middle_of_a_revert");
    let day = Day::open("down");
    let controller = day.on_trial();
    day.fails(vec![Fault::always("", "/", Bad::Cut)]);
    day.proxy.close_watches();
    let before = day.proxy.served().len();
    std::thread::scope(|scope| {
        let ordered = scope.spawn(|| day.revert(&controller));
        day.until("tried", || day.proxy.served().len() > before + 5);
        assert_eq!(day.image(), day.house.v2, "nothing reaches it");
        day.mended();
        ordered.join().unwrap();
    });
    day.until_reverted();
}

#[test]
fn the_api_server_is_slow_refuses_and_loses_its_answers_in_the_middle_of_a_revert() {
    needs_cluster!("the_api_server_is_slow_refuses_and_loses_its_answers_in_the_middle_of_a_revert");
    let day = Day::open("slow");
    let controller = day.on_trial();
    let slow = Bad::Slow(Duration::from_millis(700));
    day.fails(vec![
        Fault::once("PATCH", "guardedrollouts/checkout/status", &[slow, Bad::Lost, Bad::Answer(409), Bad::Lost, Bad::Answer(429)]),
        Fault::once("PATCH", "deployments/checkout", &[Bad::Answer(409), Bad::Answer(429), slow, Bad::Answer(500), Bad::Lost, Bad::Lost]),
        Fault::once("GET", "deployments/checkout", &[Bad::Answer(503), Bad::Cut, slow, slow]),
    ]);
    day.revert(&controller);
    day.until_reverted();
    assert!(day.proxy.served().contains(&Bad::Lost), "{:?}", day.proxy.served());
    day.mended();
    day.until("held", || day.deployment()["metadata"]["annotations"]["backstop.dev/quarantined"] == day.house.v2.as_str());
    // `v1`, `v2`, and back: another template in between would be a revision of its own.
    let revision = day.deployment()["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone();
    assert_eq!(revision, "3", "a write whose answer was lost is not made twice");
}

/// Guards beside the one of `checkout`: more than may look or be marked at once.
const CROWD: usize = 60;

#[test]
fn a_controller_starts_beside_an_api_server_that_hangs_for_a_crowd_of_guards_at_rest() {
    needs_cluster!("a_controller_starts_beside_an_api_server_that_hangs_for_a_crowd_of_guards_at_rest");
    let day = Day::open("crowd");
    day.settled().kill();
    let workload = day.workload().replace("checkout", "member").replace("replicas: 2", "replicas: 0");
    let member = |n: usize| {
        let guard = replica::guard(day.namespace, &format!("member-{n}"));
        format!("{}\n---\n{guard}\n", workload.replace("member", &format!("member-{n}")))
    };
    day.house.cluster.apply(&(0..CROWD).map(member).collect::<Vec<_>>().join("---\n"));
    day.fails(vec![Fault::always("", "/deployments/member-", Bad::Slow(Duration::from_mins(10)))]);
    let _controller = day.controller();
    day.until("hanging", || day.proxy.served().len() > CROWD / 2);
    day.deploy_crashing(&day.house.v2);
    day.until_reverted();
    // Whose requests hung comes again, in its turn.
    day.mended();
    let path = format!("/apis/apps/v1/namespaces/{}/deployments?labelSelector=backstop.dev/guarded", day.namespace);
    day.until("marked", || day.object(&path)["items"].as_array().map(Vec::len) == Some(CROWD + 1));
}

#[test]
fn watches_are_closed_and_their_history_is_compacted_away() {
    needs_cluster!("watches_are_closed_and_their_history_is_compacted_away");
    let day = Day::open("watches");
    let _controller = day.settled();
    // Nothing is told for a while; when watches can be opened again, what they missed is gone.
    day.fails(vec![Fault::always("GET", "watch=", Bad::Cut)]);
    day.proxy.close_watches();
    day.until("closed", || day.proxy.served().len() > 3);
    day.deploy_crashing(&day.house.v2);
    day.fails(vec![Fault::once("GET", "watch=", &[Bad::Gone, Bad::Answer(410), Bad::Gone, Bad::Gone, Bad::Gone, Bad::Gone, Bad::Gone])]);
    day.until_reverted();
    assert!(day.proxy.served().contains(&Bad::Gone), "{:?}", day.proxy.served());
}

#[test]
fn rights_are_taken_away_in_the_middle_of_a_revert_and_given_back() {
    needs_cluster!("rights_are_taken_away_in_the_middle_of_a_revert_and_given_back");
    let day = Day::open("rights");
    let controller = day.on_trial();
    day.held_up(|| day.revert(&controller));
    day.until("tried again", || day.proxy.served().len() > 1);
    day.kubectl(&["delete", "rolebindings", "--all"]);
    day.mended();
    day.until("without rights", || {
        let asked = ["auth", "can-i", "patch", "deployments", "--as=system:serviceaccount:backstop-system:backstop", "--namespace"];
        day.house.cluster.admin().kubectl(&[asked.as_slice(), &[day.namespace]].concat(), "").is_err()
    });
    assert_eq!(day.image(), day.house.v2, "nothing is written without the right to");
    day.give_rights();
    day.until_reverted();
}
