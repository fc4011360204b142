//! The text of a flag definition, and how flagd reads it.
//!
//! A document holds `flags`, an object of flag by key; a flag has `state` (`ENABLED` or `DISABLED`), `variants`
//! (name → value), `defaultVariant` and, if users differ, `targeting` (a JSON logic rule that yields a variant).
//! Edits touch the few bytes that must change: order, layout, unknown fields and numbers stay as people wrote them.

use std::ops::Range;

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Map, Value};

/// Most edits of one flag: three are enough unless keys are doubled.
const EDIT_LIMIT: usize = 32;

/// Why a definition cannot be brought to the wanted state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Not JSON.
    #[error("not a JSON document: {0}")]
    NotJson(String),
    /// JSON, but not of the expected shape.
    #[error("not a flag definition: {0}")]
    Shape(&'static str),
    /// No such flag.
    #[error("no flag `{flag}`; there {}", list(.known))]
    NoFlag {
        /// What was asked for.
        flag: String,
        /// The first keys that do exist.
        known: Vec<String>,
    },
    /// The flag has no such variant.
    #[error("flag `{flag}` has no variant `{variant}`; there {}", list(.known))]
    NoVariant {
        /// Which flag.
        flag: String,
        /// What was asked for.
        variant: String,
        /// The variants that do exist.
        known: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "are none".into(),
        [one] => format!("is `{one}`"),
        many => format!("are `{}`", many.join("`, `")),
    }
}

/// What flagd answers for a flag.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// Everybody gets this value, of this variant.
    Static {
        /// The variant's name.
        variant: String,
        /// Its value.
        value: Value,
    },
    /// It depends on the user: a targeting rule is in place.
    Targeted,
    /// The caller's own default is used: the flag is disabled, or has no default variant.
    CallerDefault,
}

/// Resolves a flag as flagd does for users that no one knows anything about; [`Resolution::Targeted`] where users differ.
///
/// A targeting rule that is absent or an empty object is none, as in flagd.
pub fn resolve(text: &str, flag: &str) -> Result<Resolution, DefinitionError> {
    Ok(resolution(find(&parse(text)?, flag)?))
}

fn parse(text: &str) -> Result<Value, DefinitionError> {
    serde_json::from_str(text).map_err(|error| DefinitionError::NotJson(error.to_string()))
}

fn find<'a>(document: &'a Value, flag: &str) -> Result<&'a Map<String, Value>, DefinitionError> {
    let flags = document.get("flags").and_then(Value::as_object).ok_or(DefinitionError::Shape("`flags` is not an object"))?;
    let Some(definition) = flags.get(flag) else {
        return Err(DefinitionError::NoFlag { flag: flag.to_owned(), known: flags.keys().take(20).cloned().collect() });
    };
    definition.as_object().ok_or(DefinitionError::Shape("the flag is not an object"))
}

fn resolution(definition: &Map<String, Value>) -> Resolution {
    if definition.get("state").and_then(Value::as_str) != Some("ENABLED") {
        return Resolution::CallerDefault;
    }
    if definition.get("targeting").is_some_and(|rule| !rule.as_object().is_some_and(Map::is_empty)) {
        return Resolution::Targeted;
    }
    let Some(variant) = definition.get("defaultVariant").and_then(Value::as_str) else { return Resolution::CallerDefault };
    match definition.get("variants").and_then(|variants| variants.get(variant)) {
        Some(value) => Resolution::Static { variant: variant.to_owned(), value: value.clone() },
        None => Resolution::CallerDefault,
    }
}

/// The text in which everybody gets `variant` of `flag`; `None` if that is so already.
///
/// The flag stays enabled: a disabled flag gives the caller's own default, which may be the bad path.
pub fn with_variant_for_all(text: &str, flag: &str, variant: &str) -> Result<Option<String>, DefinitionError> {
    let document = parse(text)?;
    let definition = find(&document, flag)?;
    let variants =
        definition.get("variants").and_then(Value::as_object).ok_or(DefinitionError::Shape("the flag has no object `variants`"))?;
    if !variants.contains_key(variant) {
        let known = variants.keys().take(20).cloned().collect();
        return Err(DefinitionError::NoVariant { flag: flag.to_owned(), variant: variant.to_owned(), known });
    }
    if matches!(resolution(definition), Resolution::Static { variant: now, .. } if now == variant) {
        return Ok(None);
    }
    let flags = last(text, &members(text, 0..text.len())?, "flags")?;
    let place = last(text, &members(text, flags)?, flag)?;
    let mut definition = text[place.clone()].to_owned();
    // One edit at a time; a key that stands twice in the object takes one more round each.
    for _ in 0..EDIT_LIMIT {
        let Some((range, replacement)) = next_edit(&definition, variant)? else {
            return Ok(Some([&text[..place.start], &definition, &text[place.end..]].concat()));
        };
        definition.replace_range(range, &replacement);
    }
    Err(DefinitionError::Shape("the flag has the same keys over and over"))
}

/// The next change that brings the flag's definition nearer to "everybody gets `variant`": which bytes become what.
fn next_edit(definition: &str, variant: &str) -> Result<Option<(Range<usize>, String)>, DefinitionError> {
    let members = members(definition, 0..definition.len())?;
    if let Some(at) = members.iter().position(|member| member.key == "targeting") {
        let end = members[at].value.end;
        let range = match (at.checked_sub(1), members.get(at + 1)) {
            (Some(before), _) => members[before].value.end..end,
            (None, Some(after)) => members[at].begin..after.begin,
            (None, None) => members[at].begin..end,
        };
        return Ok(Some((range, String::new())));
    }
    for (key, wanted) in [("defaultVariant", Value::from(variant).to_string()), ("state", "\"ENABLED\"".to_owned())] {
        let mut values = members.iter().filter(|member| member.key == key).map(|member| member.value.clone()).peekable();
        if values.peek().is_none() {
            let layout = members.first().map_or("", |first| &definition[1..first.begin]);
            return Ok(Some((1..1, format!("{layout}\"{key}\": {wanted},"))));
        }
        if let Some(value) = values.find(|value| definition[value.clone()] != wanted) {
            return Ok(Some((value, wanted)));
        }
    }
    Ok(None)
}

/// The value of the last member with this key: where a key stands twice, readers take the last.
fn last(text: &str, members: &[Member], key: &str) -> Result<Range<usize>, DefinitionError> {
    let member = members.iter().rev().find(|member| member.key == key).ok_or(DefinitionError::Shape("a key went missing"))?;
    if text[member.value.clone()].starts_with('{') { Ok(member.value.clone()) } else { Err(DefinitionError::Shape("not an object")) }
}

/// A member of an object, by place in the text.
struct Member {
    key: String,
    /// Where its key begins.
    begin: usize,
    value: Range<usize>,
}

/// The members of the object that stands in `range`, in order. The parser itself tells where each key and value ends.
fn members(text: &str, range: Range<usize>) -> Result<Vec<Member>, DefinitionError> {
    let object = &text[..range.end];
    let mut at = expect(object, range.start, '{')?;
    let mut found = Vec::new();
    loop {
        at = skip_space(object, at);
        if object[at..].starts_with('}') {
            return Ok(found);
        }
        if !found.is_empty() {
            at = skip_space(object, expect(object, at, ',')?);
        }
        let begin = at;
        let (key, after_key) = one::<String>(object, at)?;
        let value = skip_space(object, expect(object, after_key, ':')?);
        let (_, end) = one::<IgnoredAny>(object, value)?;
        found.push(Member { key, begin, value: value..end });
        at = end;
    }
}

fn one<T: serde::de::DeserializeOwned>(text: &str, at: usize) -> Result<(T, usize), DefinitionError> {
    let mut values = Deserializer::from_str(&text[at..]).into_iter::<T>();
    match values.next() {
        Some(Ok(value)) => Ok((value, at + values.byte_offset())),
        Some(Err(error)) => Err(DefinitionError::NotJson(error.to_string())),
        None => Err(DefinitionError::NotJson("the document ends too early".into())),
    }
}

fn skip_space(text: &str, at: usize) -> usize {
    at + text[at..].bytes().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

fn expect(text: &str, at: usize, character: char) -> Result<usize, DefinitionError> {
    let at = skip_space(text, at);
    if text[at..].starts_with(character) {
        Ok(at + 1)
    } else {
        Err(DefinitionError::NotJson(format!("expected `{character}` at byte {at}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGETED: &str = r#"{
  "$schema": "https://flagd.dev/schema/v0/flags.json",
  "flags": {
    "other": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"},
    "new-checkout": {
      "targeting": {"if": [true, "on"]},
      "variants": { "on": true, "off": false },
      "weight": 1.50,
      "defaultVariant": "on",
      "owner": "shop"
    }
  }
}
"#;

    #[test]
    fn only_what_must_change_does() {
        let edited = with_variant_for_all(TARGETED, "new-checkout", "off").unwrap().unwrap();
        let expected = TARGETED
            .replace(
                "      \"targeting\": {\"if\": [true, \"on\"]},\n      \"variants\"",
                "      \"state\": \"ENABLED\",\n      \"variants\"",
            )
            .replace("\"defaultVariant\": \"on\",\n", "\"defaultVariant\": \"off\",\n");
        assert_eq!(edited, expected);
        assert_eq!(with_variant_for_all(&edited, "new-checkout", "off"), Ok(None));
        assert_eq!(resolve(&edited, "new-checkout"), Ok(Resolution::Static { variant: "off".into(), value: Value::from(false) }));
    }

    #[test]
    fn resolves_as_flagd_does() {
        let resolved = |flag: &str| resolve(&format!(r#"{{"flags": {{"f": {flag}}}}}"#), "f").unwrap();
        let variants = r#""variants": {"on": true, "off": false}"#;
        let off = Resolution::Static { variant: "off".into(), value: Value::from(false) };
        for (flag, expected) in [
            (format!(r#"{{"state": "ENABLED", {variants}, "defaultVariant": "off"}}"#), off.clone()),
            (format!(r#"{{"state": "ENABLED", {variants}, "defaultVariant": "off", "targeting": {{}}}}"#), off),
            (format!(r#"{{"state": "ENABLED", {variants}, "defaultVariant": "off", "targeting": {{"if": []}}}}"#), Resolution::Targeted),
            (format!(r#"{{"state": "DISABLED", {variants}, "defaultVariant": "off"}}"#), Resolution::CallerDefault),
            (format!(r#"{{"state": "ENABLED", {variants}}}"#), Resolution::CallerDefault),
            (format!(r#"{{"state": "ENABLED", {variants}, "defaultVariant": "gone"}}"#), Resolution::CallerDefault),
        ] {
            assert_eq!(resolved(&flag), expected, "{flag}");
        }
    }

    #[test]
    fn errors_say_what_is_there() {
        let error = |text, flag, variant| with_variant_for_all(text, flag, variant).unwrap_err().to_string();
        assert_eq!(error(TARGETED, "old-checkout", "off"), "no flag `old-checkout`; there are `new-checkout`, `other`");
        assert_eq!(error(TARGETED, "other", "disabled"), "flag `other` has no variant `disabled`; there are `off`, `on`");
        assert_eq!(error(r#"{"flags": []}"#, "f", "off"), "not a flag definition: `flags` is not an object");
        assert_eq!(error(r#"{"flags": {"f": 1}}"#, "f", "off"), "not a flag definition: the flag is not an object");
        assert_eq!(error(r#"{"flags": {"f": {}}}"#, "f", "off"), "not a flag definition: the flag has no object `variants`");
        let endless =
            format!(r#"{{"flags": {{"f": {{"variants": {{"off": 1}}, {}"state": "ENABLED"}}}}}}"#, "\"targeting\": 1, ".repeat(40));
        assert_eq!(error(&endless, "f", "off"), "not a flag definition: the flag has the same keys over and over");
        assert!(error("flags:\n  f: {}\n", "f", "off").starts_with("not a JSON document: "));
    }

    #[test]
    fn doubled_keys_are_all_set() {
        let text = r#"{"flags":{"f":{"targeting":{"a":1},"targeting":{"b":2},"state":"DISABLED","variants":{"off":0},"state":"DISABLED","targeting":1}}}"#;
        let edited = with_variant_for_all(text, "f", "off").unwrap().unwrap();
        assert_eq!(edited, r#"{"flags":{"f":{"defaultVariant": "off","state":"ENABLED","variants":{"off":0},"state":"ENABLED"}}}"#);
    }

    proptest! {
        #[test]
        fn never_panics_and_is_idempotent(text in "[\\{\\}\\[\\]\":, a-cé\\\\0-9]{0,60}", key in "[a-c\"é]{1,2}") {
            let _ = with_variant_for_all(&text, &key, "off");
            let document = serde_json::json!({"flags": {&key: {"targeting": text, "variants": {"off": text, &key: 1}}, "z": text}});
            for text in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
                let edited = with_variant_for_all(&text, &key, &key).unwrap().unwrap();
                let mut expected = document.clone();
                let flag = expected["flags"][&key].as_object_mut().unwrap();
                flag.remove("targeting");
                flag.insert("state".into(), "ENABLED".into());
                flag.insert("defaultVariant".into(), key.clone().into());
                prop_assert_eq!(serde_json::from_str::<Value>(&edited).unwrap(), expected);
                prop_assert_eq!(with_variant_for_all(&edited, &key, &key), Ok(None));
            }
        }
    }
}
