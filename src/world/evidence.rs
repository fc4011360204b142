//! Evidence: the bytes that prove an attestation, kept so that they can be verified again without any network.
//!
//! On disk each piece is a file named by its SHA-256, and so is the capsule, a JSON list of the pieces:
//! whoever keeps the capsule's digest has fixed every byte below it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::core::release::{Digest, Image};

/// The evidence for one image as it was collected. Nothing in it has been verified beyond the digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Which image.
    pub image: Image,
    /// Where it came from: a registry's host or a folder.
    pub collected_from: String,
    /// The image's own manifest; absent if it could not be had.
    pub manifest: Option<Vec<u8>>,
    /// What was attached to the image.
    pub attachments: Vec<Attachment>,
    /// Why there may be more than this.
    pub incomplete: Option<String>,
}

/// One manifest attached to an image, with the layers that were worth having.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// How it was found.
    pub via: Via,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Layers of the manifest, by digest. Those of a kind that proves nothing are left out.
    pub layers: Vec<Vec<u8>>,
}

/// How an attachment was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Via {
    /// Listed as a referrer: its `subject` must be the image.
    Referrer,
    /// Under the tag `sha256-….sig` or `sha256-….att`, where only the signed payload names the image.
    Tag,
}

impl Evidence {
    /// No evidence yet for `image`.
    pub fn new(image: Image, collected_from: impl Into<String>) -> Self {
        Self { image, collected_from: collected_from.into(), manifest: None, attachments: Vec::new(), incomplete: None }
    }

    /// Bytes of all pieces together.
    pub(crate) fn size(&self) -> u64 {
        let attached = self.attachments.iter().flat_map(|attachment| attachment.layers.iter().chain([&attachment.manifest]));
        attached.chain(&self.manifest).map(|bytes| bytes.len() as u64).sum()
    }

    /// Notes why there may be more evidence than this; the first three reasons are kept.
    pub fn lacks(&mut self, why: impl AsRef<str>) {
        let why = why.as_ref();
        match &mut self.incomplete {
            None => self.incomplete = Some(why.to_owned()),
            Some(before) if before.matches("; ").count() < 2 && !before.contains(why) => {
                before.push_str("; ");
                before.push_str(why);
            }
            Some(_) => {}
        }
    }
}

/// Why stored evidence cannot be used, or stored.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A file is not there.
    #[error("evidence gone: {0} is not in the evidence folder")]
    Gone(Digest),
    /// A file does not hold the bytes that its name promises.
    #[error("evidence changed: the bytes kept as {0} now hash to {1}")]
    Changed(Digest, Digest),
    /// A file is larger than anything that is ever stored.
    #[error("evidence changed: {0} is larger than {MAX_PIECE} bytes")]
    TooLarge(Digest),
    /// The capsule is not a capsule.
    #[error("{0} is not an evidence capsule: {1}")]
    Malformed(Digest, String),
    /// The disk failed.
    #[error("{path}: {source}", path = .0.display(), source = .1)]
    Disk(PathBuf, #[source] io::Error),
}

/// No stored file is larger, in bytes.
const MAX_PIECE: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Capsule {
    image: Image,
    collected_from: String,
    manifest: Option<Digest>,
    attachments: Vec<StoredAttachment>,
    incomplete: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredAttachment {
    via: Via,
    manifest: Digest,
    layers: Vec<Digest>,
}

/// Stores `evidence` under `dir` and returns the digest of its capsule. Storing the same evidence again changes nothing.
///
/// Every file is complete and synced before the capsule that names it appears.
pub fn store_evidence(dir: &Path, evidence: &Evidence) -> Result<Digest, EvidenceError> {
    let attachments = evidence.attachments.iter().map(|attachment| {
        Ok(StoredAttachment {
            via: attachment.via,
            manifest: store(dir, &attachment.manifest)?,
            layers: attachment.layers.iter().map(|layer| store(dir, layer)).collect::<Result<_, _>>()?,
        })
    });
    let capsule = Capsule {
        image: evidence.image.clone(),
        collected_from: evidence.collected_from.clone(),
        manifest: evidence.manifest.as_deref().map(|bytes| store(dir, bytes)).transpose()?,
        attachments: attachments.collect::<Result<_, EvidenceError>>()?,
        incomplete: evidence.incomplete.clone(),
    };
    // Struct fields are written in their order, so the same evidence always has the same capsule.
    let bytes = serde_json::to_vec(&capsule).map_err(|error| EvidenceError::Disk(dir.to_owned(), error.into()))?;
    store(dir, &bytes)
}

/// Loads the evidence whose capsule has this digest. Every hash is computed again.
///
/// # Errors
/// A changed or missing byte anywhere is an error; no part of such evidence is returned.
pub fn load_evidence(dir: &Path, digest: &Digest) -> Result<Evidence, EvidenceError> {
    let bytes = load(dir, digest)?;
    let capsule: Capsule = serde_json::from_slice(&bytes).map_err(|error| EvidenceError::Malformed(digest.clone(), error.to_string()))?;
    let attachments = capsule.attachments.iter().map(|stored| {
        Ok(Attachment {
            via: stored.via,
            manifest: load(dir, &stored.manifest)?,
            layers: stored.layers.iter().map(|layer| load(dir, layer)).collect::<Result<_, _>>()?,
        })
    });
    Ok(Evidence {
        manifest: capsule.manifest.as_ref().map(|manifest| load(dir, manifest)).transpose()?,
        attachments: attachments.collect::<Result<_, EvidenceError>>()?,
        image: capsule.image,
        collected_from: capsule.collected_from,
        incomplete: capsule.incomplete,
    })
}

/// Every piece of the evidence whose capsule has this digest, the capsule first.
///
/// # Errors
/// As of [`load_evidence`].
pub fn pieces(dir: &Path, digest: &Digest) -> Result<Vec<Vec<u8>>, EvidenceError> {
    let evidence = load_evidence(dir, digest)?;
    let mut pieces = vec![load(dir, digest)?];
    pieces.extend(evidence.manifest);
    pieces.extend(evidence.attachments.into_iter().flat_map(|attachment| attachment.layers.into_iter().chain([attachment.manifest])));
    Ok(pieces)
}

/// Where bytes with this digest are kept under `dir`.
pub(crate) fn path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("sha256").join(&digest.hex()[..2]).join(digest.hex())
}

/// Keeps `bytes` under their digest, unless they are there already.
pub(crate) fn store(dir: &Path, bytes: &[u8]) -> Result<Digest, EvidenceError> {
    let digest = Digest::of(bytes);
    if load(dir, &digest).is_ok() {
        return Ok(digest);
    }
    let path = path(dir, &digest);
    let write = || {
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder)?;
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
        let partial = folder.join(format!("{}.{}.{writer}.partial", digest.hex(), std::process::id()));
        let mut file = fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| EvidenceError::Disk(path.clone(), error))?;
    Ok(digest)
}

/// Tells the writers of one process apart, so that no two share a partial file.
static WRITERS: AtomicU64 = AtomicU64::new(0);

fn load(dir: &Path, digest: &Digest) -> Result<Vec<u8>, EvidenceError> {
    let path = path(dir, digest);
    let file = fs::File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => EvidenceError::Gone(digest.clone()),
        _ => EvidenceError::Disk(path.clone(), error),
    })?;
    let mut bytes = Vec::new();
    file.take(MAX_PIECE + 1).read_to_end(&mut bytes).map_err(|error| EvidenceError::Disk(path, error))?;
    if bytes.len() as u64 > MAX_PIECE {
        return Err(EvidenceError::TooLarge(digest.clone()));
    }
    let actual = Digest::of(&bytes);
    if &actual == digest { Ok(bytes) } else { Err(EvidenceError::Changed(digest.clone(), actual)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        let manifest = br#"{"schemaVersion":2}"#.to_vec();
        let image = Image { repository: "r.example/a".to_owned(), digest: Digest::of(&manifest) };
        let mut evidence = Evidence::new(image, "r.example");
        evidence.manifest = Some(manifest);
        evidence.attachments.push(Attachment { via: Via::Tag, manifest: b"{}".to_vec(), layers: vec![b"one".to_vec(), b"two".to_vec()] });
        evidence
    }

    #[test]
    fn what_was_stored_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let digest = store_evidence(dir.path(), &evidence()).unwrap();
        assert_eq!(load_evidence(dir.path(), &digest).unwrap(), evidence());
        assert_eq!(store_evidence(dir.path(), &evidence()).unwrap(), digest, "again is as if once");
        assert_eq!(fs::read_dir(dir.path().join("sha256")).unwrap().count(), 5);
    }

    #[test]
    fn any_changed_or_missing_byte_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let digest = store_evidence(dir.path(), &evidence()).unwrap();
        let folders = fs::read_dir(dir.path().join("sha256")).unwrap().map(|entry| entry.unwrap().path());
        for file in folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())) {
            let bytes = fs::read(&file).unwrap();
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                fs::write(&file, changed).unwrap();
                let error = load_evidence(dir.path(), &digest).unwrap_err().to_string();
                assert!(error.starts_with("evidence changed: "), "{error}");
            }
            fs::remove_file(&file).unwrap();
            assert!(matches!(load_evidence(dir.path(), &digest), Err(EvidenceError::Gone(_))));
            fs::write(&file, &bytes).unwrap();
        }
        assert!(load_evidence(dir.path(), &digest).is_ok());
    }

    #[test]
    fn storing_mends_what_had_changed() {
        let dir = tempfile::tempdir().unwrap();
        let digest = store_evidence(dir.path(), &evidence()).unwrap();
        fs::write(path(dir.path(), &digest), b"other").unwrap();
        store_evidence(dir.path(), &evidence()).unwrap();
        assert!(load_evidence(dir.path(), &digest).is_ok());
    }

    #[test]
    fn a_piece_that_is_no_capsule_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let digest = store(dir.path(), b"{}").unwrap();
        assert!(matches!(load_evidence(dir.path(), &digest), Err(EvidenceError::Malformed(..))));
    }

    #[test]
    fn the_first_gaps_are_kept() {
        let mut evidence = evidence();
        for why in ["one", "one", "two", "three", "four"] {
            evidence.lacks(why);
        }
        assert_eq!(evidence.incomplete.as_deref(), Some("one; two; three"));
    }
}
