//! Every way in which evidence must not count, on bundles that `world::publish` made.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::*;
use crate::core::attest::{AttestationPolicy, Authority, Deny, Facts, Key, Requirement, evaluate};
use crate::core::reason::Reason;
use crate::core::release::Image;
use crate::core::spec::Artifacts;
use crate::world::clock;
use crate::world::evidence::{load_evidence, store_evidence};
use crate::world::publish::{File, Options, Provenance, Publisher, SigningKey};
use crate::world::registry::{Collector, Credentials, Patience};

fn policy(keys: &[(&str, &SigningKey)], require: &[Proof]) -> AttestationPolicy {
    let authority = |(name, key): &(&str, &SigningKey)| Authority {
        name: (*name).to_owned(),
        key: Key { data: Some(key.public_pem().unwrap()), file: None },
    };
    AttestationPolicy {
        authorities: keys.iter().map(authority).collect(),
        require: require.iter().map(|&kind| Requirement { kind, authorities: Vec::new() }).collect(),
        deny: Deny::default(),
    }
}

const ALL: [Proof; 3] = [Proof::Signature, Proof::Provenance, Proof::Sbom];

fn files() -> Vec<File> {
    vec![File { path: "bin/serve".to_owned(), executable: true, bytes: b"#!/bin/sh\n".to_vec() }]
}

fn all() -> Options {
    Options {
        tag: Some("v1".to_owned()),
        sign: true,
        provenance: Some(Provenance { builder: "https://ci.example/builder".to_owned(), source: "https://git.example/shop".to_owned() }),
        sbom: Some(vec![("openssl".to_owned(), "3.5".to_owned())]),
    }
}

fn collector() -> Collector {
    Collector::new(Credentials::default(), Patience::default()).unwrap()
}

async fn collect(layout: &Path, image: &Image) -> Evidence {
    collect_with(&collector(), layout, image).await
}

async fn collect_with(collector: &Collector, layout: &Path, image: &Image) -> Evidence {
    collector.collect(image, &Artifacts::Layout { path: layout.display().to_string() }).await
}

fn verdict(policy: &AttestationPolicy, evidence: &Evidence) -> Result<(), Vec<Reason>> {
    let facts = verify(evidence, &Keys::new(policy).unwrap());
    evaluate(policy, &Facts { images: vec![facts], ledger_untrusted: None }).map(|_| ())
}

/// An image, and evidence with one attachment whose only layer is `bytes`.
struct Made {
    _dir: tempfile::TempDir,
    key: SigningKey,
    image: Image,
    evidence: Evidence,
}

/// An image with one attachment whose only layer `forge` makes from the key and the image.
async fn made(media_type: &str, forge: impl FnOnce(&SigningKey, &Image) -> Vec<u8>) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let publisher = Publisher::new(dir.path(), &key);
    let image = publisher.publish("r.example/shop", &files(), &Options::default()).unwrap();
    publisher.attach(&image, media_type, &forge(&key, &image), "any").unwrap();
    let evidence = collect(dir.path(), &image).await;
    assert_eq!(evidence.attachments.len(), 1);
    Made { _dir: dir, key, image, evidence }
}

impl Made {
    fn facts(&self) -> ImageFacts {
        verify(&self.evidence, &Keys::new(&policy(&[("ci", &self.key)], &[Proof::Signature])).unwrap())
    }

    fn rejected(&self) -> String {
        let facts = self.facts();
        assert!(facts.statements.is_empty(), "{:?}", facts.statements);
        facts.rejected.join("\n")
    }
}

fn statement(image: &Image, kind: &str, predicate: &Value) -> Value {
    json!({"_type": STATEMENT, "subject": [{"digest": {"sha256": image.digest.hex()}}], "predicateType": kind, "predicate": predicate})
}

/// A DSSE envelope around any payload text.
fn envelope(key: &SigningKey, payload_type: &str, payload: &str) -> Value {
    let signature = key.sign(&sigstore_verify::types::pae(payload_type, payload.as_bytes())).unwrap();
    json!({"payload": BASE64.encode(payload), "payloadType": payload_type, "signatures": [{"sig": BASE64.encode(signature)}]})
}

fn bundle_of(content: &str, value: &Value) -> Vec<u8> {
    let mut bundle = json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}}});
    bundle[content] = value.clone();
    bundle.to_string().into_bytes()
}

#[tokio::test]
async fn what_was_published_satisfies_every_requirement() {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let image = Publisher::new(dir.path(), &key).publish("r.example/shop", &files(), &all()).unwrap();
    let evidence = collect(dir.path(), &image).await;
    assert_eq!(evidence.incomplete, None);
    let policy = policy(&[("ci", &key)], &ALL);
    let facts = verify(&evidence, &Keys::new(&policy).unwrap());
    assert_eq!(facts.rejected, Vec::<String>::new());
    let provenance = facts.statements.iter().find(|statement| statement.proof == Proof::Provenance).unwrap();
    assert_eq!(provenance.builder.as_deref(), Some("https://ci.example/builder"));
    assert_eq!(provenance.source.as_deref(), Some("https://git.example/shop"));
    assert_eq!(facts.statements.iter().find_map(|statement| statement.packages), Some(1));
    assert_eq!(verdict(&policy, &evidence), Ok(()));

    let again = Publisher::new(dir.path(), &key).publish("r.example/shop", &files(), &all()).unwrap();
    assert_eq!(again, image, "the same files have the same digest");
}

#[tokio::test]
async fn stored_evidence_verifies_again_without_its_source_and_in_time() {
    for packages in [1, 1_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        let options = Options { sbom: Some((0..packages).map(|n| (format!("package-{n}"), "1.0".to_owned())).collect()), ..all() };
        let image = Publisher::new(dir.path(), &key).publish("r.example/shop", &files(), &options).unwrap();
        let policy = policy(&[("ci", &key)], &ALL);
        let collector = collector();
        let begun = clock::instant();
        let evidence = collect_with(&collector, dir.path(), &image).await;
        assert_eq!(verdict(&policy, &evidence), Ok(()));
        let first = begun.elapsed();
        let capsule = store_evidence(store.path(), &evidence).unwrap();
        dir.close().unwrap();

        let begun = clock::instant();
        let rounds = 50;
        for _ in 0..rounds {
            assert_eq!(verdict(&policy, &load_evidence(store.path(), &capsule).unwrap()), Ok(()));
        }
        let again = begun.elapsed() / rounds;
        println!("an SBOM of {packages} packages: first verification {first:?}, again from stored bytes {again:?}");
    }
}

#[tokio::test]
async fn another_key_proves_nothing() {
    let made = made(BUNDLE, |_, image| SigningKey::generate().unwrap().bundle(&statement(image, SIGNATURE, &json!({}))).unwrap()).await;
    assert!(made.rejected().contains("signed by none of the policy's keys (ci)"), "{}", made.rejected());
}

#[tokio::test]
async fn two_names_for_one_key_both_count() {
    let made = made(BUNDLE, |key, image| key.bundle(&statement(image, SIGNATURE, &json!({}))).unwrap()).await;
    let both = policy(&[("ci", &made.key), ("release", &made.key)], &[Proof::Signature]);
    let names: Vec<_> = verify(&made.evidence, &Keys::new(&both).unwrap()).statements.into_iter().map(|one| one.authority).collect();
    assert_eq!(names, ["ci", "release"]);
}

#[tokio::test]
async fn any_changed_byte_of_payload_or_signature_is_noticed() {
    for field in ["/dsseEnvelope/payload", "/dsseEnvelope/signatures/0/sig", "/dsseEnvelope/payloadType"] {
        let made = made(BUNDLE, |key, image| {
            let mut bundle: Value = serde_json::from_slice(&key.bundle(&statement(image, SIGNATURE, &json!({}))).unwrap()).unwrap();
            let text = bundle.pointer(field).and_then(Value::as_str).unwrap().to_owned();
            let changed = match BASE64.decode(&text) {
                Ok(mut bytes) => {
                    *bytes.last_mut().unwrap() ^= 1;
                    BASE64.encode(bytes)
                }
                Err(_) => format!("{text}x"),
            };
            *bundle.pointer_mut(field).unwrap() = json!(changed);
            bundle.to_string().into_bytes()
        })
        .await;
        assert!(!made.rejected().is_empty(), "{field}");
    }
}

#[tokio::test]
async fn a_statement_about_another_image_is_rejected_by_name() {
    let other = Image { repository: "r.example/other".to_owned(), digest: Digest::of(b"other") };
    let made = made(BUNDLE, |key, _| key.bundle(&statement(&other, SIGNATURE, &json!({}))).unwrap()).await;
    assert!(made.rejected().contains(&format!("is about {}, not about {}", other.digest, made.image.digest)), "{}", made.rejected());
}

#[tokio::test]
async fn a_referrer_of_another_image_is_rejected() {
    let mut made = made(BUNDLE, |key, image| key.bundle(&statement(image, SIGNATURE, &json!({}))).unwrap()).await;
    let manifest = String::from_utf8(made.evidence.attachments[0].manifest.clone()).unwrap();
    made.evidence.attachments[0].manifest = manifest.replace(made.image.digest.as_str(), Digest::of(b"other").as_str()).into_bytes();
    assert!(made.rejected().contains("but refers to"), "{}", made.rejected());
}

#[tokio::test]
async fn a_layer_that_its_manifest_does_not_name_is_rejected() {
    let mut made = made(BUNDLE, |_, _| b"{}".to_vec()).await;
    let image = made.image.clone();
    made.evidence.attachments[0].layers = vec![made.key.bundle(&statement(&image, SIGNATURE, &json!({}))).unwrap()];
    assert!(made.rejected().contains("not a layer of the manifest"), "{}", made.rejected());
}

#[tokio::test]
async fn changed_manifest_bytes_make_the_evidence_incomplete() {
    let mut made = made(BUNDLE, |key, image| key.bundle(&statement(image, SIGNATURE, &json!({}))).unwrap()).await;
    made.evidence.manifest.as_mut().unwrap().push(b' ');
    let facts = made.facts();
    assert!(facts.statements.is_empty());
    assert!(facts.incomplete.unwrap().starts_with("evidence changed"));
}

#[tokio::test]
async fn only_other_attestations_do_not_satisfy() {
    let vuln = "https://cosign.sigstore.dev/attestation/vuln/v1";
    let made = made(BUNDLE, |key, image| key.bundle(&statement(image, vuln, &json!({"scanner": {}}))).unwrap()).await;
    assert!(made.rejected().contains("proves nothing that can be required"), "{}", made.rejected());

    let only_sbom = Options { provenance: None, sign: false, ..all() };
    let dir = tempfile::tempdir().unwrap();
    let image = Publisher::new(dir.path(), &made.key).publish("r.example/shop", &files(), &only_sbom).unwrap();
    let evidence = collect(dir.path(), &image).await;
    assert_eq!(verdict(&policy(&[("ci", &made.key)], &[Proof::Sbom, Proof::Signature]), &evidence), Ok(()));
    let why = verdict(&policy(&[("ci", &made.key)], &[Proof::Provenance]), &evidence).unwrap_err();
    assert!(why[0].to_string().contains("no provenance by ci"), "{}", why[0]);
}

#[tokio::test]
async fn an_sbom_without_packages_does_not_count() {
    let made =
        made(BUNDLE, |key, image| key.bundle(&statement(image, SPDX, &json!({"spdxVersion": "SPDX-2.3", "packages": []}))).unwrap()).await;
    assert_eq!(made.facts().statements[0].packages, Some(0));
    assert!(verdict(&policy(&[("ci", &made.key)], &[Proof::Sbom]), &made.evidence).is_err());
}

#[tokio::test]
async fn envelopes_count_with_exactly_one_signature() {
    let plain = |key: &SigningKey, image: &Image| envelope(key, PAYLOAD_TYPE, &statement(image, SIGNATURE, &json!({})).to_string());
    let good = made(ENVELOPE, |key, image| plain(key, image).to_string().into_bytes()).await;
    assert_eq!(good.facts().statements.len(), 1);

    let lines = made(ENVELOPE, |key, image| {
        let provenance = statement(image, PROVENANCE, &json!({"runDetails": {"builder": {"id": "b"}}})).to_string();
        format!("{}\n{}\n", plain(key, image), envelope(key, PAYLOAD_TYPE, &provenance)).into_bytes()
    })
    .await;
    assert_eq!(lines.facts().statements.len(), 2, "one envelope a line");

    for signatures in [0, 2] {
        let made = made(ENVELOPE, |key, image| {
            let mut envelope = plain(key, image);
            envelope["signatures"] = json!(vec![envelope["signatures"][0].clone(); signatures]);
            envelope.to_string().into_bytes()
        })
        .await;
        assert!(made.rejected().contains(&format!("has {signatures} signatures")), "{}", made.rejected());
    }
    let unsigned = made(ENVELOPE, |_, image| statement(image, SIGNATURE, &json!({})).to_string().into_bytes()).await;
    assert!(unsigned.rejected().contains("has 0 signatures"), "{}", unsigned.rejected());
    let two_in_a_bundle = made(BUNDLE, |key, image| {
        let mut envelope = plain(key, image);
        envelope["signatures"] = json!(vec![envelope["signatures"][0].clone(); 2]);
        bundle_of("dsseEnvelope", &envelope)
    })
    .await;
    assert!(two_in_a_bundle.rejected().contains("not a Sigstore bundle"), "{}", two_in_a_bundle.rejected());
}

#[tokio::test]
async fn signed_payloads_that_are_no_sound_statements_are_rejected() {
    for (payload_type, payload, words) in [
        ("application/json", "{}", "payload of type `application/json`"),
        (PAYLOAD_TYPE, "not json", "not a sound in-toto statement"),
        (PAYLOAD_TYPE, r#"{"_type":"x","_type":"y"}"#, "appears twice"),
        (PAYLOAD_TYPE, "{}", "statement type `none`"),
    ] {
        let made = made(ENVELOPE, |key, _| envelope(key, payload_type, payload).to_string().into_bytes()).await;
        assert!(made.rejected().contains(words), "{}", made.rejected());
    }
}

#[tokio::test]
async fn a_bundle_may_sign_the_manifest_itself() {
    for media_type in
        ["application/vnd.dev.sigstore.bundle+json;version=0.1", "application/vnd.dev.sigstore.bundle+json;version=0.2", BUNDLE]
    {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        let publisher = Publisher::new(dir.path(), &key);
        let image = publisher.publish("r.example/shop", &files(), &Options::default()).unwrap();
        let manifest = fs::read(dir.path().join("blobs/sha256").join(image.digest.hex())).unwrap();
        for (signed, message, counts) in
            [(&manifest, &manifest, true), (&b"other".to_vec(), &manifest, false), (&manifest, &b"other".to_vec(), false)]
        {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message);
            let bundle = json!({
                "mediaType": media_type, "verificationMaterial": {"publicKey": {"hint": ""}},
                "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": BASE64.encode(digest)}, "signature": BASE64.encode(key.sign(signed).unwrap())},
            });
            publisher.attach(&image, media_type, bundle.to_string().as_bytes(), "").unwrap();
            let mut evidence = collect(dir.path(), &image).await;
            evidence.attachments.drain(..evidence.attachments.len() - 1);
            let facts = verify(&evidence, &Keys::new(&policy(&[("ci", &key)], &ALL)).unwrap());
            assert_eq!(facts.statements.len(), usize::from(counts), "{media_type}: {:?}", facts.rejected);
        }
    }
}

#[tokio::test]
async fn log_entries_in_a_bundle_must_be_real_and_its_own() {
    let made = made(BUNDLE, |key, image| {
        let mut bundle: Value = serde_json::from_slice(&key.bundle(&statement(image, SIGNATURE, &json!({}))).unwrap()).unwrap();
        bundle["verificationMaterial"]["tlogEntries"] = json!([{
            "logIndex": "1", "logId": {"keyId": BASE64.encode([7; 32])}, "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": "1700000000", "inclusionPromise": {"signedEntryTimestamp": BASE64.encode([1; 70])},
            "canonicalizedBody": BASE64.encode("{}"),
        }]);
        bundle.to_string().into_bytes()
    })
    .await;
    assert!(made.rejected().contains("log entries or timestamps that do not verify"), "{}", made.rejected());
}

/// A bundle of the Sigstore conformance suite: made with a key, and logged by the public-good instance.
fn logged(change: impl Fn(&str) -> String) -> ImageFacts {
    let artifact = include_bytes!("../../../tests/keys/logged/artifact.txt").to_vec();
    let bundle = change(include_str!("../../../tests/keys/logged/bundle.sigstore.json")).into_bytes();
    let image = Image { repository: "r.example/shop".to_owned(), digest: Digest::of(&artifact) };
    let mut policy = policy(&[], &[Proof::Signature]);
    let pem = include_str!("../../../tests/keys/logged/key.pub").to_owned();
    policy.authorities.push(Authority { name: "ci".to_owned(), key: Key { data: Some(pem), file: None } });
    let mut evidence = attached(&image, BUNDLE, bundle, None);
    evidence.manifest = Some(artifact);
    verify(&evidence, &Keys::new(&policy).unwrap())
}

#[test]
fn what_the_public_log_witnessed_is_checked_against_it() {
    let facts = logged(str::to_owned);
    assert_eq!(facts.rejected, Vec::<String>::new());
    assert_eq!(facts.statements.len(), 1);
    let other_index = |text: &str| {
        let mut bundle: Value = serde_json::from_str(text).unwrap();
        bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["logIndex"] = json!("7");
        bundle.to_string()
    };
    let facts = logged(other_index);
    assert!(facts.statements.is_empty());
    assert!(facts.rejected[0].contains("log entries or timestamps that do not verify"), "{}", facts.rejected[0]);
}

#[tokio::test]
async fn a_certificate_is_no_key() {
    let made = made(BUNDLE, |key, image| {
        let mut bundle: Value = serde_json::from_slice(&key.bundle(&statement(image, SIGNATURE, &json!({}))).unwrap()).unwrap();
        bundle["verificationMaterial"] = json!({"certificate": {"rawBytes": BASE64.encode("not one")}});
        bundle.to_string().into_bytes()
    })
    .await;
    assert!(made.rejected().contains("signed with a certificate"), "{}", made.rejected());
}

/// Evidence with one layer, attached under a tag.
fn attached(image: &Image, media_type: &str, layer: Vec<u8>, signature: Option<&str>) -> Evidence {
    let annotations = signature.map(|signature| json!({SIGNATURE_ANNOTATION: signature}));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(b"{}").as_str(), "size": 2},
        "layers": [{"mediaType": media_type, "digest": Digest::of(&layer).as_str(), "size": layer.len(), "annotations": annotations}],
    });
    let mut evidence = Evidence::new(image.clone(), "here");
    evidence.attachments.push(Attachment { via: Via::Tag, manifest: manifest.to_string().into_bytes(), layers: vec![layer] });
    evidence
}

/// Evidence as `cosign` kept it before it had bundles.
fn simple_signing(key: &SigningKey, image: &Image, payload: &Value, signature: Option<&str>) -> Evidence {
    let payload = payload.to_string().into_bytes();
    let made = BASE64.encode(key.sign(&payload).unwrap());
    attached(image, SIMPLE_SIGNING, payload, Some(signature.unwrap_or(&made)))
}

#[test]
fn cosign_payloads_must_be_of_their_type_and_about_the_image() {
    let key = SigningKey::generate().unwrap();
    let image = Image { repository: "r.example/shop".to_owned(), digest: Digest::of(b"image") };
    let payload = |kind: &str, digest: &Digest| json!({"critical": {"identity": {"docker-reference": ""}, "image": {"docker-manifest-digest": digest.as_str()}, "type": kind}, "optional": null});
    let kind = "cosign container image signature";
    let facts = |evidence: &Evidence| verify(evidence, &Keys::new(&policy(&[("ci", &key)], &ALL)).unwrap());
    assert_eq!(facts(&simple_signing(&key, &image, &payload(kind, &image.digest), None)).statements[0].proof, Proof::Signature);
    for (payload, signature, words) in [
        (payload("atomic container signature", &image.digest), None, "payload of type `atomic"),
        (payload(kind, &Digest::of(b"other")), None, "is about sha256:"),
        (payload(kind, &image.digest), Some("AAAA"), "signed by none"),
        (payload(kind, &image.digest), Some("*"), "not base64"),
        (payload(kind, &image.digest), Some(""), "signed by none"),
    ] {
        let facts = facts(&simple_signing(&key, &image, &payload, signature));
        assert!(facts.statements.is_empty());
        assert!(facts.rejected[0].contains(words), "{}", facts.rejected[0]);
    }
}

#[tokio::test]
async fn a_flood_of_pieces_ends_and_says_so() {
    let mut made = made(BUNDLE, |_, _| b"{}".to_vec()).await;
    made.evidence.attachments = vec![made.evidence.attachments[0].clone(); MAX_PIECES + 1];
    let facts = made.facts();
    assert_eq!(facts.rejected.len(), MAX_PIECES);
    assert!(facts.incomplete.unwrap().contains("more than 256 pieces"));
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever bytes come, verification ends without a panic and nothing is proven.
        #[test]
        fn noise_proves_nothing(noise in prop::collection::vec(any::<u8>(), 0..512), at in 0..3_usize, cut in 0..1000_usize) {
            let key = SigningKey::generate().unwrap();
            let image = Image { repository: "r.example/a".to_owned(), digest: Digest::of(b"image") };
            let mut bundle = key.bundle(&statement(&image, SIGNATURE, &json!({}))).unwrap();
            let at_byte = cut % bundle.len();
            let kinds = [BUNDLE, ENVELOPE, SIMPLE_SIGNING];
            bundle.truncate(at_byte);
            bundle.extend_from_slice(&noise);
            for bytes in [noise, bundle] {
                let mut evidence = attached(&image, kinds[at], bytes.clone(), Some("AAAA"));
                let keys = Keys::new(&policy(&[("ci", &key)], &ALL)).unwrap();
                prop_assert!(verify(&evidence, &keys).statements.is_empty());
                evidence.attachments[0].manifest = bytes;
                prop_assert!(verify(&evidence, &keys).statements.is_empty());
            }
        }
    }
}
