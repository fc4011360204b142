//! Freezes of wider scopes, for every replica: a `ConfigMap` in backstop's namespace, who and why by scope.

use kube::Client;

use super::objects::keep_keys;
use crate::core::actor::{Actor, Assurance, Request};
use crate::world::store::Unavailable;

/// Name of the `ConfigMap`.
pub const NAME: &str = "backstop-freezes";
/// What stands for all namespaces; no namespace has such a name.
pub const ALL: &str = "_all";

/// Keeps a freeze, or its end. `scope` is a namespace, or `*`.
///
/// # Errors
/// The API server does not take it.
pub async fn keep(client: &Client, namespace: &str, scope: &str, by: Option<&Request>) -> Result<(), Unavailable> {
    let who = by.map(|by| serde_json::to_string(by).unwrap_or_else(|_| by.actor.to_string()));
    let key = if scope == "*" { ALL } else { scope };
    keep_keys(client, namespace, NAME, &[(key.to_owned(), who)].into()).await
}

/// Who ordered a freeze, and why, as it is kept. Whoever may write the `ConfigMap` could write any name into it.
pub fn by(kept: &str) -> Option<Request> {
    let by: Request = serde_json::from_str(kept).ok()?;
    Some(Request { actor: Actor { assurance: Assurance::Claimed, ..by.actor }, ..by })
}
