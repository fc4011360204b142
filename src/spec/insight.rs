//! What a guard can do, told before it is needed: how soon it sees a breach, how many requests its bakes must gather, and
//! which levers it has.

use std::fmt;

use serde::{Serialize, Serializer};

use super::lint;
use super::load::Loaded;
use crate::core::plan::{Gate, Plan};
use crate::core::spec::{ArmsBy, GuardedRollout, Objective, OnDeadline, Percent, Restore};
use crate::core::time::Span;

/// The false-alarm rate of a rollout, divided among its objectives.
const ALPHA: f64 = 0.001;
/// The rate of wrong promotions.
const BETA: f64 = 0.05;
/// Effect sizes in the mixture that looks for breaches.
const EFFECTS: f64 = 8.0;
/// Shares of the unacceptable rate in the mixture that looks for health.
const HEALTHY: [f64; 4] = [0.5, 0.2, 0.1, 0.02];

/// What is known of one guard before it is used.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Insight {
    /// The guard, `namespace/name`.
    pub guard: String,
    /// The scrape interval everything is measured by.
    pub scrape_interval: Span,
    /// The soonest that the sequential tests can speak, from the first bad request: three scrapes.
    pub soonest_detection: Span,
    /// What each objective needs.
    pub objectives: Vec<ObjectiveNeeds>,
    /// What each judged stage needs.
    pub stages: Vec<StageNeeds>,
    /// What a revert can use, fastest first.
    pub levers: Vec<Lever>,
    /// Who counts the requests.
    pub witness: Witness,
    /// What happens at a deadline, by who deployed.
    pub on_deadline: Deadlines,
}

/// What an objective needs to be judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveNeeds {
    /// Its name.
    pub name: String,
    /// Its limit.
    pub good: Percent,
    /// The policy that supplies it, if it is not the guard's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Requests of the candidate without one bad among them that prove health.
    pub requests_to_promote: u64,
    /// Requests of the candidate after which a breach is seen, if every request is bad.
    pub requests_to_see_outage: u64,
    /// The same, on average, if five times as many are bad as the objective allows.
    pub requests_to_see_fivefold: u64,
}

/// What a stage needs to pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StageNeeds {
    /// The candidate's share.
    pub weight: Percent,
    /// Scored time.
    pub bake: Span,
    /// When waiting ends.
    pub deadline: Span,
    /// Requests of the candidate that prove health: the most that an objective needs.
    pub requests: u64,
    /// Requests per second of the whole service with which the bake is enough.
    #[serde(serialize_with = "rounded")]
    pub rate_for_bake: f64,
    /// Requests per second of the whole service below which the deadline comes first.
    #[serde(serialize_with = "rounded")]
    pub rate_for_deadline: f64,
}

/// What a revert can use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Lever {
    /// Flags, by `target/flag`.
    Flags(Vec<String>),
    /// The weight of the candidate.
    Traffic,
    /// The template of the last known good release.
    Restore,
}

/// Who counts the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Witness {
    /// The router in front of the service.
    Router,
    /// The service itself.
    Service,
}

/// What happens at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// When a person or a pipeline deployed.
    pub others: OnDeadline,
    /// When an agent deployed.
    pub agents: OnDeadline,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the shape that serde asks for
fn rounded<S: Serializer>(rate: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((rate * 100.0).round() / 100.0)
}

/// Requests without a bad one among them that prove the bad rate to be under `2 · (1 − good)`: the smallest `n` with
/// `ln ¼ Σ 1/(1 + (g − 1)·p)ⁿ ≥ ln 1/β`.
pub fn requests_to_promote(good: Percent) -> u64 {
    let unacceptable = (2.0 * good.rest().fraction()).min(1.0);
    let evidence = |n: f64| {
        let terms = HEALTHY.map(|g| -n * libm::log1p((g - 1.0) * unacceptable));
        let most = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + libm::log(terms.iter().map(|term| libm::exp(term - most)).sum::<f64>() / 4.0)
    };
    let enough = |n: u64| evidence(n as f64) >= libm::log(1.0 / BETA);
    // Requests for an objective of 99.999%, the strictest, are about 177,000; what asks for more never promotes.
    let (mut low, mut high) = (0_u64, 1 << 40);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// Requests after which a breach is seen, on average, when the share `bad` of them is bad and `count` objectives divide α:
/// the evidence that an alarm needs over what a request gives, the Kullback-Leibler divergence from the objective.
pub fn requests_to_see(good: Percent, bad: f64, count: usize) -> u64 {
    let allowed = good.rest().fraction().clamp(1e-9, 0.5);
    let bad = bad.clamp(allowed * 1.000_001, 1.0);
    let needed = libm::log(count.max(1) as f64 / ALPHA) + libm::log(EFFECTS) + std::f64::consts::LN_2;
    let rest = if bad < 1.0 { (1.0 - bad) * libm::log((1.0 - bad) / (1.0 - allowed)) } else { 0.0 };
    let each = bad * libm::log(bad / allowed) + rest;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive and far below 2⁵³
    let requests = (needed / each).ceil().min(1e15) as u64;
    requests
}

/// Of every guard, in order.
pub fn of(loaded: &Loaded) -> Vec<Insight> {
    loaded
        .rollouts
        .iter()
        .map(|(key, (metadata, rollout))| {
            let own = rollout.objectives.iter().map(|objective| (objective, None));
            let policies = loaded.policies.iter().filter(|(_, policy)| policy.match_.guard(metadata));
            let added = policies.flat_map(|(name, policy)| policy.objectives.iter().map(move |objective| (objective, Some(name.as_str()))));
            let added = added.filter(|(added, _)| !rollout.objectives.iter().any(|own| own.name == added.name));
            guard(key, rollout, lint::interval(loaded, rollout), &own.chain(added).collect::<Vec<_>>())
        })
        .collect()
}

fn guard(key: &str, rollout: &GuardedRollout, interval: Span, objectives: &[(&Objective, Option<&str>)]) -> Insight {
    let needs: Vec<_> = objectives
        .iter()
        .map(|(objective, policy)| ObjectiveNeeds {
            name: objective.name.clone(),
            good: objective.good,
            policy: policy.map(str::to_owned),
            requests_to_promote: requests_to_promote(objective.good),
            requests_to_see_outage: requests_to_see(objective.good, 1.0, objectives.len()),
            requests_to_see_fivefold: requests_to_see(objective.good, 5.0 * objective.good.rest().fraction(), objectives.len()),
        })
        .collect();
    let requests = needs.iter().map(|needs| needs.requests_to_promote).max().unwrap_or(0);
    let plan = Plan::compile(rollout);
    let rate = |time: Span, weight: Percent| {
        let share = time.0.as_secs_f64() * weight.fraction();
        if share > 0.0 { requests as f64 / share } else { 0.0 }
    };
    let judged = plan.stages.iter().filter(|stage| stage.gate == Gate::Judge);
    let stages = judged
        .map(|stage| StageNeeds {
            weight: stage.weight,
            bake: stage.bake,
            deadline: stage.deadline,
            requests,
            rate_for_bake: rate(stage.bake, stage.weight),
            rate_for_deadline: rate(stage.deadline, stage.weight),
        })
        .collect();
    let flags: Vec<_> = rollout.revert.flags.iter().map(|flag| format!("{}/{}", flag.use_, flag.flag)).collect();
    let levers = [
        (!flags.is_empty()).then_some(Lever::Flags(flags)),
        plan.drives.then_some(Lever::Traffic),
        (rollout.revert.restore == Restore::Template).then_some(Lever::Restore),
    ];
    Insight {
        guard: key.to_owned(),
        scrape_interval: interval,
        soonest_detection: interval.times(lint::SCRAPES_TO_ALARM),
        objectives: needs,
        stages,
        levers: levers.into_iter().flatten().collect(),
        witness: if matches!(rollout.arms.by, ArmsBy::Route | ArmsBy::Workload(_)) { Witness::Router } else { Witness::Service },
        on_deadline: Deadlines {
            others: plan.on_deadline.unwrap_or(OnDeadline::Wait),
            agents: plan.on_deadline.unwrap_or(OnDeadline::Revert),
        },
    }
}

impl fmt::Display for Lever {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(flags) => write!(f, "flags ({})", flags.join(", ")),
            Self::Traffic => f.write_str("traffic"),
            Self::Restore => f.write_str("restore the last known good release"),
        }
    }
}

fn deadline_word(what: OnDeadline) -> &'static str {
    match what {
        OnDeadline::Wait => "wait and page",
        OnDeadline::Retreat => "retreat",
        OnDeadline::Revert => "revert",
        OnDeadline::PromoteOnHealth => "promote on health",
    }
}

impl fmt::Display for Insight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.guard)?;
        let levers: Vec<_> = self.levers.iter().map(ToString::to_string).collect();
        writeln!(f, "  levers      {}", if levers.is_empty() { "none".to_owned() } else { levers.join(", then ") })?;
        let witness = match self.witness {
            Witness::Router => "the router in front of the service",
            Witness::Service => "the service itself",
        };
        writeln!(f, "  witness     {witness}, every {}", self.scrape_interval)?;
        writeln!(f, "  detection   {} at the soonest (3 scrapes)", self.soonest_detection)?;
        for needs in &self.objectives {
            let policy = needs.policy.as_ref().map(|name| format!(", from policy {name}")).unwrap_or_default();
            writeln!(
                f,
                "  objective   {} {}{policy}: {} clean requests promote; a breach shows after {} requests if all are bad, about {} at five \
                        times the limit",
                needs.name, needs.good, needs.requests_to_promote, needs.requests_to_see_outage, needs.requests_to_see_fivefold
            )?;
        }
        for stage in &self.stages {
            writeln!(
                f,
                "  stage       {} for {}: needs {} requests in the bake, {} requests/s in all; under {} requests/s the deadline ({}) comes \
                        first",
                stage.weight,
                stage.bake,
                stage.requests,
                rate(stage.rate_for_bake),
                rate(stage.rate_for_deadline),
                stage.deadline
            )?;
        }
        if !self.stages.is_empty() {
            let (others, agents) = (deadline_word(self.on_deadline.others), deadline_word(self.on_deadline.agents));
            writeln!(
                f,
                "  deadline    {others}{}",
                if others == agents { String::new() } else { format!("; {agents} if an agent deployed") }
            )?;
        }
        write!(f, "  target      none until a release is known good: its watch ended in a pass, or a person said `adopt`")
    }
}

/// A rate with two digits that mean something.
fn rate(rate: f64) -> String {
    if rate >= 10.0 {
        format!("{rate:.0}")
    } else if rate >= 1.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_requests_that_promote_match_the_published_table() {
        // Unacceptable rates of 2%, 1%, 0.5% and 0.1% are twice what these objectives allow.
        let needed = [99.0, 99.5, 99.75, 99.95].map(|good| requests_to_promote(Percent::new(good)));
        assert_eq!(needed, [177, 354, 709, 3551]);
    }

    #[test]
    fn requests_that_show_a_breach_match_the_published_table() {
        // The table leaves ln 2 out; with it the counts grow by the share that ln 2 has in the whole.
        let whole = (1.0_f64 / ALPHA).ln() + EFFECTS.ln();
        for (bad, published) in [(0.02, 2296.0), (0.05, 218.0), (0.20, 21.0)] {
            let requests = requests_to_see(Percent::new(99.0), bad, 1) as f64;
            let expected = published * (whole + 2.0_f64.ln()) / whole;
            assert!((requests - expected).abs() <= expected * 0.02 + 1.0, "{bad}: {requests} instead of {expected}");
        }
    }

    #[test]
    fn limits_of_the_formulas_are_finite() {
        for good in [0.0, 50.0, 99.999, 100.0] {
            assert!(requests_to_promote(Percent::new(good)) <= 1 << 40);
            assert!(requests_to_see(Percent::new(good), 1.0, 0) < 1 << 53);
        }
    }
}
