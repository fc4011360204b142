//! Logging in, without telling anybody else.

use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse as _, Redirect, Response};
use backstop::core::spec::Artifacts;
use backstop::world::evidence::Evidence;
use backstop::world::registry::{Collector, Credentials, Login, Patience};

use super::fake::{Ask, Fake, status};
use super::{ALL, codes, decide, everything, key_policy};

/// base64 of `robot:secret`.
const BASIC: &str = "Basic cm9ib3Q6c2VjcmV0";

async fn collect(fake: &Fake, credentials: Credentials) -> Evidence {
    Collector::new(credentials, Patience::default()).unwrap().collect(&fake.image, &Artifacts::Registry {}).await
}

fn login(fake: &Fake) -> Credentials {
    Credentials::default().with(&fake.host, Login { name: "robot".to_owned(), password: "secret".to_owned() })
}

fn challenge(text: &str) -> Response {
    let mut response = status(401);
    response.headers_mut().insert(WWW_AUTHENTICATE, text.parse().unwrap());
    response
}

fn basic(ask: &Ask) -> Option<Response> {
    (ask.authorization != BASIC).then(|| challenge("Basic realm=\"registry\""))
}

#[tokio::test]
async fn a_name_and_a_password_open_a_registry_and_their_lack_is_no_absence() {
    let fake = Fake::start(&everything(), basic).await;
    let policy = key_policy(&fake.key, &ALL);
    assert_eq!(decide(&policy, &collect(&fake, login(&fake)).await), Ok(()));
    assert_eq!(codes(&policy, &collect(&fake, Credentials::default()).await), ["BS042"]);
    let elsewhere = Credentials::default().with("registry.example", Login { name: "robot".to_owned(), password: "secret".to_owned() });
    let evidence = collect(&fake, elsewhere).await;
    assert_eq!(codes(&policy, &evidence), ["BS042"], "a login is for its own host only");
    assert!(!evidence.incomplete.unwrap().contains("secret"));
}

#[tokio::test]
async fn a_token_is_asked_for_and_used() {
    let listener = Fake::start(&everything(), |ask| {
        (ask.path == "/token").then(|| {
            if ask.authorization == BASIC { axum::Json(serde_json::json!({"token": "let-me-in"})).into_response() } else { status(401) }
        })
    })
    .await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"registry\"", listener.host);
    let fake = Fake::start(&everything(), move |ask| (ask.authorization != "Bearer let-me-in").then(|| challenge(&realm))).await;
    let policy = key_policy(&fake.key, &ALL);
    assert_eq!(decide(&policy, &collect(&fake, login(&fake)).await), Ok(()));
    let refused = collect(&fake, Credentials::default()).await;
    assert_eq!(codes(&policy, &refused), ["BS042"]);
    assert!(refused.incomplete.unwrap().contains("access denied"));
}

#[tokio::test]
async fn a_broken_token_server_is_an_outage() {
    let broken = Fake::start(&everything(), |ask| (ask.path == "/token").then(|| status(503))).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"registry\"", broken.host);
    let fake = Fake::start(&everything(), move |_| Some(challenge(&realm))).await;
    let why = collect(&fake, login(&fake)).await.incomplete.unwrap();
    assert!(why.contains("unavailable") && why.contains("503"), "{why}");
}

#[tokio::test]
async fn a_blob_kept_elsewhere_is_fetched_there_without_the_password() {
    let honest = Fake::start(&everything(), |ask| (!ask.authorization.is_empty()).then(|| status(500))).await;
    let elsewhere = honest.host.clone();
    // The same files and so the same image; all that is attached is on the other host.
    let fake = Fake::start(&everything(), move |ask| {
        let asked = basic(ask);
        let kept = ask.path.contains("/blobs/") || ask.path.contains("/referrers/") || ask.path.contains("/manifests/sha256:");
        asked.or_else(|| kept.then(|| Redirect::temporary(&format!("http://{elsewhere}{}", ask.path)).into_response()))
    })
    .await;
    let evidence = collect(&fake, login(&fake)).await;
    assert_eq!(evidence.incomplete, None);
    assert_eq!(decide(&key_policy(&honest.key, &ALL), &evidence), Ok(()));
}

#[tokio::test]
async fn a_password_is_never_sent_over_plain_http_to_another_machine() {
    let fake = Fake::start(&everything(), |_| Some(challenge("Bearer realm=\"http://192.0.2.1/token\",service=\"registry\""))).await;
    let why = collect(&fake, login(&fake)).await.incomplete.unwrap();
    assert!(why.contains("not encrypted"), "{why}");
}

#[tokio::test]
async fn logins_are_read_from_a_docker_config() {
    let fake = Fake::start(&everything(), basic).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, format!(r#"{{"auths":{{"{}":{{"auth":"cm9ib3Q6c2VjcmV0"}},"other.example":{{}}}}}}"#, fake.host)).unwrap();
    let credentials = Credentials::from_docker_config(&path).unwrap();
    assert_eq!(decide(&key_policy(&fake.key, &ALL), &collect(&fake, credentials).await), Ok(()));
    for broken in ["{", r#"{"auths":{"x":{"auth":"*"}}}"#, r#"{"auths":{"x":{"auth":"c2VjcmV0"}}}"#] {
        std::fs::write(&path, broken).unwrap();
        let fault = Credentials::from_docker_config(&path).err().unwrap().to_string();
        assert!(fault.contains("config.json") && !fault.contains("c2VjcmV0"), "{fault}");
    }
}
