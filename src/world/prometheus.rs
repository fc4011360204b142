//! A Prometheus, or what speaks its HTTP API (<https://prometheus.io/docs/prometheus/latest/querying/api/>).
//!
//! A look is one instant query of a range selector per counter, `requests_total{job="shop",release=~"a|b"}[5000ms]`: the
//! answer is the raw samples with their true scrape times, without extrapolation or lookback. All queries of a look are
//! evaluated at a time that is sent along: the source's own clock as [`SourceClock`] estimates it. Under load the queries of
//! many looks go together ([`batch`]).

mod answer;
mod batch;
mod budget;
mod clock;
mod promql;
pub mod survey;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use reqwest::{StatusCode, Url};

use self::answer::Row;
use self::batch::{Answer, Answered, Batches, Lead, Part};
use self::budget::{Budget, Permit};
use self::clock::SourceClock;
use super::endpoint::{self, Endpoint, Failure, address};
use super::series::canonical;
use crate::core::input::{Arm, LookFault, Looked, Role, Sample, Series, SignalId};
use crate::core::judge::signal::Selector;
use crate::core::spec;
use crate::core::work::LookPlan;
use crate::telemetry::work::work;

/// The longest time a query may take unless the source says otherwise.
const LONGEST: Duration = Duration::from_secs(10);

/// Scrape intervals that the first look reads.
const FIRST_INTERVALS: u32 = 5;

/// Scrape intervals that a look reads at most; what is older stays a gap. More than a checkpoint's 2,000.
const MOST_INTERVALS: u32 = 2_500;

/// A Prometheus API with its own connections, query budget and idea of its clock.
#[derive(Debug)]
pub struct Prometheus {
    query_url: Url,
    endpoint: Endpoint,
    interval: Duration,
    timeout: Duration,
    budget: Budget,
    batches: Batches,
    clock: SourceClock,
}

/// One query of a look and what it is read for.
struct Want<'a> {
    selector: &'a Selector,
    readers: Vec<(&'a SignalId, Role)>,
}

impl Prometheus {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// The URL, a header or a limit cannot be used; the text says which, and why.
    pub fn new(source: &spec::Prometheus) -> Result<Self, String> {
        let interval = source.scrape_interval.0;
        let timeout = source.timeout.map_or_else(|| interval.min(LONGEST), |span| span.0);
        if interval.is_zero() || timeout.is_zero() {
            return Err("`scrapeInterval` and `timeout` must be longer than nothing".to_owned());
        }
        let mut query_url = address(&source.url)?;
        let path = format!("{}/api/v1/query", query_url.path().trim_end_matches('/'));
        query_url.set_path(&path);
        Ok(Self {
            query_url,
            endpoint: Endpoint::new(source.auth.clone(), &source.headers)?,
            interval,
            timeout,
            budget: Budget::new(source.queries_per_second, source.concurrency)?,
            batches: Batches::default(),
            clock: SourceClock::default(),
        })
    }

    /// Reads the raw samples after `plan.since`. Every fault is a value; there are no samples beside one.
    pub async fn look(&self, plan: &LookPlan) -> Looked {
        self.read(plan).await.unwrap_or_else(|fault| Looked {
            source_now: self.clock.estimate().unwrap_or_default(),
            samples: BTreeMap::new(),
            fault: Some(fault),
        })
    }

    /// The value of a query that gives one number: a scalar, or a vector of one element.
    ///
    /// # Errors
    /// As for a look; no element and not a number are [`LookFault::Invalid`], several are [`LookFault::Rejected`].
    pub async fn scalar(&self, promql: &str) -> Result<f64, LookFault> {
        let permit = self.budget.permit(self.timeout).await.map_err(LookFault::Down)?;
        answer::number(self.query(promql, None, permit).await?)
    }

    async fn read(&self, plan: &LookPlan) -> Result<Looked, LookFault> {
        let now = self.source_now().await?;
        let since = self.since(plan.since, now)?;
        let wants = wants(plan);
        // All are awaited, even if one fails: others may have joined them.
        let answers = join_all(wants.iter().map(|want| self.rows(want.selector, plan, since, now))).await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        // One cut through all counters: what the earliest evaluation could not see is left to the next look.
        let cut = answers.iter().map(|answered| answered.at).min().unwrap_or(now);
        let mut samples = empty(plan);
        for (want, answered) in wants.iter().zip(answers) {
            for (arm, value) in plan.arms.keys().flat_map(|arm| plan.values(*arm).into_iter().map(move |value| (arm, value))) {
                let rows = answered.rows.get(value).map_or(&[][..], Vec::as_slice);
                for (labels, read) in own(rows, want.selector, since, cut)? {
                    for (signal, role) in &want.readers {
                        let series = Series { role: *role, labels: labels.clone(), samples: read.clone() };
                        samples.entry((*signal).clone()).or_default().entry(*arm).or_default().push(series);
                    }
                }
            }
        }
        Ok(Looked { source_now: cut, samples, fault: None })
    }

    /// The rows of a selector's batch; [`own`] picks from them.
    async fn rows(&self, selector: &Selector, plan: &LookPlan, since: i64, now: i64) -> Answer {
        if plan.all_values().next().is_none() {
            return Ok(Arc::new(Answered { at: now, rows: BTreeMap::new() }));
        }
        let intervals = u128::from((now - since).unsigned_abs()) / self.interval.as_millis().max(1);
        loop {
            match self.batches.join(selector, plan, since, u32::try_from(intervals).unwrap_or(u32::MAX)) {
                Part::Lead(lead) => return self.lead(lead, now).await,
                Part::Follow(mut answer) => {
                    let told = tokio::time::timeout(self.timeout, answer.wait_for(Option::is_some)).await;
                    match told.map(|told| told.ok().and_then(|answer| answer.clone())) {
                        Ok(Some(answer)) => return answer,
                        // The look that led was cancelled: begin again.
                        Ok(None) => {}
                        Err(_) => return Err(LookFault::Down("no answer in time to a query shared with other looks".to_owned())),
                    }
                }
            }
        }
    }

    /// Waits for the batch's turn, sends it, and tells everybody who joined.
    async fn lead(&self, lead: Lead<'_>, now: i64) -> Answer {
        let permit = self.budget.permit(self.timeout).await;
        let batch = lead.close().ok_or_else(|| LookFault::Down("the query was given up".to_owned()))?;
        let answer = match permit {
            Err(what) => Err(LookFault::Down(what)),
            Ok(permit) => {
                let at = self.clock.estimate().unwrap_or(now);
                let promql = batch.promql((at - batch.since).max(1));
                let rows = self.query(&promql, Some(at), permit).await.and_then(answer::matrix);
                rows.map(|rows| Arc::new(batch.group(rows, at)))
            }
        };
        batch.tell(answer.clone());
        answer
    }

    /// The source's clock, asked again when the estimate is old.
    async fn source_now(&self) -> Result<i64, LookFault> {
        if let Some(now) = self.clock.fresh() {
            return Ok(now);
        }
        let asking = tokio::time::timeout(self.timeout, self.clock.asking());
        let _turn = asking.await.map_err(|_| LookFault::Down("the source's clock cannot be read: no answer in time".to_owned()))?;
        // Somebody else may have asked while this look waited for its turn.
        if let Some(now) = self.clock.fresh() {
            return Ok(now);
        }
        self.scalar("time()").await.map(|seconds| self.clock.set(seconds))
    }

    /// From when on samples are read.
    fn since(&self, since: Option<i64>, now: i64) -> Result<i64, LookFault> {
        let intervals = |count: u32| i64::try_from(self.interval.saturating_mul(count).as_millis()).unwrap_or(i64::MAX);
        match since {
            None => Ok(now.saturating_sub(intervals(FIRST_INTERVALS))),
            Some(since) if since > now.saturating_add(intervals(1)) => Err(LookFault::Invalid(format!(
                "the source's clock went back: it shows {now} ms, samples up to {since} ms were read before"
            ))),
            Some(since) => Ok(since.max(now.saturating_sub(intervals(MOST_INTERVALS)))),
        }
    }

    /// One instant query within the deadline that the permit was asked with.
    async fn query(&self, promql: &str, at: Option<i64>, permit: Permit<'_>) -> Result<answer::Data, LookFault> {
        work().queries.inc();
        let left = permit.left();
        let mut form = vec![
            ("query", promql.to_owned()),
            ("timeout", format!("{}ms", left.as_millis().max(1))),
            // Thanos: no partial and no downsampled answers. VictoriaMetrics: true times. Others ignore them.
            ("partial_response", "false".to_owned()),
            ("max_source_resolution", "0s".to_owned()),
            ("nocache", "1".to_owned()),
        ];
        if let Some(at) = at {
            form.push(("time", format!("{}.{:03}", at.div_euclid(1000), at.rem_euclid(1000))));
        }
        let request = self.endpoint.client().post(self.query_url.clone()).form(&form);
        let answer = self.endpoint.send(request, left).await.map_err(|failure| match failure {
            Failure::Unreachable(what) => LookFault::Down(what),
            Failure::TooLarge => LookFault::Invalid("the answer is larger than 8 MiB: narrow the selectors".to_owned()),
        })?;
        self.clock.check(&answer.headers);
        data(&answer)
    }
}

/// The samples of each series in the body of an answer to a query for a range.
///
/// # Errors
/// What cannot be trusted, as for a look.
pub fn samples(body: &[u8]) -> Result<Vec<Vec<Sample>>, LookFault> {
    answer::matrix(answer::data(body)?)?.iter().map(Row::samples).collect()
}

/// The data of an answer, or the fault that its status stands for.
fn data(answer: &endpoint::Answer) -> Result<answer::Data, LookFault> {
    let said = || answer::error_text(&answer.body);
    match answer.status {
        StatusCode::OK => answer::data(&answer.body),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Err(LookFault::Rejected(said())),
        StatusCode::UNAUTHORIZED => Err(LookFault::Down(format!("401: the source wants other credentials: {}", said()))),
        StatusCode::FORBIDDEN => Err(LookFault::Down(format!("403: the credentials may not query this source: {}", said()))),
        StatusCode::NOT_FOUND => Err(LookFault::Down("404: no Prometheus API at this URL; `/api/v1/query` is added to it".to_owned())),
        status if status.is_redirection() => Err(LookFault::Down(format!(
            "{}: the source redirects, which is not followed; name the final address in the GuardSource",
            status.as_u16()
        ))),
        status => Err(LookFault::Down(format!("{}: {}", status.as_u16(), said()))),
    }
}

/// The queries of a look: one per selector, whoever reads it.
fn wants(plan: &LookPlan) -> Vec<Want<'_>> {
    let mut wants: Vec<Want<'_>> = Vec::new();
    for signal in plan.signals.values() {
        for (role, selector) in &signal.counters {
            let reader = (&signal.id, *role);
            match wants.iter_mut().find(|want| want.selector == selector) {
                Some(want) => want.readers.push(reader),
                None => wants.push(Want { selector, readers: vec![reader] }),
            }
        }
    }
    wants
}

/// An answer in which every arm of every signal has no series.
pub(super) fn empty(plan: &LookPlan) -> BTreeMap<SignalId, BTreeMap<Arm, Vec<Series>>> {
    plan.signals.keys().map(|signal| (signal.clone(), plan.arms.keys().map(|arm| (*arm, Vec::new())).collect())).collect()
}

/// The selector's own among the rows of one release, each under its canonical labels, with the samples after `since` up to `cut`.
fn own(rows: &[Row], selector: &Selector, since: i64, cut: i64) -> Result<BTreeMap<String, Vec<Sample>>, LookFault> {
    let mut own: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for row in rows.iter().filter(|row| batch::is_own(row, selector)) {
        let labels = canonical(row.metric.iter().filter(|(name, _)| *name != "__name__").map(|(name, value)| (&**name, &**value)));
        let read: Vec<Sample> = row.samples()?.into_iter().filter(|sample| sample.at > since && sample.at <= cut).collect();
        if read.is_empty() {
            continue;
        }
        let known = own.entry(labels).or_default();
        let is_merged = !known.is_empty();
        known.extend(read);
        // One bucket may have two spellings of its bound around an upgrade: one series then, but never at one time.
        known.sort_by_key(|sample| sample.at);
        if is_merged && known.windows(2).any(|pair| pair[0].at == pair[1].at) {
            return Err(LookFault::Invalid(format!("two series of `{}` share their labels", selector.metric)));
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests;
