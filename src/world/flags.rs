//! Feature flags in a flagd definition file: bring a flag to a state in which every user gets the safe variant.
//!
//! "Off" is not one operation. A changed default does nothing for users that a targeting rule matches, and a disabled
//! flag gives whatever default the caller's code has. So the rule goes, the default becomes the safe variant, the flag
//! stays enabled, and the file that is then on the disk is read again and resolved.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::core::input::{Observation, Outcome};
use crate::core::spec::{FlagAction, FlagState, FlagTarget};
use crate::core::time::Span;
use crate::world::clock;

pub mod definition;

use definition::{DefinitionError, Resolution, resolve, with_variant_for_all};

/// Largest definition file that is read.
const LIMIT: u64 = 16 << 20;
/// A file younger than this that does not parse may still be being written.
const SETTLED: Duration = Duration::from_secs(2);
/// How often, and how long apart, the lock is tried: an edit takes milliseconds.
const LOCK_TRIES: u32 = 60;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// When to try again if somebody else is at the file.
const SOON: Span = Span(Duration::from_millis(100));

/// Makes the flag give everybody the variant that the action names, and proves it by resolving what is then on disk.
///
/// The second call finds nothing to do. A file that changed under the edit is left alone: the outcome is `Transient`
/// and the next call edits the newer file. `Denied`: we may not write there. `Invalid`: no such flag or variant, not JSON.
pub async fn ensure(target: &FlagTarget, action: &FlagAction) -> Outcome {
    let (path, action) = (PathBuf::from(&target.file.path), action.clone());
    match tokio::task::spawn_blocking(move || set(&path, &action)).await {
        Ok(Ok(changed)) => Outcome::Done { changed, observed: Observation::Nothing },
        Ok(Err(outcome)) => outcome,
        Err(error) => Outcome::Unknown(format!("setting the flag was cut short: {error}")),
    }
}

/// Whether [`ensure`] would work and what it would do, without writing: `Done { changed }` tells whether the flag must change.
///
/// For readiness: a flag that is gone or a file that cannot be replaced is found before it is needed.
pub async fn probe(target: &FlagTarget, action: &FlagAction) -> Outcome {
    let (path, action) = (PathBuf::from(&target.file.path), action.clone());
    let result = tokio::task::spawn_blocking(move || {
        let snapshot = Snapshot::read(&path)?;
        let edited = snapshot.edited(&action)?;
        let folder = snapshot.path.parent().unwrap_or(Path::new("/"));
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
            .map_err(|error| outcome("write beside", &snapshot.path, &io::Error::from(error)))?;
        Ok(edited.is_some())
    });
    match result.await {
        Ok(Ok(changed)) => Outcome::Done { changed, observed: Observation::Nothing },
        Ok(Err(outcome)) => outcome,
        Err(error) => Outcome::Unknown(format!("looking at the flag was cut short: {error}")),
    }
}

fn set(path: &Path, action: &FlagAction) -> Result<bool, Outcome> {
    let snapshot = Snapshot::read(path)?;
    let Some(edited) = snapshot.edited(action)? else { return Ok(false) };
    // Only now the lock: whoever finds nothing to do needs none. What was read before it may be old.
    let _lock = Lock::take(&snapshot.path)?;
    let locked = Snapshot::read(path)?;
    if locked.path != snapshot.path {
        return Err(again(format!("{} now leads to another file", path.display())));
    }
    let edited = if locked.hash == snapshot.hash { Some(edited) } else { locked.edited(action)? };
    let Some(edited) = edited else { return Ok(false) };
    locked.replace(&edited)?;
    let after = Snapshot::read(path)?;
    let FlagState::Variant(wanted) = &action.to;
    match resolve(&after.text, &action.flag) {
        Ok(Resolution::Static { variant, .. }) if variant == *wanted => Ok(true),
        _ => Err(again(format!("{}: flag `{}` was changed again right after it was set", path.display(), action.flag))),
    }
}

/// The file as it was read.
struct Snapshot {
    /// The real file, behind all links.
    path: PathBuf,
    text: String,
    hash: [u8; 32],
    metadata: fs::Metadata,
}

impl Snapshot {
    fn read(path: &Path) -> Result<Self, Outcome> {
        let failed = |what| move |error: io::Error| outcome(what, path, &error);
        let real = fs::canonicalize(path).map_err(failed("find"))?;
        let is_json = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        if !is_json(path) && !is_json(&real) {
            return Err(Outcome::Invalid(format!(
                "{}: only JSON definitions can be edited safely; name a `.json` file (flagd reads it just as well)",
                path.display()
            )));
        }
        let metadata = fs::metadata(&real).map_err(failed("read"))?;
        if !metadata.is_file() {
            return Err(Outcome::Invalid(format!("{}: not a regular file", real.display())));
        }
        let mut bytes = Vec::new();
        File::open(&real).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)).map_err(failed("read"))?;
        if bytes.len() as u64 > LIMIT {
            return Err(Outcome::Invalid(format!("{}: larger than {} MiB", real.display(), LIMIT >> 20)));
        }
        let hash = Sha256::digest(&bytes).into();
        let text = String::from_utf8(bytes).map_err(|_| Outcome::Invalid(format!("{}: not UTF-8", real.display())))?;
        Ok(Self { path: real, text, hash, metadata })
    }

    /// Whether it was written so lately that its writer may not be done.
    fn is_fresh(&self) -> bool {
        let written = self.metadata.modified().ok().and_then(|then| jiff::Timestamp::try_from(then).ok());
        written.is_none_or(|then| clock::wall().duration_since(then).unsigned_abs() < SETTLED)
    }

    /// The text in which the action holds; `None` if this is it.
    fn edited(&self, action: &FlagAction) -> Result<Option<String>, Outcome> {
        let FlagState::Variant(variant) = &action.to;
        with_variant_for_all(&self.text, &action.flag, variant).map_err(|error| {
            let what = format!("{}: {error}", self.path.display());
            match error {
                DefinitionError::NotJson(_) if self.is_fresh() => again(what + " (it was written just now)"),
                _ => Outcome::Invalid(what),
            }
        })
    }

    /// Puts `text` in the file's place in one step, with its mode and owner, unless the file has changed since.
    fn replace(&self, text: &str) -> Result<(), Outcome> {
        let failed = |what| move |error: io::Error| outcome(what, &self.path, &error);
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let fresh = folder.join(format!(".{name}.backstop"));
        // Under the lock nobody else writes one: a file that is there was left by a crash.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("write beside")(error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(failed("write beside"))?;
        let written = self
            .fill(file, text)
            .and_then(|()| {
                if Self::read(&self.path)?.hash == self.hash {
                    Ok(())
                } else {
                    Err(again(format!("{} changed during the edit", self.path.display())))
                }
            })
            .and_then(|()| fs::rename(&fresh, &self.path).map_err(failed("replace")));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("store"))
    }

    fn fill(&self, mut file: File, text: &str) -> Result<(), Outcome> {
        let failed = |what| move |error: io::Error| outcome(what, &self.path, &error);
        let own = file.metadata().map_err(failed("write beside"))?;
        if (own.uid(), own.gid()) != (self.metadata.uid(), self.metadata.gid()) {
            // Readers may depend on the owner; a file that they cannot read any more would be worse than an unset flag.
            std::os::unix::fs::fchown(&file, Some(self.metadata.uid()), Some(self.metadata.gid())).map_err(failed("keep the owner of"))?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.metadata.mode() & 0o7777)).map_err(failed("keep the mode of"))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write beside"))
    }
}

/// Keeps other controllers, and other flags of the same file, from being lost between the last comparison and the swap.
struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Locks the folder of the file: the file itself is replaced, and a lock on it would go with the old one.
    fn take(path: &Path) -> Result<Self, Outcome> {
        let folder = File::open(path.parent().unwrap_or(Path::new("/"))).map_err(|error| outcome("lock", path, &error))?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
                // A file system without locks: the comparison right before the swap remains.
                _ => return Ok(Self(folder)),
            }
        }
        Err(again(format!("{} is being edited by another controller", path.display())))
    }
}

fn again(what: String) -> Outcome {
    Outcome::Transient { what, retry_after: Some(SOON) }
}

/// Sorts what the operating system says into what the machine can act on.
fn outcome(what: &str, path: &Path, error: &io::Error) -> Outcome {
    let text = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Outcome::Denied(format!("{text}; backstop needs to write the file's folder and keep its owner")),
        io::ErrorKind::ReadOnlyFilesystem => Outcome::Denied(format!("{text}; mounted for reading only: edit the flag at its origin")),
        io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
            Outcome::Denied(format!("{text}; the file is a mount of its own: mount its folder instead"))
        }
        _ => Outcome::Transient { what: text, retry_after: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_errors_are_sorted() {
        let of = |kind: io::ErrorKind| outcome("replace", Path::new("flags.json"), &io::Error::from(kind));
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::ResourceBusy] {
            assert!(matches!(of(kind), Outcome::Denied(what) if what.starts_with("cannot replace flags.json: ")), "{kind}");
        }
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::NotFound, io::ErrorKind::TimedOut] {
            assert!(matches!(of(kind), Outcome::Transient { .. }), "{kind}");
        }
    }

    #[test]
    fn a_file_that_changed_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flags.json");
        fs::write(&path, "{\"flags\": {}}").unwrap();
        let snapshot = Snapshot::read(&path).unwrap();
        fs::write(&path, "{\"flags\": {\"theirs\": {}}}").unwrap();
        assert!(matches!(snapshot.replace("{}"), Err(Outcome::Transient { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"flags\": {\"theirs\": {}}}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
