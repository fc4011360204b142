//! The same with the admission policies in place: an agent deploys, backstop acts, and a person does without the controller.

use backstop::core::ledger::Standing;
use backstop::core::work::{Action, Fence, Lane};
use backstop::spec::crd;
use backstop::world::kubernetes::mark::Marks;
use serde_json::{Value, json};

use crate::bed;
use crate::cluster::deployment;
use crate::rig::{Rig, SOON, act_as, backstop, image, shared};

#[test]
fn what_an_agent_deploys_waits_and_what_goes_back_does_not() {
    crate::needs_cluster!("what_an_agent_deploys_waits_and_what_goes_back_does_not");
    let mut rig =
        Rig::deployment("kept", 2, &json!({"canary": {"route": {"replicaRatio": {}}, "steps": [{"weight": "34%", "bake": "2m"}]}}));
    let cluster = std::sync::Arc::clone(&rig.cluster);
    let (agent, backstop) = (cluster.service_account("default", "deployer"), backstop(&cluster));
    cluster.kubectl(&["create", "clusterrolebinding", "deployer", "--clusterrole=edit", "--serviceaccount=default:deployer"]);
    cluster.apply(&crd::admission("backstop-system"));
    let mark = ["label", "deployment", "kept", "backstop.dev/guarded=driven"];
    let held = || cluster.admin().kubectl(&[mark.as_slice(), &["--dry-run=server"]].concat(), "").is_err().then_some(());
    assert!(bed::eventually(SOON, held).is_some(), "the admission policies hold");
    assert!(bed::eventually(SOON, || backstop.kubectl(&mark, "").ok()).is_some());
    rig.becomes(&backstop);
    let (a, pods) = (rig.stable(), rig.pods(&rig.stable()));

    let deploy = |digit: char| agent.kubectl(&["set", "image", "deployment/kept", &format!("main={}", image(digit))], "");
    let paused = || {
        let _ = deploy('b');
        (rig.object()["spec"]["paused"] == true).then_some(())
    };
    assert!(bed::eventually(SOON, paused).is_some(), "{}", rig.object());
    let seen = rig.see().spec.expect("a template");
    assert_eq!(seen.requester.as_deref(), Some("system:serviceaccount:default:deployer"));
    assert!(seen.paused && !seen.own && seen.requester_uid.is_some());
    let b = rig.template();
    rig.know(&b, Standing::Unproven);
    rig.does(&rig.arm(&b, true));
    rig.does(&rig.step(&b, 34.0));
    rig.does(&rig.back());
    rig.know(&b, Standing::Bad);
    assert!(rig.does(&rig.restore(&rig.release(&a))));
    let back = rig.see().spec.expect("a template");
    assert!(!back.paused && back.own && back.requester.is_none(), "{back:?}");
    rig.does(&rig.effect(Action::EnsureHold { quarantined: vec![b.id.clone()] }, Fence::None, Lane::Forward));
    let said = deploy('b').expect_err("it is quarantined");
    assert!(said.contains("quarantined"), "{said}");

    // A person's own rights, without the controller: what changes a template is paused, and un-paused by a second write.
    deploy('c').expect("another release may be deployed");
    let c = rig.template();
    rig.know(&c, Standing::Bad);
    rig.becomes(&cluster.admin());
    assert!(rig.does(&rig.restore(&rig.release(&a))));
    assert_eq!((rig.template().id, &rig.object()["spec"]["paused"]), (a.clone(), &Value::Null));
    rig.becomes(&backstop);
    rig.does(&rig.arm(&b, false));
    rig.until("only stable runs", |seen| seen.observed.arms.len() == 1);
    assert_eq!(rig.pods(&a), pods, "no stable pod moved");
}

#[test]
fn replicas_that_note_members_at_once_take_none_from_each_other() {
    crate::needs_cluster!("replicas_that_note_members_at_once_take_none_from_each_other");
    let cluster = shared();
    cluster.kubectl(&["create", "namespace", "noted"]);
    let names: Vec<String> = (0..8).map(|number| format!("noted-{number}")).collect();
    for name in &names {
        cluster.apply(&deployment(name, 0, &image('a'), None).replace("namespace: default", "namespace: noted"));
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let user = backstop(&cluster);
        let replicas = futures::future::join_all(names.iter().map(|_| act_as(&user))).await;
        let guarded = &Marks { guarded: Some("driven"), reverting: None };
        let noted = names.iter().zip(&replicas).map(|(name, replica)| replica.mark("noted", "Deployment", name, guarded));
        assert!(futures::future::join_all(noted).await.into_iter().all(|noted| noted == Ok(true)), "each writes its own");
    });
    let kept = || cluster.get("configmap", &["backstop-guarded", "--namespace=noted"])["data"].clone();
    let all_kept = kept();
    for name in &names {
        assert_eq!(all_kept[format!("Deployment.{name}")], format!("app={name}"), "{all_kept}");
    }
    // One replica writes what waits in one go, and forgets none of it.
    let mark_all = |guarded| {
        runtime.block_on(async {
            let replica = act_as(&backstop(&cluster)).await;
            let marks = &Marks { guarded, reverting: None };
            let noted = names.iter().map(|name| replica.mark("noted", "Deployment", name, marks));
            assert!(futures::future::join_all(noted).await.into_iter().all(|noted| noted.is_ok()));
        });
    };
    mark_all(None);
    assert!(kept().is_null(), "{}", kept());
    mark_all(Some("driven"));
    assert_eq!(kept(), all_kept);
}
