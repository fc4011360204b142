//! Who may write, kept as annotations of the object that is written: the rules are the host's.

use serde_json::Value;

use super::edit::Edit;
use super::workload::Workload;
use crate::core::input::Outcome;
use crate::core::release::ReleaseId;
use crate::core::work::EffectId;
use crate::host::fence;
use crate::host::wire::{Ensure, Fences};

/// The newest deployment attempt that was obeyed.
pub(super) const GENERATION: &str = "backstop.dev/generation";
/// The stable release as it was told last.
pub(super) const STABLE: &str = "backstop.dev/stable";
/// The newest revision that was obeyed.
const REVISION: &str = "backstop.dev/revision";
/// The effect that set the shares last.
const WEIGHED: &str = "backstop.dev/weighed";
/// The effect that said last what is quarantined.
const HELD: &str = "backstop.dev/held-by";

/// Checks the fence of a workload's effect against `object`, and has it note what it learns.
///
/// # Errors
/// Something newer was obeyed.
pub(super) fn pass(workload: &Workload<'_>, object: &Value, edit: &mut Edit) -> Result<(), Outcome> {
    let before = read(object);
    let mut after = before.clone();
    let ensure = Ensure::of(workload.effect, workload.subjects.way_back.clone());
    fence::pass(&mut after, &ensure).map_err(Outcome::Superseded)?;
    // A revision alone is not worth a write of its own: nothing that it would refuse could have become void since.
    let learnt = Fences { revision: before.revision, ..after.clone() } != before;
    if learnt || edit.changes() {
        edit.note(GENERATION, Some(after.generation.to_string()));
        edit.note(STABLE, after.stable.map(|stable| stable.to_string()));
        edit.note(REVISION, Some(after.revision.to_string()));
        edit.note(WEIGHED, after.weighed.map(|id| id.to_string()));
        edit.note(HELD, after.held.map(|id| id.to_string()));
    }
    Ok(())
}

fn read(object: &Value) -> Fences {
    let text = |key: &str| object["metadata"]["annotations"][key].as_str();
    let number = |key: &str| text(key).and_then(|text| text.parse().ok()).unwrap_or_default();
    Fences {
        generation: number(GENERATION),
        revision: number(REVISION),
        stable: text(STABLE).map(|stable| ReleaseId(stable.into())),
        weighed: text(WEIGHED).and_then(effect_id),
        held: text(HELD).and_then(effect_id),
    }
}

fn effect_id(text: &str) -> Option<EffectId> {
    let (revision, ordinal) = text.split_once('.')?;
    Some(EffectId { revision: revision.parse().ok()?, ordinal: ordinal.parse().ok()? })
}
