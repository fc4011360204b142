//! One real node: kubelet, containerd and runc, with pods on a bridge that reaches this machine and nothing else.
//!
//! Its processes and mounts are in namespaces of their own, and end with the first of them. What can outlive that, the bridge
//! and the control groups, has one name for the whole node, `backstop-N`, and is removed by that name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Cluster, User, is_ready};
use crate::bed::{self, Server};

/// What a real node is started from, and the Debian package of each, or who builds it.
const TOOLS: [(&str, &str); 6] = [
    ("containerd", "apt-get install containerd"),
    ("runc", "apt-get install runc"),
    ("crane", "tests/run"),
    ("docker-registry", "apt-get install docker-registry"),
    ("kubelet", "tests/cluster/tools"),
    ("sample-service", "tests/cluster/tools"),
];
/// Where Debian has the network plug-ins.
const PLUGINS: &str = "/usr/lib/cni";
const GROUPS: &str = "/sys/fs/cgroup";
/// How long a node may take to be ready.
const START: Duration = Duration::from_mins(1);

/// The first thing that a real node lacks here, with the way to get it.
pub fn missing() -> Option<String> {
    if let Some(tool) = super::missing() {
        return Some(tool.to_owned());
    }
    if let Some((name, source)) = TOOLS.into_iter().find(|(name, _)| bed::tool(name).is_none()) {
        return Some(format!("{name} (`{source}`)"));
    }
    if !["bridge", "host-local", "loopback"].iter().all(|plugin| Path::new(PLUGINS).join(plugin).is_file()) {
        return Some(format!("network plug-ins in {PLUGINS} (`apt-get install containernetworking-plugins`)"));
    }
    let may = |what: &[&str]| attempt(what).is_ok();
    if !may(&["unshare", "--mount", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "node", "/run"]) {
        return Some("mounts and processes of its own (root, or the capability CAP_SYS_ADMIN)".into());
    }
    let Ok(trace) = Trace::new() else {
        return Some("a network bridge (root with `ip` of iproute2, or the capability CAP_NET_ADMIN)".into());
    };
    trace.groups().is_err().then(|| format!("control groups of its own below {GROUPS}"))
}

fn attempt(words: &[&str]) -> io::Result<()> {
    let (program, arguments) = words.split_first().expect("a command");
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())) }
}

/// A running real node, named `localhost`, labelled `node: real`.
pub struct Node {
    // In the order in which they end.
    server: Server,
    _trace: Trace,
}

impl Node {
    /// Starts it in a cluster. `pause` is an image that waits for ever: it holds the network of each pod.
    pub fn start(cluster: &Cluster, pause: &str) -> Self {
        let trace = Trace::new().expect("a bridge: call node::missing first");
        trace.groups().expect("control groups: call node::missing first");
        let admin = cluster.admin();
        let server = Self::server(&admin, &trace, pause);
        let node = Self { server, _trace: trace };
        let ready = bed::eventually(START, || {
            let found = admin.kubectl(&["get", "node", "localhost", "--output=json"], "").ok()?;
            is_ready(&serde_json::from_str(&found).ok()?).then_some(())
        });
        assert!(ready.is_some(), "the real node is not ready within {START:?}");
        node
    }

    fn server(admin: &User, trace: &Trace, pause: &str) -> Server {
        let start = bed::repository("tests/cluster/node");
        Server::start_until(
            "node",
            Path::new("/usr/bin/unshare"),
            0,
            || true,
            |folder, command| {
                fs::write(folder.join("containerd.toml"), containerd(folder, pause))?;
                fs::write(folder.join("kubelet.yaml"), kubelet(folder, &trace.name))?;
                fs::create_dir(folder.join("cni"))?;
                fs::write(folder.join("cni/pods.conflist"), trace.network(folder))?;
                command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(start).arg(folder);
                command.env("KUBECONFIG", admin.kubeconfig()).env("KUBELET", bed::tool("kubelet").unwrap_or_default());
                Ok(())
            },
        )
    }

    /// What containerd wrote so far.
    pub fn containerd_log(&self) -> String {
        fs::read_to_string(self.server.folder().join("containerd.log")).unwrap_or_default()
    }
}

/// What a node leaves on a machine besides processes and mounts; it goes with this guard.
struct Trace {
    /// Of the bridge and of the control groups.
    name: String,
    number: u8,
}

impl Trace {
    /// The first bridge that nobody else has; it shows which name, and which addresses, are free.
    fn new() -> io::Result<Self> {
        for number in 1..=250 {
            let name = format!("backstop-{number}");
            match attempt(&["ip", "link", "add", &name, "type", "bridge"]) {
                Ok(()) => {
                    let trace = Self { name, number };
                    attempt(&["ip", "address", "add", &format!("10.244.{number}.1/24"), "dev", &trace.name])?;
                    attempt(&["ip", "link", "set", &trace.name, "up"])?;
                    return Ok(trace);
                }
                Err(why) if why.to_string().contains("File exists") => {}
                Err(why) => return Err(why),
            }
        }
        Err(io::Error::other("250 bridges are there already"))
    }

    /// Makes its control group below each controller, or below the one hierarchy where there is only one.
    fn groups(&self) -> io::Result<()> {
        hierarchies().iter().try_for_each(|hierarchy| fs::create_dir_all(hierarchy.join(&self.name)))
    }

    /// The bridge has its address already, and there is no way further: pods talk to this machine only.
    fn network(&self, folder: &Path) -> String {
        let range = format!(r#"[[{{"subnet": "10.244.{0}.0/24", "rangeStart": "10.244.{0}.2"}}]]"#, self.number);
        let addresses = format!(r#"{{"type": "host-local", "dataDir": "{}", "ranges": {range}}}"#, folder.join("addresses").display());
        format!(
            r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{"type": "bridge", "bridge": "{}", "ipam": {addresses}}}]}}"#,
            self.name
        )
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // The ends of the pods' links go with their pods, but a moment later; then the bridge.
        let ends = Path::new("/sys/class/net").join(&self.name).join("brif");
        for end in fs::read_dir(ends).into_iter().flatten().flatten() {
            let _ = attempt(&["ip", "link", "delete", &end.file_name().to_string_lossy()]);
        }
        let _ = attempt(&["ip", "link", "delete", &self.name]);
        for hierarchy in hierarchies() {
            let group = hierarchy.join(&self.name);
            // A group is empty a moment after its last process.
            let gone = bed::eventually(Duration::from_secs(5), || {
                remove_groups(&group);
                (!group.exists()).then_some(())
            });
            if gone.is_none() {
                eprintln!("the control group {} cannot be removed", group.display());
            }
        }
    }
}

fn remove_groups(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&inner.path());
    }
    let _ = fs::remove_dir(group);
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(GROUPS);
    if root.join("cgroup.procs").exists() {
        return vec![root];
    }
    let folders = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.filter(|folder| folder.is_dir() && !folder.is_symlink()).collect()
}

fn containerd(folder: &Path, pause: &str) -> String {
    let folder = folder.display();
    format!(
        "version = 2\nroot = \"{folder}/root\"\nstate = \"{folder}/state\"\n\
         [grpc]\naddress = \"{folder}/containerd.sock\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{pause}\"\nstream_server_address = \"127.0.0.1\"\n\
         # Root of a container of its own may not lower a score.\nrestrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = false\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{PLUGINS}\"\nconf_dir = \"{folder}/cni\"\n"
    )
}

fn kubelet(folder: &Path, group: &str) -> String {
    let folder = folder.display();
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         # It serves nothing: no logs, no exec.\nenableServer: false\nhealthzPort: 0\nauthentication: {{anonymous: {{enabled: false}}}}\n\
         containerRuntimeEndpoint: unix://{folder}/containerd.sock\ncgroupDriver: cgroupfs\ncgroupRoot: /{group}\nfailCgroupV1: false\n\
         failSwapOn: false\nresolvConf: \"\"\nmakeIPTablesUtilChains: false\nserializeImagePulls: false\nregistryPullQPS: 0\n\
         evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}\n\
         imageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99\n\
         podLogsDir: {folder}/logs\nvolumePluginDir: {folder}/plugins\n"
    )
}
