//! The four documents people write, as types: [`GuardedRollout`], [`GuardPolicy`](super::policy::GuardPolicy),
//! [`GuardSource`] and [`FlagTarget`].
//!
//! Field names are the YAML's. Enums are externally tagged: one key names the variant. Unknown fields are
//! errors. What no deployment can mean is refused by `spec::lint`, with the place in the file.

mod quantity;
mod source;
mod strategy;

pub use quantity::{BadAbove, Percent, Scrapes, SlowerThan};
pub use source::{Auth, FlagFile, FlagTarget, GuardSource, PodEndpoint, Prometheus, Scrape};
pub use strategy::{BlueGreen, Canary, Candidate, Observe, OnDeadline, OnNewer, Route, Step, Strategy};

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::Span;

/// The API group and version of every document.
pub const API_VERSION: &str = "backstop.dev/v1alpha1";

/// Who a document is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name, unique per kind and namespace: lower-case letters, digits and dashes.
    pub name: String,
    /// Namespace of a `GuardedRollout`; `default` if absent. Cluster-wide kinds have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels that policies can select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Metadata {
    /// The namespace, `default` if none was written.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace(), self.name)
    }
}

/// What the service team writes: which workload is guarded, by which objectives, how it is rolled out and
/// what going back means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardedRollout {
    /// Which workload is guarded.
    pub workload: Workload,
    /// How the metrics of candidate and stable are told apart.
    pub arms: Arms,
    /// Name of the `GuardSource`; `host` (the host's own proxy counters) if absent.
    #[serde(default = "host_source")]
    pub source: String,
    /// What good service means. At least one, at most four, those that policies add counted.
    pub objectives: Vec<Objective>,
    /// Rules that breach besides the sequential tests and health; they never replace those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_breach_on: Vec<Rule>,
    /// How traffic moves to a candidate.
    pub strategy: Strategy,
    /// What happens after 100 %.
    #[serde(default)]
    pub watch: Watch,
    /// What must be proven of every image before it goes, or goes back, live.
    pub attestation: Attestation,
    /// What going back means.
    #[serde(default)]
    pub revert: Revert,
    /// How recovery after a revert is verified.
    #[serde(default)]
    pub recovery: Recovery,
    /// What happens without data.
    #[serde(default)]
    pub no_data: NoData,
    /// What happens when both arms are bad.
    #[serde(default)]
    pub retreat: Retreat,
}

fn host_source() -> String {
    "host".to_owned()
}

fn ten_minutes() -> Span {
    Span::minutes(10)
}

/// The guarded workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Workload {
    /// Processes supervised by `backstop host` behind its weighted proxy.
    Process(Process),
    /// A Kubernetes Deployment in the rollout's namespace.
    Deployment(Named),
    /// A Kubernetes `StatefulSet` in the rollout's namespace; it is observed, never driven.
    StatefulSet(Named),
    /// A Kubernetes `DaemonSet` in the rollout's namespace; it is observed, never driven.
    DaemonSet(Named),
}

/// An object of Kubernetes in the rollout's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Named {
    /// Its name.
    pub name: String,
}

impl Workload {
    /// The process, if it is one.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Process(process) => Some(process),
            Self::Deployment(_) | Self::StatefulSet(_) | Self::DaemonSet(_) => None,
        }
    }

    /// Kind and name of the Kubernetes object, if it is one.
    pub fn object(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Process(_) => None,
            Self::Deployment(Named { name }) => Some(("Deployment", name)),
            Self::StatefulSet(Named { name }) => Some(("StatefulSet", name)),
            Self::DaemonSet(Named { name }) => Some(("DaemonSet", name)),
        }
    }

    /// Where its artifacts and their evidence are kept. Images of pods come from registries.
    pub fn artifacts(&self) -> &Artifacts {
        self.process().map_or(&Artifacts::Registry {}, |process| &process.artifacts)
    }

    /// How long requests in flight may finish after their release got no more new ones.
    pub fn drain(&self) -> Span {
        self.process().map_or_else(thirty_seconds, |process| process.drain)
    }
}

/// A service that `backstop host` runs: N children behind one listening address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// Address of the proxy, loopback unless told otherwise: `127.0.0.1:8080`; port 0 picks a free one.
    pub listen: String,
    /// Where artifacts come from.
    pub artifacts: Artifacts,
    /// Children per release.
    #[serde(default = "one")]
    pub instances: u16,
    /// How a child shows that it can serve.
    #[serde(default)]
    pub health: HealthCheck,
    /// How long requests in flight may finish after their release got no more new ones.
    #[serde(default = "thirty_seconds")]
    pub drain: Span,
}

fn one() -> u16 {
    1
}

fn thirty_seconds() -> Span {
    Span::seconds(30)
}

/// Where artifacts and their evidence are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Artifacts {
    /// An OCI image layout folder.
    Layout {
        /// The folder that holds `oci-layout` and `index.json`; relative to the file this is written in.
        path: String,
    },
    /// A registry; the repository is in the image. Plain HTTP is used for loopback only.
    Registry {},
}

/// An HTTP probe of each child. The child gets its address as `$PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// Path that answers 2xx or 3xx when the child can serve.
    #[serde(default = "root_path")]
    pub path: String,
    /// Time between probes.
    #[serde(default = "one_second")]
    pub every: Span,
    /// Time a probe may take.
    #[serde(default = "one_second")]
    pub timeout: Span,
    /// Failed probes in a row until a child counts as unhealthy.
    #[serde(default = "three")]
    pub failures: u32,
    /// How long a new child may take until its first good probe.
    #[serde(default = "thirty_seconds")]
    pub start_within: Span,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { path: root_path(), every: one_second(), timeout: one_second(), failures: three(), start_within: thirty_seconds() }
    }
}

fn root_path() -> String {
    "/".to_owned()
}

fn one_second() -> Span {
    Span::seconds(1)
}

fn three() -> u32 {
    3
}

/// How the metrics of candidate and stable are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arms {
    /// The label that separates them.
    pub by: ArmsBy,
    /// Requests stick to an arm (cookies, tenants, WebSockets): the arms are not exchangeable, so the
    /// comparison with stable is off and the objective alone decides.
    #[serde(default)]
    pub sticky: bool,
}

/// The label that separates the arms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ArmsBy {
    /// The router's own counters: for a process workload the host's, label `release`.
    Route,
    /// The label `pod` of the service's own metrics: which pods belong to which arm is known from Kubernetes.
    Pod,
    /// A label of the service's own metrics whose value is the release id (children get it as `$BACKSTOP_RELEASE`); on
    /// Kubernetes, the pods' own `pod-template-hash` or `controller-revision-hash`.
    Label(String),
    /// On Kubernetes, the series of a router or a mesh, which tell where a request went.
    Workload(ByWorkload),
}

/// How a router's or mesh's series name where a request went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ByWorkload {
    /// The label with the name of the Deployment, or of its Service: `NAME`, and `NAME-candidate` for the candidate's, which backstop
    /// makes. Istio calls it `destination_workload`.
    pub label: String,
    /// The label with its namespace: the label `namespace` may be the router's own.
    #[serde(default = "namespace_label")]
    pub namespace: String,
}

fn namespace_label() -> String {
    "namespace".to_owned()
}

impl ArmsBy {
    /// Name of the label that tells the arms apart.
    pub fn label(&self) -> &str {
        match self {
            Self::Route => "release",
            Self::Pod => "pod",
            Self::Label(name) => name,
            Self::Workload(by) => &by.label,
        }
    }
}

/// What good service means, in requests that were good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objective {
    /// Name, unique in the rollout.
    pub name: String,
    /// Share of requests that must be good.
    pub good: Percent,
    /// Good and bad told apart by two counters. Exactly one of `ratio` and `histogram`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// Good is faster than a bound. Exactly one of `ratio` and `histogram`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Histogram>,
    /// Revert also on a regression that stays within the objective.
    #[serde(default)]
    pub strict: bool,
}

impl Objective {
    /// Whether both count the same, whatever their limits.
    pub fn counts_like(&self, other: &Self) -> bool {
        self.ratio == other.ratio && self.histogram == other.histogram
    }
}

/// Two vector selectors over counters; nothing else is allowed in them. The arm matcher is added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ratio {
    /// Counter of bad requests.
    pub bad: String,
    /// Counter of all requests.
    pub total: String,
}

/// A classic histogram in seconds and the bound below which a request is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Histogram {
    /// Selector of the histogram without `_bucket` and `_count`.
    pub metric: String,
    /// Requests that take no longer are good; must be a bucket bound.
    pub within: Span,
}

/// A rule that breaches, or waits, besides the sequential tests. Exactly one of `all`, `any`, `alert` and `query`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Holds while each condition holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<Condition>,
    /// Holds while one condition holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<Condition>,
    /// How long it must hold without a gap; as in a Prometheus alert. Not for `alert`.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_: Option<Span>,
    /// An alert sent by Alertmanager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertRule>,
    /// A number that the source is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QueryRule>,
}

/// A query that gives one number. While it is beyond its bound no forward step is taken, at most 15 minutes; it never reverts. Exactly one of
/// `above` and `below`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryRule {
    /// `PromQL` that gives a scalar, or a vector with one element.
    pub promql: String,
    /// Holds while the number is larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Holds while the number is smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
}

impl QueryRule {
    /// Whether the number is beyond the bound.
    pub fn holds(&self, number: f64) -> bool {
        self.above.is_some_and(|bound| number > bound) || self.below.is_some_and(|bound| number < bound)
    }
}

/// One condition on the candidate's counters over a window. Exactly one of `bad`, or `quantile` with `value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// Name of the objective whose counters are meant.
    pub objective: String,
    /// Share of bad requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<BadAbove>,
    /// Which quantile, 0 to 1; histograms only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// Bound of the quantile; must be a bucket bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<SlowerThan>,
    /// The window.
    pub over: Span,
}

/// Alerts that this rollout listens to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertRule {
    /// Matchers such as `alertname="CheckoutBurningBudget"`; all must match.
    pub matchers: Vec<String>,
    /// What a firing alert may do.
    #[serde(default)]
    pub trust: Trust,
}

/// What a firing alert may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Trust {
    /// No forward step while it fires, at most 15 minutes.
    #[default]
    Wait,
    /// Revert.
    Revert,
}

/// What happens after 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watch {
    /// How long watching goes on.
    #[serde(default = "thirty_minutes", rename = "for")]
    pub for_: Span,
    /// Traffic that stays on the old release meanwhile: a live baseline and a warm way back. 0 or at least 10 %; canaries only.
    #[serde(default)]
    pub holdback: Percent,
}

impl Default for Watch {
    fn default() -> Self {
        Self { for_: thirty_minutes(), holdback: Percent::ZERO }
    }
}

fn thirty_minutes() -> Span {
    Span::minutes(30)
}

/// What must be proven of every image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attestation {
    /// Name of the `GuardPolicy` whose `attestation` block applies, besides those that match anyway.
    pub policy: String,
}

/// What going back means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revert {
    /// What is restored besides traffic.
    #[serde(default)]
    pub restore: Restore,
    /// Flags that are set to their safe variant first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagAction>,
}

/// What is restored besides traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Restore {
    /// The target's whole template.
    #[default]
    Template,
    /// Nothing; traffic and flags alone.
    Nothing,
}

/// A flag and its safe end state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlagAction {
    /// Name of the `FlagTarget`.
    #[serde(rename = "use")]
    pub use_: String,
    /// Key of the flag.
    pub flag: String,
    /// The state in which every user gets the safe behaviour.
    pub to: FlagState,
}

/// A verified end state of a flag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum FlagState {
    /// Everybody gets this variant, whatever targeting said.
    Variant(String),
}

/// How recovery after a revert is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recovery {
    /// How long after the revert the objectives may take to hold again.
    #[serde(default = "ten_minutes")]
    pub deadline: Span,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { deadline: ten_minutes() }
    }
}

/// What happens without data. Missing data never promotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NoData {
    /// How many scrapes may be missing.
    pub after: Scrapes,
    /// The candidate stopped reporting while stable is fresh.
    pub candidate_dark: CandidateDark,
    /// Stable stopped reporting.
    pub stable_dark: StableDark,
    /// Nothing reports, or the source does not answer.
    pub blind: Blind,
    /// How long without data until somebody is paged.
    pub page: Span,
    /// How long without data until the step's `onDeadline` applies.
    pub deadline: Span,
}

impl Default for NoData {
    fn default() -> Self {
        Self {
            after: Scrapes(3),
            candidate_dark: CandidateDark::Revert,
            stable_dark: StableDark::JudgeAlone,
            blind: Blind::Wait,
            page: Span::seconds(60),
            deadline: Span::minutes(30),
        }
    }
}

/// What a silent candidate beside a fresh stable means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CandidateDark {
    /// Go back.
    #[default]
    Revert,
    /// No forward step.
    Wait,
}

/// What a silent stable means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StableDark {
    /// The objective alone decides.
    #[default]
    JudgeAlone,
    /// No forward step.
    Wait,
}

/// What no data at all means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Blind {
    /// No forward step; page.
    #[default]
    Wait,
}

/// What happens when both arms are bad: weight to 0 without blame, and a look at whether that helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retreat {
    /// How long the answer may take.
    #[serde(default = "two_minutes", rename = "for")]
    pub for_: Span,
}

impl Default for Retreat {
    fn default() -> Self {
        Self { for_: two_minutes() }
    }
}

fn two_minutes() -> Span {
    Span::minutes(2)
}
