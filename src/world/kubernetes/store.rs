//! State and ledger in the API server; log, spool and copies of evidence in the replica's own store.
//!
//! * A commit is one write of `.status`, by `resourceVersion`: state, audit records and signed ledger records, all or nothing. An unrelated
//!   edit that makes the swap conflict is no lost swap: the revision inside tells whether somebody else decided.
//! * What a commit says of releases goes into their `ReleaseRecord`s afterwards; until then it rides in `.status`, as do the audit records
//!   until they are in this replica's log. Both leave `.status` with the next commit, so a decision costs one write.
//! * The state is not signed, so it is believed only where it tightens: nothing in it makes a release known good, or ends a quarantine.

mod reconcile;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::DynamicResourceScope;
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::lean::{Head, Lean};
use super::objects::{FIELD_MANAGER, is_conflict, is_missing, is_passing, resource, unavailable};
use super::proofs::Proofs;
use super::records::{Entry, Kept, Records};
use super::report::Said;
use super::turnstile::Turnstile;
use super::{signing, status};
use crate::core::actor::Request;
use crate::core::ledger::LedgerRecord;
use crate::core::release::{Digest, Release, hex};
use crate::core::state::State;
use crate::core::time::Mono;
use crate::core::work::Commit;
use crate::spec::crd::{RolloutStatus, SignedRecord, WorkloadName};
use crate::world::audit::leaf::{self, Leaf, Seal};
use crate::world::clock;
use crate::world::keys::Public;
use crate::world::store::{self as local, CommitError, Committed, Drained, LoadError, Recovered, Unavailable, Waiting};

/// Audit records that may wait in `.status`, in bytes: with more, commits wait, and nothing forward is done.
const RECORDS_MAX: usize = 384 << 10;
/// How often a swap is tried again at once.
const TRIES: u32 = 4;
/// Guards whose ledger records go to their objects at once.
const LEDGERS: usize = 4;
/// How long a request to the API server may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    client: Client,
    /// Backstop's own namespace.
    namespace: String,
    local: local::Store,
    public: Public,
    /// Whether this process signs and drains: a controller does, a command line does not.
    signs: bool,
    records: Records,
    proofs: Proofs,
    seats: Mutex<BTreeMap<String, Box<Seat>>>,
    /// Guards as JSON: thousands wait at a start until all are listed, and other replicas' for good.
    offered: Mutex<BTreeMap<String, Box<str>>>,
    documents: Mutex<BTreeMap<String, Said>>,
    recovering: tokio::sync::Mutex<()>,
    /// Moves records to the log.
    logging: Turnstile,
    /// Moves ledger records to their objects. One at a time: an older one must not be written after a newer one.
    draining: Turnstile,
}

/// What is known of the status of one guard.
#[derive(Debug, Clone)]
struct Seat {
    /// `resourceVersion` of the object.
    version: String,
    /// Which of the objects that had this name.
    uid: String,
    generation: Option<i64>,
    workload: WorkloadName,
    revision: u64,
    /// The readable part.
    before: RolloutStatus,
    /// Audit records in `.status` that are in no log yet.
    undrained: Vec<String>,
    /// Ledger records in `.status` that are not in their objects yet.
    pending: Vec<(Entry, SignedRecord)>,
    /// Contents that have an object.
    written: BTreeSet<Digest>,
}

/// A commit as it goes into `.status`.
struct Prepared {
    expected: u64,
    text: String,
    records: Vec<String>,
    ledger: Vec<(Entry, SignedRecord)>,
    status: RolloutStatus,
}

/// What became of a swap.
enum Swapped {
    Won,
    Already,
    Lost { found: u64 },
}

impl Store {
    /// The store of a controller, which signs with the cluster's key. `local` was opened after [`signing::provide`].
    pub fn controller(client: Client, namespace: &str, local: local::Store) -> Self {
        let public = local.public().clone();
        Self::new(client, namespace, local, public, true)
    }

    /// The store of a command line: it decides, and leaves signing and the log to the controllers.
    ///
    /// # Errors
    /// The API server does not answer, or no controller ever ran there.
    pub async fn guest(client: Client, namespace: &str, local: local::Store) -> Result<Self, Unavailable> {
        let pem = signing::public(&client, namespace).await?;
        let public = Public::parse(&pem, &local.public().log.to_string())
            .map_err(|error| Unavailable(format!("ConfigMap {namespace}/{}: {error}", signing::PUBLIC)))?;
        Ok(Self::new(client, namespace, local, public, false))
    }

    fn new(client: Client, namespace: &str, local: local::Store, public: Public, signs: bool) -> Self {
        let (records, proofs) = (Records::new(client.clone(), namespace), Proofs::new(client.clone(), namespace));
        let recovering = tokio::sync::Mutex::default();
        let (seats, offered, documents) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Inner {
            client,
            namespace: namespace.to_owned(),
            local,
            public,
            signs,
            records,
            proofs,
            seats,
            offered,
            documents,
            recovering,
            logging: Turnstile::default(),
            draining: Turnstile::default(),
        }))
    }

    /// The replica's own store.
    pub fn local(&self) -> &local::Store {
        &self.0.local
    }

    /// The identity of a workload: the same for every replica and command line of a cluster, and another in every other cluster.
    pub fn uid(&self, key: &str) -> String {
        let text = format!("backstop workload\n{}\n{key}", self.0.public.controller_pem());
        hex(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref()[..16])
    }

    fn api<K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>>(&self, key: &str) -> (Api<K>, String) {
        let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
        (Api::namespaced_with(self.0.client.clone(), namespace, &resource("GuardedRollout")), name.to_owned())
    }

    /// Hands over a guard that a watch has just brought, so that the next [`load`](Self::load) need not ask for it.
    pub fn offer(&self, key: &str, object: &DynamicObject) {
        if let Ok(text) = serde_json::to_string(object) {
            lock(&self.0.offered).insert(key.to_owned(), text.into());
        }
    }

    /// Notes what is to be said of the documents of guards: their next commits say so.
    pub fn note_documents(&self, documents: BTreeMap<String, Said>) {
        *lock(&self.0.documents) = documents;
    }

    /// The revision in the status of a guard; 0 if it has no state.
    pub fn revision_of(object: &DynamicObject) -> u64 {
        Self::state_of(object).map_or(0, |state| state.revision)
    }

    /// The state in the status of a guard, as it is written there: its ledger is not compared with the signed records.
    pub fn state_of(object: &DynamicObject) -> Option<State> {
        object.data["status"]["state"].as_str().and_then(|text| status::decode(text).ok())
    }

    /// The revision that this process last committed or loaded; 0 if it has nothing to do with the workload.
    pub fn revision(&self, key: &str) -> u64 {
        lock(&self.0.seats).get(key).map_or(0, |seat| seat.revision)
    }

    // ------------------------------------------------------------------------------------------------ reads

    async fn get(&self, key: &str) -> Result<Option<DynamicObject>, Unavailable> {
        let (api, name) = self.api::<Lean>(key);
        let asked = tokio::time::timeout(ANSWER, api.get_opt(&name)).await;
        let what = format!("GuardedRollout {key}");
        match asked {
            Ok(found) => found.map(|found| found.map(|Lean(object)| object)).map_err(|error| unavailable(&what, &error)),
            Err(_) => Err(Unavailable(format!("the API server, {what}: no answer within {} s", ANSWER.as_secs()))),
        }
    }

    /// The committed state of a workload, its ledger compared with the signed records; `None` if nothing was ever committed.
    ///
    /// # Errors
    /// The API server does not answer, there is no such guard, or its state cannot be read.
    pub async fn load(&self, key: &str) -> Result<Option<State>, LoadError> {
        let offered = lock(&self.0.offered).remove(key);
        let offered = offered.and_then(|text| serde_json::from_str(&text).ok()).map(|Lean(object)| object);
        let object = match offered {
            Some(object) => Some(object),
            None => self.get(key).await?,
        };
        let object = object.ok_or_else(|| LoadError::Unavailable(format!("there is no GuardedRollout {key}")))?;
        let unreadable = |what| LoadError::Unreadable { key: key.to_owned(), what };
        let workload = workload_of(key, &object).map_err(unreadable)?;
        let mut status: RolloutStatus = serde_json::from_value(object.data["status"].clone()).unwrap_or_default();
        // What is said of the document already is held once.
        let said = lock(&self.0.documents).get(key).and_then(|said| said.in_force.clone());
        status.in_force = said.filter(|said| status.in_force.as_ref() == Some(said)).or(status.in_force);
        let mut state = status.state.as_deref().map(status::decode).transpose().map_err(unreadable)?;
        for one in self.0.local.spooled().into_iter().filter(|one| one.key == key) {
            if one.commit.expected == state.as_ref().map_or(0, |state| state.revision) {
                state = Some(State::clone(&one.commit.state));
            }
        }
        let kept = self.0.records.list_since(&self.0.public, &workload, object.metadata.resource_version.as_deref()).await?;
        let pending = self.pending(&workload, &status);
        let reconciled = reconcile::reconcile(state, &kept, &pending.iter().map(|(entry, _)| entry));
        // Those that are in their objects leave the status with the next commit.
        let pending = reconcile::unkept(pending, &kept);
        let seat = Seat {
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation,
            written: kept.iter().filter_map(|kept| kept.content.as_ref().ok()).map(|(digest, _)| digest.clone()).collect(),
            workload,
            revision: status.state.as_deref().and_then(|text| status::decode(text).ok()).map_or(0, |state| state.revision),
            undrained: status.records.clone(),
            pending,
            before: RolloutStatus { state: None, records: Vec::new(), ledger: Vec::new(), ..status },
        };
        lock(&self.0.seats).insert(key.to_owned(), Box::new(seat));
        if self.0.signs {
            self.sign_again(key, &reconciled.unsigned).await;
        }
        Ok(reconciled.state)
    }

    /// The signed ledger records in a status. Others are not kept.
    fn pending(&self, workload: &WorkloadName, status: &RolloutStatus) -> Vec<(Entry, SignedRecord)> {
        let trusted = |signed: &SignedRecord| Entry::trusted(&self.0.public, workload, signed).ok().map(|entry| (entry, signed.clone()));
        status.ledger.iter().filter_map(trusted).collect()
    }

    /// Signs what a command line decided while no controller ran. Tightening only: see [`reconcile`].
    async fn sign_again(&self, key: &str, unsigned: &[LedgerRecord]) {
        let _alone = self.0.draining.alone.lock().await;
        for record in unsigned {
            let signed = async {
                self.create(key, record).await?;
                let workload = self.workload(key)?;
                let entry = Entry::of(record)?;
                let signed = entry.sign(self.0.local.keys(), &workload)?;
                // What rides in the status of this release is older, and must not be written over it.
                if let Some(seat) = lock(&self.0.seats).get_mut(key) {
                    seat.pending.retain(|(known, _)| known.release != entry.release);
                    seat.pending.push((entry.clone(), signed.clone()));
                }
                self.0.records.apply(&self.0.public, &workload, &entry, &signed).await
            };
            if let Err(error) = signed.await {
                tracing::warn!(rollout = key, release = %record.release.id, %error, "a ledger record is not signed yet");
            }
        }
    }

    /// The ledger record of one release, if it can be trusted.
    ///
    /// # Errors
    /// The API server does not answer, or the record is not the controller's.
    pub async fn ledger_record(&self, key: &str, release: &Release) -> Result<Option<LedgerRecord>, LoadError> {
        let workload = self.workload(key)?;
        let pending = lock(&self.0.seats).get(key).map(|seat| seat.pending.clone()).unwrap_or_default();
        // One object, not a list of all: every proof asks, and hundreds do when many breach.
        let kept = match self.0.records.get(&self.0.public, &workload, release).await? {
            Some(kept) => vec![kept],
            // Its content may be another than that of `release`, which is worth saying.
            None => self.0.records.list(&self.0.public, &workload).await?,
        };
        let of_release: Vec<Kept> = kept.into_iter().filter(|kept| kept.release == release.id).collect();
        if of_release.is_empty() {
            return Ok(None);
        }
        let newest = reconcile::newest(&of_release, pending.iter().map(|(entry, _)| entry), &release.id);
        newest.map(Some).map_err(|what| LoadError::LedgerUntrusted { key: key.to_owned(), release: release.id.clone(), what })
    }

    fn workload(&self, key: &str) -> Result<WorkloadName, Unavailable> {
        let workload = lock(&self.0.seats).get(key).map(|seat| seat.workload.clone());
        workload.ok_or_else(|| Unavailable(format!("{key} was not loaded")))
    }

    /// Digests of the evidence that is kept for an image; copied to this machine if it is not there.
    ///
    /// # Errors
    /// Neither this machine nor the API server has an answer.
    pub async fn evidence_of(&self, image: &Digest) -> Result<Vec<Digest>, Unavailable> {
        let known = self.0.local.evidence_of(image).await.unwrap_or_default();
        if !known.is_empty() {
            return Ok(known);
        }
        let found = self.0.proofs.fetch(&self.evidence_dir(), image).await?;
        self.0.local.index_evidence(image, &found).await?;
        Ok(found)
    }

    /// Keeps the evidence in the folder for every replica.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn index_evidence(&self, image: &Digest, capsules: &[Digest]) -> Result<(), Unavailable> {
        if self.0.signs {
            for capsule in capsules {
                self.0.proofs.publish(&self.evidence_dir(), image, capsule).await?;
            }
        }
        self.0.local.index_evidence(image, capsules).await
    }

    fn evidence_dir(&self) -> PathBuf {
        self.0.local.dir().join("evidence")
    }

    /// The point from which this process's monotonic clock goes on: milliseconds since a fixed day by the API server's clock, which all
    /// replicas share. No step of this machine's own clock counts, and each rollout's time still never goes back.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn anchor(&self) -> Result<Mono, Unavailable> {
        let api: Api<SelfSubjectReview> = Api::all(self.0.client.clone());
        let asked = api.create(&PostParams::default(), &SelfSubjectReview::default()).await;
        let reviewed = asked.map_err(|error| unavailable("SelfSubjectReview", &error))?;
        let now = reviewed.metadata.creation_timestamp.map_or_else(clock::wall, |time| time.0);
        Ok(Mono(u64::try_from(now.as_millisecond().saturating_sub(EPOCH_MILLIS)).unwrap_or(0)))
    }

    // ------------------------------------------------------------------------------------------------ commits

    /// Writes a commit. In place on return.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit(&self, key: &str, commit: &Commit) -> Result<Committed, CommitError> {
        if !self.0.local.spooled().is_empty() {
            self.recover().await?;
        }
        match self.write(key, commit).await? {
            Swapped::Won | Swapped::Already => Ok(Committed { revision: commit.expected + 1 }),
            Swapped::Lost { found } => Err(CommitError::LostSwap { found }),
        }
    }

    /// Reads the records of every workload at once: what follows are as many loads as there are guards.
    ///
    /// # Errors
    /// The API server does not answer; each load asks for its own then.
    pub async fn list_records(&self) -> Result<(), Unavailable> {
        self.0.records.list_all().await
    }

    /// Writes what waits in the spool, in order.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn recover(&self) -> Result<Recovered, Unavailable> {
        let _alone = self.0.recovering.lock().await;
        let waiting: Vec<Waiting> = self.0.local.spooled();
        let mut recovered = Recovered::default();
        if waiting.is_empty() {
            return Ok(recovered);
        }
        for one in &waiting {
            match self.write(&one.key, &one.commit).await {
                Ok(Swapped::Won) => recovered.committed += 1,
                Ok(Swapped::Already) => recovered.already += 1,
                Ok(Swapped::Lost { .. }) => recovered.lost.push(one.clone()),
                Err(Unavailable(what)) if self.is_gone(&one.key).await => {
                    tracing::warn!(rollout = one.key, what, "its guard is gone: what was not committed is put aside");
                    recovered.lost.push(one.clone());
                }
                Err(unavailable) => return Err(unavailable),
            }
        }
        self.0.local.retire(waiting.len(), recovered.lost.clone()).await;
        Ok(recovered)
    }

    async fn is_gone(&self, key: &str) -> bool {
        matches!(self.get(key).await, Ok(None))
    }

    async fn write(&self, key: &str, commit: &Commit) -> Result<Swapped, Unavailable> {
        if lock(&self.0.seats).get(key).is_none() {
            self.seat_again(key).await?;
        }
        for record in &commit.ledger {
            self.create(key, record).await?;
        }
        let mut prepared = self.prepare(key, commit).await?;
        // A version that is current says nothing if it was read after the decision.
        if self.revision(key) != prepared.expected
            && let Some(swapped) = self.look_again(key, &prepared).await?
        {
            return Ok(swapped);
        }
        let (api, name) = self.api::<Head>(key);
        let mut pause = Duration::from_millis(25);
        for attempt in 1..=TRIES {
            let body = self.body(key, &mut prepared)?;
            let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            let patch = Patch::Merge(body);
            let sent = tokio::time::timeout(ANSWER, api.patch_status(&name, &parameters, &patch)).await;
            let error = match sent {
                Ok(Ok(Head(metadata))) => {
                    self.sit(key, &metadata, prepared);
                    return Ok(Swapped::Won);
                }
                Ok(Err(error)) if is_missing(&error) => return Err(Unavailable(format!("there is no GuardedRollout {key} any more"))),
                Ok(Err(error)) if is_conflict(&error) => None,
                Ok(Err(error)) if is_passing(&error) && attempt < TRIES => Some(unavailable(&format!("GuardedRollout {key}"), &error)),
                Ok(Err(error)) => return Err(unavailable(&format!("GuardedRollout {key}"), &error)),
                Err(_) => Some(Unavailable(format!("the API server, GuardedRollout {key}: no answer within {} s", ANSWER.as_secs()))),
            };
            if let Some(unavailable) = &error {
                tracing::debug!(rollout = key, what = %unavailable, attempt, "the swap is tried again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            // A lost answer may hide a swap that was won, and a conflict may be an unrelated edit.
            if let Some(swapped) = self.look_again(key, &prepared).await? {
                return Ok(swapped);
            }
        }
        Err(Unavailable(format!("the API server, GuardedRollout {key}: the swap did not get through {TRIES} times")))
    }

    /// Reads the object again after a swap that did not go well: how that ended, or nothing if it is to be tried again.
    async fn look_again(&self, key: &str, prepared: &Prepared) -> Result<Option<Swapped>, Unavailable> {
        let object = self.get(key).await?.ok_or_else(|| Unavailable(format!("there is no GuardedRollout {key} any more")))?;
        let found = Self::revision_of(&object);
        if found == prepared.expected {
            if let Some(seat) = lock(&self.0.seats).get_mut(key) {
                seat.version = object.metadata.resource_version.unwrap_or_default();
                seat.generation = object.metadata.generation;
                seat.revision = found;
            }
            return Ok(None);
        }
        if object.data["status"]["state"].as_str() == Some(&prepared.text) {
            if self.revision(key) != found {
                let copy = Prepared { records: prepared.records.clone(), ledger: prepared.ledger.clone(), ..prepared.shell() };
                self.sit(key, &object.metadata, copy);
            }
            return Ok(Some(Swapped::Already));
        }
        Ok(Some(Swapped::Lost { found }))
    }

    async fn seat_again(&self, key: &str) -> Result<(), Unavailable> {
        self.load(key).await.map(drop).map_err(|error| Unavailable(error.to_string()))
    }

    /// Writes the content of a release, unless that is known to be there.
    async fn create(&self, key: &str, record: &LedgerRecord) -> Result<(), Unavailable> {
        if !self.0.signs {
            return Ok(());
        }
        let content = Entry::of(record)?.content;
        let workload = {
            let seats = lock(&self.0.seats);
            match seats.get(key) {
                Some(seat) if seat.written.contains(&content) => return Ok(()),
                Some(seat) => seat.workload.clone(),
                None => return Ok(()),
            }
        };
        self.0.records.create(&workload, &record.release).await?;
        if let Some(seat) = lock(&self.0.seats).get_mut(key) {
            seat.written.insert(content);
        }
        Ok(())
    }

    async fn prepare(&self, key: &str, commit: &Commit) -> Result<Prepared, Unavailable> {
        let say = |what: String| Unavailable(format!("the commit of {key} cannot be written: {what}"));
        let text = status::encode(&commit.state).map_err(|what| say(format!("its state: {what}")))?;
        let workload = self.workload(key)?;
        let (mut ledger, mut digests) = (Vec::new(), BTreeMap::new());
        for record in &commit.ledger {
            let bytes = serde_json::to_vec(record).map_err(|error| say(error.to_string()))?;
            digests.insert(record.release.id.clone(), Digest::of(&bytes).to_string());
            if self.0.signs {
                let entry = Entry::of(record)?;
                let signed = entry.sign(self.0.local.keys(), &workload)?;
                ledger.push((entry, signed));
            }
        }
        let state = serde_json::to_vec(&commit.state).map_err(|error| say(error.to_string()))?;
        let seal = Seal { state: Digest::of(&state).to_string(), ledger: digests, journal: Some(commit.journal.clone()) };
        let made = leaf::leaves(key, commit, &seal, clock::wall()).map_err(|error| say(error.to_string()))?;
        for bytes in made.evidence {
            self.0.local.put_evidence(bytes).await?;
        }
        let records = made.leaves.into_iter().map(|leaf| String::from_utf8_lossy(&leaf.bytes).into_owned()).collect();
        let (before, generation) = {
            let seats = lock(&self.0.seats);
            seats.get(key).map(|seat| (seat.before.clone(), seat.generation)).unwrap_or_default()
        };
        let status = {
            let documents = lock(&self.0.documents);
            status::readable(&commit.state, &commit.records, &before, generation, documents.get(key))
        };
        Ok(Prepared { expected: commit.expected, text, records, ledger, status })
    }

    /// The patch, from what `.status` holds now.
    fn body(&self, key: &str, prepared: &mut Prepared) -> Result<Value, Unavailable> {
        let seats = lock(&self.0.seats);
        let seat = seats.get(key).ok_or_else(|| Unavailable(format!("{key} was not loaded")))?;
        let waiting: usize = seat.undrained.iter().map(String::len).sum();
        if waiting > RECORDS_MAX {
            return Err(Unavailable(format!(
                "{key}: {waiting} bytes of audit records wait for this replica's log, which does not take them"
            )));
        }
        let status = RolloutStatus {
            state: Some(prepared.text.clone()),
            records: seat.undrained.iter().chain(&prepared.records).cloned().collect(),
            ledger: seat.pending.iter().chain(&prepared.ledger).map(|(_, signed)| signed.clone()).collect(),
            observed_generation: seat.generation,
            ..prepared.status.clone()
        };
        let status = status::patch(&status).map_err(|error| Unavailable(format!("the status of {key}: {error}")))?;
        Ok(json!({"metadata": {"resourceVersion": seat.version}, "status": status}))
    }

    /// Notes what is in place now.
    fn sit(&self, key: &str, metadata: &ObjectMeta, prepared: Prepared) {
        if let Some(seat) = lock(&self.0.seats).get_mut(key) {
            seat.version = metadata.resource_version.clone().unwrap_or_default();
            seat.generation = metadata.generation;
            seat.revision = prepared.expected + 1;
            seat.undrained.extend(prepared.records);
            seat.pending.extend(prepared.ledger);
            seat.before = prepared.status;
        }
    }

    /// Moves audit records that ride in statuses to this replica's log, and ledger records to their objects. They leave the statuses
    /// with the next commits.
    ///
    /// # Errors
    /// The log does not take them. What the API server does not take is tried again at the next drain.
    pub async fn drain(&self) -> Result<Drained, Unavailable> {
        let drained = {
            let _alone = self.0.logging.alone.lock().await;
            self.testify_all().await?
        };
        let _alone = self.0.draining.alone.lock().await;
        self.apply_all().await;
        Ok(drained)
    }

    /// The same, unless it is under way: then that goes on until nothing is left, and this does not wait for it. Whoever commits asks for
    /// it, hundreds at once when many breach. Nor does this wait for the API server: the log is on this machine.
    ///
    /// # Errors
    /// As above.
    pub async fn drain_along(&self) -> Result<(), Unavailable> {
        if !self.0.logging.enter(|| async { self.testify_all().await.map(drop) }).await? {
            return Ok(());
        }
        let store = self.clone();
        tokio::spawn(async move {
            let applied = store.0.draining.enter(|| async {
                store.apply_all().await;
                Ok::<(), Unavailable>(())
            });
            applied.await
        });
        Ok(())
    }

    /// The guards of which something rides in their status still.
    fn busy(&self, rides: impl Fn(&Seat) -> bool) -> Vec<(String, Seat)> {
        let seats = lock(&self.0.seats);
        seats.iter().filter(|(_, seat)| self.0.signs && rides(seat)).map(|(key, seat)| (key.clone(), Seat::clone(seat))).collect()
    }

    async fn testify_all(&self) -> Result<Drained, Unavailable> {
        let busy = self.busy(|seat| !seat.undrained.is_empty());
        futures::future::try_join_all(busy.iter().map(|(key, seat)| self.testify(key, seat))).await?;
        if self.0.signs { self.0.local.drain().await } else { Ok(Drained::default()) }
    }

    async fn apply_all(&self) {
        let busy = self.busy(|seat| !seat.pending.is_empty());
        stream::iter(&busy).for_each_concurrent(LEDGERS, |(key, seat)| self.apply(key, seat)).await;
    }

    /// Moves a guard's audit records to the log.
    async fn testify(&self, key: &str, seat: &Seat) -> Result<(), Unavailable> {
        let leaves: Vec<Leaf> = seat.undrained.iter().filter_map(|line| Leaf::of(line).ok()).collect();
        self.0.local.testify(&format!("{key}@{}", seat.uid), seat.revision, leaves).await?;
        if let Some(now) = lock(&self.0.seats).get_mut(key) {
            now.undrained.retain(|line| !seat.undrained.contains(line));
        }
        Ok(())
    }

    /// Moves a guard's ledger records to their objects, in their order.
    async fn apply(&self, key: &str, seat: &Seat) {
        let mut applied = Vec::new();
        for (at, (entry, signed)) in seat.pending.iter().enumerate() {
            // Only the newest of each release counts.
            if seat.pending[at + 1..].iter().any(|(later, _)| later.release == entry.release && later.content == entry.content) {
                applied.push(signed.clone());
                continue;
            }
            match self.0.records.apply(&self.0.public, &seat.workload, entry, signed).await {
                Ok(()) => applied.push(signed.clone()),
                Err(error) => tracing::warn!(rollout = key, release = %entry.release, %error, "a ledger record waits in the status"),
            }
        }
        if let Some(now) = lock(&self.0.seats).get_mut(key) {
            now.pending.retain(|(_, signed)| !applied.contains(signed));
        }
    }

    /// Keeps a freeze of a wider scope, or its end, for every replica.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn freeze(&self, scope: &str, by: Option<&Request>) -> Result<(), Unavailable> {
        super::freezes::keep(&self.0.client, &self.0.namespace, scope, by).await
    }

    /// Forgets a guard that is gone, or another replica's.
    pub fn forget(&self, key: &str) {
        lock(&self.0.seats).remove(key);
        lock(&self.0.offered).remove(key);
    }
}

/// 2026-01-01T00:00:00Z, from which time is counted.
const EPOCH_MILLIS: i64 = 1_767_225_600_000;

impl Prepared {
    fn shell(&self) -> Self {
        Self { expected: self.expected, text: String::new(), records: Vec::new(), ledger: Vec::new(), status: self.status.clone() }
    }
}

/// The workload that a guard names.
fn workload_of(key: &str, object: &DynamicObject) -> Result<WorkloadName, String> {
    let kinds = [("deployment", "Deployment"), ("statefulSet", "StatefulSet"), ("daemonSet", "DaemonSet")];
    let workload = &object.data["spec"]["workload"];
    let found = kinds.iter().find_map(|(field, kind)| Some((*kind, workload[*field]["name"].as_str()?)));
    let (kind, name) = found.ok_or("it guards no workload of Kubernetes")?;
    let namespace = key.split_once('/').map_or("default", |(namespace, _)| namespace);
    Ok(WorkloadName { namespace: namespace.to_owned(), kind: kind.to_owned(), name: name.to_owned() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
