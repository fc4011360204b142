//! What everything that keeps objects in the API server shares.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ApiResource, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use super::lean::Head;
use crate::core::release::Digest;
use crate::core::spec::API_VERSION;
use crate::spec::crd::{GROUP, RESOURCES};
use crate::world::store::Unavailable;

/// Who wrote a field, as the API server notes it.
pub const FIELD_MANAGER: &str = "backstop";

/// A kind of ours.
pub fn resource(kind: &str) -> ApiResource {
    let version = API_VERSION.rsplit_once('/').map_or(API_VERSION, |(_, version)| version);
    let plural = RESOURCES.iter().find(|resource| resource.kind == kind).map_or(kind, |resource| resource.plural);
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, kind), plural)
}

/// Whether the API server says that another write came first, or that it is there already.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether it says that there is no such thing.
pub fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the same request may do better in a moment.
pub fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// What an API server that did not do what it was asked means for the store.
pub fn unavailable(what: &str, error: &kube::Error) -> Unavailable {
    let said = match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.message),
        other => causes(other),
    };
    let fix = match error {
        kube::Error::Api(status) if status.code == 403 => ": the service account lacks a right; `backstop install` prints what it needs",
        error if is_passing(error) => ": it is tried again",
        _ => "",
    };
    Unavailable(format!("the API server, {what}: {said}{fix}"))
}

/// An error with what is behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Keeps these values under these keys of a `ConfigMap`, or takes a key away; all other keys stay.
///
/// # Errors
/// The API server does not take it: none of them is kept then.
pub(super) async fn keep_keys(
    client: &Client,
    namespace: &str,
    name: &str,
    keys: &BTreeMap<String, Option<String>>,
) -> Result<(), Unavailable> {
    let api: Api<Head> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<ConfigMap>(&()));
    let merge = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let kept = match api.patch(name, &merge, &Patch::Merge(json!({"data": keys}))).await {
        Err(error) if is_missing(&error) => {
            let data: BTreeMap<&String, &String> = keys.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
            let whole = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
            // Applied, by a manager of its own for each such write: if another replica was quicker with other keys, these stay.
            let names: Vec<&str> = keys.keys().map(String::as_str).collect();
            let manager = format!("{FIELD_MANAGER}-{}", &Digest::of(names.join("\n").as_bytes()).hex()[..16]);
            api.patch(name, &PatchParams::apply(&manager).force(), &Patch::Apply(whole)).await
        }
        kept => kept,
    };
    kept.map(drop).map_err(|error| unavailable(&format!("ConfigMap {namespace}/{name}"), &error))
}
