//! `backstop check --live` beside a real Prometheus that scrapes a real service.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

const SOON: Duration = Duration::from_secs(40);
const PROCESS: &str = "{process: {listen: '127.0.0.1:0', artifacts: {registry: {}}}}";

/// A guard whose selectors are these, its source, and the policy that it needs.
fn documents(total: &str, by: &str, workload: &str, url: &str) -> String {
    let policy = fs::read_to_string(bed::repository("rollouts/policy.yaml")).unwrap();
    let drives = workload == PROCESS;
    let strategy = if drives { "{canary: {steps: [{weight: 5%, bake: 2m}]}}" } else { "{observe: {}}" };
    format!(
        "{policy}\n---\napiVersion: backstop.dev/v1alpha1\nkind: GuardSource\nmetadata: {{name: metrics}}\n\
         spec: {{prometheus: {{url: '{url}', scrapeInterval: 1s}}}}\n---\n\
         apiVersion: backstop.dev/v1alpha1\nkind: GuardedRollout\nmetadata: {{name: checkout, namespace: shop}}\nspec:\n  \
         workload: {workload}\n  arms: {{by: {by}}}\n  source: metrics\n  objectives:\n    - name: availability\n      good: 99%\n      \
         ratio: {{bad: 'http_requests_total{{code=\"503\"}}', total: '{total}'}}\n    - name: latency\n      good: 98%\n      \
         histogram: {{metric: http_request_duration_seconds, within: 250ms}}\n  \
         strategy: {strategy}\n  watch: {{for: 30m}}\n  attestation: {{policy: release}}\n"
    )
}

struct Shop {
    metrics: bed::Server,
    service: bed::Server,
    folder: tempfile::TempDir,
}

impl Shop {
    fn open() -> Self {
        let backstop = Path::new(env!("CARGO_BIN_EXE_backstop"));
        let port = bed::free_port();
        let service = bed::Server::start("sample-service", backstop, port, "/healthz", |_, command| {
            command.arg("sample-service").env("PORT", port.to_string()).env("BACKSTOP_RELEASE", "r1");
            Ok(())
        });
        let metrics = bed::Prometheus::start(&format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\n\
             scrape_configs: [{{job_name: shop, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
        ));
        Self { metrics, service, folder: tempfile::tempdir().unwrap() }
    }

    fn check(&self, total: &str, by: &str, workload: &str, arguments: &[&str]) -> Output {
        let file = self.folder.path().join("checkout.yaml");
        fs::write(&file, documents(total, by, workload, &self.metrics.url())).unwrap();
        // The policy's key is beside it.
        for entry in fs::read_dir(bed::repository("rollouts")).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            if entry.path().extension().is_some_and(|extension| extension == "pub") {
                fs::copy(entry.path(), self.folder.path().join(entry.file_name())).unwrap();
            }
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(["check", "--live"]).arg(&file).args(arguments).env("HOME", self.folder.path());
        command.output().unwrap()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_selectors_find_is_told_and_wrong_ones_with_what_there_is_instead() {
    bed::require!("prometheus");
    let shop = Shop::open();
    let label = "{label: release}";
    let good = || {
        bed::get(shop.service.port, "/").unwrap();
        let output = shop.check("http_requests_total{job=\"shop\"}", label, PROCESS, &["--json"]);
        let value: Value = serde_json::from_slice(&output.stdout).ok()?;
        (value["live"][0]["requestsPerMinute"].as_f64()? > 0.0).then_some((output, value))
    };
    let (output, value) = bed::eventually(SOON, good).expect("traffic shows");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let counters = value["live"][0]["counters"].as_array().unwrap();
    let total = counters.iter().find(|one| one["role"] == "total" && one["signal"] == "availability").unwrap();
    assert_eq!(total["arms"], serde_json::json!({"r1": 2}), "the running arm is told: {counters:?}");
    // No request was bad so far: said, and no error.
    let remark = value["findings"].to_string();
    assert!(remark.contains("LN031") && remark.contains("right if no request was bad") && remark.contains("200, 500"), "{remark}");
    let shown = text(&shop.check("http_requests_total{job=\"shop\"}", label, PROCESS, &[]));
    assert!(shown.contains("1 × `release` (r1)") && shown.contains("requests of the candidate take"), "{shown}");
    assert!(shown.contains("never before 3s"), "{shown}");

    let wrong = [
        ("http_request_total", label, "there is no such metric", "http_requests_total"),
        ("http_requests_total{job=\"checkout\"}", label, "`job=\"checkout\"` has no series", "values that there are: shop"),
        ("http_requests_total{service=\"shop\"}", label, "has the label `service`", "labels that it has: code, instance, job, release"),
        ("http_requests_total", "{label: version}", "without the label `version`", "code, instance, job, release"),
    ];
    for (total, by, what, instead) in wrong {
        let output = shop.check(total, by, PROCESS, &[]);
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(1), "{total}: {shown}");
        assert!(shown.contains(what) && shown.contains(instead) && shown.contains("checkout.yaml:"), "{total}: {shown}");
    }
    // In a cluster the namespace is part of every question.
    let output = shop.check("http_requests_total", "pod", "{deployment: {name: checkout}}", &[]);
    let shown = text(&output);
    assert!(output.status.code() == Some(1) && shown.contains("has the label `namespace` (backstop adds it"), "{shown}");

    // What cannot be asked is no answer.
    let nowhere = format!("http://127.0.0.1:{}", bed::free_port());
    let output = shop.check("http_requests_total", label, PROCESS, &["--prometheus", &nowhere]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
}
