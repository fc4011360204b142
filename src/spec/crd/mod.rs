//! The documents as custom resources: their definitions, from the same types as the files.

mod resource;
mod structural;

pub use resource::{ConditionStatus, RecordStatus, ReleaseName, ReleaseRecord, RolloutStatus, SignedRecord, StatusCondition, WorkloadName};

use schemars::{JsonSchema, schema_for};
use serde_json::{Value as Json, json};

use super::document::Kind;
use crate::core::spec::API_VERSION;

/// The API group.
pub const GROUP: &str = "backstop.dev";

/// The service account that the admission policies take for backstop, in the namespace that they name.
const ACCOUNT: &str = "system:serviceaccount:backstop-system:backstop";

/// The admission policies, as YAML, for a controller whose service account `backstop` is in `namespace`.
pub fn admission(namespace: &str) -> String {
    include_str!("admission.yaml").replace(ACCOUNT, &format!("system:serviceaccount:{namespace}:backstop"))
}

/// The admission policies as objects.
pub fn admission_objects(namespace: &str) -> Vec<Json> {
    admission(namespace).split("\n---\n").filter_map(|one| serde_saphyr::from_str(one).ok()).collect()
}

/// A kind of custom resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// `kind`.
    pub kind: &'static str,
    /// Its name in paths and in rules of access.
    pub plural: &'static str,
    /// What people type.
    pub short: &'static str,
    /// Whether objects belong to a namespace.
    pub namespaced: bool,
}

/// Every kind.
pub const RESOURCES: [Resource; 5] = [
    Resource { kind: "GuardedRollout", plural: "guardedrollouts", short: "gro", namespaced: true },
    Resource { kind: "GuardPolicy", plural: "guardpolicies", short: "gpol", namespaced: false },
    Resource { kind: "GuardSource", plural: "guardsources", short: "gsrc", namespaced: false },
    Resource { kind: "FlagTarget", plural: "flagtargets", short: "gflag", namespaced: false },
    Resource { kind: "ReleaseRecord", plural: "releaserecords", short: "grec", namespaced: true },
];

/// Every `CustomResourceDefinition`, for `kubectl apply --server-side`.
pub fn definitions() -> Vec<Json> {
    RESOURCES.iter().map(definition).collect()
}

fn definition(resource: &Resource) -> Json {
    let Resource { kind, plural, short, namespaced } = resource;
    let (spec, status) = schemas(kind);
    let mut version = json!({
        "name": API_VERSION.trim_start_matches(GROUP).trim_start_matches('/'),
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": root(&spec, status.as_ref())},
        "additionalPrinterColumns": columns(kind),
    });
    if status.is_some() {
        version["subresources"] = json!({"status": {}});
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}"), "labels": {"app.kubernetes.io/part-of": "backstop"}},
        "spec": {
            "group": GROUP,
            "scope": if *namespaced { "Namespaced" } else { "Cluster" },
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(), "shortNames": [short],
                "categories": ["backstop"],
            },
            "versions": [version],
        },
    })
}

fn derive<T: JsonSchema>() -> Json {
    structural::structural(&schema_for!(T).to_value())
}

/// Spec and status of a kind.
fn schemas(kind: &str) -> (Json, Option<Json>) {
    if let Some(document) = Kind::ALL.into_iter().find(|document| document.name() == kind) {
        let status = (document == Kind::GuardedRollout).then(derive::<RolloutStatus>);
        return (structural::structural(document.schema()), status);
    }
    let mut spec = derive::<ReleaseRecord>();
    spec["x-kubernetes-validations"] = json!([{"rule": "self == oldSelf", "message": "a record of what was deployed never changes"}]);
    (spec, Some(derive::<RecordStatus>()))
}

fn root(spec: &Json, status: Option<&Json>) -> Json {
    let mut properties =
        json!({"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}, "spec": spec});
    if let Some(status) = status {
        properties["status"] = status.clone();
    }
    json!({
        "type": "object",
        "description": spec["description"],
        "required": ["spec"],
        "properties": properties,
        // Names become parts of other names, of labels and of paths.
        "x-kubernetes-validations": [{
            "rule": "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
            "message": "the name must be 1 to 63 lower-case letters, digits and dashes",
        }],
    })
}

/// What `kubectl get` shows.
fn columns(kind: &str) -> Json {
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let text = |name: &str, path: &str| column(name, "string", path);
    let mut columns = match kind {
        "GuardedRollout" => vec![
            text("Phase", ".status.phase"),
            text("Weight", ".status.weight"),
            text("Verdict", ".status.verdict"),
            text("Reason", ".status.reason"),
        ],
        "ReleaseRecord" => vec![
            text("Workload", ".spec.workload.name"),
            text("Release", ".spec.release"),
            text("Label", ".spec.label"),
            text("Standing", ".status.standing"),
            column("Quarantined", "boolean", ".status.quarantined"),
        ],
        _ => Vec::new(),
    };
    columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    Json::from(columns)
}

#[cfg(test)]
mod tests {
    #[test]
    fn admission_policies_name_the_account_and_are_bound() {
        let text = super::admission("elsewhere");
        assert!(!text.contains("backstop-system"));
        let documents: Vec<serde_json::Value> = text.split("\n---\n").map(|one| serde_saphyr::from_str(one).unwrap()).collect();
        let names = |bindings: bool| -> Vec<_> {
            let wanted = documents.iter().filter(|one| one["kind"].as_str().unwrap().ends_with("Binding") == bindings);
            wanted.map(|one| one["metadata"]["name"].as_str().unwrap()).collect()
        };
        let members = ["backstop-members", "backstop-selectors"];
        let first = ["backstop-stamp", "backstop-pause", "backstop-protect", "backstop-loosen", "backstop-approve", "backstop-managed"];
        assert_eq!(names(false)[..6], first);
        assert_eq!(names(false)[6..], members);
        assert_eq!(names(true), names(false));
        assert_eq!(super::admission_objects("elsewhere"), documents);
        // Backstop approves nothing either.
        let for_all = ["backstop-members", "backstop-approve"];
        let is_for_all = |policy: &&serde_json::Value| for_all.iter().any(|name| policy["metadata"]["name"] == *name);
        for policy in documents.iter().filter(|one| one["spec"].get("failurePolicy").is_some() && !is_for_all(one)) {
            assert_eq!(policy["spec"]["failurePolicy"], "Fail");
            let conditions = policy["spec"]["matchConditions"].to_string();
            assert!(conditions.contains("system:serviceaccount:elsewhere:backstop"), "{conditions}");
        }
    }
}
