//! Disks that are full or read-only, files that others hold, and files that are damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use backstop::world::audit;
use backstop::world::store::{CommitError, Recovered, Spooled, Store};
use rusqlite::Connection;

use super::common::{commit, commit_up_to, open};

const KEY: &str = "shop/checkout";

/// A small file system of its own, where the test may mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(dir: &Path) -> Option<Self> {
        fs::create_dir(dir).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(dir).output();
        if done.is_ok_and(|done| done.status.success()) {
            return Some(Self(dir.to_owned()));
        }
        assert!(std::env::var_os("BACKSTOP_TESTS_STRICT").is_none_or(|strict| strict != "1"), "mounting a tmpfs is not permitted");
        println!("skipped: mounting a tmpfs is not permitted");
        None
    }

    fn again(&self, options: &str) -> bool {
        Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).output().unwrap().status.success()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn unavailable(result: &Result<impl std::fmt::Debug, CommitError>) -> &str {
    match result {
        Err(CommitError::Unavailable(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_full_disk_takes_nothing_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(&dir.path().join("disk")) else { return };
    // The spool is on another disk.
    let spool = dir.path().join("spool");
    let store = Store::open(&mount.0.join("store"), &spool).unwrap();
    let mut revision = 0;
    let failure = loop {
        match store.commit(KEY, &commit(KEY, revision)).await {
            Ok(_) => revision += 1,
            failure => break failure,
        }
        assert!(revision < 5000, "1 MiB must fill up");
    };
    assert!(unavailable(&failure).contains("full"), "{failure:?}");
    assert!(revision > 20, "{revision}");
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, revision);
    assert_eq!(store.spool(KEY, &commit(KEY, revision)).await, Spooled::Disk);
    // The next one does not overtake it.
    assert!(unavailable(&store.commit(KEY, &commit(KEY, revision + 1)).await).contains("full"));
    assert_eq!(store.spool(KEY, &commit(KEY, revision + 1)).await, Spooled::Disk);
    assert!(mount.again("size=8m"));
    commit_up_to(&store, KEY, revision + 2, revision + 3).await.unwrap();
    assert!(store.spooled().is_empty());
    store.drain().await.unwrap();
    assert_eq!(audit::verify(store.dir(), store.public()).unwrap().entries, 2 * (revision + 3));
    drop(store);
}

#[tokio::test]
async fn a_read_only_disk_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(&dir.path().join("disk")) else { return };
    let spool = dir.path().join("spool");
    let store = Store::open(&mount.0.join("store"), &spool).unwrap();
    commit_up_to(&store, KEY, 0, 5).await.unwrap();
    drop(store);
    // The kernel refuses while the store's thread still has the file open.
    for _ in 0..100 {
        if mount.again("ro") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fs::write(mount.0.join("probe"), b"").is_err(), "the file system is read-only");
    let store = Store::open(&mount.0.join("store"), &spool).unwrap();
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, 5);
    let refused = store.commit(KEY, &commit(KEY, 5)).await;
    assert!(unavailable(&refused).contains("backstop.db"), "{refused:?}");
    assert_eq!(store.spool(KEY, &commit(KEY, 5)).await, Spooled::Disk);
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, 6);
    assert!(mount.again("rw"));
    assert_eq!(store.recover().await.unwrap(), Recovered { committed: 1, ..Recovered::default() });
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, 6);
}

#[tokio::test]
async fn a_database_that_another_holds_is_waited_for_and_then_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(&dir.path().join("store"), &dir.path().join("spool"), Duration::from_millis(200)).unwrap();
    commit_up_to(&store, KEY, 0, 1).await.unwrap();
    let other = Connection::open(store.dir().join("backstop.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.commit(KEY, &commit(KEY, 1)).await;
    assert!(unavailable(&refused).contains("locked"), "{refused:?}");
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, 1, "reads go on");
    store.spool(KEY, &commit(KEY, 1)).await;
    other.execute_batch("ROLLBACK").unwrap();
    commit_up_to(&store, KEY, 2, 3).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit_up_to(&store, KEY, 0, 200).await.unwrap();
    let path = store.dir().join("backstop.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let side = |suffix: &str| path.with_file_name(format!("backstop.db-{suffix}"));
    for damage in ["nothing of it", "header", "schema", "pages"] {
        let mut bytes = whole.clone();
        match damage {
            "nothing of it" => bytes = b"this is no database".repeat(300),
            "header" => bytes[..16].fill(0),
            "schema" => bytes[100..4096].fill(0xa5),
            _ => bytes[4096..].fill(0xa5),
        }
        let _ = (fs::remove_file(side("wal")), fs::remove_file(side("shm")));
        fs::write(&path, &bytes).unwrap();
        let opened = Store::open(&dir.path().join("store"), &dir.path().join("spool"));
        let what = match opened {
            Err(unavailable) => unavailable.0,
            Ok(store) => {
                assert!(store.load(KEY).await.is_err(), "{damage}");
                let what = unavailable(&store.commit(KEY, &commit(KEY, 200)).await).to_owned();
                assert!(matches!(store.spool(KEY, &commit(KEY, 200)).await, Spooled::Disk));
                what
            }
        };
        assert!(what.contains("damaged") || what.contains("not a database"), "{damage}: {what}");
        assert_eq!(fs::read(&path).unwrap().len(), bytes.len(), "{damage}");
        assert!(audit::verify(&dir.path().join("store"), &keys(dir.path())).is_err(), "{damage}");
        let _ = fs::remove_file(dir.path().join("spool"));
    }
    // With the file back, all is back.
    let _ = (fs::remove_file(side("wal")), fs::remove_file(side("shm")));
    fs::write(&path, &whole).unwrap();
    assert_eq!(open(dir.path()).load(KEY).await.unwrap().unwrap().revision, 200);
}

fn keys(dir: &Path) -> backstop::world::keys::Public {
    backstop::world::keys::Public::load(&dir.join("store/keys")).unwrap()
}

#[tokio::test]
async fn another_programs_database_and_lost_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit_up_to(&store, KEY, 0, 1).await.unwrap();
    drop(store);
    for lost in ["keys", "keys/controller.pem", "keys/log.pem"] {
        let (place, aside) = (dir.path().join("store").join(lost), dir.path().join("aside"));
        fs::rename(&place, &aside).unwrap();
        let refused = Store::open(&dir.path().join("store"), &dir.path().join("spool")).err().unwrap();
        assert!(refused.0.contains("is gone") && refused.0.contains("restore the file from a backup"), "{lost}: {refused}");
        assert!(!place.exists(), "none is made in its place");
        fs::rename(&aside, &place).unwrap();
    }

    let database = Connection::open(dir.path().join("store/backstop.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    let refused = Store::open(&dir.path().join("store"), &dir.path().join("spool")).err().unwrap();
    assert!(refused.0.contains("layout 99"), "{refused}");
    database.pragma_update(None, "application_id", 5).unwrap();
    let refused = Store::open(&dir.path().join("store"), &dir.path().join("spool")).err().unwrap();
    assert!(refused.0.contains("not a database of backstop"), "{refused}");
}

#[tokio::test]
async fn the_store_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit_up_to(&store, KEY, 0, 1).await.unwrap();
    for (name, mode) in [("", 0o700), ("backstop.db", 0o600), ("backstop.db-wal", 0o600), ("../spool", 0o600)] {
        assert_eq!(fs::metadata(store.dir().join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
}
