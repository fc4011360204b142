//! A guarded workload, its copies, and which release runs where.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Cluster;
use super::api::{DAEMON_SET, DEPLOYMENT, Fault, Kind, Objects, REPLICA_SET, REVISION, SERVICE, STATEFUL_SET};
use crate::core::input::Outcome;
use crate::core::json::Json;
use crate::core::release::{Pod, Release, ReleaseId, Template};
use crate::core::spec::{Route, Strategy};
use crate::core::state::Guard;
use crate::core::work::Effect;
use crate::world::perform::Subjects;

/// On a copy and its pods: the name of the guarded Deployment.
pub(super) const OF: &str = "backstop.dev/of";
/// On a copy and its pods: `candidate` or `baseline`.
pub(super) const ARM: &str = "backstop.dev/arm";
/// On a copy and its pods: the release.
pub(super) const RELEASE: &str = "backstop.dev/release";
/// On the workload: the release whose template backstop wrote last.
pub(super) const WROTE: &str = "backstop.dev/wrote";
/// Stamped by the API server when a template changes.
pub(super) const STAMPS: [&str; 3] = ["backstop.dev/requester", "backstop.dev/requester-uid", "backstop.dev/credential-id"];

/// What an effect is about.
pub(super) struct Workload<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) objects: Objects,
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    pub(super) subjects: &'a Subjects,
    pub(super) effect: &'a Effect,
}

/// Kind, namespace and name of a guard's workload.
pub(super) fn place(guard: &Guard) -> Option<(Kind, &str, &str)> {
    let (namespace, _) = guard.key.split_once('/')?;
    let (kind, name) = guard.spec.workload.object()?;
    let kinds = [DEPLOYMENT, STATEFUL_SET, DAEMON_SET];
    Some((kinds.into_iter().find(|known| known.name == kind)?, namespace, name))
}

/// What moves a guard's traffic; nothing where nothing is driven.
pub(super) fn route(guard: &Guard) -> Option<&Route> {
    match guard.spec.strategy {
        Strategy::Observe(_) => None,
        Strategy::Canary(_) | Strategy::BlueGreen(_) => guard.spec.strategy.route(),
    }
}

impl<'a> Workload<'a> {
    pub(super) fn new(cluster: &'a Cluster, subjects: &'a Subjects, effect: &'a Effect) -> Result<Self, Outcome> {
        let (kind, namespace, name) =
            place(&subjects.guard).ok_or_else(|| Outcome::Invalid(format!("{} guards no workload of Kubernetes", subjects.guard.key)))?;
        let objects = Objects {
            client: cluster.client(effect.lane).clone(),
            namespace: namespace.to_owned(),
            dry_run: cluster.dry_run,
            cache: Arc::clone(&cluster.cache),
        };
        Ok(Self { cluster, objects, kind, name, subjects, effect })
    }

    /// What moves its traffic; nothing where nothing is driven.
    pub(super) fn route(&self) -> Option<&'a Route> {
        route(&self.subjects.guard)
    }

    /// The guarded object.
    pub(super) async fn read(&self) -> Result<Value, Outcome> {
        let found = self.objects.get(self.kind, self.name).await?;
        found.ok_or_else(|| Outcome::Transient { what: format!("there is no {} {}", self.kind.name, self.name), retry_after: None })
    }

    /// Its copies.
    pub(super) async fn copies(&self) -> Result<Vec<Value>, Fault> {
        let (object, copies) = futures::try_join!(self.objects.told(self.kind, self.name), copies(&self.objects, self.kind, self.name))?;
        // Anybody may write a label; that the workload owns it is backstop's word.
        Ok(object.map_or_else(Vec::new, |object| owned(copies, &object)))
    }

    /// How the copy of a Deployment with this arm is called first.
    pub(super) fn copy_name(&self, arm: &str) -> String {
        format!("{}-{arm}", self.name)
    }

    /// Whether a Service of this name is a copy's.
    pub(super) fn is_copy(&self, service: &str) -> bool {
        ["candidate", "baseline"].iter().any(|arm| {
            let rest = service.strip_prefix(&self.copy_name(arm));
            rest.is_some_and(|rest| rest.is_empty() || (rest.len() == 9 && rest.starts_with('-')))
        })
    }

    /// The Services that send requests to the workload's own pods.
    pub(super) async fn services(&self, object: &Value) -> Result<Vec<Value>, Fault> {
        let labels = &object["spec"]["template"]["metadata"]["labels"];
        let mut services = self.objects.list(SERVICE, "").await?;
        services.retain(|service| {
            let selector = service["spec"]["selector"].as_object();
            selector.is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value))
        });
        Ok(services)
    }

    /// The record of a release.
    pub(super) fn known(&self, id: &ReleaseId) -> Option<&Release> {
        self.subjects.ledger.iter().map(|record| &record.release).find(|release| release.id == *id)
    }

    /// The releases whose members the workload's own sets want, with how many, of a Deployment.
    pub(super) async fn own_sets(&self, object: &Value) -> Result<Vec<(ReleaseId, u64, Value)>, Fault> {
        let sets = self.objects.list(REPLICA_SET, &selector(object)).await?;
        let owned = sets.into_iter().filter(|set| is_owned(set, uid(object)));
        Ok(owned
            .filter_map(|set| Some((release(&set["spec"]["template"]).ok()?.id, set["spec"]["replicas"].as_u64().unwrap_or(0), set)))
            .collect())
    }
}

/// What says of itself that it is a copy of this Deployment.
pub(super) async fn copies(objects: &Objects, kind: Kind, name: &str) -> Result<Vec<Value>, Fault> {
    if kind == DEPLOYMENT { objects.list(DEPLOYMENT, &format!("{OF}={name}")).await } else { Ok(Vec::new()) }
}

/// Those of the copies that the workload owns.
pub(super) fn owned(mut copies: Vec<Value>, object: &Value) -> Vec<Value> {
    copies.retain(|copy| copy["metadata"]["deletionTimestamp"].is_null() && is_owned(copy, uid(object)));
    copies
}

/// The release that runs in a copy.
pub(super) fn release_of(copy: &Value) -> Option<ReleaseId> {
    release(&copy["spec"]["template"]).ok().map(|release| release.id)
}

pub(super) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn is_owned(object: &Value, owner: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    owners.iter().any(|one| one["controller"] == true && one["uid"] == owner)
}

/// The release that a pod template is, as it stands in a workload, a `ReplicaSet` or a copy.
///
/// # Errors
/// It is none that could be guarded: it names an image by tag, say.
pub(super) fn release(template: &Value) -> Result<Release, String> {
    let mut template = template.clone();
    for key in ["pod-template-hash", "controller-revision-hash"] {
        template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut).map(|labels| labels.remove(key));
    }
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    let json: Json = serde_json::from_value(template).map_err(|error| error.to_string())?;
    let pod = Pod::new(json).map_err(|error| error.to_string())?;
    Ok(Release::new(Template::Pod(pod), None))
}

/// The label selector of a workload, as a query.
pub(super) fn selector(object: &Value) -> String {
    let selector = &object["spec"]["selector"];
    let mut terms: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for term in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = term["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        terms.push(match term["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

/// Which release each set of a workload and its copies runs, by the uid of what owns the pods, or the revision that pods name.
pub(super) async fn revisions(objects: &Objects, object: &Value) -> Result<BTreeMap<String, Release>, Fault> {
    let found = objects.list(REVISION, &selector(object)).await?;
    let mut releases = BTreeMap::new();
    for revision in found.iter().filter(|revision| is_owned(revision, uid(object))) {
        if let Ok(release) = release(&revision["data"]["spec"]["template"]) {
            let label = revision["metadata"]["labels"]["controller-revision-hash"].as_str().unwrap_or_default();
            for key in [name(revision), label] {
                releases.insert(key.to_owned(), release.clone());
            }
        }
    }
    Ok(releases)
}
