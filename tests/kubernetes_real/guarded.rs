//! A controller beside the cluster that guards the service, and those who deploy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::bed::{self, Server};
use crate::cluster::User;
use crate::shop::{SOON, Shop, build_key, example};

/// Backstop's namespace.
const SYSTEM: &str = "backstop-system";
/// How long a rollout may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
pub(crate) const BACKSTOP: &str = env!("CARGO_BIN_EXE_backstop");
/// Who deploys is an agent, and the administrator of the cluster is a person.
const PRINCIPALS: &str = "principals:
  - {kubernetes: 'system:serviceaccount:shop:deployer', name: deployer, kind: agent, agentId: deployer}
  - {kubernetes: admin, name: admin, kind: human}
";

/// The service with its guard; what it is guarded by ends with it.
pub(crate) struct Guarded {
    pub(crate) controller: Server,
    /// An agent that may deploy.
    pub(crate) agent: User,
    pub(crate) shop: Shop,
}

impl Guarded {
    /// Guards the service as `change` makes of guard.yaml, with the release that runs adopted by a person.
    pub(crate) fn start(shop: Shop, mark: &str, change: impl Fn(String) -> String) -> Self {
        shop.cluster.apply(&bed::run(Path::new(BACKSTOP), &["crd"]));
        shop.cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"]);
        let backstop = shop.cluster.backstop();
        shop.cluster.apply(&backstop::spec::crd::admission(SYSTEM));
        let agent = shop.cluster.service_account("shop", "deployer");
        shop.kubectl(&["create", "rolebinding", "deployer", "--clusterrole=edit", "--serviceaccount=shop:deployer"]);
        let controller = controller(&backstop, PRINCIPALS);
        let (key, url) = (build_key(shop.cluster.images()), shop.metrics.server.url());
        shop.cluster.apply(&change(example("guard.yaml", &[("PROMETHEUS", &url), ("BUILD_KEY", &key)])));
        let guarded = Self { controller, agent, shop };
        let marked = || (guarded.deployment()["metadata"]["labels"]["backstop.dev/guarded"] == mark).then_some(());
        guarded.until("the Deployment is marked", marked);
        let adopted = bed::eventually(SOON, || guarded.backstop(&["adopt", "shop/checkout", "--reason=it ran before"]).ok());
        assert!(adopted.is_some(), "{:?}", guarded.backstop(&["adopt", "shop/checkout", "--reason=it ran before"]));
        guarded
    }

    /// Runs a command of backstop on the controller's socket, as a person: what it printed, or what it complained of.
    pub(crate) fn backstop(&self, arguments: &[&str]) -> Result<String, String> {
        let data = self.controller.folder().join("data");
        let output = Command::new(BACKSTOP).args(arguments).arg("--data-dir").arg(data).output().expect("backstop starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The agent changes the image.
    pub(crate) fn deploy(&self, image: &str) {
        let change = format!("checkout={image}");
        self.agent.kubectl(&["--namespace=shop", "set", "image", "deployment/checkout", &change], "").expect("an agent may deploy");
    }

    pub(crate) fn deployment(&self) -> Value {
        self.shop.get("deployment", &["checkout"])
    }

    /// The image in the Deployment's template.
    pub(crate) fn image(&self) -> String {
        self.deployment()["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn status(&self) -> Value {
        self.shop.get("guardedrollout", &["checkout"])["status"].take()
    }

    /// Waits for a phase; how it stands then.
    pub(crate) fn until_phase(&self, phase: &str, patience: Duration) -> Value {
        let found = bed::eventually(patience, || Some(self.status()).filter(|status| status["phase"] == phase));
        found.unwrap_or_else(|| panic!("not {phase} within {patience:?}: {:#}", self.plain_status()))
    }

    pub(crate) fn until<T>(&self, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        bed::eventually(SOON, ask)
            .unwrap_or_else(|| panic!("{what}: not within {SOON:?}: {:#}\n{:#}", self.plain_status(), self.deployment()))
    }

    /// The status without what is not for people.
    fn plain_status(&self) -> Value {
        let mut status = self.status();
        if let Some(fields) = status.as_object_mut() {
            fields.retain(|field, _| !["state", "records", "ledger"].contains(&field.as_str()));
        }
        status
    }
}

/// A controller with the rights of `user`.
pub(crate) fn controller(user: &User, principals: &str) -> Server {
    let port = bed::free_port();
    Server::start("backstop", Path::new(BACKSTOP), port, "/readyz", |folder, command| {
        fs::write(folder.join("principals.yaml"), principals)?;
        command.args(["run", "--identity=one", "--data-dir=data", "--principals=principals.yaml"]);
        command.arg(format!("--listen=127.0.0.1:{port}")).arg("--kubeconfig").arg(user.kubeconfig());
        Ok(())
    })
}
