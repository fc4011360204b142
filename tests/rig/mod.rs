//! A small house for tests of the whole: a real host process, real children behind its proxy, signed artifacts, a
//! receiver of pages, and the controller in this process. Included by each as `#[path = "rig/mod.rs"] mod rig;`.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test uses the part that it needs")]

mod pages;
mod replayed;
mod shape;

use std::collections::BTreeMap;
use std::fs::{self, File as Disk};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use backstop::cli::demo::load::Visit;
use backstop::core::actor::{Actor, ActorKind, Assurance, Request};
use backstop::core::input::{Commanded, Deployed, Input, Parts, Verb};
use backstop::core::ledger::Standing;
use backstop::core::machine::Answer;
use backstop::core::preview::{LedgerLine, View};
use backstop::core::record::{Decision, Event, Record};
use backstop::core::release::{Image, Release, ReleaseId, Template};
use backstop::core::state::PhaseKind;
use backstop::host::wire;
use backstop::shell::standalone::{Controller, Setup, StartError};
use backstop::world::clock;
use backstop::world::host_client::HostClient;
use backstop::world::publish::{File, Options, Provenance, Publisher, SigningKey};

pub use pages::{Page, Pages};
pub use shape::Shape;

/// Namespace of every workload.
pub const NAMESPACE: &str = "demo";
/// The only workload of most tests.
pub const SERVICE: &str = "demo/checkout";
/// Repository of every artifact; nothing is ever fetched from there.
const REPOSITORY: &str = "demo.invalid/checkout";

/// A flag that is on for everybody by targeting: changing its default alone would help nobody.
const FLAGS: &str = r#"{"flags": {"new-checkout": {"state": "ENABLED", "variants": {"on": true, "off": false},
  "defaultVariant": "on", "targeting": {"if": [true, "on"]}}}}"#;

/// The example program `name`, built if need be.
pub fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let target = std::env::current_exe().expect("this program").ancestors().nth(2).expect("a target folder").to_owned();
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--examples", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .status()
            .expect("cargo starts");
        assert!(built.success(), "the examples must build");
        target.join("examples")
    });
    folder.join(name)
}

/// Everything, in one folder, gone with it.
pub struct House {
    folder: tempfile::TempDir,
    key: SigningKey,
    host: Child,
    /// The host's client.
    pub client: HostClient,
    /// What each controller here is made of.
    pub setup: Setup,
    controller: Option<Controller>,
    records: Arc<Mutex<Vec<Arc<Record>>>>,
    /// Where pages and notices arrive.
    pub pages: Pages,
    shape: Shape,
}

impl House {
    /// The host runs, the controller does not yet.
    pub async fn without_controller(shape: Shape) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let folder = tempfile::Builder::new().prefix("backstop-").tempdir().expect("a folder");
        let dir = folder.path().to_owned();
        fs::create_dir_all(dir.join("rollouts")).expect("a folder");
        fs::write(dir.join("flags.json"), FLAGS).expect("a flag file");
        let key = SigningKey::generate().expect("a key");
        let host = start_host(&dir);
        let socket = dir.join("host/host.sock");
        until("the host answers", || socket_answers(&socket)).await;
        let pages = Pages::receive().await;
        let setup = Setup {
            data_dir: dir.clone(),
            specs: vec![dir.join("rollouts")],
            host_socket: socket.clone(),
            content: dir.join("host/content"),
            docker_config: None,
            webhook: Some(pages.webhook()),
        };
        let client = HostClient::new(&socket, Duration::from_secs(5));
        let house = Self { folder, key, host, client, setup, controller: None, records: Arc::default(), pages, shape };
        house.write_specs();
        house
    }

    /// Host and controller run.
    pub async fn start(shape: Shape) -> Self {
        let mut house = Self::without_controller(shape).await;
        house.start_controller().await;
        house
    }

    fn write_specs(&self) {
        let text = self.shape.documents(self.dir(), &self.key.public_pem().expect("a public key"));
        fs::write(self.dir().join("rollouts/all.yaml"), text).expect("the specification");
    }

    /// Changes the specification; controllers started from now on see it.
    pub fn reshape(&mut self, change: impl FnOnce(&mut Shape)) {
        change(&mut self.shape);
        self.write_specs();
    }

    /// Starts a controller here.
    pub async fn start_controller(&mut self) {
        let controller = Controller::start(&self.setup).await.unwrap_or_else(|error| panic!("the controller does not start: {error:?}"));
        self.keep_records(&controller);
        self.controller = Some(controller);
    }

    /// Has the controller read the specifications again.
    pub async fn reload(&mut self) -> Result<(), StartError> {
        self.controller.as_mut().expect("the controller runs").reload(&self.setup).await
    }

    fn keep_records(&self, controller: &Controller) {
        let mut news = controller.handle().records();
        let book = Arc::clone(&self.records);
        tokio::spawn(async move {
            while let Ok(record) = news.recv().await {
                book.lock().expect("a lock").push(record);
            }
        });
    }

    /// Stops the controller; host and children go on.
    pub async fn stop_controller(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
    }

    /// The controller.
    pub fn controller(&self) -> &Controller {
        self.controller.as_ref().expect("the controller runs")
    }

    /// The folder of everything.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The layout folder with the artifacts.
    pub fn layout(&self) -> PathBuf {
        self.dir().join("layout")
    }

    /// The file that makes the shared dependency fail while it exists.
    pub fn outage(&self) -> PathBuf {
        self.dir().join("outage")
    }

    /// The flag file.
    pub fn flags(&self) -> PathBuf {
        self.dir().join("flags.json")
    }

    /// Turns the flag on again.
    pub fn reset_flag(&self) {
        fs::write(self.flags(), FLAGS).expect("the flag file");
    }

    /// The folder of the store.
    pub fn store(&self) -> PathBuf {
        self.dir().join("store")
    }

    /// Where a service answers.
    pub fn address(&self, service: &str) -> SocketAddr {
        self.shape.address(service)
    }

    /// Builds, signs and publishes an artifact that behaves as `env` says.
    pub fn release(&self, label: &str, env: &[(&str, &str)]) -> Release {
        self.publish(label, env, true)
    }

    /// The same without any attestation.
    pub fn unattested(&self, label: &str) -> Release {
        self.publish(label, &[], false)
    }

    fn publish(&self, label: &str, env: &[(&str, &str)], attested: bool) -> Release {
        let script = format!("#!/bin/sh\nexec {}\n", example("service").display());
        let files = [
            File { path: "bin/service".into(), executable: true, bytes: script.into_bytes() },
            File { path: "VERSION".into(), executable: false, bytes: format!("{label}\n").into_bytes() },
        ];
        let provenance =
            Provenance { builder: "https://builder.example/ci".into(), source: format!("git+https://git.example/checkout@{label}") };
        let options = Options {
            tag: Some(label.to_owned()),
            sign: attested,
            provenance: attested.then_some(provenance),
            sbom: attested.then(|| vec![("checkout".to_owned(), label.to_owned())]),
        };
        let image = Publisher::new(self.layout(), &self.key).publish(REPOSITORY, &files, &options).expect("published");
        self.run_with(image, label, env)
    }

    /// A release of an image that is there already.
    pub fn run_with(&self, image: Image, label: &str, env: &[(&str, &str)]) -> Release {
        let mut all: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.insert("OUTAGE_FILE".into(), self.outage().display().to_string());
        Release::new(Template::process(image, vec!["bin/service".into()], all), Some(label.to_owned()))
    }

    /// Deploys a release of `service`.
    pub async fn deploy_to(&self, service: &str, release: &Release, request: Request) -> Answer {
        let input = Input::Deployed(Deployed { release: release.clone(), request });
        self.controller().handle().ask(service, input).await.expect("the controller answers")
    }

    /// Deploys a release, which must be accepted.
    pub async fn deploy(&self, release: &Release, request: Request) {
        let answer = self.deploy_to(SERVICE, release, request).await;
        assert!(answer.accepted, "{answer:?}");
    }

    /// Gives a command.
    pub async fn command_to(&self, service: &str, verb: Verb, request: Request) -> Answer {
        self.controller().handle().ask(service, Input::Commanded(Commanded { verb, request })).await.expect("the controller answers")
    }

    /// Gives a person's command, which must be accepted.
    pub async fn command(&self, verb: Verb) -> Answer {
        let answer = self.command_to(SERVICE, verb, person("the test says so")).await;
        assert!(answer.accepted, "{answer:?}");
        answer
    }

    /// Where a rollout stands.
    pub fn view_of(&self, service: &str) -> View {
        self.controller().handle().view(service).expect("the rollout is there").0.clone()
    }

    /// Where the rollout stands.
    pub fn view(&self) -> View {
        self.view_of(SERVICE)
    }

    /// Waits until a rollout looks as wanted.
    pub async fn until_of(&self, service: &str, what: &str, patience: Duration, wanted: impl Fn(&View) -> bool) -> View {
        let mut view = self.controller().handle().line(service).expect("the rollout is there").view;
        let seen = tokio::time::timeout(patience, view.wait_for(|view| wanted(&view.0))).await;
        if let Ok(Ok(view)) = seen {
            return view.0.clone();
        }
        let view = self.view_of(service);
        let (waiting, reason) = (view.waiting.map(|reason| reason.to_string()), view.reason.map(|reason| reason.to_string()));
        let (phase, step, open, observed) = (view.phase, view.step, view.open, view.observed);
        panic!(
            "{service}: {what}: not within {patience:?}; it is {phase} {step:?}, waits for {waiting:?}, because of {reason:?}, \
             open {open:?}, traffic {observed:?}; {}",
            self.story(service)
        );
    }

    /// Waits until the rollout looks as wanted.
    pub async fn until(&self, what: &str, patience: Duration, wanted: impl Fn(&View) -> bool) -> View {
        self.until_of(SERVICE, what, patience, wanted).await
    }

    /// Waits for a phase in which nothing is left to do.
    pub async fn until_phase(&self, phase: PhaseKind, seconds: u64) -> View {
        self.until(&format!("{phase}"), Duration::from_secs(seconds), |view| view.phase == phase && view.open.is_empty()).await
    }

    /// Brings a release to be known good and stable on a person's word, so that a test can begin there.
    pub async fn settle_at(&self, service: &str, release: &Release) {
        let answer = self.deploy_to(service, release, person("first")).await;
        assert!(answer.accepted, "{answer:?}");
        let short = Duration::from_mins(1);
        let judged = |view: &View| view.step.as_deref() == Some("judging") && view.stage.is_some_and(|(stage, stages)| stage == stages);
        self.until_of(service, "on trial", short, judged).await;
        self.command_to(service, Verb::Promote, person("first")).await;
        self.until_of(service, "watched", short, |view| view.phase == PhaseKind::Watching).await;
        let answer = self.command_to(service, Verb::Adopt, person("first")).await;
        assert!(answer.accepted, "{answer:?}");
        self.until_of(service, "settled", short, |view| {
            view.phase == PhaseKind::Idle
                && view.open.is_empty()
                && view.stable.as_ref() == Some(release)
                && view.arms.get(&release.id).is_some_and(backstop::core::input::ArmHealth::is_ready)
        })
        .await;
    }

    /// The same for the only service.
    pub async fn settle(&self, release: &Release) {
        self.settle_at(SERVICE, release).await;
    }

    /// Decisions so far, oldest first.
    pub fn decisions(&self, service: &str) -> Vec<(Decision, Option<&'static str>)> {
        let book = self.records.lock().expect("a lock");
        let decided = book.iter().filter(|record| record.resource_target == service).filter_map(|record| match &record.event {
            Event::Decision { decision, .. } => Some((*decision, record.reason.as_ref().map(backstop::core::reason::Reason::code))),
            _ => None,
        });
        decided.collect()
    }

    fn story(&self, service: &str) -> String {
        format!("decisions {:?}; pages {:?}", self.decisions(service), self.pages.codes())
    }

    /// Whether there was such a decision.
    pub fn decided(&self, decision: Decision) -> bool {
        self.decisions(SERVICE).iter().any(|(made, _)| *made == decision)
    }

    /// What the host knows of a service.
    pub async fn host_view(&self, service: &str) -> wire::View {
        let (namespace, name) = service.split_once('/').expect("namespace/name");
        self.client.view(namespace, name).await.expect("the host answers").expect("it knows the workload")
    }

    /// Process ids of a release's members.
    pub async fn pids(&self, release: &Release) -> Vec<u32> {
        let view = self.host_view(SERVICE).await;
        view.members.iter().filter(|member| member.release == release.id).filter_map(|member| member.pid).collect()
    }

    /// The host's process.
    pub fn host_pid(&self) -> u32 {
        self.host.id()
    }

    /// Where the host's counters can be scraped.
    pub fn host_metrics(&self) -> SocketAddr {
        let text = fs::read_to_string(self.dir().join("host/host.json")).expect("the host's record");
        let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        record["metrics"].as_str().expect("an address").parse().expect("an address")
    }

    /// Ends controller and host.
    pub async fn end(mut self) {
        self.stop_controller().await;
        replayed::replays(&self.store());
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // The host ends its children; killed at once it would leave them to nobody.
        signal(self.host.id(), rustix::process::Signal::TERM);
        let begin = clock::instant();
        while begin.elapsed() < Duration::from_secs(15) {
            if !matches!(self.host.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.host.kill();
        let _ = self.host.wait();
    }
}

fn start_host(dir: &Path) -> Child {
    let log = Disk::create(dir.join("host.log")).expect("a log file");
    Command::new(example("host"))
        .arg(dir.join("host"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the host starts")
}

fn socket_answers(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

/// Sends a signal to a process that a test started.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits until something is so, at most 30 s.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = clock::instant();
    while !so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the view's ledger says of a release.
pub fn line<'a>(view: &'a View, release: &Release) -> &'a LedgerLine {
    view.ledger.iter().find(|line| line.release.id == release.id).expect("the ledger knows the release")
}

/// Why it is where it is, as a code.
pub fn code(view: &View) -> &'static str {
    view.reason.as_ref().map_or("", |reason| reason.code())
}

/// A revert of everything.
pub fn revert() -> Verb {
    Verb::Revert { to: None, parts: Parts::All, break_glass: false }
}

/// A request by an agent.
pub fn agent(rationale: &str) -> Request {
    let actor = Actor {
        kind: ActorKind::Agent,
        principal: "token:release-bot".into(),
        assurance: Assurance::Authenticated,
        agent_id: Some("release-bot".into()),
        agent_version: Some("1.4".into()),
        model: Some("example-model-2".into()),
        ..Actor::default()
    };
    Request { id: format!("test-{rationale}"), actor, rationale: Some(rationale.to_owned()), ..Request::default() }
}

/// A request by the person on call.
pub fn person(reason: &str) -> Request {
    let actor = Actor { kind: ActorKind::Human, principal: "uid:1000".into(), assurance: Assurance::Authenticated, ..Actor::default() };
    Request { id: format!("test-{reason}"), actor, rationale: Some(reason.to_owned()), ..Request::default() }
}

/// Every request was answered; otherwise says when those that were not were sent, beside the first of all, and what became of them.
pub fn none_dropped(visits: &[Visit]) {
    let first = visits.first().map(|visit| visit.sent);
    let told = |visit: &Visit| first.map(|first| format!("after {:?}: {:?} ({:?})", visit.sent - first, visit.fault, visit.took));
    let dropped: Vec<_> = visits.iter().filter(|visit| visit.status.is_none()).filter_map(told).collect();
    assert!(dropped.is_empty(), "{} of {} requests were dropped:\n{}", dropped.len(), visits.len(), dropped.join("\n"));
}
