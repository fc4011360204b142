//! How many queries a source gets: per second, and at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::world::clock;

/// Queries are spaced by the generic cell rate algorithm (a token bucket that keeps one instant instead of a count) with a
/// burst of one second's worth.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u32,
    gap: Duration,
    at_once: Semaphore,
    /// When the bucket will be full again.
    full_at: Mutex<Instant>,
}

/// Leave to send one query.
pub(super) struct Permit<'a> {
    _at_once: SemaphorePermit<'a>,
    until: Instant,
}

impl Permit<'_> {
    /// Time left until the deadline that the permit was asked with.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(clock::instant())
    }
}

impl Budget {
    /// `per_second` queries per second, `at_once` under way. Neither may be 0.
    pub(super) fn new(per_second: u32, at_once: u32) -> Result<Self, String> {
        if per_second == 0 || at_once == 0 {
            return Err("`queriesPerSecond` and `concurrency` must be at least 1".to_owned());
        }
        Ok(Self {
            per_second,
            gap: Duration::from_secs(1) / per_second,
            at_once: Semaphore::new(usize::try_from(at_once).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)),
            full_at: Mutex::new(clock::instant()),
        })
    }

    /// Waits for leave, at most `limit`. The error says which limit was hit; nothing is used up then.
    pub(super) async fn permit(&self, limit: Duration) -> Result<Permit<'_>, String> {
        let until = clock::instant() + limit;
        let at_once = tokio::time::timeout(limit, self.at_once.acquire())
            .await
            .map_err(|_| {
                format!("all queries that may be under way at once (`concurrency`) took longer than {}", humantime::format_duration(limit))
            })?
            .map_err(|_| "the source is closed".to_owned())?;
        let start = self
            .reserve(clock::instant(), until)
            .ok_or_else(|| format!("the query budget of {} per second (`queriesPerSecond`) is used up", self.per_second))?;
        tokio::time::sleep_until(start.into()).await;
        Ok(Permit { _at_once: at_once, until })
    }

    /// When the next query may start, if that is before `until`.
    fn reserve(&self, now: Instant, until: Instant) -> Option<Instant> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*full_at).max(now) + self.gap;
        let start = next.checked_sub(self.gap * self.per_second).map_or(now, |start| start.max(now));
        if start >= until {
            return None;
        }
        *full_at = next;
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_second_and_the_rest_is_spaced() {
        let budget = Budget::new(10, 1).unwrap();
        let now = *budget.full_at.lock().unwrap();
        let far = now + Duration::from_mins(1);
        let waits: Vec<_> = (0..13).map(|_| budget.reserve(now, far).unwrap().duration_since(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 200, 300]);
        assert_eq!(budget.reserve(now, now + Duration::from_millis(400)), None, "beyond the deadline");
        let later = now + Duration::from_secs(2);
        assert_eq!(budget.reserve(later, far), Some(later), "the bucket fills again");
    }

    #[test]
    fn nothing_is_no_budget() {
        assert!(Budget::new(0, 1).is_err());
        assert!(Budget::new(1, 0).is_err());
    }

    #[tokio::test]
    async fn what_is_under_way_is_limited() {
        let budget = Budget::new(1000, 1).unwrap();
        let first = budget.permit(Duration::from_secs(1)).await.unwrap();
        let refused = budget.permit(Duration::from_millis(20)).await.map(|_| ()).unwrap_err();
        assert!(refused.contains("concurrency"), "{refused}");
        drop(first);
        assert!(budget.permit(Duration::from_millis(20)).await.is_ok());
    }
}
