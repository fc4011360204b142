//! Commits as a machine would make them.

use std::path::Path;

use backstop::core::actor::{Actor, ActorKind, Assurance, Request};
use backstop::core::input::{Commanded, Input, Verb};
use backstop::core::ledger::{LedgerRecord, Standing};
use backstop::core::reason::Reason;
use backstop::core::record::{Decision, Event, Record};
use backstop::core::release::{Digest, Image, Release, Template};
use backstop::core::state::State;
use backstop::core::time::{Mono, Now};
use backstop::core::work::Commit;
use backstop::world::store::{CommitError, Committed, Store};

/// The store in `dir`, with its spool beside it.
pub(crate) fn open(dir: &Path) -> Store {
    Store::open(&dir.join("store"), &dir.join("spool")).unwrap()
}

/// A release like `n` others.
pub(crate) fn release(n: u64) -> Release {
    let image = Image { repository: "registry.example/shop/checkout".into(), digest: Digest::of(&n.to_be_bytes()) };
    Release::new(Template::process(image, vec!["bin/serve".into()], [("N".to_owned(), n.to_string())].into()), Some(format!("v{n}")))
}

/// A ledger record of release `n`.
pub(crate) fn ledger(n: u64, now: Now, quarantined: bool) -> LedgerRecord {
    let standing = if quarantined { Standing::Bad } else { Standing::KnownGood };
    LedgerRecord { release: release(n), standing, quarantined, since: now, last_good: Some(now), why: "BS001".into() }
}

/// The request of an agent.
pub(crate) fn request() -> Request {
    Request {
        id: "req-1".into(),
        run_id: Some("run-7".into()),
        actor: Actor {
            kind: ActorKind::Agent,
            principal: "uid:1000".into(),
            assurance: Assurance::Authenticated,
            agent_id: Some("fixer".into()),
            agent_version: Some("1.2".into()),
            model: Some("m-1".into()),
            ..Actor::default()
        },
        trigger: Some("issue 12".into()),
        rationale: Some("errors \"rose\"\nafter the deployment".into()),
        token_scope_id: Some("shop:write".into()),
        credential_ttl: Some(900),
        refused_before: None,
    }
}

/// The moment at which revision `n` is made.
pub(crate) fn now(n: u64) -> Now {
    Now { wall: jiff::Timestamp::from_second(1_790_000_000 + i64::try_from(n).unwrap()).unwrap(), mono: Mono(n * 1000) }
}

/// The commit that follows revision `expected`: two records and a ledger record.
pub(crate) fn commit(key: &str, expected: u64) -> Commit {
    let revision = expected + 1;
    let record = |event, reason, request| Record {
        at: now(revision),
        resource_target: key.into(),
        revision,
        generation: 1,
        event,
        phase: "advancing".into(),
        reason,
        release: Some(release(revision).id),
        artifact_digest: Some(release(revision).template.image().digest.to_string()),
        request,
        result: "accepted".into(),
    };
    let command = Input::Commanded(Commanded { verb: Verb::Pause, request: request() });
    let reason = Reason::AlertFiring { alert: "CheckoutBurningBudget".into() };
    Commit {
        expected,
        state: std::sync::Arc::new(State { version: 1, revision, generation: 1, ..State::default() }),
        records: vec![
            record(Event::Input(Box::new(command)), None, Some(std::sync::Arc::new(request()))),
            record(Event::Decision { decision: Decision::Revert, intervals: Vec::new() }, Some(reason), None),
        ],
        ledger: vec![ledger(revision % 3, now(revision), revision.is_multiple_of(2))],
        journal: backstop::core::journal::Journal::default(),
    }
}

/// Commits the revisions after `from` up to `to`.
pub(crate) async fn commit_up_to(store: &Store, key: &str, from: u64, to: u64) -> Result<(), CommitError> {
    for expected in from..to {
        assert_eq!(store.commit(key, &commit(key, expected)).await?, Committed { revision: expected + 1 });
    }
    Ok(())
}
