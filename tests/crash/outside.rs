//! What can be seen from outside: the host's state file and the flag file, each change in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backstop::core::release::Release;
use backstop::core::spec::Percent;
use backstop::world::clock;
use serde::Deserialize;

/// The part of the host's state file that is the world: what order its writers is left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Seen {
    pub(crate) weights: BTreeMap<String, Percent>,
    pub(crate) arms: BTreeMap<String, serde_json::Value>,
    pub(crate) current: Option<String>,
    pub(crate) quarantined: BTreeSet<String>,
}

impl Seen {
    fn share(&self, id: &str) -> Percent {
        self.weights.get(id).copied().unwrap_or(Percent::ZERO)
    }
}

#[derive(Debug, Default)]
struct Book {
    host: Vec<(Instant, Seen)>,
    flag: Vec<String>,
}

/// A thread that looks every millisecond.
pub(crate) struct Outside {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How often each thing happened since a mark.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The release's share fell to nothing.
    pub(crate) taken_out: usize,
    /// Its share rose.
    pub(crate) raised: usize,
    /// Its members were ended.
    pub(crate) ended: usize,
    /// Its members were started.
    pub(crate) started: usize,
    /// It was quarantined.
    pub(crate) held: usize,
    /// The workload's own release changed.
    pub(crate) restored: usize,
    /// The flag file changed.
    pub(crate) flag: usize,
}

impl Outside {
    pub(crate) fn watch(dir: &Path) -> Self {
        let book: Arc<Mutex<Book>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, over) = (Arc::clone(&book), Arc::clone(&stop));
        let (host, flag) = (dir.join("host/workloads/demo/checkout.json"), dir.join("flags.json"));
        let thread = std::thread::spawn(move || {
            let (mut host, mut flag) = (Watched::new(host), Watched::new(flag));
            while !over.load(Ordering::Relaxed) {
                if let Some(text) = host.changed()
                    && let Ok(seen) = serde_json::from_str::<Seen>(&text)
                {
                    let mut book = kept.lock().expect("a lock");
                    if book.host.last().is_none_or(|(_, last)| *last != seen) {
                        book.host.push((clock::instant(), seen));
                    }
                }
                if let Some(text) = flag.changed() {
                    kept.lock().expect("a lock").flag.push(text);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { book, stop, thread: Some(thread) }
    }

    /// A place to count from.
    pub(crate) fn mark(&self) -> (usize, usize) {
        // Whatever was written before has been seen after some looks.
        std::thread::sleep(Duration::from_millis(30));
        let book = self.book.lock().expect("a lock");
        (book.host.len().saturating_sub(1), book.flag.len().saturating_sub(1))
    }

    /// When a release got no more traffic, if that was after `begin`.
    pub(crate) fn taken_out_after(&self, begin: Instant, release: &Release) -> Option<Instant> {
        let book = self.book.lock().expect("a lock");
        let before = book.host.iter().take_while(|(at, _)| *at < begin);
        let had = before.last().is_some_and(|(_, seen)| seen.share(&release.id.0) > Percent::ZERO);
        let mut after = book.host.iter().skip_while(|(at, _)| *at < begin);
        after.find(|(_, seen)| seen.share(&release.id.0) == Percent::ZERO).filter(|_| had).map(|(at, _)| *at)
    }

    /// What happened to a release since then.
    pub(crate) fn since(&self, mark: (usize, usize), release: &Release) -> Counted {
        std::thread::sleep(Duration::from_millis(30));
        let book = self.book.lock().expect("a lock");
        let id = &*release.id.0;
        let mut counted = Counted { flag: book.flag.len().saturating_sub(mark.1 + 1), ..Counted::default() };
        for pair in book.host[mark.0..].windows(2) {
            let share = |seen: &Seen| seen.share(id);
            let (before, after) = (&pair[0].1, &pair[1].1);
            counted.taken_out += usize::from(share(before) > Percent::ZERO && share(after) == Percent::ZERO);
            counted.raised += usize::from(share(after) > share(before));
            counted.ended += usize::from(before.arms.contains_key(id) && !after.arms.contains_key(id));
            counted.started += usize::from(!before.arms.contains_key(id) && after.arms.contains_key(id));
            counted.held += usize::from(!before.quarantined.contains(id) && after.quarantined.contains(id));
            counted.restored += usize::from(before.current != after.current);
        }
        counted
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watched {
    path: PathBuf,
    last: Option<(u64, i64, i64, u64)>,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        Self { path, last: None }
    }

    /// The content, if the file is another one, or was written, since the last look.
    fn changed(&mut self) -> Option<String> {
        let about = fs::metadata(&self.path).ok()?;
        let now = Some((about.ino(), about.mtime(), about.mtime_nsec(), about.size()));
        if now == self.last {
            return None;
        }
        let text = fs::read_to_string(&self.path).ok().filter(|text| !text.is_empty())?;
        self.last = now;
        Some(text)
    }
}
