//! The ledger in a state, compared with the signed records.
//!
//! Whoever may write `.status` (on-call, for the day when no controller runs) could write anything there. So the signed records say what
//! is known good and what is quarantined; the state is believed where it is newer and stricter.

use std::collections::BTreeMap;

use crate::core::ledger::{Ledger, LedgerRecord, Standing};
use crate::core::release::ReleaseId;
use crate::core::state::State;
use crate::world::kubernetes::records::{Entry, Kept};

/// A state that can be gone on from.
#[derive(Debug)]
pub(super) struct Reconciled {
    /// The state; `None` if there is neither a state nor a ledger.
    pub(super) state: Option<State>,
    /// Records of the state that no signature covers: stricter than the signed ones, or of releases without one.
    pub(super) unsigned: Vec<LedgerRecord>,
}

/// The newest trusted record of `release` among its records.
pub(super) fn newest<'a>(kept: &[Kept], pending: impl Iterator<Item = &'a Entry>, release: &ReleaseId) -> Result<LedgerRecord, String> {
    let pending: Vec<&Entry> = pending.filter(|entry| &entry.release == release).collect();
    let mut best: Option<LedgerRecord> = None;
    let mut trouble = "it has no record".to_owned();
    for one in kept.iter().filter(|one| &one.release == release) {
        // The status may be from a backup, and the object say what came after it.
        let outdated = |entry: &Entry| matches!(&one.entry, Some(Ok(known)) if known.since.mono > entry.since.mono);
        let later = pending.iter().rev().find(|entry| one.is_of(entry)).filter(|entry| !outdated(entry));
        let one = match later {
            Some(entry) => Kept { entry: Some(Ok((*entry).clone())), ..one.clone() },
            None => one.clone(),
        };
        match one.record() {
            Ok(record) if best.as_ref().is_none_or(|best| best.since.mono <= record.since.mono) => best = Some(record),
            Ok(_) => {}
            Err(what) => trouble = what,
        }
    }
    best.ok_or(trouble)
}

/// Those of the records in a status that are still to be written. Where the newest of a release is in its object, none is: an older one
/// would be written over it.
pub(super) fn unkept<T>(mut pending: Vec<(Entry, T)>, kept: &[Kept]) -> Vec<(Entry, T)> {
    let is_in =
        |entry: &Entry| kept.iter().filter(|one| one.is_of(entry)).any(|one| matches!(&one.entry, Some(Ok(known)) if known == entry));
    let place = |entry: &Entry| (entry.release.clone(), entry.content.clone());
    let newest: BTreeMap<_, bool> = pending.iter().map(|(entry, _)| (place(entry), is_in(entry))).collect();
    pending.retain(|(entry, _)| newest.get(&place(entry)) != Some(&true));
    pending
}

/// Puts state and signed records together.
pub(super) fn reconcile<'a>(state: Option<State>, kept: &[Kept], pending: &(impl Iterator<Item = &'a Entry> + Clone)) -> Reconciled {
    let mut signed: BTreeMap<ReleaseId, LedgerRecord> = BTreeMap::new();
    let mut order: Vec<ReleaseId> = Vec::new();
    for release in kept.iter().map(|one| &one.release) {
        if !order.contains(release)
            && let Ok(record) = newest(kept, pending.clone(), release)
        {
            order.push(release.clone());
            signed.insert(release.clone(), record);
        }
    }
    let Some(mut state) = state else {
        let records: Vec<LedgerRecord> = order.iter().filter_map(|id| signed.remove(id)).collect();
        let state = (!records.is_empty()).then(|| State { ledger: Ledger::of(records), ..State::new() });
        return Reconciled { state, unsigned: Vec::new() };
    };
    let (mut records, mut unsigned) = (Vec::new(), Vec::new());
    for record in state.ledger.records() {
        let sealed = signed.remove(&record.release.id);
        let (record, is_signed) = stricter(record.clone(), sealed);
        if !is_signed {
            unsigned.push(record.clone());
        }
        records.push(record);
    }
    // What the state forgot, and must not be forgotten.
    let missing = order.iter().filter_map(|id| signed.remove(id));
    records.extend(missing.filter(|record| record.standing == Standing::KnownGood || record.quarantined));
    state.ledger = Ledger::of(records);
    Reconciled { state: Some(state), unsigned }
}

/// What is believed of a release, and whether the controller's signature covers it.
fn stricter(record: LedgerRecord, signed: Option<LedgerRecord>) -> (LedgerRecord, bool) {
    let Some(signed) = signed else {
        let standing = if record.standing == Standing::KnownGood { Standing::Unproven } else { record.standing };
        return (LedgerRecord { standing, ..record }, false);
    };
    if signed.since.mono > record.since.mono {
        return (LedgerRecord { release: record.release, ..signed }, true);
    }
    let mut believed = record.clone();
    if believed.standing == Standing::KnownGood && signed.standing != Standing::KnownGood {
        (believed.standing, believed.last_good) = (signed.standing, signed.last_good);
    }
    believed.quarantined |= signed.quarantined;
    let same = (believed.standing, believed.quarantined) == (signed.standing, signed.quarantined);
    (believed, same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::release::{Digest, Image, Release, Template};
    use crate::core::time::{Mono, Now};

    fn record(n: u8, standing: Standing, quarantined: bool, mono: u64) -> LedgerRecord {
        let image = Image { repository: "registry.example/shop".into(), digest: Digest::of(&[n]) };
        let release = Release::new(Template::process(image, vec!["serve".into()], BTreeMap::new()), None);
        let since = Now { wall: jiff::Timestamp::UNIX_EPOCH, mono: Mono(mono) };
        LedgerRecord { release, standing, quarantined, since, last_good: None, why: String::new() }
    }

    fn kept(record: &LedgerRecord) -> Kept {
        let entry = Entry::of(record).unwrap();
        Kept { release: record.release.id.clone(), content: Ok((entry.content.clone(), record.release.clone())), entry: Some(Ok(entry)) }
    }

    fn state(records: Vec<LedgerRecord>) -> State {
        State { revision: 3, ledger: Ledger::of(records), ..State::new() }
    }

    fn believed(reconciled: &Reconciled) -> Vec<(Standing, bool)> {
        let records = reconciled.state.as_ref().map(|state| state.ledger.records()).unwrap_or_default();
        records.iter().map(|record| (record.standing, record.quarantined)).collect()
    }

    #[test]
    fn a_new_guard_finds_the_ledger_of_the_one_before() {
        let signed = [record(1, Standing::KnownGood, false, 5), record(2, Standing::Bad, true, 9)];
        let reconciled = reconcile(None, &signed.each_ref().map(kept), &[].iter());
        assert_eq!(believed(&reconciled), [(Standing::KnownGood, false), (Standing::Bad, true)]);
        assert!(reconcile(None, &[], &[].iter()).state.is_none());
    }

    #[test]
    fn an_unsigned_state_tightens_and_never_loosens() {
        let signed = [record(1, Standing::Unproven, false, 5), record(2, Standing::Bad, true, 5), record(3, Standing::KnownGood, false, 5)];
        let forged = state(vec![
            record(1, Standing::KnownGood, false, 9),
            record(2, Standing::Bad, false, 9),
            record(3, Standing::Bad, true, 9),
            record(4, Standing::KnownGood, false, 9),
        ]);
        let reconciled = reconcile(Some(forged), &signed.each_ref().map(kept), &[].iter());
        let expected = [(Standing::Unproven, false), (Standing::Bad, true), (Standing::Bad, true), (Standing::Unproven, false)];
        assert_eq!(believed(&reconciled), expected);
        let unsigned: Vec<_> = reconciled.unsigned.iter().map(|record| record.release.id.clone()).collect();
        assert_eq!(unsigned, [3, 4].map(|n| record(n, Standing::Bad, false, 0).release.id));
    }

    #[test]
    fn a_state_from_a_backup_forgets_nothing_that_was_signed_since() {
        let signed = [record(1, Standing::Bad, true, 9), record(2, Standing::KnownGood, false, 9)];
        let old = state(vec![record(1, Standing::KnownGood, false, 5)]);
        let reconciled = reconcile(Some(old), &signed.each_ref().map(kept), &[].iter());
        assert_eq!(believed(&reconciled), [(Standing::Bad, true), (Standing::KnownGood, false)]);
    }

    #[test]
    fn what_rides_in_the_status_is_newer_than_the_object() {
        let before = record(1, Standing::Unproven, false, 5);
        let after = record(1, Standing::KnownGood, false, 9);
        let pending = [Entry::of(&after).unwrap()];
        let reconciled = reconcile(Some(state(vec![after])), &[kept(&before)], &pending.iter());
        assert_eq!(believed(&reconciled), [(Standing::KnownGood, false)]);
        assert!(reconciled.unsigned.is_empty());
    }

    #[test]
    fn what_came_after_a_status_from_a_backup_is_in_the_object() {
        let (before, after) = (record(1, Standing::KnownGood, false, 5), record(1, Standing::Bad, true, 9));
        let pending = [Entry::of(&before).unwrap()];
        let reconciled = reconcile(Some(state(vec![before])), &[kept(&after)], &pending.iter());
        assert_eq!(believed(&reconciled), [(Standing::Bad, true)]);
    }

    #[test]
    fn of_what_rides_in_the_status_only_what_no_object_has_is_written() {
        let found = record(1, Standing::Unproven, false, 5);
        let good = record(1, Standing::KnownGood, false, 9);
        // A quarantine and its end bear the same date.
        let (held, lifted) = (record(2, Standing::Bad, true, 7), record(2, Standing::Bad, false, 7));
        let rides = |records: &[&LedgerRecord]| records.iter().map(|one| (Entry::of(one).unwrap(), ())).collect::<Vec<_>>();
        let left =
            |kept: &[Kept]| unkept(rides(&[&found, &held, &good, &lifted]), kept).into_iter().map(|(entry, ())| entry).collect::<Vec<_>>();
        let entries = |records: &[&LedgerRecord]| rides(records).into_iter().map(|(entry, ())| entry).collect::<Vec<_>>();
        assert_eq!(left(&[kept(&good), kept(&lifted)]), []);
        assert_eq!(left(&[kept(&found), kept(&lifted)]), entries(&[&found, &good]), "an older word is in its place");
        assert_eq!(left(&[kept(&good), kept(&held)]), entries(&[&held, &lifted]));
        assert_eq!(left(&[]).len(), 4);
    }
}
