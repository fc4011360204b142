//! What is wrong with a guard, said in its status.

use std::sync::Arc;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::lean::Head;
use super::objects::{FIELD_MANAGER, resource, unavailable};
use super::status::{condition, dated};
use crate::spec::crd::{ConditionStatus, StatusCondition};
use crate::world::store::Unavailable;

/// The condition that says whether backstop can do with a guard what it says.
pub(super) const READY: &str = "Ready";
/// Its reason if not.
const INVALID: &str = "Invalid";

/// The condition that says whether a guard's document is in force as it is written.
const APPROVED: &str = "Approved";
/// Its reason if not.
const LOOSENS: &str = "Loosens";

/// The condition that says whether pods run the images that were verified, as far as their nodes tell.
const VERIFIED: &str = "ImagesVerified";
/// Its reason if not.
const OTHERS: &str = "OtherImage";

/// What is to be said of a guard's document, and of what runs under it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// What is wrong with it.
    pub trouble: Option<String>,
    /// What of it, or of what it rests on, waits until a person approves it.
    pub waits: Option<String>,
    /// What is in force of it, labels and spec as JSON.
    pub in_force: Option<Arc<str>>,
    /// Which pods run another image than the one that was verified.
    pub others: Option<String>,
}

impl Said {
    /// What of it people should know.
    pub fn notes(&self) -> Vec<String> {
        notes(&conditions(self))
    }
}

/// What conditions say that people should know.
pub fn notes(conditions: &[StatusCondition]) -> Vec<String> {
    let is_ours = |one: &&StatusCondition| [READY, APPROVED, VERIFIED].contains(&one.r#type.as_str());
    let bad = conditions.iter().filter(is_ours).filter(|one| one.status == ConditionStatus::False);
    bad.map(|one| format!("{}: {}", one.reason, one.message)).collect()
}

/// The conditions that say so.
pub(super) fn conditions(said: &Said) -> Vec<StatusCondition> {
    let ready = match &said.trouble {
        Some(what) => condition(READY, ConditionStatus::False, INVALID, what),
        None => condition(READY, ConditionStatus::True, "Guarded", "backstop watches this workload"),
    };
    let approved = match &said.waits {
        Some(what) => condition(APPROVED, ConditionStatus::False, LOOSENS, what),
        None => condition(APPROVED, ConditionStatus::True, "InForce", "the document is in force as it is written"),
    };
    let verified = match &said.others {
        Some(what) => condition(VERIFIED, ConditionStatus::False, OTHERS, what),
        None => condition(VERIFIED, ConditionStatus::True, "AsVerified", "no pod is known to run another image than its release names"),
    };
    vec![ready, approved, verified]
}

/// Whether the conditions say so already.
pub fn is_known(conditions: &[StatusCondition], said: &Said) -> bool {
    let message = |r#type: &str, reason: &str| {
        conditions.iter().find(|one| one.r#type == r#type && one.reason == reason).map(|one| one.message.as_str())
    };
    message(READY, INVALID) == said.trouble.as_deref()
        && message(APPROVED, LOOSENS) == said.waits.as_deref()
        && message(VERIFIED, OTHERS) == said.others.as_deref()
}

/// Says of a guard what is to be said.
///
/// # Errors
/// The API server does not take it.
pub async fn say(client: &Client, key: &str, before: &[StatusCondition], said: &Said, generation: Option<i64>) -> Result<(), Unavailable> {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    let api: Api<Head> = Api::namespaced_with(client.clone(), namespace, &resource("GuardedRollout"));
    let mut status = json!({"conditions": dated(conditions(said), before, generation)});
    if let Some(in_force) = &said.in_force {
        status["inForce"] = json!(in_force);
    }
    let patch = Patch::Merge(json!({"status": status}));
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch_status(name, &parameters, &patch).await.map(drop).map_err(|error| unavailable(&format!("GuardedRollout {key}"), &error))
}
