//! Decide. Everything in here is synchronous and pure: no I/O, no clock, no randomness, no environment.
//!
//! The machine eats [`Input`](input::Input)s and hands out [`Work`](work::Work).

pub mod actor;
pub mod attest;
pub mod backoff;
pub mod input;
pub mod invariant;
pub mod journal;
pub mod json;
pub mod judge;
pub mod ledger;
pub mod machine;
pub mod mutant;
pub mod plan;
pub mod policy;
pub mod preview;
pub mod reason;
pub mod record;
pub mod release;
pub mod replay;
pub mod spec;
pub mod state;
pub(crate) mod text;
pub mod time;
mod varint;
pub mod work;
