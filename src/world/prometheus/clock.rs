//! The source's own clock, to the millisecond.
//!
//! The query `time()` without an evaluation time gives the source's clock in milliseconds; the `Date` header of every
//! answer has whole seconds only. So the clock is asked for now and then, carried on by our monotonic clock in between, and
//! each `Date` header confirms it or makes it be asked again. Our own wall clock plays no part.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{DATE, HeaderMap};
use tokio::sync::MutexGuard;

use crate::world::clock;

/// How long the clock is carried on before it is asked again.
const CARRY: Duration = Duration::from_secs(30);

/// How old an estimate must be before a `Date` header may refute it. A proxy's `Date` may come from another clock for good;
/// this keeps that from costing a query per look.
const SETTLED: Duration = Duration::from_secs(5);

/// How far beyond its own second a `Date` header may be from the estimate, in milliseconds.
const TOLERANCE: i64 = 500;

/// What is known of the source's clock.
#[derive(Debug, Default)]
pub(super) struct SourceClock {
    anchor: Mutex<Option<Anchor>>,
    asking: tokio::sync::Mutex<()>,
}

/// The source's clock at one instant of ours.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    at: Instant,
    millis: i64,
    refuted: bool,
}

impl Anchor {
    fn carried_to(self, now: Instant) -> i64 {
        self.millis.saturating_add(i64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(i64::MAX))
    }
}

impl SourceClock {
    /// The turn to ask, so that looks do not ask all at once.
    pub(super) async fn asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().await
    }

    /// The best estimate, in milliseconds since the Unix epoch, however old.
    pub(super) fn estimate(&self) -> Option<i64> {
        self.anchor().map(|anchor| anchor.carried_to(clock::instant()))
    }

    /// The estimate, unless it must be asked for again.
    pub(super) fn fresh(&self) -> Option<i64> {
        let now = clock::instant();
        self.anchor()
            .filter(|anchor| !anchor.refuted && now.saturating_duration_since(anchor.at) < CARRY)
            .map(|anchor| anchor.carried_to(now))
    }

    /// Takes the value of `time()` that has just arrived; returns it in milliseconds. Anchored at its arrival, the estimate
    /// never runs ahead of the source: at worst it is late by the time the answer travelled.
    #[allow(clippy::cast_possible_truncation)] // saturates, and looks then find no samples
    pub(super) fn set(&self, seconds: f64) -> i64 {
        let millis = (seconds * 1000.0).round() as i64;
        *self.lock() = Some(Anchor { at: clock::instant(), millis, refuted: false });
        millis
    }

    /// Compares the estimate with the `Date` header of an answer.
    pub(super) fn check(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok()).and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        if let Some(date) = date {
            self.check_at(clock::instant(), date.timestamp().as_millisecond());
        }
    }

    fn check_at(&self, now: Instant, date: i64) {
        if let Some(anchor) = self.lock().as_mut()
            && now.saturating_duration_since(anchor.at) >= SETTLED
        {
            // The header was written within the second after `date`, a little before now.
            let ahead = anchor.carried_to(now) - date;
            anchor.refuted |= !(-TOLERANCE..1000 + TOLERANCE).contains(&ahead);
        }
    }

    fn anchor(&self) -> Option<Anchor> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Anchor>> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_header_refutes_a_clock_that_stepped() {
        let clock = SourceClock::default();
        clock.set(1_700_000_000.25);
        let start = clock.anchor().unwrap().at;
        let fresh_after = |seconds: u64, date: i64| {
            clock.check_at(start + Duration::from_secs(seconds), date);
            clock.fresh().is_some()
        };
        assert!(fresh_after(1, 1_600_000_000_000), "too young to be refuted");
        assert!(fresh_after(10, 1_700_000_010_000), "the same second");
        assert!(fresh_after(10, 1_700_000_009_000), "written just before the second turned");
        assert!(!fresh_after(10, 1_700_000_014_000), "stepped forward");
        assert!(clock.estimate().is_some(), "still the best there is");
        clock.set(1_700_000_014.0);
        assert!(clock.fresh().is_some());
        assert!(!fresh_after(10, 1_700_000_000_000), "stepped back");
    }

    #[test]
    fn http_dates_are_read() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        let clock = SourceClock::default();
        clock.set(1_700_000_000.0);
        let now = clock::instant().checked_sub(Duration::from_secs(10)).unwrap();
        clock.lock().as_mut().unwrap().at = now;
        clock.check(&headers);
        assert!(clock.fresh().is_none());
    }
}
