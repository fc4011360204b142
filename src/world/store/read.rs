//! Reads: each on a connection of its own, never behind the writer.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};

use super::{BUSY, EvidenceError, Store, Unavailable, commit, evidence, lock, schema};
use crate::core::ledger::LedgerRecord;
use crate::core::release::{Digest, ReleaseId};
use crate::core::state::State;

/// Idle connections that are kept.
const IDLE: usize = 4;

/// Why something cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The store cannot be read.
    #[error("{0}")]
    Unavailable(String),
    /// It is there, and is not what this backstop can read.
    #[error("the stored state of {key} cannot be read: {what}")]
    Unreadable {
        /// Of which workload.
        key: String,
        /// Why.
        what: String,
    },
    /// The ledger record was not signed by this controller for this workload, or was changed since. It is never a target.
    #[error("the ledger record of release {release} of {key} cannot be trusted: {what}")]
    LedgerUntrusted {
        /// Of which workload.
        key: String,
        /// Of which release.
        release: ReleaseId,
        /// Why.
        what: String,
    },
}

impl From<Unavailable> for LoadError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable.0)
    }
}

/// A row of a workload's ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Of which release.
    pub release: ReleaseId,
    /// The record, or why it cannot be trusted.
    pub record: Result<LedgerRecord, String>,
}

impl Store {
    /// Runs `query` on a connection that only reads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let inner = std::sync::Arc::clone(&self.0);
        let run = move || {
            let idle = lock(&inner.readers).pop();
            let reader = idle.map_or_else(|| schema::reader(&inner.dir, BUSY), Ok)?;
            let result = query(&reader.connection).map_err(|error| Unavailable::at(&inner.dir.join(schema::FILE), &error));
            let mut readers = lock(&inner.readers);
            // A connection that failed may look at a file that was replaced.
            if result.is_ok() && reader.lasting && readers.len() < IDLE {
                readers.push(reader);
            }
            result
        };
        tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(Unavailable(error.to_string())))
    }

    /// Every workload with a state, in order.
    pub async fn workloads(&self) -> Result<Vec<String>, Unavailable> {
        let mut keys: Vec<String> = self
            .read(|connection| {
                connection.prepare_cached("SELECT key FROM workload ORDER BY key")?.query_map([], |row| row.get(0))?.collect()
            })
            .await?;
        keys.extend(self.spooled().into_iter().map(|one| one.key));
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// The committed state of a workload; what waits in the spool counts as committed. `None` if there is none yet.
    pub async fn load(&self, key: &str) -> Result<Option<State>, LoadError> {
        let name = key.to_owned();
        let row: Option<Vec<u8>> = self
            .read(move |connection| {
                connection.prepare_cached("SELECT state FROM workload WHERE key = ?1")?.query_row([name], |row| row.get(0)).optional()
            })
            .await?;
        let unreadable = |error: serde_json::Error| LoadError::Unreadable { key: key.to_owned(), what: error.to_string() };
        let mut state: Option<State> = row.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(unreadable)?;
        for one in self.spooled().into_iter().filter(|one| one.key == key) {
            if one.commit.expected == state.as_ref().map_or(0, |state| state.revision) {
                state = Some(Arc::unwrap_or_clone(one.commit.state));
            }
        }
        Ok(state)
    }

    /// The ledger of a workload, in the order in which releases were first seen, each record checked.
    pub async fn ledger(&self, key: &str) -> Result<Vec<Listed>, Unavailable> {
        let name = key.to_owned();
        let rows: Vec<(String, Vec<u8>, Vec<u8>)> = self
            .read(move |connection| {
                let mut query = connection.prepare_cached("SELECT release, record, signature FROM ledger WHERE key = ?1 ORDER BY seq")?;
                query.query_map([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
            })
            .await?;
        let mut listed: Vec<Listed> = rows
            .into_iter()
            .map(|(release, record, signature)| Listed {
                record: commit::trusted(self.public(), key, &release, &record, &signature),
                release: ReleaseId(release.into()),
            })
            .collect();
        let waiting = self.spooled().into_iter().filter(|one| one.key == key).flat_map(|one| one.commit.ledger);
        for record in waiting {
            let release = record.release.id.clone();
            match listed.iter_mut().find(|known| known.release == release) {
                Some(known) => known.record = Ok(record),
                None => listed.push(Listed { release, record: Ok(record) }),
            }
        }
        Ok(listed)
    }

    /// The ledger record of one release, if it can be trusted.
    pub async fn ledger_record(&self, key: &str, release: &ReleaseId) -> Result<Option<LedgerRecord>, LoadError> {
        let found = self.ledger(key).await?.into_iter().find(|listed| &listed.release == release);
        let untrusted = |what| LoadError::LedgerUntrusted { key: key.to_owned(), release: release.clone(), what };
        found.map(|listed| listed.record.map_err(untrusted)).transpose()
    }

    /// Every document of a kind: name and JSON text as it was put there, by name.
    pub async fn documents(&self, kind: &str) -> Result<Vec<(String, String)>, Unavailable> {
        let kind = kind.to_owned();
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT name, CAST(json AS TEXT) FROM document WHERE kind = ?1 ORDER BY name")?;
            query.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    /// Digests of the evidence that is kept for an image.
    pub async fn evidence_of(&self, image: &Digest) -> Result<Vec<Digest>, Unavailable> {
        let image = image.to_string();
        let found: Vec<String> = self
            .read(move |connection| {
                let mut query = connection.prepare_cached("SELECT digest FROM evidence WHERE image = ?1 ORDER BY digest")?;
                query.query_map([image], |row| row.get(0))?.collect()
            })
            .await?;
        found.iter().map(|text| text.parse().map_err(|error| Unavailable(format!("the index of evidence: {error}")))).collect()
    }

    /// Evidence bytes, compared with their digest.
    pub async fn evidence(&self, digest: &Digest) -> Result<Vec<u8>, EvidenceError> {
        let (inner, digest) = (std::sync::Arc::clone(&self.0), digest.clone());
        let name = digest.clone();
        let get = tokio::task::spawn_blocking(move || evidence::get(&inner.dir, &digest)).await;
        get.unwrap_or_else(|error| Err(EvidenceError::Unreadable { digest: name, what: error.to_string() }))
    }
}
