//! Real tools and real registries, each on its own free loopback port.

use std::env;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Where a tool is, or that this test is skipped.
pub(crate) fn tool(test: &str, name: &str) -> Option<PathBuf> {
    let extra = env::var_os("BACKSTOP_TEST_BIN").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let found = extra.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let message = format!("skipped: {test} needs `{name}` on PATH or in $BACKSTOP_TEST_BIN");
        assert!(env::var_os("BACKSTOP_TESTS_STRICT").is_none_or(|strict| strict != "1"), "{message}");
        println!("{message}");
    }
    found
}

/// A running registry; it ends with this value.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    /// Where it keeps its bytes.
    pub(crate) storage: tempfile::TempDir,
}

impl Registry {
    /// `crane registry serve`.
    pub(crate) fn crane(crane: &Path) -> Self {
        Self::start(|host, storage| {
            let mut command = Command::new(crane);
            command.args(["registry", "serve", "--address", host, "--disk"]).arg(storage);
            command
        })
    }

    /// The distribution registry.
    pub(crate) fn distribution(docker_registry: &Path) -> Self {
        Self::start(|host, storage| {
            let config = storage.join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0:?}}}}}\nhttp: {{addr: {host:?}}}\n",
                storage.display().to_string()
            );
            fs::write(&config, text).unwrap();
            let mut command = Command::new(docker_registry);
            command.arg("serve").arg(config);
            command
        })
    }

    fn start(command: impl Fn(&str, &Path) -> Command) -> Self {
        let storage = tempfile::tempdir().unwrap();
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let child = command(&host, storage.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { child, host, storage };
        for _ in 0..200 {
            if TcpStream::connect(&registry.host).is_ok() {
                return registry;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("the registry on {} did not start within 10 s", registry.host);
    }

    /// The file that holds these bytes.
    pub(crate) fn stored(&self, hex: &str) -> PathBuf {
        fn find(folder: &Path, hex: &str) -> Option<PathBuf> {
            fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
                let path = entry.path();
                let named = path.file_name().is_some_and(|name| name == hex)
                    || (path.ends_with("data") && path.parent().is_some_and(|up| up.ends_with(hex)));
                if path.is_dir() { find(&path, hex) } else { named.then_some(path) }
            })
        }
        find(self.storage.path(), hex).unwrap()
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A home for `cosign` and `crane`: no login, no cache, nothing of the machine's.
pub(crate) struct Home {
    pub(crate) folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // No log, no timestamp authority, no certificate authority: a key alone, without network.
        let services = r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}"#;
        fs::write(folder.path().join("services.json"), services).unwrap();
        fs::write(folder.path().join("root.json"), r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#).unwrap();
        Self { folder }
    }

    /// Runs a tool here; it must succeed. Its standard output.
    pub(crate) fn run(&self, tool: &Path, arguments: &[&str]) -> String {
        let (succeeded, text, errors) = self.attempt(tool, arguments);
        assert!(succeeded, "{} {arguments:?}: {errors}", tool.display());
        text
    }

    /// Runs a tool here: whether it succeeded, what it printed, and what it complained of.
    pub(crate) fn attempt(&self, tool: &Path, arguments: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(tool);
        command.args(arguments).current_dir(self.folder.path()).env("HOME", self.folder.path()).env("COSIGN_PASSWORD", "");
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }
}
