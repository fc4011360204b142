//! A registry in this process that serves a layout folder, except where a test wants it to go wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use backstop::core::release::{Digest, Image};
use backstop::world::publish::{Options, Publisher, SigningKey};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::files;

/// What a test wants instead of the honest answer, by path, query and number of the request for that path.
type Twist = Box<dyn Fn(&Ask) -> Option<Response> + Send + Sync>;

/// One request.
pub(crate) struct Ask {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: String,
    /// Requests so far, this one counted.
    pub(crate) number: usize,
}

/// A registry with one published image.
pub(crate) struct Fake {
    pub(crate) image: Image,
    pub(crate) key: SigningKey,
    pub(crate) layout: tempfile::TempDir,
    pub(crate) host: String,
    pub(crate) requests: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

struct Serving {
    layout: PathBuf,
    twist: Twist,
    requests: Arc<AtomicUsize>,
}

impl Fake {
    /// Publishes an image with `options` and serves it, `twist` first.
    pub(crate) async fn start(options: &Options, twist: impl Fn(&Ask) -> Option<Response> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let layout = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        let image = Publisher::new(layout.path(), &key).publish(&format!("{host}/shop/checkout"), &files("v1"), options).unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let serving = Serving { layout: layout.path().to_owned(), twist: Box::new(twist), requests: Arc::clone(&requests) };
        let router = Router::new().fallback(serve).with_state(Arc::new(serving));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { image, key, layout, host, requests, server }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(State(serving): State<Arc<Serving>>, request: Request) -> Response {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ask = Ask {
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        authorization: header.to_owned(),
        number: serving.requests.fetch_add(1, Ordering::SeqCst) + 1,
    };
    (serving.twist)(&ask).unwrap_or_else(|| serving.honest(&ask))
}

impl Serving {
    fn honest(&self, ask: &Ask) -> Response {
        let (rest, last) = ask.path.rsplit_once('/').unwrap_or_default();
        let found = match rest.rsplit('/').next() {
            _ if ask.path == "/v2/" => Some(Vec::new()),
            Some("manifests" | "blobs") => self.blob(last),
            Some("referrers") => Some(index(&self.referrers(last))),
            _ => None,
        };
        found.map_or_else(|| status(404), axum::response::IntoResponse::into_response)
    }

    fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let digest: Digest = digest.parse().ok()?;
        std::fs::read(self.layout.join("blobs/sha256").join(digest.hex())).ok()
    }

    fn referrers(&self, subject: &str) -> Vec<Value> {
        let index: Value = serde_json::from_slice(&std::fs::read(self.layout.join("index.json")).unwrap()).unwrap();
        let entries = index["manifests"].as_array().unwrap().iter();
        let refers = |entry: &&Value| {
            let manifest: Value = serde_json::from_slice(&self.blob(entry["digest"].as_str().unwrap()).unwrap()).unwrap();
            manifest["subject"]["digest"] == subject
        };
        entries.filter(refers).cloned().collect()
    }
}

/// The bytes of an index with these entries.
pub(crate) fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}).to_string().into_bytes()
}

/// An entry that names bytes which are nowhere.
pub(crate) fn entry(seed: &str, artifact_type: &str) -> Value {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    json!({"mediaType": media_type, "digest": Digest::of(seed.as_bytes()).as_str(), "size": 2, "artifactType": artifact_type})
}

pub(crate) fn status(code: u16) -> Response {
    StatusCode::from_u16(code).unwrap().into_response()
}

/// Some bytes, and then the connection breaks.
pub(crate) fn broken_off(bytes: &'static [u8]) -> Response {
    let end = stream::once(async {
        // Only once the first bytes are on their way; otherwise there would be no answer at all.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::Error::other("gone"))
    });
    Body::from_stream(stream::iter([Ok(bytes)]).chain(end)).into_response()
}

/// Some bytes, and then nothing, for ever.
pub(crate) fn stalled(bytes: &'static [u8]) -> Response {
    Body::from_stream(stream::iter([Ok::<_, std::io::Error>(bytes)]).chain(stream::pending())).into_response()
}

/// Bytes without an end and without a length.
pub(crate) fn endless() -> Response {
    Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 65_536]))).into_response()
}
