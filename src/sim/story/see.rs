//! What is so in the world, and what is seen where something else was expected.

use super::play::Play;
use super::{Condition, Wanted};
use crate::core::record::Event;
use crate::core::state::PhaseKind;

impl Play {
    /// Whether something is so now.
    pub(super) fn is_so(&self, wanted: &Wanted) -> bool {
        self.holds(&wanted.what) != wanted.not
    }

    fn holds(&self, what: &Condition) -> bool {
        let world = &self.life.world;
        let ledger = world.state.as_ref().map(|state| &state.ledger);
        match what {
            Condition::Phase(kind) => self.life.phase() == *kind,
            Condition::Traffic(release, share) => (world.weight(&release.release().id) - share.fraction()).abs() < 1e-9,
            Condition::Own(release) => world.host.current.as_ref() == Some(&release.release().id),
            Condition::Paged(code) => self.told(true, *code),
            Condition::Told(code) => self.told(false, *code),
            Condition::Answered(accepted, code) => self
                .answer
                .as_ref()
                .is_some_and(|answer| answer.accepted == *accepted && code.is_none_or(|code| answer.reason.code() == code)),
            Condition::Waiting(code) => {
                self.life.machine().and_then(|machine| machine.waiting()).is_some_and(|reason| reason.code() == *code)
            }
            Condition::Decided(decision, code) => world.log.iter().any(|record| {
                let reason = record.reason.as_ref();
                matches!(record.event, Event::Decision { decision: decided, .. } if decided == *decision)
                    && code.is_none_or(|code| reason.is_some_and(|reason| reason.code() == code))
            }),
            Condition::KnownGood(release) => ledger.is_some_and(|ledger| ledger.is_known_good(&release.release().id)),
            Condition::Quarantined(release) => ledger.is_some_and(|ledger| ledger.is_quarantined(&release.release().id)),
            Condition::FlagSafe => self.flag_is_safe(),
            Condition::FewerBad(count) => self.bad() < *count,
        }
    }

    fn told(&self, page: bool, code: Option<&str>) -> bool {
        self.life.world.told.values().any(|notice| notice.page == page && code.is_none_or(|code| notice.reason.code() == code))
    }

    pub(super) fn flag_is_safe(&self) -> bool {
        let world = &self.life.world;
        let flags = &world.guard.spec.revert.flags;
        !flags.is_empty() && flags.iter().all(|flag| world.flags.get(&flag.flag) == Some(flag))
    }

    /// Requests that went wrong so far.
    pub(super) fn bad(&self) -> u64 {
        self.life.world.traffic.failed + self.life.world.traffic.dropped
    }

    /// What is seen of what was expected otherwise.
    pub(super) fn instead(&self, what: &Condition) -> String {
        let world = &self.life.world;
        match what {
            Condition::Phase(_) | Condition::Waiting(_) => self.standing(),
            Condition::Traffic(..) => format!("{}; {}", self.traffic(), self.standing()),
            Condition::Own(_) => {
                format!("the workload's own release is {}", world.host.current.as_ref().map_or("none".into(), |id| self.name(id)))
            }
            Condition::Paged(_) | Condition::Told(_) => {
                let told: Vec<String> = world
                    .told
                    .values()
                    .map(|notice| format!("{} {}", if notice.page { "page" } else { "notice" }, notice.reason.code()))
                    .collect();
                let told = if told.is_empty() { "nobody was told anything".to_owned() } else { told.join(", ") };
                format!("{told}; {}", self.standing())
            }
            Condition::Answered(..) => match &self.answer {
                Some(answer) => {
                    let how = if answer.accepted { "accepted" } else { "refused" };
                    format!("{how} {}: {}", answer.reason.code(), answer.reason)
                }
                None => "no answer".into(),
            },
            Condition::Decided(..) => {
                let decided: Vec<String> = world
                    .log
                    .iter()
                    .filter_map(|record| match &record.event {
                        Event::Decision { decision, .. } => {
                            let code = record.reason.as_ref().map_or("", |reason| reason.code());
                            Some(format!("{} {code}", decision.words()))
                        }
                        _ => None,
                    })
                    .collect();
                format!("decided so far: {}", if decided.is_empty() { "nothing".into() } else { decided.join(", ") })
            }
            Condition::KnownGood(_) | Condition::Quarantined(_) => {
                let records = world.state.iter().flat_map(|state| state.ledger.records());
                let known: Vec<String> = records
                    .map(|record| {
                        let held = if record.quarantined { ", quarantined" } else { "" };
                        format!("{} {:?}{held}", self.name(&record.release.id), record.standing)
                    })
                    .collect();
                format!("the ledger has {}", if known.is_empty() { "nothing".into() } else { known.join(", ") })
            }
            Condition::FlagSafe => if self.flag_is_safe() { "the flag is safe" } else { "the flag is as it was" }.into(),
            Condition::FewerBad(_) => format!("{} bad requests", self.bad()),
        }
    }

    /// Where the rollout stands, in a line.
    pub(super) fn standing(&self) -> String {
        let phase = self.life.phase();
        let Some(machine) = self.life.machine() else { return format!("{phase}, and no controller") };
        match machine.waiting() {
            Some(reason) if !matches!(phase, PhaseKind::Idle) => format!("{phase}, waiting for {} {reason}", reason.code()),
            _ => phase.to_string(),
        }
    }

    /// Who gets which share of the requests.
    pub(super) fn traffic(&self) -> String {
        let weights = &self.life.world.host.weights;
        let shares: Vec<String> =
            weights.iter().filter(|(_, share)| share.fraction() > 0.0).map(|(id, share)| format!("{} {share}", self.name(id))).collect();
        if shares.is_empty() { "no traffic".into() } else { format!("traffic: {}", shares.join(", ")) }
    }
}
