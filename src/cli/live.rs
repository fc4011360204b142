//! `backstop check --live`: documents beside what a Prometheus really has.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::direct::Report;
use crate::core::input::{LookFault, Role};
use crate::core::judge::signal::{MatchOp, Matcher, Selector, Signal, signals};
use crate::core::spec::{GuardedRollout, Metadata, Prometheus as Address};
use crate::core::time::Span;
use crate::error::{Error, Exit};
use crate::spec::insight::{self, Insight};
use crate::spec::load::At;
use crate::spec::{self, CheckReport, Finding, Kind, Loaded, code};
use crate::world::prometheus::Prometheus;
use crate::world::prometheus::survey::{Missing, Survey};

/// What is known of a Prometheus that only a URL was given of.
const INTERVAL: Span = Span(Duration::from_secs(15));

/// Checks documents, and asks for what they select. `url` takes the place of every source of the documents.
pub(super) async fn check(paths: &[PathBuf], url: Option<&str>, color: bool) -> Result<Report, Error> {
    let loaded = spec::load(paths);
    let mut report = CheckReport::of(&loaded);
    let (mut text, mut value, is_valid) = (String::new(), Vec::new(), report.is_ok());
    if is_valid {
        let insights = insight::of(&loaded);
        for (key, (metadata, rollout)) in &loaded.rollouts {
            let Some(address) = address(&loaded, rollout, url) else {
                let _ = writeln!(text, "{key}\n  live        not asked: `{}` is no Prometheus\n", rollout.source);
                continue;
            };
            let guard = Guard { loaded: &loaded, key, metadata, rollout, insight: insights.iter().find(|insight| insight.guard == *key) };
            let (findings, told) = guard.ask(&address).await?;
            let _ = writeln!(text, "{}", told.text);
            value.push(told.value);
            report.findings.extend(findings);
        }
    }
    report.ok = report.findings.iter().all(|finding| finding.severity != spec::Severity::Error);
    let mut whole =
        serde_json::to_value(&report).map_err(|error| Error::internal("the report cannot be written as JSON").because(&error))?;
    whole["live"] = Json::from(value);
    let exit = match (report.is_ok(), is_valid) {
        (true, _) => Exit::Done,
        (false, true) => Exit::No,
        (false, false) => Exit::Invalid,
    };
    Ok(Report { exit, value: whole, text: format!("{text}{}", report.render(color)) })
}

fn address(loaded: &Loaded, rollout: &GuardedRollout, url: Option<&str>) -> Option<Address> {
    let known = loaded.sources.get(&rollout.source).and_then(|source| source.prometheus.clone());
    let Some(url) = url else { return known };
    let interval = known.as_ref().map_or(INTERVAL, |known| known.scrape_interval);
    let (timeout, headers) = (Some(Span::seconds(10)), known.map(|known| known.headers).unwrap_or_default());
    Some(Address { url: url.to_owned(), scrape_interval: interval, auth: None, headers, timeout, queries_per_second: 50, concurrency: 8 })
}

struct Guard<'a> {
    loaded: &'a Loaded,
    key: &'a str,
    metadata: &'a Metadata,
    rollout: &'a GuardedRollout,
    insight: Option<&'a Insight>,
}

struct Told {
    text: String,
    value: Json,
}

impl Guard<'_> {
    async fn ask(&self, address: &Address) -> Result<(Vec<Finding>, Told), Error> {
        let refused = |what: String| Error::invalid(format!("the source of {} cannot be asked", self.key)).cause(what);
        let prometheus = Prometheus::new(address).map_err(refused)?;
        let signals = signals(self.rollout).map_err(|error| refused(error.to_string()))?;
        let mut text = format!("{}\n  live        {}\n", self.key, address.url);
        let (mut findings, mut counters, mut slowest) = (Vec::new(), Vec::new(), None::<f64>);
        for (signal, role, selector) in
            signals.values().flat_map(|signal| signal.counters.iter().map(move |(role, one)| (signal, *role, one)))
        {
            let selector = self.narrowed(selector);
            let down = |fault: LookFault| Error::unreachable(format!("{} does not answer", address.url)).cause(said(&fault));
            let survey = prometheus.survey(&selector, self.arm()).await.map_err(down)?;
            let _ = writeln!(text, "  {:<11} {} {}: {}", word(role), signal.id.0, selector, self.found(&survey));
            counters.push(json!({
                "signal": signal.id.0, "role": word(role), "selector": selector.to_string(), "arms": survey.arms, "perMinute": round(survey.per_minute),
            }));
            if role == Role::Total {
                slowest = Some(slowest.map_or(survey.per_minute, |least| least.min(survey.per_minute)));
            }
            if survey.arms.is_empty() {
                let missing = prometheus.missing(&selector).await.map_err(down)?;
                findings.push(self.nothing(signal, role, &missing));
            } else if survey.arms.contains_key("") {
                let labels = prometheus.labels(&selector.metric).await.map_err(down)?;
                findings.push(self.unlabelled(signal, role, &labels));
            }
        }
        let per_minute = slowest.unwrap_or_default();
        text.push_str(&self.consequences(per_minute));
        let value = json!({"guard": self.key, "source": address.url, "counters": counters, "requestsPerMinute": round(per_minute)});
        Ok((findings, Told { text, value }))
    }

    fn arm(&self) -> &str {
        self.rollout.arms.by.label()
    }

    /// The selector as a look asks it: in a cluster, for the guard's own namespace.
    fn narrowed(&self, selector: &Selector) -> Selector {
        let mut selector = selector.clone();
        if self.rollout.workload.object().is_some() {
            selector.matchers.retain(|matcher| matcher.label != "namespace");
            selector.matchers.push(Matcher { label: "namespace".into(), op: MatchOp::Equal, value: self.metadata.namespace().to_owned() });
        }
        selector
    }

    fn found(&self, survey: &Survey) -> String {
        let names: Vec<&str> = survey.arms.keys().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let more = if names.len() > 4 { ", …" } else { "" };
        match names.len() {
            0 if survey.arms.is_empty() => "nothing".to_owned(),
            0 => format!("{} series without the label `{}`", survey.arms.values().sum::<u64>(), self.arm()),
            count => format!("{count} × `{}` ({}{more}), {:.1} a minute", self.arm(), names[..count.min(4)].join(", "), survey.per_minute),
        }
    }

    /// How long bakes and detection take at this rate.
    fn consequences(&self, per_minute: f64) -> String {
        let mut text = format!("  requests    {per_minute:.1} a minute\n");
        let Some(insight) = self.insight else { return text };
        let time = |requests: u64, weight: f64| {
            let seconds = requests as f64 / (per_minute / 60.0 * weight);
            if seconds.is_finite() {
                Span(Duration::from_secs_f64(seconds.ceil().min(31_536_000.0))).to_string()
            } else {
                "for ever".to_owned()
            }
        };
        let outage = insight.objectives.iter().map(|one| one.requests_to_see_outage).min().unwrap_or_default();
        let fivefold = insight.objectives.iter().map(|one| one.requests_to_see_fivefold).min().unwrap_or_default();
        for stage in &insight.stages {
            let weight = stage.weight.fraction();
            let needs = time(stage.requests, weight);
            let _ = writeln!(
                text,
                "  stage       {} for {}: {} requests of the candidate take {needs}; an outage shows after {}, five times the limit after {}, never before {}",
                stage.weight,
                stage.bake,
                stage.requests,
                time(outage, weight),
                time(fivefold, weight),
                insight.soonest_detection,
            );
        }
        text
    }

    fn pointer(&self, signal: &Signal, role: Role) -> String {
        let index = self.rollout.objectives.iter().position(|objective| objective.name == signal.objective).unwrap_or_default();
        let field = match (self.rollout.objectives.get(index).is_some_and(|one| one.histogram.is_some()), role) {
            (true, _) => "histogram/metric",
            (false, Role::Bad) => "ratio/bad",
            (false, _) => "ratio/total",
        };
        format!("/spec/objectives/{index}/{field}")
    }

    fn placed(&self, finding: Finding, signal: &Signal, role: Role) -> Finding {
        let at = At { kind: Kind::GuardedRollout, key: self.key };
        match self.loaded.place(at, &self.pointer(signal, role)) {
            Some(place) => finding.at(place),
            None => finding,
        }
    }

    fn nothing(&self, signal: &Signal, role: Role, missing: &Missing) -> Finding {
        let list = |names: &[String]| if names.is_empty() { "nothing like it".to_owned() } else { names.join(", ") };
        let what = format!("`{}` finds nothing now", word(role));
        let finding = match missing {
            Missing::Metric(names) => {
                Finding::error(code::FINDS_NOTHING, format!("{what}: there is no such metric")).expected(format!("one of: {}", list(names)))
            }
            Missing::Label(label, labels) => {
                let said = if label == "namespace" { " (backstop adds it, so that no guard reads another namespace's)" } else { "" };
                Finding::error(code::FINDS_NOTHING, format!("{what}: no series of the metric has the label `{label}`{said}"))
                    .expected(format!("labels that it has: {}", list(labels)))
            }
            // Of what is bad there may have been none yet.
            Missing::Value(matcher, values) if role == Role::Bad => Finding::info(
                code::FINDS_NOTHING,
                format!("{what}: `{matcher}` has no series, which is right if no request was bad so far"),
            )
            .expected(format!("values that there are: {}", list(values))),
            Missing::Value(matcher, values) => Finding::error(code::FINDS_NOTHING, format!("{what}: `{matcher}` has no series"))
                .expected(format!("values that there are: {}", list(values))),
            Missing::Together if role == Role::Bad => {
                Finding::info(code::FINDS_NOTHING, format!("{what}, which is right if no request was bad so far"))
            }
            Missing::Together => Finding::error(code::FINDS_NOTHING, format!("{what}: each matcher finds something, all together nothing")),
        };
        self.placed(finding, signal, role)
    }

    fn unlabelled(&self, signal: &Signal, role: Role, labels: &[String]) -> Finding {
        let what = format!("`{}` has series without the label `{}`, which tells the arms apart", word(role), self.arm());
        let finding = Finding::error(code::NO_ARMS, what).expected(format!("labels that they have: {}", labels.join(", ")));
        self.placed(finding.fix("name another label in `arms.by`, or have it added when the service is scraped"), signal, role)
    }
}

fn said(fault: &LookFault) -> String {
    let (LookFault::Down(what) | LookFault::Partial(what) | LookFault::Invalid(what) | LookFault::Rejected(what)) = fault;
    what.clone()
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Bad => "bad",
        Role::Good => "good",
        Role::Total => "total",
    }
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
