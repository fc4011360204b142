//! Deployments and commands: what the caller may is decided by the machine, who the caller is by its credential.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;
use tokio::sync::oneshot;

use super::problem::Problem;
use super::wire::{Caller, ClaimError, Claims, Command, Deploy, Freeze, Frozen, Reply};
use super::{Api, ScopeFreeze, Sent, not_sent};
use crate::core::actor::Request;
use crate::core::input::{Commanded, Deployed, Input, Verb};
use crate::core::machine::Answer;
use crate::core::machine::verbs::VerbKind;
use crate::core::reason::Reason;
use crate::core::release::{Digest, Release};
use crate::shell::handle::SendError;
use crate::world::clock;

/// `POST /v1/rollouts/{namespace}/{name}/deploy`: 202 if it goes on trial or waits its turn, 200 if it already runs.
pub(super) async fn deploy(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((namespace, name)): Path<(String, String)>,
    sent: Sent<Deploy>,
) -> Result<Response, Problem> {
    let deploy = sent.value;
    deploy.check().map_err(|what| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what))?;
    let key = known(&api, &namespace, &name)?;
    let refused = api.limits.write(&caller, &key, None, sent.bytes)?;
    let request = request(deploy.claims, &caller, &sent.digest, refused)?;
    let release = Release::new(deploy.template, deploy.label);
    let answer = ask(&api, &key, Input::Deployed(Deployed { release, request: request.clone() })).await?;
    Ok(reply(answer, &request, StatusCode::ACCEPTED))
}

/// `POST /v1/rollouts/{namespace}/{name}/command`: 202 for a revert, which goes on by itself, 200 for what is done.
pub(super) async fn command(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((namespace, name)): Path<(String, String)>,
    sent: Sent<Command>,
) -> Result<Response, Problem> {
    let Command { verb, claims } = sent.value;
    let key = known(&api, &namespace, &name)?;
    let refused = api.limits.write(&caller, &key, Some(verb.kind()), sent.bytes)?;
    let request = request(claims, &caller, &sent.digest, refused)?;
    let taken = if matches!(verb, Verb::Revert { .. }) { StatusCode::ACCEPTED } else { StatusCode::OK };
    let answer = ask(&api, &key, Input::Commanded(Commanded { verb, request: request.clone() })).await?;
    Ok(reply(answer, &request, taken))
}

/// `POST /v1/freeze`: the kill-switch for all rollouts, or those of a namespace.
pub(super) async fn freeze(state: State<Api>, caller: Extension<Caller>, sent: Sent<Freeze>) -> Result<Json<Frozen>, Problem> {
    change_freeze(state, caller, sent, VerbKind::Freeze).await
}

/// `POST /v1/thaw`: the end of such a freeze.
pub(super) async fn thaw(state: State<Api>, caller: Extension<Caller>, sent: Sent<Freeze>) -> Result<Json<Frozen>, Problem> {
    change_freeze(state, caller, sent, VerbKind::Thaw).await
}

async fn change_freeze(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    sent: Sent<Freeze>,
    verb: VerbKind,
) -> Result<Json<Frozen>, Problem> {
    let Freeze { scope, claims } = sent.value;
    scope.check().map_err(|what| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what))?;
    let refused = api.limits.write(&caller, "scopes", Some(verb), sent.bytes)?;
    let request = request(claims, &caller, &sent.digest, refused)?;
    verb.allowed(&request.actor).map_err(|what| problem(&Reason::NotAllowed { what }))?;
    let (answer, answered) = oneshot::channel();
    let id = request.id.clone();
    let gone = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the controller is shutting down");
    api.freezes.send(ScopeFreeze { scope, on: verb == VerbKind::Freeze, request, answer }).await.map_err(|_| gone())?;
    match answered.await {
        Ok(Ok(rollouts)) => Ok(Json(Frozen { request: id, rollouts })),
        Ok(Err(what)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)),
        Err(_) => Err(gone()),
    }
}

/// The rollout's key; 404 if there is none, before anything is counted.
fn known(api: &Api, namespace: &str, name: &str) -> Result<String, Problem> {
    let key = format!("{namespace}/{name}");
    if api.handle.line(&key).is_none() {
        return Err(not_sent(&SendError::Unknown(key)));
    }
    Ok(key)
}

fn request(claims: Claims, caller: &Caller, sent: &Digest, refused: u64) -> Result<Request, Problem> {
    let request = claims.request(caller, sent, clock::wall());
    request.map(|request| Request { refused_before: (refused > 0).then_some(refused), ..request }).map_err(|error| match error {
        ClaimError::Malformed(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        ClaimError::AnotherAgent { .. } => problem(&Reason::NotAllowed { what: error.to_string() }),
    })
}

async fn ask(api: &Api, key: &str, input: Input) -> Result<Answer, Problem> {
    api.handle.ask(key, input).await.map_err(|error| not_sent(&error))
}

fn reply(answer: Answer, request: &Request, taken: StatusCode) -> Response {
    tracing::info!(request = request.id, actor = %request.actor, accepted = answer.accepted, code = answer.reason.code(), "asked");
    if !answer.accepted {
        return refusal(&answer, request);
    }
    let nothing_new = matches!(answer.reason, Reason::SameRelease {} | Reason::NothingToDo { .. });
    let status = if nothing_new { StatusCode::OK } else { taken };
    (status, Json(Reply::of(answer, request))).into_response()
}

/// A problem document that also names the request and the revert, for those who go on from there.
fn refusal(answer: &Answer, request: &Request) -> Response {
    let problem = problem(&answer.reason);
    let body = json!({
        "type": "about:blank",
        "title": problem.status.canonical_reason().unwrap_or("Error"),
        "status": problem.status.as_u16(),
        "detail": problem.detail,
        "code": problem.code,
        "reason": answer.reason,
        "request": request.id,
        "revert": answer.revert,
    });
    let mut response = problem.into_response();
    *response.body_mut() = axum::body::Body::from(body.to_string());
    response.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
    response
}

fn problem(reason: &Reason) -> Problem {
    let status = match reason {
        Reason::NotAllowed { .. } => StatusCode::FORBIDDEN,
        Reason::QuotaExceeded { .. } => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::CONFLICT,
    };
    Problem::new(status, reason.to_string()).with_code(reason.code())
}
