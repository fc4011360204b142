//! The order in which a rollout's facts are taken in and its work is started: one synchronous type that the real shell
//! and the simulator both drive.
//!
//! Urgent facts (commands, alerts, the end of effects of the revert lane) go before looks. `safe` effects start at once;
//! commits go out one after the other; `then` effects start when their commit is in, and who asked is answered then, or when
//! the store does not answer and the commit was kept elsewhere. What was asked of a machine whose swap was lost is asked again
//! of the next.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::core::input::{Input, Observed, Outcome, Scope};
use crate::core::machine::{Answer, Machine};
use crate::core::mutant::Mutant;
use crate::core::time::{Mono, Now};
use crate::core::work::{Commit, Effect, EffectId, Lane};

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The state is in.
    Done,
    /// Somebody else's revision is in place: this machine's view is stale.
    Lost,
    /// The store does not answer; the commit waits.
    Unavailable,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step<T> {
    /// Start this effect; its end is told with [`Order::finished`].
    Start(Effect),
    /// Commit this; how that ended is told with [`Order::committed`].
    Commit(Arc<Commit>),
    /// Tell whoever asked.
    Answer(T, Answer),
    /// The swap was lost: drop this and restore from the store.
    Stale,
}

/// A fact on its way in, with whoever waits for the answer.
#[derive(Debug)]
struct Fact<T> {
    input: Input,
    asked: Option<T>,
}

/// A fact that no commit has yet, with the answer that waits for it.
#[derive(Debug)]
struct Told<T> {
    input: Input,
    asked: Option<(T, Answer)>,
}

/// A commit under way or waiting, and what waits for it.
#[derive(Debug)]
struct Pending<T> {
    commit: Arc<Commit>,
    then: Vec<Effect>,
    told: Vec<Told<T>>,
}

/// One rollout's machine with what is on its way in and out. `T` is how an asker is answered.
#[derive(Debug)]
pub struct Order<T> {
    machine: Machine,
    urgent: VecDeque<Fact<T>>,
    ordinary: VecDeque<Fact<T>>,
    ready: VecDeque<Step<T>>,
    pending: Option<Pending<T>>,
    gathered: Vec<Told<T>>,
    /// What was last said of the surroundings and of the workload: a machine that starts again must hear it again.
    scope: Option<Scope>,
    observed: Option<Arc<Observed>>,
    committing: bool,
    stale: bool,
    woken: bool,
}

/// Facts that may wait to be taken in; beyond that the oldest looks are dropped, for the next one tells the same.
const ORDINARY_MAX: usize = 256;

impl<T> Order<T> {
    /// Around a restored machine.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            urgent: VecDeque::new(),
            ordinary: VecDeque::new(),
            ready: VecDeque::new(),
            pending: None,
            gathered: Vec::new(),
            scope: None,
            observed: None,
            committing: false,
            stale: false,
            woken: true,
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// A fact arrives.
    pub fn push(&mut self, input: Input, asked: Option<T>) {
        match &input {
            Input::ScopeChanged(scope) => self.scope = Some(scope.clone()),
            Input::Observed(observed) => self.observed = Some(Arc::clone(observed)),
            _ => {}
        }
        let urgent = matches!(
            input,
            Input::Commanded(_) | Input::Alerted(_) | Input::Deployed(_) | Input::ScopeChanged(_) | Input::PolicyChanged(_)
        );
        if urgent {
            self.urgent.push_back(Fact { input, asked });
            return;
        }
        if self.ordinary.len() >= ORDINARY_MAX
            && let Some(at) =
                self.ordinary.iter().position(|fact| matches!(fact.input, Input::Looked(_) | Input::Observed(_) | Input::Woke))
        {
            self.ordinary.remove(at);
        }
        self.ordinary.push_back(Fact { input, asked });
    }

    /// An effect ended.
    pub fn finished(&mut self, id: EffectId, lane: Lane, outcome: Outcome) {
        let fact = Fact { input: Input::Finished { id, outcome }, asked: None };
        match lane {
            Lane::Revert => self.urgent.push_back(fact),
            Lane::Forward => self.ordinary.push_back(fact),
        }
    }

    /// A commit ended.
    #[allow(clippy::needless_pass_by_value)] // an event is handed over
    pub fn committed(&mut self, how: Committed) {
        self.committing = false;
        let how = match how {
            Committed::Lost if Mutant::LostSwapIgnored.lives() => Committed::Done,
            Committed::Unavailable if Mutant::UnavailableIsDone.lives() => Committed::Done,
            how => how,
        };
        match how {
            Committed::Done => {
                if let Some(Pending { then, told, .. }) = self.pending.take() {
                    // What was void before its commit came in is not started after it.
                    self.ready.extend(then.into_iter().filter(|effect| self.machine.wants(effect)).map(Step::Start));
                    let answers = told.into_iter().filter_map(|told| told.asked);
                    self.ready.extend(answers.map(|(asked, answer)| Step::Answer(asked, answer)));
                }
                // What gathered meanwhile is committed next.
                self.woken = true;
            }
            Committed::Lost => self.stale = true,
            Committed::Unavailable => {
                let told = self.pending.iter_mut().flat_map(|pending| &mut pending.told);
                self.ready.extend(told.filter_map(|told| told.asked.take()).map(|(asked, answer)| Step::Answer(asked, answer)));
            }
        }
    }

    /// Goes on with a machine that was restored after a lost swap. What people and agents said, and was not committed, is
    /// said to it again.
    pub fn restart(&mut self, machine: Machine) {
        let told = self.pending.take().into_iter().flat_map(|pending| pending.told).chain(self.gathered.drain(..));
        let again = told.map(|told| Fact { input: told.input, asked: told.asked.map(|(asked, _)| asked) });
        let again = again.filter(|_| !Mutant::ToldIsForgotten.lives());
        let urgent = again.chain(self.urgent.drain(..).filter(|fact| !matches!(fact.input, Input::Finished { .. }))).collect();
        let answers = self.ready.drain(..).filter(|step| matches!(step, Step::Answer(..))).collect();
        let known = [self.scope.take().map(Input::ScopeChanged), self.observed.take().map(Input::Observed)];
        *self = Self { urgent, ready: answers, ..Self::new(machine) };
        known.into_iter().flatten().for_each(|input| self.push(input, None));
    }

    /// Nobody who has asked so far waits for an answer any more. What they said stands: it is committed, or told to the next machine.
    pub fn forget_askers(&mut self) {
        let told = self.pending.iter_mut().flat_map(|pending| &mut pending.told).chain(&mut self.gathered);
        told.for_each(|told| told.asked = None);
        self.urgent.iter_mut().chain(&mut self.ordinary).for_each(|fact| fact.asked = None);
        self.ready.retain(|step| !matches!(step, Step::Answer(..)));
    }

    /// Time has passed.
    pub fn wake(&mut self) {
        self.woken = true;
    }

    /// When to [`wake`](Self::wake) if nothing happens.
    pub fn wake_at(&self) -> Option<Mono> {
        self.machine.wake_at()
    }

    /// The next thing to do; nothing if all waits for the world.
    pub fn next(&mut self, now: Now) -> Option<Step<T>> {
        if self.stale {
            return Some(Step::Stale);
        }
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Some(step);
            }
            let fact = self.urgent.pop_front().or_else(|| self.ordinary.pop_front());
            match fact {
                Some(fact) => self.take(now, fact),
                None if std::mem::take(&mut self.woken) => self.take(now, Fact { input: Input::Woke, asked: None }),
                None => {
                    self.rest();
                    return self.next_commit();
                }
            }
        }
    }

    /// Gives back what the queues had grown to: of ten thousand rollouts nearly all wait at any time.
    fn rest(&mut self) {
        self.urgent = VecDeque::new();
        self.ordinary = VecDeque::new();
        self.ready = VecDeque::new();
    }

    fn take(&mut self, now: Now, fact: Fact<T>) {
        let kept = matches!(fact.input, Input::Commanded(_) | Input::Alerted(_) | Input::Deployed(_) | Input::PolicyChanged(_))
            .then(|| fact.input.clone());
        self.machine.handle(now, fact.input);
        let answer = self.machine.answer();
        // One commit at a time: what is decided meanwhile gathers in the machine, and goes into the next one.
        let mut work = self.machine.next_work(self.pending.is_none());
        let mut safe = work.safe;
        if Mutant::SafeWaits.lives() && work.commit.is_some() {
            work.then.extend(std::mem::take(&mut safe));
        }
        if Mutant::CommitAfterAct.lives() {
            safe.extend(std::mem::take(&mut work.then));
        }
        // Safe effects go first: before the commit, before the answer.
        self.ready.extend(safe.into_iter().map(Step::Start));
        let waits = (work.commit.is_some() || self.machine.is_ahead()) && !Mutant::AnswerBeforeCommit.lives();
        let asked = fact.asked.zip(answer);
        let answer = match kept {
            Some(input) if waits => {
                self.gathered.push(Told { input, asked });
                None
            }
            _ => asked,
        };
        match work.commit {
            Some(commit) => {
                let told = std::mem::take(&mut self.gathered);
                self.pending = Some(Pending { commit: Arc::new(commit), then: work.then, told });
            }
            // Without a commit of its own, work still waits for those before it.
            None => match &mut self.pending {
                Some(pending) => pending.then.extend(work.then),
                None => self.ready.extend(work.then.into_iter().map(Step::Start)),
            },
        }
        if !self.committing
            && let Some(commit) = self.next_commit()
        {
            self.ready.push_back(commit);
        }
        self.ready.extend(answer.map(|(asked, answer)| Step::Answer(asked, answer)));
    }

    fn next_commit(&mut self) -> Option<Step<T>> {
        if self.committing {
            return None;
        }
        let commit = Arc::clone(&self.pending.as_ref()?.commit);
        self.committing = true;
        Some(Step::Commit(commit))
    }
}
