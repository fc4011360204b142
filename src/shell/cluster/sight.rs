//! What happens to workloads and their pods, told to the guards that it concerns. Metadata is enough to know that something happened.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt as _};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// What backstop's own copies of a workload end in.
const ARMS: [&str; 2] = ["-candidate", "-baseline"];

/// Namespace and name of a workload.
type Place = (String, String);

/// The bells of the guards, by workload.
#[derive(Debug, Default)]
pub(super) struct Sight(Mutex<BTreeMap<Place, BTreeMap<String, Arc<Notify>>>>);

impl Sight {
    fn bells(&self) -> MutexGuard<'_, BTreeMap<Place, BTreeMap<String, Arc<Notify>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bell of a guard, rung when something happens to its workload.
    pub(super) fn follow(&self, namespace: &str, workload: &str, guard: &str) -> Arc<Notify> {
        let mut bells = self.bells();
        let of_workload = bells.entry((namespace.to_owned(), workload.to_owned())).or_default();
        Arc::clone(of_workload.entry(guard.to_owned()).or_default())
    }

    /// A guard looks no more.
    pub(super) fn forget(&self, guard: &str) {
        self.bells().retain(|_, guards| {
            guards.remove(guard);
            !guards.is_empty()
        });
    }

    fn ring(&self, namespace: &str, workload: &str) {
        let bare = ARMS.iter().find_map(|arm| workload.strip_suffix(arm)).unwrap_or(workload);
        let bells = self.bells();
        for name in [workload, bare] {
            if let Some(guards) = bells.get(&(namespace.to_owned(), name.to_owned())) {
                for bell in guards.values() {
                    bell.notify_one();
                }
            }
        }
    }

    /// Watches every kind of workload, and pods, in `namespaces` (everywhere if there are none), until `stop`.
    pub(super) fn watch(self: &Arc<Self>, client: &Client, namespaces: &[String], tasks: &mut JoinSet<()>, stop: &watch::Receiver<bool>) {
        for namespace in one_or_all(namespaces) {
            self.watch_kind::<Deployment>(client, namespace, tasks, stop);
            self.watch_kind::<StatefulSet>(client, namespace, tasks, stop);
            self.watch_kind::<DaemonSet>(client, namespace, tasks, stop);
            self.watch_kind::<Pod>(client, namespace, tasks, stop);
        }
    }

    fn watch_kind<K>(self: &Arc<Self>, client: &Client, namespace: Option<&str>, tasks: &mut JoinSet<()>, stop: &watch::Receiver<bool>)
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let (sight, mut stop) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = stop.changed() => return,
                };
                match event {
                    Some(Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object))) => sight.happened(&object),
                    Some(Ok(Event::Init | Event::InitDone)) => {}
                    Some(Err(error)) => tracing::warn!(kind = %K::kind(&()), %error, "a watch broke; it begins again"),
                    None => return,
                }
            }
        });
    }

    fn happened<K: Resource<DynamicType = ()>>(&self, object: &PartialObjectMeta<K>) {
        let namespace = object.namespace().unwrap_or_default();
        let owner = object.owner_references().iter().find(|owner| owner.controller == Some(true));
        match owner {
            Some(owner) if owner.kind == "ReplicaSet" => {
                let deployment = owner.name.rsplit_once('-').map_or(owner.name.as_str(), |(deployment, _)| deployment);
                self.ring(&namespace, deployment);
            }
            Some(owner) => self.ring(&namespace, &owner.name),
            None => self.ring(&namespace, &object.name_any()),
        }
    }
}

/// Each of the namespaces, or all at once.
pub(super) fn one_or_all(namespaces: &[String]) -> Vec<Option<&str>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|namespace| Some(namespace.as_str())).collect() }
}
