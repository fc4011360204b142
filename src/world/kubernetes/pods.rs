//! What is seen of a workload: which pods run which release, how they are, and what its template says.
//!
//! A pod belongs to a release by the set that owns it, and a set by its template. Labels alone are nobody's word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::api::{DEPLOYMENT, Fault, Kind, Objects, POD, REPLICA_SET};
use super::mark::{GUARDED, REVERTING};
use super::workload::{self, OF, STAMPS, WROTE, copies, is_owned, name, owned, place, release, release_of, revisions, selector, uid};
use super::{Cluster, Member, Seen, SeenTemplate, traffic};
use crate::core::input::{ArmHealth, Observed};
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::Percent;
use crate::core::state::Guard;
use crate::core::work::Lane;
use crate::world::clock;

/// How long pods may fail their readiness probes where the workload does not say; what Kubernetes takes, too.
const PROGRESS: i64 = 600;
/// Reasons of waiting containers that do not mend themselves.
const PULLS: [&str; 5] = ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"];
const CONFIGURATION: [&str; 3] = ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"];

/// What was seen, and how many ready pods of each release the workload itself has.
pub(super) struct Sight {
    pub(super) seen: Seen,
    pub(super) own: BTreeMap<ReleaseId, u64>,
}

/// Everything that is read for one look.
struct Read {
    kind: Kind,
    object: Value,
    copies: Vec<Value>,
    /// The release of what owns pods, by its uid, or of the revision that a pod names.
    releases: BTreeMap<String, Release>,
    sets: Vec<Value>,
    pods: Vec<Value>,
}

pub(super) async fn see(cluster: &Cluster, lane: Lane, guard: &Guard, known: &[Release]) -> Result<Sight, Fault> {
    let nothing = Sight { seen: Seen::default(), own: BTreeMap::new() };
    let Some((kind, namespace, called)) = place(guard) else { return Ok(nothing) };
    let objects = Objects {
        client: cluster.client(lane).clone(),
        namespace: namespace.to_owned(),
        dry_run: cluster.dry_run,
        cache: Arc::clone(&cluster.cache),
    };
    let Some(object) = objects.told(kind, called).await? else { return Ok(nothing) };
    let read = read(cluster, &objects, kind, object, known).await?;
    let mut sight = read.sight();
    // A route that cannot be read makes nobody blind to the pods, and without a copy there is nothing to read there.
    let shares = match read.copies.as_slice() {
        [] => None,
        copies => traffic::shares(&objects, guard, copies).await.ok().flatten(),
    };
    sight.seen.observed.weights = read.weights(&sight, shares);
    sight.seen.spec = Some(template(&read.object, known));
    Ok(sight)
}

async fn read(cluster: &Cluster, objects: &Objects, kind: Kind, object: Value, known: &[Release]) -> Result<Read, Fault> {
    let own = selector(&object);
    let (pods, copies) = futures::try_join!(objects.list(POD, &own), copies(objects, kind, name(&object)))?;
    let copies = owned(copies, &object);
    let mut read = Read { kind, object, copies, releases: BTreeMap::new(), sets: Vec::new(), pods };
    if kind == DEPLOYMENT {
        read.sets = objects.list(REPLICA_SET, &own).await?;
        if !read.copies.is_empty() {
            let of = format!("{OF}={}", name(&read.object));
            let (sets, pods) = futures::try_join!(objects.list(REPLICA_SET, &of), objects.list(POD, &of))?;
            merge(&mut read.sets, sets);
            merge(&mut read.pods, pods);
        }
        let owners: Vec<String> = std::iter::once(&read.object).chain(&read.copies).map(|one| uid(one).to_owned()).collect();
        read.sets.retain(|set| owners.iter().any(|owner| is_owned(set, owner)));
        let releases = read.sets.iter().filter_map(|set| Some((uid(set).to_owned(), release_of_set(cluster, set, known)?)));
        read.releases = releases.collect();
    } else {
        read.releases = revisions(objects, &read.object).await?;
    }
    for release in read.releases.values_mut() {
        if let Some(known) = known.iter().find(|known| known.id == release.id) {
            *release = known.clone();
        }
    }
    Ok(read)
}

/// The release that a `ReplicaSet` runs: what its template said when it was first seen.
fn release_of_set(cluster: &Cluster, set: &Value, known: &[Release]) -> Option<Release> {
    let now = release(&set["spec"]["template"]).ok();
    let runs = set["spec"]["replicas"].as_u64().unwrap_or(0) > 0;
    let first = cluster.first_seen(uid(set), now.as_ref().map(|release| &release.id), runs)?;
    match now {
        Some(now) if now.id == first => Some(now),
        // Its pods are what they were; somebody has changed what it would start next.
        _ => known.iter().find(|known| known.id == first).cloned(),
    }
}

fn merge(all: &mut Vec<Value>, more: Vec<Value>) {
    let known: BTreeSet<String> = all.iter().map(|one| uid(one).to_owned()).collect();
    all.extend(more.into_iter().filter(|one| !known.contains(uid(one))));
}

impl Read {
    fn sight(&self) -> Sight {
        let mut arms: BTreeMap<ReleaseId, ArmHealth> = BTreeMap::new();
        let mut members: BTreeMap<ReleaseId, Vec<Member>> = BTreeMap::new();
        let mut own: BTreeMap<ReleaseId, u64> = BTreeMap::new();
        let deadline = self.object["spec"]["progressDeadlineSeconds"].as_i64().unwrap_or(PROGRESS);
        for pod in &self.pods {
            let Some((release, set)) = self.release_of(pod) else { continue };
            let health = arms.entry(release.id.clone()).or_default();
            // One that was evicted is gone, and says why.
            if health.failing.is_none() {
                health.failing = failing(pod, deadline);
            }
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            if !pod["metadata"]["deletionTimestamp"].is_null() || matches!(phase, "Failed" | "Succeeded") {
                continue;
            }
            if condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True") {
                health.ready = health.ready.saturating_add(1);
                if set.is_none_or(|set| is_owned(set, uid(&self.object))) {
                    *own.entry(release.id.clone()).or_default() += 1;
                }
            }
            if self.kind != DEPLOYMENT {
                health.wanted = health.wanted.saturating_add(1);
            }
            members.entry(release.id.clone()).or_default().push(member(pod, release, self.workload_of(set)));
        }
        self.add_wanted(&mut arms);
        self.add_stalled(&mut arms);
        arms.retain(|id, health| health.wanted > 0 || health.ready > 0 || health.failing.is_some() || members.contains_key(id));
        let current = release_of(&self.object);
        let observed = Observed { arms, weights: BTreeMap::new(), current };
        Sight { seen: Seen { observed, spec: None, members }, own }
    }

    /// The release of a pod, and the set that owns it, of a Deployment.
    fn release_of(&self, pod: &Value) -> Option<(&Release, Option<&Value>)> {
        if self.kind == DEPLOYMENT {
            let set = self.sets.iter().find(|set| is_owned(pod, uid(set)))?;
            return Some((self.releases.get(uid(set))?, Some(set)));
        }
        let revision = pod["metadata"]["labels"]["controller-revision-hash"].as_str()?;
        let owned = is_owned(pod, uid(&self.object));
        owned.then(|| self.releases.get(revision)).flatten().map(|release| (release, None))
    }

    /// The name of the workload whose set this is; of one without sets, its own.
    fn workload_of(&self, set: Option<&Value>) -> &str {
        let owner = set.and_then(|set| self.copies.iter().find(|copy| is_owned(set, uid(copy))));
        name(owner.unwrap_or(&self.object))
    }

    /// How many pods are wanted of each release: what its sets say, and of other workloads what its template's is to have.
    fn add_wanted(&self, arms: &mut BTreeMap<ReleaseId, ArmHealth>) {
        for set in &self.sets {
            let wanted = u16::try_from(set["spec"]["replicas"].as_u64().unwrap_or(0)).unwrap_or(u16::MAX);
            if let Some(release) = self.releases.get(uid(set)).filter(|_| wanted > 0) {
                let health = arms.entry(release.id.clone()).or_default();
                health.wanted = health.wanted.saturating_add(wanted);
            }
        }
        // A copy whose set was not made yet wants its pods all the same.
        for copy in self.copies.iter().filter(|copy| !self.sets.iter().any(|set| is_owned(set, uid(copy)))) {
            if let Some(id) = release_of(copy) {
                let wanted = copy["spec"]["replicas"].as_u64().unwrap_or(1);
                arms.entry(id).or_default().wanted = u16::try_from(wanted).unwrap_or(u16::MAX);
            }
        }
        if self.kind != DEPLOYMENT
            && let Some(current) = release_of(&self.object)
        {
            let all = self.object["spec"]["replicas"].as_u64().or(self.object["status"]["desiredNumberScheduled"].as_u64()).unwrap_or(1);
            let others: u64 = arms.iter().filter(|(id, _)| **id != current).map(|(_, health)| u64::from(health.wanted)).sum();
            let wanted = u16::try_from(all.saturating_sub(others)).unwrap_or(u16::MAX);
            let health = arms.entry(current).or_default();
            health.wanted = health.wanted.max(wanted);
        }
    }

    /// What the Deployment controller itself gave up.
    fn add_stalled(&self, arms: &mut BTreeMap<ReleaseId, ArmHealth>) {
        for deployment in self.copies.iter().chain(Some(&self.object).filter(|object| object["spec"]["paused"] != true)) {
            let stalled = condition(deployment, "Progressing").filter(|one| one["reason"] == "ProgressDeadlineExceeded");
            let Some((id, stalled)) = release_of(deployment).zip(stalled) else { continue };
            let what = format!("ProgressDeadlineExceeded: {}", stalled["message"].as_str().unwrap_or_default());
            arms.entry(id).or_default().failing.get_or_insert(what);
        }
    }

    /// Shares of new requests: of copies as the route has them; the rest is that of the workload's own ready pods, release by release.
    fn weights(&self, sight: &Sight, shares: Option<BTreeMap<String, Percent>>) -> BTreeMap<ReleaseId, Percent> {
        let mut weights: BTreeMap<ReleaseId, f64> = BTreeMap::new();
        let Some(shares) = shares else {
            let ready = sight.seen.observed.arms.iter().map(|(id, health)| (id.clone(), f64::from(health.ready)));
            return parts(ready.collect(), 100.0);
        };
        let mut rest = 100.0;
        for copy in &self.copies {
            if let Some((id, share)) = release_of(copy).zip(shares.get(name(copy))) {
                *weights.entry(id).or_default() += share.percent();
                rest -= share.percent();
            }
        }
        let own = sight.own.iter().map(|(id, ready)| (id.clone(), *ready as f64)).collect();
        for (id, share) in parts(own, rest) {
            *weights.entry(id).or_default() += share.percent();
        }
        weights.into_iter().filter(|(_, share)| *share > 0.0).map(|(id, share)| (id, Percent::new(share))).collect()
    }
}

/// Each one's part of `whole`.
fn parts(of: BTreeMap<ReleaseId, f64>, whole: f64) -> BTreeMap<ReleaseId, Percent> {
    let all: f64 = of.values().sum();
    of.into_iter().filter(|(_, part)| *part > 0.0).map(|(id, part)| (id, Percent::new(part * whole / all))).collect()
}

fn template(object: &Value, known: &[Release]) -> SeenTemplate {
    let annotation = |key: &str| object["metadata"]["annotations"][key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let mut release = workload::release(&object["spec"]["template"]);
    if let Ok(found) = &release
        && let Some(known) = known.iter().find(|known| known.id == found.id)
    {
        release = Ok(known.clone());
    }
    let [requester, requester_uid, credential] = STAMPS.map(annotation);
    // Whoever changes a template after backstop is stamped.
    let wrote = annotation(WROTE).is_some_and(|wrote| release.as_ref().is_ok_and(|release| *release.id.0 == *wrote));
    SeenTemplate {
        own: wrote && requester.is_none(),
        release,
        requester,
        requester_uid,
        credential,
        guarded: object["metadata"]["labels"][GUARDED].is_string(),
        reverting: annotation(REVERTING),
        paused: object["spec"]["paused"] == true,
        uid: uid(object).to_owned(),
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

/// Every container's state, init containers first.
fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|key| pod["status"][key].as_array().into_iter().flatten())
}

fn member(pod: &Value, release: &Release, workload: &str) -> Member {
    let template = serde_json::to_value(&release.template).unwrap_or_default();
    let (mut other_images, mut injected) = (BTreeMap::new(), BTreeSet::new());
    let image_ids: Box<[(String, String)]> = statuses(pod)
        .filter_map(|one| Some((one["name"].as_str()?.to_owned(), one["imageID"].as_str().filter(|id| !id.is_empty())?.to_owned())))
        .collect();
    for key in ["containers", "initContainers"] {
        for container in pod["spec"][key].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()) {
            let of_template = template["pod"]["spec"][key].as_array().into_iter().flatten().find(|one| one["name"] == container);
            let Some(of_template) = of_template else {
                injected.insert(container.to_owned());
                continue;
            };
            let wanted = of_template["image"].as_str().and_then(|image| image.rsplit_once('@')).map(|(_, digest)| digest);
            let runs = image_ids.iter().find(|(name, _)| name == container).map(|(_, id)| id);
            if let Some((_, digest)) = runs.zip(wanted).filter(|(id, digest)| !id.ends_with(digest)) {
                other_images.insert(container.to_owned(), digest.to_owned());
            }
        }
    }
    let labels = &pod["metadata"]["labels"];
    Member {
        pod: name(pod).to_owned(),
        ip: pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()),
        uid: uid(pod).to_owned(),
        workload: workload.to_owned(),
        hash: ["pod-template-hash", "controller-revision-hash"].iter().find_map(|key| labels[key].as_str()).map(str::to_owned),
        image_ids,
        other_images,
        injected,
    }
}

/// A failure that speaks for itself.
fn failing(pod: &Value, deadline: i64) -> Option<String> {
    let called = name(pod);
    if pod["status"]["reason"] == "Evicted" {
        return Some(format!("Evicted: {called}: {}", pod["status"]["message"].as_str().unwrap_or_default()));
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    for status in statuses(pod) {
        let waiting = &status["state"]["waiting"];
        let (Some(reason), container) = (waiting["reason"].as_str(), status["name"].as_str().unwrap_or_default()) else { continue };
        if reason == "CrashLoopBackOff" || PULLS.contains(&reason) || CONFIGURATION.contains(&reason) {
            return Some(format!("{reason}: {container} of {called}: {}", waiting["message"].as_str().unwrap_or_default()));
        }
    }
    let ready = condition(pod, "Ready").filter(|ready| ready["status"] != "True" && pod["status"]["phase"] == "Running")?;
    let since: Timestamp = ready["lastTransitionTime"].as_str()?.parse().ok()?;
    let waited = clock::wall().as_second() - since.as_second();
    (waited > deadline).then(|| format!("Unready: {called} cannot serve since {waited} s"))
}
