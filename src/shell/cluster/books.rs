//! The documents of a cluster as watches tell them. A document that cannot be read is said to be so, and stands in nobody's way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::{Value as Json, json};

use crate::core::actor::Actor;
use crate::core::policy::GuardPolicy;
use crate::core::spec::{API_VERSION, FlagTarget, GuardSource, GuardedRollout, Metadata, Strategy};
use crate::spec::crd::StatusCondition;
use crate::spec::document::Kind;
use crate::spec::{Loaded, load_text, loosening};
use crate::world::kubernetes::report::Said;

/// On a document: the generation of it that a person with the verb `loosen` approves.
const APPROVED: &str = "backstop.dev/approved";

/// What was written of one document, and what is to be made of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry<T> {
    /// The document as it is written: the newest that could be read. `None` if none could.
    written: Option<T>,
    /// The one that counts, with its labels and spec as they are kept, as JSON: what loosens it waits for a person.
    in_force: Option<(T, Arc<str>)>,
    /// Whether that was ever guarded, or used: mending what never was loosens nothing.
    used: bool,
    /// The fields of the written one that wait.
    waits: Vec<String>,
    /// What the object was when it was read; its generation is what somebody would approve.
    version: Version,
    /// Why the newest one cannot be used, if it cannot.
    pub(super) trouble: Option<String>,
}

/// All documents.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) rollouts: BTreeMap<String, Entry<Guard>>,
    policies: BTreeMap<String, Entry<GuardPolicy>>,
    sources: BTreeMap<String, Entry<GuardSource>>,
    flags: BTreeMap<String, Entry<FlagTarget>>,
    /// What of cluster-wide kinds was in force when it was kept last, by kind and name.
    kept: BTreeMap<String, Json>,
}

type Guard = (Metadata, Arc<GuardedRollout>);

/// What of an object decides: a status that changes beside it does not. Whose generation is 0 is always read.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    uid: Option<String>,
    generation: i64,
    labels: Option<BTreeMap<String, String>>,
    approved: Option<i64>,
}

impl Version {
    fn of(object: &DynamicObject) -> Self {
        let annotations = object.metadata.annotations.as_ref();
        Self {
            uid: object.metadata.uid.clone(),
            generation: object.metadata.generation.unwrap_or_default(),
            labels: object.metadata.labels.clone(),
            approved: annotations.and_then(|all| all.get(APPROVED)).and_then(|text| text.parse().ok()),
        }
    }
}

/// `namespace/name`, or the name of what has no namespace.
pub(super) fn key_of(object: &DynamicObject) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    object.metadata.namespace.as_deref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// The conditions in a guard's status.
pub(super) fn conditions_of(object: &DynamicObject) -> Vec<StatusCondition> {
    serde_json::from_value(object.data["status"]["conditions"].clone()).unwrap_or_default()
}

impl Books {
    /// Takes in what was in force of cluster-wide kinds: before their documents are.
    pub(super) fn remember(&mut self, kept: BTreeMap<String, Json>) {
        self.kept = kept;
    }

    /// Takes a document in; whether anything that counts has changed. `secrets` is the folder in which credentials are.
    pub(super) fn apply(&mut self, kind: Kind, object: &DynamicObject, secrets: &Path) -> bool {
        let (key, version) = (key_of(object), Version::of(object));
        let known = match kind {
            Kind::GuardedRollout => self.rollouts.get(&key).map(|entry| &entry.version),
            Kind::GuardPolicy => self.policies.get(&key).map(|entry| &entry.version),
            Kind::GuardSource => self.sources.get(&key).map(|entry| &entry.version),
            Kind::FlagTarget => self.flags.get(&key).map(|entry| &entry.version),
        };
        if version.generation > 0 && known == Some(&version) {
            return false;
        }
        let kept: Option<Json> = match kind {
            _ if known.is_some() => None,
            Kind::GuardedRollout => object.data["status"]["inForce"].as_str().and_then(|text| serde_json::from_str(text).ok()),
            _ => self.kept.remove(&place(kind, &key)),
        };
        let new = New {
            version,
            raw: raw_of(object).to_string().into(),
            loaded: read(kind, object, secrets),
            // What was in force is read as it was written then.
            kept: kept.map(|raw| (read(kind, &with(object, &raw), secrets).0, raw.to_string().into())),
            waits_for_use: kind == Kind::GuardedRollout,
        };
        // What is cluster-wide counts as soon as it can be read; a guard, once its workload is guarded.
        match kind {
            Kind::GuardedRollout => put(&mut self.rollouts, &key, new, |loaded| loaded.rollouts.remove(&key), loosening::of_guard),
            Kind::GuardPolicy => put(&mut self.policies, &key, new, |loaded| loaded.policies.remove(&key), loosening::of_policy),
            Kind::GuardSource => put(&mut self.sources, &key, new, |loaded| loaded.sources.remove(&key), loosening::of_source),
            Kind::FlagTarget => put(&mut self.flags, &key, new, |loaded| loaded.flags.remove(&key), loosening::of_flag),
        }
    }

    /// Notes that these guards are guarded as they are in force: from now on what loosens them waits.
    pub(super) fn use_guards<'a>(&mut self, keys: impl Iterator<Item = &'a String>) {
        for key in keys {
            if let Some(entry) = self.rollouts.get_mut(key) {
                entry.used = true;
            }
        }
    }

    /// What is in force of cluster-wide kinds, to be kept.
    pub(super) fn to_keep(&self) -> BTreeMap<String, Json> {
        fn of<T>(kind: Kind, entries: &BTreeMap<String, Entry<T>>) -> impl Iterator<Item = (String, Json)> {
            entries.iter().filter_map(move |(key, entry)| Some((place(kind, key), serde_json::from_str(&entry.in_force.as_ref()?.1).ok()?)))
        }
        let policies = of(Kind::GuardPolicy, &self.policies).chain(of(Kind::GuardSource, &self.sources));
        policies.chain(of(Kind::FlagTarget, &self.flags)).collect()
    }

    /// The text of the guard's document that is in force.
    pub(super) fn in_force(&self, key: &str) -> Option<&Arc<str>> {
        self.rollouts.get(key)?.in_force.as_ref().map(|(_, raw)| raw)
    }

    /// What is to be said of a guard's document.
    pub(super) fn said(&self, key: &str, trouble: Option<&str>) -> Said {
        let Some(entry) = self.rollouts.get(key) else { return Said { trouble: trouble.map(str::to_owned), ..Said::default() } };
        let mut waits: Vec<String> = waiting(Kind::GuardedRollout, key, entry).into_iter().collect();
        if let Some(((_, guard), _)) = &entry.in_force {
            let named = |name: &String| *name == guard.source || guard.revert.flags.iter().any(|flag| flag.use_ == *name);
            waits.extend(self.policies.iter().filter_map(|(name, entry)| waiting(Kind::GuardPolicy, name, entry)));
            waits.extend(
                self.sources.iter().filter(|(name, _)| named(name)).filter_map(|(name, entry)| waiting(Kind::GuardSource, name, entry)),
            );
            waits.extend(
                self.flags.iter().filter(|(name, _)| named(name)).filter_map(|(name, entry)| waiting(Kind::FlagTarget, name, entry)),
            );
        }
        Said {
            trouble: trouble.map(str::to_owned),
            waits: (!waits.is_empty()).then(|| waits.join("; ")),
            in_force: entry.in_force.as_ref().filter(|_| entry.used).map(|(_, raw)| Arc::clone(raw)),
            others: None,
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
        let mut rollouts = in_force(&self.rollouts);
        if !stamped {
            for (_, rollout) in rollouts.values_mut() {
                Arc::make_mut(rollout).strategy = Strategy::Observe(crate::core::spec::Observe {});
            }
        }
        // Of a policy both count until it is approved: the strictest value of each field stands.
        let mut policies = in_force(&self.policies);
        for (name, entry) in self.policies.iter().filter(|(_, entry)| !entry.waits.is_empty()) {
            policies.extend(entry.written.clone().map(|written| (format!("{name} (not approved yet)"), written)));
        }
        Loaded::kept(rollouts, policies, in_force(&self.sources), in_force(&self.flags))
    }
}

fn in_force<T: Clone>(entries: &BTreeMap<String, Entry<T>>) -> BTreeMap<String, T> {
    entries.iter().filter_map(|(key, entry)| Some((key.clone(), entry.in_force.as_ref()?.0.clone()))).collect()
}

/// What of a document waits, and how it is approved.
fn waiting<T>(kind: Kind, key: &str, entry: &Entry<T>) -> Option<String> {
    let (namespace, name) =
        key.split_once('/').map_or((String::new(), key), |(namespace, name)| (format!(" --namespace {namespace}"), name));
    (!entry.waits.is_empty()).then(|| {
        format!(
            "{kind} {key} is in force as it was before generation {}, which loosens {}: a person with the verb `loosen` approves it by \
             `kubectl annotate {} {name}{namespace} --overwrite {APPROVED}={}`",
            entry.version.generation,
            entry.waits.join(", "),
            kind.name().to_lowercase(),
            entry.version.generation
        )
    })
}

/// A document as it was just seen.
struct New {
    version: Version,
    raw: Arc<str>,
    loaded: (Loaded, Option<String>),
    kept: Option<(Loaded, Arc<str>)>,
    /// Whether it is in use only when that is [said](Books::use_guards).
    waits_for_use: bool,
}

fn put<T: PartialEq + Clone>(
    entries: &mut BTreeMap<String, Entry<T>>,
    key: &str,
    new: New,
    mut pick: impl FnMut(&mut Loaded) -> Option<T>,
    loosens: fn(&T, &T) -> Vec<String>,
) -> bool {
    let known = entries.remove(key);
    let New { version, raw, loaded: (mut loaded, trouble), kept, waits_for_use } = new;
    let (generation, approved) = (version.generation, version.approved);
    let (before, used) = match &known {
        Some(known) => (known.in_force.clone(), known.used),
        None => (kept.and_then(|(mut loaded, raw)| Some((pick(&mut loaded)?, raw))), true),
    };
    // What cannot be read changes nothing: a guard that is there stays as it was.
    let entry = match (pick(&mut loaded), before) {
        (None, before) => {
            let written = known.as_ref().and_then(|known| known.written.clone());
            let waits = known.as_ref().map(|known| known.waits.clone()).unwrap_or_default();
            Entry { written, in_force: before, used, waits, version, trouble }
        }
        (Some(written), before) => {
            let waits = match &before {
                Some((in_force, _)) if used && approved != Some(generation) => loosens(in_force, &written),
                _ => Vec::new(),
            };
            let used = used && (before.is_some() || !waits_for_use);
            let in_force = if waits.is_empty() { Some((written.clone(), raw)) } else { before };
            Entry { written: Some(written), in_force, used, waits, version, trouble }
        }
    };
    let changed = known.is_none_or(|known| Entry { version: entry.version.clone(), ..known } != entry);
    entries.insert(key.to_owned(), entry);
    changed
}

/// Under which name what is in force of a cluster-wide kind is kept.
fn place(kind: Kind, key: &str) -> String {
    format!("{}.{key}", kind.name())
}

/// What decides of a document.
fn raw_of(object: &DynamicObject) -> Json {
    json!({"labels": object.metadata.labels.clone().unwrap_or_default(), "spec": object.data["spec"]})
}

/// The object as it was when this was kept.
fn with(object: &DynamicObject, raw: &Json) -> DynamicObject {
    let mut before = DynamicObject { types: object.types.clone(), metadata: object.metadata.clone(), data: json!({"spec": raw["spec"]}) };
    before.metadata.labels = serde_json::from_value(raw["labels"].clone()).ok();
    before
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

    #[test]
    fn what_loosens_a_document_waits_until_a_person_approves_it() {
        let folder = Path::new("/secrets");
        let at = |url: &str, generation: i64, approved: Option<i64>| {
            let mut object = object(&json!({"prometheus": {"url": url, "scrapeInterval": "5s"}}));
            object.metadata.generation = Some(generation);
            object.metadata.annotations = approved.map(|approved| [(APPROVED.to_owned(), approved.to_string())].into());
            object
        };
        let url = |books: &Books| books.loaded(true).sources["prometheus"].prometheus.as_ref().unwrap().url.clone();
        let mut books = Books::default();
        books.apply(Kind::GuardSource, &at("http://old:9090", 1, None), folder);
        assert!(books.apply(Kind::GuardSource, &at("http://new:9090", 2, Some(1)), folder), "an approval of what it was is none");
        assert_eq!(url(&books), "http://old:9090");
        // Whoever starts in between knows what was in force.
        let mut next = Books::default();
        next.remember(books.to_keep());
        next.apply(Kind::GuardSource, &at("http://new:9090", 2, Some(1)), folder);
        assert_eq!(url(&next), "http://old:9090");
        assert_eq!(next.sources["prometheus"].waits, ["prometheus"]);
        assert!(next.apply(Kind::GuardSource, &at("http://new:9090", 2, Some(2)), folder));
        assert_eq!((url(&next), next.sources["prometheus"].waits.len()), ("http://new:9090".to_owned(), 0));
    }

    #[test]
    fn a_policy_and_what_would_loosen_it_hold_both() {
        let policy = |generation: i64, bake: &str| -> DynamicObject {
            let object = json!({
                "apiVersion": API_VERSION, "kind": "GuardPolicy", "metadata": {"name": "floors", "generation": generation},
                "spec": {"floors": {"bake": bake, "watch": "1h"}},
            });
            serde_json::from_value(object).unwrap()
        };
        let (mut books, folder) = (Books::default(), Path::new("/secrets"));
        books.apply(Kind::GuardPolicy, &policy(1, "10m"), folder);
        books.apply(Kind::GuardPolicy, &policy(2, "1m"), folder);
        let loaded = books.loaded(true);
        assert_eq!(loaded.policies.len(), 2, "{:?}", loaded.policies);
        books.apply(Kind::GuardPolicy, &policy(3, "20m"), folder);
        assert_eq!(books.loaded(true).policies.len(), 1, "what tightens holds at once");
    }
}
