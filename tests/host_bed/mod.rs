//! A real host in this process, with real children, for `tests/host.rs`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use backstop::core::input::{Observation, Observed, Outcome};
use backstop::core::release::{Digest, Release, Template};
use backstop::core::spec::{Artifacts, HealthCheck, Percent, Process};
use backstop::core::time::Span;
use backstop::core::work::{Action, EffectId, Fence};
use backstop::host::wire::{Define, Ensure, View};
use backstop::host::{Host, HostConfig};
use backstop::world::host_client::HostClient;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const NAME: &str = "checkout";

/// The example program `name`, built if need be.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let target = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--example", "service", "--example", "host", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .status()
            .unwrap();
        assert!(built.success(), "the examples must build");
        target.join("examples")
    });
    folder.join(name)
}

/// A host, a workload `shop/checkout` and artifacts for it.
pub(crate) struct Bed {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) client: HostClient,
    pub(crate) process: Process,
    image: Digest,
    revision: u64,
    running: Option<(oneshot::Sender<()>, JoinHandle<std::io::Result<()>>)>,
}

impl Bed {
    /// Folders and artifact, no host yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        let image = artifact(&layout, &format!("#!/bin/sh\nexec '{}'\n", example("service").display()));
        let health = HealthCheck {
            path: "/healthz".into(),
            every: Span(Duration::from_millis(100)),
            timeout: Span(Duration::from_millis(500)),
            failures: 2,
            start_within: Span::seconds(10),
        };
        let process = Process {
            listen: "127.0.0.1:0".into(),
            artifacts: Artifacts::Layout { path: layout.display().to_string() },
            instances: 1,
            health,
            drain: Span::seconds(10),
        };
        let client = HostClient::new(folder.path().join("data/host.sock"), Duration::from_secs(10));
        Self { folder, client, process, image, revision: 0, running: None }
    }

    pub(crate) fn config(&self) -> HostConfig {
        HostConfig {
            steady: Duration::from_millis(600),
            grace: Duration::from_millis(500),
            path: Some("/usr/bin:/bin".into()),
            ..HostConfig::new(self.folder.path().join("data"))
        }
    }

    /// A host in this process with the workload defined.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_, _| ()).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut HostConfig, &mut Process)) -> Self {
        let mut bed = Self::new();
        let mut config = bed.config();
        adjust(&mut config, &mut bed.process);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(Host::run(config, async { _ = stopped.await }));
        bed.running = Some((stop, running));
        bed.defined().await;
        bed
    }

    /// Waits for the socket and defines the workload.
    pub(crate) async fn defined(&mut self) {
        until("the host answers", async || self.client.workloads().await.is_ok()).await;
        self.define().await;
    }

    pub(crate) async fn define(&mut self) {
        let define = Define { generation: 0, process: self.process.clone(), stable: None };
        let outcome = self.client.define(NAMESPACE, NAME, &define).await;
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    }

    /// Ends the host and its children.
    pub(crate) async fn end(mut self) {
        if let Some((stop, running)) = self.running.take() {
            stop.send(()).unwrap();
            running.await.unwrap().unwrap();
        }
    }

    pub(crate) fn release(&self, env: &[(&str, &str)]) -> Release {
        let image = format!("shop/checkout@{}", self.image).parse().unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Release::new(Template::process(image, vec!["bin/service".into()], env), None)
    }

    /// An effect with the next revision, fenced on generation 1.
    pub(crate) async fn ensure(&mut self, action: Action) -> Outcome {
        self.revision += 1;
        self.ensure_as(self.revision, Fence::Generation(1), action).await
    }

    pub(crate) async fn ensure_as(&self, revision: u64, fence: Fence, action: Action) -> Outcome {
        self.client.ensure(NAMESPACE, NAME, &Ensure { id: EffectId { revision, ordinal: 0 }, fence, action, stable: None }).await
    }

    /// An effect that must succeed; whether it changed anything.
    pub(crate) async fn done(&mut self, action: Action) -> (bool, Observed) {
        match self.ensure(action).await {
            Outcome::Done { changed, observed: Observation::Workload(observed) } => (changed, Observed::clone(&observed)),
            other => panic!("{other:?}"),
        }
    }

    /// Runs `release` and waits until all its members are ready.
    pub(crate) async fn arm(&mut self, release: &Release) {
        self.done(Action::EnsureArm { release: release.clone(), present: true }).await;
        self.ready(release).await;
    }

    /// Makes `release` the workload's own and waits until it is ready.
    pub(crate) async fn deploy(&mut self, release: &Release) {
        self.done(Action::EnsureRelease { release: release.clone() }).await;
        self.ready(release).await;
    }

    pub(crate) async fn ready(&self, release: &Release) {
        let wanted = self.process.instances;
        until("the release is ready", async || self.view().await.observed.arms.get(&release.id).is_some_and(|arm| arm.ready == wanted))
            .await;
    }

    /// Waits until something is wrong with `release` and says what.
    pub(crate) async fn failing(&self, release: &Release) -> String {
        let mut why = String::new();
        until("the release fails", async || {
            why = self.view().await.observed.arms[&release.id].failing.clone().unwrap_or_default();
            !why.is_empty()
        })
        .await;
        why
    }

    pub(crate) async fn view(&self) -> View {
        self.client.view(NAMESPACE, NAME).await.unwrap().unwrap()
    }

    /// Where the proxy listens.
    pub(crate) async fn address(&self) -> SocketAddr {
        until("the proxy listens", async || self.view().await.listen.is_some()).await;
        self.view().await.listen.unwrap()
    }

    /// The sum of all series of `metric` whose labels hold each of `labels`.
    pub(crate) async fn metric(&self, metric: &str, labels: &[&str]) -> f64 {
        let text = self.client.metrics().await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{metric}{{")) && labels.iter().all(|label| line.contains(label)));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }
}

pub(crate) fn weights(shares: &[(&Release, f64)]) -> Action {
    let weights: BTreeMap<_, _> = shares.iter().map(|(release, share)| (release.id.clone(), Percent::new(*share))).collect();
    Action::EnsureWeights { weights }
}

/// Waits until `so` says yes, at most 15 s.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !so().await {
        assert!(start.elapsed() < Duration::from_secs(15), "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the process lives.
pub(crate) fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim().starts_with('Z'))
}

/// An image layout with one layer that holds the program `bin/service`.
fn artifact(layout: &Path, program: &str) -> Digest {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    };
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    builder.append_data(&mut header, "bin/service", program.as_bytes()).unwrap();
    let layer = builder.into_inner().unwrap();
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let manifest = serde_json::json!({"schemaVersion": 2, "layers": [{"mediaType": kind, "digest": blob(&layer), "size": layer.len()}]});
    blob(&serde_json::to_vec(&manifest).unwrap())
}

/// A client that keeps one connection open and counts a request without an answer as a failure, never trying again.
pub(crate) struct Caller {
    address: SocketAddr,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Caller {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Status and release of the answer.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, String), String> {
        let result = self.try_get(path).await;
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    async fn try_get(&mut self, path: &str) -> Result<(u16, String), String> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).unwrap();
            let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
            tokio::spawn(driver);
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut().unwrap();
        connection.ready().await.map_err(|error| error.to_string())?;
        let request = hyper::Request::get(path).header("host", "checkout").body(Empty::new()).unwrap();
        let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status().as_u16();
        let release = response.headers().get("x-backstop-release").map_or("", |value| value.to_str().unwrap()).to_owned();
        response.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok((code, release))
    }
}
