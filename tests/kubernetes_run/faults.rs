//! A proxy in front of the API server that has bad days.

#![allow(dead_code, reason = "each test uses the part that it needs")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::cluster::User;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// The API server does not see it, and this status is answered.
    Answer(u16),
    /// The API server does not see it, and the connection breaks.
    Cut,
    /// The API server obeys, and its answer is lost.
    Lost,
    /// The API server gets it late.
    Slow(Duration),
    /// A watch begins where the history has been compacted away, told as the API server tells it.
    Gone,
}

/// What goes wrong: requests of a method (any, if empty), whose path contains a word, fare so, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    method: &'static str,
    path: String,
    to_come: Vec<Bad>,
    /// The last one stays until the fault is lifted.
    lasts: bool,
}

impl Fault {
    /// These, and then it is over.
    pub(crate) fn once(method: &'static str, path: &str, to_come: &[Bad]) -> Self {
        Self { method, path: path.to_owned(), to_come: to_come.to_vec(), lasts: false }
    }

    /// This, until the fault is lifted.
    pub(crate) fn always(method: &'static str, path: &str, bad: Bad) -> Self {
        Self { method, path: path.to_owned(), to_come: vec![bad], lasts: true }
    }
}

/// A running proxy; it ends with the test.
pub(crate) struct Proxy {
    state: Arc<Upstream>,
    kubeconfig: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

struct Upstream {
    client: reqwest::Client,
    server: String,
    faults: Mutex<Vec<Fault>>,
    served: Mutex<Vec<Bad>>,
    /// Watches that were opened before it changed are closed.
    closed: tokio::sync::watch::Sender<u64>,
}

impl Proxy {
    /// In front of the API server of `user`, with a kubeconfig in `folder`.
    pub(crate) fn start(user: &User, folder: &Path) -> Self {
        let text = std::fs::read_to_string(user.kubeconfig()).unwrap();
        let known: Value = serde_saphyr::from_str(&text).unwrap();
        let cluster = &known["clusters"][0]["cluster"];
        let authority = std::fs::read(cluster["certificate-authority"].as_str().unwrap()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_merge(reqwest::Certificate::from_pem_bundle(&authority).unwrap())
            .no_proxy()
            .build()
            .unwrap();
        let server = cluster["server"].as_str().unwrap().to_owned();
        let state = Arc::new(Upstream {
            client,
            server,
            faults: Mutex::default(),
            served: Mutex::default(),
            closed: tokio::sync::watch::Sender::new(0),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(forward).with_state(Arc::clone(&state));
        runtime.spawn(async move { axum::serve(listener, router).await });
        let kubeconfig = folder.join("through-the-proxy");
        let token = known["users"][0]["user"]["token"].as_str().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { state, kubeconfig, _runtime: runtime }
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Bad days begin.
    pub(crate) fn fail(&self, faults: Vec<Fault>) {
        *self.state.faults.lock().unwrap() = faults;
    }

    /// What went wrong so far.
    pub(crate) fn served(&self) -> Vec<Bad> {
        self.state.served.lock().unwrap().clone()
    }

    /// Closes every watch that is open.
    pub(crate) fn close_watches(&self) {
        self.state.closed.send_modify(|times| *times += 1);
    }
}

impl Upstream {
    fn fault(&self, method: &str, path: &str) -> Option<Bad> {
        let mut faults = self.faults.lock().unwrap();
        let meant = |fault: &&mut Fault| (fault.method.is_empty() || fault.method == method) && path.contains(&fault.path);
        let fault = faults.iter_mut().filter(meant).find(|fault| !fault.to_come.is_empty())?;
        let bad = if fault.to_come.len() == 1 && fault.lasts { fault.to_come[0] } else { fault.to_come.remove(0) };
        self.served.lock().unwrap().push(bad);
        Some(bad)
    }
}

/// A status as the API server writes one.
fn failure(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Expired", "message": "a bad day"})
}

/// An answer that breaks off.
fn broken() -> Response {
    let cut = futures::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("cut")) });
    Response::new(Body::from_stream(cut))
}

async fn forward(State(upstream): State<Arc<Upstream>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let bad = upstream.fault(parts.method.as_str(), &path);
    let json = [(header::CONTENT_TYPE, "application/json")];
    match bad {
        Some(Bad::Answer(code)) => return (StatusCode::from_u16(code).unwrap(), json, failure(code).to_string()).into_response(),
        Some(Bad::Gone) => return (json, json!({"type": "ERROR", "object": failure(410)}).to_string()).into_response(),
        Some(Bad::Cut) => return broken(),
        Some(Bad::Slow(late)) => tokio::time::sleep(late).await,
        Some(Bad::Lost) | None => {}
    }
    let mut closed = upstream.closed.subscribe();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut sent = upstream.client.request(parts.method, format!("{}{path}", upstream.server)).body(body);
    for (name, value) in parts.headers.iter().filter(|(name, _)| **name != header::HOST && **name != header::CONTENT_LENGTH) {
        sent = sent.header(name, value);
    }
    let answer = sent.send().await;
    if bad == Some(Bad::Lost) {
        return broken();
    }
    match answer {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status());
            for (name, value) in answer.headers().iter().filter(|(name, _)| **name != header::TRANSFER_ENCODING) {
                response = response.header(name, value);
            }
            if path.contains("watch=") {
                let until = Box::pin(async move { drop(closed.changed().await) });
                return response.body(Body::from_stream(answer.bytes_stream().take_until(until))).unwrap();
            }
            response.body(Body::from_stream(answer.bytes_stream())).unwrap()
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
