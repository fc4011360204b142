//! What an effect makes of a workload's record: a pure decision, before anything is written or moved.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::fence;
use super::record::WorkloadRecord;
use super::wire::{Define, Ensure};
use crate::core::input::Outcome;
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::Percent;
use crate::core::work::{Action, Fence};

/// Shares must sum to 100 within this many per cent.
const TOLERANCE: f64 = 0.01;

/// Changes `record` as `ensure` wants it. Nothing but the fences is changed when the answer is an error.
pub(crate) fn ensure(record: &mut WorkloadRecord, ensure: &Ensure) -> Result<(), Outcome> {
    check(ensure)?;
    fence::pass(&mut record.fences, ensure).map_err(Outcome::Superseded)?;
    match &ensure.action {
        Action::EnsureArm { release, present: true } => add(record, release),
        Action::EnsureArm { release, present: false } => remove(record, &release.id),
        Action::EnsureWeights { weights } => weigh(record, weights),
        Action::EnsureRelease { release } => {
            if record.quarantined.contains(&release.id) {
                return Err(held(release));
            }
            add(record, release)?;
            if record.weights.is_empty() {
                record.weights = [(release.id.clone(), Percent::FULL)].into();
            }
            record.current = Some(release.id.clone());
            Ok(())
        }
        Action::EnsureHold { quarantined } => {
            record.quarantined = quarantined.iter().cloned().collect();
            Ok(())
        }
        other => Err(not_ours(other)),
    }
}

/// Changes the settings of `record` as `define` wants it.
pub(crate) fn define(record: &mut WorkloadRecord, define: &Define) -> Result<(), Outcome> {
    if define.generation < record.fences.generation {
        let seen = record.fences.generation;
        return Err(Outcome::Superseded(format!("generation {} is superseded: the host has seen generation {seen}", define.generation)));
    }
    record.fences.generation = define.generation;
    if let Some(stable) = &define.stable {
        record.fences.stable = Some(stable.clone());
    }
    if record.process.listen != define.process.listen {
        record.bound = None;
    }
    record.process = define.process.clone();
    Ok(())
}

/// What is wrong with the action itself, whatever is recorded: this teaches the fences nothing.
fn check(ensure: &Ensure) -> Result<(), Outcome> {
    if ensure.fence == Fence::None && !matches!(ensure.action, Action::EnsureHold { .. }) {
        let what = format!("`{}` needs a fence", ensure.action.name());
        return Err(Outcome::Invalid(format!("{what}: expected `generation` or `stable`")));
    }
    match &ensure.action {
        Action::EnsureArm { release, .. } | Action::EnsureRelease { release } => check_release(release),
        Action::EnsureWeights { weights } => {
            let sum: f64 = weights.values().map(|share| share.percent()).sum();
            if (sum - 100.0).abs() > TOLERANCE {
                return Err(Outcome::Invalid(format!("weights sum to {sum}%: expected 100%")));
            }
            Ok(())
        }
        Action::EnsureHold { .. } => Ok(()),
        other => Err(not_ours(other)),
    }
}

fn not_ours(action: &Action) -> Outcome {
    let expected = "expected ensureArm, ensureWeights, ensureRelease or ensureHold";
    Outcome::Invalid(format!("`{}` is not an effect of the host: {expected}", action.name()))
}

fn check_release(release: &Release) -> Result<(), Outcome> {
    let derived = release.template.release();
    if derived != release.id {
        return Err(Outcome::Invalid(format!("release {} is not its template's: that is release {derived}", release.id)));
    }
    let Some(process) = release.template.as_process() else { return Err(Outcome::Invalid("the host runs processes, not pods".into())) };
    inside(&process.command).map(|_| ()).map_err(Outcome::Invalid)
}

/// Whether `command` can be looked for inside an artifact at all. The error is a sentence.
pub(crate) fn inside(command: &[String]) -> Result<PathBuf, String> {
    let name = command.first().filter(|name| !name.is_empty()).ok_or("the command is empty: expected a path inside the artifact")?;
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if plain {
        Ok(PathBuf::from(name))
    } else {
        Err(format!("`{name}` is not a path inside the artifact: write it relative, without `..`"))
    }
}

fn add(record: &mut WorkloadRecord, release: &Release) -> Result<(), Outcome> {
    // One that runs already is not started by this; whether it may stay is the weights' and the arm's own matter.
    if record.quarantined.contains(&release.id) && !record.arms.contains_key(&release.id) {
        return Err(held(release));
    }
    record.arms.entry(release.id.clone()).or_insert_with(|| release.clone());
    Ok(())
}

fn held(release: impl std::fmt::Display) -> Outcome {
    Outcome::Denied(format!("release {release} is quarantined: lift that first"))
}

fn remove(record: &mut WorkloadRecord, release: &ReleaseId) -> Result<(), Outcome> {
    if !record.arms.contains_key(release) {
        return Ok(());
    }
    let share = record.weight(release);
    let why = if share > Percent::ZERO {
        format!("release {release} has {share} of the requests: move them first")
    } else if record.current.as_ref() == Some(release) {
        format!("release {release} is the workload's own: ensure another release first")
    } else {
        record.arms.remove(release);
        return Ok(());
    };
    Err(Outcome::Transient { what: why, retry_after: None })
}

fn weigh(record: &mut WorkloadRecord, weights: &BTreeMap<ReleaseId, Percent>) -> Result<(), Outcome> {
    for (release, share) in weights.iter().filter(|(_, share)| **share > Percent::ZERO) {
        if !record.arms.contains_key(release) {
            let what = format!("release {release} has no members here: ensure its arm first");
            return Err(Outcome::Transient { what, retry_after: None });
        }
        if record.quarantined.contains(release) && *share > record.weight(release) {
            return Err(held(release));
        }
    }
    record.weights.clone_from(weights);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::release::Template;
    use crate::core::spec::{Artifacts, HealthCheck, Process};
    use crate::core::time::Span;
    use crate::core::work::EffectId;

    fn record() -> WorkloadRecord {
        let process = Process {
            listen: "127.0.0.1:0".into(),
            artifacts: Artifacts::Registry {},
            instances: 1,
            health: HealthCheck::default(),
            drain: Span::seconds(30),
        };
        WorkloadRecord::new("shop", "checkout", process)
    }

    fn release(name: &str) -> Release {
        let image = format!("shop/checkout@sha256:{}", "a".repeat(64)).parse().unwrap();
        let env = [("NAME".to_owned(), name.to_owned())].into();
        Release::new(Template::process(image, vec!["app".into()], env), Some(name.into()))
    }

    fn ask(revision: u64, action: Action) -> Ensure {
        Ensure { id: EffectId { revision, ordinal: 0 }, fence: Fence::Generation(1), action, stable: None }
    }

    fn weights(shares: &[(&Release, f64)]) -> Action {
        Action::EnsureWeights { weights: shares.iter().map(|(release, share)| (release.id.clone(), Percent::new(*share))).collect() }
    }

    #[test]
    fn the_first_release_gets_all_traffic_and_later_ones_none() {
        let (mut record, a, b) = (record(), release("a"), release("b"));
        ensure(&mut record, &ask(1, Action::EnsureRelease { release: a.clone() })).unwrap();
        assert_eq!((record.weight(&a.id), record.current.clone()), (Percent::FULL, Some(a.id.clone())));
        ensure(&mut record, &ask(2, Action::EnsureArm { release: b.clone(), present: true })).unwrap();
        ensure(&mut record, &ask(3, Action::EnsureRelease { release: b.clone() })).unwrap();
        assert_eq!((record.weight(&b.id), record.current.clone()), (Percent::ZERO, Some(b.id.clone())));
        let before = record.clone();
        ensure(&mut record, &ask(3, Action::EnsureRelease { release: b })).unwrap();
        assert_eq!(record, before);
    }

    #[test]
    fn traffic_goes_only_where_members_are() {
        let (mut record, a, b) = (record(), release("a"), release("b"));
        ensure(&mut record, &ask(1, Action::EnsureRelease { release: a.clone() })).unwrap();
        assert!(matches!(ensure(&mut record, &ask(2, weights(&[(&b, 100.0)]))), Err(Outcome::Transient { .. })));
        assert!(matches!(ensure(&mut record, &ask(2, weights(&[(&a, 90.0)]))), Err(Outcome::Invalid(_))));
        assert_eq!(record.weight(&a.id), Percent::FULL);
        let gone = Action::EnsureArm { release: a, present: false };
        assert!(matches!(ensure(&mut record, &ask(3, gone)), Err(Outcome::Transient { .. })));
    }

    #[test]
    fn a_quarantined_release_is_neither_started_nor_given_more() {
        let (mut record, a, b) = (record(), release("a"), release("b"));
        ensure(&mut record, &ask(1, Action::EnsureRelease { release: a.clone() })).unwrap();
        ensure(&mut record, &ask(2, Action::EnsureArm { release: b.clone(), present: true })).unwrap();
        ensure(&mut record, &ask(3, weights(&[(&a, 75.0), (&b, 25.0)]))).unwrap();
        ensure(&mut record, &ask(4, Action::EnsureHold { quarantined: vec![b.id.clone()] })).unwrap();
        assert!(matches!(ensure(&mut record, &ask(5, weights(&[(&b, 100.0)]))), Err(Outcome::Denied(_))));
        ensure(&mut record, &ask(6, weights(&[(&a, 100.0)]))).unwrap();
        ensure(&mut record, &ask(7, Action::EnsureArm { release: b.clone(), present: false })).unwrap();
        let again = ask(8, Action::EnsureArm { release: b.clone(), present: true });
        assert!(matches!(ensure(&mut record, &again), Err(Outcome::Denied(_))));
        ensure(&mut record, &ask(9, Action::EnsureHold { quarantined: vec![] })).unwrap();
        ensure(&mut record, &again).unwrap();
    }

    #[test]
    fn a_release_under_a_false_name_and_a_foreign_effect_are_invalid() {
        let (mut record, mut a) = (record(), release("a"));
        a.id = ReleaseId("0".repeat(16).into());
        let before = record.clone();
        assert!(matches!(ensure(&mut record, &ask(1, Action::EnsureRelease { release: a })), Err(Outcome::Invalid(_))));
        assert!(matches!(ensure(&mut record, &ask(1, Action::Record)), Err(Outcome::Invalid(_))));
        assert_eq!(record, before);
    }

    #[test]
    fn what_moves_something_needs_a_fence() {
        let a = release("a");
        let mut unfenced = ask(1, Action::EnsureRelease { release: a.clone() });
        unfenced.fence = Fence::None;
        assert!(matches!(ensure(&mut record(), &unfenced), Err(Outcome::Invalid(_))));
        unfenced.action = Action::EnsureHold { quarantined: vec![a.id] };
        assert!(ensure(&mut record(), &unfenced).is_ok());
    }

    #[test]
    fn an_older_writer_does_not_define() {
        let mut record = record();
        record.fences.generation = 5;
        let mut wanted = Define { generation: 4, process: record.process.clone(), stable: None };
        wanted.process.instances = 3;
        assert!(matches!(define(&mut record, &wanted), Err(Outcome::Superseded(_))));
        wanted.generation = 5;
        define(&mut record, &wanted).unwrap();
        assert_eq!(record.process.instances, 3);
    }
}
