//! Evidence bytes in the API server, so that every replica, and the command line, can verify a revert's target offline from registries.
//!
//! Each capsule is one or more immutable `ConfigMap`s: a tar of its pieces, compressed with gzip, cut into parts. Evidence is about an
//! image, so releases and workloads that share images share it. Nobody needs to sign it: its pieces are named by their digests, and
//! what they prove is signed by those who attest.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};

use super::objects::{FIELD_MANAGER, is_conflict, unavailable};
use crate::core::release::Digest;
use crate::world::evidence::{pieces, store};
use crate::world::store::Unavailable;

/// The label that says which image the evidence is about: the first 40 hex digits of its digest.
const IMAGE: &str = "backstop.dev/image";
/// The annotation that names the capsule.
const CAPSULE: &str = "backstop.dev/capsule";
/// Bytes of a part; a `ConfigMap` takes 1 MiB.
const PART: usize = 900 << 10;
/// Parts of a capsule at most.
const PARTS_MAX: usize = 16;
/// Bytes of a capsule's pieces at most, before compression.
const PLAIN_MAX: u64 = 64 << 20;

/// The evidence of every image.
#[derive(Clone)]
pub(super) struct Proofs {
    api: Api<ConfigMap>,
}

impl Proofs {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    /// Writes the capsule in the folder `dir`. What is there already is left alone.
    ///
    /// # Errors
    /// It is too large, or the API server does not take it.
    pub(super) async fn publish(&self, dir: &Path, image: &Digest, capsule: &Digest) -> Result<(), Unavailable> {
        let packed = pack(dir, capsule).map_err(|what| Unavailable(format!("evidence {capsule}: {what}")))?;
        let parts: Vec<&[u8]> = packed.chunks(PART).collect();
        if parts.len() > PARTS_MAX {
            return Err(Unavailable(format!(
                "evidence {capsule}: {} bytes compressed are more than the API server is asked to keep",
                packed.len()
            )));
        }
        for (at, part) in parts.iter().enumerate() {
            let name = format!("evidence-{}-{at}", &capsule.hex()[..40]);
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                labels: Some([(IMAGE.to_owned(), image.hex()[..40].to_owned())].into()),
                annotations: Some([(CAPSULE.to_owned(), capsule.to_string())].into()),
                ..ObjectMeta::default()
            };
            let data = BTreeMap::from([(format!("{at}-of-{}", parts.len()), ByteString(part.to_vec()))]);
            let object = ConfigMap { metadata, immutable: Some(true), binary_data: Some(data), data: None };
            match self.api.create(&PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }, &object).await {
                Ok(_) => {}
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(unavailable(&format!("ConfigMap {name}"), &error)),
            }
        }
        Ok(())
    }

    /// Copies every capsule about `image` into the folder `dir`, and names them. What is not whole is left out.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(super) async fn fetch(&self, dir: &Path, image: &Digest) -> Result<Vec<Digest>, Unavailable> {
        let parameters = ListParams::default().labels(&format!("{IMAGE}={}", &image.hex()[..40]));
        let found = self.api.list(&parameters).await.map_err(|error| unavailable("evidence", &error))?.items;
        let mut capsules: BTreeMap<Digest, BTreeMap<usize, (usize, Vec<u8>)>> = BTreeMap::new();
        for object in found {
            let annotations = object.metadata.annotations.unwrap_or_default();
            let Some(capsule) = annotations.get(CAPSULE).and_then(|text| text.parse::<Digest>().ok()) else { continue };
            for (place, ByteString(bytes)) in object.binary_data.unwrap_or_default() {
                let place = place.split_once("-of-").and_then(|(at, all)| Some((at.parse().ok()?, all.parse().ok()?)));
                if let Some((at, all)) = place {
                    capsules.entry(capsule.clone()).or_default().insert(at, (all, bytes));
                }
            }
        }
        let mut whole = Vec::new();
        for (capsule, parts) in capsules {
            let all = parts.values().next().map_or(0, |(all, _)| *all);
            let packed: Vec<u8> = (0..all).filter_map(|at| parts.get(&at)).flat_map(|(_, bytes)| bytes.iter().copied()).collect();
            match unpack(dir, &packed) {
                Ok(()) => whole.push(capsule),
                Err(what) => tracing::warn!(%capsule, what, "evidence in the API server cannot be used"),
            }
        }
        Ok(whole)
    }
}

fn pack(dir: &Path, capsule: &Digest) -> Result<Vec<u8>, String> {
    let pieces = pieces(dir, capsule).map_err(|error| error.to_string())?;
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let written = pieces.iter().try_for_each(|bytes| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o400);
        header.set_cksum();
        archive.append_data(&mut header, Digest::of(bytes).hex(), bytes.as_slice())
    });
    written.and_then(|()| archive.into_inner()).and_then(GzEncoder::finish).map_err(|error| error.to_string())
}

fn unpack(dir: &Path, packed: &[u8]) -> Result<(), String> {
    let mut archive = tar::Archive::new(GzDecoder::new(packed).take(PLAIN_MAX));
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let mut bytes = Vec::new();
        entry.and_then(|mut entry| entry.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        // Under the digest of its bytes, whatever its name says.
        store(dir, &bytes).map_err(|error| error.to_string())?;
    }
    Ok(())
}
