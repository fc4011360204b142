//! The HTTP API: where rollouts stand, what a revert would do, deployments and commands.
//!
//! It is served on a Unix socket, where the kernel names the peer, and if wanted on a loopback address, where a token
//! does. Errors are problem documents (RFC 9457) with the reason code.

pub mod alerts;
pub mod auth;
mod commands;
mod events;
mod limits;
mod places;
pub mod problem;
mod rollouts;
mod serve;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::core::actor;
use crate::core::release::Digest;
use crate::shell::handle::{Handle, SendError};
use crate::telemetry::{Answered, Metrics};

use auth::Principals;
use limits::Limits;
use problem::Problem;
pub use serve::{Listener, serve};

/// Largest body of a request, in bytes.
const BODY_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take; streams of events have no limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Streams of events at once.
const STREAMS_MAX: usize = 64;

/// What the API serves from.
#[derive(Debug, Clone)]
pub struct Api {
    /// The running rollouts.
    pub handle: Handle,
    /// Who may do what.
    pub principals: Arc<Principals>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Why the controller cannot work yet, or any more; `None` once it can.
    pub unready: watch::Receiver<Option<String>>,
    /// Freezes of a wider scope than one rollout; whoever receives them keeps them and tells the rollouts.
    pub freezes: mpsc::Sender<ScopeFreeze>,
    streams: Arc<Semaphore>,
    limits: Arc<Limits>,
}

/// A freeze, or the end of one, of a wider scope than one rollout. Who may ask was checked.
#[derive(Debug)]
pub struct ScopeFreeze {
    /// Of what.
    pub scope: wire::FreezeScope,
    /// Whether it begins; otherwise it ends.
    pub on: bool,
    /// Who asked, and why.
    pub request: actor::Request,
    /// Told once it is kept: how many rollouts are in the scope, or why it cannot be kept.
    pub answer: oneshot::Sender<Result<usize, String>>,
}

impl Api {
    /// With all that it serves from.
    pub fn new(
        handle: Handle,
        principals: Arc<Principals>,
        metrics: Arc<Metrics>,
        unready: watch::Receiver<Option<String>>,
        freezes: mpsc::Sender<ScopeFreeze>,
    ) -> Self {
        Self { handle, principals, metrics, unready, freezes, streams: Arc::new(Semaphore::new(STREAMS_MAX)), limits: Arc::default() }
    }
}

/// Every route. Others, such as that for alerts, can be merged in.
pub fn router(api: Api) -> Router {
    let answers = Router::new()
        .route("/v1/rollouts", get(rollouts::list))
        .route("/v1/rollouts/{namespace}/{name}", get(rollouts::show))
        .route("/v1/rollouts/{namespace}/{name}/plan", get(rollouts::plan))
        .route("/v1/rollouts/{namespace}/{name}/deploy", post(commands::deploy))
        .route("/v1/rollouts/{namespace}/{name}/command", post(commands::command))
        .route("/v1/freeze", post(commands::freeze))
        .route("/v1/thaw", post(commands::thaw))
        .layer(middleware::from_fn(in_time));
    let streams = Router::new().route("/v1/events", get(events::all)).route("/v1/rollouts/{namespace}/{name}/events", get(events::one));
    answers
        .merge(streams)
        .layer(middleware::from_fn_with_state(api.clone(), auth::authenticate))
        .merge(open_to_all())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), counted))
        .with_state(api)
}

/// What is open to everybody: `/healthz`, `/readyz` and `/metrics`.
fn open_to_all() -> Router<Api> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

/// Probes and numbers alone, for an address that others than this machine reach.
pub fn probes(api: Api) -> Router {
    open_to_all().fallback(unknown_route).layer(middleware::from_fn_with_state(api.clone(), counted)).with_state(api)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::GATEWAY_TIMEOUT, "the rollout did not answer within 10 s; it may still do what was asked")
            .into_response(),
    }
}

/// The route of a path without the names in it, so that there are few of them.
fn route(path: &str) -> &'static str {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts[..] {
        ["v1", "rollouts"] => "/v1/rollouts",
        ["v1", "rollouts", _, _] => "/v1/rollouts/{namespace}/{name}",
        ["v1", "rollouts", _, _, "plan"] => "/v1/rollouts/{namespace}/{name}/plan",
        ["v1", "rollouts", _, _, "deploy"] => "/v1/rollouts/{namespace}/{name}/deploy",
        ["v1", "rollouts", _, _, "command"] => "/v1/rollouts/{namespace}/{name}/command",
        ["v1", "rollouts", _, _, "events"] => "/v1/rollouts/{namespace}/{name}/events",
        ["v1", "events"] => "/v1/events",
        ["v1", "freeze" | "thaw"] => "/v1/freeze",
        ["v1", "alerts"] => "/v1/alerts",
        ["healthz" | "readyz" | "metrics"] => "/healthz",
        _ => "other",
    }
}

async fn counted(State(api): State<Api>, request: Request, next: Next) -> Response {
    let route = route(request.uri().path());
    let response = next.run(request).await;
    api.metrics.requests.get_or_create(&Answered { route, status: response.status().as_u16() }).inc();
    response
}

/// Whether the process should go on. A rollout's task that breaks begins again by itself: starting everything again for it would take its
/// controller from every other one. If all are broken, it is not theirs.
async fn healthz(State(api): State<Api>) -> Response {
    let (_, ended) = api.handle.health();
    match &ended[..] {
        [first, ..] if ended.len() == api.handle.keys().len() => {
            let what = format!("the tasks of all {} rollouts have ended, {first} first", ended.len());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).into_response()
        }
        _ => "ok\n".into_response(),
    }
}

async fn readyz(State(api): State<Api>) -> Response {
    match api.unready.borrow().clone() {
        None => "ready\n".into_response(),
        Some(why) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics(State(api): State<Api>) -> Response {
    let views: Vec<_> = api.handle.keys().iter().filter_map(|key| api.handle.view(key)).collect();
    api.metrics.standing(views.iter().map(|view| &view.0));
    api.metrics.ready.set(i64::from(api.unready.borrow().is_none()));
    api.metrics.queue.set(i64::try_from(api.handle.health().0).unwrap_or(i64::MAX));
    match api.metrics.expose() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the numbers cannot be written as text").into_response(),
    }
}

async fn unknown_route(request: Request) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no `{}`; the API begins with `/v1/rollouts`", request.uri().path()))
}

async fn wrong_method(request: Request) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("`{}` does not take {}", request.uri().path(), request.method()))
}

/// A JSON body, with the digest of its bytes, of which request ids are made.
struct Sent<T> {
    value: T,
    digest: Digest,
    bytes: usize,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = read(request).await?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the body is not what this takes: {error}")))?;
        Ok(Self { value, digest: Digest::of(&bytes), bytes: bytes.len() })
    }
}

async fn read(request: Request) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_WITHIN, to_bytes(request.into_body(), BODY_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB")),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 5 s")),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
}

/// A fact that did not reach a rollout, as an answer.
fn not_sent(error: &SendError) -> Problem {
    let status = match error {
        SendError::Unknown(_) => StatusCode::NOT_FOUND,
        SendError::Busy(_) | SendError::Gone(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}
