//! The ledger as `ReleaseRecord` objects in backstop's namespace. They outlive the guards: a guard that is deleted and created again
//! finds what was known good and what is quarantined.
//!
//! `spec` holds the release with its template and never changes; `status` holds what came of it, signed by the controller together
//! with the digest of the content. What is not signed so is never a revert's target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::lean::{Head, Lean, PAGE};
use super::objects::{FIELD_MANAGER, is_conflict, resource, unavailable};
use super::status::{pack, unpack};
use crate::core::ledger::{LedgerRecord, Standing};
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::time::Now;
use crate::spec::crd::{RecordStatus, ReleaseRecord, SignedRecord, WorkloadName};
use crate::world::keys::{Keys, Public};
use crate::world::store::Unavailable;

/// The label by which the records of one workload are found.
pub const WORKLOAD: &str = "backstop.dev/workload";
/// The longest content, in bytes of base64.
const CONTENT_MAX: usize = 900 << 10;

/// What is signed of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) release: ReleaseId,
    /// Digest of the release as JSON, before compression.
    pub(super) content: Digest,
    pub(super) standing: Standing,
    pub(super) quarantined: bool,
    pub(super) since: Now,
    pub(super) last_good: Option<Now>,
    pub(super) why: String,
}

/// A record as it is kept, with what can be believed of it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) release: ReleaseId,
    /// The release, or why its content cannot be used.
    pub(super) content: Result<(Digest, Release), String>,
    /// What came of it; `None` if nothing was written down yet.
    pub(super) entry: Option<Result<Entry, String>>,
}

/// The ledger of every workload.
#[derive(Clone)]
pub(super) struct Records {
    api: Api<Lean>,
    heads: Api<Head>,
    listed: Arc<Mutex<Listed>>,
}

/// What is signed: nothing signed for another purpose or another workload can stand in for it.
fn message(workload: &WorkloadName, record: &str) -> Vec<u8> {
    format!("backstop release record v1\n{}\n{record}", path(workload)).into_bytes()
}

/// `namespace/kind/name`.
pub(super) fn path(workload: &WorkloadName) -> String {
    format!("{}/{}/{}", workload.namespace, workload.kind, workload.name)
}

/// The value of the label [`WORKLOAD`].
pub fn label(workload: &WorkloadName) -> String {
    Digest::of(path(workload).as_bytes()).hex()[..40].to_owned()
}

fn content(release: &Release) -> Result<(Digest, Vec<u8>), Unavailable> {
    let json = serde_json::to_vec(release).map_err(|error| Unavailable(format!("release {}: {error}", release.id)))?;
    Ok((Digest::of(&json), json))
}

/// A name that differs with workload, release and content.
fn name(workload: &WorkloadName, release: &ReleaseId, content: &Digest) -> String {
    let place = Digest::of(format!("{}\n{content}", path(workload)).as_bytes());
    let short: String = workload.name.replace('.', "-").chars().take(24).collect();
    format!("{short}-{release}-{}", &place.hex()[..16])
}

impl Entry {
    /// What a ledger record says, without the release's own content.
    pub(super) fn of(record: &LedgerRecord) -> Result<Self, Unavailable> {
        let (content, _) = content(&record.release)?;
        Ok(Self {
            release: record.release.id.clone(),
            content,
            standing: record.standing,
            quarantined: record.quarantined,
            since: record.since,
            last_good: record.last_good,
            why: record.why.clone(),
        })
    }

    /// The ledger record, around the release.
    pub(super) fn record(self, release: Release) -> LedgerRecord {
        LedgerRecord {
            release,
            standing: self.standing,
            quarantined: self.quarantined,
            since: self.since,
            last_good: self.last_good,
            why: self.why,
        }
    }

    /// Signs it for `workload`.
    pub(super) fn sign(&self, keys: &Keys, workload: &WorkloadName) -> Result<SignedRecord, Unavailable> {
        let record = serde_json::to_string(self).map_err(|error| Unavailable(format!("release {}: {error}", self.release)))?;
        let signature = keys.sign(&message(workload, &record)).map_err(|error| Unavailable(error.to_string()))?;
        Ok(SignedRecord { record, signature: BASE64.encode(signature) })
    }

    /// What a signed record says, if the controller signed it for `workload`.
    pub(super) fn trusted(public: &Public, workload: &WorkloadName, signed: &SignedRecord) -> Result<Self, String> {
        let signature = BASE64.decode(&signed.signature).unwrap_or_default();
        if !public.verify(&message(workload, &signed.record), &signature) {
            return Err("its signature is not the controller's".into());
        }
        serde_json::from_str(&signed.record).map_err(|error| format!("it cannot be read: {error}"))
    }
}

impl Kept {
    /// Whether `entry` says what came of this very content.
    pub(super) fn is_of(&self, entry: &Entry) -> bool {
        self.content.as_ref().is_ok_and(|(digest, _)| *digest == entry.content)
    }

    /// The record, if all of it can be believed.
    pub(super) fn record(&self) -> Result<LedgerRecord, String> {
        let (digest, release) = self.content.clone()?;
        let entry = self.entry.clone().unwrap_or_else(|| Err("nothing was written down of it".into()))?;
        if entry.content != digest {
            return Err("its content is not the one that was signed".into());
        }
        if entry.release != release.id || release.template.release() != release.id {
            return Err("its template is not that of the release".into());
        }
        Ok(entry.record(release))
    }
}

impl Records {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        let resource = resource("ReleaseRecord");
        Self {
            api: Api::namespaced_with(client.clone(), namespace, &resource),
            heads: Api::namespaced_with(client, namespace, &resource),
            listed: Arc::default(),
        }
    }

    /// Lists the records of all workloads at once, for a start with many guards: each [`Self::list_since`] takes its own of them.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(super) async fn list_all(&self) -> Result<(), Unavailable> {
        let (mut listed, mut parameters) = (Listed::default(), ListParams::default().limit(PAGE));
        loop {
            let found = self.api.list(&parameters).await.map_err(|error| unavailable("ReleaseRecords", &error))?;
            // All pages show what was there at the first.
            listed.version = version(found.metadata.resource_version.as_deref());
            for Lean(object) in found.items {
                if let Some(label) = object.metadata.labels.as_ref().and_then(|labels| labels.get(WORKLOAD)) {
                    listed.by_label.entry(label.clone()).or_default().push(object);
                }
            }
            match found.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
                None => break,
            }
        }
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = listed;
        Ok(())
    }

    /// The records of a workload as they were when its guard had the resource version `since`, or later: a record is in its object
    /// before it leaves the guard's status, so nothing is missing between them.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(super) async fn list_since(&self, public: &Public, workload: &WorkloadName, since: Option<&str>) -> Result<Vec<Kept>, Unavailable> {
        let taken = {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = version(since) > 0 && listed.version >= version(since);
            // Whoever was loaded once is asked for live afterwards.
            let is_first = listed.taken.insert(label(workload));
            let objects = listed.by_label.remove(&label(workload)).unwrap_or_default();
            (is_first && is_fresh).then_some(objects)
        };
        match taken {
            Some(objects) => Ok(kept(public, workload, objects)),
            None => self.list(public, workload).await,
        }
    }

    /// Writes down what a release is. What is there already is left alone: its name says its content.
    ///
    /// # Errors
    /// The API server does not take it.
    pub(super) async fn create(&self, workload: &WorkloadName, release: &Release) -> Result<(), Unavailable> {
        let (digest, json) = content(release)?;
        let packed = pack(&json).map_err(|error| Unavailable(format!("release {}: {error}", release.id)))?;
        if packed.len() > CONTENT_MAX {
            tracing::error!(release = %release.id, bytes = packed.len(), "its template is too large to be kept: it cannot be a revert's target");
            return Ok(());
        }
        let name = name(workload, &release.id, &digest);
        let spec = ReleaseRecord {
            workload: workload.clone(),
            release: release.id.clone(),
            label: release.label.clone(),
            images: release.template.images(),
            content: packed,
        };
        let mut object = DynamicObject::new(&name, &resource("ReleaseRecord")).data(json!({"spec": spec}));
        object.metadata.labels = Some([(WORKLOAD.to_owned(), label(workload))].into());
        match self.api.create(&PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }, &Lean(object)).await {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => Err(unavailable(&format!("ReleaseRecord {name}"), &error)),
        }
    }

    /// Writes down what came of a release.
    ///
    /// # Errors
    /// The API server does not take it.
    pub(super) async fn apply(
        &self,
        public: &Public,
        workload: &WorkloadName,
        entry: &Entry,
        signed: &SignedRecord,
    ) -> Result<(), Unavailable> {
        let name = name(workload, &entry.release, &entry.content);
        // Another replica, that was slow or cut off, may come late with an older word: it must not stand.
        // A template that was too large has no object.
        let Some(found) = self.object(&name).await? else { return Ok(()) };
        let text = |field: &str| found.data["status"][field].as_str().unwrap_or_default().to_owned();
        let known = SignedRecord { record: text("record"), signature: text("signature") };
        let newer = |known: Entry| known.release == entry.release && known.since.mono > entry.since.mono;
        if Entry::trusted(public, workload, &known).is_ok_and(newer) {
            return Ok(());
        }
        let status = RecordStatus {
            standing: Some(entry.standing),
            quarantined: entry.quarantined,
            why: Some(entry.why.clone()),
            record: Some(signed.record.clone()),
            signature: Some(signed.signature.clone()),
        };
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "status": status}));
        match self
            .heads
            .patch_status(&name, &PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }, &patch)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => Err(unavailable(&format!("ReleaseRecord {name}"), &error)),
        }
    }

    /// The record of just this release, with just this content.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(super) async fn get(&self, public: &Public, workload: &WorkloadName, release: &Release) -> Result<Option<Kept>, Unavailable> {
        let (digest, _) = content(release)?;
        let found = self.object(&name(workload, &release.id, &digest)).await?;
        Ok(found.and_then(|object| read(public, workload, object)))
    }

    async fn object(&self, name: &str) -> Result<Option<DynamicObject>, Unavailable> {
        let found = self.api.get_opt(name).await.map_err(|error| unavailable(&format!("ReleaseRecord {name}"), &error))?;
        Ok(found.map(|Lean(object)| object))
    }

    /// Every record of a workload, oldest first. A release may have several, of different content (another label, say).
    ///
    /// # Errors
    /// The API server does not answer.
    pub(super) async fn list(&self, public: &Public, workload: &WorkloadName) -> Result<Vec<Kept>, Unavailable> {
        let parameters = ListParams::default().labels(&format!("{WORKLOAD}={}", label(workload)));
        let found = self.api.list(&parameters).await.map_err(|error| unavailable("ReleaseRecords", &error))?.items;
        Ok(kept(public, workload, found.into_iter().map(|Lean(object)| object).collect()))
    }
}

/// Records of one list, for those who load a guard for the first time.
#[derive(Debug, Default)]
struct Listed {
    version: u64,
    by_label: BTreeMap<String, Vec<DynamicObject>>,
    taken: BTreeSet<String>,
}

/// A resource version as the number that it is from Kubernetes 1.35 on; 0 if it is none.
fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What the objects say, oldest first.
fn kept(public: &Public, workload: &WorkloadName, mut objects: Vec<DynamicObject>) -> Vec<Kept> {
    objects.sort_by(|a, b| {
        a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
    objects.into_iter().filter_map(|object| read(public, workload, object)).collect()
}

/// What an object says, if it is a record of this workload at all.
fn read(public: &Public, workload: &WorkloadName, mut object: DynamicObject) -> Option<Kept> {
    let spec: ReleaseRecord = serde_json::from_value(object.data["spec"].take()).ok()?;
    if spec.workload != *workload {
        return None;
    }
    let content = unpack(&spec.content).and_then(|json| {
        let release: Release = serde_json::from_slice(&json).map_err(|error| format!("its content cannot be read: {error}"))?;
        Ok((Digest::of(&json), release))
    });
    let status: RecordStatus = serde_json::from_value(object.data["status"].take()).unwrap_or_default();
    let signed = status.record.zip(status.signature).map(|(record, signature)| SignedRecord { record, signature });
    let entry = signed.map(|signed| Entry::trusted(public, workload, &signed));
    Some(Kept { release: spec.release, content, entry })
}
