//! Exposition endpoints scraped directly, by default each second.
//!
//! One task per endpoint fetches and reads it, whoever looks; looks are answered from the recent samples in memory. A
//! sample's time is when its scrape began, on the scraper's own clock: our wall clock when it started, carried on by the
//! monotonic one, so that it never steps. A scrape that failed or cannot be trusted leaves a gap, never a zero.
//!
//! Unlike Prometheus nothing here adds `job` or `instance`: selectors see the labels that the endpoint writes. To tell the
//! same series of several endpoints apart each gets the label `scrape_url`. Those of a pod also get `namespace` and `pod`,
//! whatever it says itself: which arm it belongs to is not its own word. Pods are scraped while somebody looks at them.

mod ring;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::ring::Watches;
use super::clock;
use super::endpoint::{Answer, Endpoint, Failure, address, excerpt, is_link_local};
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

/// How long a pod is scraped that nobody looks at: this many scrapes, but not less than [`LEAVE`].
const LEAVE_SCRAPES: u32 = 10;

/// How long a pod is scraped at least that nobody looks at.
const LEAVE: Duration = Duration::from_secs(10);

/// Members of a workload that a look is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods {
    /// Their namespace.
    pub namespace: String,
    /// Their addresses, by name.
    pub addresses: BTreeMap<String, IpAddr>,
}

/// The scraper of one source. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Scraper {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    every: Duration,
    endpoint: Endpoint,
    pods: Option<spec::PodEndpoint>,
    clock: OwnClock,
    state: Mutex<State>,
    /// Changes whenever a scrape has ended.
    ended: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    watches: Watches,
    targets: BTreeMap<Place, Target>,
}

/// What is scraped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    url: Url,
    /// Namespace, name and address, of a pod.
    pod: Option<(String, String, IpAddr)>,
}

/// What is known of one endpoint. Times are when scrapes began.
#[derive(Debug, Clone, Default)]
struct Target {
    good_at: Option<i64>,
    ended_at: Option<i64>,
    /// Why the last scrape failed; absent if it did not.
    failure: Option<LookFault>,
    /// When somebody looked last.
    asked_at: i64,
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
        if source.urls.is_empty() == source.pods.is_none() || source.every.0.is_zero() {
            return Err("a scrape source needs URLs or `pods`, one of them, and an interval (`every`) longer than nothing".to_owned());
        }
        let mut targets = BTreeMap::new();
        for url in &source.urls {
            let place = Place { url: address(url)?, pod: None };
            if targets.insert(place, Target::default()).is_some() {
                return Err(format!("`{url}` appears twice: its requests would be counted twice"));
            }
        }
        let places: Vec<Place> = targets.keys().cloned().collect();
        let shared = Arc::new(Shared {
            every: source.every.0,
            endpoint: Endpoint::new(source.auth.clone(), [])?,
            pods: source.pods.clone(),
            clock: OwnClock { start: clock::instant(), wall: clock::wall().as_millisecond() },
            state: Mutex::new(State { watches: Watches::default(), targets }),
            ended: watch::Sender::new(()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).forget_forever());
        for place in places {
            tasks.spawn(Arc::clone(&shared).scrape_forever(place));
        }
        Ok(Self { shared, tasks: Mutex::new(tasks) })
    }

    /// Has these pods scraped from now on, while somebody looks at them; nothing where URLs are scraped.
    fn follow(&self, pods: &Pods) {
        let Some(endpoint) = &self.shared.pods else { return };
        let now = self.shared.clock.now();
        for (name, address) in pods.addresses.iter().filter(|(_, address)| is_a_pods(address)) {
            let Ok(url) = format!("http://{}{}", SocketAddr::new(*address, endpoint.port), endpoint.path).parse() else { continue };
            let place = Place { url, pod: Some((pods.namespace.clone(), name.clone(), *address)) };
            let mut state = self.shared.state();
            let is_new = !state.targets.contains_key(&place);
            state.targets.entry(place.clone()).or_default().asked_at = now;
            drop(state);
            if is_new {
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                // What has ended is not kept.
                while tasks.try_join_next().is_some() {}
                tasks.spawn(Arc::clone(&self.shared).scrape_forever(place));
            }
        }
    }

    /// The samples after `plan.since` of what has been scraped. What nobody read before is scraped first. Where pods are scraped it is
    /// these: the members that the plan names.
    pub async fn look(&self, plan: &LookPlan, pods: &Pods) -> Looked {
        self.follow(pods);
        let mut ended = self.shared.ended.subscribe();
        let now = self.shared.clock.now();
        let is_new = match self.shared.state().watches.register(plan, now) {
            Ok(is_new) => is_new,
            Err(what) => return Looked { source_now: now, fault: Some(LookFault::Rejected(what)), ..Looked::default() },
        };
        if is_new {
            // Out of patience is no fault: the answer then says what is there so far.
            let _ = tokio::time::timeout(FIRST_WAIT, async {
                while self.shared.state().of(pods).any(|(_, target)| target.ended_at.is_none_or(|at| at < now)) {
                    if ended.changed().await.is_err() {
                        break;
                    }
                }
            })
            .await;
        }
        self.shared.answer(plan, pods)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, plan: &LookPlan, pods: &Pods) -> Looked {
        let state = self.state();
        let now = self.clock.now();
        let since = plan.since.unwrap_or_else(|| now.saturating_sub(millis(self.every.saturating_mul(FIRST_SCRAPES))));
        if let Some(fault) = state.fault(pods, since) {
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

    async fn forget_forever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.every.saturating_mul(10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.forget();
        }
    }

    /// Scrapes one endpoint, until it is a pod that nobody looks at any more.
    async fn scrape_forever(self: Arc<Self>, place: Place) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            match self.is_wanted(&place) {
                Some(true) => self.scrape(&place).await,
                Some(false) => {}
                None => return,
            }
        }
    }

    /// Whether somebody looks at what is scraped here; nothing if the endpoint is left for good.
    fn is_wanted(&self, place: &Place) -> Option<bool> {
        let state = self.state();
        state.targets.contains_key(place).then(|| !state.watches.is_empty())
    }

    fn forget(&self) {
        let before = |scrapes: u32, least: Duration| self.clock.now().saturating_sub(millis(self.every.saturating_mul(scrapes).max(least)));
        let mut state = self.state();
        state.watches.forget(before(FORGET_SCRAPES, FORGET));
        let left = before(LEAVE_SCRAPES, LEAVE);
        state.targets.retain(|place, target| place.pod.is_none() || target.asked_at >= left);
    }

    /// One scrape: fetched and read without the lock, then taken as a whole or not at all.
    async fn scrape(&self, place: &Place) {
        let started = self.clock.now();
        let request = self.endpoint.client().get(place.url.clone()).header(ACCEPT, FORMATS);
        let answer = self.endpoint.send(request, self.every.min(LONGEST)).await;
        let outcome = answer.map_err(unanswered).and_then(|answer| self.take(&answer, place, started));
        if let Err(fault) = &outcome {
            tracing::debug!(url = %shown(&place.url), ?fault, "scrape failed");
        }
        let mut state = self.state();
        if let Some(known) = state.targets.get_mut(place) {
            known.ended_at = Some(started);
            known.good_at = if outcome.is_ok() { Some(started) } else { known.good_at };
            known.failure = outcome.err();
        }
        drop(state);
        self.ended.send_replace(());
    }

    fn take(&self, answer: &Answer, place: &Place, started: i64) -> Result<(), LookFault> {
        let format = format(answer)?;
        let watched: Vec<String> = self.state().watches.metrics().cloned().collect();
        let body = Body { bytes: &answer.body, format, complete: answer.complete };
        let mut exposition = exposition::parse(body, |name| watched.binary_search_by(|known| known.as_str().cmp(name)).is_ok())
            .map_err(|invalid| LookFault::Invalid(excerpt(&invalid.to_string())))?;
        if exposition.malformed > 0 {
            tracing::debug!(url = %shown(&place.url), lines = exposition.malformed, "lines of metrics that nobody watches cannot be read");
        }
        if let Some((namespace, pod, _)) = &place.pod {
            exposition.relabel(&[("namespace", namespace), ("pod", pod)]);
        }
        let read = self.clock.now();
        self.state().watches.ingest(&exposition, place.url.as_str(), started, read).map_err(LookFault::Invalid)
    }
}

impl State {
    /// What a look reads.
    fn of<'a>(&'a self, pods: &'a Pods) -> impl Iterator<Item = (&'a Place, &'a Target)> {
        self.targets.iter().filter(move |(place, _)| match &place.pod {
            Some((namespace, pod, address)) => *namespace == pods.namespace && pods.addresses.get(pod) == Some(address),
            None => true,
        })
    }

    /// Why nothing can be said about the time after `since`: every endpoint's last scrape failed, and none was good since.
    fn fault(&self, pods: &Pods, since: i64) -> Option<LookFault> {
        let failures: Vec<(&Place, &LookFault)> =
            self.of(pods).filter_map(|(place, target)| target.failure.as_ref().map(|fault| (place, fault))).collect();
        let speaks = |target: &Target| target.failure.is_none() || target.good_at.is_some_and(|at| at > since);
        if failures.is_empty() || self.of(pods).any(|(_, target)| speaks(target)) {
            return None;
        }
        let texts: Vec<String> = failures.iter().map(|(place, fault)| format!("{}: {}", shown(&place.url), text(fault))).collect();
        let more = if texts.len() > 3 { format!(" (and {} more)", texts.len() - 3) } else { String::new() };
        let text = format!("{}{more}", texts[..texts.len().min(3)].join("; "));
        let is_invalid = failures.iter().any(|(_, fault)| matches!(fault, LookFault::Invalid(_)));
        Some(if is_invalid { LookFault::Invalid(text) } else { LookFault::Down(text) })
    }
}

/// Whether a pod may have this address: none of a machine's own, nor one in another guise.
fn is_a_pods(address: &IpAddr) -> bool {
    let is_mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !is_link_local(address) && !address.is_unspecified() && !is_mapped
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
