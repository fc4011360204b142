//! `backstop promote`.

use super::Context;
use super::command::{Said, say};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// Go to 100 % without waiting for evidence
///
/// For people. The release is watched at 100 % as after any promotion, and becomes known good only if that ends well.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop promote checkout --reason 'hotfix for INC-42, error budget accepted'")]
pub struct Args {
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    say(context, &args.said, Verb::Promote).await
}
