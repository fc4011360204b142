//! One place in an arm: a child that is started, probed, started again with growing waits, and ended.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use rustix::process::Signal;
use tokio::sync::watch;

use super::arm::Arm;
use super::child::{Child, Start};
use super::log;
use super::metrics::lock;
use super::probe::probe;
use super::record::{self, ChildRecord};
use super::upstream::Member;
use super::wire::MemberView;
use crate::core::backoff;
use crate::world::clock;

/// Short runs in a row that make a crash loop.
const CRASH_LOOP: usize = 3;

/// Ends within [`SLOW_SPAN`] that make a crash loop although each run was steady for a while.
const SLOW_LOOP: usize = 5;

/// See [`SLOW_LOOP`].
const SLOW_SPAN: Duration = Duration::from_mins(10);

/// Failed probes in a row until a child is started again, as a multiple of those until it gets no more requests:
/// taking it out helps at once and costs little, starting it again is the second thing to try.
const GIVE_UP: u32 = 3;

/// Time between looks at the size of a log.
const LOG_LOOK: Duration = Duration::from_millis(250);

/// Where a child belongs.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its release's members.
    pub(crate) arm: Arc<Arm>,
    /// Its number among them.
    pub(crate) number: u16,
    /// The unpacked artifact.
    pub(crate) root: PathBuf,
}

/// A place that is being kept filled.
#[derive(Debug)]
pub(crate) struct Slot {
    status: Arc<Mutex<Status>>,
    place: SlotName,
    stop: watch::Sender<bool>,
    over: watch::Receiver<bool>,
}

#[derive(Debug, Clone)]
struct SlotName {
    release: crate::core::release::ReleaseId,
    number: u16,
    log: PathBuf,
}

#[derive(Debug, Default)]
struct Status {
    running: Option<ChildRecord>,
    member: Option<Arc<Member>>,
    failing: Option<String>,
    restarts: u64,
    /// Ends since the last steady run.
    ends: Vec<Instant>,
    /// Ends within [`SLOW_SPAN`].
    recent: Vec<Instant>,
}

impl Status {
    /// Takes note of an end; the ends that speak for a crash loop, if there is one.
    fn ended(&mut self, now: Instant) -> Option<&[Instant]> {
        self.ends.push(now);
        self.recent.push(now);
        self.recent.retain(|end| now.duration_since(*end) < SLOW_SPAN);
        if self.ends.len() >= CRASH_LOOP {
            Some(&self.ends)
        } else {
            Some(self.recent.as_slice()).filter(|recent| recent.len() >= SLOW_LOOP)
        }
    }

    /// Forgives what a run that was steady until `now` can make good.
    fn steady(&mut self, now: Instant) {
        self.ends.clear();
        self.recent.retain(|end| now.duration_since(*end) < SLOW_SPAN);
        if self.recent.len() < SLOW_LOOP {
            self.failing = None;
        }
    }
}

impl Slot {
    /// Keeps `place` filled, beginning with the child `found` if there is one.
    pub(crate) fn start(place: Place, found: Option<Child>) -> Self {
        let status = Arc::new(Mutex::new(Status::default()));
        let stop = watch::Sender::new(false);
        let (done, over) = watch::channel(false);
        let log = place.log();
        let name = SlotName { release: place.arm.release.id.clone(), number: place.number, log: log.clone() };
        let keeper = Keeper { place, status: status.clone(), log };
        let mut stopped = stop.subscribe();
        tokio::spawn(async move {
            keeper.keep_on(&mut stopped, found).await;
            done.send_replace(true);
        });
        Self { status, place: name, stop, over }
    }

    /// Drains and ends the child; nothing is started afterwards.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether nothing runs here any more.
    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits until nothing runs here any more.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + use<> {
        let mut over = self.over.clone();
        async move { _ = over.wait_for(|over| *over).await }
    }

    /// What people want to see.
    pub(crate) fn view(&self) -> MemberView {
        let status = lock(&self.status);
        let member = status.member.as_ref();
        MemberView {
            release: self.place.release.clone(),
            slot: self.place.number,
            pid: status.running.as_ref().map(|running| running.pid),
            port: status.running.as_ref().map(|running| running.port),
            ready: member.is_some_and(|member| member.is_ready()),
            restarts: status.restarts,
            inflight: member.map_or(0, |member| member.inflight()),
            failing: status.failing.clone(),
            log: self.place.log.display().to_string(),
        }
    }
}

impl Place {
    fn log(&self) -> PathBuf {
        let logs = self.arm.env.data.join("logs").join(&self.arm.workload).join(&*self.arm.release.id.0);
        logs.join(format!("{}.log", self.number))
    }
}

struct Keeper {
    place: Place,
    status: Arc<Mutex<Status>>,
    log: PathBuf,
}

/// How a run ended.
enum End {
    /// By itself; how.
    Exited(String),
    /// It never came up, or hangs; why.
    GaveUp(String),
    /// We were told to stop.
    Stopped,
}

impl Keeper {
    /// Keeps the place filled until it is told to stop. A mistake of this program that ends that costs a restart of the child:
    /// nothing may run that nobody watches.
    async fn keep_on(&self, stop: &mut watch::Receiver<bool>, mut found: Option<Child>) {
        let mut falls = 0_u32;
        while AssertUnwindSafe(self.keep(stop, found.take())).catch_unwind().await.is_err() {
            self.clear_up().await;
            falls = falls.saturating_add(1);
            tokio::select! {
                () = tokio::time::sleep(backoff::wait(falls)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Ends what runs here without anybody who watches it, and says so.
    async fn clear_up(&self) {
        let arm = &self.place.arm;
        tracing::error!(workload = %arm.workload, release = %arm.release, slot = self.place.number, "the supervisor of a child broke off");
        let (running, member) = {
            let mut status = lock(&self.status);
            status.failing = Some("its supervisor broke off, and it was killed: the host's log says why".to_owned());
            (status.running.take(), status.member.take())
        };
        if let Some(member) = member {
            arm.withdraw(&member);
        }
        let Some(running) = running else { return };
        if let Some(mut child) = Child::find(&running, &arm.env.boot) {
            child.signal(Signal::KILL);
            child.exited().await;
        }
        arm.env.ports.release(running.port);
        _ = tokio::fs::remove_file(self.note_of(&running)).await;
        self.count_restart();
    }

    async fn keep(&self, stop: &mut watch::Receiver<bool>, mut found: Option<Child>) {
        let mut first = found.is_none();
        loop {
            let child = match found.take() {
                Some(child) => Ok(child),
                None if *stop.borrow() => return,
                None => self.spawn(),
            };
            let end = match child {
                Ok(child) => {
                    if !std::mem::take(&mut first) {
                        self.count_restart();
                    }
                    self.run(child, stop).await
                }
                Err(why) => End::GaveUp(log::brief(&why)),
            };
            let runs = match end {
                End::Stopped => return,
                End::Exited(how) => self.judge(&how),
                End::GaveUp(why) => {
                    let mut status = lock(&self.status);
                    status.failing = Some(why);
                    status.ended(clock::instant());
                    status.ends.len()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(backoff::wait(u32::try_from(runs).unwrap_or(u32::MAX))) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn count_restart(&self) {
        lock(&self.status).restarts += 1;
        self.place.arm.metrics.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of an end and says how many there were since the last steady run.
    fn judge(&self, how: &str) -> usize {
        let now = clock::instant();
        let mut status = lock(&self.status);
        let looping = status.ended(now).map(|ends| (ends.len(), now.duration_since(ends[0])));
        if let Some((ends, span)) = looping {
            let span = span.as_millis().div_ceil(1000);
            let output = log::last_line(&self.log).map_or_else(|| "no output".into(), |line| format!("last output: {line}"));
            status.failing = Some(format!("crash loop: {how}, {ends} times in {span}s; {output}"));
        }
        let arm = &self.place.arm;
        let ends = status.ends.len();
        tracing::warn!(workload = %arm.workload, release = %arm.release, slot = self.place.number, how, ends, "a child ended");
        ends
    }

    fn spawn(&self) -> Result<Child, String> {
        let env = &self.place.arm.env;
        let template = self.place.arm.release.template.as_process().ok_or("not the template of a process")?;
        let port = env.ports.take()?;
        let start = Start {
            root: &self.place.root,
            template,
            release: &self.place.arm.release.id.0,
            path: env.path.as_deref(),
            port,
            log: &self.log,
        };
        Child::spawn(&start).inspect_err(|_| env.ports.release(port))
    }

    async fn run(&self, mut child: Child, stop: &mut watch::Receiver<bool>) -> End {
        let env = &self.place.arm.env;
        env.ports.hold(child.port);
        let running = self.running(&child);
        lock(&self.status).running = Some(running.clone());
        self.note(running.clone()).await;
        let port = child.port;
        let end = tokio::select! {
            how = child.exited() => End::Exited(how),
            _ = stop.wait_for(|stop| *stop) => End::Stopped,
            why = self.probe_on(port) => End::GaveUp(why),
            () = self.keep_log_small() => End::Stopped,
        };
        let member = lock(&self.status).member.clone();
        if let Some(member) = &member {
            self.place.arm.withdraw(member);
        }
        if let (End::Stopped, Some(member)) = (&end, &member) {
            self.drain(member, &mut child).await;
        }
        if !matches!(end, End::Exited(_)) {
            child.signal(Signal::TERM);
            if tokio::time::timeout(env.grace, child.exited()).await.is_err() {
                tracing::warn!(pid = child.pid, "a child did not end in time after SIGTERM: killed");
                child.signal(Signal::KILL);
                child.exited().await;
            }
        }
        // Children of the child that outlived it.
        child.signal(Signal::KILL);
        {
            let mut status = lock(&self.status);
            (status.running, status.member) = (None, None);
        }
        env.ports.release(child.port);
        _ = tokio::fs::remove_file(self.note_of(&running)).await;
        end
    }

    /// Waits until no request is under way at `member`, at most as long as requests may take to drain.
    async fn drain(&self, member: &Member, child: &mut Child) {
        let drain: Duration = self.place.arm.settings.borrow().drain.into();
        let drained = async {
            while member.inflight() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = tokio::time::sleep(drain) => {}
            _ = child.exited() => {}
        }
    }

    fn running(&self, child: &Child) -> ChildRecord {
        let arm = &self.place.arm;
        ChildRecord {
            pid: child.pid,
            started: child.started,
            boot: arm.env.boot.clone(),
            workload: arm.workload.clone(),
            release: arm.release.id.clone(),
            slot: self.place.number,
            port: child.port,
        }
    }

    fn note_of(&self, running: &ChildRecord) -> PathBuf {
        self.place.arm.env.data.join("children").join(format!("{}-{}.json", running.pid, running.started))
    }

    /// Remembers the child for the next host.
    async fn note(&self, running: ChildRecord) {
        let (pid, file) = (running.pid, self.note_of(&running));
        let saved = tokio::task::spawn_blocking(move || record::save(&file, &running)).await;
        if let Err(error) = saved.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::warn!(pid, %error, "cannot remember a child: it would be orphaned if the host died");
        }
    }

    /// Probes for ever; ends with a reason to start the child again.
    async fn probe_on(&self, port: u16) -> String {
        let arm = &self.place.arm;
        let born = clock::instant();
        let mut first_wait = Duration::from_millis(20);
        let mut ready_since: Option<Instant> = None;
        let mut failed = 0;
        let mut member: Option<Arc<Member>> = None;
        loop {
            let health = arm.settings.borrow().health.clone();
            let every = Duration::from(health.every).max(Duration::from_millis(10));
            let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
            let mut wait = every;
            match (probe(address, &health).await, &member) {
                (Ok(()), None) => {
                    let new = Arc::new(Member::new(port));
                    lock(&self.status).member = Some(new.clone());
                    arm.admit(new.clone());
                    member = Some(new);
                    ready_since = Some(clock::instant());
                }
                (Ok(()), Some(member)) => {
                    failed = 0;
                    member.ready.store(true, Ordering::Relaxed);
                    let since = *ready_since.get_or_insert_with(clock::instant);
                    if clock::instant().duration_since(since) >= arm.env.steady {
                        lock(&self.status).steady(clock::instant());
                    }
                }
                (Err(why), None) => {
                    if clock::instant().duration_since(born) >= health.start_within.into() {
                        return format!("never ready: {why}, for {} after its start", health.start_within);
                    }
                    wait = first_wait.min(every);
                    first_wait = wait.saturating_mul(2);
                }
                (Err(why), Some(member)) => {
                    failed += 1;
                    if failed >= health.failures {
                        member.ready.store(false, Ordering::Relaxed);
                        ready_since = None;
                    }
                    if failed >= health.failures.max(1).saturating_mul(GIVE_UP) {
                        return format!("unhealthy: {why}, {failed} times in a row");
                    }
                }
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Looks at the log's size for ever.
    async fn keep_log_small(&self) {
        loop {
            tokio::time::sleep(LOG_LOOK).await;
            let (path, cap) = (self.log.clone(), self.place.arm.env.log_bytes);
            let rotated = tokio::task::spawn_blocking(move || log::rotate(&path, cap)).await;
            if let Ok(Err(error)) = rotated {
                tracing::warn!(log = %self.log.display(), %error, "cannot rotate a log");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::core::release::{Release, Template};
    use crate::core::spec::{Artifacts, HealthCheck, Process};
    use crate::core::time::Span;
    use crate::host::unpack::Limits;
    use crate::host::{Env, child};

    /// The keeper of a place in `folder`, whose artifact is one program that sleeps.
    fn keeper(folder: &Path) -> Keeper {
        let program = folder.join("app");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let env = Env {
            data: folder.to_owned(),
            path: Some("/usr/bin:/bin".into()),
            boot: child::boot().unwrap(),
            grace: Duration::from_millis(100),
            steady: Duration::from_secs(1),
            upstream_timeout: Duration::from_secs(1),
            log_bytes: 1 << 20,
            limits: Limits::default(),
            metrics: crate::host::metrics::Metrics::default(),
            metrics_address: "127.0.0.1:1".parse().unwrap(),
            ports: child::Ports::default(),
            unpacked: Arc::new(crate::host::unpacked::Unpacked::new(folder.join("unpacked"))),
        };
        let process = Process {
            listen: "127.0.0.1:0".into(),
            artifacts: Artifacts::Layout { path: folder.display().to_string() },
            instances: 1,
            health: HealthCheck::default(),
            drain: Span::seconds(1),
        };
        let image = format!("shop/checkout@sha256:{}", "a".repeat(64)).parse().unwrap();
        let release = Release::new(Template::process(image, vec!["app".into()], BTreeMap::new()), None);
        let settings = watch::Sender::new(Arc::new(process)).subscribe();
        let arm = Arm::start(&Arc::new(env), "shop/checkout", release, settings, BTreeMap::new());
        let place = Place { arm, number: 0, root: folder.to_owned() };
        let log = place.log();
        Keeper { place, status: Arc::default(), log }
    }

    #[tokio::test]
    async fn a_child_whose_keeper_broke_off_is_killed_and_said_to_fail() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = keeper(folder.path());
        let child = keeper.spawn().unwrap();
        let running = keeper.running(&child);
        keeper.note(running.clone()).await;
        let member = Arc::new(Member::new(child.port));
        keeper.place.arm.admit(member.clone());
        {
            let mut status = lock(&keeper.status);
            (status.running, status.member) = (Some(running.clone()), Some(member));
        }
        // What unwinding does to it.
        drop(child);
        assert!(Child::find(&running, &running.boot).is_some());
        keeper.clear_up().await;
        assert!(Child::find(&running, &running.boot).is_none());
        assert!(!keeper.place.arm.is_alive() && !keeper.note_of(&running).exists());
        let status = lock(&keeper.status);
        assert!(status.running.is_none() && status.failing.as_ref().is_some_and(|why| why.contains("broke off")), "{status:?}");
    }

    #[test]
    fn fast_and_slow_crash_loops_are_seen_and_forgiven() {
        let start = clock::instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut status = Status::default();
        assert!(status.ended(at(0)).is_none() && status.ended(at(1)).is_none());
        assert_eq!(status.ended(at(2)).unwrap().len(), 3);
        status.failing = Some("crash loop".into());
        status.steady(at(20));
        assert_eq!(status.failing, None);
        // Steady in between, but the fourth and fifth end in ten minutes.
        assert!(status.ended(at(100)).is_none());
        status.steady(at(120));
        assert_eq!(status.ended(at(200)).unwrap().len(), 5);
        status.failing = Some("crash loop".into());
        status.steady(at(220));
        assert!(status.failing.is_some());
        status.steady(at(900));
        assert_eq!(status.failing, None);
    }
}
