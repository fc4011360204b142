//! Objects as the API server keeps them: read whole, patched by what differs.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Request;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::cache::Cache;
use super::edit::Edit;
use super::lean::Tree;
use super::objects::{FIELD_MANAGER, is_passing};
use crate::core::input::Outcome;
use crate::core::time::Span;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How often a write that lost a race is tried again at once.
const RACES: usize = 8;

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    group: &'static str,
    pub(super) plural: &'static str,
}

impl Kind {
    const fn new(name: &'static str, group: &'static str, plural: &'static str) -> Self {
        Self { name, group, plural }
    }

    /// `apiVersion` of its objects.
    pub(super) fn api_version(self) -> &'static str {
        self.group.trim_start_matches("apis/").trim_start_matches("api/")
    }
}

pub(super) const DEPLOYMENT: Kind = Kind::new("Deployment", "apis/apps/v1", "deployments");
pub(super) const STATEFUL_SET: Kind = Kind::new("StatefulSet", "apis/apps/v1", "statefulsets");
pub(super) const DAEMON_SET: Kind = Kind::new("DaemonSet", "apis/apps/v1", "daemonsets");
pub(super) const REPLICA_SET: Kind = Kind::new("ReplicaSet", "apis/apps/v1", "replicasets");
pub(super) const REVISION: Kind = Kind::new("ControllerRevision", "apis/apps/v1", "controllerrevisions");
pub(super) const POD: Kind = Kind::new("Pod", "api/v1", "pods");
pub(super) const SERVICE: Kind = Kind::new("Service", "api/v1", "services");
pub(super) const SCALER: Kind = Kind::new("HorizontalPodAutoscaler", "apis/autoscaling/v2", "horizontalpodautoscalers");
pub(super) const HTTP_ROUTE: Kind = Kind::new("HTTPRoute", "apis/gateway.networking.k8s.io/v1", "httproutes");
pub(super) const GRPC_ROUTE: Kind = Kind::new("GRPCRoute", "apis/gateway.networking.k8s.io/v1", "grpcroutes");
pub(super) const VIRTUAL_SERVICE: Kind = Kind::new("VirtualService", "apis/networking.istio.io/v1", "virtualservices");

/// Why the API server did not do as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not now: 429, 5xx, no connection, no answer to a read.
    #[error("{what}")]
    Passing {
        /// What happened.
        what: String,
        /// When to try again, if it said so.
        after: Option<Duration>,
    },
    /// A write got no answer: it may have happened.
    #[error("{0}")]
    Lost(String),
    /// 401 and 403.
    #[error("{0}")]
    Denied(String),
    /// Something else was written in between, or what was to be made is there.
    #[error("{0}")]
    Conflict(String),
    /// Any other answer.
    #[error("{0}")]
    Refused(String),
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Passing { what, after } => Self::Transient { what, retry_after: after.map(Span) },
            Fault::Conflict(what) => Self::Transient { what, retry_after: None },
            Fault::Lost(what) => Self::Unknown(what),
            Fault::Denied(what) => Self::Denied(what),
            Fault::Refused(what) => Self::Invalid(what),
        }
    }
}

/// The objects of one namespace.
#[derive(Clone)]
pub(super) struct Objects {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// Whether writes are tried and not kept.
    pub(super) dry_run: bool,
    /// What watches have told.
    pub(super) cache: Arc<Cache>,
}

impl Objects {
    fn request(&self, kind: Kind) -> Request {
        Request::new(format!("/{}/namespaces/{}/{}", kind.group, self.namespace, kind.plural))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        what: &str,
        writes: bool,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Fault> {
        let request = request.map_err(|error| Fault::Refused(format!("{what}: {error}")))?;
        match tokio::time::timeout(REQUEST, self.client.request(request)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(fault(what, writes, &error)),
            Err(_) if writes => Err(Fault::Lost(format!("{what}: the API server did not answer within {REQUEST:?}"))),
            Err(_) => Err(Fault::Passing { what: format!("{what}: the API server did not answer within {REQUEST:?}"), after: None }),
        }
    }

    /// An object, if there is one of that name.
    pub(super) async fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, Fault> {
        let what = format!("{} {name}", kind.name);
        let request = self.request(kind).get(name, &GetParams::default()).map_err(|error| Fault::Refused(format!("{what}: {error}")))?;
        match tokio::time::timeout(REQUEST, self.client.request(request)).await {
            Ok(Ok(Tree(object))) => Ok(Some(object)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(error)) => Err(fault(&what, false, &error)),
            Err(_) => Err(Fault::Passing { what: format!("{what}: the API server did not answer within {REQUEST:?}"), after: None }),
        }
    }

    /// The same as watches have told it, if they have.
    pub(super) async fn told(&self, kind: Kind, name: &str) -> Result<Option<Value>, Fault> {
        match self.cache.get(kind, &self.namespace, name) {
            Some(told) => Ok(Some(told).filter(Value::is_object)),
            None => self.get(kind, name).await,
        }
    }

    /// The objects with these labels, as watches have told them, or as they are now.
    pub(super) async fn list(&self, kind: Kind, labels: &str) -> Result<Vec<Value>, Fault> {
        if let Some(told) = self.cache.list(kind, &self.namespace, labels) {
            return Ok(told);
        }
        let mut list: Value =
            self.send(&format!("the {}", kind.plural), false, self.request(kind).list(&ListParams::default().labels(labels))).await?;
        Ok(match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        })
    }

    /// Makes an object, and returns it as it was kept. One of that name that is there already is a conflict.
    pub(super) async fn create(&self, kind: Kind, object: &Value) -> Result<Value, Fault> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let data = serde_json::to_vec(object).map_err(|error| Fault::Refused(error.to_string()))?;
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: self.dry_run };
        let made = self.send(&format!("{} {name}", kind.name), true, self.request(kind).create(&parameters, data)).await;
        made.map(|Tree(object)| object)
    }

    /// Deletes exactly this object, with what it owns.
    pub(super) async fn delete(&self, kind: Kind, object: &Value) -> Result<(), Fault> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
        let parameters = DeleteParams {
            dry_run: self.dry_run,
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        let what = format!("{} {name}", kind.name);
        let request = self.request(kind).delete(name, &parameters).map_err(|error| Fault::Refused(format!("{what}: {error}")))?;
        match tokio::time::timeout(REQUEST, self.client.request::<IgnoredAny>(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(fault(&what, true, &error)),
            Err(_) => Err(Fault::Lost(format!("{what}: the API server did not answer within {REQUEST:?}"))),
        }
    }

    /// Reads an object, has `change` say what must differ, writes that, and compares what the API server kept. The object as it is
    /// then, and whether it had to be written.
    pub(super) async fn rewrite(
        &self,
        kind: Kind,
        name: &str,
        mut change: impl FnMut(&Value, &mut Edit) -> Result<(), Outcome>,
    ) -> Result<(Value, bool), Outcome> {
        let what = format!("{} {name}", kind.name);
        let (mut lost, mut written) = (String::new(), false);
        for _ in 0..RACES {
            let found = self.get(kind, name).await?;
            let object = found.ok_or_else(|| Outcome::Invalid(format!("there is no {what} in namespace {}", self.namespace)))?;
            let mut edit = Edit::of(&object);
            change(&object, &mut edit)?;
            if edit.is_empty() {
                return Ok((object, written));
            }
            let changed = edit.changes();
            match self.patch(kind, name, edit).await {
                // What was not kept cannot be read again.
                Ok(kept) if self.dry_run => return Ok((kept, changed)),
                Ok(kept) => {
                    let mut rest = Edit::of(&kept);
                    change(&kept, &mut rest)?;
                    written |= changed;
                    if rest.is_empty() {
                        return Ok((kept, written));
                    }
                    // An admission policy may pause what changes a template: that is a second write.
                    lost = format!("changed on its way in: {}", rest.pointers());
                }
                Err(Fault::Conflict(said)) => lost = said,
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(Outcome::Transient { what: format!("{what} cannot be kept as it is wanted: {lost}"), retry_after: None })
    }

    async fn patch(&self, kind: Kind, name: &str, edit: Edit) -> Result<Value, Fault> {
        let kept = self.patch_with(kind, name, edit, PatchParams { dry_run: self.dry_run, ..PatchParams::default() }).await;
        kept.map(|Tree(object)| object)
    }

    /// Whether the API server, and every admission policy in it, would take this: all of the write but keeping it.
    pub(super) async fn would_take(&self, kind: Kind, name: &str, edit: Edit) -> Result<(), Fault> {
        let taken: Result<IgnoredAny, Fault> =
            self.patch_with(kind, name, edit, PatchParams { dry_run: true, ..PatchParams::default() }).await;
        taken.map(drop)
    }

    async fn patch_with<T: DeserializeOwned>(&self, kind: Kind, name: &str, edit: Edit, parameters: PatchParams) -> Result<T, Fault> {
        let patch = serde_json::from_value(edit.into_patch()).map_err(|error| Fault::Refused(error.to_string()))?;
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..parameters };
        self.send(&format!("{} {name}", kind.name), true, self.request(kind).patch(name, &parameters, &Patch::<()>::Json(patch))).await
    }
}

fn fault(what: &str, writes: bool, error: &kube::Error) -> Fault {
    match error {
        kube::Error::Api(status) => {
            let said = format!("{what}: {} {}", status.code, status.message);
            match status.code {
                401 | 403 => Fault::Denied(said),
                409 => Fault::Conflict(said),
                // How the API server says that a `test` of a JSON patch does not hold.
                422 if status.message.contains("rejected our request") => Fault::Conflict(said),
                429 | 500.. => {
                    let after = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
                    Fault::Passing { what: said, after: after.map(|seconds| Duration::from_secs(u64::from(seconds))) }
                }
                _ => Fault::Refused(said),
            }
        }
        error if is_passing(error) && writes => Fault::Lost(format!("{what}: {error}")),
        error if is_passing(error) => Fault::Passing { what: format!("{what}: {error}"), after: None },
        error => Fault::Refused(format!("{what}: {error}")),
    }
}
