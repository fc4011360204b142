//! Stories: incidents in plain text, that people write, read and rehearse.
//!
//! A story is played in the simulated world by the machine, judge and order that run in production. What happened is a
//! [`Transcript`]; it is the same each time, so that a change of behaviour is a change of a text.

mod chronicle;
mod parse;
mod play;
mod see;

use std::time::Duration;

use crate::core::actor::ActorKind;
use crate::core::input::{LookFault, Verb};
use crate::core::policy::Policy;
use crate::core::record::Decision;
use crate::core::release::Release;
use crate::core::spec::{Percent, Strategy, Trust};
use crate::core::state::{Guard, PhaseKind};
use crate::core::time::Span;

use super::house;
use super::world::FlagService;

pub use self::play::{Transcript, run};

/// A story as it was read.
#[derive(Debug, Clone)]
pub struct Story {
    /// What it is called.
    pub title: String,
    /// How releases are rolled out, where no guard of one's own says so.
    pub strategy: Strategy,
    lines: Vec<Line>,
}

impl Story {
    /// The guard that it is played under, where nobody brings one of their own.
    pub fn guard(&self) -> Guard {
        house::guard(self.strategy.clone())
    }

    /// The policy that it is played under, where nobody brings one of their own.
    pub fn policy(&self) -> Policy {
        house::policy()
    }

    /// How long it takes at most, in the time of its world.
    pub fn length(&self) -> Span {
        let takes = |line: &Line| match &line.does {
            Statement::Wait(span) | Statement::Until(_, span) | Statement::Holds(_, span) => span.0,
            Statement::Fact(_) | Statement::Serves(_) | Statement::Deploys(..) | Statement::Commands(..) => Duration::ZERO,
        };
        Span(self.lines.iter().map(takes).sum())
    }
}

/// One line.
#[derive(Debug, Clone)]
struct Line {
    number: usize,
    text: String,
    does: Statement,
}

/// What a line says.
#[derive(Debug, Clone)]
enum Statement {
    /// The world is so from now on.
    Fact(Fact),
    /// This release serves, and is known good: how that came is not told.
    Serves(Named),
    /// Somebody deploys.
    Deploys(Who, Named),
    /// Somebody commands; a release that it names stands beside it.
    Commands(Who, Verb, Option<Named>),
    /// Time passes.
    Wait(Span),
    /// Time passes until something is so, at most so long.
    Until(Wanted, Span),
    /// Something is so for all of this time.
    Holds(Wanted, Span),
}

/// Who acts.
#[derive(Debug, Clone)]
struct Who {
    kind: ActorKind,
    name: String,
}

/// A release: `v2`, or `v2.1` for the same image under another template.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    image: String,
    touch: u32,
}

impl Named {
    fn release(&self) -> Release {
        house::release(&self.image, self.touch)
    }
}

/// Something that may be so.
#[derive(Debug, Clone)]
struct Wanted {
    /// As it was written.
    text: String,
    not: bool,
    what: Condition,
}

/// A reason's code.
type Code = &'static str;

#[derive(Debug, Clone)]
enum Condition {
    Phase(PhaseKind),
    Traffic(Named, Percent),
    Own(Named),
    Paged(Option<Code>),
    Told(Option<Code>),
    Answered(bool, Option<Code>),
    Waiting(Code),
    Decided(Decision, Option<Code>),
    KnownGood(Named),
    Quarantined(Named),
    FlagSafe,
    FewerBad(u64),
}

#[derive(Debug, Clone)]
enum Fact {
    /// Requests a second.
    Traffic(u64),
    /// This share of a release's requests fails, after a while.
    Fails(Named, f64, Span),
    /// The same while the flag is in its safe state.
    FailsFlipped(Named, f64),
    /// While it gets requests, this share of everybody's fails.
    Harms(Named, f64),
    Healthy(Named),
    Members(Named, Members),
    Attested(Named, bool),
    Tampered(Named),
    Gone(Named),
    /// Everything fails this share, so long.
    Outage(f64, Option<Span>),
    OutageOver,
    Source(Source),
    Registry(bool),
    Flags(FlagService),
    Store(Option<Span>),
    Host(Option<Span>),
    Webhook(bool),
    /// The controller is away for so long.
    Dies(Span),
    /// The wall clock steps, in milliseconds.
    Clock(i64),
    /// Somebody puts a release back, again and again.
    PutsBack(Named, Span),
    LetsGo,
    Neighbours(u32, u32),
    Approvals(u32),
    Alert(String, bool, Trust),
}

/// How a release's members are.
#[derive(Debug, Clone, Copy)]
enum Members {
    /// They crash as soon as they start.
    CrashLoop,
    /// So many of two cannot serve.
    Unready(u16),
    /// They stop, and start again.
    Die,
    /// They stay down.
    Down,
}

/// What the metrics source does.
#[derive(Debug, Clone)]
enum Source {
    Answers,
    Fails(LookFault),
    Stale,
}
