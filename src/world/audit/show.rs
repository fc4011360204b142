//! Reading the log: its entries, and the proof that one of them is in it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use super::leaf::{self, PartError};
use super::note::{NoteError, Verifier};
use super::tree::{self, Hash, TILE_HEIGHT};
use crate::core::record::Record;
use crate::world::store::{EvidenceError, Unavailable, count, evidence, log, number, schema};

/// How long a read waits for a lock.
const BUSY: Duration = Duration::from_secs(2);

/// Entries that are read at once.
const PAGE: u64 = 256;

/// Which entries to show; absent means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this workload, `namespace/name`.
    pub workload: Option<String>,
    /// At this time or later.
    pub since: Option<jiff::Timestamp>,
    /// With this reason's code, `BS001`.
    pub code: Option<String>,
    /// By this agent.
    pub agent: Option<String>,
    /// From this place in the log on.
    pub from: u64,
}

impl Filter {
    fn takes(&self, line: &Value) -> bool {
        let is = |wanted: &Option<String>, found: &Value| wanted.as_ref().is_none_or(|wanted| found.as_str() == Some(wanted));
        let time = || line["timestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        is(&self.workload, &line["resource_target"])
            && is(&self.code, &line["reason"]["code"])
            && is(&self.agent, &line["agent_id"])
            && self.since.is_none_or(|since| time().is_some_and(|time| time >= since))
    }
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place in the log; absent while it waits in the outbox.
    pub index: Option<u64>,
    /// The line as it is in the log.
    pub text: String,
    /// The line, parsed.
    pub line: Value,
    dir: PathBuf,
}

impl Entry {
    /// The record that it was made from; `None` for a commit without records. Parts kept as evidence are fetched.
    pub fn record(&self) -> Result<Option<Record>, PartError<EvidenceError>> {
        leaf::record(&self.line, |digest| evidence::get(&self.dir, digest))
    }

    /// The line with its place in the log, and with everything that was moved out of it.
    pub fn whole(&self) -> Result<Value, PartError<EvidenceError>> {
        let mut line = self.line.clone();
        line["index"] = self.index.into();
        for place in ["/event", "/reason/detail", "/commit"] {
            if let Some(part) = line.pointer_mut(place) {
                *part = leaf::part(part, |digest| evidence::get(&self.dir, digest))?;
            }
        }
        Ok(line)
    }
}

/// The entries that a filter takes, in the order of the log, those that still wait in the outbox last.
#[derive(Debug)]
pub struct Entries {
    dir: PathBuf,
    connection: Connection,
    filter: Filter,
    /// Where to go on: in the log, then in the outbox.
    next: Place,
    page: VecDeque<(Option<u64>, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Log(u64),
    Outbox(i64),
    End,
}

/// Shows the log of the store in `dir`.
pub fn show(dir: &Path, filter: Filter) -> Result<Entries, Unavailable> {
    let connection = schema::reader(dir, BUSY)?.connection;
    // One view of log and outbox: what is drained meanwhile is not missed.
    connection.execute_batch("BEGIN").map_err(|error| Unavailable::at(&dir.join(schema::FILE), &error))?;
    Ok(Entries { dir: dir.to_owned(), connection, next: Place::Log(filter.from), filter, page: VecDeque::new() })
}

impl Entries {
    fn fill(&mut self) -> rusqlite::Result<()> {
        match self.next {
            Place::Log(from) => {
                let mut query = self.connection.prepare_cached("SELECT idx, bytes FROM leaf WHERE idx >= ?1 ORDER BY idx LIMIT ?2")?;
                let mut rows = query.query(params![number(from), number(PAGE)])?;
                self.next = Place::Outbox(0);
                while let Some(row) = rows.next()? {
                    let index = count(row.get(0)?);
                    self.page.push_back((Some(index), row.get(1)?));
                    self.next = Place::Log(index + 1);
                }
            }
            Place::Outbox(after) => {
                let mut query = self.connection.prepare_cached("SELECT seq, leaf FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
                let mut rows = query.query(params![after, number(PAGE)])?;
                self.next = Place::End;
                while let Some(row) = rows.next()? {
                    self.next = Place::Outbox(row.get(0)?);
                    self.page.push_back((None, row.get(1)?));
                }
            }
            Place::End => {}
        }
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, Unavailable>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some((index, bytes)) = self.page.pop_front() {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let line = match serde_json::from_slice(&bytes) {
                    Ok(line) => line,
                    Err(error) => {
                        return Some(Err(Unavailable(format!("entry {index:?} of the log is not JSON: {error}; run `audit verify`"))));
                    }
                };
                if self.filter.takes(&line) {
                    return Some(Ok(Entry { index, text, line, dir: self.dir.clone() }));
                }
            }
            if matches!(self.next, Place::End) {
                return None;
            }
            if let Err(error) = self.fill() {
                self.next = Place::End;
                return Some(Err(Unavailable::at(&self.dir.join(schema::FILE), &error)));
            }
        }
    }
}

/// The proof that an entry is in the log: everything a third party needs besides the entry and the log's public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The entry's place.
    pub index: u64,
    /// Hashes beside its way to the root, lowest first.
    pub path: Vec<Hash>,
    /// The signed checkpoint whose root it leads to.
    pub checkpoint: String,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The checkpoint is not the log's.
    #[error("the proof's checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// The entry is not what the log holds there.
    #[error("the entry is not number {0} of the log")]
    NotIncluded(u64),
    /// Not the text of a proof.
    #[error("not a proof in the form `c2sp.org/tlog-proof@v1`: {0}")]
    Malformed(&'static str),
}

/// First line of a proof's text.
const PROOF: &str = "c2sp.org/tlog-proof@v1";

impl Proof {
    /// Whether the log signed for `entry` (a leaf's bytes) at this place.
    pub fn verify(&self, entry: &[u8], log: &Verifier) -> Result<(), ProofError> {
        let checkpoint = log.checkpoint(&self.checkpoint)?;
        let root = tree::root_from_path(self.index, checkpoint.size, tree::leaf_hash(entry), &self.path);
        if root == Some(checkpoint.root) { Ok(()) } else { Err(ProofError::NotIncluded(self.index)) }
    }

    /// Reads the form that `Display` writes.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Malformed("no empty line before the checkpoint"))?;
        let mut lines = head.lines().peekable();
        if lines.next() != Some(PROOF) {
            return Err(ProofError::Malformed("another first line"));
        }
        let _ = lines.next_if(|line| line.starts_with("extra "));
        let index = lines.next().and_then(|line| line.strip_prefix("index ")?.parse().ok());
        let path = lines.map(|line| BASE64.decode(line).ok()?.try_into().ok()).collect::<Option<Vec<Hash>>>();
        Ok(Self {
            index: index.ok_or(ProofError::Malformed("no index"))?,
            path: path.filter(|path| path.len() <= 64).ok_or(ProofError::Malformed("a hash is not 32 bytes in base64"))?,
            checkpoint: checkpoint.to_owned(),
        })
    }
}

/// The C2SP form `tlog-proof`.
impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{PROOF}\nindex {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{}", BASE64.encode(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Proves that entry `index` is in the log of the store in `dir`; `None` if the log is not that long.
pub fn prove(dir: &Path, index: u64) -> Result<Option<Proof>, Unavailable> {
    let connection = schema::reader(dir, BUSY)?.connection;
    let say = |error| Unavailable::at(&dir.join(schema::FILE), &error);
    let read = || -> rusqlite::Result<Option<Proof>> {
        let snapshot = connection.unchecked_transaction()?;
        let size = log::edge(&snapshot)?.size();
        let path = tree::path(index, size, &mut |level, at| node(&snapshot, level, at))?;
        Ok(path.zip(log::newest(&snapshot)?).map(|(path, checkpoint)| Proof { index, path, checkpoint }))
    };
    read().map_err(say)
}

/// The root of a complete subtree, from the nearest level that is stored.
fn node(connection: &Connection, level: u32, index: u64) -> rusqlite::Result<Hash> {
    if !level.is_multiple_of(TILE_HEIGHT) {
        return Ok(tree::node_hash(&node(connection, level - 1, 2 * index)?, &node(connection, level - 1, 2 * index + 1)?));
    }
    let found = if level == 0 {
        connection.prepare_cached("SELECT hash FROM leaf WHERE idx = ?1")?.query_row([number(index)], |row| row.get(0)).optional()?
    } else {
        let mut query = connection.prepare_cached("SELECT hash FROM node WHERE level = ?1 AND idx = ?2")?;
        query.query_row(params![level, number(index)], |row| row.get(0)).optional()?
    };
    found.ok_or(rusqlite::Error::QueryReturnedNoRows)
}
