//! Shares, bounds and counts as people write them.

use std::fmt;
use std::str::FromStr;

use crate::core::text::text_serde;
use crate::core::time::Span;

/// A share, written `99.5%`; kept as a fraction of one, of at most eight digits after the point in per cent: so the text of
/// every share is the share itself, and what is restored from text goes on as if it had never been written.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
    /// Everything.
    pub const FULL: Self = Self(1.0);

    /// `percent` of a hundred; clamped to 0 to 100, and 0 if it is not a number.
    pub fn new(percent: f64) -> Self {
        Self(if percent.is_nan() { 0.0 } else { (percent.clamp(0.0, 100.0) * 1e8).round() / 1e8 / 100.0 })
    }

    /// The share as a fraction of one.
    pub fn fraction(self) -> f64 {
        self.0
    }

    /// The share in per cent.
    pub fn percent(self) -> f64 {
        // Back to the digits that people wrote: 0.995 * 100 is 99.49999….
        (self.0 * 1e10).round() / 1e8
    }

    /// What is missing to a hundred.
    #[must_use]
    pub fn rest(self) -> Self {
        Self::new((1.0 - self.0) * 100.0)
    }
}

impl Eq for Percent {}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(number) if (0.0..=100.0).contains(&number) => Ok(Self::new(number)),
            _ => Err(format!("`{text}` is not a share: expected `0%` to `100%`, such as `99.5%`")),
        }
    }
}

/// `>2%`: a condition that holds while the share of bad requests is above the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadAbove(pub Percent);

/// `>300ms`: a condition that holds while the quantile is above the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowerThan(pub Span);

impl FromStr for BadAbove {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest =
            text.trim().strip_prefix('>').ok_or_else(|| format!("`{text}` is not a bound: expected `>` and a share, such as `>2%`"))?;
        rest.parse().map(Self)
    }
}

impl fmt::Display for BadAbove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ">{}", self.0)
    }
}

impl FromStr for SlowerThan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text
            .trim()
            .strip_prefix('>')
            .ok_or_else(|| format!("`{text}` is not a bound: expected `>` and a duration, such as `>300ms`"))?;
        rest.trim().parse().map(Self).map_err(|error| format!("`{text}` is not a bound such as `>300ms`: {error}"))
    }
}

impl fmt::Display for SlowerThan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ">{}", self.0)
    }
}

text_serde!(Percent, "Percent", r"^\s*[0-9]+(\.[0-9]+)?\s*%$", "A share such as `99.5%`.");
text_serde!(BadAbove, "BadAbove", r"^\s*>\s*[0-9]+(\.[0-9]+)?\s*%$", "A bound on the share of bad requests, such as `>2%`.");
text_serde!(SlowerThan, "SlowerThan", r"^\s*>.+$", "A bound on a latency quantile, such as `>300ms`.");

/// A number of observed scrape intervals, written `3 scrapes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scrapes(pub u32);

impl FromStr for Scrapes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim()
            .strip_suffix("scrapes")
            .or_else(|| text.trim().strip_suffix("scrape"))
            .and_then(|count| count.trim().parse().ok())
            .filter(|count| *count > 0)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a number of scrapes: expected something like `3 scrapes`"))
    }
}

impl fmt::Display for Scrapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} scrape{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

text_serde!(Scrapes, "Scrapes", r"^\s*[1-9][0-9]*\s+scrapes?\s*$", "A number of observed scrape intervals, such as `3 scrapes`.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_share_is_the_share() {
        for tenths in 0..=100_000_u32 {
            let share = Percent::new(f64::from(tenths) / 1000.0);
            for share in [share, share.rest(), share.rest().rest()] {
                assert_eq!(share.to_string().parse(), Ok(share), "{share:?}");
            }
            assert_eq!(share.rest().rest(), share);
        }
        let long: Percent = "33.333333333333%".parse().unwrap();
        assert_eq!((long.to_string().parse(), long.rest().rest()), (Ok(long), long));
    }
}
