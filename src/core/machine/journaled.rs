//! Keeping a journal: what is taken in, step by step, so that a log can be run again.

use super::Machine;
use crate::core::input::{Input, Outcome};
use crate::core::journal::{Asked, Began, Journal, Step, Taken, Trail};
use crate::core::judge::{Grid, Interval, Sight};
use crate::core::mutant::Mutant;
use crate::core::reason::Reason;
use crate::core::time::{Mono, Now};

/// Steps that may gather before a checkpoint is committed.
const STEPS_MAX: usize = 4_000;

/// The journal since the last commit. Memory only.
#[derive(Debug, Clone, Default)]
pub(super) struct Journaled {
    trail: Trail,
    /// The step under way.
    step: Option<Step>,
    /// Why nothing moved forward before it, where the step may turn out to have changed nothing.
    waited: Option<Reason>,
    proofs: u32,
    healthy_since: Option<Mono>,
    /// Something was handed out or came back in it.
    pub(super) moved: bool,
    /// A proof ended in it.
    pub(super) proven: bool,
    /// Where the counters stood in it, if that went into the state.
    grid: Option<Box<Grid>>,
    /// Looks moved the counters since that was last written down.
    measured: bool,
    /// Intervals since the last decision that commits have told already.
    pub(super) told: usize,
    /// It was written down how the machine began.
    birth: Birth,
}

/// Whether it was written down how the machine began.
#[derive(Debug, Clone, Default)]
enum Birth {
    /// Not yet; guard and policy are still those.
    #[default]
    AsNow,
    /// Not yet; it began with others than those that it has now.
    With(Box<Began>),
    Told,
}

impl Machine {
    pub(super) fn step_begins(&mut self, now: Now, input: &Input) {
        // Somebody took in more before asking what to do.
        self.step_is_over();
        // A clock that went back is not believed.
        self.now = Now { wall: now.wall, mono: now.mono.max(self.now.mono) };
        if Mutant::WallClockDeadline.lives() {
            self.now.mono = Mono(now.wall.as_millisecond().unsigned_abs());
        }
        // The first step counts from when it was taken.
        (self.journaled.moved, self.journaled.proven) = (!self.awake, false);
        self.wake_up();
        self.journaled.proofs = self.proof.count();
        self.journaled.healthy_since = self.healthy_since;
        if matches!(input, Input::Woke | Input::Finished { .. }) {
            self.journaled.waited.clone_from(&self.waiting);
        }
        if matches!(self.journaled.birth, Birth::AsNow) && matches!(input, Input::SpecChanged(_) | Input::PolicyChanged(_)) {
            let began = Began { guard: self.guard.clone(), policy: self.policy.clone() };
            self.journaled.birth = Birth::With(Box::new(began));
        }
    }

    /// What an input that changed no state is written down as.
    pub(super) fn quiet(&self, input: Input) -> Taken {
        match input {
            Input::Woke => Taken::Woke,
            Input::Finished { .. } if self.journaled.proven => Taken::Proven,
            // Whatever it said was of no interest.
            Input::Finished { id, .. } => Taken::Quiet(Box::new(Input::Finished { id, outcome: Outcome::Unknown(String::new()) })),
            input => Taken::Quiet(Box::new(input)),
        }
    }

    pub(super) fn step_ends(&mut self, took: Taken) {
        if self.journaled.trail.len() >= STEPS_MAX && !self.dirty {
            self.take_checkpoint();
        }
        let grid = self.journaled.grid.take();
        self.journaled.step = Some(Step { at: self.now, took, asked: Asked::Nothing, grid });
    }

    pub(super) fn asked(&mut self, may_commit: bool) {
        if let Some(step) = &mut self.journaled.step {
            step.asked = if may_commit { Asked::Work } else { Asked::Held };
        }
    }

    /// The step goes into the trail, unless leaving it out changes nothing: most often a machine wakes only to look.
    pub(super) fn step_is_over(&mut self) {
        let Some(step) = self.journaled.step.take() else { return };
        let idle = match &step.took {
            Taken::Woke => true,
            Taken::Quiet(input) => matches!(**input, Input::Finished { .. }),
            Taken::Recorded | Taken::Proven | Taken::Looked(_) => false,
        };
        let same = self.journaled.proofs == self.proof.count() && self.journaled.healthy_since == self.healthy_since;
        let still = same && !self.dirty && !self.journaled.moved && self.journaled.waited == self.waiting;
        if !(idle && still && step.grid.is_none()) {
            self.journaled.trail.push(step);
        }
    }

    /// Looks moved the counters.
    pub(super) fn counters_moved(&mut self) {
        self.journaled.measured = true;
    }

    /// Where the counters stand is about to go into the state: a replay cannot know, for it has no samples.
    pub(super) fn note_counters(&mut self) {
        if std::mem::take(&mut self.journaled.measured)
            && let Some(judge) = &self.judge
        {
            self.journaled.grid = Some(Box::new(judge.grid().clone()));
        }
    }

    /// All that was taken in since the last commit.
    pub(super) fn journal(&mut self) -> Journal {
        // Whatever it was, it led to the commit.
        self.journaled.step.take().into_iter().for_each(|step| self.journaled.trail.push(step));
        let began = match std::mem::replace(&mut self.journaled.birth, Birth::Told) {
            Birth::AsNow => Some(Box::new(Began { guard: self.guard.clone(), policy: self.policy.clone() })),
            Birth::With(began) => Some(began),
            Birth::Told => None,
        };
        let intervals = self.intervals.after(self.journaled.told);
        self.journaled.told = self.intervals.len();
        Journal { began, steps: self.journaled.trail.take(), intervals }
    }

    // ------------------------------------------------------------------------------------------------ again

    /// Takes in again what a look showed.
    pub(in crate::core) fn recall(&mut self, step: &Step, sight: &Sight, closed: &[Interval]) {
        self.step_begins(step.at, &Input::Woke);
        let was_dirty = std::mem::take(&mut self.dirty);
        let begins = self.judge.as_ref().is_some_and(|judge| judge.origin().is_none());
        if let Some(judge) = &mut self.judge {
            judge.recall(sight, closed);
        }
        self.remeasure(step);
        if *sight == Sight::Outdated {
            self.settle();
        } else {
            self.saw(closed, begins);
        }
        self.step_ends(Taken::Looked(sight.clone()));
        self.dirty |= was_dirty;
    }

    /// Takes in an input again.
    pub(in crate::core) fn retake(&mut self, step: &Step, input: Input) {
        self.remeasure(step);
        if step.took == Taken::Proven {
            self.proof.ended();
        }
        self.handle(step.at, input);
        if step.took == Taken::Proven
            && let Some(again) = &mut self.journaled.step
        {
            again.took = Taken::Proven;
        }
    }

    fn remeasure(&mut self, step: &Step) {
        if let (Some(judge), Some(grid)) = (&mut self.judge, &step.grid) {
            judge.measured((**grid).clone());
        }
    }
}
