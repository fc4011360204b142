//! The proxy's door: binds the workload's address, again and again if it is taken, and serves HTTP/1.1 on it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::proxy;
use super::upstream::chain;
use super::workload::Workload;
use crate::core::backoff;

/// Connections of one workload at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;

/// Time a client has to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Listens for `workload` until it is stopped, and follows its address when that is changed.
pub(crate) async fn serve(workload: Arc<Workload>) {
    let mut stop = workload.stop.subscribe();
    let mut settings = workload.settings();
    let mut attempts = 0;
    loop {
        let wanted = settings.borrow_and_update().listen.clone();
        let bound = match bind(&workload, &wanted).await {
            Ok(listener) => {
                attempts = 0;
                let door = accept(&workload, &listener);
                tokio::select! {
                    () = door => {}
                    _ = settings.wait_for(|settings| settings.listen != wanted) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                continue;
            }
            Err(error) => error,
        };
        attempts += 1;
        tracing::warn!(workload = %workload.key, listen = wanted, error = %bound, "cannot listen");
        _ = workload.listening.send_replace(Err(format!("cannot listen on {wanted}: {bound}")));
        tokio::select! {
            () = tokio::time::sleep(backoff::wait(attempts)) => {}
            _ = settings.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

async fn bind(workload: &Workload, wanted: &str) -> io::Result<TcpListener> {
    let wanted: SocketAddr = wanted.parse().map_err(io::Error::other)?;
    let last = workload.bound().filter(|last| wanted.port() == 0 && last.ip() == wanted.ip());
    let listener = match last {
        // The port that was picked before, if it is still free: clients know it.
        Some(last) => match TcpListener::bind(last).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(wanted).await?,
        },
        None => TcpListener::bind(wanted).await?,
    };
    let address = listener.local_addr()?;
    workload.set_bound(address).await;
    _ = workload.listening.send_replace(Ok(address));
    Ok(listener)
}

async fn accept(workload: &Arc<Workload>, listener: &TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let (workload, stop) = (workload.clone(), workload.stop.subscribe());
                tokio::spawn(async move {
                    connection(workload, stream, client, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be closed.
                tracing::warn!(workload = %workload.key, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Waits until it is time to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(workload: Arc<Workload>, stream: TcpStream, client: SocketAddr, mut stop: watch::Receiver<bool>) {
    _ = stream.set_nodelay(true);
    let service = service_fn(|request| proxy::answer(workload.clone(), client, request));
    let served =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = told(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(workload = %workload.key, %client, error = %chain(&error), "connection of a client ended");
    }
}
