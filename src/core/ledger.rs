//! The known-good, bad and quarantined releases of a workload, and the choice of a revert target.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mutant::Mutant;
use super::release::{Release, ReleaseId};
use super::time::Now;

/// What is known of one release of one workload. Outlives the guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerRecord {
    /// The release, with its full template.
    pub release: Release,
    /// What came of it.
    pub standing: Standing,
    /// Whether it must not run until a person lifts that.
    pub quarantined: bool,
    /// When `standing` was last set.
    pub since: Now,
    /// When it was last serving, for the order of targets; absent if it never was known good.
    pub last_good: Option<Now>,
    /// Why it has this standing, as a reason's code.
    pub why: String,
}

/// What came of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// Seen or on trial; nothing proven.
    Unproven,
    /// Attested, and its watch ended in `Pass` here, or a person adopted it.
    KnownGood,
    /// Reverted for a breach.
    Bad,
}

/// The records of one workload, in the order in which releases were first seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger {
    records: Vec<LedgerRecord>,
}

/// How many releases are kept beside the quarantined ones.
const KEPT: usize = 20;

/// How many may be quarantined before agents bring no more.
pub const QUARANTINED_MAX: usize = 64;

impl Ledger {
    /// A ledger of what was kept elsewhere, in the order in which releases were first seen.
    pub fn of(records: Vec<LedgerRecord>) -> Self {
        Self { records }
    }

    /// The records.
    pub fn records(&self) -> &[LedgerRecord] {
        &self.records
    }

    /// The record of a release.
    pub fn get(&self, id: &ReleaseId) -> Option<&LedgerRecord> {
        self.records.iter().find(|record| &record.release.id == id)
    }

    /// Whether a release is quarantined.
    pub fn is_quarantined(&self, id: &ReleaseId) -> bool {
        self.get(id).is_some_and(|record| record.quarantined)
    }

    /// Whether a release is known good.
    pub fn is_known_good(&self, id: &ReleaseId) -> bool {
        self.get(id).is_some_and(|record| record.standing == Standing::KnownGood)
    }

    /// Every quarantined release.
    pub fn quarantined(&self) -> Vec<ReleaseId> {
        self.records.iter().filter(|record| record.quarantined).map(|record| record.release.id.clone()).collect()
    }

    /// The record of `release`, made if there is none.
    pub fn entry(&mut self, now: Now, release: &Release) -> &mut LedgerRecord {
        let at = self.records.iter().position(|record| record.release.id == release.id).unwrap_or_else(|| {
            self.records.push(LedgerRecord {
                release: release.clone(),
                standing: Standing::Unproven,
                quarantined: false,
                since: now,
                last_good: None,
                why: String::new(),
            });
            self.records.len() - 1
        });
        &mut self.records[at]
    }

    /// Whether so many releases are quarantined that agents are to bring no more.
    pub fn is_full_of_quarantine(&self) -> bool {
        self.records.iter().filter(|record| record.quarantined).count() >= QUARANTINED_MAX
    }

    /// Drops the oldest records that nothing can need any more: first what was never proven, then what was known good longest ago. What is
    /// quarantined stays until a person lifts that.
    pub fn trim(&mut self, in_use: &[&ReleaseId]) {
        let is_free = |record: &LedgerRecord| !record.quarantined && !in_use.contains(&&record.release.id);
        while self.records.iter().filter(|record| !record.quarantined).count() > KEPT {
            let good_at = |record: &LedgerRecord| record.last_good.filter(|_| record.standing == Standing::KnownGood).map(|now| now.mono);
            let free = self.records.iter().enumerate().filter(|(_, record)| is_free(record));
            let Some(oldest) = free.min_by_key(|(_, record)| good_at(record)).map(|(at, _)| at) else { return };
            self.records.remove(oldest);
        }
    }

    /// Revert targets, newest known good first: never the release under revert, never a quarantined one.
    pub fn targets(&self, under_revert: Option<&ReleaseId>) -> Vec<&LedgerRecord> {
        let mut targets: Vec<_> = self.possible(under_revert).collect();
        targets.sort_by_key(|record| std::cmp::Reverse(record.last_good.map(|now| now.mono)));
        targets
    }

    /// The first of [`targets`](Self::targets).
    pub fn newest_target(&self, under_revert: Option<&ReleaseId>) -> Option<&LedgerRecord> {
        self.possible(under_revert).min_by_key(|record| std::cmp::Reverse(record.last_good.map(|now| now.mono)))
    }

    fn possible(&self, under_revert: Option<&ReleaseId>) -> impl Iterator<Item = &LedgerRecord> {
        let good = self.records.iter().filter(|record| record.standing == Standing::KnownGood);
        good.filter(|record| !record.quarantined || Mutant::TargetQuarantined.lives())
            .filter(move |record| Some(&record.release.id) != under_revert || Mutant::TargetUnderRevert.lives())
    }
}
