//! Blobs by digest from a folder in OCI image layout form (`blobs/sha256/<hex>`), every byte verified.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::unpack::{Fault, Limits};
use crate::core::release::{Digest, hex};

/// A folder that holds `blobs/sha256/…`: an image layout somebody made, or the content store that the controller fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactStore {
    root: PathBuf,
}

/// What a manifest says of a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// What the bytes are.
    pub(crate) media_type: String,
    /// Which bytes.
    pub(crate) digest: Digest,
    /// How many.
    pub(crate) size: u64,
}

/// The part of an OCI image manifest that matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// Absent in what older tools wrote.
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    /// The layers, lowest first. An index has none.
    #[serde(default)]
    pub(crate) layers: Option<Vec<Descriptor>>,
}

impl ArtifactStore {
    /// The store in the folder `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the blob of `digest` lies, or belongs.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join("sha256").join(digest.hex())
    }

    /// The manifest of `digest`, verified.
    pub(crate) fn manifest(&self, digest: &Digest, limits: &Limits) -> Result<Manifest, Fault> {
        let path = self.blob_path(digest);
        let file = open(&path, digest)?;
        let mut bytes = Vec::new();
        file.take(limits.manifest_bytes + 1).read_to_end(&mut bytes).map_err(|error| Fault::read(&path, &error))?;
        if bytes.len() as u64 > limits.manifest_bytes {
            return Err(Fault::Limit(format!("manifest {digest} has more than {} bytes", limits.manifest_bytes)));
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Fault::Forged(format!("manifest {digest}: the bytes in {} are {found}", path.display())));
        }
        serde_json::from_slice(&bytes).map_err(|error| Fault::Invalid(format!("manifest {digest} is not an OCI manifest: {error}")))
    }

    /// The blob that `descriptor` names: its size and hash are verified before a byte is handed out, and once more as
    /// it is read (see [`Verified::finish`]), because the file is not ours alone.
    pub(crate) fn blob(&self, descriptor: &Descriptor, limits: &Limits) -> Result<Verified, Fault> {
        if descriptor.size > limits.blob_bytes {
            let what = format!("layer {} has {} bytes, more than {}", descriptor.digest, descriptor.size, limits.blob_bytes);
            return Err(Fault::Limit(what));
        }
        let path = self.blob_path(&descriptor.digest);
        let file = open(&path, &descriptor.digest)?;
        let mut first = Verified::new(file, descriptor.clone());
        let mut file = first.finish()?;
        file.rewind().map_err(|error| Fault::read(&path, &error))?;
        Ok(Verified::new(file, descriptor.clone()))
    }
}

fn open(path: &Path, digest: &Digest) -> Result<File, Fault> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing(format!("blob {digest} is not in the store: no file {}", path.display())),
        _ => Fault::read(path, &error),
    })?;
    let regular = file.metadata().map_err(|error| Fault::read(path, &error))?.is_file();
    if regular { Ok(file) } else { Err(Fault::Invalid(format!("{} is not a regular file", path.display()))) }
}

/// A reader of a blob that hashes what it hands out and never hands out more than the manifest says.
#[derive(Debug)]
pub(crate) struct Verified {
    file: Option<File>,
    descriptor: Descriptor,
    hash: Sha256,
    read: u64,
}

impl Verified {
    fn new(file: File, descriptor: Descriptor) -> Self {
        Self { file: Some(file), descriptor, hash: Sha256::new(), read: 0 }
    }

    /// Reads the rest and compares size and hash. Gives the file back.
    pub(crate) fn finish(&mut self) -> Result<File, Fault> {
        let digest = self.descriptor.digest.clone();
        let damaged = |error: &io::Error| Fault::Invalid(format!("layer {digest} cannot be read: {error}"));
        io::copy(self, &mut io::sink()).map_err(|error| damaged(&error))?;
        let mut file = self.file.take().ok_or_else(|| Fault::Invalid(format!("layer {digest} was read twice")))?;
        let more = file.read(&mut [0]).map_err(|error| damaged(&error))?;
        if more > 0 || self.read != self.descriptor.size {
            let what = format!("layer {digest} has {} {} bytes", if more > 0 { "more than" } else { "only" }, self.read);
            return Err(Fault::Forged(format!("{what}, its manifest says {}", self.descriptor.size)));
        }
        let found = hex(&self.hash.finalize_reset());
        if found == digest.hex() { Ok(file) } else { Err(Fault::Forged(format!("layer {digest}: its bytes are sha256:{found}"))) }
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.descriptor.size - self.read).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let Some(file) = &mut self.file else { return Ok(0) };
        let count = file.read(&mut buffer[..wanted])?;
        self.hash.update(&buffer[..count]);
        self.read += count as u64;
        Ok(count)
    }
}
