//! Streams of events, one JSON value a line: where rollouts stand, whenever that changes, and records as they are committed.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Api;
use super::problem::Problem;
use super::rollouts::unknown;
use super::wire::{Line, Standing};
use crate::core::preview::{RevertPlan, View};
use crate::core::record::Record;
use crate::shell::handle::Handle;

/// How often one rollout's standing is compared with what was sent.
const ONE: Duration = Duration::from_millis(100);
/// How often those of all rollouts are.
const ALL: Duration = Duration::from_secs(1);
/// How long a stream may be silent until an empty line shows that it lives.
const SILENCE: Duration = Duration::from_secs(15);

/// `GET /v1/events`.
pub(super) async fn all(State(api): State<Api>) -> Result<Response, Problem> {
    Feed::open(&api, None)
}

/// `GET /v1/rollouts/{namespace}/{name}/events`.
pub(super) async fn one(State(api): State<Api>, Path((namespace, name)): Path<(String, String)>) -> Result<Response, Problem> {
    let key = format!("{namespace}/{name}");
    api.handle.line(&key).ok_or_else(|| unknown(&key))?;
    Feed::open(&api, Some(key))
}

/// One reader's stream.
struct Feed {
    handle: Handle,
    key: Option<String>,
    sent: BTreeMap<String, Arc<(View, RevertPlan)>>,
    records: broadcast::Receiver<Arc<Record>>,
    tick: Interval,
    quiet: Duration,
    waiting: VecDeque<Line>,
    // Held as long as the stream lives.
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    fn open(api: &Api, key: Option<String>) -> Result<Response, Problem> {
        let permit = Arc::clone(&api.streams).try_acquire_owned();
        let permit = permit.map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many streams of events are open"))?;
        let mut tick = interval(if key.is_some() { ONE } else { ALL });
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let feed = Self {
            records: api.handle.records(),
            handle: api.handle.clone(),
            key,
            sent: BTreeMap::new(),
            tick,
            quiet: Duration::ZERO,
            waiting: VecDeque::new(),
            _permit: permit,
        };
        let lines = futures::stream::unfold(feed, |mut feed| async move {
            let bytes = feed.next().await?;
            Some((Ok::<_, Infallible>(bytes), feed))
        });
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
    }

    /// The next line; nothing if the rollout is gone.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                self.quiet = Duration::ZERO;
                let mut bytes = serde_json::to_vec(&line).ok()?;
                bytes.push(b'\n');
                return Some(bytes.into());
            }
            tokio::select! {
                record = self.records.recv() => match record {
                    Ok(record) => self.committed(&record),
                    Err(broadcast::error::RecvError::Lagged(missed)) => self.waiting.push_back(Line::Missed(missed)),
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                _ = self.tick.tick() => {
                    if self.key.as_ref().is_some_and(|key| self.handle.line(key).is_none()) {
                        return None;
                    }
                    self.standings();
                    self.quiet += self.tick.period();
                    if self.waiting.is_empty() && self.quiet >= SILENCE {
                        self.quiet = Duration::ZERO;
                        return Some(Bytes::from_static(b"\n"));
                    }
                }
            }
        }
    }

    fn committed(&mut self, record: &Record) {
        if self.key.as_ref().is_none_or(|key| *key == record.resource_target) {
            self.waiting.push_back(Line::Record(Box::new(record.clone())));
        }
    }

    /// Puts every standing that changed since it was sent in line.
    fn standings(&mut self) {
        let keys = self.key.clone().map_or_else(|| self.handle.keys(), |key| vec![key]);
        for key in keys {
            let Some(at) = self.handle.view(&key) else { continue };
            let known = self.sent.get(&key).is_some_and(|sent| Arc::ptr_eq(sent, &at) || **sent == *at);
            if !known {
                self.waiting.push_back(Line::Standing(Box::new(Standing {
                    view: at.0.clone(),
                    plan: at.1.clone(),
                    notes: self.handle.notes(&key),
                })));
            }
            self.sent.insert(key, at);
        }
    }
}
