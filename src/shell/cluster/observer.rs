//! One guard's eyes: looks at its workload when something happens to it, and tells the rollout what it sees and who deployed what.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Actors;
use crate::core::actor::Request;
use crate::core::input::{Deployed, Input, Observed};
use crate::core::preview::View;
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::spec::Strategy;
use crate::shell::rollout::Shared;
use crate::world::clock;
use crate::world::kubernetes::mark::Marks;
use crate::world::kubernetes::{Cluster, SeenTemplate};
use crate::world::store::Unavailable;

/// What happens at once is looked at once.
const GATHER: Duration = Duration::from_millis(20);
/// How often a workload is looked at while a rollout is under way and no watch tells anything.
const AGAIN_ACTIVE: Duration = Duration::from_mins(1);
/// The same while a watch is broken.
const AGAIN_BLIND: Duration = Duration::from_secs(5);
/// How often it is looked at otherwise: watches tell what happens, this is for what they missed.
const AGAIN_RESTING: Duration = Duration::from_mins(10);
/// Workloads of guards at rest that are looked at for the first time, and marked, at once. More would only wait for the API server, each
/// with what it has read; of fewer, each writes the list of all that are marked for itself.
const FIRST: usize = 16;
/// How long a turn is held: what hangs must not keep thousands waiting.
const TURN_FOR: Duration = Duration::from_secs(2);
/// How long one waits for its turn that has known its workload before: what was deployed meanwhile is not judged until it looks.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// Workloads that are marked at once later on: when hundreds breach together, what leads their traffic back is more urgent.
const MARKS: usize = 8;
/// How long a mark waits for its turn; nobody looks meanwhile.
const MARK_WITHIN: Duration = Duration::from_secs(1);
/// How long it may take.
const MARK_FOR: Duration = Duration::from_secs(5);
/// After a look that failed.
const AGAIN_FAILED: Duration = Duration::from_secs(1);

/// What an observer needs.
pub(super) struct Observer {
    pub(super) shared: Arc<Shared>,
    pub(super) cluster: Cluster,
    pub(super) key: String,
    pub(super) bell: Arc<Notify>,
    pub(super) actors: Actors,
    /// Whether the API server stamps who changes a template.
    pub(super) stamped: watch::Receiver<bool>,
    pub(super) turns: Arc<Turns>,
    /// Rung when there is something else to say of what runs.
    pub(super) again: Arc<Notify>,
    /// Whether it tells the health of the workload alone: marks and deployments are the controller's.
    pub(super) only_looks: bool,
}

/// The turns of all observers.
pub(super) struct Turns {
    /// To look for the first time, and to mark then.
    first: Arc<Semaphore>,
    /// To mark.
    marks: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { first: Arc::new(Semaphore::new(FIRST)), marks: Semaphore::new(MARKS) }
    }
}

/// A place among those that wait for their turn: who looks ahead of it keeps it.
#[derive(Default)]
struct Place(Option<Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>>);

impl Place {
    /// Waits for the turn, from behind all others if the place was given up. Nothing is lost where this is cut off.
    async fn turn(&mut self, turns: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let turns = Arc::clone(turns);
        let turn = self.0.get_or_insert_with(|| Box::pin(async { turns.acquire_owned().await.ok() })).await;
        self.give_up();
        turn
    }

    fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    fn give_up(&mut self) {
        self.0 = None;
    }
}

impl Observer {
    /// Looks until `stop`.
    pub(super) async fn run(self, ordinary: mpsc::Sender<Box<Input>>, mut stop: watch::Receiver<bool>) {
        let (mut seen, mut template): (Option<Arc<Observed>>, Option<ReleaseId>) = (None, None);
        let mut marked = None;
        // What a watch tells is looked at as it is told; what none tells, at the API server. At a start the watches have just listed it.
        let mut rung = true;
        // Whether it was not seen yet, or is not marked.
        let mut owes = true;
        let mut place = Place::default();
        let mut failed = false;
        loop {
            let turn = if owes { Box::pin(self.turn(seen.is_none(), failed, &mut place, &mut stop)).await } else { None };
            if *stop.borrow() {
                return;
            }
            let has_turn = turn.is_some();
            let once = async {
                let looked = self.look(rung, &ordinary, &mut seen, &mut template, &mut marked).await;
                // Who only looks ahead of its turn marks in its turn: thousands would wait here, each with what it has read.
                if !self.only_looks && (has_turn || marked.is_some() || !self.rests()) {
                    self.mark(&mut marked, has_turn).await;
                }
                looked
            };
            // What is done for a moment takes no room while nothing happens, thousands of times.
            let looked = holding(turn, &mut place, Box::pin(once)).await;
            failed = matches!(looked, Ok(false));
            owes = !self.only_looks && (marked.is_none() || failed);
            if !owes {
                place.give_up();
            } else if place.is_kept() && looked.is_ok() {
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => rung = true,
                    _ = stop.changed() => return,
                }
                continue;
            }
            let resting = self.rests();
            let pause = match looked {
                Err(Gone {}) => return,
                Ok(false) => AGAIN_FAILED,
                Ok(true) if self.only_looks => AGAIN_FAILED,
                Ok(true) if owes => AGAIN_BLIND,
                Ok(true) if resting => AGAIN_RESTING,
                Ok(true) if self.is_watched() => AGAIN_ACTIVE,
                Ok(true) => AGAIN_BLIND,
            };
            tokio::select! {
                () = self.bell.notified() => {
                    tokio::time::sleep(GATHER).await;
                    rung = true;
                }
                () = self.outdated(marked.as_ref()), if !self.only_looks => rung = true,
                // What is owed is tried again by what the watches tell: thousands may owe, because the API server is slow.
                () = tokio::time::sleep(pause) => rung = owes && self.is_watched(),
                _ = stop.changed() => return,
            }
        }
    }

    fn rests(&self) -> bool {
        self.shared.handle.view(&self.key).is_none_or(|view| is_at_rest(&view.0))
    }

    /// Waits until it is this guard's turn to look for the first time, or again after that failed: thousands that rest must not stand in
    /// front of what is under way when a replica starts or takes another's share over, nor all ask a slow API server again. Nothing keeps
    /// one from looking whose workload changes, and nothing one waiting that rests no more.
    async fn turn(
        &self,
        is_first: bool,
        failed: bool,
        place: &mut Place,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<OwnedSemaphorePermit> {
        let Some(mut line) = self.shared.handle.line(&self.key) else {
            // It is about to be stopped, and looks at most now and then until then.
            place.give_up();
            return None;
        };
        let was_known = is_first && line.view.borrow().0.stable.is_some();
        tokio::select! {
            biased;
            _ = line.view.wait_for(|view| !is_at_rest(&view.0)) => {
                place.give_up();
                None
            }
            turn = place.turn(&self.turns.first) => turn,
            () = self.heard(is_first) => None,
            () = self.patience(), if was_known || failed => None,
            _ = stop.changed() => None,
        }
    }

    /// Waits until something happens to the workload, and the watches hold that tell it. While they list what there is, nothing has
    /// happened that its first look would not see.
    async fn heard(&self, is_first: bool) {
        self.bell.notified().await;
        while !self.is_watched() {
            if is_first {
                self.bell.notified().await;
            } else {
                tokio::time::sleep(AGAIN_FAILED).await;
            }
        }
    }

    /// Waits as long as a look may wait for its turn: until it asks nothing of the API server, at least.
    async fn patience(&self) {
        tokio::time::sleep(TURN_WITHIN).await;
        while !self.is_watched() {
            tokio::time::sleep(AGAIN_BLIND).await;
        }
    }

    fn is_watched(&self) -> bool {
        self.cluster.cache().holds(self.key.split('/').next().unwrap_or_default())
    }

    /// Marks the workload, so that admission policies protect it.
    async fn mark(&self, marked: &mut Option<Marks>, has_turn: bool) {
        let loaded = self.shared.documents();
        let Some((metadata, spec)) = loaded.rollouts.get(&self.key) else { return };
        let how = if matches!(spec.strategy, Strategy::Observe(_)) { "observed" } else { "driven" };
        let view = self.shared.handle.view(&self.key);
        let reverting = view.and_then(|view| view.0.reverting().map(|revert| revert.id.clone()));
        let marks = Marks { guarded: Some(how), reverting };
        let Some((kind, workload)) = spec.workload.object().filter(|_| marked.as_ref() != Some(&marks)) else { return };
        let _turn = if has_turn {
            None
        } else {
            match tokio::time::timeout(MARK_WITHIN, self.turns.marks.acquire()).await {
                Ok(turn) => turn.ok(),
                // What is under way is protected at once; what rests comes again in its turn.
                Err(_) if self.rests() => {
                    *marked = None;
                    return;
                }
                Err(_) => None,
            }
        };
        let namespace = metadata.namespace();
        let hangs = |_| Err(Unavailable(format!("no answer within {} s", MARK_FOR.as_secs())));
        match tokio::time::timeout(MARK_FOR, self.cluster.mark(namespace, kind, workload, &marks)).await.unwrap_or_else(hangs) {
            Ok(changed) => {
                tracing::debug!(rollout = self.key, kind, workload, ?marks, changed, "marked");
                *marked = Some(marks);
            }
            Err(error) => {
                *marked = None;
                tracing::error!(rollout = self.key, %error, "the workload is not marked: admission policies do not protect it");
            }
        }
    }

    /// Returns when a revert has begun or ended since the workload was marked.
    async fn outdated(&self, marked: Option<&Marks>) {
        let (Some(marked), Some(mut line)) = (marked, self.shared.handle.line(&self.key)) else { return std::future::pending().await };
        if line.view.wait_for(|view| view.0.reverting().map(|revert| &revert.id) != marked.reverting.as_ref()).await.is_err() {
            // The rollout's task has ended, and this one ends with it.
            std::future::pending::<()>().await;
        }
    }

    /// Looks once; whether that worked.
    async fn look(
        &self,
        rung: bool,
        ordinary: &mpsc::Sender<Box<Input>>,
        last: &mut Option<Arc<Observed>>,
        template: &mut Option<ReleaseId>,
        marked: &mut Option<Marks>,
    ) -> Result<bool, Gone> {
        let Some(view) = self.shared.handle.view(&self.key) else { return Ok(false) };
        let loaded = self.shared.documents();
        let Some((metadata, spec)) = loaded.rollouts.get(&self.key) else { return Ok(false) };
        let policies = crate::shell::rollout::Policies::new(Arc::clone(&loaded), metadata.clone(), spec);
        let guard = crate::shell::standalone::guard(&loaded, self.shared.world.store().uid(&self.key), &self.key, &policies, spec);
        let mut known: Vec<Release> = view.0.ledger.iter().map(|line| line.release.clone()).collect();
        known.extend([&view.0.stable, &view.0.candidate].into_iter().flatten().cloned());
        let seen = if rung { self.cluster.see_as_told(&guard, &known).await } else { self.cluster.see(&guard, &known).await };
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(rollout = self.key, %error, "the workload cannot be seen");
                return Ok(false);
            }
        };
        let others = self.shared.world.other_images(&self.key);
        self.shared.world.know_members(&self.key, seen.members);
        if self.shared.world.other_images(&self.key) != others {
            self.again.notify_one();
        }
        // A restore replaces only a template that the machine has had its say on.
        if let Some(Ok(release)) = seen.spec.as_ref().map(|spec| &spec.release)
            && known.iter().any(|known| known.id == release.id)
        {
            self.cluster.answered(&self.key, &release.id);
        }
        if last.as_deref() != Some(&seen.observed) {
            let observed = Arc::new(seen.observed);
            *last = Some(Arc::clone(&observed));
            ordinary.send(Box::new(Input::Observed(observed))).await.map_err(|_| Gone {})?;
        }
        // A write that was under way when the revert ended, or a person, changed it; or the workload was made anew.
        let is_so = |spec: &SeenTemplate| marked.as_ref().is_none_or(|marked| spec.guarded && marked.reverting == spec.reverting);
        if !seen.spec.as_ref().is_none_or(is_so) {
            *marked = None;
        }
        match seen.spec {
            Some(spec) if !self.only_looks => self.template(spec, template, ordinary).await,
            _ => Ok(true),
        }
    }

    /// Takes note of the workload's own template: found, deployed, or nothing new.
    async fn template(&self, seen: SeenTemplate, last: &mut Option<ReleaseId>, ordinary: &mpsc::Sender<Box<Input>>) -> Result<bool, Gone> {
        let release = match &seen.release {
            Ok(release) => release.clone(),
            Err(error) => {
                tracing::warn!(rollout = self.key, %error, "the workload's template cannot be guarded");
                return Ok(true);
            }
        };
        if last.as_ref() == Some(&release.id) {
            return Ok(true);
        }
        let Some(view) = self.shared.handle.view(&self.key) else { return Ok(false) };
        let is_first = last.is_none();
        let known = [&view.0.stable, &view.0.candidate].into_iter().flatten().any(|one| one.id == release.id);
        if view.0.stable.is_none() && view.0.candidate.is_none() {
            ordinary.send(Box::new(Input::Found(release.clone()))).await.map_err(|_| Gone {})?;
        } else if !(seen.own || is_first && known) {
            let request = self.request(&seen, &release);
            tracing::info!(rollout = self.key, release = %release, actor = %request.actor, "the template changed");
            let answer = self.shared.handle.ask(&self.key, Input::Deployed(Deployed { release: release.clone(), request })).await;
            match answer {
                Ok(answer) => {
                    tracing::info!(rollout = self.key, accepted = answer.accepted, code = answer.reason.code(), "{}", answer.reason);
                }
                Err(error) => {
                    tracing::warn!(rollout = self.key, %error, "the deployment is told again");
                    return Ok(false);
                }
            }
        }
        self.cluster.answered(&self.key, &release.id);
        *last = Some(release.id);
        Ok(true)
    }

    /// Who changed the template. Without stamps nobody knows, and a name in an annotation is a claim.
    fn request(&self, seen: &SeenTemplate, release: &Release) -> Request {
        let requester = seen.requester.as_deref().unwrap_or_default();
        let mut actor = (self.actors)(requester);
        if !*self.stamped.borrow() {
            actor.assurance = crate::core::actor::Assurance::Claimed;
        }
        let id = Digest::of(format!("{}\n{requester}\n{}\n{}", self.key, release.id, clock::wall().as_millisecond()).as_bytes());
        Request { id: format!("rq-{}", &id.hex()[..16]), actor, ..Request::default() }
    }
}

/// Whether nothing is under way.
fn is_at_rest(view: &View) -> bool {
    view.phase.is_resting() && view.open.is_empty()
}

/// Does `work`. The turn is handed on once that is done, or after a while; so is a place, whose turn may come meanwhile.
async fn holding<T>(turn: Option<OwnedSemaphorePermit>, place: &mut Place, work: impl Future<Output = T> + Unpin) -> T {
    let mut work = work;
    if turn.is_some() || place.is_kept() {
        if let Ok(done) = tokio::time::timeout(TURN_FOR, &mut work).await {
            return done;
        }
        drop(turn);
        place.give_up();
    }
    work.await
}

/// The rollout's task has ended.
struct Gone {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_handed_on_when_the_work_is_done_and_when_it_hangs() {
        let turns = Arc::new(Semaphore::new(1));
        let take = || async { Arc::clone(&turns).acquire_owned().await.ok() };
        let nowhere = &mut Place::default();
        assert_eq!(holding(take().await, nowhere, Box::pin(async { turns.available_permits() })).await, 0, "held while it works");
        assert_eq!(turns.available_permits(), 1);
        let turn = take().await;
        let hangs = tokio::spawn(async { holding(turn, &mut Place::default(), Box::pin(std::future::pending::<()>())).await });
        let next = tokio::time::timeout(TURN_FOR * 5, turns.acquire()).await;
        assert!(next.is_ok() && !hangs.is_finished(), "it goes on without its turn");
        hangs.abort();
        assert_eq!(holding(None, nowhere, Box::pin(async { 7 })).await, 7);
    }

    #[tokio::test]
    async fn a_place_is_kept_by_whoever_does_something_else_meanwhile() {
        let turns = Arc::new(Semaphore::new(1));
        let first = Arc::clone(&turns).acquire_owned().await.unwrap();
        let (mut early, mut late, mut gone) = (Place::default(), Place::default(), Place::default());
        for place in [&mut gone, &mut early, &mut late] {
            assert!(tokio::time::timeout(GATHER, place.turn(&turns)).await.is_err() && place.is_kept());
        }
        gone.give_up();
        drop(first);
        let turn = tokio::time::timeout(GATHER, early.turn(&turns)).await.expect("it came first");
        assert!(turn.is_some() && !early.is_kept());
        assert!(tokio::time::timeout(GATHER, late.turn(&turns)).await.is_err() && late.is_kept());
        drop(turn);
        assert!(tokio::time::timeout(GATHER, late.turn(&turns)).await.is_ok());
    }

    #[tokio::test]
    async fn a_turn_that_comes_to_whoever_hangs_elsewhere_is_handed_on() {
        let turns = Arc::new(Semaphore::new(1));
        let first = Arc::clone(&turns).acquire_owned().await.unwrap();
        let (mut busy, mut next) = (Place::default(), Place::default());
        assert!(tokio::time::timeout(GATHER, busy.turn(&turns)).await.is_err());
        assert!(tokio::time::timeout(GATHER, next.turn(&turns)).await.is_err());
        let hangs = tokio::spawn(async move { holding(None, &mut busy, Box::pin(std::future::pending::<()>())).await });
        drop(first);
        assert!(tokio::time::timeout(TURN_FOR * 5, next.turn(&turns)).await.is_ok() && !hangs.is_finished());
        hangs.abort();
    }
}
