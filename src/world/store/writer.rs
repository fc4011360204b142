//! The one thread that writes: it takes what is queued, runs it in one transaction, and answers each (group commit).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{Unavailable, schema};

/// Jobs that wait at most; more wait at their callers.
const QUEUE: usize = 1024;

/// Jobs of one transaction at most.
const GROUP: usize = 256;

/// How long a caller waits for an answer. What it asked for may still happen later.
const ANSWER: Duration = Duration::from_secs(5);

/// Whether a job runs with its group or after the others of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// With the group, in order of arrival.
    First,
    /// After the group's other jobs: draining takes along what they wrote.
    Last,
}

/// What a job does in the transaction.
type Run = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// Tells a job's caller how it ended.
type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

struct Job {
    turn: Turn,
    run: Run,
    answer: Answer,
}

/// The queue to the thread. The thread ends when the last clone is gone.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the thread. `connection` may be absent: it is opened when there is work, again and again until that succeeds.
    pub(super) fn start(dir: PathBuf, busy: Duration, connection: Option<Connection>) -> Result<Self, Unavailable> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || write(&dir, busy, connection, jobs))
            .map_err(|error| Unavailable(format!("no thread for the store: {error}")))?;
        Ok(Self { queue })
    }

    /// Runs `job` in a transaction and waits until that is on disk.
    ///
    /// An error of `job` undoes what it wrote, and nothing else.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        turn: Turn,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (sender, answer) = oneshot::channel();
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        let job = Job {
            turn,
            run: Box::new(move |connection| {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(job(connection)?);
                Ok(())
            }),
            answer: Box::new(move |result| {
                let value = filled.lock().unwrap_or_else(PoisonError::into_inner).take();
                let _ = sender.send(result.and_then(|()| value.ok_or_else(ended)));
            }),
        };
        let answered = async {
            self.queue.send(job).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        let late = |_| Err(Unavailable(format!("the store has not answered for {} s", ANSWER.as_secs())));
        tokio::time::timeout(ANSWER, answered).await.unwrap_or_else(late)
    }
}

fn ended() -> Unavailable {
    Unavailable("the store's thread has ended".into())
}

fn write(dir: &std::path::Path, busy: Duration, mut connection: Option<Connection>, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = jobs.try_recv()
        {
            group.push(next);
        }
        group.sort_by_key(|job| job.turn);
        if connection.is_none() {
            match schema::writer(dir, busy) {
                Ok(opened) => connection = Some(opened),
                Err(unavailable) => {
                    for job in group {
                        (job.answer)(Err(unavailable.clone()));
                    }
                    continue;
                }
            }
        }
        let Some(open) = &connection else { continue };
        let mut answers = Vec::with_capacity(group.len());
        let done = transact(open, group, &mut answers).map_err(|error| Unavailable::at(&dir.join(schema::FILE), &error));
        if let Err(unavailable) = &done {
            tracing::warn!(what = %unavailable, "the store did not take a commit");
            // A fresh connection sees a file that was repaired, replaced or made writable.
            connection = None;
        }
        for (answer, result) in answers {
            let result = result.map_err(|error| Unavailable::at(&dir.join(schema::FILE), &error));
            answer(done.clone().and(result));
        }
    }
}

type Answered = (Answer, rusqlite::Result<()>);

/// Runs a group in one transaction. An error means that nothing of the group can be counted on.
fn transact(connection: &Connection, group: Vec<Job>, answers: &mut Vec<Answered>) -> rusqlite::Result<()> {
    let mut outcome = connection.execute_batch("BEGIN IMMEDIATE");
    for job in group {
        let result = match &outcome {
            Ok(()) => isolated(connection, job.run),
            Err(_) => Ok(()),
        };
        // Some errors (disk full, input/output) end the whole transaction.
        if outcome.is_ok() && connection.is_autocommit() {
            outcome = match result {
                Err(error) => Err(error),
                Ok(()) => Err(rusqlite::Error::InvalidQuery),
            };
            answers.push((job.answer, Ok(())));
        } else {
            answers.push((job.answer, result));
        }
    }
    let outcome = outcome.and_then(|()| connection.execute_batch("COMMIT"));
    if outcome.is_err() && !connection.is_autocommit() {
        // The first error is the one to tell; a failed rollback is undone by closing the connection.
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome
}

fn isolated(connection: &Connection, run: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    connection.execute_batch("SAVEPOINT job")?;
    let result = run(connection);
    if connection.is_autocommit() {
        return result;
    }
    match result {
        Ok(()) => connection.execute_batch("RELEASE job"),
        Err(error) => {
            connection.execute_batch("ROLLBACK TO job; RELEASE job")?;
            Err(error)
        }
    }
}
