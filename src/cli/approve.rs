//! `backstop approve`.

use super::Context;
use super::command::{Said, say};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// Agree to a deployment that waits for approval
///
/// For people, and not for the person who deployed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop approve checkout")]
pub struct Args {
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    say(context, &args.said, Verb::Approve).await
}
