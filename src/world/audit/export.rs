//! Exported entries, put together to commits again: what a replay reads.

use std::collections::BTreeMap;

use serde_json::Value;

use super::leaf::{self, PartError, Seal};
use crate::core::journal::Journal;
use crate::core::record::Record;
use crate::core::release::Digest;
use crate::core::replay::Recorded;

/// More workloads than this are not put together at once.
const WORKLOADS_MAX: usize = 20_000;
/// No commit has more records than this.
const RECORDS_MAX: usize = 100_000;

/// Commits that are being put together, by workload.
#[derive(Debug, Default)]
pub struct Assembly(BTreeMap<String, Open>);

#[derive(Debug, Default)]
struct Open {
    /// The last whole revision.
    revision: u64,
    /// Entries since.
    entries: Vec<u64>,
    records: Vec<Record>,
}

/// A commit that is whole.
#[derive(Debug)]
pub struct Whole {
    /// Of which workload.
    pub key: String,
    /// The revision of its state.
    pub revision: u64,
    /// Its records, in order.
    pub records: Vec<Record>,
    /// What was taken in since the commit before.
    pub journal: Journal,
    /// What it wrote, by hash.
    pub seal: Seal,
    /// Where its entries stand, in the caller's numbers.
    pub entries: Vec<u64>,
}

impl Whole {
    /// What the log has of it, as a replay takes it.
    pub fn recorded(&self) -> Recorded<'_> {
        Recorded { revision: self.revision, records: &self.records, journal: &self.journal }
    }
}

impl Assembly {
    /// Takes in the next exported entry, which stands at `place`; a commit if this was its last.
    ///
    /// # Errors
    /// What is wrong with the entry: expectation and fix in words.
    pub fn add(&mut self, line: &Value, place: u64) -> Result<Option<Whole>, String> {
        let text = |field: &str| {
            line[field].as_str().ok_or(format!("it has no `{field}`; expected an entry as `backstop audit export` prints it"))
        };
        let (id, key) = (text("id")?, text("resource_target")?);
        if !self.0.contains_key(key) && self.0.len() >= WORKLOADS_MAX {
            return Err(format!("it is of workload number {}; at most {WORKLOADS_MAX} are read at once: export fewer", WORKLOADS_MAX + 1));
        }
        let open = self.0.entry(key.to_owned()).or_default();
        let expected = format!("{key}@{}.{}", open.revision + 1, open.entries.len());
        if id != expected {
            return Err(format!(
                "it is {id}, and {expected} must follow: entries are missing or out of order; export the log again, from its begin"
            ));
        }
        let elsewhere = |digest: &Digest| -> Result<Vec<u8>, String> { Err(format!("{digest} is not in the file")) };
        let damaged = |error: PartError<String>| format!("{error}; export the log again with `backstop audit export`");
        let record = leaf::record(line, elsewhere).map_err(damaged)?;
        open.entries.push(place);
        open.records.extend(record);
        if open.records.len() > RECORDS_MAX {
            return Err(format!("its commit has more than {RECORDS_MAX} records"));
        }
        if line["commit"].is_null() {
            return Ok(None);
        }
        let seal = leaf::part(&line["commit"], elsewhere).map_err(damaged)?;
        let mut seal: Seal = serde_json::from_value(seal).map_err(|error| format!("what it says of its commit cannot be read: {error}"))?;
        let revision = open.revision + 1;
        let Some(journal) = seal.journal.take() else {
            return Err(format!("revision {revision} of {key} was written by a backstop that kept no journal: it cannot be replayed"));
        };
        open.revision = revision;
        let (records, entries) = (std::mem::take(&mut open.records), std::mem::take(&mut open.entries));
        Ok(Some(Whole { key: key.to_owned(), revision, records, journal, seal, entries }))
    }

    /// A workload whose last commit is not whole.
    pub fn unfinished(&self) -> Option<&str> {
        self.0.iter().find(|(_, open)| !open.entries.is_empty()).map(|(key, _)| key.as_str())
    }
}
