//! Watching: all traffic is on the candidate, which is still judged; only a pass makes it known good.

use super::Machine;
use crate::core::ledger::Standing;
use crate::core::reason::{Reason, Verdict};
use crate::core::record::Decision;
use crate::core::release::{Release, ReleaseId};
use crate::core::state::Phase;
use crate::core::time::{Mono, Span};
use crate::core::work::Lane;

impl Machine {
    pub(super) fn watch_deadline(&self, since: Mono) -> Mono {
        since.after(self.trial().map_or(Span::minutes(30), |trial| trial.plan.longest_watch()))
    }

    pub(super) fn watching(&mut self) -> bool {
        let Phase::Watching { since } = self.state.phase else { return false };
        let Some(candidate) = self.candidate() else { return self.enter(Phase::Idle) };
        match self.fair_verdict() {
            Some(Verdict::Breach(reason)) => return self.breach(reason),
            Some(Verdict::Pass) => {
                self.known_good(&candidate, &Reason::Healthy {});
                return self.settle_on(&candidate);
            }
            Some(Verdict::Inconclusive(reason @ Reason::SharedCause { .. })) => self.sit_out(reason),
            Some(Verdict::Inconclusive(reason)) => self.wait(reason),
            None => {}
        }
        if self.now.mono >= self.watch_deadline(since) {
            // It serves, and nothing speaks against it; but it is no target until somebody adopts it, and so the way back stays warm.
            let missing = self.waiting.as_ref().map_or_else(|| "no verdict".to_owned(), ToString::to_string);
            let reason = Reason::Deadline { stage: self.trial().map_or(0, |trial| trial.plan.stages.len() + 1), missing };
            self.page(reason.clone());
            self.decide(Decision::Wait, reason, "watched for long enough, without proof");
            self.state.phase = Phase::Watching { since: self.now.mono };
        }
        false
    }

    /// Enters a release as known good, attested and with a `Pass`, or adopted by a person.
    pub(super) fn known_good(&mut self, release: &Release, reason: &Reason) {
        let now = self.now;
        let record = self.state.ledger.entry(now, release);
        record.standing = Standing::KnownGood;
        let held = std::mem::take(&mut record.quarantined);
        record.since = now;
        record.last_good = Some(now);
        reason.code().clone_into(&mut record.why);
        self.ledger_changed.insert(release.id.clone());
        self.acquit(release);
        if held {
            self.want_hold();
        }
        self.decide(Decision::KnownGood, reason.clone(), format!("{release} is known good"));
    }

    /// Makes the candidate the stable release, and ends the rollout.
    pub(super) fn settle_on(&mut self, candidate: &Release) -> bool {
        let old: Option<ReleaseId> = self.state.stable.replace(candidate.id.clone()).filter(|old| *old != candidate.id);
        if self.trial().is_some_and(|trial| trial.plan.drives) {
            self.want_all_on_stable(&candidate.id);
            self.want_release(candidate, Lane::Forward);
            // Whatever else runs was left behind by attempts before.
            let others = old.into_iter().chain(self.observed.arms.keys().cloned()).filter(|id| *id != candidate.id);
            let others: Vec<Release> = others.filter_map(|id| self.state.release(&id).cloned()).collect();
            for other in &others {
                self.want_arm(other, false, Lane::Forward);
            }
        }
        self.state.readiness = None;
        self.judge = None;
        self.judgement = None;
        let in_use = candidate.id.clone();
        self.state.ledger.trim(&[&in_use]);
        self.enter(Phase::Idle)
    }
}
