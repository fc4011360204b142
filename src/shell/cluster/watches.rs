//! Watches of what people write for backstop.

use futures::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::books::key_of;
use super::sight::one_or_all;
use crate::spec::document::Kind;
use crate::world::kubernetes::lean::{Lean, PAGE};
use crate::world::kubernetes::objects::resource;

/// The admission policy that stamps who changes a template.
const STAMP: &str = "backstop-stamp";

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A document is there, or has changed.
    Applied(Kind, Box<DynamicObject>),
    /// A document is gone.
    Gone(Kind, String),
    /// A list is complete: what it does not name is gone. With the scope that was listed.
    Listed(Kind, Option<String>, Vec<String>),
    /// The freezes of wider scopes.
    Frozen(std::collections::BTreeMap<String, String>),
}

/// Watches every kind of document. Objects come as they are: one that cannot be read stops no watch.
pub(super) fn start(
    client: &Client,
    system: &str,
    namespaces: &[String],
    tell: &mpsc::Sender<Told>,
    tasks: &mut JoinSet<()>,
    stop: &watch::Receiver<bool>,
) {
    for namespace in one_or_all(namespaces) {
        let resource = resource(Kind::GuardedRollout.name());
        let api: Api<Lean> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        tasks.spawn(follow(api, Kind::GuardedRollout, namespace.map(str::to_owned), tell.clone(), stop.clone()));
    }
    for kind in [Kind::GuardPolicy, Kind::GuardSource, Kind::FlagTarget] {
        let api = Api::all_with(client.clone(), &resource(kind.name()));
        tasks.spawn(follow(api, kind, None, tell.clone(), stop.clone()));
    }
    tasks.spawn(freezes(Api::namespaced(client.clone(), system), tell.clone(), stop.clone()));
}

async fn follow(api: Api<Lean>, kind: Kind, scope: Option<String>, tell: mpsc::Sender<Told>, mut stop: watch::Receiver<bool>) {
    let mut events = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff().boxed();
    let mut listed = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stop.changed() => return,
        };
        let told = match event {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(%kind, %error, "a watch broke; it begins again");
                continue;
            }
            Some(Ok(Event::Init)) => {
                listed.clear();
                continue;
            }
            Some(Ok(Event::InitApply(Lean(object)))) => {
                listed.push(key_of(&object));
                Told::Applied(kind, Box::new(object))
            }
            Some(Ok(Event::InitDone)) => Told::Listed(kind, scope.clone(), std::mem::take(&mut listed)),
            Some(Ok(Event::Apply(Lean(object)))) => Told::Applied(kind, Box::new(object)),
            Some(Ok(Event::Delete(Lean(object)))) => Told::Gone(kind, key_of(&object)),
        };
        if tell.send(told).await.is_err() {
            return;
        }
    }
}

async fn freezes(api: Api<ConfigMap>, tell: mpsc::Sender<Told>, mut stop: watch::Receiver<bool>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", crate::world::kubernetes::freezes::NAME));
    let mut events = watcher(api, config).default_backoff().boxed();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stop.changed() => return,
        };
        let frozen = match event {
            None => return,
            Some(Ok(Event::Apply(map) | Event::InitApply(map))) => map.data.unwrap_or_default(),
            Some(Ok(Event::Delete(_))) => std::collections::BTreeMap::new(),
            Some(Ok(Event::Init | Event::InitDone)) => continue,
            Some(Err(error)) => {
                tracing::warn!(%error, "the watch of freezes broke; it begins again");
                continue;
            }
        };
        if tell.send(Told::Frozen(frozen)).await.is_err() {
            return;
        }
    }
}

/// Whether the API server stamps who changes a template: Kubernetes from 1.36 on, with backstop's policy.
pub(super) async fn is_stamped(client: &Client) -> bool {
    let api: Api<MutatingAdmissionPolicy> = Api::all(client.clone());
    matches!(api.get_opt(STAMP).await, Ok(Some(_)))
}

/// Tells when that changes.
pub(super) async fn stamps(client: Client, stamped: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(std::time::Duration::from_secs(30)) => {}
            _ = stop.changed() => return,
        }
        let now = is_stamped(&client).await;
        stamped.send_if_modified(|known| (*known != now).then(|| *known = now).is_some());
    }
}
