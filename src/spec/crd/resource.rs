//! What Kubernetes keeps for backstop beside the documents that people write: the status of a rollout, and ledger records.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ledger::Standing;
use crate::core::release::{Image, ReleaseId};
use crate::core::spec::Percent;
use crate::core::state::PhaseKind;

/// Where a rollout stands. Written by the controller alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// The generation of the document that the controller went by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseKind>,
    /// The candidate's share of new requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Percent>,
    /// What the judge says: `Pass`, `Breach` or `Inconclusive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The code of the reason for verdict or phase; `backstop explain CODE` tells its meaning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reason in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The release on trial, or the last one that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<ReleaseName>,
    /// The release that traffic goes back to first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<ReleaseName>,
    /// What can be waited for: `kubectl wait --for=condition=Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<StatusCondition>,
    /// What is in force of the document, labels and spec as JSON: where it was loosened since, what it was before, until that is approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<Arc<str>>,
    /// What the controller has committed, as JSON, compressed with gzip, in base64. Not for people: `backstop status` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Records of the commits that are not in the audit log yet, each as JSON.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<String>,
    /// Ledger records of the commits that are not in their `ReleaseRecord` yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ledger: Vec<SignedRecord>,
}

/// What is known of a release, with the controller's word for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedRecord {
    /// What was signed, as JSON.
    pub record: String,
    /// The controller's signature over the workload and the record, in base64.
    pub signature: String,
}

/// A release in a few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseName {
    /// Hash of its template.
    pub id: ReleaseId,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The image of its first container.
    pub image: Image,
}

/// A condition as every Kubernetes API has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusCondition {
    /// What it is about, such as `Ready` or `RevertReady`.
    #[schemars(length(min = 1, max = 316))]
    pub r#type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The generation of the document that it was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// A word for programs.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// A sentence for people.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)] // the words say it
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// A release that was deployed, whole: what a revert puts back. It never changes, outlives the `GuardedRollout`, and is all that
/// a revert needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseRecord {
    /// The workload.
    pub workload: WorkloadName,
    /// The release: hash of its template.
    pub release: ReleaseId,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Every image of the template.
    pub images: Vec<Image>,
    /// The release with its template, as JSON, compressed with gzip, in base64.
    #[schemars(length(max = 921_600))]
    pub content: String,
}

/// A workload in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadName {
    /// Its namespace.
    pub namespace: String,
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What came of a release. Written by the controller alone; it counts only with a good signature.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordStatus {
    /// What is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// Whether it must not run until a person lifts that.
    pub quarantined: bool,
    /// Why, as a reason's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What was signed, as JSON: the above, and the digest of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// The controller's signature over the workload and the record, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}
