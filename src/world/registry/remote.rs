//! A registry over HTTP: the OCI distribution API.
//!
//! Logging in is `oci-client`'s; requests are made here, because each answer needs a size limit, a deadline and an
//! exact fault, and because lists of referrers come in pages.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use oci_distribution::client::{ClientConfig, ClientProtocol};
use oci_distribution::errors::OciDistributionError;
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, RegistryOperation};
use reqwest::header::{ACCEPT, LINK, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode, Url, redirect};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::reference::reference;
use super::{Fault, Listed, MAX_MANIFEST, Patience, index_entries};
use crate::core::release::{Digest, Image, hex};
use crate::core::time::Span;
use crate::world::clock;

/// What a manifest may be.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// So many pages of a list of referrers are read.
const MAX_PAGES: usize = 64;
/// So many referrers are read from all pages.
const MAX_LISTED: usize = 20_000;

/// A name and a password for one registry. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name.
    pub name: String,
    /// Password or token.
    pub password: String,
}

/// Logins by registry host, with port if it has one. Hosts that are not listed are used anonymously.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, Login>);

impl Credentials {
    /// The logins in a Docker `config.json` (`auths`, base64 of `name:password`). Credential helpers are not run.
    pub fn from_docker_config(path: &Path) -> Result<Self, Fault> {
        use base64::Engine as _;
        let malformed = |what: &str| Fault::Malformed(format!("{}: {what}", path.display()));
        let bytes = super::layout::read(path, 1 << 20)?;
        let config: Value = serde_json::from_slice(&bytes).map_err(|_| malformed("not a Docker config.json"))?;
        let mut logins = Self::default();
        for (host, entry) in config.get("auths").and_then(Value::as_object).into_iter().flatten() {
            let Some(auth) = entry.get("auth").and_then(Value::as_str).filter(|auth| !auth.is_empty()) else { continue };
            let decoded = base64::engine::general_purpose::STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded = decoded.ok_or_else(|| malformed("an `auth` is not base64"))?;
            let (name, password) = decoded.split_once(':').ok_or_else(|| malformed("an `auth` is not `name:password`"))?;
            let host = host.trim_start_matches("https://").split('/').next().unwrap_or_default();
            logins = logins.with(host, Login { name: name.to_owned(), password: password.to_owned() });
        }
        Ok(logins)
    }

    /// The same, and `login` for `host`.
    #[must_use]
    pub fn with(mut self, host: &str, login: Login) -> Self {
        self.0.insert(host.to_owned(), login);
        self
    }
}

/// One repository of one registry, logged in.
pub(super) struct Remote {
    http: reqwest::Client,
    base: Url,
    auth: Auth,
    deadline: Instant,
}

enum Auth {
    Anonymous,
    Basic(Login),
    Bearer(String),
}

/// The clients for all registries; connections and TLS roots are shared.
///
/// Those that log in are made when first needed: reading the machine's TLS roots takes milliseconds, and a layout
/// folder needs none.
#[derive(Clone)]
pub(super) struct Clients {
    http: reqwest::Client,
    patience: Patience,
    login: Arc<OnceLock<Client>>,
    plain_login: Arc<OnceLock<Client>>,
}

impl Clients {
    pub(super) fn new(patience: Patience) -> Result<Self, Fault> {
        Ok(Self { http: client(patience)?, patience, login: Arc::default(), plain_login: Arc::default() })
    }

    fn login(&self, plain: bool) -> &Client {
        let (client, protocol) = if plain { (&self.plain_login, ClientProtocol::Http) } else { (&self.login, ClientProtocol::Https) };
        client.get_or_init(|| {
            Client::new(ClientConfig {
                protocol,
                connect_timeout: Some(self.patience.connect),
                read_timeout: Some(self.patience.read),
                ..ClientConfig::default()
            })
        })
    }
}

/// The HTTP client for all registries: bounded in time, and never redirected to plain HTTP.
fn client(patience: Patience) -> Result<reqwest::Client, Fault> {
    let policy = redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > 5 {
            attempt.error("too many redirects")
        } else if attempt.url().scheme() != "https" && !attempt.url().host_str().is_some_and(is_loopback) {
            attempt.error("redirected to plain HTTP")
        } else {
            attempt.follow()
        }
    });
    reqwest::Client::builder()
        .connect_timeout(patience.connect)
        .read_timeout(patience.read)
        .redirect(policy)
        .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Fault::Unavailable(format!("no HTTP client: {error}")))
}

/// Whether a host, without port, is this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Remote {
    /// Opens the repository of `image`, for `within` at most.
    pub(super) async fn open(clients: &Clients, image: &Image, credentials: &Credentials, within: Duration) -> Result<Self, Fault> {
        let deadline = clock::instant() + within;
        let reference = reference(image)?;
        let host = reference.resolve_registry().to_owned();
        let plain = Url::parse(&format!("http://{host}/")).ok().and_then(|url| url.host_str().map(is_loopback)).unwrap_or(false);
        let scheme = if plain { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{}/", reference.repository());
        let base = Url::parse(&base).map_err(|error| Fault::Malformed(format!("`{base}` is not an address: {error}")))?;
        let login = credentials.0.get(&host).cloned();
        let client = clients.login(plain);
        let ping = format!("{scheme}://{host}/v2/");
        let auth = login.as_ref().map_or(RegistryAuth::Anonymous, |login| RegistryAuth::Basic(login.name.clone(), login.password.clone()));
        let work = async {
            if login.is_some() {
                no_plain_realm(&clients.http, &ping).await?;
            }
            match client.auth(&reference, &auth, RegistryOperation::Pull).await {
                Ok(token) => Ok(token),
                Err(error) => Err(login_fault(&clients.http, &ping, error).await),
            }
        };
        let token = tokio::time::timeout_at(deadline.into(), work).await;
        let token = token.map_err(|_| Fault::Unavailable("logging in took too long".to_owned()))??;
        let auth = match (token, login) {
            (Some(token), _) => Auth::Bearer(token),
            (None, Some(login)) => Auth::Basic(login),
            (None, None) => Auth::Anonymous,
        };
        Ok(Self { http: clients.http.clone(), base, auth, deadline })
    }

    /// The manifest under a digest or tag, not yet hashed.
    pub(super) async fn manifest(&self, reference: &str) -> Result<Vec<u8>, Fault> {
        let response = self.get(self.url(&format!("manifests/{reference}"))?, MANIFESTS).await?;
        self.whole(response, MAX_MANIFEST).await
    }

    /// A blob of at most `limit` bytes, not yet hashed.
    pub(super) async fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Fault> {
        let response = self.get(self.url(&format!("blobs/{digest}"))?, "*/*").await?;
        self.whole(response, limit).await
    }

    /// Whether a blob is there, without its bytes.
    pub(super) async fn has(&self, digest: &Digest) -> Result<(), Fault> {
        self.ask(self.http.head(self.url(&format!("blobs/{digest}"))?), "*/*").await.map(drop)
    }

    /// Copies a blob to `out` and says how many bytes it had and to what they hash.
    pub(super) async fn copy_blob(&self, digest: &Digest, limit: u64, out: &mut (impl AsyncWrite + Unpin)) -> Result<(u64, Digest), Fault> {
        let mut response = self.get(self.url(&format!("blobs/{digest}"))?, "*/*").await?;
        let (mut size, mut hash) = (0, Sha256::new());
        while let Some(chunk) = self.chunk(&mut response).await? {
            size += chunk.len() as u64;
            if size > limit {
                return Err(Fault::Malformed(format!("{digest} has more than {limit} bytes")));
            }
            hash.update(&chunk);
            out.write_all(&chunk).await.map_err(|error| Fault::Unavailable(format!("writing {digest}: {error}")))?;
        }
        let actual = format!("sha256:{}", hex(&hash.finalize())).parse().map_err(|error| Fault::Malformed(format!("{error}")))?;
        Ok((size, actual))
    }

    /// All pages of the list of referrers. [`Fault::NotFound`] means that the registry has no such list.
    pub(super) async fn referrers(&self, subject: &Digest) -> Result<Vec<Listed>, Fault> {
        let mut listed = Vec::new();
        let mut next = Some(self.url(&format!("referrers/{subject}"))?);
        let mut pages = 0;
        while let Some(url) = next.take() {
            pages += 1;
            if pages > MAX_PAGES || listed.len() > MAX_LISTED {
                return Err(Fault::Malformed(format!("more than {MAX_PAGES} pages or {MAX_LISTED} referrers")));
            }
            let response = match self.get(url, "application/vnd.oci.image.index.v1+json").await {
                Err(Fault::NotFound(what)) if pages > 1 => return Err(Fault::Unavailable(format!("page {pages}: not found: {what}"))),
                other => other?,
            };
            next = self.next_page(&response)?;
            listed.extend(index_entries(&self.whole(response, MAX_MANIFEST).await?)?);
        }
        Ok(listed)
    }

    /// The address in `Link: <…>; rel="next"`, which must be of the same registry.
    fn next_page(&self, response: &Response) -> Result<Option<Url>, Fault> {
        let values = response.headers().get_all(LINK).iter().filter_map(|value| value.to_str().ok());
        for link in values.flat_map(|value| value.split('<').skip(1)) {
            let Some((address, relation)) = link.split_once('>') else { continue };
            if !relation.replace('"', "").split([';', ',']).any(|part| part.trim() == "rel=next") {
                continue;
            }
            let url = response.url().join(address).map_err(|error| Fault::Malformed(format!("the next page `{address}`: {error}")))?;
            if url.origin() != self.base.origin() {
                return Err(Fault::Malformed(format!("the next page is on another host: {url}")));
            }
            return Ok(Some(url));
        }
        Ok(None)
    }

    fn url(&self, path: &str) -> Result<Url, Fault> {
        self.base.join(path).map_err(|error| Fault::Malformed(format!("`{path}` is not part of an address: {error}")))
    }

    async fn get(&self, url: Url, accept: &str) -> Result<Response, Fault> {
        self.ask(self.http.get(url), accept).await
    }

    async fn ask(&self, request: RequestBuilder, accept: &str) -> Result<Response, Fault> {
        let response = self.in_time(self.authorized(request).header(ACCEPT, accept).send()).await?.map_err(|error| unavailable(&error))?;
        let place = response.url().path().to_owned();
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(Fault::NotFound(place)),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(Fault::Denied(format!("{status} for {place}"))),
            status @ StatusCode::TOO_MANY_REQUESTS => {
                let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
                Err(Fault::RateLimited { what: format!("{status} for {place}"), retry_after: seconds.map(Span::seconds) })
            }
            status if status.is_server_error() => Err(Fault::Unavailable(format!("{status} for {place}"))),
            status => Err(Fault::Malformed(format!("unexpected {status} for {place}"))),
        }
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.auth {
            Auth::Anonymous => request,
            Auth::Basic(login) => request.basic_auth(&login.name, Some(&login.password)),
            Auth::Bearer(token) => request.bearer_auth(token),
        }
    }

    /// The whole body, if it has at most `limit` bytes. No more than that is ever held.
    async fn whole(&self, mut response: Response, limit: u64) -> Result<Vec<u8>, Fault> {
        let place = response.url().path().to_owned();
        let too_large = || Fault::Malformed(format!("{place} has more than {limit} bytes"));
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn chunk(&self, response: &mut Response) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]>>, Fault> {
        self.in_time(response.chunk()).await?.map_err(|error| Fault::Unavailable(format!("the answer was cut short: {}", root(&error))))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Fault> {
        tokio::time::timeout_at(self.deadline.into(), work).await.map_err(|_| Fault::Unavailable("no time left".to_owned()))
    }
}

/// The token servers that a registry names in its challenge.
async fn realms(http: &reqwest::Client, ping: &str) -> Result<Vec<Url>, Fault> {
    let response = http.get(ping).send().await.map_err(|error| unavailable(&error))?;
    let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    Ok(challenges.flat_map(|value| value.split(['"', ' ', ','])).filter_map(|part| Url::parse(part).ok()).collect())
}

/// Makes sure that the registry does not send us, password in hand, to a token server over plain HTTP.
async fn no_plain_realm(http: &reqwest::Client, ping: &str) -> Result<(), Fault> {
    let plain = |realm: &Url| realm.scheme() == "http" && !realm.host_str().is_some_and(is_loopback);
    match realms(http, ping).await?.into_iter().find(plain) {
        Some(realm) => Err(Fault::Denied(format!("the registry wants the password sent to {realm}, which is not encrypted"))),
        None => Ok(()),
    }
}

/// Why logging in failed. `oci-client` says the same of a token server that refuses and of one that is broken, so it
/// is asked once more, without the password, whether it answers at all.
async fn login_fault(http: &reqwest::Client, ping: &str, error: OciDistributionError) -> Fault {
    match error {
        OciDistributionError::RequestError(error) => unavailable(&error),
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
            for realm in realms(http, ping).await.unwrap_or_default() {
                match http.get(realm).send().await.map(|response| response.status()) {
                    Ok(status) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                        return Fault::Unavailable(format!("the registry's token server answers {status}"));
                    }
                    Err(error) => return unavailable(&error),
                    Ok(_) => {}
                }
            }
            // What the token server said may quote what it was sent.
            Fault::Denied("the registry's token server refused".to_owned())
        }
        other => Fault::Malformed(format!("logging in: {other}")),
    }
}

fn unavailable(error: &reqwest::Error) -> Fault {
    let what = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "request failed"
    };
    Fault::Unavailable(format!("{what}: {}", root(error)))
}

/// The cause at the end of the chain: the outer ones repeat the address.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
