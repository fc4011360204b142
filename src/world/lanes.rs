//! Who goes when much is to be done at once: each kind of work has room of its own, so that none is kept up by another, and what leads
//! traffic back has the right of way.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::core::work::{Action, Effect, EvidenceFrom, Lane};

/// Orders of the revert lane about traffic and flags that may be under way at once; nothing else can use these up.
const TRAFFIC: usize = 128;
/// What else reverts need: evidence read, templates restored. An API server that is asked for hundreds at once answers none in time.
const RESTORES: usize = 32;
/// Other effects. Looks have their sources' own limits.
const FORWARD: usize = 32;
/// Proofs: the hundreds of each minute stand in front of no step.
const PROOFS: usize = 16;
/// Notices: a receiver that hangs keeps up nothing else, and nothing else keeps up a page.
const NOTICES: usize = 32;
/// Registries asked at once, apart from the rest: one that hangs costs the attempts that wait for it.
const ORIGINS: usize = 32;
/// Commits of what is being reverted that an API server is asked for at once.
const REVERT_COMMITS: usize = 32;
/// Other commits that it is asked for at once.
const FORWARD_COMMITS: usize = 32;

/// How long the rest stands back for traffic on its way back. When hundreds breach together this is most of what they need; and a router
/// that hangs must not stop everything else.
const STANDS_BACK: Duration = Duration::from_secs(2);

/// Room for each kind of work.
#[derive(Debug)]
pub(super) struct Lanes {
    traffic: Semaphore,
    restores: Semaphore,
    forward: Semaphore,
    proofs: Semaphore,
    notices: Semaphore,
    origins: Semaphore,
    revert_commits: Semaphore,
    forward_commits: Semaphore,
    /// How many orders to lead traffic back are under way or wait for that.
    leading_back: watch::Sender<usize>,
    /// All is asked of one server.
    shared: bool,
}

/// Leave to go, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    _leading: Option<Leading<'a>>,
}

/// Traffic is on its way back, until this is dropped.
#[derive(Debug)]
struct Leading<'a>(&'a watch::Sender<usize>);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        // Only the last one is news to those who stand back.
        self.0.send_if_modified(|orders| {
            *orders -= 1;
            *orders == 0
        });
    }
}

impl Lanes {
    /// Empty lanes. Where all is asked of one server (`shared`), most of it stands back for traffic on its way back.
    pub(super) fn new(shared: bool) -> Self {
        Self {
            traffic: Semaphore::new(TRAFFIC),
            restores: Semaphore::new(RESTORES),
            forward: Semaphore::new(FORWARD),
            proofs: Semaphore::new(PROOFS),
            notices: Semaphore::new(NOTICES),
            origins: Semaphore::new(ORIGINS),
            revert_commits: Semaphore::new(REVERT_COMMITS),
            forward_commits: Semaphore::new(FORWARD_COMMITS),
            leading_back: watch::Sender::new(0),
            shared,
        }
    }

    /// Waits until it is an effect's turn.
    pub(super) async fn turn(&self, effect: &Effect) -> Turn<'_> {
        match (effect.lane, &effect.action) {
            (Lane::Revert, Action::EnsureWeights { .. }) => self.lead_back().await,
            (Lane::Revert, Action::EnsureFlag(_)) => Self::go(&self.traffic).await,
            (Lane::Revert, _) => self.stand_back(&self.restores).await,
            (Lane::Forward, Action::Notify(_)) => Self::go(&self.notices).await,
            // The log is on this machine.
            (Lane::Forward, Action::Record) => Self::go(&self.forward).await,
            (Lane::Forward, Action::Verify { evidence: EvidenceFrom::Origin, .. }) => Self::go(&self.origins).await,
            (Lane::Forward, Action::Verify { evidence: EvidenceFrom::Store, .. }) => self.stand_back(&self.proofs).await,
            (Lane::Forward, _) => self.stand_back(&self.forward).await,
        }
    }

    /// Waits until it is a commit's turn: what is back already waits behind what is being reverted.
    pub(super) async fn turn_to_commit(&self, reverts: bool) -> Turn<'_> {
        if !self.shared {
            // A store of its own gathers them itself.
            return Turn { _permit: None, _leading: None };
        }
        self.stand_back(if reverts { &self.revert_commits } else { &self.forward_commits }).await
    }

    async fn go(lane: &Semaphore) -> Turn<'_> {
        // Nobody closes a lane.
        Turn { _permit: lane.acquire().await.ok(), _leading: None }
    }

    async fn lead_back(&self) -> Turn<'_> {
        self.leading_back.send_if_modified(|orders| {
            *orders += 1;
            false
        });
        let leading = Leading(&self.leading_back);
        Turn { _leading: Some(leading), ..Self::go(&self.traffic).await }
    }

    async fn stand_back<'a>(&'a self, lane: &'a Semaphore) -> Turn<'a> {
        let turn = Self::go(lane).await;
        if self.shared {
            let mut orders = self.leading_back.subscribe();
            // Long enough, it goes all the same.
            let _ = tokio::time::timeout(STANDS_BACK, orders.wait_for(|orders| *orders == 0)).await;
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::release::{Digest, Image, Release, Template};
    use crate::core::time::Mono;
    use crate::core::work::{EffectId, Fence};
    use crate::world::clock;

    fn effect(action: Action) -> Effect {
        Effect { id: EffectId { revision: 1, ordinal: 0 }, fence: Fence::None, deadline: Mono(60_000), lane: Lane::Revert, action }
    }

    fn weights() -> Effect {
        effect(Action::EnsureWeights { weights: BTreeMap::new() })
    }

    fn restore() -> Effect {
        let image = Image { repository: "registry.example/shop".into(), digest: Digest::of(b"v1") };
        effect(Action::EnsureRelease { release: Release::new(Template::process(image, Vec::new(), BTreeMap::new()), None) })
    }

    /// Whether it is this effect's turn within so long.
    async fn goes(lanes: &Lanes, effect: &Effect, within: Duration) -> bool {
        tokio::time::timeout(within, lanes.turn(effect)).await.is_ok()
    }

    const SOON: Duration = Duration::from_millis(100);
    const LATER: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn what_is_asked_of_one_server_stands_back_for_traffic() {
        let lanes = Lanes::new(true);
        assert!(goes(&lanes, &restore(), LATER).await, "nothing is on its way back");
        let (traffic, more) = (lanes.turn(&weights()).await, lanes.turn(&weights()).await);
        assert!(!goes(&lanes, &restore(), SOON).await, "traffic first");
        let back = async {
            tokio::time::sleep(SOON).await;
            drop((traffic, more));
            clock::instant()
        };
        let (restored, back) = tokio::join!(
            async {
                lanes.turn(&restore()).await;
                clock::instant()
            },
            back
        );
        assert!(restored >= back, "it went when traffic was back");
    }

    #[tokio::test]
    async fn a_router_that_hangs_stops_nothing() {
        let lanes = Lanes::new(true);
        let _traffic = lanes.turn(&weights()).await;
        assert!(goes(&lanes, &restore(), LATER).await);
    }

    #[tokio::test]
    async fn traffic_that_waits_for_its_turn_has_the_right_of_way_until_it_is_given_up() {
        let lanes = Lanes::new(true);
        let all: Vec<Turn<'_>> = futures::future::join_all((0..TRAFFIC).map(|_| async { lanes.turn(&weights()).await })).await;
        assert!(!goes(&lanes, &weights(), SOON).await, "there is no room for more");
        drop(all);
        assert_eq!(*lanes.leading_back.borrow(), 0);
    }

    #[tokio::test]
    async fn where_each_workload_is_asked_for_by_itself_nothing_stands_back() {
        let lanes = Lanes::new(false);
        let _traffic = lanes.turn(&weights()).await;
        assert!(goes(&lanes, &restore(), SOON).await);
    }
}
