//! `backstop check`.

use std::path::PathBuf;

use super::{Global, context, direct};
use crate::error::{Error, Exit};

/// Check documents before they are used: all errors at once, with place and fix
///
/// Also tells what they mean: soonest detection, requests a bake needs, and which levers a revert has. Ends with 3 if
/// there are errors.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop check rollouts/
  backstop check --json rollouts/checkout.yaml | jq .findings")]
pub struct Args {
    /// Files and folders.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<Exit, Error> {
    let report = direct::check(&args.paths, context::paint(global.color).is_colored())?;
    if global.json {
        context::print_json(&report.value)?;
    } else {
        context::print(&report.text)?;
    }
    Ok(report.exit)
}
