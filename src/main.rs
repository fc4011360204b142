//! The `backstop` program: what was typed goes to [`backstop::cli`], how it ended goes to the operating system.

use std::path::Path;
use std::process::ExitCode;

use backstop::cli::{self, Cli};
use backstop::error::caught;
use clap::Parser as _;

/// What is decided is small, short-lived values, and what a burst of them has freed is given back (`.cargo/config.toml`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::misread(&error, std::env::args_os().any(|argument| argument == "--json")).into(),
    };
    // As `kubectl backstop`, it is about kubectl's cluster.
    cli.global.kubernetes |=
        std::env::args_os().next().is_some_and(|name| Path::new(&name).file_stem().is_some_and(|name| name == "kubectl-backstop"));
    let json = cli.global.json;
    match caught(|| cli::run(cli)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            cli::complain(&error, json);
            error.exit.into()
        }
    }
}
