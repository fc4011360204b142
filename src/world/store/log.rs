//! From the outbox to the log: entries become leaves of the Merkle tree, and a checkpoint is signed.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{count, number};
use crate::world::audit::note::Checkpoint;
use crate::world::audit::tree::{Edge, Node, TILE_HEIGHT, leaf_hash};
use crate::world::keys::Keys;

/// Entries of one transaction at most.
pub(super) const BATCH: u64 = 4096;

/// What a drain did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Entries that were added.
    pub entries: u64,
    /// Entries of the log now.
    pub size: u64,
    /// The newest signed checkpoint; absent as long as the log is empty.
    pub checkpoint: Option<String>,
}

/// Moves what waits to the log, at most [`BATCH`] entries, and signs a checkpoint if there were any.
pub(super) fn drain(connection: &Connection, keys: &Keys) -> rusqlite::Result<Drained> {
    let mut edge = edge(connection)?;
    let before = edge.size();
    let mut waiting = connection.prepare_cached("SELECT seq, leaf FROM outbox ORDER BY seq LIMIT ?1")?;
    let mut add = connection.prepare_cached("INSERT INTO leaf(idx, bytes, hash) VALUES(?1, ?2, ?3)")?;
    let mut keep = connection.prepare_cached("INSERT INTO node(level, idx, hash) VALUES(?1, ?2, ?3)")?;
    let mut rows = waiting.query([number(BATCH)])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob()?;
        let hash = leaf_hash(bytes);
        add.execute(params![number(edge.size()), bytes, hash])?;
        let mut complete: Vec<Node> = Vec::new();
        edge.append(hash, |node| complete.push(node));
        for node in complete.iter().filter(|node| node.level % TILE_HEIGHT == 0) {
            keep.execute(params![node.level, number(node.index), node.hash])?;
        }
        last = Some(row.get::<_, i64>(0)?);
    }
    drop(rows);
    let Some(last) = last else {
        return Ok(Drained { entries: 0, size: before, checkpoint: newest(connection)? });
    };
    connection.execute("DELETE FROM outbox WHERE seq <= ?1", [last])?;
    connection.execute("UPDATE tree SET size = ?1, edge = ?2", params![number(edge.size()), edge.to_bytes()])?;
    let note = keys.sign_checkpoint(&Checkpoint { size: edge.size(), root: edge.root() });
    connection.execute("INSERT INTO checkpoint(size, note) VALUES(?1, ?2)", params![number(edge.size()), note])?;
    Ok(Drained { entries: edge.size() - before, size: edge.size(), checkpoint: Some(note) })
}

/// The right edge of the tree.
pub(crate) fn edge(connection: &Connection) -> rusqlite::Result<Edge> {
    connection.query_row("SELECT size, edge FROM tree", [], |row| {
        let (size, bytes) = (count(row.get(0)?), row.get_ref(1)?.as_blob()?);
        // The log is never appended to on a broken edge: that would hide what happened to it.
        let broken =
            || rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Blob, "the right edge of the log is damaged".into());
        Edge::from_bytes(size, bytes).ok_or_else(broken)
    })
}

/// The newest checkpoint.
pub(crate) fn newest(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1", [], |row| row.get(0)).optional()
}

/// The checkpoint of a size.
pub(super) fn checkpoint(connection: &Connection, size: u64) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT note FROM checkpoint WHERE size = ?1", [number(size)], |row| row.get(0)).optional()
}
