//! Found: the workload ran before its guard was there. What runs is stable from then on, and known good once it is attested and was
//! healthy for long enough, or when a person adopts it.

use std::time::Duration;

use super::Machine;
use crate::core::ledger::Standing;
use crate::core::reason::Reason;
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::Percent;
use crate::core::state::PhaseKind;
use crate::core::time::{Mono, Span};
use crate::core::work::{EvidenceFrom, Lane};

/// How long a release that was found must have been healthy.
const ADOPT_AFTER: Duration = Duration::from_mins(10);

impl Machine {
    /// A release runs, and nothing was ever committed of another. Whether it is attested is found out.
    pub(super) fn found(&mut self, release: &Release) -> String {
        if self.state.stable.is_some() || self.state.trial.is_some() {
            return "known".into();
        }
        let now = self.now;
        self.state.ledger.entry(now, release);
        self.ledger_changed.insert(release.id.clone());
        self.state.stable = Some(release.id.clone());
        self.state.weights = [(release.id.clone(), Percent::FULL)].into();
        self.want_verify(release, EvidenceFrom::Origin, Lane::Forward);
        self.touch();
        "stable from now on".into()
    }

    /// The evidence of a release that was found was read at its origin.
    pub(super) fn verified_as_found(&mut self, release: &Release, refused: Option<Reason>) {
        if self.unproven_stable() != Some(&release.id) {
            return;
        }
        if let Some(reason) = refused {
            self.notify(Reason::NotReady { what: reason.to_string() });
            return;
        }
        let now = self.now;
        let record = self.state.ledger.entry(now, release);
        Reason::Admitted {}.code().clone_into(&mut record.why);
        self.ledger_changed.insert(release.id.clone());
        self.touch();
    }

    fn unproven_stable(&self) -> Option<&ReleaseId> {
        let stable = self.state.stable.as_ref()?;
        self.state.ledger.get(stable).filter(|record| record.standing == Standing::Unproven && !record.quarantined)?;
        Some(stable)
    }

    /// Whether stable is attested, and nothing but time keeps it from being known good.
    fn is_tried(&self) -> bool {
        let attested = |id: &ReleaseId| self.state.ledger.get(id).is_some_and(|record| record.why == Reason::Admitted {}.code());
        self.state.phase.kind() == PhaseKind::Idle && self.unproven_stable().is_some_and(attested)
    }

    /// Notes since when stable is healthy. Memory only: after a restart it must be healthy for as long again.
    pub(super) fn note_found(&mut self) {
        let healthy = self.is_tried() && self.state.stable.as_ref().is_some_and(|id| self.is_ready(id));
        self.healthy_since = healthy.then(|| self.healthy_since.unwrap_or(self.now.mono));
    }

    /// When stable becomes known good, if nothing happens.
    pub(super) fn adopts_at(&self) -> Option<Mono> {
        self.healthy_since.map(|since| since.after(ADOPT_AFTER))
    }

    /// Takes stable as known good, once it was healthy for long enough.
    pub(super) fn adopt_found(&mut self) -> bool {
        let due = self.adopts_at().is_some_and(|at| self.now.mono >= at) && self.is_tried();
        let stable = self.state.stable.as_ref().filter(|_| due).and_then(|id| self.state.release(id)).cloned();
        let Some(stable) = stable else { return false };
        self.known_good(&stable, &Reason::Found { healthy: Span(ADOPT_AFTER) });
        self.healthy_since = None;
        true
    }
}
