//! From the decisive sample to traffic and flag: a real host process, a real controller, a real flag file.
//!
//! The answers of the source are handed to the rollout's task, so that the instant of the decisive one is known exactly;
//! everything behind that is what `backstop run` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backstop::cli::demo::stage::FLAGS;
use backstop::core::input::{Arm, Commanded, Deployed, Input, Looked, Verb};
use backstop::core::preview::View;
use backstop::core::release::{Release, Template};
use backstop::core::state::PhaseKind;
use backstop::shell::handle::Line;
use backstop::shell::standalone::{Controller, Setup};
use backstop::world::clock;
use backstop::world::publish::{File, Options, Publisher, SigningKey};

use super::guards::person;
use super::table::{Against, Table, quantile};
use super::traffic::{Counters, Second};

/// Reverts that are measured.
const REVERTS: u32 = 120;
/// The rollout.
const KEY: &str = "bench/checkout";
/// Longest wait for a step.
const PATIENCE: Duration = Duration::from_secs(20);
/// Seconds of good traffic before the failure.
const HEALTHY: u32 = 3;

const SPEC: &str = r#"apiVersion: backstop.dev/v1alpha1
kind: GuardedRollout
metadata: {name: checkout, namespace: bench}
spec:
  workload:
    process:
      listen: "127.0.0.1:0"
      artifacts: {layout: {path: "layout"}}
      health: {path: /healthz, every: 20ms}
      drain: 1s
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
      candidate: {warmUp: 0s}
      steps: [{weight: 10%, bake: 7m, deadline: 2h}]
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
  file: {path: "FLAGFILE"}
"#;

/// Host, controller, artifacts and flag file in one folder.
struct Bed {
    dir: PathBuf,
    key: SigningKey,
    host: Child,
    controller: Controller,
    line: Line,
}

/// The times of one revert, in milliseconds from the decisive sample.
struct Times {
    flag_seen: f64,
    both_confirmed: f64,
    restored: f64,
}

/// Reverts again and again.
pub(crate) async fn measure(dir: &Path, table: &mut Table) {
    let mut bed = Bed::set(dir).await;
    bed.first().await;
    let (mut seen, mut confirmed, mut restored) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..REVERTS {
        let times = bed.revert(number).await;
        seen.push(times.flag_seen);
        confirmed.push(times.both_confirmed);
        restored.push(times.restored);
    }
    bed.end().await;
    table.section(format!("Decisive sample to traffic and flag, embedded, one rollout ({REVERTS} reverts, real host, real flag file)"));
    let argo = |other| Against::Other("Argo Rollouts' median, traffic alone", other);
    table.row("flag seen off by a reader: median", quantile(&mut seen, 0.5), "ms", Against::Nothing);
    table.row("flag seen off by a reader: p99", quantile(&mut seen, 0.99), "ms", Against::Budget(50.0));
    table.row("traffic and flag written and confirmed: median", quantile(&mut confirmed, 0.5), "ms", argo(58.0));
    table.row("traffic and flag written and confirmed: p99", quantile(&mut confirmed, 0.99), "ms", Against::Budget(50.0));
    table.row("release restored and verified too: median", quantile(&mut restored, 0.5), "ms", Against::Nothing);
    table.row("release restored and verified too: p99", quantile(&mut restored, 0.99), "ms", Against::Nothing);
    table.print_last();
}

impl Bed {
    async fn set(dir: &Path) -> Self {
        let dir = dir.to_owned();
        let key = SigningKey::generate().expect("a key");
        let pem = serde_json::Value::from(key.public_pem().expect("a public key")).to_string();
        std::fs::create_dir_all(dir.join("rollouts")).expect("a folder");
        std::fs::write(dir.join("flags.json"), FLAGS).expect("a flag file");
        let layout = dir.join("layout").display().to_string();
        let spec = SPEC.replace("KEY", &pem).replace("FLAGFILE", &dir.join("flags.json").display().to_string());
        let spec = spec.replace(r#"path: "layout""#, &format!("path: {layout:?}"));
        std::fs::write(dir.join("rollouts/checkout.yaml"), spec).expect("a specification");
        let mut host = Command::new(env!("CARGO_BIN_EXE_backstop"));
        host.args(["host", "--data-dir"]).arg(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let host = host.spawn().expect("the host starts");
        let setup = Setup {
            data_dir: dir.clone(),
            specs: vec![dir.join("rollouts")],
            host_socket: dir.join("host/host.sock"),
            content: dir.join("host/content"),
            docker_config: None,
            webhook: None,
        };
        let start = clock::instant();
        while tokio::net::UnixStream::connect(&setup.host_socket).await.is_err() {
            assert!(start.elapsed() < PATIENCE, "the host does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let controller = match Controller::start(&setup).await {
            Ok(controller) => controller,
            Err(error) => panic!("the controller does not start: {error} {error:?}"),
        };
        let line = controller.handle().line(KEY).expect("the rollout");
        Self { dir, key, host, controller, line }
    }

    fn release(&self, label: &str) -> Release {
        let script = format!("#!/bin/sh\nexec '{}' sample-service\n", env!("CARGO_BIN_EXE_backstop"));
        let files = [
            File { path: "bin/service".into(), executable: true, bytes: script.into_bytes() },
            File { path: "VERSION".into(), executable: false, bytes: label.as_bytes().to_vec() },
        ];
        let options = Options { sign: true, ..Options::default() };
        let publisher = Publisher::new(self.dir.join("layout"), &self.key);
        let image = publisher.publish("bench.invalid/checkout", &files, &options).expect("an artifact");
        Release::new(Template::process(image, vec!["bin/service".into()], BTreeMap::new()), Some(label.to_owned()))
    }

    async fn ask(&self, input: Input) {
        let answer = self.controller.handle().ask(KEY, input).await.expect("an answer");
        assert!(answer.accepted, "{answer:?}");
    }

    async fn deploy(&self, release: Release) {
        self.ask(Input::Deployed(Deployed { release, request: person() })).await;
    }

    async fn command(&self, verb: Verb) {
        self.ask(Input::Commanded(Commanded { verb, request: person() })).await;
    }

    fn tell(&self, looked: Looked) {
        self.controller.handle().tell(KEY, Input::Looked(looked)).expect("the rollout listens");
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&View) -> bool) {
        let seen = tokio::time::timeout(PATIENCE, self.line.view.wait_for(|view| wanted(&view.0))).await.is_ok();
        if !seen {
            let view = self.line.view.borrow().0.clone();
            panic!("{what}: not within {PATIENCE:?}; {:?} {:?} {:?} {:?}", view.phase, view.step, view.waiting, view.open);
        }
    }

    /// A first release that is known good.
    async fn first(&mut self) {
        let release = self.release("first");
        self.deploy(release).await;
        self.until("the first release serves", |view| view.step.as_deref() == Some("judging")).await;
        self.command(Verb::Promote).await;
        self.until("it has all traffic", |view| view.phase == PhaseKind::Watching).await;
        self.command(Verb::Adopt).await;
        self.until("it is stable", |view| view.phase == PhaseKind::Idle && view.stable.is_some() && view.open.is_empty()).await;
    }

    /// Deploys a candidate, breaks it, and takes the times.
    async fn revert(&mut self, number: u32) -> Times {
        std::fs::write(self.dir.join("flags.json"), FLAGS).expect("the flag is on");
        let release = self.release(&format!("candidate {number}"));
        let id = release.id.clone();
        self.deploy(release).await;
        let judged =
            |view: &View| view.candidate.as_ref().is_some_and(|candidate| candidate.id == id) && view.step.as_deref() == Some("judging");
        self.until("the candidate is judged", judged).await;
        let (mut traffic, mut at) = (Counters::default(), i64::from(number) * 1_000_000);
        let mut next = |failed: f64| {
            at += 1000;
            traffic.serve(Arm::Candidate, Second { total: 20.0, failed, slow: 0.0 });
            traffic.serve(Arm::Stable, Second { total: 180.0, failed: 0.0, slow: 0.0 });
            traffic.scrape(at)
        };
        for _ in 0..HEALTHY {
            self.tell(next(0.0));
        }
        let flag = FlagWatch::start(self.dir.join("flags.json"));
        // What was told so far is taken in before the failure begins.
        tokio::time::sleep(Duration::from_millis(60)).await;
        let mut failures = 0;
        let decisive = loop {
            failures += 1;
            assert!(failures < 60, "no breach within a minute of failures");
            let look = next(20.0);
            let told = clock::instant();
            self.tell(look);
            let reverting = self.line.view.wait_for(|view| view.0.phase == PhaseKind::Reverting);
            if tokio::time::timeout(Duration::from_millis(40), reverting).await.is_ok() {
                break told;
            }
        };
        let times = |view: &View| view.revert.as_ref().is_some_and(|revert| revert.traffic_back.is_some() && revert.flags_safe.is_some());
        self.until("traffic and flag are back", times).await;
        let both_confirmed = millis_since(decisive);
        self.until("the release is back", |view| view.phase == PhaseKind::Recovering).await;
        let restored = millis_since(decisive);
        let flag_seen = flag.seen().map_or(f64::NAN, |seen| seen.saturating_duration_since(decisive).as_secs_f64() * 1000.0);
        Times { flag_seen, both_confirmed, restored }
    }

    async fn end(mut self) {
        self.controller.stop().await;
        super::programs::end(&mut self.host);
    }
}

fn millis_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// Reads the flag file over and over, as a service would, until the flag is off.
struct FlagWatch {
    stop: Arc<AtomicBool>,
    reader: std::thread::JoinHandle<Option<Instant>>,
}

impl FlagWatch {
    fn start(file: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if std::fs::read_to_string(&file).is_ok_and(|text| text.contains(r#""defaultVariant": "off""#)) {
                    return Some(clock::instant());
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            None
        });
        Self { stop, reader }
    }

    fn seen(self) -> Option<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        self.reader.join().ok().flatten()
    }
}
