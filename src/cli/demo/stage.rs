//! The demo's set-up: signed artifacts, a specification, a host of its own, a controller, all in one folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::core::actor::{Actor, ActorKind, Assurance, Request};
use crate::core::input::{Commanded, Deployed, Input, Verb};
use crate::core::machine::Answer;
use crate::core::preview::View;
use crate::core::release::{Image, Release, Template};
use crate::shell::handle::SendError;
use crate::shell::standalone::{Controller, Setup, StartError};
use crate::world::publish::{File, Options, Provenance, PublishError, Publisher, SigningKey};

/// The demo's service.
pub const SERVICE: &str = "demo/checkout";
/// Its repository; nothing is ever fetched from there.
const REPOSITORY: &str = "demo.invalid/checkout";

/// What the set-up needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Folder of everything.
    pub dir: PathBuf,
    /// This program: it is the host, and the service too.
    pub program: PathBuf,
    /// Candidate's first share in per cent.
    pub weight: u8,
    /// Scored seconds of the step, and of the watch.
    pub bake: u64,
    /// Seconds of watching after 100 %.
    pub watch: u64,
}

/// Why the set-up failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The disk or a process.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What happened.
        source: io::Error,
    },
    /// An artifact could not be made.
    #[error("an artifact could not be published")]
    Publish(#[from] PublishError),
    /// The controller did not start.
    #[error("the controller did not start")]
    Start(#[from] StartError),
    /// A command did not arrive.
    #[error("a command did not arrive")]
    Send(#[from] SendError),
    /// Something that must happen did not.
    #[error("{0}")]
    Late(String),
}

/// A running set-up.
pub struct Stage {
    plan: Plan,
    key: SigningKey,
    host: Child,
    controller: Option<Controller>,
    setup: Setup,
    /// Where the service answers.
    pub address: SocketAddr,
}

impl Stage {
    /// Publishes nothing yet; starts host and controller.
    ///
    /// # Errors
    /// What could not be made or started.
    pub async fn set(plan: Plan) -> Result<Self, StageError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| StageError::Io { what, source }
        };
        fs::create_dir_all(plan.dir.join("rollouts")).map_err(io("the demo's folder cannot be made"))?;
        let key = SigningKey::generate()?;
        let address = free_address().map_err(io("no free port on the loopback"))?;
        fs::write(plan.dir.join("flags.json"), FLAGS).map_err(io("the flag file cannot be written"))?;
        let spec = specification(&plan, address, &key.public_pem()?);
        fs::write(plan.dir.join("rollouts/checkout.yaml"), spec).map_err(io("the specification cannot be written"))?;
        let host = start_host(&plan).map_err(io("the host cannot be started"))?;
        let setup = Setup {
            data_dir: plan.dir.clone(),
            specs: vec![plan.dir.join("rollouts")],
            host_socket: plan.dir.join("host/host.sock"),
            content: plan.dir.join("host/content"),
            docker_config: None,
            webhook: None,
        };
        wait_for(&setup.host_socket).await?;
        let controller = Controller::start(&setup).await?;
        Ok(Self { plan, key, host, controller: Some(controller), setup, address })
    }

    /// The controller.
    ///
    /// # Panics
    /// Never while the set-up runs: it is there from `set` to `end`.
    pub fn controller(&self) -> &Controller {
        self.controller.as_ref().expect("the controller is there until the set-up ends")
    }

    /// The folder of everything.
    pub fn dir(&self) -> &Path {
        &self.plan.dir
    }

    /// The controller's set-up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Builds and publishes an artifact that behaves as `env` says, and returns its release.
    ///
    /// # Errors
    /// The disk, or the cryptography.
    pub fn release(&self, label: &str, env: &[(&str, &str)], attested: bool) -> Result<Release, StageError> {
        let program =
            fs::read(&self.plan.program).map_err(|source| StageError::Io { what: "this program cannot be read".into(), source })?;
        let files = [
            File { path: "bin/service".into(), executable: true, bytes: program },
            File { path: "VERSION".into(), executable: false, bytes: format!("{label}\n").into_bytes() },
        ];
        let options = Options {
            tag: Some(label.to_owned()),
            sign: attested,
            provenance: attested.then(|| Provenance {
                builder: "https://builder.example/ci".into(),
                source: format!("git+https://git.example/checkout@{label}"),
            }),
            sbom: attested.then(|| vec![("checkout".to_owned(), label.to_owned())]),
        };
        let image = Publisher::new(self.layout(), &self.key).publish(REPOSITORY, &files, &options)?;
        Ok(Release::new(self.template(image, env), Some(label.to_owned())))
    }

    /// The layout folder with the artifacts.
    pub fn layout(&self) -> PathBuf {
        self.plan.dir.join("layout")
    }

    /// The file that makes the shared dependency fail while it exists.
    pub fn outage(&self) -> PathBuf {
        self.plan.dir.join("outage")
    }

    fn template(&self, image: Image, env: &[(&str, &str)]) -> Template {
        let mut all: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.insert("OUTAGE_FILE".into(), self.outage().display().to_string());
        Template::process(image, vec!["bin/service".into(), "sample-service".into()], all)
    }

    /// Deploys a release.
    ///
    /// # Errors
    /// The controller is gone.
    pub async fn deploy(&self, release: &Release, request: Request) -> Result<Answer, StageError> {
        let input = Input::Deployed(Deployed { release: release.clone(), request });
        Ok(self.controller().handle().ask(SERVICE, input).await?)
    }

    /// Gives a command.
    ///
    /// # Errors
    /// The controller is gone.
    pub async fn command(&self, verb: Verb, request: Request) -> Result<Answer, StageError> {
        let input = Input::Commanded(Commanded { verb, request });
        Ok(self.controller().handle().ask(SERVICE, input).await?)
    }

    /// Where the rollout stands.
    ///
    /// # Panics
    /// Never while the set-up runs: its rollout is there from the start.
    pub fn view(&self) -> Arc<(View, crate::core::preview::RevertPlan)> {
        self.controller().handle().view(SERVICE).expect("the demo's rollout is there from the start")
    }

    /// Waits until the rollout looks as wanted.
    ///
    /// # Errors
    /// It does not within `patience`; the error says where it stands.
    pub async fn until(&self, what: &str, patience: Duration, wanted: impl Fn(&View) -> bool) -> Result<View, StageError> {
        let line = self.controller().handle().line(SERVICE).ok_or_else(|| StageError::Late("there is no rollout".into()))?;
        let mut view = line.view;
        let seen = tokio::time::timeout(patience, view.wait_for(|view| wanted(&view.0))).await;
        match seen {
            Ok(Ok(view)) => Ok(view.0.clone()),
            Ok(Err(_)) => Err(StageError::Late("the controller is gone".into())),
            Err(_) => {
                let view = self.view();
                let waiting = view.0.waiting.as_ref().map(ToString::to_string).unwrap_or_default();
                Err(StageError::Late(format!(
                    "{what}: not within {patience:?}; the rollout is {} {waiting} {:?}",
                    view.0.phase, view.0.open
                )))
            }
        }
    }

    /// Ends controller and host.
    pub async fn end(mut self) {
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
        if let Some(pid) = self.host.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(Duration::from_secs(20), self.host.wait()).await.is_err() {
            let _ = self.host.kill().await;
        }
    }
}

/// A request by the demo's agent.
pub fn agent(rationale: &str) -> Request {
    Request {
        id: format!("demo-{}", crate::core::release::Digest::of(rationale.as_bytes()).short()),
        actor: Actor {
            kind: ActorKind::Agent,
            principal: "token:release-bot".into(),
            assurance: Assurance::Authenticated,
            agent_id: Some("release-bot".into()),
            agent_version: Some("1.4".into()),
            model: Some("example-model-2".into()),
            ..Actor::default()
        },
        trigger: Some("issue: checkout is too slow".into()),
        rationale: Some(rationale.to_owned()),
        token_scope_id: Some("deploy:demo/checkout".into()),
        credential_ttl: Some(900),
        ..Request::default()
    }
}

/// A request by the person on call.
pub fn person(reason: &str) -> Request {
    Request {
        id: format!("demo-{}", crate::core::release::Digest::of(reason.as_bytes()).short()),
        actor: Actor { kind: ActorKind::Human, principal: "uid:1000".into(), assurance: Assurance::Authenticated, ..Actor::default() },
        rationale: Some(reason.to_owned()),
        ..Request::default()
    }
}

fn start_host(plan: &Plan) -> io::Result<Child> {
    let log = fs::File::create(plan.dir.join("host.log"))?;
    let mut command = Command::new(&plan.program);
    command.arg("host").arg("--data-dir").arg(&plan.dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    // A keystroke meant for the demo must not end the host before its children are ended.
    command.process_group(0);
    command.spawn()
}

async fn wait_for(socket: &Path) -> Result<(), StageError> {
    for _ in 0..200 {
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Err(StageError::Late("the host did not answer within 5 s; its log is `host.log` in the demo's folder".into()))
}

fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// A flag that is on for everybody by targeting: changing its default alone would help nobody.
pub const FLAGS: &str = r#"{
  "$schema": "https://flagd.dev/schema/v0/flags.json",
  "flags": {
    "new-checkout": {
      "state": "ENABLED",
      "variants": {"on": true, "off": false},
      "defaultVariant": "on",
      "targeting": {"if": [true, "on"]}
    }
  }
}
"#;

fn specification(plan: &Plan, address: SocketAddr, key: &str) -> String {
    let Plan { dir, weight, bake, watch, .. } = plan;
    let dir = dir.display();
    let key = key.trim_end().replace('\n', "\n            ");
    format!(
        r#"apiVersion: backstop.dev/v1alpha1
kind: GuardedRollout
metadata: {{name: checkout, namespace: demo}}
spec:
  workload:
    process:
      listen: "{address}"
      artifacts: {{layout: {{path: "{dir}/layout"}}}}
      instances: 1
      health: {{path: /healthz, every: 100ms}}
      drain: 5s
  arms: {{by: route}}
  source: host
  objectives:
    - name: availability
      good: 99.5%
      ratio:
        bad: 'backstop_host_requests_total{{workload="demo/checkout",class="5xx"}}'
        total: 'backstop_host_requests_total{{workload="demo/checkout"}}'
    - name: latency
      good: 99%
      histogram: {{metric: 'backstop_host_request_duration_seconds{{workload="demo/checkout"}}', within: 300ms}}
  strategy:
    canary:
      candidate: {{warmUp: 1s}}
      steps:
        - {{weight: {weight}%, bake: {bake}s, deadline: 2m}}
  watch: {{for: {watch}s, holdback: 10%}}
  attestation: {{policy: release}}
  revert:
    flags: [{{use: flags, flag: new-checkout, to: {{variant: "off"}}}}]
  recovery: {{deadline: 30s}}
  retreat: {{for: 8s}}
---
apiVersion: backstop.dev/v1alpha1
kind: GuardPolicy
metadata: {{name: release}}
spec:
  attestation:
    authorities:
      - name: release-key
        key:
          data: |
            {key}
    require: [{{kind: signature}}, {{kind: provenance}}, {{kind: sbom}}]
---
apiVersion: backstop.dev/v1alpha1
kind: FlagTarget
metadata: {{name: flags}}
spec:
  file: {{path: "{dir}/flags.json"}}
"#
    )
}
