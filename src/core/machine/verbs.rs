//! What each verb means in each phase: one default per verb, and the listed exceptions.

use std::fmt::Write as _;

use crate::core::actor::{Actor, ActorKind};
use crate::core::input::Verb;
use crate::core::mutant::Mutant;
use crate::core::state::PhaseKind;

/// The kinds of verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerbKind {
    /// Go back.
    Revert,
    /// End a hold or a quarantine.
    Lift,
    /// No forward step.
    Pause,
    /// End a pause.
    Resume,
    /// Go to 100 % without waiting for evidence.
    Promote,
    /// Agree.
    Approve,
    /// Kill-switch.
    Freeze,
    /// End a freeze.
    Thaw,
    /// No automatic revert.
    Disarm,
    /// End a disarm.
    Arm,
    /// Take as known good.
    Adopt,
}

/// What the machine does with a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Does what it says.
    Obey,
    /// Begins a revert of the release on trial, or of the running one to the previous known good.
    Begin,
    /// Ends the attempt before anything was moved.
    Cancel,
    /// Names the revert that is under way, or done.
    Attach,
    /// Starts the stuck revert again.
    Retry,
    /// There is nothing that it could mean.
    Nothing,
}

impl VerbKind {
    /// Every verb.
    pub const ALL: [Self; 11] = [
        Self::Revert,
        Self::Lift,
        Self::Pause,
        Self::Resume,
        Self::Promote,
        Self::Approve,
        Self::Freeze,
        Self::Thaw,
        Self::Disarm,
        Self::Arm,
        Self::Adopt,
    ];

    /// What the verb means in a phase.
    pub fn meaning(self, phase: PhaseKind) -> Meaning {
        use PhaseKind as P;
        match (self, phase) {
            (Self::Revert, P::Admitting | P::AwaitingApproval) => Meaning::Cancel,
            (Self::Revert, P::Promoting) if Mutant::PersonWaits.lives() => Meaning::Attach,
            (Self::Revert, P::Reverting | P::Recovering | P::Reverted) => Meaning::Attach,
            (Self::Revert, P::Stuck) => Meaning::Retry,
            (Self::Revert, P::Idle | P::Refused | P::Advancing | P::Promoting | P::Watching) => Meaning::Begin,
            (Self::Promote, P::Advancing) | (Self::Approve, P::AwaitingApproval) | (Self::Adopt, P::Idle | P::Refused | P::Watching) => {
                Meaning::Obey
            }
            // A hold that is still being put in place cannot be ended.
            (Self::Promote | Self::Approve | Self::Adopt, _) | (Self::Lift, P::Reverting) => Meaning::Nothing,
            (Self::Lift | Self::Pause | Self::Resume | Self::Freeze | Self::Thaw | Self::Disarm | Self::Arm, _) => Meaning::Obey,
        }
    }

    /// Who may say it: tightening is for everybody that is known, loosening for people.
    ///
    /// # Errors
    /// What the actor lacks.
    pub fn allowed(self, actor: &Actor) -> Result<(), String> {
        match self {
            Self::Revert | Self::Pause | Self::Freeze => Ok(()),
            Self::Arm if actor.kind != ActorKind::Unknown => Ok(()),
            Self::Lift if Mutant::AgentsLift.lives() => Ok(()),
            Self::Lift | Self::Resume | Self::Promote | Self::Approve | Self::Thaw | Self::Disarm | Self::Arm | Self::Adopt => {
                if actor.is_human() { Ok(()) } else { Err(format!("`{}` needs a person; this is {actor}", self.name())) }
            }
        }
    }

    /// The verb as people type it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Revert => "revert",
            Self::Lift => "lift",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Approve => "approve",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Disarm => "disarm",
            Self::Arm => "arm",
            Self::Adopt => "adopt",
        }
    }
}

impl Verb {
    /// The kind.
    pub fn kind(&self) -> VerbKind {
        match self {
            Self::Revert { .. } => VerbKind::Revert,
            Self::Lift { .. } => VerbKind::Lift,
            Self::Pause => VerbKind::Pause,
            Self::Resume => VerbKind::Resume,
            Self::Promote => VerbKind::Promote,
            Self::Approve => VerbKind::Approve,
            Self::Freeze => VerbKind::Freeze,
            Self::Thaw => VerbKind::Thaw,
            Self::Disarm { .. } => VerbKind::Disarm,
            Self::Arm => VerbKind::Arm,
            Self::Adopt => VerbKind::Adopt,
        }
    }
}

/// The table of verbs and phases in Markdown, as ARCHITECTURE.md has it.
pub fn table() -> String {
    let mut text = String::from("| verb | who |");
    for phase in PhaseKind::ALL {
        let _ = write!(text, " {phase} |");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(PhaseKind::ALL.len()));
    for verb in VerbKind::ALL {
        let person = Actor { kind: ActorKind::Unknown, ..Actor::default() };
        let agent = Actor { kind: ActorKind::Agent, ..Actor::default() };
        let who = match (verb.allowed(&person).is_ok(), verb.allowed(&agent).is_ok()) {
            (true, _) => "anybody entitled",
            (false, true) => "people, automation, agents",
            (false, false) => "people",
        };
        let _ = write!(text, "\n| `{}` | {who} |", verb.name());
        for phase in PhaseKind::ALL {
            let meaning = match verb.meaning(phase) {
                Meaning::Obey => "yes",
                Meaning::Begin => "begins",
                Meaning::Cancel => "cancels",
                Meaning::Attach => "attaches",
                Meaning::Retry => "retries",
                Meaning::Nothing => "–",
            };
            let _ = write!(text, " {meaning} |");
        }
    }
    text.push('\n');
    text
}
