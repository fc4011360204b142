//! A day in a namespace of its own: a guarded Deployment, a controller that reaches the API server through a proxy, and people.
//!
//! All days of the process share one cluster and its account. Each controller guards its own namespace alone, with the
//! rights that `backstop install --namespaces` gives it there, so that they can be taken away.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use backstop::spec::install::Install;
use backstop::spec::{crd, write};
use serde_json::{Value, json};

use crate::bed;
use crate::cluster::{self, Cluster, User};
use crate::faults::{Bad, Fault, Proxy};
use crate::images::Build;
use crate::replica::{self, Replica};

/// How long a step may take on a busy machine.
const SOON: Duration = Duration::from_mins(1);
const SYSTEM: &str = "backstop-system";

/// What all days share.
pub(crate) struct House {
    pub(crate) cluster: Cluster,
    pub(crate) v1: String,
    pub(crate) v2: String,
    pub(crate) v3: String,
    backstop: User,
    _build: Build,
}

/// One service's day.
pub(crate) struct Day {
    pub(crate) house: Arc<House>,
    pub(crate) namespace: &'static str,
    pub(crate) proxy: Proxy,
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

/// Ends a test that lacks something.
macro_rules! needs_cluster {
    ($name:expr) => {
        if let Some(missing) = $crate::replica::missing() {
            return $crate::bed::skip($name, missing);
        }
    };
}
pub(crate) use needs_cluster;

/// One cluster for all tests that run at the same time; it ends with the last of them.
fn shared() -> Arc<House> {
    static SHARED: Mutex<Weak<House>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(house) = shared.upgrade() {
        return house;
    }
    let cluster = Cluster::start(1);
    cluster.apply_gateway_api();
    cluster.apply(&bed::run(std::path::Path::new(env!("CARGO_BIN_EXE_backstop")), &["crd"]));
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
    let build = Build::new();
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(|text| build.image(text));
    cluster.apply(&build.policy());
    cluster.apply(&replica::nowhere().to_string());
    cluster.apply(&rights("default"));
    cluster.apply(&crd::admission(SYSTEM));
    let backstop = cluster.token(SYSTEM, "backstop");
    let house = Arc::new(House { cluster, v1, v2, v3, backstop, _build: build });
    *shared = Arc::downgrade(&house);
    house
}

/// Backstop's account, with its rights in `namespace`.
fn rights(namespace: &str) -> String {
    let install = Install {
        namespace: SYSTEM.into(),
        namespaces: vec![namespace.into()],
        image: format!("registry.example/backstop@sha256:{}", "9".repeat(64)),
        replicas: 1,
        log_volume: None,
    };
    let kinds = ["Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
    let mut objects = install.objects().unwrap();
    objects.retain(|one| kinds.iter().any(|kind| one["kind"] == *kind));
    write::documents(&objects)
}

impl Day {
    /// A Deployment `checkout` of two pods of `v1`, and its guard, which observes it.
    pub(crate) fn open(namespace: &'static str) -> Self {
        let day = Self::empty(namespace);
        day.house.cluster.apply(&format!("{}\n---\n{}", day.workload(), replica::guard(namespace, "checkout")));
        day
    }

    /// The same with a Service, and `replicas` pods, driven by `strategy`.
    pub(crate) fn driven(namespace: &'static str, replicas: u32, strategy: Value) -> Self {
        let day = Self::empty(namespace);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "checkout", "namespace": namespace},
            "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 80}]},
        });
        let mut guard = replica::guard(namespace, "checkout");
        guard["spec"]["strategy"] = strategy;
        let workload = day.workload().replace("replicas: 2", &format!("replicas: {replicas}"));
        day.house.cluster.apply(&format!("{workload}\n---\n{service}\n---\n{guard}"));
        day
    }

    /// A namespace of its own, and no workload.
    pub(crate) fn empty(namespace: &'static str) -> Self {
        let house = shared();
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(&house.backstop, folder.path());
        let namespaced = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        house.cluster.apply(&namespaced.to_string());
        house.cluster.apply(&rights(namespace));
        replica::write_principals(folder.path(), namespace);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(house.cluster.admin().client());
        Self { house, namespace, proxy, folder, runtime, client }
    }

    /// The Deployment as it is at the beginning.
    pub(crate) fn workload(&self) -> String {
        cluster::deployment("checkout", 2, &self.house.v1, None).replace("namespace: default", &format!("namespace: {}", self.namespace))
    }

    /// Starts the controller, or starts it again with the folder that it had.
    pub(crate) fn controller(&self) -> Replica {
        Replica::start(self.folder.path(), "data", "a", self.proxy.kubeconfig(), &["--namespaces", self.namespace])
    }

    /// A controller whose `v1` is known good.
    pub(crate) fn settled(&self) -> Replica {
        let controller = self.controller();
        let (v1, key) = (&self.house.v1, self.key());
        self.until("found", || self.status()["stable"]["image"] == v1.as_str());
        self.until("adopted", || controller.tell(&["adopt", &key]).status.success());
        self.until("known good", || self.status()["verdict"] == "Pass");
        controller
    }

    /// The same with `v2` on trial, ordered by a person.
    pub(crate) fn on_trial(&self) -> Replica {
        let controller = self.settled();
        self.set_image(&self.house.cluster.admin(), &self.house.v2).unwrap();
        self.until("on trial", || self.phase() == "Watching");
        controller
    }

    /// Has somebody set the image.
    pub(crate) fn set_image(&self, user: &User, image: &str) -> Result<String, String> {
        user.kubectl(&["set", "image", "--namespace", self.namespace, "deployment/checkout", &format!("main={image}")], "")
    }

    /// Has a person deploy `image`, whose pods crash.
    pub(crate) fn deploy_crashing(&self, image: &str) {
        let template =
            json!({"metadata": {"annotations": {"test/behaviour": "crash"}}, "spec": {"containers": [{"name": "main", "image": image}]}});
        let patch = json!({"spec": {"template": template}}).to_string();
        self.kubectl(&["patch", "deployment", "checkout", "--patch", &patch]);
    }

    /// An agent with the right to edit what is in the namespace.
    pub(crate) fn agent(&self) -> User {
        let agent = self.house.cluster.service_account(self.namespace, "agent");
        self.kubectl(&["create", "rolebinding", "agent", "--clusterrole=edit", &format!("--serviceaccount={}:agent", self.namespace)]);
        agent
    }

    /// `kubectl` as the administrator, in this namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.house.cluster.kubectl(&[arguments, &["--namespace", self.namespace]].concat())
    }

    /// Gives the controller its rights here, again.
    pub(crate) fn give_rights(&self) {
        self.house.cluster.apply(&rights(self.namespace));
    }

    /// Bad days begin, in place of those before.
    pub(crate) fn fails(&self, faults: Vec<Fault>) {
        self.proxy.fail(faults);
    }

    /// And are over.
    pub(crate) fn mended(&self) {
        self.proxy.fail(Vec::new());
    }

    pub(crate) fn key(&self) -> String {
        format!("{}/checkout", self.namespace)
    }

    /// An object as it is now; null if there is none.
    pub(crate) fn object(&self, path: &str) -> Value {
        let request = axum::http::Request::get(path).body(Vec::new()).unwrap();
        self.runtime.block_on(self.client.request(request)).unwrap_or(Value::Null)
    }

    pub(crate) fn deployment(&self) -> Value {
        self.object(&format!("/apis/apps/v1/namespaces/{}/deployments/checkout", self.namespace))
    }

    pub(crate) fn status(&self) -> Value {
        self.object(&format!("/apis/backstop.dev/v1alpha1/namespaces/{}/guardedrollouts/checkout", self.namespace))["status"].take()
    }

    pub(crate) fn phase(&self) -> String {
        self.status()["phase"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn image(&self) -> String {
        self.deployment()["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
    }

    /// The pods with these labels that are not about to go.
    pub(crate) fn pods(&self, labels: &str) -> Vec<Value> {
        let mut list = self.object(&format!("/api/v1/namespaces/{}/pods?labelSelector={labels}", self.namespace));
        let mut pods: Vec<Value> = serde_json::from_value(list["items"].take()).unwrap_or_default();
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Has these pods crash from now on.
    pub(crate) fn crash(&self, pods: &[Value]) {
        let status = json!({"status": {
            "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 5,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}}],
        }});
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap();
            self.kubectl(&["patch", "pod", name, "--subresource=status", "--type=merge", "--patch", &status.to_string()]);
        }
    }

    /// Waits until it is so.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        if bed::eventually(SOON, || so().then_some(())).is_none() {
            let (status, log) = (replica::short(&self.status()), replica::log(self.folder.path(), "data"));
            panic!("not {what}: {status}\n{}\n{log}", self.deployment());
        }
    }

    /// A person orders the revert and does not wait for it.
    pub(crate) fn revert(&self, controller: &Replica) {
        let output = controller.tell(&["revert", &self.key(), "--yes", "--no-wait"]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Has a revert begin whose writes of the Deployment fail until that is [mended](Self::mended).
    pub(crate) fn held_up(&self, begin: impl FnOnce()) {
        self.fails(vec![Fault::always("PATCH", "deployments/checkout", Bad::Answer(503))]);
        begin();
        self.until("reverting", || self.phase() == "Reverting");
    }

    /// Waits until the template is `v1`'s and its pods run, and the revert has nothing left but to be seen to have helped.
    pub(crate) fn until_reverted(&self) {
        self.until("restored", || self.image() == self.house.v1);
        self.until("recovering", || ["Recovering", "Reverted"].contains(&self.phase().as_str()));
        self.until("running", || {
            let deployment = self.deployment();
            deployment["status"]["updatedReplicas"] == 2 && deployment["status"]["readyReplicas"] == 2
        });
    }
}
