//! Queries of many looks in one.
//!
//! While a query waits for its turn in the budget, others of the same shape join it: the same metric and matchers, where
//! values of plain `label="value"` matchers may differ. They become `label=~"a|b|…"`, and each look picks its own rows from
//! the answer. With an idle budget nothing waits and each query goes alone; under load batches grow by themselves, so that
//! the number of queries per second does not depend on the number of rollouts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::answer::Row;
use super::promql;
use crate::core::input::LookFault;
use crate::core::judge::signal::{MatchOp, Matcher, Selector};
use crate::core::work::LookPlan;
use crate::world::series::BOUND;

/// Looks in one query at most.
const MEMBERS: u32 = 200;

/// Looks × scrape intervals in one query at most, so that long ranges do not make answers too large.
const MEMBER_INTERVALS: u32 = 4_000;

/// What queries must share to go together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    metric: String,
    arm_label: String,
    /// The matchers that cannot be united, as `PromQL`.
    fixed: String,
    /// The labels whose values are united.
    united: Vec<String>,
    /// The range's order of magnitude in intervals, so that one look after a long outage does not drag others along.
    octave: u32,
}

/// The rows of a batch by release, and the source's time of its evaluation.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) at: i64,
    pub(super) rows: BTreeMap<String, Vec<Row>>,
}

/// What members of a batch wait for.
pub(super) type Answer = Result<std::sync::Arc<Answered>, LookFault>;

/// A query that others may still join.
#[derive(Debug)]
pub(super) struct Batch {
    shape: Shape,
    members: u32,
    values: BTreeMap<String, BTreeSet<String>>,
    releases: BTreeSet<String>,
    /// The earliest time that a member wants samples after.
    pub(super) since: i64,
    answer: watch::Sender<Option<Answer>>,
}

/// All batches that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    batches: BTreeMap<u64, Batch>,
    open: BTreeMap<Shape, u64>,
}

/// The part that one look has in a batch.
pub(super) enum Part<'a> {
    /// It began the batch and sends the query.
    Lead(Lead<'a>),
    /// It waits for the answer.
    Follow(watch::Receiver<Option<Answer>>),
}

/// The duty to send a batch. If it is dropped the batch is gone, and its followers are told by a closed channel.
pub(super) struct Lead<'a> {
    batches: &'a Batches,
    id: u64,
}

impl Batches {
    /// Joins a waiting batch, or begins one.
    pub(super) fn join(&self, selector: &Selector, plan: &LookPlan, since: i64, intervals: u32) -> Part<'_> {
        let (united, fixed): (Vec<&Matcher>, Vec<&Matcher>) = selector.matchers.iter().partition(|matcher| is_united(matcher));
        let mut labels: Vec<String> = united.iter().map(|matcher| matcher.label.clone()).collect();
        labels.sort();
        labels.dedup();
        let octave = intervals.max(1).ilog2();
        let shape = Shape {
            metric: selector.metric.clone(),
            arm_label: plan.arm_label.clone(),
            fixed: promql::matchers(&fixed),
            united: labels,
            octave,
        };
        let mut waiting = self.lock();
        let most = (MEMBER_INTERVALS >> octave).clamp(1, MEMBERS);
        let open = waiting.open.get(&shape).copied().filter(|id| waiting.batches.get(id).is_some_and(|batch| batch.members < most));
        let id = open.unwrap_or_else(|| waiting.begin(shape, since));
        let Some(batch) = waiting.batches.get_mut(&id) else { unreachable!("a batch that is open or has just begun waits") };
        batch.members += 1;
        batch.since = batch.since.min(since);
        batch.releases.extend(plan.all_values().map(str::to_owned));
        for matcher in united {
            batch.values.entry(matcher.label.clone()).or_default().insert(matcher.value.clone());
        }
        if open.is_some() { Part::Follow(batch.answer.subscribe()) } else { Part::Lead(Lead { batches: self, id }) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn begin(&mut self, shape: Shape, since: i64) -> u64 {
        self.next += 1;
        self.open.insert(shape.clone(), self.next);
        let (values, releases, answer) = (BTreeMap::new(), BTreeSet::new(), watch::Sender::new(None));
        self.batches.insert(self.next, Batch { shape, members: 0, values, releases, since, answer });
        self.next
    }

    fn remove(&mut self, id: u64) -> Option<Batch> {
        let batch = self.batches.remove(&id)?;
        if self.open.get(&batch.shape) == Some(&id) {
            self.open.remove(&batch.shape);
        }
        Some(batch)
    }
}

impl Lead<'_> {
    /// Closes the batch: nobody joins it any more.
    pub(super) fn close(self) -> Option<Batch> {
        self.batches.lock().remove(self.id)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.batches.lock().remove(self.id);
    }
}

impl Batch {
    /// The query over the last `range` milliseconds.
    pub(super) fn promql(&self, range: i64) -> String {
        let Shape { metric, arm_label, fixed, .. } = &self.shape;
        promql::range_selector(metric, fixed, &self.values, (arm_label, &self.releases), range)
    }

    /// Groups the rows of the answer by release.
    pub(super) fn group(&self, rows: Vec<Row>, at: i64) -> Answered {
        let mut grouped: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in rows {
            let release = row.metric.get(&self.shape.arm_label).cloned().unwrap_or_default();
            grouped.entry(release).or_default().push(row);
        }
        Answered { at, rows: grouped }
    }

    /// Tells the followers.
    pub(super) fn tell(&self, answer: Answer) {
        self.answer.send_replace(Some(answer));
    }
}

/// Whether a row of a batch belongs to a member's selector. What is not united is the same for all members.
pub(super) fn is_own(row: &Row, selector: &Selector) -> bool {
    selector.matchers.iter().filter(|matcher| is_united(matcher)).all(|matcher| row.metric.get(&matcher.label) == Some(&matcher.value))
}

/// Whether a matcher's value may be united with others. An empty value also means an absent label; bounds have spellings.
fn is_united(matcher: &Matcher) -> bool {
    matcher.op == MatchOp::Equal && !matcher.value.is_empty() && matcher.label != BOUND
}
