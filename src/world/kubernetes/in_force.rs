//! What is in force of policies, sources and flag targets, for every replica and every start: a `ConfigMap` in backstop's namespace.
//! What loosens one of them waits until a person approves it, also if no controller ran when it was written.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::objects::{FIELD_MANAGER, unavailable};
use crate::world::store::Unavailable;

/// Name of the `ConfigMap`.
const NAME: &str = "backstop-in-force";

/// What was kept, by kind and name.
///
/// # Errors
/// The API server does not answer.
pub async fn read(client: &Client, namespace: &str) -> Result<BTreeMap<String, Value>, Unavailable> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(NAME).await.map_err(|error| unavailable(&format!("ConfigMap {namespace}/{NAME}"), &error))?;
    let data = found.and_then(|map| map.data).unwrap_or_default();
    Ok(data.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect())
}

/// Keeps this and nothing else.
///
/// # Errors
/// The API server does not take it.
pub async fn keep(client: &Client, namespace: &str, documents: &BTreeMap<String, Value>) -> Result<(), Unavailable> {
    let data: BTreeMap<&String, String> = documents.iter().map(|(name, document)| (name, document.to_string())).collect();
    let whole = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data});
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let kept = api.patch(NAME, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(whole)).await;
    kept.map(drop).map_err(|error| unavailable(&format!("ConfigMap {namespace}/{NAME}"), &error))
}
