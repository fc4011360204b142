//! The audit log: what the store's outbox becomes. A Merkle tree (RFC 6962) over records, with signed checkpoints (C2SP).
//!
//! State decides, the log testifies: [`verify`] derives everything again from the bytes and compares.

mod export;
pub mod leaf;
pub mod note;
mod show;
pub mod tree;
mod verify;

pub use self::export::{Assembly, Whole};
pub use self::show::{Entries, Entry, Filter, Proof, ProofError, prove, show};
pub use self::verify::{Broken, Verified, verify};

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Name of the file beside the database that holds the newest checkpoint.
pub const CHECKPOINT: &str = "checkpoint";

/// A checkpoint file larger than this is none.
pub(crate) const MAX_CHECKPOINT: u64 = 64 * 1024;

/// Puts a signed checkpoint into the file, whole and synced.
pub(crate) fn publish(dir: &Path, note: &str) -> io::Result<()> {
    let temporary = dir.join(format!("{CHECKPOINT}.new.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(CHECKPOINT))?;
    File::open(dir)?.sync_all()
}
