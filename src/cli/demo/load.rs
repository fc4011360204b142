//! Steady traffic through the host's proxy, and a book of every answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

use crate::core::release::ReleaseId;
use crate::host::{RELEASE_HEADER, chain};
use crate::world::clock;

/// Longest time a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request.
#[derive(Debug, Clone)]
pub struct Visit {
    /// When it was sent.
    pub sent: Instant,
    /// How long it took.
    pub took: Duration,
    /// The status; absent if there was no answer: dropped.
    pub status: Option<u16>,
    /// The release that answered.
    pub release: Option<ReleaseId>,
    /// Why there was no answer.
    pub fault: Option<String>,
}

/// Running traffic.
#[derive(Debug)]
pub struct Traffic {
    book: Arc<Mutex<Vec<Visit>>>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    /// Sends `per_second` requests to `address` until stopped, evenly spread; slow answers do not slow it down.
    pub fn start(address: SocketAddr, per_second: u32) -> Self {
        let book = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(send(address, per_second, Arc::clone(&book), Arc::clone(&stop)));
        Self { book, stop, task }
    }

    /// Every request so far.
    pub fn visits(&self) -> Vec<Visit> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, waits for the last answers, and returns every request.
    pub async fn stop(self) -> Vec<Visit> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.task.await;
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.clone()
    }
}

async fn send(address: SocketAddr, per_second: u32, book: Arc<Mutex<Vec<Visit>>>, stop: Arc<AtomicBool>) {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let Ok(uri) = format!("http://{address}/").parse::<hyper::Uri>() else { return };
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        under_way.spawn(visit(client.clone(), uri.clone(), Arc::clone(&book)));
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

async fn visit(client: Client<HttpConnector, Empty<Bytes>>, uri: hyper::Uri, book: Arc<Mutex<Vec<Visit>>>) {
    let sent = clock::instant();
    let answered = tokio::time::timeout(PATIENCE, async {
        let response = client.get(uri).await.map_err(|error| chain(&error))?;
        let status = response.status().as_u16();
        let release = response.headers().get(RELEASE_HEADER).and_then(|value| value.to_str().ok()).map(|id| ReleaseId(id.into()));
        response.into_body().collect().await.map_err(|error| chain(&error))?;
        Ok::<_, String>((status, release))
    });
    let answer = answered.await.unwrap_or_else(|_| Err(format!("nothing within {PATIENCE:?}")));
    let (status, release, fault) = match answer {
        Ok((status, release)) => (Some(status), release, None),
        Err(fault) => (None, None, Some(fault)),
    };
    let visit = Visit { sent, took: sent.elapsed(), status, release, fault };
    book.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
}
