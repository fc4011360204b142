//! The members of one release: where requests go, and how long those under way may take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::child::Child;
use super::layout::ArtifactStore;
use super::log;
use super::metrics::{ArmMetrics, lock};
use super::supervise::{Place, Slot};
use super::unpacked::Claim;
use super::upstream::{Member, Seat};
use super::wire::MemberView;
use super::{Env, layout_of};
use crate::core::backoff;
use crate::core::input::ArmHealth;
use crate::core::release::Release;
use crate::core::spec::Process;

/// The members of one release.
#[derive(Debug)]
pub(crate) struct Arm {
    /// `namespace/name`.
    pub(crate) workload: String,
    /// What runs.
    pub(crate) release: Release,
    /// What is counted of it.
    pub(crate) metrics: Arc<ArmMetrics>,
    /// What the host's arms share.
    pub(crate) env: Arc<Env>,
    /// The workload's settings, as they are now.
    pub(crate) settings: watch::Receiver<Arc<Process>>,
    members: RwLock<Vec<Arc<Member>>>,
    next: AtomicUsize,
    epoch: AtomicU64,
    cut: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    /// Its artifact, which is not removed as long as the arm lives.
    artifact: Arc<Claim>,
    crew: Mutex<Crew>,
}

#[derive(Debug, Default)]
struct Crew {
    slots: Vec<Slot>,
    /// Slots that were one too many and still end.
    leaving: Vec<Slot>,
    /// Children of a host that died, by slot.
    found: BTreeMap<u16, Child>,
    /// The unpacked artifact.
    root: Option<PathBuf>,
    fault: Option<String>,
    wanted: u16,
}

/// The right of a request to go on; [`wait`](Self::wait) ends when it is over.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    receiver: watch::Receiver<u64>,
    epoch: u64,
}

impl Cut {
    /// Ends when requests as old as this one are cut, and never otherwise.
    pub(crate) async fn wait(mut self) {
        if self.receiver.wait_for(|cut| *cut > self.epoch).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Arm {
    /// Unpacks and starts `release` in the background; `found` are its children that an earlier host left.
    pub(crate) fn start(
        env: &Arc<Env>,
        workload: &str,
        release: Release,
        settings: watch::Receiver<Arc<Process>>,
        found: BTreeMap<u16, Child>,
    ) -> Arc<Self> {
        let wanted = settings.borrow().instances;
        let arm = Arc::new(Self {
            workload: workload.to_owned(),
            metrics: env.metrics.arm(workload, &release.id),
            env: env.clone(),
            settings,
            members: RwLock::default(),
            next: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            cut: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            artifact: Arc::new(env.unpacked.claim(&release.template.image().digest)),
            crew: Mutex::new(Crew { found, wanted, ..Crew::default() }),
            release,
        });
        tokio::spawn(arm.clone().prepare());
        arm
    }

    /// Unpacks, as often as it takes, and starts the members.
    async fn prepare(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let mut attempts = 0;
        loop {
            match self.unpack().await {
                Ok(root) => {
                    lock(&self.crew).root = Some(root);
                    self.staff();
                    return;
                }
                Err(why) => {
                    tracing::warn!(workload = %self.workload, release = %self.release, why, "the artifact cannot be unpacked");
                    lock(&self.crew).fault = Some(format!("the artifact cannot be unpacked: {why}"));
                }
            }
            attempts += 1;
            tokio::select! {
                () = tokio::time::sleep(backoff::wait(attempts)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn unpack(&self) -> Result<PathBuf, String> {
        let artifacts = self.settings.borrow().artifacts.clone();
        let store = ArtifactStore::new(layout_of(&artifacts, &self.env.data));
        let digest = self.release.template.image().digest.clone();
        let (env, artifact) = (self.env.clone(), self.artifact.clone());
        let work = tokio::task::spawn_blocking(move || artifact.unpack(&store, &digest, &env.limits));
        work.await.map_err(|error| error.to_string())?.map_err(|fault| log::brief(&fault.to_string()))
    }

    /// Makes the number of slots what the settings say.
    pub(crate) fn staff(self: &Arc<Self>) {
        let instances = self.settings.borrow().instances;
        let mut crew = lock(&self.crew);
        crew.wanted = instances;
        let Some(root) = crew.root.clone() else { return };
        crew.fault = None;
        if self.is_leaving() {
            return;
        }
        crew.leaving.retain(|slot| !slot.is_over());
        while crew.slots.len() > usize::from(instances) {
            if let Some(slot) = crew.slots.pop() {
                slot.stop();
                crew.leaving.push(slot);
            }
        }
        for number in u16::try_from(crew.slots.len()).unwrap_or(u16::MAX)..instances {
            let found = crew.found.remove(&number);
            let place = Place { arm: self.clone(), number, root: root.clone() };
            crew.slots.push(Slot::start(place, found));
        }
        for (number, child) in std::mem::take(&mut crew.found) {
            let slot = Slot::start(Place { arm: self.clone(), number, root: root.clone() }, Some(child));
            slot.stop();
            crew.leaving.push(slot);
        }
    }

    /// What the core wants to know; an arm that is stopped wants no members.
    pub(crate) fn health(&self) -> ArmHealth {
        let crew = lock(&self.crew);
        let slots = crew.slots.iter().chain(&crew.leaving).map(Slot::view).collect::<Vec<_>>();
        let ready = slots.iter().filter(|slot| slot.ready).count();
        ArmHealth {
            wanted: if self.is_leaving() { 0 } else { crew.wanted },
            ready: u16::try_from(ready).unwrap_or(u16::MAX),
            failing: crew.fault.clone().or_else(|| slots.into_iter().find_map(|slot| slot.failing)),
        }
    }

    /// Its members, for people.
    pub(crate) fn views(&self) -> Vec<MemberView> {
        let crew = lock(&self.crew);
        crew.slots.iter().chain(&crew.leaving).map(Slot::view).collect()
    }

    /// Lets `member` have requests.
    pub(crate) fn admit(&self, member: Arc<Member>) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).push(member);
    }

    /// Lets `member` have no new requests; all that it has hold a [`Seat`] when this returns.
    pub(crate) fn withdraw(&self, member: &Arc<Member>) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, member));
    }

    /// Whether a member is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.members.read().unwrap_or_else(PoisonError::into_inner).iter().any(|member| member.is_ready())
    }

    /// Whether a member's process lives that was ready once.
    pub(crate) fn is_alive(&self) -> bool {
        !self.members.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether it was told to end.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.stop.borrow()
    }

    /// A place for the next request, in turn: at a ready member that is not `but`; if there is none, at one whose probes
    /// fail but whose process lives, because a failing probe is a guess and no answer is a certainty.
    pub(crate) fn seat(&self, but: Option<&Arc<Member>>) -> Option<Seat> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let others = || members.iter().filter(|member| but.is_none_or(|but| !Arc::ptr_eq(but, member)));
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let ready = others().filter(|member| member.is_ready()).count();
        if ready > 0 {
            return others().filter(|member| member.is_ready()).nth(turn % ready).map(Seat::at);
        }
        let alive = others().count();
        if alive > 0 { others().nth(turn % alive).map(Seat::at) } else { None }
    }

    /// The right of a request that begins now.
    pub(crate) fn cut(&self) -> Cut {
        Cut { receiver: self.cut.subscribe(), epoch: self.epoch.load(Ordering::Acquire) }
    }

    /// Begins a new age of requests; the result cuts those of the ages before.
    pub(crate) fn new_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Ends every request that began before the age `epoch`.
    pub(crate) fn cut_before(&self, epoch: u64) {
        self.cut.send_if_modified(|cut| {
            let later = epoch > *cut;
            *cut = epoch.max(*cut);
            later
        });
    }

    /// Lets requests under way finish for at most `drain`, then ends every member.
    pub(crate) async fn end(&self, drain: Duration) {
        self.stop.send_replace(true);
        let epoch = self.new_epoch();
        let slots = {
            let mut crew = lock(&self.crew);
            let mut slots = std::mem::take(&mut crew.slots);
            slots.append(&mut crew.leaving);
            let over = slots.iter().map(|slot| (slot.stop(), slot.over()).1).collect::<Vec<_>>();
            // They stay visible until they are gone.
            crew.leaving = slots;
            // Children that were found but not taken yet.
            crew.found.values().for_each(|child| child.signal(rustix::process::Signal::KILL));
            over
        };
        let ended = futures::future::join_all(slots);
        tokio::pin!(ended);
        tokio::select! {
            _ = &mut ended => return,
            () = tokio::time::sleep(drain) => self.cut_before(epoch),
        }
        ended.await;
    }
}
