//! Copies an artifact by digest into a folder.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use oci_distribution::manifest::{OciDescriptor, OciImageManifest};
use sha2::{Digest as _, Sha256};
use tokio::fs;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::layout::Layout;
use super::{Fault, MAX_ARTIFACT_LAYER, MAX_LAYERS, Patience, Source};
use crate::core::release::{Digest, Image, hex};

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The manifest's file.
    pub manifest: PathBuf,
    /// Files of the layers, in order.
    pub layers: Vec<PathBuf>,
    /// Blobs that had to be fetched; 0 if all was there.
    pub fetched: usize,
}

/// How the names of files end that are being written: `<hex>.<process>.<number>.partial`.
const PARTIAL: &str = ".partial";

/// Tells the writers of one process apart, so that no two share a partial file.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// The artifact, if all of it is in `content` already, every byte as it should be.
pub(super) async fn present(image: &Image, content: &Path) -> Option<Pulled> {
    let parts = parts(image, content).await?;
    for (path, digest, size) in &parts {
        if !holds(path, digest, *size).await {
            return None;
        }
    }
    let manifest = content.join("blobs").join("sha256").join(image.digest.hex());
    Some(Pulled { manifest, layers: parts.into_iter().skip(1).map(|(path, ..)| path).collect(), fetched: 0 })
}

/// Whether the artifact is in `content`, every file as long as it should be.
pub(super) async fn keeps(image: &Image, content: &Path) -> bool {
    let Some(parts) = parts(image, content).await else { return false };
    for (path, _, size) in parts {
        if !fs::metadata(&path).await.is_ok_and(|found| found.is_file() && found.len() == size) {
            return false;
        }
    }
    true
}

/// Where in `content` config and layers of the artifact belong, by the manifest that is there: path, digest and size of each.
async fn parts(image: &Image, content: &Path) -> Option<Vec<(PathBuf, Digest, u64)>> {
    let local = Source::Layout(Layout::new(content), Patience::default().read);
    let manifest = parse(image, &local.manifest(&image.digest).await.ok()?).ok()?;
    let blobs = content.join("blobs").join("sha256");
    let part = |descriptor: &OciDescriptor| {
        let digest: Digest = descriptor.digest.parse().ok()?;
        Some((blobs.join(digest.hex()), digest, u64::try_from(descriptor.size).ok()?))
    };
    std::iter::once(&manifest.config).chain(&manifest.layers).map(part).collect()
}

/// Copies what is not in `content` yet.
pub(super) async fn pull(source: &Source, image: &Image, content: &Path) -> Result<Pulled, Fault> {
    let blobs = content.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).await.map_err(|error| disk(&blobs, &error))?;
    let bytes = source.manifest(&image.digest).await?;
    let manifest = parse(image, &bytes)?;
    let mut layers = Vec::new();
    let mut fetched = 0;
    for (at, descriptor) in std::iter::once(&manifest.config).chain(&manifest.layers).enumerate() {
        let (path, new) = blob(source, descriptor, &blobs).await?;
        fetched += usize::from(new);
        if at > 0 {
            layers.push(path);
        }
    }
    let path = blobs.join(image.digest.hex());
    if !holds(&path, &image.digest, bytes.len() as u64).await {
        let (mut file, partial) = Partial::create(&blobs, &image.digest).await?;
        file.write_all(&bytes).await.map_err(|error| disk(&partial.0, &error))?;
        finish(file, &partial, &path).await?;
        fetched += 1;
    }
    Ok(Pulled { manifest: path, layers, fetched })
}

fn parse(image: &Image, bytes: &[u8]) -> Result<OciImageManifest, Fault> {
    let manifest: OciImageManifest = serde_json::from_slice(bytes).map_err(|error| {
        Fault::Malformed(format!(
            "{image} is not the manifest of one artifact: {error}; name the manifest for this platform if it is an index"
        ))
    })?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Fault::Malformed(format!("{image} has {} layers, more than {MAX_LAYERS}", manifest.layers.len())));
    }
    Ok(manifest)
}

/// Makes sure that a blob is in `blobs`, and says whether it had to be fetched.
async fn blob(source: &Source, descriptor: &OciDescriptor, blobs: &Path) -> Result<(PathBuf, bool), Fault> {
    let digest: Digest = descriptor.digest.parse().map_err(|error| Fault::Malformed(format!("{error}")))?;
    let size = u64::try_from(descriptor.size).ok().filter(|&size| size <= MAX_ARTIFACT_LAYER);
    let size = size.ok_or_else(|| {
        Fault::Malformed(format!("{digest} says that it has {} bytes; expected 0 to {MAX_ARTIFACT_LAYER}", descriptor.size))
    })?;
    let path = blobs.join(digest.hex());
    if holds(&path, &digest, size).await {
        return Ok((path, false));
    }
    let (mut file, partial) = Partial::create(blobs, &digest).await?;
    let (got, actual) = match source {
        Source::Remote(remote) => remote.copy_blob(&digest, size, &mut file).await?,
        Source::Layout(layout, _) => copy_file(&layout.path(&digest), size, &mut file).await?,
    };
    if actual != digest {
        return Err(Fault::Malformed(format!("asked for {digest}, got bytes that hash to {actual}")));
    }
    if got != size {
        return Err(Fault::Malformed(format!("{digest} has {got} bytes where the manifest says {size}")));
    }
    finish(file, &partial, &path).await?;
    Ok((path, true))
}

/// Whether `path` holds exactly these bytes already.
async fn holds(path: &Path, digest: &Digest, size: u64) -> bool {
    match fs::metadata(path).await {
        Ok(found) if found.len() == size => copy_file(path, size, &mut tokio::io::sink()).await.is_ok_and(|(_, actual)| &actual == digest),
        _ => false,
    }
}

async fn copy_file(path: &Path, limit: u64, out: &mut (impl tokio::io::AsyncWrite + Unpin)) -> Result<(u64, Digest), Fault> {
    let mut file = fs::File::open(path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::NotFound(path.display().to_string()),
        _ => disk(path, &error),
    })?;
    let (mut size, mut hash, mut buffer) = (0, Sha256::new(), vec![0; 64 << 10]);
    loop {
        let read = file.read(&mut buffer).await.map_err(|error| disk(path, &error))?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > limit {
            return Err(Fault::Malformed(format!("{} has more than {limit} bytes", path.display())));
        }
        hash.update(&buffer[..read]);
        out.write_all(&buffer[..read]).await.map_err(|error| disk(path, &error))?;
    }
    let digest = format!("sha256:{}", hex(&hash.finalize())).parse().map_err(|error| Fault::Malformed(format!("{error}")))?;
    Ok((size, digest))
}

/// Syncs a partial file and gives it its name.
async fn finish(mut file: fs::File, partial: &Partial, path: &Path) -> Result<(), Fault> {
    file.flush().await.map_err(|error| disk(&partial.0, &error))?;
    file.sync_all().await.map_err(|error| disk(&partial.0, &error))?;
    fs::rename(&partial.0, path).await.map_err(|error| disk(path, &error))
}

/// A file that is being written under a name of its own; what did not get its real name is gone with this, however the writing ended.
struct Partial(PathBuf);

impl Partial {
    async fn create(blobs: &Path, digest: &Digest) -> Result<(fs::File, Self), Fault> {
        let number = WRITERS.fetch_add(1, Ordering::Relaxed);
        let partial = Self(blobs.join(format!("{}.{}.{number}{PARTIAL}", digest.hex(), std::process::id())));
        let file = fs::File::create(&partial.0).await.map_err(|error| disk(&partial.0, &error))?;
        Ok((file, partial))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes from `content` what processes left half-written that are no more. To be called before this process pulls anything.
pub async fn sweep(content: &Path) {
    let Ok(mut entries) = fs::read_dir(content.join("blobs").join("sha256")).await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let left = entry.file_name().to_str().and_then(writer_of).is_some_and(is_over);
        if left && let Err(error) = fs::remove_file(entry.path()).await {
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove a part of an artifact that nobody needs");
        }
    }
}

/// The process that writes, or wrote, the partial file `name`.
fn writer_of(name: &str) -> Option<u32> {
    name.strip_suffix(PARTIAL)?.split('.').nth(1)?.parse().ok()
}

/// Whether a process that wrote earlier is no more; in a container, where ids are few, it may have had our own.
fn is_over(process: u32) -> bool {
    process == std::process::id() || !Path::new("/proc").join(process.to_string()).exists()
}

fn disk(path: &Path, error: &std::io::Error) -> Fault {
    Fault::Unavailable(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_dead_process_left_half_written_is_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let file = |process: u32| format!("{}.{process}.0.partial", "a".repeat(64));
        let (left, ours, alive) = (file(dead.id()), file(std::process::id()), file(1));
        for name in [&left, &ours, &alive, &"b".repeat(64)] {
            std::fs::write(blobs.join(name), b"x").unwrap();
        }
        sweep(folder.path()).await;
        let mut names: Vec<_> = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [alive, "b".repeat(64)]);
        sweep(&folder.path().join("missing")).await;
    }

    #[tokio::test]
    async fn a_pull_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, partial) = Partial::create(folder.path(), &Digest::of(b"x")).await.unwrap();
        file.write_all(b"x").await.unwrap();
        let path = partial.0.clone();
        assert!(path.exists());
        let writing = tokio::spawn(async move {
            let _kept = (file, partial);
            std::future::pending::<()>().await;
        });
        writing.abort();
        assert!(writing.await.unwrap_err().is_cancelled() && !path.exists());
    }
}
