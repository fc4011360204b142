//! State and ledger in the API server.

use backstop::core::ledger::Standing;
use backstop::core::release::Digest;
use backstop::core::state::State;
use backstop::world::audit::{self, Filter};
use backstop::world::evidence::{Attachment, Evidence, Via, load_evidence, store_evidence};
use backstop::world::store::{CommitError, Committed};

use crate::house::{self, KEY, SYSTEM, commit, ledger, release};
use crate::{bed, cluster};

/// Commits, and returns the state that is in place then.
async fn put(store: &backstop::world::kubernetes::store::Store, commit: backstop::core::work::Commit) -> State {
    let revision = commit.expected + 1;
    assert_eq!(store.commit(KEY, &commit).await, Ok(Committed { revision }));
    State::clone(&commit.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_a_status_and_only_one_decides() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("two_replicas_share_a_status_and_only_one_decides", missing);
    }
    let cluster = house::cluster(1);
    cluster.apply(&house::shipped("canary-deployment.yaml"));
    let folder = tempfile::tempdir().unwrap();
    let admin = cluster.admin();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let (a, b) = tokio::join!(house::replica(&admin, &a), house::replica(&admin, &b));
    assert_eq!(a.local().public().controller_pem(), b.local().public().controller_pem(), "one key, whoever came first");
    assert_eq!((a.uid(KEY), a.load(KEY).await), (b.uid(KEY), Ok(None)));

    let first = put(&a, commit(&State::new(), vec![ledger(1, Standing::KnownGood, false)])).await;
    let shown = cluster.get("gro", &["checkout", "--namespace=store"]);
    assert_eq!((&shown["status"]["phase"], &shown["status"]["verdict"]), (&"Idle".into(), &"Pass".into()));
    assert_eq!(shown["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(b.load(KEY).await, Ok(Some(first.clone())), "what one commits the other restores, ledger and all");

    // Somebody edits the object: the swap conflicts, and goes through with the same decision.
    cluster.kubectl(&["label", "gro", "checkout", "--namespace=store", "team=shop"]);
    let second = put(&b, commit(&first, vec![ledger(2, Standing::Bad, true)])).await;
    // Somebody else decided: the swap is lost.
    assert_eq!(a.commit(KEY, &commit(&first, Vec::new())).await, Err(CommitError::LostSwap { found: 2 }));
    assert_eq!(a.load(KEY).await, Ok(Some(second.clone())));
    // An answer got lost, and the commit is sent again.
    assert_eq!(b.commit(KEY, &commit(&first, vec![ledger(2, Standing::Bad, true)])).await, Ok(Committed { revision: 2 }));

    // Audit records ride in the status until they are in a log, and leave it with the next commit.
    let riding = |cluster: &cluster::Cluster| cluster.get("gro", &["checkout", "--namespace=store"])["status"]["records"].clone();
    assert_eq!(riding(&cluster).as_array().map(Vec::len), Some(4), "of both commits: nobody drained the first");
    assert!(b.drain().await.unwrap().entries >= 4, "what the other replica left is taken along");
    b.drain().await.unwrap();
    let third = put(&b, commit(&second, Vec::new())).await;
    assert_eq!(riding(&cluster).as_array().map(Vec::len), Some(2));
    b.drain().await.unwrap();
    let logged: Vec<_> =
        audit::show(b.local().dir(), Filter::default()).unwrap().map(|entry| entry.unwrap().line["id"].to_string()).collect();
    assert_eq!(logged.len(), 6, "each once: {logged:?}");

    // Deleting the guard loses neither ledger nor quarantine.
    cluster.kubectl(&["delete", "gro", "checkout", "--namespace=store"]);
    assert!(
        matches!(b.commit(KEY, &commit(&third, Vec::new())).await, Err(CommitError::Unavailable(what)) if what.contains("no GuardedRollout"))
    );
    cluster.apply(&house::shipped("canary-deployment.yaml"));
    let again = b.load(KEY).await.unwrap().expect("the ledger is there");
    assert_eq!(again.revision, 0);
    assert_eq!(again.ledger, third.ledger);
    put(&b, commit(&again, Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_record_is_believed_with_the_controllers_signature_alone() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("a_ledger_record_is_believed_with_the_controllers_signature_alone", missing);
    }
    let cluster = house::cluster(1);
    cluster.apply(&house::shipped("canary-deployment.yaml"));
    let folder = tempfile::tempdir().unwrap();
    let store = house::replica(&cluster.admin(), &folder.path().join("a")).await;
    assert_eq!(store.load(KEY).await, Ok(None));
    let records = vec![ledger(1, Standing::KnownGood, false), ledger(2, Standing::Bad, true)];
    let state = put(&store, commit(&State::new(), records.clone())).await;
    for record in &records {
        assert_eq!(store.ledger_record(KEY, &record.release).await, Ok(Some(record.clone())), "before it is in its object");
    }
    store.drain().await.unwrap();
    put(&store, commit(&state, Vec::new())).await;
    assert!(cluster.get("gro", &["checkout", "--namespace=store"])["status"]["ledger"].is_null());
    let shown = cluster.kubectl(&["get", "grec", "--namespace", SYSTEM]);
    assert!(shown.contains("knownGood") && shown.contains("bad") && shown.contains("true"), "{shown}");

    // Forged: what was bad is said to be known good, in the object and in the status.
    let objects = cluster.get("grec", &["--namespace", SYSTEM]);
    let bad = objects.as_array().unwrap().iter().find(|one| one["status"]["quarantined"] == true).unwrap();
    let name = bad["metadata"]["name"].as_str().unwrap();
    let text = bad["status"]["record"].as_str().unwrap().replace(r#""bad","quarantined":true"#, r#""knownGood","quarantined":false"#);
    let patch = serde_json::json!({"status": {"standing": "knownGood", "quarantined": false, "record": text}}).to_string();
    cluster.kubectl(&["patch", "grec", name, "--namespace", SYSTEM, "--subresource=status", "--type=merge", "--patch", &patch]);
    let said = store.ledger_record(KEY, &release(2)).await.unwrap_err().to_string();
    assert!(said.contains("signature is not the controller's"), "{said}");
    let fresh = house::replica(&cluster.admin(), &folder.path().join("b")).await;
    let believed = fresh.load(KEY).await.unwrap().unwrap();
    assert!(!believed.ledger.is_known_good(&release(2).id) && believed.ledger.is_known_good(&release(1).id));
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_there_for_every_replica_and_a_changed_byte_is_found_out() {
    if let Some(missing) = cluster::missing() {
        return bed::skip("evidence_is_there_for_every_replica_and_a_changed_byte_is_found_out", missing);
    }
    let cluster = house::cluster(1);
    let folder = tempfile::tempdir().unwrap();
    let image = release(1).template.image().clone();
    let mut evidence = Evidence::new(image.clone(), "registry.example");
    // As large as a bill of materials, and not to be compressed: it takes several objects.
    let noise: Vec<u8> = (0..100_000_u64).flat_map(|n| Digest::of(&n.to_be_bytes()).hex().as_bytes()[..20].to_vec()).collect();
    evidence.attachments.push(Attachment { via: Via::Referrer, manifest: b"{}".to_vec(), layers: vec![noise, b"a signature".to_vec()] });

    let a = house::replica(&cluster.admin(), &folder.path().join("a")).await;
    let capsule = store_evidence(&a.local().dir().join("evidence"), &evidence).unwrap();
    a.index_evidence(&image.digest, std::slice::from_ref(&capsule)).await.unwrap();
    assert!(cluster.get("configmaps", &["--namespace", SYSTEM, "--selector=backstop.dev/image"]).as_array().unwrap().len() > 1);

    let b = house::replica(&cluster.admin(), &folder.path().join("b")).await;
    assert_eq!(b.evidence_of(&image.digest).await, Ok(vec![capsule.clone()]));
    assert_eq!(load_evidence(&b.local().dir().join("evidence"), &capsule).unwrap(), evidence);

    // It cannot be edited; it can only be taken away, which is no proof of anything.
    let name = format!("evidence-{}-0", &capsule.hex()[..40]);
    let patch = ["patch", "configmap", &name, "--namespace", SYSTEM, "--type=merge", "--patch", r#"{"binaryData":{"0-of-2":"AAAA"}}"#];
    let said = cluster.admin().kubectl(&patch, "").unwrap_err();
    assert!(said.contains("immutable"), "{said}");
    cluster.kubectl(&["delete", "configmap", &name, "--namespace", SYSTEM]);
    let c = house::replica(&cluster.admin(), &folder.path().join("c")).await;
    for capsule in c.evidence_of(&image.digest).await.unwrap() {
        assert!(load_evidence(&c.local().dir().join("evidence"), &capsule).is_err());
    }
}
