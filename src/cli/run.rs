//! `backstop run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use super::{Context, direct};
use crate::api::alerts::receiver::Receiver;
use crate::api::alerts::subscription::Subscription;
use crate::api::alerts::{self, Alerts};
use crate::api::auth::Principals;
use crate::api::{self, Api, Listener, ScopeFreeze};
use crate::config::{ClusterConfig, Config, LogFormat, host_name};
use crate::error::{Error, Exit};
use crate::shell::cluster;
use crate::shell::handle::Handle;
use crate::shell::rollout::Shared;
use crate::shell::scopes;
use crate::shell::standalone::{Controller, Setup, StartError};
use crate::spec::Loaded;
use crate::telemetry::{self, Metrics};
use crate::world::clock;
use crate::world::kubernetes::connect::connect;
use crate::world::notify::Webhook;
use crate::world::storage::Storage;

/// Freezes of wider scopes that may wait to be kept.
const FREEZES_MAX: usize = 256;

/// Run the controller
///
/// State, ledger, evidence and audit log are in the data folder; the API is on the socket `backstop.sock` there, for
/// its owner and root. SIGTERM ends it; a revert under way goes on after the next start. SIGHUP makes it read the specifications again.
///
/// With `--kubernetes` documents, state and ledger are in the API server, and any number of replicas share the work; the data folder holds
/// this replica's audit log.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop run --specs rollouts/
  backstop run --specs rollouts/ --listen 127.0.0.1:7070 --principals principals.yaml
  backstop run --specs rollouts/ --notify-url https://hooks.example.com/backstop
  backstop run --kubernetes --namespaces shop,pay --principals principals.yaml")]
pub struct Args {
    /// Files and folders with `GuardedRollout`, `GuardPolicy`, `GuardSource` and `FlagTarget` documents.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    specs: Vec<PathBuf>,
    /// Backstop's own namespace in the cluster, as `--system-namespace` says it.
    #[arg(long, value_name = "NAME", hide = true)]
    namespace: Option<String>,
    /// Guard only these namespaces of the cluster [default: all].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Name of this replica, another one for each [default: the host's name].
    #[arg(long, env = "BACKSTOP_IDENTITY", value_name = "NAME", hide_env_values = true)]
    identity: Option<String>,
    /// Serve the API on this loopback address too, for those with a token; port 0 picks a free one.
    #[arg(long, env = "BACKSTOP_LISTEN", value_name = "ADDRESS", hide_env_values = true)]
    listen: Option<SocketAddr>,
    /// Serve `/healthz`, `/readyz` and `/metrics` on this address, and nothing else; for probes and scrapes from other machines.
    #[arg(long, value_name = "ADDRESS")]
    probes: Option<SocketAddr>,
    /// Who may do what, by uid or token [default: principals.yaml in the data folder].
    #[arg(long, visible_alias = "tokens", value_name = "FILE")]
    principals: Option<PathBuf>,
    /// Permissions of the socket; others than its owner are mapped by the principals.
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    socket_mode: u32,
    /// Where pages and notices are sent.
    #[arg(long, env = "BACKSTOP_NOTIFY_URL", value_name = "URL", hide_env_values = true)]
    notify_url: Option<String>,
    /// File with the bearer token for `--notify-url`; read for each notice.
    #[arg(long, value_name = "FILE", requires = "notify_url")]
    notify_token_file: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| mode & !0o777 == 0 && mode & 0o600 == 0o600)
        .ok_or_else(|| "expected octal permissions that let the owner in, such as `600` or `660`".to_owned())
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    if let Some(address) = args.listen
        && !address.ip().is_loopback()
    {
        return Err(Error::usage(format!("`--listen {address}` is not a loopback address")).hint("put a TLS proxy in front of 127.0.0.1"));
    }
    match (&context.cluster, args.specs.is_empty()) {
        (None, true) => return Err(Error::usage("`--specs` is missing").hint("name files or folders with documents, or `--kubernetes`")),
        (Some(_), false) => return Err(Error::usage("`--specs` and `--kubernetes` exclude each other")),
        _ => {}
    }
    telemetry::init(args.log_format);
    let cluster = context.cluster.as_ref().map(|cluster| ClusterConfig {
        kubeconfig: cluster.kubeconfig.clone(),
        namespace: args.namespace.clone().unwrap_or_else(|| cluster.namespace.clone()),
        namespaces: args.namespaces,
        identity: args.identity.unwrap_or_else(host_name),
    });
    let config = Config {
        paths: context.paths.clone(),
        specs: args.specs,
        cluster,
        listen: args.listen,
        probes: args.probes,
        principals: args.principals,
        socket_mode: args.socket_mode,
        notify_url: args.notify_url,
        notify_token_file: args.notify_token_file,
    };
    serve(config).await
}

/// Runs the controller with its API until it is told to end.
async fn serve(config: Config) -> Result<Exit, Error> {
    let mut setup = direct::setup(&config.paths);
    setup.specs.clone_from(&config.specs);
    setup.webhook = config.notify_url.clone().map(|url| Webhook { url, token_file: config.notify_token_file.clone() });
    let data_dir = config.paths.data_dir();
    let made = std::fs::create_dir_all(data_dir);
    made.map_err(|error| Error::unreachable(format!("`{}` cannot be made", data_dir.display())).because(&error))?;
    let principals = config.principals.clone().unwrap_or_else(|| config.paths.principals());
    let principals = Principals::open(principals, direct::owner(data_dir)?)
        .map_err(|error| Error::invalid("the principals cannot be used").because(&error))?;
    let principals = Arc::new(principals);
    let mut controller = Running::start(&config, &setup, &principals).await?;
    let metrics = Arc::new(Metrics::new());
    let (freezes, asked) = mpsc::channel(16);
    let (ready, unready) = watch::channel(None);
    let api = Api::new(controller.handle(), Arc::clone(&principals), Arc::clone(&metrics), unready, freezes);
    let alerts = alerts(&config, &controller)?;
    let probes = api::probes(api.clone());
    let router = api::router(api).merge(alerts.clone().map(alerts::router).unwrap_or_default());
    controller.tell_readiness(&ready, alerts.clone());
    tokio::spawn(throw_switches(controller.shared(), asked));
    tokio::spawn(count(controller.handle(), metrics));
    let socket = config.paths.socket();
    let cannot = |error: &std::io::Error| Error::unreachable("the API cannot be served").because(error);
    let unix = Listener::unix(&socket, config.socket_mode).await.map_err(|error| cannot(&error))?;
    let (end, _) = watch::channel(false);
    let mut servers = JoinSet::new();
    servers.spawn(api::serve(unix, router.clone(), ended(end.subscribe())));
    if let Some(address) = config.listen {
        let tcp = Listener::tcp(address).await.map_err(|error| cannot(&error))?;
        tracing::info!(address = ?tcp.address(), "the API is served here too, for those with a token");
        servers.spawn(api::serve(tcp, router, ended(end.subscribe())));
    }
    if let Some(address) = config.probes {
        let open = Listener::anywhere(address).await.map_err(|error| cannot(&error))?;
        tracing::info!(address = ?open.address(), "probes and metrics are served here");
        servers.spawn(api::serve(open, probes, ended(end.subscribe())));
    }
    tracing::info!(socket = %socket.display(), rollouts = controller.documents().rollouts.len(), "the controller runs");
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| cannot(&error))?;
    // Listened to all the time: what comes while documents are read counts too.
    let mut told = pin!(told_to_end());
    loop {
        tokio::select! {
            () = &mut told => break,
            _ = hangup.recv() => match controller.reload(&setup).await {
                Ok(()) => {
                    match (&alerts, subscriptions(&controller.documents())) {
                        (Some(alerts), Ok(subscriptions)) => alerts.listen(subscriptions),
                        (None, _) => {}
                        (Some(_), Err(error)) => tracing::error!(%error, "what rollouts listened to before, they listen to still"),
                    }
                    tracing::info!("the specifications were read again");
                }
                Err(error) => tracing::error!(error = %direct::start_failed(&error), "the specifications are not taken; those before stay"),
            },
        }
    }
    ready.send_replace(Some("the controller is ending".into()));
    end.send_replace(true);
    while servers.join_next().await.is_some() {}
    controller.stop().await;
    Ok(Exit::Done)
}

/// The controller of either kind.
enum Running {
    Machine(Controller),
    Cluster(cluster::Controller),
}

impl Running {
    async fn start(config: &Config, setup: &Setup, principals: &Arc<Principals>) -> Result<Self, Error> {
        let started = match &config.cluster {
            None => Controller::start(setup).await.map(Self::Machine),
            Some(about) => {
                let connected = connect(about.kubeconfig.as_deref(), None).await;
                let connected = connected.map_err(|error| Error::unreachable("the cluster cannot be reached").because(&error))?;
                let principals = Arc::clone(principals);
                let setup = cluster::Setup {
                    cluster: connected.cluster,
                    api_server: connected.url,
                    namespace: about.namespace.clone(),
                    namespaces: about.namespaces.clone(),
                    data_dir: setup.data_dir.clone(),
                    identity: about.identity.clone(),
                    docker_config: setup.docker_config.clone(),
                    webhook: setup.webhook.clone(),
                    actors: Arc::new(move |user: &str| principals.of_kubernetes(user, clock::wall())),
                };
                cluster::Controller::start(setup).await.map(Self::Cluster)
            }
        };
        started.map_err(|error| direct::start_failed(&error))
    }

    fn shared(&self) -> Arc<Shared> {
        match self {
            Self::Machine(controller) => controller.shared(),
            Self::Cluster(controller) => controller.shared(),
        }
    }

    fn handle(&self) -> Handle {
        self.shared().handle.clone()
    }

    fn documents(&self) -> Arc<Loaded> {
        self.shared().documents()
    }

    /// In a cluster documents come and go by themselves: keeps readiness, and what rollouts listen to, up to date.
    fn tell_readiness(&self, unready: &watch::Sender<Option<String>>, alerts: Option<Arc<Alerts>>) {
        let Self::Cluster(controller) = self else { return };
        let (mut ready, unready, shared) = (controller.ready(), unready.clone(), controller.shared());
        unready.send_replace(Some("the documents of the cluster are being read".into()));
        tokio::spawn(async move {
            if ready.wait_for(|ready| *ready).await.is_ok() {
                unready.send_replace(None);
            }
            let Some(alerts) = alerts else { return };
            let mut known: Option<Arc<Loaded>> = None;
            loop {
                let now = shared.documents();
                if known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &now)) {
                    match subscriptions(&now) {
                        Ok(subscriptions) => alerts.listen(subscriptions),
                        Err(error) => tracing::error!(%error, "what rollouts listened to before, they listen to still"),
                    }
                    known = Some(now);
                }
                shared.changed.notified().await;
            }
        });
    }

    async fn reload(&mut self, setup: &Setup) -> Result<(), StartError> {
        match self {
            Self::Machine(controller) => controller.reload(setup).await,
            // Watches have read them already.
            Self::Cluster(_) => Ok(()),
        }
    }

    async fn stop(self) {
        match self {
            Self::Machine(controller) => controller.stop().await,
            Self::Cluster(controller) => controller.stop().await,
        }
    }
}

async fn ended(mut end: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end too.
    let _ = end.wait_for(|end| *end).await;
}

/// Ends with SIGTERM or an interrupt.
pub(super) async fn told_to_end() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The receivers of alerts that the file `receivers.yaml` in the data folder names, and what rollouts listen to.
fn alerts(config: &Config, controller: &Running) -> Result<Option<Arc<Alerts>>, Error> {
    let file = config.paths.data_dir().join("receivers.yaml");
    let unusable = |what: String| Error::invalid(format!("`{}` cannot be used", file.display())).cause(what);
    let receivers: Vec<Receiver> = match std::fs::read_to_string(&file) {
        Ok(text) => serde_saphyr::from_str(&text).map_err(|error| unusable(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let alerts = Arc::new(Alerts::new(receivers, controller.handle()).map_err(|error| unusable(error.to_string()))?);
    alerts.listen(subscriptions(&controller.documents())?);
    Ok(Some(alerts))
}

/// What rollouts listen to.
fn subscriptions(loaded: &Loaded) -> Result<Vec<Subscription>, Error> {
    let rollouts = loaded.rollouts.iter();
    let subscriptions = rollouts.map(|(key, (_, spec))| Subscription::new(key, &spec.also_breach_on));
    subscriptions.collect::<Result<_, _>>().map_err(|error| Error::invalid("an alert rule cannot be used").because(&error))
}

/// Throws the switch of each freeze as it comes, whatever the store does with those before it; keeping them waits its turn.
async fn throw_switches(shared: Arc<Shared>, mut asked: mpsc::Receiver<ScopeFreeze>) {
    let (thrown, to_keep) = mpsc::channel(FREEZES_MAX);
    tokio::spawn(keep_freezes(Arc::clone(&shared), to_keep));
    while let Some(freeze) = asked.recv().await {
        shared.neighbours.freeze(direct::scope_name(&freeze.scope), freeze.on, Some(freeze.request.clone()));
        shared.changed.notify_waiters();
        if let Err(TrySendError::Full(freeze) | TrySendError::Closed(freeze)) = thrown.try_send(freeze) {
            let _ = freeze.answer.send(Err("it holds until the controller ends: too many wait to be kept before it".into()));
        }
    }
}

/// Keeps freezes of wider scopes, one after the other.
async fn keep_freezes(shared: Arc<Shared>, mut thrown: mpsc::Receiver<ScopeFreeze>) {
    while let Some(ScopeFreeze { scope, on, request, answer }) = thrown.recv().await {
        let name = direct::scope_name(&scope);
        let kept = match shared.world.store() {
            Storage::Embedded(store) => scopes::freeze(store, *shared.world.clock(), name, on, request).await.map(drop),
            Storage::Cluster(store) => store.freeze(name, on.then_some(&request)).await,
        };
        let rollouts = shared.handle.keys().iter().filter(|key| scope.contains(key)).count();
        let _ = answer.send(kept.map(|()| rollouts).map_err(|error| error.to_string()));
    }
}

/// Counts what is committed.
async fn count(handle: Handle, metrics: Arc<Metrics>) {
    let mut records = handle.records();
    loop {
        match records.recv().await {
            Ok(record) => {
                let view = handle.view(&record.resource_target);
                metrics.observe(&record, view.as_ref().map(|view| &view.0));
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::api::wire::FreezeScope;
    use crate::core::actor::Request;
    use crate::shell::standalone::open_world;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_switch_is_thrown_at_once_however_long_keeping_takes() {
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup {
            data_dir: dir.path().to_owned(),
            specs: Vec::new(),
            host_socket: dir.path().join("host.sock"),
            content: dir.path().join("content"),
            docker_config: None,
            webhook: None,
        };
        let world = open_world(&setup, &Loaded::default()).await.unwrap();
        let shared = Arc::new(Shared::new(world, Arc::default()));
        let database = rusqlite::Connection::open(dir.path().join("store/backstop.db")).unwrap();
        database.execute_batch("BEGIN IMMEDIATE").unwrap();

        let (freezes, asked) = mpsc::channel(16);
        tokio::spawn(throw_switches(Arc::clone(&shared), asked));
        let mut answers = Vec::new();
        for namespace in ["shop", "pay", "beta"] {
            shared.neighbours.watch(&format!("{namespace}/service"), "host");
            let (answer, answered) = oneshot::channel();
            let request = Request { id: format!("rq-{namespace}"), ..Request::default() };
            freezes.send(ScopeFreeze { scope: FreezeScope::Namespace(namespace.into()), on: true, request, answer }).await.unwrap();
            answers.push(answered);
        }
        let now = shared.world.clock().now().mono;
        let is_frozen = |namespace: &str| shared.neighbours.scope(&format!("{namespace}/service"), now).frozen;
        let thrown = async {
            while !["shop", "pay", "beta"].iter().all(|namespace| is_frozen(namespace)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), thrown).await.expect("while the store hangs");
        assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()), "none is kept yet");
        database.execute_batch("COMMIT").unwrap();
        for answer in answers {
            assert_eq!(answer.await.unwrap(), Ok(0));
        }
    }
}
