//! What is committed, and nothing else: a machine restored from it goes on as if it had never stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::actor::Request;
use super::input::{Alerted, Deployed, Parts};
use super::judge::Checkpoint;
use super::ledger::Ledger;
use super::plan::Plan;
use super::policy::Policy;
use super::reason::Reason;
use super::release::{Digest, Release, ReleaseId};
use super::spec::{FlagAction, GuardedRollout, Percent};
use super::time::{Mono, Now, Span};
use super::work::{Action, Effect, EffectId, EvidenceFrom, Fence, Lane};

/// The layout of [`State`] that this program writes.
pub const STATE_VERSION: u32 = 1;

/// A guard as the machine needs it: the document, its name, and what its source says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// `namespace/name`.
    pub key: String,
    /// Identity of the workload: a workload deleted and created again is another one.
    pub uid: String,
    /// The document, with the objectives that policies add.
    pub spec: Arc<GuardedRollout>,
    /// Scrape interval of its source.
    pub interval: Span,
}

/// The committed state of one guarded workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Layout of this value.
    pub version: u32,
    /// Counts commits; the compare-and-swap is on it.
    pub revision: u64,
    /// Counts deployment attempts.
    pub generation: u64,
    /// The monotonic clock at the last commit.
    pub mono: Mono,
    /// Where the rollout stands.
    pub phase: Phase,
    /// What holds it back or leaves it to people.
    pub overlays: Overlays,
    /// The release that serves when no trial is on, and that traffic goes back to first.
    pub stable: Option<ReleaseId>,
    /// The deployment attempt under way; kept after a revert until the next one, for status.
    pub trial: Option<Arc<Trial>>,
    /// Shares of new requests that are wanted.
    pub weights: BTreeMap<ReleaseId, Percent>,
    /// Known-good, bad and quarantined releases.
    pub ledger: Ledger,
    /// Effects that are wanted and not recorded as done.
    pub tasks: BTreeMap<Key, Task>,
    /// When restores that no person asked for began, within the last hour.
    pub restores: Vec<Mono>,
    /// When deployments by agents began, within the last hour.
    pub deployments: Vec<(String, Mono)>,
    /// The newest deployment that waits for this rollout to end.
    pub queued: Option<Box<Deployed>>,
    /// The policy that binds what waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_policy: Option<Arc<Policy>>,
    /// Alerts that fire, or have ended lately, by fingerprint, with the time of their arrival.
    pub alerts: BTreeMap<String, (Alerted, Mono)>,
    /// Alerts that fired and were dropped, because too many did at once.
    #[serde(default)]
    pub alerts_dropped: u64,
    /// What the judge held against releases whose attempt ended without a verdict, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unjudged: Vec<Unjudged>,
    /// Whether a revert would work now; the reason if not. Absent until first proven.
    pub readiness: Option<Readiness>,
    /// The last revert, for status and `explain`.
    pub last_revert: Option<Box<Revert>>,
}

/// What holds a rollout back or leaves it to people.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Overlays {
    /// No forward step, at somebody's wish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Box<Request>>,
    /// Kill-switch for this rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Box<Request>>,
    /// Kill-switch of a wider scope.
    pub frozen_around: bool,
    /// No automatic revert until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disarmed_until: Option<Mono>,
    /// What was left to people meanwhile, by code: each is paged once, whichever controller sees it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub left_to_people: BTreeSet<String>,
}

/// Whether a revert would work now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// The release that a revert would go to.
    pub target: Option<ReleaseId>,
    /// Why a revert would not work; absent if it would.
    pub missing: Option<Reason>,
}

/// A deployment attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The release on trial.
    pub candidate: Release,
    /// Who asked, and why.
    pub request: Arc<Request>,
    /// The guard as it was at admission: later changes never loosen a running attempt.
    pub spec: Arc<GuardedRollout>,
    /// The policy as it was at admission, for the same reason.
    pub policy: Arc<Policy>,
    /// The stages.
    pub plan: Plan,
    /// When it was admitted.
    pub since: Now,
    /// What verification said of the candidate; absent while it runs.
    pub candidate_attested: Option<bool>,
    /// What verification said of the running release; absent while it runs.
    pub stable_attested: Option<bool>,
    /// People who agreed.
    pub approvals: Vec<String>,
    /// Where the judge stood at the last checkpoint.
    pub judge: Option<Checkpoint>,
    /// Whether it breached; its weight never rises again then.
    pub breached: bool,
    /// Rounds of retreat so far.
    pub retreats: u32,
    /// When no usable data was seen for the first time, and whether that was paged.
    pub blind: Option<(Mono, bool)>,
    /// Whether a cause shared by both arms is sat out, with nowhere to retreat to; a person was told.
    #[serde(default)]
    pub shared: bool,
}

/// What the judge held against a release whose attempt ended without a verdict: it counts when the same images are tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unjudged {
    /// Which images, whatever the template around them was.
    pub images: Vec<Digest>,
    /// When the attempt ended.
    pub at: Mono,
    /// What was held against them.
    pub against: Checkpoint,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// No rollout.
    #[default]
    Idle,
    /// Candidate and running release are being verified.
    Admitting {
        /// When to give up.
        until: Mono,
    },
    /// The last deployment was turned away.
    Refused {
        /// Why.
        reason: Reason,
    },
    /// A person must agree.
    AwaitingApproval {
        /// When it expires.
        until: Mono,
    },
    /// On trial.
    Advancing(Advancing),
    /// On the way to 100 %.
    Promoting {
        /// When it began.
        since: Mono,
    },
    /// At 100 %, still judged.
    Watching {
        /// When it began.
        since: Mono,
    },
    /// On the way back.
    Reverting(Box<Revert>),
    /// Back; the objectives are watched.
    Recovering(Box<Revert>),
    /// Back, and held.
    Reverted(Box<Revert>),
    /// A person is needed, and was paged.
    Stuck {
        /// Why.
        reason: Reason,
        /// The revert that did not end well.
        revert: Box<Revert>,
    },
}

/// The kinds of phases, for tables and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PhaseKind {
    /// No rollout.
    Idle,
    /// Candidate and running release are being verified.
    Admitting,
    /// The last deployment was turned away.
    Refused,
    /// A person must agree.
    AwaitingApproval,
    /// On trial.
    Advancing,
    /// On the way to 100 %.
    Promoting,
    /// At 100 %, still judged.
    Watching,
    /// On the way back.
    Reverting,
    /// Back; the objectives are watched.
    Recovering,
    /// Back, and held.
    Reverted,
    /// A person is needed.
    Stuck,
}

impl PhaseKind {
    /// Every kind, in the order of a rollout's life.
    pub const ALL: [Self; 11] = [
        Self::Idle,
        Self::Admitting,
        Self::Refused,
        Self::AwaitingApproval,
        Self::Advancing,
        Self::Promoting,
        Self::Watching,
        Self::Reverting,
        Self::Recovering,
        Self::Reverted,
        Self::Stuck,
    ];

    /// Whether nothing happens by itself until somebody deploys or commands.
    pub fn is_resting(self) -> bool {
        matches!(self, Self::Idle | Self::Refused | Self::Reverted | Self::Stuck)
    }

    /// Whether a revert has begun and is not held yet: what is newer is kept out, but for a person who may set that aside.
    pub fn reverts(self) -> bool {
        matches!(self, Self::Reverting | Self::Recovering | Self::Stuck)
    }
}

impl fmt::Display for PhaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Phase {
    /// The kind.
    pub fn kind(&self) -> PhaseKind {
        match self {
            Self::Idle => PhaseKind::Idle,
            Self::Admitting { .. } => PhaseKind::Admitting,
            Self::Refused { .. } => PhaseKind::Refused,
            Self::AwaitingApproval { .. } => PhaseKind::AwaitingApproval,
            Self::Advancing(_) => PhaseKind::Advancing,
            Self::Promoting { .. } => PhaseKind::Promoting,
            Self::Watching { .. } => PhaseKind::Watching,
            Self::Reverting(_) => PhaseKind::Reverting,
            Self::Recovering(_) => PhaseKind::Recovering,
            Self::Reverted(_) => PhaseKind::Reverted,
            Self::Stuck { .. } => PhaseKind::Stuck,
        }
    }

    /// The revert under way or ended, if the phase is about one.
    pub fn revert(&self) -> Option<&Revert> {
        match self {
            Self::Reverting(revert) | Self::Recovering(revert) | Self::Reverted(revert) | Self::Stuck { revert, .. } => Some(revert),
            Self::Idle
            | Self::Admitting { .. }
            | Self::Refused { .. }
            | Self::AwaitingApproval { .. }
            | Self::Advancing(_)
            | Self::Promoting { .. }
            | Self::Watching { .. } => None,
        }
    }
}

/// A rollout on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advancing {
    /// Which stage, counted from 0.
    pub stage: usize,
    /// When the stage began.
    pub since: Mono,
    /// What happens in it.
    pub step: StageStep,
}

/// What happens in a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum StageStep {
    /// The candidate's members start.
    Starting,
    /// Traffic moves to the stage's weight.
    Shifting,
    /// The gate is watched.
    Judging,
    /// Both arms were bad: the candidate has no traffic, and it is watched whether that helped.
    Retreated(Retreated),
}

/// A retreat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retreated {
    /// When traffic was gone from the candidate; absent until the router said so.
    pub since: Option<Mono>,
    /// When the retreat was decided; `retreat.for` counts from there.
    pub decided: Mono,
    /// The objective that both arms broke.
    pub objective: String,
    /// What is being tried.
    pub test: RetreatTest,
}

/// What is being tried in a retreat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RetreatTest {
    /// Do the errors of stable go away within three scrapes without the candidate?
    Gone,
    /// Do they come back within three scrapes at the first step's weight?
    Retry,
}

/// A revert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revert {
    /// Hash of workload, generation and release under revert: the same revert asked for twice is one.
    pub id: String,
    /// The generation it belongs to.
    pub generation: u64,
    /// The release that is taken out; absent if only flags or traffic are touched while nothing is on trial.
    pub under: Option<Release>,
    /// Why.
    pub reason: Reason,
    /// The person or agent who asked; absent for an automatic one.
    pub by: Option<Arc<Request>>,
    /// When it was decided.
    pub since: Now,
    /// When to give up.
    pub until: Mono,
    /// Which parts are wanted.
    pub parts: Parts,
    /// Only this target, if somebody named one.
    pub only: Option<ReleaseId>,
    /// Whether checks of policy and attestation are skipped.
    pub break_glass: bool,
    /// What is restored.
    pub target: Target,
    /// Releases passed over, each with the reason.
    pub skipped: Vec<(ReleaseId, Reason)>,
    /// When traffic was back at a known-good release.
    pub traffic_back: Option<Mono>,
    /// When every flag was safe.
    pub flags_safe: Option<Mono>,
    /// When the target was restored.
    pub release_back: Option<Mono>,
}

impl Revert {
    /// Whether a person asked for it.
    pub fn by_person(&self) -> bool {
        self.by.as_ref().is_some_and(|request| request.actor.is_human())
    }
}

/// Names a revert.
pub fn revert_id(uid: &str, generation: u64, under: Option<&ReleaseId>) -> String {
    let under = under.map_or("", |id| &*id.0);
    format!("rv-{}", &Digest::of(format!("{}:{uid}{generation}:{under}", uid.len()).as_bytes()).hex()[..12])
}

/// What a revert restores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Target {
    /// Being chosen; this one is being verified.
    Verifying(ReleaseId),
    /// Verified.
    Chosen(ReleaseId),
    /// Nothing is restored: only traffic or flags were asked for.
    Nothing,
    /// Restoring waits for a person: breaker, quota.
    Waiting,
    /// No release may be restored.
    NoneLeft,
}

/// Names what an effect is about; a newer wish of the same name replaces the older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", into = "String", try_from = "String")]
pub enum Key {
    /// A flag: the `FlagTarget`'s name and the flag's key.
    Flag(String, String),
    /// Shares of traffic.
    Weights,
    /// A release's members.
    Arm(ReleaseId),
    /// The workload's own specification.
    Release,
    /// The hold.
    Hold,
    /// Proof of a release.
    Verify(ReleaseId, EvidenceFrom),
    /// A message, numbered.
    Notice(u64),
}

/// Separates the parts of a key's text; no name contains it.
const KEY_SEPARATOR: char = '\u{1f}';

impl From<Key> for String {
    fn from(key: Key) -> Self {
        let s = KEY_SEPARATOR;
        match key {
            Key::Flag(target, flag) => format!("flag{s}{target}{s}{flag}"),
            Key::Weights => "weights".into(),
            Key::Arm(id) => format!("arm{s}{id}"),
            Key::Release => "release".into(),
            Key::Hold => "hold".into(),
            Key::Verify(id, EvidenceFrom::Origin) => format!("verify{s}origin{s}{id}"),
            Key::Verify(id, EvidenceFrom::Store) => format!("verify{s}store{s}{id}"),
            Key::Notice(number) => format!("notice{s}{number}"),
        }
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parts: Vec<&str> = text.split(KEY_SEPARATOR).collect();
        Ok(match parts[..] {
            ["flag", target, flag] => Self::Flag(target.into(), flag.into()),
            ["weights"] => Self::Weights,
            ["arm", id] => Self::Arm(ReleaseId(id.into())),
            ["release"] => Self::Release,
            ["hold"] => Self::Hold,
            ["verify", "origin", id] => Self::Verify(ReleaseId(id.into()), EvidenceFrom::Origin),
            ["verify", "store", id] => Self::Verify(ReleaseId(id.into()), EvidenceFrom::Store),
            ["notice", number] => Self::Notice(number.parse().map_err(|_| format!("`{text}` is not a task"))?),
            _ => return Err(format!("`{text}` is not a task")),
        })
    }
}

/// An effect that is wanted and not recorded as done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// What is handed out.
    pub effect: Effect,
    /// Whether it leads toward a known-good state, so that it does not wait for the commit.
    pub safe: bool,
    /// Tries that ended in something else than success.
    pub attempts: u32,
    /// Not before this.
    pub not_before: Mono,
    /// What the last try said, for status.
    pub trouble: Option<String>,
}

impl Task {
    /// A new task.
    pub fn new(id: EffectId, action: Action, fence: Fence, lane: Lane, safe: bool, now: Mono, deadline: Mono) -> Self {
        Self { effect: Effect { id, fence, deadline, lane, action }, safe, attempts: 0, not_before: now, trouble: None }
    }
}

impl State {
    /// The state of a workload that was never seen.
    pub fn new() -> Self {
        Self { version: STATE_VERSION, ..Self::default() }
    }

    /// The release that traffic may be led back to whoever asks, and however late: stable, unless a revert is taking just that
    /// out. Then it is what the revert chose to restore, if it has.
    pub fn way_back(&self) -> Option<&ReleaseId> {
        let stable = self.stable.as_ref();
        let revert = self.phase.revert().filter(|revert| revert.parts != Parts::Flags);
        match revert.and_then(|revert| revert.under.as_ref().map(|under| (&under.id, &revert.target))) {
            Some((under, target)) if stable == Some(under) => match target {
                Target::Chosen(target) => Some(target),
                Target::Nothing | Target::Verifying(_) | Target::Waiting | Target::NoneLeft => None,
            },
            _ => stable,
        }
    }

    /// The release on trial, unless it was reverted.
    pub fn candidate(&self) -> Option<&Release> {
        match self.phase.kind() {
            PhaseKind::Admitting | PhaseKind::AwaitingApproval | PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching => {
                self.trial.as_ref().map(|trial| &trial.candidate)
            }
            PhaseKind::Idle
            | PhaseKind::Refused
            | PhaseKind::Reverting
            | PhaseKind::Recovering
            | PhaseKind::Reverted
            | PhaseKind::Stuck => None,
        }
    }

    /// A release that was seen here, with its template.
    pub fn release(&self, id: &ReleaseId) -> Option<&Release> {
        self.ledger
            .get(id)
            .map(|record| &record.release)
            .or_else(|| self.trial.as_ref().map(|trial| &trial.candidate).filter(|candidate| &candidate.id == id))
    }

    /// How a release is called, for people.
    pub fn name(&self, id: &ReleaseId) -> String {
        self.release(id).map_or_else(|| id.to_string(), ToString::to_string)
    }

    /// The flags that a revert sets.
    pub fn flags(&self, spec: &GuardedRollout) -> Vec<FlagAction> {
        self.trial.as_ref().map_or(spec, |trial| &trial.spec).revert.flags.clone()
    }

    /// The share of `id` in the wanted weights.
    pub fn weight(&self, id: &ReleaseId) -> Percent {
        self.weights.get(id).copied().unwrap_or(Percent::ZERO)
    }
}
