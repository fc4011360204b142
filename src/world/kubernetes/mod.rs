//! Kubernetes: what is done to workloads and routes, what is seen of them, and state and ledger in the API server.
//!
//! How the machine's effects read here, for a workload that is driven:
//!
//! | phase | effect | what is written |
//! |---|---|---|
//! | Admitting | – | an admission policy has paused the Deployment in the write that changed its template: no pod of it has started |
//! | Advancing | `EnsureArm(candidate)` | a Deployment `NAME-candidate-ID` with a Service of its own, owned by the workload; the autoscaler's minimum is held |
//! | Advancing | `EnsureWeights` | members first (as many as the share needs, until they are ready), then the shares in the route |
//! | Promoting, Watching | `EnsureWeights` | 100 % less the holdback to the arm; the workload still runs the stable release, so a revert is one write |
//! | Idle | `EnsureRelease(candidate)` | the workload goes on with the template that waited; when all its pods are of it the route leads there and the arm is gone |
//! | Reverting | `EnsureWeights(stable)` | one write, without waiting for anything |
//! | Reverting | `EnsureRelease(target)` | the whole template comes back and the pause ends; where no pod of the new one had started, none moves |
//! | Recovering | `EnsureArm(candidate, gone)` | out of the route, then deleted; the autoscaler's minimum is given back |
//! | any | `EnsureHold` | the annotation that the admission policies read |
//!
//! Without a router the numbers of pods are the shares, and 100 % means that the workload itself becomes the candidate. What is
//! observed has no arms: only `EnsureRelease` and `EnsureHold` do anything. All of it is read, compared, written if different and
//! read back; patches say what they replace, and an object's `backstop.dev/fences` says what is obeyed there.

mod access;
mod answer;
mod arm;
mod autoscaler;
pub mod connect;
mod fences;
pub mod freezes;
mod hold;
pub mod mark;
pub mod objects;
mod pods;
mod proofs;
mod ready;
mod records;
pub mod report;
mod restore;
mod scene;
pub mod signing;
mod status;
pub mod store;
mod traffic;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt as _};
use serde_json::Value as Json;

use self::access::{Access, annotation};
use self::answer::Fault;
use self::scene::Scene;
use crate::core::input::{Observed, Outcome};
use crate::core::release::{Release, ReleaseId};
use crate::core::state::Guard;
use crate::core::work::{Action, Effect, Lane};
use crate::world::perform::Subjects;

pub use records::{WORKLOAD, label};

/// The label of what runs beside a workload: the workload's name.
pub const ARM_OF: &str = "backstop.dev/arm-of";
/// Label and annotation of an arm and its Services: the release.
const RELEASE: &str = "backstop.dev/release";
/// Annotation of an arm's Service: the Service that it is a copy of.
const COPY_OF: &str = "backstop.dev/copy-of";
/// Annotation of an arm that is being taken down: no requests go there any more.
const LEAVING: &str = "backstop.dev/leaving";
/// Annotation of a workload: the release that backstop wrote into it last.
const WRITTEN: &str = "backstop.dev/written";
/// Annotation of a workload: who changed its template, as the API server stamps it.
const REQUESTER: &str = "backstop.dev/requester";

/// A cluster, through two clients: what leads back has its own, so that nothing else stands in front of it.
#[derive(Clone)]
pub struct Cluster {
    revert: Client,
    forward: Client,
}

/// What was seen of a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// For the machine.
    pub observed: Observed,
    /// The workload's own template.
    pub spec: Option<SeenTemplate>,
    /// The members of each release.
    pub members: BTreeMap<ReleaseId, Vec<Member>>,
    /// Containers that run beside those of the template, by pod: somebody put them in on the way.
    pub injected: BTreeMap<String, Vec<String>>,
}

/// The template in the workload now.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenTemplate {
    /// The release that it is, or why it is none.
    pub release: Result<Release, String>,
    /// Who changed it last, by the API server's stamp; absent without one.
    pub requester: Option<String>,
    /// Whether backstop wrote it.
    pub own: bool,
}

/// A pod of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub pod: String,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// Its `pod-template-hash` or `controller-revision-hash`.
    pub hash: Option<String>,
}

impl Cluster {
    /// From the clients of the two lanes.
    pub fn new(revert: Client, forward: Client) -> Self {
        Self { revert, forward }
    }

    /// The client of a lane.
    pub fn client(&self, lane: Lane) -> &Client {
        match lane {
            Lane::Revert => &self.revert,
            Lane::Forward => &self.forward,
        }
    }

    fn access(&self, lane: Lane, guard: &Guard) -> Access {
        let namespace = guard.key.split_once('/').map_or("default", |(namespace, _)| namespace);
        Access::new(self.client(lane), namespace)
    }

    /// Makes true what an effect on a workload wants.
    pub async fn ensure(&self, subjects: &Subjects, effect: &Effect) -> Outcome {
        let access = self.access(effect.lane, &subjects.guard);
        let done = match &effect.action {
            Action::EnsureArm { release, present: true } => arm::start(&access, subjects, effect, release).await,
            Action::EnsureArm { release, present: false } => arm::stop(&access, subjects, effect, release).await,
            Action::EnsureWeights { weights } => traffic::put(&access, subjects, effect, weights).await,
            Action::EnsureRelease { release } => restore::put(&access, subjects, effect, release).await,
            Action::EnsureHold { .. } => hold::put(&access, subjects).await,
            Action::Look(_) | Action::Verify { .. } | Action::EnsureFlag(_) | Action::Notify(_) | Action::Record => {
                Err(Fault::Invalid(format!("{} is no act on a workload", effect.action.name())))
            }
        };
        done.map_or_else(Outcome::from, answer::done)
    }

    /// Sees the workload: its releases, their members and their health, and the shares of traffic.
    ///
    /// # Errors
    /// The workload is not there, or the API server does not answer; in words.
    pub async fn see(&self, guard: &Guard) -> Result<Seen, String> {
        let access = self.access(Lane::Forward, guard);
        let scene = Scene::read(&access, &guard.spec.workload).await.map_err(said)?;
        let weights = traffic::seen(&access, &scene, guard.spec.strategy.route()).await.map_err(said)?;
        let template = &scene.main["spec"]["template"];
        let release = scene::release_of(template);
        let current = release.as_ref().ok().map(|release| release.id.clone());
        let own = current.as_ref().is_some_and(|id| annotation(&scene.main, WRITTEN) == Some(id.0.as_str()));
        let requester = annotation(&scene.main, REQUESTER).map(str::to_owned);
        let mut members: BTreeMap<ReleaseId, Vec<Member>> = BTreeMap::new();
        let mut injected = BTreeMap::new();
        for member in scene.members() {
            members.entry(member.release.clone()).or_default().push(Member::of(member.pod));
            let more = pods::injected(member.pod, template);
            if !more.is_empty() {
                injected.insert(member.pod.name_any(), more);
            }
        }
        let observed = Observed { arms: pods::health(&scene), weights, current };
        Ok(Seen { observed, spec: Some(SeenTemplate { release, requester, own }), members, injected })
    }
}

/// A fault in words.
fn said(fault: Fault) -> String {
    match Outcome::from(fault) {
        Outcome::Transient { what, .. }
        | Outcome::Denied(what)
        | Outcome::Superseded(what)
        | Outcome::Invalid(what)
        | Outcome::Unknown(what) => what,
        Outcome::Done { .. } => Json::Null.to_string(),
    }
}

impl Member {
    fn of(pod: &Pod) -> Self {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse().ok());
        let hash = ["pod-template-hash", "controller-revision-hash"].iter().find_map(|label| pod.labels().get(*label)).cloned();
        Self { pod: pod.name_any(), ip, hash }
    }
}
