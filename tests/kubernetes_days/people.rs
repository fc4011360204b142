//! Others write while a revert runs, and after it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::rig::{Day, needs_cluster};

#[test]
fn only_a_person_with_the_right_supersedes_a_revert() {
    needs_cluster!("only_a_person_with_the_right_supersedes_a_revert");
    let day = Day::open("superseded");
    let (controller, agent) = (day.on_trial(), day.agent());
    day.held_up(|| day.revert(&controller));
    // The fence is up, or the template goes back over what the agent wrote.
    let _ = day.set_image(&agent, &day.house.v3);
    day.mended();
    day.until_reverted();

    day.set_image(&day.house.cluster.admin(), &day.house.v3).unwrap();
    day.until("the person's is on trial", || day.phase() == "Watching");
    assert_eq!(day.image(), day.house.v3);
}

#[test]
fn an_agent_that_edits_an_annotation_in_a_loop_delays_no_revert() {
    needs_cluster!("an_agent_that_edits_an_annotation_in_a_loop_delays_no_revert");
    let day = Day::open("loop");
    let (controller, agent) = (day.on_trial(), day.agent());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let edits = scope.spawn(|| {
            let mut edits = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let edit = format!("note={edits}");
                let done = agent.kubectl(&["annotate", "deployment", "checkout", "--overwrite", "--namespace", day.namespace, &edit], "");
                edits += u32::from(done.is_ok());
            }
            edits
        });
        day.until("edited", || day.deployment()["metadata"]["annotations"]["note"].is_string());
        day.revert(&controller);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| day.until_reverted()));
        over.store(true, Ordering::Relaxed);
        let edits = edits.join().unwrap();
        assert!(ended.is_ok() && edits > 1, "{edits} edits");
    });
}

#[test]
fn what_is_quarantined_is_applied_again_and_again_and_by_an_undo() {
    needs_cluster!("what_is_quarantined_is_applied_again_and_again_and_by_an_undo");
    let day = Day::open("gitops");
    let (controller, agent) = (day.on_trial(), day.agent());
    day.revert(&controller);
    day.until_reverted();
    day.until("held", || day.deployment()["metadata"]["annotations"]["backstop.dev/quarantined"] == day.house.v2.as_str());
    for _ in 0..5 {
        let said = day.set_image(&agent, &day.house.v2).expect_err("it is quarantined");
        assert!(said.contains("quarantined") || said.contains("a revert is under way"), "{said}");
        let undone = agent.kubectl(&["rollout", "undo", "deployment/checkout", "--namespace", day.namespace], "");
        assert!(undone.is_err(), "{undone:?}");
    }
    assert_eq!(day.image(), day.house.v1);
}

#[test]
fn an_undo_by_hand_ends_the_trial() {
    needs_cluster!("an_undo_by_hand_ends_the_trial");
    let day = Day::open("undo");
    let _controller = day.on_trial();
    day.kubectl(&["rollout", "undo", "deployment/checkout"]);
    day.until("at rest with what is known good", || day.image() == day.house.v1 && day.phase() == "Idle");
    assert_eq!(day.status()["stable"]["image"], day.house.v1.as_str());
}

#[test]
fn what_loosens_a_guard_waits_for_a_person_with_the_verb() {
    needs_cluster!("what_loosens_a_guard_waits_for_a_person_with_the_verb");
    let day = Day::open("loosened");
    let controller = day.settled();
    let (alice, key) = (day.house.cluster.user("alice"), day.key());
    day.kubectl(&["create", "role", "editor", "--verb=get,patch,update,delete", "--resource=guardedrollouts.backstop.dev"]);
    day.kubectl(&["create", "rolebinding", "alice", "--role=editor", "--user=alice"]);
    let patch = |user: &crate::cluster::User, patch: &str| {
        user.kubectl(&["patch", "gro", "checkout", "--namespace", day.namespace, "--type=merge", "--patch", patch], "")
    };
    let approved = || {
        let conditions = day.status()["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|one| one["type"] == "Approved").unwrap_or_default()
    };
    // A person without the verb writes, and nothing comes of it; a controller that starts afterwards knows that as well.
    patch(
        &alice,
        r#"{"spec":{"objectives":[{"name":"availability","good":"50%","ratio":{"bad":"errors_total","total":"requests_total"}}]}}"#,
    )
    .unwrap();
    day.until("held back", || approved()["status"] == "False");
    let said = approved()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("objectives") && said.contains("backstop.dev/approved=2"), "{said}");
    let shown = |controller: &crate::replica::Replica| String::from_utf8(controller.tell(&["status", &key, "--json"]).stdout).unwrap();
    day.until("shown to whoever asks", || shown(&controller).contains("which loosens"));
    controller.kill();
    let controller = day.controller();
    day.until("shown by the next one", || shown(&controller).contains("which loosens"));
    assert_eq!(approved()["status"], "False");

    let approve = |user: &crate::cluster::User, generation: &str| {
        let annotation = format!("backstop.dev/approved={generation}");
        user.kubectl(&["annotate", "gro", "checkout", "--namespace", day.namespace, "--overwrite", &annotation], "")
    };
    let said = approve(&alice, "2").expect_err("she has no such right");
    assert!(said.contains("`loosen`"), "{said}");
    let said = alice.kubectl(&["delete", "gro", "checkout", "--namespace", day.namespace], "").expect_err("nor gets she rid of it");
    assert!(said.contains("`loosen`"), "{said}");
    let said = alice.kubectl(&["label", "gro", "checkout", "--namespace", day.namespace, "tier=none"], "").expect_err("nor labels it");
    assert!(said.contains("`loosen`"), "{said}");
    let admin = day.house.cluster.admin();
    let said = approve(&admin, "1").expect_err("that is not what is written");
    assert!(said.contains("generation"), "{said}");
    approve(&admin, "2").unwrap();
    day.until("in force", || approved()["status"] == "True");
    // What tightens needs nobody.
    patch(&alice, r#"{"spec":{"watch":{"for":"1h","holdback":"0%"}}}"#).unwrap();
    day.until("in force", || {
        let in_force = day.status()["inForce"].as_str().unwrap_or_default().to_owned();
        approved()["status"] == "True" && in_force.contains("1h") && in_force.contains("50%")
    });
}
