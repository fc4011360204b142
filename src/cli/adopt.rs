//! `backstop adopt`.

use super::Context;
use super::command::{Said, say};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// Take the running release as known good
///
/// For people: it becomes a target of reverts without having been watched. Recorded with your name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop adopt checkout --reason 'ran for a year before backstop did'")]
pub struct Args {
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    say(context, &args.said, Verb::Adopt).await
}
