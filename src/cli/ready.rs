//! `backstop ready`.

use serde_json::json;

use super::Context;
use super::service::{Via, choose, names, views};
use super::text::{clean, table};
use crate::core::preview::View;
use crate::error::{Error, Exit};

/// Say whether a revert would work now
///
/// Ends with 0 if it would, for the service or for all of them, and with 1 if not. Works without the controller.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop ready
  backstop ready checkout || page-somebody")]
pub struct Args {
    /// The service; all of them if left out.
    service: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let (mut views, via) = views(context).await?;
    if args.service.is_some() {
        let keys: Vec<String> = views.iter().map(|view| view.key.clone()).collect();
        let key = choose(args.service.as_deref(), &keys)?;
        views.retain(|view| view.key == key);
    }
    if via == Via::Store {
        Context::warn("the controller does not answer: this is what it knew last");
    }
    let all = views.iter().all(is_ready);
    let value = json!({"ready": all, "rollouts": views.iter().map(|view| json!({
        "key": view.key, "ready": is_ready(view), "readiness": view.readiness,
    })).collect::<Vec<_>>()});
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| {
            let mark = if is_ready(view) { context.paint.good("ready") } else { context.paint.bad("not ready") };
            vec![view.key.clone(), mark, words(view)]
        })
        .collect();
    context.show(&value, || if rows.is_empty() { "there are no rollouts".to_owned() } else { table(&rows) })?;
    Ok(if all { Exit::Done } else { Exit::No })
}

/// Whether it was proven that a revert would work.
pub(super) fn is_ready(view: &View) -> bool {
    view.readiness.as_ref().is_some_and(|readiness| readiness.missing.is_none() && readiness.target.is_some())
}

/// To what, or why not.
pub(super) fn words(view: &View) -> String {
    match &view.readiness {
        None => "no release to go back to has been proven yet".to_owned(),
        Some(readiness) => match (&readiness.missing, &readiness.target) {
            (Some(reason), _) => format!("{} {}", reason.code(), clean(&reason.to_string())),
            (None, Some(target)) => format!("to {}", names(view).get(target).cloned().unwrap_or_else(|| target.to_string())),
            (None, None) => "no known-good release".to_owned(),
        },
    }
}
