//! Kubernetes: state and ledger in the API server, and workloads that are guarded where they run.
//!
//! # What an effect means for a Deployment
//!
//! A guarded Deployment `NAME` keeps running its stable release until the candidate has been watched: its template is paused as it is
//! written, and what is on trial runs in a *copy*, a Deployment owned by it. So no stable pod moves before that, and the way back is
//! a change of traffic alone.
//!
//! | phase | effects | objects and fields |
//! |---|---|---|
//! | Admitting | – | `NAME` has the candidate's template and `spec.paused: true`; its pods are still stable's |
//! | Advancing | `EnsureArm(candidate)` | Deployment and Service `NAME-candidate`; `minReplicas` of `NAME`'s autoscaler is held |
//! | | `EnsureWeights` | the copy's `replicas`, then, once these are ready, the route's shares |
//! | Promoting, Watching | `EnsureWeights(100 %, less the holdback)` | the same; `NAME` stays as it is: holdback, baseline, warm way back |
//! | Watching → Idle | `EnsureWeights(100 %)`, `EnsureRelease(candidate)` | `NAME` is un-paused and rolls; then the route names `NAME` alone, the copy goes, the autoscaler gets its minimum back |
//! | Reverting | `EnsureWeights(stable 100 %)` | the route, in one write, whatever the state of pods, router and specification |
//! | | `EnsureRelease(target)` | `NAME`'s `spec.template` from the ledger, `paused: false`: before promotion that is the template its pods have |
//! | | | in the same write the annotation `backstop.dev/reverting`, which keeps newer templates out until the revert is held |
//! | | `EnsureHold` | the annotation `backstop.dev/quarantined` of `NAME` |
//! | Recovering | `EnsureArm(candidate, absent)` | the copy goes, the autoscaler gets its minimum back |
//!
//! Without a router (`replicaRatio`) the copy's pods bear the labels of the workload's Services, and its share is that of its
//! pods. Shares above 80 % are those of a promotion: `NAME` is un-paused and rolls, with `NAME-baseline` as holdback.
//! Under `observe` nothing is driven: a revert writes the template, and traffic is back when the last pod under revert is gone.
//!
//! Each write is a JSON patch that tests what it replaces, and is compared with what the API server kept. Who may write is decided by
//! the rules of the host (`host/fence.rs`), kept as annotations of the object that is written.

mod api;
mod arm;
pub mod cache;
pub mod connect;
mod edit;
mod fences;
pub mod freezes;
mod hold;
pub mod in_force;
pub mod lean;
pub mod mark;
mod members;
pub mod objects;
mod pods;
mod proofs;
mod ready;
mod records;
mod release;
pub mod report;
mod scaler;
pub mod signing;
mod status;
pub mod store;
mod traffic;
mod turnstile;
mod workload;

pub use api::Fault;
pub use records::{WORKLOAD, label};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;

use crate::core::input::{Observation, Observed, Outcome};
use crate::core::release::{Release, ReleaseId};
use crate::core::state::Guard;
use crate::core::work::{Action, Effect, Lane};
use crate::world::perform::Subjects;
use cache::Cache;
use workload::Workload;

/// A cluster, with connections of their own for reverts. Clones share it.
#[derive(Clone)]
pub struct Cluster {
    clients: Arc<Clients>,
    /// Whether writes are tried and not kept.
    dry_run: bool,
    /// What watches have told; nothing where none run.
    cache: Arc<Cache>,
    answered_lately: Arc<ready::Answered>,
    noted: members::Noted,
    answered: Arc<Mutex<BTreeMap<String, ReleaseId>>>,
    /// The release of each running `ReplicaSet` as it was first seen, by its uid: its template never changes but by foul play.
    sets: Arc<Mutex<BTreeMap<String, ReleaseId>>>,
}

struct Clients {
    revert: Client,
    forward: Client,
    housekeeping: Client,
}

/// What was seen of a workload.
#[derive(Debug, Default)]
pub struct Seen {
    /// For the machine.
    pub observed: Observed,
    /// The workload's own template; absent where there is no such workload.
    pub spec: Option<SeenTemplate>,
    /// The living pods of each release.
    pub members: BTreeMap<ReleaseId, Vec<Member>>,
}

/// The template in the workload's own specification.
#[derive(Debug)]
pub struct SeenTemplate {
    /// The release that it is, or why it is none that could be guarded.
    pub release: Result<Release, String>,
    /// Who changed it, as the API server stamped it.
    pub requester: Option<String>,
    /// Their uid, stamped in the same way.
    pub requester_uid: Option<String>,
    /// Which credential they used, stamped in the same way.
    pub credential: Option<String>,
    /// Whether a change of it starts no pod for now.
    pub paused: bool,
    /// Whether backstop wrote it.
    pub own: bool,
    /// Whether it bears the mark of what is guarded.
    pub guarded: bool,
    /// The revert that is said to be under way: while it is, newer templates are kept out.
    pub reverting: Option<String>,
    /// The workload's uid.
    pub uid: String,
}

/// A living pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub pod: String,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// Its uid.
    pub uid: String,
    /// The Deployment, or the like, that it belongs to: the guarded one or a copy of it.
    pub workload: String,
    /// Its `pod-template-hash` or `controller-revision-hash`.
    pub hash: Option<String>,
    /// What runs in it, by container: the `imageID` that the node tells, with the container's name.
    pub image_ids: Box<[(String, String)]>,
    /// Containers of the template that run another image than it names, with the digest that it names: what runs is not what was
    /// verified. A node may tell the digest of an image's manifest where the template names that of its index, so this proves nothing.
    pub other_images: BTreeMap<String, String>,
    /// Containers that the template lacks: injected ones.
    pub injected: BTreeSet<String>,
}

impl Cluster {
    /// A cluster behind three clients: one whose connections only reverts use, one for whatever else guards ask for, and one for what the
    /// controller lives on.
    pub fn new(revert: Client, forward: Client, housekeeping: Client) -> Self {
        Self {
            clients: Arc::new(Clients { revert, forward, housekeeping }),
            dry_run: false,
            cache: Arc::default(),
            answered_lately: Arc::default(),
            noted: members::Noted::default(),
            answered: Arc::default(),
            sets: Arc::default(),
        }
    }

    /// The same cluster, whose API server tries each write, rights and admission policies included, and keeps none.
    #[must_use]
    pub fn dry_run(&self) -> Self {
        Self { dry_run: true, ..self.clone() }
    }

    /// What watches have told of it.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The client for watches, Leases and what is in force: no guard's request stands in front of these.
    pub fn housekeeping(&self) -> &Client {
        &self.clients.housekeeping
    }

    /// The client of a lane, for what guards ask.
    pub fn client(&self, lane: Lane) -> &Client {
        match lane {
            Lane::Revert => &self.clients.revert,
            Lane::Forward => &self.clients.forward,
        }
    }

    /// Notes that the machine has answered the deployment of `release`, the template of `key`'s workload: a restore may replace it.
    /// A template that nobody has told the machine of is never overwritten.
    pub fn answered(&self, key: &str, release: &ReleaseId) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), release.clone());
    }

    fn has_answered(&self, key: &str, release: &ReleaseId) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).get(key) == Some(release)
    }

    /// The release that a `ReplicaSet` was first seen to run. One without pods is forgotten.
    fn first_seen(&self, uid: &str, release: Option<&ReleaseId>, runs: bool) -> Option<ReleaseId> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if !runs {
            sets.remove(uid);
            return release.cloned();
        }
        match (sets.get(uid), release) {
            (Some(first), _) => Some(first.clone()),
            (None, Some(release)) => {
                sets.insert(uid.to_owned(), release.clone());
                Some(release.clone())
            }
            (None, None) => None,
        }
    }

    /// Makes true what `effect` says: `ensureArm`, `ensureWeights`, `ensureRelease` or `ensureHold`.
    pub async fn ensure(&self, subjects: &Subjects, effect: &Effect) -> Outcome {
        let workload = match Workload::new(self, subjects, effect) {
            Ok(workload) => workload,
            Err(outcome) => return outcome,
        };
        let changed = match &effect.action {
            Action::EnsureArm { release, present: true } => arm::run(&workload, release).await,
            Action::EnsureArm { release, present: false } => arm::stop(&workload, &release.id).await,
            Action::EnsureWeights { weights } => traffic::ensure(&workload, weights).await,
            Action::EnsureRelease { release } => release::ensure(&workload, release).await,
            Action::EnsureHold { quarantined } => hold::ensure(&workload, quarantined).await,
            other => Err(Outcome::Invalid(format!("`{}` is not an effect of a cluster", other.name()))),
        };
        match changed {
            Ok(changed) => Outcome::Done { changed, observed: Observation::Nothing },
            Err(outcome) => outcome,
        }
    }

    /// Looks at a guard's workload. Releases that are `known` are called as they are known.
    ///
    /// # Errors
    /// The API server does not answer as it should.
    pub async fn see(&self, guard: &Guard, known: &[Release]) -> Result<Seen, Fault> {
        let unwatched = Self { cache: Arc::default(), ..self.clone() };
        Ok(pods::see(&unwatched, Lane::Forward, guard, known).await?.seen)
    }

    /// The same as watches have told it.
    ///
    /// # Errors
    /// They have not, and the API server does not answer as it should.
    pub async fn see_as_told(&self, guard: &Guard, known: &[Release]) -> Result<Seen, Fault> {
        Ok(pods::see(self, Lane::Forward, guard, known).await?.seen)
    }
}
