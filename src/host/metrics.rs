//! What the proxy counts, per workload and release, in the Prometheus text format 0.0.4.
//!
//! The series of a release are born at zero when its arm starts, so that the first failure is an increase and not a
//! new series. One lock per arm makes a scrape see all counters of a request or none of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::core::release::ReleaseId;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the latency buckets in seconds.
pub const BOUNDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Status codes whose series exist from birth: success, and what the proxy itself answers for a release.
const BORN: [u16; 5] = [200, 500, 502, 503, 504];

/// Every series of the host.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    arms: Mutex<BTreeMap<(String, ReleaseId), Arc<ArmMetrics>>>,
    dropped: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

/// The series of one release of one workload.
#[derive(Debug)]
pub(crate) struct ArmMetrics {
    counts: Mutex<Counts>,
    /// Requests under way.
    pub(crate) inflight: AtomicU64,
    /// Starts of a child after its first.
    pub(crate) restarts: AtomicU64,
}

#[derive(Debug, Clone)]
struct Counts {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl ArmMetrics {
    fn new() -> Self {
        let counts = Counts { codes: BORN.map(|code| (code, 0)).into(), buckets: [0; BOUNDS.len() + 1], sum: Duration::ZERO };
        Self { counts: Mutex::new(counts), inflight: AtomicU64::new(0), restarts: AtomicU64::new(0) }
    }

    /// Counts one finished request.
    pub(crate) fn finished(&self, code: u16, took: Duration) {
        let mut counts = lock(&self.counts);
        *counts.codes.entry(code).or_default() += 1;
        let place = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        counts.buckets[place] += 1;
        counts.sum += took;
    }
}

impl Metrics {
    /// The series of `release`, born now unless they exist.
    pub(crate) fn arm(&self, workload: &str, release: &ReleaseId) -> Arc<ArmMetrics> {
        lock(&self.arms).entry((workload.to_owned(), release.clone())).or_insert_with(|| Arc::new(ArmMetrics::new())).clone()
    }

    /// The counter of requests of `workload` that got no answer of any release because of the proxy.
    pub(crate) fn dropped(&self, workload: &str) -> Arc<AtomicU64> {
        lock(&self.dropped).entry(workload.to_owned()).or_default().clone()
    }

    /// Ends the series of `release`.
    pub(crate) fn forget_arm(&self, workload: &str, release: &ReleaseId) {
        lock(&self.arms).remove(&(workload.to_owned(), release.clone()));
    }

    /// Ends every series of `workload`.
    pub(crate) fn forget(&self, workload: &str) {
        lock(&self.arms).retain(|(name, _), _| name != workload);
        lock(&self.dropped).remove(workload);
    }

    /// All series as text.
    pub(crate) fn render(&self) -> String {
        let arms: Vec<_> = lock(&self.arms)
            .iter()
            .map(|((workload, release), arm)| {
                let labels = format!("workload=\"{}\",release=\"{}\"", escape(workload), escape(&release.0));
                (labels, arm.clone(), lock(&arm.counts).clone())
            })
            .collect();
        let mut text = String::new();
        family(&mut text, "backstop_host_requests_total", "counter", "Requests that the proxy finished.");
        for (labels, _, counts) in &arms {
            for (code, count) in &counts.codes {
                let class = code / 100;
                let _ = writeln!(text, "backstop_host_requests_total{{{labels},code=\"{code}\",class=\"{class}xx\"}} {count}");
            }
        }
        let name = "backstop_host_request_duration_seconds";
        family(&mut text, name, "histogram", "Time from the head of a request to the end of its answer.");
        for (labels, _, counts) in &arms {
            histogram(&mut text, name, labels, counts);
        }
        family(&mut text, "backstop_host_inflight", "gauge", "Requests under way.");
        for (labels, arm, _) in &arms {
            let _ = writeln!(text, "backstop_host_inflight{{{labels}}} {}", arm.inflight.load(Ordering::Relaxed));
        }
        family(&mut text, "backstop_host_restarts_total", "counter", "Starts of a child after its first.");
        for (labels, arm, _) in &arms {
            let _ = writeln!(text, "backstop_host_restarts_total{{{labels}}} {}", arm.restarts.load(Ordering::Relaxed));
        }
        family(&mut text, "backstop_host_dropped_total", "counter", "Requests that no release answered, because of the proxy.");
        for (workload, dropped) in lock(&self.dropped).iter() {
            let _ = writeln!(text, "backstop_host_dropped_total{{workload=\"{}\"}} {}", escape(workload), dropped.load(Ordering::Relaxed));
        }
        text
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn histogram(text: &mut String, name: &str, labels: &str, counts: &Counts) {
    let mut sum = 0;
    for (bound, count) in BOUNDS.iter().zip(counts.buckets) {
        sum += count;
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
    }
    sum += counts.buckets[BOUNDS.len()];
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {sum}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}", counts.sum.as_secs_f64());
    let _ = writeln!(text, "{name}_count{{{labels}}} {sum}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The value behind `mutex`; a thread that panicked with it left it whole, since every section here is short and total.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_born_at_zero_and_count_up() {
        let metrics = Metrics::default();
        let arm = metrics.arm("shop/checkout", &ReleaseId("abc".into()));
        metrics.dropped("shop/checkout");
        let born = metrics.render();
        for code in BORN {
            let class = code / 100;
            let line = format!(
                "backstop_host_requests_total{{workload=\"shop/checkout\",release=\"abc\",code=\"{code}\",class=\"{class}xx\"}} 0\n"
            );
            assert!(born.contains(&line), "{born}");
        }
        assert!(born.contains("backstop_host_dropped_total{workload=\"shop/checkout\"} 0\n"));
        arm.finished(200, Duration::from_millis(300));
        arm.finished(503, Duration::from_mins(1));
        let text = metrics.render();
        assert!(text.contains("code=\"503\",class=\"5xx\"} 1\n"), "{text}");
        assert!(text.contains("le=\"0.25\"} 0\n") && text.contains("le=\"0.3\"} 1\n") && text.contains("le=\"10\"} 1\n"), "{text}");
        assert!(text.contains("le=\"+Inf\"} 2\n") && text.contains("_count{workload=\"shop/checkout\",release=\"abc\"} 2\n"));
        metrics.forget("shop/checkout");
        assert!(!metrics.render().contains("abc"));
    }

    #[test]
    fn a_strange_label_cannot_break_the_format() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
