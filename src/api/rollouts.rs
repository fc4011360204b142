//! Where rollouts stand.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::Api;
use super::problem::Problem;
use super::wire::{Rollouts, Standing};
use crate::core::preview::RevertPlan;
use crate::shell::handle::SendError;

/// `GET /v1/rollouts`.
pub(super) async fn list(State(api): State<Api>) -> Response {
    let standing: Vec<_> = api.handle.keys().iter().filter_map(|key| api.handle.view(key)).collect();
    Json(Rollouts { rollouts: standing.iter().map(|at| &at.0).collect() }).into_response()
}

/// `GET /v1/rollouts/{namespace}/{name}`.
pub(super) async fn show(State(api): State<Api>, Path(key): Path<(String, String)>) -> Result<Json<Standing>, Problem> {
    standing(&api, &key).map(Json)
}

/// `GET /v1/rollouts/{namespace}/{name}/plan`.
pub(super) async fn plan(State(api): State<Api>, Path(key): Path<(String, String)>) -> Result<Json<RevertPlan>, Problem> {
    standing(&api, &key).map(|at| Json(at.plan))
}

fn standing(api: &Api, (namespace, name): &(String, String)) -> Result<Standing, Problem> {
    let key = format!("{namespace}/{name}");
    let at = api.handle.view(&key).ok_or_else(|| unknown(&key))?;
    Ok(Standing { view: at.0.clone(), plan: at.1.clone(), notes: api.handle.notes(&key) })
}

/// There is no such rollout.
pub(super) fn unknown(key: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, SendError::Unknown(key.to_owned()).to_string())
}
