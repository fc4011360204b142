//! The controller of one machine: specifications, store, host and rollouts put together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::again;
use super::documents;
use super::handle::Handle;
use super::rollout::{Policies, Rollout, Shared};
use super::scopes;
use crate::core::input::{Input, Observed, Outcome};
use crate::core::spec::{GuardSource, GuardedRollout, Metadata, Process, Scrape};
use crate::core::state::Guard;
use crate::core::time::Span;
use crate::host::wire::Define;
use crate::spec::Loaded;
use crate::world::clock::Clock;
use crate::world::host_client::HostClient;
use crate::world::notify::{Notifier, Webhook, WebhookError};
use crate::world::perform::{Place, World};
use crate::world::registry::{self, Collector, Credentials, Fault, Patience};
use crate::world::source::{Source, SourceError};
use crate::world::store::{LoadError, Store, Unavailable};

/// Name of the source that needs no `GuardSource`: the host's own proxy counters.
pub const HOST_SOURCE: &str = "host";
/// How often the host's counters are scraped.
const HOST_SCRAPE: Span = Span::seconds(1);
/// How often a workload is looked at while something happens to it.
const OBSERVE_ACTIVE: Duration = Duration::from_millis(100);
/// How often it is looked at otherwise.
const OBSERVE_RESTING: Duration = Duration::from_secs(1);
/// How often the surroundings are looked at, for what goes away with time.
const SURROUNDINGS: Duration = Duration::from_secs(1);
/// How long the host may take to answer.
const HOST_TIMEOUT: Duration = Duration::from_secs(20);
/// Observations that may wait.
const ORDINARY_MAX: usize = 16;

/// What a controller is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Folder of the store, keys and evidence.
    pub data_dir: PathBuf,
    /// Files and folders with specifications.
    pub specs: Vec<PathBuf>,
    /// The host's socket.
    pub host_socket: PathBuf,
    /// The folder into which artifacts from registries are copied for the host.
    pub content: PathBuf,
    /// A Docker configuration file with registry credentials.
    pub docker_config: Option<PathBuf>,
    /// Where pages and notices go.
    pub webhook: Option<Webhook>,
}

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The specifications have errors.
    #[error("the specifications have errors")]
    Spec(crate::spec::CheckReport),
    /// A workload that is not of this machine.
    #[error("`{guard}` guards a {kind} of Kubernetes: nothing on this machine can roll it out, or back")]
    Elsewhere {
        /// The guard.
        guard: String,
        /// The kind of its workload.
        kind: &'static str,
    },
    /// A kept document cannot be read.
    #[error("the store's documents cannot be read: {0}")]
    Document(String),
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] Unavailable),
    /// A state cannot be read.
    #[error("a state cannot be read")]
    State(#[from] LoadError),
    /// A source cannot be used.
    #[error("a metrics source cannot be used")]
    Source(#[from] SourceError),
    /// The webhook cannot be used.
    #[error("the webhook cannot be used")]
    Webhook(#[from] WebhookError),
    /// Registry credentials or TLS roots cannot be read.
    #[error("registries cannot be asked")]
    Registry(#[from] Fault),
}

/// A rollout that is restored and does not run yet, with its key and document.
type Restored<'a> = (&'a String, &'a Document, Box<Rollout>);
/// A guard's document.
pub(super) type Document = (Metadata, Arc<GuardedRollout>);

/// A running controller.
pub struct Controller {
    shared: Arc<Shared>,
    loaded: Arc<Loaded>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Controller {
    /// Starts everything. Rollouts go on where they were.
    ///
    /// # Errors
    /// Nothing is started then.
    pub async fn start(setup: &Setup) -> Result<Self, StartError> {
        let loaded = crate::spec::load(&setup.specs);
        let report = crate::spec::CheckReport::of(&loaded);
        if !report.is_ok() {
            return Err(StartError::Spec(report));
        }
        let controller = Self::start_with(setup, loaded, |_| true).await?;
        documents::keep(controller.shared.world.store().local(), &controller.loaded).await?;
        Ok(controller)
    }

    /// The same with specifications that were loaded already, for the rollouts that `takes_part` names.
    ///
    /// # Errors
    /// Nothing is started then.
    pub async fn start_with(setup: &Setup, loaded: Loaded, takes_part: impl Fn(&str) -> bool) -> Result<Self, StartError> {
        let loaded = Arc::new(loaded);
        let world = open_world(setup, &loaded).await?;
        // What an earlier controller could not commit goes first.
        if let Err(error) = world.store().recover().await {
            tracing::error!(%error, "the store does not take commits yet");
        }
        let shared = Arc::new(Shared::new(world, Arc::clone(&loaded)));
        let (stop, stopped) = watch::channel(false);
        let mut controller = Self { shared, loaded: Arc::clone(&loaded), stop, tasks: JoinSet::new() };
        for scope in scopes::frozen(controller.shared.world.store().local()).await? {
            controller.shared.neighbours.freeze(&scope, true, None);
        }
        // None goes on before it is known of all what they were in: a wave of breaches outlives a controller.
        let mut restored = Vec::new();
        for (key, document) in loaded.rollouts.iter().filter(|(key, _)| takes_part(key)) {
            restored.push((key, document, controller.restore(&loaded, key, document).await?));
        }
        for (key, document, rollout) in restored {
            controller.begin(key, document, rollout);
        }
        controller.tasks.spawn(watch_surroundings(Arc::clone(&controller.shared), stopped));
        Ok(controller)
    }

    async fn restore(&self, loaded: &Arc<Loaded>, key: &str, document: &Document) -> Result<Box<Rollout>, StartError> {
        process_of(key, &document.1)?;
        Ok(restore(&self.shared, loaded, key, document).await?)
    }

    /// Guards a rollout from what is restored until this controller stops.
    fn begin(&mut self, key: &str, document: &Document, rollout: Box<Rollout>) {
        let (shared, key, stop) = (Arc::clone(&self.shared), key.to_owned(), self.stop.subscribe());
        let (document, mut restored) = (document.clone(), Some(rollout));
        self.tasks.spawn(async move {
            let begin = || guard_once(Arc::clone(&shared), key.clone(), document.clone(), restored.take(), stop.clone());
            again::until_done(&key, stop.clone(), begin).await;
        });
    }

    /// Reads the specifications again: changed documents hold, rollouts that are new are guarded from here on. One whose document
    /// is gone stays guarded as before until the next start: taking a file away is no way to get rid of a guard.
    ///
    /// # Errors
    /// Nothing has changed then: the documents before stay in force.
    pub async fn reload(&mut self, setup: &Setup) -> Result<(), StartError> {
        let loaded = crate::spec::load(&setup.specs);
        let report = crate::spec::CheckReport::of(&loaded);
        if !report.is_ok() {
            return Err(StartError::Spec(report));
        }
        // Whatever can be wrong is tried before anything changes.
        for (key, (_, spec)) in &loaded.rollouts {
            process_of(key, spec)?;
        }
        let changed = loaded.sources.iter().filter(|(name, spec)| self.loaded.sources.get(*name) != Some(*spec));
        let sources = changed.map(|(name, spec)| Ok((name.clone(), Source::open(name, spec)?))).collect::<Result<Vec<_>, SourceError>>()?;
        let loaded = Arc::new(loaded);
        let restored = self.take_in(&loaded).await?;
        let world = &self.shared.world;
        for (name, source) in sources {
            world.connect(&name, source);
        }
        world.replace_flag_targets(loaded.flags.clone());
        self.loaded = Arc::clone(&loaded);
        *self.shared.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&loaded);
        for (key, document, rollout) in restored {
            self.begin(key, document, rollout);
            tracing::info!(rollout = key, "guarded from now on");
        }
        self.shared.changed.notify_waiters();
        Ok(())
    }

    /// Restores the rollouts that are new in these documents, and keeps the documents.
    async fn take_in<'a>(&self, loaded: &'a Arc<Loaded>) -> Result<Vec<Restored<'a>>, StartError> {
        let mut restored: Vec<Restored<'a>> = Vec::new();
        let taken = async {
            // One that has a line came back: its task never ended.
            for (key, document) in loaded.rollouts.iter().filter(|(key, _)| self.shared.handle.line(key).is_none()) {
                restored.push((key, document, self.restore(loaded, key, document).await?));
            }
            Ok(documents::keep(self.shared.world.store().local(), loaded).await?)
        };
        if let Err(error) = taken.await {
            // Nobody answers on these lines: they are as new the next time.
            for (key, ..) in &restored {
                self.shared.handle.disconnect(key);
                self.shared.neighbours.forget(key);
            }
            return Err(error);
        }
        Ok(restored)
    }

    /// What the API holds.
    pub fn handle(&self) -> Handle {
        self.shared.handle.clone()
    }

    /// What every rollout shares.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The specifications.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Stops taking part; what is under way is left to the next controller. The host and its children go on.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), ended).await.is_err() {
            self.tasks.abort_all();
        }
        if let Err(error) = self.shared.world.store().drain().await {
            tracing::warn!(%error, "audit entries stay in the outbox until the next start");
        }
    }
}

/// Opens store, sources, registries and notices.
///
/// # Errors
/// The first part that cannot be opened.
pub(crate) async fn open_world(setup: &Setup, loaded: &Loaded) -> Result<World, StartError> {
    registry::sweep(&setup.content).await;
    let store = Store::open(&setup.data_dir.join("store"), &setup.data_dir.join("spool"))?;
    let clock = Clock::start(&store).await?;
    let credentials = match &setup.docker_config {
        Some(path) => Credentials::from_docker_config(path)?,
        None => Credentials::default(),
    };
    let world = World::new(
        store,
        clock,
        Place::Host { client: HostClient::new(&setup.host_socket, HOST_TIMEOUT), content: setup.content.clone() },
        loaded.flags.clone(),
        Collector::new(credentials, Patience::default())?,
        Notifier::new(setup.webhook.clone())?,
    );
    for (name, spec) in &loaded.sources {
        world.connect(name, Source::open(name, spec)?);
    }
    Ok(world)
}

/// Restores a rollout under these documents, its own among them.
///
/// # Errors
/// Its state cannot be read.
pub(super) async fn restore(shared: &Arc<Shared>, loaded: &Arc<Loaded>, key: &str, document: &Document) -> Result<Box<Rollout>, LoadError> {
    let (metadata, spec) = document;
    let policies = Policies::new(Arc::clone(loaded), metadata.clone(), spec);
    let guard = guard(loaded, shared.world.store().uid(key), key, &policies, spec);
    Rollout::restore(Arc::clone(shared), guard, policies).await
}

/// Guards a rollout until `stop`, from what is restored already or else from what was committed; `document` is for one whose document is
/// gone meanwhile.
///
/// # Errors
/// Its state cannot be read.
async fn guard_once(
    shared: Arc<Shared>,
    key: String,
    document: Document,
    restored: Option<Box<Rollout>>,
    stop: watch::Receiver<bool>,
) -> Result<(), LoadError> {
    let loaded = shared.documents();
    let current = loaded.rollouts.get(&key).unwrap_or(&document);
    let rollout = match restored {
        Some(rollout) => rollout,
        None => Box::pin(restore(&shared, &loaded, &key, current)).await?,
    };
    let (ordinary_in, ordinary) = mpsc::channel(ORDINARY_MAX);
    let mut eyes = JoinSet::new();
    eyes.spawn(observe(Arc::clone(&shared), key.clone(), Arc::clone(&current.1), ordinary_in, stop.clone()));
    eyes.spawn(super::queries::ask(Arc::clone(&shared), key, stop.clone()));
    drop((loaded, document));
    again::together(Box::pin(rollout.run(ordinary, stop)), eyes).await;
    Ok(())
}

/// The process that is guarded.
fn process_of<'a>(key: &str, spec: &'a GuardedRollout) -> Result<&'a Process, StartError> {
    spec.workload.process().ok_or_else(|| {
        let kind = spec.workload.object().map_or("workload", |(kind, _)| kind);
        StartError::Elsewhere { guard: key.to_owned(), kind }
    })
}

/// The guard as the machine needs it.
pub(crate) fn guard(loaded: &Loaded, uid: String, key: &str, policies: &Policies, spec: &Arc<GuardedRollout>) -> Guard {
    let interval = loaded.sources.get(&spec.source).and_then(interval_of).unwrap_or(HOST_SCRAPE);
    let objectives = policies.of_guard().objectives_of(spec);
    let added = objectives != spec.objectives;
    let spec = if added { Arc::new(GuardedRollout { objectives, ..GuardedRollout::clone(spec) }) } else { Arc::clone(spec) };
    Guard { key: key.to_owned(), uid, spec, interval }
}

fn interval_of(source: &GuardSource) -> Option<Span> {
    source.prometheus.as_ref().map(|prometheus| prometheus.scrape_interval).or(source.scrape.as_ref().map(|scrape| scrape.every))
}

/// Tells a rollout what its workload looks like, and the host what the workload is.
async fn observe(
    shared: Arc<Shared>,
    key: String,
    mut spec: Arc<GuardedRollout>,
    ordinary: mpsc::Sender<Box<Input>>,
    mut stop: watch::Receiver<bool>,
) {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", &key));
    let Some(host) = shared.world.host() else { return };
    let mut last: Option<Arc<Observed>> = None;
    let mut defined: Option<Process> = None;
    let mut told: Option<Outcome> = None;
    let mut metrics: Option<SocketAddr> = None;
    loop {
        if let Some((_, document)) = shared.documents().rollouts.get(&key)
            && *document != spec
        {
            spec = Arc::clone(document);
        }
        let Some(process) = spec.workload.process() else { return };
        if defined.as_ref() != Some(process) {
            let generation = shared.handle.view(&key).map_or(0, |view| view.0.generation);
            let define = Define { generation, process: process.clone(), stable: None };
            let outcome = host.define(namespace, name, &define).await;
            if matches!(outcome, Outcome::Done { .. } | Outcome::Superseded(_)) {
                (defined, told) = (Some(define.process), None);
            } else if told.as_ref() != Some(&outcome) {
                tracing::warn!(rollout = key, ?outcome, "the host does not know this workload yet; it is told until it does");
                told = Some(outcome);
            }
        }
        match host.view(namespace, name).await {
            Ok(Some(view)) => {
                if metrics != Some(view.metrics) && spec.source == HOST_SOURCE {
                    metrics = connect_host(&shared, view.metrics);
                }
                // An effect's own reading may be older than this one and have come in after it: then it is told again.
                let believed = shared.handle.view(&key);
                let seen = Arc::new(view.observed);
                let otherwise = believed.is_some_and(|believed| believed.0.arms != seen.arms || believed.0.observed != seen.weights);
                if otherwise || last.as_ref() != Some(&seen) {
                    last = Some(Arc::clone(&seen));
                    if ordinary.send(Box::new(Input::Observed(seen))).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => defined = None,
            Err(error) => {
                tracing::debug!(rollout = key, %error, "the host does not answer");
                metrics = None;
            }
        }
        let resting = shared.handle.view(&key).is_none_or(|view| view.0.phase.is_resting() && view.0.open.is_empty());
        let pause = if resting && defined.is_some() { OBSERVE_RESTING } else { OBSERVE_ACTIVE };
        let moved = async {
            if let Some(mut line) = shared.handle.line(&key) {
                let _ = line.view.changed().await;
            }
            tokio::time::sleep(OBSERVE_ACTIVE).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = moved, if resting => {}
            _ = stop.changed() => return,
        }
    }
}

/// Scrapes the host's counters where it says they are.
fn connect_host(shared: &Shared, address: SocketAddr) -> Option<SocketAddr> {
    let scrape = Scrape { urls: vec![format!("http://{address}/metrics")], pods: None, every: HOST_SCRAPE, auth: None };
    let spec = GuardSource { prometheus: None, scrape: Some(scrape), allowed_namespaces: Vec::new() };
    match Source::open(HOST_SOURCE, &spec) {
        Ok(source) => {
            shared.world.connect_once(HOST_SOURCE, &address.to_string(), source);
            Some(address)
        }
        Err(error) => {
            tracing::error!(%error, "the host's counters cannot be scraped");
            None
        }
    }
}

/// Rings when time may have changed what surrounds the rollouts.
async fn watch_surroundings(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SURROUNDINGS) => shared.changed.notify_waiters(),
            _ = stop.changed() => return,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::path::Path;

    /// A machine without a host, and documents of guards with these names.
    pub(in crate::shell) fn setup(dir: &Path, names: &[&str]) -> Setup {
        let text = include_str!("../../tests/golden/broken/bad-duration.yaml").replace("2 minutos", "2m");
        let (guard, policy) = text.split_once("---\n").unwrap();
        let guards = names.iter().enumerate().map(|(port, name)| {
            let guard = guard.replace("name: checkout", &format!("name: {name}"));
            guard.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", 8080 + port))
        });
        let specs = dir.join("documents.yaml");
        std::fs::write(&specs, guards.chain([policy.to_owned()]).collect::<Vec<_>>().join("---\n")).unwrap();
        Setup {
            data_dir: dir.to_owned(),
            specs: vec![specs],
            host_socket: dir.join("host.sock"),
            content: dir.join("content"),
            docker_config: None,
            webhook: None,
        }
    }

    #[tokio::test]
    async fn documents_that_cannot_be_taken_in_change_nothing_and_are_taken_in_once_they_can() {
        let dir = tempfile::tempdir().unwrap();
        let mut controller = Controller::start(&setup(dir.path(), &["checkout"])).await.unwrap();
        let store = controller.shared.world.store().local().clone();
        let database = rusqlite::Connection::open(dir.path().join("store/backstop.db")).unwrap();
        database.execute("INSERT INTO workload VALUES('shop/search', 1, 1, x'00')", []).unwrap();
        let setup = setup(dir.path(), &["checkout", "cart", "search"]);
        let refused = controller.reload(&setup).await;
        assert!(matches!(refused, Err(StartError::State(_))), "{refused:?}");
        assert_eq!(controller.handle().keys(), ["shop/checkout"]);
        for loaded in [&*controller.shared.documents(), controller.loaded(), &documents::kept(&store).await.unwrap()] {
            assert_eq!(loaded.rollouts.keys().collect::<Vec<_>>(), ["shop/checkout"]);
        }

        database.execute("DELETE FROM workload WHERE key = 'shop/search'", []).unwrap();
        controller.reload(&setup).await.unwrap();
        assert_eq!(controller.handle().keys(), ["shop/cart", "shop/checkout", "shop/search"]);
        assert_eq!(controller.handle().health().1, Vec::<String>::new(), "each has a task");
        assert_eq!(documents::kept(&store).await.unwrap().rollouts.len(), 3);
        controller.stop().await;
    }
}
