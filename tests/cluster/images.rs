//! Images of the sample service in a real registry, put together by crane and signed by cosign.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::bed::{self, Registry, Server};

/// cosign with a key and nothing else: no transparency log, no time stamps.
const COSIGN: [&str; 5] =
    ["--signing-config=services.json", "--trusted-root=root.json", "--key=build.key", "--allow-http-registry", "--yes"];
const PROVENANCE: &str = r#"{"buildDefinition": {"buildType": "https://ci.example/image", "externalParameters": {},
    "resolvedDependencies": [{"uri": "git+https://git.example/shop"}]}, "runDetails": {"builder": {"id": "https://ci.example/builder"}}}"#;
const SBOM: &str = r#"{"spdxVersion": "SPDX-2.3", "packages": [{"name": "sample-service"}]}"#;

/// A registry, and the build that pushes into it. The build's key pair is `build.key` and `build.pub` in its folder.
pub struct Images {
    registry: Server,
    folder: TempDir,
}

impl Images {
    /// An empty registry, and a fresh key pair if cosign is there.
    pub fn start() -> Self {
        let images = Self { registry: Registry::start(), folder: tempfile::tempdir().expect("a temporary folder") };
        let write = |name: &str, text: &str| fs::write(images.folder.path().join(name), text).expect("a file");
        write("services.json", r#"{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}"#);
        write("root.json", r#"{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#);
        write("provenance.json", PROVENANCE);
        write("sbom.json", SBOM);
        if bed::tool("cosign").is_some() {
            images.run("cosign", &["generate-key-pair", "--output-key-prefix=build"]);
        }
        images
    }

    /// Host and port, as image names begin with them.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.registry.port)
    }

    /// Builds and pushes `HOST/REPOSITORY:VERSION`, which answers with its version and fails as `behaviour` says (see
    /// `service/main.go`). Its name by digest.
    pub fn push(&self, repository: &str, version: &str, behaviour: &[(&str, &str)]) -> String {
        let all = [&[("VERSION", version)], behaviour].concat();
        let variables: Vec<String> = all.iter().map(|(name, value)| format!("--env={name}={value}")).collect();
        self.build(repository, version, &variables.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The image that holds a pod's network.
    pub fn pause(&self) -> String {
        self.build("pause", "1", &["--cmd=pause"])
    }

    fn build(&self, repository: &str, tag: &str, config: &[&str]) -> String {
        let name = format!("{}/{repository}", self.host());
        let service = bed::tool("sample-service").expect("call node::missing first");
        let layer = self.folder.path().join("layer.tar");
        let mut files = tar::Builder::new(File::create(&layer).expect("a layer"));
        files.append_path_with_name(service, "sample-service").expect("the sample service");
        files.finish().expect("a layer");
        let layer = format!("--new_layer={}", layer.display());
        let empty = self.run("crane", &["append", "--oci-empty-base", &layer, &format!("--new_tag={name}:layer")]);
        let fixed = ["mutate", "--entrypoint=/sample-service", "--set-platform=linux/amd64"];
        self.run("crane", &[&fixed, config, &[&format!("--tag={name}:{tag}"), &empty]].concat())
    }

    /// Signs an image, and attests where it was built and what is in it.
    pub fn sign(&self, image: &str) {
        let with = |words: &[&str]| self.run("cosign", &[words, &COSIGN, &[image]].concat());
        with(&["sign"]);
        with(&["attest", "--type=slsaprovenance1", "--predicate=provenance.json"]);
        with(&["attest", "--type=spdxjson", "--predicate=sbom.json"]);
    }

    /// The public key that verifies what [`sign`](Self::sign) signed.
    pub fn public_key(&self) -> String {
        fs::read_to_string(self.folder.path().join("build.pub")).expect("cosign made a key pair")
    }

    /// Runs a tool in the folder: its output.
    fn run(&self, name: &str, arguments: &[&str]) -> String {
        let home = self.folder.path();
        let mut command = Command::new(bed::tool(name).unwrap_or_else(|| Path::new(name).into()));
        command.args(arguments).current_dir(home).env("HOME", home).env("COSIGN_PASSWORD", "").stdin(Stdio::null());
        let output = command.output().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
