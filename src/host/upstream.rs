//! One child as the proxy sees it: a loopback port, whether it is ready, and connections kept open to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::metrics::lock;
use super::upload::Upload;
use crate::world::clock;

/// Connections kept open per child.
const MAX_IDLE: usize = 64;

/// How long a connection may lie idle. Services close idle connections after a few seconds, and a request written to
/// one that is being closed would be lost; well below that, the race does not happen.
const IDLE_FOR: Duration = Duration::from_secs(1);

/// Time a connection to loopback may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// A connection that can carry a request.
pub(crate) type Connection = SendRequest<Upload>;

/// A child that was ready once and whose process lives.
#[derive(Debug)]
pub(crate) struct Member {
    port: u16,
    /// Whether its probes succeed.
    pub(crate) ready: AtomicBool,
    inflight: AtomicU64,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum SendFault {
    /// Not a byte of it was sent: it may go elsewhere. With the reason, if there was a member to send it to.
    NotSent(Box<Request<Upload>>, Option<String>),
    /// It may have been worked on.
    Lost(String),
}

/// A request's place at a member: as long as it is held, a request is under way there.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Member>);

impl Seat {
    /// A place at `member`.
    pub(crate) fn at(member: &Arc<Member>) -> Self {
        member.inflight.fetch_add(1, Ordering::Relaxed);
        Self(member.clone())
    }

    /// Whose place it is.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Member {
    /// The child on `port`, ready.
    pub(crate) fn new(port: u16) -> Self {
        Self { port, ready: AtomicBool::new(true), inflight: AtomicU64::new(0), idle: Mutex::new(Vec::new()) }
    }

    /// Requests under way.
    pub(crate) fn inflight(&self) -> u64 {
        self.inflight.load(Ordering::Relaxed)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Sends `request` over a kept connection, or a new one if there is none or it turns out to be closed. The
    /// connection comes back with the answer, to be [kept](Self::keep) when the answer's body has ended.
    pub(crate) async fn send(&self, mut request: Request<Upload>) -> Result<(Response<Incoming>, Connection), SendFault> {
        while let Some(mut connection) = self.take_idle() {
            match try_send(&mut connection, request).await {
                Ok(response) => return Ok((response, connection)),
                Err(SendFault::NotSent(back, _)) => request = *back,
                Err(lost) => return Err(lost),
            }
        }
        let mut connection = match connect(self.address()).await {
            Ok(connection) => connection,
            Err(why) => return Err(SendFault::NotSent(Box::new(request), Some(why))),
        };
        try_send(&mut connection, request).await.map(|response| (response, connection))
    }

    fn take_idle(&self) -> Option<Connection> {
        let now = clock::instant();
        let mut idle = lock(&self.idle);
        idle.retain(|(connection, since)| !connection.is_closed() && now.duration_since(*since) < IDLE_FOR);
        let place = idle.iter().rposition(|(connection, _)| connection.is_ready())?;
        Some(idle.swap_remove(place).0)
    }

    /// Keeps `connection` for the next request.
    pub(crate) fn keep(&self, connection: Connection) {
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE && !connection.is_closed() {
            idle.push((connection, clock::instant()));
        }
    }

    /// Whether it can take a request.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

async fn try_send(connection: &mut Connection, request: Request<Upload>) -> Result<Response<Incoming>, SendFault> {
    connection.try_send_request(request).await.map_err(|mut fault| match fault.take_message() {
        Some(request) => SendFault::NotSent(Box::new(request), Some(fault.into_error().to_string())),
        None => SendFault::Lost(chain(&fault.into_error())),
    })
}

async fn connect(address: SocketAddr) -> Result<Connection, String> {
    let dial = async {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))
    };
    match tokio::time::timeout(CONNECT_WITHIN, dial).await {
        Ok(Ok((connection, driver))) => {
            tokio::spawn(async move {
                if let Err(error) = driver.await {
                    tracing::debug!(%address, error = %chain(&error), "connection to a child ended");
                }
            });
            Ok(connection)
        }
        Ok(Err(why)) => Err(format!("{address}: {why}")),
        Err(_) => Err(format!("{address} did not accept a connection within {} s", CONNECT_WITHIN.as_secs())),
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
