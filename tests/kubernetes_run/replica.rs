//! The controller as a process beside a cluster, and what it is told to watch: a Deployment that it observes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::{cluster, images};

/// The first part of what is needed that is missing here.
pub(crate) fn missing() -> Option<&'static str> {
    cluster::missing().or_else(images::missing)
}

/// One replica.
pub(crate) struct Replica {
    child: Child,
    data_dir: PathBuf,
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Replica {
    /// Starts one that reaches the API server as `kubeconfig` says. All that it has is in `home`: the principals, its data in
    /// `data`, and its log, which goes on if it is started again.
    pub(crate) fn start(home: &Path, data: &str, identity: &str, kubeconfig: &Path, arguments: &[&str]) -> Self {
        let data_dir = home.join(data);
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(["run", "--kubernetes", "--log-format=json", "--identity", identity]).args(arguments);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--principals").arg(home.join("principals.yaml"));
        command.arg("--data-dir").arg(&data_dir).env("HOME", home);
        let log = std::fs::File::options().append(true).create(true).open(home.join(format!("{data}.log"))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        Self { child: command.spawn().unwrap(), data_dir }
    }

    /// Runs the command line against this replica's socket.
    pub(crate) fn tell(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(arguments).arg("--data-dir").arg(&self.data_dir).output().unwrap()
    }

    /// Its process id.
    #[allow(dead_code, reason = "benches look at it from outside")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a replica in `home`, with its data in `data`, wrote so far.
pub(crate) fn log(home: &Path, data: &str) -> String {
    std::fs::read_to_string(home.join(format!("{data}.log"))).unwrap_or_default()
}

/// The administrator is a person, and who comes from `namespace` is an agent.
pub(crate) fn write_principals(home: &Path, namespace: &str) {
    let principals = format!(
        "principals:\n  - {{kubernetes: admin, name: admin, kind: human}}\n  \
         - {{kubernetes: 'system:serviceaccount:{namespace}:*', name: agents, kind: agent}}\n"
    );
    std::fs::write(home.join("principals.yaml"), principals).unwrap();
}

/// The source of metrics called `nowhere`, where nothing answers.
pub(crate) fn nowhere() -> Value {
    json!({
        "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardSource", "metadata": {"name": "nowhere"},
        "spec": {"prometheus": {"url": "http://127.0.0.1:9", "scrapeInterval": "1s"}},
    })
}

/// A guard that observes the Deployment of its own name, and judges it by [`nowhere`].
pub(crate) fn guard(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardedRollout", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "workload": {"deployment": {"name": name}}, "arms": {"by": "pod"}, "source": "nowhere",
            "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "errors_total", "total": "requests_total"}}],
            "strategy": {"observe": {}}, "watch": {"for": "10m", "holdback": "0%"}, "attestation": {"policy": "release"},
        },
    })
}

/// A status without what is not for people.
pub(crate) fn short(status: &Value) -> Value {
    let mut status = status.clone();
    for field in ["state", "records", "ledger"] {
        status[field] = Value::Null;
    }
    status
}
