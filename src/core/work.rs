//! Intentions that the machine hands out. The set is closed; every effect is an "ensure".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::input::{Arm, SignalId};
use super::journal::Journal;
use super::judge::signal::Signal;
use super::ledger::LedgerRecord;
use super::reason::Reason;
use super::record::Record;
use super::release::{Release, ReleaseId};
use super::spec::{FlagAction, Percent};
use super::state::State;
use super::time::Mono;

/// Names an effect: the revision that wanted it and its place there. Derived, never random; the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectId {
    /// The revision that wanted it.
    pub revision: u64,
    /// Its place in that revision.
    pub ordinal: u32,
}

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.revision, self.ordinal)
    }
}

/// What an effect replaces: it is void where something newer is in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fence {
    /// Void once a newer deployment attempt is known to the world. For restores and forward effects.
    Generation(u64),
    /// Void once another release is stable. For effects toward a live stable.
    Stable(ReleaseId),
    /// Reads and notices need none.
    None,
}

/// An effect: what to make true, in which place of the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// Its name.
    pub id: EffectId,
    /// What it replaces.
    pub fence: Fence,
    /// When to give up.
    pub deadline: Mono,
    /// Reserved permits and own clients for reverts.
    pub lane: Lane,
    /// What to make true.
    pub action: Action,
}

/// Which permits and clients an effect uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lane {
    /// Reserved: nothing else can use it up.
    Revert,
    /// Everything else.
    Forward,
}

/// What to make true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// Read the metrics.
    Look(LookPlan),
    /// Fetch or load the evidence of a release and report what it proves.
    Verify {
        /// Of which release.
        release: Release,
        /// From where.
        evidence: EvidenceFrom,
    },
    /// Run, or stop running, a release's members beside others.
    EnsureArm {
        /// The release.
        release: Release,
        /// Whether its members run. `false` drains and stops them.
        present: bool,
    },
    /// Route new requests. Shares sum to 100; releases not named get none.
    EnsureWeights {
        /// Share by release.
        weights: BTreeMap<ReleaseId, Percent>,
    },
    /// Make this the release in the workload's own specification.
    EnsureRelease {
        /// The release.
        release: Release,
    },
    /// Set a flag to its safe end state and prove it by evaluation.
    EnsureFlag(FlagAction),
    /// Keep quarantined releases out at the workload's own door.
    EnsureHold {
        /// Releases that must not run.
        quarantined: Vec<ReleaseId>,
    },
    /// Tell people.
    Notify(Notice),
    /// Drain committed records to the log.
    Record,
}

impl Action {
    /// Name of the kind, for logs, metrics and records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Look(_) => "look",
            Self::Verify { .. } => "verify",
            Self::EnsureArm { .. } => "ensureArm",
            Self::EnsureWeights { .. } => "ensureWeights",
            Self::EnsureRelease { .. } => "ensureRelease",
            Self::EnsureFlag(_) => "ensureFlag",
            Self::EnsureHold { .. } => "ensureHold",
            Self::Notify(_) => "notify",
            Self::Record => "record",
        }
    }
}

/// Where evidence is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EvidenceFrom {
    /// At its origin; the bytes are stored.
    Origin,
    /// The bytes that were stored, offline; with the signed ledger record of the release.
    Store,
}

/// One look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LookPlan {
    /// Name of the source.
    pub source: String,
    /// What to read.
    pub signals: Arc<BTreeMap<SignalId, Signal>>,
    /// Label that separates the arms.
    pub arm_label: String,
    /// The release of each arm that is read.
    pub arms: BTreeMap<Arm, ReleaseId>,
    /// Values of the label for each arm, where they are those of its members (pods, say) and not the release's id. The world knows them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<Arm, BTreeSet<String>>,
    /// Read samples after this, in milliseconds of the source's clock; absent: the last few intervals.
    pub since: Option<i64>,
}

impl LookPlan {
    /// The values of the label that belong to an arm.
    pub fn values(&self, arm: Arm) -> Vec<&str> {
        match (self.members.get(&arm), self.arms.get(&arm)) {
            (Some(members), _) => members.iter().map(String::as_str).collect(),
            (None, release) => release.map(|release| &*release.0).into_iter().collect(),
        }
    }

    /// The values of all arms.
    pub fn all_values(&self) -> impl Iterator<Item = &str> {
        self.arms.keys().flat_map(|arm| self.values(*arm))
    }
}

/// A message to people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Whether somebody must get up.
    pub page: bool,
    /// Why.
    pub reason: Reason,
    /// The same in a sentence.
    pub text: String,
}

/// A state to be committed with the records that led to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// The revision that this replaces; the swap fails if another is in place.
    pub expected: u64,
    /// What to commit; its revision is `expected + 1`.
    pub state: Arc<State>,
    /// Why, in order.
    pub records: Vec<Record>,
    /// Ledger records that are new or changed, to be signed.
    pub ledger: Vec<LedgerRecord>,
    /// What was taken in since the commit before, for replay.
    #[serde(default)]
    pub journal: Journal,
}

/// What must be done now.
///
/// `safe` starts at once, beside `commit`; `then` starts only after `commit` succeeded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Only effects toward a known-good state, and reads.
    pub safe: Vec<Effect>,
    /// The swap.
    pub commit: Option<Commit>,
    /// Everything else.
    pub then: Vec<Effect>,
}

impl Work {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.safe.is_empty() && self.commit.is_none() && self.then.is_empty()
    }
}
