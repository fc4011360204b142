//! A canary without a router: a share of the pods is a share of the requests.

use backstop::core::spec::Percent;
use backstop::core::work::{Action, Fence, Lane};
use serde_json::json;

use crate::rig::Rig;

fn rig(name: &str) -> Rig {
    Rig::deployment(name, 4, &json!({"canary": {"route": {"replicaRatio": {}}, "steps": [{"weight": "20%", "bake": "2m"}]}}))
}

#[test]
fn a_share_of_pods_comes_and_goes_behind_the_same_service() {
    crate::needs_cluster!("a_share_of_pods_comes_and_goes_behind_the_same_service");
    let rig = rig("ratio");
    let a = rig.stable();
    let stable_pods = rig.pods(&a);
    let b = rig.deploys('b', &json!({}));
    rig.does(&rig.arm(&b, true));
    rig.does(&rig.step(&b, 20.0));
    assert_eq!((rig.behind_service(), rig.observed().weights[&b.id].percent()), (5, 20.0));
    rig.does(&rig.step(&b, 50.0));
    assert_eq!((rig.behind_service(), rig.pods(&a).len()), (8, 4));
    rig.does(&rig.back());
    assert_eq!(rig.behind_service(), 4, "the candidate's pods are out");
    assert!(rig.does(&rig.restore(&rig.release(&a))));
    rig.does(&rig.arm(&b, false));
    assert_eq!(rig.pods(&a), stable_pods, "no stable pod moved");
}

#[test]
fn a_promotion_rolls_the_workload_with_a_baseline_and_the_way_back_ends_without_one() {
    crate::needs_cluster!("a_promotion_rolls_the_workload_with_a_baseline_and_the_way_back_ends_without_one");
    let rig = rig("rolled");
    let a = rig.stable();
    let b = rig.deploys('b', &json!({}));
    rig.does(&rig.arm(&b, true));
    rig.does(&rig.step(&b, 20.0));
    rig.does(&rig.step(&b, 90.0));
    let copy = rig.copy().expect("the baseline");
    assert_eq!((&copy["metadata"]["name"], &copy["spec"]["replicas"]), (&json!("rolled-baseline"), &json!(1)));
    let seen = rig.until("the rest is gone", |seen| seen.observed.arms.values().all(|arm| arm.ready == arm.wanted));
    assert_eq!((seen.observed.arms[&a].ready, seen.observed.arms[&b.id].ready), (1, 4));

    // A breach while it is watched: what is left of stable grows while the workload rolls back.
    rig.once(&rig.back());
    rig.does(&rig.restore(&rig.release(&a)));
    rig.does(&rig.back());
    let seen = rig.until("only stable is left", |seen| seen.observed.arms.len() == 1);
    assert_eq!((seen.observed.arms[&a].wanted, rig.copy().is_none()), (4, true));

    let c = rig.deploys('c', &json!({}));
    rig.does(&rig.arm(&c, true));
    rig.does(&rig.step(&c, 100.0));
    rig.does(&rig.promote(&c));
    let all = [(c.id.clone(), Percent::FULL)].into();
    rig.does(&rig.effect(Action::EnsureWeights { weights: all }, Fence::Stable(c.id.clone()), Lane::Forward));
    let seen = rig.until("only the new one is left", |seen| seen.observed.arms.len() == 1);
    assert_eq!((seen.observed.arms[&c.id].ready, rig.copy().is_none()), (4, true));
}
