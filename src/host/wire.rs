//! What controller, command line and host say to each other over the Unix socket, as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::core::input::Observed;
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::Process;
use crate::core::work::{Action, Effect, EffectId, Fence};

/// `PUT /v1/workloads/{namespace}/{name}/ensure`: an effect without its deadline and lane, which are the caller's.
/// The answer is an [`Outcome`](crate::core::input::Outcome).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ensure {
    /// Its name; its revision orders the writes of one workload.
    pub id: EffectId,
    /// What it replaces.
    pub fence: Fence,
    /// `ensureArm`, `ensureWeights`, `ensureRelease` or `ensureHold`; everything else is refused as invalid.
    pub action: Action,
    /// What the writer's committed state leads traffic back to, mostly the stable release: so the host learns of a new one with
    /// the first forward step, long before a revert needs it. Absent: keep what is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<ReleaseId>,
}

impl Ensure {
    /// `effect` as asked by a writer whose committed state leads traffic back to `stable`.
    pub fn of(effect: &Effect, stable: Option<ReleaseId>) -> Self {
        Self { id: effect.id, fence: effect.fence.clone(), action: effect.action.clone(), stable }
    }
}

/// `PUT /v1/workloads/{namespace}/{name}/define`: the settings of a workload that no deployment changes.
/// The answer is an [`Outcome`](crate::core::input::Outcome).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Define {
    /// The deployment attempt the writer knows of; refused if the host has seen a newer one.
    pub generation: u64,
    /// The settings.
    pub process: Process,
    /// The release that is stable in the writer's committed state. Absent: keep what is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<ReleaseId>,
}

/// What orders the writers of a workload. See [`fence`](super::fence).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fences {
    /// The newest deployment attempt that was seen.
    pub generation: u64,
    /// The newest revision that was obeyed.
    pub revision: u64,
    /// The stable release, as told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<ReleaseId>,
    /// The effect that set the weights last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighed: Option<EffectId>,
    /// The effect that set the hold last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<EffectId>,
}

/// `GET /v1/workloads/{namespace}/{name}`: everything that is known of a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Namespace of the guarding rollout.
    pub namespace: String,
    /// Name of the guarding rollout.
    pub name: String,
    /// The settings.
    pub process: Process,
    /// What the core wants to know.
    pub observed: Observed,
    /// Every release whose members are wanted.
    pub releases: BTreeMap<ReleaseId, Release>,
    /// Releases that may not be started.
    pub quarantined: BTreeSet<ReleaseId>,
    /// Where the proxy listens, once it does.
    pub listen: Option<SocketAddr>,
    /// Why the proxy does not listen.
    pub listen_fault: Option<String>,
    /// Where `GET /metrics` answers over TCP.
    pub metrics: SocketAddr,
    /// What orders the writers.
    pub fences: Fences,
    /// The children, started or waiting for their next start.
    pub members: Vec<MemberView>,
}

/// One child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberView {
    /// Of which release.
    pub release: ReleaseId,
    /// Its place among the instances of that release, from 0.
    pub slot: u16,
    /// Process id, while it runs.
    pub pid: Option<u32>,
    /// Its loopback port, while it runs.
    pub port: Option<u16>,
    /// Whether its probes succeed.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// Requests under way.
    pub inflight: u64,
    /// What is wrong with it.
    pub failing: Option<String>,
    /// File with its latest output.
    pub log: String,
}
