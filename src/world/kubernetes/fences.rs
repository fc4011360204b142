//! Who may write: the fences of an object are an annotation of it, and pass through the same rule as the process host's.

use serde_json::Value as Json;

use super::access::{Edits, annotation};
use super::answer::Fault;
use crate::core::work::Effect;
use crate::host::fence;
use crate::host::wire::{Ensure, Fences};
use crate::world::perform::Subjects;

/// The annotation.
const FENCES: &str = "backstop.dev/fences";

/// Lets an effect pass at `object`, and adds what it teaches to the `edits` of that object.
pub(super) fn pass(object: &Json, subjects: &Subjects, effect: &Effect, edits: &mut Edits) -> Result<(), Fault> {
    let mut fences = read(object);
    let before = fences.clone();
    fence::pass(&mut fences, &Ensure::of(effect, subjects.stable.clone())).map_err(Fault::Superseded)?;
    if fences != before {
        let text = serde_json::to_string(&fences).map_err(|error| Fault::Invalid(error.to_string()))?;
        edits.annotate(object, FENCES, Some(&text));
    }
    Ok(())
}

/// What is recorded; nothing if it cannot be read, for only backstop writes there.
fn read(object: &Json) -> Fences {
    annotation(object, FENCES).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
