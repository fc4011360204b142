//! The controller's pods, and what keeps them alive, apart and heard.

use serde_json::{Value as Json, json};

use super::{Install, NAME, labels, merge};

/// Where a pod answers to probes and scrapes; nothing else is served there.
const PROBES: u16 = 7412;
const DATA: &str = "/var/lib/backstop";

pub(super) fn objects(install: &Install) -> Vec<Json> {
    let mut objects = vec![workload(install), budget(install), network(install), service(install)];
    objects.extend(priority(install));
    objects
}

/// A Deployment; with a volume for the log, a `StatefulSet`, so that each replica finds its own log again.
fn workload(install: &Install) -> Json {
    let selector = json!({"matchLabels": {"app.kubernetes.io/name": NAME}});
    let mut spec =
        json!({"replicas": install.replicas, "selector": selector, "template": {"metadata": {"labels": labels()}, "spec": pod(install)}});
    let Some(size) = &install.log_volume else {
        // The new one is there before the old one goes: somebody is always on watch.
        spec["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
        return install.object("apps/v1", "Deployment", NAME, &json!({"spec": spec}));
    };
    spec["serviceName"] = json!(NAME);
    spec["podManagementPolicy"] = json!("Parallel");
    spec["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": size}}},
    }]);
    install.object("apps/v1", "StatefulSet", NAME, &json!({"spec": spec}))
}

fn pod(install: &Install) -> Json {
    let mut volumes = vec![
        json!({"name": "principals", "configMap": {"name": "backstop-principals", "optional": true}}),
        json!({"name": "registry", "secret": {
            "secretName": "backstop-registry", "optional": true, "items": [{"key": ".dockerconfigjson", "path": "config.json"}],
        }}),
        // A token of its own that ends within the hour; the account itself mounts none.
        json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}),
    ];
    if install.log_volume.is_none() {
        volumes.push(json!({"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}));
    }
    json!({
        "serviceAccountName": NAME,
        "automountServiceAccountToken": false,
        "priorityClassName": "system-cluster-critical",
        "terminationGracePeriodSeconds": 15,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": NAME}},
        }],
        "containers": [container(install)],
        "volumes": volumes,
    })
}

fn container(install: &Install) -> Json {
    let mut arguments: Vec<String> = [
        "--kubernetes",
        "--system-namespace",
        &install.namespace,
        "--data-dir",
        DATA,
        "run",
        "--principals",
        "/etc/backstop/principals/principals.yaml",
        "--probes",
        &format!("0.0.0.0:{PROBES}"),
    ]
    .map(str::to_owned)
    .into();
    if !install.namespaces.is_empty() {
        arguments.extend(["--namespaces".to_owned(), install.namespaces.join(",")]);
    }
    let probe = |path: &str, period: u8, failures: u8| json!({"httpGet": {"path": path, "port": "probes"}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 2});
    json!({
        "name": NAME,
        "image": install.image,
        "args": arguments,
        "env": [{"name": "DOCKER_CONFIG", "value": "/etc/backstop/registry"}],
        "ports": [{"name": "probes", "containerPort": PROBES}],
        "startupProbe": probe("/healthz", 1, 30),
        "livenessProbe": probe("/healthz", 10, 3),
        "readinessProbe": probe("/readyz", 2, 2),
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "data", "mountPath": DATA},
            {"name": "principals", "mountPath": "/etc/backstop/principals", "readOnly": true},
            {"name": "registry", "mountPath": "/etc/backstop/registry", "readOnly": true},
            {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
        ],
    })
}

/// Nodes are drained one replica at a time; one that is broken anyway stops no drain.
fn budget(install: &Install) -> Json {
    let selector = json!({"matchLabels": {"app.kubernetes.io/name": NAME}});
    let spec = json!({"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": selector});
    install.object("policy/v1", "PodDisruptionBudget", NAME, &json!({"spec": spec}))
}

/// In: probes and scrapes. Out: names, and everything but the addresses at which machines give away their credentials.
fn network(install: &Install) -> Json {
    let spec = json!({
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": NAME}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": "probes", "protocol": "TCP"}]}],
        "egress": [
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            {"to": [
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}},
            ]},
        ],
    });
    install.object("networking.k8s.io/v1", "NetworkPolicy", NAME, &json!({"spec": spec}))
}

/// Names the pods, for scrapes.
fn service(install: &Install) -> Json {
    let spec = json!({
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": {"app.kubernetes.io/name": NAME},
        "ports": [{"name": "metrics", "port": PROBES, "targetPort": "probes"}],
    });
    install.object("v1", "Service", NAME, &json!({"spec": spec}))
}

/// What a revert writes has seats of its own at the API server, so that neither a busy cluster nor backstop's own watches stand in front.
fn priority(install: &Install) -> Vec<Json> {
    let level = |name: &str, shares: u8, queues: u8| {
        let mut level = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
            "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": 50,
                "limitResponse": {"type": "Queue", "queuing": {"queues": queues, "handSize": 4, "queueLengthLimit": 200}},
            }},
        });
        merge(&mut level, &json!({"metadata": {"name": name, "labels": labels()}}));
        level
    };
    let schema = |name: &str, precedence: u16, rules: Json| {
        json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name, "labels": labels()},
            "spec": {
                "priorityLevelConfiguration": {"name": name}, "matchingPrecedence": precedence,
                "distinguisherMethod": {"type": "ByNamespace"},
                "rules": [{
                    "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": NAME, "namespace": install.namespace}}],
                    "resourceRules": rules,
                }],
            },
        })
    };
    let rule = |verbs: &[&str], groups: &[&str], resources: &[&str]| json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"], "clusterScope": true});
    let revert = json!([
        rule(&["get", "patch"], &["apps"], &["deployments", "statefulsets", "daemonsets"]),
        rule(&["get", "patch"], &["gateway.networking.k8s.io", "networking.istio.io"], &["*"]),
        rule(&["get", "patch"], &[""], &["services"]),
        rule(&["get", "patch"], &["backstop.dev"], &["guardedrollouts/status", "releaserecords/status"]),
    ]);
    let rest = json!([rule(&["*"], &["*"], &["*"])]);
    vec![level("backstop-revert", 40, 16), level("backstop", 20, 16), schema("backstop-revert", 500, revert), schema("backstop", 600, rest)]
}
