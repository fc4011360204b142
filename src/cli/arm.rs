//! `backstop arm`.

use super::Context;
use super::command::{Said, say};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// End a disarm: automatic reverts are on again
///
/// For everybody that is known.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop arm checkout")]
pub struct Args {
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    say(context, &args.said, Verb::Arm).await
}
