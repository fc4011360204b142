//! What a cluster is given so that backstop runs in it: plain objects, the least rights, nothing to be filled in.

pub mod access;
mod controller;
mod people;

use serde_json::{Value as Json, json};

use self::access::Place;
use super::crd;

/// The name of everything that is one of its kind.
const NAME: &str = "backstop";

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Backstop's own namespace.
    pub namespace: String,
    /// The namespaces that are guarded; all if empty.
    pub namespaces: Vec<String>,
    /// The controller's image, by digest.
    pub image: String,
    /// Controllers that share the work.
    pub replicas: u16,
    /// Size of a volume for each replica's audit log, such as `1Gi`. Without one the log ends with its pod.
    pub log_volume: Option<String>,
}

impl Install {
    /// Every object, in the order in which they are applied.
    ///
    /// # Errors
    /// The image has no digest, or a name cannot be one.
    pub fn objects(&self) -> Result<Vec<Json>, String> {
        self.check()?;
        let mut objects = vec![self.home()];
        objects.extend(crd::definitions());
        objects.push(self.object("v1", "ServiceAccount", NAME, &json!({"automountServiceAccountToken": false})));
        objects.extend(self.rights());
        objects.extend(people::roles(&self.namespace));
        objects.extend(controller::objects(self));
        objects.extend(crd::admission_objects(&self.namespace));
        Ok(objects)
    }

    fn check(&self) -> Result<(), String> {
        let digest = self.image.split_once("@sha256:").map(|(_, digest)| digest).unwrap_or_default();
        if digest.len() != 64 || !digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!("the image `{}` is not named by digest: expected `repository@sha256:` and 64 hex digits", self.image));
        }
        for name in self.namespaces.iter().chain([&self.namespace]) {
            let plain = name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-'));
            if !plain || name.is_empty() || name.len() > 63 || name.starts_with('-') || name.ends_with('-') {
                return Err(format!("`{name}` is no name of a namespace: expected 1 to 63 lower-case letters, digits and dashes"));
            }
        }
        let units = ["Mi", "Gi", "Ti"];
        if let Some(size) = &self.log_volume
            && !units.iter().any(|unit| size.strip_suffix(unit).is_some_and(|number| number.parse::<u32>().is_ok()))
        {
            return Err(format!("`{size}` is no size of a volume: expected a number and `Mi`, `Gi` or `Ti`, such as `1Gi`"));
        }
        if self.replicas == 0 { Err("with no replicas nobody guards anything: expected 1 or more".to_owned()) } else { Ok(()) }
    }

    /// An object in backstop's namespace.
    fn object(&self, version: &str, kind: &str, name: &str, rest: &Json) -> Json {
        let mut object =
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": self.namespace, "labels": labels()}});
        merge(&mut object, rest);
        object
    }

    /// The namespace, in which nothing runs with more rights than it needs.
    fn home(&self) -> Json {
        let mut labels = labels();
        labels["pod-security.kubernetes.io/enforce"] = json!("restricted");
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}})
    }

    /// The controller's rights. Roles only, but for what is outside of namespaces, unless every namespace is guarded.
    fn rights(&self) -> Vec<Json> {
        let (own, guarded, cluster) = (access::rules(Place::Own), access::rules(Place::Guarded), access::rules(Place::Cluster));
        let mut objects = vec![role(Some(&self.namespace), "backstop", &own), self.binding(Some(&self.namespace), "backstop")];
        for namespace in &self.namespaces {
            // Its own namespace may be guarded too.
            objects.push(role(Some(namespace), "backstop-guard", &guarded));
            objects.push(self.binding(Some(namespace), "backstop-guard"));
        }
        if self.namespaces.is_empty() {
            objects.push(role(None, "backstop-guard", &guarded));
            objects.push(self.binding(None, "backstop-guard"));
        }
        objects.push(role(None, "backstop-documents", &cluster));
        objects.push(self.binding(None, "backstop-documents"));
        objects
    }

    fn binding(&self, namespace: Option<&str>, role: &str) -> Json {
        let prefix = if namespace.is_some() { "" } else { "Cluster" };
        let mut binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{prefix}RoleBinding"),
            "metadata": {"name": role, "labels": labels()},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": format!("{prefix}Role"), "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": self.namespace}],
        });
        if let Some(namespace) = namespace {
            binding["metadata"]["namespace"] = json!(namespace);
        }
        binding
    }
}

fn role(namespace: Option<&str>, name: &str, rules: &[Json]) -> Json {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let mut role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name, "labels": labels()}, "rules": rules,
    });
    if let Some(namespace) = namespace {
        role["metadata"]["namespace"] = json!(namespace);
    }
    role
}

fn labels() -> Json {
    json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": NAME})
}

fn merge(object: &mut Json, rest: &Json) {
    if let (Some(object), Some(rest)) = (object.as_object_mut(), rest.as_object()) {
        object.extend(rest.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(namespaces: &[&str]) -> Install {
        Install {
            namespace: "backstop-system".into(),
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            image: format!("registry.example/backstop@sha256:{}", "a".repeat(64)),
            replicas: 2,
            log_volume: None,
        }
    }

    fn names(objects: &[Json], kinds: &[&str]) -> Vec<String> {
        let wanted = objects.iter().filter(|one| kinds.iter().any(|kind| one["kind"] == *kind));
        wanted.map(|one| format!("{}/{}", one["kind"], one["metadata"]["name"]).replace('"', "")).collect()
    }

    #[test]
    fn tags_and_odd_names_are_refused() {
        let refused = |change: &dyn Fn(&mut Install)| {
            let mut one = install(&[]);
            change(&mut one);
            one.objects().expect_err("this is refused")
        };
        assert!(refused(&|one| one.image = "registry.example/backstop:v1".into()).contains("by digest"));
        assert!(refused(&|one| one.image.push('0')).contains("by digest"));
        assert!(refused(&|one| one.namespaces = vec!["a/b".into()]).contains("`a/b`"));
        assert!(refused(&|one| one.log_volume = Some("much".into())).contains("`much`"));
        assert!(refused(&|one| one.replicas = 0).contains("nobody"));
    }

    #[test]
    fn with_namespaces_the_controller_has_roles_only_and_reads_no_foreign_secret() {
        let objects = install(&["shop", "pay"]).objects().unwrap();
        assert_eq!(names(&objects, &["ClusterRoleBinding"]), ["ClusterRoleBinding/backstop-documents"]);
        for one in objects.iter().filter(|one| one["kind"] == "ClusterRole" || one["metadata"]["namespace"] != "backstop-system") {
            assert!(!one["rules"].to_string().contains("secrets"), "{one}");
        }
        let documents = objects.iter().find(|one| one["kind"] == "ClusterRole" && one["metadata"]["name"] == "backstop-documents").unwrap();
        assert!(!documents["rules"].to_string().contains("patch"), "outside of namespaces it only reads: {documents}");
    }

    #[test]
    fn a_volume_makes_each_replica_keep_its_log() {
        let mut one = install(&[]);
        let runs = |one: &Install| names(&one.objects().unwrap(), &["Deployment", "StatefulSet"]);
        assert_eq!(runs(&one), ["Deployment/backstop"]);
        one.log_volume = Some("2Gi".into());
        assert_eq!(runs(&one), ["StatefulSet/backstop"]);
    }
}
