//! What is wrong with a file, in words that lead to the fix.

use std::borrow::Cow;
use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::source::Place;

/// Width that snippets are cut to.
const WIDTH: usize = 120;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The file is not accepted.
    Error,
    /// Accepted, but hardly what was meant, or weaker than it looks.
    Warning,
    /// Good to know.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// A second place that belongs to a finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Related {
    /// What is there.
    pub text: String,
    /// Where.
    pub place: Place,
}

/// Something to tell about a file. Its `code` is stable; [`code::TABLE`](super::code::TABLE) explains each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// `SP…` for the text, `LN…` for its meaning.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What was expected in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Where; absent if a whole file or folder is meant that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Other places that matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
}

impl Finding {
    /// An error.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), expected: None, fix: None, place: None, related: Vec::new() }
    }

    /// A warning.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// A remark.
    pub fn info(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Info, ..Self::error(code, message) }
    }

    /// The same at `place`.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The same, with what was expected.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// The same, with a fix.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The same, with a second place.
    #[must_use]
    pub fn related(mut self, text: impl Into<String>, place: Place) -> Self {
        self.related.push(Related { text: text.into(), place });
        self
    }

    /// What findings are sorted by: file, line, column, then severity, code and text.
    pub(super) fn order(&self) -> impl Ord + use<> {
        let place = self.place.as_ref().map(|place| (place.file.clone(), place.line, place.column));
        (place, self.severity, self.code, self.message.clone())
    }

    /// For people: the message, the line with a mark under what is meant, what was expected, and the fix.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() }.term_width(WIDTH);
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Info => Level::INFO,
        };
        let title = level.primary_title(Cow::from(self.message.as_str())).id(self.code);
        let mut group = Group::with_title(title);
        if let Some(place) = &self.place {
            group = show(group, place, AnnotationKind::Primary, self.expected.as_deref().map(|expected| format!("expected {expected}")));
        } else if let Some(expected) = &self.expected {
            group = group.element(Level::NOTE.message(format!("expected {expected}")));
        }
        for related in &self.related {
            group = show(group, &related.place, AnnotationKind::Context, Some(related.text.clone()));
        }
        if let Some(fix) = &self.fix {
            group = group.element(Level::HELP.message(fix.as_str()));
        }
        let text = renderer.render(&[group]);
        // A place in a cut line has its origin told apart from its excerpt; the excerpt then gets an empty one of its own.
        text.lines().filter(|line| line.trim() != ":::").collect::<Vec<_>>().join("\n")
    }
}

/// Adds the line at `place`, with `label` under it.
fn show<'a>(group: Group<'a>, place: &'a Place, kind: AnnotationKind, label: Option<String>) -> Group<'a> {
    let annotation = kind.span(place.mark.start..place.mark.end).label(label);
    let snippet = Snippet::source(place.excerpt.as_str()).line_start(place.line).annotation(annotation);
    if place.whole {
        group.element(snippet.path(place.file.as_str()))
    } else {
        group.element(Origin::path(place.file.as_str()).line(place.line).char_column(place.column)).element(snippet)
    }
}

impl fmt::Display for Finding {
    /// Without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}
