//! Derives the whole log again from its bytes, and compares it with everything that claims something about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use super::leaf::{self, Seal};
use super::note::Checkpoint;
use super::tree::{Edge, Hash, Node, TILE_HEIGHT, leaf_hash};
use super::{CHECKPOINT, MAX_CHECKPOINT};
use crate::core::release::{Digest, ReleaseId};
use crate::world::keys::Public;
use crate::world::store::{TESTIFIED, count, evidence, ledger_message, log, number, schema};

/// How long a read waits for a lock.
const BUSY: Duration = Duration::from_secs(2);

/// What was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Entries of the log.
    pub entries: u64,
    /// Signed checkpoints, each on the same tree.
    pub checkpoints: u64,
    /// Workloads whose state is the one that the log names.
    pub workloads: u64,
    /// Ledger records, each signed and the one that the log names.
    pub ledger: u64,
    /// Evidence files, each under its digest.
    pub evidence: u64,
    /// Entries that wait in the outbox: committed, and not yet under a checkpoint.
    pub undrained: u64,
    /// In a cluster: how often a workload's entries go on in the log of another replica. Their states are in the API server.
    pub elsewhere: u64,
}

/// Something was changed, or is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Broken {
    /// The first entry of the log that is concerned, if it is one.
    pub index: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(index) => write!(f, "entry {index}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

fn broken<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { index: None, what: what.into() })
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self { index: None, what: format!("the database cannot be read: {error}") }
    }
}

/// Verifies the store in `dir` under the public keys `public`, which the caller has from a place that it trusts.
///
/// Checks every leaf's hash, every inner node, every checkpoint's signature and root, the checkpoint outside the database, the order
/// of revisions of each workload, the state and ledger that the log names, signatures of the ledger, and every evidence file.
pub fn verify(dir: &Path, public: &Public) -> Result<Verified, Broken> {
    let connection = schema::reader(dir, BUSY).map_err(|unavailable| Broken { index: None, what: unavailable.0 })?.connection;
    // Read first: the database may grow meanwhile, the file must not be ahead of what is read.
    let outside = outside(dir, public)?;
    let snapshot = connection.unchecked_transaction()?;
    // The first read fixes what is seen; files are written before the commits that name them.
    log::edge(&snapshot)?;
    let mut found = Verified::default();
    let files = files(dir, &mut found)?;
    let mut chain = Chain { dir, files, workloads: BTreeMap::new(), testified: testified(&snapshot)?, elsewhere: 0 };
    tree(&snapshot, public, outside, &mut chain, &mut found)?;
    let mut waiting = snapshot.prepare("SELECT id, leaf FROM outbox ORDER BY seq")?;
    let mut rows = waiting.query([])?;
    while let Some(row) = rows.next()? {
        let (id, bytes): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if chain.follow(&bytes).map_err(|what| Broken { index: None, what: format!("outbox entry {id}: {what}") })? != id {
            return broken(format!("outbox entry {id} says that it is another"));
        }
        found.undrained += 1;
    }
    found.elsewhere = chain.elsewhere;
    workloads(&snapshot, &chain, &mut found)?;
    ledger(&snapshot, public, &chain, &mut found)?;
    index(&snapshot, &chain)?;
    let complaint: String = snapshot.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if complaint == "ok" { Ok(found) } else { broken(format!("the database is damaged: {complaint}")) }
}

/// The checkpoint kept outside the database.
fn outside(dir: &Path, public: &Public) -> Result<Option<Checkpoint>, Broken> {
    let path = dir.join(CHECKPOINT);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(file) if file.len() <= MAX_CHECKPOINT => {}
        Ok(_) => return broken(format!("file `{CHECKPOINT}`: too large")),
        Err(error) => return broken(format!("file `{CHECKPOINT}`: {error}")),
    }
    let text = std::fs::read_to_string(&path).or_else(|error| broken(format!("file `{CHECKPOINT}`: {error}")))?;
    public.log.checkpoint(&text).map(Some).or_else(|error| broken(format!("file `{CHECKPOINT}`: {error}")))
}

/// Every evidence file, read and compared with its name.
fn files(dir: &Path, found: &mut Verified) -> Result<BTreeSet<Digest>, Broken> {
    let files = evidence::list(dir).or_else(broken)?;
    for digest in &files {
        evidence::get(dir, digest).or_else(|error| broken(error.to_string()))?;
        found.evidence += 1;
    }
    Ok(files.into_iter().collect())
}

/// Leaves, inner nodes, right edge and checkpoints.
fn tree(
    connection: &Connection,
    public: &Public,
    outside: Option<Checkpoint>,
    chain: &mut Chain<'_>,
    found: &mut Verified,
) -> Result<(), Broken> {
    let mut checkpoints = checkpoints(connection, public)?;
    found.checkpoints = checkpoints.len() as u64;
    let newest = checkpoints.keys().next_back().copied().unwrap_or(0);
    let mut edge = Edge::default();
    let mut nodes = 0;
    let mut query = connection.prepare("SELECT idx, bytes, hash FROM leaf ORDER BY idx")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (index, bytes, stored): (i64, Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let expected = edge.size();
        let at = |what: String| Broken { index: Some(expected), what };
        if index != number(expected) {
            return Err(at(format!("it is missing; the next one is {index}")));
        }
        let hash = leaf_hash(&bytes);
        if stored != hash {
            return Err(at("its bytes do not have the hash that is stored with them".into()));
        }
        let mut complete: Vec<Node> = Vec::new();
        edge.append(hash, |node| complete.push(node));
        for node in complete.iter().filter(|node| node.level % TILE_HEIGHT == 0) {
            nodes += 1;
            same_node(connection, node).map_err(|broken| Broken { index: Some(expected), ..broken })?;
        }
        if let Some(root) = checkpoints.remove(&edge.size())
            && root != edge.root()
        {
            return Err(at(format!("the entries up to here are not those of the signed checkpoint of size {}", edge.size())));
        }
        if let Some(outside) = outside
            && outside.size == edge.size()
            && outside.root != edge.root()
        {
            return Err(at(format!("the entries up to here are not those of the checkpoint in the file `{CHECKPOINT}`")));
        }
        chain.follow(&bytes).map_err(at)?;
    }
    found.entries = edge.size();
    ends(&edge, outside, checkpoints.keys().next().copied(), newest)?;
    if log::edge(connection)? != edge {
        return broken("the stored right edge of the tree is not that of its entries");
    }
    let stored: i64 = connection.query_row("SELECT count(*) FROM node", [], |row| row.get(0))?;
    if stored == nodes { Ok(()) } else { broken(format!("{stored} inner nodes are stored, the entries have {nodes}")) }
}

/// The log ends where the checkpoints say: `ahead` is one that no entry reached, `newest` the last one.
fn ends(edge: &Edge, outside: Option<Checkpoint>, ahead: Option<u64>, newest: u64) -> Result<(), Broken> {
    let size = edge.size();
    let short = |what: String| Broken { index: Some(size), what: format!("the log is cut short: it has {size} entries, {what}") };
    if let Some(ahead) = ahead {
        return Err(short(format!("a signed checkpoint says {ahead} or more")));
    }
    match outside {
        Some(outside) if outside.size > size => return Err(short(format!("the signed file `{CHECKPOINT}` says {}", outside.size))),
        None if size > 0 => return broken(format!("the file `{CHECKPOINT}` is missing; without it a log that was cut short looks whole")),
        _ => {}
    }
    if newest == size {
        return Ok(());
    }
    Err(Broken { index: Some(newest), what: "no signed checkpoint covers the entries from here on".into() })
}

/// Roots of the signed checkpoints by size.
fn checkpoints(connection: &Connection, public: &Public) -> Result<BTreeMap<u64, Hash>, Broken> {
    let mut query = connection.prepare("SELECT size, note FROM checkpoint ORDER BY size")?;
    let mut rows = query.query([])?;
    let mut checkpoints = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (size, note): (i64, String) = (row.get(0)?, row.get(1)?);
        let checkpoint = public.log.checkpoint(&note).or_else(|error| broken(format!("the checkpoint of size {size}: {error}")))?;
        if number(checkpoint.size) != size {
            return broken(format!("the checkpoint of size {size} is one of size {}", checkpoint.size));
        }
        checkpoints.insert(checkpoint.size, checkpoint.root);
    }
    Ok(checkpoints)
}

fn same_node(connection: &Connection, node: &Node) -> Result<(), Broken> {
    let mut query = connection.prepare_cached("SELECT hash FROM node WHERE level = ?1 AND idx = ?2")?;
    let mut rows = query.query([i64::from(node.level), number(node.index)])?;
    let stored: Option<Vec<u8>> = rows.next()?.map(|row| row.get(0)).transpose()?;
    if stored.is_some_and(|stored| stored == node.hash) {
        Ok(())
    } else {
        broken(format!("the inner node {} of level {} is missing or was changed", node.index, node.level))
    }
}

/// What the log says of each workload so far.
struct Chain<'a> {
    dir: &'a Path,
    files: BTreeSet<Digest>,
    workloads: BTreeMap<String, Link>,
    /// Workloads whose state is in the API server of a cluster: this replica's log has what this replica committed of them.
    testified: BTreeSet<String>,
    elsewhere: u64,
}

/// Workloads of which this store has the entries alone.
fn testified(connection: &Connection) -> Result<BTreeSet<String>, Broken> {
    let mut query = connection.prepare("SELECT name FROM document WHERE kind = ?1")?;
    let names = query.query_map([TESTIFIED], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut all: BTreeSet<String> = names.iter().filter_map(|life| Some(life.rsplit_once('@')?.0.to_owned())).collect();
    // Whose state is here must be whole here.
    let mut query = connection.prepare("SELECT key FROM workload")?;
    for key in query.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()? {
        all.remove(&key);
    }
    Ok(all)
}

#[derive(Default)]
struct Link {
    /// The last whole revision.
    revision: u64,
    /// Entries of the revision that is under way.
    ordinal: u64,
    state: String,
    ledger: BTreeMap<ReleaseId, String>,
}

impl Chain<'_> {
    /// Takes an entry: it must be the next of its workload. Returns its id.
    fn follow(&mut self, bytes: &[u8]) -> Result<String, String> {
        let entry: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON: {error}"))?;
        let id = entry["id"].as_str().ok_or("it has no id")?.to_owned();
        let key = entry["resource_target"].as_str().ok_or("it names no workload")?;
        let link = self.workloads.entry(key.to_owned()).or_default();
        if self.testified.contains(key) && link.ordinal == 0 {
            // Another replica committed in between, or the guard was made anew.
            let begins = id.strip_prefix(key).and_then(|rest| rest.strip_prefix('@')?.strip_suffix(".0")?.parse::<u64>().ok());
            if let Some(before) = begins.and_then(|revision| revision.checked_sub(1)).filter(|before| *before != link.revision) {
                link.revision = before;
                self.elsewhere += 1;
            }
        }
        let expected = format!("{key}@{}.{}", link.revision + 1, link.ordinal);
        if id != expected {
            return Err(format!("it is {id}, after the entries before it {expected} must follow"));
        }
        for kept in [&entry["event"], &entry["reason"]["detail"], &entry["commit"]].into_iter().filter_map(leaf::kept) {
            if !self.files.contains(&kept) {
                return Err(format!("it rests on evidence {kept}, which is missing"));
            }
        }
        link.ordinal += 1;
        if !entry["commit"].is_null() {
            let seal = leaf::part(&entry["commit"], |digest| evidence::get(self.dir, digest)).map_err(|error| error.to_string())?;
            let seal: Seal = serde_json::from_value(seal).map_err(|error| format!("what it says of its commit cannot be read: {error}"))?;
            link.revision += 1;
            link.ordinal = 0;
            link.state = seal.state;
            link.ledger.extend(seal.ledger);
        }
        Ok(id)
    }
}

/// Each workload's state is the one that the log names last.
fn workloads(connection: &Connection, chain: &Chain<'_>, found: &mut Verified) -> Result<(), Broken> {
    let mut query = connection.prepare("SELECT key, revision, generation, state FROM workload")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (key, revision, generation, state): (String, i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let Some(link) = chain.workloads.get(&key) else { return broken(format!("the log knows nothing of workload {key}")) };
        if number(link.revision) != revision || link.ordinal != 0 {
            return broken(format!("{key} is at revision {revision}, in the log at {}", link.revision));
        }
        if Digest::of(&state).to_string() != link.state {
            return broken(format!("the state of {key} is not the one that the log names for revision {revision}"));
        }
        let state: Value = serde_json::from_slice(&state).or_else(|error| broken(format!("the state of {key}: {error}")))?;
        if state["generation"].as_u64() != Some(count(generation)) {
            return broken(format!("the generation of {key} is not that of its state"));
        }
        found.workloads += 1;
    }
    let named = chain.workloads.keys().filter(|key| !chain.testified.contains(*key)).count();
    if found.workloads == named as u64 { Ok(()) } else { broken("a workload that the log names is gone") }
}

/// Each ledger record is signed, and the one that the log names last.
fn ledger(connection: &Connection, public: &Public, chain: &Chain<'_>, found: &mut Verified) -> Result<(), Broken> {
    let mut query = connection.prepare("SELECT key, release, record, signature FROM ledger")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (key, release, record, signature): (String, String, Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        if !public.verify(&ledger_message(&key, &record), &signature) {
            return broken(format!("the ledger record of release {release} of {key} is not signed by this controller"));
        }
        let named = chain.workloads.get(&key).and_then(|link| link.ledger.get(&ReleaseId(release.as_str().into())));
        if named != Some(&Digest::of(&record).to_string()) {
            return broken(format!("the ledger record of release {release} of {key} is not the newest one that the log names"));
        }
        found.ledger += 1;
    }
    let own = chain.workloads.iter().filter(|(key, _)| !chain.testified.contains(*key));
    let named: usize = own.map(|(_, link)| link.ledger.len()).sum();
    if found.ledger == named as u64 { Ok(()) } else { broken("a ledger record that the log names is gone") }
}

/// Every piece of evidence that the index names is there.
fn index(connection: &Connection, chain: &Chain<'_>) -> Result<(), Broken> {
    let mut query = connection.prepare("SELECT image, digest FROM evidence")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (image, digest): (String, String) = (row.get(0)?, row.get(1)?);
        let known = digest.parse().is_ok_and(|digest| chain.files.contains(&digest));
        if !known {
            return broken(format!("evidence {digest} of image {image} is missing"));
        }
    }
    Ok(())
}
