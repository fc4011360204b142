//! Guards against floors: refused by the name of policy and field, never clamped.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::GuardPolicy;
use crate::core::spec::{GuardedRollout, OnDeadline, Percent, Strategy};
use crate::core::time::Span;

/// A field in which a guard is weaker than a policy: refused by name, never clamped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Weaker {
    /// Name of the policy.
    pub policy: String,
    /// The policy's field, as a JSON pointer from its root: `/spec/floors/bake`.
    pub floor: String,
    /// The guard's field, as a JSON pointer from its root: `/spec/strategy/canary/steps/0/bake`.
    pub field: String,
    /// What the guard has there.
    pub has: String,
    /// What the policy demands.
    pub demands: String,
}

impl fmt::Display for Weaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (field, floor) = (dotted(&self.field), dotted(&self.floor));
        write!(f, "`{field}` is {}: policy `{}` demands {} (`{floor}`)", self.has, self.policy, self.demands)
    }
}

/// `/spec/strategy/canary/steps/0/bake` as people say it: `strategy.canary.steps[0].bake`.
fn dotted(pointer: &str) -> String {
    let mut text = String::new();
    for part in pointer.trim_start_matches("/spec").split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            text.extend(["[", part, "]"]);
        } else {
            text.push_str(if text.is_empty() { "" } else { "." });
            text.push_str(part);
        }
    }
    text
}

/// Everything in which `guard` is weaker than the policy called `name`.
pub fn weaker(name: &str, policy: &GuardPolicy, guard: &GuardedRollout) -> Vec<Weaker> {
    let mut found = Vec::new();
    let mut refuse = |floor: &str, field: String, has: String, demands: String| {
        let floor = format!("/spec/{floor}");
        found.push(Weaker { policy: name.to_owned(), floor, field, has, demands });
    };
    let floors = &policy.floors;
    if let Some(floor) = floors.bake {
        for (field, bake) in bakes(guard).into_iter().filter(|(_, bake)| *bake < floor) {
            refuse("floors/bake", field, bake.to_string(), format!("at least {floor}"));
        }
    }
    if let Some(floor) = floors.watch.filter(|floor| guard.watch.for_ < *floor) {
        refuse("floors/watch", "/spec/watch/for".to_owned(), guard.watch.for_.to_string(), format!("at least {floor}"));
    }
    if let Some(floor) = floors.first_step {
        let (field, weight) = first_step(guard);
        if weight.is_none_or(|weight| weight > floor) {
            let has = weight.map_or_else(|| "without a first step that backstop drives".to_owned(), |weight| weight.to_string());
            refuse("floors/firstStep", field, has, format!("at most {floor}"));
        }
    }
    for (index, objective) in guard.objectives.iter().enumerate() {
        let field = |name: &str| format!("/spec/objectives/{index}/{name}");
        if let Some(floor) = floors.good.filter(|floor| objective.good < *floor) {
            refuse("floors/good", field("good"), objective.good.to_string(), format!("at least {floor}"));
        }
        for (at, added) in policy.objectives.iter().enumerate().filter(|(_, added)| added.name == objective.name) {
            let floor = |name: &str| format!("objectives/{at}/{name}");
            if !added.counts_like(objective) {
                let demands = "the policy's own counters under that name".to_owned();
                refuse(&floor("name"), field("name"), "an objective over other counters".into(), demands);
            } else if objective.good < added.good {
                refuse(&floor("good"), field("good"), objective.good.to_string(), format!("at least {}", added.good));
            }
        }
    }
    found
}

/// Whether the guard wants health to stand in for evidence at a deadline, and where it says so.
pub fn wants_promotion_on_health(guard: &GuardedRollout) -> Option<&'static str> {
    match &guard.strategy {
        Strategy::Canary(canary) if canary.on_deadline == Some(OnDeadline::PromoteOnHealth) => Some("/spec/strategy/canary/onDeadline"),
        Strategy::BlueGreen(blue) if blue.on_deadline == Some(OnDeadline::PromoteOnHealth) => Some("/spec/strategy/blueGreen/onDeadline"),
        _ => None,
    }
}

/// Every bake with its field. Nothing is baked where nothing is driven: the watch counts.
fn bakes(guard: &GuardedRollout) -> Vec<(String, Span)> {
    match &guard.strategy {
        Strategy::Canary(canary) => {
            let steps = canary.steps.iter().enumerate();
            steps.map(|(index, step)| (format!("/spec/strategy/canary/steps/{index}/bake"), step.bake)).collect()
        }
        Strategy::BlueGreen(blue_green) => vec![("/spec/strategy/blueGreen/bake".to_owned(), blue_green.bake)],
        Strategy::Observe(_) => vec![("/spec/watch/for".to_owned(), guard.watch.for_)],
    }
}

/// The weight with which a candidate meets traffic first, with its field; none where others drive it.
fn first_step(guard: &GuardedRollout) -> (String, Option<Percent>) {
    match &guard.strategy {
        Strategy::Canary(canary) => ("/spec/strategy/canary/steps/0/weight".to_owned(), canary.steps.first().map(|step| step.weight)),
        Strategy::BlueGreen(_) => ("/spec/strategy/blueGreen".to_owned(), Some(Percent::FULL)),
        Strategy::Observe(_) => ("/spec/strategy/observe".to_owned(), None),
    }
}
