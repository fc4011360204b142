//! A server that misbehaves in one way per test case.

use std::collections::BTreeMap;
use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use backstop::core::input::{Arm, LookFault, Role};
use backstop::core::judge::signal::{MatchOp, Matcher};
use backstop::core::release::ReleaseId;
use backstop::core::spec::{Auth, GuardSource, Prometheus, Scrape};
use backstop::core::time::Span;
use backstop::core::work::LookPlan;
use backstop::world::source::Source;
use futures::{StreamExt as _, stream};

use super::{plan, series, serve};

/// A Prometheus API whose clock works and whose queries of counters answer as told.
async fn api(answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static) -> String {
    let query = move |form: String| async move {
        let form = reqwest::Url::parse(&format!("http://form/?{form}")).unwrap();
        let form: BTreeMap<String, String> = form.query_pairs().into_owned().collect();
        match form.get("query").map(String::as_str) {
            Some("time()") => json(200, r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000.25,"1700000000.25"]}}"#),
            promql => answer(promql.unwrap_or_default()),
        }
    };
    serve(Router::new().route("/prefix/api/v1/query", post(query))).await
}

fn json(status: u16, body: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, "application/json")], body.to_owned()).into_response()
}

fn spec(url: &str) -> Prometheus {
    Prometheus {
        url: format!("{url}/prefix"),
        scrape_interval: Span::seconds(1),
        auth: None,
        headers: BTreeMap::new(),
        timeout: Some(Span(Duration::from_millis(700))),
        queries_per_second: 1_000,
        concurrency: 8,
    }
}

fn open(spec: Prometheus) -> Source {
    Source::open("metrics", &GuardSource { prometheus: Some(spec), scrape: None, allowed_namespaces: vec![] }).unwrap()
}

/// The fault of a look at such an API; it must come in time and without samples.
async fn fault(answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static) -> LookFault {
    let source = open(spec(&api(answer).await));
    let looked = tokio::time::timeout(Duration::from_secs(3), source.look(&plan(Some(1_699_999_999_000)))).await.expect("no look hangs");
    assert!(looked.samples.is_empty(), "{looked:?}");
    looked.fault.expect("a fault")
}

fn endless(chunk: Vec<u8>, pause: Duration) -> Body {
    Body::from_stream(stream::repeat(chunk).then(move |chunk| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Error>(chunk)
    }))
}

fn matrix(rows: &str) -> Response {
    json(200, &format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{rows}]}}}}"#))
}

fn row(values: &str) -> Response {
    matrix(&format!(r#"{{"metric":{{"__name__":"requests_total","release":"r2"}},{values}}}"#))
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    let error = |status, kind: &str| json(status, &format!(r#"{{"status":"error","errorType":"{kind}","error":"because of {status}"}}"#));
    for status in [400, 422] {
        let fault = fault(move |_| error(status, "bad_data")).await;
        assert_eq!(fault, LookFault::Rejected(format!("because of {status}")));
    }
    for status in [401, 403, 404, 429, 499, 500, 502, 503] {
        let fault = fault(move |_| error(status, "internal")).await;
        assert!(matches!(&fault, LookFault::Down(text) if text.contains(&status.to_string())), "{fault:?}");
    }
    let redirected = fault(|_| (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.1:1/")]).into_response()).await;
    assert!(matches!(&redirected, LookFault::Down(text) if text.contains("redirect")), "{redirected:?}");
    assert_eq!(fault(move |_| error(200, "timeout")).await, LookFault::Down("because of 200".into()));
    assert_eq!(fault(move |_| error(200, "execution")).await, LookFault::Rejected("because of 200".into()));
}

#[tokio::test]
async fn what_never_ends_is_cut() {
    let hang = fault(|_| Response::new(endless(Vec::new(), Duration::from_mins(1)))).await;
    assert!(matches!(&hang, LookFault::Down(text) if text.contains("no whole answer within")), "{hang:?}");
    let drip = fault(|_| Response::new(endless(b" ".to_vec(), Duration::from_millis(50)))).await;
    assert!(matches!(drip, LookFault::Down(_)), "{drip:?}");
    for body in [vec![b' '; 1 << 16], vec![b'x'; 100 << 20]] {
        let large = fault(move |_| Response::new(endless(body.clone(), Duration::ZERO))).await;
        assert!(matches!(large, LookFault::Invalid(_) | LookFault::Down(_)), "{large:?}");
    }
    let announced = fault(|_| Response::new(Body::from(vec![b' '; 9 << 20]))).await;
    assert!(matches!(&announced, LookFault::Invalid(text) if text.contains("8 MiB")), "{announced:?}");
}

#[tokio::test]
async fn what_cannot_be_trusted_is_no_sample() {
    let warned = r#"{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["store x is away","b"]}"#;
    assert_eq!(fault(move |_| json(200, warned)).await, LookFault::Partial("store x is away (and 1 more)".into()));
    let partial = r#"{"status":"success","isPartial":true,"data":{"resultType":"matrix","result":[]}}"#;
    assert!(matches!(fault(move |_| json(200, partial)).await, LookFault::Partial(_)));
    for body in
        ["", "null", "[]", "<html>", r#"{"status":"success"}"#, r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#]
    {
        let fault = fault(move |_| json(200, body)).await;
        assert!(matches!(fault, LookFault::Invalid(_)), "{body}: {fault:?}");
    }
    for values in [
        r#""values":[[1700000000,"NaN"]]"#,
        r#""values":[[1700000000,"+Inf"]]"#,
        r#""values":[[1700000000,"-1"]]"#,
        r#""values":[[1700000000,"many"]]"#,
        r#""values":[[1e300,"1"]]"#,
        r#""values":[[1700000000,"1"],[1700000000,"2"]]"#,
        r#""histograms":[[1700000000,{"count":"1","sum":"1"}]]"#,
    ] {
        let fault = fault(move |_| row(values)).await;
        assert!(matches!(&fault, LookFault::Invalid(text) if text.contains("requests_total")), "{values}: {fault:?}");
    }
}

#[tokio::test]
async fn infos_are_ignored_and_queries_are_as_documented() {
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let url = api(move |promql| {
        heard.lock().unwrap().push(promql.to_owned());
        json(
            200,
            r#"{"status":"success","infos":["might not be a counter"],"data":{"resultType":"matrix","result":
                [{"metric":{"release":"r2"},"values":[[1699999998.5,"1"],[1699999999.5,"3"]]}]}}"#,
        )
    })
    .await;
    let looked = open(spec(&url)).look(&plan(Some(1_699_999_999_000))).await;
    assert_eq!(looked.fault, None);
    assert!((1_700_000_000_250..1_700_000_001_250).contains(&looked.source_now), "the source's clock, not ours: {}", looked.source_now);
    assert_eq!(series(&looked, Arm::Stable), [], "an arm without series is an empty list");
    let roles: Vec<_> =
        series(&looked, Arm::Candidate).iter().map(|series| (series.role, series.samples.len(), series.samples[0].at)).collect();
    assert_eq!(roles, [(Role::Total, 1, 1_699_999_999_500), (Role::Bad, 1, 1_699_999_999_500)], "only what is after `since`");
    let mut asked = asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked.len(), 2, "one query per selector, both arms in it: {asked:?}");
    assert!(asked[0].starts_with(r#"requests_total{code=~"5..",release=~"r1|r2"}[1"#) && asked[0].ends_with("ms]"), "{asked:?}");
    assert!(asked[1].starts_with(r#"requests_total{release=~"r1|r2"}[1"#), "{asked:?}");
}

/// A look of a rollout of its own, told apart by `job` and releases.
fn rollout(index: usize) -> LookPlan {
    let mut plan = plan(Some(1_699_999_999_000));
    for selector in std::sync::Arc::make_mut(&mut plan.signals).values_mut().flat_map(|signal| signal.counters.values_mut()) {
        selector.matchers.push(Matcher { label: "job".into(), op: MatchOp::Equal, value: format!("j{index}") });
    }
    plan.arms =
        BTreeMap::from([(Arm::Candidate, ReleaseId(format!("new{index}").into())), (Arm::Stable, ReleaseId(format!("old{index}").into()))]);
    plan
}

#[tokio::test]
async fn looks_of_many_rollouts_share_queries_and_keep_their_own_rows() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Everything of everybody, whatever is asked: each look must pick its own. Job j7 is not a number.
    let rows: Vec<String> = (0..300)
        .flat_map(|index| [("new", index + 1000), ("old", index), ("stray", 1)].map(|(age, value)| (index, age, value)))
        .map(|(index, age, value)| {
            let value = if index == 7 { "NaN".to_owned() } else { value.to_string() };
            format!(r#"{{"metric":{{"job":"j{index}","release":"{age}{index}"}},"values":[[1699999999.5,"{value}"]]}}"#)
        })
        .chain([r#"{"metric":{"job":"j1","release":"new2"},"values":[[1699999999.5,"5"]]}"#.to_owned()])
        .collect();
    let all = rows.join(",");
    let url = api(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        matrix(&all)
    })
    .await;
    let source = open(Prometheus { queries_per_second: 10, timeout: Some(Span::seconds(5)), ..spec(&url) });
    let plans: Vec<_> = (0..300).map(rollout).collect();
    let looks = futures::future::join_all(plans.iter().map(|plan| source.look(plan))).await;
    for (index, looked) in looks.iter().enumerate().filter(|(index, _)| *index != 7) {
        assert_eq!(looked.fault, None, "{index}");
        let values = |arm| series(looked, arm).iter().map(|series| series.samples[0].value).collect::<Vec<_>>();
        let number = f64::from(u32::try_from(index).unwrap());
        assert_eq!((values(Arm::Candidate), values(Arm::Stable)), (vec![number + 1000.0; 2], vec![number; 2]), "{index}");
    }
    assert!(matches!(looks[7].fault, Some(LookFault::Invalid(_))), "bad samples are their own rollout's alone");
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked <= 8, "{asked} queries for 300 looks at two counters");
}

#[tokio::test]
async fn a_cancelled_look_does_not_take_others_along() {
    let url = api(|_| row(r#""values":[[1699999999.5,"1"]]"#)).await;
    let source = open(Prometheus { queries_per_second: 4, timeout: Some(Span::seconds(3)), ..spec(&url) });
    // The clock and three queries use the burst up, so that the next batch waits 250 ms.
    let _ = source.scalar("time()").await;
    let _ = source.look(&plan(None)).await;
    let plan = plan(Some(1_699_999_999_000));
    let cancelled = tokio::time::timeout(Duration::from_millis(50), source.look(&plan));
    let (cancelled, kept) = tokio::join!(cancelled, source.look(&plan));
    assert!(cancelled.is_err(), "given up while it waited");
    assert_eq!(kept.fault, None);
    assert_eq!(series(&kept, Arm::Candidate).len(), 2);
}

#[tokio::test]
async fn nobody_there_is_down() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = open(spec(&format!("http://{free}"))).look(&plan(None)).await;
    assert!(matches!(&refused.fault, Some(LookFault::Down(text)) if text.contains("refused")), "{refused:?}");
    let auth = Some(Auth::Bearer { token_file: "/nowhere/token".into() });
    let unread = open(Prometheus { auth, ..spec(&format!("http://{free}")) }).look(&plan(None)).await;
    assert!(matches!(&unread.fault, Some(LookFault::Down(text)) if text.contains("/nowhere/token")), "{unread:?}");
}

#[tokio::test]
async fn a_hanging_source_keeps_its_limits() {
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (Arc::clone(&under_way), Arc::clone(&most));
    let hang = move || {
        let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            json(200, r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#)
        }
    };
    let url = serve(Router::new().route("/prefix/api/v1/query", post(hang))).await;
    let source = open(Prometheus { concurrency: 2, ..spec(&url) });
    let answers = futures::future::join_all((0..10).map(|_| source.scalar("1"))).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 4, "two rounds of two fit into 700 ms: {answers:?}");
    let late = answers.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(&late, LookFault::Down(text) if text.contains("concurrency") || text.contains("within")), "{late:?}");

    let source = open(Prometheus { queries_per_second: 3, timeout: Some(Span(Duration::from_millis(400))), ..spec(&url) });
    let answers = futures::future::join_all((0..6).map(|_| source.scalar("1"))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3, "a burst of one second's worth: {answers:?}");
    assert!(answers.iter().any(|answer| matches!(answer, Err(LookFault::Down(text)) if text.contains("3 per second"))), "{answers:?}");
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "s3cret\n").unwrap();
    let url = api(|_| json(401, "{}")).await;
    let auth = Some(Auth::Bearer { token_file: token_file.display().to_string() });
    let headers = BTreeMap::from([("X-Key".to_owned(), "s3cret".to_owned())]);
    let source = open(Prometheus { auth, headers, ..spec(&url) });
    let looked = source.look(&plan(None)).await;
    assert!(matches!(looked.fault, Some(LookFault::Down(_))));
    assert!(!format!("{looked:?} {source:?}").contains("s3cret"));
    std::fs::write(&token_file, "s3\ncret").unwrap();
    let looked = source.look(&plan(None)).await;
    assert!(
        matches!(&looked.fault, Some(LookFault::Down(text)) if !text.contains("cret\"") && text.contains("cannot be sent")),
        "{looked:?}"
    );
    let inside = spec("http://user:s3cret@127.0.0.1:1");
    let refused = Source::open("m", &GuardSource { prometheus: Some(inside), scrape: None, allowed_namespaces: vec![] }).unwrap_err();
    assert!(!refused.to_string().contains("s3cret"), "{refused}");
}

#[tokio::test]
async fn scraped_endpoints_may_misbehave_too() {
    let router = Router::new()
        .route("/hang", get(|| async { Response::new(endless(Vec::new(), Duration::from_mins(1))) }))
        .route("/drip", get(|| async { Response::new(endless(b"# x\n".to_vec(), Duration::from_millis(20))) }))
        .route("/endless", get(|| async { Response::new(endless(vec![b'#'; 1 << 16], Duration::ZERO)) }))
        .route("/large", get(|| async { Response::new(Body::from(vec![b'#'; 9 << 20])) }))
        .route("/moved", get(|| async { (StatusCode::FOUND, [(header::LOCATION, "/large")]).into_response() }))
        .route("/away", get(|| async { StatusCode::SERVICE_UNAVAILABLE.into_response() }))
        .route("/page", get(|| async { axum::response::Html("<p>sign in").into_response() }))
        .route("/nan", get(|| async { "requests_total{release=\"r2\"} NaN\n".into_response() }))
        .route(
            "/cut",
            get(|| async {
                ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0")], "requests_total{release=\"r2\"} 1\n")
                    .into_response()
            }),
        );
    let url = serve(router).await;
    for (path, is_down, part) in [
        ("hang", true, "no whole answer within"),
        ("drip", true, "no whole answer within"),
        ("endless", false, "8 MiB"),
        ("large", false, "8 MiB"),
        ("moved", true, "redirects are not followed"),
        ("away", true, "503"),
        ("page", false, "text/html"),
        ("nan", false, "line 1: `requests_total` has the value NaN"),
        ("cut", false, "# EOF"),
    ] {
        let scrape = Scrape { urls: vec![format!("{url}/{path}")], pods: None, every: Span(Duration::from_millis(400)), auth: None };
        let source = Source::open("metrics", &GuardSource { prometheus: None, scrape: Some(scrape), allowed_namespaces: vec![] }).unwrap();
        let looked = source.look(&plan(None)).await;
        let (down, text) = match &looked.fault {
            Some(LookFault::Down(text)) => (true, text),
            Some(LookFault::Invalid(text)) => (false, text),
            other => panic!("{path}: {other:?}"),
        };
        assert!(down == is_down && text.contains(part) && looked.samples.is_empty(), "{path}: {text}");
    }
}
