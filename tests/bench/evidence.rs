//! Verifying the attestations of an image: the first time, and again from stored bytes.

use std::path::Path;

use backstop::core::attest::{AttestationPolicy, Facts, ImageFacts, evaluate};
use backstop::core::policy::Policy;
use backstop::core::spec::Artifacts;
use backstop::world::clock;
use backstop::world::evidence::{load_evidence, store_evidence};
use backstop::world::publish::{File, Options, Provenance, Publisher, SigningKey};
use backstop::world::registry::{Collector, Credentials, Patience};
use backstop::world::verify::{Keys, verify};

use super::table::{Against, Table, quantile};

/// Verifications of each kind.
const TIMES: usize = 200;

/// Signature, provenance and SBOM of one image, from a layout folder and from the evidence folder.
pub(crate) async fn measure(policy: &Policy, key: &SigningKey, dir: &Path, table: &mut Table) {
    let layout = dir.join("layout");
    let options = Options {
        tag: None,
        sign: true,
        provenance: Some(Provenance { builder: "https://builder.example/ci".into(), source: "git+https://git.example/checkout".into() }),
        sbom: Some((0..200).map(|number| (format!("package-{number}"), "1.0.0".to_owned())).collect()),
    };
    let files = [File { path: "bin/service".into(), executable: true, bytes: vec![b'x'; 1 << 20] }];
    let image = Publisher::new(&layout, key).publish("bench.invalid/checkout", &files, &options).expect("an artifact");
    let artifacts = Artifacts::Layout { path: layout.display().to_string() };
    let collector = Collector::new(Credentials::default(), Patience::default()).expect("a collector");
    let store = dir.join("evidence");
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let start = clock::instant();
        let evidence = collector.collect(&image, &artifacts).await;
        attested(&policy.attestation, verify(&evidence, &keys(policy)));
        first.push(start.elapsed().as_secs_f64() * 1000.0);
        let capsule = store_evidence(&store, &evidence).expect("evidence is stored");
        let start = clock::instant();
        let evidence = load_evidence(&store, &capsule).expect("evidence is there");
        attested(&policy.attestation, verify(&evidence, &keys(policy)));
        again.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    table.section(format!("Evidence: signature, provenance, SBOM of 200 packages ({TIMES} times)"));
    table.row("first, from a layout folder: median", quantile(&mut first, 0.5), "ms", Against::Budget(20.0));
    table.row("first, from a layout folder: p99", quantile(&mut first, 0.99), "ms", Against::Nothing);
    table.row("again, from stored bytes: median", quantile(&mut again, 0.5), "ms", Against::Budget(5.0));
    table.row("again, from stored bytes: p99", quantile(&mut again, 0.99), "ms", Against::Nothing);
    table.print_last();
}

fn keys(policy: &Policy) -> Keys {
    Keys::new(&policy.attestation).expect("the key is a key")
}

fn attested(policy: &AttestationPolicy, facts: ImageFacts) {
    assert!(facts.statements.len() >= 3, "signature, provenance and SBOM: {:?}", facts.rejected);
    let facts = Facts { images: vec![facts], ledger_untrusted: None };
    if let Err(reasons) = evaluate(policy, &facts) {
        panic!("not attested: {reasons:?}");
    }
}
