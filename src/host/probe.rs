//! One health probe: a GET over a fresh connection.

use std::net::SocketAddr;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::upstream::chain;
use crate::core::spec::HealthCheck;

/// Asks the child at `address`; the error says in a few words what is wrong.
pub(crate) async fn probe(address: SocketAddr, health: &HealthCheck) -> Result<(), String> {
    let path = if health.path.starts_with('/') { health.path.clone() } else { format!("/{}", health.path) };
    let asked = async {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("no connection ({error})"))?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        let request = Request::get(&path)
            .header("host", address.to_string())
            .header("connection", "close")
            .header("user-agent", "backstop-probe")
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("the path `{path}` cannot be asked for: {error}"))?;
        let exchange = sender.send_request(request);
        tokio::pin!(exchange, driver);
        let response = tokio::select! {
            biased;
            response = &mut exchange => response,
            _ = &mut driver => exchange.await,
        };
        let status = response.map_err(|error| format!("no answer ({})", chain(&error)))?.status();
        if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("GET {path} answered {}", status.as_u16())) }
    };
    match tokio::time::timeout(health.timeout.into(), asked).await {
        Ok(result) => result,
        Err(_) => Err(format!("GET {path} gave no answer within {}", health.timeout)),
    }
}
