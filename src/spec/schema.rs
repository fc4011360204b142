//! A tree checked against the JSON schema that is derived from the types, collecting every error, and turned into a JSON
//! value on the way. The schema decides what a plain scalar means; a `5` is a text where a text is wanted, if quoted.

use std::sync::LazyLock;

use schemars::{JsonSchema, schema_for};
use serde_json::{Map, Number, Value as Json};

use super::code;
use super::finding::Finding;
use super::source::{Source, mask};
use super::yaml::{Entry, Node, Value};
use crate::core::policy::GuardPolicy;
use crate::core::release::{Digest, Image};
use crate::core::spec::{BadAbove, FlagTarget, GuardSource, GuardedRollout, Metadata, Percent, Scrapes, SlowerThan};
use crate::core::time::Span;

/// The derived schema of a type.
fn derive<T: JsonSchema>() -> Json {
    schema_for!(T).to_value()
}

/// The schema of `metadata`.
pub(super) static METADATA: LazyLock<Json> = LazyLock::new(derive::<Metadata>);
/// The schema of the `spec` of a `GuardedRollout`.
pub(super) static ROLLOUT: LazyLock<Json> = LazyLock::new(derive::<GuardedRollout>);
/// The schema of the `spec` of a `GuardPolicy`.
pub(super) static POLICY: LazyLock<Json> = LazyLock::new(derive::<GuardPolicy>);
/// The schema of the `spec` of a `GuardSource`.
pub(super) static SOURCE: LazyLock<Json> = LazyLock::new(derive::<GuardSource>);
/// The schema of the `spec` of a `FlagTarget`.
pub(super) static FLAG: LazyLock<Json> = LazyLock::new(derive::<FlagTarget>);

/// Reads a text of the type that the schema calls `name`; the error is the type's own. `None` for other types.
fn leaf(name: &str, text: &str) -> Option<Result<(), String>> {
    fn read<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<(), String> {
        text.parse::<T>().map(drop).map_err(|error| error.to_string())
    }
    Some(match name {
        "Percent" => read::<Percent>(text),
        "BadAbove" => read::<BadAbove>(text),
        "SlowerThan" => read::<SlowerThan>(text),
        "Scrapes" => read::<Scrapes>(text),
        "Digest" => read::<Digest>(text),
        "Image" => read::<Image>(text),
        "Span" => read::<Span>(text).map_err(|error| format!("`{text}` is not a duration such as `30s` or `5m`: {error}")),
        _ => return None,
    })
}

/// Checks trees of one file.
pub(super) struct Checker<'a> {
    source: &'a Source,
    /// The whole schema, for its `$defs`.
    root: &'a Json,
    findings: &'a mut Vec<Finding>,
}

/// Checks `node` against `schema`: its JSON value, or `None` after pushing every error to `findings`.
pub(super) fn check(source: &Source, schema: &Json, node: &Node, findings: &mut Vec<Finding>) -> Option<Json> {
    Checker { source, root: schema, findings }.node(node, schema)
}

/// The type in words.
fn what(node: &Node) -> &'static str {
    match &node.value {
        _ if node.is_null() => "empty",
        Value::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => "a number",
        Value::Scalar { text, plain: true } if matches!(text.to_ascii_lowercase().as_str(), "true" | "false") => "a boolean",
        Value::Scalar { .. } => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping of fields",
    }
}

/// `a`, `b` or `c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => format!("`{one}`"),
        [most @ .., last] => {
            let most: Vec<_> = most.iter().map(|word| format!("`{word}`")).collect();
            format!("{} or `{last}`", most.join(", "))
        }
    }
}

/// The word of `words` that was probably meant by `word`.
pub(super) fn meant<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let typed = word.to_lowercase().replace(['-', '_'], "");
    let distance = |known: &str| strsim::osa_distance(&typed, &known.to_lowercase());
    let near = words.iter().copied().min_by_key(|known| distance(known))?;
    (distance(near) <= (near.len() / 3).max(1)).then_some(near)
}

/// The first sentence of the documentation of a field.
fn sentence(schema: &Json) -> Option<&str> {
    let text = schema.get("description")?.as_str()?;
    Some(text.split_inclusive(". ").next().unwrap_or(text).trim())
}

/// The variants of an externally tagged enum: words that stand alone, and keys with the schema of their value.
struct Variants<'s> {
    words: Vec<&'s str>,
    keys: Vec<(&'s str, &'s Json)>,
}

impl<'s> Variants<'s> {
    fn of(list: &'s [Json]) -> Self {
        let mut variants = Self { words: Vec::new(), keys: Vec::new() };
        for one in list {
            variants.words.extend(one.get("const").and_then(Json::as_str));
            variants.words.extend(one.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str));
            let properties = one.get("properties").and_then(Json::as_object);
            variants.keys.extend(properties.into_iter().flatten().map(|(key, schema)| (key.as_str(), schema)));
        }
        variants
    }

    fn names(&self) -> Vec<&'s str> {
        self.words.iter().copied().chain(self.keys.iter().map(|(key, _)| *key)).collect()
    }
}

impl<'a> Checker<'a> {
    fn push(&mut self, finding: Finding, at: std::ops::Range<usize>) {
        self.findings.push(finding.at(self.source.place(at)));
    }

    fn node(&mut self, node: &Node, schema: &'a Json) -> Option<Json> {
        if let Some(name) = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
            return match &node.value {
                Value::Scalar { text, .. } if !node.is_null() => match leaf(name, text) {
                    Some(result) => self.leaf(node, text, result),
                    None => self.node(node, &self.root["$defs"][name]),
                },
                _ => self.node(node, &self.root["$defs"][name]),
            };
        }
        if let Some(options) = schema.get("anyOf").and_then(Json::as_array) {
            return if node.is_null() { Some(Json::Null) } else { self.node(node, &options[0]) };
        }
        if let Some(list) = schema.get("oneOf").and_then(Json::as_array) {
            return self.variant(node, &Variants::of(list));
        }
        if schema.get("enum").is_some() || schema.get("const").is_some() {
            return self.variant(node, &Variants::of(std::slice::from_ref(schema)));
        }
        let kind = match schema.get("type") {
            Some(Json::Array(_)) if node.is_null() => return Some(Json::Null),
            Some(Json::Array(kinds)) => kinds.first().and_then(Json::as_str),
            Some(Json::String(kind)) => Some(kind.as_str()),
            _ => None,
        };
        match kind {
            Some("object") => self.object(node, schema),
            Some("array") => self.array(node, schema),
            Some("boolean") => self.boolean(node),
            Some("integer" | "number") => self.number(node, schema, kind == Some("integer")),
            _ => self.text(node, schema),
        }
    }

    fn leaf(&mut self, node: &Node, text: &str, result: Result<(), String>) -> Option<Json> {
        match result {
            Ok(()) => Some(Json::String(text.to_owned())),
            Err(message) => {
                self.push(Finding::error(code::BAD_VALUE, shorten(&message)), node.span.clone());
                None
            }
        }
    }

    fn wrong_type(&mut self, node: &Node, expected: &str, fix: Option<String>) {
        let mut finding = Finding::error(code::WRONG_TYPE, format!("this is {}", what(node))).expected(expected);
        finding.fix = fix;
        self.push(finding, node.span.clone());
    }

    fn object(&mut self, node: &Node, schema: &'a Json) -> Option<Json> {
        let Value::Mapping(entries) = &node.value else {
            let fix = (node.is_null() && schema.get("required").is_none()).then(|| "write `{}`, or leave the field out".to_owned());
            self.wrong_type(node, "a mapping of fields", fix);
            return None;
        };
        let mut whole = true;
        let properties = schema.get("properties").and_then(Json::as_object);
        let mut object = Map::new();
        for entry in entries {
            let known = properties.and_then(|properties| properties.get(&entry.key));
            let Some(field) = known.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object())) else {
                self.unknown_field(entry, properties);
                whole = false;
                continue;
            };
            match self.node(&entry.value, field) {
                Some(value) => drop(object.insert(entry.key.clone(), value)),
                None => whole = false,
            }
        }
        let names: Vec<&str> = properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        // A required field that was only mistyped is told once.
        let mistyped: Vec<_> = entries.iter().filter(|entry| !names.contains(&entry.key.as_str())).collect();
        let mistyped: Vec<_> = mistyped.into_iter().take(8).filter_map(|entry| meant(&entry.key, &names)).collect();
        for name in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            if node.get(name).is_none() && !mistyped.contains(&name) {
                let mut finding = Finding::error(code::MISSING_FIELD, format!("`{name}` is missing"));
                finding.fix = properties.and_then(|fields| sentence(&fields[name])).map(|meaning| format!("add `{name}`: {meaning}"));
                self.push(finding, node.span.clone());
                whole = false;
            }
        }
        whole.then_some(Json::Object(object))
    }

    fn unknown_field(&mut self, entry: &Entry, properties: Option<&Map<String, Json>>) {
        if entry.key == "<<" {
            let finding = Finding::error(code::ANCHOR, "merge keys are not supported").fix("write the fields out");
            return self.push(finding, entry.key_span.clone());
        }
        let names: Vec<&str> = properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let expected = if names.is_empty() { "no fields".to_owned() } else { either(&names) };
        let finding = Finding::error(code::UNKNOWN_FIELD, format!("there is no field `{}` here", shorten(&entry.key))).expected(expected);
        let finding = match meant(&entry.key, &names) {
            Some(name) => finding.fix(format!("did you mean `{name}`?")),
            None => finding,
        };
        self.push(finding, entry.key_span.clone());
    }

    fn array(&mut self, node: &Node, schema: &'a Json) -> Option<Json> {
        let Value::Sequence(items) = &node.value else {
            let fix = (!node.is_null()).then(|| "put it in brackets, `[…]`, or behind a dash".to_owned());
            self.wrong_type(node, "a list", fix);
            return None;
        };
        let values: Vec<_> = items.iter().map(|item| self.node(item, &schema["items"])).collect();
        values.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
    }

    fn boolean(&mut self, node: &Node) -> Option<Json> {
        match &node.value {
            Value::Scalar { text, plain: true } if matches!(text.as_str(), "true" | "True" | "TRUE") => Some(Json::Bool(true)),
            Value::Scalar { text, plain: true } if matches!(text.as_str(), "false" | "False" | "FALSE") => Some(Json::Bool(false)),
            _ => {
                self.wrong_type(node, "`true` or `false`", None);
                None
            }
        }
    }

    fn number(&mut self, node: &Node, schema: &Json, whole: bool) -> Option<Json> {
        let text = match &node.value {
            Value::Scalar { text, plain: true } => text.as_str(),
            _ => "",
        };
        let value = if whole { text.parse::<i64>().ok().map(Number::from) } else { text.parse::<f64>().ok().and_then(Number::from_f64) };
        let Some(value) = value else {
            self.wrong_type(node, if whole { "a whole number" } else { "a number" }, None);
            return None;
        };
        let limit = |name: &str| schema.get(name).and_then(Json::as_f64);
        let (least, most) = (limit("minimum").unwrap_or(f64::NEG_INFINITY), limit("maximum").or_else(|| size_of_format(schema)));
        if value.as_f64().is_some_and(|number| number < least || number > most.unwrap_or(f64::INFINITY)) {
            let expected = most.map_or_else(|| format!("at least {least}"), |most| format!("{least} to {most}"));
            self.push(Finding::error(code::BAD_VALUE, format!("`{text}` is out of range")).expected(expected), node.span.clone());
            return None;
        }
        Some(Json::Number(value))
    }

    fn text(&mut self, node: &Node, schema: &Json) -> Option<Json> {
        let Value::Scalar { text, plain } = &node.value else {
            self.wrong_type(node, "a text", None);
            return None;
        };
        let word = text.to_ascii_lowercase();
        if *plain && (node.is_null() || matches!(word.as_str(), "true" | "false") || text.parse::<f64>().is_ok()) {
            let fix = (!node.is_null()).then(|| format!("put it in quotes: \"{text}\""));
            let finding = match sentence(schema) {
                Some(meaning) => format!("a text: {}", meaning.trim_end_matches('.')),
                None => "a text".to_owned(),
            };
            self.wrong_type(node, &finding, fix);
            return None;
        }
        if *plain && matches!(word.as_str(), "yes" | "no" | "on" | "off" | "y" | "n") {
            let message = format!("`{text}` without quotes is a text here, but true or false to older readers of YAML");
            let finding = Finding::warning(code::AMBIGUOUS_WORD, message).fix(format!("put it in quotes: \"{text}\""));
            self.push(finding, node.span.clone());
        }
        Some(Json::String(text.clone()))
    }

    fn variant(&mut self, node: &Node, variants: &Variants<'a>) -> Option<Json> {
        let names = variants.names();
        match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => {
                if variants.words.contains(&text.as_str()) {
                    return Some(Json::String(text.clone()));
                }
                let finding = if variants.keys.iter().any(|(key, _)| key == text) {
                    Finding::error(code::NOT_ONE_VARIANT, format!("`{text}` needs a value")).fix(format!("write `{text}: …`"))
                } else {
                    Self::unknown_variant(text, &names)
                };
                self.push(finding, node.span.clone());
                None
            }
            Value::Mapping(entries) => {
                if let [entry] = entries.as_slice() {
                    return self.keyed(entry, variants, &names);
                }
                let given: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).take(8).collect();
                let message = if given.is_empty() { "nothing is chosen".to_owned() } else { format!("{} at once", given.join(" and ")) };
                let at = entries.get(1).map_or(node.span.clone(), |entry| entry.key_span.clone());
                let finding = Finding::error(code::NOT_ONE_VARIANT, shorten(&message));
                self.push(finding.expected(format!("exactly one of {}", either(&names))), at);
                None
            }
            _ => {
                self.wrong_type(node, &either(&names), None);
                None
            }
        }
    }

    /// The one key that names the variant, with its value.
    fn keyed(&mut self, entry: &Entry, variants: &Variants<'a>, names: &[&str]) -> Option<Json> {
        if let Some((key, schema)) = variants.keys.iter().find(|(key, _)| *key == entry.key) {
            let value = self.node(&entry.value, schema)?;
            return Some(Json::Object(Map::from_iter([((*key).to_owned(), value)])));
        }
        let finding = if variants.words.contains(&entry.key.as_str()) {
            let key = &entry.key;
            Finding::error(code::WRONG_TYPE, format!("`{key}` takes no value")).fix(format!("write `{key}` alone"))
        } else {
            Self::unknown_variant(&entry.key, names)
        };
        self.push(finding, entry.key_span.clone());
        None
    }

    fn unknown_variant(text: &str, names: &[&str]) -> Finding {
        let finding = Finding::error(code::UNKNOWN_VARIANT, format!("`{}` is not possible here", shorten(text))).expected(either(names));
        match meant(text, names) {
            Some(name) => finding.fix(format!("did you mean `{name}`?")),
            None => finding,
        }
    }
}

/// The largest value of an integer format.
fn size_of_format(schema: &Json) -> Option<f64> {
    match schema.get("format").and_then(Json::as_str)? {
        "uint8" => Some(f64::from(u8::MAX)),
        "uint16" => Some(f64::from(u16::MAX)),
        "uint32" => Some(f64::from(u32::MAX)),
        _ => None,
    }
}

/// A message without secrets and without the whole of a long value.
pub(super) fn shorten(message: &str) -> String {
    let message = mask(message);
    if message.chars().count() <= 200 { message } else { message.chars().take(200).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_with_a_grammar_is_read_by_its_type() {
        let mut names = std::collections::BTreeSet::new();
        for schema in [&*METADATA, &*ROLLOUT, &*POLICY, &*SOURCE, &*FLAG] {
            for (name, schema) in schema.get("$defs").and_then(Json::as_object).into_iter().flatten() {
                let has_grammar = schema.get("pattern").is_some() || schema.get("format").is_some();
                if has_grammar && schema["type"] == "string" {
                    assert!(leaf(name, "").is_some(), "{name} has no reader");
                    names.insert(name.clone());
                }
            }
        }
        assert!(names.len() >= 5, "{names:?}");
    }

    #[test]
    fn near_words_are_meant_and_far_ones_are_not() {
        let words = ["canary", "blueGreen", "observe"];
        assert_eq!(meant("canery", &words), Some("canary"));
        assert_eq!(meant("blue-green", &words), Some("blueGreen"));
        assert_eq!(meant("rolling", &words), None);
        assert_eq!(meant("", &words), None);
        assert_eq!(meant(&"x".repeat(100_000), &words), None);
    }
}
