//! Recovering: a revert has only worked when the objectives hold again.

use super::Machine;
use crate::core::judge::{Config, Judge, StageStart};
use crate::core::mutant::Mutant;
use crate::core::reason::Reason;
use crate::core::record::Decision;
use crate::core::spec::Percent;
use crate::core::state::{Phase, Revert};

/// Scrapes in a row within the objectives that count as recovered.
const RECOVERED_SCRAPES: usize = 3;

/// Going back made it worse if this many times the share of requests goes bad, and at least so many requests.
const WORSE_TIMES: f64 = 2.0;
const WORSE_LEAST: f64 = 10.0;

impl Machine {
    /// Fresh eyes on what serves now.
    pub(super) fn start_recovery(&mut self) {
        self.judge = self.fresh_eyes().map(Box::new);
        self.judgement = None;
    }

    /// A judge of what serves now, who has seen nothing.
    pub(super) fn fresh_eyes(&self) -> Option<Judge> {
        let mut judge = Config::new(self.spec(), &[], self.guard.interval).ok().map(Judge::new)?;
        judge.begin_stage(StageStart { weight: Percent::ZERO, has_stable: true, ..StageStart::default() });
        Some(judge)
    }

    pub(super) fn recovering(&mut self) -> bool {
        let Phase::Recovering(revert) = self.state.phase.clone() else { return false };
        let late = self.now.mono >= revert.until;
        match self.objectives_hold().or(Mutant::RecoveredUnseen.lives().then_some(true)) {
            Some(true) => self.recovered(revert),
            Some(false) if late => self.stuck(Reason::NotRecovered { what: "the objectives do not hold after the revert".into() }),
            None if late && self.serving().is_none_or(|serving| !self.is_live(&serving)) => {
                self.stuck(Reason::NotRecovered { what: "no member of what was restored can serve".into() })
            }
            // Nothing speaks for or against it: traffic is where it should be, and a person is told.
            None if late => {
                let reason = Reason::NotRecovered { what: "no requests to judge the recovery by".into() };
                self.page(reason.clone());
                self.decide(Decision::Held, reason, "held");
                self.hold(revert)
            }
            Some(false) => {
                self.warn_if_worse(&revert);
                false
            }
            None => false,
        }
    }

    /// Whoever could help hears at once that going back made it worse; until the deadline it may still get better.
    fn warn_if_worse(&mut self, revert: &Revert) {
        let (Reason::Breach { objective, counts } | Reason::BreachAlone { objective, counts }) = &revert.reason else { return };
        let told = matches!(self.waiting, Some(Reason::NotRecovered { .. }));
        let Some(now) = self.stable_lately(objective, RECOVERED_SCRAPES).filter(|_| !told) else { return };
        let before = counts.candidate_bad / counts.candidate_total.max(1.0);
        if now.bad >= WORSE_LEAST && now.bad > WORSE_TIMES * before * now.total {
            let serves = self.serving().map_or_else(|| "nobody".into(), |id| self.state.name(&id));
            let what = format!("worse than before: {:.0} of the last {:.0} requests to {serves} went bad", now.bad, now.total);
            let reason = Reason::NotRecovered { what };
            self.page(reason.clone());
            self.waiting = Some(reason);
        }
    }

    /// Whether every objective held over the last scrapes of what serves; absent without requests.
    fn objectives_hold(&self) -> Option<bool> {
        let mut seen = false;
        for objective in &self.spec().objectives {
            let Some(sum) = self.stable_lately(&objective.name, RECOVERED_SCRAPES).filter(|sum| sum.total > 0.0) else { continue };
            seen = true;
            if sum.bad > objective.good.rest().fraction() * sum.total {
                return Some(false);
            }
        }
        seen.then_some(true)
    }

    fn recovered(&mut self, revert: Box<Revert>) -> bool {
        self.decide(Decision::Recovered, Reason::Recovered {}, "recovered");
        self.notify(Reason::Recovered {});
        self.hold(revert)
    }

    fn hold(&mut self, revert: Box<Revert>) -> bool {
        self.judge = None;
        self.judgement = None;
        // It was about this revert: what was missing for it is not told of any longer.
        self.state.readiness = None;
        self.state.last_revert = Some(revert.clone());
        self.enter(Phase::Reverted(revert))
    }
}
