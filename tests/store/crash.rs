//! Killed in the middle of it, again and again: what was acknowledged is there, and nothing is there by half.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use backstop::world::audit;
use backstop::world::store::Store;

use super::common::{commit, open};

/// Tells the child process where to write.
const DIR: &str = "BACKSTOP_TEST_STORE";

/// Workloads of the child.
const WORKLOADS: [u64; 4] = [0, 1, 2, 3];

fn key(n: u64) -> String {
    format!("shop/service-{n}")
}

/// Not a test by itself: the process that is killed. It prints `WORKLOAD REVISION` after each acknowledged commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of the test below"]
async fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = open(Path::new(&dir));
    let tasks = WORKLOADS.map(|n| tokio::spawn(run(store.clone(), n)));
    for task in tasks {
        task.await.unwrap();
    }
}

async fn run(store: Store, n: u64) {
    let key = key(n);
    let mut revision = store.load(&key).await.unwrap().map_or(0, |state| state.revision);
    loop {
        store.commit(&key, &commit(&key, revision)).await.unwrap();
        revision += 1;
        println!("acknowledged {n} {revision}");
        if revision % 3 == n % 3 {
            store.drain().await.unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = WORKLOADS.map(|_| 0);
    let mut entries = 0;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed after another number of lines each time, wherever it then is.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut acknowledge = |line: String| {
            // The test harness may print in the same line before it.
            let Some((_, rest)) = line.split_once("acknowledged ") else { return };
            let mut numbers = rest.split(' ').map(|number| number.parse::<u64>().unwrap());
            let workload = usize::try_from(numbers.next().unwrap()).unwrap();
            acknowledged[workload] = numbers.next().unwrap();
        };
        lines.by_ref().take(usize::try_from(40 + round * 23).unwrap()).for_each(&mut acknowledge);
        child.kill().unwrap();
        child.wait().unwrap();
        // A last line may be torn; those before it were acknowledged.
        let rest: Vec<String> = lines.collect();
        rest.into_iter().rev().skip(1).collect::<Vec<_>>().into_iter().rev().for_each(&mut acknowledge);

        let store = open(dir.path());
        for n in WORKLOADS {
            let (found, told) = (store.load(&key(n)).await.unwrap().unwrap(), acknowledged[usize::try_from(n).unwrap()]);
            assert!(found.revision >= told, "round {round}: {told} was acknowledged, {} is there", found.revision);
            assert_eq!(found, *commit(&key(n), found.revision - 1).state);
        }
        let before = audit::verify(store.dir(), store.public()).unwrap();
        assert!(before.entries >= entries);
        store.drain().await.unwrap();
        let after = audit::verify(store.dir(), store.public()).unwrap();
        assert_eq!((after.entries, after.undrained), (before.entries + before.undrained, 0));
        entries = after.entries;
    }
    println!("8 kills, {} commits acknowledged, {entries} entries verified", acknowledged.iter().sum::<u64>());
    assert!(acknowledged.iter().all(|told| *told > 10));
}
