//! A host as a program of its own: `host DATA_DIR`. Ends its children on SIGTERM.

use std::process::ExitCode;
use std::time::Duration;

use backstop::host::{Host, HostConfig};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: host DATA_DIR");
        return ExitCode::from(2);
    };
    let config = HostConfig { steady: Duration::from_secs(2), grace: Duration::from_secs(1), ..HostConfig::new(folder) };
    let stopped = async {
        if let Ok(mut term) = signal(SignalKind::terminate()) {
            term.recv().await;
        }
    };
    match Host::run(config, stopped).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host: {error}");
            ExitCode::FAILURE
        }
    }
}
