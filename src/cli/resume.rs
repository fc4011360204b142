//! `backstop resume`.

use super::Context;
use super::command::{Said, say};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// End a pause
///
/// For people: what one person stopped, an agent does not start again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop resume checkout")]
pub struct Args {
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    say(context, &args.said, Verb::Resume).await
}
