//! The embedded store: state, ledger, outbox and audit log of one controller's workloads in one `SQLite` file.
//!
//! * One thread writes, in groups, each group one synced transaction; reads have connections of their own.
//! * A commit is a compare-and-swap on the workload's revision: several controllers on one store are safe, and no lock is needed for it.
//! * What the store does not take goes to a [`spool`], and is committed first when the store is back.
//!
//! Layout of the folder: `backstop.db` (and its side files), `keys/`, `evidence/`, `checkpoint` (the log's newest signed checkpoint).

mod commit;
pub(crate) mod evidence;
pub(crate) mod log;
mod outbox;
mod read;
pub(crate) mod schema;
pub mod spool;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::params;

pub(crate) use self::commit::ledger_message;
use self::commit::{Prepared, Swapped};
pub use self::evidence::{EvidenceError, MAX_EVIDENCE};
pub use self::log::Drained;
pub(crate) use self::outbox::TESTIFIED;
pub use self::outbox::{ChangedDocument, Pending};
pub use self::read::{Listed, LoadError};
pub use self::spool::{Spooled, Waiting};

use self::spool::Spool;
use self::writer::{Turn, Writer};
use crate::core::release::{Digest, hex};
use crate::core::time::Mono;
use crate::core::work::Commit;
use crate::world::audit::CHECKPOINT;
use crate::world::keys::{Keys, Public};

/// How long a statement waits for another process's lock.
const BUSY: Duration = Duration::from_secs(2);

/// The store cannot be used now: disk full, read-only, locked, damaged. Nothing was changed. Says what and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// A commit that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The revision that is in place now.
    pub revision: u64,
}

/// Why a commit was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another revision is in place: somebody else decided. Drop the machine and restore it.
    #[error("revision {found} is in place")]
    LostSwap {
        /// The revision in place; 0 if there is none.
        found: u64,
    },
    /// The store did not take it, or not in time. Spool it.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Unavailable> for CommitError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable.0)
    }
}

/// What became of the commits that waited in the spool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// Written now.
    pub committed: usize,
    /// Found to be in place already.
    pub already: usize,
    /// Overtaken by another controller, or not fit to be written; kept beside the spool as `….lost`.
    pub lost: Vec<Waiting>,
}

/// The store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    keys: Arc<Keys>,
    writer: Writer,
    readers: Mutex<Vec<schema::Reader>>,
    spool: Mutex<Spool>,
    recovering: tokio::sync::Mutex<()>,
    publishing: tokio::sync::Mutex<()>,
}

impl Store {
    /// Opens the store in `dir`, which is made if it is not there, with the spool in the file `spool`.
    ///
    /// A store that can be read and not written (read-only, disk full, locked) opens; commits then say so. Blocks for a few milliseconds.
    pub fn open(dir: &Path, spool: &Path) -> Result<Self, Unavailable> {
        Self::open_with(dir, spool, BUSY)
    }

    /// The same, waiting at most `busy` for another process's lock.
    pub fn open_with(dir: &Path, spool: &Path, busy: Duration) -> Result<Self, Unavailable> {
        schema::folder(dir)?;
        let keys = Keys::open(&dir.join("keys")).map_err(|error| Unavailable(error.to_string()))?;
        let connection = match schema::writer(dir, busy) {
            Ok(connection) => Some(connection),
            Err(unavailable) => {
                schema::reader(dir, busy).map_err(|_| unavailable.clone())?;
                tracing::warn!(what = %unavailable, "the store can be read and not written");
                None
            }
        };
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            keys: Arc::new(keys),
            writer: Writer::start(dir.to_owned(), busy, connection)?,
            readers: Mutex::default(),
            spool: Mutex::new(Spool::open(spool)),
            recovering: tokio::sync::Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
        })))
    }

    /// The store's folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The signing keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The public keys.
    pub fn public(&self) -> &Public {
        self.0.keys.public()
    }

    /// The identity of a workload in this store: 32 hex digits, the same for ever, and another in every other store.
    pub fn uid(&self, key: &str) -> String {
        let text = format!("backstop workload\n{}\n{key}", self.public().log);
        hex(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref()[..16])
    }

    /// Writes a commit of workload `key` (`namespace/name`): state, records and ledger, all or nothing. On disk on return.
    ///
    /// Commits that wait in the spool are written first.
    pub async fn commit(&self, key: &str, commit: &Commit) -> Result<Committed, CommitError> {
        if !lock(&self.0.spool).is_empty() {
            self.recover().await?;
        }
        let mut prepared = Prepared::new(&self.0.keys, key, commit)?;
        self.keep(std::mem::take(&mut prepared.evidence)).await?;
        let revision = prepared.expected + 1;
        match self.0.writer.write(Turn::First, move |connection| prepared.write(connection)).await? {
            Swapped::Won | Swapped::Already => Ok(Committed { revision }),
            Swapped::Lost { found } => Err(CommitError::LostSwap { found }),
        }
    }

    /// Takes a commit that [`commit`](Self::commit) answered with `Unavailable`, and says where it is now.
    ///
    /// Until [`recover`](Self::recover) succeeds, reads of this store show the commit as if it were written.
    pub async fn spool(&self, key: &str, commit: &Commit) -> Spooled {
        let (inner, key, commit) = (Arc::clone(&self.0), key.to_owned(), commit.clone());
        let append = move || lock(&inner.spool).append(&key, &commit);
        tokio::task::spawn_blocking(append).await.unwrap_or_else(|error| Spooled::Memory(error.to_string()))
    }

    /// Writes what waits in the spool, in order. Safe to repeat: what is in place already is recognised.
    pub async fn recover(&self) -> Result<Recovered, Unavailable> {
        let _alone = self.0.recovering.lock().await;
        let waiting: Vec<Waiting> = lock(&self.0.spool).waiting().cloned().collect();
        let mut recovered = Recovered::default();
        if waiting.is_empty() {
            return Ok(recovered);
        }
        let (mut fit, mut prepared) = (Vec::new(), Vec::new());
        for one in &waiting {
            match Prepared::new(&self.0.keys, &one.key, &one.commit) {
                Ok(bytes) => {
                    fit.push(one.clone());
                    prepared.push(bytes);
                }
                Err(_) => recovered.lost.push(one.clone()),
            }
        }
        self.keep(prepared.iter_mut().flat_map(|commit| std::mem::take(&mut commit.evidence)).collect()).await?;
        let outcomes = self.0.writer.write(Turn::First, move |connection| Prepared::replay(&prepared, connection)).await?;
        for (one, outcome) in fit.into_iter().zip(outcomes) {
            match outcome {
                Swapped::Won => recovered.committed += 1,
                Swapped::Already => recovered.already += 1,
                Swapped::Lost { .. } => recovered.lost.push(one),
            }
        }
        self.retire(waiting.len(), recovered.lost.clone()).await;
        Ok(recovered)
    }

    /// Forgets the oldest `count` commits of the spool, which are kept elsewhere now; `lost` of them are put aside.
    pub(crate) async fn retire(&self, count: usize, lost: Vec<Waiting>) {
        let inner = Arc::clone(&self.0);
        let retire = move || lock(&inner.spool).retire(count, &lost);
        let retired = tokio::task::spawn_blocking(retire).await.unwrap_or_else(|error| Err(error.to_string()));
        // What stays in the file is recognised the next time.
        if let Err(what) = retired {
            tracing::warn!(what, "the spool was committed and could not be emptied");
        }
    }

    /// What waits in the spool, oldest first.
    pub fn spooled(&self) -> Vec<Waiting> {
        lock(&self.0.spool).waiting().cloned().collect()
    }

    /// Moves the outbox's audit entries to the log and signs a checkpoint. Entries arrive once, in the order of their commits.
    pub async fn drain(&self) -> Result<Drained, Unavailable> {
        let mut all = 0;
        loop {
            let keys = Arc::clone(&self.0.keys);
            let drained = self.0.writer.write(Turn::Last, move |connection| log::drain(connection, &keys)).await?;
            all += drained.entries;
            if drained.entries < log::BATCH {
                if let Some(note) = drained.checkpoint.clone() {
                    self.publish(note, drained.size).await?;
                }
                return Ok(Drained { entries: all, ..drained });
            }
        }
    }

    /// Keeps the newest checkpoint outside the database, so that a log that was cut short is found out.
    ///
    /// A file that contradicts the log, or is not signed with its key, is not written over: it is the only witness.
    async fn publish(&self, note: String, size: u64) -> Result<(), Unavailable> {
        let path = self.0.dir.join(CHECKPOINT);
        let _one = self.0.publishing.lock().await;
        let say = |what: &dyn std::fmt::Display| Unavailable(format!("file {}: {what}", path.display()));
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => Some(self.public().log.checkpoint(&text).map_err(|error| {
                say(&format!("{error}; it is not written over: restore the key that signed it, or move the file away and keep it"))
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(say(&error)),
        };
        if let Some(known) = known {
            if known.size == size {
                return Ok(());
            }
            let of_size = move |connection: &rusqlite::Connection| log::checkpoint(connection, known.size);
            let ours = self.read(of_size).await?.and_then(|note| self.public().log.checkpoint(&note).ok());
            if ours != Some(known) {
                return Err(Unavailable(format!(
                    "the log contradicts the signed file {} (size {}): it was cut short or replaced; run `backstop audit verify`, and if the \
                     database was restored from a backup, move that file away and keep it",
                    path.display(),
                    known.size
                )));
            }
            if known.size > size {
                return Ok(());
            }
        }
        let inner = Arc::clone(&self.0);
        let write = tokio::task::spawn_blocking(move || crate::world::audit::publish(&inner.dir, &note)).await;
        write.map_err(std::io::Error::other).and_then(|written| written).map_err(|error| say(&error))
    }

    /// Keeps evidence bytes under their digest; on disk on return.
    pub async fn put_evidence(&self, bytes: Vec<u8>) -> Result<Digest, Unavailable> {
        let inner = Arc::clone(&self.0);
        let put = tokio::task::spawn_blocking(move || evidence::put(&inner.dir, &bytes)).await;
        put.unwrap_or_else(|error| Err(Unavailable(error.to_string())))
    }

    async fn keep(&self, parts: Vec<Vec<u8>>) -> Result<(), Unavailable> {
        for bytes in parts {
            self.put_evidence(bytes).await?;
        }
        Ok(())
    }

    /// The point from which this process's monotonic clock goes on: never behind anything that was committed.
    ///
    /// `boot` names the running kernel's boot and `uptime` is the time since then in milliseconds: within one boot, time goes on
    /// while no controller runs. Without `boot`, or in another boot, the clock goes on from the newest commit.
    pub async fn anchor(&self, boot: Option<String>, uptime: u64) -> Result<Mono, Unavailable> {
        let spooled = self.spooled().iter().flat_map(|one| &one.commit.records).map(|record| record.at.mono.0).max().unwrap_or(0);
        let anchored = self
            .0
            .writer
            .write(Turn::First, move |connection| {
                let (mono, known, offset) =
                    connection.query_row("SELECT max(mono, ?1), boot, offset FROM clock", [number(spooled)], |row| {
                        Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, i64>(2)?))
                    })?;
                let same = boot.is_some() && boot == known;
                let base = if same { mono.max(number(uptime).saturating_add(offset)) } else { mono };
                connection.execute(
                    "UPDATE clock SET mono = ?1, boot = ?2, offset = ?3",
                    params![base, boot, base.saturating_sub(number(uptime))],
                )?;
                Ok(base)
            })
            .await;
        match anchored {
            Ok(base) => Ok(Mono(count(base))),
            Err(_) => self
                .read(move |connection| connection.query_row("SELECT mono FROM clock", [], |row| row.get(0)))
                .await
                .map(|mono: i64| Mono(count(mono).max(spooled))),
        }
    }
}

/// A count as `SQLite`'s integer.
pub(crate) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// `SQLite`'s integer as a count.
pub(crate) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
