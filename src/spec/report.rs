//! The answer of `backstop check`.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::finding::{Finding, Severity};
use super::insight::{self, Insight};
use super::lint::lint;
use super::load::{Loaded, load};

/// Findings and insights about some files.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Whether there is no error; warnings and remarks are no errors.
    pub ok: bool,
    /// Documents without errors in their text.
    pub documents: usize,
    /// By file and line; those without a place first.
    pub findings: Vec<Finding>,
    /// Of every guard, by key.
    pub insights: Vec<Insight>,
}

/// Loads files and folders, and says everything there is to say about them.
pub fn check<P: AsRef<Path>>(paths: &[P]) -> CheckReport {
    CheckReport::of(&load(paths))
}

impl CheckReport {
    /// What there is to say about documents that were loaded.
    pub fn of(loaded: &Loaded) -> Self {
        let mut findings = loaded.findings.clone();
        findings.extend(lint(loaded));
        findings.sort_by_cached_key(Finding::order);
        findings.dedup();
        let ok = findings.iter().all(|finding| finding.severity != Severity::Error);
        Self { ok, documents: loaded.len(), findings, insights: insight::of(loaded) }
    }

    /// Whether the files are accepted. A program that checks ends with 3 otherwise.
    pub fn is_ok(&self) -> bool {
        self.ok
    }

    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// For people: findings, then insights, then a summary in one line.
    pub fn render(&self, color: bool) -> String {
        let findings = self.findings.iter().map(|finding| format!("{}\n\n", finding.render(color)));
        let insights = self.insights.iter().map(|insight| format!("{}\n\n", printable(&insight.to_string())));
        findings.chain(insights).chain([self.summary()]).collect()
    }

    /// `3 documents, 1 error, 2 warnings`.
    pub fn summary(&self) -> String {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut parts = vec![count(self.documents, "document")];
        let severities = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "remark")];
        parts.extend(severities.iter().filter(|(severity, _)| self.count(*severity) > 0).map(|(it, word)| count(self.count(*it), word)));
        if self.findings.is_empty() {
            parts.push("nothing to say against them".to_owned());
        }
        parts.join(", ")
    }
}

/// Names come from files: nothing in them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

impl fmt::Display for CheckReport {
    /// Without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}
