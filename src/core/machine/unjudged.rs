//! Unjudged: what the judge held against a release outlives its attempt, so that whoever goes on before there is a verdict, to a touched
//! template, to something else or back to stable, finds it again when the same images come back.

use std::time::Duration;

use super::Machine;
use crate::core::judge::{Checkpoint, Judge};
use crate::core::mutant::Mutant;
use crate::core::release::Release;
use crate::core::state::Unjudged;

/// How many are kept: those with most against them.
const KEPT: usize = 8;
/// How long.
const KEPT_FOR: Duration = Duration::from_hours(24);
/// Within this time the same images get no other warm-up: whoever came back more often than that would never be judged.
const WARM_FOR: Duration = Duration::from_hours(1);

impl Machine {
    /// The attempt under way ends without a verdict.
    pub(super) fn set_aside(&mut self) {
        let Some(candidate) = self.state.candidate().cloned() else { return };
        let Some(checkpoint) = self.judge.as_deref().map(Judge::checkpoint).filter(Checkpoint::has_begun) else { return };
        self.acquit(&candidate);
        self.state.unjudged.push(Unjudged { images: candidate.digests(), at: self.now.mono, against: checkpoint.against() });
        if self.state.unjudged.len() > KEPT {
            let odds = |one: &Unjudged| one.against.log_odds();
            let least = self.state.unjudged.iter().enumerate().min_by(|(_, a), (_, b)| odds(a).total_cmp(&odds(b))).map(|(at, _)| at);
            least.map(|at| self.state.unjudged.remove(at));
        }
        self.touch();
    }

    /// What is held against the images of a release.
    pub(super) fn held_against(&self, release: &Release) -> Option<&Unjudged> {
        let images = release.digests();
        self.state.unjudged.iter().find(|one| one.images == images && !Mutant::EvidenceDropped.lives())
    }

    /// Whether these images had their warm-up lately.
    pub(super) fn is_warm(&self, one: &Unjudged) -> bool {
        self.now.mono.since(one.at) < WARM_FOR
    }

    /// There is a verdict: known good, or taken out.
    pub(super) fn acquit(&mut self, release: &Release) {
        let images = release.digests();
        self.state.unjudged.retain(|one| one.images != images);
    }

    /// Forgets what is too old.
    pub(super) fn expire_unjudged(&mut self) {
        let now = self.now.mono;
        self.state.unjudged.retain(|one| now.since(one.at) < KEPT_FOR);
    }
}
