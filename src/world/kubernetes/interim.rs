//! Until `act` is merged: sees a Deployment, and puts templates back.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::{Cluster, Member, Seen, SeenTemplate};
use crate::core::input::{ArmHealth, Observation, Observed, Outcome};
use crate::core::json::Json;
use crate::core::release::{Pod as PodTemplate, Release, Template};
use crate::core::spec::Percent;
use crate::core::state::Guard;
use crate::core::work::{Action, Effect, Lane};
use crate::world::perform::Subjects;

fn release(template: &serde_json::Value) -> Result<Release, String> {
    let json: Json = serde_json::from_value(template.clone()).map_err(|error| error.to_string())?;
    Ok(Release::new(Template::Pod(PodTemplate::new(json).map_err(|error| error.to_string())?), None))
}

pub(super) async fn see(cluster: &Cluster, guard: &Guard, _known: &[Release]) -> Result<Seen, String> {
    let (namespace, _) = guard.key.split_once('/').unwrap_or_default();
    let name = guard.spec.workload.object().map_or("", |(_, name)| name);
    let client = cluster.client(Lane::Forward);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let Some(found) = deployments.get_opt(name).await.map_err(|error| error.to_string())? else {
        return Ok(Seen { observed: Observed::default(), spec: None, members: BTreeMap::new() });
    };
    let whole = serde_json::to_value(&found).map_err(|error| error.to_string())?;
    let release = release(&whole["spec"]["template"]);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labels = whole["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let pods = pods.list(&ListParams::default().labels(&selector.join(","))).await.map_err(|error| error.to_string())?;
    let mut observed = Observed::default();
    let mut members = BTreeMap::new();
    if let Ok(release) = &release {
        let ready = pods.items.iter().filter(|pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True")
        });
        let health = ArmHealth {
            wanted: u16::try_from(whole["spec"]["replicas"].as_u64().unwrap_or(1)).unwrap_or(u16::MAX),
            ready: u16::try_from(ready.count()).unwrap_or(u16::MAX),
            failing: None,
        };
        observed.arms.insert(release.id.clone(), health);
        observed.weights.insert(release.id.clone(), Percent::FULL);
        observed.current = Some(release.id.clone());
        let of = pods.items.iter().map(|pod| Member { pod: pod.metadata.name.clone().unwrap_or_default(), ip: None, hash: None }).collect();
        members.insert(release.id.clone(), of);
    }
    let annotations = found.metadata.annotations.unwrap_or_default();
    let own = annotations.get("backstop.dev/wrote").is_some_and(|wrote| release.as_ref().is_ok_and(|release| release.id.0 == *wrote));
    let spec = Some(SeenTemplate { release, requester: annotations.get("backstop.dev/requester").cloned(), own });
    Ok(Seen { observed, spec, members })
}

pub(super) async fn ensure(cluster: &Cluster, subjects: &Subjects, effect: &Effect) -> Outcome {
    let done = |changed| Outcome::Done { changed, observed: Observation::Nothing };
    let Action::EnsureRelease { release } = &effect.action else { return done(false) };
    let Template::Pod(pod) = &release.template else { return Outcome::Invalid("no pod".into()) };
    let (namespace, _) = subjects.guard.key.split_once('/').unwrap_or_default();
    let name = subjects.guard.spec.workload.object().map_or("", |(_, name)| name);
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(effect.lane).clone(), namespace);
    let patch = json!([
        {"op": "replace", "path": "/spec/template", "value": pod.template()},
        {"op": "add", "path": "/metadata/annotations/backstop.dev~1wrote", "value": release.id.0},
    ]);
    let Ok(patch) = serde_json::from_value(patch) else { return Outcome::Invalid("patch".into()) };
    match deployments.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await {
        Ok(_) => done(true),
        Err(error) => Outcome::Transient { what: error.to_string(), retry_after: None },
    }
}
