//! The weighted HTTP/1.1 reverse proxy of one workload.
//!
//! Bodies are streamed both ways. A request is counted once its answer has ended, for the release that answered it:
//! with the answer's code, 502 if the child could not be reached or broke off, 503 if no member is ready, 504 if no
//! answer began in time, 499 if the client went away first, 400 or 408 if its body was none or did not come. Protocol
//! upgrades are not passed on.
//!
//! A request of which not a byte was sent, because its release has no member left or none takes a connection, goes to
//! another release that takes traffic. The failure is counted where it happened, the client does not feel it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::arm::{Arm, Cut};
use super::upload::{CLIENT_CLOSED, Progress, Turn, Upload};
use super::upstream::{Connection, Member, Seat, SendFault, chain};
use super::workload::Workload;
use crate::world::clock;

/// Names the release in every answer.
pub const RELEASE_HEADER: HeaderName = HeaderName::from_static("x-backstop-release");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that speak about one connection (RFC 9110, 7.6.1). `Expect` is answered by the proxy itself.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// What the proxy sends back.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, BodyFault>>;

/// Why an answer broke off in the middle.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BodyFault(String);

/// Answers one request of `client`.
pub(crate) async fn answer(workload: Arc<Workload>, client: SocketAddr, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let Some(arm) = workload.pick() else {
        workload.dropped.fetch_add(1, Ordering::Relaxed);
        return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "no release of this workload takes traffic"));
    };
    let request = request.map(Upload::new);
    let upload = request.body().progress();
    let request = match outbound(request, client) {
        Ok(request) => request,
        Err(why) => return Ok(Tally::new(arm, upload).refuse(StatusCode::BAD_REQUEST, why)),
    };
    Ok(match ask(&workload, arm.clone(), request).await {
        Ok(answer) => answer,
        Err(Unsent { request, refusal }) => match workload.pick_other(&arm) {
            Some(other) => ask(&workload, other, *request).await.unwrap_or_else(|unsent| unsent.refusal),
            None => refusal,
        },
    })
}

/// A request that a release did not take.
struct Unsent {
    /// Untouched: it may go elsewhere.
    request: Box<Request<Upload>>,
    /// What to answer if it goes nowhere.
    refusal: Answer,
}

/// Lets `arm` answer `request`.
async fn ask(workload: &Arc<Workload>, arm: Arc<Arm>, request: Request<Upload>) -> Result<Answer, Unsent> {
    let upload = request.body().progress();
    upload.begin();
    let mut tally = Tally::new(arm.clone(), upload.clone());
    let cut = arm.cut();
    let sent = tokio::select! {
        biased;
        sent = send(&arm, request, &mut tally) => sent,
        () = cut.clone().wait() => {
            workload.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(tally.refuse(StatusCode::SERVICE_UNAVAILABLE, "the release was switched off and the time to drain is over"));
        }
        turn = upload.stalled(workload.upstream_timeout) => return Ok(match turn {
            Turn::Child => tally.refuse(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time"),
            Turn::Client => tally.refuse(StatusCode::REQUEST_TIMEOUT, "the rest of the request did not come in time"),
        }),
    };
    match sent {
        Ok((response, connection)) => Ok(tally.pass(response, connection, cut, workload.clone())),
        Err(SendFault::Lost(_)) if let Some(code) = upload.broken() => {
            tally.count(code);
            Ok(tally.refuse(StatusCode::BAD_REQUEST, "the request broke off"))
        }
        Err(fault) => {
            let (code, why, request) = match fault {
                SendFault::NotSent(request, Some(why)) => (StatusCode::BAD_GATEWAY, why, Some(request)),
                SendFault::NotSent(request, None) => (StatusCode::SERVICE_UNAVAILABLE, "no member is ready".to_owned(), Some(request)),
                SendFault::Lost(why) => (StatusCode::BAD_GATEWAY, why, None),
            };
            tracing::debug!(workload = %workload.key, release = %arm.release.id, why, "no answer from a child");
            if arm.is_leaving() {
                // Picked just before its traffic was taken away: that is no failure of the release.
                tally.counted = true;
            }
            let refusal = tally.refuse(code, "the service could not be reached");
            match request {
                Some(request) => Err(Unsent { request, refusal }),
                None => Ok(refusal),
            }
        }
    }
}

/// Sends to the next member; if that takes no connection, once more to another.
async fn send(arm: &Arm, mut request: Request<Upload>, tally: &mut Tally) -> Result<(Response<Incoming>, Connection), SendFault> {
    let mut failed: Option<(Arc<Member>, String)> = None;
    for _ in 0..2 {
        let Some(seat) = arm.seat(failed.as_ref().map(|(member, _)| member)) else { break };
        let member = tally.seat.insert(seat).member().clone();
        match member.send(request).await {
            Err(SendFault::NotSent(back, why)) => {
                request = *back;
                failed = Some((member, why.unwrap_or_default()));
            }
            answered_or_lost => return answered_or_lost,
        }
    }
    Err(SendFault::NotSent(Box::new(request), failed.map(|(_, why)| why)))
}

/// The request as a child gets it.
fn outbound<B>(mut request: Request<B>, client: SocketAddr) -> Result<Request<B>, &'static str> {
    if request.method() == Method::CONNECT {
        return Err("CONNECT is not supported");
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let uri = path.parse::<Uri>().map_err(|_| "the request target is not a path")?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip(headers);
    match authority {
        Some(authority) => _ = headers.insert(header::HOST, authority),
        None => _ = headers.entry(header::HOST).or_insert(HeaderValue::from_static("localhost")),
    }
    let mut chain: Vec<String> = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    chain.push(client.ip().to_string());
    if let Ok(value) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
    Ok(request)
}

/// Removes the headers that speak about one connection, and those that `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn refusal(code: StatusCode, why: &'static str) -> Answer {
    let body = Full::new(Bytes::from(format!("backstop: {why}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Counts one request, exactly once: when it is told the end, or when it is dropped because the client went away.
struct Tally {
    arm: Arc<Arm>,
    upload: Arc<Progress>,
    seat: Option<Seat>,
    started: Instant,
    counted: bool,
}

impl Tally {
    fn new(arm: Arc<Arm>, upload: Arc<Progress>) -> Self {
        arm.metrics.inflight.fetch_add(1, Ordering::Relaxed);
        Self { arm, upload, seat: None, started: clock::instant(), counted: false }
    }

    fn count(&mut self, code: u16) {
        if !self.counted {
            self.counted = true;
            self.arm.metrics.finished(code, took(self.started));
        }
    }

    fn refuse(mut self, code: StatusCode, why: &'static str) -> Answer {
        self.count(code.as_u16());
        named(refusal(code, why), &self.arm)
    }

    fn pass(self, response: Response<Incoming>, connection: Connection, cut: Cut, workload: Arc<Workload>) -> Answer {
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers);
        parts.version = Version::HTTP_11;
        let arm = self.arm.clone();
        let passage =
            Passage { body, code: parts.status.as_u16(), tally: self, connection: Some(connection), cut: Box::pin(cut.wait()), workload };
        named(Response::from_parts(parts, passage.boxed_unsync()), &arm)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.count(CLIENT_CLOSED);
        self.arm.metrics.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn named(mut answer: Answer, arm: &Arm) -> Answer {
    if let Ok(value) = HeaderValue::from_str(&arm.release.id.0) {
        answer.headers_mut().insert(RELEASE_HEADER, value);
    }
    answer
}

fn took(started: Instant) -> Duration {
    clock::instant().duration_since(started)
}

/// A child's body on its way to the client.
struct Passage {
    body: Incoming,
    code: u16,
    tally: Tally,
    connection: Option<Connection>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    workload: Arc<Workload>,
}

impl Passage {
    fn ended(&mut self) {
        self.tally.count(self.code);
        if let (Some(connection), Some(seat)) = (self.connection.take(), &self.tally.seat) {
            seat.member().keep(connection);
        }
    }
}

impl Body for Passage {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(None) => {
                self.ended();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if self.body.is_end_stream() {
                    self.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                // A connection to a child is given up when the rest of the request does not come.
                let code = self.tally.upload.broken().unwrap_or(StatusCode::BAD_GATEWAY.as_u16());
                self.tally.count(code);
                Poll::Ready(Some(Err(BodyFault(chain(&error)))))
            }
            Poll::Pending => match self.cut.as_mut().poll(context) {
                Poll::Ready(()) => {
                    if !self.tally.counted {
                        self.workload.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    self.tally.count(StatusCode::SERVICE_UNAVAILABLE.as_u16());
                    Poll::Ready(Some(Err(BodyFault("the time to drain is over".to_owned()))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        // hyper does not poll a body that it knows to be at its end.
        if self.body.is_end_stream() {
            self.ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-private"), ("x-private", "1"), ("te", "trailers"), ("accept", "*/*"), ("upgrade", "h2c")]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
