//! `PromQL` vector selectors: read, printed, and matched. Nothing else of `PromQL` is let in, because only raw counters
//! can be differenced exactly.

use std::fmt;
use std::str::FromStr;

use super::signal::{MatchOp, Matcher, Selector};

/// What is wrong in the text of a selector, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorError {
    /// Column in characters, from 1.
    pub column: usize,
    /// What was found there and what was expected.
    pub what: String,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.what)
    }
}

impl std::error::Error for SelectorError {}

const ONLY: &str = "only a vector selector over a counter, such as `http_requests_total{job=\"checkout\"}`, is allowed here";

impl Selector {
    /// The same selector with one more matcher, such as the arm's.
    #[must_use]
    pub fn with(&self, label: &str, op: MatchOp, value: &str) -> Self {
        let mut more = self.clone();
        more.matchers.push(Matcher { label: label.to_owned(), op, value: value.to_owned() });
        more
    }

    /// Whether a series is selected. `label` gives the value of a label, if the series has it; `regex` says whether a
    /// fully anchored regular expression matches a value. A label that is absent has the empty value, as in `PromQL`.
    pub fn selects<'a>(&self, metric: &str, label: impl Fn(&str) -> Option<&'a str>, mut regex: impl FnMut(&str, &str) -> bool) -> bool {
        metric == self.metric
            && self.matchers.iter().all(|matcher| {
                let value = label(&matcher.label).unwrap_or_default();
                match matcher.op {
                    MatchOp::Equal => value == matcher.value,
                    MatchOp::NotEqual => value != matcher.value,
                    MatchOp::Regex => regex(&matcher.value, value),
                    MatchOp::NotRegex => !regex(&matcher.value, value),
                }
            })
    }
}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        })
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_name(&self.label, false) {
            f.write_str(&self.label)?;
        } else {
            quote(f, &self.label)?;
        }
        write!(f, "{}", self.op)?;
        quote(f, &self.value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = is_name(&self.metric, true);
        if bare {
            f.write_str(&self.metric)?;
        }
        if bare && self.matchers.is_empty() {
            return Ok(());
        }
        f.write_str("{")?;
        if !bare {
            quote(f, &self.metric)?;
        }
        for (place, matcher) in self.matchers.iter().enumerate() {
            let comma = if place > 0 || !bare { "," } else { "" };
            write!(f, "{comma}{matcher}")?;
        }
        f.write_str("}")
    }
}

/// Whether a name needs no quotes; metric names may hold colons.
fn is_name(name: &str, metric: bool) -> bool {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || (metric && c == ':');
    name.starts_with(starts) && name.chars().all(|c| starts(c) || c.is_ascii_digit())
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            '\r' => f.write_str("\\r")?,
            c if c.is_control() => write!(f, "\\U{:08x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        /// Longer selectors are mistakes, and would be paid for at every look.
        const LONGEST: usize = 4096;
        if text.len() > LONGEST {
            return Err(SelectorError { column: LONGEST, what: format!("the selector is longer than {LONGEST} bytes") });
        }
        Cursor { text: text.chars().collect(), at: 0 }.selector()
    }
}

/// A place in the text that is read.
struct Cursor {
    text: Vec<char>,
    at: usize,
}

impl Cursor {
    fn selector(mut self) -> Result<Selector, SelectorError> {
        self.blank();
        let start = self.at;
        let mut metric = self.name(true);
        self.blank();
        if let Some(name) = &metric
            && self.peek() == Some('(')
        {
            return Err(error(start, format!("found the function `{name}`; {ONLY}")));
        }
        let mut matchers = Vec::new();
        if self.eat('{') {
            self.braces(&mut metric, &mut matchers)?;
        }
        self.blank();
        if self.at < self.text.len() {
            return Err(self.stray());
        }
        match metric {
            Some(metric) => Ok(Selector { metric, matchers }),
            None if start >= self.text.len() => Err(error(start, format!("found nothing; {ONLY}"))),
            None => Err(error(start, format!("found no metric name; {ONLY}"))),
        }
    }

    /// What stands between the braces: matchers, and perhaps the metric's name in quotes.
    fn braces(&mut self, metric: &mut Option<String>, matchers: &mut Vec<Matcher>) -> Result<(), SelectorError> {
        loop {
            self.blank();
            if self.eat('}') {
                return Ok(());
            }
            let start = self.at;
            let quoted = matches!(self.peek(), Some('"' | '\'' | '`'));
            let label = if quoted { Some(self.string()?) } else { self.name(false) };
            let Some(label) = label else {
                return Err(error(start, format!("found {}, expected the name of a label or `}}`", self.found())));
            };
            self.blank();
            if quoted && matches!(self.peek(), Some(',' | '}')) {
                if metric.is_some() {
                    return Err(error(start, format!("found a second metric name, `{label}`")));
                }
                *metric = Some(label);
            } else {
                if label == "__name__" {
                    return Err(error(start, "found a matcher on `__name__`; write the metric's name before the braces".to_owned()));
                }
                let op = self.operator()?;
                self.blank();
                matchers.push(Matcher { label, op, value: self.string()? });
            }
            self.blank();
            if !self.eat(',') && self.peek() != Some('}') {
                return Err(error(self.at, format!("found {}, expected `,` or `}}`", self.found())));
            }
        }
    }

    fn operator(&mut self) -> Result<MatchOp, SelectorError> {
        let pair = (self.peek(), self.text.get(self.at + 1).copied());
        let (op, length) = match pair {
            (Some('='), Some('~')) => (MatchOp::Regex, 2),
            (Some('!'), Some('~')) => (MatchOp::NotRegex, 2),
            (Some('!'), Some('=')) => (MatchOp::NotEqual, 2),
            (Some('='), _) => (MatchOp::Equal, 1),
            _ => return Err(error(self.at, format!("found {}, expected `=`, `!=`, `=~` or `!~`", self.found()))),
        };
        self.at += length;
        Ok(op)
    }

    /// A string in any of `PromQL`'s three quotes; in backticks nothing is escaped.
    fn string(&mut self) -> Result<String, SelectorError> {
        let start = self.at;
        let Some(quote @ ('"' | '\'' | '`')) = self.peek() else {
            return Err(error(start, format!("found {}, expected a value in quotes", self.found())));
        };
        self.at += 1;
        let mut value = String::new();
        loop {
            let Some(c) = self.peek() else {
                return Err(error(start, "the value's closing quote is missing".to_owned()));
            };
            self.at += 1;
            match c {
                c if c == quote => return Ok(value),
                '\\' if quote != '`' => value.push(self.escape()?),
                '\n' if quote != '`' => return Err(error(start, "the value's closing quote is missing on this line".to_owned())),
                c => value.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SelectorError> {
        let start = self.at - 1;
        let c = self.peek();
        self.at += 1;
        let (digits, radix) = match c {
            Some('n') => return Ok('\n'),
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('a') => return Ok('\u{7}'),
            Some('b') => return Ok('\u{8}'),
            Some('f') => return Ok('\u{c}'),
            Some('v') => return Ok('\u{b}'),
            Some(c @ ('\\' | '"' | '\'')) => return Ok(c),
            Some('x') => (2, 16),
            Some('u') => (4, 16),
            Some('U') => (8, 16),
            Some('0'..='7') => {
                self.at -= 1;
                (3, 8)
            }
            _ => return Err(error(start, "found an escape that PromQL does not know; write `\\\\` for a backslash".to_owned())),
        };
        let text: String = self.text.iter().skip(self.at).take(digits).collect();
        self.at += digits;
        // Bytes above 0x7f, written as `\x` or in octal, need not be characters; nobody names labels so.
        u32::from_str_radix(&text, radix)
            .ok()
            .filter(|code| text.len() == digits && (digits > 3 || *code < 0x80))
            .and_then(char::from_u32)
            .ok_or_else(|| error(start, "found an escape that spells no character".to_owned()))
    }

    fn name(&mut self, metric: bool) -> Option<String> {
        let start = self.at;
        let fits = |c: char, first: bool| c.is_ascii_alphabetic() || c == '_' || (metric && c == ':') || (!first && c.is_ascii_digit());
        while self.peek().is_some_and(|c| fits(c, self.at == start)) {
            self.at += 1;
        }
        (self.at > start).then(|| self.text[start..self.at].iter().collect())
    }

    /// The error for what follows a selector.
    fn stray(&mut self) -> SelectorError {
        let start = self.at;
        let what = match self.peek() {
            Some('[') => "found a range `[…]`; leave it out, the window is backstop's to choose".to_owned(),
            Some('@') => format!("found the modifier `@`; {ONLY}"),
            Some('{') => "found a second pair of braces".to_owned(),
            Some(c) if c.is_ascii_alphabetic() => format!("found `{}`; {ONLY}", self.name(false).unwrap_or_default()),
            _ => format!("found {}; {ONLY}", self.found()),
        };
        error(start, what)
    }

    fn found(&self) -> String {
        self.peek().map_or_else(|| "the end".to_owned(), |c| format!("`{c}`"))
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }
}

fn error(at: usize, what: String) -> SelectorError {
    SelectorError { column: at + 1, what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Selector {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_promql_calls_a_vector_selector() {
        let cases = [
            ("up", "up"),
            ("  up { } ", "up"),
            (r#"hits{job="checkout",code=~"5.."}"#, r#"hits{job="checkout",code=~"5.."}"#),
            (r#"hits { job != 'a"b' , x !~ `\d+` , }"#, r#"hits{job!="a\"b",x!~"\\d+"}"#),
            (r#"{"my.metric", "a.b"="c"}"#, r#"{"my.metric","a.b"="c"}"#),
            (r#"hits{path="/users/{id}",q="a=b,c\n\u00e9\x41\101"}"#, r#"hits{path="/users/{id}",q="a=b,c\néAA"}"#),
        ];
        for (text, printed) in cases {
            assert_eq!(read(text).to_string(), printed, "{text}");
        }
        assert_eq!(read("hits").with("release", MatchOp::Equal, "r1").to_string(), r#"hits{release="r1"}"#);
    }

    #[test]
    fn anything_else_is_named_with_its_place() {
        let cases = [
            ("", 1, "found nothing"),
            ("rate(hits[5m])", 1, "found the function `rate`"),
            ("hits[5m]", 5, "found a range"),
            ("hits offset 5m", 6, "found `offset`"),
            ("hits or up", 6, "found `or`"),
            ("hits @ 5", 6, "found the modifier `@`"),
            ("hits / up", 6, "found `/`"),
            ("sum by (x) (hits)", 5, "found `by`"),
            ("(hits)", 1, "found `(`"),
            ("hits{", 6, "found the end"),
            ("hits{job}", 9, "found `}`, expected `=`"),
            ("hits{job=checkout}", 10, "found `c`, expected a value in quotes"),
            (r#"hits{job="x}"#, 10, "the value's closing quote is missing"),
            (r#"hits{job="x" code="y"}"#, 14, "found `c`, expected `,`"),
            (r#"hits{job="\q"}"#, 11, "found an escape"),
            (r#"hits{job="\xff"}"#, 11, "found an escape"),
            (r#"{job="x"}"#, 1, "found no metric name"),
            (r#"{__name__="x"}"#, 2, "found a matcher on `__name__`"),
            (r#"hits{"other"}"#, 6, "found a second metric name"),
            ("hits{}{}", 7, "found a second pair"),
        ];
        for (text, column, start) in cases {
            let error = text.parse::<Selector>().unwrap_err();
            assert_eq!(error.column, column, "{text}: {error}");
            assert!(error.what.starts_with(start), "{text}: {error}");
        }
    }

    #[test]
    fn selects_as_promql_does() {
        let labels = [("job", "a"), ("code", "500")];
        let selects = |text: &str| {
            let label = |name: &str| labels.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            read(text).selects("hits", label, |pattern, value| pattern == "5.." && value.len() == 3 && value.starts_with('5'))
        };
        assert!(selects("hits"));
        assert!(selects(r#"hits{job="a",code=~"5.."}"#));
        assert!(selects(r#"hits{zone="",zone!="x"}"#));
        assert!(!selects("misses"));
        assert!(!selects(r#"hits{code!~"5.."}"#));
        assert!(!selects(r#"hits{zone="x"}"#));
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(
            metric in "[a-z_:][a-z0-9_:]{0,8}|[a-z.é]{1,8}",
            matchers in prop::collection::vec(("[a-z][a-z0-9_]{0,5}|[a-z.]{2,5}", 0..4_u8, any::<String>()), 0..4),
        ) {
            let op = |place| [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex][usize::from(place)];
            let matchers = matchers.into_iter().map(|(label, place, value)| Matcher { label, op: op(place), value }).collect();
            let selector = Selector { metric, matchers };
            prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Selector>();
        }
    }
}
