//! Facts that reach the machine. The set is closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::actor::Request;
use super::attest::Facts;
use super::policy::Policy;
use super::release::{Release, ReleaseId};
use super::spec::{Percent, Trust};
use super::state::Guard;
use super::time::Span;
use super::work::EffectId;

/// A fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// Somebody deployed a release, or asks backstop to.
    Deployed(Deployed),
    /// This release runs, where nothing was ever committed: its guard is new.
    Found(Release),
    /// Metrics were read, or could not be.
    Looked(Looked),
    /// The workload was seen.
    Observed(Arc<Observed>),
    /// An alert fires or has ended.
    Alerted(Alerted),
    /// Somebody gave a command.
    Commanded(Commanded),
    /// The guard's own document changed.
    SpecChanged(Box<Guard>),
    /// The policy that applies changed.
    PolicyChanged(Arc<Policy>),
    /// Something changed around the rollout: a freeze, or how many neighbours breach.
    ScopeChanged(Scope),
    /// An effect ended.
    Finished {
        /// Which effect.
        id: EffectId,
        /// How.
        outcome: Outcome,
    },
    /// Time has passed.
    Woke,
}

/// A deployment attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployed {
    /// What is to run.
    pub release: Release,
    /// Who asked, and why.
    pub request: Request,
}

/// The arms that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Arm {
    /// The release on trial.
    Candidate,
    /// The release that it replaces.
    Stable,
}

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// All requests.
    Total,
    /// Bad requests.
    Bad,
    /// Good requests: a histogram's bucket.
    Good,
}

/// Names a signal: the counters behind an objective, at one bound. `availability`, or `latency<=0.3` for a histogram.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignalId(pub String);

/// One value of a counter as it was scraped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was scraped, in milliseconds of the source's clock since the Unix epoch.
    pub at: i64,
    /// The counter's value.
    pub value: f64,
}

/// The raw samples of one counter of one arm, in time order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What it counts.
    pub role: Role,
    /// Its label set in canonical form (sorted by name), so that the same series is recognised again.
    pub labels: String,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// The result of one look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// The source's own clock when it answered, in milliseconds since the Unix epoch; what samples' ages are measured against.
    pub source_now: i64,
    /// Raw samples by signal and arm. An arm without series is an empty list.
    pub samples: BTreeMap<SignalId, BTreeMap<Arm, Vec<Series>>>,
    /// Why there is no, or no whole, answer. `samples` is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<LookFault>,
}

/// Why a look has no trustworthy answer. None of these is good or bad news about the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LookFault {
    /// No connection, a timeout, 429 or 5xx.
    Down(String),
    /// The source answered with warnings or a part of the data.
    Partial(String),
    /// The answer broke a rule: unparsable, too large, not a number, a counter below zero, samples from the future.
    Invalid(String),
    /// The source says the query itself is wrong (400, 422): a mistake in the specification.
    Rejected(String),
}

/// What was seen of the workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// Every release that has members.
    pub arms: BTreeMap<ReleaseId, ArmHealth>,
    /// Share of new requests each release gets, as the router has it.
    pub weights: BTreeMap<ReleaseId, Percent>,
    /// The release in the workload's own specification.
    pub current: Option<ReleaseId>,
}

/// The health of one release's members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmHealth {
    /// Members wanted.
    pub wanted: u16,
    /// Members that can serve.
    pub ready: u16,
    /// A failure that speaks for itself: crash loop, never ready, cannot be pulled. Absent while all is well or still starting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

impl ArmHealth {
    /// Whether every member can serve.
    pub fn is_ready(&self) -> bool {
        self.wanted > 0 && self.ready >= self.wanted
    }
}

/// An alert for this rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alerted {
    /// Name of the alert.
    pub name: String,
    /// Identity of the label set; with `starts_at` the identity of the episode.
    pub fingerprint: String,
    /// Begin of the episode.
    pub starts_at: jiff::Timestamp,
    /// Whether it fires; otherwise it has ended.
    pub firing: bool,
    /// What it may do.
    pub trust: Trust,
}

/// What people and agents can say to a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Verb {
    /// Go back.
    Revert {
        /// To this release; absent: the newest known good.
        to: Option<ReleaseId>,
        /// Which parts.
        parts: Parts,
        /// Without checks of policy and attestation; recorded and paged.
        break_glass: bool,
    },
    /// End a hold or a quarantine.
    Lift {
        /// Of this release; absent: of all.
        release: Option<ReleaseId>,
    },
    /// No forward step.
    Pause,
    /// End a pause.
    Resume,
    /// Go to 100 % without waiting for evidence.
    Promote,
    /// Agree to what waits for approval.
    Approve,
    /// Kill-switch: no forward step for this rollout.
    Freeze,
    /// End a freeze.
    Thaw,
    /// No automatic revert for a while.
    Disarm {
        /// How long.
        span: Span,
    },
    /// End a disarm.
    Arm,
    /// Take the running release as known good.
    Adopt,
}

/// Which parts of a revert are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Parts {
    /// Flags, traffic and release.
    #[default]
    All,
    /// Traffic alone.
    Traffic,
    /// Flags alone.
    Flags,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commanded {
    /// What.
    pub verb: Verb,
    /// Who, and why.
    pub request: Request,
}

/// What surrounds the rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// A freeze of a wider scope is on.
    pub frozen: bool,
    /// Rollouts on the same source that breached in the last 2 minutes, this one not counted.
    pub breaching: u32,
    /// Of these, how many in the last 60 seconds.
    pub breaching_recently: u32,
    /// Rollouts watched on the same source, this one counted.
    pub watched: u32,
    /// Who last ordered such a freeze, or its end; absent if that was before this controller started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Box<Request>>,
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// The world is as the effect wants it.
    Done {
        /// Whether something had to be written.
        changed: bool,
        /// What was read back.
        observed: Observation,
    },
    /// Not now; worth another try.
    Transient {
        /// What happened.
        what: String,
        /// The earliest time for another try, if the other side named one.
        retry_after: Option<Span>,
    },
    /// We may not.
    Denied(String),
    /// A newer generation or another stable release is in place: the effect is void.
    Superseded(String),
    /// It can never work as asked.
    Invalid(String),
    /// The answer got lost; it may have happened.
    Unknown(String),
}

/// What an effect read back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Observation {
    /// Nothing beyond success.
    #[default]
    Nothing,
    /// What the evidence of a release proves. Only for `Verify`.
    Facts(Box<Facts>),
    /// What the workload looks like now. For arms, weights and releases.
    Workload(Arc<Observed>),
}
