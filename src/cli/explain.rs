//! `backstop explain`.

use serde_json::json;

use super::direct::{self, Entry};
use super::service::{choose, views};
use super::text::{clean, time};
use super::{Context, Global, context};
use crate::core::judge::Interval;
use crate::core::reason::Reason;
use crate::core::record::{Decision, Event, Record};
use crate::error::{Error, Exit};

/// Explain a reason code, a service's last decision, or a revert
///
/// Of a decision: the chain of records that led to it, with the numbers that it rests on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop explain BS001
  backstop explain checkout
  backstop explain rv-3f9a1c2b4d5e")]
pub struct Args {
    /// A code such as `BS001`, a service, or a revert's id such as `rv-3f9a1c2b4d5e`.
    what: String,
}

impl Args {
    /// Whether a reason code is asked for.
    pub(super) fn is_code(&self) -> bool {
        let code = self.what.to_ascii_uppercase();
        code.strip_prefix("BS").is_some_and(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))
    }
}

/// Explains a code.
pub(super) fn code(args: &Args, global: &Global) -> Result<Exit, Error> {
    let wanted = args.what.to_ascii_uppercase();
    let Some((code, name, doc)) = Reason::TABLE.iter().find(|(code, _, _)| *code == wanted) else {
        let all = Reason::TABLE.iter().map(|(code, _, _)| *code).collect::<Vec<_>>().join(" ");
        return Err(Error::usage(format!("there is no reason `{wanted}`")).hint(format!("there are {all}")));
    };
    let doc = doc.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    if global.json {
        context::print_json(&json!({"code": code, "name": name, "meaning": doc.trim()}))?;
    } else {
        context::print(&format!("{} {name}\n\n{}", context::paint(global.color).bold(code), doc.trim()))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let id = Some(args.what.as_str()).filter(|what| what.starts_with("rv-"));
    let key = if id.is_some() {
        None
    } else {
        let keys: Vec<String> = views(context).await?.0.into_iter().map(|view| view.key).collect();
        Some(choose(Some(&args.what), &keys)?)
    };
    let entries = direct::records(context, key.as_deref()).await?;
    let records: Vec<&Record> = entries.iter().map(|entry: &Entry| &entry.record).collect();
    let chain = match id {
        Some(id) => chain_of(&records, id)?,
        None => last_chain(&records),
    };
    if chain.is_empty() {
        return Err(Error::new(Exit::No, format!("nothing was decided about `{}` yet", super::text::brief(&args.what, 80))));
    }
    context.show(&chain, || {
        let lines: Vec<String> = chain.iter().flat_map(|record| std::iter::once(line(record)).chain(evidence(record))).collect();
        lines.join("\n")
    })?;
    Ok(Exit::Done)
}

/// The records of the generation of the last decision, up to that decision.
fn last_chain<'a>(records: &[&'a Record]) -> Vec<&'a Record> {
    let decided = |record: &&&Record| matches!(record.event, Event::Decision { decision, .. } if decision != Decision::Checkpoint);
    let Some(last) = records.iter().rfind(decided) else { return Vec::new() };
    records.iter().copied().filter(|record| record.generation == last.generation && record.revision <= last.revision).collect()
}

/// The records of the attempt that a revert ended.
fn chain_of<'a>(records: &[&'a Record], id: &str) -> Result<Vec<&'a Record>, Error> {
    let reverts = || records.iter().filter(|record| matches!(record.event, Event::Decision { decision: Decision::Revert, .. }));
    if let Some(found) = reverts().rfind(|record| record.result == id) {
        let same = |record: &&&Record| record.resource_target == found.resource_target && record.generation == found.generation;
        return Ok(records.iter().filter(same).copied().collect());
    }
    let error = Error::usage(format!("no revert has the id `{}`", super::text::brief(id, 40)));
    let known: Vec<String> = reverts().rev().take(5).map(|record| format!("{} of {}", record.result, record.resource_target)).collect();
    Err(if known.is_empty() { error } else { error.hint(format!("the last ones are {}", known.join(", "))) })
}

/// A record in a line.
pub(super) fn line(record: &Record) -> String {
    let what = match &record.event {
        Event::Input(input) => super::text::brief(&name_of(input), 100),
        Event::Decision { decision, .. } => format!("decided to {}", decision.words()),
        Event::Wanted(effect) => format!("wanted {}", effect.action.name()),
    };
    let reason = record.reason.as_ref().map(|reason| format!(" · {} {reason}", reason.code())).unwrap_or_default();
    let by = record.request.as_ref().filter(|_| matches!(record.event, Event::Input(_))).map(|request| format!(" · by {}", request.actor));
    let text = format!("{} · {what}{reason}{} · {}", record.phase, by.unwrap_or_default(), record.result);
    format!("{}  {}  {}", time(record.at.wall), record.resource_target, clean(&text))
}

fn name_of(input: &crate::core::input::Input) -> String {
    use crate::core::input::Input;
    match input {
        Input::Deployed(deployed) => format!("{} was deployed", deployed.release),
        Input::Found(release) => format!("{release} was found running"),
        Input::Looked(_) => "metrics were read".into(),
        Input::Observed(_) => "the workload was seen".into(),
        Input::Alerted(alert) => format!("alert {} {}", alert.name, if alert.firing { "fires" } else { "ended" }),
        Input::Commanded(command) => format!("told to {}", command.verb.kind().name()),
        Input::SpecChanged(_) => "the guard changed".into(),
        Input::PolicyChanged(_) => "the policy changed".into(),
        Input::ScopeChanged(scope) if scope.by.is_some() => {
            if scope.frozen { "everything around was frozen" } else { "the freeze of everything around ended" }.into()
        }
        Input::ScopeChanged(_) => "the surroundings changed".into(),
        Input::Finished { id, outcome } => {
            use crate::core::input::Outcome;
            let how = match outcome {
                Outcome::Done { .. } => "is done".to_owned(),
                Outcome::Transient { what, .. } => format!("must be tried again: {what}"),
                Outcome::Denied(what) => format!("was denied: {what}"),
                Outcome::Superseded(what) => format!("is void: {what}"),
                Outcome::Invalid(what) => format!("cannot work: {what}"),
                Outcome::Unknown(what) => format!("has no known end: {what}"),
            };
            format!("effect {id} {how}")
        }
        Input::Woke => "time passed".into(),
    }
}

/// The intervals that a decision rests on, summed by signal.
fn evidence(record: &Record) -> Vec<String> {
    let Event::Decision { intervals, .. } = &record.event else { return Vec::new() };
    let mut signals: Vec<&str> = intervals.iter().map(|interval| interval.signal.0.as_str()).collect();
    signals.sort_unstable();
    signals.dedup();
    signals
        .into_iter()
        .map(|signal| {
            let of: Vec<&Interval> = intervals.iter().filter(|interval| interval.signal.0 == signal).collect();
            // Where none is evidence, as after a revert, all were looked at.
            let any_scored = of.iter().any(|interval| interval.scored);
            let sum = |count: fn(&Interval) -> Option<crate::core::judge::Count>| {
                of.iter()
                    .filter(|interval| interval.scored || !any_scored)
                    .filter_map(|interval| count(interval))
                    .fold((0.0, 0.0), |(bad, total), count| (bad + count.bad, total + count.total))
            };
            let (candidate, stable) = (sum(|interval| interval.candidate), sum(|interval| interval.stable));
            format!(
                "    {signal}: {} intervals, candidate {:.0} of {:.0} bad, stable {:.0} of {:.0}",
                of.len(),
                candidate.0,
                candidate.1,
                stable.0,
                stable.1
            )
        })
        .collect()
}
