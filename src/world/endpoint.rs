//! A foreign HTTP endpoint: credentials read at each use, no redirects, and limits on time and size.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use tokio::io::AsyncReadExt as _;

use crate::core::spec::Auth;

/// Bytes of a body that are read at most; a longer one is refused.
pub(crate) const BODY_BYTES: usize = 8 << 20;

/// Bytes of a credentials file that are read at most.
const CREDENTIAL_BYTES: u64 = 64 << 10;

/// Whether an address is link-local, where machines keep their credentials.
pub(crate) fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_link_local()),
    }
}

/// How an endpoint is reached. `Debug` shows where credentials are, never what they are.
pub(crate) struct Endpoint {
    client: Client,
    auth: Option<Auth>,
}

/// Shows nothing of headers or credentials.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

/// An answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Whether the transport proved that the body is complete: it had a length or came in chunks.
    pub(crate) complete: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection, broken in the middle, out of time, or no credentials.
    Unreachable(String),
    /// The body is longer than [`BODY_BYTES`].
    TooLarge,
}

impl Endpoint {
    /// A client with its own connections. The error says which header cannot be sent (its value is not shown).
    pub(crate) fn new<'a>(auth: Option<Auth>, headers: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Self, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let key: HeaderName = name.parse().map_err(|_| format!("`{name}` is not a header name"))?;
            let mut value: HeaderValue =
                value.parse().map_err(|_| format!("the value of header `{name}` has characters that cannot be sent"))?;
            value.set_sensitive(true);
            map.insert(key, value);
        }
        let client = Client::builder()
            .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")))
            .default_headers(map)
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| format!("no HTTP client: {}", causes(error)))?;
        Ok(Self { client, auth })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends `request` and reads the whole answer, all within `limit`.
    pub(crate) async fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Answer, Failure> {
        tokio::time::timeout(limit, self.exchange(request))
            .await
            .unwrap_or_else(|_| Err(Failure::Unreachable(format!("no whole answer within {}", humantime::format_duration(limit)))))
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let request = match &self.auth {
            Some(auth) => request.header(AUTHORIZATION, authorization(auth).await.map_err(Failure::Unreachable)?),
            None => request,
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let complete = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > BODY_BYTES {
                return Err(Failure::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body, complete })
    }
}

/// An endpoint's address: HTTP or HTTPS, without credentials in it.
pub(crate) fn address(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("`{text}` is not a URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user name or password in it is refused: name a file under `auth` instead".to_owned());
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("`{text}` is not an address that can be asked: expected `http://` or `https://` and a host"));
    }
    Ok(url)
}

/// The `Authorization` header, from files as they are now.
async fn authorization(auth: &Auth) -> Result<HeaderValue, String> {
    let (text, path) = match auth {
        Auth::Bearer { token_file } => (format!("Bearer {}", secret(token_file).await?), token_file),
        Auth::Basic { username, password_file } => {
            use base64::Engine as _;
            let pair = format!("{username}:{}", secret(password_file).await?);
            (format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)), password_file)
        }
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| format!("the credentials in `{path}` have characters that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A secret from a file, without the line end that editors add.
async fn secret(path: &str) -> Result<String, String> {
    let unreadable = |error| format!("the credentials file `{path}` cannot be read: {error}");
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut text = String::new();
    file.take(CREDENTIAL_BYTES).read_to_string(&mut text).await.map_err(unreadable)?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err(format!("the credentials file `{path}` is empty")) } else { Ok(text.to_owned()) }
}

fn unreachable(error: reqwest::Error) -> Failure {
    Failure::Unreachable(causes(error))
}

/// An error with its causes, without the URL: its query may be long, and may be private.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

/// Foreign text for a message: one line, at most 300 characters.
pub(crate) fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(300).is_some() {
        excerpt.push('…');
    }
    excerpt.trim().to_owned()
}
