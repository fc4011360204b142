//! A small HTTP service whose failings are set by its environment: for the demo and for tests.
//!
//! Its failures are spread evenly and without chance, so that 5 % is one request in twenty.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::metrics::{BOUNDS, CONTENT_TYPE, lock};
use crate::world::clock;

/// How the service behaves; each field is set by the variable of the same name in capitals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Behaviour {
    /// `ERROR_RATIO`: share of requests that are answered 500, 0 to 1.
    pub error_ratio: f64,
    /// `DELAY_MS`: time each answer takes.
    pub delay: Duration,
    /// `SLOW_RATIO`: share of requests that take `SLOW_MS` (default 1000) longer.
    pub slow_ratio: f64,
    /// `SLOW_MS`.
    pub slow: Duration,
    /// `FAIL_HEALTH`: `/healthz` answers 503.
    pub fail_health: bool,
    /// `EXIT_AFTER`: exits with status 1 after so many milliseconds.
    pub exit_after: Option<Duration>,
    /// `IGNORE_TERM`: SIGTERM does nothing.
    pub ignore_term: bool,
    /// `HANG`: requests are never answered, `/healthz` is until one was taken.
    pub hang: bool,
    /// `CHATTY`: kilobytes written to standard output per 10 ms.
    pub chatty: u64,
    /// `OUTAGE_FILE`: while this file exists, the share of requests that it holds as a number is answered 500, on top
    /// of the service's own failures: a dependency that is down for everybody.
    pub outage_file: Option<PathBuf>,
    /// `BACKSTOP_RELEASE`: label `release` of the metrics.
    pub release: String,
    /// `GREETING`: what a good answer says.
    pub greeting: String,
}

impl Behaviour {
    /// Reads the variables; the error names the one that is wrong and what was expected.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let vars: BTreeMap<String, String> = vars.into_iter().collect();
        let text = |name: &str| vars.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let share = |name: &str| match text(name).map(|value| (value, value.parse::<f64>())) {
            None => Ok(0.0),
            Some((_, Ok(share))) if (0.0..=1.0).contains(&share) => Ok(share),
            Some((value, _)) => Err(format!("{name}={value}: expected a share from 0 to 1")),
        };
        let number = |name: &str| match text(name) {
            None => Ok(None),
            Some(value) => value.parse::<u64>().map(Some).map_err(|_| format!("{name}={value}: expected a whole number")),
        };
        let flag = |name: &str| match text(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(value) => Err(format!("{name}={value}: expected 1 or 0")),
        };
        Ok(Self {
            error_ratio: share("ERROR_RATIO")?,
            delay: Duration::from_millis(number("DELAY_MS")?.unwrap_or(0)),
            slow_ratio: share("SLOW_RATIO")?,
            slow: Duration::from_millis(number("SLOW_MS")?.unwrap_or(1000)),
            fail_health: flag("FAIL_HEALTH")?,
            exit_after: number("EXIT_AFTER")?.map(Duration::from_millis),
            ignore_term: flag("IGNORE_TERM")?,
            hang: flag("HANG")?,
            chatty: number("CHATTY")?.unwrap_or(0),
            outage_file: text("OUTAGE_FILE").map(PathBuf::from),
            release: text("BACKSTOP_RELEASE").unwrap_or_default().to_owned(),
            greeting: text("GREETING").unwrap_or("hello").to_owned(),
        })
    }
}

/// Serves on loopback `port` until SIGTERM or SIGINT, or until the behaviour says otherwise.
pub async fn run(port: u16, behaviour: Behaviour) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let service = Arc::new(Service { behaviour, ..Service::default() });
    tracing::info!(port, release = service.behaviour.release, "serving");
    let served = async {
        loop {
            let (stream, _) = listener.accept().await?;
            _ = stream.set_nodelay(true);
            let service = service.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| service.clone().answer(request));
                _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    };
    let told = async {
        loop {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            if !service.behaviour.ignore_term {
                return;
            }
        }
    };
    let dies = async {
        match service.behaviour.exit_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = served => result,
        () = told => Ok(()),
        () = dies => Err(io::Error::other("told to exit")),
        () = chatter(service.behaviour.chatty) => Ok(()),
    }
}

/// Fills the log for ever.
async fn chatter(kilobytes: u64) {
    if kilobytes == 0 {
        std::future::pending::<()>().await;
    }
    let line = "all work and no play makes a dull service, says the log again and again\n";
    let block = line.repeat(usize::try_from(kilobytes * 1024).unwrap_or(usize::MAX) / line.len());
    loop {
        let block = block.clone();
        _ = tokio::task::spawn_blocking(move || io::stdout().write_all(block.as_bytes())).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Debug, Default)]
struct Service {
    behaviour: Behaviour,
    errors: Share,
    slow: Share,
    outage: Share,
    taken: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

/// Says yes to a share of the questions, evenly spread.
#[derive(Debug, Default)]
struct Share(Mutex<f64>);

impl Share {
    fn hit(&self, share: f64) -> bool {
        let mut sum = lock(&self.0);
        *sum += share;
        // A share such as 0.05 is not exact in binary: twenty of them must make one.
        let hit = *sum >= 1.0 - 1e-9;
        if hit {
            *sum -= 1.0;
        }
        hit
    }
}

impl Service {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        match request.uri().path() {
            "/metrics" => return Ok(self.metrics()),
            "/healthz" => return Ok(self.health().await),
            _ => {}
        }
        let started = clock::instant();
        self.taken.fetch_add(1, Ordering::Relaxed);
        if self.behaviour.hang {
            std::future::pending::<()>().await;
        }
        let slow = if self.slow.hit(self.behaviour.slow_ratio) { self.behaviour.slow } else { Duration::ZERO };
        let wait = self.behaviour.delay + slow;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let mut body = request.into_body();
        let mut received = 0;
        while let Some(Ok(frame)) = body.frame().await {
            received += frame.data_ref().map_or(0, Bytes::len);
        }
        let failed = self.errors.hit(self.behaviour.error_ratio) || self.outage.hit(self.outage_share().await);
        let (code, text) = if failed {
            (StatusCode::INTERNAL_SERVER_ERROR, "it broke\n".to_owned())
        } else {
            (StatusCode::OK, format!("{} {received}\n", self.behaviour.greeting))
        };
        self.count(code.as_u16(), clock::instant().duration_since(started));
        Ok(reply(code, text))
    }

    async fn health(&self) -> Response<Full<Bytes>> {
        if self.behaviour.hang && self.taken.load(Ordering::Relaxed) > 0 {
            std::future::pending::<()>().await;
        }
        if self.behaviour.fail_health {
            reply(StatusCode::SERVICE_UNAVAILABLE, "sick\n".into())
        } else {
            reply(StatusCode::OK, "well\n".into())
        }
    }

    async fn outage_share(&self) -> f64 {
        let Some(file) = &self.behaviour.outage_file else { return 0.0 };
        match tokio::fs::read_to_string(file).await {
            Ok(text) => text.trim().parse::<f64>().map_or(1.0, |share| share.clamp(0.0, 1.0)),
            Err(_) => 0.0,
        }
    }

    fn count(&self, code: u16, took: Duration) {
        let mut counts = lock(&self.counts);
        *counts.codes.entry(code).or_default() += 1;
        let place = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        counts.buckets[place] += 1;
        counts.sum += took;
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let counts = lock(&self.counts);
        let release = &self.behaviour.release;
        let mut text = String::from("# TYPE http_requests_total counter\n");
        for code in [200, 500] {
            let count = counts.codes.get(&code).copied().unwrap_or_default();
            let _ = writeln!(text, "http_requests_total{{code=\"{code}\",release=\"{release}\"}} {count}");
        }
        text.push_str("# TYPE http_request_duration_seconds histogram\n");
        let name = "http_request_duration_seconds";
        let mut sum = 0;
        for (place, count) in counts.buckets.iter().enumerate() {
            sum += count;
            let bound = BOUNDS.get(place).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let _ = writeln!(text, "{name}_bucket{{release=\"{release}\",le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(text, "{name}_sum{{release=\"{release}\"}} {}", counts.sum.as_secs_f64());
        let _ = writeln!(text, "{name}_count{{release=\"{release}\"}} {sum}");
        drop(counts);
        let mut response = reply(StatusCode::OK, text);
        response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}

fn reply(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_spread_evenly() {
        let share = Share::default();
        let hits: Vec<usize> = (0..100).filter(|_| share.hit(0.05)).collect();
        assert_eq!(hits, [19, 39, 59, 79, 99]);
        assert_eq!((0..1000).filter(|_| share.hit(0.5)).count(), 500);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let vars = |name: &str, value: &str| Behaviour::from_vars([(name.to_owned(), value.to_owned())]);
        assert!(vars("ERROR_RATIO", "5%").unwrap_err().contains("ERROR_RATIO=5%"));
        assert!(vars("HANG", "yes").is_err());
        assert_eq!(vars("DELAY_MS", "20").unwrap().delay, Duration::from_millis(20));
    }
}
