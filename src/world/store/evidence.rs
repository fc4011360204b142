//! Evidence bytes as files under their digest: `evidence/sha256/ab/abcd…`. Written once, synced, never changed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Unavailable;
use crate::core::release::Digest;

/// The largest piece of evidence.
pub const MAX_EVIDENCE: u64 = 64 * 1024 * 1024;

/// Why a piece of evidence cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// It was never here, or was deleted.
    #[error("evidence {0} is not in the store")]
    Missing(Digest),
    /// The file's bytes are not those of its name.
    #[error("evidence {0} was changed: its bytes have another digest")]
    Changed(Digest),
    /// It cannot be read.
    #[error("evidence {digest}: {what}")]
    Unreadable {
        /// Which.
        digest: Digest,
        /// Why.
        what: String,
    },
}

fn root(dir: &Path) -> PathBuf {
    dir.join("evidence").join("sha256")
}

fn path(dir: &Path, digest: &Digest) -> PathBuf {
    root(dir).join(&digest.hex()[..2]).join(digest.hex())
}

/// Keeps `bytes`; on return they are on disk.
pub(super) fn put(dir: &Path, bytes: &[u8]) -> Result<Digest, Unavailable> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let digest = Digest::of(bytes);
    let path = path(dir, &digest);
    let say = |error: std::io::Error| Unavailable(format!("evidence {}: {error}", path.display()));
    if bytes.len() as u64 > MAX_EVIDENCE {
        return Err(Unavailable(format!("evidence {digest} has {} bytes; {MAX_EVIDENCE} are the limit", bytes.len())));
    }
    if get(dir, &digest).is_ok() {
        return Ok(digest);
    }
    let folder = path.parent().unwrap_or(dir);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(say)?;
    let temporary = root(dir).join(format!("new.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        // The folders' entries must survive a power cut too.
        [folder, &root(dir), &dir.join("evidence"), dir].iter().try_for_each(|folder| File::open(folder)?.sync_all())
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(say(error));
    }
    Ok(digest)
}

/// Reads evidence and compares it with its digest.
pub(crate) fn get(dir: &Path, digest: &Digest) -> Result<Vec<u8>, EvidenceError> {
    let path = path(dir, digest);
    let say = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => EvidenceError::Missing(digest.clone()),
        _ => EvidenceError::Unreadable { digest: digest.clone(), what: error.to_string() },
    };
    if fs::metadata(&path).map_err(say)?.len() > MAX_EVIDENCE {
        return Err(EvidenceError::Changed(digest.clone()));
    }
    let bytes = fs::read(&path).map_err(say)?;
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(EvidenceError::Changed(digest.clone())) }
}

/// Every file that is kept, by the digest that its name says; `Err` names a file that does not belong there.
pub(crate) fn list(dir: &Path) -> Result<Vec<Digest>, String> {
    let mut found = Vec::new();
    let Ok(folders) = fs::read_dir(root(dir)) else { return Ok(found) };
    for folder in folders {
        let folder = folder.map_err(|error| error.to_string())?.path();
        // Left behind by a crash while writing; never referred to.
        if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("new.")) {
            continue;
        }
        for file in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let name = file.map_err(|error| error.to_string())?.file_name();
            let digest: Result<Digest, _> = format!("sha256:{}", name.to_string_lossy()).parse();
            found.push(digest.map_err(|_| format!("{}: not the name of evidence", folder.join(&name).display()))?);
        }
    }
    found.sort();
    Ok(found)
}
