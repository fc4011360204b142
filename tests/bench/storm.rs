//! A thousand rollouts that breach at once: real machines in real orders on a real store, in a world that says yes.

use std::path::Path;
use std::time::{Duration, Instant};

use backstop::core::input::Input;
use backstop::core::journal::Journal;
use backstop::core::policy::Policy;
use backstop::core::spec::GuardedRollout;
use backstop::core::state::PhaseKind;
use backstop::core::work::{Commit, Lane};
use backstop::shell::order::{Committed, Step};
use backstop::world::clock::{self, Clock};
use backstop::world::store::Store;
use tokio::task::JoinSet;

use super::guards::Rollout;
use super::table::{Against, Table};

/// Rollouts that breach.
const ROLLOUTS: usize = 1_000;
/// Seconds of good traffic before.
const HEALTHY: u32 = 5;

/// When one rollout had handed out its last safe effect, had the decision on disk, and was back.
struct Times {
    safe: Instant,
    decided: Instant,
    back: Instant,
}

/// Breaches them all and says how long it took.
pub(crate) async fn measure(spec: &GuardedRollout, policy: &Policy, dir: &Path, table: &mut Table) {
    let store = Store::open(&dir.join("store"), &dir.join("spool")).expect("a store");
    let clock = Clock::start(&store).await.expect("a clock");
    let needed = looks_until_breach(spec, policy, clock);
    let mut starting = JoinSet::new();
    for number in 0..ROLLOUTS {
        let (store, spec, policy) = (store.clone(), spec.clone(), policy.clone());
        starting.spawn(async move { Box::pin(prepare(number, &store, &spec, &policy, clock, needed)).await });
    }
    let mut ready = starting.join_all().await;
    let looks: Vec<_> = ready.iter_mut().map(|rollout| rollout.next_look(0.5)).collect();
    let mut reverting = JoinSet::new();
    let start = clock::instant();
    for (mut rollout, look) in ready.into_iter().zip(looks) {
        rollout.order.push(Input::Looked(look), None);
        let store = store.clone();
        reverting.spawn(async move { Box::pin(revert(rollout, &store, clock)).await });
    }
    let times = reverting.join_all().await;
    let last = |of: fn(&Times) -> Instant| times.iter().map(of).max().map_or(Duration::ZERO, |at| at - start).as_secs_f64();
    table.section(format!("{ROLLOUTS} breaches at once, embedded, real store (breaker off by policy)"));
    // Argo Rollouts, 100 at once on the same machine: the last one had its traffic back after 22 to 25 s.
    let argo = Against::Other("Argo Rollouts with 100", 22.0);
    table.row("last flag and traffic effect handed out", last(|times| times.safe), "s", argo.clone());
    table.row("every decision committed", last(|times| times.decided), "s", argo.clone());
    table.row("every one restored, held and committed", last(|times| times.back), "s", argo);
    table.print_last();
}

/// How many seconds at half failing it takes.
fn looks_until_breach(spec: &GuardedRollout, policy: &Policy, clock: Clock) -> u32 {
    let mut probe = Rollout::judged("bench/probe", spec, policy, clock.now());
    for _ in 0..HEALTHY {
        let look = probe.next_look(0.0);
        probe.order.push(Input::Looked(look), None);
        probe.settle(clock.now());
    }
    let mut needed = 0;
    while probe.phase() == PhaseKind::Advancing {
        needed += 1;
        assert!(needed < 60, "half of all requests failing is no breach within a minute");
        let look = probe.next_look(0.5);
        probe.order.push(Input::Looked(look), None);
        probe.settle(clock.now());
    }
    needed
}

/// A rollout that one more look brings down, with its state in the store.
async fn prepare(number: usize, store: &Store, spec: &GuardedRollout, policy: &Policy, clock: Clock, needed: u32) -> Rollout {
    let key = format!("bench/service-{number}");
    let rollout = Rollout::judged(&key, spec, policy, clock.now());
    let state = rollout.first_state();
    let commit = Commit {
        expected: 0,
        state: std::sync::Arc::new(state.clone()),
        records: Vec::new(),
        ledger: state.ledger.records().to_vec(),
        journal: Journal::default(),
    };
    store.commit(&key, &commit).await.expect("a commit");
    let guard = rollout.order.machine().guard().clone();
    let mut rollout = rollout.restored(guard, policy, state);
    for second in 0..HEALTHY + needed - 1 {
        let look = rollout.next_look(if second < HEALTHY { 0.0 } else { 0.5 });
        rollout.order.push(Input::Looked(look), None);
        work(&mut rollout, store, clock, |_, _| ()).await;
    }
    assert_eq!(rollout.phase(), PhaseKind::Advancing);
    rollout
}

async fn revert(mut rollout: Rollout, store: &Store, clock: Clock) -> Times {
    let (mut safe, mut decided) = (None, None);
    work(&mut rollout, store, clock, |step, at| match step {
        Done::Started(Lane::Revert) if decided.is_none() => safe = Some(at),
        Done::Started(_) => {}
        Done::Committed => decided = decided.or(Some(at)),
    })
    .await;
    assert_eq!(rollout.phase(), PhaseKind::Recovering);
    Times { safe: safe.expect("safe effects"), decided: decided.expect("a decision"), back: clock::instant() }
}

/// What was done.
enum Done {
    Started(Lane),
    Committed,
}

/// Does everything there is to do, with commits on disk.
async fn work(rollout: &mut Rollout, store: &Store, clock: Clock, mut done: impl FnMut(Done, Instant)) {
    let key = rollout.order.machine().guard().key.clone();
    while let Some(step) = rollout.order.next(clock.now()) {
        match step {
            Step::Start(effect) => {
                done(Done::Started(effect.lane), clock::instant());
                rollout.perform(&effect);
            }
            Step::Commit(commit) => {
                store.commit(&key, &commit).await.expect("a commit");
                done(Done::Committed, clock::instant());
                rollout.order.committed(Committed::Done);
            }
            Step::Answer((), _) | Step::Stale => {}
        }
    }
}
