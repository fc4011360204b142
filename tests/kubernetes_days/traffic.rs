//! What moves the traffic fails, or others stand in it.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::cluster::{self, gateway};
use crate::replica;
use crate::rig::{Day, needs_cluster};

/// The pods of backstop's copy for the candidate.
const COPY: &str = "backstop.dev/arm%3Dcandidate";

fn canary() -> Value {
    json!({"canary": {
        "route": {"httpRoute": {"name": "checkout"}}, "candidate": {"warmUp": "1s"},
        "steps": [{"weight": "20%", "bake": "1h", "deadline": "3h"}],
    }})
}

impl Day {
    /// A canary behind a route, with a gateway that takes it.
    fn canary(namespace: &'static str, replicas: u32) -> (Self, cluster::background::Loop) {
        let day = Self::driven(namespace, replicas, canary());
        day.add_route();
        let gateway = gateway::start(&day.house.cluster.admin(), namespace);
        (day, gateway)
    }

    fn add_route(&self) {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "checkout", "namespace": self.namespace},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "checkout", "port": 80}]}]},
        });
        self.house.cluster.apply(&route.to_string());
    }

    /// The share of each Service that the route names.
    fn shares(&self) -> Vec<(String, u64)> {
        let route = self.object(&format!("/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes/checkout", self.namespace));
        let backends = route["spec"]["rules"][0]["backendRefs"].as_array().cloned().unwrap_or_default();
        backends.iter().map(|one| (one["name"].as_str().unwrap_or_default().to_owned(), one["weight"].as_u64().unwrap_or(1))).collect()
    }

    /// A person has deployed `v2`, and its copy has requests.
    fn has_requests(&self) {
        self.set_image(&self.house.cluster.admin(), &self.house.v2).unwrap();
        self.until("the candidate has requests", || {
            self.phase() == "Advancing" && self.shares().iter().any(|(service, share)| service != "checkout" && *share > 0)
        });
    }

    /// Whether all requests go to the workload's own pods, of `v1` each.
    fn is_back(&self) -> bool {
        self.shares().iter().all(|(service, share)| service == "checkout" || *share == 0) && self.image() == self.house.v1
    }

    fn names(&self, labels: &str) -> Vec<String> {
        self.pods(labels).iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn new_pods_crash_after_a_blue_green_switch() {
    needs_cluster!("new_pods_crash_after_a_blue_green_switch");
    let strategy = json!({"blueGreen": {"route": {"service": {"name": "checkout"}}, "candidate": {"warmUp": "1s"}, "bake": "1h"}});
    let day = Day::driven("switched", 3, strategy);
    let _controller = day.settled();
    let before = day.names("app%3Dcheckout");
    let selector = || day.object(&format!("/api/v1/namespaces/{}/services/checkout", day.namespace))["spec"]["selector"].clone();
    day.set_image(&day.house.cluster.admin(), &day.house.v2).unwrap();
    day.until("switched", || selector() != json!({"app": "checkout"}) && day.phase() == "Advancing");
    day.crash(&day.pods(COPY));
    day.until("switched back", || selector() == json!({"app": "checkout"}));
    assert_eq!(day.names("app%3Dcheckout"), before, "the pods that served before never moved");
    day.until("recovering", || ["Recovering", "Reverted"].contains(&day.phase().as_str()) && day.image() == day.house.v1);
    assert_eq!(day.names("app%3Dcheckout"), before);
}

#[test]
fn the_route_is_gone_when_the_candidate_breaks() {
    needs_cluster!("the_route_is_gone_when_the_candidate_breaks");
    let (day, _gateway) = Day::canary("routeless", 2);
    let _controller = day.settled();
    day.has_requests();
    let stable = day.names("app%3Dcheckout");
    day.kubectl(&["delete", "httproute", "checkout"]);
    day.crash(&day.pods(COPY));
    // Nobody can say where requests go; the template goes back all the same.
    day.until("the template is back", || day.image() == day.house.v1 && day.deployment()["spec"]["paused"] != true);
    day.add_route();
    day.until("at an end", || ["Recovering", "Reverted"].contains(&day.phase().as_str()));
    day.until("the copy is gone", || day.pods(COPY).is_empty());
    assert!(day.is_back(), "{:?}", day.shares());
    assert_eq!(day.names("app%3Dcheckout"), stable, "no stable pod moved");
}

#[test]
fn stable_has_nine_of_ten_pods_when_the_candidate_breaks() {
    needs_cluster!("stable_has_nine_of_ten_pods_when_the_candidate_breaks");
    let (day, _gateway) = Day::canary("nine", 10);
    let _controller = day.settled();
    day.has_requests();
    day.crash(&day.pods("app%3Dcheckout")[..1]);
    day.until("nine of ten", || day.deployment()["status"]["readyReplicas"] == 9);
    day.crash(&day.pods(COPY));
    day.until("back", || day.is_back());
    day.until("at an end", || ["Recovering", "Reverted"].contains(&day.phase().as_str()));
}

#[test]
fn another_deployment_has_the_labels_of_the_service() {
    needs_cluster!("another_deployment_has_the_labels_of_the_service");
    let (day, _gateway) = Day::canary("labels", 2);
    let _controller = day.settled();
    day.until("marked", || day.deployment()["metadata"]["labels"]["backstop.dev/guarded"] == "driven");
    let other = day.workload().replace("name: checkout", "name: other").replace("name: other, image", "name: main, image");
    let other = other.replace("app: other", "app: checkout");
    day.house.cluster.apply(&other);
    day.has_requests();
    day.crash(&day.pods(COPY));
    day.until("back", || day.is_back());
    day.until("at an end", || ["Recovering", "Reverted"].contains(&day.phase().as_str()));
    let pods = day.pods("app%3Dcheckout");
    assert!(pods.len() == 2 && !day.names("app%3Dcheckout").iter().any(|name| name.starts_with("other")), "none of the other's: {pods:?}");
}

/// What a mesh counted of the requests to each workload, of another namespace too, since the test began.
fn mesh(namespace: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, begin) = (listener.local_addr().unwrap().port(), backstop::world::clock::instant());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { continue };
            let sent = begin.elapsed().as_secs() * 50;
            let series = |workload: &str, space: &str, bad: u64| {
                let labels = format!("destination_workload=\"{workload}\",destination_namespace=\"{space}\",namespace=\"mesh\"");
                format!("requests_total{{{labels}}} {sent}\nerrors_total{{{labels}}} {bad}\n")
            };
            let text = [
                series("checkout", namespace, 0),
                series("checkout-candidate", namespace, sent / 2),
                // Somebody else's service of the same name fails all the time.
                series("checkout", "elsewhere", sent),
            ];
            let text = text.concat();
            let _ = connection.set_read_timeout(Some(std::time::Duration::from_secs(1)));
            let _ = std::io::Read::read(&mut connection, &mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\ncontent-length: {}",
                text.len()
            );
            let _ = std::io::Write::write_all(&mut connection, format!("{head}\r\n\r\n{text}").as_bytes());
        }
    });
    port
}

#[test]
fn a_mesh_tells_what_the_candidate_breaks() {
    needs_cluster!("a_mesh_tells_what_the_candidate_breaks");
    let (day, _gateway) = Day::canary("meshed", 2);
    let source = json!({
        "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardSource", "metadata": {"name": "mesh"},
        "spec": {"scrape": {"urls": [format!("http://127.0.0.1:{}/", mesh(day.namespace))], "every": "500ms"}},
    });
    day.house.cluster.apply(&source.to_string());
    let by = json!({"workload": {"label": "destination_workload", "namespace": "destination_namespace"}});
    let patch = json!({"spec": {"source": "mesh", "arms": {"by": by}}}).to_string();
    day.kubectl(&["patch", "gro", "checkout", "--type=merge", "--patch", &patch]);
    let _controller = day.settled();
    day.set_image(&day.house.cluster.admin(), &day.house.v2).unwrap();
    day.until("it breaches", || day.status()["message"].as_str().is_some_and(|message| message.contains("the candidate breaks")));
    day.until("back", || day.is_back());
    day.until("at an end", || ["Recovering", "Reverted"].contains(&day.phase().as_str()));
}

#[test]
fn the_token_of_a_source_is_renewed_while_it_is_asked() {
    needs_cluster!("the_token_of_a_source_is_renewed_while_it_is_asked");
    let day = Day::open("renewed");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Which tokens were shown.
    let shown: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let noted = Arc::clone(&shown);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { continue };
            let _ = connection.set_read_timeout(Some(std::time::Duration::from_secs(1)));
            let mut request = [0; 4096];
            let length = std::io::Read::read(&mut connection, &mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let token = request.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or_default();
            noted.lock().unwrap().insert(token.to_owned());
            let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = std::io::Write::write_all(&mut connection, answer);
        }
    });
    let secret = |token: &str| {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "metrics", "namespace": "backstop-system"}, "stringData": {"token": token},
        });
        day.house.cluster.apply(&secret.to_string());
    };
    secret("before");
    let source = json!({
        "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardSource", "metadata": {"name": "metrics"},
        "spec": {"scrape": {
            "urls": [format!("http://127.0.0.1:{port}/")], "every": "500ms", "auth": {"bearer": {"tokenFile": "metrics/token"}},
        }},
    });
    day.house.cluster.apply(&source.to_string());
    day.kubectl(&["patch", "gro", "checkout", "--type=merge", "--patch", r#"{"spec":{"source":"metrics"}}"#]);
    let _controller = day.on_trial();
    let is_shown = |token: &str| shown.lock().unwrap().contains(token);
    day.until("the first is shown", || is_shown("before"));
    secret("after");
    day.until("the second is shown", || is_shown("after"));
}

#[test]
fn sixty_sources_hang_beside_one_breach() {
    needs_cluster!("sixty_sources_hang_beside_one_breach");
    let day = Day::open("hanging");
    // Whoever connects waits for ever.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut documents = Vec::new();
    for number in 0..60 {
        let name = format!("hanging-{number}");
        let source = json!({
            "apiVersion": "backstop.dev/v1alpha1", "kind": "GuardSource", "metadata": {"name": name},
            "spec": {"prometheus": {"url": format!("http://127.0.0.1:{port}"), "scrapeInterval": "1s"}},
        });
        let mut guard = replica::guard(day.namespace, &name);
        guard["spec"]["source"] = json!(name);
        let workload = day.workload().replace("checkout", &name).replace("replicas: 2", "replicas: 1");
        // The repository of the image keeps its name.
        let workload = workload.replace(&format!("store/{name}"), "store/checkout");
        documents.push(format!("{source}\n---\n{guard}\n---\n{workload}"));
    }
    day.house.cluster.apply(&documents.join("\n---\n"));
    let _controller = day.settled();
    let guards = || day.object(&format!("/apis/backstop.dev/v1alpha1/namespaces/{}/guardedrollouts", day.namespace))["items"].clone();
    let in_phase = |phase: &str| guards().as_array().map_or(0, |all| all.iter().filter(|one| one["status"]["phase"] == phase).count());
    day.until("all are found", || in_phase("Idle") == 61);
    let change = format!("main={}", day.house.v2);
    day.kubectl(&["set", "image", "deployment", "--selector=app!=checkout", &change]);
    day.until("sixty are judged by what hangs", || in_phase("Watching") == 60);
    std::thread::sleep(std::time::Duration::from_secs(5));
    let begin = backstop::world::clock::instant();
    day.deploy_crashing(&day.house.v3);
    day.until("restored", || day.image() == day.house.v1);
    println!("beside sixty sources that hang the template is back after {:?}", begin.elapsed());
    day.until_reverted();
    assert_eq!(in_phase("Watching"), 60, "the others wait");
}
