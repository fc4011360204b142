//! What a well-formed document means, and where that is hardly what was meant.

mod endpoints;
mod fit;
mod floors;
mod objectives;
mod policy;
mod strategy;
mod workload;

pub(super) use strategy::SCRAPES_TO_ALARM;

use super::document::Kind;
use super::finding::Finding;
use super::load::{At, Loaded};
use crate::core::spec::{GuardSource, GuardedRollout, Metadata};
use crate::core::time::Span;

/// Every finding beyond well-formedness. Pure.
pub(in crate::spec) fn lint(loaded: &Loaded) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, (metadata, rollout)) in &loaded.rollouts {
        let at = At { kind: Kind::GuardedRollout, key };
        let guard = Guard { metadata, rollout, interval: interval(loaded, rollout) };
        let mut sheet = Sheet { loaded, at, findings: &mut findings };
        names(&mut sheet, metadata);
        workload::check(&mut sheet, &guard);
        fit::check(&mut sheet, &guard);
        objectives::check(&mut sheet, &guard);
        strategy::check(&mut sheet, &guard);
        floors::check(&mut sheet, &guard);
    }
    workload::check_addresses(loaded, &mut findings);
    fit::check_twice(loaded, &mut findings);
    for (key, spec) in &loaded.sources {
        endpoints::check_source(&mut Sheet { loaded, at: At { kind: Kind::GuardSource, key }, findings: &mut findings }, spec);
    }
    for (key, spec) in &loaded.flags {
        endpoints::check_flag(&mut Sheet { loaded, at: At { kind: Kind::FlagTarget, key }, findings: &mut findings }, spec);
    }
    for (key, spec) in &loaded.policies {
        policy::check(&mut Sheet { loaded, at: At { kind: Kind::GuardPolicy, key }, findings: &mut findings }, spec);
    }
    for (kind, key) in loaded.keys().filter(|(kind, _)| *kind != Kind::GuardedRollout) {
        let mut sheet = Sheet { loaded, at: At { kind, key }, findings: &mut findings };
        name(&mut sheet, "/metadata/name", key);
    }
    findings
}

/// The scrape interval of a guard's source: what every limit in time is measured by.
pub(super) fn interval(loaded: &Loaded, rollout: &GuardedRollout) -> Span {
    loaded.sources.get(&rollout.source).and_then(interval_of).unwrap_or(Span::seconds(1))
}

fn interval_of(source: &GuardSource) -> Option<Span> {
    let prometheus = source.prometheus.as_ref().map(|prometheus| prometheus.scrape_interval);
    prometheus.or(source.scrape.as_ref().map(|scrape| scrape.every)).filter(|interval| !interval.0.is_zero())
}

/// A guard under lint.
struct Guard<'a> {
    metadata: &'a Metadata,
    rollout: &'a GuardedRollout,
    interval: Span,
}

/// A document under lint, and where its findings go.
struct Sheet<'a> {
    loaded: &'a Loaded,
    at: At<'a>,
    findings: &'a mut Vec<Finding>,
}

impl Sheet<'_> {
    /// Adds a finding at the value of a field.
    fn push(&mut self, pointer: &str, finding: Finding) {
        let place = self.loaded.place(self.at, pointer);
        self.findings.push(Finding { place, ..finding });
    }

    /// Adds a finding at the name of a field.
    fn push_key(&mut self, pointer: &str, finding: Finding) {
        let place = self.loaded.key_place(self.at, pointer);
        self.findings.push(Finding { place, ..finding });
    }
}

fn names(sheet: &mut Sheet<'_>, metadata: &Metadata) {
    name(sheet, "/metadata/name", &metadata.name);
    if let Some(namespace) = &metadata.namespace {
        name(sheet, "/metadata/namespace", namespace);
    }
}

/// Names are DNS labels, so that they can be used in URLs, file names and on Kubernetes.
fn name(sheet: &mut Sheet<'_>, pointer: &str, name: &str) {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if name.is_empty() || name.len() > 63 || !letters || name.starts_with('-') || name.ends_with('-') {
        let finding = Finding::error(super::code::BAD_NAME, "not a name");
        sheet.push(pointer, finding.expected("1 to 63 lower-case letters, digits and dashes, no dash at the ends"));
    }
}
