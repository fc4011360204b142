//! A machine's state in `.status` of its `GuardedRollout`: compressed for the controller, and readable for people beside it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use super::report::Said;
use crate::core::reason::Reason;
use crate::core::record::{Decision, Event, Record};
use crate::core::release::{Release, ReleaseId};
use crate::core::state::{Key, Phase, PhaseKind, State};
use crate::spec::crd::{ConditionStatus, ReleaseName, RolloutStatus, StatusCondition};

/// The longest compressed state, in bytes of base64: with records and the document itself it stays below what etcd takes (1.5 MiB).
pub(super) const STATE_MAX: usize = 600 << 10;
/// The longest state before compression: what is larger is no state of ours.
const PLAIN_MAX: u64 = 64 << 20;

/// Packs JSON: compressed with gzip, in base64.
pub(super) fn pack(json: &[u8]) -> std::io::Result<String> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(json)?;
    Ok(BASE64.encode(gzip.finish()?))
}

/// The bytes in a packed text.
///
/// # Errors
/// It is not base64, not gzip, or too large.
pub(super) fn unpack(text: &str) -> Result<Vec<u8>, String> {
    let bytes = BASE64.decode(text).map_err(|error| format!("it is not base64: {error}"))?;
    let mut plain = Vec::new();
    GzDecoder::new(&*bytes).take(PLAIN_MAX + 1).read_to_end(&mut plain).map_err(|error| format!("it is not gzip: {error}"))?;
    if plain.len() as u64 > PLAIN_MAX { Err("it is larger than 64 MiB".into()) } else { Ok(plain) }
}

/// The state as text. A template stands in a state many times (ledger, trial, effects); here it stands once.
///
/// # Errors
/// It cannot be written as JSON, or is too large.
pub(super) fn encode(state: &State) -> Result<String, String> {
    let mut value = serde_json::to_value(state).map_err(|error| error.to_string())?;
    let mut templates = Templates::default();
    templates.take(&mut value);
    let whole = json!({"templates": templates.list, "state": value});
    let text = pack(whole.to_string().as_bytes()).map_err(|error| error.to_string())?;
    if text.len() > STATE_MAX {
        return Err(format!("it has {} bytes compressed, {STATE_MAX} are the limit", text.len()));
    }
    Ok(text)
}

/// The state in a text of [`encode`].
///
/// # Errors
/// It is not one.
pub(super) fn decode(text: &str) -> Result<State, String> {
    let mut whole: Value = serde_json::from_slice(&unpack(text)?).map_err(|error| format!("it is not JSON: {error}"))?;
    let Value::Array(templates) = whole["templates"].take() else { return Err("it has no list of templates".into()) };
    let mut state = whole["state"].take();
    put(&mut state, &templates)?;
    serde_json::from_value(state).map_err(|error| error.to_string())
}

/// Templates that were taken out, none twice.
#[derive(Default)]
struct Templates {
    list: Vec<Value>,
    places: BTreeMap<String, usize>,
}

impl Templates {
    fn take(&mut self, value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|one| self.take(one)),
            Value::Object(map) => {
                for (key, one) in map.iter_mut() {
                    match one {
                        Value::Object(_) if key == "template" => *one = self.place(one.take()).into(),
                        _ => self.take(one),
                    }
                }
            }
            _ => {}
        }
    }

    fn place(&mut self, template: Value) -> usize {
        let next = self.list.len();
        let place = *self.places.entry(template.to_string()).or_insert(next);
        if place == next {
            self.list.push(template);
        }
        place
    }
}

fn put(value: &mut Value, templates: &[Value]) -> Result<(), String> {
    match value {
        Value::Array(list) => list.iter_mut().try_for_each(|one| put(one, templates)),
        Value::Object(map) => map.iter_mut().try_for_each(|(key, one)| match one.as_u64().filter(|_| key == "template") {
            Some(place) => {
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                *one = templates.get(place).cloned().ok_or_else(|| format!("template {place} is missing"))?;
                Ok(())
            }
            None => put(one, templates),
        }),
        _ => Ok(()),
    }
}

/// What people read of a state. `before` is what they read until now: what the new records say nothing of stays.
///
/// `said_of` is what is to be said of the document, by whoever has read it; nothing by a guest, who leaves what was said.
pub(super) fn readable(
    state: &State,
    records: &[Record],
    before: &RolloutStatus,
    generation: Option<i64>,
    said_of: Option<&Said>,
) -> RolloutStatus {
    let candidate = state.trial.as_ref().map(|trial| &trial.candidate);
    let (verdict, reason, message) = match records.iter().rev().find_map(said) {
        Some((verdict, reason)) => {
            (verdict.or(before.verdict.as_deref()).map(str::to_owned), Some(reason.code().to_owned()), Some(reason.to_string()))
        }
        None => (before.verdict.clone(), before.reason.clone(), before.message.clone()),
    };
    let (reason, message) = cause(state).unwrap_or((reason, message));
    RolloutStatus {
        observed_generation: generation,
        phase: Some(state.phase.kind()),
        weight: state.candidate().map(|candidate| state.weight(&candidate.id)),
        verdict,
        reason,
        message,
        candidate: candidate.map(name),
        stable: state.stable.as_ref().and_then(|id| state.release(id)).map(name),
        conditions: conditions(state, before, generation, said_of),
        in_force: said_of.and_then(|said| said.in_force.clone()).or_else(|| before.in_force.clone()),
        ..RolloutStatus::default()
    }
}

fn name(release: &Release) -> ReleaseName {
    ReleaseName { id: ReleaseId(release.id.0.clone()), label: release.label.clone(), image: release.template.image().clone() }
}

/// Why a revert is in force, and what it waits for beside it, whatever was decided on its way.
fn cause(state: &State) -> Option<(Option<String>, Option<String>)> {
    let revert = state.phase.revert()?;
    let waits = match &state.phase {
        Phase::Stuck { reason, .. } => Some(format!("a person is needed: {} {reason}", reason.code())),
        Phase::Recovering(_) => Some("waits until the objectives hold again".to_owned()),
        Phase::Reverting(_) => {
            let open = state.tasks.iter().filter(|(key, _)| !matches!(key, Key::Notice(_))).map(|(_, task)| {
                let trouble = task.trouble.as_deref().map(|what| format!(" ({what})")).unwrap_or_default();
                format!("{}{trouble}", task.effect.action.name())
            });
            let open: Vec<String> = open.collect();
            Some(if open.is_empty() { "waits until the target can serve".to_owned() } else { format!("waits for {}", open.join(", ")) })
        }
        _ => None,
    };
    let waits = waits.map(|waits| format!("; {waits}")).unwrap_or_default();
    Some((Some(revert.reason.code().to_owned()), Some(format!("{}{waits}", revert.reason))))
}

/// What a record says of verdict and reason.
fn said(record: &Record) -> Option<(Option<&'static str>, &Reason)> {
    let Event::Decision { decision, .. } = &record.event else { return None };
    let reason = record.reason.as_ref()?;
    let verdict = match decision {
        Decision::Revert if matches!(reason, Reason::Commanded { .. } | Reason::BreakGlass { .. }) => None,
        Decision::Revert | Decision::Stuck => Some("Breach"),
        Decision::Advance | Decision::Promote | Decision::KnownGood | Decision::Recovered => Some("Pass"),
        Decision::Admit | Decision::Wait | Decision::Retreat | Decision::Exonerate | Decision::Held => Some("Inconclusive"),
        Decision::Refuse | Decision::Skip | Decision::Choose | Decision::Obey | Decision::Checkpoint => None,
    };
    Some((verdict, reason))
}

fn conditions(state: &State, before: &RolloutStatus, generation: Option<i64>, said_of: Option<&Said>) -> Vec<StatusCondition> {
    let phase = state.phase.kind();
    let was_said = before.conditions.iter().any(|one| one.r#type == super::report::READY);
    let mut conditions = match said_of {
        Some(said) => super::report::conditions(said),
        None if was_said => Vec::new(),
        None => super::report::conditions(&Said::default()),
    };
    let (ready, why, text) = match &state.readiness {
        None => (ConditionStatus::Unknown, "NotProven", "there was no known-good release to prove yet".to_owned()),
        Some(readiness) => match (&readiness.target, &readiness.missing) {
            (_, Some(missing)) => (ConditionStatus::False, missing.name(), missing.to_string()),
            (Some(target), None) => (ConditionStatus::True, "Proven", format!("a revert would go to {}", state.name(target))),
            (None, None) => (ConditionStatus::False, "NoTarget", "no known-good release can be restored".to_owned()),
        },
    };
    conditions.push(condition("RevertReady", ready, why, &text));
    let held = matches!(phase, PhaseKind::Reverting | PhaseKind::Recovering | PhaseKind::Reverted | PhaseKind::Stuck);
    let status = if held { ConditionStatus::True } else { ConditionStatus::False };
    conditions.push(condition("Held", status, &phase.to_string(), if held { "a revert is in force" } else { "no revert is in force" }));
    dated(conditions, &before.conditions, generation)
}

/// A condition without its date.
pub(super) fn condition(r#type: &str, status: ConditionStatus, reason: &str, message: &str) -> StatusCondition {
    StatusCondition {
        r#type: r#type.to_owned(),
        status,
        observed_generation: None,
        last_transition_time: String::new(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// Conditions with the dates of those before, where their status is the same.
pub(super) fn dated(conditions: Vec<StatusCondition>, before: &[StatusCondition], generation: Option<i64>) -> Vec<StatusCondition> {
    let now = jiff::Timestamp::from_second(crate::world::clock::wall().as_second()).unwrap_or_default().to_string();
    let date = |mut condition: StatusCondition| {
        let known = before.iter().find(|known| known.r#type == condition.r#type && known.status == condition.status);
        condition.last_transition_time = known.map_or_else(|| now.clone(), |known| known.last_transition_time.clone());
        condition.observed_generation = generation;
        condition
    };
    let mut all: Vec<StatusCondition> = conditions.into_iter().map(date).collect();
    // What others say of the rollout stays.
    all.extend(before.iter().filter(|one| all.iter().all(|ours| ours.r#type != one.r#type)).cloned().collect::<Vec<_>>());
    all
}

/// The status as a merge patch: what is absent is taken away.
pub(super) fn patch(status: &RolloutStatus) -> Result<Value, serde_json::Error> {
    const FIELDS: [&str; 13] = [
        "observedGeneration",
        "phase",
        "weight",
        "verdict",
        "reason",
        "message",
        "candidate",
        "stable",
        "conditions",
        "inForce",
        "state",
        "records",
        "ledger",
    ];
    let mut patch: Map<String, Value> = FIELDS.iter().map(|field| ((*field).to_owned(), Value::Null)).collect();
    if let Value::Object(status) = serde_json::to_value(status)? {
        patch.extend(status);
    }
    // A merge patch goes into objects.
    for field in ["candidate", "stable"] {
        if let Some(release) = patch.get_mut(field).and_then(Value::as_object_mut) {
            release.entry("label").or_insert(Value::Null);
        }
    }
    Ok(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ledger::{Ledger, LedgerRecord, Standing};
    use crate::core::release::{Digest, Image, Template};
    use crate::core::time::{Mono, Now};

    fn record(n: u8, command: Vec<String>) -> LedgerRecord {
        let image = Image { repository: "registry.example/shop".into(), digest: Digest::of(&[n]) };
        let release = Release::new(Template::process(image, command, BTreeMap::new()), None);
        let since = Now { wall: jiff::Timestamp::UNIX_EPOCH, mono: Mono(1) };
        LedgerRecord { release, standing: Standing::KnownGood, quarantined: false, since, last_good: Some(since), why: String::new() }
    }

    #[test]
    fn a_state_comes_back_and_holds_each_template_once() {
        let long: Vec<String> = (0..2000).map(|n: u64| Digest::of(&n.to_be_bytes()).to_string()).collect();
        let twice = Ledger::of(vec![record(1, long.clone()), record(1, long.clone()), record(2, vec!["template".into()])]);
        let once = Ledger::of(vec![record(1, long)]);
        let state = |ledger| State { revision: 7, ledger, ..State::new() };
        let text = encode(&state(twice.clone())).unwrap();
        assert_eq!(decode(&text).unwrap(), state(twice));
        assert!(text.len() < encode(&state(once)).unwrap().len() * 11 / 10);
    }

    #[test]
    fn what_is_no_state_or_too_large_is_refused() {
        let noise: Vec<String> = (0..20_000).map(|n: u64| Digest::of(&n.to_be_bytes()).to_string()).collect();
        let large = State { ledger: Ledger::of(vec![record(1, noise)]), ..State::new() };
        assert!(encode(&large).unwrap_err().contains("limit"));
        for text in ["", "%", "AAAA", &pack(b"{}").unwrap(), &pack(br#"{"templates":[],"state":{"a":{"template":3}}}"#).unwrap()] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_patch_takes_away_what_is_absent() {
        let patch = patch(&RolloutStatus { phase: Some(PhaseKind::Idle), ..RolloutStatus::default() }).unwrap();
        assert_eq!((&patch["phase"], &patch["weight"]), (&json!("Idle"), &Value::Null));
    }
}
