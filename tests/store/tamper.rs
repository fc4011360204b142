//! Every byte that the log, ledger or evidence consists of is guarded: change one, and verification fails.

use std::fs;
use std::path::Path;

use backstop::core::record::{Decision, Event, Record};
use backstop::core::{input::SignalId, judge::Interval, release::Digest};
use backstop::world::audit::{self, Broken, Filter, Proof, Verified};
use backstop::world::keys::{Keys, Public};
use backstop::world::store::{LoadError, Store};
use rusqlite::Connection;

use super::common::{commit, commit_up_to, open, release};

const KEY: &str = "shop/checkout";

/// A store with two workloads, several checkpoints, a part kept as evidence, and indexed evidence.
async fn filled(dir: &Path) -> Store {
    let store = open(dir);
    for n in 0..3 {
        commit_up_to(&store, KEY, n, n + 1).await.unwrap();
        commit_up_to(&store, "shop/cart", n, n + 1).await.unwrap();
        store.drain().await.unwrap();
    }
    store.commit(KEY, &large()).await.unwrap();
    let bundle = store.put_evidence(b"bundle".to_vec()).await.unwrap();
    store.index_evidence(&Digest::of(b"image"), &[bundle]).await.unwrap();
    store.drain().await.unwrap();
    store
}

/// A commit with a decision that rests on more than fits a leaf.
fn large() -> backstop::core::work::Commit {
    let mut commit = commit(KEY, 3);
    let interval = |edge| Interval {
        signal: SignalId("availability".into()),
        edge,
        scored: true,
        candidate: None,
        stable: None,
        candidate_lacks: None,
        stable_lacks: None,
    };
    commit.records[1].event = Event::Decision { decision: Decision::Revert, intervals: (0..2000).map(interval).collect() };
    std::sync::Arc::make_mut(commit.records[0].request.as_mut().unwrap()).rationale = Some("\u{1}".repeat(9000));
    commit
}

fn database(store: &Store) -> Connection {
    Connection::open(store.dir().join("backstop.db")).unwrap()
}

fn verify(store: &Store) -> Result<Verified, Broken> {
    audit::verify(store.dir(), store.public())
}

#[tokio::test]
async fn an_untouched_store_verifies_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let whole = Verified { entries: 14, checkpoints: 4, workloads: 2, ledger: 6, evidence: 2, undrained: 0, elsewhere: 0 };
    assert_eq!(verify(&store), Ok(whole));
    commit_up_to(&store, "shop/cart", 3, 4).await.unwrap();
    assert_eq!(verify(&store), Ok(Verified { undrained: 2, ..whole }));
    // Public keys kept elsewhere do; those of another controller do not.
    let public = Public::parse(&store.public().controller_pem(), &store.public().log.to_string()).unwrap();
    assert!(audit::verify(store.dir(), &public).is_ok());
    let other = Keys::open(&dir.path().join("other")).unwrap();
    assert!(audit::verify(store.dir(), other.public()).is_err());
}

#[tokio::test]
async fn a_record_too_long_for_a_leaf_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let entries: Vec<_> = audit::show(store.dir(), Filter { from: 12, ..Filter::default() }).unwrap().map(Result::unwrap).collect();
    assert!(entries[1].text.len() < 4096 && entries[1].line["event"]["evidence"].is_string());
    let records: Vec<Record> = entries.iter().map(|entry| entry.record().unwrap().unwrap()).collect();
    assert_eq!(records[1], large().records[1]);
    assert!(entries[0].line["rationale"].as_str().unwrap().len() < 1024, "cut by its length in JSON");
    assert_eq!(entries[0].line["rationale_sha256"], Digest::of("\u{1}".repeat(9000).as_bytes()).to_string());
}

/// Columns that verification answers for.
const COLUMNS: &[(&str, &str)] = &[
    ("leaf", "bytes"),
    ("leaf", "hash"),
    ("checkpoint", "note"),
    ("ledger", "record"),
    ("ledger", "signature"),
    ("ledger", "key"),
    ("ledger", "release"),
    ("workload", "state"),
    ("workload", "key"),
    ("tree", "edge"),
    ("evidence", "digest"),
];

#[tokio::test]
async fn every_changed_byte_of_every_column_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let database = database(&store);
    let mut tried = 0;
    for (table, column) in COLUMNS {
        let rows: Vec<(i64, Vec<u8>)> = database
            .prepare(&format!("SELECT row_number() OVER (), CAST({column} AS BLOB) FROM {table}"))
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        for (row, bytes) in rows {
            // Every byte of one row of each kind, and a spread of those of the others.
            let step = if row == 1 { 1 } else { 97 };
            for at in (0..bytes.len()).step_by(step) {
                let text = ["note", "key", "release", "digest"].contains(column);
                let mut changed = bytes.clone();
                changed[at] ^= if text { 1 } else { 0x20 };
                if text && std::str::from_utf8(&changed).is_err() {
                    continue;
                }
                let as_type = if text { "CAST(?1 AS TEXT)" } else { "?1" };
                database.execute_batch("SAVEPOINT t").unwrap();
                let set = format!("UPDATE {table} SET {column} = {as_type} WHERE CAST({column} AS BLOB) = ?2");
                // A key that collides with another row cannot be written: nothing was changed.
                let done = database.execute(&set, rusqlite::params![changed, bytes]);
                database.execute_batch("RELEASE t").unwrap();
                if done.is_err() {
                    continue;
                }
                assert!(verify(&store).is_err(), "{table}.{column} row {row} byte {at}");
                database.execute(&set, rusqlite::params![bytes, changed]).unwrap();
                tried += 1;
            }
        }
    }
    assert!(verify(&store).is_ok());
    assert!(tried > 1500, "{tried}");
    println!("{tried} changed bytes, all found");
}

#[tokio::test]
async fn rows_that_are_deleted_moved_or_replaced_by_older_ones_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let database = database(&store);
    database.execute_batch("CREATE TABLE old AS SELECT * FROM ledger").unwrap();
    commit_up_to(&store, KEY, 4, 7).await.unwrap();
    store.drain().await.unwrap();
    assert!(verify(&store).is_ok());
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    for change in [
        "DELETE FROM leaf WHERE idx = 5",
        "DELETE FROM leaf WHERE idx = 0",
        "UPDATE leaf SET idx = idx + 100 WHERE idx = 19",
        "DELETE FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint)",
        "UPDATE checkpoint SET size = 5 WHERE size = 4",
        "DELETE FROM ledger WHERE seq = 1",
        // Signed once, and not the newest: a quarantine that is to be forgotten.
        "UPDATE ledger SET (record, signature) = (SELECT record, signature FROM old WHERE old.seq = ledger.seq)",
        "UPDATE ledger SET key = 'shop/other' WHERE key = 'shop/cart'",
        "DELETE FROM workload WHERE key = 'shop/cart'",
        "UPDATE workload SET revision = revision + 1",
        "UPDATE workload SET generation = generation + 1",
        "UPDATE tree SET size = size + 1",
        "INSERT INTO node VALUES(8, 0, zeroblob(32))",
        "INSERT INTO evidence VALUES('sha256:00', 'sha256:11')",
    ] {
        let copy = dir.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        clone(store.dir(), &copy);
        let database = Connection::open(copy.join("backstop.db")).unwrap();
        assert!(database.execute(change, []).unwrap() > 0, "{change}");
        let found = audit::verify(&copy, store.public());
        assert!(found.is_err(), "{change}");
        println!("{change}: {}", found.unwrap_err());
    }
    assert!(verify(&store).is_ok());
}

/// Copies a folder whose database has no write-ahead log to copy.
fn clone(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            clone(&entry.path(), &target);
        } else if !entry.file_name().to_string_lossy().contains("-wal") {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_log_that_is_cut_short_is_found_by_the_checkpoint_outside() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    // Everything as it was before the last commits: database and keys are consistent with each other.
    database(&store).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let copy = dir.path().join("copy");
    clone(store.dir(), &copy);
    commit_up_to(&store, KEY, 4, 6).await.unwrap();
    store.drain().await.unwrap();
    assert!(audit::verify(&copy, store.public()).is_ok());
    fs::copy(store.dir().join("checkpoint"), copy.join("checkpoint")).unwrap();
    let found = audit::verify(&copy, store.public()).unwrap_err();
    assert_eq!(found.index, Some(14));
    assert!(found.what.contains("cut short: it has 14 entries, the signed file `checkpoint` says 18"), "{found}");
    // Nor does a log that grows again hide it: the file is not written over.
    let shortened = Store::open(&copy, &dir.path().join("spool-2")).unwrap();
    for expected in 4..8 {
        let mut other = commit(KEY, expected);
        other.records[0].phase = "idle".into();
        shortened.commit(KEY, &other).await.unwrap();
    }
    assert!(shortened.drain().await.unwrap_err().0.contains("contradicts the signed file"));
    assert_eq!(audit::verify(&copy, store.public()).unwrap_err().index, Some(17));
    fs::remove_file(copy.join("checkpoint")).unwrap();
    assert!(audit::verify(&copy, store.public()).unwrap_err().what.contains("is missing"));
}

#[tokio::test]
async fn a_checkpoint_of_another_key_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let path = store.dir().join("checkpoint");
    let (own, other) = (fs::read_to_string(&path).unwrap(), filled(&dir.path().join("other")).await);
    let witness = fs::read_to_string(other.dir().join("checkpoint")).unwrap();
    for left in [witness.as_str(), "", "garbage"] {
        fs::write(&path, left).unwrap();
        let refused = store.drain().await.unwrap_err();
        assert!(refused.0.contains("not written over"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), left);
    }
    fs::write(&path, own).unwrap();
    store.drain().await.unwrap();
    assert!(verify(&store).is_ok());
}

#[tokio::test]
async fn the_checkpoint_outside_and_evidence_files_are_guarded() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let mut files = vec![store.dir().join("checkpoint")];
    for folder in fs::read_dir(store.dir().join("evidence/sha256")).unwrap() {
        files.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    assert_eq!(files.len(), 3);
    for file in files {
        let whole = fs::read(&file).unwrap();
        let _ = fs::remove_file(&file);
        assert!(verify(&store).is_err(), "{} deleted", file.display());
        for at in (0..whole.len()).step_by(1 + whole.len() / 200) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&file, changed).unwrap();
            assert!(verify(&store).is_err(), "{} byte {at}", file.display());
        }
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert!(verify(&store).is_err(), "{} cut", file.display());
        fs::write(&file, &whole).unwrap();
    }
    assert!(verify(&store).is_ok());
}

#[tokio::test]
async fn a_changed_ledger_record_is_never_a_target() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let change = "UPDATE ledger SET record = CAST(replace(CAST(record AS TEXT), '\"quarantined\":true', '\"quarantined\":false') AS BLOB)";
    database(&store).execute(change, []).unwrap();
    let listed = store.ledger("shop/cart").await.unwrap();
    let bad = listed.iter().filter(|listed| listed.record.is_err()).count();
    assert_eq!((listed.len(), bad), (3, 1));
    let error = store.ledger_record("shop/cart", &release(2).id).await.unwrap_err();
    assert!(matches!(&error, LoadError::LedgerUntrusted { .. }), "{error}");
    // Signed for one workload, it counts for no other.
    database(&store).execute("UPDATE ledger SET key = 'shop/new' WHERE key = 'shop/checkout'", []).unwrap();
    assert!(store.ledger("shop/new").await.unwrap().iter().all(|listed| listed.record.is_err()));
}

#[tokio::test]
async fn an_entry_is_proven_to_whoever_has_the_public_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit_up_to(&store, KEY, 0, 300).await.unwrap();
    store.drain().await.unwrap();
    let entries: Vec<_> = audit::show(store.dir(), Filter::default()).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 600);
    for index in (0..600).step_by(37).chain([255, 256, 511, 512, 599]) {
        let proof = audit::prove(store.dir(), index).unwrap().unwrap();
        assert_eq!(Proof::parse(&proof.to_string()).unwrap(), proof);
        let entry = &entries[usize::try_from(index).unwrap()].text;
        proof.verify(entry.as_bytes(), &store.public().log).unwrap();
        assert!(proof.verify(entry.replace("accepted", "refused.").as_bytes(), &store.public().log).is_err());
    }
    assert_eq!(audit::prove(store.dir(), 600).unwrap(), None);
    assert!(audit::verify(store.dir(), store.public()).is_ok());
}
