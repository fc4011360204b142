//! The envelope that every document has: `apiVersion`, `kind`, `metadata`, `spec`.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::code;
use super::finding::Finding;
use super::schema::{self, either, meant};
use super::source::Source;
use super::yaml::{Node, Value};
use crate::core::policy::GuardPolicy;
use crate::core::spec::{API_VERSION, FlagTarget, GuardSource, GuardedRollout, Metadata};

/// The kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// What the service team writes.
    GuardedRollout,
    /// Floors.
    GuardPolicy,
    /// Metrics.
    GuardSource,
    /// Flags.
    FlagTarget,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::GuardedRollout, Self::GuardPolicy, Self::GuardSource, Self::FlagTarget];

    /// The name, as `kind` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::GuardedRollout => "GuardedRollout",
            Self::GuardPolicy => "GuardPolicy",
            Self::GuardSource => "GuardSource",
            Self::FlagTarget => "FlagTarget",
        }
    }

    /// The JSON schema of its `spec`, derived from the type.
    pub fn schema(self) -> &'static Json {
        match self {
            Self::GuardedRollout => &schema::ROLLOUT,
            Self::GuardPolicy => &schema::POLICY,
            Self::GuardSource => &schema::SOURCE,
            Self::FlagTarget => &schema::FLAG,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The `spec` of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// Of a `GuardedRollout`.
    Rollout(Box<GuardedRollout>),
    /// Of a `GuardPolicy`.
    Policy(Box<GuardPolicy>),
    /// Of a `GuardSource`.
    Source(Box<GuardSource>),
    /// Of a `FlagTarget`.
    Flag(Box<FlagTarget>),
}

/// Reads one document; `None` after pushing every error to `findings`.
pub fn read(source: &Source, node: &Node, findings: &mut Vec<Finding>) -> Option<(Metadata, Spec)> {
    let Value::Mapping(entries) = &node.value else {
        let finding = if node.is_null() {
            Finding::error(code::EMPTY, "an empty document").fix("leave its `---` out, or fill it")
        } else {
            Finding::error(code::WRONG_TYPE, "this is no document").expected("`apiVersion`, `kind`, `metadata` and `spec`")
        };
        findings.push(finding.at(source.place(node.span.clone())));
        return None;
    };
    let before = findings.len();
    let fields = ["apiVersion", "kind", "metadata", "spec"];
    for entry in entries.iter().filter(|entry| !fields.contains(&entry.key.as_str())) {
        let finding = Finding::error(code::UNKNOWN_FIELD, "there is no such field in a document").expected(either(&fields));
        let mut finding = finding.at(source.place(entry.key_span.clone()));
        finding.fix = meant(&entry.key, &fields).map(|name| format!("did you mean `{name}`?"));
        findings.push(finding);
    }
    for field in fields.into_iter().filter(|field| node.get(field).is_none()) {
        findings.push(Finding::error(code::MISSING_FIELD, format!("`{field}` is missing")).at(source.place(node.span.clone())));
    }
    if let Some(entry) = node.get("apiVersion").filter(|entry| entry.value.text() != Some(API_VERSION)) {
        let finding = Finding::error(code::API_VERSION, "another API version than this program reads").expected(format!("`{API_VERSION}`"));
        findings.push(finding.at(source.place(entry.value.span.clone())));
    }
    let kind = node.get("kind").and_then(|entry| kind(source, &entry.value, findings));
    let metadata = node.get("metadata").and_then(|entry| schema::check(source, &schema::METADATA, &entry.value, findings));
    let spec = kind.and_then(|kind| schema::check(source, kind.schema(), &node.get("spec")?.value, findings));
    let broken = findings[before..].iter().any(|finding| finding.severity == super::finding::Severity::Error);
    let (Some(kind), Some(metadata), Some(spec), false) = (kind, metadata, spec, broken) else { return None };
    let read = || -> Result<(Metadata, Spec), serde_json::Error> {
        let metadata = typed(metadata)?;
        let spec = match kind {
            Kind::GuardedRollout => Spec::Rollout(typed(spec)?),
            Kind::GuardPolicy => Spec::Policy(typed(spec)?),
            Kind::GuardSource => Spec::Source(typed(spec)?),
            Kind::FlagTarget => Spec::Flag(typed(spec)?),
        };
        Ok((metadata, spec))
    };
    // The schema is derived from the types, so this succeeds; a type whose schema says less than its reader is still told.
    read().map_err(|error| findings.push(Finding::error(code::BAD_VALUE, error.to_string()).at(source.place(node.span.clone())))).ok()
}

fn typed<T: DeserializeOwned>(value: Json) -> Result<T, serde_json::Error> {
    serde_json::from_value(value)
}

fn kind(source: &Source, node: &Node, findings: &mut Vec<Finding>) -> Option<Kind> {
    let text = match &node.value {
        Value::Scalar { text, .. } => text.as_str(),
        _ => "",
    };
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    if kind.is_none() {
        let names = Kind::ALL.map(Kind::name);
        let finding = Finding::error(code::KIND, "no such kind of document").expected(either(&names)).at(source.place(node.span.clone()));
        findings.push(match meant(text, &names) {
            Some(name) => finding.fix(format!("did you mean `{name}`?")),
            None => finding,
        });
    }
    kind
}
