//! The controller of a cluster: watches documents and workloads, and has one rollout's task for each guard that is this replica's.

mod books;
pub mod direct;
mod endpoints;
mod observer;
mod replicas;
mod sight;
mod supervise;
mod watches;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::join;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::replicas::{Living, Replicas};
use self::sight::Sight;
use self::supervise::Supervisor;
use super::handle::Handle;
use super::rollout::Shared;
use super::standalone::StartError;
use crate::core::actor::Actor;
use crate::core::work::Lane;
use crate::spec::Loaded;
use crate::world::clock::Clock;
use crate::world::kubernetes::{Cluster, signing, store};
use crate::world::notify::{Notifier, Webhook};
use crate::world::perform::{Place, World};
use crate::world::registry::{Collector, Credentials, Patience};
use crate::world::store as local;

/// How often what rides in the statuses of guards is looked for.
const RECORDS_EVERY: Duration = Duration::from_secs(15);

/// Who a user name of Kubernetes is.
pub type Actors = Arc<dyn Fn(&str) -> Actor + Send + Sync>;

/// What a controller is made of.
#[derive(Clone)]
pub struct Setup {
    /// The cluster.
    pub cluster: Cluster,
    /// URL of the API server.
    pub api_server: String,
    /// Backstop's own namespace.
    pub namespace: String,
    /// The namespaces that are guarded; all if empty.
    pub namespaces: Vec<String>,
    /// Folder of this replica's log, spool and copies of evidence.
    pub data_dir: PathBuf,
    /// This replica's name: another one for each.
    pub identity: String,
    /// A Docker configuration file with registry credentials.
    pub docker_config: Option<PathBuf>,
    /// Where pages and notices go.
    pub webhook: Option<Webhook>,
    /// Who a user name of Kubernetes is.
    pub actors: Actors,
}

/// A running controller.
pub struct Controller {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    ready: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Controller {
    /// Starts everything. Rollouts go on where any replica left them.
    ///
    /// # Errors
    /// The API server does not answer, or a part cannot be opened. Nothing is started then.
    pub async fn start(setup: Setup) -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(false);
        let (ready_in, ready) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let client = setup.cluster.housekeeping().clone();
        // A breach may be pending: what watches tell is there by the time that the store is.
        let (told_in, told) = mpsc::channel(1024);
        watches::start(&client, &setup.namespace, &setup.namespaces, &told_in, &mut tasks, &stopped);
        let sight = Arc::new(Sight::default());
        sight.watch(&setup.cluster, &setup.namespaces, &mut tasks, &stopped);
        let (world, is_stamped) = join!(open_world(&setup), watches::is_stamped(&client));
        let world = world?;
        if let Err(error) = world.store().recover().await {
            tracing::error!(%error, "the API server does not take commits yet");
        }
        let shared = Arc::new(Shared::new(world, Arc::new(Loaded::default())));
        let (living_in, living) = watch::channel(Living::default());
        tasks.spawn(Replicas::new(client.clone(), &setup.namespace, &setup.identity).run(living_in, stopped.clone()));
        let (stamped_in, stamped) = watch::channel(is_stamped);
        tasks.spawn(watches::stamps(client, stamped_in, stopped.clone()));
        tasks.spawn(surroundings(Arc::clone(&shared), stopped.clone()));
        tasks.spawn(records(Arc::clone(&shared), stopped.clone()));
        tasks.spawn(endpoints::renew(Arc::clone(&shared), setup.clone(), stopped.clone()));
        let supervisor = Supervisor::new(Arc::clone(&shared), setup, sight, living, stamped);
        tasks.spawn(supervisor.run(told, ready_in, stopped));
        Ok(Self { shared, stop, ready, tasks })
    }

    /// What the API holds.
    pub fn handle(&self) -> Handle {
        self.shared.handle.clone()
    }

    /// What every rollout shares.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Whether every document was read.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Stops taking part; what is under way is left to the other replicas, and to the next start.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), ended).await.is_err() {
            self.tasks.abort_all();
        }
        if let Err(error) = self.shared.world.store().drain().await {
            tracing::warn!(%error, "audit records stay in the statuses until the next start");
        }
    }
}

/// Opens the store in the API server and everything else that a replica acts on.
async fn open_world(setup: &Setup) -> Result<World, StartError> {
    let client = setup.cluster.client(Lane::Revert).clone();
    let folder = setup.data_dir.join("store");
    signing::provide(&client, &setup.namespace, &folder.join("keys")).await?;
    let local = local::Store::open(&folder, &setup.data_dir.join("spool"))?;
    let store = store::Store::controller(client, &setup.namespace, local);
    let (listed, clock) = join!(store.list_records(), Clock::of_cluster(&store));
    if let Err(error) = listed {
        tracing::warn!(%error, "the records of each guard are read one by one");
    }
    world(setup, store, clock?)
}

/// The world around a store.
pub(crate) fn world(setup: &Setup, store: store::Store, clock: Clock) -> Result<World, StartError> {
    let credentials = match &setup.docker_config {
        Some(path) => Credentials::from_docker_config(path)?,
        None => Credentials::default(),
    };
    Ok(World::new(
        store,
        clock,
        Place::Cluster(setup.cluster.clone()),
        std::collections::BTreeMap::new(),
        Collector::new(credentials, Patience::default())?,
        Notifier::new(setup.webhook.clone())?,
    ))
}

/// Rings when time may have changed what surrounds the rollouts.
async fn surroundings(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => shared.changed.notify_waiters(),
            _ = stop.changed() => return,
        }
    }
}

/// Has what rides in statuses moved on while nobody commits: another replica may have died with it.
async fn records(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RECORDS_EVERY) => {
                if let Err(error) = shared.world.store().drain_along().await {
                    tracing::warn!(%error, "audit records stay in the statuses");
                }
            }
            _ = stop.changed() => return,
        }
    }
}
