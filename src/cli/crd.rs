//! `backstop crd`.

use super::{Global, context};
use crate::error::{Error, Exit};
use crate::spec::{crd, write};

/// Print the custom resource definitions for Kubernetes
///
/// They come from the same types as the files, so what `backstop check` accepts is what the API server takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop crd | kubectl apply --server-side -f -
  backstop crd > base/backstop-crds.yaml")]
pub struct Args {}

pub(super) fn run(global: &Global) -> Result<Exit, Error> {
    let definitions = crd::definitions();
    if global.json {
        context::print_json(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": definitions}))?;
    } else {
        context::print(&write::documents(&definitions))?;
    }
    Ok(Exit::Done)
}
