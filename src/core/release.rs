//! What is deployed: images by digest, templates, and the release that is their hash.

mod template;

pub use template::{Pod, PodError, Process, Template};

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::text::text_serde;

/// A content digest: `sha256:` and 64 lower-case hex digits. Nothing else names bytes here; tags never do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// Why a text is not a [`Digest`] or an [`Image`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceError {
    /// Not `sha256:` and 64 lower-case hex digits.
    Digest(String),
    /// A tag, or nothing, where a digest belongs.
    NotPinned(String),
    /// No repository before the `@`.
    NoRepository(String),
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(text) => write!(f, "`{text}` is not a digest: expected `sha256:` and 64 lower-case hex digits"),
            Self::NotPinned(text) => {
                let repository = without_tag(text);
                write!(
                    f,
                    "`{text}` does not name its bytes: expected `repository@sha256:…`; resolve it first, for example with `{repository}@$(crane digest {text})`"
                )
            }
            Self::NoRepository(text) => write!(f, "`{text}` has no repository before the `@`"),
        }
    }
}

impl std::error::Error for ReferenceError {}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(&Sha256::digest(bytes))))
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits alone.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl FromStr for Digest {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        if valid { Ok(Self(text.to_owned())) } else { Err(ReferenceError::Digest(text.to_owned())) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image or artifact by digest: `repository@sha256:…`. A tag is not representable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Image {
    /// Where it is kept, without scheme: `registry.example/shop/checkout`.
    pub repository: String,
    /// Which bytes.
    pub digest: Digest,
}

impl FromStr for Image {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((repository, digest)) = text.rsplit_once('@') else { return Err(ReferenceError::NotPinned(text.to_owned())) };
        if repository.is_empty() {
            return Err(ReferenceError::NoRepository(text.to_owned()));
        }
        // `repository:tag@sha256:…` is common, and the tag decides nothing anywhere.
        Ok(Self { repository: without_tag(repository).to_owned(), digest: digest.parse()? })
    }
}

/// A reference without its tag; the port of a registry is no tag.
fn without_tag(text: &str) -> &str {
    let name = text.rfind('/').map_or(0, |slash| slash + 1);
    text[name..].find(':').map_or(text, |colon| &text[..name + colon])
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.digest)
    }
}

text_serde!(Digest, "Digest", "^sha256:[0-9a-f]{64}$", "A content digest: `sha256:` and 64 lower-case hex digits.");
text_serde!(Image, "Image", "^.+@sha256:[0-9a-f]{64}$", "An image by digest: `repository@sha256:…`.");

/// Names a [`Release`]: the first 16 hex digits of the SHA-256 of its template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ReleaseId(pub Arc<str>);

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is on trial or serves: a template under the name that is its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// Hash of the template.
    pub id: ReleaseId,
    /// A name for people, such as `v42`; never used to decide anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The template itself; shared, for a release is named in many places at once.
    pub template: Arc<Template>,
}

impl Release {
    /// The release of `template`, shown to people as `label`.
    pub fn new(template: Template, label: Option<String>) -> Self {
        Self { id: template.release(), label, template: Arc::new(template) }
    }

    /// The bytes that it runs, container by container.
    pub fn digests(&self) -> Vec<Digest> {
        self.template.images().into_iter().map(|image| image.digest).collect()
    }

    /// Whether both run the same bytes, whatever the repositories are called that they come from.
    pub fn has_images_of(&self, other: &Self) -> bool {
        self.digests() == other.digests()
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "{label} ({})", self.template.image().digest.short()),
            None => write!(f, "{} ({})", self.id, self.template.image().digest.short()),
        }
    }
}
