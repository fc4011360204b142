//! One workload as it runs: its record, its arms, and the table that the proxy picks from.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::Env;
use super::arm::Arm;
use super::child::Child;
use super::decide;
use super::metrics::lock;
use super::prune;
use super::record::{self, WorkloadRecord};
use super::route::Balance;
use super::wire::{Define, Ensure, View};
use crate::core::input::{Observation, Observed, Outcome};
use crate::core::release::ReleaseId;
use crate::core::spec::{Percent, Process};
use crate::core::time::Span;
use crate::core::work::{Action, Fence};

/// Releases whose logs stay although they do not run any more.
const KEPT_LOGS: usize = 8;

/// A workload as it runs.
#[derive(Debug)]
pub(crate) struct Workload {
    /// `namespace/name`.
    pub(crate) key: String,
    /// Requests that no release answered.
    pub(crate) dropped: Arc<AtomicU64>,
    /// How long an answer may take to begin.
    pub(crate) upstream_timeout: Duration,
    /// Where the proxy listens, or why it does not.
    pub(crate) listening: watch::Sender<Result<SocketAddr, String>>,
    /// Set once the workload is to end.
    pub(crate) stop: watch::Sender<bool>,
    env: Arc<Env>,
    settings: watch::Sender<Arc<Process>>,
    book: Mutex<Book>,
    /// One forward change at a time.
    turn: tokio::sync::Mutex<()>,
    /// One writer of the file at a time.
    disk: tokio::sync::Mutex<()>,
    crew: Mutex<Crew>,
    table: Mutex<Balance<Arc<Arm>>>,
}

#[derive(Debug)]
struct Book {
    record: WorkloadRecord,
    /// Counts changes of `record`.
    version: u64,
    /// The version that the file holds; 0 if it holds `ahead`, or nothing.
    synced: u64,
    /// What was written before it was acted on.
    ahead: Option<WorkloadRecord>,
    /// Whether the file was removed for good.
    forgotten: bool,
}

impl Book {
    fn replace(&mut self, record: WorkloadRecord) {
        if self.record != record {
            self.record = record;
            self.version += 1;
        }
        if self.ahead.take().is_some_and(|ahead| ahead == self.record) {
            self.synced = self.version;
        }
    }
}

#[derive(Debug, Default)]
struct Crew {
    arms: BTreeMap<ReleaseId, Arc<Arm>>,
    leaving: Vec<Arc<Arm>>,
}

/// Children of an earlier host by release and slot.
pub(crate) type Found = BTreeMap<ReleaseId, BTreeMap<u16, Child>>;

impl Workload {
    /// Runs what `record` wants. `synced` tells whether its file exists.
    pub(crate) fn start(env: &Arc<Env>, mut record: WorkloadRecord, synced: bool, mut found: Found) -> Arc<Self> {
        let key = record.key();
        // A host that was killed in the middle of a hold must not start what is held, unless it carries traffic.
        let idle: Vec<ReleaseId> = record.quarantined.iter().filter(|release| record.weight(release) == Percent::ZERO).cloned().collect();
        record.arms.retain(|release, _| !idle.contains(release) || record.current.as_ref() == Some(release));
        if record.weights.is_empty() {
            record.weights = record.current.iter().map(|current| (current.clone(), Percent::FULL)).collect();
        }
        let workload = Arc::new(Self {
            dropped: env.metrics.dropped(&key),
            upstream_timeout: env.upstream_timeout,
            listening: watch::Sender::new(Err("not yet".to_owned())),
            stop: watch::Sender::new(false),
            env: env.clone(),
            settings: watch::Sender::new(Arc::new(record.process.clone())),
            crew: Mutex::default(),
            table: Mutex::default(),
            key,
            book: Mutex::new(Book { record: record.clone(), version: 1, synced: u64::from(synced), ahead: None, forgotten: false }),
            turn: tokio::sync::Mutex::default(),
            disk: tokio::sync::Mutex::default(),
        });
        workload.apply(&record, &mut found);
        // What is left of it belongs to releases that are not wanted any more.
        for child in found.into_values().flat_map(BTreeMap::into_values) {
            env.end_stray(child);
        }
        workload
    }

    /// The settings, as they are now and change.
    pub(crate) fn settings(&self) -> watch::Receiver<Arc<Process>> {
        self.settings.subscribe()
    }

    /// The release that answers the next request: by weight among those with a ready member; if there is none, among
    /// those with a live one; if there is none either, by weight alone, so that the failure is counted where it belongs.
    pub(crate) fn pick(&self) -> Option<Arc<Arm>> {
        let mut table = lock(&self.table);
        for usable in [Arm::is_ready as fn(&Arm) -> bool, Arm::is_alive, |_| true] {
            if let Some(arm) = table.pick(|arm| usable(arm)) {
                return Some(arm.clone());
            }
        }
        None
    }

    /// The release that answers a request that `but` did not take: by weight among the others with a ready member.
    pub(crate) fn pick_other(&self, but: &Arc<Arm>) -> Option<Arc<Arm>> {
        lock(&self.table).pick(|arm| !Arc::ptr_eq(arm, but) && arm.is_ready()).cloned()
    }

    /// Makes true what `ensure` wants.
    pub(crate) async fn ensure(self: &Arc<Self>, ensure: &Ensure) -> Outcome {
        let decide = |record: &mut WorkloadRecord| {
            let before = record.clone();
            decide::ensure(record, ensure)?;
            self.somebody_serves(&before, record)
        };
        match (&ensure.fence, &ensure.action) {
            (Fence::Stable(_), Action::EnsureWeights { .. }) => self.change_at_once(decide).await,
            _ => self.change(decide).await,
        }
    }

    /// Refuses to move requests to a release that nobody of could answer, while others can: whoever asked may have seen
    /// members that are gone since, or not have seen that they are still starting.
    fn somebody_serves(&self, before: &WorkloadRecord, after: &WorkloadRecord) -> Result<(), Outcome> {
        let crew = lock(&self.crew);
        let alive = |id: &ReleaseId| crew.arms.get(id).is_some_and(|arm| arm.is_alive());
        let nobody = after.weights.iter().find(|(id, share)| **share > before.weight(id) && !alive(id));
        match nobody {
            Some((id, _)) if before.weights.iter().any(|(id, share)| *share > Percent::ZERO && alive(id)) => {
                let what = format!("release {id} has no member that can serve yet: requests stay where they are answered");
                Err(Outcome::Transient { what, retry_after: Some(Span(Duration::from_millis(50))) })
            }
            _ => Ok(()),
        }
    }

    /// Makes the settings what `define` wants.
    pub(crate) async fn define(self: &Arc<Self>, define: &Define) -> Outcome {
        if let Err(error) = define.process.listen.parse::<SocketAddr>() {
            return Outcome::Invalid(format!("`{}` is not an address such as `127.0.0.1:8080`: {error}", define.process.listen));
        }
        self.change(|record| decide::define(record, define)).await
    }

    /// Decide, act, sync, read back: for traffic toward the stable release. It waits for no other change and for no
    /// disk; only its answer does.
    async fn change_at_once(self: &Arc<Self>, decide: impl Fn(&mut WorkloadRecord) -> Result<(), Outcome>) -> Outcome {
        let decided = self.decide(&decide);
        self.finish(decided).await
    }

    /// Decide, sync, act, read back: for everything else.
    async fn change(self: &Arc<Self>, decide: impl Fn(&mut WorkloadRecord) -> Result<(), Outcome>) -> Outcome {
        let _turn = self.turn.lock().await;
        let mut next = lock(&self.book).record.clone();
        if decide(&mut next).is_ok()
            && next != lock(&self.book).record
            && let Err(error) = self.write(next).await
        {
            return self.cannot_write(&error);
        }
        // Decided again: traffic may have moved toward the stable release while the disk was busy.
        let decided = self.decide(&decide);
        self.finish(decided).await
    }

    /// Decides on the record as it is now, and acts. Whether anything but the fences changed.
    fn decide(self: &Arc<Self>, decide: impl Fn(&mut WorkloadRecord) -> Result<(), Outcome>) -> Result<bool, Outcome> {
        let mut book = lock(&self.book);
        let mut next = book.record.clone();
        let decision = decide(&mut next);
        if let Err(outcome) = decision {
            // What was learnt about other writers stays.
            let learnt = WorkloadRecord { fences: next.fences, ..book.record.clone() };
            book.replace(learnt);
            return Err(outcome);
        }
        let changed = WorkloadRecord { fences: book.record.fences.clone(), ..next.clone() } != book.record;
        book.replace(next);
        if changed {
            // Under the lock, so that what runs is what the last decision wants.
            self.apply(&book.record, &mut Found::new());
        }
        Ok(changed)
    }

    async fn finish(&self, decided: Result<bool, Outcome>) -> Outcome {
        let synced = self.sync().await;
        match (decided, synced) {
            (Err(outcome), _) => outcome,
            (Ok(_), Err(error)) => self.cannot_write(&error),
            (Ok(changed), Ok(())) => {
                let record = lock(&self.book).record.clone();
                Outcome::Done { changed, observed: Observation::Workload(Arc::new(self.observed(&record))) }
            }
        }
    }

    fn cannot_write(&self, error: &io::Error) -> Outcome {
        tracing::error!(workload = %self.key, %error, "cannot write the state file");
        Outcome::Transient { what: format!("the host cannot write its state file: {error}"), retry_after: None }
    }

    /// Makes the file hold the record as it is now, unless it does.
    async fn sync(&self) -> io::Result<()> {
        let _disk = self.disk.lock().await;
        let (record, version) = {
            let book = lock(&self.book);
            if book.synced == book.version {
                return Ok(());
            }
            (book.record.clone(), book.version)
        };
        self.put(record).await?;
        lock(&self.book).synced = version;
        Ok(())
    }

    /// Makes the file hold `record`, which is not yet acted on.
    async fn write(&self, record: WorkloadRecord) -> io::Result<()> {
        let _disk = self.disk.lock().await;
        // The file is ahead of the record now: whoever syncs next writes it again, unless the same is decided.
        lock(&self.book).synced = 0;
        self.put(record.clone()).await?;
        let mut book = lock(&self.book);
        book.ahead = Some(record);
        Ok(())
    }

    async fn put(&self, record: WorkloadRecord) -> io::Result<()> {
        if lock(&self.book).forgotten {
            return Err(io::Error::other("the workload was removed from this host"));
        }
        let path = self.file();
        tokio::task::spawn_blocking(move || record::save(&path, &record)).await.map_err(io::Error::other)?
    }

    fn file(&self) -> PathBuf {
        self.env.data.join("workloads").join(format!("{}.json", self.key))
    }

    /// Makes what runs what `record` wants. Nothing in here waits.
    fn apply(self: &Arc<Self>, record: &WorkloadRecord, found: &mut Found) {
        let mut crew = lock(&self.crew);
        self.settings.send_if_modified(|settings| {
            let changed = **settings != record.process;
            if changed {
                *settings = Arc::new(record.process.clone());
            }
            changed
        });
        for (id, release) in &record.arms {
            crew.arms.entry(id.clone()).or_insert_with(|| {
                let found = found.remove(id).unwrap_or_default();
                Arm::start(&self.env, &self.key, release.clone(), self.settings.subscribe(), found)
            });
        }
        self.route(record, &crew);
        let gone: Vec<ReleaseId> = crew.arms.keys().filter(|id| !record.arms.contains_key(*id)).cloned().collect();
        for id in gone {
            if let Some(arm) = crew.arms.remove(&id) {
                crew.leaving.push(arm.clone());
                tokio::spawn(self.clone().see_off(arm, record.process.drain.into()));
            }
        }
        crew.arms.values().for_each(Arm::staff);
    }

    fn route(self: &Arc<Self>, record: &WorkloadRecord, crew: &Crew) {
        let shares: Vec<_> = record.weights.iter().filter_map(|(id, share)| crew.arms.get(id).map(|arm| (arm.clone(), *share))).collect();
        let fresh = Balance::new(shares);
        let mut table = lock(&self.table);
        if table.same(&fresh, Arc::ptr_eq) {
            return;
        }
        let before = std::mem::replace(&mut *table, fresh);
        for arm in before.targets() {
            if !table.targets().any(|other| Arc::ptr_eq(other, arm)) {
                let epoch = arm.new_epoch();
                let (workload, arm, drain) = (Arc::downgrade(self), arm.clone(), record.process.drain.into());
                tokio::spawn(async move {
                    tokio::time::sleep(drain).await;
                    let back = workload.upgrade().is_some_and(|it| lock(&it.table).targets().any(|other| Arc::ptr_eq(other, &arm)));
                    if !back {
                        arm.cut_before(epoch);
                    }
                });
            }
        }
    }

    /// Ends an arm that is not wanted any more.
    async fn see_off(self: Arc<Self>, arm: Arc<Arm>, drain: Duration) {
        arm.end(drain).await;
        let in_use: BTreeSet<String> = {
            let mut crew = lock(&self.crew);
            crew.leaving.retain(|other| !Arc::ptr_eq(other, &arm));
            let in_use = crew.leaving.iter().chain(crew.arms.values()).map(|arm| arm.release.id.to_string()).collect::<BTreeSet<_>>();
            if !in_use.contains(&*arm.release.id.0) {
                self.env.metrics.forget_arm(&self.key, &arm.release.id);
            }
            in_use
        };
        let (logs, unpacked) = (self.env.data.join("logs").join(&self.key), self.env.unpacked.clone());
        drop(arm);
        let pruned = move || {
            prune::keep_newest(&logs, KEPT_LOGS, &in_use);
            unpacked.prune();
        };
        _ = tokio::task::spawn_blocking(pruned).await;
    }

    fn observed(&self, record: &WorkloadRecord) -> Observed {
        let crew = lock(&self.crew);
        let mut arms = BTreeMap::new();
        for arm in crew.leaving.iter().chain(crew.arms.values()) {
            arms.insert(arm.release.id.clone(), arm.health());
        }
        Observed { arms, weights: record.weights.clone(), current: record.current.clone() }
    }

    /// Everything that is known of it.
    pub(crate) fn view(&self) -> View {
        let record = lock(&self.book).record.clone();
        let listening = self.listening.borrow().clone();
        let members = {
            let crew = lock(&self.crew);
            crew.arms.values().chain(&crew.leaving).flat_map(|arm| arm.views()).collect()
        };
        View {
            observed: self.observed(&record),
            namespace: record.namespace,
            name: record.name,
            process: record.process,
            releases: record.arms,
            quarantined: record.quarantined,
            listen: listening.as_ref().ok().copied(),
            listen_fault: listening.err(),
            metrics: self.env.metrics_address,
            fences: record.fences,
            members,
        }
    }

    /// Where the proxy listened last.
    pub(crate) fn bound(&self) -> Option<SocketAddr> {
        lock(&self.book).record.bound
    }

    /// Remembers where the proxy listens.
    pub(crate) async fn set_bound(&self, address: SocketAddr) {
        {
            let mut book = lock(&self.book);
            let record = WorkloadRecord { bound: Some(address), ..book.record.clone() };
            book.replace(record);
        }
        if let Err(error) = self.sync().await {
            self.cannot_write(&error);
        }
    }

    /// Takes no new connections, lets requests finish and ends every child.
    pub(crate) async fn end(&self) {
        self.stop.send_replace(true);
        let drain = self.settings.borrow().drain.into();
        let arms: Vec<Arc<Arm>> = {
            let crew = lock(&self.crew);
            crew.arms.values().chain(&crew.leaving).cloned().collect()
        };
        futures::future::join_all(arms.iter().map(|arm| arm.end(drain))).await;
    }

    /// Ends it and forgets that it was.
    pub(crate) async fn forget(&self) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let _disk = self.disk.lock().await;
        lock(&self.book).forgotten = true;
        let file = self.file();
        match tokio::fs::remove_file(&file).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.end().await;
        self.env.metrics.forget(&self.key);
        Ok(())
    }
}
