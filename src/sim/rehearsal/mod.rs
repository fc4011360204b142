//! A user's own documents rehearsed: the same machine, judge and order as in production, in a world where everything works
//! and the candidate fails in a way that is known.
//!
//! Attestation is taken as given: the demands of the policies are met. Everything else of guard and policy counts.

mod model;

use std::sync::Arc;

use serde::Serialize;

pub use self::model::{BAD, HEALTHY, Model, Service};
use super::faults::Faults;
use super::house;
use super::life::Life;
use super::oracle::Violation;
use super::parallel;
use crate::core::actor::Request;
use crate::core::input::Verb;
use crate::core::judge::Config;
use crate::core::plan::Plan;
use crate::core::policy::Policy;
use crate::core::reason::Verdict;
use crate::core::record::{Decision, Event};
use crate::core::release::Release;
use crate::core::spec::{GuardedRollout, Percent};
use crate::core::state::{Guard, PhaseKind};
use crate::core::time::Span;

/// How long stable may take to be in place, in seconds.
const SETTLE: u64 = 3_600;
/// A life ends here at the latest, in seconds.
const LONGEST: u64 = 8 * 3_600;

/// What is rehearsed.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    guard: Guard,
    policy: Arc<Policy>,
    by: Request,
    /// Requests a second, of the whole service.
    rate: f64,
}

/// How one life ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// The candidate was taken out, and all is as before.
    Reverted,
    /// The candidate was taken out, and a person is needed.
    Stuck,
    /// The candidate is known good.
    KnownGood,
    /// It serves everybody, and was not proven in time.
    Unproven,
    /// It went no further.
    Waits,
    /// It was never admitted.
    Refused(String),
    /// A promise was broken.
    Broken(String),
}

/// One life.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// From the begin of the trouble, or of the candidate if there is none, to the decision to revert, in milliseconds.
    pub detected: Option<u64>,
    /// Requests that the candidate served badly.
    pub bad: u64,
    /// Requests that the candidate served.
    pub served: u64,
    /// The code of the reason for the revert, or of what it waits for.
    pub code: Option<&'static str>,
    /// Whether a person was paged.
    pub paged: bool,
    /// How long the life took, from the deployment on, in seconds.
    pub seconds: u64,
}

/// One second of a life, for its picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Frame {
    /// The candidate's share of the traffic.
    pub weight: f64,
    /// Requests of the candidate in this second, and bad ones among them.
    pub candidate: (u64, u64),
    /// The same of the others.
    pub stable: (u64, u64),
    /// Evidence against the candidate as a share of what an alarm takes: of the objective's test, and of the comparison.
    pub evidence: Option<(f64, Option<f64>)>,
    /// The verdict.
    pub verdict: Option<Word>,
}

/// A verdict without its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// Go on.
    Pass,
    /// Wait.
    Inconclusive,
    /// Go back.
    Breach,
}

/// Something that happened in a life.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// When, in milliseconds since the deployment.
    pub at: u64,
    /// What.
    pub what: String,
    /// Whether it is bad news.
    pub grave: bool,
}

/// A life as it can be drawn.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Film {
    /// Second by second since the deployment.
    pub frames: Vec<Frame>,
    /// What happened.
    pub marks: Vec<Mark>,
    /// Share of bad requests that the strictest objective allows.
    pub limit: f64,
}

impl Rehearsal {
    /// Of the guard `key`, whose document is `spec`, under `policy`, with a deployment by `by`.
    pub fn new(key: &str, spec: &GuardedRollout, policy: Policy, interval: Span, by: Request, rate: f64) -> Self {
        let policy = Policy { attestation: house::policy().attestation, ..policy };
        let objectives = policy.objectives_of(spec);
        let spec = Arc::new(GuardedRollout { objectives, ..spec.clone() });
        let guard = Guard { key: key.to_owned(), uid: format!("rehearsal of {key}"), spec, interval };
        Self { guard, policy: Arc::new(policy), by, rate }
    }

    /// The guard, with the objectives that policies add.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// One life. The film of it is made on the way.
    pub fn live(&self, model: Model, seed: u64, film: Option<&mut Film>) -> Outcome {
        match self.begin(model, seed) {
            Ok(mut life) => self.trial(&mut life, &candidate(), film),
            Err(why) => Outcome { end: End::Refused(why), detected: None, bad: 0, served: 0, code: None, paged: false, seconds: 0 },
        }
    }

    /// A life in which a first release is known good.
    fn begin(&self, model: Model, seed: u64) -> Result<Life, String> {
        let mut life = Life::new(seed, self.guard.clone(), self.policy.clone(), Faults::none(), 1);
        let (stable, candidate) = (house::release("v1", 0), candidate());
        for release in [&stable, &candidate] {
            life.world.evidence.entry(release.template.image().digest.clone()).or_default().good = true;
        }
        let config = Config::new(&self.guard.spec, &[], self.guard.interval).map_err(|error| error.to_string())?;
        life.world.traffic.service = Some(Service::new(model, &config, self.rate, candidate.id));
        if self.settle(&mut life, &stable) {
            return Ok(life);
        }
        let why = life.machine().and_then(|machine| machine.waiting()).map_or_else(|| life.phase().to_string(), ToString::to_string);
        Err(format!("no stable release comes to be: {why}"))
    }

    /// A first release becomes known good by a person's word.
    fn settle(&self, life: &mut Life, stable: &Release) -> bool {
        life.deploy(stable, house::person("ann"));
        self.place(life, stable);
        self.approve(life);
        life.until(SETTLE, |life| life.phase() != PhaseKind::Admitting);
        life.commanded(Verb::Promote, house::person("ann"));
        life.until(SETTLE, |life| matches!(life.phase(), PhaseKind::Watching | PhaseKind::Idle));
        life.commanded(Verb::Adopt, house::person("ann"));
        life.until(60, |life| life.phase() == PhaseKind::Idle) && life.state().ledger.is_known_good(&stable.id)
    }

    /// Others put a release in place where backstop moves nothing itself.
    fn place(&self, life: &mut Life, release: &Release) {
        if Plan::compile(&self.guard.spec).drives {
            return;
        }
        let host = &mut life.world.host;
        host.arms = [(release.id.clone(), release.clone())].into();
        host.weights = [(release.id.clone(), Percent::FULL)].into();
        host.current = Some(release.id.clone());
        let ready_at = life.world.now;
        life.world.members.entry(release.id.clone()).or_default().ready_at = ready_at;
    }

    fn approve(&self, life: &mut Life) {
        life.until(SETTLE, |life| !matches!(life.phase(), PhaseKind::Admitting));
        for name in ["bob", "cas", "dee", "eve", "fay"].iter().take(self.policy.approvals as usize) {
            life.commanded(Verb::Approve, house::person(name));
        }
    }

    fn trial(&self, life: &mut Life, candidate: &Release, mut film: Option<&mut Film>) -> Outcome {
        let begin = life.world.now;
        let revision = life.world.log.len();
        life.deploy(candidate, self.by.clone());
        self.place(life, candidate);
        self.approve(life);
        let last = begin + 1000 * self.longest();
        let mut reverted_at = None;
        let mut before = served(life);
        let end = loop {
            life.until(1, |life| reverted_at.is_none() && is_back(life.phase()));
            if reverted_at.is_none() && is_back(life.phase()) {
                reverted_at = Some(life.world.now);
            }
            if let Some(film) = film.as_deref_mut() {
                let served = served(life);
                film.frames.push(frame(life, candidate, before, served));
                before = served;
            }
            if let Some(end) = ended(life, candidate) {
                break end;
            }
            if life.world.now >= last {
                break End::Waits;
            }
        };
        if let Some(film) = film {
            film.marks = marks(life, begin, revision);
            film.limit = self.limit();
        }
        Self::ended(life, end, begin, reverted_at)
    }

    /// Past all deadlines.
    fn longest(&self) -> u64 {
        let plan = Plan::compile(&self.guard.spec);
        let deadlines: u64 = plan.stages.iter().map(|stage| stage.deadline.0.as_secs()).max().unwrap_or_default();
        let (planned, watch) = (plan.watched().0.as_secs(), plan.watch.0.as_secs());
        let watched = planned.saturating_add(watch.max(600).saturating_mul(3));
        planned.saturating_mul(2).max(watched).max(deadlines.saturating_add(600)).min(LONGEST)
    }

    fn limit(&self) -> f64 {
        self.guard.spec.objectives.iter().map(|objective| objective.good.rest().fraction()).fold(1.0, f64::min)
    }

    fn ended(life: &Life, end: End, begin: u64, reverted_at: Option<u64>) -> Outcome {
        let service = life.world.traffic.service.as_ref();
        let onset = service.and_then(Service::onset).unwrap_or(begin);
        let (served, bad) = service.map(|service| service.candidate_served).unwrap_or_default();
        let decided =
            life.world.log.iter().rev().find(|record| matches!(&record.event, Event::Decision { decision: Decision::Revert, .. }));
        let reason = decided.filter(|_| reverted_at.is_some()).and_then(|record| record.reason.as_ref());
        let waiting = life.machine().and_then(|machine| machine.waiting());
        Outcome {
            detected: reverted_at.map(|at| at.saturating_sub(onset)),
            bad,
            served,
            code: reason.or(waiting.filter(|_| end == End::Waits)).map(crate::core::reason::Reason::code),
            paged: life.world.told.values().any(|notice| notice.page),
            seconds: (life.world.now - begin) / 1000,
            end,
        }
    }

    /// `runs` lives of each model, one seed after the other, on all processors; `done` is called after each.
    pub fn run(&self, models: &[Model], seed: u64, runs: u64, done: impl Fn() + Sync) -> Vec<(Model, Vec<Outcome>)> {
        let jobs: Vec<(Model, u64)> = models.iter().flat_map(|model| (seed..seed + runs).map(|seed| (*model, seed))).collect();
        let all = parallel::each(&jobs, |(model, seed)| {
            let outcome = self.live(*model, *seed, None);
            done();
            outcome
        });
        let mut all = all.into_iter();
        models.iter().map(|model| (*model, all.by_ref().take(usize::try_from(runs).unwrap_or(usize::MAX)).collect())).collect()
    }
}

fn candidate() -> Release {
    house::release("v2", 0)
}

fn is_back(phase: PhaseKind) -> bool {
    matches!(phase, PhaseKind::Reverting | PhaseKind::Recovering | PhaseKind::Reverted | PhaseKind::Stuck)
}

fn ended(life: &Life, candidate: &Release) -> Option<End> {
    if let Some(Violation { what, .. }) = &life.violation {
        return Some(End::Broken(what.clone()));
    }
    match life.phase() {
        PhaseKind::Reverted => Some(End::Reverted),
        PhaseKind::Stuck => Some(End::Stuck),
        PhaseKind::Idle if life.state().ledger.is_known_good(&candidate.id) => Some(End::KnownGood),
        PhaseKind::Idle => Some(End::Unproven),
        PhaseKind::Refused => {
            let state = life.state();
            let reason = match &state.phase {
                crate::core::state::Phase::Refused { reason } => reason.to_string(),
                _ => "refused".into(),
            };
            Some(End::Refused(reason))
        }
        _ => None,
    }
}

type Served = [(u64, u64); 2];

fn served(life: &Life) -> Served {
    life.world.traffic.service.as_ref().map(|service| [service.candidate_served, service.others_served]).unwrap_or_default()
}

fn frame(life: &Life, candidate: &Release, before: Served, now: Served) -> Frame {
    let gained = |arm: usize| (now[arm].0 - before[arm].0, now[arm].1 - before[arm].1);
    let judgement = life.machine().and_then(|machine| machine.judgement());
    // The objective that has most against the candidate.
    let views = judgement.iter().flat_map(|judgement| &judgement.objectives);
    let worst = views.max_by(|a, b| a.counts.objective_evidence.total_cmp(&b.counts.objective_evidence));
    Frame {
        weight: life.world.weight(&candidate.id),
        candidate: gained(0),
        stable: gained(1),
        evidence: worst.map(|view| (view.counts.objective_evidence / view.alarm, view.counts.baseline_evidence.map(|it| it / view.alarm))),
        verdict: judgement.map(|judgement| match judgement.verdict {
            Verdict::Pass => Word::Pass,
            Verdict::Inconclusive(_) => Word::Inconclusive,
            Verdict::Breach(_) => Word::Breach,
        }),
    }
}

/// What happened since `begin`. The only controller never stops here and its clock is right: its monotonic clock is the life's.
fn marks(life: &Life, begin: u64, from: usize) -> Vec<Mark> {
    let since = |at: u64| at.saturating_sub(begin);
    let mut marks = vec![Mark { at: 0, what: "deployed".into(), grave: false }];
    if let Some(onset) = life.world.traffic.service.as_ref().and_then(Service::onset).filter(|onset| *onset <= life.world.now) {
        marks.push(Mark { at: since(onset), what: "trouble begins".into(), grave: true });
    }
    for record in life.world.log.iter().skip(from) {
        let Event::Decision { decision, .. } = &record.event else { continue };
        let why = record.reason.as_ref().map(|reason| format!(": {} {reason}", reason.code())).unwrap_or_default();
        let (what, grave) = match decision {
            Decision::Advance | Decision::Promote => (record.result.clone(), false),
            Decision::KnownGood => ("known good".into(), false),
            Decision::Recovered => ("recovered".into(), false),
            Decision::Exonerate => ("exonerated".into(), false),
            Decision::Retreat => (format!("retreat{why}"), true),
            Decision::Revert => (format!("revert{why}"), true),
            Decision::Held => ("held, unjudged".into(), true),
            Decision::Stuck => (format!("stuck{why}"), true),
            Decision::Refuse => (format!("refused{why}"), true),
            _ => continue,
        };
        marks.push(Mark { at: since(record.at.mono.0), what, grave });
    }
    if let Some(back) = life.state().last_revert.and_then(|revert| revert.traffic_back) {
        marks.push(Mark { at: since(back.0), what: "traffic is back".into(), grave: false });
    }
    marks.sort_by_key(|mark| mark.at);
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rehearsal() -> Rehearsal {
        let rollouts = concat!(env!("CARGO_MANIFEST_DIR"), "/rollouts");
        let loaded = crate::spec::load(&[rollouts]);
        let (key, by) = ("shop/checkout", house::person("dan"));
        Rehearsal::new(key, &loaded.rollouts[key].1, loaded.policy(key, &by.actor).unwrap(), Span::seconds(1), by, 100.0)
    }

    fn lives(model: Model) -> Vec<Outcome> {
        (1..=3).map(|seed| rehearsal().live(model, seed, None)).collect()
    }

    #[test]
    fn bad_candidates_are_taken_out_and_good_ones_are_not() {
        for outcome in lives(Model::Healthy) {
            assert_eq!((outcome.end, outcome.paged), (End::KnownGood, false));
        }
        for outcome in [Model::Cliff, Model::LateCliff, Model::TailLatency].into_iter().flat_map(lives) {
            assert_eq!(outcome.end, End::Reverted, "{outcome:?}");
            assert!(outcome.detected.is_some_and(|millis| millis < 180_000), "{outcome:?}");
        }
    }

    #[test]
    fn who_waits_for_requests_is_paged_a_few_times_and_not_by_the_thousand() {
        let it = rehearsal();
        let mut life = it.begin(Model::NoTraffic, 1).unwrap();
        let outcome = it.trial(&mut life, &candidate(), None);
        assert_eq!((outcome.end, outcome.paged), (End::Waits, true));
        let pages = life.world.told.values().filter(|notice| notice.page).count();
        assert!((1..20).contains(&pages), "{pages} pages");
    }
}
