//! Label sets: their canonical form, and the matchers of a selector applied on our side.

use std::borrow::Cow;
use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

use crate::core::judge::signal::{MatchOp, Matcher};

/// The label of a histogram bucket's upper bound. Its text differs between writers (`1`, `1.0`, `1e+00`); its number does not.
pub(crate) const BOUND: &str = "le";

/// Memory a compiled regular expression may take.
const REGEX_BYTES: usize = 1 << 20;

/// The value of a number as Prometheus and its clients write it.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// A bucket's upper bound in one spelling; other labels as they are.
fn one_spelling<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    match number(value) {
        Some(bound) if name == BOUND && bound == f64::INFINITY => Cow::Borrowed("+Inf"),
        Some(bound) if name == BOUND && bound.is_finite() => Cow::Owned(bound.to_string()),
        _ => Cow::Borrowed(value),
    }
}

/// The canonical form of a label set given in order of names: `{code="500",release="a"}`.
///
/// Escapes as in the exposition format, empty values left out (an absent label is an empty one), bucket bounds in one spelling.
pub(crate) fn canonical<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("{");
    for (name, value) in labels.into_iter().filter(|(_, value)| !value.is_empty()) {
        if text.len() > 1 {
            text.push(',');
        }
        // Names outside the classic alphabet are quoted, so that no two label sets share a form.
        if is_classic(name) {
            text.push_str(name);
        } else {
            push_quoted(&mut text, name);
        }
        text.push('=');
        push_quoted(&mut text, &one_spelling(name, value));
    }
    text.push('}');
    text
}

/// Whether `name` can stand without quotes as a label's name.
pub(crate) fn is_classic(name: &str) -> bool {
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Appends `text` in double quotes, escaped so that both `PromQL` and the exposition formats read it back.
pub(crate) fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The matchers of a selector, ready to be applied to label sets. Semantics are those of `PromQL`: an absent label is an
/// empty one, and regular expressions must match the whole value. Bucket bounds compare as numbers.
#[derive(Debug)]
pub(crate) struct Matchers(Vec<(String, Test)>);

#[derive(Debug)]
enum Test {
    Text { value: String, equal: bool },
    Bound { value: f64, equal: bool },
    Pattern { regex: Regex, equal: bool },
}

impl Matchers {
    /// Compiles the regular expressions. The error says which one is wrong, and how.
    pub(crate) fn compile(matchers: &[Matcher]) -> Result<Self, String> {
        matchers.iter().map(|matcher| Ok((matcher.label.clone(), Test::compile(matcher)?))).collect::<Result<_, String>>().map(Self)
    }

    /// Whether a label set matches, given how to look up a label (empty if absent).
    pub(crate) fn matches<'a>(&self, label: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|(name, test)| test.passes(label(name)))
    }
}

impl Test {
    fn compile(matcher: &Matcher) -> Result<Self, String> {
        let equal = matches!(matcher.op, MatchOp::Equal | MatchOp::Regex);
        match matcher.op {
            MatchOp::Equal | MatchOp::NotEqual => Ok(match number(&matcher.value) {
                Some(value) if matcher.label == BOUND => Self::Bound { value, equal },
                _ => Self::Text { value: matcher.value.clone(), equal },
            }),
            MatchOp::Regex | MatchOp::NotRegex => RegexBuilder::new(&format!("^(?s:{})$", matcher.value))
                .size_limit(REGEX_BYTES)
                .build()
                .map(|regex| Self::Pattern { regex, equal })
                .map_err(|error| {
                    let mut text = format!("the regular expression `{}` for label `{}` cannot be used: ", matcher.value, matcher.label);
                    let _ = write!(text, "{error}");
                    text
                }),
        }
    }

    fn passes(&self, actual: &str) -> bool {
        match self {
            Self::Text { value, equal } => (actual == value) == *equal,
            #[allow(clippy::float_cmp)] // the same bound, written differently
            Self::Bound { value, equal } => (number(actual) == Some(*value)) == *equal,
            Self::Pattern { regex, equal } => regex.is_match(actual) == *equal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(label: &str, op: MatchOp, value: &str, actual: &str) -> bool {
        let matcher = Matcher { label: label.into(), op, value: value.into() };
        Matchers::compile(&[matcher]).unwrap().matches(|name| if name == label { actual } else { "" })
    }

    #[test]
    fn regular_expressions_match_whole_values() {
        assert!(matches("code", MatchOp::Regex, "5..", "503"));
        assert!(!matches("code", MatchOp::Regex, "5..", "1503"));
        assert!(!matches("code", MatchOp::Regex, "4..|5..", "50"));
        assert!(matches("code", MatchOp::NotRegex, "5..|429", "4290"));
        assert!(matches("path", MatchOp::Regex, "a.b", "a\nb"), "a dot matches a line feed, as in PromQL");
    }

    #[test]
    fn an_absent_label_is_an_empty_one() {
        assert!(matches("code", MatchOp::Equal, "", ""));
        assert!(matches("code", MatchOp::NotEqual, "500", ""));
        assert!(matches("code", MatchOp::Regex, ".*", ""));
        assert!(!matches("code", MatchOp::Regex, ".+", ""));
    }

    #[test]
    fn bucket_bounds_are_numbers() {
        assert!(matches("le", MatchOp::Equal, "0.3", "0.30"));
        assert!(matches("le", MatchOp::Equal, "1", "1.0"));
        assert!(matches("le", MatchOp::Equal, "+Inf", "Inf"));
        assert!(!matches("le", MatchOp::Equal, "0.3", "3"));
        assert!(!matches("code", MatchOp::Equal, "1", "1.0"), "other labels are text");
        assert_eq!(canonical([("le", "1.0")]), canonical([("le", "1e+00")]));
    }

    #[test]
    fn canonical_forms_are_unambiguous() {
        assert_eq!(canonical([]), "{}");
        assert_eq!(canonical([("a", "x\"y\\z\n"), ("b", ""), ("c", "{,=}")]), r#"{a="x\"y\\z\n",c="{,=}"}"#);
        assert_eq!(canonical([("my.label", "1")]), r#"{"my.label"="1"}"#);
    }

    #[test]
    fn a_wrong_regular_expression_is_named() {
        let matcher = Matcher { label: "code".into(), op: MatchOp::Regex, value: "5(".into() };
        let error = Matchers::compile(&[matcher]).unwrap_err();
        assert!(error.contains("`5(`") && error.contains("`code`"), "{error}");
    }
}
