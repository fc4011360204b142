//! Whether an image could be pulled at this moment, without pulling it.

use serde_json::Value;

use super::{Collector, Fault, Source};
use crate::core::release::{Digest, Image};
use crate::core::spec::Artifacts;

/// Manifests of one index that are looked into.
const MAX_PLATFORMS: usize = 8;
/// Blobs that are asked for in all.
const MAX_BLOBS: usize = 256;

impl Collector {
    /// Asks for the manifests of `image`, and for each of their blobs whether it is there.
    ///
    /// # Errors
    /// The first thing that could not be had, and why.
    pub async fn reach(&self, image: &Image, artifacts: &Artifacts) -> Result<(), Fault> {
        let source = self.open(image, artifacts, self.patience.collect).await?;
        let mut manifests = vec![image.digest.clone()];
        let mut asked = 0;
        while let Some(digest) = manifests.pop() {
            let manifest: Value = serde_json::from_slice(&source.manifest(&digest).await?)
                .map_err(|error| Fault::Malformed(format!("{digest} is no manifest: {error}")))?;
            if let Some(entries) = manifest["manifests"].as_array() {
                // Attestations ride in an index as platforms that nobody runs.
                let runs = |entry: &&Value| entry["platform"]["os"] != "unknown";
                let listed = entries.iter().filter(runs).take(MAX_PLATFORMS).map(digest_of);
                manifests.extend(listed.collect::<Result<Vec<_>, _>>()?);
            }
            let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
            for blob in manifest.get("config").into_iter().chain(layers) {
                asked += 1;
                if asked > MAX_BLOBS {
                    return Ok(());
                }
                source.has(&digest_of(blob)?).await?;
            }
        }
        Ok(())
    }
}

fn digest_of(descriptor: &Value) -> Result<Digest, Fault> {
    let text = descriptor["digest"].as_str().unwrap_or_default();
    text.parse().map_err(|error| Fault::Malformed(format!("{error}")))
}

impl Source {
    /// Whether a blob is there: its bytes stay where they are.
    async fn has(&self, digest: &Digest) -> Result<(), Fault> {
        match self {
            Self::Layout(layout, within) => layout.read(*within, digest, super::Layout::has).await,
            Self::Remote(remote) => remote.has(digest).await,
        }
    }
}
