//! Guards, and rollouts brought to the point where they are judged, in a world that says yes to everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backstop::core::actor::{Actor, ActorKind, Assurance, Request};
use backstop::core::attest::{Facts, ImageFacts, Proof, Statement};
use backstop::core::input::{Arm, ArmHealth, Deployed, Input, Looked, Observation, Observed, Outcome};
use backstop::core::ledger::Standing;
use backstop::core::machine::Machine;
use backstop::core::policy::Policy;
use backstop::core::release::{Digest, Image, Release, Template};
use backstop::core::spec::{GuardedRollout, Percent};
use backstop::core::state::{Guard, PhaseKind, State};
use backstop::core::time::{Now, Span};
use backstop::core::work::{Action, Effect};
use backstop::shell::order::{Committed, Order, Step};
use backstop::shell::rollout::Policies;
use backstop::spec::load_text;

use super::traffic::{Counters, Second};

/// Two objectives at 99 %, a canary with a tenth of the traffic, a flag, and a policy without a breaker.
const SPEC: &str = r#"apiVersion: backstop.dev/v1alpha1
kind: GuardedRollout
metadata: {name: checkout, namespace: shop}
spec:
  workload:
    process:
      listen: "127.0.0.1:0"
      artifacts: {layout: {path: "."}}
  arms: {by: {label: version}}
  source: ring
  objectives:
    - name: availability
      good: 99%
      ratio: {bad: 'http_requests_total{code="5xx"}', total: 'http_requests_total'}
    - name: latency
      good: 99%
      histogram: {metric: 'http_request_duration_seconds', within: 300ms}
  strategy:
    canary:
      steps:
        - {weight: 10%, bake: 7m, deadline: 2h}
  watch: {for: 30m, holdback: 10%}
  attestation: {policy: release}
  revert:
    flags: [{use: flags, flag: new-checkout, to: {variant: "off"}}]
---
apiVersion: backstop.dev/v1alpha1
kind: GuardPolicy
metadata: {name: release}
spec:
  floors: {restoresPerHour: 1000000, breaker: false}
  attestation:
    authorities: [{name: release-key, key: {data: KEY}}]
    require: [{kind: signature}]
---
apiVersion: backstop.dev/v1alpha1
kind: GuardSource
metadata: {name: ring}
spec:
  scrape: {urls: ["http://127.0.0.1:9/metrics"], every: 1s}
---
apiVersion: backstop.dev/v1alpha1
kind: FlagTarget
metadata: {name: flags}
spec:
  file: {path: "flags.json"}
"#;

/// The document above with this key.
pub(crate) fn text(public_key: &str) -> String {
    SPEC.replace("KEY", &serde_json::Value::from(public_key).to_string())
}

/// The document above, with the policy that applies to it.
pub(crate) fn document(public_key: &str) -> (GuardedRollout, Policy) {
    let loaded = load_text("bench.yaml", &text(public_key), Path::new("."));
    let Some((metadata, spec)) = loaded.rollouts.get("shop/checkout").cloned() else { panic!("{:?}", loaded.findings) };
    let policies = Policies::new(loaded.into(), metadata, &spec);
    (GuardedRollout::clone(&spec), policies.of_guard())
}

/// A person.
pub(crate) fn person() -> Request {
    let actor = Actor { kind: ActorKind::Human, principal: "uid:1000".into(), assurance: Assurance::Authenticated, ..Actor::default() };
    Request { id: "bench".into(), actor, rationale: Some("a benchmark".into()), ..Request::default() }
}

/// A release of the guard's image that differs from others in its environment.
pub(crate) fn release(name: &str) -> Release {
    let image = Image { repository: "bench.invalid/checkout".into(), digest: Digest::of(name.as_bytes()) };
    Release::new(Template::process(image, vec!["serve".into()], BTreeMap::new()), Some(name.to_owned()))
}

/// A world that says yes at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Yes {
    pub(crate) observed: Observed,
}

impl Yes {
    /// What became of an effect; nothing for a look.
    pub(crate) fn perform(&mut self, effect: &Effect) -> Option<Outcome> {
        let observed = match &effect.action {
            Action::Look(_) => return None,
            Action::Verify { release, .. } => Observation::Facts(Box::new(facts(release))),
            Action::EnsureArm { release, present } => {
                self.observed.arms.remove(&release.id);
                if *present {
                    self.observed.arms.insert(release.id.clone(), ArmHealth { wanted: 1, ready: 1, failing: None });
                }
                self.seen()
            }
            Action::EnsureWeights { weights } => {
                self.observed.weights.clone_from(weights);
                self.seen()
            }
            Action::EnsureRelease { release } => {
                self.observed.current = Some(release.id.clone());
                self.seen()
            }
            Action::EnsureFlag(_) | Action::EnsureHold { .. } | Action::Notify(_) | Action::Record => Observation::Nothing,
        };
        Some(Outcome::Done { changed: true, observed })
    }

    fn seen(&self) -> Observation {
        Observation::Workload(Arc::new(self.observed.clone()))
    }
}

fn facts(release: &Release) -> Facts {
    let statement = |image: &Image| Statement {
        authority: "release-key".into(),
        proof: Proof::Signature,
        predicate_type: None,
        builder: None,
        source: None,
        packages: None,
        evidence: image.digest.clone(),
    };
    let of = |image: Image| ImageFacts { statements: vec![statement(&image)], image, rejected: Vec::new(), incomplete: None };
    Facts { images: release.template.images().into_iter().map(of).collect(), ledger_untrusted: None }
}

/// One rollout under judgement, with its traffic.
pub(crate) struct Rollout {
    pub(crate) order: Order<()>,
    pub(crate) world: Yes,
    traffic: Counters,
    at: i64,
}

impl Rollout {
    /// Takes the rollout `key` from a known-good stable release to the judging of a candidate.
    pub(crate) fn judged(key: &str, spec: &GuardedRollout, policy: &Policy, now: Now) -> Self {
        let (stable, candidate) = (release(&format!("{key} stable")), release(&format!("{key} candidate")));
        let mut state = State::new();
        let record = state.ledger.entry(now, &stable);
        (record.standing, record.last_good, record.why) = (Standing::KnownGood, Some(now), "its watch passed".into());
        state.stable = Some(stable.id.clone());
        state.weights = [(stable.id.clone(), Percent::FULL)].into();
        let guard = Guard {
            key: key.to_owned(),
            uid: Digest::of(key.as_bytes()).short().to_owned(),
            spec: Arc::new(spec.clone()),
            interval: Span::seconds(1),
        };
        let mut world = Yes::default();
        world.observed.arms.insert(stable.id.clone(), ArmHealth { wanted: 1, ready: 1, failing: None });
        let order = Order::new(Machine::restore(guard, policy.clone(), state));
        let mut rollout = Self { order, world, traffic: Counters::default(), at: now.wall.as_millisecond() };
        rollout.order.push(Input::Observed(Arc::new(rollout.world.observed.clone())), None);
        rollout.order.push(Input::Deployed(Deployed { release: candidate, request: person() }), None);
        rollout.settle(now);
        let machine = rollout.order.machine();
        assert_eq!(rollout.phase(), PhaseKind::Advancing, "{:?} {:?}", machine.halted(), machine.state().tasks);
        rollout
    }

    /// The phase.
    pub(crate) fn phase(&self) -> PhaseKind {
        self.order.machine().state().phase.kind()
    }

    /// The state as a store that was never written to takes it: the first revision.
    pub(crate) fn first_state(&self) -> State {
        State { revision: 1, ..self.order.machine().state().clone() }
    }

    /// The same rollout restored from its state, as after a start.
    pub(crate) fn restored(self, guard: Guard, policy: &Policy, state: State) -> Self {
        let mut order = Order::new(Machine::restore(guard, policy.clone(), state));
        order.push(Input::Observed(Arc::new(self.world.observed.clone())), None);
        Self { order, ..self }
    }

    /// Does everything there is to do; every commit succeeds.
    pub(crate) fn settle(&mut self, now: Now) {
        while let Some(step) = self.order.next(now) {
            match step {
                Step::Start(effect) => self.perform(&effect),
                Step::Commit(_) => self.order.committed(Committed::Done),
                Step::Answer((), _) | Step::Stale => {}
            }
        }
    }

    /// Performs an effect.
    pub(crate) fn perform(&mut self, effect: &Effect) {
        if let Some(outcome) = self.world.perform(effect) {
            self.order.finished(effect.id, effect.lane, outcome);
        }
    }

    /// The next second's answer, in which the candidate fails this share of its 20 requests.
    pub(crate) fn next_look(&mut self, bad: f64) -> Looked {
        self.at += 1000;
        self.traffic.serve(Arm::Candidate, Second { total: 20.0, failed: 20.0 * bad, slow: 0.0 });
        self.traffic.serve(Arm::Stable, Second { total: 180.0, failed: 0.0, slow: 0.0 });
        self.traffic.scrape(self.at)
    }
}
