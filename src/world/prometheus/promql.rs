//! Selectors as `PromQL`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::core::judge::signal::{MatchOp, Matcher};
use crate::world::series::{BOUND, is_classic, number, push_quoted};

/// The metric's raw samples over the last `range` milliseconds, for the given matchers (as text), label values and releases.
pub(super) fn range_selector(
    metric: &str,
    fixed: &str,
    values: &BTreeMap<String, BTreeSet<String>>,
    (arm_label, releases): (&str, &BTreeSet<String>),
    range: i64,
) -> String {
    let is_plain = is_classic(&metric.replace(':', "_"));
    let mut text = format!("{}{{", if is_plain { metric } else { "" });
    if !is_plain {
        push_matcher(&mut text, "__name__", "=", metric);
    }
    if !fixed.is_empty() {
        text.push_str(if text.ends_with('{') { "" } else { "," });
        text.push_str(fixed);
    }
    for (label, values) in values.iter().map(|(label, values)| (label.as_str(), values)).chain([(arm_label, releases)]) {
        let escaped: Vec<String> = values.iter().map(|value| regex::escape(value)).collect();
        match (values.first(), values.len()) {
            (Some(only), 1) => push_matcher(&mut text, label, "=", only),
            _ => push_matcher(&mut text, label, "=~", &escaped.join("|")),
        }
    }
    let _ = write!(text, "}}[{range}ms]");
    text
}

/// The metric's newest samples, for the given matchers.
pub(super) fn instant(metric: &str, fixed: &[&Matcher]) -> String {
    let mut text = String::from("{");
    push_matcher(&mut text, "__name__", "=", metric);
    let fixed = matchers(fixed);
    text.push_str(if fixed.is_empty() { "" } else { "," });
    text.push_str(&fixed);
    text.push('}');
    text
}

/// Matchers, separated by commas.
pub(super) fn matchers(matchers: &[&Matcher]) -> String {
    let mut text = String::new();
    for matcher in matchers {
        match (matcher.op, number(&matcher.value)) {
            (MatchOp::Equal, Some(bound)) if matcher.label == BOUND => {
                push_matcher(&mut text, BOUND, "=~", &spellings(&matcher.value, bound));
            }
            (MatchOp::NotEqual, Some(bound)) if matcher.label == BOUND => {
                push_matcher(&mut text, BOUND, "!~", &spellings(&matcher.value, bound));
            }
            (op, _) => push_matcher(&mut text, &matcher.label, sign(op), &matcher.value),
        }
    }
    text
}

fn sign(op: MatchOp) -> &'static str {
    match op {
        MatchOp::Equal => "=",
        MatchOp::NotEqual => "!=",
        MatchOp::Regex => "=~",
        MatchOp::NotRegex => "!~",
    }
}

fn push_matcher(text: &mut String, label: &str, sign: &str, value: &str) {
    if !text.is_empty() && !text.ends_with('{') {
        text.push(',');
    }
    if is_classic(label) {
        text.push_str(label);
    } else {
        push_quoted(text, label);
    }
    text.push_str(sign);
    push_quoted(text, value);
}

/// The ways in which clients and Prometheus write a bucket's bound, as a regular expression.
///
/// Go's clients write the shortest form, with an exponent below 1e-4 and from 1e6 (or 1e21) on; `OpenMetrics` and Prometheus 3
/// add `.0` to whole numbers.
pub(super) fn spellings(written: &str, bound: f64) -> String {
    let mut forms = vec![written.to_owned()];
    if bound == f64::INFINITY {
        forms.extend(["+Inf".to_owned(), "Inf".to_owned()]);
    } else {
        let short = bound.to_string();
        let exponent = format!("{bound:e}");
        let (digits, power) = exponent.split_once('e').unwrap_or((&exponent, "0"));
        let (sign, power) = power.strip_prefix('-').map_or(("+", power), |power| ("-", power));
        forms.push(format!("{digits}e{sign}{power:0>2}"));
        if !short.contains('.') {
            forms.push(format!("{short}.0"));
        }
        forms.push(short);
    }
    forms.sort();
    forms.dedup();
    forms.iter().map(|form| regex::escape(form)).collect::<Vec<_>>().join("|")
}
