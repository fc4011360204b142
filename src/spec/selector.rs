//! Vector selectors as people write them, with the rewrite of what is none.

use std::fmt;

/// A vector selector: a metric and matchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    /// The metric.
    pub metric: String,
    /// Label, operator and value.
    pub matchers: Vec<(String, &'static str, String)>,
}

/// Why a text is no vector selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotSelector {
    /// What is wrong.
    pub message: String,
    /// What to write instead, if it can be told.
    pub rewrite: Option<String>,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.metric)?;
        if self.matchers.is_empty() {
            return Ok(());
        }
        let matchers: Vec<_> = self.matchers.iter().map(|(label, op, value)| format!("{label}{op}{value:?}")).collect();
        write!(f, "{{{}}}", matchers.join(","))
    }
}

/// Whether `text` can name a label.
pub(super) fn is_label(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads a vector selector. Anything else of `PromQL` is named, and the selector in it proposed.
pub(super) fn parse(text: &str) -> Result<Selector, NotSelector> {
    let mut reader = Reader { rest: text.trim() };
    match reader.selector() {
        Ok(selector) if reader.rest.is_empty() => Ok(selector),
        outcome => Err(explain(text.trim(), outcome.err(), reader.rest)),
    }
}

/// Reads one alert matcher: label, operator, quoted value.
pub(super) fn parse_matcher(text: &str) -> Option<(String, &'static str, String)> {
    let mut reader = Reader { rest: text.trim() };
    let matcher = reader.matcher().ok()?;
    reader.rest.is_empty().then_some(matcher)
}

/// Says what of `PromQL` `text` uses, and which selector is inside.
fn explain(text: &str, error: Option<String>, rest: &str) -> NotSelector {
    let inner = innermost(text);
    let rewrite = inner.as_ref().map(ToString::to_string).filter(|rewrite| rewrite != text);
    let name: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let message = if !name.is_empty() && text[name.len()..].trim_start().starts_with('(') {
        format!("`{name}(…)` is a function: rates are made from the raw counter, so that resets and gaps are seen")
    } else if ["sum ", "avg ", "max ", "min ", "count "].iter().any(|word| text.starts_with(word)) {
        "an aggregation: series are added up later, member by member".to_owned()
    } else if error.is_none() && rest.starts_with('[') {
        "a range: the window is chosen by the judge".to_owned()
    } else if error.is_none() && (rest.starts_with("offset") || rest.starts_with('@')) {
        "a time shift: only what is now is judged".to_owned()
    } else if error.is_none() && rest.starts_with(['/', '*', '+', '-', '=', '<', '>', '!', '%', '^']) {
        "arithmetic: bad and total are two selectors, and the ratio is made from them".to_owned()
    } else {
        error.unwrap_or_else(|| format!("`{}` follows the selector", rest.chars().take(20).collect::<String>()))
    };
    NotSelector { message, rewrite }
}

/// The first whole selector inside an expression. Names of functions, operators and grouping labels are none.
fn innermost(text: &str) -> Option<Selector> {
    const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    const OPERATORS: [&str; 8] = ["offset", "bool", "and", "or", "unless", "inf", "nan", "atan2"];
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':' || c == '{'));
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        if end == 0 {
            // The end, or matchers without a metric, for which no name can be proposed.
            return None;
        }
        let (name, after) = (rest[..end].to_lowercase(), rest[end..].trim_start());
        let is_aggregation = after.starts_with("by") || after.starts_with("without");
        if GROUPINGS.contains(&name.as_str()) && after.starts_with('(') {
            rest = after.split_once(')')?.1;
        } else if after.starts_with('(') || is_aggregation || OPERATORS.contains(&name.as_str()) {
            rest = after;
        } else if let Ok(selector) = (Reader { rest }).selector() {
            return Some(selector);
        } else {
            rest = &rest[end..];
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self, colons: bool) -> String {
        self.skip();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':'))).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return String::new();
        }
        self.rest = rest;
        word.to_owned()
    }

    fn selector(&mut self) -> Result<Selector, String> {
        let metric = self.word(true);
        if metric.is_empty() {
            let hint = if self.rest.starts_with('{') { "name the metric in front of `{`" } else { "a metric name is missing" };
            return Err(hint.to_owned());
        }
        let mut matchers = Vec::new();
        if self.take("{") {
            while !self.take("}") {
                matchers.push(self.matcher()?);
                if !self.take(",") && !self.rest.trim_start().starts_with('}') {
                    return Err(
                        if self.rest.trim().is_empty() { "`}` is missing" } else { "a comma is missing between matchers" }.to_owned()
                    );
                }
            }
        }
        self.skip();
        Ok(Selector { metric, matchers })
    }

    fn matcher(&mut self) -> Result<(String, &'static str, String), String> {
        let label = self.word(false);
        if label.is_empty() {
            return Err("a label name is missing".to_owned());
        }
        if label == "__name__" {
            return Err("a matcher on `__name__`: the metric's name stands in front of `{`".to_owned());
        }
        let op = ["=~", "!~", "!=", "="]
            .into_iter()
            .find(|op| self.take(op))
            .ok_or(format!("`=`, `!=`, `=~` or `!~` is missing after `{label}`"))?;
        let value = self.quoted(&label)?;
        Ok((label, op, value))
    }

    /// A string in any of the three quotes; in backticks nothing is escaped.
    fn quoted(&mut self, label: &str) -> Result<String, String> {
        self.skip();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'));
        let quote = quote.ok_or_else(|| format!("a value in quotes is missing after `{label}`"))?;
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.rest = &self.rest[at + c.len_utf8()..];
                return Ok(value);
            }
            if c != '\\' || quote == '`' {
                value.push(c);
                continue;
            }
            match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                // Codes of characters are kept as they are: they are compared with each other, never looked at.
                Some(c @ ('a' | 'b' | 'f' | 'r' | 'v' | 'x' | 'u' | 'U' | '0'..='7')) => value.extend(['\\', c]),
                Some(c @ ('\\' | '"' | '\'')) => value.push(c),
                Some(c) => return Err(format!("`\\{c}` is no escape in the value of `{label}`: write `\\\\{c}`")),
                None => break,
            }
        }
        Err(format!("the value of `{label}` has no closing quote"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_and_printed() {
        for text in ["up", "a:b{}", "x{a=\"b\",c=~\"5..\"}", "x{ a != 'q' , }", "x{a=`\\d`}"] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
        }
        assert_eq!(parse("x{ a = 'q' , b!~`c\\.d` }").unwrap().to_string(), "x{a=\"q\",b!~\"c\\\\.d\"}");
    }

    #[test]
    fn what_is_no_selector_is_rewritten() {
        for (text, rewrite) in [
            ("rate(x{a=\"b\"}[5m])", "x{a=\"b\"}"),
            ("sum(rate(http_requests_total{code=~\"5..\"}[1m])) by (pod)", "http_requests_total{code=~\"5..\"}"),
            ("sum by (pod) (rate(x[5m]))", "x"),
            ("x[5m]", "x"),
            ("x offset 5m", "x"),
            ("x{a=\"1\"} / y", "x{a=\"1\"}"),
            ("histogram_quantile(0.95, sum by (le) (rate(d_bucket{j=\"c\"}[5m])))", "d_bucket{j=\"c\"}"),
        ] {
            assert_eq!(parse(text).unwrap_err().rewrite.as_deref(), Some(rewrite), "{text}");
        }
    }

    #[test]
    fn broken_texts_are_explained() {
        for (text, word) in [
            ("", "metric name"),
            ("{a=\"b\"}", "in front of"),
            ("x{a}", "missing after `a`"),
            ("x{a=b}", "quotes"),
            (r#"x{a=~"\d"}"#, r"\\d"),
            ("x{__name__=\"y\"}", "__name__"),
            ("x{a=\"b", "closing"),
            ("x{a=\"b\"", "`}`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(word), "{text}: {error:?}");
            assert_eq!(error.rewrite, None, "{text}");
        }
    }
}
