//! How much a requester may write: a bucket of tokens for each rollout, and one for all. Reads cost nothing.
//!
//! What stops things (`revert`, `freeze`, `pause`) has buckets of its own, and every requester has their own: a flood of deployments, by
//! whomever, stands in front of nobody's revert.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use super::problem::Problem;
use super::wire::Caller;
use crate::core::machine::verbs::VerbKind;
use crate::core::reason::Reason;
use crate::world::clock;

/// Tokens that gather, and how fast they come.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// Of one requester, for one rollout or one wider scope.
const EACH: Rate = Rate { burst: 30.0, per_second: 0.5 };
/// Of one requester, for all of them.
const ALL: Rate = Rate { burst: 600.0, per_second: 20.0 };
/// Alerts of one receiver.
const ALERTS: Rate = Rate { burst: 2_000.0, per_second: 50.0 };
/// Bytes of a body that cost a token more: each record of a deployment carries them.
const BYTES: usize = 16 << 10;
/// Buckets that are kept, full ones left out.
const BUCKETS_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
    /// Requests that were turned away since the last that was not.
    refused: u64,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate.per_second;
        self.left = (self.left + gained).min(self.rate.burst);
        self.at = now;
    }

    /// How long until there are `cost` tokens, if there are not.
    fn lacks(&self, cost: f64) -> Option<Duration> {
        let missing = cost.min(self.rate.burst) - self.left;
        (missing > 0.0).then(|| Duration::from_secs_f64(missing / self.rate.per_second))
    }
}

/// What each requester has left.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<BTreeMap<(String, String), Bucket>>);

impl Limits {
    /// Takes what a write costs. Says how many of this requester's were turned away since the last that was not, so that they are on its
    /// record.
    ///
    /// # Errors
    /// 429, with when to come back.
    pub(super) fn write(&self, caller: &Caller, about: &str, verb: Option<VerbKind>, bytes: usize) -> Result<u64, Problem> {
        let who = caller.scope.as_deref().unwrap_or(&caller.actor.principal);
        let stops = matches!(verb, Some(VerbKind::Revert | VerbKind::Freeze | VerbKind::Pause));
        let lane = if stops { "stop" } else { "go" };
        #[allow(clippy::cast_precision_loss, reason = "a body is at most 1 MiB")]
        let cost = 1.0 + (bytes / BYTES) as f64;
        self.take(who, [(format!("{lane} {about}"), EACH), (lane.to_owned(), ALL)], cost, clock::instant()).map_err(|wait| {
            let what = format!("{who} asks too often; try again in {}s", seconds(wait));
            Problem::new(StatusCode::TOO_MANY_REQUESTS, what.clone())
                .with_code(Reason::QuotaExceeded { what }.code())
                .retry_after(seconds(wait))
        })
    }

    /// Takes what a receiver's alerts cost. Alertmanager repeats what is answered 503, and drops what is answered 429.
    ///
    /// # Errors
    /// 503, with when to come back.
    pub(super) fn alerts(&self, receiver: &str, count: usize) -> Result<(), Problem> {
        #[allow(clippy::cast_precision_loss, reason = "a payload has at most 1,000 alerts")]
        let taken = self.take(receiver, [("alerts".to_owned(), ALERTS)], count as f64, clock::instant());
        taken.map(drop).map_err(|wait| {
            let what = format!("receiver `{receiver}` sends too many alerts; send this again");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).retry_after(seconds(wait))
        })
    }

    fn take<const N: usize>(&self, who: &str, of: [(String, Rate); N], cost: f64, now: Instant) -> Result<u64, Duration> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX {
            buckets.retain(|_, bucket| {
                bucket.fill(now);
                bucket.left < bucket.rate.burst || bucket.refused > 0
            });
        }
        let keys = of.map(|(what, rate)| {
            let key = (who.to_owned(), what);
            buckets.entry(key.clone()).or_insert(Bucket { rate, left: rate.burst, at: now, refused: 0 }).fill(now);
            key
        });
        let lacking = keys.iter().filter_map(|key| buckets.get(key)?.lacks(cost)).max();
        let mut refused = 0;
        for key in &keys {
            let Some(bucket) = buckets.get_mut(key) else { continue };
            if lacking.is_some() {
                bucket.refused += 1;
            } else {
                bucket.left -= cost.min(bucket.rate.burst);
                refused = refused.max(std::mem::take(&mut bucket.refused));
            }
        }
        lacking.map_or(Ok(refused), Err)
    }
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::actor::{Actor, ActorKind};

    fn caller(name: &str) -> Caller {
        Caller { actor: Actor { kind: ActorKind::Agent, principal: name.into(), ..Actor::default() }, scope: None, ttl: None }
    }

    #[test]
    fn a_flood_is_turned_away_and_counted_and_stands_in_front_of_no_revert() {
        let limits = Limits::default();
        let bot = caller("token:bot");
        let taken = (0..1_000).filter(|_| limits.write(&bot, "shop/checkout", None, 100).is_ok()).count();
        assert!((30..=35).contains(&taken), "{taken}");
        let refused = limits.write(&bot, "shop/checkout", None, 100).unwrap_err();
        assert_eq!((refused.status, refused.code), (StatusCode::TOO_MANY_REQUESTS, Some("BS061")));
        assert!(refused.retry_after.is_some_and(|after| (1..=2).contains(&after)), "{refused:?}");
        // Its own revert, another's, and what it does elsewhere are not in that queue.
        assert!(limits.write(&bot, "shop/checkout", Some(VerbKind::Revert), 100).is_ok());
        assert!(limits.write(&caller("uid:1000"), "shop/checkout", Some(VerbKind::Freeze), 100).is_ok());
        assert!(limits.write(&bot, "shop/cart", None, 100).is_ok());
    }

    #[test]
    fn what_was_turned_away_is_told_once_with_the_next_that_is_taken() {
        let (limits, begin) = (Limits::default(), clock::instant());
        let take = |cost: f64, after: u64| limits.take("bot", [("x".to_owned(), EACH)], cost, begin + Duration::from_secs(after));
        assert_eq!(take(30.0, 0), Ok(0));
        for _ in 0..500 {
            assert_eq!(take(1.0, 0), Err(Duration::from_secs(2)));
        }
        assert_eq!(take(1.0, 2), Ok(500));
        assert_eq!(take(1.0, 4), Ok(0));
    }

    #[test]
    fn large_bodies_cost_more_and_buckets_are_bounded() {
        let (limits, bot) = (Limits::default(), caller("token:bot"));
        let taken = (0..100).filter(|_| limits.write(&bot, "shop/checkout", None, 64 << 10).is_ok()).count();
        assert_eq!(taken, 6);
        for number in 0..50_000 {
            let _ = limits.take(&format!("user{number}"), [("x".to_owned(), EACH)], 0.0, clock::instant());
        }
        assert!(limits.0.lock().unwrap().len() <= BUCKETS_MAX + 1);
    }
}
