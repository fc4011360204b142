//! Exposition endpoints scraped directly, by default each second.
//!
//! One task per endpoint fetches and reads it, whoever looks; looks are answered from the recent samples in memory. A
//! sample's time is when its scrape began, on the scraper's own clock: our wall clock when it started, carried on by the
//! monotonic one, so that it never steps. A scrape that failed or cannot be trusted leaves a gap, never a zero.
//!
//! Unlike Prometheus nothing here adds `job` or `instance`: selectors see the labels that the endpoint writes. To tell the
//! same series of several endpoints apart each gets the label `scrape_url`.

mod ring;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::ring::Watches;
use super::clock;
use super::endpoint::{Answer, Endpoint, Failure, address, excerpt};
use super::exposition::{self, Body, Format};
use crate::core::input::{LookFault, Looked};
use crate::core::spec;
use crate::core::work::LookPlan;

/// Text formats only; protobuf is not read.
const FORMATS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// The longest time a scrape may take.
const LONGEST: Duration = Duration::from_secs(10);

/// Scrapes that the first look reads.
const FIRST_SCRAPES: u32 = 5;

/// How long what nobody asks for is kept: this many scrapes, but not less than [`FORGET`].
const FORGET_SCRAPES: u32 = 60;

/// How long what nobody asks for is kept at least.
const FORGET: Duration = Duration::from_mins(1);

/// How long a look waits for the first scrape of what it is the first to read.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The scraper of one source. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Scraper {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    every: Duration,
    endpoint: Endpoint,
    urls: Vec<Url>,
    clock: OwnClock,
    state: Mutex<State>,
    /// Changes whenever a scrape has ended.
    ended: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    watches: Watches,
    targets: Vec<Target>,
}

/// What is known of one endpoint. Times are when scrapes began.
#[derive(Debug, Clone, Default)]
struct Target {
    good_at: Option<i64>,
    ended_at: Option<i64>,
    /// Why the last scrape failed; absent if it did not.
    failure: Option<LookFault>,
}

/// Our wall clock at the start, carried on by the monotonic one.
#[derive(Debug)]
struct OwnClock {
    start: Instant,
    wall: i64,
}

impl OwnClock {
    fn now(&self) -> i64 {
        let passed = clock::instant().saturating_duration_since(self.start);
        self.wall.saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Scraper {
    /// Starts scraping; endpoints are left alone while nobody looks. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// No URL, an unusable or repeated one, or an interval of 0; the text says which, and why.
    pub fn start(source: &spec::Scrape) -> Result<Self, String> {
        if source.urls.is_empty() || source.every.0.is_zero() {
            return Err("a scrape source needs at least one URL and an interval (`every`) longer than nothing".to_owned());
        }
        let urls = source.urls.iter().map(|url| address(url)).collect::<Result<Vec<_>, _>>()?;
        if let Some((_, url)) = urls.iter().enumerate().find(|(index, url)| urls[..*index].contains(url)) {
            return Err(format!("`{url}` appears twice: its requests would be counted twice"));
        }
        let shared = Arc::new(Shared {
            every: source.every.0,
            endpoint: Endpoint::new(source.auth.clone(), [])?,
            clock: OwnClock { start: clock::instant(), wall: clock::wall().as_millisecond() },
            state: Mutex::new(State { watches: Watches::default(), targets: vec![Target::default(); urls.len()] }),
            ended: watch::Sender::new(()),
            urls,
        });
        let mut tasks = JoinSet::new();
        for target in 0..shared.urls.len() {
            tasks.spawn(Arc::clone(&shared).scrape_forever(target));
        }
        Ok(Self { shared, _tasks: tasks })
    }

    /// The samples after `plan.since` of what has been scraped. What nobody read before is scraped first.
    pub async fn look(&self, plan: &LookPlan) -> Looked {
        let mut ended = self.shared.ended.subscribe();
        let now = self.shared.clock.now();
        let is_new = match self.shared.state().watches.register(plan, now) {
            Ok(is_new) => is_new,
            Err(what) => return Looked { source_now: now, fault: Some(LookFault::Rejected(what)), ..Looked::default() },
        };
        if is_new {
            // Out of patience is no fault: the answer then says what is there so far.
            let _ = tokio::time::timeout(FIRST_WAIT, async {
                while self.shared.state().targets.iter().any(|target| target.ended_at.is_none_or(|at| at < now)) {
                    if ended.changed().await.is_err() {
                        break;
                    }
                }
            })
            .await;
        }
        self.shared.answer(plan)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, plan: &LookPlan) -> Looked {
        let state = self.state();
        let now = self.clock.now();
        let since = plan.since.unwrap_or_else(|| now.saturating_sub(millis(self.every.saturating_mul(FIRST_SCRAPES))));
        if let Some(fault) = state.fault(&self.urls, since) {
            return Looked { source_now: now, samples: BTreeMap::new(), fault: Some(fault) };
        }
        let mut samples = BTreeMap::new();
        for signal in plan.signals.values() {
            let mut arms = BTreeMap::new();
            for arm in plan.arms.keys() {
                let mut found = Vec::new();
                let values = plan.values(*arm);
                for ((role, selector), value) in signal.counters.iter().flat_map(|one| values.iter().map(move |value| (one, value))) {
                    let read = state.watches.read(selector, &plan.arm_label, value, since).into_iter().flatten();
                    found.extend(read.filter(|(_, read)| !read.is_empty()).map(|(labels, read)| ring::series(*role, labels, read)));
                }
                arms.insert(*arm, found);
            }
            samples.insert(signal.id.clone(), arms);
        }
        Looked { source_now: now, samples, fault: None }
    }

    async fn scrape_forever(self: Arc<Self>, target: usize) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for tick in 0_u64.. {
            ticks.tick().await;
            // One task for all, and not each time: it walks everything that is kept.
            if target == 0 && tick % 10 == 0 {
                self.forget();
            }
            if !self.state().watches.is_empty() {
                self.scrape(target).await;
            }
        }
    }

    fn forget(&self) {
        let keep = self.every.saturating_mul(FORGET_SCRAPES).max(FORGET);
        self.state().watches.forget(self.clock.now().saturating_sub(millis(keep)));
    }

    /// One scrape: fetched and read without the lock, then taken as a whole or not at all.
    async fn scrape(&self, target: usize) {
        let url = &self.urls[target];
        let started = self.clock.now();
        let request = self.endpoint.client().get(url.clone()).header(ACCEPT, FORMATS);
        let answer = self.endpoint.send(request, self.every.min(LONGEST)).await;
        let outcome = answer.map_err(unanswered).and_then(|answer| self.take(&answer, url, started));
        if let Err(fault) = &outcome {
            tracing::debug!(url = %shown(url), ?fault, "scrape failed");
        }
        let mut state = self.state();
        let known = &mut state.targets[target];
        known.ended_at = Some(started);
        known.good_at = if outcome.is_ok() { Some(started) } else { known.good_at };
        known.failure = outcome.err();
        drop(state);
        self.ended.send_replace(());
    }

    fn take(&self, answer: &Answer, url: &Url, started: i64) -> Result<(), LookFault> {
        let format = format(answer)?;
        let watched: Vec<String> = self.state().watches.metrics().cloned().collect();
        let body = Body { bytes: &answer.body, format, complete: answer.complete };
        let exposition = exposition::parse(body, |name| watched.binary_search_by(|known| known.as_str().cmp(name)).is_ok())
            .map_err(|invalid| LookFault::Invalid(excerpt(&invalid.to_string())))?;
        if exposition.malformed > 0 {
            tracing::debug!(url = %shown(url), lines = exposition.malformed, "lines of metrics that nobody watches cannot be read");
        }
        let read = self.clock.now();
        self.state().watches.ingest(&exposition, url.as_str(), started, read).map_err(LookFault::Invalid)
    }
}

impl State {
    /// Why nothing can be said about the time after `since`: every endpoint's last scrape failed, and none was good since.
    fn fault(&self, urls: &[Url], since: i64) -> Option<LookFault> {
        if self.targets.iter().any(|target| target.failure.is_none() || target.good_at.is_some_and(|at| at > since)) {
            return None;
        }
        let texts: Vec<String> = self
            .targets
            .iter()
            .zip(urls)
            .filter_map(|(target, url)| target.failure.as_ref().map(|fault| format!("{}: {}", shown(url), text(fault))))
            .collect();
        let more = if texts.len() > 3 { format!(" (and {} more)", texts.len() - 3) } else { String::new() };
        let text = format!("{}{more}", texts[..texts.len().min(3)].join("; "));
        let is_invalid = self.targets.iter().any(|target| matches!(target.failure, Some(LookFault::Invalid(_))));
        Some(if is_invalid { LookFault::Invalid(text) } else { LookFault::Down(text) })
    }
}

fn text(fault: &LookFault) -> &str {
    let (LookFault::Down(text) | LookFault::Partial(text) | LookFault::Invalid(text) | LookFault::Rejected(text)) = fault;
    text
}

fn unanswered(failure: Failure) -> LookFault {
    match failure {
        Failure::Unreachable(what) => LookFault::Down(what),
        Failure::TooLarge => LookFault::Invalid("the body is larger than 8 MiB".to_owned()),
    }
}

/// The format of an answer by its status and content type.
fn format(answer: &Answer) -> Result<Format, LookFault> {
    match answer.status {
        StatusCode::OK => {}
        status if status.is_redirection() => {
            let text = format!("{}: redirects are not followed; name the final address in the GuardSource", status.as_u16());
            return Err(LookFault::Down(text));
        }
        status => return Err(LookFault::Down(format!("status {}", status.as_u16()))),
    }
    let content_type = answer.headers.get(CONTENT_TYPE).map_or("text/plain", |value| value.to_str().unwrap_or("?"));
    match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/openmetrics-text" => Ok(Format::OpenMetrics),
        "text/plain" | "" => Ok(Format::Text),
        other => Err(LookFault::Invalid(format!("the content type `{}` is no text exposition", excerpt(other)))),
    }
}

/// An address for messages: without its query, which may be private.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
