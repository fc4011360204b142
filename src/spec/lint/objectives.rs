//! Objectives, and the rules that breach besides them.

use std::collections::BTreeMap;

use super::{Guard, Sheet};
use crate::core::spec::{Condition, GuardedRollout, Histogram, Objective, Percent, QueryRule, Ratio, Rule};
use crate::core::time::Span;
use crate::spec::code;
use crate::spec::finding::Finding;
use crate::spec::references::HOST;
use crate::spec::schema::{either, meant};
use crate::spec::selector::{self, Selector};

/// Most objectives that revert: the allowed false-alarm rate is divided among them.
const MOST: usize = 4;
/// Longest query, in bytes.
const QUERY_MAX: usize = 1_024;

pub(super) fn check(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    let own = &guard.rollout.objectives;
    if own.is_empty() {
        sheet.push("/spec/objectives", Finding::error(code::OBJECTIVES, "without an objective nothing is judged").expected("at least one"));
    }
    let added = added(sheet, guard);
    let all = own.len() + added.iter().filter(|added| !own.iter().any(|own| own.name == added.name)).count();
    if all > MOST {
        let of_policies = if all > own.len() { format!(", {} of them from policies", all - own.len()) } else { String::new() };
        let message = format!("{all} objectives{of_policies}: each one waits longer for its evidence, and says less");
        sheet.push("/spec/objectives", Finding::error(code::OBJECTIVES, message).expected(format!("at most {MOST}")));
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, objective) in own.iter().enumerate() {
        let pointer = format!("/spec/objectives/{index}");
        if let Some(first) = seen.insert(&objective.name, index) {
            let mut finding = Finding::error(code::DUPLICATE_NAME, format!("a second objective `{}`", objective.name));
            if let Some(place) = sheet.loaded.place(sheet.at, &format!("/spec/objectives/{first}/name")) {
                finding = finding.related("the first", place);
            }
            sheet.push(&format!("{pointer}/name"), finding);
        }
        check_objective(sheet, &pointer, objective, Some(guard.rollout));
    }
    let known: Vec<&Objective> = own.iter().chain(&added).collect();
    for (index, rule) in guard.rollout.also_breach_on.iter().enumerate() {
        let pointer = format!("/spec/alsoBreachOn/{index}");
        check_rule(sheet, &pointer, rule, &known, guard.interval);
        if let Some(query) = &rule.query {
            check_query(sheet, &format!("{pointer}/query"), query, guard.rollout);
        }
    }
}

/// What the policies for this guard add, whoever asks.
fn added(sheet: &Sheet<'_>, guard: &Guard<'_>) -> Vec<Objective> {
    let policies = sheet.loaded.policies.values().filter(|policy| policy.match_.guard(guard.metadata));
    policies.flat_map(|policy| policy.objectives.clone()).collect()
}

pub(super) fn check_objective(sheet: &mut Sheet<'_>, pointer: &str, objective: &Objective, guard: Option<&GuardedRollout>) {
    let name = &objective.name;
    if name.is_empty() || name.len() > 63 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        let finding =
            Finding::error(code::BAD_NAME, "not a name for an objective").expected("1 to 63 letters, digits, dashes, underscores and dots");
        sheet.push(&format!("{pointer}/name"), finding);
    }
    if objective.good < Percent::new(50.0) || objective.good > Percent::new(99.999) {
        let message = if objective.good > Percent::new(50.0) {
            "no rollout gathers the requests that would prove this"
        } else {
            "an objective that allows every other request to fail judges nothing"
        };
        sheet.push(&format!("{pointer}/good"), Finding::error(code::GOOD, message).expected("50% to 99.999%"));
    }
    match (&objective.ratio, &objective.histogram) {
        (Some(ratio), None) => check_ratio(sheet, &format!("{pointer}/ratio"), ratio, guard),
        (None, Some(histogram)) => check_histogram(sheet, &format!("{pointer}/histogram"), histogram, guard),
        (None, None) => sheet.push(pointer, Finding::error(code::EXACTLY_ONE, "nothing is counted").expected("`ratio` or `histogram`")),
        (Some(_), Some(_)) => {
            let finding = Finding::error(code::EXACTLY_ONE, "`ratio` and `histogram` at once").fix("make it two objectives");
            sheet.push_key(&format!("{pointer}/histogram"), finding);
        }
    }
}

fn check_ratio(sheet: &mut Sheet<'_>, pointer: &str, ratio: &Ratio, guard: Option<&GuardedRollout>) {
    let bad = check_selector(sheet, &format!("{pointer}/bad"), &ratio.bad, guard);
    let total = check_selector(sheet, &format!("{pointer}/total"), &ratio.total, guard);
    if bad.is_some() && bad == total {
        let finding = Finding::error(code::SELECTOR, "`bad` selects what `total` selects: every request would be bad");
        sheet.push(&format!("{pointer}/bad"), finding.fix("add the matcher that tells bad requests, such as `code=~\"5..\"`"));
    }
}

fn check_histogram(sheet: &mut Sheet<'_>, pointer: &str, histogram: &Histogram, guard: Option<&GuardedRollout>) {
    if histogram.within.0.is_zero() {
        sheet.push(&format!("{pointer}/within"), Finding::error(code::LIMIT, "nothing is faster than this").expected("more than 0"));
    }
    let field = format!("{pointer}/metric");
    let Some(selector) = check_selector(sheet, &field, &histogram.metric, guard) else { return };
    if let Some(base) = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| selector.metric.strip_suffix(suffix)) {
        let rewrite = Selector { metric: base.to_owned(), ..selector.clone() };
        let finding = Finding::error(code::SELECTOR, "the series of a histogram are found by its bare name");
        sheet.push(&field, finding.fix(format!("write `{rewrite}`")));
    }
    if selector.matchers.iter().any(|(label, ..)| label == "le") {
        sheet.push(
            &field,
            Finding::error(code::SELECTOR, "the bucket is chosen by `within`, not by `le`").fix("leave the matcher on `le` out"),
        );
    }
}

fn check_selector(sheet: &mut Sheet<'_>, pointer: &str, text: &str, guard: Option<&GuardedRollout>) -> Option<Selector> {
    let selector = match selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            let finding = Finding::error(code::SELECTOR, format!("not a vector selector: {}", error.message));
            let finding = finding.expected("a vector selector over a counter");
            let fix = error
                .rewrite
                .map_or_else(|| "write something like `http_requests_total{job=\"shop\"}`".to_owned(), |it| format!("write `{it}`"));
            sheet.push(pointer, finding.fix(fix));
            return None;
        }
    };
    if let Some(label) = guard.map(|guard| guard.arms.by.label()).filter(|arm| selector.matchers.iter().any(|(label, ..)| label == arm)) {
        let finding = Finding::error(code::ARM_LABEL, format!("`{label}` tells the arms apart: its matcher is added"));
        sheet.push(pointer, finding.fix(format!("leave the matcher on `{label}` out")));
    }
    if selector.metric.contains(':') {
        let finding = Finding::error(code::AGGREGATED, "a recorded series: aggregates hide the resets of the counters in them");
        sheet.push(pointer, finding.fix("select the raw counter that the recording rule is made from"));
    } else if guard.is_some_and(|guard| guard.source == HOST) && !selector.metric.starts_with("backstop_host_") {
        let finding =
            Finding::error(code::SELECTOR, format!("the source `{HOST}` has no `{}`, only what its proxy counts", selector.metric));
        sheet.push(pointer, finding.expected("`backstop_host_requests_total` or `backstop_host_request_duration_seconds`"));
    }
    Some(selector)
}

fn check_rule(sheet: &mut Sheet<'_>, pointer: &str, rule: &Rule, known: &[&Objective], interval: Span) {
    let given =
        [("all", !rule.all.is_empty()), ("any", !rule.any.is_empty()), ("alert", rule.alert.is_some()), ("query", rule.query.is_some())];
    let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    if given.len() != 1 {
        let message = if given.is_empty() { "a rule without conditions".to_owned() } else { format!("{} at once", given.join(" and ")) };
        sheet.push(pointer, Finding::error(code::EXACTLY_ONE, message).expected("exactly one of `all`, `any`, `alert` or `query`"));
    }
    for (list, conditions) in [("all", &rule.all), ("any", &rule.any)] {
        for (index, condition) in conditions.iter().enumerate() {
            check_condition(sheet, &format!("{pointer}/{list}/{index}"), condition, known, interval);
        }
    }
    let Some(alert) = &rule.alert else { return };
    if rule.for_.is_some() {
        let finding = Finding::error(code::NO_EFFECT, "an alert has its own `for`, in Prometheus").fix("leave it out");
        sheet.push_key(&format!("{pointer}/for"), finding);
    }
    if alert.matchers.is_empty() {
        let finding = Finding::error(code::MATCHER, "this would listen to every alert")
            .expected("a matcher such as `alertname=\"CheckoutBurningBudget\"`");
        sheet.push(&format!("{pointer}/alert/matchers"), finding);
    }
    for (index, matcher) in alert.matchers.iter().enumerate() {
        if selector::parse_matcher(matcher).is_none() {
            let finding = Finding::error(code::MATCHER, "not a matcher").expected("a label, an operator and a value in quotes");
            sheet.push(
                &format!("{pointer}/alert/matchers/{index}"),
                finding.fix("write something like `alertname=\"CheckoutBurningBudget\"`"),
            );
        }
    }
}

fn check_query(sheet: &mut Sheet<'_>, pointer: &str, query: &QueryRule, guard: &GuardedRollout) {
    if query.above.is_some() == query.below.is_some() {
        sheet.push(pointer, Finding::error(code::EXACTLY_ONE, "not one bound").expected("either `above` or `below`"));
    }
    let field = format!("{pointer}/promql");
    if query.promql.trim().is_empty() || query.promql.len() > QUERY_MAX {
        let finding =
            Finding::error(code::LIMIT, "not a query").expected(format!("PromQL of at most {QUERY_MAX} bytes that gives one number"));
        sheet.push(&field, finding);
    }
    if guard.workload.process().is_none() {
        let finding = Finding::error(code::NO_EFFECT, "a query is not held to the guard's own namespace, so it is not asked in a cluster");
        sheet.push(pointer, finding.fix("make it an alert in Prometheus, and listen to that with `alert`"));
    } else if guard.source == HOST || sheet.loaded.sources.get(&guard.source).is_some_and(|source| source.prometheus.is_none()) {
        let finding = Finding::error(code::NO_EFFECT, format!("the source `{}` cannot evaluate PromQL", guard.source));
        sheet.push(pointer, finding.fix("use a `GuardSource` with `prometheus`"));
    }
}

fn check_condition(sheet: &mut Sheet<'_>, pointer: &str, condition: &Condition, known: &[&Objective], interval: Span) {
    let objective = known.iter().find(|objective| objective.name == condition.objective);
    if objective.is_none() {
        let names: Vec<&str> = known.iter().map(|objective| objective.name.as_str()).collect();
        let finding = Finding::error(code::DANGLING, format!("there is no objective `{}`", condition.objective)).expected(either(&names));
        sheet.push(
            &format!("{pointer}/objective"),
            match meant(&condition.objective, &names) {
                Some(name) => finding.fix(format!("did you mean `{name}`?")),
                None => finding,
            },
        );
    }
    match (condition.bad, condition.quantile, condition.value) {
        (Some(_), None, None) | (None, Some(_), Some(_)) => {}
        _ => {
            let finding = Finding::error(code::EXACTLY_ONE, "not one condition").expected("either `bad`, or `quantile` with `value`");
            sheet.push(pointer, finding);
        }
    }
    if let Some(quantile) = condition.quantile {
        let field = format!("{pointer}/quantile");
        if !(quantile > 0.0 && quantile < 1.0) {
            sheet.push(&field, Finding::error(code::LIMIT, "not a quantile").expected("a number between 0 and 1, such as `0.95`"));
        }
        if objective.is_some_and(|objective| objective.histogram.is_none()) {
            let finding = Finding::error(code::NO_EFFECT, format!("`{}` is no histogram, so it has no quantiles", condition.objective));
            sheet.push(&field, finding.fix("name an objective with a `histogram`, or use `bad`"));
        }
    }
    window(sheet, &format!("{pointer}/over"), condition.over, interval);
}

/// A window is counted in whole scrape intervals, and a rate needs two.
fn window(sheet: &mut Sheet<'_>, pointer: &str, over: Span, interval: Span) {
    let (over, interval) = (over.millis(), interval.millis().max(1));
    let told = |millis: u64| Span(std::time::Duration::from_millis(millis));
    let least = interval.saturating_mul(2);
    if over < least {
        let message = format!("the window is shorter than two scrapes, which come every {}", told(interval));
        sheet.push(pointer, Finding::error(code::WINDOW, message).expected(format!("at least {}", told(least))));
    } else if over % interval != 0 {
        let (below, above) = (over / interval * interval, over.div_ceil(interval).saturating_mul(interval));
        let finding = Finding::warning(code::WINDOW, format!("not a multiple of the scrape interval, {}", told(interval)));
        sheet.push(pointer, finding.fix(format!("write `{}` or `{}`", told(below), told(above))));
    }
}
