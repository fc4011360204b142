//! Real registries, real `cosign`, real `crane`.

use std::fs;
use std::path::PathBuf;

use backstop::core::attest::Proof;
use backstop::core::release::Image;
use backstop::core::spec::Artifacts;
use backstop::world::evidence::{load_evidence, store_evidence};
use backstop::world::publish::{Publisher, SigningKey};
use backstop::world::registry::Fault;
use backstop::world::verify::{Keys, verify};

use super::bed::{Home, Registry, tool};
use super::{ALL, assert_empty, codes, collect, collector, decide, everything, files, policy};

const PROVENANCE: &str = r#"{"buildDefinition":{"buildType":"https://ci.example/t","externalParameters":{},
    "resolvedDependencies":[{"uri":"git+https://git.example/shop"}]},"runDetails":{"builder":{"id":"https://ci.example/builder"}}}"#;
const SPDX: &str = r#"{"spdxVersion":"SPDX-2.3","packages":[{"name":"a"},{"name":"b"}]}"#;

struct Tools {
    crane: PathBuf,
    cosign: PathBuf,
    docker_registry: PathBuf,
}

fn tools(test: &str) -> Option<Tools> {
    Some(Tools { crane: tool(test, "crane")?, cosign: tool(test, "cosign")?, docker_registry: tool(test, "docker-registry")? })
}

impl Tools {
    fn registries(&self) -> [Registry; 2] {
        [Registry::crane(&self.crane), Registry::distribution(&self.docker_registry)]
    }

    /// Pushes an image whose one layer holds `text`.
    fn push(&self, home: &Home, registry: &Registry, text: &str) -> Image {
        home.write("file.txt", text);
        let mut layer = tar::Builder::new(Vec::new());
        layer.append_path_with_name(home.folder.path().join("file.txt"), "file.txt").unwrap();
        fs::write(home.folder.path().join("layer.tar"), layer.into_inner().unwrap()).unwrap();
        let tag = format!("{}/shop/checkout:{text}", registry.host);
        let digest = home.run(&self.crane, &["append", "--oci-empty-base", "--new_layer", "layer.tar", "--new_tag", &tag]);
        digest.trim().parse().unwrap()
    }

    /// Pushes each manifest of the folder `layout`, one after another: pushed at once, referrers overwrite each other's
    /// entry under the tag that stands in for the referrers list.
    fn push_each(&self, home: &Home, repository: &str) {
        let whole = home.read("layout/index.json");
        let index: serde_json::Value = serde_json::from_str(&whole).unwrap();
        for (at, entry) in index["manifests"].as_array().unwrap().iter().enumerate() {
            let mut one = index.clone();
            one["manifests"] = serde_json::json!([entry]);
            home.write("layout/index.json", &one.to_string());
            home.run(&self.crane, &["push", "layout", &format!("{repository}:part-{at}")]);
        }
        home.write("layout/index.json", &whole);
    }

    fn sign(&self, home: &Home, key: &str, image: &Image) {
        let (key, image) = (format!("{key}.key"), image.to_string());
        home.run(&self.cosign, &[&["sign", "--key", &key], BUNDLES, &[image.as_str()]].concat());
    }

    fn attest(&self, home: &Home, kind: &str, predicate: &str, image: &Image) {
        home.write("predicate.json", predicate);
        let image = image.to_string();
        let what = ["attest", "--key", "ci.key", "--type", kind, "--predicate", "predicate.json"];
        home.run(&self.cosign, &[&what, BUNDLES, &[image.as_str()]].concat());
    }

    fn keys(&self, home: &Home) {
        for name in ["ci", "other"] {
            home.run(&self.cosign, &["generate-key-pair", "--output-key-prefix", name]);
        }
    }
}

/// cosign 3 with a key and nothing else.
const BUNDLES: &[&str] = &["--signing-config", "services.json", "--trusted-root", "root.json", "--allow-http-registry", "--yes"];
/// cosign as it was before bundles.
const LEGACY: &[&str] =
    &["--use-signing-config=false", "--tlog-upload=false", "--new-bundle-format=false", "--allow-http-registry", "--yes"];

#[tokio::test]
async fn what_cosign_signed_satisfies_the_policy_and_goes_back_without_the_registry() {
    let Some(tools) = tools("what_cosign_signed_satisfies_the_policy_and_goes_back_without_the_registry") else { return };
    for mut registry in tools.registries() {
        let home = Home::new();
        tools.keys(&home);
        let image = tools.push(&home, &registry, "v1");
        let ci = policy(&home.read("ci.pub"), &ALL);
        assert_eq!(codes(&ci, &collect(&image).await), ["BS040"], "unsigned");

        tools.attest(&home, "spdxjson", SPDX, &image);
        let reasons = decide(&ci, &collect(&image).await).unwrap_err();
        assert!(reasons[0].to_string().contains("no provenance by ci"), "only an SBOM: {}", reasons[0]);
        assert!(!reasons[0].to_string().contains("no signature"), "an attestation is a signature: {}", reasons[0]);

        tools.attest(&home, "slsaprovenance1", PROVENANCE, &image);
        tools.sign(&home, "ci", &image);
        let evidence = collect(&image).await;
        assert_eq!(evidence.incomplete, None);
        assert_eq!(decide(&ci, &evidence), Ok(()));
        let facts = verify(&evidence, &Keys::new(&ci).unwrap());
        assert_eq!(facts.rejected, Vec::<String>::new());
        let provenance = facts.statements.iter().find(|statement| statement.proof == Proof::Provenance).unwrap();
        assert_eq!(provenance.builder.as_deref(), Some("https://ci.example/builder"));
        assert_eq!(provenance.source.as_deref(), Some("git+https://git.example/shop"));
        assert_eq!(facts.statements.iter().find_map(|statement| statement.packages), Some(2));

        let other = policy(&home.read("other.pub"), &[Proof::Signature]);
        assert_eq!(codes(&other, &evidence), ["BS040"], "another key");
        let mut denying = ci.clone();
        denying.deny.digests.push(image.digest.clone());
        assert_eq!(codes(&denying, &evidence), ["BS041"]);

        let (store, content) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let capsule = store_evidence(store.path(), &evidence).unwrap();
        assert!(collector().pull(&image, &Artifacts::Registry {}, content.path()).await.unwrap().fetched > 0);
        registry.stop();
        let down = collect(&image).await;
        assert_eq!(codes(&ci, &down), ["BS042"], "down is not the same as unsigned");
        assert_eq!(decide(&ci, &load_evidence(store.path(), &capsule).unwrap()), Ok(()));
        assert_eq!(collector().pull(&image, &Artifacts::Registry {}, content.path()).await.unwrap().fetched, 0);
    }
}

#[tokio::test]
async fn what_older_cosign_signed_counts_too() {
    let Some(tools) = tools("what_older_cosign_signed_counts_too") else { return };
    for registry in tools.registries() {
        let home = Home::new();
        tools.keys(&home);
        let image = tools.push(&home, &registry, "v1");
        let name = image.to_string();
        home.run(&tools.cosign, &[&["sign", "--key", "ci.key"], LEGACY, &[name.as_str()]].concat());
        let ci = |require: &[Proof]| policy(&home.read("ci.pub"), require);
        assert_eq!(decide(&ci(&[Proof::Signature]), &collect(&image).await), Ok(()));
        home.write(
            "predicate.json",
            r#"{"builder":{"id":"https://ci.example"},"buildType":"x","materials":[{"uri":"https://git.example"}]}"#,
        );
        let what = ["attest", "--key", "ci.key", "--type", "slsaprovenance", "--predicate", "predicate.json"];
        home.run(&tools.cosign, &[&what, LEGACY, &[name.as_str()]].concat());
        home.write("predicate.json", r#"{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library","name":"a"}]}"#);
        let what = ["attest", "--key", "ci.key", "--type", "cyclonedx", "--predicate", "predicate.json"];
        home.run(&tools.cosign, &[&what, LEGACY, &[name.as_str()]].concat());
        assert_eq!(decide(&ci(&ALL), &collect(&image).await), Ok(()));
        assert_eq!(codes(&policy(&home.read("other.pub"), &[Proof::Signature]), &collect(&image).await), ["BS040"]);
    }
}

#[tokio::test]
async fn the_signature_of_one_image_is_none_of_another() {
    let Some(tools) = tools("the_signature_of_one_image_is_none_of_another") else { return };
    let registry = Registry::distribution(&tools.docker_registry);
    let home = Home::new();
    tools.keys(&home);
    let (signed, copied) = (tools.push(&home, &registry, "v1"), tools.push(&home, &registry, "v2"));
    let name = signed.to_string();
    tools.sign(&home, "ci", &signed);
    home.run(&tools.cosign, &[&["sign", "--key", "ci.key"], LEGACY, &[name.as_str()]].concat());
    // Whoever can push can give the tags of one image to another.
    for suffix in ["", ".sig"] {
        let tag = |image: &Image| format!("{}:sha256-{}{suffix}", image.repository, image.digest.hex());
        home.run(&tools.crane, &["copy", &tag(&signed), &tag(&copied)]);
    }
    let ci = policy(&home.read("ci.pub"), &[Proof::Signature]);
    assert_eq!(decide(&ci, &collect(&signed).await), Ok(()));
    let reasons = decide(&ci, &collect(&copied).await).unwrap_err();
    let text = reasons[0].to_string();
    assert_eq!(reasons[0].code(), "BS040");
    assert!(text.contains("but refers to") && text.contains("is about sha256:"), "{text}");
}

#[tokio::test]
async fn changed_bytes_in_a_registry_are_never_pulled() {
    let Some(tools) = tools("changed_bytes_in_a_registry_are_never_pulled") else { return };
    for registry in tools.registries() {
        let home = Home::new();
        let image = tools.push(&home, &registry, "v1");
        let manifest: serde_json::Value = serde_json::from_str(&home.run(&tools.crane, &["manifest", &image.to_string()])).unwrap();
        let hex = manifest["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let file = registry.stored(&hex);
        let mut bytes = fs::read(&file).unwrap();
        bytes[0] ^= 1;
        fs::write(&file, bytes).unwrap();
        let content = tempfile::tempdir().unwrap();
        let fault = collector().pull(&image, &Artifacts::Registry {}, content.path()).await.unwrap_err();
        // One registry notices by itself and hides the blob; the other serves what it has.
        assert!(matches!(fault, Fault::Malformed(_) | Fault::NotFound(_)), "{fault}");
        assert_empty(content.path());
    }
}

#[tokio::test]
async fn what_backstop_publishes_cosign_verifies() {
    let Some(tools) = tools("what_backstop_publishes_cosign_verifies") else { return };
    for registry in tools.registries() {
        let home = Home::new();
        let key = SigningKey::generate().unwrap();
        home.write("key.pub", &key.public_pem().unwrap());
        let repository = format!("{}/shop/checkout", registry.host);
        let layout = home.folder.path().join("layout");
        let image = Publisher::new(&layout, &key).publish(&repository, &files("v1"), &everything()).unwrap();
        tools.push_each(&home, &repository);

        let name = image.to_string();
        let flags = ["--key", "key.pub", "--insecure-ignore-tlog", "--trusted-root", "root.json", "--allow-http-registry", name.as_str()];
        home.run(&tools.cosign, &[&["verify"], &flags[..]].concat());
        for kind in ["slsaprovenance1", "spdxjson"] {
            home.run(&tools.cosign, &[&["verify-attestation", "--type", kind], &flags[..]].concat());
        }
        let (accepted, _, _) = home.attempt(&tools.cosign, &[&["verify-attestation", "--type", "vuln"], &flags[..]].concat());
        assert!(!accepted, "cosign finds no attestation that was not made");

        let pem = home.read("key.pub");
        assert_eq!(decide(&policy(&pem, &ALL), &collect(&image).await), Ok(()));
        let layout = Artifacts::Layout { path: layout.display().to_string() };
        assert_eq!(decide(&policy(&pem, &ALL), &collector().collect(&image, &layout).await), Ok(()));
    }
}

#[tokio::test]
async fn an_image_with_a_lost_layer_is_out_of_reach_before_anybody_pulls_it() {
    let Some(tools) = tools("an_image_with_a_lost_layer_is_out_of_reach_before_anybody_pulls_it") else { return };
    for mut registry in tools.registries() {
        let home = Home::new();
        let image = tools.push(&home, &registry, "v1");
        let reach = async || collector().reach(&image, &Artifacts::Registry {}).await;
        assert_eq!(reach().await, Ok(()));
        let manifest = home.run(&tools.crane, &["manifest", &image.to_string()]);
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        fs::remove_file(registry.stored(&layer)).unwrap();
        assert!(matches!(reach().await, Err(Fault::NotFound(what)) if what.contains(&layer)), "{:?}", reach().await);
        registry.stop();
        assert!(matches!(reach().await, Err(Fault::Unavailable(_))), "{:?}", reach().await);
    }
}
