//! What watches have told of workloads and their pods: answers lists without a request.
//!
//! Objects are kept as packed text, without what nobody reads here: there may be tens of thousands, and that is their least form.
//! A kind whose watch broke answers nothing until something of it is told again: whoever asks goes to the API server then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use futures::StreamExt as _;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::api::{DAEMON_SET, DEPLOYMENT, Kind, POD, REPLICA_SET, REVISION, SERVICE, STATEFUL_SET};
use super::lean::{Lean, PAGE};

/// What is watched.
const KINDS: [Kind; 7] = [DEPLOYMENT, STATEFUL_SET, DAEMON_SET, REPLICA_SET, REVISION, POD, SERVICE];
/// What nobody reads, and `kubectl` writes into everything.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A kind in a namespace.
type Place = (&'static str, String);

/// The objects.
#[derive(Debug, Default)]
pub struct Cache(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    places: BTreeMap<Place, Objects>,
    /// Kinds, with the namespace where not all are watched, that were listed and whose watch holds.
    held: BTreeSet<(&'static str, Option<String>)>,
}

/// The objects of a place.
#[derive(Debug, Default)]
struct Objects {
    /// As JSON, by name.
    texts: BTreeMap<Arc<str>, Packed>,
    /// Names of those that bear a label, in order, by `key=value`.
    labelled: BTreeMap<Box<str>, Vec<Arc<str>>>,
}

/// A text, about half as long as it is.
#[derive(Debug)]
struct Packed {
    /// Of the text, in bytes.
    length: usize,
    bytes: Box<[u8]>,
}

/// An object that was told.
struct Told {
    labels: BTreeMap<String, String>,
    text: Packed,
}

/// Packs texts one after the other: what is needed to pack one is a hundred times as long.
struct Packer {
    deflate: Compress,
    packed: Vec<u8>,
}

impl Default for Packer {
    fn default() -> Self {
        Self { deflate: Compress::new(Compression::fast(), false), packed: Vec::new() }
    }
}

impl Packer {
    fn object(&mut self, kind: Kind, object: DynamicObject) -> Told {
        Told { labels: object.metadata.labels.clone().unwrap_or_default(), text: self.pack(trimmed(kind, object).to_string().as_bytes()) }
    }

    fn pack(&mut self, text: &[u8]) -> Packed {
        self.deflate.reset();
        self.packed.clear();
        // Deflate adds five bytes to each block of what it cannot shorten.
        self.packed.reserve(text.len() + text.len() / 8 + 64);
        let done = self.deflate.compress_vec(text, &mut self.packed, FlushCompress::Finish);
        // All of it is in memory, and there is room.
        debug_assert!(matches!(done, Ok(Status::StreamEnd)), "it ends with this call: {done:?}");
        // Copied: a block that is cut short keeps its size.
        Packed { length: text.len(), bytes: self.packed.as_slice().into() }
    }
}

/// Unpacks texts one after the other.
struct Unpacker(Decompress);

impl Default for Unpacker {
    fn default() -> Self {
        Self(Decompress::new(false))
    }
}

impl Unpacker {
    /// What was packed; it was written here.
    fn value(&mut self, packed: &Packed) -> Value {
        let mut text = Vec::with_capacity(packed.length);
        self.0.reset(false);
        let unpacked = self.0.decompress_vec(&packed.bytes, &mut text, FlushDecompress::Finish);
        unpacked.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

/// One object was written or is gone: whom it concerns.
#[derive(Debug, Clone)]
pub struct Touched {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Kind and name of its controller.
    pub owner: Option<(String, String)>,
}

impl Cache {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every kind is watched in this namespace, and no watch is broken.
    pub fn holds(&self, namespace: &str) -> bool {
        let known = self.read();
        KINDS.iter().all(|kind| known.holds(*kind, namespace))
    }

    /// The object of that name, or null if there is none; `None` if that is not known for sure.
    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let known = self.read();
        let kept = known.places.get(&(kind.plural, namespace.to_owned())).and_then(|objects| objects.texts.get(name));
        known.holds(kind, namespace).then(|| kept.map(|text| Unpacker::default().value(text)).unwrap_or_default())
    }

    /// The objects that these terms select, `None` if they are not known for sure, or the terms are no labels with a value.
    pub(super) fn list(&self, kind: Kind, namespace: &str, labels: &str) -> Option<Vec<Value>> {
        let terms: Vec<&str> = labels.split(',').filter(|term| !term.is_empty()).collect();
        if terms.iter().any(|term| term.contains(['!', '(', ')', ' ']) || !term.contains('=')) {
            return None;
        }
        let known = self.read();
        if !known.holds(kind, namespace) {
            return None;
        }
        let Some(objects) = known.places.get(&(kind.plural, namespace.to_owned())) else { return Some(Vec::new()) };
        let mut unpacker = Unpacker::default();
        let Some((first, rest)) = terms.split_first() else {
            return Some(objects.texts.values().map(|text| unpacker.value(text)).collect());
        };
        let named = objects.labelled.get(*first).into_iter().flatten().filter_map(|name| objects.texts.get(name));
        let named = named.map(|text| unpacker.value(text));
        let bears = |object: &Value, term: &&str| {
            term.split_once('=').is_some_and(|(key, wanted)| object["metadata"]["labels"][key].as_str() == Some(wanted))
        };
        Some(named.filter(|object| rest.iter().all(|term| bears(object, term))).collect())
    }

    /// Watches everything in `namespace`, everywhere if there is none, until `stop`; `touched` hears of each object.
    pub async fn follow(&self, client: &Client, namespace: Option<&str>, touched: impl Fn(&Touched), stop: &mut watch::Receiver<bool>) {
        let watches = KINDS.map(|kind| {
            let api: Api<Lean> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(kind)),
                None => Api::all_with(client.clone(), &resource(kind)),
            };
            watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff().map(move |event| (kind, event)).boxed()
        });
        let mut events = futures::stream::select_all(watches);
        let mut listed: BTreeMap<&'static str, BTreeSet<(String, String)>> = BTreeMap::new();
        let mut packer = Packer::default();
        loop {
            let (kind, event) = tokio::select! {
                Some(event) = events.next() => event,
                _ = stop.changed() => return,
                else => return,
            };
            match event {
                Ok(Event::Init) => drop(listed.insert(kind.plural, BTreeSet::new())),
                Ok(Event::InitApply(Lean(object))) => {
                    let about = about(&object);
                    listed.entry(kind.plural).or_default().insert((about.namespace.clone(), about.name.clone()));
                    let told = packer.object(kind, object);
                    self.write().put(kind, &about, told);
                    touched(&about);
                }
                Ok(Event::InitDone) => self.write().hold(kind, namespace, &listed.remove(kind.plural).unwrap_or_default()),
                Ok(Event::Apply(Lean(object))) => {
                    let about = about(&object);
                    let told = packer.object(kind, object);
                    let mut known = self.write();
                    known.put(kind, &about, told);
                    known.held.insert((kind.plural, namespace.map(str::to_owned)));
                    drop(known);
                    touched(&about);
                }
                Ok(Event::Delete(Lean(object))) => {
                    let about = about(&object);
                    self.write().remove(kind, &about.namespace, &about.name);
                    touched(&about);
                }
                Err(error) => {
                    tracing::warn!(kind = kind.name, %error, "a watch broke; it begins again");
                    self.write().held.remove(&(kind.plural, namespace.map(str::to_owned)));
                }
            }
        }
    }
}

impl Known {
    fn holds(&self, kind: Kind, namespace: &str) -> bool {
        self.held.contains(&(kind.plural, None)) || self.held.contains(&(kind.plural, Some(namespace.to_owned())))
    }

    /// A list has ended: what it did not name is gone.
    fn hold(&mut self, kind: Kind, namespace: Option<&str>, listed: &BTreeSet<(String, String)>) {
        let within = |place: &&Place| place.0 == kind.plural && namespace.is_none_or(|namespace| place.1 == namespace);
        let known: Vec<(String, String)> = (self.places.iter().filter(|(place, _)| within(place)))
            .flat_map(|((_, namespace), objects)| objects.texts.keys().map(|name| (namespace.clone(), name.to_string())))
            .collect();
        for (namespace, name) in known.iter().filter(|one| !listed.contains(*one)) {
            self.remove(kind, namespace, name);
        }
        self.held.insert((kind.plural, namespace.map(str::to_owned)));
    }

    fn put(&mut self, kind: Kind, about: &Touched, told: Told) {
        self.places.entry((kind.plural, about.namespace.clone())).or_default().put(&about.name, told);
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        if let Some(objects) = self.places.get_mut(&(kind.plural, namespace.to_owned())) {
            objects.remove(name);
        }
    }
}

impl Objects {
    fn put(&mut self, name: &str, Told { labels, text }: Told) {
        self.remove(name);
        let name: Arc<str> = name.into();
        for (key, value) in labels {
            // Most labels with their value are those of one object.
            let names = self.labelled.entry(format!("{key}={value}").into()).or_insert_with(|| Vec::with_capacity(1));
            let place = names.binary_search(&name).unwrap_or_else(|place| place);
            names.insert(place, Arc::clone(&name));
        }
        self.texts.insert(name, text);
    }

    fn remove(&mut self, name: &str) {
        let Some(text) = self.texts.remove(name) else { return };
        for (key, value) in Unpacker::default().value(&text)["metadata"]["labels"].as_object().into_iter().flatten() {
            let term = format!("{key}={}", value.as_str().unwrap_or_default());
            if let Some(names) = self.labelled.get_mut(&*term) {
                if let Ok(place) = names.binary_search_by(|one| (**one).cmp(name)) {
                    names.remove(place);
                }
                if names.is_empty() {
                    self.labelled.remove(&*term);
                }
            }
        }
    }
}

fn resource(kind: Kind) -> ApiResource {
    let version = kind.api_version();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.name), kind.plural)
}

fn about(object: &DynamicObject) -> Touched {
    let owners = object.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|owner| owner.controller == Some(true));
    Touched {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        owner: owner.map(|owner| (owner.kind.clone(), owner.name.clone())),
    }
}

/// Without what nobody reads here.
fn trimmed(kind: Kind, mut object: DynamicObject) -> Value {
    object.metadata.annotations = object.metadata.annotations.take().filter(|_| ![POD, REPLICA_SET].contains(&kind));
    object.metadata.annotations.as_mut().map(|all| all.remove(APPLIED));
    let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
    let mut rest = object.data;
    if kind == POD {
        rest = pod(&rest);
    } else if kind == REPLICA_SET {
        rest["status"].take();
        // Ten old ones for each Deployment, and no pod to be told apart by them.
        if rest["spec"]["replicas"] == 0 {
            rest["spec"]["template"].take();
        }
    }
    let mut whole: Map<String, Value> = match rest {
        Value::Object(rest) => rest,
        _ => Map::new(),
    };
    whole.insert("metadata".into(), metadata);
    Value::Object(whole)
}

/// Of a pod: how it is, and what it is made of.
fn pod(data: &Value) -> Value {
    let pick = |from: &Value, fields: &[&str]| -> Value {
        fields
            .iter()
            .filter(|field| !from[**field].is_null())
            .map(|field| ((*field).to_owned(), from[*field].clone()))
            .collect::<Map<_, _>>()
            .into()
    };
    let each = |list: &Value, of: &dyn Fn(&Value) -> Value| -> Value { list.as_array().into_iter().flatten().map(of).collect() };
    let named = |key: &str| each(&data["spec"][key], &|one| pick(one, &["name"]));
    let statuses = |key: &str| {
        each(&data["status"][key], &|one| {
            let mut kept = pick(one, &["name", "imageID"]);
            if !one["state"]["waiting"].is_null() {
                kept["state"] = pick(&one["state"], &["waiting"]);
            }
            kept
        })
    };
    let mut status = pick(&data["status"], &["phase", "reason", "message", "podIP"]);
    let ready = data["status"]["conditions"].as_array().into_iter().flatten().filter(|one| one["type"] == "Ready");
    status["conditions"] = ready.map(|one| pick(one, &["type", "status", "lastTransitionTime"])).collect();
    status["containerStatuses"] = statuses("containerStatuses");
    status["initContainerStatuses"] = statuses("initContainerStatuses");
    json!({"spec": {"containers": named("containers"), "initContainers": named("initContainers")}, "status": status})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, labels: &Value) -> DynamicObject {
        let object = json!({"metadata": {"name": name, "namespace": "shop", "labels": labels}, "spec": {"replicas": 1}});
        serde_json::from_value(object).unwrap()
    }

    fn names(found: Option<Vec<Value>>) -> Option<Vec<String>> {
        Some(found?.iter().map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn what_was_packed_is_what_comes_out() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        // Of digests nothing can be left out, of nothing neither.
        let digests: Vec<String> = (0..200).map(|n: u32| crate::core::release::Digest::of(&n.to_le_bytes()).hex().to_owned()).collect();
        let dense: String = digests.concat().chars().filter(|c| *c != '0').collect();
        for value in [json!({}), json!({"same": vec!["labels"; 900]}), json!({"digests": digests}), json!(dense), Value::Null] {
            let kept = packer.pack(value.to_string().as_bytes());
            assert_eq!(unpacker.value(&kept), value);
        }
        assert!(packer.pack("labels ".repeat(90).as_bytes()).bytes.len() < 60);
    }

    #[test]
    fn lists_are_those_of_the_labels_and_nothing_is_answered_that_is_not_known() {
        let cache = Cache::default();
        let put = |object: DynamicObject| cache.write().put(DEPLOYMENT, &about(&object), Packer::default().object(DEPLOYMENT, object));
        put(object("a", &json!({"app": "checkout", "tier": "web"})));
        put(object("b", &json!({"app": "checkout"})));
        put(object("c", &json!({"app": "cart"})));
        assert_eq!(cache.list(DEPLOYMENT, "shop", "app=checkout"), None, "not listed yet");
        let listed = ["a", "b", "c"].map(|name| ("shop".to_owned(), name.to_owned())).into();
        cache.write().hold(DEPLOYMENT, Some("shop"), &listed);
        let list = |labels: &str| names(cache.list(DEPLOYMENT, "shop", labels));
        assert_eq!(list("app=checkout").unwrap(), ["a", "b"]);
        assert_eq!(list("app=checkout,tier=web").unwrap(), ["a"]);
        assert_eq!((list("").unwrap().len(), list("app=none").unwrap().len()), (3, 0));
        assert_eq!(list("app in (checkout)"), None, "the API server knows");
        assert_eq!(cache.list(DEPLOYMENT, "other", ""), None, "another namespace is not watched");
        assert_eq!(cache.list(POD, "shop", ""), None, "nor are pods");
        put(object("b", &json!({"app": "cart"})));
        assert_eq!((list("app=checkout").unwrap(), list("app=cart").unwrap().len()), (vec!["a".to_owned()], 2));
        // Listed again, what is not named is gone.
        cache.write().hold(DEPLOYMENT, Some("shop"), &[("shop".to_owned(), "b".to_owned())].into());
        assert_eq!(list("").unwrap(), ["b"]);
        assert_eq!(cache.get(DEPLOYMENT, "shop", "a"), Some(Value::Null));
        assert!(cache.get(DEPLOYMENT, "shop", "b").unwrap().is_object() && cache.get(POD, "shop", "b").is_none());
    }
}
