//! A gateway that takes every route of a namespace as it is, and moves nothing: for pods that serve nothing.

use futures::StreamExt as _;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;

use super::User;
use super::background::Loop;

/// Routes that are answered at once.
const AT_ONCE: usize = 24;

/// Says so of every `HTTPRoute`, until the guard ends.
pub fn start(user: &User, namespace: &'static str) -> Loop {
    Loop::start(user, move |client| accept(client, namespace))
}

async fn accept(client: Client, namespace: &str) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
    let routes = watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects();
    let answers = routes.for_each_concurrent(AT_ONCE, |route| {
        let api = api.clone();
        async move {
            let Ok(route) = route else { return };
            let generation = route.metadata.generation;
            if route.data["status"]["parents"][0]["conditions"][0]["observedGeneration"] == json!(generation) {
                return;
            }
            let condition = |name: &str| {
                json!({"type": name, "status": "True", "reason": name, "message": "", "observedGeneration": generation,
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            let status = json!({"status": {"parents": [{
                "parentRef": {"name": "edge"}, "controllerName": "test/edge", "conditions": [condition("Accepted"), condition("ResolvedRefs")],
            }]}});
            // A route that has changed meanwhile is told again.
            let _ = api.patch_status(&route.metadata.name.unwrap_or_default(), &PatchParams::default(), &Patch::Merge(status)).await;
        }
    });
    answers.await;
}
