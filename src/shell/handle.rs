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

    /// Sends facts that nobody waits for, in their order, each once there is room for it. All are sent within 5 s, or the rest is not.
    ///
    /// # Errors
    /// If there is no such rollout, or it cannot take them all.
    pub async fn tell_all(&self, key: &str, inputs: Vec<Input>) -> Result<(), SendError> {
        let line = self.line(key).ok_or_else(|| SendError::Unknown(key.to_owned()))?;
        let sent = async {
            for input in inputs {
                line.urgent.send(Message { input: Box::new(input), answer: None }).await.map_err(|_| SendError::Gone(key.to_owned()))?;
            }
            Ok(())
        };
        tokio::time::timeout(TURN_WITHIN, sent).await.unwrap_or_else(|_| Err(SendError::Busy(key.to_owned())))
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::input::Observed;
    use crate::core::spec::GuardedRollout;
    use crate::core::state::State;

    impl Handle {
        /// Connects a rollout that nobody looks after, with room for `places` facts, and hands out what arrives there.
        pub(crate) fn connect_to_nobody(&self, key: &str, places: usize) -> mpsc::Receiver<Message> {
            let spec: GuardedRollout = serde_json::from_value(serde_json::json!({
                "workload": {"process": {"listen": "127.0.0.1:0", "artifacts": {"layout": {"path": "artifacts"}}}},
                "arms": {"by": "route"},
                "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "bad", "total": "all"}}],
                "strategy": {"canary": {"steps": [{"weight": "50%", "bake": "1m"}]}},
                "attestation": {"policy": "release"},
            }))
            .unwrap();
            let (state, observed) = (State::new(), Observed::default());
            let plan = RevertPlan::of(key, "uid", &spec, &state, &observed);
            let (urgent, arrives) = mpsc::channel(places);
            let view = watch::channel(Arc::new((View::of_state(key, &state, &observed), plan))).1;
            self.connect(key.to_owned(), Line { urgent, view });
            arrives
        }
    }

    #[tokio::test]
    async fn facts_wait_for_room_in_their_order() {
        let handle = Handle::new();
        let mut arrives = handle.connect_to_nobody("shop/checkout", 2);
        let taken = async {
            let mut taken = 0;
            while taken < 300 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                while arrives.try_recv().is_ok() {
                    taken += 1;
                }
            }
        };
        let (told, ()) = tokio::join!(handle.tell_all("shop/checkout", vec![Input::Woke; 300]), taken);
        assert_eq!(told, Ok(()));
        drop(arrives);
        assert_eq!(handle.tell_all("shop/checkout", vec![Input::Woke]).await, Err(SendError::Gone("shop/checkout".into())));
        assert_eq!(handle.tell_all("shop/cart", vec![Input::Woke]).await, Err(SendError::Unknown("shop/cart".into())));
    }
}
