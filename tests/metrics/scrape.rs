//! Endpoints scraped directly.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use backstop::core::input::{Arm, LookFault, Looked, Role};
use backstop::core::spec::{GuardSource, PodEndpoint, Scrape};
use backstop::core::time::Span;
use backstop::core::work::LookPlan;
use backstop::world::scrape::Pods;
use backstop::world::source::Source;

use super::{Target, exposition, look_at_until, look_until, newest, plan, series};

fn open(urls: Vec<String>) -> Result<Source, String> {
    let scrape = Scrape { urls, pods: None, every: Span(Duration::from_millis(200)), auth: None };
    Source::open("metrics", &GuardSource { prometheus: None, scrape: Some(scrape), allowed_namespaces: vec![] })
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn samples_since_the_last_look_with_gaps_but_never_zeros() {
    let target = Target::start(&exposition(100, 5)).await;
    let source = open(vec![target.url.clone()]).unwrap();
    let first = source.look(&plan(None)).await;
    assert_eq!(first.fault, None);
    let bad = newest(&first, Arm::Candidate, Role::Bad, "500").expect("the first look waits for a scrape");
    assert!((bad.value - 5.0).abs() < f64::EPSILON);
    assert_eq!(series(&first, Arm::Candidate).len(), 3);
    assert_eq!(series(&first, Arm::Stable).len(), 1);
    assert!(series(&first, Arm::Stable)[0].labels.contains(r#"path="/users/{id},a=b""#));
    assert!((0..1_000).contains(&(first.source_now - bad.at)));

    // Broken for a while: a gap. Whole again: goes on, nothing twice.
    target.set("requests_total{release=\"r2\",code=\"500\"} NaN\n");
    let broken = look_until(&source, &plan(Some(first.source_now)), |looked| looked.fault.is_some()).await;
    assert!(matches!(&broken.fault, Some(LookFault::Invalid(text)) if text.contains("line 1") && text.contains("NaN")), "{broken:?}");
    target.set(&exposition(150, 8));
    let whole = look_until(&source, &plan(Some(bad.at - 1)), |looked| {
        newest(looked, Arm::Candidate, Role::Bad, "500").is_some_and(|sample| sample.value > 7.5)
    })
    .await;
    let bads = &series(&whole, Arm::Candidate).iter().find(|series| series.role == Role::Bad).unwrap().samples;
    assert!(bads.iter().all(|sample| sample.at >= bad.at && sample.value > 4.5), "{bads:?}");
    assert!(bads.windows(2).all(|pair| pair[0].at < pair[1].at), "{bads:?}");
    assert!(bads.windows(2).any(|pair| pair[1].at - pair[0].at >= 380), "a gap where it was broken: {bads:?}");

    // A series that is gone gets no sample.
    target.set("requests_total{release=\"r1\",code=\"200\"} 1\n");
    let gone = source.look(&plan(Some(whole.source_now))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let gone = source.look(&plan(Some(gone.source_now))).await;
    assert_eq!((gone.fault.clone(), series(&gone, Arm::Candidate).len(), series(&gone, Arm::Stable).len()), (None, 0, 1), "{gone:?}");
    assert!(matches!(source.scalar("1").await, Err(LookFault::Rejected(_))));
}

#[tokio::test]
async fn several_endpoints_stay_distinct_and_fail_alone() {
    let (one, two) = (Target::start(&exposition(100, 5)).await, Target::start(&exposition(50, 2)).await);
    let source = open(vec![one.url.clone(), two.url.clone()]).unwrap();
    let both = source.look(&plan(None)).await;
    assert_eq!(both.fault, None);
    let bads =
        |looked: &_, url: &str| newest(looked, Arm::Candidate, Role::Bad, &format!("scrape_url=\"{url}\"")).map(|sample| sample.value);
    assert_eq!((bads(&both, &one.url), bads(&both, &two.url)), (Some(5.0), Some(2.0)));
    two.set("requests_total{ 1\n");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let since = source.look(&plan(None)).await.source_now;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let half = source.look(&plan(Some(since))).await;
    assert_eq!((half.fault.clone(), bads(&half, &one.url), bads(&half, &two.url)), (None, Some(5.0), None));
    one.set("requests_total{ 1\n");
    let none = look_until(&source, &plan(Some(since + 60_000)), |looked| looked.fault.is_some()).await;
    assert!(matches!(&none.fault, Some(LookFault::Invalid(text)) if text.contains(&one.url) && text.contains(&two.url)), "{none:?}");
}

/// One listener on an address of the loopback for each pod, all on one port, as pods are.
async fn pods(texts: &[&str]) -> (u16, Pods, Vec<Arc<AtomicBool>>) {
    let (mut port, mut pods, mut down) = (0, Pods { namespace: "shop".into(), ..Pods::default() }, Vec::new());
    for (number, text) in (2_u8..).zip(texts) {
        let address = Ipv4Addr::new(127, 0, 0, number);
        let listener = tokio::net::TcpListener::bind((address, port)).await.unwrap();
        port = listener.local_addr().unwrap().port();
        let (text, is_down) = ((*text).to_owned(), Arc::new(AtomicBool::new(false)));
        down.push(Arc::clone(&is_down));
        let answer = move || {
            let status = if is_down.load(Ordering::Relaxed) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            std::future::ready((status, text.clone()))
        };
        let router = axum::Router::new().route("/own", axum::routing::get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        pods.addresses.insert(format!("checkout-{number}"), address.into());
    }
    (port, pods, down)
}

#[tokio::test]
async fn pods_are_scraped_at_their_addresses_under_their_own_names() {
    // What a pod says of its own name counts for nothing: it would be in the other arm.
    let texts = ["requests_total{pod=\"checkout-3\",code=\"500\"} 5\n", "requests_total{code=\"200\",namespace=\"other\"} 900\n", ""];
    let (port, mut there, down) = pods(&texts).await;
    let scrape =
        Scrape { urls: vec![], pods: Some(PodEndpoint { port, path: "/own".into() }), every: Span(Duration::from_millis(500)), auth: None };
    let source = Source::open("pods", &GuardSource { prometheus: None, scrape: Some(scrape), allowed_namespaces: vec![] }).unwrap();
    let mut plan = LookPlan { arm_label: "pod".into(), ..plan(None) };
    plan.members = [(Arm::Candidate, vec!["checkout-2"]), (Arm::Stable, vec!["checkout-3", "checkout-4"])]
        .map(|(arm, names)| (arm, names.into_iter().map(str::to_owned).collect()))
        .into();
    let has = |looked: &Looked, arm| !series(looked, arm).is_empty();
    let first = look_at_until(&source, &plan, &there, |looked| has(looked, Arm::Candidate) && has(looked, Arm::Stable)).await;
    assert_eq!(first.fault, None);
    let (bad, good) = (newest(&first, Arm::Candidate, Role::Bad, "500").unwrap(), newest(&first, Arm::Stable, Role::Total, "200").unwrap());
    assert_eq!((bad.value, good.value), (5.0, 900.0));
    assert!(
        series(&first, Arm::Stable)
            .iter()
            .all(|one| one.labels.contains("pod=\"checkout-3\"") && one.labels.contains("namespace=\"shop\""))
    );

    // One that answers no more is a gap of its own; when none does there is nothing to judge by.
    down[0].store(true, Ordering::Relaxed);
    let later = LookPlan { since: Some(first.source_now + 1_000), ..plan.clone() };
    let half = look_at_until(&source, &later, &there, |looked| has(looked, Arm::Stable)).await;
    assert_eq!((half.fault.clone(), series(&half, Arm::Candidate).len(), series(&half, Arm::Stable).len()), (None, 0, 1), "{half:?}");
    for one in &down {
        one.store(true, Ordering::Relaxed);
    }
    let later = LookPlan { since: Some(half.source_now + 1_000), ..plan.clone() };
    let none = look_at_until(&source, &later, &there, |looked| looked.fault.is_some()).await;
    assert!(matches!(&none.fault, Some(LookFault::Down(text)) if text.contains("127.0.0.2")), "{none:?}");

    // Addresses at which machines keep their credentials are nobody's pod.
    there.addresses = [("checkout-2".to_owned(), Ipv4Addr::new(169, 254, 169, 254).into())].into();
    let nobody = source.look_at(&LookPlan { since: Some(none.source_now), ..plan }, &there).await;
    assert_eq!((nobody.fault.clone(), series(&nobody, Arm::Candidate).len()), (None, 0), "{nobody:?}");
}

#[tokio::test]
async fn sources_that_cannot_work_are_refused() {
    assert!(open(vec![]).unwrap_err().contains("URLs or `pods`"));
    assert!(open(vec!["ftp://127.0.0.1/".into()]).unwrap_err().contains("http://"));
    assert!(open(vec!["http://127.0.0.1/m".into(), "http://127.0.0.1/m".into()]).unwrap_err().contains("twice"));
    let neither = GuardSource { prometheus: None, scrape: None, allowed_namespaces: vec![] };
    assert_eq!(Source::open("m", &neither).unwrap_err().to_string(), "GuardSource `m`: expected exactly one of `prometheus` and `scrape`");
}
