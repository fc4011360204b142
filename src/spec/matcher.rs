//! Matchers over an alert's labels, in Alertmanager's notation: `severity="page"`, `job!=""`, `team=~"shop|cart"`, `env!~"dev.*"`.
//!
//! An absent label counts as empty. Regular expressions match the whole value.

use std::collections::BTreeMap;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

/// Largest compiled expression; a matcher is a few words.
const REGEX_LIMIT: usize = 64 << 10;

/// One condition on one label.
#[derive(Debug, Clone)]
pub struct Matcher {
    label: String,
    condition: Condition,
}

#[derive(Debug, Clone)]
enum Condition {
    Equal(String),
    NotEqual(String),
    Matches(Regex),
    MatchesNot(Regex),
}

/// Why a text is no matcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// Not `label op "value"`.
    #[error(
        "`{0}` is not a matcher such as `alertname=\"CheckoutBurningBudget\"`: a label, one of = != =~ !~, and a value in double quotes"
    )]
    Shape(String),
    /// The value is not a regular expression.
    #[error("`{matcher}`: {message}")]
    Regex {
        /// The whole matcher.
        matcher: String,
        /// What the regular expression lacks.
        message: String,
    },
}

impl Matcher {
    /// Whether these labels fulfil it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.label).map_or("", String::as_str);
        match &self.condition {
            Condition::Equal(wanted) => value == wanted,
            Condition::NotEqual(unwanted) => value != unwanted,
            Condition::Matches(wanted) => wanted.is_match(value),
            Condition::MatchesNot(unwanted) => !unwanted.is_match(value),
        }
    }

    /// The value that `label` must have, if this matcher asks for exactly one.
    pub fn exactly(&self, label: &str) -> Option<&str> {
        match &self.condition {
            Condition::Equal(value) if self.label == label => Some(value),
            _ => None,
        }
    }
}

impl FromStr for Matcher {
    type Err = MatcherError;

    fn from_str(text: &str) -> Result<Self, MatcherError> {
        let shape = || MatcherError::Shape(text.to_owned());
        let at = text.find(['=', '!']).ok_or_else(shape)?;
        let (label, rest) = (text[..at].trim(), &text[at..]);
        let mut characters = label.chars();
        let begins_well = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        if !begins_well || !characters.all(|character| character.is_ascii_alphanumeric() || character == '_') {
            return Err(shape());
        }
        // The longer operators first: `=` begins `=~` too.
        let operator = ["=~", "!~", "!=", "="].into_iter().find(|operator| rest.starts_with(operator)).ok_or_else(shape)?;
        let value = unquoted(rest[operator.len()..].trim()).ok_or_else(shape)?;
        let anchored = |value: &str| {
            let build = |expression: &str| RegexBuilder::new(expression).size_limit(REGEX_LIMIT).build();
            // First by itself: `x)|(y` is none, but would become one between the anchors.
            build(value).and_then(|_| build(&format!("^(?:{value})$"))).map_err(|error| {
                let message = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                MatcherError::Regex { matcher: text.to_owned(), message }
            })
        };
        let condition = match operator {
            "=~" => Condition::Matches(anchored(&value)?),
            "!~" => Condition::MatchesNot(anchored(&value)?),
            "!=" => Condition::NotEqual(value),
            _ => Condition::Equal(value),
        };
        Ok(Self { label: label.to_owned(), condition })
    }
}

/// The text between double quotes, in which `\"`, `\\` and `\n` stand for a quote, a backslash and a line break.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"').filter(|_| text.len() >= 2)?;
    let mut value = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => match characters.next()? {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                // Alertmanager keeps other escapes as they stand, so that `\d` needs no doubling.
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_alertmanager_does() {
        let labels: BTreeMap<String, String> =
            [("alertname", "Slow"), ("team", "shop"), ("path", "a\"b\\c"), ("lines", "a\nb")].map(|(k, v)| (k.into(), v.into())).into();
        for (matcher, expected) in [
            (r#"alertname="Slow""#, true),
            (r#" alertname = "Slow" "#, true),
            (r#"alertname="slow""#, false),
            (r#"alertname!="Slow""#, false),
            (r#"team=~"shop|cart""#, true),
            (r#"team=~"sho""#, false),
            (r#"team=~"sh|op""#, false),
            (r#"team!~"sho""#, true),
            (r#"team!~"sh.p""#, false),
            (r#"absent="""#, true),
            (r#"absent!="""#, false),
            (r#"absent=~".*""#, true),
            (r#"absent=~".+""#, false),
            (r#"path="a\"b\\c""#, true),
            (r#"team=~"\w+""#, true),
            (r#"lines=~"a.b""#, false),
        ] {
            assert_eq!(matcher.parse::<Matcher>().unwrap().matches(&labels), expected, "{matcher}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for text in
            ["", "alertname", "alertname=Slow", "=\"x\"", "a b=\"x\"", "1a=\"x\"", "a=\"x", "a=\"", "a=\"x\"y\"", "a==\"x\"", "a!\"x\""]
        {
            assert_eq!(text.parse::<Matcher>().err(), Some(MatcherError::Shape(text.into())), "{text}");
        }
        let error = "a=~\"(\"".parse::<Matcher>().unwrap_err().to_string();
        assert_eq!(error, "`a=~\"(\"`: unclosed group");
        assert!(matches!("a=~\"(a{1000}){1000}\"".parse::<Matcher>(), Err(MatcherError::Regex { .. })));
        // Closing the group of the anchors by hand would let an expression match a part.
        assert!(matches!("a=~\"x)|(y\"".parse::<Matcher>(), Err(MatcherError::Regex { .. })));
    }
}
