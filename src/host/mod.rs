//! `backstop host`: the data plane of process workloads, a process of its own that outlives the controller.
//!
//! It supervises children ([`supervise`]), stands before them as a weighted HTTP/1.1 proxy ([`proxy`]), keeps what is
//! wanted in synced files ([`record`]), and answers on a Unix socket ([`api`]). Controller and command line are its
//! clients; neither is needed for requests to flow. [`fence`] says whose word counts.
//!
//! Every `ensure` is read, compare, write if different, sync, act, read back: doing it twice changes the world once.
//! Weights toward the stable release move before the disk is asked.
//!
//! The host may die at any time. Children write to files and live on; the next host finds them by process id and
//! start time, keeps those that are wanted and ends the others.

mod api;
mod arm;
mod child;
pub(crate) mod decide;
pub(crate) mod fence;
mod layout;
mod listen;
mod log;
mod metrics;
mod probe;
mod proxy;
mod prune;
pub(crate) mod record;
mod route;
pub mod sample_service;
mod supervise;
pub mod unpack;
mod unpacked;
mod upload;
mod upstream;
pub mod wire;
mod workload;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::{TcpListener, UnixListener};

pub use layout::ArtifactStore;
pub use metrics::{BOUNDS, CONTENT_TYPE};
pub use proxy::RELEASE_HEADER;
pub(crate) use upstream::chain;

use crate::core::spec::Artifacts;
use child::{Child, Ports};
use metrics::Metrics;
use record::{ChildRecord, HostRecord, WorkloadRecord};
use unpack::Limits;
use unpacked::Unpacked;
use workload::{Found, Workload};

/// How a host runs.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Folder of everything it keeps: `workloads/`, `children/`, `content/` (an image layout that the controller fills),
    /// `unpacked/`, `logs/`. One host at a time.
    pub data_dir: PathBuf,
    /// The Unix socket it answers on, readable and writable by its own user alone.
    pub socket: PathBuf,
    /// Where `GET /metrics` answers over TCP; port 0 picks a free one and keeps it.
    pub metrics: SocketAddr,
    /// `$PATH` of the children; they inherit nothing else.
    pub path: Option<String>,
    /// Time a child may take to begin its answer, counted from the last byte of the request; and time a client may let pass between two
    /// pieces of its body.
    pub upstream_timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// How long a child must be ready until earlier ends are forgiven.
    pub steady: Duration,
    /// Bytes of a child's log, twice: the file itself and one older part.
    pub log_bytes: u64,
    /// What an artifact may cost.
    pub limits: Limits,
}

impl HostConfig {
    /// The usual settings for a host in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            socket: data_dir.join("host.sock"),
            data_dir,
            metrics: (Ipv4Addr::LOCALHOST, 0).into(),
            path: None,
            upstream_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            steady: Duration::from_secs(10),
            log_bytes: 8 << 20,
            limits: Limits::default(),
        }
    }

    /// The image layout folder into which the controller puts what it pulled from a registry.
    pub fn content(&self) -> PathBuf {
        content(&self.data_dir)
    }
}

fn content(data: &Path) -> PathBuf {
    data.join("content")
}

/// The image layout folder that holds the blobs of `artifacts`.
pub(crate) fn layout_of(artifacts: &Artifacts, data: &Path) -> PathBuf {
    match artifacts {
        Artifacts::Layout { path } => PathBuf::from(path),
        Artifacts::Registry {} => content(data),
    }
}

/// What all arms of a host share.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) data: PathBuf,
    pub(crate) path: Option<String>,
    pub(crate) boot: String,
    pub(crate) grace: Duration,
    pub(crate) steady: Duration,
    pub(crate) upstream_timeout: Duration,
    pub(crate) log_bytes: u64,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) metrics_address: SocketAddr,
    pub(crate) ports: Ports,
    pub(crate) unpacked: Arc<Unpacked>,
}

impl Env {
    /// Ends a child of an earlier host that nobody wants: SIGTERM, SIGKILL after the grace.
    pub(crate) fn end_stray(self: &Arc<Self>, mut child: Child) {
        tracing::info!(pid = child.pid, "ending a child that an earlier host left and nobody wants");
        let env = self.clone();
        tokio::spawn(async move {
            child.signal(Signal::TERM);
            if tokio::time::timeout(env.grace, child.exited()).await.is_err() {
                child.signal(Signal::KILL);
                child.exited().await;
            }
        });
    }
}

/// A host that runs.
#[derive(Debug)]
pub struct Host {
    env: Arc<Env>,
    workloads: tokio::sync::RwLock<BTreeMap<String, Arc<Workload>>>,
    /// Held as long as the host lives: a second host in the same folder is refused.
    _lock: File,
}

impl Host {
    /// Runs a host until `shutdown` ends; then requests under way may finish, and the children are ended.
    ///
    /// Fails if another host has the folder, or folder, socket or metrics port cannot be used. A workload whose state
    /// file cannot be read is not run, and logged as an error; the others are.
    pub async fn run(config: HostConfig, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        private_folder(&config.data_dir)?;
        let guard = only_one(&config.data_dir)?;
        let metrics = bind_metrics(&config).await?;
        let socket = bind_socket(&config.socket)?;
        let env = Arc::new(Env {
            path: config.path,
            boot: child::boot()?,
            grace: config.grace,
            steady: config.steady,
            upstream_timeout: config.upstream_timeout,
            log_bytes: config.log_bytes,
            limits: config.limits,
            metrics: Metrics::default(),
            metrics_address: metrics.local_addr()?,
            ports: Ports::default(),
            unpacked: Arc::new(Unpacked::new(config.data_dir.join("unpacked"))),
            data: config.data_dir,
        });
        let host = Arc::new(Self { env, workloads: tokio::sync::RwLock::default(), _lock: guard });
        unpack::tidy(&host.env.data.join("unpacked"));
        host.recover().await?;
        let apis = api::serve(&host, socket, metrics);
        tokio::pin!(apis);
        tokio::select! {
            result = &mut apis => result?,
            () = shutdown => {}
        }
        tracing::info!("the host ends: requests under way finish, then the children");
        let workloads: Vec<_> = host.workloads.read().await.values().cloned().collect();
        futures::future::join_all(workloads.iter().map(|workload| workload.end())).await;
        _ = fs::remove_file(&config.socket);
        Ok(())
    }

    /// Runs again what was recorded, with the children that an earlier host left.
    async fn recover(self: &Arc<Self>) -> io::Result<()> {
        let mut found = self.find_children()?;
        let mut records = Vec::new();
        for file in record::files(&self.env.data.join("workloads"), 1)? {
            match record::load::<WorkloadRecord>(&file) {
                Ok(record) => records.extend(record),
                Err(error) => {
                    // One damaged file is no reason to keep all the others from their traffic.
                    tracing::error!(%error, "a workload cannot be run: its state file was set aside, define it again");
                    fs::rename(&file, file.with_extension("damaged"))?;
                }
            }
        }
        let releases = records.iter().flat_map(|record: &WorkloadRecord| record.arms.values());
        let in_use = releases.map(|release| release.template.image().digest.hex().to_owned()).collect();
        prune::keep_newest(&self.env.unpacked.folders(), unpacked::KEPT, &in_use);
        for record in records {
            let children = found.remove(&record.key()).unwrap_or_default();
            self.open(record, true, children).await;
        }
        let strays = found.into_values().flat_map(BTreeMap::into_values).flat_map(BTreeMap::into_values);
        strays.for_each(|child| self.env.end_stray(child));
        Ok(())
    }

    /// Children of an earlier host that still run, by workload. Their notes are used up: a child that is kept gets a new one.
    fn find_children(&self) -> io::Result<BTreeMap<String, Found>> {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for file in record::files(&self.env.data.join("children"), 0)? {
            let note = record::load::<ChildRecord>(&file).unwrap_or_else(|error| {
                tracing::warn!(%error, "a note of a child cannot be read");
                None
            });
            if let Some(note) = note
                && let Some(child) = Child::find(&note, &self.env.boot)
            {
                tracing::info!(pid = note.pid, workload = note.workload, release = %note.release, "found a child of an earlier host");
                self.env.ports.hold(note.port);
                let slots = found.entry(note.workload).or_default().entry(note.release).or_default();
                if let Some(double) = slots.insert(note.slot, child) {
                    self.env.end_stray(double);
                }
            } else {
                fs::remove_file(&file)?;
            }
        }
        Ok(found)
    }

    async fn open(self: &Arc<Self>, record: WorkloadRecord, synced: bool, found: Found) -> Arc<Workload> {
        let mut workloads = self.workloads.write().await;
        if let Some(other) = workloads.get(&record.key()) {
            // Two first definitions at once: the second changes what the first made.
            return other.clone();
        }
        let workload = Workload::start(&self.env, record, synced, found);
        tokio::spawn(listen::serve(workload.clone()));
        workloads.insert(workload.key.clone(), workload.clone());
        workload
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn only_one(data: &Path) -> io::Result<File> {
    let file = File::create(data.join("lock"))?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another host runs in {}: end it first, or use another folder", data.display()),
        ),
        fs::TryLockError::Error(error) => error,
    })?;
    Ok(file)
}

async fn bind_metrics(config: &HostConfig) -> io::Result<TcpListener> {
    let file = config.data_dir.join("host.json");
    let last = record::load::<HostRecord>(&file).unwrap_or_else(|error| {
        // Nothing but a port is lost with it: no reason to keep every workload from its traffic.
        tracing::warn!(%error, "the host does not know any more on which port its metrics were");
        None
    });
    let last = last.map(|record| record.metrics).filter(|last| config.metrics.port() == 0 && last.ip() == config.metrics.ip());
    let listener = match last {
        Some(last) => match TcpListener::bind(last).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(config.metrics).await?,
        },
        None => TcpListener::bind(config.metrics).await?,
    };
    if let Err(error) = record::save(&file, &HostRecord { metrics: listener.local_addr()? }) {
        tracing::warn!(%error, "cannot remember on which port the metrics are: it may be another one after a restart");
    }
    Ok(listener)
}

/// Binds the socket so that at no time anybody else can connect: it is made in a private folder, if need be, and
/// narrowed before the first connection is accepted. The lock on the folder proves that a socket found there is stale.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| io::Error::new(error.kind(), format!("socket {}: {error}", path.display())))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
