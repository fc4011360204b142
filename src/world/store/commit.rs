//! A commit: encoded and signed by its caller, written by the writer.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Unavailable, number};
use crate::core::ledger::LedgerRecord;
use crate::core::release::{Digest, ReleaseId};
use crate::core::state::State;
use crate::core::time::Mono;
use crate::core::work::Commit;
use crate::world::audit::leaf::{self, Leaf, Seal};
use crate::world::clock;
use crate::world::keys::Keys;

/// A commit in bytes.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) key: String,
    pub(super) expected: u64,
    generation: u64,
    state: Vec<u8>,
    mono: Mono,
    ledger: Vec<Row>,
    leaves: Vec<Leaf>,
    /// To be kept before the commit is written.
    pub(super) evidence: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Row {
    release: String,
    record: Vec<u8>,
    signature: Vec<u8>,
}

/// What became of a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swapped {
    /// The new revision is in place.
    Won,
    /// Another revision was in place.
    Lost { found: u64 },
    /// This very state was in place already: an earlier answer got lost. Only a replay asks.
    Already,
}

/// What is signed of a ledger record: nothing signed for another purpose or another workload can stand in for it.
pub(crate) fn ledger_message(key: &str, record: &[u8]) -> Vec<u8> {
    [b"backstop ledger record v1\n", key.as_bytes(), b"\n", record].concat()
}

impl Prepared {
    pub(super) fn new(keys: &Keys, key: &str, commit: &Commit) -> Result<Self, Unavailable> {
        let say = |what: String| Unavailable(format!("the commit of {key} cannot be written: {what}"));
        if commit.state.revision != commit.expected + 1 {
            return Err(say(format!("its revision is {} and must be {}", commit.state.revision, commit.expected + 1)));
        }
        let encode = |error: serde_json::Error| say(error.to_string());
        let state = serde_json::to_vec(&commit.state).map_err(encode)?;
        // A state that cannot be read back would be lost at the next start (a number that is not finite, say).
        serde_json::from_slice::<State>(&state).map_err(|error| say(format!("its state cannot be read back: {error}")))?;
        let mut ledger = BTreeMap::new();
        let mut rows = Vec::with_capacity(commit.ledger.len());
        for record in &commit.ledger {
            let bytes = serde_json::to_vec(record).map_err(encode)?;
            serde_json::from_slice::<LedgerRecord>(&bytes).map_err(|error| say(format!("a ledger record cannot be read back: {error}")))?;
            let signature = keys.sign(&ledger_message(key, &bytes)).map_err(|error| say(error.to_string()))?;
            ledger.insert(record.release.id.clone(), Digest::of(&bytes).to_string());
            rows.push(Row { release: record.release.id.to_string(), record: bytes, signature });
        }
        let journal = Some(commit.journal.clone());
        let seal = Seal { state: Digest::of(&state).to_string(), ledger, journal };
        let made = leaf::leaves(key, commit, &seal, clock::wall()).map_err(encode)?;
        let times = commit.records.iter().map(|record| record.at.mono).chain(commit.ledger.iter().map(|record| record.since.mono));
        Ok(Self {
            key: key.to_owned(),
            expected: commit.expected,
            generation: commit.state.generation,
            state,
            mono: times.max().unwrap_or_default(),
            ledger: rows,
            leaves: made.leaves,
            evidence: made.evidence,
        })
    }

    /// The swap, and all that goes with it.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<Swapped> {
        let (expected, revision) = (number(self.expected), number(self.expected + 1));
        let changed = if self.expected == 0 {
            connection
                .prepare_cached("INSERT INTO workload(key, revision, generation, state) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
                .execute(params![self.key, revision, number(self.generation), self.state])?
        } else {
            connection
                .prepare_cached("UPDATE workload SET revision = ?2, generation = ?3, state = ?4 WHERE key = ?1 AND revision = ?5")?
                .execute(params![self.key, revision, number(self.generation), self.state, expected])?
        };
        if changed == 0 {
            return Ok(Swapped::Lost { found: self.found(connection)? });
        }
        for row in &self.ledger {
            connection
                .prepare_cached(
                    "INSERT INTO ledger(key, release, record, signature) VALUES(?1, ?2, ?3, ?4)
                     ON CONFLICT(key, release) DO UPDATE SET record = excluded.record, signature = excluded.signature",
                )?
                .execute(params![self.key, row.release, row.record, row.signature])?;
        }
        for leaf in &self.leaves {
            connection.prepare_cached("INSERT INTO outbox(id, leaf) VALUES(?1, ?2)")?.execute(params![leaf.id, leaf.bytes])?;
        }
        connection.prepare_cached("UPDATE clock SET mono = max(mono, ?1)")?.execute([number(self.mono.0)])?;
        Ok(Swapped::Won)
    }

    /// Writes commits that may have been written before, in order; all of them in one transaction.
    pub(super) fn replay(commits: &[Self], connection: &Connection) -> rusqlite::Result<Vec<Swapped>> {
        let mut known = Vec::with_capacity(commits.len());
        for commit in commits {
            let mut query = connection.prepare_cached("SELECT 1 FROM replayed WHERE digest = ?1")?;
            known.push(query.exists([commit.digest()])?);
        }
        connection.execute("DELETE FROM replayed", [])?;
        let mut outcomes = Vec::with_capacity(commits.len());
        for (commit, known) in commits.iter().zip(known) {
            let mut outcome = if known { Swapped::Already } else { commit.write(connection)? };
            if matches!(outcome, Swapped::Lost { .. }) && commit.is_in_place(connection)? {
                outcome = Swapped::Already;
            }
            if !matches!(outcome, Swapped::Lost { .. }) {
                connection.execute("INSERT OR IGNORE INTO replayed VALUES(?1)", [commit.digest()])?;
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    fn digest(&self) -> String {
        Digest::of(&[self.key.as_bytes(), b"\n", self.expected.to_string().as_bytes(), b"\n", &self.state].concat()).to_string()
    }

    fn is_in_place(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let state: Option<Vec<u8>> = connection
            .prepare_cached("SELECT state FROM workload WHERE key = ?1 AND revision = ?2")?
            .query_row(params![self.key, number(self.expected + 1)], |row| row.get(0))
            .optional()?;
        Ok(state.is_some_and(|state| state == self.state))
    }

    fn found(&self, connection: &Connection) -> rusqlite::Result<u64> {
        let found: Option<i64> = connection
            .prepare_cached("SELECT revision FROM workload WHERE key = ?1")?
            .query_row([&self.key], |row| row.get(0))
            .optional()?;
        Ok(found.map_or(0, super::count))
    }
}

/// A row of the ledger as a record, if the controller signed it for this workload.
pub(super) fn trusted(
    public: &crate::world::keys::Public,
    key: &str,
    release: &str,
    record: &[u8],
    signature: &[u8],
) -> Result<LedgerRecord, String> {
    if !public.verify(&ledger_message(key, record), signature) {
        return Err("its signature is not the controller's".into());
    }
    let record: LedgerRecord = serde_json::from_slice(record).map_err(|error| format!("it cannot be read: {error}"))?;
    if record.release.id != ReleaseId(release.into()) {
        return Err(format!("it is of release {}", record.release.id));
    }
    if record.release.template.release() != record.release.id {
        return Err("its template is not that of the release".into());
    }
    Ok(record)
}
