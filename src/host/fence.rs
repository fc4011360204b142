//! Who may write: a pure decision from what is recorded and what is asked.
//!
//! Writers are controllers, stale controllers that do not know it yet, and people with the command line. Three
//! facts order them, all recorded beside the workload:
//!
//! * **Generation** counts deployment attempts. An effect fenced on generation `g` is superseded once `g' > g` was
//!   seen, whoever sent it. Seeing a newer one records it, even if the effect then fails.
//! * **Stable** is the release that safe effects lead back to. An effect fenced on stable `s` is obeyed if `s` is the
//!   recorded stable: it leads to a place that is safe, no matter how old the writer's view is. If another release
//!   is recorded, revisions decide: every commit is a compare-and-swap that raises the revision, so a writer whose
//!   revision is not below anything that was obeyed here knows at least as much as all writers before it, and its
//!   stable is recorded; otherwise a later decision was obeyed already, and the effect is superseded. Hence a revert
//!   by the writer that is up to date is never refused because this host was told of a promotion late, and a stale
//!   one cannot pull traffic back to what used to be stable. `define`, holds and forward effects name the stable of
//!   their writer, too: it is recorded if no later decision was obeyed.
//! * **The last weights** keep their effect's id. Forward weights (fenced on a generation) with an older id are
//!   superseded: a delayed forward step that arrives after the revert of the same generation must not give the
//!   candidate traffic again. Weights fenced on the stable have no such condition.
//!
//! * **The last hold** keeps its effect's id, too: a late one neither keeps out what was lifted nor lets in what is held.
//!
//! A release becomes `current` by `EnsureRelease`; that alone never changes which release is stable, because the way
//! back to the old one must stay open while the new one is watched.

use super::wire::{Ensure, Fences};
use crate::core::mutant::Mutant;
use crate::core::work::{Action, Fence};

/// Checks the fence of `ensure` and records what it teaches. The error says what superseded the effect.
pub(crate) fn pass(fences: &mut Fences, ensure: &Ensure) -> Result<(), String> {
    let id = ensure.id;
    match &ensure.fence {
        Fence::Generation(generation) => {
            if *generation < fences.generation && !Mutant::FenceForgotten.lives() {
                return Err(format!("generation {generation} is superseded: the host has seen generation {}", fences.generation));
            }
            fences.generation = *generation;
            if let (Action::EnsureWeights { .. }, Some(last)) = (&ensure.action, fences.weighed)
                && id < last
                && !Mutant::LateWeights.lives()
            {
                return Err(format!("weights of effect {id} are superseded: those of effect {last} are in place"));
            }
            learn(fences, ensure);
        }
        Fence::Stable(stable) => match &fences.stable {
            Some(recorded) if recorded != stable && id.revision < fences.revision => {
                return Err(format!(
                    "stable release {stable} is superseded: {recorded} is stable, and revision {} was obeyed (this is {})",
                    fences.revision, id.revision
                ));
            }
            _ => fences.stable = Some(stable.clone()),
        },
        // Whatever raises the revision says what was stable then: orders of that stable that come later are not late.
        Fence::None => learn(fences, ensure),
    }
    if let Action::EnsureHold { .. } = ensure.action {
        if let Some(last) = fences.held.filter(|last| id < *last) {
            return Err(format!("the hold of effect {id} is superseded: that of effect {last} is in place"));
        }
        fences.held = Some(id);
    }
    fences.revision = fences.revision.max(id.revision);
    if let Action::EnsureWeights { .. } = ensure.action {
        fences.weighed = fences.weighed.max(Some(id));
    }
    Ok(())
}

/// Records which release the writer takes for stable, if no later decision was obeyed.
fn learn(fences: &mut Fences, ensure: &Ensure) {
    if let Some(stable) = &ensure.stable
        && ensure.id.revision >= fences.revision
    {
        fences.stable = Some(stable.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::release::ReleaseId;
    use crate::core::work::EffectId;

    fn id(revision: u64) -> EffectId {
        EffectId { revision, ordinal: 0 }
    }

    fn weights(revision: u64, fence: Fence) -> Ensure {
        Ensure { id: id(revision), fence, action: Action::EnsureWeights { weights: BTreeMap::new() }, stable: None }
    }

    fn name(name: &str) -> ReleaseId {
        ReleaseId(name.into())
    }

    fn stable(of: &str) -> Fence {
        Fence::Stable(name(of))
    }

    #[test]
    fn a_newer_generation_ends_the_older_one() {
        let mut fences = Fences::default();
        assert!(pass(&mut fences, &weights(1, Fence::Generation(3))).is_ok());
        assert!(pass(&mut fences, &weights(9, Fence::Generation(2))).is_err());
        assert!(pass(&mut fences, &weights(2, Fence::Generation(4))).is_ok());
        assert_eq!(fences.generation, 4);
    }

    #[test]
    fn a_delayed_forward_step_does_not_undo_a_revert() {
        let mut fences = Fences::default();
        assert!(pass(&mut fences, &weights(10, stable("a"))).is_ok());
        assert!(pass(&mut fences, &weights(9, Fence::Generation(0))).is_err());
        assert!(pass(&mut fences, &weights(10, Fence::Generation(0))).is_ok());
    }

    #[test]
    fn the_recorded_stable_is_always_a_way_back() {
        let mut fences = Fences { generation: 7, revision: 50, stable: Some(name("a")), weighed: Some(id(50)), held: None };
        assert!(pass(&mut fences, &weights(3, stable("a"))).is_ok());
        assert_eq!(fences.weighed, Some(id(50)));
    }

    #[test]
    fn another_stable_needs_a_revision_that_is_not_older() {
        let mut fences = Fences { generation: 7, revision: 50, stable: Some(name("b")), weighed: None, held: None };
        let before = fences.clone();
        assert!(pass(&mut fences, &weights(49, stable("a"))).is_err());
        assert_eq!(fences, before);
        assert!(pass(&mut fences, &weights(50, stable("c"))).is_ok());
        assert_eq!(fences.stable, Some(name("c")));
    }

    #[test]
    fn a_forward_step_teaches_the_stable_unless_it_is_late() {
        let mut fences = Fences { generation: 7, revision: 50, stable: Some(name("a")), weighed: None, held: None };
        let told = |revision| Ensure { stable: Some(name("b")), ..weights(revision, Fence::Generation(7)) };
        assert!(pass(&mut fences, &told(49)).is_ok());
        assert_eq!(fences.stable, Some(name("a")));
        assert!(pass(&mut fences, &told(51)).is_ok());
        assert_eq!(fences.stable, Some(name("b")));
    }

    #[test]
    fn a_hold_teaches_the_stable_it_was_written_under() {
        let mut fences = Fences { generation: 7, revision: 20, stable: Some(name("a")), weighed: Some(id(20)), held: None };
        let hold =
            Ensure { id: id(32), fence: Fence::None, action: Action::EnsureHold { quarantined: Vec::new() }, stable: Some(name("b")) };
        assert!(pass(&mut fences, &hold).is_ok());
        assert!(pass(&mut fences, &weights(31, stable("b"))).is_ok(), "the hold knew of b, and so did these");
        assert!(pass(&mut fences, &weights(31, stable("a"))).is_err());
    }

    #[test]
    fn a_late_hold_is_superseded() {
        let hold = |revision| Ensure {
            id: id(revision),
            fence: Fence::None,
            action: Action::EnsureHold { quarantined: Vec::new() },
            stable: None,
        };
        let mut fences = Fences::default();
        assert!(pass(&mut fences, &hold(8)).is_ok());
        assert!(pass(&mut fences, &hold(15)).is_ok());
        assert!(pass(&mut fences, &hold(8)).is_err());
        assert!(pass(&mut fences, &hold(15)).is_ok(), "the same again is no other");
    }
}
