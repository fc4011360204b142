//! A real Prometheus between the host and the judge: it finds the breach, and its own death is neither good nor bad news.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::ledger::Standing;
use backstop::core::preview::View;
use backstop::core::record::Decision;
use backstop::core::state::PhaseKind;

use crate::bed::{self, Server};
use crate::rig::{House, SERVICE, Shape, agent, code, line, none_dropped};

fn prometheus(program: &Path, port: u16, data: &Path, target: std::net::SocketAddr) -> Server {
    Server::start("prometheus", program, port, "/-/ready", |folder, command| {
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\n\
             scrape_configs: [{{job_name: host, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config)?;
        command.arg("--config.file=prometheus.yml").arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Ok(())
    })
}

/// A canary that the Prometheus on `port` sees.
fn judged_by(port: u16) -> Shape {
    let mut shape = Shape::canary();
    shape.source = "edge".into();
    shape.documents = format!(
        "---\napiVersion: backstop.dev/v1alpha1\nkind: GuardSource\nmetadata: {{name: edge}}\n\
         spec: {{prometheus: {{url: \"http://127.0.0.1:{port}\", scrapeInterval: 1s}}}}\n"
    );
    shape
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_asked_for_holds_a_rollout_back_and_lets_it_go_on() {
    let program = bed::require!("prometheus");
    let port = bed::free_port();
    let mut house = House::without_controller(judged_by(port)).await;
    let (data, target) = (house.dir().join("tsdb"), house.host_metrics());
    let _server = tokio::task::block_in_place(|| prometheus(&program, port, &data, target));
    house.start_controller().await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    // Beyond its bound for the next while, by Prometheus' own clock.
    let until = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs() + 25;
    house.reshape(|shape| shape.more = format!("  alsoBreachOn:\n    - {{query: {{promql: 'time()', below: {until}}}}}\n"));
    house.reload().await.expect("the rule is taken");
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("a good one, at a bad time")).await;
    let held = |view: &View| view.waiting.as_ref().is_some_and(|why| why.code() == "BS032" && why.to_string().contains("time()"));
    house.until("held back by what was asked for", Duration::from_secs(24), held).await;
    assert!(!house.decided(Decision::Revert), "{:?}", house.decisions(SERVICE));
    let good = |view: &View| view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&v2);
    house.until("it goes on", Duration::from_mins(1), good).await;
    traffic.stop().await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_the_breach_and_its_own_death_moves_nothing() {
    let program = bed::require!("prometheus");
    let port = bed::free_port();
    let mut shape = judged_by(port);
    shape.strategy = "canary: {candidate: {warmUp: 1s}, steps: [{weight: 50%, bake: 5s, deadline: 2m}]}".into();
    shape.more = "  noData: {page: 4s}\n".into();
    let mut house = House::without_controller(shape).await;
    let (data, target) = (house.dir().join("tsdb"), house.host_metrics());
    let start = || tokio::task::block_in_place(|| prometheus(&program, port, &data, target));
    let mut server = start();
    house.start_controller().await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 200);
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("a good one, and nobody to see it")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.kill();
    house.pages.until("BS026", Duration::from_secs(30)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let view = house.view();
    assert_eq!((view.phase, view.step.as_deref()), (PhaseKind::Advancing, Some("judging")), "{:?}", house.decisions(SERVICE));
    assert!(!house.decided(Decision::Advance) && !house.decided(Decision::Revert));
    assert!(view.observed.contains_key(&v2.id), "traffic stays where it is: {:?}", view.observed);
    drop(server);
    let _server = start();
    let good = |view: &View| view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&v2);
    let view = house.until("v2 is stable after all", Duration::from_mins(1), good).await;
    assert_eq!(line(&view, &v2).standing, Standing::KnownGood);

    let v3 = house.release("v3", &[("ERROR_RATIO", "0.1")]);
    house.deploy(&v3, agent("break it")).await;
    let view = house.until_phase(PhaseKind::Reverted, 60).await;
    assert_eq!((view.stable.as_ref(), code(&view)), (Some(&v2), "BS001"));
    let visits = traffic.stop().await;
    none_dropped(&visits);
    house.end().await;
}
