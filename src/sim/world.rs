//! What is outside of the controllers: store, host, evidence, flags, people who are told. It takes effects as the real ones
//! do; the host is decided by the host's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::house;
use super::prng::Random;
use super::traffic::{Traffic, Truth};
use crate::core::input::{ArmHealth, LookFault, Looked, Observation, Observed, Outcome};
use crate::core::policy::Policy;
use crate::core::record::Record;
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::spec::{FlagAction, Percent};
use crate::core::state::{Guard, State};
use crate::core::time::Span;
use crate::core::work::{Action, Commit, Effect, EffectId, EvidenceFrom, LookPlan, Notice};
use crate::host::decide;
use crate::host::record::WorkloadRecord;
use crate::host::wire::Ensure;
use crate::shell::order::Committed;

/// The members of one release.
#[derive(Debug, Clone, Default)]
pub struct Members {
    /// When they are ready, in milliseconds.
    pub ready_at: u64,
    /// What is wrong with them for good.
    pub failing: Option<String>,
    /// So many of them cannot serve.
    pub unready: u16,
}

/// The evidence of an image.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Whether it proves what policy demands.
    pub good: bool,
    /// Whether its bytes were stored at an admission.
    pub stored: bool,
    /// Whether the stored bytes were changed since.
    pub tampered: bool,
}

/// Where the flag service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagService {
    /// It does as told.
    Obeys,
    /// It accepts and does nothing, which reading it back shows.
    Lies,
    /// It refuses.
    Denies,
    /// It does not answer.
    Down,
}

/// What the metrics source does.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Source {
    /// It answers.
    #[default]
    Answers,
    /// It fails each time.
    Fails(LookFault),
    /// It knows nothing that is newer than this, in milliseconds.
    StuckAt(u64),
}

/// Members of each release.
const MEMBERS: u16 = 2;

/// The outside world.
#[derive(Debug)]
pub struct World {
    /// True time in milliseconds.
    pub now: u64,
    /// The guard that is in force.
    pub guard: Guard,
    /// The policy that is in force.
    pub policy: Arc<Policy>,
    /// The committed state.
    pub state: Option<Arc<State>>,
    /// The store does not answer before this.
    pub store_back_at: u64,
    /// Commits that were kept beside a store that did not answer.
    pub spool: Vec<Commit>,
    /// Every committed record.
    pub log: Vec<Record>,
    /// Every effect that was ever wanted by a committed state.
    pub promised: BTreeMap<EffectId, Effect>,
    /// The host's record of the workload.
    pub(crate) host: WorkloadRecord,
    /// The host does not answer before this.
    pub host_back_at: u64,
    /// Members by release.
    pub members: BTreeMap<ReleaseId, Members>,
    /// Images whose members never get ready.
    pub broken: BTreeSet<Digest>,
    /// Images that the registry has lost: nothing new starts from them.
    pub gone: BTreeSet<Digest>,
    /// How long members take to get ready.
    pub start: u64,
    /// The metrics source.
    pub source: Source,
    /// Evidence by image.
    pub evidence: BTreeMap<Digest, Evidence>,
    /// The registry answers.
    pub registry: bool,
    /// The registry answers with other bytes than were asked for.
    pub registry_lies: bool,
    /// Releases whose members never get ready, whatever their image is worth: something around them is broken.
    pub misplaced: BTreeSet<ReleaseId>,
    /// The flag service.
    pub flag_service: FlagService,
    /// Flags by key.
    pub flags: BTreeMap<String, FlagAction>,
    /// What people were told.
    pub told: BTreeMap<EffectId, Notice>,
    /// Nobody can be told.
    pub webhook: bool,
    /// Requests.
    pub traffic: Traffic,
    /// How requests end.
    pub truth: Truth,
}

impl World {
    /// A world without releases.
    pub fn new(guard: Guard, policy: impl Into<Arc<Policy>>) -> Self {
        let process = house::process(&guard.spec.workload);
        Self {
            now: 0,
            guard,
            policy: policy.into(),
            state: None,
            store_back_at: 0,
            spool: Vec::new(),
            log: Vec::new(),
            promised: BTreeMap::new(),
            host: WorkloadRecord::new("shop", "checkout", process),
            host_back_at: 0,
            members: BTreeMap::new(),
            broken: BTreeSet::new(),
            gone: BTreeSet::new(),
            start: 500,
            source: Source::default(),
            evidence: BTreeMap::new(),
            registry: true,
            registry_lies: false,
            misplaced: BTreeSet::new(),
            flag_service: FlagService::Obeys,
            flags: BTreeMap::new(),
            told: BTreeMap::new(),
            webhook: true,
            traffic: Traffic::default(),
            truth: Truth { rate: 100, ..Truth::default() },
        }
    }

    /// What the host sees of the workload.
    pub fn observed(&self) -> Observed {
        let arms = self.host.arms.keys().map(|id| {
            let members = self.members.get(id).cloned().unwrap_or_default();
            let up = members.failing.is_none() && self.now >= members.ready_at;
            let ready = if up { MEMBERS.saturating_sub(members.unready) } else { 0 };
            (id.clone(), ArmHealth { wanted: MEMBERS, ready, failing: members.failing })
        });
        Observed { arms: arms.collect(), weights: self.host.weights.clone(), current: self.host.current.clone() }
    }

    /// Whether a member of `id` can serve.
    pub fn is_live(&self, id: &ReleaseId) -> bool {
        let members = self.members.get(id).filter(|_| self.host.arms.contains_key(id));
        members.is_some_and(|members| members.failing.is_none() && self.now >= members.ready_at && members.unready < MEMBERS)
    }

    /// The share of requests that `id` gets.
    pub fn weight(&self, id: &ReleaseId) -> f64 {
        self.host.weight(id).fraction()
    }

    /// Releases whose members run, each with its share and whether it can serve.
    pub fn arms(&self) -> Vec<(Release, f64, bool)> {
        self.host.arms.values().map(|release| (release.clone(), self.weight(&release.id), self.is_live(&release.id))).collect()
    }

    /// One second of requests and of members' lives.
    pub fn second(&mut self, random: &mut Random) {
        let arms = self.arms();
        let flags = &self.guard.spec.revert.flags;
        self.truth.flipped = !flags.is_empty() && flags.iter().all(|flag| self.flags.get(&flag.flag) == Some(flag));
        self.traffic.second(random, &self.truth, self.now, &arms);
    }

    /// What the metrics source answers; `stale` leaves the newest samples out.
    pub fn look(&self, plan: &LookPlan, stale: u64) -> Looked {
        match &self.source {
            Source::Answers => self.traffic.look(plan, self.now, stale),
            Source::Fails(fault) => Looked { fault: Some(fault.clone()), ..Looked::default() },
            Source::StuckAt(since) => self.traffic.look(plan, self.now, stale.max(self.now - since)),
        }
    }

    /// A controller starts: what was kept beside the store goes in first.
    pub fn replay_spool(&mut self) -> Vec<(Option<Arc<State>>, Commit)> {
        self.store_back_at = 0;
        let mut replayed = Vec::new();
        for commit in std::mem::take(&mut self.spool) {
            let before = self.state.clone();
            if self.commit(&commit) == Committed::Done {
                replayed.push((before, commit));
            }
        }
        replayed
    }

    /// Swaps the committed state.
    pub fn commit(&mut self, commit: &Commit) -> Committed {
        if self.now < self.store_back_at {
            return Committed::Unavailable;
        }
        let revision = self.state.as_ref().map_or(0, |state| state.revision);
        if revision != commit.expected {
            return Committed::Lost;
        }
        for task in commit.state.tasks.values() {
            self.promised.entry(task.effect.id).or_insert_with(|| task.effect.clone());
        }
        self.log.extend(commit.records.iter().cloned());
        self.state = Some(Arc::clone(&commit.state));
        Committed::Done
    }

    /// Does what an effect wants, as of the writer's `stable` release.
    pub fn perform(&mut self, effect: &Effect, stable: Option<ReleaseId>) -> Outcome {
        let nothing = Outcome::Done { changed: true, observed: Observation::Nothing };
        let later = |what: &str| Outcome::Transient { what: what.to_owned(), retry_after: None };
        match &effect.action {
            Action::Look(_) => Outcome::Invalid("a look is no act".into()),
            Action::Record => nothing,
            Action::Notify(_) if !self.webhook => later("nobody can be told"),
            Action::Notify(notice) => {
                self.told.insert(effect.id, notice.clone());
                nothing
            }
            Action::EnsureFlag(flag) => match self.flag_service {
                FlagService::Obeys => {
                    let changed = self.flags.insert(flag.flag.clone(), flag.clone()).as_ref() != Some(flag);
                    Outcome::Done { changed, observed: Observation::Nothing }
                }
                FlagService::Lies => later("the flag service said yes, and evaluates as before"),
                FlagService::Denies => Outcome::Denied("the token may not write".into()),
                FlagService::Down => later("the flag service does not answer"),
            },
            Action::Verify { release, evidence } => self.verify(release, *evidence),
            Action::EnsureArm { .. } | Action::EnsureWeights { .. } | Action::EnsureRelease { .. } | Action::EnsureHold { .. } => {
                if self.now < self.host_back_at {
                    return Outcome::Transient { what: "the host does not answer".into(), retry_after: None };
                }
                self.ensure(effect, stable)
            }
        }
    }

    fn verify(&mut self, release: &Release, from: EvidenceFrom) -> Outcome {
        let digest = release.template.image().digest.clone();
        let (registry, store) = (self.registry, self.now >= self.store_back_at);
        let evidence = self.evidence.entry(digest.clone()).or_default();
        let facts = match from {
            EvidenceFrom::Origin if !registry => {
                return Outcome::Transient { what: "the registry does not answer".into(), retry_after: None };
            }
            EvidenceFrom::Origin if self.gone.contains(&digest) => return Outcome::Invalid("the registry has no such digest".into()),
            EvidenceFrom::Origin => {
                if self.registry_lies {
                    house::facts(&house::release("other bytes", 0), true)
                } else {
                    evidence.stored |= evidence.good;
                    house::facts(release, evidence.good)
                }
            }
            EvidenceFrom::Store if !store => {
                return Outcome::Transient { what: "the store does not answer".into(), retry_after: None };
            }
            EvidenceFrom::Store => house::facts(release, evidence.stored && !evidence.tampered),
        };
        Outcome::Done { changed: false, observed: Observation::Facts(Box::new(facts)) }
    }

    fn ensure(&mut self, effect: &Effect, stable: Option<ReleaseId>) -> Outcome {
        let before = self.host.clone();
        let asked = Ensure::of(effect, stable);
        let mut after = before.clone();
        if let Err(outcome) = decide::ensure(&mut after, &asked) {
            self.host.fences = after.fences;
            return outcome;
        }
        if let Err(outcome) = self.somebody_serves(&before, &after) {
            self.host.fences = after.fences;
            return outcome;
        }
        for (id, release) in &after.arms {
            let digest = &release.template.image().digest;
            let gone = self.gone.contains(digest).then(|| "the image cannot be pulled".to_owned());
            let broken = (self.broken.contains(digest) || self.misplaced.contains(id)).then(|| "crash loop".to_owned());
            let ready_at = self.now + self.start;
            self.members.entry(id.clone()).or_insert_with(|| Members { ready_at, failing: gone.or(broken), ..Members::default() });
        }
        let stopped: Vec<ReleaseId> = self.members.keys().filter(|id| !after.arms.contains_key(*id)).cloned().collect();
        for id in stopped {
            self.members.remove(&id);
            self.traffic.stop(&id);
        }
        let changed = after.arms != before.arms || after.weights != before.weights || after.current != before.current;
        self.host = after;
        Outcome::Done { changed, observed: Observation::Workload(Arc::new(self.observed())) }
    }

    /// Members that only happened to crash start again.
    pub fn mend(&mut self) {
        for (id, release) in &self.host.arms {
            let broken = self.broken.contains(&release.template.image().digest) || self.misplaced.contains(id);
            if let Some(members) = self.members.get_mut(id).filter(|members| !broken && members.failing.is_some()) {
                *members = Members { ready_at: self.now + self.start, ..Members::default() };
            }
        }
    }

    /// Like the real host: it moves no requests to a release that nobody of could answer, while others can.
    fn somebody_serves(&self, before: &WorkloadRecord, after: &WorkloadRecord) -> Result<(), Outcome> {
        let nobody = after.weights.iter().find(|(id, share)| **share > before.weight(id) && !self.is_live(id));
        match nobody {
            Some((id, _)) if before.weights.iter().any(|(id, share)| *share > Percent::ZERO && self.is_live(id)) => {
                let what = format!("release {id} has no member that can serve yet");
                Err(Outcome::Transient { what, retry_after: Some(Span(Duration::from_millis(50))) })
            }
            _ => Ok(()),
        }
    }
}
