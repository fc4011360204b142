//! `backstop check`.

use std::path::PathBuf;

use super::{Global, context, direct, live};
use crate::error::{Error, Exit};

/// Check documents before they are used: all errors at once, with place and fix
///
/// Also tells what they mean: soonest detection, requests a bake needs, and which levers a revert has. Ends with 3 if
/// there are errors. With `--live` the metrics' source is asked, too: whether each selector finds what it should, and how long bakes
/// and detection would take at today's traffic.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop check rollouts/
  backstop check --json rollouts/checkout.yaml | jq .findings
  backstop check --live rollouts/ --prometheus http://127.0.0.1:9090")]
pub struct Args {
    /// Files and folders.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Ask the Prometheus of each guard's `GuardSource` for what its selectors find.
    #[arg(long)]
    live: bool,
    /// Ask this Prometheus, whatever the documents say.
    #[arg(long, requires = "live", value_name = "URL")]
    prometheus: Option<String>,
}

pub(super) async fn run(args: &Args, global: &Global) -> Result<Exit, Error> {
    let color = context::paint(global.color).is_colored();
    let report =
        if args.live { live::check(&args.paths, args.prometheus.as_deref(), color).await? } else { direct::check(&args.paths, color)? };
    if global.json {
        context::print_json(&report.value)?;
    } else {
        context::print(&report.text)?;
    }
    Ok(report.exit)
}
