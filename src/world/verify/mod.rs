//! Evidence bytes in, verified facts out. Pure computation: no network, no clock that decides, no file.
//!
//! Three forms of evidence count: Sigstore bundles (0.1 to 0.3) made with a key, DSSE envelopes, and the older
//! cosign signatures over a "simple signing" payload. Trust is in the policy's keys. A bundle that carries entries
//! of a transparency log or timestamps must verify in those too, against the public-good trust root.

mod json;
mod keys;
mod statement;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use oci_distribution::manifest::{OciDescriptor, OciImageManifest};
use serde_json::Value;
use sigstore_verify::trust_root::{SigstoreInstance, TrustedRoot};
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{Bundle, DsseEnvelope, MessageSignature, SignatureBytes, SignatureContent};
use sigstore_verify::{PublicKeyVerificationPolicy, Verifier};

use self::keys::KnownAuthority;
pub use self::keys::{KeyError, Keys, inline_keys};
pub use self::statement::{PAYLOAD_TYPE, PROVENANCE, SIGNATURE, SPDX, STATEMENT};
use super::evidence::{Attachment, Evidence, Via};
use crate::core::attest::{ImageFacts, Proof, Statement};
use crate::core::release::Digest;

/// Media type of a Sigstore bundle, current spelling.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of a layer that is a DSSE envelope.
pub const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Media type of a layer that is a cosign payload, signed in its annotation.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// The annotation of a cosign payload that holds its signature.
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// No bundle or envelope is larger, in bytes.
pub(crate) const MAX_LAYER: u64 = 8 << 20;
/// So many pieces are looked at per image; each may cost a signature check per key.
const MAX_PIECES: usize = 256;

/// How a layer proves something, if it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bundle,
    Envelope,
    SimpleSigning,
}

impl Form {
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            ENVELOPE => Some(Self::Envelope),
            SIMPLE_SIGNING => Some(Self::SimpleSigning),
            other => other.starts_with("application/vnd.dev.sigstore.bundle").then_some(Self::Bundle),
        }
    }
}

/// Whether a layer or artifact of this media type can prove anything.
pub(crate) fn can_prove(media_type: &str) -> bool {
    Form::of(media_type).is_some()
}

/// Verifies `evidence` with `keys`.
///
/// Never fails: what does not verify is in `rejected` with the reason, and what could not be looked at makes the facts `incomplete`.
pub fn verify(evidence: &Evidence, keys: &Keys) -> ImageFacts {
    let mut facts =
        ImageFacts { image: evidence.image.clone(), statements: Vec::new(), rejected: Vec::new(), incomplete: evidence.incomplete.clone() };
    let digest = &evidence.image.digest;
    match &evidence.manifest {
        Some(manifest) if &Digest::of(manifest) == digest => {}
        Some(manifest) => {
            facts.incomplete = Some(format!("evidence changed: the image's manifest hashes to {}, not to {digest}", Digest::of(manifest)));
            return facts;
        }
        None => {
            facts.incomplete.get_or_insert_with(|| "the image's manifest is not part of the evidence".to_owned());
        }
    }
    let check = Check { keys, digest, manifest: evidence.manifest.as_deref() };
    let mut pieces = 0;
    for attachment in &evidence.attachments {
        for verdict in check.attachment(attachment) {
            pieces += 1;
            if pieces > MAX_PIECES {
                facts
                    .incomplete
                    .get_or_insert_with(|| format!("there are more than {MAX_PIECES} pieces of evidence; the rest was not looked at"));
                return facts;
            }
            match verdict {
                Ok(statements) => {
                    for statement in statements {
                        if !facts.statements.contains(&statement) {
                            facts.statements.push(statement);
                        }
                    }
                }
                Err(why) => facts.rejected.push(why),
            }
        }
    }
    facts
}

/// One image, the keys that count, and the manifest's bytes where they are known.
struct Check<'a> {
    keys: &'a Keys,
    digest: &'a Digest,
    manifest: Option<&'a [u8]>,
}

/// Statements that verified, one for each authority with that key, or why the piece does not count.
type Verdict = Result<Vec<Statement>, String>;

impl Check<'_> {
    /// The verdicts on each piece in `attachment`, lazily: each may cost a signature check.
    fn attachment<'b>(&'b self, attachment: &'b Attachment) -> Box<dyn Iterator<Item = Verdict> + 'b> {
        let name = Digest::of(&attachment.manifest);
        let manifest: OciImageManifest = match serde_json::from_slice(&attachment.manifest) {
            Ok(manifest) => manifest,
            Err(error) => return Box::new(std::iter::once(Err(format!("{} is not an image manifest: {error}", name.short())))),
        };
        if attachment.via == Via::Referrer {
            let subject = manifest.subject.as_ref().map_or("nothing", |subject| subject.digest.as_str());
            if subject != self.digest.as_str() {
                let why = format!("{} was listed as a referrer of the image, but refers to {subject}", name.short());
                return Box::new(std::iter::once(Err(why)));
            }
        }
        Box::new(attachment.layers.iter().flat_map(move |bytes| {
            let digest = Digest::of(bytes);
            let known = manifest.layers.iter().find(|layer| layer.digest == digest.as_str());
            match known {
                Some(descriptor) => self.layer(descriptor, bytes, &digest),
                None => vec![Err(format!("{} is not a layer of the manifest it came with", digest.short()))],
            }
        }))
    }

    /// The verdicts on one layer; several only if it holds several envelopes, one a line.
    fn layer(&self, descriptor: &OciDescriptor, bytes: &[u8], digest: &Digest) -> Vec<Verdict> {
        let named = |what: &'static str| move |why: String| format!("{what} {} {why}", digest.short());
        if bytes.len() as u64 > MAX_LAYER {
            return vec![Err(named("evidence")(format!("has {} bytes, more than {MAX_LAYER}", bytes.len())))];
        }
        match Form::of(&descriptor.media_type) {
            Some(Form::Bundle) => vec![self.bundle(bytes, digest).map_err(named("bundle"))],
            Some(Form::SimpleSigning) => vec![self.simple_signing(descriptor, bytes, digest).map_err(named("signature"))],
            Some(Form::Envelope) => {
                let lines: Vec<_> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
                let separate = lines.len() > 1 && lines.iter().all(|line| line.trim_ascii().starts_with(b"{\""));
                let envelopes = if separate { lines } else { vec![bytes] };
                envelopes.into_iter().take(MAX_PIECES + 1).map(|one| self.envelope_text(one, digest).map_err(named("envelope"))).collect()
            }
            None => Vec::new(),
        }
    }

    fn bundle(&self, bytes: &[u8], digest: &Digest) -> Verdict {
        json::read(bytes).map_err(|error| format!("is not sound JSON: {error}"))?;
        let text = std::str::from_utf8(bytes).map_err(|error| format!("is not text: {error}"))?;
        let bundle = Bundle::from_json(text).map_err(|error| format!("is not a Sigstore bundle: {error}"))?;
        if !matches!(bundle.verification_material.content, VerificationMaterialContent::PublicKey(_)) {
            return Err("is signed with a certificate; the policy's authorities are keys".to_owned());
        }
        let (signers, statement) = match &bundle.content {
            SignatureContent::DsseEnvelope(envelope) => self.envelope(envelope, digest)?,
            SignatureContent::MessageSignature(signature) => self.message_signature(signature, digest)?,
            _ => return Err("holds neither an envelope nor a signature".to_owned()),
        };
        let material = &bundle.verification_material;
        if !material.tlog_entries.is_empty() || !material.timestamp_verification_data.rfc3161_timestamps.is_empty() {
            self.witnessed(&bundle, &signers)?;
        }
        Ok(each(&signers, &statement))
    }

    /// The log entries and timestamps in a bundle must be about this very signature, and real.
    fn witnessed(&self, bundle: &Bundle, signers: &[&KnownAuthority]) -> Result<(), String> {
        let verifier = public_good()?;
        let manifest = self.manifest.ok_or("carries log entries, and the image's manifest is needed to check them")?;
        for signer in signers {
            let policy = PublicKeyVerificationPolicy::new(signer.public_key.clone());
            // A bundle with timestamps alone has no log to be included in.
            let policy = if bundle.verification_material.tlog_entries.is_empty() { policy.skip_tlog_unsafe() } else { policy };
            verifier
                .verify(manifest, bundle, &policy)
                .map_err(|error| format!("carries log entries or timestamps that do not verify: {error}"))?;
        }
        Ok(())
    }

    /// A signature over the image's manifest itself.
    fn message_signature(&self, message: &MessageSignature, digest: &Digest) -> Result<(Vec<&KnownAuthority>, Statement), String> {
        let manifest = self.manifest.ok_or("signs the image's manifest, which is not part of the evidence")?;
        if let Some(declared) = &message.message_digest {
            let declared = crate::core::release::hex(declared.digest.as_bytes());
            if declared.len() == 64 && declared != self.digest.hex() {
                return Err(format!("signs sha256:{declared}, not {}", self.digest));
            }
        }
        Ok((self.signers(manifest, &message.signature)?, proven(Proof::Signature, digest)))
    }

    fn envelope_text(&self, bytes: &[u8], digest: &Digest) -> Verdict {
        let value = json::read(bytes).map_err(|error| format!("is not sound JSON: {error}"))?;
        let signatures = value.get("signatures").and_then(Value::as_array).map_or(0, Vec::len);
        if signatures != 1 {
            return Err(format!("has {signatures} signatures; expected exactly one"));
        }
        let envelope: DsseEnvelope = serde_json::from_value(value).map_err(|error| format!("is not a DSSE envelope: {error}"))?;
        let (signers, statement) = self.envelope(&envelope, digest)?;
        Ok(each(&signers, &statement))
    }

    fn envelope(&self, envelope: &DsseEnvelope, digest: &Digest) -> Result<(Vec<&KnownAuthority>, Statement), String> {
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(format!("has a payload of type `{}`; expected `{PAYLOAD_TYPE}`", envelope.payload_type));
        }
        let signers = self.signers(&envelope.pae(), &envelope.signature.sig)?;
        let said = statement::read(envelope.payload.as_bytes(), self.digest)?;
        let proof = said
            .proof
            .ok_or_else(|| format!("is an attestation of type `{}`, which proves nothing that can be required", said.predicate_type))?;
        let statement = Statement {
            predicate_type: Some(said.predicate_type),
            builder: said.builder,
            source: said.source,
            packages: said.packages,
            ..proven(proof, digest)
        };
        Ok((signers, statement))
    }

    /// A cosign payload: the layer is what was signed, the signature is in the annotation.
    fn simple_signing(&self, descriptor: &OciDescriptor, bytes: &[u8], digest: &Digest) -> Verdict {
        let annotation = descriptor.annotations.as_ref().and_then(|annotations| annotations.get(SIGNATURE_ANNOTATION));
        let encoded = annotation.ok_or_else(|| format!("has no annotation `{SIGNATURE_ANNOTATION}`"))?;
        let signature = SignatureBytes::from_base64(encoded).map_err(|error| format!("is not base64: {error}"))?;
        let signers = self.signers(bytes, &signature)?;
        let payload = json::read(bytes).map_err(|error| format!("signs a payload that is not sound JSON: {error}"))?;
        let kind = json::text(&payload, "/critical/type").unwrap_or("none");
        if kind != "cosign container image signature" {
            return Err(format!("signs a payload of type `{kind}`; expected `cosign container image signature`"));
        }
        let signed = json::text(&payload, "/critical/image/docker-manifest-digest").unwrap_or("nothing");
        if signed != self.digest.as_str() {
            return Err(format!("is about {signed}, not about {}", self.digest));
        }
        Ok(each(&signers, &proven(Proof::Signature, digest)))
    }

    fn signers(&self, message: &[u8], signature: &SignatureBytes) -> Result<Vec<&KnownAuthority>, String> {
        let signers = self.keys.signers(message, signature);
        if signers.is_empty() {
            return Err(format!("is signed by none of the policy's keys ({}), or its content was changed", self.keys.names()));
        }
        Ok(signers)
    }
}

/// A statement of `proof` whose authority is still to be filled in.
fn proven(proof: Proof, evidence: &Digest) -> Statement {
    Statement {
        authority: String::new(),
        proof,
        predicate_type: None,
        builder: None,
        source: None,
        packages: None,
        evidence: evidence.clone(),
    }
}

/// The same statement by each of the signers: two authorities of a policy may share a key.
fn each(signers: &[&KnownAuthority], statement: &Statement) -> Vec<Statement> {
    signers.iter().map(|signer| Statement { authority: signer.name.clone(), ..statement.clone() }).collect()
}

/// Verifies what the public-good Sigstore logs and timestamp authorities have witnessed; its root is built in.
fn public_good() -> Result<&'static Verifier, String> {
    static VERIFIER: OnceLock<Result<Verifier, String>> = OnceLock::new();
    let verifier = VERIFIER.get_or_init(|| {
        let root = TrustedRoot::from_embedded(SigstoreInstance::PublicGood).map_err(|error| error.to_string())?;
        Verifier::new(&root).map_err(|error| error.to_string())
    });
    verifier.as_ref().map_err(|error| format!("carries log entries, and the built-in trust root cannot be read: {error}"))
}
