//! The documents of a cluster as watches tell them. A document that cannot be read is said to be so, and stands in nobody's way.

use std::collections::BTreeMap;
use std::path::Path;

use kube::api::DynamicObject;
use serde_json::json;

use crate::core::actor::Actor;
use crate::core::policy::GuardPolicy;
use crate::core::spec::{API_VERSION, FlagTarget, GuardSource, GuardedRollout, Metadata, Strategy};
use crate::spec::document::Kind;
use crate::spec::{Loaded, load_text};

/// What was written of one document, and what is to be made of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry<T> {
    /// The document as it counts: the newest that could be read. `None` if none could.
    pub(super) document: Option<T>,
    /// Why the newest one cannot be used, if it cannot.
    pub(super) trouble: Option<String>,
}

/// All documents.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) rollouts: BTreeMap<String, Entry<(Metadata, GuardedRollout)>>,
    policies: BTreeMap<String, Entry<GuardPolicy>>,
    sources: BTreeMap<String, Entry<GuardSource>>,
    flags: BTreeMap<String, Entry<FlagTarget>>,
}

/// `namespace/name`, or the name of what has no namespace.
pub(super) fn key_of(object: &DynamicObject) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    object.metadata.namespace.as_deref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

impl Books {
    /// Takes a document in; whether anything that counts has changed. `secrets` is the folder in which credentials are.
    pub(super) fn apply(&mut self, kind: Kind, object: &DynamicObject, secrets: &Path) -> bool {
        let (key, (mut loaded, trouble)) = (key_of(object), read(kind, object, secrets));
        match kind {
            Kind::GuardedRollout => put(&mut self.rollouts, &key, loaded.rollouts.remove(&key), trouble),
            Kind::GuardPolicy => put(&mut self.policies, &key, loaded.policies.remove(&key), trouble),
            Kind::GuardSource => put(&mut self.sources, &key, loaded.sources.remove(&key), trouble),
            Kind::FlagTarget => put(&mut self.flags, &key, loaded.flags.remove(&key), trouble),
        }
    }

    /// A document is gone.
    pub(super) fn remove(&mut self, kind: Kind, key: &str) -> bool {
        match kind {
            Kind::GuardedRollout => self.rollouts.remove(key).is_some(),
            Kind::GuardPolicy => self.policies.remove(key).is_some(),
            Kind::GuardSource => self.sources.remove(key).is_some(),
            Kind::FlagTarget => self.flags.remove(key).is_some(),
        }
    }

    /// Every key of a kind.
    pub(super) fn keys(&self, kind: Kind) -> Vec<String> {
        match kind {
            Kind::GuardedRollout => self.rollouts.keys().cloned().collect(),
            Kind::GuardPolicy => self.policies.keys().cloned().collect(),
            Kind::GuardSource => self.sources.keys().cloned().collect(),
            Kind::FlagTarget => self.flags.keys().cloned().collect(),
        }
    }

    /// The documents that count. Where nobody stamps who asks, nothing is driven.
    pub(super) fn loaded(&self, stamped: bool) -> Loaded {
        let mut rollouts = usable(&self.rollouts);
        if !stamped {
            for (_, rollout) in rollouts.values_mut() {
                rollout.strategy = Strategy::Observe(crate::core::spec::Observe {});
            }
        }
        Loaded::kept(rollouts, usable(&self.policies), usable(&self.sources), usable(&self.flags))
    }
}

fn usable<T: Clone>(entries: &BTreeMap<String, Entry<T>>) -> BTreeMap<String, T> {
    entries.iter().filter_map(|(key, entry)| Some((key.clone(), entry.document.clone()?))).collect()
}

fn put<T: PartialEq>(entries: &mut BTreeMap<String, Entry<T>>, key: &str, document: Option<T>, trouble: Option<String>) -> bool {
    let known = entries.remove(key);
    let kept = known.as_ref().is_some_and(|known| known.trouble == trouble && (document.is_none() || known.document == document));
    // What cannot be read changes nothing: a guard that is there stays as it was.
    let document = document.or(known.and_then(|known| known.document));
    entries.insert(key.to_owned(), Entry { document, trouble });
    !kept
}

/// Reads an object as a file would be read, and says everything that is wrong with it.
fn read(kind: Kind, object: &DynamicObject, secrets: &Path) -> (Loaded, Option<String>) {
    let metadata = json!({
        "name": object.metadata.name, "namespace": object.metadata.namespace, "labels": object.metadata.labels.clone().unwrap_or_default(),
    });
    let mut document = json!({"apiVersion": API_VERSION, "kind": kind.name(), "metadata": metadata, "spec": object.data["spec"]});
    if object.metadata.namespace.is_none()
        && let Some(metadata) = document["metadata"].as_object_mut()
    {
        metadata.remove("namespace");
    }
    let loaded = load_text(&format!("{kind} {}", key_of(object)), &document.to_string(), secrets);
    if !loaded.is_empty() {
        return (loaded, None);
    }
    let said: Vec<String> = loaded.findings.iter().take(3).map(|finding| finding.message.clone()).collect();
    let trouble = format!("it cannot be read: {}", said.join("; "));
    (loaded, Some(trouble))
}

/// Why a guard that can be read cannot be guarded, or not as it is written.
pub(super) fn troubles(loaded: &Loaded, key: &str) -> Vec<String> {
    let Some((metadata, rollout)) = loaded.rollouts.get(key) else { return vec!["there is no such guard".into()] };
    let namespace = metadata.namespace();
    let mut troubles = Vec::new();
    let open = |allowed: &[String]| allowed.is_empty() || allowed.iter().any(|one| one == namespace);
    match loaded.sources.get(&rollout.source) {
        None => troubles.push(format!("there is no GuardSource `{}`", rollout.source)),
        Some(source) if !open(&source.allowed_namespaces) => {
            troubles.push(format!("GuardSource `{}` is not open to the namespace `{namespace}`", rollout.source));
        }
        Some(_) => {}
    }
    for flag in &rollout.revert.flags {
        match loaded.flags.get(&flag.use_) {
            None => troubles.push(format!("there is no FlagTarget `{}`", flag.use_)),
            Some(target) if !open(&target.allowed_namespaces) => {
                troubles.push(format!("FlagTarget `{}` is not open to the namespace `{namespace}`", flag.use_));
            }
            Some(_) => {}
        }
    }
    match loaded.policies.get(&rollout.attestation.policy) {
        None => troubles.push(format!("there is no GuardPolicy `{}`", rollout.attestation.policy)),
        Some(policy) if policy.attestation.is_none() => {
            troubles.push(format!("the GuardPolicy `{}` has no `attestation`", rollout.attestation.policy));
        }
        Some(_) => {}
    }
    if rollout.workload.object().is_none() {
        troubles.push("it guards no workload of Kubernetes".into());
    }
    troubles.extend(loaded.weaker(key, &Actor::default()).iter().map(ToString::to_string));
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &serde_json::Value) -> DynamicObject {
        let object = json!({
            "apiVersion": API_VERSION, "kind": "GuardSource", "metadata": {"name": "prometheus", "uid": "1", "labels": {"a": "b"}}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_document_that_cannot_be_read_leaves_the_one_before_in_force() {
        let mut books = Books::default();
        let good = json!({"prometheus": {"url": "http://prometheus.monitoring:9090", "scrapeInterval": "5s"}});
        let folder = Path::new("/secrets");
        assert!(books.apply(Kind::GuardSource, &object(&good), folder));
        assert!(!books.apply(Kind::GuardSource, &object(&good), folder), "the same is no change");
        assert!(books.apply(Kind::GuardSource, &object(&json!({"prometheus": {"address": 1}})), folder));
        assert!(books.sources["prometheus"].trouble.as_ref().unwrap().contains("address"));
        assert_eq!(books.loaded(true).sources.len(), 1);
        assert!(books.remove(Kind::GuardSource, "prometheus") && books.loaded(true).sources.is_empty());
    }
}
