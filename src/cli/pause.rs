//! `backstop pause`.

use super::Context;
use super::command::{Said, say};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// Take no forward step until `resume`
///
/// Judging and automatic reverts go on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop pause checkout --reason 'looking at the error logs'")]
pub struct Args {
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    say(context, &args.said, Verb::Pause).await
}
