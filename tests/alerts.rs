//! A breach reaches a rollout through the shipped rules and routes, a real Prometheus and a real Alertmanager.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;

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
use backstop::api::alerts::{Alerts, Delivery, router};
use backstop::core::spec::{Rule, Trust};
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

    let (sender, mut queue) = mpsc::channel(16);
    let known = folder.path().join("known");
    fs::write(&known, "the-right-token\n").unwrap();
    let receiver = Receiver { name: "edge".into(), token: Token::File(known), alerts: vec![NAME.into()] };
    let alerts = Arc::new(Alerts::new(vec![receiver], sender).unwrap());
    alerts.listen(vec![Subscription::new("shop/checkout", &also_breach_on()).unwrap()]);
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
    assert_eq!((first.rollout.as_str(), first.alerted.name.as_str()), ("shop/checkout", NAME));
    assert_eq!((first.alerted.firing, first.alerted.trust), (true, Trust::Revert));
    assert_eq!(first.alerted.fingerprint.len(), 16, "{first:?}");

    // It ends: Prometheus goes, and an operator resolves the alert at the Alertmanager.
    prometheus.kill();
    let ended = clock::wall();
    let labels = json!({"alertname": NAME, "namespace": "shop", "rollout": "checkout", "severity": "page", "burn": "fast"});
    let resolved = json!([{"labels": labels, "startsAt": first.alerted.starts_at, "endsAt": ended}]);
    let answer = reqwest::Client::new().post(format!("{}/api/v2/alerts", alertmanager.url())).json(&resolved).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    let last = arrival(&mut queue, |delivery| !delivery.alerted.firing).await;
    assert_eq!(
        (&last.alerted.fingerprint, last.alerted.starts_at),
        (&first.alerted.fingerprint, first.alerted.starts_at),
        "another episode"
    );
}

async fn arrival(queue: &mut mpsc::Receiver<Vec<Delivery>>, wanted: impl Fn(&Delivery) -> bool) -> Delivery {
    let search = async {
        loop {
            let deliveries = queue.recv().await.expect("the webhook is there");
            if let Some(delivery) = deliveries.into_iter().find(|delivery| wanted(delivery)) {
                return delivery;
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
