//! The folders of unpacked artifacts: which of them are in use, and which may go.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

use super::layout::ArtifactStore;
use super::metrics::lock;
use super::prune;
use super::unpack::{self, Fault, Limits};
use crate::core::release::Digest;

/// Unpacked artifacts that stay although nothing runs from them: the way back is shorter with them.
pub(crate) const KEPT: usize = 16;

/// The unpacked artifacts of a host.
#[derive(Debug)]
pub(crate) struct Unpacked {
    root: PathBuf,
    /// How many want each.
    claims: Mutex<BTreeMap<String, usize>>,
    /// Held by whoever looks whether a folder is there, and alone by whoever takes folders away.
    gate: RwLock<()>,
}

/// As long as this is held, the folder of its artifact is not taken away.
#[derive(Debug)]
pub(crate) struct Claim {
    of: Arc<Unpacked>,
    name: String,
}

impl Unpacked {
    /// Those below the folder `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, claims: Mutex::default(), gate: RwLock::default() }
    }

    /// The folders, named by their digests.
    pub(crate) fn folders(&self) -> PathBuf {
        self.root.join("sha256")
    }

    /// Wants the artifact of `digest`, there or not yet.
    pub(crate) fn claim(self: &Arc<Self>, digest: &Digest) -> Claim {
        let name = digest.hex().to_owned();
        *lock(&self.claims).entry(name.clone()).or_default() += 1;
        Claim { of: self.clone(), name }
    }

    /// Removes what nobody wants, without the few that were unpacked or used last. Blocks. While somebody unpacks, nothing is done: that may lead back to
    /// where requests are answered, and the next one to leave asks again.
    pub(crate) fn prune(&self) {
        let Ok(alone) = self.gate.try_write() else { return };
        let in_use = lock(&self.claims).keys().cloned().collect();
        let surplus = prune::surplus(&self.folders(), KEPT, &in_use);
        let aside: Vec<PathBuf> = surplus.iter().filter_map(|folder| put_aside(folder)).collect();
        // Taking a name away is quick, removing what it named is not.
        drop(alone);
        prune::remove(&aside);
    }
}

impl Claim {
    /// Unpacks it unless it is there, and says where. Blocks.
    pub(crate) fn unpack(&self, store: &ArtifactStore, digest: &Digest, limits: &Limits) -> Result<PathBuf, Fault> {
        let _looking = self.of.gate.read().unwrap_or_else(PoisonError::into_inner);
        unpack::unpack(store, digest, &self.of.root, limits)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = lock(&self.of.claims);
        if let Some(count) = claims.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                claims.remove(&self.name);
                touch(&self.of.folders().join(&self.name));
            }
        }
    }
}

/// Makes a folder the newest: what served until now is what requests are led back to first.
fn touch(folder: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    if let Ok(folder) = File::open(folder) {
        _ = futimens(folder, &Timestamps { last_access: now, last_modification: now });
    }
}

/// Gives a folder a name under which nobody looks for it, and which the next host tidies up if this one dies.
fn put_aside(folder: &Path) -> Option<PathBuf> {
    let aside = folder.with_file_name(unpack::unfinished(&folder.file_name()?.to_string_lossy()));
    let moved = fs::rename(folder, &aside);
    moved.inspect_err(|error| tracing::warn!(path = %folder.display(), %error, "cannot remove what is not needed any more")).ok()?;
    Some(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_and_what_somebody_wants_stays() {
        let folder = tempfile::tempdir().unwrap();
        let unpacked = Arc::new(Unpacked::new(folder.path().to_owned()));
        let digests: Vec<Digest> = (0..KEPT + 4).map(|number| Digest::of(number.to_string().as_bytes())).collect();
        for (age, digest) in digests.iter().enumerate() {
            let place = unpack::folder(folder.path(), digest);
            fs::create_dir_all(place.join("bin")).unwrap();
            let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(1 + age as u64);
            File::open(&place).unwrap().set_modified(at).unwrap();
        }
        let left = || fs::read_dir(unpacked.folders()).unwrap().count();
        let there = |number: usize| unpack::folder(folder.path(), &digests[number]).is_dir();
        let (one, again) = (unpacked.claim(&digests[0]), unpacked.claim(&digests[0]));
        drop(again);
        {
            let _unpacking = unpacked.gate.read().unwrap();
            unpacked.prune();
            assert_eq!(left(), KEPT + 4);
        }
        unpacked.prune();
        assert_eq!(left(), KEPT + 1);
        assert!(there(0) && !there(1) && !there(3) && there(4));
        drop(one);
        unpacked.prune();
        assert!(left() == KEPT && there(0) && !there(4));
    }
}
