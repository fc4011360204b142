//! What is there of a guarded workload: itself, the arms beside it, their replica sets or revisions, and the pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::Value as Json;

use super::access::{Access, DAEMON_SET, DEPLOYMENT, Kind, REPLICA_SET, REVISION, STATEFUL_SET, annotation, name, number, selector};
use super::answer::Fault;
use super::{ARM_OF, LEAVING, RELEASE};
use crate::core::release::{Pod as PodTemplate, Release, ReleaseId, Template};
use crate::core::spec::Workload;

/// A guarded workload and all that belongs to it.
pub(super) struct Scene {
    pub(super) kind: Kind,
    pub(super) main: Json,
    pub(super) arms: Vec<Json>,
    sets: BTreeMap<String, Set>,
    pods: Vec<Pod>,
}

/// Pods that are made from one template.
struct Set {
    release: Option<ReleaseId>,
    /// Members wanted; absent where that is not said of each set.
    wanted: Option<u32>,
}

/// A pod and the release that it is a member of.
pub(super) struct Member<'a> {
    pub(super) pod: &'a Pod,
    pub(super) release: &'a ReleaseId,
}

/// The kind and name of a guarded object.
pub(super) fn object(workload: &Workload) -> Result<(Kind, &str), Fault> {
    match workload {
        Workload::Deployment(named) => Ok((DEPLOYMENT, &named.name)),
        Workload::StatefulSet(named) => Ok((STATEFUL_SET, &named.name)),
        Workload::DaemonSet(named) => Ok((DAEMON_SET, &named.name)),
        Workload::Process(_) => Err(Fault::Invalid("a process is no workload of Kubernetes".into())),
    }
}

/// The release of a pod template as the API server has it, or why it is none.
pub(super) fn release_of(template: &Json) -> Result<Release, String> {
    let template: crate::core::json::Json =
        serde_json::from_value(template.clone()).map_err(|error| format!("its pod template cannot be read: {error}"))?;
    let pod = PodTemplate::new(template).map_err(|error| error.to_string())?;
    let label = None;
    Ok(Release::new(Template::Pod(pod), label))
}

/// The arms of a workload.
pub(super) async fn arms(access: &Access, workload: &str) -> Result<Vec<Json>, Fault> {
    access.list(DEPLOYMENT, &format!("{ARM_OF}={workload}")).await
}

/// The arm that runs a release, unless it is being taken down.
pub(super) fn arm_of<'a>(arms: &'a [Json], release: &ReleaseId) -> Option<&'a Json> {
    let runs = |arm: &&Json| annotation(arm, RELEASE) == Some(release.0.as_str());
    arms.iter().find(|arm| runs(arm) && annotation(arm, LEAVING).is_none() && arm["metadata"].get("deletionTimestamp").is_none())
}

impl Scene {
    pub(super) async fn read(access: &Access, workload: &Workload) -> Result<Self, Fault> {
        let (kind, workload) = object(workload)?;
        let (main, arms) = futures::try_join!(access.must(kind, workload), arms(access, workload))?;
        let mut selectors = vec![selector(&main["spec"]["selector"]["matchLabels"])];
        if !arms.is_empty() {
            selectors.push(format!("{ARM_OF}={workload}"));
        }
        let (mut sets, mut pods) = (BTreeMap::new(), BTreeMap::new());
        let uid = |object: &Json| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let owners: Vec<String> = std::iter::once(&main).chain(&arms).map(uid).collect();
        // Labels are everybody's; owners are not.
        let is_own = |set: &&Json| {
            let controller = |owner: &Json| owner["controller"] == true && owners.iter().any(|uid| owner["uid"] == uid.as_str());
            set["metadata"]["ownerReferences"].as_array().is_some_and(|owners| owners.iter().any(controller))
        };
        for labels in &selectors {
            let templates = if kind == DEPLOYMENT { REPLICA_SET } else { REVISION };
            let listing = ListParams::default().labels(labels).match_any();
            let api = access.typed::<Pod>();
            let found = async { Ok(api.list(&listing).await?) };
            let (all, found) = futures::try_join!(access.list(templates, labels), found)?;
            // Pods of a StatefulSet or a DaemonSet name the revision, not an owner for each.
            let key = |set: &Json| if kind == DEPLOYMENT { uid(set) } else { name(set).to_owned() };
            sets.extend(all.iter().filter(is_own).map(|set| (key(set), Set::of(set))));
            pods.extend(found.items.into_iter().map(|pod| (pod.uid().unwrap_or_default(), pod)));
        }
        let mut scene = Self { kind, main, arms, sets, pods: pods.into_values().collect() };
        scene.keep_own();
        Ok(scene)
    }

    /// Pods of others that happen to have the labels are not members.
    fn keep_own(&mut self) {
        let main = self.main["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let (kind, sets) = (self.kind, &self.sets);
        self.pods.retain(|pod| {
            let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
            owner.is_some_and(|owner| if kind == DEPLOYMENT { sets.contains_key(&owner.uid) } else { owner.uid == main })
        });
    }

    fn key_of(&self, pod: &Pod) -> Option<String> {
        if self.kind == DEPLOYMENT {
            pod.owner_references().iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
        } else {
            pod.labels().get("controller-revision-hash").map(|hash| match hash.starts_with(name(&self.main)) {
                true => hash.clone(),
                false => format!("{}-{hash}", name(&self.main)),
            })
        }
    }

    /// The pods that are there, each with its release.
    pub(super) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.pods.iter().filter_map(|pod| {
            let release = self.sets.get(&self.key_of(pod)?)?.release.as_ref()?;
            Some(Member { pod, release })
        })
    }

    /// Members wanted of each release.
    pub(super) fn wanted(&self) -> BTreeMap<ReleaseId, u32> {
        let mut wanted: BTreeMap<ReleaseId, u32> = BTreeMap::new();
        for set in self.sets.values() {
            if let (Some(release), Some(count)) = (&set.release, set.wanted)
                && count > 0
            {
                *wanted.entry(release.clone()).or_default() += count;
            }
        }
        if self.kind != DEPLOYMENT {
            for member in self.members() {
                *wanted.entry(member.release.clone()).or_default() += 1;
            }
        }
        wanted
    }

    /// The releases of the workload's own pods, with the number that is ready: not those of the arms.
    pub(super) fn own_ready(&self) -> BTreeMap<ReleaseId, u32> {
        let mut ready: BTreeMap<ReleaseId, u32> = BTreeMap::new();
        for member in self.members().filter(|member| !member.pod.labels().contains_key(ARM_OF)) {
            *ready.entry(member.release.clone()).or_default() += u32::from(super::pods::is_ready(member.pod));
        }
        ready
    }

    /// Replicas of the workload itself.
    pub(super) fn replicas(&self) -> u32 {
        self.main["spec"]["replicas"].as_u64().map_or(1, |_| number(&self.main["spec"]["replicas"]))
    }
}

impl Set {
    fn of(owner: &Json) -> Self {
        let template = if owner["data"].is_object() {
            let mut template = owner["data"]["spec"]["template"].clone();
            if let Some(template) = template.as_object_mut() {
                template.remove("$patch");
            }
            template
        } else {
            owner["spec"]["template"].clone()
        };
        let wanted = owner["spec"].get("replicas").map(number);
        Self { release: release_of(&template).ok().map(|release| release.id), wanted }
    }
}
