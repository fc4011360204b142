//! What the API and the command line hold of a running controller.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::core::input::Input;
use crate::core::machine::Answer;
use crate::core::preview::{RevertPlan, View};
use crate::core::record::Record;

/// How long a fact may wait for room in a rollout's line.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// A fact for one rollout, with whoever waits for the answer.
#[derive(Debug)]
pub struct Message {
    /// The fact; boxed, for a line has room for dozens and is most often empty.
    pub input: Box<Input>,
    /// Who waits.
    pub answer: Option<oneshot::Sender<Answer>>,
}

/// The ends of one rollout's task.
#[derive(Debug, Clone)]
pub struct Line {
    /// Commands, deployments and alerts: read before anything else.
    pub urgent: mpsc::Sender<Message>,
    /// Where the rollout stands and what a revert would do; refreshed after each step.
    pub view: watch::Receiver<Arc<(View, RevertPlan)>>,
}

/// A running controller.
#[derive(Debug, Clone)]
pub struct Handle {
    lines: Arc<RwLock<BTreeMap<String, Line>>>,
    notes: Arc<RwLock<BTreeMap<String, Vec<String>>>>,
    records: broadcast::Sender<Arc<Record>>,
}

/// Why a fact did not reach a rollout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No such rollout.
    #[error("there is no rollout {0}; `backstop status` lists them")]
    Unknown(String),
    /// Its queue is full.
    #[error("{0} has too many requests waiting; try again")]
    Busy(String),
    /// Its task is ending, begins again, or cannot read its state.
    #[error("{0} is not looked after now; try again")]
    Gone(String),
}

impl Handle {
    /// With no rollouts yet.
    pub fn new() -> Self {
        Self { lines: Arc::default(), notes: Arc::default(), records: broadcast::channel(1024).0 }
    }

    /// Adds, or replaces, a rollout's line.
    pub fn connect(&self, key: String, line: Line) {
        self.lines.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, line);
    }

    /// Takes a rollout's line away.
    pub fn disconnect(&self, key: &str) {
        self.lines.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }

    /// Every rollout's name.
    pub fn keys(&self) -> Vec<String> {
        self.lines.read().unwrap_or_else(std::sync::PoisonError::into_inner).keys().cloned().collect()
    }

    /// Facts that no rollout has taken in yet, and the rollouts whose task has ended without being told to.
    pub fn health(&self) -> (usize, Vec<String>) {
        let lines = self.lines.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let waiting = lines.values().map(|line| line.urgent.max_capacity() - line.urgent.capacity()).sum();
        (waiting, lines.iter().filter(|(_, line)| line.urgent.is_closed()).map(|(key, _)| key.clone()).collect())
    }

    /// One rollout's line.
    pub fn line(&self, key: &str) -> Option<Line> {
        self.lines.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(key).cloned()
    }

    /// Where a rollout stands, and what a revert would do.
    pub fn view(&self, key: &str) -> Option<Arc<(View, RevertPlan)>> {
        self.line(key).map(|line| line.view.borrow().clone())
    }

    /// What people should know of a rollout beside where it stands: its document is not in force, say.
    pub fn notes(&self, key: &str) -> Vec<String> {
        self.notes.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    /// Takes other notes, by rollout, in place of all before.
    pub fn replace_notes(&self, notes: BTreeMap<String, Vec<String>>) {
        *self.notes.write().unwrap_or_else(std::sync::PoisonError::into_inner) = notes;
    }

    /// Sends a fact and waits for the machine's answer (only `Commanded` and `Deployed` have one).
    ///
    /// # Errors
    /// If there is no such rollout, or it cannot take the fact.
    pub async fn ask(&self, key: &str, input: Input) -> Result<Answer, SendError> {
        let line = self.line(key).ok_or_else(|| SendError::Unknown(key.to_owned()))?;
        let (answer, answered) = oneshot::channel();
        // In turn: whoever floods the line waits like everybody else, and turns nobody away.
        let sent = line.urgent.send_timeout(Message { input: Box::new(input), answer: Some(answer) }, TURN_WITHIN).await;
        sent.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => SendError::Busy(key.to_owned()),
            SendTimeoutError::Closed(_) => SendError::Gone(key.to_owned()),
        })?;
        answered.await.map_err(|_| SendError::Gone(key.to_owned()))
    }

    /// Sends a fact that nobody waits for.
    ///
    /// # Errors
    /// If there is no such rollout, or it cannot take the fact.
    pub fn tell(&self, key: &str, input: Input) -> Result<(), SendError> {
        let line = self.line(key).ok_or_else(|| SendError::Unknown(key.to_owned()))?;
        line.urgent.try_send(Message { input: Box::new(input), answer: None }).map_err(|error| refused(&error, key))
    }

    /// Records as they are committed, for `--watch`; a slow reader misses some.
    pub fn records(&self) -> broadcast::Receiver<Arc<Record>> {
        self.records.subscribe()
    }

    /// Publishes a committed record.
    pub fn publish(&self, record: Arc<Record>) {
        // Nobody may be listening.
        let _ = self.records.send(record);
    }
}

impl Default for Handle {
    fn default() -> Self {
        Self::new()
    }
}

fn refused(error: &TrySendError<Message>, key: &str) -> SendError {
    match error {
        TrySendError::Full(_) => SendError::Busy(key.to_owned()),
        TrySendError::Closed(_) => SendError::Gone(key.to_owned()),
    }
}
