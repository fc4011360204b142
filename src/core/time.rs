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

/// A span of time as people write it: `30s`, `5m`, `1h 30m` (the `humantime` grammar).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of whole minutes.
    pub const fn minutes(minutes: u64) -> Self {
        Self::seconds(minutes * 60)
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

impl FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
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
        text.parse().map_err(|error| de::Error::custom(format!("`{text}` is not a duration such as `30s` or `5m`: {error}")))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Not `format: duration`: that is ISO 8601's.
        json_schema!({"type": "string", "pattern": r"^\s*([0-9]+\s*[a-zµM]+\s*)+$", "description": "A span of time such as `30s`, `5m` or `1h 30m`."})
    }
}
