//! `backstop thaw`.

use super::Context;
use super::command::Who;
use super::freeze::{Scope, switch};
use crate::error::{Error, Exit};

/// End a freeze
///
/// For people. A freeze is ended in the scope in which it was begun.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop thaw checkout
  backstop thaw --all --reason 'INC-42 is over'")]
pub struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    who: Who,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    switch(context, &args.scope, &args.who, false).await
}
