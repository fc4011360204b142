//! Policy and verified evidence in, attested images or findings out. Pure: the cryptography is in `world::verify`.
//!
//! Authorities are alternatives, requirements are all needed, and denials come first. Whatever cannot be decided
//! is refused: a policy without requirements, one without authorities, a requirement by an authority that nobody
//! defined, a release without images.

mod evaluate;
mod merge;

pub use evaluate::{Attested, evaluate};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::release::{Digest, Image};
use super::time::Span;

/// What must be proven of every image, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestationPolicy {
    /// Whose signatures count. One of them is enough.
    pub authorities: Vec<Authority>,
    /// What must be there; each of them, for the same image.
    pub require: Vec<Requirement>,
    /// What is never allowed.
    #[serde(default)]
    pub deny: Deny,
}

/// Somebody whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authority {
    /// Name, unique in the policy.
    pub name: String,
    /// A public key.
    pub key: Key,
}

/// A public key in PEM form (`-----BEGIN PUBLIC KEY-----`): ECDSA P-256 or P-384, Ed25519, or RSA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Key {
    /// The PEM text. Exactly one of `data` and `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// A file that holds the PEM text; read when the policy is loaded. Exactly one of `data` and `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// One thing that must be proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// What.
    pub kind: Proof,
    /// Names of the authorities that may prove it; empty means any of the policy's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<String>,
}

/// What can be required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Proof {
    /// A signature over the image; an accepted attestation counts as one.
    Signature,
    /// A SLSA provenance statement (v0.2 or v1).
    Provenance,
    /// An SPDX or `CycloneDX` statement.
    Sbom,
}

/// What is never allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deny {
    /// Digests that go neither forward nor back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Digest>,
}

/// What the evidence of a release proves, image by image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Of each image of the release.
    pub images: Vec<ImageFacts>,
    /// Why the signed ledger record of the release cannot be trusted; only when evidence came from the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_untrusted: Option<String>,
}

/// What the evidence of one image proves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageFacts {
    /// Which image.
    pub image: Image,
    /// Statements whose signature and subject were verified.
    pub statements: Vec<Statement>,
    /// Evidence that was there and did not verify, each with the reason.
    pub rejected: Vec<String>,
    /// Why there may be more evidence than was seen: registry down, denied, truncated, stored bytes gone or changed.
    /// "None" and "no answer" are two things.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

/// A verified statement about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// Name of the authority whose key verified it.
    pub authority: String,
    /// What it proves.
    pub proof: Proof,
    /// The in-toto predicate type, for attestations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate_type: Option<String>,
    /// The builder that a provenance names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// The source that a provenance names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Packages that an SBOM lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<u64>,
    /// Digest of the evidence bytes.
    pub evidence: Digest,
}

impl ImageFacts {
    /// Nothing is known of `image`, because `why`.
    pub fn unavailable(image: Image, why: impl Into<String>) -> Self {
        Self { image, statements: Vec::new(), rejected: Vec::new(), incomplete: Some(why.into()) }
    }
}

impl Proof {
    /// The word in a sentence.
    pub fn word(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Provenance => "provenance",
            Self::Sbom => "SBOM",
        }
    }
}

impl Statement {
    /// Whether this statement is good for `proof`.
    ///
    /// Every accepted attestation is a signature too. An SBOM that lists nothing is good for nothing.
    pub fn proves(&self, proof: Proof) -> bool {
        let empty = self.proof == Proof::Sbom && self.packages.unwrap_or(0) == 0;
        !empty && (proof == Proof::Signature || proof == self.proof)
    }
}

/// How much older a target may be than now: at most this many releases back, or this long ago.
pub const TARGET_AGE: Span = Span::minutes(30 * 24 * 60);
