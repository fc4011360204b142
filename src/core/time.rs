//! Time as values: an instant handed in by the shell, and a span as people write it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The moment an input arrives.
///
/// `mono` never goes back, not even across restarts of the controller: decisions use it. `wall` is for
/// people, closed hours and the age of samples, and may step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Now {
    /// Wall clock.
    pub wall: jiff::Timestamp,
    /// Time the controllers of this store have been running, in all.
    pub mono: Mono,
}

/// A point on the monotonic clock, in milliseconds since the store was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// The point `span` later.
    #[must_use]
    pub fn after(self, span: impl Into<Duration>) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.into().as_millis()).unwrap_or(u64::MAX)))
    }

    /// The point `span` earlier, not before the beginning.
    #[must_use]
    pub fn before(self, span: impl Into<Duration>) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.into().as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time since `earlier`; zero if `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A span of time as people write it: `30s`, `5m`, `1h 30m` (the `humantime` grammar), at most [`Span::LONGEST`].
///
/// What people write is parsed, and refused above that. What was kept is deserialized, whatever its length: a state or record that
/// was written once stays readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// The longest that people may write, 100 years: more is a mistake, and sums of what is shorter never overflow.
    pub const LONGEST: Self = Self::seconds(100 * 31_557_600);

    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of whole minutes.
    pub const fn minutes(minutes: u64) -> Self {
        Self::seconds(minutes * 60)
    }

    /// The span `count` times, saturating.
    #[must_use]
    pub const fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// The span and `more`, saturating.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }

    /// The span in milliseconds, saturating.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Why a text is no span of time that people may write.
#[derive(Debug, Clone, PartialEq)]
pub enum SpanError {
    /// It is not of the grammar.
    Grammar(humantime::DurationError),
    /// It is longer than [`Span::LONGEST`].
    TooLong,
}

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grammar(error) => error.fmt(f),
            Self::TooLong => f.write_str("longer than 100 years, which is the limit"),
        }
    }
}

impl std::error::Error for SpanError {}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = read(text).map_err(SpanError::Grammar)?;
        if span > Self::LONGEST { Err(SpanError::TooLong) } else { Ok(span) }
    }
}

/// Reads a span of any length, part by part: given them all at once, `humantime` panics where their sum just overflows.
fn read(text: &str) -> Result<Span, humantime::DurationError> {
    let (mut sum, mut rest) = (Duration::ZERO, text);
    loop {
        let unit = rest.find(char::is_alphabetic).unwrap_or(rest.len());
        let end = rest[unit..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |next| unit + next);
        let part = humantime::parse_duration(&rest[..end])?;
        sum = sum.checked_add(part).ok_or(humantime::DurationError::NumberOverflow)?;
        rest = &rest[end..];
        if rest.is_empty() {
            return Ok(Span(sum));
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        read(&text).map_err(|error| de::Error::custom(format!("`{text}` is not a duration such as `30s` or `5m`: {error}")))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Not `format: duration`: that is ISO 8601's.
        json_schema!({"type": "string", "pattern": r"^\s*([0-9]+\s*[a-zµM]+\s*)+$", "description": "A span of time such as `30s`, `5m` or `1h 30m`, at most `100y`."})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_has_a_limit_and_what_was_kept_has_none() {
        let read = |text: &str| text.parse::<Span>();
        assert_eq!(read("1h 30m"), Ok(Span::minutes(90)));
        assert_eq!(read(" 1h30m 5s "), Ok(Span::seconds(5405)));
        assert_eq!(read("100y"), Ok(Span::LONGEST));
        for long in ["100y 1ns", "500000000000y", "18446744073709551615s"] {
            assert_eq!(read(long), Err(SpanError::TooLong), "{long}");
            let kept: Span = serde_json::from_value(long.into()).unwrap();
            let again: Span = serde_json::from_value(serde_json::to_value(kept.times(10)).unwrap()).unwrap();
            assert_eq!(again, kept.times(10), "{long}");
        }
    }

    #[test]
    fn a_text_that_is_no_span_is_refused() {
        for text in ["", " ", "5", "m", "2 hours min", "5m x 3s", "5m 3", "-5s", "99999999999999999999s", "18446744073709551615s 1000ms"] {
            assert!(matches!(text.parse::<Span>(), Err(SpanError::Grammar(_))), "{text}");
        }
    }
}
