//! A source of metrics that fails when it is told to: it speaks as much of Prometheus' API as looks need.
//!
//! Every pod of `service-N` serves [`RATE`] requests a second and is scraped once per interval. From the instant at which a
//! service flips, every request of its candidate fails. What is answered depends on names and time alone, so nothing is kept
//! but who was answered when.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use backstop::world::clock;
use serde_json::{Value, json};

/// Requests that each pod serves in a second.
const RATE: i64 = 20;

/// The source, for as long as its runtime lives.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) port: u16,
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    interval: i64,
    together: AtomicBool,
    flips: Mutex<BTreeMap<usize, i64>>,
    answered: Mutex<BTreeMap<usize, Vec<i64>>>,
}

impl Source {
    /// Starts one whose pods are scraped every `interval` milliseconds.
    pub(crate) async fn start(interval: i64) -> Self {
        let known = Arc::new(Known { interval, ..Known::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/api/v1/query", post(answer)).with_state(Arc::clone(&known));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, known }
    }

    /// From now on the candidate of service `number` fails.
    pub(crate) fn flip(&self, number: usize) {
        self.known.flips.lock().unwrap_or_else(PoisonError::into_inner).insert(number, clock::wall().as_millisecond());
    }

    /// From now on all services are scraped in the same instants, or each in its own.
    pub(crate) fn scrape_together(&self, together: bool) {
        self.known.together.store(together, Ordering::Relaxed);
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        self.known.flips.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.known.answered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// When samples of a service were handed out last before `before`, in microseconds.
    pub(crate) fn last_answer(&self, number: usize, before: i64) -> Option<i64> {
        let answered = self.known.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.get(&number)?.iter().copied().filter(|at| *at <= before).max()
    }
}

async fn answer(State(known): State<Arc<Known>>, form: String) -> Json<Value> {
    let form: BTreeMap<String, String> = reqwest::Url::parse(&format!("http://form/?{form}")).unwrap().query_pairs().into_owned().collect();
    let query = form.get("query").map_or("", String::as_str);
    let now = clock::wall().as_millisecond();
    if query == "time()" {
        return Json(json!({"status": "success", "data": {"resultType": "scalar", "result": [seconds(now), format!("{}", seconds(now))]}}));
    }
    // Seconds with three decimals.
    let at = form.get("time").and_then(|time| time.replace('.', "").parse().ok()).unwrap_or(now);
    let rows = known.rows(query, at.min(now));
    Json(json!({"status": "success", "data": {"resultType": "matrix", "result": rows}}))
}

fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

/// The value of `label="value"` or `label=~"a|b"` in a query.
fn values<'a>(query: &'a str, label: &str) -> Vec<&'a str> {
    let after =
        [format!(",{label}="), format!("{{{label}=")].iter().find_map(|start| query.split_once(start.as_str())).map(|found| found.1);
    let text = after.and_then(|after| after.trim_start_matches('~').strip_prefix('"')?.split('"').next());
    text.map(|text| text.split('|').collect()).unwrap_or_default()
}

impl Known {
    fn rows(&self, query: &str, at: i64) -> Vec<Value> {
        let metric = query.split('{').next().unwrap_or_default();
        let range: i64 = query.rsplit_once('[').and_then(|(_, range)| range.strip_suffix("ms]")?.parse().ok()).unwrap_or(0);
        let namespace = values(query, "namespace").first().copied().unwrap_or_default().to_owned();
        let flips = self.flips.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rows = Vec::new();
        for pod in values(query, "pod") {
            let pod = pod.replace('\\', "");
            let Some(number) = pod.strip_prefix("service-").and_then(|rest| rest.split('-').next()?.parse::<usize>().ok()) else {
                continue;
            };
            let flip = flips.get(&number).filter(|_| pod.contains("-candidate-"));
            let samples = self.samples(metric, number, flip.copied(), at, range);
            rows.push(json!({"metric": {"__name__": metric, "namespace": namespace, "pod": pod}, "values": samples}));
            let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.entry(number).or_default().push(clock::wall().as_microsecond());
        }
        rows
    }

    fn samples(&self, metric: &str, number: usize, flip: Option<i64>, at: i64, range: i64) -> Vec<Value> {
        // Not all at once, unless that is what is measured: each service is scraped at an offset of its own.
        let offset = if self.together.load(Ordering::Relaxed) { 0 } else { i64::try_from(number).unwrap_or(0) * 7919 % self.interval };
        let first = (at - range - offset).div_euclid(self.interval) + 1;
        let last = (at - offset).div_euclid(self.interval);
        let sample = |tick: i64| {
            let time = tick * self.interval + offset;
            // Counters that began on some day.
            let counted = match metric {
                "requests_total" => (time - 1_700_000_000_000) * RATE / 1000,
                _ => flip.map_or(0, |flip| (time - flip).max(0) * RATE / 1000),
            };
            let mut text = String::new();
            let _ = write!(text, "{counted}");
            json!([seconds(time), text])
        };
        (first..=last).map(sample).collect()
    }
}
