//! A record as one leaf of the log: one line of JSON with a stable order of fields.
//!
//! The bytes are final: they are what the Merkle tree hashes, what `tile/entries` will hold and what a SIEM gets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::actor::{Actor, ActorKind, Assurance, Request};
use crate::core::journal::Journal;
use crate::core::reason::Reason;
use crate::core::record::{Event, Record};
use crate::core::release::{Digest, ReleaseId};
use crate::core::time::{Mono, Now};
use crate::core::work::Commit;

/// Layout of a leaf.
const VERSION: u32 = 1;

/// The longest leaf: entries of a C2SP tile carry their length in 16 bits.
pub const MAX_LEAF: usize = 65_535;

/// A rationale is cut here; `rationaleSha256` then names the whole.
const MAX_TEXT: usize = 4 * 1024;

/// Names and other short texts are cut here.
const MAX_NAME: usize = 512;

/// A leaf to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// `WORKLOAD@REVISION.ORDINAL`: derived, so that a repeat is known as one.
    pub id: String,
    /// The line, without a newline.
    pub bytes: Vec<u8>,
}

impl Leaf {
    /// The leaf whose line this is.
    ///
    /// # Errors
    /// It is no line of ours.
    pub fn of(line: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Named {
            id: String,
        }
        let Named { id } = serde_json::from_str(line).map_err(|error| format!("it is no audit entry: {error}"))?;
        Ok(Self { id, bytes: line.as_bytes().to_vec() })
    }

    /// The revision in its id.
    pub fn revision(&self) -> Option<u64> {
        self.id.rsplit_once('@')?.1.split_once('.')?.0.parse().ok()
    }
}

/// The leaves of a commit, and the parts that were too large for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaves {
    /// In order.
    pub leaves: Vec<Leaf>,
    /// To be kept under their digest before a leaf that names them is written.
    pub evidence: Vec<Vec<u8>>,
}

/// What a commit wrote, by hash. It stands in the commit's last leaf, and binds state and ledger to the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// Digest of the state's bytes.
    pub state: String,
    /// Digest of each ledger record's bytes.
    pub ledger: BTreeMap<ReleaseId, String>,
    /// What led to the commit, beside its records; absent in logs that are older than it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Journal>,
}

impl Seal {
    /// What a commit would write, by hash, without what led to it.
    pub fn of(commit: &Commit) -> serde_json::Result<Self> {
        let ledger = commit.ledger.iter().map(|record| {
            let bytes = serde_json::to_vec(record)?;
            Ok((record.release.id.clone(), Digest::of(&bytes).to_string()))
        });
        let state = Digest::of(&serde_json::to_vec(&commit.state)?).to_string();
        Ok(Self { state, ledger: ledger.collect::<serde_json::Result<_>>()?, journal: None })
    }

    /// Whether both name the same state and ledger.
    pub fn names_the_same(&self, other: &Self) -> bool {
        (&self.state, &self.ledger) == (&other.state, &other.ledger)
    }
}

/// A value, or where it is kept.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a, T> {
    Here(&'a T),
    Kept { evidence: Digest, bytes: usize },
}

impl<T: Serialize> Part<'_, T> {
    /// Moves the value out of the line.
    fn keep(&mut self, evidence: &mut Vec<Vec<u8>>) -> serde_json::Result<()> {
        if let Self::Here(value) = self {
            let bytes = serde_json::to_vec(value)?;
            *self = Self::Kept { evidence: Digest::of(&bytes), bytes: bytes.len() };
            evidence.push(bytes);
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Why<'a> {
    code: &'static str,
    text: String,
    detail: Part<'a, Reason>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct By {
    kind: ActorKind,
    principal: String,
    assurance: Assurance,
    #[serde(skip_serializing_if = "Option::is_none")]
    lowered_from: Option<ActorKind>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    agent_claimed: bool,
}

/// The event of a commit that came without records.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum What<'a> {
    Committed {},
    #[serde(untagged)]
    Event(&'a Event),
}

/// The line. Fields are written in this order; absent ones as `null`, so that every line has the same columns.
#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    id: &'a str,
    timestamp: jiff::Timestamp,
    mono: Option<Mono>,
    resource_target: &'a str,
    revision: u64,
    generation: u64,
    phase: String,
    result: String,
    reason: Option<Why<'a>>,
    release: Option<String>,
    artifact_digest: Option<String>,
    request_id: Option<String>,
    run_id: Option<String>,
    trigger: Option<String>,
    actor: By,
    agent_id: Option<String>,
    agent_version: Option<String>,
    model: Option<String>,
    token_scope_id: Option<String>,
    credential_ttl: Option<u64>,
    rationale: Option<String>,
    rationale_sha256: Option<Digest>,
    event: Part<'a, What<'a>>,
    commit: Option<Part<'a, Seal>>,
}

/// The start of `text` whose JSON form is at most `limit` bytes; the cut is marked.
fn cut(text: &str, limit: usize) -> String {
    let width = |c: char| match c {
        '"' | '\\' => 2,
        c if c.is_control() => 6,
        c => c.len_utf8(),
    };
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += width(c);
        if used > limit {
            return format!("{}…", &text[..at]);
        }
    }
    text.to_owned()
}

fn name(text: Option<&(impl AsRef<str> + ?Sized)>) -> Option<String> {
    text.map(|text| cut(text.as_ref(), MAX_NAME))
}

impl<'a> Line<'a> {
    fn of(id: &'a str, key: &'a str, record: &'a Record, what: &'a What<'a>) -> Self {
        let controller = Actor::controller();
        let request = record.request.as_ref();
        let actor = request.map_or(&controller, |request| &request.actor);
        let rationale = request.and_then(|request| request.rationale.as_ref());
        Self {
            version: VERSION,
            id,
            timestamp: record.at.wall,
            mono: Some(record.at.mono),
            resource_target: key,
            revision: record.revision,
            generation: record.generation,
            phase: cut(&record.phase, MAX_NAME),
            result: cut(&record.result, MAX_NAME),
            reason: record.reason.as_ref().map(|reason| Why {
                code: reason.code(),
                text: cut(&reason.to_string(), MAX_TEXT),
                detail: Part::Here(reason),
            }),
            release: name(record.release.as_ref().map(|release| &*release.0)),
            artifact_digest: name(record.artifact_digest.as_ref()),
            request_id: name(request.map(|request| &request.id)),
            run_id: name(request.and_then(|request| request.run_id.as_ref())),
            trigger: name(request.and_then(|request| request.trigger.as_ref())),
            agent_id: name(actor.agent_id.as_ref()),
            agent_version: name(actor.agent_version.as_ref()),
            model: name(actor.model.as_ref()),
            actor: By {
                kind: actor.kind,
                principal: cut(&actor.principal, MAX_NAME),
                assurance: actor.assurance,
                lowered_from: actor.lowered_from,
                agent_claimed: actor.agent_claimed,
            },
            token_scope_id: name(request.and_then(|request| request.token_scope_id.as_ref())),
            credential_ttl: request.and_then(|request| request.credential_ttl),
            rationale: rationale.map(|text| cut(text, MAX_TEXT)),
            rationale_sha256: rationale.filter(|text| cut(text, MAX_TEXT) != **text).map(|text| Digest::of(text.as_bytes())),
            event: Part::Here(what),
            commit: None,
        }
    }

    /// The line's bytes; parts move out, one by one, until it is short enough.
    fn bytes(mut self, evidence: &mut Vec<Vec<u8>>) -> serde_json::Result<Vec<u8>> {
        for step in 0..4 {
            let bytes = serde_json::to_vec(&self)?;
            if bytes.len() <= MAX_LEAF {
                return Ok(bytes);
            }
            match step {
                0 => self.event.keep(evidence)?,
                1 => self.reason.as_mut().map_or(Ok(()), |why| why.detail.keep(evidence))?,
                2 => self.commit.as_mut().map_or(Ok(()), |seal| seal.keep(evidence))?,
                _ => {}
            }
        }
        Err(serde::ser::Error::custom("a record is too long for a leaf of the audit log: its workload's name is"))
    }
}

/// The leaves of a commit of workload `key`, in the order of its records. The last one carries `seal`.
///
/// A commit without records has one leaf that says just that, with `now`, the wall clock, as its time.
pub fn leaves(key: &str, commit: &Commit, seal: &Seal, now: jiff::Timestamp) -> serde_json::Result<Leaves> {
    let revision = commit.state.revision;
    let mut made = Leaves::default();
    for (ordinal, record) in commit.records.iter().enumerate() {
        let id = format!("{key}@{revision}.{ordinal}");
        let what = What::Event(&record.event);
        let mut line = Line::of(&id, key, record, &what);
        line.commit = (ordinal + 1 == commit.records.len()).then_some(Part::Here(seal));
        let bytes = line.bytes(&mut made.evidence)?;
        made.leaves.push(Leaf { id, bytes });
    }
    if commit.records.is_empty() {
        let id = format!("{key}@{revision}.0");
        let bare = Record {
            at: Now { wall: now, mono: Mono::default() },
            resource_target: key.to_owned(),
            revision,
            generation: commit.state.generation,
            event: Event::Input(Box::new(crate::core::input::Input::Woke)),
            phase: String::new(),
            reason: None,
            release: None,
            artifact_digest: None,
            request: None,
            result: "committed".into(),
        };
        let what = What::Committed {};
        let line = Line { mono: None, commit: Some(Part::Here(seal)), ..Line::of(&id, key, &bare, &what) };
        let bytes = line.bytes(&mut made.evidence)?;
        made.leaves.push(Leaf { id, bytes });
    }
    Ok(made)
}

/// A part of a parsed line: its value, fetched by digest if it is not in the line.
pub fn part<E>(value: &Value, fetch: impl FnOnce(&Digest) -> Result<Vec<u8>, E>) -> Result<Value, PartError<E>> {
    match kept(value) {
        Some(digest) => serde_json::from_slice(&fetch(&digest).map_err(PartError::Fetch)?).map_err(PartError::Parse),
        None => Ok(value.clone()),
    }
}

/// Why a part of a line cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PartError<E> {
    /// Not to be had by its digest.
    #[error("evidence of a log entry: {0}")]
    Fetch(E),
    /// Not of the expected form.
    #[error("a log entry is not readable: {0}")]
    Parse(serde_json::Error),
}

/// The digest under which a part is kept, if it is not in the line.
pub fn kept(value: &Value) -> Option<Digest> {
    value.get("bytes").filter(|bytes| bytes.is_u64())?;
    value.get("evidence")?.as_str()?.parse().ok()
}

/// The record that a line was made from, for replay; `None` for a commit without records.
///
/// Texts that were cut stay cut.
pub fn record<E>(line: &Value, mut fetch: impl FnMut(&Digest) -> Result<Vec<u8>, E>) -> Result<Option<Record>, PartError<E>> {
    #[derive(Deserialize)]
    struct Flat {
        timestamp: jiff::Timestamp,
        mono: Option<Mono>,
        resource_target: String,
        revision: u64,
        generation: u64,
        phase: String,
        result: String,
        release: Option<ReleaseId>,
        artifact_digest: Option<String>,
        request_id: Option<String>,
        run_id: Option<String>,
        trigger: Option<String>,
        actor: Actor,
        agent_id: Option<String>,
        agent_version: Option<String>,
        model: Option<String>,
        token_scope_id: Option<String>,
        credential_ttl: Option<u64>,
        rationale: Option<String>,
    }
    let flat: Flat = serde_json::from_value(line.clone()).map_err(PartError::Parse)?;
    let Some(mono) = flat.mono else { return Ok(None) };
    let event = part(&line["event"], &mut fetch)?;
    let reason = match line["reason"].get("detail") {
        Some(detail) => Some(serde_json::from_value(part(detail, &mut fetch)?).map_err(PartError::Parse)?),
        None => None,
    };
    let actor = Actor { agent_id: flat.agent_id, agent_version: flat.agent_version, model: flat.model, ..flat.actor };
    let request = flat.request_id.map(|id| Request {
        id,
        run_id: flat.run_id,
        actor,
        trigger: flat.trigger,
        rationale: flat.rationale,
        token_scope_id: flat.token_scope_id,
        refused_before: None,
        credential_ttl: flat.credential_ttl,
    });
    Ok(Some(Record {
        at: Now { wall: flat.timestamp, mono },
        resource_target: flat.resource_target,
        revision: flat.revision,
        generation: flat.generation,
        event: serde_json::from_value(event).map_err(PartError::Parse)?,
        phase: flat.phase,
        reason,
        release: flat.release,
        artifact_digest: flat.artifact_digest,
        request: request.map(std::sync::Arc::new),
        result: flat.result,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::Decision;
    use crate::core::state::State;

    fn record(event: Event) -> Record {
        Record {
            at: Now { wall: "2026-11-23T07:00:00Z".parse().unwrap(), mono: Mono(1500) },
            resource_target: "shop/checkout".into(),
            revision: 3,
            generation: 2,
            event,
            phase: "reverting".into(),
            reason: Some(Reason::AlertFiring { alert: "Burning".into() }),
            release: Some(ReleaseId("0123456789abcdef".into())),
            artifact_digest: Some("sha256:aa".into()),
            request: None,
            result: "breach".into(),
        }
    }

    fn commit(records: Vec<Record>) -> Commit {
        let state = State { revision: 3, generation: 2, ..State::default() };
        let journal = crate::core::journal::Journal::default();
        Commit { expected: 2, state: std::sync::Arc::new(state), records, ledger: Vec::new(), journal }
    }

    fn none(_: &Digest) -> Result<Vec<u8>, String> {
        Err("nothing was kept".into())
    }

    /// The bytes are hashed and published: a change here breaks every log that exists.
    #[test]
    fn the_bytes_of_a_leaf_are_final() {
        let seal = Seal { state: "sha256:bb".into(), ledger: [(ReleaseId("r".into()), "sha256:cc".into())].into(), journal: None };
        let decision = Event::Decision { decision: Decision::Revert, intervals: Vec::new() };
        let made = leaves("shop/checkout", &commit(vec![record(decision)]), &seal, jiff::Timestamp::UNIX_EPOCH).unwrap();
        let expected = concat!(
            r#"{"version":1,"id":"shop/checkout@3.0","timestamp":"2026-11-23T07:00:00Z","mono":1500,"resource_target":"shop/checkout","#,
            r#""revision":3,"generation":2,"phase":"reverting","result":"breach","#,
            r#""reason":{"code":"BS004","text":"the alert Burning fires","detail":{"alertFiring":{"alert":"Burning"}}},"#,
            r#""release":"0123456789abcdef","artifact_digest":"sha256:aa","request_id":null,"run_id":null,"trigger":null,"#,
            r#""actor":{"kind":"automation","principal":"backstop","assurance":"authenticated"},"#,
            r#""agent_id":null,"agent_version":null,"model":null,"token_scope_id":null,"credential_ttl":null,"#,
            r#""rationale":null,"rationale_sha256":null,"event":{"decision":{"decision":"revert","intervals":[]}},"#,
            r#""commit":{"state":"sha256:bb","ledger":{"r":"sha256:cc"}}}"#,
        );
        assert_eq!(std::str::from_utf8(&made.leaves[0].bytes).unwrap(), expected);
        assert_eq!((made.leaves.len(), made.evidence.len()), (1, 0));
    }

    #[test]
    fn a_commit_without_records_leaves_one_line_that_is_no_record() {
        let made = leaves("shop/checkout", &commit(Vec::new()), &Seal::default(), jiff::Timestamp::UNIX_EPOCH).unwrap();
        let line: Value = serde_json::from_slice(&made.leaves[0].bytes).unwrap();
        assert_eq!(
            (&line["event"], &line["mono"], &line["id"]),
            (&serde_json::json!({"committed": {}}), &Value::Null, &"shop/checkout@3.0".into())
        );
        assert!(super::record(&line, none).unwrap().is_none());
    }

    #[test]
    fn the_worst_texts_still_make_a_leaf() {
        let bad = "\u{7}\"\\é".repeat(30_000);
        let mut worst = record(Event::Input(Box::new(crate::core::input::Input::Finished {
            id: crate::core::work::EffectId { revision: 1, ordinal: 1 },
            outcome: crate::core::input::Outcome::Denied(bad.clone()),
        })));
        worst.phase.clone_from(&bad);
        worst.result.clone_from(&bad);
        worst.artifact_digest = Some(bad.clone());
        worst.release = Some(ReleaseId(bad.as_str().into()));
        worst.reason = Some(Reason::AlertFiring { alert: bad.clone() });
        let some = || Some(bad.clone());
        let actor = Actor { agent_id: some(), agent_version: some(), model: some(), principal: bad.clone(), ..Actor::default() };
        worst.request = Some(std::sync::Arc::new(Request {
            id: bad.clone(),
            run_id: some(),
            actor,
            trigger: some(),
            rationale: some(),
            token_scope_id: some(),
            refused_before: Some(u64::MAX),
            credential_ttl: Some(u64::MAX),
        }));
        let ledger = (0..2000).map(|n| (ReleaseId(format!("{n:016x}").into()), Digest::of(b"").to_string())).collect();
        let made =
            leaves("shop/checkout", &commit(vec![worst.clone()]), &Seal { state: String::new(), ledger, journal: None }, worst.at.wall)
                .unwrap();
        assert!(made.leaves[0].bytes.len() <= MAX_LEAF, "{}", made.leaves[0].bytes.len());
        assert_eq!(made.evidence.len(), 3);
        let line: Value = serde_json::from_slice(&made.leaves[0].bytes).unwrap();
        let fetch = |digest: &Digest| made.evidence.iter().find(|bytes| Digest::of(bytes) == *digest).cloned().ok_or("missing");
        let back = super::record(&line, fetch).unwrap().unwrap();
        assert_eq!((back.event, back.reason), (worst.event, worst.reason));
        assert!(matches!(super::record(&line, none), Err(PartError::Fetch(_))));
        assert_eq!(line["rationale_sha256"], Digest::of(bad.as_bytes()).to_string());
    }

    #[test]
    fn texts_are_cut_by_the_length_of_their_json() {
        for text in ["plain", "é\u{1}\"", ""] {
            assert_eq!(cut(text, 64), text);
        }
        let long = cut(&"\u{1}".repeat(100), 60);
        assert_eq!(long, format!("{}…", "\u{1}".repeat(10)));
        assert_eq!(cut("ééé", 5), "éé…");
    }
}
