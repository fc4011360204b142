//! What a machine took in between two commits, in order: with the records beside it, enough to take it all in again.
//!
//! Inputs that changed state stand in records of their own. What is here is the rest: how the machine began, looks as what
//! they showed, time that passed, and facts that changed its memory alone, such as what was seen of the workload.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::input::Input;
use super::judge::{Grid, Interval, Sight};
use super::policy::Policy;
use super::reason::Reason;
use super::state::Guard;
use super::time::{Mono, Now};
use super::varint::{self, Read};

/// What was taken in since the last commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// The machine began after the last commit: it was restored from that state, with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Box<Began>>,
    /// What it took in, in order.
    pub steps: Vec<Step>,
    /// Intervals that looks among the steps closed, and that no decision in this commit carries: those that the decisions
    /// carry come first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
}

/// What a machine is restored with, beside the committed state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Began {
    /// The guard.
    pub guard: Guard,
    /// The policy that applied.
    pub policy: Arc<Policy>,
}

/// One step: something was taken in, and the machine was asked what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// When.
    pub at: Now,
    /// What.
    pub took: Taken,
    /// What it was asked then.
    #[serde(default, skip_serializing_if = "Asked::is_usual")]
    pub asked: Asked,
    /// Where the counters stood, if that went into the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Box<Grid>>,
}

/// What was taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Taken {
    /// The next of the inputs that stand in the commit's records.
    Recorded,
    /// Time passed.
    Woke,
    /// A proof that a revert would work ended, and told nothing new.
    Proven,
    /// A look, as what it showed.
    Looked(Sight),
    /// An input that changed no state.
    Quiet(Box<Input>),
}

/// What the machine was asked after it took something in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Asked {
    /// What to do, with leave to commit.
    #[default]
    Work,
    /// What to do without a commit: the store was behind.
    Held,
    /// Nothing.
    Nothing,
}

impl Asked {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    fn is_usual(&self) -> bool {
        *self == Self::Work
    }
}

const RECORDED: u8 = 0;
const WOKE: u8 = 1;
const PROVEN: u8 = 2;
const NOTHING: u8 = 3;
const FAULT: u8 = 4;
const COUNTS: u8 = 5;
const QUIET: u8 = 6;
const OUTDATED: u8 = 7;
const KIND: u8 = 7;
const HELD: u8 = 8;
const UNASKED: u8 = 16;
const GRID: u8 = 32;

/// Steps, packed: a look takes some fifteen bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trail {
    bytes: Vec<u8>,
    length: usize,
    last: Last,
    faults: Vec<Reason>,
    #[allow(clippy::vec_box, reason = "most often there is one, and a list has room for four of some hundred bytes")]
    inputs: Vec<Box<Input>>,
    grids: Vec<Grid>,
}

/// What the next step is told apart from.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    mono: u64,
    /// The wall clock in nanoseconds, less `mono`.
    ahead: i64,
    source: i64,
}

impl Trail {
    /// How many steps there are.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Adds a step at the end.
    pub(crate) fn push(&mut self, step: Step) {
        let kind = match &step.took {
            Taken::Recorded => RECORDED,
            Taken::Woke => WOKE,
            Taken::Proven => PROVEN,
            Taken::Looked(Sight::Nothing) => NOTHING,
            Taken::Looked(Sight::Outdated) => OUTDATED,
            Taken::Looked(Sight::Fault(_)) => FAULT,
            Taken::Looked(Sight::Counts { .. }) => COUNTS,
            Taken::Quiet(_) => QUIET,
        };
        let asked = match step.asked {
            Asked::Work => 0,
            Asked::Held => HELD,
            Asked::Nothing => UNASKED,
        };
        self.bytes.push(kind | asked | if step.grid.is_some() { GRID } else { 0 });
        let mono = step.at.mono.0;
        let wall = i64::try_from(step.at.wall.as_nanosecond()).unwrap_or_default();
        let ahead = wall.wrapping_sub(mono.wrapping_mul(1_000_000).cast_signed());
        varint::put(&mut self.bytes, mono.wrapping_sub(self.last.mono));
        varint::put_signed(&mut self.bytes, ahead.wrapping_sub(self.last.ahead));
        (self.last.mono, self.last.ahead) = (mono, ahead);
        match step.took {
            Taken::Recorded | Taken::Woke | Taken::Proven | Taken::Looked(Sight::Nothing | Sight::Outdated) => {}
            Taken::Looked(Sight::Fault(reason)) => self.fault(reason),
            Taken::Looked(Sight::Counts { source_now, newest, seen, closed }) => {
                varint::put_signed(&mut self.bytes, source_now.wrapping_sub(self.last.source));
                self.last.source = source_now;
                for at in [newest, seen[0], seen[1]] {
                    // Zero says that there is none.
                    let behind = at.map_or(0, |at| source_now.wrapping_sub(at).wrapping_mul(2).wrapping_add(1));
                    varint::put_signed(&mut self.bytes, behind);
                }
                varint::put(&mut self.bytes, closed as u64);
            }
            Taken::Quiet(input) => self.inputs.push(input),
        }
        self.grids.extend(step.grid.map(|grid| *grid));
        self.length += 1;
    }

    /// The same fault again and again is kept once.
    fn fault(&mut self, reason: Reason) {
        if self.faults.last() != Some(&reason) {
            self.faults.push(reason);
        }
        varint::put(&mut self.bytes, self.faults.len() as u64 - 1);
    }

    /// Takes all steps out.
    pub(crate) fn take(&mut self) -> Vec<Step> {
        let Self { bytes, length, faults, inputs, grids, .. } = std::mem::take(self);
        let mut read = Read(&bytes);
        let (mut inputs, mut grids, mut last) = (inputs.into_iter(), grids.into_iter(), Last::default());
        (0..length)
            .map_while(|_| {
                let flags = read.byte()?;
                last.mono = last.mono.wrapping_add(read.number()?);
                last.ahead = last.ahead.wrapping_add(read.signed()?);
                let wall = last.ahead.wrapping_add(last.mono.wrapping_mul(1_000_000).cast_signed());
                let at = Now { wall: jiff::Timestamp::from_nanosecond(wall.into()).ok()?, mono: Mono(last.mono) };
                let took = match flags & KIND {
                    RECORDED => Taken::Recorded,
                    WOKE => Taken::Woke,
                    PROVEN => Taken::Proven,
                    NOTHING => Taken::Looked(Sight::Nothing),
                    OUTDATED => Taken::Looked(Sight::Outdated),
                    FAULT => Taken::Looked(Sight::Fault(faults.get(usize::try_from(read.number()?).ok()?)?.clone())),
                    COUNTS => Taken::Looked(counts(&mut read, &mut last)?),
                    _ => Taken::Quiet(inputs.next()?),
                };
                let asked = match flags & (HELD | UNASKED) {
                    0 => Asked::Work,
                    HELD => Asked::Held,
                    _ => Asked::Nothing,
                };
                let grid = if flags & GRID == 0 { None } else { Some(Box::new(grids.next()?)) };
                Some(Step { at, took, asked, grid })
            })
            .collect()
    }
}

fn counts(read: &mut Read<'_>, last: &mut Last) -> Option<Sight> {
    last.source = last.source.wrapping_add(read.signed()?);
    let mut at = || {
        let behind = read.signed()?;
        Some((behind != 0).then(|| last.source.wrapping_sub(behind >> 1)))
    };
    let (newest, seen) = (at()?, [at()?, at()?]);
    let closed = usize::try_from(read.number()?).ok()?;
    Some(Sight::Counts { source_now: last.source, newest, seen, closed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::input::Scope;

    #[test]
    fn what_goes_in_comes_out_and_takes_little() {
        let mut steps = Vec::new();
        for index in 0..60_i64 {
            let mono = Mono(1_000_000 + index.unsigned_abs() * 5_000);
            let wall = jiff::Timestamp::from_nanosecond(1_750_000_000_123_456_789 + i128::from(index) * 5_000_100_003).unwrap();
            let source_now = 1_750_000_000_000 + index * 5_000 - (index % 3) * 9_000;
            let took = match index % 8 {
                7 => Taken::Looked(Sight::Outdated),
                0 => Taken::Recorded,
                1 => Taken::Woke,
                2 => Taken::Proven,
                3 => Taken::Looked(Sight::Nothing),
                4 => Taken::Looked(Sight::Fault(Reason::SourceDown { what: (index / 30).to_string() })),
                5 => Taken::Looked(Sight::Counts {
                    source_now,
                    newest: (index % 2 == 0).then_some(source_now),
                    seen: [Some(source_now + 1), (index % 4 == 1).then_some(i64::from(i32::MIN))],
                    closed: 2,
                }),
                _ => Taken::Quiet(Box::new(Input::ScopeChanged(Scope { breaching: u32::try_from(index).unwrap(), ..Scope::default() }))),
            };
            let asked = [Asked::Work, Asked::Held, Asked::Nothing][usize::try_from(index).unwrap() % 3];
            let grid = (index % 11 == 0).then(|| Box::new(Grid::default()));
            steps.push(Step { at: Now { wall, mono }, took, asked, grid });
        }
        let mut trail = Trail::default();
        steps.iter().cloned().for_each(|step| trail.push(step));
        assert_eq!(trail.len(), 60);
        assert!(trail.bytes.len() < 60 * 16, "{} bytes", trail.bytes.len());
        assert_eq!((trail.faults.len(), trail.inputs.len()), (2, 7));
        assert_eq!(trail.take(), steps);
        assert_eq!((trail.len(), trail.take()), (0, Vec::new()));
    }
}
