//! The `backstop` program: what was typed goes to [`backstop::cli`], how it ended goes to the operating system.

use std::process::ExitCode;

use backstop::cli::{self, Cli};
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match cli::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            cli::complain(&error, json);
            error.exit.into()
        }
    }
}
