//! Attestation against real registries and a real `cosign`, and against a registry that lies, stalls and breaks.
//!
//! Real tools are looked for in the folder `$BACKSTOP_TEST_BIN` and on `PATH`. A test whose tools are missing is
//! skipped by name, or fails if `BACKSTOP_TESTS_STRICT=1`.
#![allow(clippy::unwrap_used)]

mod bed;
mod fake;
mod faults;
mod login;
mod real;

use std::path::Path;

use backstop::core::attest::{AttestationPolicy, Authority, Deny, Facts, Key, Proof, Requirement, evaluate};
use backstop::core::reason::Reason;
use backstop::core::release::Image;
use backstop::core::spec::Artifacts;
use backstop::world::evidence::Evidence;
use backstop::world::publish::{File, Options, Provenance, SigningKey};
use backstop::world::registry::{Collector, Credentials, Patience};
use backstop::world::verify::{Keys, verify};

const ALL: [Proof; 3] = [Proof::Signature, Proof::Provenance, Proof::Sbom];

/// A policy with one authority, `ci`.
fn policy(pem: &str, require: &[Proof]) -> AttestationPolicy {
    AttestationPolicy {
        authorities: vec![Authority { name: "ci".to_owned(), key: Key { data: Some(pem.to_owned()), file: None } }],
        require: require.iter().map(|&kind| Requirement { kind, authorities: Vec::new() }).collect(),
        deny: Deny::default(),
    }
}

fn key_policy(key: &SigningKey, require: &[Proof]) -> AttestationPolicy {
    policy(&key.public_pem().unwrap(), require)
}

fn decide(policy: &AttestationPolicy, evidence: &Evidence) -> Result<(), Vec<Reason>> {
    let facts = verify(evidence, &Keys::new(policy).unwrap());
    evaluate(policy, &Facts { images: vec![facts], ledger_untrusted: None }).map(|_| ())
}

/// The codes of the reasons for which `evidence` is refused; none if it is not.
fn codes(policy: &AttestationPolicy, evidence: &Evidence) -> Vec<&'static str> {
    decide(policy, evidence).err().unwrap_or_default().iter().map(Reason::code).collect()
}

fn collector() -> Collector {
    Collector::new(Credentials::default(), Patience::default()).unwrap()
}

async fn collect(image: &Image) -> Evidence {
    collector().collect(image, &Artifacts::Registry {}).await
}

fn files(text: &str) -> Vec<File> {
    vec![File { path: "bin/serve".to_owned(), executable: true, bytes: text.as_bytes().to_vec() }]
}

fn everything() -> Options {
    Options {
        tag: Some("v1".to_owned()),
        sign: true,
        provenance: Some(Provenance { builder: "https://ci.example".to_owned(), source: "https://git.example/shop".to_owned() }),
        sbom: Some(vec![("openssl".to_owned(), "3.5".to_owned())]),
    }
}

/// Nothing that looks like a finished blob is in `content`, and no partial one was left behind.
fn assert_empty(content: &Path) {
    let blobs = content.join("blobs/sha256");
    let left: Vec<_> = std::fs::read_dir(blobs).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
    // The config may have been fetched before the layer failed; it is two bytes and sound.
    assert!(left.len() <= 1, "{left:?}");
}
