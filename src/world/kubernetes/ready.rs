//! Whether a revert would work now: everything that can be asked without changing anything, before it is needed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::join;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, ListParams, PostParams};
use serde_json::Value as Json;

use super::api::{DEPLOYMENT, Fault, Objects};
use super::edit::Edit;
use super::workload::{place, release as release_in};
use super::{Cluster, traffic};
use crate::core::release::{Release, Template};
use crate::core::spec::Route;
use crate::core::state::Guard;
use crate::core::work::Lane;
use crate::spec::install::access::{Place, TABLE};
use crate::world::clock;
use crate::world::perform::Subjects;

/// How long an answer counts for the other guards of a namespace, too: hundreds are proven each minute.
const HOLDS: Duration = Duration::from_secs(5);

/// What was answered lately.
#[derive(Default)]
pub(super) struct Answered {
    /// Rights that are missing, by namespace and resources.
    rights: Held<(String, Vec<&'static str>), Vec<String>>,
    /// Quotas by namespace.
    quotas: Held<String, Arc<Vec<ResourceQuota>>>,
}

/// Answers with when they were asked for.
struct Held<K, V>(tokio::sync::Mutex<BTreeMap<K, (Instant, V)>>);

impl<K, V> Default for Held<K, V> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::default())
    }
}

impl<K: Ord, V: Clone> Held<K, V> {
    /// The answer of lately, or of now.
    async fn answer<E, F: Future<Output = Result<V, E>>>(&self, asked: K, ask: impl FnOnce() -> F) -> Result<V, E> {
        let mut held = self.0.lock().await;
        let now = clock::instant();
        held.retain(|_, (at, _)| now.saturating_duration_since(*at) < HOLDS);
        if let Some((_, answer)) = held.get(&asked) {
            return Ok(answer.clone());
        }
        let answer = ask().await?;
        held.insert(asked, (now, answer.clone()));
        Ok(answer)
    }
}

/// The annotation that a dry run sets where nothing else would change.
pub(super) const PROBE: &str = "backstop.dev/probe";

impl Cluster {
    /// Why a revert to `target` would not work now; nothing if it would.
    ///
    /// Asked are: the rights that it needs, the restore and the route as dry runs (so every admission policy of the cluster has its
    /// say), and quotas. A `PodDisruptionBudget` is not: it holds evictions back, and neither a restore nor traffic evicts.
    pub async fn ready(&self, subjects: &Subjects, target: &Release) -> Vec<String> {
        let guard = &subjects.guard;
        let namespace = guard.key.split_once('/').map_or("default", |(namespace, _)| namespace);
        let objects =
            Objects { client: self.client(Lane::Revert).clone(), namespace: namespace.to_owned(), dry_run: true, cache: Arc::default() };
        let told = Objects { cache: Arc::clone(self.cache()), ..objects.clone() };
        let (rights, restore, route, room) = join!(
            self.rights_held(guard, namespace),
            would_restore(&objects, guard, target),
            traffic::would_take(&objects, guard),
            self.has_room(&told, guard, target),
        );
        let mut reasons = rights;
        reasons.extend(restore.err().map(|fault| format!("the API server does not take the restore: {fault}")));
        reasons.extend(route.err().map(|fault| format!("the router does not take the traffic back: {fault}")));
        match room {
            Ok(none) => reasons.extend(none),
            Err(error) => reasons.push(format!("quotas cannot be read: {error}")),
        }
        reasons
    }

    /// The same as [`Self::rights`], asked now or lately.
    async fn rights_held(&self, guard: &Guard, namespace: &str) -> Vec<String> {
        let asked = (namespace.to_owned(), touched(guard));
        let rights = self.answered_lately.rights.answer(asked, || async { Ok::<_, Infallible>(self.rights(guard, namespace).await) });
        rights.await.unwrap_or_else(|never| match never {})
    }

    /// The rights that are missing, by the table that the roles were made of.
    async fn rights(&self, guard: &Guard, namespace: &str) -> Vec<String> {
        let needed = touched(guard);
        let rows = TABLE.iter().filter(|one| one.place == Place::Guarded && needed.contains(&one.resource));
        let mut reasons = Vec::new();
        let wanted: Vec<_> = rows.flat_map(|row| row.revert.iter().map(move |verb| (row, *verb))).collect();
        for (row, verb) in wanted {
            let (resource, subresource) = row.resource.split_once('/').map_or((row.resource, None), |(one, two)| (one, Some(two)));
            let attributes = ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(row.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                namespace: Some(namespace.to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
            let api: Api<SelfSubjectAccessReview> = Api::all(self.client(Lane::Revert).clone());
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            match api.create(&PostParams::default(), &review).await {
                Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
                Ok(_) => reasons.push(format!("no right to {verb} {} in {namespace}: {}", row.resource, row.why)),
                Err(error) => return vec![format!("the API server does not say which rights there are: {error}")],
            }
        }
        reasons
    }

    /// Why a quota leaves no room for the pod that a Deployment may start before it stops another.
    async fn has_room(&self, objects: &Objects, guard: &Guard, target: &Release) -> Result<Vec<String>, kube::Error> {
        let Some((kind, _, name)) = place(guard) else { return Ok(Vec::new()) };
        let Ok(Some(main)) = objects.told(kind, name).await else { return Ok(Vec::new()) };
        if kind != DEPLOYMENT || release_in(&main["spec"]["template"]).is_ok_and(|there| there.id == target.id) || stops_first(&main) {
            return Ok(Vec::new());
        }
        let Ok(template) = template(target) else { return Ok(Vec::new()) };
        let wanted = needs(&template);
        let quotas = Api::<ResourceQuota>::namespaced(objects.client.clone(), &objects.namespace);
        let list = || async { quotas.list(&ListParams::default()).await.map(|list| Arc::new(list.items)) };
        let quotas = self.answered_lately.quotas.answer(objects.namespace.clone(), list).await?;
        let mut reasons = Vec::new();
        for quota in quotas.iter() {
            let status = quota.status.clone().unwrap_or_default();
            let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
            for (what, more) in &wanted {
                let amount = |of: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
                    of.get(*what).and_then(|one| amount(&one.0))
                };
                if let (Some(hard), Some(used)) = (amount(&hard), amount(&used))
                    && used + more > hard
                {
                    let name = quota.metadata.name.as_deref().unwrap_or_default();
                    reasons.push(format!(
                        "the ResourceQuota {name} has no room for one pod more: {what} {used} of {hard} used, {more} needed"
                    ));
                }
            }
        }
        Ok(reasons)
    }
}

/// The resources that a revert of this guard writes.
fn touched(guard: &Guard) -> Vec<&'static str> {
    let workload = place(guard).map(|(kind, _, _)| kind.plural);
    let route = guard.spec.strategy.route().and_then(|route| match route {
        Route::HttpRoute(_) => Some("httproutes"),
        Route::GrpcRoute(_) => Some("grpcroutes"),
        Route::VirtualService(_) => Some("virtualservices"),
        Route::Service(_) => Some("services"),
        Route::ReplicaRatio {} => None,
    });
    workload.into_iter().chain(route).chain(["guardedrollouts/status"]).collect()
}

/// The template of a release, as JSON.
fn template(release: &Release) -> Result<Json, Fault> {
    let Template::Pod(pod) = &*release.template else { return Err(Fault::Refused(format!("{release} is no pod template"))) };
    serde_json::to_value(pod.template()).map_err(|error| Fault::Refused(error.to_string()))
}

/// Puts the target's template back as a dry run, where it is not in place.
async fn would_restore(objects: &Objects, guard: &Guard, target: &Release) -> Result<(), Fault> {
    let Some((kind, _, name)) = place(guard) else { return Ok(()) };
    let missing = || Fault::Refused(format!("there is no {} {}/{name}", kind.name, objects.namespace));
    let object = objects.get(kind, name).await?.ok_or_else(missing)?;
    let mut edit = Edit::of(&object);
    if release_in(&object["spec"]["template"]).is_ok_and(|there| there.id == target.id) {
        edit.annotate(PROBE, Some("dry run".into()));
    } else {
        edit.set("/spec/template", template(target)?);
    }
    objects.would_take(kind, name, edit).await
}

/// Whether its strategy stops a pod before it starts one.
fn stops_first(main: &Json) -> bool {
    let strategy = &main["spec"]["strategy"];
    let replicas = main["spec"]["replicas"].as_f64().unwrap_or(1.0);
    let unavailable = match &strategy["rollingUpdate"]["maxUnavailable"] {
        Json::String(text) => text.trim_end_matches('%').parse::<f64>().map_or(0.0, |percent| (replicas * percent / 100.0).floor()),
        other => other.as_f64().unwrap_or(0.0),
    };
    strategy["type"] == "Recreate" || unavailable >= 1.0
}

/// What one pod of a template takes of a quota.
fn needs(template: &Json) -> BTreeMap<&'static str, f64> {
    let mut needs = BTreeMap::from([("pods", 1.0), ("count/pods", 1.0)]);
    for container in template["spec"]["containers"].as_array().into_iter().flatten() {
        let places = [
            ("requests.cpu", "/requests/cpu"),
            ("requests.memory", "/requests/memory"),
            ("limits.cpu", "/limits/cpu"),
            ("limits.memory", "/limits/memory"),
        ];
        for (name, place) in places {
            let asked = container["resources"].pointer(place).and_then(Json::as_str).and_then(amount);
            *needs.entry(name).or_default() += asked.unwrap_or_default();
        }
    }
    for (short, full) in [("cpu", "requests.cpu"), ("memory", "requests.memory")] {
        let asked = needs.get(full).copied().unwrap_or_default();
        needs.insert(short, asked);
    }
    needs
}

/// A quantity of Kubernetes as a number (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).
fn amount(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    if let Ok(plain) = text.parse() {
        return Some(plain);
    }
    let (suffix, factor) = SUFFIXES.into_iter().find(|(suffix, _)| text.ends_with(suffix))?;
    text.strip_suffix(suffix)?.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let read = |text: &str| amount(text).unwrap();
        assert!((read("250m") - 0.25).abs() < 1e-12 && (read("2") - 2.0).abs() < 1e-12 && (read("1e3") - 1000.0).abs() < 1e-9);
        assert!((read("64Mi") - 67_108_864.0).abs() < 1e-6 && (read("1.5G") - 1.5e9).abs() < 1e-3);
        assert_eq!(amount("much"), None);
    }

    #[test]
    fn a_pod_takes_what_its_containers_ask_for() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}});
        let needs = needs(&json!({"spec": {"containers": [container("250m"), container("1")]}}));
        assert!((needs["cpu"] - 1.25).abs() < 1e-12 && (needs["requests.memory"] - 134_217_728.0).abs() < 1e-6, "{needs:?}");
    }

    #[test]
    fn a_strategy_that_stops_first_needs_no_room() {
        let with = |unavailable: Json, replicas: u32| {
            stops_first(
                &json!({"spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable}}}}),
            )
        };
        assert!(with(json!(1), 1) && with(json!("25%"), 4) && !with(json!("25%"), 3) && !with(json!(0), 9));
    }
}
