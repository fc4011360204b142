//! Connections: where they come in, how many there may be, how long they may be silent.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::auth::Peer;

/// Connections at once; more wait in the operating system's queue.
const CONNECTIONS_MAX: usize = 512;
/// Connections of one user of the operating system at once: others must get through, too.
const USER_MAX: usize = 128;
/// How long the head of a request may take to arrive, and a connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
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
        Self::anywhere(address).await
    }

    /// Any address: only for what everybody may see.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn anywhere(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// The address, of a loopback listener.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }
}

/// Serves until `shutdown`; requests in flight get 2 s more.
pub async fn serve(listener: Listener, router: Router, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(false);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let users = Users::default();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            match &listener {
                Listener::Unix(listener, _) => {
                    let (stream, _) = listener.accept().await?;
                    // A peer that the kernel does not name is nobody's.
                    let peer = stream.peer_cred().map_or(Peer::Network, |peer| Peer::Uid(peer.uid()));
                    Ok::<_, io::Error>((Connection::Unix(stream), peer, permit))
                }
                Listener::Tcp(listener) => {
                    let (stream, _) = listener.accept().await?;
                    // Lines of events are small and must not wait for each other.
                    stream.set_nodelay(true)?;
                    Ok((Connection::Tcp(stream), Peer::Network, permit))
                }
            }
        };
        tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => match accepted {
                Ok((connection, peer, permit)) => {
                    let Some(seat) = users.seat(peer) else {
                        tracing::warn!(?peer, "a connection is closed: this user has {USER_MAX} open");
                        continue;
                    };
                    let (router, stopped) = (router.clone(), stopped.clone());
                    connections.spawn(async move {
                        match connection {
                            Connection::Unix(stream) => talk(stream, peer, router, stopped).await,
                            Connection::Tcp(stream) => talk(stream, peer, router, stopped).await,
                        }
                        drop((permit, seat));
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

/// How many connections each user has. Who comes over the network is nobody before a token is read.
#[derive(Debug, Clone, Default)]
struct Users(Arc<Mutex<BTreeMap<u32, usize>>>);

impl Users {
    fn seat(&self, peer: Peer) -> Option<Seat> {
        let Peer::Uid(uid) = peer else { return Some(Seat { uid: None, users: self.clone() }) };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = open.entry(uid).or_default();
        (*mine < USER_MAX).then(|| {
            *mine += 1;
            Seat { uid: Some(uid), users: self.clone() }
        })
    }
}

/// A user's connection; the end of it makes room for another.
#[derive(Debug)]
struct Seat {
    uid: Option<u32>,
    users: Users,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(uid) = self.uid else { return };
        let mut open = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = open.get_mut(&uid) {
            *mine -= 1;
            if *mine == 0 {
                open.remove(&uid);
            }
        }
    }
}

/// An accepted connection.
enum Connection {
    Unix(UnixStream),
    Tcp(tokio::net::TcpStream),
}

async fn talk<S>(stream: S, peer: Peer, router: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(64 * 1024);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = &mut connection => log(ended),
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
