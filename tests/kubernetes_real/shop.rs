//! The service of examples/kubernetes on a real node: signed images, a route, traffic and metrics.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use backstop::world::clock;
use serde_json::Value;

use crate::bed;
use crate::cluster::images::Images;
use crate::cluster::metrics::Metrics;
use crate::cluster::router::Router;
use crate::cluster::{self, Cluster};

/// How long anything may take that takes seconds.
pub(crate) const SOON: Duration = Duration::from_mins(2);

/// The first thing that is missing here.
pub(crate) fn missing() -> Option<String> {
    let tool = |name: &&str| bed::tool(name).is_none();
    cluster::node::missing().or_else(|| ["haproxy", "prometheus", "cosign"].iter().find(|name| tool(name)).map(|name| (*name).to_owned()))
}

/// The service in a cluster.
pub(crate) struct Shop {
    // In the order in which they end.
    pub(crate) router: Router,
    pub(crate) metrics: Metrics,
    pub(crate) cluster: Cluster,
    /// Good.
    pub(crate) v1: String,
    /// Good as well.
    pub(crate) v2: String,
    /// Fails one request in twenty.
    pub(crate) bad: String,
    _turn: Turn,
}

/// A control plane with a real node takes more than half a core: as many at a time as there are cores.
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    fn wait() -> Self {
        let (taken, ended) = &TURNS;
        let most = thread::available_parallelism().map_or(1, usize::from);
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        *ended.wait_while(taken, |taken| *taken >= most).unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        TURNS.1.notify_one();
    }
}

impl Shop {
    /// Images, a router and Prometheus, and no service yet.
    pub(crate) fn empty() -> Self {
        let turn = Turn::wait();
        let cluster = Cluster::start_with_real_node(1);
        cluster.apply_gateway_api();
        let images = cluster.images();
        let [v1, v2, bad] = [("v1", None), ("v2", None), ("bad", Some(("ERROR_RATIO", "0.05")))].map(|(version, failing)| {
            let image = images.push("shop/checkout", version, failing.as_slice());
            images.sign(&image);
            image
        });
        let router = Router::start(&cluster.admin(), "shop", "checkout");
        let metrics = Metrics::start(&cluster.admin());
        Self { router, metrics, cluster, v1, v2, bad, _turn: turn }
    }

    /// Three pods of `v1` behind the route `checkout`, in the namespace `shop`.
    pub(crate) fn open() -> Self {
        let shop = Self::empty();
        shop.cluster.apply(&example("service.yaml", &[("V1", &shop.v1)]));
        shop.until_ready(&shop.v1, 3);
        shop
    }

    /// Waits until these are the pods of the service that do not go away: their names.
    pub(crate) fn until_ready(&self, image: &str, count: usize) -> Vec<String> {
        let pods = || self.pods().into_iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image).collect::<Vec<_>>();
        let ready = || (self.pods().len() == count && pods().iter().filter(|pod| cluster::is_ready(pod)).count() == count).then(pods);
        let found = bed::eventually(SOON, ready).unwrap_or_else(|| panic!("no {count} pods of {image}: {:?}", self.pods()));
        found.iter().map(name).collect()
    }

    /// The pods of the service that are not about to go.
    pub(crate) fn pods(&self) -> Vec<Value> {
        let mut pods = self.get("pods", &["--selector=app=checkout"]).as_array().cloned().unwrap_or_default();
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// What is in the namespace `shop`.
    pub(crate) fn get(&self, kind: &str, arguments: &[&str]) -> Value {
        self.cluster.get(kind, &[&["--namespace=shop"], arguments].concat())
    }

    /// `kubectl` as the administrator, in the namespace `shop`.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace=shop"], arguments].concat())
    }

    /// The last value of a counter in Prometheus, summed for each value of a label.
    pub(crate) fn counted(&self, label: &str, selector: &str) -> BTreeMap<String, f64> {
        let query = format!("/api/v1/query?query=sum%20by({label})({})", selector.replace('"', "%22"));
        let Ok((200, body)) = bed::get(self.metrics.server.port, &query) else { return BTreeMap::new() };
        let answer: Value = serde_json::from_str(&body).expect("Prometheus answers in JSON");
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |one: &Value| Some((one["metric"][label].as_str()?.to_owned(), one["value"][1].as_str()?.parse().ok()?));
        series.iter().filter_map(value).collect()
    }

    /// Sends so many requests, one after another: how many got each answer.
    pub(crate) fn answers(&self, count: usize) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for _ in 0..count {
            *found.entry(visit(self.router.address()).said).or_default() += 1;
        }
        found
    }
}

/// The name of an object.
pub(crate) fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// A file of examples/kubernetes with its variables filled in.
pub(crate) fn example(file: &str, variables: &[(&str, &str)]) -> String {
    let text = fs::read_to_string(bed::repository("examples/kubernetes").join(file)).expect("an example");
    variables.iter().fold(text, |text, (name, value)| text.replace(&format!("${name}"), value))
}

/// The build's public key on one line, as guard.yaml has it.
pub(crate) fn build_key(images: &Images) -> String {
    images.public_key().trim().replace('\n', "\\n")
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub(crate) sent: Instant,
    /// Status and body, or why there was none.
    pub(crate) said: String,
}

fn visit(address: SocketAddr) -> Visit {
    let sent = clock::instant();
    let said = match bed::get(address.port(), "/") {
        Ok((status, body)) => format!("{status} {}", body.trim()).trim().to_owned(),
        Err(why) => format!("dropped: {why}"),
    };
    Visit { sent, said }
}

/// Steady traffic that ends with this guard.
pub(crate) struct Traffic {
    book: Arc<Mutex<Vec<Visit>>>,
    stop: Arc<AtomicBool>,
    visitors: Vec<thread::JoinHandle<()>>,
}

impl Traffic {
    /// Some hundred requests a second by four visitors, each after the answer to its last.
    pub(crate) fn start(router: &Router) -> Self {
        let (book, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let address = router.address();
        let visitor = |_| {
            let (book, stop) = (Arc::clone(&book), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let one = visit(address);
                    book.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                    thread::sleep(Duration::from_millis(20));
                }
            })
        };
        let visitors = (0..4).map(visitor).collect();
        Self { book, stop, visitors }
    }

    /// Every request so far.
    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for visitor in self.visitors.drain(..) {
            let _ = visitor.join();
        }
    }
}
