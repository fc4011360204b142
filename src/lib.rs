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

/// Which backstop this is: the version, and the commit where the build was told of it (`BACKSTOP_REVISION`).
pub const REVISION: &str = match option_env!("BACKSTOP_REVISION") {
    Some(revision) => revision,
    None => concat!("backstop ", env!("CARGO_PKG_VERSION")),
};
