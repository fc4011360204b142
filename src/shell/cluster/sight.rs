//! What happens to workloads and their pods, told to the guards that it concerns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::world::kubernetes::Cluster;
use crate::world::kubernetes::cache::Touched;

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

    /// Watches workloads and pods in `namespaces` (everywhere if there are none) until `stop`.
    pub(super) fn watch(self: &Arc<Self>, cluster: &Cluster, namespaces: &[String], tasks: &mut JoinSet<()>, stop: &watch::Receiver<bool>) {
        for namespace in one_or_all(namespaces) {
            let (sight, cluster, namespace) = (Arc::clone(self), cluster.clone(), namespace.map(str::to_owned));
            let mut stop = stop.clone();
            tasks.spawn(async move {
                let client = cluster.housekeeping();
                cluster.cache().follow(client, namespace.as_deref(), |touched| sight.happened(touched), &mut stop).await;
            });
        }
    }

    fn happened(&self, touched: &Touched) {
        match &touched.owner {
            Some((kind, name)) if kind == "ReplicaSet" => {
                let deployment = name.rsplit_once('-').map_or(name.as_str(), |(deployment, _)| deployment);
                self.ring(&touched.namespace, deployment);
            }
            Some((_, name)) => self.ring(&touched.namespace, name),
            None => self.ring(&touched.namespace, &touched.name),
        }
    }
}

/// Each of the namespaces, or all at once.
pub(super) fn one_or_all(namespaces: &[String]) -> Vec<Option<&str>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|namespace| Some(namespace.as_str())).collect() }
}
