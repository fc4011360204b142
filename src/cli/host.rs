//! `backstop host`.

use super::Context;
use super::run::told_to_end;
use crate::config::{LogFormat, search_path};
use crate::error::{Error, Exit};
use crate::host::{Host, HostConfig};
use crate::telemetry;

/// Run the process host: the supervisor and proxy of process workloads
///
/// It outlives the controller, so that traffic flows and can be put back without it. Its API is on the socket
/// `host/host.sock` in the data folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop host
  backstop --data-dir /srv/backstop host")]
pub struct Args {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    telemetry::init(args.log_format);
    let data_dir = context.paths.host_dir();
    let config = HostConfig { path: search_path(), ..HostConfig::new(&data_dir) };
    let ran = Host::run(config, told_to_end()).await;
    ran.map_err(|error| Error::unreachable(format!("the host cannot run in `{}`", data_dir.display())).because(&error))?;
    Ok(Exit::Done)
}
