//! A proxy in front of the API server that has bad days.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use crate::cluster::User;

/// What goes wrong: requests of a method, whose path contains a word, get these answers, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// Answers to come. The last one stays until the fault is lifted, if `lasts`.
    pub(crate) answers: Vec<u16>,
    pub(crate) lasts: bool,
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
    served: Mutex<Vec<u16>>,
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
        let state = Arc::new(Upstream { client, server, faults: Mutex::default(), served: Mutex::default() });
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

    /// Answers that were made up so far.
    pub(crate) fn served(&self) -> Vec<u16> {
        self.state.served.lock().unwrap().clone()
    }
}

impl Upstream {
    fn fault(&self, method: &str, path: &str) -> Option<u16> {
        let mut faults = self.faults.lock().unwrap();
        let fault = faults.iter_mut().find(|fault| fault.method == method && path.contains(fault.path) && !fault.answers.is_empty())?;
        let answer = if fault.answers.len() == 1 && fault.lasts { fault.answers[0] } else { fault.answers.remove(0) };
        self.served.lock().unwrap().push(answer);
        Some(answer)
    }
}

async fn forward(State(upstream): State<Arc<Upstream>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    if let Some(answer) = upstream.fault(parts.method.as_str(), &path) {
        let status = StatusCode::from_u16(answer).unwrap();
        let said =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": answer, "reason": "Test", "message": "a bad day"});
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        return (status, headers, said.to_string()).into_response();
    }
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut sent = upstream.client.request(parts.method, format!("{}{path}", upstream.server)).body(body);
    for (name, value) in parts.headers.iter().filter(|(name, _)| **name != header::HOST && **name != header::CONTENT_LENGTH) {
        sent = sent.header(name, value);
    }
    match sent.send().await {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status());
            for (name, value) in answer.headers().iter().filter(|(name, _)| **name != header::TRANSFER_ENCODING) {
                response = response.header(name, value);
            }
            response.body(Body::from_stream(answer.bytes_stream())).unwrap()
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
