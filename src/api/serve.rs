//! Connections: where they come in, how many there may be, how long they may be silent.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::auth::Peer;
use super::places::{Held, Origin, Place, Places};

/// How long the head of a request may take to arrive, and a connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// The same where everybody may connect: probes and scrapes come with their request.
const OPEN_HEAD_WITHIN: Duration = Duration::from_secs(2);
/// How long requests in flight may go on after shutdown began.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Longest path of a Unix socket (`sun_path` without its final NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Where connections come in.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket, removed at the end.
    Unix(UnixListener, PathBuf),
    /// A loopback address.
    Tcp(TcpListener),
    /// An address that others than this machine may reach.
    Open(TcpListener),
}

impl Listener {
    /// A Unix socket with the permissions `mode`. One that a dead process left is replaced.
    ///
    /// # Errors
    /// If the path is too long or cannot be written, or another process answers there.
    pub async fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        let fresh = path.with_extension("new");
        if fresh.as_os_str().len() > SOCKET_PATH_MAX {
            let what =
                format!("`{}` is longer than the {SOCKET_PATH_MAX} bytes of a socket's path; use a shorter `--data-dir`", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another process answers at `{}`", path.display())));
        }
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh)?;
        // Nobody can connect before the permissions are right: the name is given last.
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&fresh, path)?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// A loopback address; port 0 picks a free one.
    ///
    /// # Errors
    /// If the address is no loopback address, or taken.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let what = format!("`{address}` is not a loopback address; put a TLS proxy in front of 127.0.0.1 instead");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// Any address: only for what everybody may see.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn anywhere(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Open)
    }

    /// The address; a Unix socket has none.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(listener) | Self::Open(listener) => listener.local_addr().ok(),
        }
    }

    fn head_within(&self) -> Duration {
        if matches!(self, Self::Open(_)) { OPEN_HEAD_WITHIN } else { HEAD_WITHIN }
    }

    /// The next connection, with who is at the other end: for the API, and as far as places are counted.
    async fn accept(&self) -> io::Result<(Connection, Peer, Origin)> {
        match self {
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // A peer that the kernel does not name is nobody's.
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                let (peer, from) = uid.map_or((Peer::Network, Origin::Unnamed), |uid| (Peer::Uid(uid), Origin::User(uid)));
                Ok((Connection::Unix(stream), peer, from))
            }
            Self::Tcp(listener) | Self::Open(listener) => {
                let (stream, address) = listener.accept().await?;
                // Lines of events are small and must not wait for each other.
                stream.set_nodelay(true)?;
                // Who comes over the network is nobody before a token is read.
                Ok((Connection::Tcp(stream), Peer::Network, Origin::Address(address.ip())))
            }
        }
    }
}

/// Serves until `shutdown`; requests in flight get 2 s more.
pub async fn serve(listener: Listener, router: Router, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(false);
    let (places, head_within) = (Places::default(), listener.head_within());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((connection, peer, from)) => {
                    let Some(place) = places.take(from) else {
                        tracing::warn!(?from, "a connection is closed: every place is taken, and none is idle");
                        continue;
                    };
                    let (router, stopped) = (router.clone(), stopped.clone());
                    connections.spawn(async move {
                        match connection {
                            Connection::Unix(stream) => talk(stream, peer, &place, router, head_within, stopped).await,
                            Connection::Tcp(stream) => talk(stream, peer, &place, router, head_within, stopped).await,
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    // Out of file descriptors, most likely: some will be closed soon.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    if let Listener::Unix(_, path) = &listener {
        let _ = std::fs::remove_file(path);
    }
    drop(listener);
    stop.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(END_WITHIN, ended).await.is_err() {
        tracing::debug!("connections that were still open at shutdown are cut");
    }
}

/// An accepted connection.
enum Connection {
    Unix(UnixStream),
    Tcp(tokio::net::TcpStream),
}

async fn talk<S>(stream: S, peer: Peer, place: &Place, router: Router, head_within: Duration, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (busy, answer) = (place.busy(), router.call(request));
        async move { Ok::<_, Infallible>(answer.await?.map(|body| Held::new(body, busy))) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_within).max_buf_size(64 * 1024);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = &mut connection => log(ended),
        () = place.given_up() => {}
        () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
            connection.as_mut().graceful_shutdown();
            log(connection.await);
        }
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
