//! An in-toto statement whose signature was verified: is it about this image, and what does it prove?
//!
//! Formats: in-toto Statement v0.1 and v1, SLSA provenance v0.2 and v1, SPDX 2 and 3, `CycloneDX`, and the
//! image signature that cosign 3 writes as a statement.

use std::borrow::Cow;

use serde_json::Value;

use super::json;
use crate::core::attest::Proof;
use crate::core::release::Digest;

/// The media type of an in-toto statement inside an envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The predicate type of an image signature.
pub const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
/// The predicate type of SLSA provenance v1.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// The predicate type of an SPDX document.
pub const SPDX: &str = "https://spdx.dev/Document";
/// The type of an in-toto statement v1.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";

const STATEMENT_0_1: &str = "https://in-toto.io/Statement/v0.1";
const PROVENANCE_0_2: &str = "https://slsa.dev/provenance/v0.2";
const CYCLONEDX: &str = "https://cyclonedx.org/bom";

/// What a statement says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) proof: Option<Proof>,
    pub(super) predicate_type: String,
    pub(super) builder: Option<String>,
    pub(super) source: Option<String>,
    pub(super) packages: Option<u64>,
}

/// Reads the verified `payload` of an envelope as a statement about the image `digest`.
///
/// A kind of predicate that proves nothing here has no `proof`.
///
/// # Errors
/// Why the statement does not count, as the rest of a sentence that starts with "it".
pub(super) fn read(payload: &[u8], digest: &Digest) -> Result<Said, String> {
    let statement = json::read(payload).map_err(|error| format!("is not a sound in-toto statement: {error}"))?;
    match json::text(&statement, "/_type") {
        Some(STATEMENT | STATEMENT_0_1) => {}
        other => return Err(format!("has the statement type `{}`; expected in-toto v0.1 or v1", other.unwrap_or("none"))),
    }
    about(&statement, digest)?;
    let kind = json::text(&statement, "/predicateType").ok_or("names no predicate type")?;
    let predicate = statement.get("predicate").unwrap_or(&Value::Null);
    let mut said = match kind {
        SIGNATURE => Said { proof: Some(Proof::Signature), ..Said::default() },
        PROVENANCE => provenance(predicate, "/runDetails/builder/id", &SOURCES)?,
        PROVENANCE_0_2 => provenance(predicate, "/builder/id", &SOURCES_0_2)?,
        _ if versioned(kind, SPDX) => sbom(spdx(predicate)?),
        _ if versioned(kind, CYCLONEDX) => sbom(cyclonedx(predicate)?),
        _ => Said::default(),
    };
    kind.clone_into(&mut said.predicate_type);
    Ok(said)
}

/// `kind` is `base`, or `base` with a version such as `/v2.3`.
fn versioned(kind: &str, base: &str) -> bool {
    kind.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with("/v"))
}

/// Whether one of the subjects is the image.
fn about(statement: &Value, digest: &Digest) -> Result<(), String> {
    let subjects = statement.get("subject").and_then(Value::as_array).ok_or("has no subject")?;
    let mut others = subjects.iter().filter_map(|subject| json::text(subject, "/digest/sha256"));
    if others.clone().any(|subject| subject == digest.hex()) {
        return Ok(());
    }
    let other = others.next().map_or_else(|| "nothing with a SHA-256".to_owned(), |other| format!("sha256:{other}"));
    Err(format!("is about {other}, not about {digest}"))
}

/// Where a provenance v1 may name its source, best first.
const SOURCES: [&str; 4] = [
    "/buildDefinition/externalParameters/workflow/repository",
    "/buildDefinition/externalParameters/source/uri",
    "/buildDefinition/externalParameters/source",
    "/buildDefinition/resolvedDependencies/0/uri",
];

/// Where a provenance v0.2 may name its source, best first.
const SOURCES_0_2: [&str; 2] = ["/invocation/configSource/uri", "/materials/0/uri"];

fn provenance(predicate: &Value, builder: &str, sources: &[&str]) -> Result<Said, String> {
    let builder = json::text(predicate, builder).ok_or("is a provenance that names no builder")?;
    Ok(Said {
        proof: Some(Proof::Provenance),
        builder: Some(builder.to_owned()),
        source: sources.iter().find_map(|source| json::text(predicate, source)).map(str::to_owned),
        ..Said::default()
    })
}

fn sbom(packages: usize) -> Said {
    Said { proof: Some(Proof::Sbom), packages: Some(packages as u64), ..Said::default() }
}

/// The document itself: some writers wrap it as a text, or as `{"Data": …}`.
fn unwrap(predicate: &Value) -> Result<Cow<'_, Value>, String> {
    match predicate.get("Data").unwrap_or(predicate) {
        Value::String(text) if text.trim_start().starts_with('{') => {
            json::read(text.as_bytes()).map(Cow::Owned).map_err(|error| format!("is an SBOM that cannot be read: {error}"))
        }
        other => Ok(Cow::Borrowed(other)),
    }
}

/// Packages of an SPDX document: JSON 2.x, JSON-LD 3.x, or tag-value text.
fn spdx(predicate: &Value) -> Result<usize, String> {
    let document = unwrap(predicate)?;
    if let Value::String(text) = document.as_ref() {
        if !text.contains("SPDXVersion:") {
            return Err("is an SPDX statement around a text that is not SPDX".to_owned());
        }
        return Ok(text.lines().filter(|line| line.trim_start().starts_with("PackageName:")).count());
    }
    if let Some(graph) = document.get("@graph").and_then(Value::as_array) {
        return Ok(graph.iter().filter(|element| matches!(json::text(element, "/type"), Some("software_Package" | "Package"))).count());
    }
    if json::text(&document, "/spdxVersion").is_none() {
        return Err("is an SPDX statement around something that is not an SPDX document".to_owned());
    }
    Ok(document.get("packages").and_then(Value::as_array).map_or(0, Vec::len))
}

/// Components of a `CycloneDX` document, nested ones included.
fn cyclonedx(predicate: &Value) -> Result<usize, String> {
    fn components(value: &Value) -> usize {
        let list = value.get("components").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter().map(|component| 1 + components(component)).sum()
    }
    let document = unwrap(predicate)?;
    if json::text(&document, "/bomFormat") != Some("CycloneDX") {
        return Err("is a CycloneDX statement around something that is not a CycloneDX JSON document".to_owned());
    }
    Ok(components(&document))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest() -> Digest {
        Digest::of(b"image")
    }

    fn statement(kind: &str, predicate: &Value) -> Vec<u8> {
        let subject = json!([{"name": "x", "digest": {"sha256": digest().hex()}}]);
        json!({"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate}).to_string().into_bytes()
    }

    fn packages(kind: &str, predicate: &Value) -> Option<u64> {
        let said = read(&statement(kind, predicate), &digest()).unwrap();
        assert_eq!(said.proof, Some(Proof::Sbom));
        said.packages
    }

    #[test]
    fn provenance_names_builder_and_source() {
        let v1 = json!({"buildDefinition": {"externalParameters": {"workflow": {"repository": "https://g.example/shop"}}},
                        "runDetails": {"builder": {"id": "https://b.example"}}});
        let v02 = json!({"builder": {"id": "https://b.example"}, "invocation": {"configSource": {"uri": "https://g.example/shop"}}});
        for (kind, predicate) in [(PROVENANCE, &v1), (PROVENANCE_0_2, &v02)] {
            let said = read(&statement(kind, predicate), &digest()).unwrap();
            assert_eq!(said.proof, Some(Proof::Provenance));
            assert_eq!(said.builder.as_deref(), Some("https://b.example"));
            assert_eq!(said.source.as_deref(), Some("https://g.example/shop"));
        }
        assert!(read(&statement(PROVENANCE, &v02), &digest()).unwrap_err().contains("names no builder"));
    }

    #[test]
    fn packages_are_counted_in_every_wrapping() {
        let spdx2 = json!({"spdxVersion": "SPDX-2.3", "packages": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(packages(SPDX, &spdx2), Some(2));
        assert_eq!(packages("https://spdx.dev/Document/v2.3", &json!(spdx2.to_string())), Some(2));
        assert_eq!(packages(SPDX, &json!({"Data": spdx2.to_string()})), Some(2));
        assert_eq!(packages(SPDX, &json!("SPDXVersion: SPDX-2.2\nPackageName: a\nPackageName: b\nPackageName: c")), Some(3));
        assert_eq!(packages(SPDX, &json!({"@graph": [{"type": "software_Package"}, {"type": "Person"}]})), Some(1));
        assert_eq!(packages(SPDX, &json!({"spdxVersion": "SPDX-2.3"})), Some(0));
        let cdx = json!({"bomFormat": "CycloneDX", "components": [{"name": "a", "components": [{"name": "b"}]}, {"name": "c"}]});
        assert_eq!(packages(CYCLONEDX, &cdx), Some(3));
        assert_eq!(packages("https://cyclonedx.org/bom/v1.6", &json!(cdx.to_string())), Some(3));
    }

    #[test]
    fn what_only_claims_to_be_an_sbom_is_refused() {
        for (kind, predicate) in [(SPDX, json!({})), (SPDX, json!("hello")), (SPDX, json!(null)), (CYCLONEDX, json!("<bom/>"))] {
            assert!(read(&statement(kind, &predicate), &digest()).is_err(), "{predicate}");
        }
        assert!(read(&statement(SPDX, &json!(r#"{"spdxVersion":"a","spdxVersion":"b"}"#)), &digest()).unwrap_err().contains("twice"));
    }

    #[test]
    fn other_subjects_types_and_kinds_do_not_count() {
        let payload = statement(SIGNATURE, &json!({}));
        assert_eq!(read(&payload, &digest()).unwrap().proof, Some(Proof::Signature));
        assert!(read(&payload, &Digest::of(b"other")).unwrap_err().contains("not about sha256:"));
        let text = String::from_utf8(payload).unwrap();
        assert!(
            read(text.replace(STATEMENT, "https://in-toto.io/Statement/v9").as_bytes(), &digest()).unwrap_err().contains("statement type")
        );
        assert_eq!(read(&statement("https://cosign.sigstore.dev/attestation/vuln/v1", &json!({})), &digest()).unwrap().proof, None);
        for lookalike in ["https://spdx.dev/Documents", "https://slsa.dev/provenance/v10", "https://cyclonedx.org/bombe"] {
            assert_eq!(read(&statement(lookalike, &json!({"spdxVersion": "x"})), &digest()).unwrap().proof, None);
        }
        assert!(read(br#"{"_type":"https://in-toto.io/Statement/v1","subject":[]}"#, &digest()).unwrap_err().contains("nothing"));
        assert!(read(b"not json", &digest()).is_err());
    }
}
