//! The client of `backstop host`, for controller and command line: HTTP/JSON over its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::core::input::Outcome;
use crate::core::spec::Percent;
use crate::core::work::{Action, EffectId, Fence};
use crate::host::wire::{Define, Ensure, View};

/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// A host at its socket. Each request uses a connection of its own, so that none waits for another.
#[derive(Debug, Clone)]
pub struct HostClient {
    socket: PathBuf,
    timeout: Duration,
}

/// Why the host gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing was sent: no host at the socket, or we may not use it.
    #[error("no host at {socket}: {why}; is `backstop host` running?")]
    Unreachable {
        /// The socket.
        socket: String,
        /// What happened.
        why: String,
    },
    /// It was sent, but the answer got lost or did not come in time: it may have happened.
    #[error("the host at {socket} did not answer: {why}")]
    Lost {
        /// The socket.
        socket: String,
        /// What happened.
        why: String,
    },
    /// The host does not understand us, or we do not understand it.
    #[error("the host at {socket} answered {status}: {why}")]
    Refused {
        /// The socket.
        socket: String,
        /// HTTP status.
        status: u16,
        /// The begin of its answer.
        why: String,
    },
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable { .. } => Self::Transient { what: fault.to_string(), retry_after: None },
            Fault::Lost { .. } => Self::Unknown(fault.to_string()),
            Fault::Refused { .. } => Self::Invalid(fault.to_string()),
        }
    }
}

impl HostClient {
    /// A client of the host at `socket`; each request may take `timeout`.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Names of the workloads, `namespace/name`.
    pub async fn workloads(&self) -> Result<Vec<String>, Fault> {
        self.ask(Method::GET, "/v1/workloads", &()).await
    }

    /// Everything that is known of a workload; `None` if it is not defined there.
    pub async fn view(&self, namespace: &str, name: &str) -> Result<Option<View>, Fault> {
        match self.ask(Method::GET, &format!("/v1/workloads/{namespace}/{name}"), &()).await {
            Ok(view) => Ok(Some(view)),
            Err(Fault::Refused { status: 404, .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Makes the settings of a workload what `define` says, creating it if need be. No answer is an outcome, too.
    pub async fn define(&self, namespace: &str, name: &str, define: &Define) -> Outcome {
        let path = format!("/v1/workloads/{namespace}/{name}/define");
        self.ask(Method::PUT, &path, define).await.unwrap_or_else(Outcome::from)
    }

    /// Makes true what `ensure` wants. No answer is an outcome, too.
    pub async fn ensure(&self, namespace: &str, name: &str, ensure: &Ensure) -> Outcome {
        let path = format!("/v1/workloads/{namespace}/{name}/ensure");
        self.ask(Method::PUT, &path, ensure).await.unwrap_or_else(Outcome::from)
    }

    /// Moves all traffic to the release that the host has recorded as stable: what is left to do for a person when
    /// controller and store are gone. `Invalid` if no stable release is recorded. A controller that comes back sees it.
    pub async fn traffic_to_stable(&self, namespace: &str, name: &str) -> Outcome {
        let fences = match self.view(namespace, name).await {
            Ok(Some(view)) => view.fences,
            Ok(None) => return Outcome::Invalid(format!("{namespace}/{name} is not defined on the host at {}", self.name())),
            Err(fault) => return fault.into(),
        };
        let Some(stable) = fences.stable else {
            return Outcome::Invalid(format!("the host has no stable release of {namespace}/{name} on record: name one"));
        };
        let ensure = Ensure {
            id: EffectId { revision: fences.revision, ordinal: u32::MAX },
            fence: Fence::Stable(stable.clone()),
            action: Action::EnsureWeights { weights: [(stable, Percent::FULL)].into() },
            stable: None,
        };
        self.ensure(namespace, name, &ensure).await
    }

    /// Ends a workload and makes the host forget it; `false` if it knew none.
    pub async fn forget(&self, namespace: &str, name: &str) -> Result<bool, Fault> {
        match self.exchange(Method::DELETE, &format!("/v1/workloads/{namespace}/{name}"), Vec::new()).await {
            Ok(_) => Ok(true),
            Err(Fault::Refused { status: 404, .. }) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// The counters in the Prometheus text format.
    pub async fn metrics(&self) -> Result<String, Fault> {
        self.exchange(Method::GET, "/metrics", Vec::new()).await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn ask<A: Serialize + Sync, B: DeserializeOwned>(&self, method: Method, path: &str, body: &A) -> Result<B, Fault> {
        let body = if method == Method::GET { Vec::new() } else { serde_json::to_vec(body).map_err(|error| self.refused(0, &error))? };
        let bytes = self.exchange(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.refused(200, &error))
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, Fault> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        let driver = tokio::spawn(driver);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "backstop")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.refused(0, &error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| self.lost(&error))?;
            let status = response.status();
            let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| self.lost(&*error))?.to_bytes();
            if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
                return Ok(bytes);
            }
            let why: String = String::from_utf8_lossy(&bytes).chars().take(300).collect();
            Err(Fault::Refused { socket: self.name(), status: status.as_u16(), why })
        };
        let result = tokio::time::timeout(self.timeout, answered).await;
        driver.abort();
        result.unwrap_or_else(|_| Err(Fault::Lost { socket: self.name(), why: format!("no answer within {:?}", self.timeout) }))
    }

    fn name(&self) -> String {
        self.socket.display().to_string()
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> Fault {
        Fault::Unreachable { socket: self.name(), why: error.to_string() }
    }

    fn lost(&self, error: &dyn std::error::Error) -> Fault {
        Fault::Lost { socket: self.name(), why: error.to_string() }
    }

    fn refused(&self, status: u16, error: &dyn std::error::Error) -> Fault {
        Fault::Refused { socket: self.name(), status, why: error.to_string() }
    }
}
