//! A breach reaches a rollout through the shipped rules and routes, a real Prometheus and a real Alertmanager.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;
mod fake;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use backstop::api::alerts::receiver::{Receiver, Token};
use backstop::api::alerts::subscription::Subscription;
use backstop::api::alerts::{Alerts, router};
use backstop::core::input::{Alerted, Input};
use backstop::core::spec::{Rule, Trust};
use backstop::shell::handle::{Handle, Message};
use backstop::telemetry::work::{Acted, Asked, Ended, LaneIs, work};
use backstop::telemetry::{Answered, DecisionIs, Metrics, PhaseIs, Stage};
use backstop::world::clock;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

const NAME: &str = "CheckoutBurningBudget";

/// How long the whole way may take on a busy machine; it takes about 3 s on a quiet one.
const PATIENCE: Duration = Duration::from_mins(1);

async fn serve(app: Router) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// A service of which one request in five fails once `broken` says so: each scrape finds 100 more requests.
fn checkout(broken: Arc<AtomicU64>) -> Router {
    let requests = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    Router::new().route(
        "/metrics",
        get(move || async move {
            let failures = failed.fetch_add(20 * broken.load(Ordering::SeqCst), Ordering::SeqCst);
            let all = requests.fetch_add(100, Ordering::SeqCst);
            format!(
                "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {}\nhttp_requests_total{{code=\"503\"}} {failures}\n",
                all - failures
            )
        }),
    )
}

/// What the rollout says of alerts.
fn also_breach_on() -> Vec<Rule> {
    let matchers = ["alertname=\"CheckoutBurningBudget\"", "rollout=\"checkout\"", "burn=\"fast\""];
    serde_json::from_value(json!([{"alert": {"matchers": matchers, "trust": "revert"}}])).unwrap()
}

/// The shipped routes, sent to this port with this token file, and repeated every second for the test's sake.
fn routes(port: u16, token: &std::path::Path) -> String {
    let shipped = fs::read_to_string(bed::repository("alerts/alertmanager.yml")).unwrap();
    let mut config = shipped.clone();
    for (from, to) in [
        ("http://127.0.0.1:7411/".to_owned(), format!("http://127.0.0.1:{port}/")),
        ("/etc/backstop/alertmanager.token".to_owned(), token.display().to_string()),
        ("group_interval: 10s".to_owned(), "group_interval: 1s".to_owned()),
    ] {
        assert!(config.contains(&from), "alerts/alertmanager.yml has no `{from}`");
        config = config.replace(&from, &to);
    }
    config
}

/// Whether the Alertmanager counts a delivery that failed for good.
fn was_refused(alertmanager: u16) -> bool {
    let (_, metrics) = bed::get(alertmanager, "/metrics").unwrap();
    let mut counts = metrics.lines().filter(|line| line.starts_with("alertmanager_notifications_failed_total{integration=\"webhook\""));
    counts.any(|line| !line.ends_with(" 0"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breach_arrives_with_the_right_token_alone() {
    bed::require!("prometheus");
    bed::require!("prometheus-alertmanager");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "a-wrong-token\n").unwrap();

    let (handle, (line, mut queue)) = (Handle::new(), fake::line(16));
    handle.connect(fake::KEY.into(), line);
    let known = folder.path().join("known");
    fs::write(&known, "the-right-token\n").unwrap();
    let receiver = Receiver { name: "edge".into(), token: Token::File(known), alerts: vec![NAME.into()] };
    let alerts = Arc::new(Alerts::new(vec![receiver], handle).unwrap());
    alerts.listen(vec![Subscription::new(fake::KEY, &also_breach_on()).unwrap()]);
    let webhook = serve(router(alerts)).await;

    let broken = Arc::new(AtomicU64::new(0));
    let service = serve(checkout(Arc::clone(&broken))).await;
    let alertmanager = bed::Alertmanager::start(&routes(webhook, &token));
    let mut prometheus = bed::Prometheus::start(&format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]}}\n\
         rule_files: ['{}']\n\
         scrape_configs: [{{job_name: checkout, static_configs: [{{targets: ['127.0.0.1:{service}']}}]}}]\n",
        alertmanager.port,
        bed::repository("alerts/backstop.rules.yml").display()
    ));
    // Healthy traffic first: it is scraped and judged, and no alert fires.
    let ratio = "/api/v1/query?query=rollout:http_requests:error_ratio_rate5m";
    let judged = || bed::get(prometheus.port, ratio).ok().filter(|(_, body)| body.contains("checkout"));
    assert!(bed::eventually(PATIENCE, judged).is_some(), "the rules were never evaluated");
    assert!(!was_refused(alertmanager.port) && queue.is_empty(), "an alert fired in good health");

    broken.store(1, Ordering::SeqCst);
    let breach = clock::instant();
    let refused = || was_refused(alertmanager.port).then_some(());
    assert!(bed::eventually(PATIENCE, refused).is_some(), "the wrong token was never refused\n{}", alertmanager.log());
    eprintln!("first request of Alertmanager {:?} after the breach began", breach.elapsed());
    assert!(alertmanager.log().contains("401"), "{}", alertmanager.log());
    assert!(queue.is_empty(), "an alert came in by a wrong token");

    fs::write(&token, "the-right-token\n").unwrap();
    let begin = clock::instant();
    let first = arrival(&mut queue, |_| true).await;
    eprintln!("the next flush after the token was put right arrived in {:?}", begin.elapsed());
    assert_eq!((first.name.as_str(), first.firing, first.trust), (NAME, true, Trust::Revert));
    assert_eq!(first.fingerprint.len(), 16, "{first:?}");

    // It ends: Prometheus goes, and an operator resolves the alert at the Alertmanager.
    prometheus.kill();
    let ended = clock::wall();
    let labels = json!({"alertname": NAME, "namespace": "shop", "rollout": "checkout", "severity": "page", "burn": "fast"});
    let resolved = json!([{"labels": labels, "startsAt": first.starts_at, "endsAt": ended}]);
    let answer = reqwest::Client::new().post(format!("{}/api/v2/alerts", alertmanager.url())).json(&resolved).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    let last = arrival(&mut queue, |alerted| !alerted.firing).await;
    assert_eq!((&last.fingerprint, last.starts_at), (&first.fingerprint, first.starts_at), "another episode");
}

async fn arrival(queue: &mut mpsc::Receiver<Message>, wanted: impl Fn(&Alerted) -> bool) -> Alerted {
    let search = async {
        loop {
            let message = queue.recv().await.expect("the webhook is there");
            if let Input::Alerted(alerted) = *message.input
                && wanted(&alerted)
            {
                return alerted;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("the alert arrives")
}

#[test]
fn the_shipped_rules_and_routes_are_valid() {
    let (promtool, amtool) = (bed::require!("promtool"), bed::require!("amtool"));
    let path = |name: &str| bed::repository("alerts").join(name).display().to_string();
    bed::run(&promtool, &["check", "rules", &path("backstop.rules.yml")]);
    bed::run(&promtool, &["test", "rules", &path("backstop.rules.test.yml")]);
    bed::run(&amtool, &["check-config", &path("alertmanager.yml")]);

    // Where alerts go: those that name a rollout to backstop and people, others to people.
    let route = |labels: &[&str]| {
        let config = format!("--config.file={}", path("alertmanager.yml"));
        let output = Command::new(&amtool).args(["config", "routes", "test", &config]).args(labels).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(route(&["alertname=CheckoutBurningBudget", "namespace=shop", "rollout=checkout"]), "backstop,people");
    assert_eq!(route(&["alertname=DiskFull"]), "people");
}

/// Names of metrics in a query that begin with backstop's prefix.
fn own_metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    words.filter(|word| word.starts_with("backstop_")).map(str::to_owned).collect()
}

/// Names of the series that a controller shows.
fn shown() -> BTreeSet<String> {
    // A family of labels is shown from its first value on.
    let metrics = Metrics::new();
    metrics.revert.get_or_create(&Stage { stage: "traffic" }).observe(0.0);
    metrics.decisions.get_or_create(&DecisionIs { decision: "revert", reason: "BS001" }).inc();
    metrics.phases.get_or_create(&PhaseIs { phase: "Idle".into() }).set(0);
    metrics.requests.get_or_create(&Answered { route: "/v1/rollouts", status: 200 }).inc();
    work().looks.get_or_create(&Asked { source: "s".into(), outcome: "samples" }).inc();
    work().lane_wait.get_or_create(&LaneIs { lane: "revert" }).observe(0.0);
    work().effects.get_or_create(&Acted { action: "ensureWeights", outcome: "done" }).inc();
    work().commits.get_or_create(&Ended { outcome: "done" }).inc();
    let text = metrics.expose().unwrap();
    let mut names = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        match kind {
            "counter" => drop(names.insert(format!("{name}_total"))),
            "histogram" => names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}"))),
            _ => drop(names.insert(name.to_owned())),
        }
    }
    names
}

#[test]
fn the_controller_s_alerts_fire_when_they_should() {
    let promtool = bed::require!("promtool");
    let path = |name: &str| bed::repository("alerts").join(name).display().to_string();
    bed::run(&promtool, &["check", "rules", &path("controller.rules.yml")]);
    bed::run(&promtool, &["test", "rules", &path("controller.rules.test.yml")]);
}

#[test]
fn rules_dashboard_and_readme_name_the_metrics_that_there_are() {
    let read = |name: &str| fs::read_to_string(bed::repository(name)).unwrap();
    let rules: serde_json::Value = serde_saphyr::from_str(&read("alerts/controller.rules.yml")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&read("alerts/dashboard.json")).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned());
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let drawn: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let there = shown();
    for expression in rules.chain(drawn.iter().cloned()) {
        let named = own_metrics(&expression);
        assert!(!named.is_empty() && named.is_subset(&there), "`{expression}` names what nobody shows: {named:?} of {there:?}");
    }
    // Each is drawn somewhere, and told in the README, which tells no others.
    let whole = |name: &String| ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned();
    let families: BTreeSet<String> = there.iter().map(whole).collect();
    let drawn: BTreeSet<String> = own_metrics(&drawn.join(" ")).iter().map(whole).collect();
    assert_eq!(drawn, families, "the dashboard shows every one");
    let readme = read("README.md");
    let told: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `backstop_")?.split_once('`'))
        .map(|(name, _)| format!("backstop_{name}"))
        .collect();
    assert_eq!(told, families, "the README tells every one");
}

#[test]
fn probes_and_numbers_are_open_and_nothing_else_is() {
    let port = bed::free_port();
    let rollouts = bed::repository("rollouts");
    let server =
        bed::Server::start("backstop", std::path::Path::new(env!("CARGO_BIN_EXE_backstop")), port, "/healthz", |folder, command| {
            command.args(["run", "--probes", &format!("127.0.0.1:{port}"), "--data-dir"]).arg(folder.join("data"));
            command.arg("--specs").args(["canary-process.yaml", "policy.yaml", "sources.yaml"].map(|file| rollouts.join(file)));
            Ok(())
        });
    assert_eq!(bed::get(port, "/readyz").unwrap().0, 200);
    assert_eq!(bed::get(port, "/v1/rollouts").unwrap().0, 404, "no verb is served there");
    let numbers = || bed::get(port, "/metrics").unwrap().1;
    let shows = |line: &str| bed::eventually(PATIENCE, || numbers().contains(line).then_some(())).is_some();
    for line in ["backstop_ready 1", "backstop_queue_depth 0", "backstop_replicas 0"] {
        assert!(shows(line), "{line} in {}", numbers());
    }
    drop(server);
}
