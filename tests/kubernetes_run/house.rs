//! A cluster that knows backstop, and what its tests write there.

use std::fs;
use std::path::Path;

use backstop::core::input::{Commanded, Input, Verb};
use backstop::core::ledger::{Ledger, LedgerRecord, Standing};
use backstop::core::reason::Reason;
use backstop::core::record::{Decision, Event, Record};
use backstop::core::release::{Digest, Image, Release, Template};
use backstop::core::state::State;
use backstop::core::time::{Mono, Now};
use backstop::core::work::Commit;
use backstop::world::kubernetes::{signing, store::Store};
use backstop::world::store as local;

use crate::bed;
use crate::cluster::{Cluster, User};

/// Backstop's namespace.
pub(crate) const SYSTEM: &str = "backstop-system";
/// The guard that is shipped as an example.
pub(crate) const KEY: &str = "store/checkout";

/// A cluster with the custom resources, backstop's namespace, and the namespace `store` of the service.
pub(crate) fn cluster(nodes: usize) -> Cluster {
    let cluster = Cluster::start(nodes);
    cluster.apply(&bed::run(Path::new(env!("CARGO_BIN_EXE_backstop")), &["crd"]));
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
    cluster.kubectl(&["create", "namespace", SYSTEM]);
    cluster.kubectl(&["create", "namespace", "store"]);
    cluster
}

/// A document that is shipped.
pub(crate) fn shipped(file: &str) -> String {
    fs::read_to_string(bed::repository("rollouts").join(file)).expect("a shipped document")
}

/// The store of a replica with its own folder.
pub(crate) async fn replica(user: &User, folder: &Path) -> Store {
    let client = user.client().await;
    signing::provide(&client, SYSTEM, &folder.join("store/keys")).await.expect("the signing key");
    let local = local::Store::open(&folder.join("store"), &folder.join("spool")).expect("a store");
    Store::controller(client, SYSTEM, local)
}

/// A release like `n` others.
pub(crate) fn release(n: u64) -> Release {
    let image = Image { repository: "registry.example/shop/checkout".into(), digest: Digest::of(&n.to_be_bytes()) };
    Release::new(Template::process(image, vec!["bin/serve".into()], [("N".to_owned(), n.to_string())].into()), Some(format!("v{n}")))
}

/// The moment at which revision `n` is made.
pub(crate) fn now(n: u64) -> Now {
    Now { wall: jiff::Timestamp::from_second(1_790_000_000 + i64::try_from(n).unwrap()).unwrap(), mono: Mono(n * 1000) }
}

/// A ledger record as revision `n` would make it.
pub(crate) fn ledger(n: u64, standing: Standing, quarantined: bool) -> LedgerRecord {
    let last_good = (standing == Standing::KnownGood).then(|| now(n));
    LedgerRecord { release: release(n), standing, quarantined, since: now(n), last_good, why: "BS031".into() }
}

/// The commit that follows `before`: a command, a decision, and the ledger records that `changed`.
pub(crate) fn commit(before: &State, changed: Vec<LedgerRecord>) -> Commit {
    let revision = before.revision + 1;
    let record = |event, reason| Record {
        at: now(revision),
        resource_target: KEY.into(),
        revision,
        generation: 1,
        event,
        phase: "idle".into(),
        reason,
        release: None,
        artifact_digest: None,
        request: None,
        result: "accepted".into(),
    };
    let command = Input::Commanded(Commanded { verb: Verb::Pause, request: backstop::core::actor::Request::default() });
    let mut records: Vec<LedgerRecord> = before.ledger.records().to_vec();
    for one in &changed {
        records.retain(|known| known.release.id != one.release.id);
        records.push(one.clone());
    }
    let state = State { revision, generation: 1, mono: now(revision).mono, ledger: Ledger::of(records), ..before.clone() };
    Commit {
        expected: before.revision,
        state: state.into(),
        records: vec![
            record(Event::Input(Box::new(command)), None),
            record(Event::Decision { decision: Decision::KnownGood, intervals: Vec::new() }, Some(Reason::Healthy {})),
        ],
        ledger: changed,
        journal: backstop::core::journal::Journal::default(),
    }
}
