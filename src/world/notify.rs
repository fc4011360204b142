//! Telling people: one webhook, and the log.
//!
//! A notice is an outbox record: it is sent until the receiver has taken it, so it may arrive twice. `dedupKey` is the
//! same each time; the receiver keeps one. A notice is never in the way of a revert: it has its own client and limits.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url, redirect};
use serde::Serialize;

use crate::core::input::{Observation, Outcome};
use crate::core::reason::Reason;
use crate::core::time::Span;
use crate::core::work::{EffectId, Notice};
use crate::host::chain;

/// How long the receiver may take, connection included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text that is sent; the rest stands in the log and the audit record.
const TEXT_LIMIT: usize = 4096;
/// Largest token file.
const TOKEN_LIMIT: u64 = 16 << 10;
/// Longest wait that a receiver can ask for.
const LONGEST_WAIT: u64 = 300;

/// Where notices go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The receiver. `https`, or `http` on the loopback, so that no token crosses a network in the clear.
    pub url: String,
    /// File that holds the bearer token; read for each notice, so that it can be rotated.
    pub token_file: Option<PathBuf>,
}

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Not a URL of the right sort.
    #[error("the webhook `{0}` must be `https://…`, or `http://…` on the loopback")]
    Url(String),
    /// The client could not be set up.
    #[error("no HTTP client for the webhook")]
    Client(#[source] reqwest::Error),
}

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The workload: `namespace/name`.
    pub workload: &'a str,
    /// The deployment attempt.
    pub generation: u64,
    /// The revert that it belongs to, if any.
    pub revert: Option<&'a str>,
}

/// Sends notices. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier {
    webhook: Option<(Client, Url, Option<PathBuf>)>,
}

/// What is sent: a JSON object with these fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    /// The same for each try: the workload, and the effect that wanted this notice.
    dedup_key: String,
    /// `page` wants somebody to get up, `notice` does not.
    severity: &'static str,
    /// The stable code.
    code: &'static str,
    /// The reason with all it carries.
    reason: &'a Reason,
    text: &'a str,
    workload: &'a str,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revert: Option<&'a str>,
}

impl Notifier {
    /// Sends to this webhook; without one, notices stand in the log alone.
    pub fn new(webhook: Option<Webhook>) -> Result<Self, WebhookError> {
        let Some(webhook) = webhook else { return Ok(Self { webhook: None }) };
        let url = Url::parse(&webhook.url).ok().filter(is_private).ok_or_else(|| WebhookError::Url(webhook.url.clone()))?;
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(WebhookError::Client)?;
        Ok(Self { webhook: Some((client, url, webhook.token_file)) })
    }

    /// Writes the notice to the log and sends it once.
    ///
    /// `Done`: taken (2xx). `Transient`: no connection, 408, 425, 429 (with the receiver's `Retry-After`, at most
    /// 5 minutes) or 5xx. `Unknown`: no answer in time, so it may have arrived. `Denied`: 401, 403, 407, or no
    /// readable token. `Invalid`: any other answer, redirects included.
    pub async fn send(&self, subject: &Subject<'_>, notice: &Notice, id: EffectId) -> Outcome {
        log(subject, notice, id);
        let Some((client, url, token_file)) = &self.webhook else { return done() };
        let message = Message {
            dedup_key: format!("{}/{id}", subject.workload),
            severity: if notice.page { "page" } else { "notice" },
            code: notice.reason.code(),
            reason: &notice.reason,
            text: &notice.text[..notice.text.floor_char_boundary(TEXT_LIMIT)],
            workload: subject.workload,
            generation: subject.generation,
            revert: subject.revert,
        };
        let mut request = client.post(url.clone()).json(&message);
        if let Some(file) = token_file {
            match bearer(file).await {
                Ok(value) => request = request.header(AUTHORIZATION, value),
                Err(what) => return Outcome::Denied(what),
            }
        }
        match request.send().await {
            Ok(response) => answer(&response),
            Err(error) => fault(&error.without_url()),
        }
    }
}

fn done() -> Outcome {
    Outcome::Done { changed: true, observed: Observation::Nothing }
}

fn log(subject: &Subject<'_>, notice: &Notice, id: EffectId) {
    let Subject { workload, generation, revert } = *subject;
    let (code, text) = (notice.reason.code(), notice.text.as_str());
    if notice.page {
        tracing::error!(workload, generation, revert, %id, code, "page: {text}");
    } else {
        tracing::info!(workload, generation, revert, %id, code, "notice: {text}");
    }
}

/// Whether nobody on the way can read along.
fn is_private(url: &Url) -> bool {
    let loopback = || {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    url.username().is_empty() && url.password().is_none() && (url.scheme() == "https" || url.scheme() == "http" && loopback())
}

async fn bearer(file: &Path) -> Result<HeaderValue, String> {
    let path = file.to_owned();
    let read = move || {
        let mut token = String::new();
        std::fs::File::open(path)?.take(TOKEN_LIMIT).read_to_string(&mut token)?;
        Ok::<_, std::io::Error>(token)
    };
    let failed = |why: &dyn std::fmt::Display| format!("the webhook's token file {}: {why}", file.display());
    let token = tokio::task::spawn_blocking(read).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    if token.trim().is_empty() {
        return Err(failed(&"is empty"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| failed(&"holds what no token holds"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn answer(response: &reqwest::Response) -> Outcome {
    let status = response.status();
    let what = format!("the webhook answered {status}");
    match status {
        _ if status.is_success() => done(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => Outcome::Denied(what),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Outcome::Transient { what, retry_after: retry_after(response) }
        }
        _ if status.is_server_error() => Outcome::Transient { what, retry_after: retry_after(response) },
        _ if status.is_redirection() => Outcome::Invalid(what + ", and redirects are not followed: name the final URL"),
        _ => Outcome::Invalid(what),
    }
}

fn retry_after(response: &reqwest::Response) -> Option<Span> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Span::seconds(seconds.min(LONGEST_WAIT)))
}

fn fault(error: &reqwest::Error) -> Outcome {
    // The chain holds what matters, such as "connection refused"; the URL, which may hold a secret, was taken out.
    let what = format!("the webhook cannot be reached: {}", chain(error));
    if error.is_connect() { Outcome::Transient { what, retry_after: None } } else { Outcome::Unknown(what) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::State;
    use axum::http::HeaderMap;
    use axum::response::{IntoResponse, Response};
    use axum::routing::post;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    type Seen = Arc<Mutex<Vec<(Option<String>, Value)>>>;

    async fn receiver(status: u16, headers: &'static [(&'static str, &'static str)]) -> (String, Seen) {
        let seen = Seen::default();
        let take = move |State(seen): State<Seen>, headers_in: HeaderMap, Json(body): Json<Value>| async move {
            let token = headers_in.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            seen.lock().unwrap().push((token, body));
            let mut response: Response = StatusCode::from_u16(status).unwrap().into_response();
            for (name, value) in headers {
                response.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            response
        };
        let app = Router::new().route("/hook", post(take)).with_state(seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (url, seen)
    }

    fn notice(text: &str) -> Notice {
        Notice { page: true, reason: Reason::NoTarget {}, text: text.into() }
    }

    async fn send(url: &str, token_file: Option<PathBuf>, notice: &Notice) -> Outcome {
        let subject = Subject { workload: "shop/checkout", generation: 7, revert: Some("r1") };
        let notifier = Notifier::new(Some(Webhook { url: url.into(), token_file })).unwrap();
        notifier.send(&subject, notice, EffectId { revision: 12, ordinal: 3 }).await
    }

    #[tokio::test]
    async fn a_page_arrives_with_its_key_and_token() {
        let (url, seen) = receiver(202, &[]).await;
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "s3cret\n").unwrap();
        assert_eq!(send(&url, Some(token.clone()), &notice("no target")).await, done());
        std::fs::write(&token, "rotated").unwrap();
        assert_eq!(send(&url, Some(token), &notice(&"é".repeat(4000))).await, done());

        let seen = seen.lock().unwrap();
        assert_eq!(
            seen[0],
            (
                Some("Bearer s3cret".into()),
                json!({"dedupKey": "shop/checkout/12.3", "severity": "page", "code": "BS071", "reason": {"noTarget": {}},
                    "text": "no target", "workload": "shop/checkout", "generation": 7, "revert": "r1"})
            )
        );
        assert_eq!(seen[1].0.as_deref(), Some("Bearer rotated"));
        assert_eq!(seen[1].1["dedupKey"], seen[0].1["dedupKey"]);
        assert_eq!(seen[1].1["text"].as_str().unwrap().len(), TEXT_LIMIT);
    }

    #[tokio::test]
    async fn answers_are_sorted() {
        let retry: &[(&str, &str)] = &[("retry-after", "7")];
        let transient = |what: &str, retry_after| Outcome::Transient { what: what.into(), retry_after };
        for (status, headers, expected) in [
            (429, retry, transient("the webhook answered 429 Too Many Requests", Some(Span::seconds(7)))),
            (503, &[], transient("the webhook answered 503 Service Unavailable", None)),
            (503, &[("retry-after", "999999999")], transient("the webhook answered 503 Service Unavailable", Some(Span::minutes(5)))),
            (401, &[], Outcome::Denied("the webhook answered 401 Unauthorized".into())),
            (400, &[], Outcome::Invalid("the webhook answered 400 Bad Request".into())),
        ] {
            let (url, _) = receiver(status, headers).await;
            assert_eq!(send(&url, None, &notice("x")).await, expected);
        }
        let (url, seen) = receiver(307, &[("location", "/hook")]).await;
        assert!(matches!(send(&url, None, &notice("x")).await, Outcome::Invalid(_)));
        assert_eq!(seen.lock().unwrap().len(), 1, "the redirect was followed");
    }

    #[tokio::test]
    async fn nobody_there_is_tried_again_and_silence_is_unknown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = tokio::spawn(async move {
            let socket = listener.accept().await.unwrap();
            drop(listener);
            tokio::time::sleep(TIMEOUT * 2).await;
            drop(socket);
        });
        let url = format!("http://{address}/x");
        let begin = crate::world::clock::instant();
        let outcome = send(&url, None, &notice("x")).await;
        assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
        assert!(begin.elapsed() < TIMEOUT + Duration::from_secs(2), "waited {:?}", begin.elapsed());
        silent.abort();
        let Outcome::Transient { what, .. } = send(&url, None, &notice("x")).await else { panic!("not transient") };
        assert!(what.contains("refused") && !what.contains(&address.to_string()), "{what}");
    }

    #[tokio::test]
    async fn a_missing_token_is_named_and_nothing_is_sent() {
        let (url, seen) = receiver(200, &[]).await;
        let Outcome::Denied(what) = send(&url, Some("no-such-token".into()), &notice("x")).await else { panic!("not denied") };
        assert!(what.contains("no-such-token"), "{what}");
        assert!(seen.lock().unwrap().is_empty());
    }

    #[test]
    fn only_private_ways_are_taken() {
        let accepted = |url: &str| Notifier::new(Some(Webhook { url: url.into(), token_file: None })).is_ok();
        assert!(["https://pager.example/x", "http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost/x"].into_iter().all(accepted));
        assert!(!["http://pager.example/x", "ftp://127.0.0.1/", "https://user:secret@pager.example/", "x"].into_iter().any(accepted));
    }
}
