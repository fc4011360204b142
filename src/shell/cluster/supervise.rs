//! Which guards this replica takes care of, and with which documents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kube::api::DynamicObject;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::books::{Books, conditions_of, key_of, troubles};
use super::observer::{Observer, Turns};
use super::replicas::{Living, is_mine};
use super::sight::Sight;
use super::watches::Told;
use super::{Setup, endpoints};
use crate::core::spec::{GuardSource, GuardedRollout, Metadata};
use crate::core::work::Lane;
use crate::shell::again;
use crate::shell::rollout::{Rollout, Shared};
use crate::shell::standalone::restore;
use crate::spec::Loaded;
use crate::spec::document::Kind;
use crate::world::kubernetes::in_force;
use crate::world::kubernetes::mark::Marks;
use crate::world::kubernetes::report::{self, Said};
use crate::world::kubernetes::store::Store;
use crate::world::source::Source;
use crate::world::storage::Storage;
use crate::world::store::LoadError;

/// How long changes gather before they are acted on.
const GATHER: Duration = Duration::from_millis(50);
/// Before a state that cannot be read is read again.
const AGAIN: Duration = Duration::from_secs(1);
/// Before a source that could not be opened is tried again.
const RECONNECT: Duration = Duration::from_secs(30);
/// Observations that may wait.
const ORDINARY_MAX: usize = 16;

/// Starts and stops the tasks of guards.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    setup: Setup,
    sight: Arc<Sight>,
    living: watch::Receiver<Living>,
    stamped: watch::Receiver<bool>,
    books: Books,
    /// What the newest object of each guard says that matters here.
    seen: BTreeMap<String, Glance>,
    /// Documents that could be guarded, the newest of each guard.
    good: BTreeMap<String, (Metadata, Arc<GuardedRollout>)>,
    sources: BTreeMap<String, GuardSource>,
    running: BTreeMap<String, Running>,
    turns: Arc<Turns>,
    /// Rung when a guard's task has ended, for another one may have to take its place, and when there is something else to say of one.
    again: Arc<Notify>,
    /// What is to be said of each guard's document.
    said: BTreeMap<String, Said>,
    /// What is in force of cluster-wide kinds, as it was kept last.
    kept: BTreeMap<String, serde_json::Value>,
    listed: BTreeSet<Kind>,
}

/// What an object's status says that matters to those who do not run it.
struct Glance {
    /// Another one is another guard under the same name.
    uid: Option<String>,
    /// A revert is under way.
    urgent: bool,
    conditions: Vec<crate::spec::crd::StatusCondition>,
    /// What it says is in force.
    in_force: Option<Arc<str>>,
    generation: Option<i64>,
}

impl Glance {
    /// Whether the status says so already. What is in force is told with the first commit; what has changed since, at once.
    fn says(&self, said: &Said) -> bool {
        report::is_known(&self.conditions, said) && (self.in_force.is_none() || self.in_force == said.in_force)
    }
}

struct Running {
    stop: watch::Sender<bool>,
    revision: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        setup: Setup,
        sight: Arc<Sight>,
        living: watch::Receiver<Living>,
        stamped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shared,
            setup,
            sight,
            living,
            stamped,
            books: Books::default(),
            seen: BTreeMap::new(),
            good: BTreeMap::new(),
            sources: BTreeMap::new(),
            running: BTreeMap::new(),
            turns: Arc::default(),
            again: Arc::default(),
            said: BTreeMap::new(),
            kept: BTreeMap::new(),
            listed: BTreeSet::new(),
        }
    }

    fn store(&self) -> Option<&Store> {
        match self.shared.world.store() {
            Storage::Cluster(store) => Some(store),
            Storage::Embedded(_) => None,
        }
    }

    fn secrets(&self) -> PathBuf {
        self.setup.data_dir.join(endpoints::SECRETS)
    }

    /// Runs until `stop`; then every guard's task ends.
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Told>, ready: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
        let mut due: Option<tokio::time::Instant> = None;
        self.remember(&mut stop).await;
        loop {
            let settle = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                biased;
                _ = stop.changed() => break,
                Some(one) = told.recv() => self.take(one),
                Ok(()) = self.living.changed() => true,
                Ok(()) = self.stamped.changed() => true,
                () = self.again.notified() => true,
                () = settle => {
                    self.settle().await;
                    // What could not be opened is tried again.
                    due = (!self.is_connected()).then(|| tokio::time::Instant::now() + RECONNECT);
                    ready.send_if_modified(|ready| !std::mem::replace(ready, self.is_complete()) && *ready);
                    false
                }
            };
            if changed && self.is_complete() {
                // At the start everything has been listed: nothing more gathers.
                let gathers = if *ready.borrow() { GATHER } else { Duration::ZERO };
                let at = tokio::time::Instant::now() + gathers;
                due = Some(due.map_or(at, |due| due.min(at)));
            }
        }
        for running in self.running.values() {
            running.stop.send_replace(true);
        }
        for (_, running) in std::mem::take(&mut self.running) {
            let _ = running.task.await;
        }
    }

    fn is_complete(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// Takes in what a watch tells; whether documents or shares may have changed.
    fn take(&mut self, told: Told) -> bool {
        match told {
            Told::Applied(kind, object) => {
                let secrets = self.secrets();
                let changed = self.books.apply(kind, &object, &secrets);
                let urgency = kind == Kind::GuardedRollout && self.glance(&object);
                changed || urgency
            }
            Told::Gone(kind, key) => self.gone(kind, &key),
            Told::Listed(kind, scope, listed) => {
                let within = |key: &String| scope.as_ref().is_none_or(|scope| key.split('/').next() == Some(scope));
                let gone: Vec<String> = self.books.keys(kind).into_iter().filter(|key| within(key) && !listed.contains(key)).collect();
                for key in &gone {
                    self.gone(kind, key);
                }
                self.listed.insert(kind) || !gone.is_empty()
            }
            Told::Frozen(frozen) => {
                let told = frozen.into_iter().map(|(name, kept)| (scope_of(name), crate::world::kubernetes::freezes::by(&kept)));
                self.shared.neighbours.replace_freezes(told.collect());
                self.shared.changed.notify_waiters();
                false
            }
        }
    }

    fn gone(&mut self, kind: Kind, key: &str) -> bool {
        if kind == Kind::GuardedRollout {
            self.seen.remove(key);
            self.good.remove(key);
            self.end(key);
        }
        self.books.remove(kind, key)
    }

    /// Has a guard's task end. What is to run under that name begins anew once it has.
    fn end(&self, key: &str) {
        if let Some(running) = self.running.get(key) {
            running.stop.send_replace(true);
        }
    }

    /// Looks at a guard's status: another replica, or a command line, may have decided. Whether its urgency has changed.
    fn glance(&mut self, object: &DynamicObject) -> bool {
        let key = key_of(object);
        let phase = object.data["status"]["phase"].as_str().unwrap_or_default();
        let urgent = matches!(phase, "Reverting" | "Recovering");
        let breached = phase == "Reverting" && object.data["status"]["verdict"] == "Breach";
        let conditions = conditions_of(object);
        let said = self.said.get(&key);
        // Most often what the books say: such a text is held once.
        let same = |text: &str| self.books.in_force(&key).filter(|known| ***known == *text).map(Arc::clone);
        let in_force = object.data["status"]["inForce"].as_str().map(|text| same(text).unwrap_or_else(|| text.into()));
        let uid = object.metadata.uid.clone();
        let glance = Glance { uid: uid.clone(), urgent, conditions, in_force, generation: object.metadata.generation };
        let known = said.is_none_or(|said| glance.says(said));
        let known_before = self.seen.insert(key.clone(), glance);
        if known_before.as_ref().is_some_and(|before| before.uid != uid) {
            self.end(&key);
        }
        let before = known_before.is_some_and(|before| before.urgent);
        if let Some(running) = self.running.get(&key) {
            let known = self.store().map_or(0, |store| store.revision(&key));
            let revision = Store::revision_of(object);
            if revision > known {
                running.revision.send_replace(revision);
            }
        } else {
            if breached && !before {
                // A neighbour's breach counts for the breaker, whichever replica saw it.
                if let Some(source) = object.data["spec"]["source"].as_str() {
                    self.shared.neighbours.watch(&key, source);
                }
                self.shared.neighbours.breached(&key, self.shared.world.clock().now().mono);
            }
            if let Some(store) = self.store() {
                store.offer(&key, object);
            }
        }
        urgent != before || !known
    }

    /// Makes what runs what should run, with the documents that count now.
    async fn settle(&mut self) {
        let written = self.books.loaded(*self.stamped.borrow());
        let mut trouble: BTreeMap<String, String> = BTreeMap::new();
        let mut rollouts = BTreeMap::new();
        for (key, entry) in &self.books.rollouts {
            let troubles: Vec<String> = match &entry.trouble {
                Some(what) => vec![what.clone()],
                None => troubles(&written, key),
            };
            if troubles.is_empty()
                && let Some(document) = written.rollouts.get(key)
            {
                self.good.insert(key.clone(), document.clone());
            } else {
                trouble.insert(key.clone(), troubles.join("; "));
            }
            // A guard whose newest document cannot be used stays guarded by the one before.
            rollouts.extend(self.good.get(key).map(|document| (key.clone(), document.clone())));
        }
        self.books.use_guards(written.rollouts.keys().filter(|key| !trouble.contains_key(*key)));
        let said = |key: &String| Said {
            others: self.shared.world.other_images(key),
            ..self.books.said(key, trouble.get(key).map(String::as_str))
        };
        self.said = self.books.rollouts.keys().map(|key| (key.clone(), said(key))).collect();
        if let Some(store) = self.store() {
            store.note_documents(self.said.clone());
        }
        self.shared.handle.replace_notes(self.said.iter().map(|(key, said)| (key.clone(), said.notes())).collect());
        let loaded = Loaded::kept(rollouts, written.policies, written.sources, written.flags);
        let before = self.shared.documents();
        // Every guard's task holds them: the same ones are not held twice.
        let loaded = if loaded.is_same_as(&before) { before } else { Arc::new(loaded) };
        self.connect(&loaded).await;
        self.shared.world.replace_flag_targets(loaded.flags.clone());
        *self.shared.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&loaded);
        self.share_out(&loaded);
        self.shared.changed.notify_waiters();
        self.report().await;
        self.keep().await;
    }

    /// Keeps what is in force of cluster-wide kinds.
    async fn keep(&mut self) {
        let to_keep = self.books.to_keep();
        if to_keep == self.kept {
            return;
        }
        match in_force::keep(self.setup.cluster.housekeeping(), &self.setup.namespace, &to_keep).await {
            Ok(()) => self.kept = to_keep,
            Err(error) => tracing::warn!(%error, "what is in force of policies and sources is not kept yet"),
        }
    }

    /// Reads what was in force before this start, again and again until that works.
    async fn remember(&mut self, stop: &mut watch::Receiver<bool>) {
        loop {
            match in_force::read(self.setup.cluster.housekeeping(), &self.setup.namespace).await {
                Ok(kept) => {
                    self.kept.clone_from(&kept);
                    return self.books.remember(kept);
                }
                Err(error) => tracing::warn!(%error, "what was in force of policies and sources cannot be read yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Whether every source is open.
    fn is_connected(&self) -> bool {
        self.shared.documents().sources.iter().all(|(name, source)| self.sources.get(name) == Some(source))
    }

    /// Opens the sources that are new or have changed.
    async fn connect(&mut self, loaded: &Loaded) {
        for (name, source) in &loaded.sources {
            if self.sources.get(name) == Some(source) {
                continue;
            }
            let opened = endpoints::admit(&self.setup, &self.secrets(), source).await;
            match opened.and_then(|()| Source::open(name, source).map_err(|error| error.to_string())) {
                Ok(opened) => {
                    self.shared.world.connect(name, opened);
                    self.sources.insert(name.clone(), source.clone());
                }
                Err(what) => tracing::error!(source = name, what, "a GuardSource cannot be used"),
            }
        }
    }

    /// Starts what is this replica's and does not run, and stops what is not.
    fn share_out(&mut self, loaded: &Arc<Loaded>) {
        let living = self.living.borrow_and_update().clone();
        let mine = |key: &str, urgent: bool| {
            is_mine(&living.all, &self.setup.identity, key) || (urgent && is_mine(&living.proven, &self.setup.identity, key))
        };
        let urgent = |key: &str| self.seen.get(key).is_some_and(|glance| glance.urgent);
        let mut wanted: Vec<(&String, bool)> = loaded.rollouts.keys().map(|key| (key, urgent(key))).collect();
        wanted.retain(|(key, urgent)| mine(key, *urgent));
        // Reverts go on first.
        wanted.sort_by_key(|(_, urgent)| !urgent);
        let keys: BTreeSet<&String> = wanted.iter().map(|(key, _)| *key).collect();
        for (key, running) in &self.running {
            if !keys.contains(key) {
                running.stop.send_replace(true);
            }
        }
        let ended: Vec<String> =
            self.running.iter().filter(|(_, running)| running.task.is_finished()).map(|(key, _)| key.clone()).collect();
        for key in &ended {
            self.running.remove(key);
        }
        let start: Vec<String> =
            wanted.into_iter().filter(|(key, _)| !self.running.contains_key(*key)).map(|(key, _)| key.clone()).collect();
        for key in start {
            let running = self.begin(&key);
            self.running.insert(key, running);
        }
    }

    fn begin(&self, key: &str) -> Running {
        let ((stop, stopped), (revision, newest)) = (watch::channel(false), watch::channel(0));
        let task = Arc::new(Task {
            shared: Arc::clone(&self.shared),
            setup: self.setup.clone(),
            sight: Arc::clone(&self.sight),
            stamped: self.stamped.clone(),
            turns: Arc::clone(&self.turns),
            again: Arc::clone(&self.again),
            key: key.to_owned(),
        });
        let again = Arc::clone(&self.again);
        let task = tokio::spawn(async move {
            task.run(newest, stopped).await;
            again.notify_one();
        });
        Running { stop, revision, task }
    }

    /// Says in the status of each guard of this replica what is to be said of its document, where that is news.
    async fn report(&self) {
        let living = self.living.borrow().all.clone();
        let client = self.setup.cluster.client(Lane::Forward);
        for (key, glance) in &self.seen {
            let Some(said) = self.said.get(key).filter(|said| !glance.says(said)) else { continue };
            if !is_mine(&living, &self.setup.identity, key) {
                continue;
            }
            tracing::warn!(
                rollout = key,
                trouble = said.trouble,
                waits = said.waits,
                others = said.others,
                "what is to be said of a guard has changed"
            );
            if let Err(error) = report::say(client, key, &glance.conditions, said, glance.generation).await {
                tracing::warn!(rollout = key, %error, "its status cannot say so");
            }
        }
    }
}

/// How a scope is called in the `ConfigMap`, where a star is no name.
fn scope_of(name: String) -> String {
    if name == crate::world::kubernetes::freezes::ALL { "*".to_owned() } else { name }
}

/// The task of one guard.
struct Task {
    shared: Arc<Shared>,
    setup: Setup,
    sight: Arc<Sight>,
    stamped: watch::Receiver<bool>,
    turns: Arc<Turns>,
    again: Arc<Notify>,
    key: String,
}

impl Task {
    async fn run(self: Arc<Self>, revision: watch::Receiver<u64>, stop: watch::Receiver<bool>) {
        let once = || Arc::clone(&self).guard_once(revision.clone(), stop.clone());
        let guarded = again::until_done(&self.key, stop.clone(), once).await.flatten();
        self.shared.handle.disconnect(&self.key);
        self.shared.neighbours.forget(&self.key);
        self.shared.world.forget(&self.key);
        self.sight.forget(&self.key);
        if let Storage::Cluster(store) = self.shared.world.store() {
            store.forget(&self.key);
        }
        // Another replica's guard stays marked; one that is gone is not guarded any more.
        if let Some((namespace, spec)) = guarded
            && let Some((kind, workload)) = spec.workload.object()
            && !self.shared.documents().rollouts.contains_key(&self.key)
        {
            let done = Box::pin(self.setup.cluster.mark(&namespace, kind, workload, &Marks::default())).await;
            if let Err(error) = done {
                tracing::warn!(rollout = self.key, %error, "the workload stays marked as guarded");
            }
        }
    }

    /// Guards until `stop`. The namespace and the document of what was guarded, if that was anything.
    ///
    /// # Errors
    /// Its state cannot be read.
    async fn guard_once(
        self: Arc<Self>,
        revision: watch::Receiver<u64>,
        stop: watch::Receiver<bool>,
    ) -> Result<Option<(String, Arc<GuardedRollout>)>, LoadError> {
        // What is done once takes no room while the guard rests, thousands of times.
        let Some((rollout, spec, namespace)) = Box::pin(self.restore()).await? else { return Ok(None) };
        let Some((_, workload)) = spec.workload.object() else { return Ok(None) };
        let (ordinary_in, ordinary) = mpsc::channel(ORDINARY_MAX);
        let observer = Observer {
            shared: Arc::clone(&self.shared),
            cluster: self.setup.cluster.clone(),
            key: self.key.clone(),
            bell: self.sight.follow(&namespace, workload, &self.key),
            actors: Arc::clone(&self.setup.actors),
            stamped: self.stamped.clone(),
            turns: Arc::clone(&self.turns),
            again: Arc::clone(&self.again),
            only_looks: false,
        };
        let mut eyes = JoinSet::new();
        eyes.spawn(observer.run(ordinary_in, stop.clone()));
        tracing::debug!(rollout = self.key, "guarded here");
        again::together(Box::pin(rollout.following(revision).run(ordinary, stop)), eyes).await;
        Ok(Some((namespace, spec)))
    }

    /// Restores the rollout, unless its document is gone.
    async fn restore(&self) -> Result<Option<(Box<Rollout>, Arc<GuardedRollout>, String)>, LoadError> {
        let loaded = self.shared.documents();
        let Some(document) = loaded.rollouts.get(&self.key) else { return Ok(None) };
        let rollout = restore(&self.shared, &loaded, &self.key, document).await?;
        let (metadata, spec) = document;
        Ok(Some((rollout, Arc::clone(spec), metadata.namespace().to_owned())))
    }
}
