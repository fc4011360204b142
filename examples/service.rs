//! The sample service as a program: `PORT=8080 ERROR_RATIO=0.05 service`.

use std::process::ExitCode;

use backstop::host::sample_service::{Behaviour, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let port = std::env::vars().find(|(name, _)| name == "PORT").and_then(|(_, port)| port.parse().ok());
    let result = match (port, Behaviour::from_vars(std::env::vars())) {
        (Some(port), Ok(behaviour)) => run(port, behaviour).await.map_err(|error| error.to_string()),
        (None, _) => Err("PORT is not set to a port".to_owned()),
        (_, Err(why)) => Err(why),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("service: {why}");
            ExitCode::FAILURE
        }
    }
}
