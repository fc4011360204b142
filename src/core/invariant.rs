//! The rules that nothing may break, one enum for simulator, guard, replay and metrics.

use std::fmt;

use super::ledger::Standing;
use super::spec::Percent;
use super::state::{Phase, State, Target};
use super::work::{Action, Fence, Work};

macro_rules! invariants {
    ($( $name:ident => $sentence:literal ; )+) => {
        /// A rule. The sentence is its documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Invariant { $( #[doc = $sentence] $name, )+ }

        impl Invariant {
            /// Every rule.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// Its name, `I1` to `I15`.
            pub fn id(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )+ }
            }

            /// The rule in words.
            pub fn sentence(self) -> &'static str {
                match self { $( Self::$name => $sentence, )+ }
            }
        }
    };
}

invariants! {
    I1 => "Only attested digests are put into a workload, unless a recorded break-glass says who and why.";
    I2 => "After a breach the candidate's weight never rises again in that generation.";
    I3 => "The revert target was known good here; it is never the release under revert, nor quarantined.";
    I4 => "Nothing becomes known good without `Pass` on fresh, sufficient samples, or a person's recorded adoption; missing data never promotes.";
    I5 => "`then` effects of a revision happen only after its commit; a writer that lost the swap does nothing forward.";
    I6 => "A person's revert is obeyed on receipt, in every phase, and automation cannot undo it.";
    I7 => "Any effect twice changes the world as if once.";
    I8 => "A revert ends: reverted and recovered, or stuck with a page, within its deadline.";
    I9 => "Clock steps neither promote early nor delay a revert beyond its deadline.";
    I10 => "Replaying the records gives the same decisions and the same committed state.";
    I11 => "Weights sum to 100; until the candidate is known good and its watch has passed, a known-good arm, if one exists, stays ready to take 100 %.";
    I12 => "Every phase has a way out; a phase that waits on time or the world has `wake_at`.";
    I13 => "A newer deployment is never overwritten by an older decision, and never shakes off evidence against an unchanged image.";
    I14 => "No agent input, alone, loosens a policy, lifts a freeze or a hold, or approves its own rollout.";
    I15 => "A cause shared by both arms, or by many rollouts of one source, restores nothing by itself.";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id(), self.sentence())
    }
}

/// Checks what one state and the work that comes from it can show, before the work is handed out.
///
/// The rules about order and repetition (I5 to I7, I9, I10) need a history; the simulator keeps one.
///
/// # Errors
/// The first rule that would be broken.
pub fn check(state: &State, work: &Work) -> Result<(), Invariant> {
    attested(state, work)?;
    weights(state, work)?;
    target(state)?;
    known_good(state)?;
    safe_only(work)?;
    fences(state, work)
}

/// I1: a release that gets members or becomes the workload's own was verified, is known good, or break-glass is on record.
fn attested(state: &State, work: &Work) -> Result<(), Invariant> {
    let break_glass = state.phase.revert().is_some_and(|revert| revert.break_glass);
    for effect in work.then.iter().chain(&work.safe) {
        let (Action::EnsureArm { release, present: true } | Action::EnsureRelease { release }) = &effect.action else { continue };
        let on_trial = state.trial.as_ref().is_some_and(|trial| trial.candidate.id == release.id && trial.candidate_attested == Some(true));
        let chosen = state.phase.revert().is_some_and(|revert| revert.target == Target::Chosen(release.id.clone()));
        if !(on_trial || chosen || break_glass || state.ledger.is_known_good(&release.id)) {
            return Err(Invariant::I1);
        }
    }
    Ok(())
}

/// I2 and I11: shares sum to 100, and a breached candidate gets none.
fn weights(state: &State, work: &Work) -> Result<(), Invariant> {
    for effect in work.then.iter().chain(&work.safe) {
        let Action::EnsureWeights { weights } = &effect.action else { continue };
        let sum: f64 = weights.values().map(|share| share.fraction()).sum();
        if (sum - 1.0).abs() > 1e-9 {
            return Err(Invariant::I11);
        }
        if let Some(trial) = &state.trial
            && trial.breached
            && !state.ledger.is_known_good(&trial.candidate.id)
            && weights.get(&trial.candidate.id).is_some_and(|share| *share > Percent::ZERO)
        {
            return Err(Invariant::I2);
        }
    }
    Ok(())
}

/// I3: a chosen target was known good, is not quarantined, and is not what is taken out.
fn target(state: &State) -> Result<(), Invariant> {
    let Some(revert) = state.phase.revert() else { return Ok(()) };
    let Target::Chosen(target) = &revert.target else { return Ok(()) };
    let fits = state.ledger.is_known_good(target)
        && (!state.ledger.is_quarantined(target) || matches!(state.phase, Phase::Reverted(_) | Phase::Stuck { .. }))
        && revert.under.as_ref().is_none_or(|under| &under.id != target);
    if fits { Ok(()) } else { Err(Invariant::I3) }
}

/// I4: known good says why and when.
fn known_good(state: &State) -> Result<(), Invariant> {
    let unfounded = state
        .ledger
        .records()
        .iter()
        .any(|record| record.standing == Standing::KnownGood && (record.last_good.is_none() || record.why.is_empty()));
    if unfounded { Err(Invariant::I4) } else { Ok(()) }
}

/// I5: only reads, flags' safe states and traffic to stable may start beside the commit.
fn safe_only(work: &Work) -> Result<(), Invariant> {
    let safe = work.safe.iter().all(|effect| match &effect.action {
        Action::Look(_) | Action::Verify { .. } | Action::EnsureFlag(_) => true,
        Action::EnsureWeights { weights } => {
            matches!(&effect.fence, Fence::Stable(stable) if weights.get(stable) == Some(&Percent::FULL))
        }
        Action::EnsureArm { .. } | Action::EnsureRelease { .. } | Action::EnsureHold { .. } | Action::Notify(_) | Action::Record => false,
    });
    if safe { Ok(()) } else { Err(Invariant::I5) }
}

/// I13: what is fenced on a generation is fenced on the newest.
fn fences(state: &State, work: &Work) -> Result<(), Invariant> {
    let ahead = work.then.iter().chain(&work.safe).any(|effect| matches!(effect.fence, Fence::Generation(of) if of > state.generation));
    if ahead { Err(Invariant::I13) } else { Ok(()) }
}
