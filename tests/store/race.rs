//! Several writers, one revision; many at once; what is written is read back.

use std::sync::Arc;
use std::time::Instant;

use backstop::core::work::{EffectId, Notice};
use backstop::core::{reason::Reason, release::Digest};
use backstop::world::audit::{self, Filter};
use backstop::world::clock::Clock;
use backstop::world::store::{ChangedDocument, CommitError, Recovered, Spooled, Store};

use super::common::{commit, commit_up_to, ledger, now, open, release, request};

const KEY: &str = "shop/checkout";

#[tokio::test]
async fn a_commit_is_read_back_whole_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.load(KEY).await.unwrap(), None);
    commit_up_to(&store, KEY, 0, 4).await.unwrap();
    let uid = store.uid(KEY);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.load(KEY).await.unwrap().unwrap(), *commit(KEY, 3).state);
    assert_eq!(store.workloads().await.unwrap(), [KEY]);
    assert_eq!(store.uid(KEY), uid);
    assert_ne!(store.uid("shop/cart"), uid);
    // Releases 1, 2, 0 and 1 again: in the order in which they were first seen, with the newest record.
    let listed: Vec<_> = store.ledger(KEY).await.unwrap().into_iter().map(|listed| listed.record.unwrap()).collect();
    assert_eq!(listed, [ledger(1, now(4), true), ledger(2, now(2), true), ledger(0, now(3), false)]);
    assert_eq!(store.ledger_record(KEY, &release(9).id).await, Ok(None));
}

#[tokio::test]
async fn the_log_gives_back_every_record_and_finds_by_workload_time_code_and_agent() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit_up_to(&store, KEY, 0, 3).await.unwrap();
    commit_up_to(&store, "shop/cart", 0, 2).await.unwrap();
    let drained = store.drain().await.unwrap();
    assert_eq!((drained.entries, drained.size), (10, 10));
    assert_eq!(store.drain().await.unwrap().entries, 0);
    commit_up_to(&store, KEY, 3, 4).await.unwrap();

    let all = |filter| audit::show(store.dir(), filter).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let records: Vec<_> = all(Filter { workload: Some(KEY.into()), ..Filter::default() });
    let expected: Vec<_> = (0..4).flat_map(|expected| commit(KEY, expected).records).collect();
    assert_eq!(records.iter().map(|entry| entry.record().unwrap().unwrap()).collect::<Vec<_>>(), expected);
    assert_eq!(records.last().unwrap().index, None, "it waits in the outbox");
    assert_eq!(all(Filter::default()).len(), 12);
    assert_eq!(all(Filter { from: 9, ..Filter::default() }).len(), 3);
    assert_eq!(all(Filter { code: Some("BS004".into()), ..Filter::default() }).len(), 6);
    assert_eq!(all(Filter { agent: Some("fixer".into()), ..Filter::default() }).len(), 6);
    assert_eq!(all(Filter { since: Some(now(3).wall), ..Filter::default() }).len(), 4);

    let line = &records[0].line;
    let asked = request();
    for (column, value) in [
        ("request_id", asked.id.as_str()),
        ("run_id", "run-7"),
        ("agent_id", "fixer"),
        ("agent_version", "1.2"),
        ("model", "m-1"),
        ("trigger", "issue 12"),
        ("resource_target", KEY),
        ("token_scope_id", "shop:write"),
        ("result", "accepted"),
    ] {
        assert_eq!(line[column], value, "{column}");
    }
    assert_eq!(line["credential_ttl"], 900);
    assert!(records[0].text.starts_with(r#"{"version":1,"id":"shop/checkout@1.0","timestamp":""#), "{}", records[0].text);
    assert!(!records[0].text.contains('\n'));
}

#[tokio::test]
async fn of_two_controllers_on_one_revision_exactly_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path()), Store::open(&dir.path().join("store"), &dir.path().join("spool-2")).unwrap());
    for expected in 0..50 {
        let next = commit(KEY, expected);
        let (first, second) = tokio::join!(one.commit(KEY, &next), two.commit(KEY, &next));
        let lost = CommitError::LostSwap { found: expected + 1 };
        assert!(matches!((&first, &second), (Ok(_), Err(error)) | (Err(error), Ok(_)) if *error == lost), "{first:?} {second:?}");
    }
    one.drain().await.unwrap();
    two.drain().await.unwrap();
    assert_eq!(audit::verify(one.dir(), one.public()).unwrap().entries, 100);
}

#[tokio::test]
async fn a_wrong_revision_loses_and_says_what_is_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.commit(KEY, &commit(KEY, 5)).await, Err(CommitError::LostSwap { found: 0 }));
    commit_up_to(&store, KEY, 0, 3).await.unwrap();
    assert_eq!(store.commit(KEY, &commit(KEY, 0)).await, Err(CommitError::LostSwap { found: 3 }));
    let mut odd = commit(KEY, 3);
    Arc::make_mut(&mut odd.state).revision = 7;
    assert!(matches!(store.commit(KEY, &odd).await, Err(CommitError::Unavailable(what)) if what.contains("must be 4")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_workloads_commit_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    #[allow(clippy::disallowed_methods)]
    let started = Instant::now();
    let burst: Vec<_> = (0..100).map(|n| writer(&store, n, 0, 1)).collect();
    for task in burst {
        task.await.unwrap();
    }
    let burst = started.elapsed();
    let more: Vec<_> = (0..100).map(|n| writer(&store, n, 1, 11)).collect();
    for task in more {
        task.await.unwrap();
    }
    let rest = started.elapsed().saturating_sub(burst);
    println!("100 commits at once: {burst:?}; then 1,000 from 100 tasks: {rest:?}, {:.0} commits/s", 1000.0 / rest.as_secs_f64());
    let verified = audit::verify(store.dir(), store.public()).unwrap();
    assert_eq!((verified.entries, verified.workloads), (verified.entries.min(2200), 100));
    store.drain().await.unwrap();
    assert_eq!(audit::verify(store.dir(), store.public()).unwrap().entries, 2200);
}

fn writer(store: &Store, n: u32, from: u64, to: u64) -> tokio::task::JoinHandle<()> {
    let store = store.clone();
    tokio::spawn(async move {
        commit_up_to(&store, &format!("shop/service-{n}"), from, to).await.unwrap();
        store.drain().await.unwrap();
    })
}

#[tokio::test]
async fn spooled_commits_are_read_at_once_and_written_first_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit_up_to(&store, KEY, 0, 1).await.unwrap();
    assert_eq!(store.spool(KEY, &commit(KEY, 1)).await, Spooled::Disk);
    assert_eq!(store.spool(KEY, &commit(KEY, 2)).await, Spooled::Disk);
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, 3);
    assert_eq!(store.ledger_record(KEY, &release(0).id).await.unwrap(), Some(ledger(0, now(3), false)));
    drop(store);
    // A controller that starts now sees the same, and its next commit comes after them.
    let store = open(dir.path());
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, 3);
    commit_up_to(&store, KEY, 3, 4).await.unwrap();
    assert!(store.spooled().is_empty());
    store.drain().await.unwrap();
    assert_eq!(audit::verify(store.dir(), store.public()).unwrap().entries, 8);
}

#[tokio::test]
async fn recovery_is_safe_to_repeat_and_keeps_what_was_overtaken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for expected in 0..3 {
        store.spool(KEY, &commit(KEY, expected)).await;
    }
    let spool = std::fs::read(dir.path().join("spool")).unwrap();
    assert_eq!(store.recover().await.unwrap(), Recovered { committed: 3, ..Recovered::default() });
    drop(store);
    // As if the controller had died between the commit and the emptying of the spool.
    std::fs::write(dir.path().join("spool"), &spool).unwrap();
    let store = open(dir.path());
    assert_eq!(store.recover().await.unwrap(), Recovered { already: 3, ..Recovered::default() });
    assert_eq!(store.recover().await.unwrap(), Recovered::default());
    // An answer that got lost, and one that another controller overtook.
    store.spool(KEY, &commit(KEY, 2)).await;
    let mut other = commit(KEY, 1);
    Arc::make_mut(&mut other.state).generation = 9;
    store.spool(KEY, &other).await;
    let recovered = store.recover().await.unwrap();
    assert_eq!((recovered.committed, recovered.already, recovered.lost.len()), (0, 1, 1));
    assert!(std::fs::read_to_string(dir.path().join("spool.lost")).unwrap().contains("\"generation\":9"));
    store.drain().await.unwrap();
    assert_eq!(audit::verify(store.dir(), store.public()).unwrap().entries, 6);
}

#[tokio::test]
async fn notifications_come_until_they_are_sent_and_never_twice_for_one_effect() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let reason = Reason::AlertFiring { alert: "A".into() };
    let notice = Notice { page: true, reason, text: "the alert A fires".into() };
    let effect = EffectId { revision: 3, ordinal: 1 };
    store.notify(KEY, effect, &notice).await.unwrap();
    store.notify(KEY, effect, &notice).await.unwrap();
    store.not_sent("shop/checkout@3.1", "503").await.unwrap();
    let pending = store.notices(10).await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!((pending[0].id.as_str(), pending[0].attempts, pending[0].failure.as_deref()), ("shop/checkout@3.1", 1, Some("503")));
    assert_eq!(pending[0].notice, notice);
    store.sent("shop/checkout@3.1").await.unwrap();
    store.notify(KEY, effect, &notice).await.unwrap();
    assert_eq!(store.notices(10).await.unwrap(), []);
}

#[tokio::test]
async fn documents_and_evidence_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let change = |kind, name: &str, json: Option<&str>| ChangedDocument { kind, name: name.into(), json: json.map(str::to_owned) };
    let put = [r#"{"a":1}"#, r#"{"a":2}"#].map(|json| change("GuardPolicy", "floor", Some(json)));
    store.change_documents(put.into()).await.unwrap();
    assert_eq!(store.documents("GuardPolicy").await.unwrap(), [("floor".to_owned(), r#"{"a":2}"#.to_owned())]);
    assert_eq!(store.documents("GuardedRollout").await.unwrap(), []);
    for _ in 0..2 {
        store.change_documents(vec![change("GuardPolicy", "floor", None)]).await.unwrap();
        assert_eq!(store.documents("GuardPolicy").await.unwrap(), []);
    }

    let image = Digest::of(b"image");
    let bundle = store.put_evidence(b"bundle".to_vec()).await.unwrap();
    assert_eq!(store.put_evidence(b"bundle".to_vec()).await.unwrap(), bundle);
    store.index_evidence(&image, std::slice::from_ref(&bundle)).await.unwrap();
    assert_eq!(store.evidence_of(&image).await.unwrap(), std::slice::from_ref(&bundle));
    assert_eq!(store.evidence(&bundle).await.unwrap(), b"bundle");
}

#[tokio::test]
async fn monotonic_time_goes_on_within_a_boot_and_never_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let boot = |name: &str| Some(name.to_owned());
    assert_eq!(store.anchor(boot("a"), 5_000).await.unwrap().0, 0);
    commit_up_to(&store, KEY, 0, 3).await.unwrap();
    // Same boot, ten seconds later; then a clock of that boot that went back; then another boot; then no name of the boot.
    assert_eq!(store.anchor(boot("a"), 15_000).await.unwrap().0, 10_000);
    assert_eq!(store.anchor(boot("a"), 1_000).await.unwrap().0, 10_000);
    assert_eq!(store.anchor(boot("a"), 3_000).await.unwrap().0, 12_000);
    assert_eq!(store.anchor(boot("b"), 900_000).await.unwrap().0, 12_000);
    assert_eq!(store.anchor(None, 0).await.unwrap().0, 12_000);
    store.spool(KEY, &commit(KEY, 39)).await;
    assert_eq!(store.anchor(boot("c"), 1).await.unwrap().0, 40_000);
    let clock = Clock::start(&store).await.unwrap();
    let first = clock.now();
    assert!(first.mono.0 >= 40_000 && first.mono <= clock.now().mono);
}
