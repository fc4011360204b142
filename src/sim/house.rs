//! The service that is simulated: its guard, its releases, its people.

use std::sync::Arc;

use crate::core::actor::{Actor, ActorKind, Assurance, Request};
use crate::core::attest::{AttestationPolicy, Authority, Facts, ImageFacts, Key, Proof, Requirement, Statement};
use crate::core::policy::Policy;
use crate::core::release::{Digest, Image, Release, Template};
use crate::core::spec::{
    Arms, ArmsBy, Artifacts, Attestation, BlueGreen, Canary, Candidate, FlagAction, FlagState, GuardedRollout, HealthCheck, NoData,
    Objective, Observe, OnNewer, Percent, Process, Ratio, Recovery, Restore, Retreat, Revert, Step, Strategy, Watch, Workload,
};
use crate::core::state::Guard;
use crate::core::time::Span;

/// Share of requests that may be bad.
pub const BUDGET: f64 = 0.01;

/// Three steps of a few seconds, and a short watch.
pub fn canary() -> Strategy {
    let step = |weight: f64| Step { weight: Percent::new(weight), bake: Span::seconds(8), deadline: Some(Span::seconds(120)) };
    Strategy::Canary(Canary {
        route: None,
        candidate: Candidate { warm_up: Span::seconds(2) },
        steps: vec![step(20.0), step(50.0)],
        on_deadline: None,
        on_newer: OnNewer::Supersede,
    })
}

/// An instant switch.
pub fn blue_green() -> Strategy {
    Strategy::BlueGreen(BlueGreen {
        route: None,
        candidate: Candidate { warm_up: Span::seconds(2) },
        bake: Span::seconds(8),
        deadline: Some(Span::seconds(120)),
        on_deadline: None,
        on_newer: OnNewer::Supersede,
    })
}

/// Watching what others roll out.
pub fn observe() -> Strategy {
    Strategy::Observe(Observe {})
}

/// The process that the simulated host runs; a plain one stands in for every other kind of workload.
pub(super) fn process(workload: &Workload) -> Process {
    workload.process().cloned().unwrap_or_else(plain)
}

fn plain() -> Process {
    Process {
        listen: "127.0.0.1:0".into(),
        artifacts: Artifacts::Registry {},
        instances: 2,
        health: HealthCheck::default(),
        drain: Span::seconds(1),
    }
}

/// A guard with one objective and one flag.
pub fn guard(strategy: Strategy) -> Guard {
    let ratio = Some(Ratio { bad: "bad".into(), total: "all".into() });
    let flag = FlagAction { use_: "flags".into(), flag: "new".into(), to: FlagState::Variant("off".into()) };
    let spec = GuardedRollout {
        workload: Workload::Process(plain()),
        arms: Arms { by: ArmsBy::Route, sticky: false },
        source: "host".into(),
        objectives: vec![Objective { name: "availability".into(), good: Percent::new(99.0), ratio, histogram: None, strict: false }],
        also_breach_on: Vec::new(),
        strategy,
        watch: Watch { for_: Span::seconds(10), holdback: Percent::ZERO },
        attestation: Attestation { policy: "release".into() },
        revert: Revert { restore: Restore::Template, flags: vec![flag] },
        recovery: Recovery { deadline: Span::seconds(60) },
        no_data: NoData { page: Span::seconds(20), ..NoData::default() },
        retreat: Retreat { for_: Span::seconds(30) },
    };
    Guard { key: "shop/checkout".into(), uid: "uid-1".into(), spec: Arc::new(spec), interval: Span::seconds(1) }
}

/// What is demanded of every image: a signature by the build.
pub fn policy() -> Policy {
    let authority = Authority { name: "build".into(), key: Key { data: Some("a key".into()), file: None } };
    let require = vec![Requirement { kind: Proof::Signature, authorities: Vec::new() }];
    let attestation = AttestationPolicy { authorities: vec![authority], require, ..AttestationPolicy::default() };
    Policy { attestation, ..Policy::default() }
}

/// A release: `image` names the bytes, `touch` the template around them.
pub fn release(image: &str, touch: u32) -> Release {
    let image_of = Image { repository: "shop/checkout".into(), digest: Digest::of(image.as_bytes()) };
    let env = [("TOUCH".to_owned(), touch.to_string())].into();
    let label = if touch == 0 { image.to_owned() } else { format!("{image}.{touch}") };
    Release::new(Template::process(image_of, vec!["app".into()], env), Some(label))
}

/// What good, or no, evidence proves of a release.
pub fn facts(release: &Release, attested: bool) -> Facts {
    let of = |image: Image| {
        let evidence = Digest::of(image.to_string().as_bytes());
        let statement = Statement {
            authority: "build".into(),
            proof: Proof::Signature,
            predicate_type: None,
            builder: None,
            source: None,
            packages: None,
            evidence,
        };
        ImageFacts { image, statements: if attested { vec![statement] } else { Vec::new() }, rejected: Vec::new(), incomplete: None }
    };
    Facts { images: release.template.images().into_iter().map(of).collect(), ledger_untrusted: None }
}

/// A request of somebody, with a reason.
pub fn request(kind: ActorKind, name: &str) -> Request {
    let agent_id = (kind == ActorKind::Agent).then(|| name.to_owned());
    let actor = Actor { kind, principal: name.to_owned(), assurance: Assurance::Authenticated, agent_id, ..Actor::default() };
    Request { id: format!("rq-{name}"), actor, rationale: Some("as the story goes".into()), ..Request::default() }
}

/// A person.
pub fn person(name: &str) -> Request {
    request(ActorKind::Human, name)
}

/// An agent.
pub fn agent(name: &str) -> Request {
    request(ActorKind::Agent, name)
}
