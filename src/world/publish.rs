//! Builds and signs artifacts in an OCI image layout folder: for `backstop demo`, for tests, and for services that
//! have no pipeline yet. What it signs, `cosign verify --key` accepts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::{Compression, GzBuilder};
use oci_distribution::manifest::{ImageIndexEntry, OciDescriptor, OciImageIndex, OciImageManifest};
use serde_json::{Value, json};

use super::verify::{BUNDLE, PAYLOAD_TYPE, PROVENANCE, SIGNATURE, SPDX, STATEMENT};
use crate::core::release::{Digest, Image};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The artifact type of what a `process` workload runs.
pub const ARTIFACT: &str = "application/vnd.backstop.process.v1";
/// The annotation of an index entry that holds its tag.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why an artifact could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The disk failed.
    #[error("{}: {source}", .path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The layout's index cannot be read.
    #[error("{path} is not an OCI image index: {why}", path = .0.display(), why = .1)]
    Index(PathBuf, String),
    /// A path that must not be in an artifact.
    #[error("`{0}` cannot be a file of an artifact: expected a relative path without `..`")]
    Path(String),
    /// The cryptography library refused.
    #[error("the key cannot be used: {0}")]
    Key(&'static str),
}

/// A private key: ECDSA P-256. Never printed.
pub struct SigningKey {
    pair: EcdsaKeyPair,
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<Self, PublishError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| PublishError::Key("no key could be generated"))?;
        Ok(Self { pair })
    }

    /// A key kept as PKCS#8 DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, PublishError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| PublishError::Key("expected an ECDSA P-256 private key in PKCS#8 DER"))?;
        Ok(Self { pair })
    }

    /// The key as PKCS#8 DER, to be kept where only its owner can read it.
    pub fn pkcs8(&self) -> Result<Vec<u8>, PublishError> {
        self.pair.to_pkcs8v1().map(|document| document.as_ref().to_vec()).map_err(|_| PublishError::Key("it cannot be exported"))
    }

    /// The public half in PEM form, as a policy holds it.
    pub fn public_pem(&self) -> Result<String, PublishError> {
        let encoded = BASE64.encode(self.public_der()?);
        let lines: Vec<_> = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        Ok(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")))
    }

    fn public_der(&self) -> Result<Vec<u8>, PublishError> {
        let der: PublicKeyX509Der<'_> =
            self.pair.public_key().as_der().map_err(|_| PublishError::Key("its public half cannot be exported"))?;
        Ok(der.as_ref().to_vec())
    }

    /// A signature over `message`: ECDSA with SHA-256, ASN.1 form.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PublishError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| PublishError::Key("signing failed"))?;
        Ok(signature.as_ref().to_vec())
    }

    /// A Sigstore bundle 0.3 around a signed DSSE envelope with this statement.
    pub fn bundle(&self, statement: &Value) -> Result<Vec<u8>, PublishError> {
        let payload = statement.to_string();
        let signature = self.sign(&sigstore_verify::types::pae(PAYLOAD_TYPE, payload.as_bytes()))?;
        let hint = BASE64.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.public_der()?));
        let bundle = json!({
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": {
                "payload": BASE64.encode(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": BASE64.encode(signature)}],
            },
        });
        Ok(bundle.to_string().into_bytes())
    }
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative path, `/` between parts.
    pub path: String,
    /// Whether it can be run.
    pub executable: bool,
    /// Content.
    pub bytes: Vec<u8>,
}

/// What is proven of an artifact as it is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// A name for people and tools: a tag in the layout.
    pub tag: Option<String>,
    /// Whether a signature is attached.
    pub sign: bool,
    /// The provenance to attach.
    pub provenance: Option<Provenance>,
    /// The packages of the SBOM to attach, name and version.
    pub sbom: Option<Vec<(String, String)>>,
}

/// Who built it, from what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// URI of the builder.
    pub builder: String,
    /// URI of the source.
    pub source: String,
}

/// Publishes into one layout folder with one key. One publisher at a time may write to a layout.
pub struct Publisher<'a> {
    layout: PathBuf,
    key: &'a SigningKey,
}

impl<'a> Publisher<'a> {
    /// A publisher into the folder `layout`, which is made when it is first needed.
    pub fn new(layout: impl Into<PathBuf>, key: &'a SigningKey) -> Self {
        Self { layout: layout.into(), key }
    }

    /// Packs `files` into an artifact of `repository`, attaches what `options` ask for, and returns its digest.
    /// The same files give the same digest.
    pub fn publish(&self, repository: &str, files: &[File], options: &Options) -> Result<Image, PublishError> {
        let layer = self.blob(&pack(files)?)?;
        let empty = self.blob(b"{}")?;
        let manifest = OciImageManifest {
            media_type: Some(MANIFEST.to_owned()),
            artifact_type: Some(ARTIFACT.to_owned()),
            config: descriptor(EMPTY, &empty),
            layers: vec![descriptor(LAYER, &layer)],
            ..OciImageManifest::default()
        };
        let digest = self.manifest(&manifest, options.tag.as_deref())?;
        let image = Image { repository: repository.to_owned(), digest };
        if options.sign {
            self.attest(&image, SIGNATURE, &json!({}))?;
        }
        if let Some(provenance) = &options.provenance {
            self.attest(&image, PROVENANCE, &slsa(provenance))?;
        }
        if let Some(packages) = &options.sbom {
            self.attest(&image, SPDX, &spdx(&image, packages))?;
        }
        Ok(image)
    }

    /// Signs a statement with this predicate about `image` and attaches it.
    pub fn attest(&self, image: &Image, predicate_type: &str, predicate: &Value) -> Result<Digest, PublishError> {
        let subject = json!([{"name": image.repository, "digest": {"sha256": image.digest.hex()}}]);
        let statement = json!({"_type": STATEMENT, "subject": subject, "predicateType": predicate_type, "predicate": predicate});
        self.attach(image, BUNDLE, &self.key.bundle(&statement)?, predicate_type)
    }

    /// Attaches `bytes` to `image` as a referrer with one layer of `media_type`, and returns the referrer's digest.
    pub fn attach(&self, image: &Image, media_type: &str, bytes: &[u8], predicate_type: &str) -> Result<Digest, PublishError> {
        let layer = self.blob(bytes)?;
        let empty = self.blob(b"{}")?;
        let subject = self.layout.join("blobs").join("sha256").join(image.digest.hex());
        let subject = fs::read(&subject).map_err(|source| PublishError::Disk { path: subject, source })?;
        let annotations = [("dev.sigstore.bundle.content", "dsse-envelope"), ("dev.sigstore.bundle.predicateType", predicate_type)];
        let manifest = OciImageManifest {
            media_type: Some(MANIFEST.to_owned()),
            artifact_type: Some(media_type.to_owned()),
            config: descriptor(EMPTY, &empty),
            layers: vec![descriptor(media_type, &layer)],
            subject: Some(descriptor(MANIFEST, &(image.digest.clone(), subject.len()))),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..OciImageManifest::default()
        };
        self.manifest(&manifest, None)
    }

    /// Writes a manifest and lists it in the index, under `tag` if there is one.
    fn manifest(&self, manifest: &OciImageManifest, tag: Option<&str>) -> Result<Digest, PublishError> {
        let bytes = serde_json::to_vec(manifest).map_err(|error| PublishError::Disk { path: self.layout.clone(), source: error.into() })?;
        let (digest, size) = self.blob(&bytes)?;
        let path = self.layout.join("index.json");
        let mut index = read_index(&path)?;
        let tagged = |entry: &ImageIndexEntry| entry.annotations.as_ref().and_then(|annotations| annotations.get(REF_NAME)).cloned();
        for entry in index.manifests.iter_mut().filter(|entry| tag.is_some() && tagged(entry).as_deref() == tag) {
            entry.annotations = None;
        }
        if tag.is_none() && index.manifests.iter().any(|entry| entry.digest == digest.as_str()) {
            return Ok(digest);
        }
        index.manifests.retain(|entry| entry.digest != digest.as_str());
        index.manifests.push(ImageIndexEntry {
            media_type: MANIFEST.to_owned(),
            digest: digest.to_string(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            platform: None,
            annotations: tag.map(|tag| BTreeMap::from([(REF_NAME.to_owned(), tag.to_owned())])),
            artifact_type: manifest.artifact_type.clone(),
        });
        let index = serde_json::to_vec_pretty(&index).map_err(|error| PublishError::Index(path.clone(), error.to_string()))?;
        replace(&self.layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        replace(&path, &index)?;
        Ok(digest)
    }

    fn blob(&self, bytes: &[u8]) -> Result<(Digest, usize), PublishError> {
        let digest = Digest::of(bytes);
        replace(&self.layout.join("blobs").join("sha256").join(digest.hex()), bytes)?;
        Ok((digest, bytes.len()))
    }
}

/// A tar, gzipped. Times, owners and order do not vary, so the same files have the same digest.
fn pack(files: &[File]) -> Result<Vec<u8>, PublishError> {
    let in_memory = |source| PublishError::Disk { path: PathBuf::from("layer.tar.gz"), source };
    let mut archive = tar::Builder::new(GzBuilder::new().mtime(0).write(Vec::new(), Compression::default()));
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    for file in sorted {
        let plain = !file.path.is_empty() && file.path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !plain {
            return Err(PublishError::Path(file.path.clone()));
        }
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(file.bytes.len() as u64);
        header.set_mode(if file.executable { 0o755 } else { 0o644 });
        archive.append_data(&mut header, &file.path, file.bytes.as_slice()).map_err(in_memory)?;
    }
    archive.into_inner().and_then(flate2::write::GzEncoder::finish).map_err(in_memory)
}

fn slsa(provenance: &Provenance) -> Value {
    json!({
        "buildDefinition": {
            "buildType": "https://backstop.dev/build/files/v1",
            "externalParameters": {"source": {"uri": provenance.source}},
            "resolvedDependencies": [{"uri": provenance.source}],
        },
        "runDetails": {"builder": {"id": provenance.builder}},
    })
}

fn spdx(image: &Image, packages: &[(String, String)]) -> Value {
    let packages = packages.iter().enumerate().map(|(at, (name, version))| {
        json!({"SPDXID": format!("SPDXRef-Package-{at}"), "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION"})
    });
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": image.repository,
        "documentNamespace": format!("https://backstop.dev/spdx/{}", image.digest.hex()),
        "packages": packages.collect::<Vec<_>>(),
    })
}

fn descriptor(media_type: &str, (digest, size): &(Digest, usize)) -> OciDescriptor {
    OciDescriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: i64::try_from(*size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

fn read_index(path: &Path) -> Result<OciImageIndex, PublishError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| PublishError::Index(path.to_owned(), error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(OciImageIndex {
            schema_version: 2,
            media_type: Some(INDEX.to_owned()),
            manifests: Vec::new(),
            artifact_type: None,
            annotations: None,
        }),
        Err(source) => Err(PublishError::Disk { path: path.to_owned(), source }),
    }
}

/// Puts `bytes` at `path` in one step: readers see the old file or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), PublishError> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let partial = path.with_extension("partial");
        let mut file = fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| PublishError::Disk { path: path.to_owned(), source })
}
