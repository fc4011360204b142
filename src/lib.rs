//! backstop: the last line behind every automated deployment.

pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod error;
pub mod host;
pub mod shell;
pub mod sim;
pub mod spec;
pub mod telemetry;
pub mod world;
