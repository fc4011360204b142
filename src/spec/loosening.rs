//! What of a change makes a guard, or what it rests on, weaker than it was: that waits until a person approves it.
//!
//! Whatever is not known to tighten, or to be no matter of strictness, counts as loosening: a field that is forgotten here is held
//! back, and never let through.

use std::sync::Arc;

use crate::core::policy::GuardPolicy;
use crate::core::spec::{Canary, FlagTarget, GuardSource, GuardedRollout, Metadata, Objective, OnDeadline, Percent, Strategy};

/// The fields of a guard that are weaker in `new`. Labels, by which policies select, have no generation that could be approved: the
/// admission policies let nobody change them without the verb `loosen`.
pub fn of_guard((_, old): &(Metadata, Arc<GuardedRollout>), (_, new): &(Metadata, Arc<GuardedRollout>)) -> Vec<String> {
    let mut found = Vec::new();
    let mut hold = |loosens: bool, what: &str| {
        if loosens {
            found.push(what.to_owned());
        }
    };
    hold(old.workload != new.workload, "workload");
    hold(old.arms != new.arms, "arms");
    hold(old.source != new.source, "source");
    hold(weaker_objectives(&old.objectives, &new.objectives), "objectives");
    hold(!old.also_breach_on.iter().all(|rule| new.also_breach_on.contains(rule)), "alsoBreachOn");
    hold(weaker_strategy(&old.strategy, &new.strategy), "strategy");
    hold(new.watch.for_ < old.watch.for_ || new.watch.holdback < old.watch.holdback, "watch");
    hold(old.attestation != new.attestation, "attestation");
    hold(old.revert.restore != new.revert.restore, "revert.restore");
    hold(!old.revert.flags.iter().all(|flag| new.revert.flags.contains(flag)), "revert.flags");
    hold(new.recovery.deadline > old.recovery.deadline, "recovery");
    hold(old.no_data != new.no_data, "noData");
    hold(new.retreat.for_ > old.retreat.for_, "retreat");
    found
}

/// The same of a policy.
pub fn of_policy(old: &GuardPolicy, new: &GuardPolicy) -> Vec<String> {
    let (was, is) = (&old.floors, &new.floors);
    // A floor that is there may rise and not go; where less is stricter it may fall.
    let rises = |was: Option<f64>, is: Option<f64>| was.is_none_or(|was| is.is_some_and(|is| is >= was));
    let falls = |was: Option<f64>, is: Option<f64>| was.is_none_or(|was| is.is_some_and(|is| is <= was));
    let count = |value: Option<u32>| value.map(f64::from);
    let stricter = rises(was.bake.map(|span| span.0.as_secs_f64()), is.bake.map(|span| span.0.as_secs_f64()))
        && rises(was.watch.map(|span| span.0.as_secs_f64()), is.watch.map(|span| span.0.as_secs_f64()))
        && falls(was.first_step.map(Percent::percent), is.first_step.map(Percent::percent))
        && rises(was.good.map(Percent::percent), is.good.map(Percent::percent))
        && rises(count(was.approvals), count(is.approvals))
        && falls(count(was.deployments_per_hour), count(is.deployments_per_hour))
        && falls(count(was.restores_per_hour), count(is.restores_per_hour))
        && (was.promote_on_health != Some(false) || is.promote_on_health == Some(false))
        && (was.breaker == is.breaker || is.breaker == Some(true));
    let fields = [
        (old.match_ != new.match_, "match"),
        (!stricter, "floors"),
        (old.attestation != new.attestation, "attestation"),
        (weaker_objectives(&old.objectives, &new.objectives), "objectives"),
    ];
    fields.into_iter().filter(|(loosens, _)| *loosens).map(|(_, field)| field.to_owned()).collect()
}

/// The same of a source: whoever answers in its place may say that all is well.
pub fn of_source(old: &GuardSource, new: &GuardSource) -> Vec<String> {
    let fields = [
        (old.prometheus != new.prometheus, "prometheus"),
        (old.scrape != new.scrape, "scrape"),
        (opens(&old.allowed_namespaces, &new.allowed_namespaces), "allowedNamespaces"),
    ];
    fields.into_iter().filter(|(loosens, _)| *loosens).map(|(_, field)| field.to_owned()).collect()
}

/// The same of a flag target.
pub fn of_flag(old: &FlagTarget, new: &FlagTarget) -> Vec<String> {
    let fields = [(old.file != new.file, "file"), (opens(&old.allowed_namespaces, &new.allowed_namespaces), "allowedNamespaces")];
    fields.into_iter().filter(|(loosens, _)| *loosens).map(|(_, field)| field.to_owned()).collect()
}

/// Whether namespaces may use it that might not before; none named are all.
fn opens(old: &[String], new: &[String]) -> bool {
    !old.is_empty() && (new.is_empty() || new.iter().any(|namespace| !old.contains(namespace)))
}

fn weaker_objectives(old: &[Objective], new: &[Objective]) -> bool {
    let holds =
        |was: &&Objective, is: &Objective| is.name == was.name && is.counts_like(was) && is.good >= was.good && (is.strict || !was.strict);
    !old.iter().all(|was| new.iter().any(|is| holds(&was, is)))
}

fn weaker_strategy(old: &Strategy, new: &Strategy) -> bool {
    match (old, new) {
        (Strategy::Canary(was), Strategy::Canary(is)) => weaker_canary(was, is),
        (Strategy::BlueGreen(was), Strategy::BlueGreen(is)) => {
            was.route != is.route
                || is.candidate.warm_up > was.candidate.warm_up
                || is.bake < was.bake
                || weaker_deadline(was.on_deadline, is.on_deadline)
        }
        // Whatever drives, after nothing did.
        (Strategy::Observe(_), _) => false,
        _ => true,
    }
}

fn weaker_canary(was: &Canary, is: &Canary) -> bool {
    let steps = was.steps.len() == is.steps.len()
        && was.steps.iter().zip(&is.steps).all(|(was, is)| is.weight <= was.weight && is.bake >= was.bake);
    was.route != is.route || is.candidate.warm_up > was.candidate.warm_up || !steps || weaker_deadline(was.on_deadline, is.on_deadline)
}

fn weaker_deadline(was: Option<OnDeadline>, is: Option<OnDeadline>) -> bool {
    was != is && is != Some(OnDeadline::Revert)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn guard(change: impl Fn(&mut Value)) -> (Metadata, Arc<GuardedRollout>) {
        let mut document = json!({
            "metadata": {"name": "checkout", "labels": {"tier": "critical"}},
            "spec": {
                "workload": {"deployment": {"name": "checkout"}}, "arms": {"by": "pod"}, "source": "prometheus",
                "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "bad_total", "total": "all_total"}}],
                "alsoBreachOn": [{"alert": {"matchers": ["alertname=\"a\""], "trust": "revert"}}],
                "strategy": {"canary": {"route": {"httpRoute": {"name": "checkout"}}, "steps": [{"weight": "10%", "bake": "5m"}]}},
                "watch": {"for": "30m", "holdback": "10%"}, "attestation": {"policy": "release"},
                "revert": {"flags": [{"use": "flags", "flag": "f", "to": {"variant": "off"}}]},
            },
        });
        change(&mut document);
        (serde_json::from_value(document["metadata"].take()).unwrap(), serde_json::from_value(document["spec"].take()).unwrap())
    }

    /// Where, to what, and which fields that loosens.
    type Change = (&'static str, Value, &'static [&'static str]);

    #[test]
    fn what_loosens_a_guard_is_named_and_what_tightens_it_is_not() {
        let was = guard(|_| ());
        let changes: [Change; 16] = [
            ("/spec/objectives/0/good", json!("98%"), &["objectives"]),
            ("/spec/objectives/0/good", json!("99.9%"), &[]),
            ("/spec/objectives/0/ratio/bad", json!("other_total"), &["objectives"]),
            ("/spec/strategy/canary/steps/0/bake", json!("1m"), &["strategy"]),
            ("/spec/strategy/canary/steps/0/bake", json!("10m"), &[]),
            ("/spec/strategy/canary/steps/0/weight", json!("50%"), &["strategy"]),
            ("/spec/strategy/canary/steps/0/weight", json!("5%"), &[]),
            ("/spec/strategy/canary/route/httpRoute/name", json!("other"), &["strategy"]),
            ("/spec/strategy", json!({"observe": {}}), &["strategy"]),
            ("/spec/alsoBreachOn", json!([]), &["alsoBreachOn"]),
            ("/spec/watch/for", json!("1m"), &["watch"]),
            ("/spec/watch/for", json!("1h"), &[]),
            ("/spec/source", json!("mine"), &["source"]),
            ("/spec/attestation/policy", json!("none"), &["attestation"]),
            ("/spec/revert/flags", json!([]), &["revert.flags"]),
            ("/spec/arms/by", json!({"label": "mine"}), &["arms"]),
        ];
        for (pointer, value, wanted) in changes {
            let is = guard(|document| *document.pointer_mut(pointer).unwrap() = value.clone());
            assert_eq!(of_guard(&was, &is), wanted, "{pointer} = {value}");
        }
        assert_eq!(of_guard(&was, &was), Vec::<String>::new());
        let added = guard(|document| {
            let mut objective = document["spec"]["objectives"][0].clone();
            objective["name"] = json!("more");
            document["spec"]["objectives"].as_array_mut().unwrap().push(objective);
        });
        assert_eq!((of_guard(&was, &added).len(), of_guard(&added, &was)), (0, vec!["objectives".to_owned()]));
    }

    #[test]
    fn what_loosens_a_policy_or_a_source_is_named() {
        let policy = |floors: Value| -> GuardPolicy { serde_json::from_value(json!({"floors": floors})).unwrap() };
        let was = policy(json!({"bake": "5m", "firstStep": "10%", "approvals": 1, "restoresPerHour": 3, "breaker": true}));
        for (floors, wanted) in [
            (json!({"bake": "6m", "firstStep": "5%", "approvals": 2, "restoresPerHour": 2, "breaker": true, "watch": "1h"}), 0),
            (json!({"bake": "4m", "firstStep": "10%", "approvals": 1, "restoresPerHour": 3, "breaker": true}), 1),
            (json!({"bake": "5m", "firstStep": "20%", "approvals": 1, "restoresPerHour": 3, "breaker": true}), 1),
            (json!({"bake": "5m", "firstStep": "10%", "restoresPerHour": 3, "breaker": true}), 1),
            (json!({"bake": "5m", "firstStep": "10%", "approvals": 1, "restoresPerHour": 9, "breaker": true}), 1),
            (json!({"bake": "5m", "firstStep": "10%", "approvals": 1, "restoresPerHour": 3, "breaker": false}), 1),
        ] {
            assert_eq!(of_policy(&was, &policy(floors.clone())).len(), wanted, "{floors}");
        }
        let source = |url: &str, namespaces: Value| -> GuardSource {
            let spec = json!({"prometheus": {"url": url, "scrapeInterval": "5s"}, "allowedNamespaces": namespaces});
            serde_json::from_value(spec).unwrap()
        };
        let was = source("http://a:9090", json!(["shop"]));
        assert_eq!(of_source(&was, &source("http://b:9090", json!(["shop"]))), ["prometheus"]);
        assert_eq!(of_source(&was, &source("http://a:9090", json!([]))), ["allowedNamespaces"]);
        assert_eq!(of_source(&source("http://a:9090", json!([])), &was), Vec::<String>::new());
    }
}
