//! What people see: where a rollout stands, and what a revert would do from here. Values only; words are `cli`'s.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::actor::Request;
use super::input::{ArmHealth, Observed};
use super::judge::ObjectiveView;
use super::ledger::Standing;
use super::machine::Machine;
use super::reason::Reason;
use super::release::{Release, ReleaseId};
use super::spec::{FlagAction, GuardedRollout, Percent};
use super::state::{Phase, PhaseKind, Readiness, Revert, StageStep, State};
use super::time::{Now, Span};

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// `namespace/name`.
    pub key: String,
    /// The phase.
    pub phase: PhaseKind,
    /// Which revision this is of.
    pub revision: u64,
    /// Which deployment attempt.
    pub generation: u64,
    /// The release that serves when nothing is on trial.
    pub stable: Option<Release>,
    /// The release on trial, or the last one that was.
    pub candidate: Option<Release>,
    /// Who asked for it, and why.
    pub request: Option<Arc<Request>>,
    /// Stage now and stages in all, counted from 1; absent outside of a trial.
    pub stage: Option<(usize, usize)>,
    /// What the stage does: `starting`, `shifting`, `judging`, `retreated`.
    pub step: Option<String>,
    /// Shares of new requests that are wanted.
    pub wanted: BTreeMap<ReleaseId, Percent>,
    /// Shares that the router uses.
    pub observed: BTreeMap<ReleaseId, Percent>,
    /// Members of each release.
    pub arms: BTreeMap<ReleaseId, ArmHealth>,
    /// Why nothing moves forward now.
    pub waiting: Option<Reason>,
    /// What the judge knows of each objective.
    pub objectives: Vec<ObjectiveView>,
    /// What holds it back: `paused`, `frozen`, `disarmed`.
    pub overlays: Vec<String>,
    /// Whether a revert would work.
    pub readiness: Option<Readiness>,
    /// The revert under way, or the last one.
    pub revert: Option<Box<Revert>>,
    /// Effects that are wanted and not done, each with its trouble.
    pub open: Vec<(String, Option<String>)>,
    /// What is known of releases, newest last.
    pub ledger: Vec<LedgerLine>,
    /// Why the phase is what it is, where that has a reason.
    pub reason: Option<Reason>,
    /// Alerts that fired and were dropped, because too many did at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub alerts_dropped: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What is known of one release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerLine {
    /// Which.
    pub release: Release,
    /// What came of it.
    pub standing: Standing,
    /// Whether it must not run.
    pub quarantined: bool,
    /// When it was last known good.
    pub last_good: Option<Now>,
}

impl View {
    /// The revert that has begun and is not held yet.
    pub fn reverting(&self) -> Option<&Revert> {
        self.revert.as_deref().filter(|_| self.phase.reverts())
    }

    /// The view of a running machine.
    pub fn of(machine: &Machine) -> Self {
        let mut view = Self::of_state(&machine.guard().key, machine.state(), machine.workload());
        view.waiting = machine.waiting().cloned();
        view.objectives = machine.judgement().map(|judgement| judgement.objectives.clone()).unwrap_or_default();
        view
    }

    /// The view of a committed state, when no controller runs.
    pub fn of_state(key: &str, state: &State, observed: &Observed) -> Self {
        let (place, step) = match &state.phase {
            Phase::Advancing(advancing) => {
                let in_all = state.trial.as_ref().map_or(0, |trial| trial.plan.stages.len());
                let step = match advancing.step {
                    StageStep::Starting => "starting",
                    StageStep::Shifting => "shifting",
                    StageStep::Judging => "judging",
                    StageStep::Retreated(_) => "retreated",
                };
                (Some((advancing.stage + 1, in_all)), Some(step.to_owned()))
            }
            _ => (None, None),
        };
        let overlays = &state.overlays;
        let named = [
            (overlays.paused.is_some(), "paused"),
            (overlays.frozen.is_some() || overlays.frozen_around, "frozen"),
            (overlays.disarmed_until.is_some(), "disarmed"),
        ];
        Self {
            key: key.to_owned(),
            phase: state.phase.kind(),
            revision: state.revision,
            generation: state.generation,
            stable: state.stable.as_ref().and_then(|id| state.release(id)).cloned(),
            candidate: state.trial.as_ref().map(|trial| trial.candidate.clone()),
            request: state.trial.as_ref().map(|trial| trial.request.clone()),
            stage: place,
            step,
            wanted: state.weights.clone(),
            observed: observed.weights.clone(),
            arms: observed.arms.clone(),
            waiting: None,
            objectives: Vec::new(),
            overlays: named.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect(),
            readiness: state.readiness.clone(),
            revert: state.phase.revert().or(state.last_revert.as_deref()).cloned().map(Box::new),
            open: state.tasks.values().map(|task| (task.effect.action.name().to_owned(), task.trouble.clone())).collect(),
            ledger: state
                .ledger
                .records()
                .iter()
                .map(|record| LedgerLine {
                    release: record.release.clone(),
                    standing: record.standing,
                    quarantined: record.quarantined,
                    last_good: record.last_good,
                })
                .collect(),
            alerts_dropped: state.alerts_dropped,
            reason: match &state.phase {
                Phase::Refused { reason } | Phase::Stuck { reason, .. } => Some(reason.clone()),
                Phase::Reverting(revert) | Phase::Recovering(revert) | Phase::Reverted(revert) => Some(revert.reason.clone()),
                Phase::Idle
                | Phase::Admitting { .. }
                | Phase::AwaitingApproval { .. }
                | Phase::Advancing(_)
                | Phase::Promoting { .. }
                | Phase::Watching { .. } => None,
            },
        }
    }
}

/// What a revert would do from here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevertPlan {
    /// `namespace/name`.
    pub key: String,
    /// The id that the revert would have, or has.
    pub id: String,
    /// The release that would be taken out.
    pub under: Option<Release>,
    /// Who brought it, and why.
    pub request: Option<Arc<Request>>,
    /// Its share of new requests.
    pub share: Percent,
    /// Where traffic would go at once: the live stable; absent if none can serve.
    pub traffic_to: Option<Release>,
    /// Possible targets in the order in which they would be tried.
    pub targets: Vec<Release>,
    /// Flags that would be set.
    pub flags: Vec<FlagAction>,
    /// How long requests in flight may finish.
    pub drain: Span,
    /// What a revert does not undo.
    pub not_undone: Vec<Cow<'static, str>>,
    /// A revert that is under way: a command would attach to it.
    pub under_way: Option<Box<Revert>>,
}

impl RevertPlan {
    /// The plan from a committed state.
    pub fn of(key: &str, uid: &str, spec: &GuardedRollout, state: &State, observed: &Observed) -> Self {
        let candidate = state.candidate().cloned();
        let stable = state.stable.as_ref().and_then(|id| state.release(id)).cloned();
        let under = candidate.or_else(|| stable.clone());
        let under_id = under.as_ref().map(|release| release.id.clone());
        let live = stable
            .filter(|stable| Some(&stable.id) != under_id.as_ref() && observed.arms.get(&stable.id).is_none_or(|health| health.ready > 0));
        Self {
            key: key.to_owned(),
            id: super::state::revert_id(uid, state.generation, under_id.as_ref()),
            request: state.trial.as_ref().map(|trial| trial.request.clone()),
            share: under_id.as_ref().map_or(Percent::ZERO, |id| observed.weights.get(id).copied().unwrap_or_else(|| state.weight(id))),
            traffic_to: live,
            targets: state.ledger.targets(under_id.as_ref()).into_iter().map(|record| record.release.clone()).collect(),
            flags: state.flags(spec),
            drain: spec.workload.drain(),
            not_undone: vec![
                "data that the release wrote, and schema migrations".into(),
                "messages and calls it already sent to other services".into(),
                "secrets and files outside of its template".into(),
            ],
            under_way: match state.phase.kind() {
                PhaseKind::Reverting | PhaseKind::Recovering => state.phase.revert().cloned().map(Box::new),
                _ => None,
            },
            under,
        }
    }
}
