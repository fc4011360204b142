//! Which rollouts listen to which alerts.

use std::collections::BTreeMap;

use crate::core::spec::{Rule as Declared, Trust};
use crate::spec::matcher::{Matcher, MatcherError};

use super::Delivery;
use super::payload::Alert;

/// What one rollout listens to.
#[derive(Debug, Clone)]
pub struct Subscription {
    rollout: String,
    rules: Vec<(Vec<Matcher>, Trust)>,
}

impl Subscription {
    /// The alerts among a guard's `alsoBreachOn` rules. `rollout` is `namespace/name`.
    pub fn new(rollout: impl Into<String>, also_breach_on: &[Declared]) -> Result<Self, MatcherError> {
        let parsed = |matchers: &[String]| matchers.iter().map(|matcher| matcher.parse()).collect::<Result<Vec<Matcher>, _>>();
        let alerts = also_breach_on.iter().filter_map(|rule| rule.alert.as_ref());
        let rules = alerts.map(|alert| Ok((parsed(&alert.matchers)?, alert.trust))).collect::<Result<_, _>>()?;
        Ok(Self { rollout: rollout.into(), rules })
    }
}

/// The rules of all rollouts, found by the alert's name where they ask for one: thousands of rollouts listen.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_name: BTreeMap<String, Vec<Rule>>,
    others: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    rollout: String,
    matchers: Vec<Matcher>,
    trust: Trust,
}

impl Subscriptions {
    pub(super) fn new(subscriptions: Vec<Subscription>) -> Self {
        let mut all = Self::default();
        for Subscription { rollout, rules } in subscriptions {
            // A rule without matchers would listen to everything: it listens to nothing.
            for (matchers, trust) in rules.into_iter().filter(|(matchers, _)| !matchers.is_empty()) {
                let name = matchers.iter().find_map(|matcher| matcher.exactly("alertname")).map(str::to_owned);
                let rule = Rule { rollout: rollout.clone(), matchers, trust };
                match name {
                    Some(name) => all.by_name.entry(name).or_default().push(rule),
                    None => all.others.push(rule),
                }
            }
        }
        all
    }

    /// One delivery for each rollout that listens to this alert; where several of its rules do, the one that may do most counts.
    pub(super) fn deliveries(&self, alert: &Alert) -> Vec<Delivery> {
        let named = self.by_name.get(alert.name()).map_or(&[][..], Vec::as_slice);
        let matching = named.iter().chain(&self.others).filter(|rule| rule.matchers.iter().all(|matcher| matcher.matches(&alert.labels)));
        let mut trusts: BTreeMap<&str, Trust> = BTreeMap::new();
        for rule in matching {
            let trust = trusts.entry(&rule.rollout).or_insert(rule.trust);
            if rule.trust == Trust::Revert {
                *trust = Trust::Revert;
            }
        }
        trusts.into_iter().map(|(rollout, trust)| Delivery { rollout: rollout.to_owned(), alerted: alert.alerted(trust) }).collect()
    }
}
