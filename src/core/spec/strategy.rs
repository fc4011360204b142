//! How traffic moves to a candidate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Named, Percent, thirty_seconds};
use crate::core::time::Span;

/// How traffic moves to a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Strategy {
    /// In steps.
    Canary(Canary),
    /// At once, after a health gate, with the old release kept warm.
    BlueGreen(BlueGreen),
    /// Nothing is driven; what others roll out is judged, and a revert restores the template.
    Observe(Observe),
}

impl Strategy {
    /// What moves the traffic of a workload on Kubernetes, if it was written.
    pub fn route(&self) -> Option<&Route> {
        match self {
            Self::Canary(canary) => canary.route.as_ref(),
            Self::BlueGreen(blue_green) => blue_green.route.as_ref(),
            Self::Observe(_) => None,
        }
    }
}

/// What moves the traffic of a workload on Kubernetes. Objects are in the rollout's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Route {
    /// A Gateway API `HTTPRoute`: the weights of its `backendRefs`, in every rule that names the workload's Service.
    HttpRoute(Named),
    /// A Gateway API `GRPCRoute`, in the same way.
    GrpcRoute(Named),
    /// An Istio `VirtualService`: the weights of its destinations.
    VirtualService(Named),
    /// A Service whose selector is switched: everything or nothing, for `blueGreen`.
    Service(Named),
    /// No router: the candidate's share of the pods is its share of the traffic. For `canary`.
    ReplicaRatio {},
}

/// A canary's steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// What moves the traffic: needed for a workload on Kubernetes, and by no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// How the candidate starts.
    #[serde(default)]
    pub candidate: Candidate,
    /// Weights and how long each is judged. At least one; weights rise.
    pub steps: Vec<Step>,
    /// What happens when a step's deadline passes without a verdict. Absent: wait, and revert for agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_deadline: Option<OnDeadline>,
    /// What happens when a newer release is deployed meanwhile.
    #[serde(default)]
    pub on_newer: OnNewer,
}

/// How a candidate starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Candidate {
    /// Time after the first traffic that is not scored.
    #[serde(default = "thirty_seconds")]
    pub warm_up: Span,
}

impl Default for Candidate {
    fn default() -> Self {
        Self { warm_up: thirty_seconds() }
    }
}

/// One step of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// The candidate's share of the traffic.
    pub weight: Percent,
    /// Scored time before the next step; needs evidence of health as well.
    pub bake: Span,
    /// When to stop waiting for evidence. Absent: ten bakes, at least 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
}

impl Step {
    /// The deadline, from the beginning of the step.
    pub fn deadline(&self) -> Span {
        self.deadline.unwrap_or_else(|| usual_deadline(self.bake))
    }
}

/// The deadline of a bake for which none was written.
fn usual_deadline(bake: Span) -> Span {
    bake.times(10).max(Span::minutes(10))
}

/// What happens when a step's deadline passes without a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnDeadline {
    /// Stay and page.
    Wait,
    /// Weight to 0 without blame.
    Retreat,
    /// Go back.
    Revert,
    /// Go on if health holds; only where policy allows. Recorded as such, never as `Pass`.
    PromoteOnHealth,
}

/// What happens when a newer release is deployed during a rollout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnNewer {
    /// The newer takes the place of the one on trial, and starts at 0.
    #[default]
    Supersede,
    /// The newest waits until this rollout has ended.
    QueueLatest,
    /// The newer is refused.
    Refuse,
}

/// An instant switch with the old release kept warm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlueGreen {
    /// What moves the traffic: needed for a workload on Kubernetes, and by no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// How the candidate starts.
    #[serde(default)]
    pub candidate: Candidate,
    /// How long the candidate is judged at 100 % before it is promoted.
    pub bake: Span,
    /// When to stop waiting for evidence. Absent: ten bakes, at least 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// What happens when the deadline passes without a verdict. Absent: wait, and revert for agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_deadline: Option<OnDeadline>,
    /// What happens when a newer release is deployed meanwhile.
    #[serde(default)]
    pub on_newer: OnNewer,
}

impl BlueGreen {
    /// The deadline, from the beginning of the switch.
    pub fn deadline(&self) -> Span {
        self.deadline.unwrap_or_else(|| usual_deadline(self.bake))
    }
}

/// Nothing is driven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observe {}
