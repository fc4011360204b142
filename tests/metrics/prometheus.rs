//! A real Prometheus.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backstop::core::input::{Arm, LookFault, Role};
use backstop::core::spec::{Auth, GuardSource, Prometheus};
use backstop::core::time::Span;
use backstop::world::source::Source;
use tempfile::TempDir;

use super::{Target, exposition, look_until, newest, plan, series};

/// `open sesame`, hashed by bcrypt.
const HASH: &str = "$2b$04$lN.9JgfLhYyNXnWyebGG1.OKanETOQ.FkPOxBXsGbs1Xn.vMhRzTS";

/// The program on PATH or in `$BACKSTOP_TEST_BIN`. Without it the test is skipped, or fails if tests are strict.
fn program() -> Option<PathBuf> {
    let folders = std::env::var_os("BACKSTOP_TEST_BIN").into_iter().chain(std::env::var_os("PATH"));
    let found = folders.flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).map(|folder| folder.join("prometheus"));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("BACKSTOP_TESTS_STRICT").is_none_or(|strict| strict != "1"), "prometheus is missing");
        println!("skipped: prometheus is not installed");
    }
    found
}

/// A process that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(program: &Path, folder: &Path, port: u16) -> Self {
        let child = Command::new(program)
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.config.file={}", folder.join("web.yml").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        Self { child, port }
    }
}

/// Its configuration: basic authentication, and the target scraped each second.
fn configure(target: &Target) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let address = target.url.trim_start_matches("http://").trim_end_matches("/metrics");
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: shop, static_configs: [{{targets: ['{address}']}}]}}]\n"
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    std::fs::write(folder.path().join("web.yml"), format!("basic_auth_users: {{backstop: '{HASH}'}}\n")).unwrap();
    std::fs::write(folder.path().join("password"), "open sesame\n").unwrap();
    folder
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn source(port: u16, password_file: &Path) -> Source {
    let auth = Auth::Basic { username: "backstop".into(), password_file: password_file.display().to_string() };
    let prometheus = Prometheus {
        url: format!("http://127.0.0.1:{port}/"),
        scrape_interval: Span::seconds(1),
        auth: Some(auth),
        headers: [("X-Scope-OrgID".to_owned(), "shop".to_owned())].into(),
        timeout: Some(Span::seconds(5)),
        queries_per_second: 50,
        concurrency: 8,
    };
    Source::open("metrics", &GuardSource { prometheus: Some(prometheus), scrape: None, allowed_namespaces: vec![] }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_counters_come_back_with_true_times_through_an_outage() {
    let Some(program) = program() else { return };
    let target = Target::start(&exposition(100, 5)).await;
    let folder = configure(&target);
    let server = Server::start(&program, folder.path(), free_port());
    let password = folder.path().join("password");
    let source = source(server.port, &password);

    // The first look: whatever is there.
    let first = look_until(&source, &plan(None), |looked| series(looked, Arm::Candidate).len() == 3).await;
    let bad = newest(&first, Arm::Candidate, Role::Bad, "500").unwrap();
    assert!((bad.value - 5.0).abs() < f64::EPSILON);
    assert!((newest(&first, Arm::Candidate, Role::Total, "200").unwrap().value - 95.0).abs() < f64::EPSILON);
    assert!((newest(&first, Arm::Stable, Role::Total, "200").unwrap().value - 1000.0).abs() < f64::EPSILON);
    assert_eq!(series(&first, Arm::Stable).len(), 1, "no bad series of stable, and nothing of r3");
    let labels = &series(&first, Arm::Stable)[0].labels;
    assert!(labels.contains(r#"path="/users/{id},a=b""#) && labels.contains(r#"job="shop""#), "{labels}");
    let age = first.source_now - bad.at;
    assert!((0..3_000).contains(&age), "fresh by the source's own clock: {age} ms");
    assert!((first.source_now - backstop::world::clock::wall().as_millisecond()).abs() < 1_000, "one machine, one clock");

    // What happened since: the increment, at true scrape times a second apart, and nothing twice.
    target.set(&exposition(160, 9));
    let since = look_until(&source, &plan(Some(bad.at)), |looked| {
        newest(looked, Arm::Candidate, Role::Bad, "500").is_some_and(|sample| sample.value > 8.5 && sample.at >= bad.at + 2_000)
    })
    .await;
    let bads = series(&since, Arm::Candidate).iter().find(|series| series.role == Role::Bad).unwrap();
    assert!(bads.samples.iter().all(|sample| sample.at > bad.at));
    assert!(bads.samples.windows(2).all(|pair| (900..1_500).contains(&(pair[1].at - pair[0].at))), "{:?}", bads.samples);
    assert!((newest(&since, Arm::Candidate, Role::Total, "200").unwrap().value - 151.0).abs() < f64::EPSILON);

    // Scalars.
    assert_eq!(source.scalar("vector(42) + 0.5").await, Ok(42.5));
    assert_eq!(source.scalar("scalar(vector(7))").await, Ok(7.0));
    assert!(matches!(source.scalar("nothing_here").await, Err(LookFault::Invalid(_))));
    assert!(matches!(source.scalar("requests_total").await, Err(LookFault::Rejected(_))));
    assert!(matches!(source.scalar("vector(0) / 0").await, Err(LookFault::Invalid(_))));
    let rejected = source.scalar("sum(").await.unwrap_err();
    assert!(matches!(&rejected, LookFault::Rejected(text) if text.contains("parse error")), "{rejected:?}");

    // Rotated credentials are read at the next use.
    std::fs::write(&password, "wrong").unwrap();
    let refused = source.look(&plan(None)).await.fault;
    assert!(matches!(&refused, Some(LookFault::Down(text)) if text.contains("401") && !text.contains("wrong")), "{refused:?}");
    std::fs::write(&password, "open sesame").unwrap();
    assert_eq!(source.look(&plan(None)).await.fault, None);

    // Killed: down, without samples. Restarted: what it kept is read on, after the same point.
    let port = server.port;
    drop(server);
    let down = source.look(&plan(Some(bad.at))).await;
    assert!(matches!(down.fault, Some(LookFault::Down(_))) && down.samples.is_empty(), "{down:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _server = Server::start(&program, folder.path(), port);
    target.set(&exposition(200, 12));
    let again = look_until(&source, &plan(Some(bad.at)), |looked| {
        newest(looked, Arm::Candidate, Role::Bad, "500").is_some_and(|sample| sample.value > 11.5)
    })
    .await;
    let bads = series(&again, Arm::Candidate).iter().find(|series| series.role == Role::Bad).unwrap();
    assert!(bads.samples.iter().any(|sample| (sample.value - 9.0).abs() < f64::EPSILON), "from before the kill: {:?}", bads.samples);
}
