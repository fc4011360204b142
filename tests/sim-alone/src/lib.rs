//! The simulated world and what it drives, and nothing else.

#![allow(dead_code, unreachable_pub)] // the rest of the program uses more of it

#[path = "../../../src/core/mod.rs"]
pub mod core;
pub mod host;
pub mod shell;
pub mod spec;
#[path = "../../../src/sim/mod.rs"]
pub mod sim;
