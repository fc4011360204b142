//! Freezes of wider scopes, for every replica: a `ConfigMap` in backstop's namespace, who and why by scope.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::objects::{FIELD_MANAGER, unavailable};
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
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let key = if scope == "*" { ALL } else { scope };
    let say = |error: kube::Error| unavailable(&format!("ConfigMap {namespace}/{NAME}"), &error);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"data": {key: who}}));
    match api.patch(NAME, &parameters, &patch).await {
        Ok(_) => Ok(()),
        Err(error) if super::objects::is_missing(&error) => {
            let data = who.map(|who| BTreeMap::from([(key, who)])).unwrap_or_default();
            let whole = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data});
            // Applied: if another one was quicker, its scopes stay.
            api.patch(NAME, &PatchParams::apply(&format!("{FIELD_MANAGER}-{}", key.trim_start_matches('_'))).force(), &Patch::Apply(whole))
                .await
                .map(drop)
                .map_err(say)
        }
        Err(error) => Err(say(error)),
    }
}

/// Who ordered a freeze, and why, as it is kept. Whoever may write the `ConfigMap` could write any name into it.
pub fn by(kept: &str) -> Option<Request> {
    let by: Request = serde_json::from_str(kept).ok()?;
    Some(Request { actor: Actor { assurance: Assurance::Claimed, ..by.actor }, ..by })
}
