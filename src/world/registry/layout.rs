//! An OCI image layout folder: `index.json` and `blobs/sha256/<hex>`.

use std::borrow::Borrow as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_distribution::manifest::{OciImageIndex, OciImageManifest};

use super::{Fault, Listed, MAX_MANIFEST};
use crate::core::release::Digest;
use crate::world::publish::REF_NAME;

/// So many entries of an index are looked into for referrers.
const MAX_ENTRIES: usize = 10_000;

/// A layout folder.
#[derive(Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Does `work` about `what` on a thread that may block, and waits for it no longer than `within`.
    pub(super) async fn read<K: ToOwned + ?Sized, T: Send + 'static>(
        &self,
        within: Duration,
        what: &K,
        work: impl FnOnce(&Self, &K) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault>
    where
        K::Owned: Send + 'static,
    {
        let (layout, what) = (self.clone(), what.to_owned());
        let read = tokio::task::spawn_blocking(move || work(&layout, what.borrow()));
        match tokio::time::timeout(within, read).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(Fault::Unavailable(format!("{}: {error}", self.root.display()))),
            Err(_) => Err(Fault::Unavailable(format!("{}: no answer within {within:?}", self.root.display()))),
        }
    }

    /// Where a blob is kept.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join("sha256").join(digest.hex())
    }

    /// Whether a blob is there.
    pub(super) fn has(&self, digest: &Digest) -> Result<(), Fault> {
        let path = self.path(digest);
        if path.is_file() { Ok(()) } else { Err(Fault::NotFound(path.display().to_string())) }
    }

    /// A blob of at most `limit` bytes, not yet hashed.
    pub(super) fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Fault> {
        read(&self.path(digest), limit)
    }

    /// The manifest under a tag, if the index has that tag.
    pub(super) fn tagged(&self, tag: &str) -> Result<Option<Vec<u8>>, Fault> {
        let index = self.index()?;
        let entry = index
            .manifests
            .iter()
            .rfind(|entry| entry.annotations.as_ref().and_then(|annotations| annotations.get(REF_NAME)).is_some_and(|name| name == tag));
        let Some(entry) = entry else { return Ok(None) };
        let digest: Digest = entry.digest.parse().map_err(|error| Fault::Malformed(format!("{}: {error}", self.root.display())))?;
        super::sound(&digest, self.blob(&digest, MAX_MANIFEST)?).map(Some)
    }

    /// The manifests in the index whose `subject` is this digest.
    pub(super) fn referrers(&self, subject: &Digest) -> Result<Vec<Listed>, Fault> {
        let index = self.index()?;
        if index.manifests.len() > MAX_ENTRIES {
            return Err(Fault::Malformed(format!("{} lists more than {MAX_ENTRIES} manifests", self.root.display())));
        }
        let mut found = Vec::new();
        for entry in index.manifests {
            let Ok(digest) = entry.digest.parse::<Digest>() else { continue };
            let manifest = match self.blob(&digest, MAX_MANIFEST) {
                Ok(bytes) => serde_json::from_slice::<OciImageManifest>(&bytes).ok(),
                Err(Fault::NotFound(_)) => None, // Not part of this copy; whoever needs it will miss it by name.
                Err(fault) => return Err(fault),
            };
            if manifest.and_then(|manifest| manifest.subject).is_some_and(|named| named.digest == subject.as_str()) {
                found.push(Listed { digest, artifact_type: entry.artifact_type });
            }
        }
        Ok(found)
    }

    fn index(&self) -> Result<OciImageIndex, Fault> {
        let path = self.root.join("index.json");
        let bytes = read(&path, MAX_MANIFEST).map_err(|fault| match fault {
            // Without its index, a folder says nothing about what is attached to an image.
            Fault::NotFound(what) => Fault::Unavailable(format!("{what}: not an OCI image layout")),
            other => other,
        })?;
        serde_json::from_slice(&bytes).map_err(|error| Fault::Malformed(format!("{}: not an image index: {error}", path.display())))
    }
}

/// A whole file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Fault> {
    let named = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Fault::NotFound(path.display().to_string()),
        io::ErrorKind::PermissionDenied => Fault::Denied(path.display().to_string()),
        _ => Fault::Unavailable(format!("{}: {error}", path.display())),
    };
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(named)?;
    if bytes.len() as u64 > limit {
        return Err(Fault::Malformed(format!("{} has more than {limit} bytes", path.display())));
    }
    Ok(bytes)
}
