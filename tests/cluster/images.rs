//! Images of the sample service in a real registry, built by buildah and signed by cosign.

use std::fs;
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
        let mut config = vec![format!("--env=VERSION={version}")];
        config.extend(behaviour.iter().map(|(variable, value)| format!("--env={variable}={value}")));
        self.build(repository, version, config)
    }

    /// The image that holds a pod's network.
    pub fn pause(&self) -> String {
        self.build("pause", "1", vec!["--cmd=pause".into()])
    }

    fn build(&self, repository: &str, tag: &str, config: Vec<String>) -> String {
        let name = format!("{}/{repository}", self.host());
        let tagged = format!("{name}:{tag}");
        let service = bed::tool("sample-service").expect("call node::missing first").display().to_string();
        let container = self.buildah(&["from", "scratch"]);
        self.buildah(&["copy", "--quiet", &container, &service, "/sample-service"]);
        let fixed = ["config", "--entrypoint=[\"/sample-service\"]", "--port=8080"].map(str::to_owned);
        let config: Vec<String> = fixed.into_iter().chain(config).chain([container.clone()]).collect();
        self.buildah(&config.iter().map(String::as_str).collect::<Vec<_>>());
        self.buildah(&["commit", "--quiet", &container, &tagged]);
        self.buildah(&["push", "--quiet", "--tls-verify=false", "--digestfile=digest", &tagged, &format!("docker://{tagged}")]);
        self.buildah(&["rm", &container]);
        let digest = fs::read_to_string(self.folder.path().join("digest")).expect("buildah writes the digest");
        format!("{name}@{}", digest.trim())
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

    fn buildah(&self, arguments: &[&str]) -> String {
        // Plain copies of folders need no mounts.
        let places = ["--storage-driver=vfs", "--root=storage", "--runroot=run"];
        self.run("buildah", &[&places, arguments].concat())
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
