//! The controller's API from the other end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use crate::api::wire::Line;
use crate::error::{Error, Exit};

/// How long the controller may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Largest answer, in bytes.
const ANSWER_MAX: usize = 256 << 20;
/// Longest line of a stream, in bytes.
const LINE_MAX: usize = 16 << 20;
/// How long a stream may be silent: the controller shows every 15 s that it lives.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// Where the controller is.
#[derive(Debug, Clone)]
enum Door {
    Unix(PathBuf),
    Tcp {
        address: SocketAddr,
        token: String,
    },
    /// None: the cluster itself is worked on.
    Cluster {
        namespace: String,
    },
}

/// The controller's API.
#[derive(Debug, Clone)]
pub struct Client {
    door: Door,
}

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// Nobody answers: the verbs that can do without the controller do.
    Down(String),
    /// The controller answers with a problem document.
    Problem {
        /// The HTTP status.
        status: StatusCode,
        /// What is wrong.
        detail: String,
        /// The reason's code.
        code: Option<String>,
    },
    /// The answer is not one.
    Broken(String),
}

impl Failure {
    /// Why the controller is of no help: nobody answers, or who does cannot do it now. What can be done without it is done then; should
    /// it have been done already, the store's compare-and-swap makes it once all the same.
    ///
    /// # Errors
    /// It was answered, and that holds: a refusal, say.
    pub fn no_help(self) -> Result<String, Error> {
        match self {
            Self::Down(cause) => Ok(cause),
            Self::Broken(what) => Ok(format!("its answer cannot be used: {what}")),
            Self::Problem {
                status: StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
                detail,
                ..
            } => Ok(detail),
            held @ Self::Problem { .. } => Err(held.into()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Down(cause) => Self::unreachable("the controller does not answer")
                .cause(cause)
                .hint("start it with `backstop run --specs DIR`, beside `backstop host`, and with the same `--data-dir`"),
            Failure::Problem { status, detail, code } => {
                let exit = match status {
                    StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                        Exit::Usage
                    }
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => {
                        Exit::Refused
                    }
                    status if status.is_server_error() => Exit::Unreachable,
                    _ => Exit::Internal,
                };
                // The code is said once, in front.
                Self::new(exit, detail).with_code(code)
            }
            Failure::Broken(what) => Self::unreachable("the controller's answer cannot be used")
                .cause(what)
                .hint("are the controller and this program of the same version?"),
        }
    }
}

impl Client {
    /// Over the controller's socket.
    pub fn unix(path: PathBuf) -> Self {
        Self { door: Door::Unix(path) }
    }

    /// Not at all: the cluster itself is worked on, as if its controller did not answer.
    pub fn none(namespace: &str) -> Self {
        Self { door: Door::Cluster { namespace: namespace.to_owned() } }
    }

    /// Over loopback, with a token.
    ///
    /// # Errors
    /// If the URL is not one of a loopback address, or the token cannot be read.
    pub fn tcp(url: &str, token_file: Option<&Path>) -> Result<Self, Error> {
        let address: Option<SocketAddr> = url.strip_prefix("http://").and_then(|rest| rest.trim_end_matches('/').parse().ok());
        let address = address.filter(|address| address.ip().is_loopback()).ok_or_else(|| {
            Error::usage(format!("`{url}` is not the URL of a controller"))
                .hint("expected a loopback address such as `http://127.0.0.1:7070`")
        })?;
        let file =
            token_file.ok_or_else(|| Error::usage("`--server` needs a token").hint("name the file that holds it with `--token-file`"))?;
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::invalid(format!("cannot read the token in `{}`", file.display())).because(&error))?;
        let token = text.trim().to_owned();
        if token.is_empty() || token.chars().any(|c| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
            return Err(Error::invalid(format!("`{}` does not hold one token and nothing else", file.display())));
        }
        Ok(Self { door: Door::Tcp { address, token } })
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.whole(Method::GET, path, Bytes::new()).await
    }

    /// Asks for something.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Broken(error.to_string()))?;
        self.whole(Method::POST, path, body.into()).await
    }

    /// Opens a stream of events.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        Ok(Lines { body: good(response).await?, buffer: Vec::new() })
    }

    async fn whole<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let bytes = collect(good(response).await?).await?;
            serde_json::from_slice(&bytes).map_err(|error| Failure::Broken(error.to_string()))
        };
        tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err(Failure::Down("no answer within 15 s".into())))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Door::Tcp { token, .. } = &self.door {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| Failure::Broken(error.to_string()))?;
        let mut sender = tokio::time::timeout(CONNECT_WITHIN, self.connect())
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(|error| Failure::Down(format!("{}: {error}", self.place())))?;
        sender.send_request(request).await.map_err(|error| Failure::Down(format!("{}: {error}", self.place())))
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        match &self.door {
            Door::Unix(path) => begin(UnixStream::connect(path).await?).await,
            Door::Tcp { address, .. } => begin(TcpStream::connect(address).await?).await,
            Door::Cluster { .. } => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    fn place(&self) -> String {
        match &self.door {
            Door::Unix(path) => format!("`{}`", path.display()),
            Door::Tcp { address, .. } => format!("`http://{address}`"),
            Door::Cluster { namespace } => {
                format!("this is for the controller itself: `kubectl exec --namespace {namespace} deploy/backstop -- backstop …`")
            }
        }
    }
}

async fn begin<S>(stream: S) -> std::io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    // It ends with the last request; what breaks is seen there.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn collect(body: Incoming) -> Result<Bytes, Failure> {
    Limited::new(body, ANSWER_MAX)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::Broken(error.to_string()))
}

async fn good(response: Response<Incoming>) -> Result<Incoming, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    let bytes = collect(response.into_body()).await?;
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
    let detail = text("detail").unwrap_or_else(|| format!("the controller answered {status}"));
    Err(Failure::Problem { status, detail, code: text("code") })
}

/// A stream of events.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; nothing if the stream ended.
    ///
    /// # Errors
    /// If the controller goes away, or sends what is no event.
    pub async fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.len() > 1 {
                    return serde_json::from_slice(&line).map(Some).map_err(|error| Failure::Broken(error.to_string()));
                }
            }
            if self.buffer.len() > LINE_MAX {
                return Err(Failure::Broken("a line of the stream is longer than 16 MiB".into()));
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            match frame.map_err(|_| Failure::Down("the stream of events fell silent".into()))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Down(error.to_string())),
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
            }
        }
    }
}
