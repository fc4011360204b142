//! `backstop changes`.

use std::time::Duration;

use serde_json::json;

use super::Context;
use super::direct::{self, Entry};
use super::service::{choose, views};
use super::text::{brief, table, time, whole};
use crate::core::input::{Input, Verb};
use crate::core::record::{Event, Record};
use crate::core::time::Span;
use crate::core::work::Action;
use crate::error::{Error, Exit};
use crate::world::clock;

/// Say what changed lately, nearest to the onset of trouble first
///
/// Deployments, commands, changes of guards and policies, flags that were set, releases that were restored. Works
/// without the controller.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop changes
  backstop changes checkout --since 6h
  backstop changes --onset 2026-11-23T03:12:00Z")]
pub struct Args {
    /// The service; all of them if left out.
    service: Option<String>,
    /// When trouble began; now if left out.
    #[arg(long, value_name = "TIME")]
    onset: Option<jiff::Timestamp>,
    /// How far to look back before the onset.
    #[arg(long, value_name = "SPAN", default_value = "24h")]
    since: Span,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let key = match &args.service {
        Some(service) => {
            let (views, _) = views(context).await?;
            Some(choose(Some(service), &views.iter().map(|view| view.key.clone()).collect::<Vec<_>>())?)
        }
        None => None,
    };
    let onset = args.onset.unwrap_or_else(clock::wall);
    let entries = direct::records(context, key.as_deref()).await?;
    let found = changes(entries.iter().map(|entry: &Entry| &entry.record), onset, args.since.0);
    let value: Vec<_> = found
        .iter()
        .map(|change| {
            json!({"at": change.record.at.wall, "resource": change.record.resource_target, "what": change.what,
                "request": change.record.request, "result": change.record.result})
        })
        .collect();
    context.show(&json!({"onset": onset, "changes": value}), || text(&found, onset, args.since))?;
    Ok(Exit::Done)
}

/// A record that changed something.
#[derive(Debug, Clone, PartialEq)]
pub struct Change<'a> {
    /// The record.
    pub record: &'a Record,
    /// What changed, in words.
    pub what: String,
}

/// What changed within `since` before the onset, and after it, nearest to it first.
pub fn changes<'a>(records: impl Iterator<Item = &'a Record>, onset: jiff::Timestamp, since: Duration) -> Vec<Change<'a>> {
    let mut found: Vec<Change<'a>> = records
        .filter(|record| {
            let before = onset.as_second() - record.at.wall.as_second();
            before <= i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
        .filter_map(|record| Some(Change { record, what: what(record)? }))
        .collect();
    // What came before the onset may have caused it; what came after may only be an answer to it.
    found.sort_by_key(|change| {
        let distance = onset.as_millisecond() - change.record.at.wall.as_millisecond();
        (distance < 0, distance.unsigned_abs())
    });
    found
}

fn what(record: &Record) -> Option<String> {
    match &record.event {
        Event::Input(input) => match &**input {
            Input::Deployed(deployed) => Some(format!("deployed {}", deployed.release)),
            Input::Commanded(command) => Some(match &command.verb {
                Verb::Disarm { span } => format!("disarm for {span}"),
                verb => verb.kind().name().to_owned(),
            }),
            Input::Found(release) => Some(format!("found {release} running")),
            Input::SpecChanged(_) => Some("the guard changed".into()),
            Input::PolicyChanged(_) => Some("the policy changed".into()),
            Input::ScopeChanged(scope) => Some(if scope.frozen { "a wider freeze began" } else { "a wider freeze ended" }.into()),
            Input::Looked(_) | Input::Observed(_) | Input::Alerted(_) | Input::Finished { .. } | Input::Woke => None,
        },
        Event::Wanted(effect) => match &effect.action {
            Action::EnsureFlag(flag) => Some(format!("flag `{}` set for a revert", flag.flag)),
            Action::EnsureRelease { release } => Some(format!("made {release} the workload's release")),
            _ => None,
        },
        Event::Decision { .. } => None,
    }
}

fn text(found: &[Change<'_>], onset: jiff::Timestamp, since: Span) -> String {
    if found.is_empty() {
        let begin = onset.checked_sub(since.0).unwrap_or(jiff::Timestamp::MIN);
        return format!("nothing changed since {}, which is {since} before the onset {}", time(begin), time(onset));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|change| {
            let away = onset.as_second() - change.record.at.wall.as_second();
            let side = if away < 0 { "after" } else { "before" };
            let by = change.record.request.as_ref().map(|request| request.actor.to_string()).unwrap_or_default();
            let why = change.record.request.as_ref().and_then(|request| request.rationale.as_deref()).unwrap_or_default();
            vec![
                format!("{} {side}", whole(away.unsigned_abs())),
                change.record.resource_target.clone(),
                brief(&change.what, 60),
                brief(&by, 50),
                brief(&change.record.result, 30),
                brief(why, 60),
            ]
        })
        .collect();
    format!("onset {}\n{}", time(onset), table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::actor::Request;
    use crate::core::input::Commanded;
    use crate::core::time::{Mono, Now};

    fn record(second: i64, input: Input) -> Record {
        Record {
            at: Now { wall: jiff::Timestamp::from_second(second).unwrap(), mono: Mono(0) },
            resource_target: "shop/checkout".into(),
            revision: 1,
            generation: 1,
            event: Event::Input(Box::new(input)),
            phase: "Idle".into(),
            reason: None,
            release: None,
            artifact_digest: None,
            request: None,
            result: "obeyed".into(),
        }
    }

    fn said(verb: Verb) -> Input {
        Input::Commanded(Commanded { verb, request: Request::default() })
    }

    #[test]
    fn what_came_before_the_onset_comes_first_and_nearest_first() {
        let records = [
            record(100, said(Verb::Pause)),
            record(5000, said(Verb::Promote)),
            record(9000, said(Verb::Adopt)),
            record(9500, Input::Woke),
            record(10_001, said(Verb::Freeze)),
        ];
        let onset = jiff::Timestamp::from_second(10_000).unwrap();
        let found = changes(records.iter(), onset, Duration::from_mins(100));
        let order: Vec<&str> = found.iter().map(|change| change.what.as_str()).collect();
        assert_eq!(order, ["adopt", "promote", "freeze"]);
        let text = text(&found, onset, Span::minutes(100));
        assert!(text.contains("16m 40s before  shop/checkout  adopt"), "{text}");
        assert!(text.contains("1s after"), "{text}");
    }

    #[test]
    fn where_nothing_is_found_it_is_said_how_far_was_looked_back() {
        let onset = jiff::Timestamp::from_second(4_070_908_800).unwrap();
        let text = |since| text(&changes([record(100, said(Verb::Pause))].iter(), onset, Span(since).0), onset, Span(since));
        assert_eq!(
            text(Duration::from_hours(24)),
            "nothing changed since 2098-12-31T00:00:00Z, which is 1day before the onset 2099-01-01T00:00:00Z"
        );
        assert!(text(Duration::MAX).contains("pause"));
    }
}
