//! `backstop lift`.

use super::Context;
use super::command::{Said, send, words};
use super::service::{find, path, release};
use crate::api::wire::Standing;
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// End the hold that keeps a revert in force, and the quarantine of what was reverted
///
/// For people, with a reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop lift checkout --reason 'the database was at fault, INC-42'
  backstop lift checkout --release v43 --reason 'false alarm'")]
pub struct Args {
    /// Only of this release: its label, id or image digest.
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    #[command(flatten)]
    said: Said,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    if args.said.who.reason.as_ref().is_none_or(|reason| reason.trim().is_empty()) {
        return Err(Error::usage("a hold is not ended without a reason").hint("add `--reason TEXT`"));
    }
    let key = find(context, args.said.service.as_deref()).await?;
    let release = match &args.release {
        Some(text) => {
            let at: Standing = context.client.get(&path(&key)).await?;
            Some(release(&at.view, text)?)
        }
        None => None,
    };
    let reply = send(context, &key, Verb::Lift { release }, &args.said.who).await?;
    context.show(&reply, || format!("{key}: {}", words(&reply)))?;
    Ok(Exit::Done)
}
