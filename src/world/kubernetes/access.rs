//! Reading and patching objects as they are, so that no field that this program does not know is lost.

use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value as Json, json};

use super::answer::Fault;
use super::objects::FIELD_MANAGER;

/// A kind of object: group and version, kind, plural.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(pub(super) &'static str, pub(super) &'static str, pub(super) &'static str);

pub(super) const DEPLOYMENT: Kind = Kind("apps/v1", "Deployment", "deployments");
pub(super) const STATEFUL_SET: Kind = Kind("apps/v1", "StatefulSet", "statefulsets");
pub(super) const DAEMON_SET: Kind = Kind("apps/v1", "DaemonSet", "daemonsets");
pub(super) const REPLICA_SET: Kind = Kind("apps/v1", "ReplicaSet", "replicasets");
pub(super) const REVISION: Kind = Kind("apps/v1", "ControllerRevision", "controllerrevisions");
pub(super) const SERVICE: Kind = Kind("v1", "Service", "services");
pub(super) const AUTOSCALER: Kind = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers");
pub(super) const HTTP_ROUTE: Kind = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes");
pub(super) const GRPC_ROUTE: Kind = Kind("gateway.networking.k8s.io/v1", "GRPCRoute", "grpcroutes");
pub(super) const VIRTUAL_SERVICE: Kind = Kind("networking.istio.io/v1", "VirtualService", "virtualservices");

/// The objects of one namespace, through one lane's client.
#[derive(Clone)]
pub(super) struct Access {
    client: Client,
    pub(super) namespace: String,
}

impl Access {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned() }
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        let (group, version) = kind.0.split_once('/').unwrap_or(("", kind.0));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: kind.0.to_owned(),
            kind: kind.1.to_owned(),
            plural: kind.2.to_owned(),
        };
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// The typed objects of a namespace.
    pub(super) fn typed<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// An object as JSON; none if it is not there.
    pub(super) async fn get(&self, kind: Kind, name: &str) -> Result<Option<Json>, Fault> {
        let found = self.api(kind).get_opt(name).await?;
        found.map(|object| serde_json::to_value(object).map_err(|error| Fault::Api(kube::Error::SerdeError(error)))).transpose()
    }

    /// An object that must be there.
    pub(super) async fn must(&self, kind: Kind, name: &str) -> Result<Json, Fault> {
        let missing = || Fault::Invalid(format!("there is no {} {}/{name}", kind.1, self.namespace));
        self.get(kind, name).await?.ok_or_else(missing)
    }

    /// The objects with these labels, from the API server's cache.
    pub(super) async fn list(&self, kind: Kind, labels: &str) -> Result<Vec<Json>, Fault> {
        let all = self.api(kind).list(&ListParams::default().labels(labels).match_any()).await?;
        let read = |object: DynamicObject| serde_json::to_value(object).map_err(|error| Fault::Api(kube::Error::SerdeError(error)));
        all.items.into_iter().map(read).collect()
    }

    /// The same as they are at this moment.
    pub(super) async fn list_now(&self, kind: Kind, labels: &str) -> Result<Vec<Json>, Fault> {
        let all = self.api(kind).list(&ListParams::default().labels(labels)).await?;
        let read = |object: DynamicObject| serde_json::to_value(object).map_err(|error| Fault::Api(kube::Error::SerdeError(error)));
        all.items.into_iter().map(read).collect()
    }

    /// Makes an object; `Raced` if it is there already.
    pub(super) async fn create(&self, kind: Kind, object: &Json) -> Result<(), Fault> {
        let object: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|error| Fault::Invalid(format!("a {} cannot be written: {error}", kind.1)))?;
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.api(kind).create(&parameters, &object).await?;
        Ok(())
    }

    /// Deletes this very object; fine if it is gone.
    pub(super) async fn delete(&self, kind: Kind, object: &Json) -> Result<(), Fault> {
        let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
        let parameters = DeleteParams::background().preconditions(Preconditions { uid, resource_version: None });
        match self.api(kind).delete(name(object), &parameters).await {
            Ok(_) => Ok(()),
            Err(error) if super::objects::is_missing(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Patches an object and returns it as it is then. `dry` lets the API server do all but keep it.
    pub(super) async fn patch(&self, kind: Kind, name: &str, edits: Edits, dry: bool) -> Result<Json, Fault> {
        let patch: json_patch::Patch = serde_json::from_value(Json::from(edits.0))
            .map_err(|error| Fault::Invalid(format!("a patch of {} {name} cannot be written: {error}", kind.1)))?;
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), dry_run: dry, ..PatchParams::default() };
        let object = self.api(kind).patch(name, &parameters, &Patch::Json::<()>(patch)).await?;
        serde_json::to_value(object).map_err(|error| Fault::Api(kube::Error::SerdeError(error)))
    }
}

/// The edits of one JSON patch (RFC 6902): each says what it replaces, and none happens if one does not fit.
#[derive(Debug, Clone, Default)]
pub(super) struct Edits(Vec<Json>);

impl Edits {
    /// Puts `new` where `old` is now; `None` is no value. The parent must be there.
    pub(super) fn set(&mut self, path: &str, old: Option<&Json>, new: Option<&Json>) {
        match (old, new) {
            (Some(old), Some(new)) if old != new => {
                self.0.push(json!({"op": "test", "path": path, "value": old}));
                self.0.push(json!({"op": "replace", "path": path, "value": new}));
            }
            (Some(old), None) => {
                self.0.push(json!({"op": "test", "path": path, "value": old}));
                self.0.push(json!({"op": "remove", "path": path}));
            }
            (None, Some(new)) => self.0.push(json!({"op": "add", "path": path, "value": new})),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// Sets an annotation of `object`.
    pub(super) fn annotate(&mut self, object: &Json, key: &str, value: Option<&str>) {
        let before = object["metadata"]["annotations"].get(key);
        let value = value.map(Json::from);
        if object["metadata"]["annotations"].is_object() || self.0.iter().any(|edit| edit["path"] == "/metadata/annotations") {
            self.set(&format!("/metadata/annotations/{}", escape(key)), before, value.as_ref());
        } else if let Some(value) = value {
            self.0.push(json!({"op": "add", "path": "/metadata/annotations", "value": {key: value}}));
        }
    }

    /// Whether there is anything to do.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only if `value` is there now.
    pub(super) fn expect(&mut self, path: &str, value: &Json) {
        self.0.push(json!({"op": "test", "path": path, "value": value}));
    }
}

/// A key as a part of a JSON pointer (RFC 6901).
pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// An object's name.
pub(super) fn name(object: &Json) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// An annotation of an object.
pub(super) fn annotation<'a>(object: &'a Json, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(key)?.as_str()
}

/// A whole number in an object.
pub(super) fn number(value: &Json) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

/// `a=b,c=d` of a map of labels.
pub(super) fn selector(labels: &Json) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// Whether a selector's labels are all among `labels`; an empty selector selects nothing.
pub(super) fn selects(selector: &Json, labels: &Json) -> bool {
    selector.as_object().is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}
