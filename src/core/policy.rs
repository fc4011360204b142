//! Floors that the watched cannot lower: [`GuardPolicy`] as written, [`Policy`] as merged for one guard.

mod weaker;

pub use weaker::{Weaker, wants_promotion_on_health, weaker};

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::actor::{Actor, ActorKind};
use super::attest::AttestationPolicy;
use super::spec::{GuardedRollout, Metadata, Objective, Percent};
use super::time::Span;

/// What SRE and security write: floors for the guards that it matches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardPolicy {
    /// Which guards and requesters it is for; absent: all.
    #[serde(default, rename = "match")]
    pub match_: Match,
    /// What a guard may not go below.
    #[serde(default)]
    pub floors: Floors,
    /// What must be proven of every image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationPolicy>,
    /// Objectives that are added and cannot be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<Objective>,
}

/// Which guards and requesters a policy is for. Every given field must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// Kinds of actors; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<ActorKind>,
    /// Agents by id; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Namespaces; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Labels of the guard; empty: all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a guard may not go below. Merged over policies, the strictest value of each field stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Floors {
    /// Shortest bake of any step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
    /// Shortest watch after 100 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Span>,
    /// Largest weight of the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_step: Option<Percent>,
    /// Smallest `good` of any objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<Percent>,
    /// People who must agree before a candidate gets traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approvals: Option<u32>,
    /// Deployments an agent may start per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployments_per_hour: Option<u32>,
    /// Automatic and agent-requested restores per hour and service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restores_per_hour: Option<u32>,
    /// Whether health may stand in for evidence at a deadline; false if any policy says false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promote_on_health: Option<bool>,
    /// Whether the breaker holds back restores when many rollouts breach at once; on if any policy says so, and on by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<bool>,
}

/// What applies to one guard and one requester: every matching policy merged, strictest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// What must be proven of every image: all policies at once. Empty means that nobody said what proves an image, so no
    /// image is attested.
    pub attestation: AttestationPolicy,
    /// Objectives that are added to the guard's own; see [`Policy::objectives_of`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<Objective>,
    /// People who must agree before a candidate gets traffic.
    pub approvals: u32,
    /// How long an approval may take.
    pub approve_within: Span,
    /// Deployments an agent may start per hour; absent: no limit.
    pub deployments_per_hour: Option<u32>,
    /// Automatic and agent-requested restores per hour.
    pub restores_per_hour: u32,
    /// Whether health may stand in for evidence at a deadline.
    pub promote_on_health: bool,
    /// Whether the breaker is on.
    pub breaker: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attestation: AttestationPolicy::default(),
            objectives: Vec::new(),
            approvals: 0,
            approve_within: Span::minutes(60),
            deployments_per_hour: None,
            restores_per_hour: 3,
            promote_on_health: false,
            breaker: true,
        }
    }
}

impl Match {
    /// Whether the policy is for this guard, whoever asks.
    pub fn guard(&self, metadata: &Metadata) -> bool {
        let namespace = self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == metadata.namespace());
        namespace && self.labels.iter().all(|(key, value)| metadata.labels.get(key) == Some(value))
    }

    /// Whether the policy is for this guard and this requester.
    ///
    /// A requester of unknown kind falls under the policies for every kind, one that claims a lower kind also under those
    /// for its own, and an agent whose credential does not name it under those for every agent: nobody gets out of a policy
    /// by what they say.
    pub fn applies(&self, metadata: &Metadata, actor: &Actor) -> bool {
        let mut kinds = [Some(actor.kind), actor.lowered_from].into_iter().flatten();
        let kind = self.actors.is_empty() || actor.kind == ActorKind::Unknown || kinds.any(|kind| self.actors.contains(&kind));
        let named = actor.agent_id.as_ref().filter(|_| !actor.agent_claimed);
        let agent = self.agents.is_empty()
            || actor.agent_id.as_ref().is_some_and(|id| self.agents.contains(id))
            || (named.is_none() && matches!(actor.kind, ActorKind::Unknown | ActorKind::Agent));
        self.guard(metadata) && kind && agent
    }

    /// Whether it depends on who asks.
    pub fn names_actors(&self) -> bool {
        !self.actors.is_empty() || !self.agents.is_empty()
    }
}

/// The policies that are for this guard and this requester, with their names.
pub fn matching<'a>(policies: &'a BTreeMap<String, GuardPolicy>, metadata: &Metadata, actor: &Actor) -> Vec<(&'a str, &'a GuardPolicy)> {
    let applies = policies.iter().filter(|(_, policy)| policy.match_.applies(metadata, actor));
    applies.map(|(name, policy)| (name.as_str(), policy)).collect()
}

/// Merges the `matching` policies, the strictest value of each field, with the attestation of the policy that the guard
/// `named`, whether or not that one matches.
pub fn merge<'a>(matching: impl IntoIterator<Item = &'a GuardPolicy>, named: Option<&GuardPolicy>) -> Policy {
    let mut merged = Policy::default();
    let mut floors = Floors::default();
    merged.require(named.and_then(|policy| policy.attestation.as_ref()));
    for policy in matching {
        merged.require(policy.attestation.as_ref());
        merged.add_objectives(&policy.objectives);
        floors = floors.stricter(&policy.floors);
    }
    Policy {
        approvals: floors.approvals.unwrap_or(merged.approvals),
        deployments_per_hour: floors.deployments_per_hour,
        restores_per_hour: floors.restores_per_hour.unwrap_or(merged.restores_per_hour),
        promote_on_health: floors.promote_on_health.unwrap_or(merged.promote_on_health),
        breaker: floors.breaker.unwrap_or(merged.breaker),
        ..merged
    }
}

impl Floors {
    /// The stricter value of each field.
    #[must_use]
    pub fn stricter(&self, other: &Self) -> Self {
        Self {
            bake: pick(self.bake, other.bake, Ord::max),
            watch: pick(self.watch, other.watch, Ord::max),
            first_step: pick(self.first_step, other.first_step, |a, b| if b < a { b } else { a }),
            good: pick(self.good, other.good, |a, b| if b > a { b } else { a }),
            approvals: pick(self.approvals, other.approvals, Ord::max),
            deployments_per_hour: pick(self.deployments_per_hour, other.deployments_per_hour, Ord::min),
            restores_per_hour: pick(self.restores_per_hour, other.restores_per_hour, Ord::min),
            promote_on_health: pick(self.promote_on_health, other.promote_on_health, |a, b| a && b),
            breaker: pick(self.breaker, other.breaker, |a, b| a || b),
        }
    }
}

/// The one that is there, or of two the one that `stricter` picks.
fn pick<T>(a: Option<T>, b: Option<T>, stricter: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(stricter(a, b)),
        (a, b) => a.or(b),
    }
}

impl Policy {
    /// The tighter of both in every field: what stands while a loosening is not in force yet.
    #[must_use]
    pub fn tighter(&self, other: &Self) -> Self {
        let mut tighter = self.clone();
        tighter.require(Some(&other.attestation));
        tighter.add_objectives(&other.objectives);
        Self {
            approvals: self.approvals.max(other.approvals),
            approve_within: self.approve_within.min(other.approve_within),
            deployments_per_hour: pick(self.deployments_per_hour, other.deployments_per_hour, Ord::min),
            restores_per_hour: self.restores_per_hour.min(other.restores_per_hour),
            promote_on_health: self.promote_on_health && other.promote_on_health,
            breaker: self.breaker || other.breaker,
            ..tighter
        }
    }

    /// The objectives that a guard is judged by: its own, and those of the policies. Of two that count the same under one
    /// name the stricter stands.
    pub fn objectives_of(&self, guard: &GuardedRollout) -> Vec<Objective> {
        let mut all = guard.objectives.clone();
        for objective in &self.objectives {
            add_objective(&mut all, objective);
        }
        all
    }

    fn require(&mut self, attestation: Option<&AttestationPolicy>) {
        let Some(wanted) = attestation else { return };
        let known = std::mem::take(&mut self.attestation);
        self.attestation =
            if known == AttestationPolicy::default() || known == *wanted { wanted.clone() } else { known.merge(wanted.clone()) };
    }

    fn add_objectives(&mut self, objectives: &[Objective]) {
        for objective in objectives {
            add_objective(&mut self.objectives, objective);
        }
    }
}

/// Adds `objective`. One of the same name that counts the same takes the stricter limits; one that counts something else is
/// kept beside it.
fn add_objective(all: &mut Vec<Objective>, objective: &Objective) {
    match all.iter_mut().find(|known| known.name == objective.name && known.counts_like(objective)) {
        Some(known) => {
            if objective.good > known.good {
                known.good = objective.good;
            }
            known.strict |= objective.strict;
        }
        None => all.push(objective.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::spec::{
        Arms, ArmsBy, Artifacts, Attestation, BlueGreen, Canary, Candidate, HealthCheck, Observe, OnNewer, Process, Ratio, Step, Strategy,
        Workload,
    };

    fn objective(name: &str, good: f64, total: &str) -> Objective {
        let ratio = Some(Ratio { bad: format!("{total}_bad"), total: total.to_owned() });
        Objective { name: name.to_owned(), good: Percent::new(good), ratio, histogram: None, strict: false }
    }

    fn guard(strategy: Strategy) -> GuardedRollout {
        GuardedRollout {
            workload: Workload::Process(Process {
                listen: "127.0.0.1:0".to_owned(),
                artifacts: Artifacts::Registry {},
                instances: 1,
                health: HealthCheck::default(),
                drain: Span::seconds(30),
            }),
            arms: Arms { by: ArmsBy::Route, sticky: false },
            source: "host".to_owned(),
            objectives: vec![objective("availability", 99.0, "requests")],
            also_breach_on: Vec::new(),
            strategy,
            watch: crate::core::spec::Watch::default(),
            attestation: Attestation { policy: "release".to_owned() },
            revert: crate::core::spec::Revert::default(),
            recovery: crate::core::spec::Recovery::default(),
            no_data: crate::core::spec::NoData::default(),
            retreat: crate::core::spec::Retreat::default(),
        }
    }

    fn canary(weight: f64, bake: Span) -> Strategy {
        let steps = vec![Step { weight: Percent::new(weight), bake, deadline: None }];
        Strategy::Canary(Canary { route: None, steps, candidate: Candidate::default(), on_deadline: None, on_newer: OnNewer::default() })
    }

    fn floors(floors: Floors) -> GuardPolicy {
        GuardPolicy { floors, ..GuardPolicy::default() }
    }

    #[test]
    fn the_strictest_value_of_each_field_stands() {
        let loose = Floors {
            approvals: Some(1),
            deployments_per_hour: Some(10),
            restores_per_hour: Some(9),
            promote_on_health: Some(true),
            breaker: Some(false),
            bake: Some(Span::minutes(1)),
            watch: Some(Span::minutes(1)),
            first_step: Some(Percent::new(50.0)),
            good: Some(Percent::new(90.0)),
        };
        let tight = Floors {
            approvals: Some(2),
            deployments_per_hour: Some(3),
            restores_per_hour: Some(1),
            promote_on_health: Some(false),
            breaker: Some(true),
            bake: Some(Span::minutes(9)),
            watch: Some(Span::minutes(9)),
            first_step: Some(Percent::new(5.0)),
            good: Some(Percent::new(99.0)),
        };
        assert_eq!(loose.stricter(&tight), tight);
        assert_eq!(tight.stricter(&loose), tight);
        assert_eq!(tight.stricter(&Floors::default()), tight);
        let policy = merge([&floors(loose), &floors(tight)], None);
        assert_eq!(
            (policy.approvals, policy.deployments_per_hour, policy.restores_per_hour, policy.promote_on_health, policy.breaker),
            (2, Some(3), 1, false, true)
        );
    }

    #[test]
    fn without_policies_the_defaults_are_safe() {
        let policy = merge([], None);
        assert_eq!(policy, Policy::default());
        assert!(
            policy.breaker
                && !policy.promote_on_health
                && policy.restores_per_hour == 3
                && policy.attestation == AttestationPolicy::default()
        );
    }

    #[test]
    fn attestation_is_united_and_never_twice() {
        let with = |deny: &str| {
            let deny = crate::core::attest::Deny { digests: vec![format!("sha256:{}", deny.repeat(64)).parse().unwrap()] };
            GuardPolicy { attestation: Some(AttestationPolicy { deny, ..Default::default() }), ..Default::default() }
        };
        let (a, b) = (with("a"), with("b"));
        let policy = merge([&a, &b, &a], Some(&b));
        assert_eq!(policy.attestation.deny.digests.len(), 2);
        assert_eq!(merge([&a], None).tighter(&merge([&b], None)).attestation.deny.digests.len(), 2);
    }

    #[test]
    fn objectives_of_policies_cannot_be_removed_or_weakened() {
        let house = GuardPolicy {
            objectives: vec![objective("availability", 99.9, "requests"), objective("queue", 95.0, "jobs")],
            ..Default::default()
        };
        let guard = guard(canary(5.0, Span::minutes(5)));
        let judged = merge([&house], None).objectives_of(&guard);
        assert_eq!(judged.len(), 2);
        assert_eq!(judged[0].good, Percent::new(99.9));
        let weaker = weaker("house", &house, &guard);
        assert_eq!(weaker.len(), 1);
        assert_eq!(weaker[0].to_string(), "`objectives[0].good` is 99%: policy `house` demands at least 99.9% (`objectives[0].good`)");
        let other = GuardPolicy { objectives: vec![objective("availability", 90.0, "other")], ..Default::default() };
        assert_eq!(super::weaker("house", &other, &guard)[0].floor, "/spec/objectives/0/name");
        assert_eq!(merge([&other], None).objectives_of(&guard).len(), 2, "the policy's own counters are judged beside the guard's");
    }

    #[test]
    fn a_weaker_guard_is_told_field_by_field() {
        let policy = floors(Floors {
            bake: Some(Span::minutes(5)),
            watch: Some(Span::minutes(60)),
            first_step: Some(Percent::new(1.0)),
            good: Some(Percent::new(99.9)),
            ..Floors::default()
        });
        let fields = |strategy| weaker("p", &policy, &guard(strategy)).into_iter().map(|weaker| weaker.field).collect::<Vec<_>>();
        let rest = ["/spec/watch/for", "/spec/strategy/canary/steps/0/weight", "/spec/objectives/0/good"];
        assert_eq!(fields(canary(5.0, Span::minutes(5))), rest);
        assert_eq!(fields(canary(1.0, Span::minutes(4)))[0], "/spec/strategy/canary/steps/0/bake");
        let blue_green = BlueGreen {
            route: None,
            candidate: Candidate::default(),
            bake: Span::minutes(1),
            deadline: None,
            on_deadline: None,
            on_newer: OnNewer::default(),
        };
        assert!(fields(Strategy::BlueGreen(blue_green)).contains(&"/spec/strategy/blueGreen".to_owned()));
        assert!(fields(Strategy::Observe(Observe {})).contains(&"/spec/strategy/observe".to_owned()));
        assert!(weaker("p", &GuardPolicy::default(), &guard(canary(90.0, Span::seconds(1)))).is_empty());
    }

    #[test]
    fn nobody_gets_out_of_a_policy_by_saying_less() {
        let metadata = Metadata {
            name: "checkout".to_owned(),
            namespace: Some("shop".to_owned()),
            labels: [("tier".to_owned(), "critical".to_owned())].into(),
        };
        let actor = |kind, agent_id: Option<&str>| Actor { kind, agent_id: agent_id.map(str::to_owned), ..Actor::default() };
        let agents = Match { actors: vec![ActorKind::Agent], ..Match::default() };
        assert!(agents.applies(&metadata, &actor(ActorKind::Agent, None)));
        assert!(agents.applies(&metadata, &actor(ActorKind::Unknown, None)));
        assert!(!agents.applies(&metadata, &actor(ActorKind::Human, None)));
        let one = Match { agents: vec!["fixer".to_owned()], ..Match::default() };
        assert!(one.applies(&metadata, &actor(ActorKind::Agent, Some("fixer"))));
        assert!(!one.applies(&metadata, &actor(ActorKind::Agent, Some("other"))));
        assert!(one.applies(&metadata, &actor(ActorKind::Agent, None)));
        assert!(!one.applies(&metadata, &actor(ActorKind::Human, None)));
        // Nor by saying something else: only a credential's word counts.
        let claims = |kind, claimed, name: &str| actor(kind, None).claiming(Some(claimed), Some(name.to_owned()), None, None);
        assert!(one.applies(&metadata, &claims(ActorKind::Agent, ActorKind::Agent, "other")));
        assert!(one.applies(&metadata, &claims(ActorKind::Agent, ActorKind::Agent, "fixer")));
        let pipelines = Match { actors: vec![ActorKind::Automation], ..Match::default() };
        assert!(pipelines.applies(&metadata, &claims(ActorKind::Automation, ActorKind::Agent, "other")));
        assert!(agents.applies(&metadata, &claims(ActorKind::Automation, ActorKind::Agent, "other")));
        assert!(!pipelines.applies(&metadata, &claims(ActorKind::Agent, ActorKind::Automation, "other")));
        let elsewhere = Match { namespaces: vec!["infra".to_owned()], ..Match::default() };
        assert!(!elsewhere.guard(&metadata));
        let label = |value: &str| Match { labels: [("tier".to_owned(), value.to_owned())].into(), ..Match::default() };
        assert!(label("critical").guard(&metadata) && !label("low").guard(&metadata));
    }

    #[test]
    fn the_tighter_of_two_policies_is_tighter_in_every_field() {
        let a = Policy { approvals: 2, promote_on_health: true, breaker: false, restores_per_hour: 1, ..Policy::default() };
        let b = Policy { deployments_per_hour: Some(4), approve_within: Span::minutes(5), ..Policy::default() };
        let both = a.tighter(&b);
        assert_eq!(
            both,
            Policy {
                approvals: 2,
                restores_per_hour: 1,
                deployments_per_hour: Some(4),
                approve_within: Span::minutes(5),
                ..Policy::default()
            }
        );
        assert_eq!(both, b.tighter(&a));
    }
}
