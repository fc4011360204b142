//! Registries that break, stall and lie. None of it is taken for "unsigned", and none of it for "signed".

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use backstop::core::release::Digest;
use backstop::core::spec::Artifacts;
use backstop::world::publish::Options;
use backstop::world::registry::{Collector, Credentials, Fault, Patience};
use backstop::world::verify::BUNDLE;

use super::fake::{Ask, Fake, broken_off, endless, entry, index, stalled, status};
use super::{ALL, assert_empty, codes, collect, collector, decide, everything, files, key_policy};

const REGISTRY: Artifacts = Artifacts::Registry {};

/// What is refused, and why, when `twist` is in the way of an image that is attested in full.
async fn refused(twist: impl Fn(&Ask) -> Option<Response> + Send + Sync + 'static) -> String {
    let fake = Fake::start(&everything(), twist).await;
    let short = Patience { connect: Duration::from_secs(1), read: Duration::from_millis(300), ..Patience::default() };
    let evidence = Collector::new(Credentials::default(), short).unwrap().collect(&fake.image, &REGISTRY).await;
    let reasons = decide(&key_policy(&fake.key, &ALL), &evidence).unwrap_err();
    assert_eq!(reasons.iter().map(backstop::core::reason::Reason::code).collect::<Vec<_>>(), ["BS042"], "{reasons:?}");
    reasons[0].to_string()
}

#[tokio::test]
async fn an_honest_registry_is_believed() {
    let fake = Fake::start(&everything(), |_| None).await;
    let evidence = collect(&fake.image).await;
    assert_eq!(evidence.incomplete, None);
    assert_eq!(decide(&key_policy(&fake.key, &ALL), &evidence), Ok(()));
    let bare = Fake::start(&Options::default(), |_| None).await;
    assert_eq!(codes(&key_policy(&bare.key, &ALL), &collect(&bare.image).await), ["BS040"], "nothing attached is not an outage");
}

#[tokio::test]
async fn every_failure_is_named_as_what_it_is() {
    for part in ["/manifests/sha256:", "/referrers/", "/blobs/"] {
        for (code, words) in
            [(401, "access denied"), (403, "access denied"), (429, "rate limited"), (500, "unavailable"), (503, "unavailable")]
        {
            let why = refused(move |ask| ask.path.contains(part).then(|| status(code))).await;
            assert!(why.contains(words) && why.contains(&code.to_string()), "{part} {code}: {why}");
        }
        let why = refused(move |ask| ask.path.contains(part).then(|| broken_off(b"{\"schemaVersion\":"))).await;
        assert!(why.contains("cut short"), "{part}: {why}");
        let why = refused(move |ask| ask.path.contains(part).then(|| stalled(b"{"))).await;
        assert!(why.contains("cut short"), "{part}: {why}");
        let why = refused(move |ask| ask.path.contains(part).then(endless)).await;
        assert!(why.contains("has more than"), "{part}: {why}");
    }
    let why = refused(|ask| ask.path.contains("/manifests/sha256:").then(|| "{}".into_response())).await;
    assert!(why.contains("got bytes that hash to"), "{why}");
    let why = refused(|ask| ask.path.contains("/referrers/").then(|| "not json".into_response())).await;
    assert!(why.contains("not an image index"), "{why}");
}

#[tokio::test]
async fn nobody_listening_is_an_outage() {
    let fake = Fake::start(&everything(), |_| None).await;
    let (image, policy) = (fake.image.clone(), key_policy(&fake.key, &ALL));
    drop(fake);
    tokio::task::yield_now().await;
    let reasons = decide(&policy, &collect(&image).await).unwrap_err();
    assert_eq!(reasons[0].code(), "BS042");
    assert!(reasons[0].to_string().contains("cannot connect"), "{}", reasons[0]);
}

#[tokio::test]
async fn a_registry_without_the_list_is_asked_for_the_tag() {
    let honest = Fake::start(&everything(), |_| None).await;
    let entries: serde_json::Value = serde_json::from_slice(&std::fs::read(honest.layout.path().join("index.json")).unwrap()).unwrap();
    let entries = entries["manifests"].as_array().unwrap()[1..].to_vec();
    let layout = honest.layout.path().to_owned();
    // The same files, so the same image; another key, so what is attached is served from the first layout.
    let old = Fake::start(&Options::default(), move |ask| {
        let last = ask.path.rsplit('/').next()?;
        if ask.path.contains("/referrers/") {
            return Some(status(404));
        }
        if ask.path.contains("/manifests/sha256-") {
            let suffixed = ask.path.contains(".sig") || ask.path.contains(".att");
            return Some(if suffixed { status(404) } else { index(&entries).into_response() });
        }
        let digest: Digest = last.parse().ok()?;
        std::fs::read(layout.join("blobs/sha256").join(digest.hex())).ok().map(axum::response::IntoResponse::into_response)
    })
    .await;
    let evidence = collect(&old.image).await;
    assert_eq!(evidence.incomplete, None);
    assert_eq!(decide(&key_policy(&honest.key, &ALL), &evidence), Ok(()));
}

#[tokio::test]
async fn a_tag_that_answers_with_the_image_itself_lists_nothing() {
    let fake = Fake::start(&Options::default(), |_| None).await;
    let manifest = std::fs::read(fake.layout.path().join("blobs/sha256").join(fake.image.digest.hex())).unwrap();
    let odd = Fake::start(&Options::default(), move |ask| {
        let tag = ask.path.contains("/manifests/sha256-") && !ask.path.contains(".sig") && !ask.path.contains(".att");
        tag.then(|| manifest.clone().into_response())
    })
    .await;
    let evidence = collect(&odd.image).await;
    assert_eq!(evidence.incomplete, None);
    assert_eq!(codes(&key_policy(&odd.key, &ALL), &evidence), ["BS040"]);
}

#[tokio::test]
async fn every_page_of_referrers_is_read() {
    let honest = Fake::start(&everything(), |_| None).await;
    let index_json: serde_json::Value = serde_json::from_slice(&std::fs::read(honest.layout.path().join("index.json")).unwrap()).unwrap();
    let entries = index_json["manifests"].as_array().unwrap()[1..].to_vec();
    let layout = honest.layout.path().to_owned();
    let paged = Fake::start(&Options::default(), move |ask| {
        if ask.path.contains("/referrers/") {
            let page: usize = ask.query.strip_prefix("page=").and_then(|page| page.parse().ok()).unwrap_or(0);
            let mut response = index(&entries[page..=page]).into_response();
            if page + 1 < entries.len() {
                let link = format!("<{}?page={}>; rel=\"next\"", ask.path, page + 1);
                response.headers_mut().insert("link", link.parse().ok()?);
            }
            return Some(response);
        }
        let digest: Digest = ask.path.rsplit('/').next()?.parse().ok()?;
        std::fs::read(layout.join("blobs/sha256").join(digest.hex())).ok().map(axum::response::IntoResponse::into_response)
    })
    .await;
    let evidence = collect(&paged.image).await;
    assert_eq!(evidence.incomplete, None);
    assert_eq!(decide(&key_policy(&honest.key, &ALL), &evidence), Ok(()));
}

#[tokio::test]
async fn pages_without_end_or_on_another_host_are_refused() {
    let link = |address: &'static str| {
        move |ask: &Ask| {
            ask.path.contains("/referrers/").then(|| {
                let mut response = index(&[]).into_response();
                response.headers_mut().insert("link", format!("<{address}>; rel=\"next\"").parse().unwrap());
                response
            })
        }
    };
    assert!(refused(link("?again")).await.contains("more than 64 pages"));
    assert!(refused(link("http://127.0.0.2:1/v2/")).await.contains("another host"));
}

#[tokio::test]
async fn ten_thousand_referrers_are_bounded_and_said() {
    let flood = |kind: &'static str| {
        move |ask: &Ask| {
            ask.path.contains("/manifests/sha256-").then(|| {
                let suffixed = ask.path.contains(".sig") || ask.path.contains(".att");
                if suffixed {
                    status(404)
                } else {
                    index(&(0..10_000).map(|n| entry(&n.to_string(), kind)).collect::<Vec<_>>()).into_response()
                }
            })
        }
    };
    let scans = Fake::start(&everything(), flood("application/vnd.example.scan")).await;
    let evidence = collect(&scans.image).await;
    assert_eq!(decide(&key_policy(&scans.key, &ALL), &evidence), Ok(()), "what says that it is something else comes last");
    assert!(evidence.incomplete.unwrap().contains("10003 referrers"));
    assert!(scans.requests.load(Ordering::SeqCst) < 100);

    let lookalikes = Fake::start(&Options::default(), flood(BUNDLE)).await;
    let evidence = collect(&lookalikes.image).await;
    assert_eq!(codes(&key_policy(&lookalikes.key, &ALL), &evidence), ["BS042"], "what was crowded out is not missing");
}

#[tokio::test]
async fn bytes_that_change_after_the_first_answer_are_never_deployed() {
    let fake = Fake::start(&everything(), |ask| {
        let manifest = ask.path.contains("/manifests/sha256:");
        (manifest && ask.number > 20).then(|| r#"{"schemaVersion":2,"config":{},"layers":[]}"#.into_response())
    })
    .await;
    assert_eq!(decide(&key_policy(&fake.key, &ALL), &collect(&fake.image).await), Ok(()));
    fake.requests.store(20, Ordering::SeqCst);
    let content = tempfile::tempdir().unwrap();
    let fault = collector().pull(&fake.image, &REGISTRY, content.path()).await.unwrap_err();
    assert!(matches!(&fault, Fault::Malformed(what) if what.contains("hash to")), "{fault}");
    assert_empty(content.path());
}

#[tokio::test]
async fn a_pull_is_whole_or_not_at_all() {
    type Twist = fn() -> Response;
    let twists: [(Twist, &str); 4] = [
        (|| broken_off(b"some"), "cut short"),
        (endless, "has more than"),
        (|| "other bytes".into_response(), "hash to"),
        (|| status(500), "unavailable"),
    ];
    let config = Digest::of(b"{}");
    for (twist, words) in twists {
        let hex = config.hex().to_owned();
        let layer = move |ask: &Ask| ask.path.contains("/blobs/") && !ask.path.ends_with(&hex);
        let fake = Fake::start(&Options::default(), move |ask| layer(ask).then(twist)).await;
        let content = tempfile::tempdir().unwrap();
        let fault = collector().pull(&fake.image, &REGISTRY, content.path()).await.unwrap_err();
        assert!(fault.to_string().contains(words), "{fault}");
        assert_empty(content.path());
    }
    let fake = Fake::start(&Options::default(), |_| None).await;
    let content = tempfile::tempdir().unwrap();
    let pulled = collector().pull(&fake.image, &REGISTRY, content.path()).await.unwrap();
    assert_eq!((pulled.fetched, pulled.layers.len()), (3, 1));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&pulled.layers[0]).unwrap()));
    let names: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [std::path::Path::new(&files("v1")[0].path)]);

    let asked = fake.requests.load(Ordering::SeqCst);
    assert_eq!(collector().pull(&fake.image, &REGISTRY, content.path()).await.unwrap().fetched, 0);
    assert_eq!(fake.requests.load(Ordering::SeqCst), asked, "nobody is asked for what is there");
    std::fs::write(&pulled.layers[0], b"rotten").unwrap();
    assert_eq!(collector().pull(&fake.image, &REGISTRY, content.path()).await.unwrap().fetched, 1, "what went bad is fetched again");
}

#[tokio::test]
async fn a_layout_folder_that_is_not_there_is_an_outage() {
    let fake = Fake::start(&everything(), |_| None).await;
    let policy = key_policy(&fake.key, &ALL);
    let empty = tempfile::tempdir().unwrap();
    let layout = |path: &std::path::Path| Artifacts::Layout { path: path.display().to_string() };
    assert_eq!(codes(&policy, &collector().collect(&fake.image, &layout(empty.path())).await), ["BS042"]);
    let index = fake.layout.path().join("index.json");
    let sound = std::fs::read(&index).unwrap();
    std::fs::write(&index, "{").unwrap();
    assert_eq!(codes(&policy, &collector().collect(&fake.image, &layout(fake.layout.path())).await), ["BS042"]);
    std::fs::write(&index, sound).unwrap();
    assert_eq!(decide(&policy, &collector().collect(&fake.image, &layout(fake.layout.path())).await), Ok(()));
    let content = tempfile::tempdir().unwrap();
    assert_eq!(collector().pull(&fake.image, &layout(fake.layout.path()), content.path()).await.unwrap().fetched, 3);
}
