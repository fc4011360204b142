//! A real Kubernetes control plane on 127.0.0.1: etcd, API server, controller-manager and scheduler. Included as
//! `#[path = "cluster/mod.rs"] mod cluster;` beside `bed`.
//!
//! Its nodes are simulated by kwok (label `node: simulated`): how a pod behaves there is said by the annotation `test/behaviour`
//! of its template: `crash`, `pull`, `unready`; see `stages.yaml`. One more may be real (label `node: real`): see [`node`].

#![allow(dead_code, unreachable_pub, reason = "each test uses the part that it needs")]

pub mod background;
pub mod gateway;
pub mod images;
pub mod metrics;
pub mod node;
pub mod router;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::rand;
use backstop::core::release::hex;
use backstop::spec::install::Install;
use backstop::spec::write;
use backstop::world::keys::Keys;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use crate::bed::{self, Server};

/// What a cluster is started from; a test asks with [`missing`].
pub const TOOLS: [&str; 6] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok"];

/// How long a cluster may take to take a pod.
const START: Duration = Duration::from_mins(2);

/// The first tool that is missing here.
pub fn missing() -> Option<&'static str> {
    TOOLS.into_iter().find(|name| bed::tool(name).is_none())
}

/// A cluster that ends with this guard.
pub struct Cluster {
    // In the order in which they end.
    node: Option<node::Node>,
    images: Option<images::Images>,
    kwok: Option<Server>,
    scheduler: Option<Server>,
    controllers: Option<Server>,
    api: Server,
    etcd: Server,
    folder: tempfile::TempDir,
}

/// Somebody whom the API server knows by a token.
#[derive(Debug, Clone)]
pub struct User {
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts a control plane and `nodes` simulated nodes, and waits until pods can be scheduled.
    pub fn start(nodes: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("backstop-cluster-").tempdir().expect("a temporary folder");
        let etcd = etcd();
        let port = bed::free_port();
        users(folder.path(), port);
        let api = api_server(folder.path(), port, &etcd);
        let admin = folder.path().join("admin");
        let controllers = component("kube-controller-manager", |command| {
            command.arg(format!("--kubeconfig={}", admin.display())).args(["--leader-elect=false", "--secure-port=0"]);
            command.arg(format!("--root-ca-file={}", folder.path().join("pki/apiserver.crt").display()));
            command.args(["--kube-api-qps=200", "--kube-api-burst=400"]);
        });
        let scheduler = component("kube-scheduler", |command| {
            command.arg(format!("--kubeconfig={}", admin.display())).args(["--leader-elect=false", "--secure-port=0"]);
            command.args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
        });
        let mut cluster =
            Self { node: None, images: None, kwok: None, scheduler: Some(scheduler), controllers: Some(controllers), api, etcd, folder };
        cluster.kwok = Some(kwok(&admin));
        cluster.apply(&nodes_yaml(nodes));
        let ready = bed::eventually(START, || {
            let account = cluster.admin().kubectl(&["get", "serviceaccount", "default", "--output=name"], "").is_ok();
            let nodes_ready =
                cluster.get("nodes", &[]).as_array().is_some_and(|all| all.iter().filter(|node| is_ready(node)).count() == nodes);
            (account && nodes_ready).then_some(())
        });
        assert!(ready.is_some(), "the cluster takes no pods within {START:?}");
        cluster
    }

    /// The same with one real node and a registry of real images. Ask [`node::missing`] first.
    pub fn start_with_real_node(nodes: usize) -> Self {
        let mut cluster = Self::start(nodes);
        let images = images::Images::start();
        cluster.node = Some(node::Node::start(&cluster, &images.pause()));
        cluster.images = Some(images);
        cluster
    }

    /// Where the real node pulls from.
    pub fn images(&self) -> &images::Images {
        self.images.as_ref().expect("the cluster has a real node")
    }

    /// Applies the resources of the Gateway API.
    pub fn apply_gateway_api(&self) {
        self.kubectl(&["apply", "--server-side", &format!("--filename={}", tool("gateway-api.yaml").display())]);
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
    }

    /// Who may do everything.
    pub fn admin(&self) -> User {
        self.user("admin")
    }

    /// One of `admin`, `alice` (a person in the group `people`, without rights at first).
    pub fn user(&self, name: &str) -> User {
        User { kubeconfig: self.folder.path().join(name) }
    }

    /// A service account with a token of its own, as an agent has one.
    pub fn service_account(&self, namespace: &str, name: &str) -> User {
        let namespace_flag = format!("--namespace={namespace}");
        self.kubectl(&["create", "serviceaccount", name, &namespace_flag]);
        self.token(namespace, name)
    }

    /// Backstop's own account, with the rights that `backstop install` gives it, and no others.
    pub fn backstop(&self) -> User {
        let install = Install {
            namespace: "backstop-system".into(),
            namespaces: Vec::new(),
            image: format!("registry.example/backstop@sha256:{}", "9".repeat(64)),
            replicas: 1,
            log_volume: None,
        };
        let kinds = ["Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
        let mut objects = install.objects().expect("what is installed");
        objects.retain(|one| kinds.iter().any(|kind| one["kind"] == *kind));
        self.apply(&write::documents(&objects));
        let backstop = self.token("backstop-system", "backstop");
        // Rights hold a moment after they were written.
        let allowed = || backstop.kubectl(&["auth", "can-i", "patch", "deployments", "--namespace=default"], "").ok();
        assert!(bed::eventually(START, allowed).is_some(), "backstop's account has no rights");
        backstop
    }

    /// A service account that is there already, by a token of its own.
    pub fn token(&self, namespace: &str, name: &str) -> User {
        let namespace_flag = format!("--namespace={namespace}");
        let token = self.kubectl(&["create", "token", name, &namespace_flag]);
        let place = self.folder.path().join(format!("{namespace}-{name}"));
        fs::write(&place, kubeconfig(self.folder.path(), self.api.port, token.trim())).expect("a kubeconfig");
        User { kubeconfig: place }
    }

    /// `kubectl` as the administrator: what it printed; panics with what it said otherwise.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.admin().kubectl(arguments, "").unwrap_or_else(|said| panic!("kubectl {arguments:?}: {said}"))
    }

    /// Applies documents as the administrator.
    pub fn apply(&self, yaml: &str) {
        self.admin().apply(yaml).unwrap_or_else(|said| panic!("{said}\n{yaml}"));
    }

    /// The objects of a kind, or one object if a name is given among `arguments`.
    pub fn get(&self, kind: &str, arguments: &[&str]) -> Value {
        let all = [&["get", kind, "--output=json"], arguments].concat();
        let mut found: Value = serde_json::from_str(&self.kubectl(&all)).expect("kubectl prints JSON");
        if found["kind"] == "List" { found["items"].take() } else { found }
    }

    /// Every request that wrote something so far, from the API server's own audit log.
    pub fn writes(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl User {
    /// The kubeconfig, for programs.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with its rights.
    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration");
        Client::try_from(config).expect("a client")
    }

    /// Runs `kubectl`: what it printed, or what it complained of.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let program = bed::tool("kubectl").expect("call cluster::missing first");
        let mut command = Command::new(program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", self.kubeconfig.with_extension("cache"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
        // It may end without reading; what it says tells why.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Applies documents.
    pub fn apply(&self, yaml: &str) -> Result<String, String> {
        self.kubectl(&["apply", "--server-side", "--filename=-"], yaml)
    }
}

/// Whether an object's condition `Ready` is true.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn etcd() -> Server {
    let (port, peers) = (bed::free_port(), bed::free_port());
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peers}");
    Server::start("etcd", &tool("etcd"), port, "/health", |_, command| {
        command.args(["--name=test", "--data-dir=data", "--unsafe-no-fsync"]);
        command.args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")]);
        command.args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")]);
        command.arg(format!("--initial-cluster=test={peer}"));
        Ok(())
    })
}

/// Tokens and kubeconfigs of those whom the API server knows from its start.
fn users(folder: &Path, port: u16) {
    let mut tokens = String::new();
    for (name, group) in [("admin", "system:masters"), ("alice", "people")] {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).expect("the system has randomness");
        let token = hex(&bytes);
        let _ = writeln!(tokens, "{token},{name},uid-{name},\"{group}\"");
        fs::write(folder.join(name), kubeconfig(folder, port, &token)).expect("a kubeconfig");
    }
    fs::write(folder.join("tokens.csv"), tokens).expect("the tokens");
}

fn kubeconfig(folder: &Path, port: u16, token: &str) -> String {
    // The API server makes its certificate itself, with the authority's behind it in one file.
    let authority = folder.join("pki/apiserver.crt");
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: test, cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: {}}}}}]\n\
         users: [{{name: test, user: {{token: {token}}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
        authority.display()
    )
}

/// Who wrote what: the audit policy of the tests.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, verbs: [create, update, patch, delete, deletecollection]}
  - {level: None}
";

fn api_server(folder: &Path, port: u16, etcd: &Server) -> Server {
    // An ECDSA key pair for the tokens of service accounts.
    Keys::open(&folder.join("accounts")).expect("a key pair");
    fs::write(folder.join("audit.yaml"), AUDIT).expect("the audit policy");
    let admin = User { kubeconfig: folder.join("admin") };
    let ready = || admin.kubectl(&["get", "--raw=/readyz"], "").is_ok();
    Server::start_until("kube-apiserver", &tool("kube-apiserver"), port, ready, |_, command| {
        let place = |name: &str| folder.join(name).display().to_string();
        command.args([format!("--etcd-servers={}", etcd.url()), format!("--secure-port={port}"), format!("--cert-dir={}", place("pki"))]);
        command.args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]);
        command.args([format!("--token-auth-file={}", place("tokens.csv")), "--authorization-mode=RBAC".into()]);
        command.arg(format!("--service-account-key-file={}", place("accounts/controller.pub")));
        command.arg(format!("--service-account-signing-key-file={}", place("accounts/controller.pem")));
        command.args(["--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16"]);
        command.args([format!("--audit-policy-file={}", place("audit.yaml")), format!("--audit-log-path={}", place("audit.log"))]);
        command.args(["--audit-log-mode=blocking", "--profiling=false"]);
        Ok(())
    })
}

/// A part that serves nothing; that it works shows in what it does.
fn component(name: &'static str, prepare: impl FnOnce(&mut Command)) -> Server {
    Server::start_until(
        name,
        &tool(name),
        0,
        || true,
        |_, command| {
            prepare(command);
            Ok(())
        },
    )
}

fn kwok(kubeconfig: &Path) -> Server {
    let port = bed::free_port();
    Server::start("kwok", &tool("kwok"), port, "/healthz", |_, command| {
        command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        command.arg(format!("--config={}", bed::repository("tests/cluster/stages.yaml").display()));
        command.args([format!("--server-address=127.0.0.1:{port}"), "--node-ip=127.0.0.1".into()]);
        command.args(["--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"]);
        command.arg("--node-lease-duration-seconds=40");
        Ok(())
    })
}

fn nodes_yaml(nodes: usize) -> String {
    let mut yaml = String::new();
    for node in 0..nodes {
        let _ = write!(
            yaml,
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: simulated-{node}\n  annotations: {{kwok.x-k8s.io/node: fake}}\n  \
             labels: {{kubernetes.io/hostname: simulated-{node}, kubernetes.io/os: linux, node: simulated}}\n\
             status:\n  allocatable: {{cpu: \"256\", memory: 1Ti, pods: \"2000\"}}\n  capacity: {{cpu: \"256\", memory: 1Ti, pods: \"2000\"}}\n"
        );
    }
    yaml
}

fn tool(name: &str) -> PathBuf {
    bed::tool(name).unwrap_or_else(|| panic!("call cluster::missing first: there is no {name}"))
}

/// A Deployment of one container, labelled `app: NAME`, whose pods run on simulated nodes and behave as `behaviour` says.
pub fn deployment(name: &str, replicas: u32, image: &str, behaviour: Option<&str>) -> String {
    let annotations = behaviour.map_or_else(String::new, |behaviour| format!(", annotations: {{test/behaviour: {behaviour}}}"));
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: default, labels: {{app: {name}}}}}\nspec:\n  \
         replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
         metadata: {{labels: {{app: {name}}}{annotations}}}\n    spec: {{nodeSelector: {{node: simulated}}, containers: [{{name: main, image: \"{image}\"}}]}}\n"
    )
}
