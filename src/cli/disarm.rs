//! `backstop disarm`.

use super::Context;
use super::command::{Said, say};
use crate::core::input::Verb;
use crate::core::time::Span;
use crate::error::{Error, Exit};

/// Longest disarm.
const LONGEST: Span = Span::minutes(24 * 60);

/// No automatic revert for a while; backstop still observes, records and obeys people
///
/// For people. Begins and ends with a page.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop disarm checkout --for 30m --reason 'load test with injected errors'
  backstop arm checkout")]
pub struct Args {
    /// How long, at most 24h.
    #[arg(long = "for", value_name = "SPAN")]
    span: Span,
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    if args.span > LONGEST || args.span == Span::default() {
        return Err(Error::usage(format!("`--for {}` is not between 1s and 24h", args.span))
            .hint("a disarm that does not end is an outage to come"));
    }
    say(context, &args.said, Verb::Disarm { span: args.span }).await
}
