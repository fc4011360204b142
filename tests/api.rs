//! The API over real connections: who may do what, what is answered, what is streamed.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::time::Duration;

use backstop::api::wire::{Claims, Command, Deploy, Freeze, FreezeScope, Frozen, Line, Reply, Rollouts, Standing};
use backstop::cli::client::{Client, Failure};
use backstop::core::actor::ActorKind;
use backstop::core::input::{Parts, Verb};
use backstop::core::state::PhaseKind;
use fake::{Fake, KEY, on_trial, release, resting, serving};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ROLLOUT: &str = "/v1/rollouts/shop/checkout";

async fn fake(socket_kind: &str) -> (Fake, Client) {
    let fake = Fake::start(resting(), serving(), socket_kind).await;
    let client = Client::unix(fake.socket());
    (fake, client)
}

fn command(verb: Verb) -> Command {
    Command { verb, claims: Claims { rationale: Some("INC-42".into()), ..Claims::default() } }
}

fn revert() -> Verb {
    Verb::Revert { to: None, parts: Parts::All, break_glass: false }
}

async fn say(client: &Client, verb: Verb) -> Result<Reply, Failure> {
    client.post(&format!("{ROLLOUT}/command"), &command(verb)).await
}

#[track_caller]
fn status(result: Result<Reply, Failure>) -> (u16, Option<String>) {
    match result {
        Err(Failure::Problem { status, code, .. }) => (status.as_u16(), code),
        other => panic!("expected a problem, got {other:?}"),
    }
}

/// What a request over loopback gets, with its body as JSON.
async fn http(fake: &Fake, method: &str, path: &str, token: Option<&str>, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
    let request = reqwest::Client::new().request(method.parse().unwrap(), format!("{}{path}", fake.url)).body(body);
    let request = token.iter().fold(request, reqwest::RequestBuilder::bearer_auth);
    let response = request.send().await.unwrap();
    let (status, kind) = (response.status(), response.headers().get("content-type").cloned());
    let text = response.text().await.unwrap();
    if status.is_client_error() {
        assert_eq!(kind.unwrap(), "application/problem+json", "{text}");
    }
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_deploys_and_a_person_reverts() {
    let (fake, person) = fake("human").await;
    let body = Deploy {
        template: (*release("v43").template).clone(),
        label: Some("v43".into()),
        claims: Claims {
            actor: Some("agent:release-bot@1.4".into()),
            model: Some("example-model-2".into()),
            rationale: Some("bump the tax table".into()),
            ..Claims::default()
        },
    };
    let (status, reply) = http(&fake, "POST", &format!("{ROLLOUT}/deploy"), Some("bot-token"), serde_json::to_vec(&body).unwrap()).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{reply}");
    let at: Standing = person.get(ROLLOUT).await.unwrap();
    let request = at.view.request.clone().unwrap();
    assert_eq!(at.view.candidate.as_ref().unwrap().label.as_deref(), Some("v43"));
    assert_eq!(request.actor.kind, ActorKind::Agent);
    assert_eq!(request.actor.agent_id.as_deref(), Some("release-bot"));
    assert_eq!(request.actor.agent_version.as_deref(), Some("1.4"));
    assert_eq!((request.actor.principal.as_str(), request.token_scope_id.as_deref()), ("token:release", Some("release")));
    assert_eq!(request.rationale.as_deref(), Some("bump the tax table"));
    assert_eq!(reply["request"], json!(request.id));
    // The same again is no other attempt.
    let (status, reply) = http(&fake, "POST", &format!("{ROLLOUT}/deploy"), Some("bot-token"), serde_json::to_vec(&body).unwrap()).await;
    assert_eq!((status, &reply["code"]), (StatusCode::OK, &json!("BS057")));

    let mut lines = person.lines(&format!("{ROLLOUT}/events")).await.unwrap();
    let advancing = async {
        loop {
            if let Some(Line::Standing(at)) = lines.next().await.unwrap()
                && at.view.phase == PhaseKind::Advancing
            {
                break;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), advancing).await.unwrap();
    let reply = say(&person, revert()).await.unwrap();
    let id = reply.revert.unwrap();
    let (mut recorded, mut reverted) = (false, None);
    let all = async {
        while reverted.is_none() {
            match lines.next().await.unwrap().unwrap() {
                Line::Record(record) => recorded |= record.result.starts_with("rv-") && record.resource_target == KEY,
                Line::Standing(at) if at.view.phase == PhaseKind::Reverted => reverted = at.view.revert,
                Line::Standing(_) => {}
                Line::Missed(_) => panic!("records were missed"),
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), all).await.unwrap();
    let reverted = reverted.unwrap();
    assert!(recorded);
    assert_eq!(reverted.id, id);
    assert!(reverted.by_person() && reverted.traffic_back.is_some() && reverted.flags_safe.is_some());
    // Asked again, it is the same revert.
    assert_eq!(say(&person, revert()).await.unwrap().revert, Some(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_unknown_may_stop_things_and_nothing_else() {
    let (_fake, nobody) = fake("unknown").await;
    assert_eq!(say(&nobody, Verb::Pause).await.unwrap().code, "BS090");
    assert_eq!(say(&nobody, Verb::Freeze).await.unwrap().code, "BS090");
    let freeze = Freeze { scope: FreezeScope::All, claims: Claims::default() };
    assert_eq!(nobody.post::<Frozen>("/v1/freeze", &freeze).await.unwrap().rollouts, 1);
    for verb in [Verb::Resume, Verb::Thaw, Verb::Lift { release: None }, Verb::Promote, Verb::Adopt, Verb::Arm] {
        assert_eq!(status(say(&nobody, verb).await), (403, Some("BS056".into())));
    }
    let deploy = Deploy { template: (*release("v43").template).clone(), label: None, claims: Claims::default() };
    assert_eq!(status(nobody.post(&format!("{ROLLOUT}/deploy"), &deploy).await), (403, Some("BS056".into())));
    let thaw = nobody.post::<Frozen>("/v1/thaw", &freeze).await;
    assert!(matches!(thaw, Err(Failure::Problem { status: StatusCode::FORBIDDEN, .. })), "{thaw:?}");
    // A claim to be a person changes nothing.
    let claims = Claims { actor: Some("human".into()), ..Claims::default() };
    let claimed = nobody.post(&format!("{ROLLOUT}/command"), &Command { verb: Verb::Resume, claims }).await;
    assert_eq!(status(claimed), (403, Some("BS056".into())));
    assert!(say(&nobody, revert()).await.unwrap().revert.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wider_freeze_holds_deployments_back_until_a_person_thaws() {
    let (fake, person) = fake("human").await;
    let shop = Freeze { scope: FreezeScope::Namespace("shop".into()), claims: Claims::default() };
    let other = Freeze { scope: FreezeScope::Namespace("other".into()), claims: Claims::default() };
    assert_eq!(person.post::<Frozen>("/v1/freeze", &other).await.unwrap().rollouts, 0);
    assert_eq!(person.post::<Frozen>("/v1/freeze", &shop).await.unwrap().rollouts, 1);
    let deploy = Deploy { template: (*release("v43").template).clone(), label: None, claims: Claims::default() };
    assert_eq!(status(person.post(&format!("{ROLLOUT}/deploy"), &deploy).await), (409, Some("BS051".into())));
    let body = serde_json::to_vec(&shop).unwrap();
    let (code, problem) = http(&fake, "POST", "/v1/thaw", Some("bot-token"), body).await;
    assert_eq!((code, &problem["code"]), (StatusCode::FORBIDDEN, &json!("BS056")));
    assert_eq!(person.post::<Frozen>("/v1/thaw", &shop).await.unwrap().rollouts, 1);
    assert!(person.post::<Reply>(&format!("{ROLLOUT}/deploy"), &deploy).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_needs_a_token_that_is_known_and_valid() {
    let (fake, _) = fake("human").await;
    for (token, says) in [(None, "token is needed"), (Some("guess"), "not known"), (Some("old-token"), "expired")] {
        let (code, problem) = http(&fake, "GET", "/v1/rollouts", token, "").await;
        assert_eq!(code, StatusCode::UNAUTHORIZED);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    let (code, list) = http(&fake, "GET", "/v1/rollouts", Some("ci-token"), "").await;
    assert_eq!((code, &list["rollouts"][0]["key"]), (StatusCode::OK, &json!(KEY)));
    // Pipelines do not end what people stopped.
    let body = serde_json::to_vec(&command(Verb::Resume)).unwrap();
    let (code, problem) = http(&fake, "POST", &format!("{ROLLOUT}/command"), Some("ci-token"), body).await;
    assert_eq!((code, &problem["code"]), (StatusCode::FORBIDDEN, &json!("BS056")));
    // An agent's credential is that agent's.
    let claims = json!({"verb": "pause", "claims": {"actor": "agent:other@1"}}).to_string();
    let (code, problem) = http(&fake, "POST", &format!("{ROLLOUT}/command"), Some("bot-token"), claims).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(problem["detail"].as_str().unwrap().contains("release-bot"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_is_a_problem_document() {
    let (fake, _) = fake("human").await;
    let path = format!("{ROLLOUT}/command");
    let alice = Some("alice-token");
    let cases: [(&str, &str, Vec<u8>, StatusCode, &str); 9] = [
        ("GET", "/v1/rollouts/shop/cart", vec![], StatusCode::NOT_FOUND, "shop/cart"),
        ("GET", "/v1/nothing", vec![], StatusCode::NOT_FOUND, "/v1/nothing"),
        ("GET", "/v1/rollouts/shop/cart/events", vec![], StatusCode::NOT_FOUND, "shop/cart"),
        ("DELETE", ROLLOUT, vec![], StatusCode::METHOD_NOT_ALLOWED, "DELETE"),
        ("POST", &path, b"{".to_vec(), StatusCode::UNPROCESSABLE_ENTITY, "EOF"),
        ("POST", &path, br#"{"verb": "explode"}"#.to_vec(), StatusCode::UNPROCESSABLE_ENTITY, "explode"),
        ("POST", &path, br#"{"verb": "pause", "kind": "human"}"#.to_vec(), StatusCode::UNPROCESSABLE_ENTITY, "kind"),
        ("POST", &path, br#"{"verb": "pause", "claims": {"actor": "robot"}}"#.to_vec(), StatusCode::UNPROCESSABLE_ENTITY, "robot"),
        ("POST", &path, vec![b' '; (1 << 20) + 1], StatusCode::PAYLOAD_TOO_LARGE, "1 MiB"),
    ];
    for (method, path, body, wanted, says) in cases {
        let (code, problem) = http(&fake, method, path, alice, body).await;
        assert_eq!(code, wanted, "{method} {path}: {problem}");
        assert_eq!(problem["status"], json!(wanted.as_u16()));
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    let template = json!({"image": format!("checkout@sha256:{}", "0".repeat(64)), "command": []});
    let (code, problem) = http(&fake, "POST", &format!("{ROLLOUT}/deploy"), alice, json!({"template": template}).to_string()).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["detail"].as_str().unwrap().contains("template.command"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_which_request_and_revert_they_are_about() {
    let fake = Fake::start(on_trial().0, on_trial().1, "human").await;
    let body = serde_json::to_vec(&command(Verb::Revert { to: Some(release("v43").id), parts: Parts::All, break_glass: false })).unwrap();
    let (code, problem) = http(&fake, "POST", &format!("{ROLLOUT}/command"), Some("alice-token"), body).await;
    assert_eq!((code, &problem["code"]), (StatusCode::FORBIDDEN, &json!("BS056")));
    assert!(problem["request"].as_str().unwrap().starts_with("rq-"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_requester_is_bounded_on_the_record_and_in_nobodys_way() {
    let (fake, person) = fake("human").await;
    let path = format!("{ROLLOUT}/command");
    let body = serde_json::to_vec(&command(Verb::Resume)).unwrap();
    let mut answers = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..200 {
        let (code, problem) = http(&fake, "POST", &path, Some("bot-token"), body.clone()).await;
        *answers.entry(code.as_u16()).or_default() += 1;
        if code == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(problem["code"], json!("BS061"), "{problem}");
        }
    }
    // An agent may not resume; of its two hundred attempts a few are looked at, and recorded.
    assert!(answers[&403] <= 60 && answers[&429] >= 140, "{answers:?}");
    let request = reqwest::Client::new().post(format!("{}{path}", fake.url)).bearer_auth("bot-token").body(body.clone());
    let response = request.send().await.unwrap();
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        let after: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=2).contains(&after), "{after}");
    }
    // Its next one that is taken says how many were not.
    let mut lines = person.lines(&format!("{ROLLOUT}/events")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    assert_eq!(http(&fake, "POST", &path, Some("bot-token"), body).await.0, StatusCode::FORBIDDEN);
    let told = async {
        loop {
            if let Some(Line::Record(record)) = lines.next().await.unwrap()
                && let Some(refused) = record.request.and_then(|request| request.refused_before)
            {
                return refused;
            }
        }
    };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(5), told).await.unwrap() >= 1);
    assert!(say(&person, Verb::Freeze).await.is_ok());
    assert!(say(&person, revert()).await.unwrap().revert.is_some());
    for _ in 0..100 {
        let _: Rollouts = person.get("/v1/rollouts").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_numbers_need_no_credential() {
    let (fake, client) = fake("human").await;
    let _: Rollouts = client.get("/v1/rollouts").await.unwrap();
    assert_eq!(http(&fake, "GET", "/healthz", None, "").await.0, StatusCode::OK);
    assert_eq!(http(&fake, "GET", "/readyz", None, "").await.0, StatusCode::OK);
    let (_, text) = http(&fake, "GET", "/metrics", None, "").await;
    let line = r#"backstop_api_requests_total{route="/v1/rollouts",status="200"} 1"#;
    assert!(text.as_str().unwrap().contains(line), "{text}");
    // One task that broke begins again by itself; that all have is not theirs.
    fake.handle.connect("shop/broken".into(), fake::line(1).0);
    assert_eq!(http(&fake, "GET", "/healthz", None, "").await.0, StatusCode::OK);
    fake.handle.connect(fake::KEY.into(), fake::line(1).0);
    assert_eq!(http(&fake, "GET", "/healthz", None, "").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_silent_connections_keep_nobody_out() {
    let (fake, person) = fake("human").await;
    let address = fake.url.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await.unwrap();
        }
        silent.push(stream);
    }
    let within = Duration::from_secs(1);
    let health = tokio::time::timeout(within, http(&fake, "GET", "/healthz", None, "")).await;
    assert_eq!(health.expect("an answer within a second").0, StatusCode::OK);
    let list = tokio::time::timeout(within, http(&fake, "GET", "/v1/rollouts", Some("ci-token"), "")).await;
    assert_eq!(list.expect("an answer within a second").0, StatusCode::OK);
    assert!(say(&person, Verb::Pause).await.is_ok(), "the socket has places of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_door_of_probes_does_not_wait_long_for_a_request() {
    let open = backstop::api::Listener::anywhere("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut silent = TcpStream::connect(open.address().unwrap()).await.unwrap();
    tokio::spawn(backstop::api::serve(open, axum::Router::new(), std::future::pending()));
    let end = tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok(), "it is closed");
}

#[tokio::test]
async fn a_socket_that_somebody_answers_on_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backstop.sock");
    let first = backstop::api::Listener::unix(&path, 0o600).await.unwrap();
    assert_eq!(backstop::api::Listener::unix(&path, 0o600).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    drop(first);
    // One that a dead process left is.
    assert!(backstop::api::Listener::unix(&path, 0o600).await.is_ok());
    assert!(backstop::api::Listener::tcp("0.0.0.0:0".parse().unwrap()).await.is_err());
}
