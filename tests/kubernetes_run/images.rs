//! Images that a build has signed, in a registry on the loopback.

use std::fs;
use std::path::PathBuf;

use crate::bed;
use crate::registry::{Home, Registry};

/// cosign with a key and nothing else.
const BUNDLES: [&str; 6] = ["--signing-config", "services.json", "--trusted-root", "root.json", "--allow-http-registry", "--yes"];

/// A build's signing key and its registry.
pub(crate) struct Build {
    pub(crate) registry: Registry,
    home: Home,
    crane: PathBuf,
    cosign: PathBuf,
}

/// The first tool that is missing here.
pub(crate) fn missing() -> Option<&'static str> {
    ["crane", "cosign"].into_iter().find(|name| bed::tool(name).is_none())
}

impl Build {
    pub(crate) fn new() -> Self {
        let (crane, cosign) = (bed::tool("crane").unwrap(), bed::tool("cosign").unwrap());
        let home = Home::new();
        home.run(&cosign, &["generate-key-pair", "--output-key-prefix", "build"]);
        Self { registry: Registry::crane(&crane), home, crane, cosign }
    }

    /// Pushes an image whose one layer holds `text`, and signs it: its name by digest.
    pub(crate) fn image(&self, text: &str) -> String {
        let image = self.unsigned(text);
        self.home.run(&self.cosign, &[&["sign", "--key", "build.key"], BUNDLES.as_slice(), &[image.as_str()]].concat());
        image
    }

    /// The same without a signature.
    pub(crate) fn unsigned(&self, text: &str) -> String {
        self.home.write("file.txt", text);
        let folder = self.home.folder.path();
        let mut layer = tar::Builder::new(Vec::new());
        layer.append_path_with_name(folder.join("file.txt"), "file.txt").unwrap();
        fs::write(folder.join("layer.tar"), layer.into_inner().unwrap()).unwrap();
        let tag = format!("{}/store/checkout:{text}", self.registry.host);
        self.home.run(&self.crane, &["append", "--oci-empty-base", "--new_layer", "layer.tar", "--new_tag", &tag]).trim().to_owned()
    }

    /// A policy that wants the build's signature.
    pub(crate) fn policy(&self) -> String {
        let key = self.home.read("build.pub");
        let policy = serde_json::json!({
            "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardPolicy", "metadata": {"name": "release"},
            "spec": {"attestation": {"authorities": [{"name": "build", "key": {"data": key}}], "require": [{"kind": "signature"}]}},
        });
        policy.to_string()
    }
}
