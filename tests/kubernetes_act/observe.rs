//! Where nothing is driven: a rolling update of others is seen, and a revert writes the template.

use backstop::core::input::Outcome;
use backstop::core::ledger::Standing;
use backstop::core::spec::Percent;
use serde_json::{Value, json};

use crate::rig::{Rig, image};

fn document(kind: &str, name: &str) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": image('a')}]}},
    });
    if kind == "StatefulSet" {
        spec["replicas"] = json!(2);
        spec["serviceName"] = json!(name);
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn rolls_and_goes_back(rig: &Rig, resource: &str) {
    let a = rig.stable();
    assert!(!rig.does(&rig.arm(&rig.release(&a), true)), "nothing is driven");
    rig.cluster.kubectl(&["set", "image", resource, &format!("main={}", image('b'))]);
    let b = rig.template();
    rig.know(&b, Standing::Bad);
    let seen = rig.until("the new one runs alone", |seen| {
        seen.observed.arms.len() == 1 && seen.observed.arms.get(&b.id).is_some_and(|arm| arm.ready == 2 && arm.wanted == 2)
    });
    assert_eq!((seen.observed.weights[&b.id], seen.observed.current), (Percent::FULL, Some(b.id.clone())));
    let (back, restore) = (rig.back(), rig.restore(&rig.release(&a)));
    assert!(matches!(rig.once(&back), Outcome::Transient { .. }), "traffic is not back while the bad pods serve");
    assert!(rig.does(&restore));
    rig.does(&back);
    assert!(!rig.does(&restore), "twice is as once");
    rig.until("the old one runs alone", |seen| {
        seen.observed.arms.len() == 1 && seen.observed.arms.get(&a).is_some_and(|arm| arm.ready == 2)
    });
    assert!(rig.see().members[&a].iter().all(|member| member.hash.is_some() && member.other_images.is_empty()));
}

#[test]
fn a_deployment_a_stateful_set_and_a_daemon_set_get_their_template_back() {
    crate::needs_cluster!("a_deployment_a_stateful_set_and_a_daemon_set_get_their_template_back");
    let rig = Rig::deployment("seen", 2, &json!({"observe": {}}));
    rolls_and_goes_back(&rig, "deployment/seen");
    let rig = Rig::of("statefulSet", "ordered", 2, &document("StatefulSet", "ordered"));
    rolls_and_goes_back(&rig, "statefulset/ordered");
    let rig = Rig::of("daemonSet", "everywhere", 2, &document("DaemonSet", "everywhere"));
    rolls_and_goes_back(&rig, "daemonset/everywhere");
}

#[test]
fn a_stateful_set_that_broke_at_its_first_pod_is_mended() {
    crate::needs_cluster!("a_stateful_set_that_broke_at_its_first_pod_is_mended");
    let rig = Rig::of("statefulSet", "stuck", 2, &document("StatefulSet", "stuck"));
    let a = rig.stable();
    let patch = json!({"spec": {"template": {
        "metadata": {"annotations": {"test/behaviour": "crash"}}, "spec": {"containers": [{"name": "main", "image": image('b')}]},
    }}});
    rig.cluster.kubectl(&["patch", "statefulset", "stuck", "--type=strategic", "--patch", &patch.to_string()]);
    let b = rig.template();
    rig.know(&b, Standing::Bad);
    let failing = |seen: &backstop::world::kubernetes::Seen| seen.observed.arms.get(&b.id).is_some_and(|arm| arm.failing.is_some());
    rig.until("its first pod crashes", failing);
    assert!(rig.does(&rig.restore(&rig.release(&a))));
    rig.until("the old one runs alone", |seen| {
        seen.observed.arms.len() == 1 && seen.observed.arms.get(&a).is_some_and(|arm| arm.ready == 2)
    });
    rig.does(&rig.back());
}
