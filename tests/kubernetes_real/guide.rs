//! The walk through examples/kubernetes, executed as it is written.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::bed::{self, Server};
use crate::cluster::User;
use crate::guarded::{self, BACKSTOP};
use crate::shop::{self, Shop, Traffic, build_key};

/// The commands of a page: its blocks marked `sh`.
fn blocks(page: &str) -> Vec<&str> {
    page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// A terminal in which the page's variables are set.
struct Terminal<'a> {
    shop: &'a Shop,
    admin: User,
    folder: tempfile::TempDir,
}

impl Terminal<'_> {
    fn run(&self, commands: &str) {
        let programs = [Path::new(BACKSTOP).to_owned(), bed::tool("kubectl").expect("call shop::missing first")];
        let mut path: Vec<_> = programs.iter().filter_map(|program| program.parent().map(Path::to_owned)).collect();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", commands]).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("PATH", std::env::join_paths(path).expect("a path")).env("KUBECONFIG", self.admin.kubeconfig());
        command.env("KUBECACHEDIR", self.folder.path());
        let shop = self.shop;
        command.envs([("V1", &shop.v1), ("V2", &shop.v2), ("BAD", &shop.bad)]);
        command.env("PROMETHEUS", shop.metrics.server.url()).env("BUILD_KEY", build_key(shop.cluster.images()));
        command.env("IMAGE", format!("registry.example/backstop@sha256:{}", "a".repeat(64)));
        let output = command.output().expect("bash starts");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        eprintln!("{commands}{said}");
        let status = shop.kubectl(&["get", "guardedrollouts", "--output=wide", "--ignore-not-found"]);
        assert!(output.status.success(), "{commands}\n{said}\n{status}");
    }
}

/// The controller with the rights that were installed, beside the cluster: its image is in no registry, and the tests' pods reach
/// nothing but this machine.
fn controller(shop: &Shop) -> Server {
    let principals =
        ["get", "configmap", "backstop-principals", "--namespace=backstop-system", "--output=jsonpath={.data.principals\\.yaml}"];
    guarded::controller(&shop.cluster.token("backstop-system", "backstop"), &shop.cluster.kubectl(&principals))
}

#[test]
fn the_walk_through_does_what_it_says() {
    if let Some(missing) =
        shop::missing().or_else(|| bed::tool("envsubst").is_none().then(|| "envsubst (`apt-get install gettext-base`)".into()))
    {
        return bed::skip("the_walk_through_does_what_it_says", &missing);
    }
    let shop = Shop::empty();
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["service.yaml", "guard.yaml"] {
        fs::copy(bed::repository("examples/kubernetes").join(file), folder.path().join(file)).expect("an example");
    }
    let terminal = Terminal { admin: shop.cluster.admin(), shop: &shop, folder };
    let page = fs::read_to_string(bed::repository("examples/kubernetes/README.md")).expect("the page");
    let blocks = blocks(&page);
    let (install, rest) = blocks.split_first().expect("the page has commands");
    assert!(install.contains("backstop install"), "it begins with the installation: {install}");
    terminal.run(install);
    let controller = controller(&shop);
    let traffic = Traffic::start(&shop.router);
    for block in rest {
        terminal.run(block);
    }
    let sent = traffic.visits();
    let began = sent.iter().position(|visit| visit.said == "200 v1").expect("the first release answered");
    let dropped: Vec<_> = sent[began..].iter().filter(|visit| !visit.said.starts_with("200 ") && visit.said != "500 bad broke").collect();
    assert!(dropped.is_empty(), "no request was dropped: {dropped:?}");
    assert!(sent.iter().any(|visit| visit.said == "500 bad broke"), "the bad release was tried");
    assert_eq!(sent.last().map(|visit| visit.said.as_str()), Some("200 v2"), "and is gone");
    let log = controller.log();
    assert!(log.contains(r#""decision":"Revert","code":"BS001""#), "judged by its own failures: {log}");
}
