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

/// Tells the writers of one process apart, so that no two share a partial file.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// The artifact, if all of it is in `content` already, every byte as it should be.
pub(super) async fn present(image: &Image, content: &Path) -> Option<Pulled> {
    let local = Source::Layout(Layout::new(content), Patience::default().read);
    let manifest = parse(image, &local.manifest(&image.digest).await.ok()?).ok()?;
    let blobs = content.join("blobs").join("sha256");
    for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
        let digest: Digest = descriptor.digest.parse().ok()?;
        if !holds(&blobs.join(digest.hex()), &digest, u64::try_from(descriptor.size).ok()?).await {
            return None;
        }
    }
    let layers = manifest.layers.iter().filter_map(|layer| Some(blobs.join(layer.digest.parse::<Digest>().ok()?.hex())));
    Some(Pulled { manifest: blobs.join(image.digest.hex()), layers: layers.collect(), fetched: 0 })
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
        let partial = partial(&blobs, &image.digest);
        let mut file = fs::File::create(&partial).await.map_err(|error| disk(&partial, &error))?;
        file.write_all(&bytes).await.map_err(|error| disk(&partial, &error))?;
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
    let partial = partial(blobs, &digest);
    let mut file = fs::File::create(&partial).await.map_err(|error| disk(&partial, &error))?;
    let copied = match source {
        Source::Remote(remote) => remote.copy_blob(&digest, size, &mut file).await,
        Source::Layout(layout, _) => copy_file(&layout.path(&digest), size, &mut file).await,
    };
    let checked = copied.and_then(|(got, actual)| {
        if actual != digest {
            return Err(Fault::Malformed(format!("asked for {digest}, got bytes that hash to {actual}")));
        }
        if got != size {
            return Err(Fault::Malformed(format!("{digest} has {got} bytes where the manifest says {size}")));
        }
        Ok(())
    });
    if let Err(fault) = checked {
        drop(file);
        // The name is ours alone; a leftover would only take up room.
        let _ = fs::remove_file(&partial).await;
        return Err(fault);
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
async fn finish(mut file: fs::File, partial: &Path, path: &Path) -> Result<(), Fault> {
    file.flush().await.map_err(|error| disk(partial, &error))?;
    file.sync_all().await.map_err(|error| disk(partial, &error))?;
    fs::rename(partial, path).await.map_err(|error| disk(path, &error))
}

fn partial(blobs: &Path, digest: &Digest) -> PathBuf {
    blobs.join(format!("{}.{}.{}.partial", digest.hex(), std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed)))
}

fn disk(path: &Path, error: &std::io::Error) -> Fault {
    Fault::Unavailable(format!("{}: {error}", path.display()))
}
