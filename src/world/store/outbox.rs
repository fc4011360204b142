//! Small writes beside commits: notifications to send, documents, the index of evidence.

use rusqlite::{OptionalExtension as _, params};

use super::writer::Turn;
use super::{Store, Unavailable, count};
use crate::core::release::Digest;
use crate::core::work::{EffectId, Notice};
use crate::world::audit::leaf::Leaf;

/// Notifications that were sent and are remembered, so that a repeat is known as one.
const REMEMBERED: i64 = 10_000;

/// The kind of document that says up to which revision a workload's audit entries were taken.
pub(crate) const TESTIFIED: &str = "testified";

/// A notification that is not known to have been sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// `WORKLOAD@REVISION.ORDINAL` of the effect that wanted it; send it along, so that a receiver can drop repeats.
    pub id: String,
    /// What to say.
    pub notice: Notice,
    /// How often it failed.
    pub attempts: u32,
    /// What happened the last time.
    pub failure: Option<String>,
}

/// A document as it is kept from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedDocument {
    /// What documents it is among.
    pub kind: &'static str,
    /// Its name among them.
    pub name: String,
    /// JSON text; none if it is kept no more.
    pub json: Option<String>,
}

impl Store {
    /// Takes audit entries of a commit whose state is kept elsewhere, for the next [`drain`](Self::drain). `revision` is that of the
    /// newest; entries up to the newest revision of this `life` of the workload's guard that was taken so far are known, and left out.
    pub(crate) async fn testify(&self, life: &str, revision: u64, leaves: Vec<Leaf>) -> Result<(), Unavailable> {
        let life = life.to_owned();
        self.0
            .writer
            .write(Turn::First, move |connection| {
                let mut newest =
                    connection.prepare_cached("SELECT CAST(CAST(json AS TEXT) AS INTEGER) FROM document WHERE kind = ?1 AND name = ?2")?;
                let known: Option<i64> = newest.query_row(params![TESTIFIED, life], |row| row.get(0)).optional()?;
                let known = count(known.unwrap_or(0));
                for leaf in leaves.iter().filter(|leaf| leaf.revision().is_none_or(|revision| revision > known)) {
                    let mut add = connection.prepare_cached("INSERT OR IGNORE INTO outbox(id, leaf) VALUES(?1, ?2)")?;
                    add.execute(params![leaf.id, leaf.bytes])?;
                }
                let mut note = connection.prepare_cached("INSERT OR REPLACE INTO document(kind, name, json) VALUES(?1, ?2, ?3)")?;
                note.execute(params![TESTIFIED, life, known.max(revision).to_string().as_bytes()])?;
                Ok(())
            })
            .await
    }

    /// Tries a write that changes nothing: one that is locked, read-only or on a full disk says so.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn takes_writes(&self) -> Result<(), Unavailable> {
        self.0.writer.write(Turn::First, |connection| connection.execute("UPDATE clock SET mono = mono", []).map(drop)).await
    }

    /// Puts a notification into the outbox. The same effect again changes nothing.
    pub async fn notify(&self, key: &str, effect: EffectId, notice: &Notice) -> Result<(), Unavailable> {
        let id = format!("{key}@{effect}");
        let bytes = serde_json::to_vec(notice).map_err(|error| Unavailable(format!("notification {id}: {error}")))?;
        self.0
            .writer
            .write(Turn::First, move |connection| {
                connection.prepare_cached("INSERT OR IGNORE INTO notice(id, notice) VALUES(?1, ?2)")?.execute(params![id, bytes])?;
                Ok(())
            })
            .await
    }

    /// Notifications to send, oldest first, at most `limit`. Each comes again until [`sent`](Self::sent).
    pub async fn notices(&self, limit: u32) -> Result<Vec<Pending>, Unavailable> {
        let rows: Vec<(String, Vec<u8>, u32, Option<String>)> = self
            .read(move |connection| {
                let mut query =
                    connection.prepare_cached("SELECT id, notice, attempts, failure FROM notice WHERE sent = 0 ORDER BY seq LIMIT ?1")?;
                query.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?.collect()
            })
            .await?;
        rows.into_iter()
            .map(|(id, notice, attempts, failure)| {
                let notice = serde_json::from_slice(&notice).map_err(|error| Unavailable(format!("notification {id}: {error}")))?;
                Ok(Pending { id, notice, attempts, failure })
            })
            .collect()
    }

    /// The receiver took a notification.
    pub async fn sent(&self, id: &str) -> Result<(), Unavailable> {
        let id = id.to_owned();
        self.0
            .writer
            .write(Turn::First, move |connection| {
                connection.prepare_cached("UPDATE notice SET sent = 1 WHERE id = ?1")?.execute([id])?;
                connection
                    .prepare_cached("DELETE FROM notice WHERE sent = 1 AND seq < (SELECT max(seq) FROM notice) - ?1")?
                    .execute([REMEMBERED])?;
                Ok(())
            })
            .await
    }

    /// The receiver did not take a notification.
    pub async fn not_sent(&self, id: &str, failure: &str) -> Result<(), Unavailable> {
        let (id, failure) = (id.to_owned(), failure.to_owned());
        self.0
            .writer
            .write(Turn::First, move |connection| {
                let mut update = connection.prepare_cached("UPDATE notice SET attempts = attempts + 1, failure = ?2 WHERE id = ?1")?;
                update.execute(params![id, failure])?;
                Ok(())
            })
            .await
    }

    /// Changes kept documents, all or none.
    pub async fn change_documents(&self, changes: Vec<ChangedDocument>) -> Result<(), Unavailable> {
        self.0
            .writer
            .write(Turn::First, move |connection| {
                let mut put = connection.prepare_cached("INSERT OR REPLACE INTO document(kind, name, json) VALUES(?1, ?2, ?3)")?;
                let mut delete = connection.prepare_cached("DELETE FROM document WHERE kind = ?1 AND name = ?2")?;
                for ChangedDocument { kind, name, json } in changes {
                    match json {
                        Some(json) => put.execute(params![kind, name, json.into_bytes()])?,
                        None => delete.execute(params![kind, name])?,
                    };
                }
                Ok(())
            })
            .await
    }

    /// Remembers that these pieces of evidence, kept before, are about an image.
    pub async fn index_evidence(&self, image: &Digest, evidence: &[Digest]) -> Result<(), Unavailable> {
        let (image, evidence) = (image.to_string(), evidence.iter().map(ToString::to_string).collect::<Vec<_>>());
        self.0
            .writer
            .write(Turn::First, move |connection| {
                let mut put = connection.prepare_cached("INSERT OR IGNORE INTO evidence(image, digest) VALUES(?1, ?2)")?;
                evidence.iter().try_for_each(|digest| put.execute([&image, digest]).map(drop))
            })
            .await
    }
}
