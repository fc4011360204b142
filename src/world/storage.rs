//! Where a controller keeps state, ledger and evidence: in one file on its machine, or in the API server of a cluster.

use super::kubernetes;
use super::store::{self, CommitError, Committed, Drained, LoadError, Recovered, Spooled, Unavailable};
use crate::core::ledger::LedgerRecord;
use crate::core::release::{Digest, Release};
use crate::core::state::State;
use crate::core::work::Commit;

/// Where state, ledger and evidence are. Clones share it.
#[derive(Clone)]
pub enum Storage {
    /// On this machine.
    Embedded(store::Store),
    /// In the API server.
    Cluster(kubernetes::store::Store),
}

impl From<store::Store> for Storage {
    fn from(store: store::Store) -> Self {
        Self::Embedded(store)
    }
}

impl From<kubernetes::store::Store> for Storage {
    fn from(store: kubernetes::store::Store) -> Self {
        Self::Cluster(store)
    }
}

impl Storage {
    /// What is on this machine in either case: the audit log, the spool, evidence as files, the keys.
    pub fn local(&self) -> &store::Store {
        match self {
            Self::Embedded(store) => store,
            Self::Cluster(store) => store.local(),
        }
    }

    /// The identity of a workload: the same for ever, and another in every other store or cluster.
    pub fn uid(&self, key: &str) -> String {
        match self {
            Self::Embedded(store) => store.uid(key),
            Self::Cluster(store) => store.uid(key),
        }
    }

    /// The committed state of a workload; `None` if there is none yet.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn load(&self, key: &str) -> Result<Option<State>, LoadError> {
        match self {
            Self::Embedded(store) => store.load(key).await,
            Self::Cluster(store) => store.load(key).await,
        }
    }

    /// Writes a commit of workload `key`: state, records and ledger, all or nothing.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit(&self, key: &str, commit: &Commit) -> Result<Committed, CommitError> {
        match self {
            Self::Embedded(store) => store.commit(key, commit).await,
            Self::Cluster(store) => store.commit(key, commit).await,
        }
    }

    /// Takes a commit that [`commit`](Self::commit) answered with `Unavailable`, and says where it is now.
    pub async fn spool(&self, key: &str, commit: &Commit) -> Spooled {
        self.local().spool(key, commit).await
    }

    /// Writes what waits in the spool, in order.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn recover(&self) -> Result<Recovered, Unavailable> {
        match self {
            Self::Embedded(store) => store.recover().await,
            Self::Cluster(store) => store.recover().await,
        }
    }

    /// Moves committed audit entries to the log and signs a checkpoint.
    ///
    /// # Errors
    /// The log does not take them.
    pub async fn drain(&self) -> Result<Drained, Unavailable> {
        match self {
            Self::Embedded(store) => store.drain().await,
            Self::Cluster(store) => store.drain().await,
        }
    }

    /// The same; where it is under way already, and goes on until nothing is left, without waiting for that.
    ///
    /// # Errors
    /// The log does not take them.
    pub async fn drain_along(&self) -> Result<(), Unavailable> {
        match self {
            Self::Embedded(store) => store.drain().await.map(drop),
            Self::Cluster(store) => store.drain_along().await,
        }
    }

    /// The ledger record of one release, if it can be trusted.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn ledger_record(&self, key: &str, release: &Release) -> Result<Option<LedgerRecord>, LoadError> {
        match self {
            Self::Embedded(store) => store.ledger_record(key, &release.id).await,
            Self::Cluster(store) => store.ledger_record(key, release).await,
        }
    }

    /// Digests of the evidence that is kept for an image; it is in the local evidence folder then.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn evidence_of(&self, image: &Digest) -> Result<Vec<Digest>, Unavailable> {
        match self {
            Self::Embedded(store) => store.evidence_of(image).await,
            Self::Cluster(store) => store.evidence_of(image).await,
        }
    }

    /// Remembers that these pieces of evidence, kept in the local evidence folder before, are about an image.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn index_evidence(&self, image: &Digest, capsules: &[Digest]) -> Result<(), Unavailable> {
        match self {
            Self::Embedded(store) => store.index_evidence(image, capsules).await,
            Self::Cluster(store) => store.index_evidence(image, capsules).await,
        }
    }
}
