//! A world in which everything goes wrong, for the same machine, judge and order that run in production.
//!
//! A seed draws a configuration ([`faults`]), people and agents who act at bad moments ([`people`]) and controller
//! replicas that fight over the swap ([`life`]); the host is decided by the host's own code ([`world`]). After every step
//! [`oracle`] holds what happened against the invariants; at the end the world is healed and everything must come to rest.

pub mod explore;
pub mod faults;
pub mod house;
pub mod life;
pub mod oracle;
pub mod parallel;
pub mod people;
pub mod prng;
pub mod rates;
pub mod reference;
pub mod rehearsal;
pub mod story;
pub mod swarm;
pub mod traffic;
mod words;
pub mod world;

/// Which backstop this is: the version, and the commit where the build was told of it (`BACKSTOP_REVISION`).
pub const REVISION: &str = match option_env!("BACKSTOP_REVISION") {
    Some(revision) => revision,
    None => concat!("version ", env!("CARGO_PKG_VERSION")),
};
