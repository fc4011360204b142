//! `backstop status`: where traffic is now, wanted and observed, what it waits for, and what a revert will not undo.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::client::Failure;
use super::ready;
use super::service::{Via, names, path, standing, views};
use super::text::{Paint, ago, bar, brief, clean, span, table, time};
use super::{Context, context};
use crate::api::wire::{Line, Standing};
use crate::core::ledger::Standing as Known;
use crate::core::preview::View;
use crate::core::release::ReleaseId;
use crate::core::spec::Percent;
use crate::core::state::{PhaseKind, Revert, Target};
use crate::error::{Error, Exit};
use crate::world::clock;

/// Width of a bar of traffic.
const BAR: usize = 20;

/// Show where rollouts stand
///
/// All of them in a table, or one in detail: where traffic is and should be, what is waited for, how good the evidence
/// is, whether a revert would work, and what it would not undo. Works without the controller.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop status
  backstop status checkout
  backstop status checkout --watch
  backstop status checkout --json | jq -r .view.phase")]
pub struct Args {
    /// The service; all of them if left out.
    service: Option<String>,
    /// Go on showing changes.
    #[arg(long, short)]
    watch: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    match (&args.service, args.watch) {
        (Some(service), false) => {
            let (at, via) = standing(context, Some(service)).await?;
            note(via);
            context.show(&at, || detail(&at, context.paint, clock::wall()))?;
        }
        (None, false) => {
            let (views, via) = views(context).await?;
            note(via);
            context.show(&views, || overview(&views, context.paint))?;
        }
        (service, true) => watch(context, service.as_deref()).await?,
    }
    Ok(Exit::Done)
}

fn note(via: Via) {
    if via == Via::Store {
        Context::warn("the controller does not answer: this is what its store and the host say");
    }
}

async fn watch(context: &Context, service: Option<&str>) -> Result<(), Error> {
    let key = match service {
        Some(service) => Some(super::service::find(context, Some(service)).await?),
        None => None,
    };
    let path = key.as_ref().map_or_else(|| "/v1/events".to_owned(), |key| format!("{}/events", path(key)));
    let mut known: BTreeMap<String, Standing> = BTreeMap::new();
    loop {
        let mut lines = context.client.lines(&path).await?;
        loop {
            match lines.next().await {
                Ok(Some(Line::Standing(at))) => {
                    let before = known.insert(at.view.key.clone(), *at.clone());
                    show_change(context, key.is_some(), before.as_ref(), &at, &known)?;
                }
                Ok(Some(Line::Record(record))) if context.json => print_line(&Line::Record(record))?,
                Ok(Some(Line::Record(_))) => {}
                Ok(Some(Line::Missed(missed))) => Context::warn(&format!("{missed} records were missed; `backstop audit show` has them")),
                Ok(None) | Err(Failure::Down(_)) => break,
                Err(failure) => return Err(failure.into()),
            }
        }
        // The controller may be starting again.
        Context::warn("the controller went away; waiting for it");
        while let Err(Failure::Down(_)) = context.client.get::<crate::api::wire::Rollouts>("/v1/rollouts").await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn print_line(line: &Line) -> Result<(), Error> {
    let text = serde_json::to_string(line).map_err(|error| Error::internal("an event cannot be written as JSON").because(&error))?;
    context::print(&text)
}

fn show_change(
    context: &Context,
    one: bool,
    before: Option<&Standing>,
    at: &Standing,
    known: &BTreeMap<String, Standing>,
) -> Result<(), Error> {
    if context.json {
        return print_line(&Line::Standing(Box::new(at.clone())));
    }
    let now = clock::wall();
    if context.terminal {
        let views: Vec<View> = known.values().map(|at| at.view.clone()).collect();
        let text = if one { detail(at, context.paint, now) } else { overview(&views, context.paint) };
        // Home, each line cleared to its end, then all below.
        let text = text.replace('\n', "\u{1b}[K\n");
        return context::print(&format!("\u{1b}[H{text}\u{1b}[J"));
    }
    let line = verdict_line(&at.view);
    if before.is_none_or(|before| verdict_line(&before.view) != line) {
        context::print(&format!("{} {} {line}", time(now), at.view.key))?;
    }
    Ok(())
}

/// The candidate's share as the router has it, else as it is wanted.
fn share(view: &View) -> Option<Percent> {
    let id = &view.candidate.as_ref()?.id;
    let on_trial = matches!(view.phase, PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching);
    on_trial.then(|| view.observed.get(id).or_else(|| view.wanted.get(id)).copied().unwrap_or(Percent::ZERO))
}

/// Where a rollout stands and why, in one line:
/// ``Advancing 25% · stage 2 of 3 · BS022 `availability` needs 180 more good requests``.
pub fn verdict_line(view: &View) -> String {
    let mut parts = vec![share(view).map_or_else(|| view.phase.to_string(), |share| format!("{} {share}", view.phase))];
    if let Some((stage, stages)) = view.stage {
        parts.push(format!("stage {stage} of {stages}"));
    }
    parts.extend(view.overlays.iter().cloned());
    // Why it reverts stays in sight beside what that waits for.
    let cause = view.reverting().map(|revert| &revert.reason);
    let now = view.waiting.as_ref().or(view.reason.as_ref()).filter(|now| Some(*now) != cause);
    let reasons: Vec<String> =
        cause.into_iter().chain(now).map(|reason| format!("{} {}", reason.code(), clean(&reason.to_string()))).collect();
    if !reasons.is_empty() {
        parts.extend(reasons);
    } else if let Some(step) = &view.step {
        parts.push(step.clone());
    }
    parts.join(" · ")
}

fn painted(view: &View, paint: Paint, text: &str) -> String {
    match view.phase {
        PhaseKind::Stuck | PhaseKind::Reverting | PhaseKind::Recovering => paint.bad(text),
        PhaseKind::Refused | PhaseKind::Reverted | PhaseKind::AwaitingApproval => paint.warn(text),
        PhaseKind::Idle => text.to_owned(),
        PhaseKind::Admitting | PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching if view.waiting.is_some() => {
            paint.warn(text)
        }
        PhaseKind::Admitting | PhaseKind::Advancing | PhaseKind::Promoting | PhaseKind::Watching => paint.good(text),
    }
}

/// All rollouts in a table.
pub fn overview(views: &[View], paint: Paint) -> String {
    if views.is_empty() {
        return "there are no rollouts; `backstop run --specs DIR` reads them".to_owned();
    }
    let head = ["SERVICE", "RUNS", "ON TRIAL", "READY", "STATUS"].map(|title| paint.dim(title)).to_vec();
    let rows = views.iter().map(|view| {
        let release = |release: Option<&crate::core::release::Release>| {
            release.map_or_else(|| "–".to_owned(), |release| brief(&release.label.clone().unwrap_or_else(|| release.id.to_string()), 24))
        };
        let candidate = view.candidate.as_ref().filter(|_| !view.phase.is_resting());
        let ready = if ready::is_ready(view) { paint.good("yes") } else { paint.bad("no") };
        let status = painted(view, paint, &brief(&verdict_line(view), 100));
        vec![view.key.clone(), release(view.stable.as_ref()), release(candidate), ready, status]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// One rollout in detail.
pub fn detail(at: &Standing, paint: Paint, now: jiff::Timestamp) -> String {
    let view = &at.view;
    let names = names(view);
    let mut text = format!("{}  {}\n\n", paint.bold(&view.key), painted(view, paint, &verdict_line(view)));
    section(&mut text, paint, "releases", &releases(view));
    section(&mut text, paint, "traffic", &traffic(view, &names));
    section(&mut text, paint, "objectives", &objectives(view));
    section(&mut text, paint, "waits for", &open(view));
    section(&mut text, paint, "notes", &at.notes.iter().map(|note| paint.bad(&clean(note))).collect::<Vec<_>>().join("\n"));
    let ready = if ready::is_ready(view) { paint.good("yes, ") } else { paint.bad("no: ") };
    section(&mut text, paint, "revert ready", &format!("{ready}{}", ready::words(view)));
    if let Some(revert) = &view.revert {
        section(&mut text, paint, "revert", &revert_text(revert, &names, now));
    }
    section(&mut text, paint, "ledger", &ledger(view, now));
    if view.alerts_dropped > 0 {
        let what =
            format!("{} that fired were dropped: too many at once; let fewer labels into what Alertmanager sends", view.alerts_dropped);
        section(&mut text, paint, "alerts", &what);
    }
    let left: Vec<String> = at.plan.not_undone.iter().map(|what| clean(what)).collect();
    section(&mut text, paint, "not undone", &left.join("\n"));
    text
}

/// A heading with lines beside it; nothing if there are none.
fn section(text: &mut String, paint: Paint, name: &str, lines: &str) {
    for (index, line) in lines.lines().enumerate() {
        let name = if index == 0 { paint.dim(name) } else { String::new() };
        let room = 14 - if index == 0 { name_width(name.as_str()) } else { 0 };
        let _ = writeln!(text, "  {name}{}{line}", " ".repeat(room));
    }
}

/// Characters of a heading without its colour.
fn name_width(name: &str) -> usize {
    let plain = name.strip_prefix("\u{1b}[2m").and_then(|name| name.strip_suffix("\u{1b}[0m")).unwrap_or(name);
    plain.chars().count()
}

fn releases(view: &View) -> String {
    let mut text = String::new();
    if let Some(stable) = &view.stable {
        let _ = writeln!(text, "runs      {}", clean(&stable.to_string()));
    }
    if let Some(candidate) = &view.candidate {
        let when = match view.phase {
            PhaseKind::Reverting | PhaseKind::Recovering | PhaseKind::Reverted | PhaseKind::Stuck => "taken out",
            phase if phase.is_resting() => "tried",
            _ => "on trial",
        };
        let _ = writeln!(text, "{when:<9} {}", clean(&candidate.to_string()));
        if let Some(request) = &view.request {
            let _ = writeln!(text, "          {}", asked(request));
        }
    }
    if text.is_empty() { "nothing was deployed yet".to_owned() } else { text }
}

/// Who asked, and why, in a line.
pub(super) fn asked(request: &crate::core::actor::Request) -> String {
    let mut text = format!("by {}", clean(&request.actor.to_string()));
    let parts = [("model", &request.actor.model), ("run", &request.run_id), ("trigger", &request.trigger), ("because", &request.rationale)];
    for (name, value) in parts {
        if let Some(value) = value {
            let _ = write!(text, ", {name} {}", brief(value, 100));
        }
    }
    text
}

fn traffic(view: &View, names: &BTreeMap<ReleaseId, String>) -> String {
    let mut ids: Vec<&ReleaseId> = view.wanted.keys().chain(view.observed.keys()).chain(view.arms.keys()).collect();
    ids.sort();
    ids.dedup();
    let rows: Vec<Vec<String>> = ids
        .into_iter()
        .map(|id| {
            let wanted = view.wanted.get(id).copied().unwrap_or(Percent::ZERO);
            let observed = view.observed.get(id).copied();
            let now = observed.map_or_else(|| "not seen".to_owned(), |share| format!("{} {share}", bar(share, BAR)));
            let moving = if observed.is_some_and(|observed| observed == wanted) { String::new() } else { format!("wanted {wanted}") };
            let members = view.arms.get(id).map(|arm| {
                let failing = arm.failing.as_deref().map(|what| format!(", {}", brief(what, 60))).unwrap_or_default();
                format!("{} of {} ready{failing}", arm.ready, arm.wanted)
            });
            vec![names.get(id).cloned().unwrap_or_else(|| id.to_string()), now, moving, members.unwrap_or_default()]
        })
        .collect();
    table(&rows)
}

fn objectives(view: &View) -> String {
    let mut text = String::new();
    for objective in &view.objectives {
        let counts = &objective.counts;
        let against = format!("evidence against the candidate {:+.1}", counts.objective_evidence);
        let beside = counts.baseline_evidence.map(|evidence| format!(", beside stable {evidence:+.1}")).unwrap_or_default();
        let _ = writeln!(text, "{}: {counts}", clean(&objective.name));
        let _ = writeln!(text, "  {against}{beside} (log odds), {} intervals", counts.intervals);
    }
    text
}

fn open(view: &View) -> String {
    let line = |(name, trouble): &(String, Option<String>)| match trouble {
        Some(trouble) => format!("{name}: {}", brief(trouble, 100)),
        None => name.clone(),
    };
    view.open.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How a release is called, by its id.
fn called(names: &BTreeMap<ReleaseId, String>, id: &ReleaseId) -> String {
    names.get(id).cloned().unwrap_or_else(|| id.to_string())
}

fn revert_text(revert: &Revert, names: &BTreeMap<ReleaseId, String>, now: jiff::Timestamp) -> String {
    let mut text = String::new();
    let by = revert.by.as_ref().map_or_else(|| "automatic".to_owned(), |by| asked(by));
    let _ = writeln!(text, "{}, {by}, {}", revert.id, ago(revert.since.wall, now));
    let _ = writeln!(text, "{} {}", revert.reason.code(), clean(&revert.reason.to_string()));
    let after = |at: Option<crate::core::time::Mono>| {
        at.map_or_else(|| "not yet".to_owned(), |at| format!("after {}", span(at.since(revert.since.mono))))
    };
    let _ = writeln!(
        text,
        "traffic back {}, flags safe {}, release back {}",
        after(revert.traffic_back),
        after(revert.flags_safe),
        after(revert.release_back)
    );
    let _ = writeln!(text, "{}", target_words(&revert.target, names));
    for (id, reason) in &revert.skipped {
        let _ = writeln!(text, "passed over {}: {} {}", called(names, id), reason.code(), clean(&reason.to_string()));
    }
    text
}

/// What a revert restores, in words.
pub(super) fn target_words(target: &Target, names: &BTreeMap<ReleaseId, String>) -> String {
    match target {
        Target::Verifying(id) => format!("verifying {}", called(names, id)),
        Target::Chosen(id) => format!("restores {}", called(names, id)),
        Target::Nothing => "restores nothing: traffic or flags alone were asked for".to_owned(),
        Target::Waiting => "restoring waits for a person".to_owned(),
        Target::NoneLeft => "no known-good release is left to restore".to_owned(),
    }
}

fn ledger(view: &View, now: jiff::Timestamp) -> String {
    let rows: Vec<Vec<String>> = view
        .ledger
        .iter()
        .rev()
        .take(10)
        .map(|line| {
            let standing = match line.standing {
                Known::Unproven => "unproven",
                Known::KnownGood => "known good",
                Known::Bad => "bad",
            };
            let standing = if line.quarantined { format!("{standing}, quarantined") } else { standing.to_owned() };
            let good = line.last_good.map(|at| format!("good {}", ago(at.wall, now))).unwrap_or_default();
            vec![clean(&line.release.to_string()), line.release.id.to_string(), standing, good]
        })
        .collect();
    table(&rows)
}
