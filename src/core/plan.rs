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
                let deadline = blue_green.deadline();
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

    /// How long is watched at most: three times the watch, at least 30 minutes more.
    pub fn longest_watch(&self) -> Span {
        self.watch.times(3).max(self.watch.plus(Span::minutes(30)))
    }

    /// Bakes and watch together: the time over which the unknown onset of a failure is spread.
    pub fn watched(&self) -> Span {
        self.stages.iter().fold(self.watch, |watched, stage| watched.plus(stage.bake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Refused since, but there may be rollouts under way that were admitted with it.
    #[test]
    fn spans_beyond_all_bounds_overflow_nothing() {
        let ever = "18446744073709551615s";
        for strategy in [
            json!({"canary": {"steps": [{"weight": "5%", "bake": ever}, {"weight": "50%", "bake": ever}]}}),
            json!({"blueGreen": {"bake": ever}}),
        ] {
            let spec = json!({
                "workload": {"process": {"listen": "127.0.0.1:0", "artifacts": {"registry": {}}}}, "arms": {"by": "route"},
                "objectives": [], "strategy": strategy, "watch": {"for": ever}, "attestation": {"policy": "release"},
            });
            let plan = Plan::compile(&serde_json::from_value(spec).unwrap());
            let most = Span::seconds(u64::MAX);
            assert!(plan.stages.iter().all(|stage| stage.deadline >= most) && plan.watched() >= most && plan.longest_watch() >= most);
            let kept = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&kept).unwrap(), plan);
        }
    }
}
