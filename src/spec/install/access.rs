//! What the controller may do in a cluster, and why. The one table: RBAC, readiness and the documentation are read from it.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

/// Where objects of a kind are that the controller touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In backstop's own namespace.
    Own,
    /// In the namespaces that are guarded.
    Guarded,
    /// Outside of namespaces.
    Cluster,
}

/// One kind of object, and what is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// The resource, with its subresource after a slash.
    pub resource: &'static str,
    /// What the controller does.
    pub verbs: &'static [&'static str],
    /// What a revert needs of it, also where a person reverts without the controller.
    pub revert: &'static [&'static str],
    /// Where.
    pub place: Place,
    /// What for.
    pub why: &'static str,
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["get", "list", "watch", "patch"];
const MAKE: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];
const NOTHING: &[&str] = &[];

const fn access(
    (group, resource): (&'static str, &'static str),
    place: Place,
    verbs: &'static [&'static str],
    revert: &'static [&'static str],
    why: &'static str,
) -> Access {
    Access { group, resource, verbs, revert, place, why }
}

/// Everything that is used. Self-reviews (`selfsubjectreviews`, `selfsubjectaccessreviews`) are open to everybody who is authenticated.
pub const TABLE: [Access; 25] = [
    access(("", "secrets"), Place::Own, &["get", "create"], NOTHING, "the signing key, and credentials that a GuardSource names"),
    access(("", "configmaps"), Place::Own, MAKE, &["get", "list"], "the public key, evidence, and freezes of wider scopes"),
    access(("backstop.dev", "releaserecords"), Place::Own, &["get", "list", "watch", "create"], &["get", "list"], "the ledger"),
    access(("backstop.dev", "releaserecords/status"), Place::Own, &["get", "patch"], &["patch"], "a release's standing and quarantine"),
    access(("coordination.k8s.io", "leases"), Place::Own, MAKE, NOTHING, "sharing the guards among replicas"),
    access(("backstop.dev", "guardedrollouts"), Place::Guarded, READ, &["get", "list"], "what is guarded"),
    access(
        ("backstop.dev", "guardedrollouts/status"),
        Place::Guarded,
        &["get", "patch"],
        &["get", "patch"],
        "state, committed before it acts",
    ),
    access(
        ("apps", "deployments"),
        Place::Guarded,
        MAKE,
        &["get", "list", "patch"],
        "restore a template, go on or pause; the candidate is one",
    ),
    access(("apps", "statefulsets"), Place::Guarded, WRITE, &["get", "patch"], "restore a template"),
    access(("apps", "daemonsets"), Place::Guarded, WRITE, &["get", "patch"], "restore a template"),
    access(("apps", "replicasets"), Place::Guarded, READ, &["list"], "which pods belong to which release"),
    access(("apps", "controllerrevisions"), Place::Guarded, READ, &["list"], "which pods belong to which release"),
    access(
        ("", "pods"),
        Place::Guarded,
        &["get", "list", "watch", "delete"],
        &["list", "delete"],
        "the members of an arm, and what fails them; those that block a StatefulSet's restore",
    ),
    access(("", "services"), Place::Guarded, MAKE, &["get", "patch"], "the candidate's Service; the selector of a blue-green switch"),
    access(
        ("", "configmaps"),
        Place::Guarded,
        &["get", "patch", "create"],
        NOTHING,
        "`backstop-guarded` alone (what is created has no name yet): the selectors of what is guarded, to keep other pods out",
    ),
    access(("", "resourcequotas"), Place::Guarded, &["list"], NOTHING, "whether a restore has room"),
    access(
        ("autoscaling", "horizontalpodautoscalers"),
        Place::Guarded,
        WRITE,
        &["get", "list", "patch"],
        "stable's minimum is held until watched",
    ),
    access(("gateway.networking.k8s.io", "httproutes"), Place::Guarded, WRITE, &["get", "patch"], "weights"),
    access(("gateway.networking.k8s.io", "grpcroutes"), Place::Guarded, WRITE, &["get", "patch"], "weights"),
    access(("networking.istio.io", "virtualservices"), Place::Guarded, WRITE, &["get", "patch"], "weights"),
    access(("events.k8s.io", "events"), Place::Guarded, &["create", "patch"], NOTHING, "what was decided, beside the object"),
    access(("backstop.dev", "guardpolicies"), Place::Cluster, READ, &["get", "list"], "what must hold"),
    access(("backstop.dev", "guardsources"), Place::Cluster, READ, &["get", "list"], "where metrics are"),
    access(("backstop.dev", "flagtargets"), Place::Cluster, READ, &["get", "list"], "where flags are"),
    access(
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
        Place::Cluster,
        &["get"],
        &["get"],
        "whether requesters are stamped",
    ),
];

impl Access {
    /// The one object that is meant, where it is not all of the kind.
    pub fn name(&self) -> Option<&'static str> {
        match (self.resource, self.place) {
            ("mutatingadmissionpolicies", _) => Some("backstop-stamp"),
            ("configmaps", Place::Guarded) => Some("backstop-guarded"),
            _ => None,
        }
    }

    /// As rules of a role.
    fn rules(&self, verbs: &[&str]) -> Vec<Json> {
        let rule = |verbs: &[&str]| json!({"apiGroups": [self.group], "resources": [self.resource], "verbs": verbs});
        let Some(name) = self.name() else { return vec![rule(verbs)] };
        // What is created has no name yet that a rule could name.
        let (create, others): (Vec<&str>, Vec<&str>) = verbs.iter().partition(|verb| **verb == "create");
        let mut named = rule(&others);
        named["resourceNames"] = json!([name]);
        let created = (!create.is_empty()).then(|| rule(&create));
        [named].into_iter().chain(created).collect()
    }
}

/// The controller's rules for a place.
pub fn rules(place: Place) -> Vec<Json> {
    TABLE.iter().filter(|one| one.place == place).flat_map(|one| one.rules(one.verbs)).collect()
}

/// The rules that a revert needs in a place.
pub fn revert_rules(place: Place) -> Vec<Json> {
    TABLE.iter().filter(|one| one.place == place && !one.revert.is_empty()).flat_map(|one| one.rules(one.revert)).collect()
}

/// The table in Markdown, for the documentation.
pub fn markdown() -> String {
    let mut text = String::from("| resource | where | the controller may | a revert needs | what for |\n|---|---|---|---|---|\n");
    for one in TABLE {
        let group = if one.group.is_empty() { String::new() } else { format!(".{}", one.group) };
        let (resource, subresource) = one.resource.split_once('/').map_or((one.resource, String::new()), |(a, b)| (a, format!("/{b}")));
        let place = match one.place {
            Place::Own => "own",
            Place::Guarded => "guarded",
            Place::Cluster => "cluster",
        };
        let revert = if one.revert.is_empty() { "–".to_owned() } else { one.revert.join(", ") };
        let _ = writeln!(text, "| `{resource}{group}{subresource}` | {place} | {} | {revert} | {} |", one.verbs.join(", "), one.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revert_needs_nothing_that_the_controller_may_not_do() {
        for one in TABLE {
            assert!(one.revert.iter().all(|verb| one.verbs.contains(verb)), "{one:?}");
            assert!(!one.why.is_empty() && !one.verbs.contains(&"*") && one.resource != "*" && one.group != "*", "{one:?}");
        }
    }

    #[test]
    fn secrets_are_read_in_one_namespace_alone() {
        let secrets: Vec<_> = TABLE.iter().filter(|one| one.resource == "secrets").collect();
        assert_eq!(secrets.iter().map(|one| one.place).collect::<Vec<_>>(), [Place::Own]);
        assert!(!secrets[0].verbs.contains(&"list"), "credentials are asked for by name");
    }

    #[test]
    fn each_kind_is_named_once_for_a_place() {
        let mut seen: Vec<_> = TABLE.iter().map(|one| (one.group, one.resource, one.place as u8)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), TABLE.len());
    }
}
