//! People's and agents' commands. A revert is obeyed on receipt, in every phase.

use std::sync::Arc;

use super::reverting::Asked;
use super::verbs::Meaning;
use super::{Answer, Machine};
use crate::core::actor::Request;
use crate::core::input::{Commanded, Parts, Verb};
use crate::core::judge::StageStart;
use crate::core::mutant::Mutant;
use crate::core::reason::Reason;
use crate::core::record::Decision;
use crate::core::release::ReleaseId;
use crate::core::spec::Percent;
use crate::core::state::{Phase, PhaseKind, Revert, StageStep, Target};
use crate::core::time::Span;

impl Machine {
    pub(super) fn commanded(&mut self, command: Commanded) -> String {
        let Commanded { verb, request } = command;
        self.touch();
        let kind = verb.kind();
        if let Err(what) = self.may(&verb, &request) {
            return self.turn_down(Reason::NotAllowed { what });
        }
        let reason = Reason::Commanded {
            verb: kind.name().to_owned(),
            by: request.actor.to_string(),
            why: request.rationale.clone().unwrap_or_else(|| "no reason given".into()),
        };
        let meaning = kind.meaning(self.state.phase.kind());
        if let Some(answer) = self.obey(verb, meaning, request, &reason) {
            return self.turn_down(answer);
        }
        self.answer = Some(Answer { accepted: true, reason, revert: self.attach() });
        "obeyed".into()
    }

    fn turn_down(&mut self, reason: Reason) -> String {
        let text = format!("refused: {reason}");
        let accepted = matches!(reason, Reason::NothingToDo { .. });
        self.answer = Some(Answer { accepted, reason, revert: self.attach() });
        text
    }

    fn may(&self, verb: &Verb, request: &Request) -> Result<(), String> {
        verb.kind().allowed(&request.actor)?;
        match verb {
            Verb::Revert { break_glass: true, .. } if !request.actor.is_human() => {
                Err(format!("break-glass needs a person; this is {}", request.actor))
            }
            Verb::Revert { break_glass: true, .. } | Verb::Lift { .. } if request.rationale.as_ref().is_none_or(String::is_empty) => {
                Err("this needs a reason: add `--reason`".into())
            }
            Verb::Approve if !Mutant::OwnApproval.lives() && self.trial().is_some_and(|trial| trial.request.who() == request.who()) => {
                Err("nobody approves their own rollout".into())
            }
            _ => Ok(()),
        }
    }

    /// Does it; or says why there is nothing to do.
    fn obey(&mut self, verb: Verb, meaning: Meaning, request: Request, reason: &Reason) -> Option<Reason> {
        let nothing = |what: String| Some(Reason::NothingToDo { what });
        match (verb, meaning) {
            (Verb::Revert { to, parts, break_glass }, meaning) => {
                return self.revert_on_command(Asked { by: Some(Arc::new(request)), parts, only: to, break_glass }, meaning, reason);
            }
            (verb, Meaning::Nothing) => {
                return nothing(format!("`{}` means nothing while {}", verb.kind().name(), self.state.phase.kind()));
            }
            (Verb::Lift { release }, _) => return self.lift(release.as_ref(), reason),
            (Verb::Pause, _) => {
                if self.state.overlays.paused.is_some() {
                    return nothing("already paused".into());
                }
                self.state.overlays.paused = Some(Box::new(request));
            }
            (Verb::Resume, _) => {
                if self.state.overlays.paused.take().is_none() {
                    return nothing("not paused".into());
                }
            }
            (Verb::Freeze, _) => {
                if self.state.overlays.frozen.is_some() {
                    return nothing("already frozen".into());
                }
                self.state.overlays.frozen = Some(Box::new(request));
            }
            (Verb::Thaw, _) => {
                if self.state.overlays.frozen.take().is_none() {
                    return nothing("not frozen".into());
                }
            }
            (Verb::Disarm { span }, _) => {
                self.state.overlays.disarmed_until = Some(self.now.mono.after(span.min(Span::minutes(24 * 60))));
                self.page(reason.clone());
            }
            (Verb::Arm, _) => {
                if self.state.overlays.disarmed_until.take().is_none() {
                    return nothing("not disarmed".into());
                }
            }
            (Verb::Approve, _) => {
                let by = request.who().to_owned();
                if let Some(trial) = self.trial_mut()
                    && !trial.approvals.contains(&by)
                {
                    trial.approvals.push(by);
                }
            }
            (Verb::Promote, _) => {
                self.decide(Decision::Promote, reason.clone(), "promoted on command");
                // Whatever step it came from, what has traffic is judged on.
                if let Phase::Advancing(advancing) = &self.state.phase
                    && advancing.step != StageStep::Judging
                {
                    let weight = self.state.candidate().map_or(Percent::ZERO, |candidate| self.state.weight(&candidate.id));
                    self.start_judging(StageStart { weight, has_stable: self.has_baseline(), ..StageStart::default() });
                }
                self.enter(Phase::Promoting { since: self.now.mono });
            }
            (Verb::Adopt, _) => return self.adopt(reason),
        }
        self.decide(Decision::Obey, reason.clone(), "obeyed");
        None
    }

    fn revert_on_command(&mut self, asked: Asked, meaning: Meaning, reason: &Reason) -> Option<Reason> {
        if asked.break_glass {
            let by = asked.by.as_ref().map(|by| by.actor.to_string()).unwrap_or_default();
            self.page(Reason::BreakGlass { by });
        }
        if let Some(only) = &asked.only
            && let Err(what) = self.is_target(only)
        {
            return Some(Reason::NotAllowed { what });
        }
        match meaning {
            Meaning::Cancel => {
                let person = asked.by.as_ref().is_some_and(|by| by.actor.is_human());
                if person && let Some(candidate) = self.state.candidate().cloned() {
                    self.keep_out(&candidate, reason);
                }
                self.refuse(reason.clone());
                self.enter(Phase::Idle);
            }
            Meaning::Attach => self.attach_more(asked, reason),
            Meaning::Retry => self.retry_revert(asked, reason),
            Meaning::Obey | Meaning::Begin | Meaning::Nothing => {
                let flags = !self.spec().revert.flags.is_empty();
                match asked.parts {
                    Parts::All if asked.only.is_none() && self.nowhere_to_go() && !flags => return Some(Reason::NoTarget {}),
                    // Nothing can go back, but the flags can.
                    Parts::All if asked.only.is_none() && self.nowhere_to_go() => {
                        self.begin_revert(reason.clone(), Asked { parts: Parts::Flags, ..asked });
                    }
                    Parts::Traffic if self.state.candidate().is_none() => return Some(Reason::NoTarget {}),
                    Parts::All | Parts::Traffic | Parts::Flags => self.begin_revert(reason.clone(), asked),
                }
            }
        }
        None
    }

    /// More may be asked for than what runs: a person's word widens, or takes over, an automatic or partial revert.
    fn attach_more(&mut self, asked: Asked, reason: &Reason) {
        let Some(revert) = self.state.phase.revert().cloned() else { return };
        let person = asked.by.as_ref().is_some_and(|by| by.actor.is_human());
        let nowhere = asked.only.is_none() && self.nowhere_to_go();
        // Flags beside traffic: both, and nothing is taken back of what was ordered.
        let beside = revert.parts == Parts::Traffic && asked.parts == Parts::Flags;
        if beside && person {
            self.want_flags();
        }
        let other_parts = revert.parts != Parts::All && revert.parts != asked.parts && !beside;
        let wider = other_parts && (person || asked.parts == Parts::All) && !nowhere;
        let other = asked.only.is_some() && revert.only != asked.only && (person || !revert.by_person());
        let reverting = self.state.phase.kind() == PhaseKind::Reverting;
        let held_back = person && !revert.by_person() && revert.target == Target::Waiting;
        let firmer = reverting && (asked.break_glass && !revert.break_glass || held_back);
        if wider || other || firmer {
            let until = self.now.mono.after(super::reverting::REVERT_WITHIN);
            let (by, skipped) = (if person || !revert.by_person() { asked.by } else { revert.by.clone() }, Vec::new());
            let (parts, only, break_glass) = (if wider { asked.parts } else { revert.parts }, asked.only, asked.break_glass);
            self.take_back(Box::new(Revert { by, until, parts, only, break_glass, skipped, ..revert }), reason.clone());
        } else if person
            && !revert.by_person()
            && let Some(revert) = self.revert_mut()
        {
            revert.by = asked.by;
        }
    }

    /// With no other known-good release than the one that serves, taking that down would help nobody.
    pub(super) fn nowhere_to_go(&self) -> bool {
        let stable = self.state.stable.as_ref();
        let of_stable = match &self.state.phase {
            Phase::Reverting(revert) | Phase::Recovering(revert) | Phase::Stuck { revert, .. } => {
                revert.under.as_ref().map(|under| &under.id) == stable
            }
            _ => self.state.candidate().is_none(),
        };
        of_stable && self.state.ledger.targets(stable).is_empty()
    }

    fn is_target(&self, id: &ReleaseId) -> Result<(), String> {
        let name = self.state.name(id);
        let Some(record) = self.state.ledger.get(id) else {
            return Err(format!("{id} was never seen here; `backstop status` lists what was"));
        };
        if record.quarantined {
            return Err(format!("{name} is quarantined; `backstop lift` it first"));
        }
        if record.standing != crate::core::ledger::Standing::KnownGood {
            return Err(format!("{name} never was known good here"));
        }
        let under = match self.state.phase.revert() {
            Some(revert) => revert.under.as_ref().map(|under| &under.id),
            None => self.state.candidate().map(|candidate| &candidate.id).or(self.state.stable.as_ref()),
        };
        if under == Some(id) {
            return Err(format!("{name} is the release under revert"));
        }
        Ok(())
    }

    fn lift(&mut self, release: Option<&ReleaseId>, reason: &Reason) -> Option<Reason> {
        let lifted: Vec<ReleaseId> =
            self.state.ledger.quarantined().into_iter().filter(|id| release.is_none_or(|release| release == id)).collect();
        let held = matches!(self.state.phase.kind(), PhaseKind::Reverted | PhaseKind::Stuck | PhaseKind::Recovering);
        if lifted.is_empty() && !held {
            return Some(Reason::NothingToDo { what: "no hold, and nothing quarantined".into() });
        }
        for id in lifted {
            if let Some(release) = self.state.release(&id).cloned() {
                let now = self.now;
                self.state.ledger.entry(now, &release).quarantined = false;
                self.ledger_changed.insert(id);
            }
        }
        self.want_hold();
        self.decide(Decision::Obey, reason.clone(), "lifted");
        if held {
            self.judge = None;
            self.enter(Phase::Idle);
        }
        None
    }

    fn adopt(&mut self, reason: &Reason) -> Option<Reason> {
        let candidate = self.state.candidate().cloned();
        let running = candidate.or_else(|| self.state.stable.as_ref().and_then(|id| self.state.release(id)).cloned());
        let Some(running) = running else { return Some(Reason::NothingToDo { what: "nothing runs here".into() }) };
        let watching = self.state.phase.kind() == PhaseKind::Watching;
        self.known_good(&running, reason);
        if watching {
            self.settle_on(&running);
        }
        None
    }
}
