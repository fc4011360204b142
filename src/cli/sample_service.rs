//! `backstop sample-service`: what the demo deploys.

use crate::config;
use crate::error::{Error, Exit};
use crate::host::sample_service::{self, Behaviour};

/// A small HTTP service whose failings are set by its environment
///
/// The host starts it as any other child. Variables: `ERROR_RATIO`, `DELAY_MS`, `SLOW_RATIO`, `SLOW_MS`, `FAIL_HEALTH`,
/// `EXIT_AFTER`, `IGNORE_TERM`, `HANG`, `CHATTY`, `OUTAGE_FILE`, `GREETING`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port on the loopback.
    #[arg(long, env = "PORT", value_name = "PORT")]
    port: u16,
}

pub(super) async fn run(args: Args) -> Result<Exit, Error> {
    let behaviour = Behaviour::from_vars(config::environment()).map_err(Error::usage)?;
    let ran = sample_service::run(args.port, behaviour).await;
    ran.map_err(|error| Error::unreachable(format!("the service cannot listen on port {}", args.port)).because(&error))?;
    Ok(Exit::Done)
}
