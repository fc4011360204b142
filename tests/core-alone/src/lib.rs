//! The deciding part of backstop and nothing else.

#[path = "../../../src/core/mod.rs"]
pub mod core;
