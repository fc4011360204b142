//! Roles for people and agents. Nobody has them until an administrator binds them, in a namespace or everywhere.

use serde_json::{Value as Json, json};

use super::access::{self, Place};
use super::{labels, role};

const DOCUMENTS: [&str; 5] = ["guardedrollouts", "guardpolicies", "guardsources", "flagtargets", "releaserecords"];

/// `backstop-oncall` reads, freezes and reverts, with the controller or without it; `backstop-sre` also loosens and sets holds aside;
/// `backstop-agent` asks. Each is bound twice where backstop's own namespace is not among the namespaces that it is bound in.
pub(super) fn roles(namespace: &str) -> Vec<Json> {
    let backstop = |resources: &[&str], verbs: &[&str]| json!({"apiGroups": ["backstop.dev"], "resources": resources, "verbs": verbs});
    let read = backstop(&DOCUMENTS, &["get", "list", "watch"]);
    let mut oncall = vec![read.clone(), backstop(&["guardedrollouts"], &["revert", "freeze", "pause"])];
    oncall.extend(access::revert_rules(Place::Guarded));
    // Without the controller these are read where it keeps them, and a freeze of a wider scope is written there.
    let mut records = access::revert_rules(Place::Own);
    records.push(json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["backstop-freezes"], "verbs": ["patch"]}));
    let loosen: Vec<&str> = vec!["loosen", "override-hold", "lift", "thaw", "resume", "promote", "approve", "adopt", "disarm"];
    let mut sre = oncall.clone();
    sre.push(backstop(&["guardedrollouts"], &loosen));
    sre.push(backstop(&["guardpolicies", "guardsources", "flagtargets", "releaserecords"], &["loosen"]));
    sre.push(backstop(&["guardedrollouts", "guardpolicies", "guardsources", "flagtargets"], &["create", "update", "patch", "delete"]));
    let agent = vec![backstop(&["guardedrollouts"], &["get", "list", "watch", "ask"])];
    let mut own = role(Some(namespace), "backstop-oncall", &records);
    own["metadata"]["labels"] = labels();
    vec![role(None, "backstop-oncall", &oncall), own, role(None, "backstop-sre", &sre), role(None, "backstop-agent", &agent)]
}
