//! The single place that reads clocks.

use std::time::{Duration, Instant};

use super::store::{Store, Unavailable};
use crate::core::time::{Mono, Now};

/// The wall clock.
#[allow(clippy::disallowed_methods)]
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A monotonic instant of this process.
#[allow(clippy::disallowed_methods)]
pub fn instant() -> Instant {
    Instant::now()
}

/// The clock that decisions use: it goes on from where the store's controllers were, and no step of the wall clock moves it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Mono,
    started: Instant,
}

impl Clock {
    /// The clock of the replicas that share a cluster.
    pub async fn of_cluster(store: &super::kubernetes::store::Store) -> Result<Self, Unavailable> {
        let started = instant();
        Ok(Self { base: store.anchor().await?, started })
    }

    /// The clock of the controllers of `store`. Within one boot of the machine, time goes on while no controller runs.
    pub async fn start(store: &Store) -> Result<Self, Unavailable> {
        let boot = boot();
        let started = instant();
        let (boot, uptime) = boot.map_or((None, Duration::ZERO), |(boot, uptime)| (Some(boot), uptime));
        let base = store.anchor(boot, u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)).await?;
        Ok(Self { base, started })
    }

    /// A clock that stands at `base` now: for tools without a store.
    pub fn at(base: Mono) -> Self {
        Self { base, started: instant() }
    }

    /// The clock of something that was committed at `mono`: the same, or one that goes on from there where this one is behind.
    #[must_use]
    pub fn not_before(self, mono: Mono) -> Self {
        let behind = mono.since(self.now().mono);
        Self { base: self.base.after(behind), ..self }
    }

    /// Now.
    pub fn now(&self) -> Now {
        Now { wall: wall(), mono: self.base.after(instant().saturating_duration_since(self.started)) }
    }

    /// The instant of this process at which `mono` is reached; an instant that has passed is now.
    pub fn instant_of(&self, mono: Mono) -> Instant {
        let now = instant();
        let ahead = mono.since(self.base).saturating_sub(now.saturating_duration_since(self.started));
        now.checked_add(ahead).unwrap_or(now + Duration::from_hours(24))
    }
}

/// The kernel's name for this boot, and the time since; `None` where the system does not say.
fn boot() -> Option<(String, Duration)> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds = uptime.split_whitespace().next()?.parse().ok()?;
    Some((boot.trim().to_owned(), Duration::try_from_secs_f64(seconds).ok()?))
}
