//! A data plane for one `HTTPRoute`: `HAProxy` on 127.0.0.1, told by a loop which pods there are and what each one weighs.
//!
//! The loop watches the route and the endpoints. It follows the weights of the first rule, and says `Accepted` and `ResolvedRefs`
//! in the route's status as a controller of the Gateway API does. As there, the share of a backend without a ready pod is
//! answered 503 and goes to nobody else.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::User;
use super::background::Loop;
use crate::bed::{self, Server};

/// Pods that the proxy can know at once.
const PLACES: usize = 40;
/// The most that one place can weigh.
const HEAVIEST: f64 = 256.0;
const NAME: &str = "backstop.dev/test-router";

/// A running router; it ends with this guard.
pub struct Router {
    _obedience: Loop,
    proxy: Server,
}

impl Router {
    /// Routes what comes in on a free port by the route `namespace/name`. Needs the tool `haproxy`.
    pub fn start(user: &User, namespace: &str, name: &str) -> Self {
        let port = bed::free_port();
        let program = bed::tool("haproxy").expect("call bed::require!(\"haproxy\") first");
        let proxy = Server::start("haproxy", &program, port, "/router-is-up", |folder, command| {
            fs::write(folder.join("haproxy.cfg"), config(folder, port))?;
            command.args(["-db", "-f", "haproxy.cfg"]);
            Ok(())
        });
        let route = Route { namespace: namespace.into(), name: name.into(), places: Places::new(proxy.folder().join("control")) };
        Self { _obedience: Loop::start(user, |client| route.follow(client)), proxy }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.proxy.port).into()
    }
}

fn config(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "global\n  stats socket {folder}/control mode 600 level admin\n  hard-stop-after 1s\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 10s\n  timeout server 10s\n  option redispatch\n\
         frontend edge\n  bind 127.0.0.1:{port}\n  http-request return status 200 if {{ path /router-is-up }}\n  default_backend pods\n\
         # The weight of whoever has no pod.\n\
         frontend nobody\n  bind unix@{folder}/nobody mode 600\n  http-request return status 503\n\
         backend pods\n  balance roundrobin\n  server nobody unix@{folder}/nobody weight 0\n  \
         server-template pod 0-{last} 127.0.0.1:1 weight 0 disabled\n",
        last = PLACES - 1
    )
}

struct Route {
    namespace: String,
    name: String,
    places: Places,
}

/// Address of a ready pod, by the Service that selects it.
type Endpoints = BTreeMap<String, Vec<SocketAddr>>;

impl Route {
    async fn follow(mut self, client: Client) {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
        let routes: Api<DynamicObject> = Api::namespaced_with(client.clone(), &self.namespace, &resource);
        let slices: Api<EndpointSlice> = Api::namespaced(client, &self.namespace);
        let named = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let (route, writer) = {
            let writer = reflector::store::Writer::new(resource.clone());
            (writer.as_reader(), writer)
        };
        let route_events = watcher(routes.clone(), named).default_backoff().reflect(writer).map(drop).boxed();
        let (slice, writer) = reflector::store();
        let slice_events = watcher(slices, watcher::Config::default()).default_backoff().reflect(writer).map(drop).boxed();
        let mut events = futures::stream::select(route_events, slice_events);
        while events.next().await.is_some() {
            let Some(route) = route.state().first().cloned() else { continue };
            let endpoints = endpoints(&slice.state());
            let resolved = self.obey(&route.data["spec"], &endpoints);
            say(&routes, &route, resolved).await;
        }
    }

    /// Sets what each pod weighs; says whether every backend is a Service.
    fn obey(&mut self, spec: &Value, endpoints: &Endpoints) -> bool {
        let backends = spec["rules"][0]["backendRefs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut shares: BTreeMap<SocketAddr, f64> = BTreeMap::new();
        let (mut nobody, mut resolved) = (0.0, true);
        for backend in backends {
            let weight = backend["weight"].as_f64().unwrap_or(1.0);
            let known = endpoints.get(backend["name"].as_str().unwrap_or_default());
            resolved &= known.is_some();
            match known.filter(|pods| !pods.is_empty()) {
                Some(pods) => pods.iter().for_each(|pod| *shares.entry(*pod).or_default() += weight / pods.len() as f64),
                None => nobody += weight,
            }
        }
        self.places.set(&shares, nobody);
        resolved
    }
}

fn endpoints(slices: &[std::sync::Arc<EndpointSlice>]) -> Endpoints {
    let mut found = Endpoints::new();
    for slice in slices {
        let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name")) else { continue };
        let pods = found.entry(service.clone()).or_default();
        let port = slice.ports.as_ref().and_then(|ports| ports.first()?.port).and_then(|port| u16::try_from(port).ok());
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().is_some_and(|all| all.ready == Some(true));
            let address = endpoint.addresses.first().and_then(|address| address.parse::<Ipv4Addr>().ok());
            pods.extend(address.filter(|_| ready).zip(port).map(SocketAddr::from));
        }
    }
    found
}

/// Writes the status that a router owes, where it is not there yet.
async fn say(routes: &Api<DynamicObject>, route: &DynamicObject, resolved: bool) {
    let generation = route.metadata.generation;
    let condition = |kind: &str, holds: bool, reason: &str| {
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let refs = if resolved { "ResolvedRefs" } else { "BackendNotFound" };
    let conditions = [condition("Accepted", true, "Accepted"), condition("ResolvedRefs", resolved, refs)];
    let parent = &route.data["spec"]["parentRefs"][0];
    let status = json!({"parents": [{"parentRef": parent, "controllerName": NAME, "conditions": conditions}]});
    if route.data["status"] != status {
        // A route that changed meanwhile comes by again.
        let _ = routes
            .patch_status(
                route.metadata.name.as_deref().unwrap_or_default(),
                &PatchParams::default(),
                &Patch::Merge(json!({"status": status})),
            )
            .await;
    }
}

/// The proxy's places for pods, set through its control socket. A pod keeps its place while it lives.
struct Places {
    control: PathBuf,
    pods: BTreeMap<SocketAddr, usize>,
}

impl Places {
    const fn new(control: PathBuf) -> Self {
        Self { control, pods: BTreeMap::new() }
    }

    fn set(&mut self, shares: &BTreeMap<SocketAddr, f64>, nobody: f64) {
        let mut commands = Vec::new();
        self.pods.retain(|pod, place| {
            let stays = shares.contains_key(pod);
            if !stays {
                commands.push(format!("set server pods/pod{place} weight 0; set server pods/pod{place} state maint"));
            }
            stays
        });
        let heaviest = shares.values().copied().fold(nobody, f64::max).max(f64::MIN_POSITIVE);
        // What carries anything weighs something.
        let weight = |share: f64| if share > 0.0 { (share / heaviest * HEAVIEST).round().max(1.0) } else { 0.0 };
        for (pod, share) in shares {
            let place = self.pods.get(pod).copied().unwrap_or_else(|| {
                let free = (0..PLACES).find(|place| !self.pods.values().any(|taken| taken == place)).expect("more pods than places");
                commands.push(format!("set server pods/pod{free} addr {} port {}", pod.ip(), pod.port()));
                commands.push(format!("set server pods/pod{free} state ready"));
                free
            });
            self.pods.insert(*pod, place);
            commands.push(format!("set server pods/pod{place} weight {}", weight(*share)));
        }
        commands.push(format!("set server pods/nobody weight {}", weight(nobody)));
        let mut socket = UnixStream::connect(&self.control).expect("the proxy's control socket");
        writeln!(socket, "{}", commands.join("; ")).expect("the proxy listens");
        let mut said = String::new();
        let _ = socket.read_to_string(&mut said);
        let refused: Vec<&str> =
            said.lines().filter(|line| !line.is_empty() && !line.contains("changed from") && !line.contains("no need")).collect();
        if !refused.is_empty() {
            eprintln!("haproxy refuses: {refused:?}");
        }
    }
}
