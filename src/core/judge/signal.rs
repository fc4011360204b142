//! The counters behind objectives and rules.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::selector::SelectorError;
use crate::core::input::{Role, SignalId};
use crate::core::spec::{Condition, GuardedRollout, Histogram, Objective, Ratio};
use crate::core::time::Span;

/// Which counters are read for one signal: selectors without the arm matcher, by role.
///
/// A ratio reads `total` and `bad`; a histogram at one bound reads `total` (`…_count`) and `good` (`…_bucket{le="…"}`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Name of the signal.
    pub id: SignalId,
    /// Name of the objective that it belongs to.
    pub objective: String,
    /// Selectors by role.
    pub counters: BTreeMap<Role, Selector>,
}

/// A vector selector: metric name and matchers. Parsed by [`str::parse`], printed as `PromQL`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// The metric's name.
    pub metric: String,
    /// The matchers in order.
    pub matchers: Vec<Matcher>,
}

/// One label matcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matcher {
    /// Label.
    pub label: String,
    /// How it is compared.
    pub op: MatchOp,
    /// With what; for regular expressions fully anchored, as in `PromQL`.
    pub value: String,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

/// Why the counters of a guard cannot be told from its document: in which objective, in which field, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalError {
    /// Name of the objective.
    pub objective: String,
    /// The field below it, such as `ratio.bad`; empty if the objective as a whole is meant.
    pub field: &'static str,
    /// Column in the field's text, counted in characters from 1, if one is to blame.
    pub column: Option<usize>,
    /// What is wrong, what was expected and how to mend it.
    pub what: String,
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "objective `{}`", self.objective)?;
        if !self.field.is_empty() {
            write!(f, ", `{}`", self.field)?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for SignalError {}

/// The signal of a histogram objective at one bound.
pub fn bounded(objective: &str, bound: Span) -> SignalId {
    SignalId(format!("{objective}<={}", bound.0.as_secs_f64()))
}

/// The signal whose counters an objective is judged by.
pub fn of(objective: &Objective) -> SignalId {
    match &objective.histogram {
        Some(histogram) => bounded(&objective.name, histogram.within),
        None => SignalId(objective.name.clone()),
    }
}

/// Every signal of a guard: one per objective, and one per further bound that a `quantile` condition needs.
///
/// # Errors
/// [`SignalError`] for the first selector, objective or condition that cannot be read.
pub fn signals(spec: &GuardedRollout) -> Result<BTreeMap<SignalId, Signal>, SignalError> {
    read(&spec.objectives, spec)
}

/// As [`signals`], of these objectives instead of those in the document (policies may add some).
pub(super) fn read(objectives: &[Objective], spec: &GuardedRollout) -> Result<BTreeMap<SignalId, Signal>, SignalError> {
    let arm = spec.arms.by.label();
    let mut found = BTreeMap::new();
    for objective in objectives {
        let signal = match (&objective.ratio, &objective.histogram) {
            (Some(ratio), None) => of_ratio(objective, ratio, arm)?,
            (None, Some(histogram)) => of_bucket(objective, histogram, histogram.within, arm)?,
            _ => return Err(whole(objective, "needs exactly one of `ratio` and `histogram`".to_owned())),
        };
        if found.insert(signal.id.clone(), signal).is_some() {
            return Err(whole(objective, "the name is used twice; every objective needs its own".to_owned()));
        }
    }
    for condition in spec.also_breach_on.iter().flat_map(|rule| rule.all.iter().chain(&rule.any)) {
        if let Some((objective, histogram, bound)) = needs(objectives, condition)? {
            let signal = of_bucket(objective, histogram, bound, arm)?;
            found.entry(signal.id.clone()).or_insert(signal);
        }
    }
    Ok(found)
}

/// The histogram bound that a condition needs; none if it asks for the share of bad requests.
fn needs<'a>(objectives: &'a [Objective], condition: &Condition) -> Result<Option<(&'a Objective, &'a Histogram, Span)>, SignalError> {
    let Some(objective) = objectives.iter().find(|objective| objective.name == condition.objective) else {
        let names: Vec<_> = objectives.iter().map(|objective| objective.name.as_str()).collect();
        let what = format!("a condition of `alsoBreachOn` names it, but the objectives are: {}", names.join(", "));
        return Err(SignalError { objective: condition.objective.clone(), field: "", column: None, what });
    };
    match (condition.bad, condition.quantile, condition.value) {
        (Some(_), None, None) => Ok(None),
        (None, Some(quantile), Some(value)) if quantile > 0.0 && quantile < 1.0 => match &objective.histogram {
            Some(histogram) => Ok(Some((objective, histogram, value.0))),
            None => Err(whole(objective, "a condition asks for a `quantile`, which only a `histogram` has; use `bad`".to_owned())),
        },
        (None, Some(quantile), Some(_)) => {
            Err(whole(objective, format!("a condition has the quantile {quantile}; expected a number between 0 and 1, such as 0.95")))
        }
        _ => Err(whole(objective, "a condition needs either `bad`, or `quantile` with `value`".to_owned())),
    }
}

fn whole(objective: &Objective, what: String) -> SignalError {
    SignalError { objective: objective.name.clone(), field: "", column: None, what }
}

fn of_ratio(objective: &Objective, ratio: &Ratio, arm: &str) -> Result<Signal, SignalError> {
    let total = parse(objective, "ratio.total", &ratio.total, arm)?;
    let bad = parse(objective, "ratio.bad", &ratio.bad, arm)?;
    if total == bad {
        return Err(whole(objective, "`ratio.bad` and `ratio.total` select the same counters: every request would be bad".to_owned()));
    }
    let counters = BTreeMap::from([(Role::Total, total), (Role::Bad, bad)]);
    Ok(Signal { id: of(objective), objective: objective.name.clone(), counters })
}

fn of_bucket(objective: &Objective, histogram: &Histogram, bound: Span, arm: &str) -> Result<Signal, SignalError> {
    const FIELD: &str = "histogram.metric";
    let base = parse(objective, FIELD, &histogram.metric, arm)?;
    let refuse = |what| Err(SignalError { objective: objective.name.clone(), field: FIELD, column: None, what });
    if let Some(suffix) = ["_bucket", "_count", "_sum"].into_iter().find(|suffix| base.metric.ends_with(suffix)) {
        return refuse(format!("`{}` names one part of the histogram; leave out `{suffix}`", base.metric));
    }
    if base.matchers.iter().any(|matcher| matcher.label == "le") {
        return refuse("the label `le` is set from `within`; leave it out".to_owned());
    }
    if bound.0.is_zero() {
        return Err(whole(objective, "the bound of a histogram must be above 0".to_owned()));
    }
    let mut good = Selector { metric: format!("{}_bucket", base.metric), matchers: base.matchers.clone() };
    good.matchers.push(le(bound));
    let total = Selector { metric: format!("{}_count", base.metric), ..base };
    let counters = BTreeMap::from([(Role::Total, total), (Role::Good, good)]);
    Ok(Signal { id: bounded(&objective.name, bound), objective: objective.name.clone(), counters })
}

/// Matches a bucket's bound however clients write it: whole numbers as `1` or `1.0`, tiny ones as `0.00005` or `5e-05`.
fn le(bound: Span) -> Matcher {
    let seconds = bound.0.as_secs_f64();
    let plain = seconds.to_string();
    let (op, value) = if seconds.fract() == 0.0 {
        (MatchOp::Regex, format!("{plain}([.]0+)?"))
    } else if seconds < 1e-3 {
        let scientific = format!("{seconds:e}");
        let (digits, exponent) = scientific.split_once("e-").unwrap_or((&scientific, "0"));
        let point = if digits.contains('.') { "" } else { "([.]0)?" };
        (MatchOp::Regex, format!("{}|{}{point}[eE]-0?{exponent}", plain.replace('.', "[.]"), digits.replace('.', "[.]")))
    } else {
        (MatchOp::Equal, plain)
    };
    Matcher { label: "le".to_owned(), op, value }
}

fn parse(objective: &Objective, field: &'static str, text: &str, arm: &str) -> Result<Selector, SignalError> {
    let refuse = |column, what| SignalError { objective: objective.name.clone(), field, column, what };
    let selector: Selector = text.parse().map_err(|SelectorError { column, what }| refuse(Some(column), what))?;
    if selector.metric.contains(':') {
        let what = format!("`{}` is a recording rule, whose resets cannot be told from failures; name the counter itself", selector.metric);
        return Err(refuse(None, what));
    }
    if selector.matchers.iter().any(|matcher| matcher.label == arm) {
        return Err(refuse(None, format!("the label `{arm}` tells the arms apart and is added by backstop; leave it out")));
    }
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(name: &str) -> Objective {
        Objective { name: name.to_owned(), good: "99%".parse().unwrap(), ratio: None, histogram: None, strict: false }
    }

    fn latency(metric: &str, within: &str) -> Objective {
        let histogram = Some(Histogram { metric: metric.to_owned(), within: within.parse().unwrap() });
        Objective { histogram, ..objective("latency") }
    }

    fn availability(bad: &str, total: &str) -> Objective {
        Objective { ratio: Some(Ratio { bad: bad.to_owned(), total: total.to_owned() }), ..objective("availability") }
    }

    fn spec(objectives: Vec<Objective>, conditions: Vec<Condition>) -> GuardedRollout {
        crate::core::judge::fixture::spec(objectives, conditions)
    }

    fn texts(signal: &Signal) -> Vec<String> {
        signal.counters.iter().map(|(role, selector)| format!("{role:?} {selector}")).collect()
    }

    #[test]
    fn one_signal_per_objective_and_per_further_bound() {
        let quantile = |value: &str| Condition {
            objective: "latency".to_owned(),
            bad: None,
            quantile: Some(0.95),
            value: Some(value.parse().unwrap()),
            over: Span::minutes(1),
        };
        let objectives = vec![availability(r#"hits{code=~"5.."}"#, "hits"), latency(r#"took{job="a"}"#, "300ms")];
        let found = signals(&spec(objectives, vec![quantile(">300ms"), quantile(">2s")])).unwrap();
        let ids: Vec<_> = found.keys().map(|id| id.0.as_str()).collect();
        assert_eq!(ids, ["availability", "latency<=0.3", "latency<=2"]);
        assert_eq!(texts(&found[&SignalId("availability".into())]), ["Total hits", r#"Bad hits{code=~"5.."}"#]);
        assert_eq!(
            texts(&found[&SignalId("latency<=0.3".into())]),
            [r#"Total took_count{job="a"}"#, r#"Good took_bucket{job="a",le="0.3"}"#]
        );
        assert_eq!(found[&SignalId("latency<=2".into())].counters[&Role::Good].matchers[1].value, "2([.]0+)?");
    }

    #[test]
    fn mistakes_name_objective_field_and_place() {
        let cases = [
            (availability("rate(hits[5m])", "hits"), "objective `availability`, `ratio.bad`, column 1: found the function `rate`"),
            (availability("hits", "hits"), "objective `availability`: `ratio.bad` and `ratio.total` select the same"),
            (availability("job:bad:sum", "hits"), "objective `availability`, `ratio.bad`: `job:bad:sum` is a recording rule"),
            (
                availability(r#"bad{release="x"}"#, "hits"),
                "objective `availability`, `ratio.bad`: the label `release` tells the arms apart",
            ),
            (latency("took_bucket", "300ms"), "objective `latency`, `histogram.metric`: `took_bucket` names one part"),
            (latency(r#"took{le="1"}"#, "1s"), "objective `latency`, `histogram.metric`: the label `le` is set"),
            (latency("took", "0s"), "objective `latency`: the bound of a histogram must be above 0"),
            (objective("nothing"), "objective `nothing`: needs exactly one of"),
        ];
        for (objective, start) in cases {
            let error = signals(&spec(vec![objective], vec![])).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
        let condition = Condition {
            objective: "availability".to_owned(),
            bad: None,
            quantile: Some(0.9),
            value: Some(">1s".parse().unwrap()),
            over: Span::minutes(1),
        };
        let error = signals(&spec(vec![availability("bad", "hits")], vec![condition])).unwrap_err().to_string();
        assert!(error.contains("which only a `histogram` has"), "{error}");
    }

    #[test]
    fn bounds_match_as_clients_write_them() {
        let cases = [("300ms", "0.3"), ("2500ms", "2.5"), ("1s", "1([.]0+)?"), ("50us", "0[.]00005|5([.]0)?[eE]-0?5")];
        for (bound, wanted) in cases {
            assert_eq!(le(bound.parse().unwrap()).value, wanted);
        }
    }
}
