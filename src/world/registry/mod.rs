//! Where artifacts and their evidence are: a registry, or an OCI image layout folder.
//!
//! "There is none" and "there was no answer" are kept apart everywhere. Every byte is hashed here, whatever the other
//! side says it is, and every answer has a size limit and a deadline.

mod fault;
mod layout;
mod pull;
mod reach;
mod reference;
mod remote;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use oci_distribution::manifest::{OciDescriptor, OciImageIndex, OciImageManifest};

pub use self::fault::Fault;
use self::layout::Layout;
pub use self::pull::{Pulled, sweep};
use self::remote::Remote;
pub use self::remote::{Credentials, Login};
use super::evidence::{Attachment, Evidence, Via};
use super::verify;
use crate::core::release::{Digest, Image};
use crate::core::spec::Artifacts;

/// No manifest or index is larger, in bytes.
const MAX_MANIFEST: u64 = 4 << 20;
/// So many referrers of an image are looked at, the likeliest first.
const MAX_REFERRERS: usize = 64;
/// So many layers of a referrer or of a signature tag are looked at.
const MAX_LAYERS: usize = 64;
/// Evidence of one image is no larger in all, in bytes: anybody who can push can attach more.
const MAX_EVIDENCE: u64 = 64 << 20;
/// No layer of an artifact is larger, in bytes.
const MAX_ARTIFACT_LAYER: u64 = 4 << 30;

/// How long the other side may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// For all evidence of one image.
    pub collect: Duration,
    /// For all bytes of one artifact. Less than what a rollout waits for an effect (ten minutes), so that a registry which is too slow
    /// is what people are told of.
    pub pull: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(10),
            collect: Duration::from_secs(30),
            pull: Duration::from_mins(9),
        }
    }
}

/// Collects evidence and pulls artifacts. Cheap to clone; connections are shared.
#[derive(Clone)]
pub struct Collector {
    clients: remote::Clients,
    credentials: Credentials,
    patience: Patience,
}

/// What a manifest or an index says about another: which bytes, and what kind they may be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    digest: Digest,
    /// A hint that nobody signed.
    artifact_type: Option<String>,
}

/// The two places, opened for one image.
enum Source {
    /// Read on threads that may block, for this long: folders can hang as registries can.
    Layout(Layout, Duration),
    Remote(Box<Remote>),
}

impl Collector {
    /// A collector that logs in with `credentials`.
    ///
    /// # Errors
    /// The TLS roots of this machine cannot be read.
    pub fn new(credentials: Credentials, patience: Patience) -> Result<Self, Fault> {
        Ok(Self { clients: remote::Clients::new(patience)?, credentials, patience })
    }

    /// Everything attached to `image` that may prove something.
    ///
    /// Never fails: what could not be had is named in `incomplete`.
    pub async fn collect(&self, image: &Image, artifacts: &Artifacts) -> Evidence {
        let mut evidence = Evidence::new(image.clone(), place(image, artifacts));
        match self.open(image, artifacts, self.patience.collect).await {
            Ok(source) => gather(&source, &mut evidence).await,
            Err(fault) => evidence.lacks(format!("{}: {fault}", evidence.collected_from.clone())),
        }
        evidence
    }

    /// Copies the artifact `image` (manifest, config and layers) into `content` as `blobs/sha256/<hex>`.
    ///
    /// Sizes and digests of all bytes are checked; files appear complete or not at all, the manifest last, so that
    /// its presence means that all is there. What is there already and sound is not fetched again; if that is all of
    /// it, nobody is asked, so that going back needs no registry.
    pub async fn pull(&self, image: &Image, artifacts: &Artifacts, content: &Path) -> Result<Pulled, Fault> {
        if let Some(pulled) = pull::present(image, content).await {
            return Ok(pulled);
        }
        let source = self.open(image, artifacts, self.patience.pull).await?;
        pull::pull(&source, image, content).await
    }

    /// Whether all of the artifact is in `content`, by the sizes of its files: what [`pull`](Self::pull) would not ask for, as far as
    /// can be told without reading every byte.
    pub async fn keeps(image: &Image, content: &Path) -> bool {
        pull::keeps(image, content).await
    }

    async fn open(&self, image: &Image, artifacts: &Artifacts, within: Duration) -> Result<Source, Fault> {
        match artifacts {
            Artifacts::Layout { path } => Ok(Source::Layout(Layout::new(path), within)),
            Artifacts::Registry {} => Remote::open(&self.clients, image, &self.credentials, within).await.map(Box::new).map(Source::Remote),
        }
    }
}

/// For people: where `image` is kept.
fn place(image: &Image, artifacts: &Artifacts) -> String {
    match artifacts {
        Artifacts::Layout { path } => path.clone(),
        Artifacts::Registry {} => image.repository.split('/').next().unwrap_or_default().to_owned(),
    }
}

impl Source {
    /// The manifest with this digest; the bytes hash to it.
    async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let bytes = match self {
            Self::Layout(layout, within) => layout.read(*within, digest, |layout, digest| layout.blob(digest, MAX_MANIFEST)).await?,
            Self::Remote(remote) => remote.manifest(digest.as_str()).await?,
        };
        sound(digest, bytes)
    }

    /// The manifest under a tag; nothing promises what it is.
    async fn tagged(&self, tag: &str) -> Result<Option<Vec<u8>>, Fault> {
        match self {
            Self::Layout(layout, within) => layout.read(*within, tag, Layout::tagged).await,
            Self::Remote(remote) => match remote.manifest(tag).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(Fault::NotFound(_)) => Ok(None),
                Err(fault) => Err(fault),
            },
        }
    }

    /// A blob of at most `limit` bytes; the bytes hash to its digest.
    async fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Fault> {
        let bytes = match self {
            Self::Layout(layout, within) => layout.read(*within, digest, move |layout, digest| layout.blob(digest, limit)).await?,
            Self::Remote(remote) => remote.blob(digest, limit).await?,
        };
        sound(digest, bytes)
    }

    /// The manifests that say that they refer to `subject`.
    async fn referrers(&self, subject: &Digest) -> Result<Vec<Listed>, Fault> {
        match self {
            Self::Layout(layout, within) => layout.read(*within, subject, Layout::referrers).await,
            Self::Remote(remote) => remote.referrers(subject).await,
        }
    }
}

/// `bytes`, if they hash to `digest`.
fn sound(digest: &Digest, bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let actual = Digest::of(&bytes);
    if &actual == digest { Ok(bytes) } else { Err(Fault::Malformed(format!("asked for {digest}, got bytes that hash to {actual}"))) }
}

/// Fills `evidence`: the image's manifest, its referrers, and cosign's older tags.
async fn gather(source: &Source, evidence: &mut Evidence) {
    let digest = evidence.image.digest.clone();
    match source.manifest(&digest).await {
        Ok(bytes) => evidence.manifest = Some(bytes),
        Err(fault) => return evidence.lacks(format!("the manifest of the image: {fault}")),
    }
    for listed in referrers(source, &digest, evidence).await {
        if evidence.size() > MAX_EVIDENCE {
            evidence.lacks(format!("there are more than {MAX_EVIDENCE} bytes of evidence; the rest was not looked at"));
            break;
        }
        match source.manifest(&listed.digest).await {
            Ok(bytes) => attach(source, Via::Referrer, bytes, evidence).await,
            Err(fault) => evidence.lacks(format!("the referrer {}: {fault}", listed.digest.short())),
        }
    }
    for suffix in ["sig", "att"] {
        let tag = format!("sha256-{}.{suffix}", digest.hex());
        match source.tagged(&tag).await {
            Ok(Some(bytes)) => attach(source, Via::Tag, bytes, evidence).await,
            Ok(None) => {}
            Err(fault) => evidence.lacks(format!("the tag sha256-….{suffix}: {fault}")),
        }
    }
}

/// The referrers worth a look: from the referrers list and from the tag that stands in for it on older registries.
async fn referrers(source: &Source, digest: &Digest, evidence: &mut Evidence) -> Vec<Listed> {
    let mut listed = Vec::new();
    match source.referrers(digest).await {
        Ok(found) => listed.extend(found),
        Err(Fault::NotFound(_)) => {} // A registry without that list.
        Err(fault) => evidence.lacks(format!("the list of referrers: {fault}")),
    }
    // Also where the list exists: what was attached before the registry had it is still under the tag.
    match source.tagged(&format!("sha256-{}", digest.hex())).await {
        // Some registries answer with the image itself for this tag; that lists no referrers.
        Ok(Some(bytes)) if &Digest::of(&bytes) != digest => match index_entries(&bytes) {
            Ok(found) => listed.extend(found),
            Err(fault) => evidence.lacks(format!("the referrers tag: {fault}")),
        },
        Ok(_) => {}
        Err(fault) => evidence.lacks(format!("the referrers tag: {fault}")),
    }
    let mut seen = BTreeSet::new();
    listed.retain(|one| seen.insert(one.digest.clone()) && &one.digest != digest);
    // Anybody who can push can add referrers: those that cannot be evidence by their own word come last.
    listed.sort_by_key(|one| match one.artifact_type.as_deref() {
        Some(kind) if verify::can_prove(kind) => 0,
        None | Some("application/vnd.oci.empty.v1+json") => 1,
        Some(_) => 2,
    });
    if listed.len() > MAX_REFERRERS {
        evidence.lacks(format!("the image has {} referrers; the {MAX_REFERRERS} likeliest were looked at", listed.len()));
        listed.truncate(MAX_REFERRERS);
    }
    listed
}

/// The manifests that an index lists. Entries with another kind of digest are left out: they cannot be asked for.
fn index_entries(bytes: &[u8]) -> Result<Vec<Listed>, Fault> {
    let index: OciImageIndex = serde_json::from_slice(bytes).map_err(|error| Fault::Malformed(format!("not an image index: {error}")))?;
    let entries = index.manifests.into_iter();
    Ok(entries.filter_map(|entry| Some(Listed { digest: entry.digest.parse().ok()?, artifact_type: entry.artifact_type })).collect())
}

/// Takes in a manifest and those of its layers that may prove something.
async fn attach(source: &Source, via: Via, manifest: Vec<u8>, evidence: &mut Evidence) {
    let mut layers = Vec::new();
    // What is not a manifest, or refers to another image, is kept without layers: verification says why it does not count.
    if let Ok(parsed) = serde_json::from_slice::<OciImageManifest>(&manifest) {
        let ours = via == Via::Tag || parsed.subject.as_ref().is_some_and(|subject| subject.digest == evidence.image.digest.as_str());
        let worth: Vec<_> = parsed.layers.iter().filter(|layer| ours && verify::can_prove(&layer.media_type)).collect();
        if worth.len() > MAX_LAYERS {
            evidence.lacks(format!("{} has {} layers; {MAX_LAYERS} were looked at", Digest::of(&manifest).short(), worth.len()));
        }
        let mut room = MAX_EVIDENCE.saturating_sub(evidence.size());
        for layer in worth.into_iter().take(MAX_LAYERS) {
            match fetch_layer(source, layer, room.min(verify::MAX_LAYER)).await {
                Ok(bytes) => {
                    room = room.saturating_sub(bytes.len() as u64);
                    layers.push(bytes);
                }
                Err(fault) => evidence.lacks(format!("a layer of {}: {fault}", Digest::of(&manifest).short())),
            }
        }
    }
    evidence.attachments.push(Attachment { via, manifest, layers });
}

async fn fetch_layer(source: &Source, layer: &OciDescriptor, limit: u64) -> Result<Vec<u8>, Fault> {
    let digest: Digest = layer.digest.parse().map_err(|error| Fault::Malformed(format!("{error}")))?;
    if u64::try_from(layer.size).is_ok_and(|size| size > limit) {
        return Err(Fault::Malformed(format!("says that it has {} bytes, more than {limit}", layer.size)));
    }
    source.blob(&digest, limit).await
}
