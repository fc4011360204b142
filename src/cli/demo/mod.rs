//! `backstop demo`: the whole of it on one machine, for real.

pub mod load;
mod script;
pub mod stage;
mod table;
mod timeline;

use super::Context;
use crate::error::{Error, Exit};

/// See a bad release being reverted: a service, its traffic, a controller and a release that breaks, all on this machine
///
/// Nothing outside a folder of its own is touched, and everything ends with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop demo
  backstop demo --keep")]
pub struct Args {
    /// Keep the folder at the end, to look around with `backstop --data-dir DIR status` or `audit show`.
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    script::run(args, context).await
}
