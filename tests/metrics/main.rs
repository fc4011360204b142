//! Sources of metrics against real servers: a Prometheus process, a scraped target, and a server that misbehaves.
#![allow(clippy::unwrap_used)] // a test crate outside `#[test]` functions

mod faulty;
mod prometheus;
mod scrape;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use backstop::core::input::{Arm, Looked, Role, Sample, Series, SignalId};
use backstop::core::judge::signal::{MatchOp, Matcher, Selector, Signal};
use backstop::core::release::ReleaseId;
use backstop::core::work::LookPlan;
use backstop::world::scrape::Pods;
use backstop::world::source::Source;
use tokio::net::TcpListener;

/// A look at `requests_total` (bad: `code=~"5.."`) of the candidate `r2` and the stable `r1`.
pub(crate) fn plan(since: Option<i64>) -> LookPlan {
    let code = Matcher { label: "code".into(), op: MatchOp::Regex, value: "5..".into() };
    let selector = |matchers| Selector { metric: "requests_total".into(), matchers };
    let id = SignalId("availability".into());
    let counters = BTreeMap::from([(Role::Total, selector(vec![])), (Role::Bad, selector(vec![code]))]);
    LookPlan {
        source: "metrics".into(),
        signals: std::sync::Arc::new(BTreeMap::from([(id.clone(), Signal { id, objective: "availability".into(), counters })])),
        arm_label: "release".into(),
        arms: BTreeMap::from([(Arm::Candidate, ReleaseId("r2".into())), (Arm::Stable, ReleaseId("r1".into()))]),
        members: BTreeMap::new(),
        since,
    }
}

/// The series of one arm.
pub(crate) fn series(looked: &Looked, arm: Arm) -> &[Series] {
    looked.samples.get(&SignalId("availability".into())).and_then(|arms| arms.get(&arm)).map_or(&[], Vec::as_slice)
}

/// The newest value of the one series whose labels hold `label`.
pub(crate) fn newest(looked: &Looked, arm: Arm, role: Role, label: &str) -> Option<Sample> {
    series(looked, arm).iter().find(|series| series.role == role && series.labels.contains(label))?.samples.last().copied()
}

/// Looks until the answer is as wanted, at most 30 s.
pub(crate) async fn look_until(source: &Source, plan: &LookPlan, wanted: impl Fn(&Looked) -> bool) -> Looked {
    look_at_until(source, plan, &Pods::default(), wanted).await
}

/// The same, of pods.
pub(crate) async fn look_at_until(source: &Source, plan: &LookPlan, pods: &Pods, wanted: impl Fn(&Looked) -> bool) -> Looked {
    let mut looked = source.look_at(plan, pods).await;
    for _ in 0..150 {
        if wanted(&looked) {
            return looked;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        looked = source.look_at(plan, pods).await;
    }
    panic!("30 s have passed; the last answer was {looked:?}");
}

/// An endpoint whose exposition a test can change.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) text: Arc<Mutex<String>>,
}

impl Target {
    pub(crate) async fn start(text: &str) -> Self {
        let shared = Arc::new(Mutex::new(text.to_owned()));
        let router = Router::new()
            .route("/metrics", get(|State(text): State<Arc<Mutex<String>>>| async move { text.lock().unwrap().clone() }))
            .with_state(Arc::clone(&shared));
        Self { url: format!("{}/metrics", serve(router).await), text: shared }
    }

    pub(crate) fn set(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
    }
}

/// Serves on a free loopback port until the test ends.
pub(crate) async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// What the target says with these counts for the candidate.
pub(crate) fn exposition(total: u32, bad: u32) -> String {
    format!(
        "# TYPE requests_total counter\n\
         requests_total{{release=\"r1\",code=\"200\",path=\"/users/{{id}},a=b\"}} 1000\n\
         requests_total{{release=\"r2\",code=\"200\",path=\"/users/{{id}},a=b\"}} {}\n\
         requests_total{{release=\"r2\",code=\"500\",path=\"/users/{{id}},a=b\"}} {bad}\n\
         requests_total{{release=\"r3\",code=\"500\",path=\"/\"}} 7\n",
        total - bad
    )
}
