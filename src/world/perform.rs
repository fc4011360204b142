//! The world of one controller: performs effects, and says how they ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::artifacts::Fetches;
use super::clock::{self, Clock};
use super::evidence::{load_evidence, store_evidence};
use super::flags;
use super::host_client::HostClient;
use super::kubernetes::{Cluster, Member};
use super::lanes::Lanes;
use super::members::Members;
use super::notify::{Notifier, Subject};
use super::prove::StoreAsked;
use super::registry::Collector;
use super::source::Source;
use super::storage::Storage;
use super::store::{CommitError, Committed, LoadError, Unavailable};
use super::verify::{Keys, verify};
use crate::core::attest::{Facts, ImageFacts};
use crate::core::input::{LookFault, Looked, Observation, Outcome};
use crate::core::ledger::LedgerRecord;
use crate::core::policy::Policy;
use crate::core::release::{Digest, Image, Release, ReleaseId};
use crate::core::spec::{Artifacts, FlagTarget};
use crate::core::state::{Guard, PhaseKind};
use crate::core::work::{Action, Commit, Effect, EvidenceFrom, Lane, LookPlan};
use crate::host::wire::Ensure;
use crate::telemetry::work::work;

/// How an effect ended.
#[derive(Debug)]
pub enum Performed {
    /// The end of an effect.
    Ended(Outcome),
    /// The answer to a look.
    Looked(Looked),
}

/// What a rollout's effects are about.
#[derive(Debug, Clone)]
pub struct Subjects {
    /// The guard.
    pub guard: Guard,
    /// The policy that applies now.
    pub policy: Arc<Policy>,
    /// The deployment attempt.
    pub generation: u64,
    /// The stable release of the committed state.
    pub stable: Option<ReleaseId>,
    /// What traffic may be led back to, as fences know it: [`State::way_back`](crate::core::state::State::way_back).
    pub way_back: Option<ReleaseId>,
    /// The revert that the phase is about, if any.
    pub revert: Option<String>,
    /// The same until it is held.
    pub reverting: Option<String>,
    /// What is known of the workload's releases, for effects that change the workload; looks do without.
    pub ledger: Vec<LedgerRecord>,
}

/// Where workloads run.
pub enum Place {
    /// Processes, at the host of this machine.
    Host {
        /// The host.
        client: HostClient,
        /// The folder from which the host takes artifacts that came from a registry.
        content: PathBuf,
    },
    /// In a cluster.
    Cluster(Cluster),
}

/// Everything that a controller acts on.
pub struct World {
    pub(super) store: Storage,
    clock: Clock,
    pub(super) place: Place,
    /// The members of each release of each workload, where the cluster knows them.
    members: Members,
    sources: RwLock<BTreeMap<String, (String, Arc<Source>)>>,
    flag_targets: RwLock<BTreeMap<String, FlagTarget>>,
    pub(super) collector: Collector,
    fetches: Fetches,
    /// Whether the store took a write lately.
    pub(super) store_asked: StoreAsked,
    notifier: Notifier,
    lanes: Lanes,
}

impl World {
    /// Puts the parts together.
    pub fn new(
        store: impl Into<Storage>,
        clock: Clock,
        place: Place,
        flag_targets: BTreeMap<String, FlagTarget>,
        collector: Collector,
        notifier: Notifier,
    ) -> Self {
        let lanes = Lanes::new(matches!(place, Place::Cluster(_)));
        Self {
            store: store.into(),
            clock,
            place,
            members: Members::default(),
            sources: RwLock::default(),
            flag_targets: RwLock::new(flag_targets),
            collector,
            fetches: Fetches::default(),
            store_asked: StoreAsked::default(),
            notifier,
            lanes,
        }
    }

    /// The store.
    pub fn store(&self) -> &Storage {
        &self.store
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The host's client, if workloads are processes.
    pub fn host(&self) -> Option<&HostClient> {
        match &self.place {
            Place::Host { client, .. } => Some(client),
            Place::Cluster(_) => None,
        }
    }

    /// Notes which members a workload's releases have: they tell its arms apart from now on.
    pub fn know_members(&self, key: &str, members: BTreeMap<ReleaseId, Vec<Member>>) {
        self.members.tell(key, members);
    }

    /// Which pods of a workload run another image than their release names, in words; nothing if none is known to.
    pub fn other_images(&self, key: &str) -> Option<String> {
        self.members.other_images(key)
    }

    /// Forgets a workload that is guarded no more.
    pub fn forget(&self, key: &str) {
        self.members.forget(key);
    }

    /// Adds a source of metrics.
    pub fn connect(&self, name: &str, source: Source) {
        self.connect_once(name, "", source);
    }

    /// Adds, or replaces, a source of metrics, unless the one under that name is at the same `place` already.
    pub fn connect_once(&self, name: &str, place: &str, source: Source) {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        if sources.get(name).is_none_or(|(known, _)| known != place || place.is_empty()) {
            sources.insert(name.to_owned(), (place.to_owned(), Arc::new(source)));
        }
    }

    /// Takes other flag targets from now on.
    pub fn replace_flag_targets(&self, targets: BTreeMap<String, FlagTarget>) {
        *self.flag_targets.write().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    pub(super) fn flag_target(&self, name: &str) -> Option<FlagTarget> {
        self.flag_targets.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Commits to the store. In a cluster that is a request to the API server, which takes what leads traffic back as well: when hundreds
    /// breach together, commits must neither stand in front of that nor, all at once, be too slow for each to be answered in time.
    ///
    /// # Errors
    /// Somebody else decided, or the store does not take it.
    pub async fn commit(&self, key: &str, commit: &Commit) -> Result<Committed, CommitError> {
        let _turn = self.lanes.turn_to_commit(commit.state.phase.kind() == PhaseKind::Reverting).await;
        self.store.commit(key, commit).await
    }

    /// Performs an effect by the clock `clock`, which its deadline is on: never fails, never outlives that. `begins` is told when it waits
    /// for its turn no longer, whether that came or not.
    pub async fn perform(&self, subjects: &Subjects, effect: &Effect, clock: Clock, begins: impl FnOnce()) -> Performed {
        let left = effect.deadline.since(clock.now().mono).max(Duration::from_millis(100));
        if let Action::Look(plan) = &effect.action {
            begins();
            let looked = tokio::time::timeout(left, self.look(subjects, plan)).await;
            let looked = looked.unwrap_or_else(|_| fault(LookFault::Down(format!("{} did not answer within {left:?}", plan.source))));
            work().looked(&plan.source, &looked);
            return Performed::Looked(looked);
        }
        let begin = clock::instant();
        let patience = left.min(Duration::from_mins(1));
        let turn = tokio::time::timeout(patience, self.lanes.turn(effect)).await;
        begins();
        let waited = clock::instant().saturating_duration_since(begin);
        work().waited(effect.lane, waited);
        let outcome = if turn.is_err() {
            // Nothing was asked of anybody.
            Outcome::Transient { what: format!("too much else is under way: its turn did not come within {patience:?}"), retry_after: None }
        } else {
            let acted = tokio::time::timeout(patience.saturating_sub(waited), self.act(subjects, effect)).await;
            acted.unwrap_or_else(|_| Outcome::Unknown(format!("no answer within {patience:?}")))
        };
        work().acted(effect.action.name(), &outcome);
        Performed::Ended(outcome)
    }

    async fn act(&self, subjects: &Subjects, effect: &Effect) -> Outcome {
        match &effect.action {
            Action::Look(_) => Outcome::Invalid("a look is no act".into()),
            // A proof, not a revert: what else a revert needs is asked as well.
            Action::Verify { release, evidence: EvidenceFrom::Store } if effect.lane == Lane::Forward => {
                Box::pin(self.prove(subjects, release)).await
            }
            Action::Verify { release, evidence } => self.verify(subjects, release, *evidence).await,
            Action::EnsureArm { release, present } => {
                if *present && let Err(outcome) = self.fetch(subjects, release).await {
                    return outcome;
                }
                self.ensure(subjects, effect).await
            }
            Action::EnsureWeights { .. } | Action::EnsureRelease { .. } | Action::EnsureHold { .. } => self.ensure(subjects, effect).await,
            Action::EnsureFlag(action) => match self.flag_target(&action.use_) {
                Some(target) => flags::ensure(&target, action).await,
                None => Outcome::Invalid(format!("there is no FlagTarget `{}`", action.use_)),
            },
            Action::Notify(notice) => {
                let subject =
                    Subject { workload: &subjects.guard.key, generation: subjects.generation, revert: subjects.revert.as_deref() };
                self.notifier.send(&subject, notice, effect.id).await
            }
            Action::Record => match self.store.drain_along().await {
                Ok(()) => Outcome::Done { changed: true, observed: Observation::Nothing },
                Err(unavailable) => Outcome::Transient { what: unavailable.to_string(), retry_after: None },
            },
        }
    }

    async fn ensure(&self, subjects: &Subjects, effect: &Effect) -> Outcome {
        let (namespace, name) = subjects.guard.key.split_once('/').unwrap_or(("default", &subjects.guard.key));
        match &self.place {
            Place::Host { client, .. } => client.ensure(namespace, name, &Ensure::of(effect, subjects.way_back.clone())).await,
            Place::Cluster(cluster) => cluster.ensure(subjects, effect).await,
        }
    }

    async fn look(&self, subjects: &Subjects, plan: &LookPlan) -> Looked {
        let source = self.sources.read().unwrap_or_else(PoisonError::into_inner).get(&plan.source).map(|(_, source)| Arc::clone(source));
        let Some(source) = source else {
            return fault(LookFault::Down(format!("there is no source `{}` yet", plan.source)));
        };
        match &self.place {
            Place::Host { .. } => source.look(plan).await,
            Place::Cluster(_) => self.members.look(&subjects.guard, plan, &source).await,
        }
    }

    /// The one number that a query gives, from the source of that name.
    ///
    /// # Errors
    /// The faults of a look.
    pub async fn scalar(&self, source: &str, promql: &str) -> Result<f64, LookFault> {
        let open = self.sources.read().unwrap_or_else(PoisonError::into_inner).get(source).map(|(_, source)| Arc::clone(source));
        match open {
            Some(open) => open.scalar(promql).await,
            None => Err(LookFault::Down(format!("there is no source `{source}` yet"))),
        }
    }

    // ------------------------------------------------------------------------------------------------ attestation

    pub(super) async fn verify(&self, subjects: &Subjects, release: &Release, from: EvidenceFrom) -> Outcome {
        let keys = match Keys::new(&subjects.policy.attestation) {
            Ok(keys) => keys,
            Err(error) => return Outcome::Invalid(error.to_string()),
        };
        let mut facts = Facts::default();
        // A store that does not answer says nothing about a release: it is asked again, and no target is passed over for it.
        let later = |Unavailable(what)| Outcome::Transient { what, retry_after: None };
        if from == EvidenceFrom::Store {
            facts.ledger_untrusted = match self.ledger_untrusted(subjects, release).await {
                Ok(untrusted) => untrusted,
                Err(unavailable) => return later(unavailable),
            };
        }
        for image in release.template.images() {
            let found = match from {
                EvidenceFrom::Origin => self.evidence_at_origin(subjects, &image, &keys).await,
                EvidenceFrom::Store => match self.store.evidence_of(&image.digest).await {
                    Ok(capsules) => self.evidence_in_store(&image, capsules, &keys).await,
                    Err(unavailable) => return later(unavailable),
                },
            };
            facts.images.push(found.unwrap_or_else(|why| ImageFacts::unavailable(image, why)));
        }
        Outcome::Done { changed: false, observed: Observation::Facts(Box::new(facts)) }
    }

    /// Why the signed ledger record of `release` does not vouch for the very template that is about to go back, if it does not.
    async fn ledger_untrusted(&self, subjects: &Subjects, release: &Release) -> Result<Option<String>, Unavailable> {
        Ok(match self.store.ledger_record(&subjects.guard.key, release).await {
            Ok(Some(record)) if record.release.template == release.template && record.release.template.release() == release.id => None,
            Ok(Some(_)) => Some(format!("the ledger has another template for {release}")),
            Ok(None) => Some(format!("the ledger has no record of {release}")),
            Err(LoadError::Unavailable(what)) => return Err(Unavailable(what)),
            Err(LoadError::LedgerUntrusted { what, .. }) => Some(what),
            Err(error @ LoadError::Unreadable { .. }) => Some(error.to_string()),
        })
    }

    pub(super) fn artifacts(subjects: &Subjects) -> &Artifacts {
        subjects.guard.spec.workload.artifacts()
    }

    /// Collects evidence at its origin and keeps the bytes for the day of a revert.
    async fn evidence_at_origin(&self, subjects: &Subjects, image: &Image, keys: &Keys) -> Result<ImageFacts, String> {
        let evidence = self.collector.collect(image, Self::artifacts(subjects)).await;
        let facts = verify(&evidence, keys);
        if facts.statements.is_empty() {
            return Ok(facts);
        }
        let folder = self.evidence_dir();
        let stored = tokio::task::spawn_blocking(move || store_evidence(&folder, &evidence)).await;
        let capsule = stored.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.store.index_evidence(&image.digest, &[capsule]).await.map_err(|error| error.to_string())?;
        Ok(facts)
    }

    /// Verifies the kept bytes again: the newest capsule that is whole.
    async fn evidence_in_store(&self, image: &Image, capsules: Vec<Digest>, keys: &Keys) -> Result<ImageFacts, String> {
        if capsules.is_empty() {
            return Err("no evidence was ever kept for this image".into());
        }
        let mut trouble = Vec::new();
        for capsule in capsules {
            let folder = self.evidence_dir();
            let name = capsule.clone();
            let loaded = tokio::task::spawn_blocking(move || load_evidence(&folder, &capsule)).await.map_err(|error| error.to_string())?;
            match loaded {
                Ok(evidence) if evidence.image.digest == image.digest => return Ok(verify(&evidence, keys)),
                Ok(_) => trouble.push(format!("capsule {name} is about another image")),
                Err(error) => trouble.push(error.to_string()),
            }
        }
        Err(trouble.join("; "))
    }

    fn evidence_dir(&self) -> PathBuf {
        self.store.local().dir().join("evidence")
    }

    // ------------------------------------------------------------------------------------------------ artifacts

    /// Copies the artifact from a registry to where the host takes it from. An effect does not wait until that is over.
    async fn fetch(&self, subjects: &Subjects, release: &Release) -> Result<(), Outcome> {
        let Place::Host { content, .. } = &self.place else { return Ok(()) };
        if matches!(Self::artifacts(subjects), Artifacts::Layout { .. }) {
            return Ok(());
        }
        for image in release.template.images() {
            self.fetches.fetch(&self.collector, &image, Self::artifacts(subjects), content).await?;
        }
        Ok(())
    }
}

fn fault(fault: LookFault) -> Looked {
    Looked { fault: Some(fault), ..Looked::default() }
}
