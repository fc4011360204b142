//! Which pods belong to guarded workloads, for the admission policy that keeps all others out: a `ConfigMap` in each guarded namespace
//! with the label selector of each guarded workload.
//!
//! One object, and not the workloads themselves: the API server goes through the policy once for each parameter, for every pod and
//! `ReplicaSet` that is written, and five hundred guarded Deployments made that a second for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use serde_json::Value;

use super::Cluster;
use super::api::{DEPLOYMENT, STATEFUL_SET};
use super::objects::{keep_keys, unavailable};
use crate::core::work::Lane;
use crate::world::store::Unavailable;

/// Name of the `ConfigMap`; its keys are `KIND.NAME`, its values `label=value,label=value`.
const NAME: &str = "backstop-guarded";

/// What the `ConfigMap`s of namespaces hold, and are to hold.
#[derive(Clone, Default)]
pub(super) struct Noted(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// By namespace and key, as far as this process has read and written them.
    known: tokio::sync::Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    /// What those who wait for their turn want, by namespace and key: whoever is next writes all of it. Thousands of workloads are noted
    /// at a start, and each write is as long as the object.
    wanted: Mutex<BTreeMap<String, BTreeMap<String, Option<String>>>>,
}

impl Inner {
    fn wanted(&self, namespace: &str) -> BTreeMap<String, Option<String>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace).unwrap_or_default()
    }

    fn want(&self, namespace: &str, key: &str, selector: Option<&str>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.entry(namespace.to_owned()).or_default().insert(key.to_owned(), selector.map(str::to_owned));
    }
}

impl Cluster {
    /// Notes which labels select the pods of a guarded workload; none where it is not guarded. Whether that had to be written here.
    ///
    /// # Errors
    /// The API server does not answer or take it.
    pub async fn note_members(&self, namespace: &str, kind: &str, name: &str, selector: Option<&str>) -> Result<bool, Unavailable> {
        let Some(kind) = [DEPLOYMENT, STATEFUL_SET].into_iter().find(|known| known.name == kind) else { return Ok(false) };
        let (client, key) = (self.client(Lane::Forward), format!("{}.{name}", kind.name));
        let Noted(noted) = &self.noted;
        noted.want(namespace, &key, selector);
        let mut known = noted.known.lock().await;
        if !known.contains_key(namespace) {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            let found = api.get_opt(NAME).await.map_err(|error| unavailable(&format!("ConfigMap {namespace}/{NAME}"), &error))?;
            known.insert(namespace.to_owned(), found.and_then(|map| map.data).unwrap_or_default());
        }
        // Until the answer is in, nobody knows what is there.
        let mut now = known.remove(namespace).unwrap_or_default();
        let mut wanted = noted.wanted(namespace);
        // One's own in any case: who took it along before may have failed.
        wanted.insert(key, selector.map(str::to_owned));
        wanted.retain(|key, selector| now.get(key) != selector.as_ref());
        let has_news = !wanted.is_empty();
        if has_news {
            keep_keys(client, namespace, NAME, &wanted).await?;
        }
        for (key, selector) in wanted {
            match selector {
                Some(selector) => now.insert(key, selector),
                None => now.remove(&key),
            };
        }
        known.insert(namespace.to_owned(), now);
        Ok(has_news)
    }
}

/// The labels by which a workload selects its pods; nothing where expressions do, which the policy does not look into.
pub(super) fn selector(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    if selector["matchExpressions"].as_array().is_some_and(|terms| !terms.is_empty()) {
        return None;
    }
    let labels = selector["matchLabels"].as_object().filter(|labels| !labels.is_empty())?;
    let terms = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    Some(terms.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_selects_by_labels_alone_is_noted() {
        let of = |selector_of: Value| selector(&json!({"spec": {"selector": selector_of}}));
        assert_eq!(of(json!({"matchLabels": {"app": "checkout", "tier": "web"}})).as_deref(), Some("app=checkout,tier=web"));
        assert_eq!(of(json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]})), None);
        assert_eq!(of(json!({})), None);
    }
}
