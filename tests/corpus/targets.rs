//! What reads bytes from outside, one function each: any input gives a value or an error, soon, and never a panic.
//!
//! `fuzz/` throws made-up inputs at them, and `tests/corpus.rs` those that were kept.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use backstop::core::attest::{AttestationPolicy, Authority, Key, evaluate};
use backstop::core::release::{Digest, Image};
use backstop::core::replay::Replay;
use backstop::core::spec::Artifacts;
use backstop::core::time::Span;
use backstop::sim::story::{self, Story};
use backstop::spec::{CheckReport, load_text};
use backstop::world::audit::leaf;
use backstop::world::audit::note::Verifier;
use backstop::world::audit::{Assembly, Proof};
use backstop::world::evidence::{Attachment, Evidence, Via};
use backstop::world::exposition::{self, Body, Format};
use backstop::world::prometheus;
use backstop::world::registry::{Collector, Credentials, Patience};
use backstop::world::verify::{Keys, verify};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

/// A function that must cope with anything.
pub(crate) type Target = fn(&[u8]);

/// All of them, by name.
pub(crate) const ALL: [(&str, Target); 8] = [
    ("spec", spec),
    ("exposition", exposition),
    ("prometheus", prometheus),
    ("bundle", bundle),
    ("manifest", manifest),
    ("audit", audit),
    ("story", story),
    ("replay", replay),
];

/// Documents: read, checked, and all that is said about them written out.
pub(crate) fn spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let loaded = load_text("fuzz.yaml", text, Path::new("/nonexistent"));
    let report = CheckReport::of(&loaded);
    assert!(!report.render(true).is_empty());
    assert!(serde_json::to_string(&report).is_ok());
}

/// A metrics page in both formats.
pub(crate) fn exposition(data: &[u8]) {
    for format in [Format::Text, Format::OpenMetrics] {
        for complete in [true, false] {
            if let Ok(page) = exposition::parse(Body { bytes: data, format, complete }, |name| !name.starts_with('x')) {
                assert!(page.counters.iter().all(|counter| counter.value.is_finite() && counter.value >= 0.0));
            }
        }
    }
}

/// An answer of Prometheus' query API.
pub(crate) fn prometheus(data: &[u8]) {
    if let Ok(rows) = prometheus::samples(data) {
        for samples in rows {
            assert!(samples.iter().all(|sample| sample.value.is_finite() && sample.value >= 0.0));
            assert!(samples.windows(2).all(|pair| pair[0].at < pair[1].at));
        }
    }
}

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed makes a key")
}

/// A public key in PEM, whose private half nobody uses here: nothing may verify.
static KEYS: LazyLock<(AttestationPolicy, Keys)> = LazyLock::new(|| {
    // SubjectPublicKeyInfo of Ed25519 (RFC 8410): a fixed head before the 32 bytes.
    let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let der: Vec<u8> = head.into_iter().chain(key().public_key().as_ref().iter().copied()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(der));
    let authorities = vec![Authority { name: "build".into(), key: Key { data: Some(pem), file: None } }];
    let policy = AttestationPolicy { authorities, ..AttestationPolicy::default() };
    let keys = Keys::new(&policy).expect("the key can be used");
    (policy, keys)
});

/// A Sigstore bundle, a DSSE envelope and a simple signature: attached to an image, by every way in.
pub(crate) fn bundle(data: &[u8]) {
    let (policy, keys) = &*KEYS;
    let image = Image { repository: "registry.example/shop/checkout".into(), digest: Digest::of(b"{}") };
    let subject = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest.to_string(), "size": 2});
    let mut evidence = Evidence::new(image, "registry.example");
    evidence.manifest = Some(b"{}".to_vec());
    let types = [
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.dsse.envelope.v1+json",
        "application/vnd.dev.cosign.simplesigning.v1+json",
    ];
    for media_type in types {
        for via in [Via::Referrer, Via::Tag] {
            // The second half of the input as an annotation: where a simple signature carries its signature.
            let half = String::from_utf8_lossy(&data[data.len() / 2..]).into_owned();
            let layer = json!({"mediaType": media_type, "digest": Digest::of(data).to_string(), "size": data.len(),
                "annotations": {"dev.cosignproject.cosign/signature": half}});
            let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": media_type, "subject": subject, "config": layer, "layers": [layer]});
            evidence.attachments.push(Attachment { via, manifest: manifest.to_string().into_bytes(), layers: vec![data.to_vec()] });
        }
    }
    // The input as the attachment's manifest.
    evidence.attachments.push(Attachment { via: Via::Referrer, manifest: data.to_vec(), layers: vec![data.to_vec()] });
    let facts = verify(&evidence, keys);
    assert!(facts.statements.is_empty(), "nobody signed this: {facts:?}");
    let _ = evaluate(policy, &backstop::core::attest::Facts { images: vec![facts], ledger_untrusted: None });
}

/// Manifests and indexes of a registry: the input is a layout's index, an image's manifest, and a referrer.
pub(crate) fn manifest(data: &[u8]) {
    static COLLECTOR: LazyLock<(tokio::runtime::Runtime, Collector, tempfile::TempDir)> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let collector = Collector::new(Credentials::default(), Patience::default()).expect("a collector");
        (runtime, collector, tempfile::tempdir().expect("a folder"))
    });
    let (runtime, collector, folder) = &*COLLECTOR;
    let layout = folder.path().join("layout");
    let blobs = layout.join("blobs").join("sha256");
    let digest = Digest::of(data);
    std::fs::create_dir_all(&blobs).expect("a folder");
    std::fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    std::fs::write(blobs.join(digest.hex()), data).expect("a file");
    let image = Image { repository: "shop/checkout".into(), digest: digest.clone() };
    let artifacts = Artifacts::Layout { path: layout.display().to_string() };
    let descriptor = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(), "size": data.len()});
    let tagged = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
    for index in [data, tagged.as_bytes()] {
        std::fs::write(layout.join("index.json"), index).expect("a file");
        let evidence = runtime.block_on(collector.collect(&image, &artifacts));
        verify(&evidence, &KEYS.1);
    }
    let _ = runtime.block_on(collector.pull(&image, &artifacts, &folder.path().join("content")));
    let _ = std::fs::remove_dir_all(folder.path().join("content"));
    let _ = std::fs::remove_file(blobs.join(digest.hex()));
}

/// The audit log: notes, checkpoints, proofs and leaves.
pub(crate) fn audit(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(verifier) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(&verifier.to_string()).expect("what was written can be read").name(), verifier.name());
    }
    let key = key();
    let public: [u8; 32] = key.public_key().as_ref().try_into().expect("32 bytes");
    let verifier = Verifier::new("log", public);
    assert!(verifier.open(text).is_err(), "nobody signed this");
    // The same text, signed: what comes after the signature is reached.
    let hash = verifier.to_string();
    let hash = u32::from_str_radix(hash.split('+').nth(1).unwrap_or_default(), 16).expect("a hash in hex");
    let body = format!("{}\n", text.trim_end_matches('\n'));
    let signature = [hash.to_be_bytes().as_slice(), key.sign(body.as_bytes()).as_ref()].concat();
    let note = format!("{body}\n— log {}\n", BASE64.encode(signature));
    if note.len() < 60_000 {
        assert_eq!(verifier.open(&note).ok(), Some(body.as_str()));
    }
    if let Ok(checkpoint) = verifier.checkpoint(&note) {
        let proof = Proof { index: checkpoint.size / 2, path: Vec::new(), checkpoint: note };
        let _ = proof.verify(data, &verifier);
        assert_eq!(Proof::parse(&proof.to_string()).map(|proof| proof.index).ok(), Some(proof.index));
    }
    if let Ok(proof) = Proof::parse(text) {
        assert!(proof.verify(b"entry", &verifier).is_err());
    }
    if let Ok(line) = serde_json::from_slice::<serde_json::Value>(data) {
        let fetched = |_: &Digest| Ok::<_, std::convert::Infallible>(data.to_vec());
        let _ = leaf::record(&line, fetched);
    }
}

/// A story: read, and played if that is soon done.
pub(crate) fn story(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Story::parse("fuzz.story", text) {
        Ok(story) if story.length() <= Span::seconds(600) => {
            let played = || story::run(&story, story.guard(), story.policy());
            assert_eq!(played().lines, played().lines, "two runs differ");
        }
        Ok(_) => {}
        Err(findings) => assert!(findings.iter().all(|finding| !finding.to_string().is_empty())),
    }
}

/// An exported log, run again: it is damaged, it differs, or it does not.
pub(crate) fn replay(data: &[u8]) {
    let (mut assembly, mut workloads) = (Assembly::default(), BTreeMap::<String, Replay>::new());
    for (number, line) in (1..).zip(data.split(|byte| *byte == b'\n')) {
        let Ok(line) = serde_json::from_slice(line) else { return };
        let Ok(whole) = assembly.add(&line, number) else { return };
        let Some(whole) = whole else { continue };
        match workloads.entry(whole.key.clone()).or_default().next(whole.recorded()) {
            Ok(commit) => drop(leaf::Seal::of(&commit).expect("a state can be written")),
            Err(divergence) => return assert!(!divergence.to_string().is_empty()),
        }
    }
}
