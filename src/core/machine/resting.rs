//! Resting: nothing is on trial. A revert is kept possible, and that is proven from time to time.

use std::time::Duration;

use super::Machine;
use crate::core::attest::{self, Facts};
use crate::core::input::{Observation, Outcome};
use crate::core::reason::Reason;
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::state::{PhaseKind, Readiness};
use crate::core::time::Mono;
use crate::core::work::{Action, Effect, EffectId, EvidenceFrom, Fence, Lane, Work};

/// How often it is proven that a revert would work.
const PROVE_EVERY: Duration = Duration::from_mins(1);
/// How long a proof may take.
const PROVE_WITHIN: Duration = Duration::from_secs(20);
/// How soon a proof is tried again that got no clear answer, and how often until that is an answer, too: one refused request
/// calls nobody and holds nothing back.
const PROVE_AGAIN: Duration = Duration::from_secs(5);
const PROOFS_TRIED: u32 = 3;

/// The proof under way, and the next. Memory only: a proof changes state when its answer does.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof {
    in_flight: Option<(EffectId, Mono, Release)>,
    // Absent until the first step after a start.
    next: Option<Mono>,
    count: u32,
    // How often in a row the proof of this target got no clear answer.
    unclear: Option<(ReleaseId, u32)>,
}

impl Proof {
    /// How many were begun.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The one under way ended, and told nothing new.
    pub(super) fn ended(&mut self) {
        self.in_flight = None;
        self.unclear = None;
    }
}

impl Machine {
    pub(super) fn idle(&mut self) -> bool {
        self.adopt_found() || self.dequeue()
    }

    /// The release that a revert would go to now.
    pub(super) fn readiness_target(&self) -> Option<&Release> {
        let under = self.state.candidate().map(|candidate| &candidate.id).or(self.state.stable.as_ref());
        self.state.ledger.newest_target(under).map(|record| &record.release)
    }

    /// When the first proof after a start is due, where the one before it held: a controller of thousands of guards that start together
    /// must not prove them together, in front of what is under way.
    fn first_proof(&self, target: &Release) -> Mono {
        let held = |readiness: &Readiness| readiness.missing.is_none() && readiness.target.as_ref() == Some(&target.id);
        if self.state.phase.kind() != PhaseKind::Idle || !self.state.readiness.as_ref().is_some_and(held) {
            return self.now.mono;
        }
        let share = Digest::of(self.guard.key.as_bytes()).hex().bytes().take(2).fold(0, |share, byte| share * 16 + u32::from(byte & 15));
        self.now.mono.after(PROVE_EVERY * share / 256)
    }

    fn proves(&self) -> bool {
        matches!(self.state.phase.kind(), PhaseKind::Idle | PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching)
    }

    pub(super) fn readiness_due(&self) -> Option<Mono> {
        (self.proves() && self.readiness_target().is_some())
            .then(|| self.proof.in_flight.as_ref().map_or(self.proof.next.unwrap_or_default(), |proof| proof.1))
    }

    /// Has the target's stored evidence verified from time to time, so that it is known before it is needed.
    pub(super) fn schedule_proof(&mut self, work: &mut Work) {
        if self.proof.in_flight.as_ref().is_some_and(|(_, until, _)| self.now.mono >= *until) {
            self.proof.in_flight = None;
        }
        if !self.proves() || self.proof.in_flight.is_some() {
            return;
        }
        let Some(target) = self.readiness_target().cloned() else { return };
        // Another target than the one proven last is proven at once.
        let proven = self.state.readiness.as_ref().is_some_and(|readiness| readiness.target.as_ref() == Some(&target.id));
        let again = self.proof.unclear.as_ref().is_some_and(|(of, _)| *of == target.id);
        let next = self.proof.next.unwrap_or_else(|| self.first_proof(&target));
        self.proof.next = Some(next);
        if (proven || again) && self.now.mono < next {
            return;
        }
        self.proof.count = (self.proof.count + 1) % 1_000_000;
        let id = EffectId { revision: self.state.revision, ordinal: u32::MAX / 2 + self.proof.count };
        let deadline = self.now.mono.after(PROVE_WITHIN);
        self.proof.next = Some(self.now.mono.after(PROVE_EVERY));
        self.proof.in_flight = Some((id, deadline, target.clone()));
        let action = Action::Verify { release: target, evidence: EvidenceFrom::Store };
        work.safe.push(Effect { id, fence: Fence::None, deadline, lane: Lane::Forward, action });
    }

    /// Takes the outcome of a proof; whether it was one.
    pub(super) fn proven(&mut self, id: EffectId, outcome: &Outcome) -> bool {
        let Some((_, _, release)) = self.proof.in_flight.take_if(|(proof, _, _)| *proof == id) else { return false };
        let unclear = matches!(outcome, Outcome::Transient { .. } | Outcome::Unknown(_) | Outcome::Superseded(_));
        if unclear && self.put_off(&release.id) {
            return true;
        }
        self.proof.unclear = None;
        self.journaled.proven = true;
        let refused = match outcome {
            Outcome::Done { observed: Observation::Facts(facts), .. } => self.lacking(&release, facts),
            Outcome::Done { .. } => None,
            // The world would not let it happen.
            Outcome::Denied(what) => Some(Reason::NotReady { what: what.clone() }),
            Outcome::Transient { what, .. } | Outcome::Unknown(what) | Outcome::Superseded(what) | Outcome::Invalid(what) => {
                Some(Reason::EvidenceUnavailable { what: what.clone() })
            }
        };
        self.note_readiness(&release.id, refused);
        true
    }

    /// Has a proof that got no clear answer tried again soon; whether there are tries left.
    fn put_off(&mut self, target: &ReleaseId) -> bool {
        let before = self.proof.unclear.take().filter(|(of, _)| of == target).map_or(0, |(_, tries)| tries);
        if before + 1 >= PROOFS_TRIED {
            return false;
        }
        self.proof.unclear = Some((target.clone(), before + 1));
        self.proof.next = Some(self.now.mono.after(PROVE_AGAIN));
        self.journaled.moved = true;
        true
    }

    /// What policy misses in the facts about a release; nothing if its images are attested.
    pub(super) fn lacking(&self, release: &Release, facts: &Facts) -> Option<Reason> {
        match attest::evaluate(&self.limits().attestation, facts) {
            Ok(attested) if attested.covers(&release.template.images()) => None,
            Ok(_) => Some(Reason::NotAttested { image: release.to_string(), why: "the facts are about other images".into() }),
            Err(reasons) => reasons.into_iter().next(),
        }
    }

    fn note_readiness(&mut self, release: &ReleaseId, missing: Option<Reason>) {
        let readiness = Readiness { target: Some(release.clone()), missing };
        if self.state.readiness.as_ref() == Some(&readiness) {
            return;
        }
        if let Some(reason) = &readiness.missing {
            self.page(not_ready(reason));
        }
        self.state.readiness = Some(readiness);
        self.touch();
    }
}

/// Why a revert would not work, as one reason.
pub(super) fn not_ready(missing: &Reason) -> Reason {
    match missing {
        Reason::NotReady { .. } => missing.clone(),
        other => Reason::NotReady { what: other.to_string() },
    }
}
