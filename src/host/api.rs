//! HTTP/JSON over the Unix socket, and the counters over TCP.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/workloads` | names, `["ns/name", …]` |
//! | `GET /v1/workloads/{ns}/{name}` | [`View`], or 404 |
//! | `PUT /v1/workloads/{ns}/{name}/define` with [`Define`] | [`Outcome`] |
//! | `PUT /v1/workloads/{ns}/{name}/ensure` with [`Ensure`] | [`Outcome`] |
//! | `DELETE /v1/workloads/{ns}/{name}` | 204 once its children are gone, or 404 |
//! | `GET /metrics` | counters; also over TCP |
//!
//! An outcome always comes with status 200: it is the answer. Other statuses mean that the request itself is not one.

use std::io;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, put};
use axum::{Json, Router};
use tokio::net::{TcpListener, UnixListener};

use super::record::WorkloadRecord;
use super::wire::{Define, Ensure, View};
use super::workload::{Found, Workload};
use super::{CONTENT_TYPE, Host};
use crate::core::input::Outcome;

/// Answers on both doors until one of them fails.
pub(crate) async fn serve(host: &Arc<Host>, socket: UnixListener, metrics: TcpListener) -> io::Result<()> {
    let counters = Router::new().route("/metrics", get(render)).with_state(host.clone());
    let api = Router::new()
        .route("/v1/workloads", get(list))
        .route("/v1/workloads/{namespace}/{name}", get(view).delete(forget))
        .route("/v1/workloads/{namespace}/{name}/define", put(define))
        .route("/v1/workloads/{namespace}/{name}/ensure", put(ensure))
        .with_state(host.clone())
        .merge(counters.clone());
    let api = axum::serve(socket, api).into_future();
    let counters = axum::serve(metrics, counters).into_future();
    tokio::try_join!(api, counters).map(|_| ())
}

type Name = Path<(String, String)>;

impl Host {
    async fn workload(&self, namespace: &str, name: &str) -> Option<Arc<Workload>> {
        self.workloads.read().await.get(&format!("{namespace}/{name}")).cloned()
    }
}

async fn render(State(host): State<Arc<Host>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], host.env.metrics.render())
}

async fn list(State(host): State<Arc<Host>>) -> Json<Vec<String>> {
    Json(host.workloads.read().await.keys().cloned().collect())
}

async fn view(State(host): State<Arc<Host>>, Path((namespace, name)): Name) -> Result<Json<View>, StatusCode> {
    match host.workload(&namespace, &name).await {
        Some(workload) => Ok(Json(workload.view())),
        None => Err(StatusCode::NOT_FOUND),
    }
}

async fn define(State(host): State<Arc<Host>>, Path((namespace, name)): Name, Json(define): Json<Define>) -> Json<Outcome> {
    if let Some(bad) = [&namespace, &name].into_iter().find(|part| !is_name(part)) {
        return Json(Outcome::Invalid(format!("`{bad}` is not a name: expected lower-case letters, digits, dots and dashes")));
    }
    if let Some(workload) = host.workload(&namespace, &name).await {
        return Json(workload.define(&define).await);
    }
    // Checked before it exists, so that a mistake leaves nothing behind.
    if let Err(error) = define.process.listen.parse::<std::net::SocketAddr>() {
        return Json(Outcome::Invalid(format!("`{}` is not an address such as `127.0.0.1:8080`: {error}", define.process.listen)));
    }
    let fresh = WorkloadRecord::new(&namespace, &name, define.process.clone());
    let workload = host.open(fresh, false, Found::new()).await;
    let outcome = match workload.define(&define).await {
        Outcome::Done { observed, .. } => Outcome::Done { changed: true, observed },
        other => other,
    };
    Json(outcome)
}

async fn ensure(State(host): State<Arc<Host>>, Path((namespace, name)): Name, Json(ensure): Json<Ensure>) -> Json<Outcome> {
    let Some(workload) = host.workload(&namespace, &name).await else {
        let what = format!("{namespace}/{name} is not defined on this host: define it first");
        return Json(Outcome::Transient { what, retry_after: None });
    };
    // A task of its own: a caller that dies in the middle must not leave the file ahead of what runs.
    let done = tokio::spawn(async move {
        let outcome = workload.ensure(&ensure).await;
        tracing::info!(workload = %workload.key, effect = %ensure.id, action = ensure.action.name(), ?outcome, "ensure");
        outcome
    });
    Json(done.await.unwrap_or_else(|error| Outcome::Unknown(format!("the host broke off: {error}"))))
}

async fn forget(State(host): State<Arc<Host>>, Path((namespace, name)): Name) -> Result<StatusCode, StatusCode> {
    let Some(workload) = host.workloads.write().await.remove(&format!("{namespace}/{name}")) else {
        return Err(StatusCode::NOT_FOUND);
    };
    workload.forget().await.map_err(|error| {
        tracing::error!(workload = %workload.key, %error, "cannot forget a workload");
        StatusCode::INTERNAL_SERVER_ERROR
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Names become folders: no slashes, no leading dot, at most 253 characters (RFC 1123 names).
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    (1..=253).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with(['.', '-'])
}
