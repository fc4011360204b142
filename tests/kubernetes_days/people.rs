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
