//! A controller in memory: real machines in real orders behind the real API, in a world where every effect works at once.
#![allow(dead_code, unreachable_pub)] // each test crate uses a part of it
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstop::api::auth::Principals;
use backstop::api::{self, Api, Listener, ScopeFreeze};
use backstop::core::actor::{Actor, ActorKind, Assurance, Request};
use backstop::core::attest::{AttestationPolicy, Authority, Facts, ImageFacts, Key, Proof, Requirement, Statement};
use backstop::core::input::{ArmHealth, Input, LookFault, Looked, Observation, Observed, Outcome};
use backstop::core::machine::{Answer, Machine};
use backstop::core::plan::Plan;
use backstop::core::policy::Policy;
use backstop::core::preview::{RevertPlan, View};
use backstop::core::reason::Reason;
use backstop::core::release::{Digest, Image, Release, Template};
use backstop::core::spec::{GuardedRollout, Percent};
use backstop::core::state::{Advancing, Guard, Phase, Readiness, StageStep, State, Trial};
use backstop::core::time::{Mono, Now, Span};
use backstop::core::work::{Action, Effect};
use backstop::shell::handle::{Handle, Line, Message};
use backstop::shell::order::{Committed, Order, Step};
use backstop::telemetry::Metrics;
use backstop::world::clock;
use tokio::sync::{mpsc, oneshot, watch};

/// The rollout that every fake has.
pub const KEY: &str = "shop/checkout";
/// A token of a person, of an agent, of a pipeline, and one that ended.
pub const TOKENS: [(&str, &str); 4] = [
    ("alice-token", "name: alice, kind: human"),
    ("bot-token", "name: release, kind: agent, agentId: release-bot"),
    ("ci-token", "name: ci, kind: automation"),
    ("old-token", "name: old, kind: human, expires: 2020-01-01T00:00:00Z"),
];

/// A guard with two objectives and three steps; recovery is believed after 300 ms.
pub fn guard() -> Guard {
    let spec = serde_json::json!({
        "workload": {"process": {"listen": "127.0.0.1:0", "artifacts": {"layout": {"path": "artifacts"}}}},
        "arms": {"by": "route"},
        "objectives": [
            {"name": "availability", "good": "99%", "ratio": {"bad": "requests_total{code=~\"5..\"}", "total": "requests_total"}},
            {"name": "latency", "good": "99%", "histogram": {"metric": "request_seconds", "within": "300ms"}},
        ],
        "strategy": {"canary": {"steps": [
            {"weight": "5%", "bake": "2m"}, {"weight": "25%", "bake": "5m"}, {"weight": "50%", "bake": "5m"},
        ]}},
        "attestation": {"policy": "release"},
        "revert": {"flags": [{"use": "shop-flags", "flag": "new-checkout", "to": {"variant": "off"}}]},
        "recovery": {"deadline": "300ms"},
    });
    let spec: GuardedRollout = serde_json::from_value(spec).unwrap();
    Guard { key: KEY.into(), uid: "u-1".into(), spec: spec.into(), interval: Span::seconds(1) }
}

pub fn release(label: &str) -> Release {
    let digest = Digest::of(label.as_bytes());
    let image = Image { repository: "registry.example/shop/checkout".into(), digest };
    let template = Template::process(image, vec!["bin/checkout".into()], BTreeMap::new());
    Release::new(template, Some(label.into()))
}

pub fn at(seconds: i64) -> Now {
    // 2026-11-23T03:00:00Z and later.
    let wall = jiff::Timestamp::from_second(1_795_402_800 + seconds).unwrap();
    Now { wall, mono: Mono(u64::try_from(seconds).unwrap() * 1000) }
}

/// v41 and v42 are known good, v42 runs.
pub fn resting() -> State {
    let mut state = State::new();
    for (label, since) in [("v41", 0), ("v42", 60)] {
        let record = state.ledger.entry(at(since), &release(label));
        record.standing = backstop::core::ledger::Standing::KnownGood;
        record.last_good = Some(at(since));
        record.why = "BS031".into();
    }
    let stable = release("v42").id;
    state.generation = 3;
    state.weights = [(stable.clone(), Percent::FULL)].into();
    state.stable = Some(stable);
    state.readiness = Some(Readiness { target: Some(release("v41").id), missing: None });
    state
}

/// v43, brought by an agent, is judged at 25 %.
pub fn on_trial() -> (State, Observed) {
    let (mut state, guard) = (resting(), guard());
    let candidate = release("v43");
    state.ledger.entry(at(100), &candidate);
    state.generation = 4;
    state.weights = [(candidate.id.clone(), Percent::new(25.0)), (release("v42").id, Percent::new(75.0))].into();
    state.readiness = Some(Readiness { target: Some(release("v42").id), missing: None });
    state.phase = Phase::Advancing(Advancing { stage: 1, since: Mono(200_000), step: StageStep::Judging });
    let actor = Actor {
        kind: ActorKind::Agent,
        principal: "token:release".into(),
        assurance: Assurance::Authenticated,
        agent_id: Some("release-bot".into()),
        agent_version: Some("1.4".into()),
        model: Some("example-model-2".into()),
        ..Actor::default()
    };
    let request = Request {
        id: "rq-1".into(),
        actor,
        trigger: Some("issue-4711".into()),
        rationale: Some("bump the tax table\u{1b}[2J".into()),
        ..Request::default()
    };
    state.trial = Some(Arc::new(Trial {
        policy: Arc::default(),
        plan: Plan::compile(&guard.spec),
        candidate: candidate.clone(),
        request: Arc::new(request),
        spec: guard.spec,
        since: at(100),
        candidate_attested: Some(true),
        stable_attested: Some(true),
        approvals: Vec::new(),
        judge: None,
        breached: false,
        retreats: 0,
        blind: None,
        shared: false,
    }));
    let arm = |ready| ArmHealth { wanted: 2, ready, failing: None };
    let observed = Observed {
        arms: [(candidate.id.clone(), arm(2)), (release("v42").id, arm(2))].into(),
        weights: [(candidate.id.clone(), Percent::new(20.0)), (release("v42").id, Percent::new(80.0))].into(),
        current: Some(release("v42").id),
    };
    (state, observed)
}

/// A fake controller. It ends with the test's runtime.
pub struct Fake {
    pub dir: tempfile::TempDir,
    pub handle: Handle,
    pub url: String,
}

impl Fake {
    /// Serves `state` on a socket in a folder of its own, and on loopback. `socket_kind` is who the tests' own user is there.
    pub async fn start(state: State, observed: Observed, socket_kind: &str) -> Self {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let dir = tempfile::tempdir().unwrap();
        let owner = std::fs::metadata(dir.path()).unwrap().uid();
        let mut text = format!("principals:\n  - {{uid: {owner}, name: tester, kind: {socket_kind}}}\n");
        for (token, rest) in TOKENS {
            let _ = writeln!(text, "  - {{tokenSha256: {}, {rest}}}", Digest::of(token.as_bytes()).hex());
        }
        let file = dir.path().join("principals.yaml");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let handle = Handle::new();
        run(&handle, state, observed);
        let (freezes, frozen) = mpsc::channel(4);
        tokio::spawn(keep_freezes(handle.clone(), frozen));
        let (_, unready) = watch::channel(None);
        let principals = Arc::new(Principals::open(file, owner).unwrap());
        let router = api::router(Api::new(handle.clone(), principals, Arc::new(Metrics::new()), unready, freezes));
        let unix = Listener::unix(&socket(dir.path()), 0o600).await.unwrap();
        let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", tcp.address().unwrap());
        tokio::spawn(api::serve(unix, router.clone(), std::future::pending()));
        tokio::spawn(api::serve(tcp, router, std::future::pending()));
        Self { dir, handle, url }
    }

    pub fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("backstop.sock")
}

async fn keep_freezes(handle: Handle, mut frozen: mpsc::Receiver<ScopeFreeze>) {
    while let Some(freeze) = frozen.recv().await {
        let keys: Vec<String> = handle.keys().into_iter().filter(|key| freeze.scope.contains(key)).collect();
        for key in &keys {
            let scope = backstop::core::input::Scope { frozen: freeze.on, ..Default::default() };
            handle.tell(key, Input::ScopeChanged(scope)).unwrap();
        }
        freeze.answer.send(Ok(keys.len())).unwrap();
    }
}

type Shown = Arc<(View, RevertPlan)>;

fn shown(machine: &Machine) -> Shown {
    let guard = machine.guard();
    let plan = RevertPlan::of(&guard.key, &guard.uid, &guard.spec, machine.state(), machine.workload());
    Arc::new((View::of(machine), plan))
}

/// A signature by `release` is demanded; in this world every image has one.
fn policy() -> Policy {
    let key = Key { data: Some("a public key".into()), file: None };
    let attestation = AttestationPolicy {
        authorities: vec![Authority { name: "release".into(), key }],
        require: vec![Requirement { kind: Proof::Signature, authorities: Vec::new() }],
        ..AttestationPolicy::default()
    };
    Policy { attestation, ..Policy::default() }
}

/// A line with this many places that nobody takes anything from, but whoever has its other end.
pub fn line(places: usize) -> (Line, mpsc::Receiver<Message>) {
    let (urgent, inbox) = mpsc::channel(places);
    let view = watch::channel(shown(&Machine::restore(guard(), policy(), resting()))).1;
    (Line { urgent, view }, inbox)
}

fn run(handle: &Handle, state: State, observed: Observed) {
    let machine = Machine::restore(guard(), policy(), state);
    let (urgent, inbox) = mpsc::channel(64);
    let (show, view) = watch::channel(shown(&machine));
    handle.connect(KEY.into(), Line { urgent, view });
    tokio::spawn(live(handle.clone(), machine, observed, inbox, show));
}

async fn live(handle: Handle, machine: Machine, observed: Observed, mut inbox: mpsc::Receiver<Message>, show: watch::Sender<Shown>) {
    let (base, start) = (machine.state().mono, clock::instant());
    let mut order: Order<oneshot::Sender<Answer>> = Order::new(machine);
    let mut world = observed;
    order.push(Input::Observed(Arc::new(world.clone())), None);
    loop {
        let now = Now { wall: clock::wall(), mono: base.after(start.elapsed()) };
        let mut steps = 0;
        while let Some(step) = order.next(now) {
            steps += 1;
            assert!(steps < 10_000, "the machine spins: {step:?}");
            match step {
                Step::Start(effect) => perform(&mut world, effect, &mut order),
                Step::Commit(commit) => {
                    commit.records.iter().cloned().for_each(|record| handle.publish(Arc::new(record)));
                    order.committed(Committed::Done);
                }
                Step::Answer(asked, answer) => {
                    // Whoever is answered and looks finds what the answer says.
                    show.send_replace(shown(order.machine()));
                    drop(asked.send(answer));
                }
                Step::Stale => return,
            }
        }
        show.send_replace(shown(order.machine()));
        tokio::select! {
            message = inbox.recv() => match message {
                Some(message) => order.push(*message.input, message.answer),
                None => return,
            },
            () = tokio::time::sleep(Duration::from_millis(20)) => order.wake(),
        }
    }
}

fn perform(world: &mut Observed, effect: Effect, order: &mut Order<oneshot::Sender<Answer>>) {
    let ready = ArmHealth { wanted: 1, ready: 1, failing: None };
    let observed = match effect.action {
        Action::Look(_) => {
            let fault = Some(LookFault::Down("there is no source here".into()));
            order.push(Input::Looked(Looked { fault, ..Looked::default() }), None);
            return;
        }
        Action::Verify { release, .. } => {
            let signed = Statement {
                authority: "release".into(),
                proof: Proof::Signature,
                predicate_type: None,
                builder: None,
                source: None,
                packages: None,
                evidence: Digest::of(b"evidence"),
            };
            let facts = |image| ImageFacts { image, statements: vec![signed.clone()], rejected: Vec::new(), incomplete: None };
            let images = release.template.images().into_iter().map(facts).collect();
            Observation::Facts(Box::new(Facts { images, ledger_untrusted: None }))
        }
        Action::EnsureArm { release, present } => {
            if present {
                world.arms.insert(release.id, ready)
            } else {
                world.arms.remove(&release.id)
            };
            Observation::Workload(Arc::new(world.clone()))
        }
        Action::EnsureWeights { weights, .. } => {
            world.weights = weights;
            Observation::Workload(Arc::new(world.clone()))
        }
        Action::EnsureRelease { release } => {
            world.arms.insert(release.id.clone(), ready);
            world.current = Some(release.id);
            Observation::Workload(Arc::new(world.clone()))
        }
        Action::EnsureFlag(_) | Action::EnsureHold { .. } | Action::Notify(_) | Action::Record => Observation::Nothing,
    };
    order.finished(effect.id, effect.lane, Outcome::Done { changed: true, observed });
}

/// v42 serves.
pub fn serving() -> Observed {
    let stable = release("v42").id;
    Observed {
        arms: [(stable.clone(), ArmHealth { wanted: 1, ready: 1, failing: None })].into(),
        weights: [(stable.clone(), Percent::FULL)].into(),
        current: Some(stable),
    }
}

/// What status shows while v43 is judged.
pub fn waiting() -> Reason {
    Reason::Insufficient { objective: "availability".into(), missing: 180 }
}
