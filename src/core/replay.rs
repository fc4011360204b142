//! The same again: a machine that is restored from what a log says, and takes in what the log has, must decide what the
//! log says it decided.
//!
//! Looks are not read again; the intervals that they closed are judged again. Whoever has the committed state, or its
//! digest, compares it with that of the commit that [`Replay::next`] returns.

use std::fmt;
use std::sync::Arc;

use super::input::Input;
use super::journal::{Asked, Journal, Taken};
use super::judge::Interval;
use super::machine::Machine;
use super::record::{Event, Record};
use super::state::State;
use super::work::{Action, Commit};

/// A commit as the log has it.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// What was committed: the revision of the state.
    pub revision: u64,
    /// Its records, in order.
    pub records: &'a [Record],
    /// What was taken in since the commit before.
    pub journal: &'a Journal,
}

/// Where a replay parts from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// In the commit of this revision.
    pub revision: u64,
    /// Which of its records, counted from 0; absent if it is the commit as a whole.
    pub ordinal: Option<usize>,
    /// What the log has.
    pub recorded: String,
    /// What the machine decides now.
    pub now: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recorded: {}\nnow:      {}", self.recorded, self.now)
    }
}

/// The replay of one workload's log, commit by commit from its first.
#[derive(Debug, Default)]
pub struct Replay {
    machine: Option<Machine>,
    state: Option<Arc<State>>,
    /// Intervals that were judged again since the last decision.
    judged: usize,
}

impl Replay {
    /// Takes in again what led to a commit; the commit that comes of it.
    ///
    /// # Errors
    /// The machine decides otherwise than the log says, or the log does not say enough.
    pub fn next(&mut self, recorded: Recorded<'_>) -> Result<Commit, Divergence> {
        let whole = |recorded_as: &str, now: String| Divergence {
            revision: recorded.revision,
            ordinal: None,
            recorded: recorded_as.to_owned(),
            now,
        };
        if let Some(began) = &recorded.journal.began {
            let state = self.state.as_deref().map_or_else(State::new, Clone::clone);
            self.machine = Some(Machine::restore(began.guard.clone(), began.policy.clone(), state));
            self.judged = 0;
        }
        let Some(machine) = &mut self.machine else {
            return Err(whole("a commit of a machine that nothing says how it began", "there is nothing to go on from".into()));
        };
        let mut inputs = recorded.records.iter().filter_map(|record| match &record.event {
            Event::Input(input) => Some((**input).clone()),
            Event::Decision { .. } | Event::Wanted(_) => None,
        });
        let (mut intervals, decisions) = intervals(recorded, self.judged);
        let mut made = None;
        for step in &recorded.journal.steps {
            if made.is_some() {
                return Err(whole("more was taken in before the commit", "the commit is made already".into()));
            }
            let input = match &step.took {
                Taken::Recorded => inputs.next(),
                Taken::Quiet(input) => Some((**input).clone()),
                Taken::Woke | Taken::Proven => Some(Input::Woke),
                Taken::Looked(_) => None,
            };
            match (&step.took, input) {
                (Taken::Looked(sight), _) if sight.closed() > intervals.len() => {
                    return Err(whole("a look that closed intervals", "the log does not have them".into()));
                }
                (Taken::Looked(sight), _) => {
                    let closed: Vec<Interval> = intervals.drain(..sight.closed()).collect();
                    machine.recall(step, sight, &closed);
                }
                (_, Some(input)) => machine.retake(step, input),
                (_, None) => return Err(whole("an input with a record of its own", "the log does not have that record".into())),
            }
            made = match step.asked {
                Asked::Work => machine.next_work(true).commit,
                Asked::Held => machine.next_work(false).commit,
                Asked::Nothing => None,
            };
        }
        let Some(commit) = made else { return Err(whole("a commit", "nothing that would be committed".into())) };
        same(recorded, &commit)?;
        let told = recorded.journal.intervals.len();
        self.judged = if decisions { told } else { self.judged + told };
        self.state = Some(Arc::clone(&commit.state));
        Ok(commit)
    }

    /// The state after the last commit.
    pub fn state(&self) -> Option<&State> {
        self.state.as_deref()
    }
}

/// The intervals of a commit that were not judged again yet, oldest first, and whether a decision carries some.
fn intervals(recorded: Recorded<'_>, judged: usize) -> (Vec<Interval>, bool) {
    let mut decisions = false;
    let carried = recorded.records.iter().filter_map(|record| match &record.event {
        Event::Decision { intervals, .. } => Some(intervals),
        Event::Input(_) | Event::Wanted(_) => None,
    });
    let carried: Vec<&Interval> = carried.inspect(|_| decisions = true).flatten().collect();
    let rest = carried.into_iter().skip(judged).chain(&recorded.journal.intervals).cloned().collect();
    (rest, decisions)
}

/// Compares what was recorded with what was decided again, record by record.
fn same(recorded: Recorded<'_>, commit: &Commit) -> Result<(), Divergence> {
    let diverges = |ordinal, was: String, now: String| Divergence { revision: recorded.revision, ordinal, recorded: was, now };
    for ordinal in 0..recorded.records.len().max(commit.records.len()) {
        let (was, now) = (recorded.records.get(ordinal), commit.records.get(ordinal));
        let part = match (was, now) {
            (Some(was), Some(now)) => differs(was, now),
            _ => Some("record"),
        };
        if let Some(part) = part {
            let say = |record: Option<&Record>| record.map_or_else(|| "nothing more".to_owned(), words);
            let (mut was_said, mut now_said) = (say(was), say(now));
            if was_said == now_said {
                // The words are the same: what differs is finer than they are.
                was_said = format!("{was_said}; its {part} is {}", detail(was, part));
                now_said = format!("{now_said}; its {part} is {}", detail(now, part));
            }
            return Err(diverges(Some(ordinal), was_said, now_said));
        }
    }
    if commit.state.revision == recorded.revision {
        return Ok(());
    }
    Err(diverges(None, format!("revision {}", recorded.revision), format!("revision {}", commit.state.revision)))
}

/// The first part in which two records differ. Texts that a log may have cut are not compared: they say the same in words.
fn differs(was: &Record, now: &Record) -> Option<&'static str> {
    let parts = [
        ("event", was.event == now.event),
        ("reason", was.reason == now.reason),
        ("phase", was.phase == now.phase),
        ("generation", was.generation == now.generation),
        ("revision", was.revision == now.revision),
        ("time", was.at == now.at),
        ("release", was.release == now.release),
    ];
    parts.into_iter().find(|(_, same)| !same).map(|(part, _)| part)
}

fn detail(record: Option<&Record>, part: &str) -> String {
    let Some(record) = record else { return "nothing".into() };
    let text = match part {
        "event" => format!("{:?}", record.event),
        "reason" => format!("{:?}", record.reason),
        "phase" => record.phase.clone(),
        "generation" => record.generation.to_string(),
        "revision" => record.revision.to_string(),
        "time" => format!("{} ({} ms)", record.at.wall, record.at.mono.0),
        _ => format!("{:?}", record.release),
    };
    text.chars().take(2_000).collect()
}

/// A record in words.
fn words(record: &Record) -> String {
    let what = match &record.event {
        Event::Input(input) => format!("took in {}", name(input)),
        Event::Decision { decision, .. } => format!("decided to {}", decision.words()),
        Event::Wanted(effect) => {
            let what = match &effect.action {
                Action::Verify { release, .. } | Action::EnsureArm { release, .. } | Action::EnsureRelease { release } => {
                    format!(" of {release}")
                }
                Action::EnsureWeights { weights } => {
                    weights.iter().map(|(id, share)| format!(" {share} to {id}")).collect::<Vec<_>>().join(",")
                }
                Action::Notify(notice) => format!(" {}", notice.text),
                Action::Look(_) | Action::EnsureFlag(_) | Action::EnsureHold { .. } | Action::Record => String::new(),
            };
            format!("wanted {}{what}", effect.action.name())
        }
    };
    let reason = record.reason.as_ref().map(|reason| format!(", for {} {reason}", reason.code())).unwrap_or_default();
    format!("{what}{reason} ({})", record.phase)
}

fn name(input: &Input) -> String {
    match input {
        Input::Deployed(deployed) => format!("a deployment of {}", deployed.release),
        Input::Looked(_) => "a look".into(),
        Input::Observed(_) => "what was seen of the workload".into(),
        Input::Alerted(alert) => format!("the alert {}", alert.name),
        Input::Commanded(command) => format!("the command {}", command.verb.kind().name()),
        Input::SpecChanged(_) => "another guard".into(),
        Input::PolicyChanged(_) => "another policy".into(),
        Input::ScopeChanged(_) => "other surroundings".into(),
        Input::Finished { id, .. } => format!("the end of effect {id}"),
        Input::Found(release) => format!("that {release} runs"),
        Input::Woke => "that time had passed".into(),
    }
}
