//! Acting without the controller: the same machine, order and world, for one rollout, in the process of the command line.
//!
//! The store's compare-and-swap makes that safe beside a controller that comes back meanwhile.

use std::sync::Arc;
use std::time::Duration;

use super::documents;
use super::handle::Handle;
use super::rollout::Policies;
use super::standalone::{Controller, Setup, StartError, guard};
use crate::core::actor::Request;
use crate::core::input::{Commanded, Input, Observed, Verb};
use crate::core::machine::Answer;
use crate::core::preview::{RevertPlan, View};
use crate::core::spec::{GuardedRollout, Metadata};
use crate::core::state::{PhaseKind, State};
use crate::spec::Loaded;
use crate::world::host_client::HostClient;
use crate::world::store::Store;

/// How long the host is waited for when it is only asked what it sees.
pub(super) const GLANCE: Duration = Duration::from_secs(2);

/// Every rollout as store and host have it.
///
/// # Errors
/// The store cannot be read.
pub async fn standings(setup: &Setup) -> Result<Vec<(View, RevertPlan)>, StartError> {
    let store = Store::open(&setup.data_dir.join("store"), &setup.data_dir.join("spool"))?;
    let loaded = Arc::new(documents::kept(&store).await?);
    let host = HostClient::new(&setup.host_socket, GLANCE);
    let mut standings = Vec::new();
    // By their documents: of one that is guarded and was never deployed nothing is committed.
    for (key, (metadata, spec)) in &loaded.rollouts {
        standings.push(standing(&store, &loaded, &host, key, metadata, spec).await?);
    }
    Ok(standings)
}

async fn standing(
    store: &Store,
    loaded: &Arc<Loaded>,
    host: &HostClient,
    key: &str,
    metadata: &Metadata,
    spec: &Arc<GuardedRollout>,
) -> Result<(View, RevertPlan), StartError> {
    let state = store.load(key).await?.unwrap_or_else(State::new);
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    let observed = match host.view(namespace, name).await {
        Ok(Some(view)) => view.observed,
        Ok(None) | Err(_) => Observed::default(),
    };
    let policies = Policies::new(Arc::clone(loaded), metadata.clone(), spec);
    let guard = guard(loaded, store.uid(key), key, &policies, spec);
    let plan = RevertPlan::of(key, &guard.uid, &guard.spec, &state, &observed);
    Ok((View::of_state(key, &state, &observed), plan))
}

/// Gives a command to one rollout's machine, tells each change of its view, and stays until `done`.
///
/// A revert is followed to its end; everything else until its effects are done.
///
/// # Errors
/// The store cannot be used, or there is no such rollout.
pub async fn command(
    setup: &Setup,
    key: &str,
    verb: Verb,
    request: Request,
    patience: Duration,
    told: &mut dyn FnMut(&View),
) -> Result<Option<(Answer, View)>, StartError> {
    let store = Store::open(&setup.data_dir.join("store"), &setup.data_dir.join("spool"))?;
    let loaded = documents::kept(&store).await?;
    drop(store);
    if !loaded.rollouts.contains_key(key) {
        return Ok(None);
    }
    let reverts = matches!(verb, Verb::Revert { .. });
    let controller = Controller::start_with(setup, loaded, |other| other == key).await?;
    if let Some(mut line) = controller.handle().line(key) {
        // A live stable must have been seen, or its traffic waits for what is restored. A host that does not answer
        // could not move traffic either.
        let _ = tokio::time::timeout(GLANCE, line.view.wait_for(|view| !view.0.arms.is_empty())).await;
    }
    let input = Input::Commanded(Commanded { verb, request });
    let last = give(&controller.handle(), key, input, patience, told, &|view| is_over(view, reverts)).await;
    controller.stop().await;
    Ok(last)
}

/// Gives a fact to a rollout, and follows its view until it is `over`, or patience ends.
pub(super) async fn give(
    handle: &Handle,
    key: &str,
    input: Input,
    patience: Duration,
    told: &mut dyn FnMut(&View),
    over: &dyn Fn(&View) -> bool,
) -> Option<(Answer, View)> {
    let answer = tokio::time::timeout(patience, handle.ask(key, input)).await.ok()?.ok()?;
    let mut line = handle.line(key)?;
    let mut last = None;
    let followed = async {
        loop {
            let view = line.view.borrow_and_update().0.clone();
            told(&view);
            let ended = over(&view);
            last = Some((answer.clone(), view));
            if ended || line.view.changed().await.is_err() {
                return;
            }
        }
    };
    // What is not done by then stays wanted, and is on the record for the controller.
    let _ = tokio::time::timeout(patience, followed).await;
    last
}

/// Whether all that moves something is done. Whether that helped is the controller's to see: it can ask the metrics.
pub(super) fn has_moved(view: &View) -> bool {
    moved(view.phase, view.open.iter().map(|(action, _)| action.as_str()))
}

fn moved<'a>(phase: PhaseKind, mut open: impl Iterator<Item = &'a str>) -> bool {
    // The mark that keeps the release out is the controller's own.
    let left = ["notify", "ensureHold"];
    match phase {
        PhaseKind::Reverting => false,
        // A person is needed, and what is still open may never be done.
        PhaseKind::Stuck => true,
        _ => open.all(|action| left.contains(&action)),
    }
}

fn is_over(view: &View, reverts: bool) -> bool {
    let open = view.open.iter().any(|(action, _)| action != "notify");
    match view.phase {
        PhaseKind::Reverting | PhaseKind::Recovering => false,
        PhaseKind::Reverted | PhaseKind::Stuck => true,
        _ => !reverts || !open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guard_of_which_nothing_is_committed_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let setup = crate::shell::standalone::tests::setup(dir.path(), &["checkout"]);
        let store = Store::open(&setup.data_dir.join("store"), &setup.data_dir.join("spool")).unwrap();
        documents::keep(&store, &crate::spec::load(&setup.specs)).await.unwrap();
        assert_eq!(store.workloads().await.unwrap(), Vec::<String>::new());
        let standings = standings(&setup).await.unwrap();
        assert_eq!(
            standings.iter().map(|(view, _)| (view.key.as_str(), view.phase)).collect::<Vec<_>>(),
            [("shop/checkout", PhaseKind::Idle)]
        );
    }

    #[test]
    fn a_revert_that_is_stuck_is_not_waited_for() {
        assert!(moved(PhaseKind::Stuck, ["ensureWeights", "ensureRelease"].into_iter()));
        assert!(moved(PhaseKind::Recovering, ["ensureHold", "notify"].into_iter()));
        assert!(!moved(PhaseKind::Recovering, ["ensureArm"].into_iter()) && !moved(PhaseKind::Reverting, std::iter::empty()));
    }
}
