//! What a strategy compiles to. The machine knows stages; it never names a strategy.

use serde::{Deserialize, Serialize};

use super::spec::{GuardedRollout, OnDeadline, OnNewer, Percent, Strategy};
use super::time::Span;

/// The stages of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// In order; weights rise.
    pub stages: Vec<Stage>,
    /// Whether backstop moves anything forward itself.
    pub drives: bool,
    /// Unscored time after the first traffic.
    pub warm_up: Span,
    /// What happens at a stage's deadline; absent: wait, and revert for agents.
    pub on_deadline: Option<OnDeadline>,
    /// What happens when a newer release is deployed.
    pub on_newer: OnNewer,
    /// How long watching goes on at the end.
    pub watch: Span,
    /// Traffic that stays on the old release while watching.
    pub holdback: Percent,
}

/// One stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// The candidate's share of the traffic.
    pub weight: Percent,
    /// Scored time it must last.
    pub bake: Span,
    /// When to stop waiting.
    pub deadline: Span,
    /// What opens the way to the next stage.
    pub gate: Gate,
}

/// What opens the way to the next stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Gate {
    /// Every member can serve.
    Health,
    /// The judge says `Pass`.
    Judge,
}

impl Plan {
    /// Compiles the strategy of a guard.
    pub fn compile(spec: &GuardedRollout) -> Self {
        let base = Self {
            stages: Vec::new(),
            drives: true,
            warm_up: Span::default(),
            on_deadline: None,
            on_newer: OnNewer::Supersede,
            watch: spec.watch.for_,
            holdback: spec.watch.holdback,
        };
        match &spec.strategy {
            Strategy::Canary(canary) => Self {
                stages: canary
                    .steps
                    .iter()
                    .map(|step| Stage { weight: step.weight, bake: step.bake, deadline: step.deadline(), gate: Gate::Judge })
                    .collect(),
                warm_up: canary.candidate.warm_up,
                on_deadline: canary.on_deadline,
                on_newer: canary.on_newer,
                ..base
            },
            Strategy::BlueGreen(blue_green) => {
                let deadline = blue_green.deadline.unwrap_or_else(|| Span((blue_green.bake.0 * 10).max(Span::minutes(10).0)));
                Self {
                    stages: vec![
                        Stage { weight: Percent::ZERO, bake: Span::default(), deadline, gate: Gate::Health },
                        Stage { weight: Percent::FULL, bake: blue_green.bake, deadline, gate: Gate::Judge },
                    ],
                    warm_up: blue_green.candidate.warm_up,
                    on_deadline: blue_green.on_deadline,
                    on_newer: blue_green.on_newer,
                    holdback: Percent::ZERO,
                    ..base
                }
            }
            Strategy::Observe(_) => Self { drives: false, ..base },
        }
    }

    /// Bakes and watch together: the time over which the unknown onset of a failure is spread.
    pub fn watched(&self) -> Span {
        Span(self.stages.iter().map(|stage| stage.bake.0).sum::<std::time::Duration>() + self.watch.0)
    }
}
