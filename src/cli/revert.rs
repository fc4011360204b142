//! `backstop revert`: the plan first, then a word of the person, then the way back as it happens.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::json;

use super::command::{Who, words};
use super::progress::Progress;
use super::service::{Via, path, release, standing, without};
use super::status::{asked, verdict_line};
use super::text::{Paint, brief, clean};
use super::{Context, direct};
use crate::api::wire::{Command, Line, Reply, Standing};
use crate::core::input::{Parts, Verb};
use crate::core::machine::verbs::{Meaning, VerbKind};
use crate::core::preview::View;
use crate::core::reason::Reason;
use crate::core::release::ReleaseId;
use crate::core::spec::Percent;
use crate::core::state::{PhaseKind, Target};
use crate::core::time::Span;
use crate::error::{Error, Exit};

/// Go back to the last attested, known-good release
///
/// Prints the plan and asks for the service's name before anything moves. Then flags and traffic move at once, the
/// target's template is restored, the bad release is quarantined, and it is watched whether the objectives hold again.
/// A second call attaches to a revert that is under way. Works without the controller.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)] // each is a switch of the command line
#[command(after_help = "Examples:
  backstop revert checkout
  backstop revert checkout --yes --reason INC-42
  backstop revert checkout --dry-run
  backstop revert checkout --to v41
  backstop revert checkout --traffic-only --yes
  backstop revert checkout --break-glass --reason 'the key server is down, INC-42'")]
pub struct Args {
    /// The service: `checkout` or `shop/checkout`; may be left out if there is only one.
    service: Option<String>,
    /// To this release: its label, id or image digest. It must be known good; there is no second choice.
    #[arg(long, value_name = "RELEASE")]
    to: Option<String>,
    /// Print the plan and change nothing; ends with 10 if something would change.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Move traffic alone.
    #[arg(long, conflicts_with = "flag_only")]
    traffic_only: bool,
    /// Set flags alone.
    #[arg(long)]
    flag_only: bool,
    /// Skip checks of policy and attestation; needs `--reason`, is recorded, and pages somebody.
    #[arg(long, requires = "reason")]
    break_glass: bool,
    /// Do not wait for the end.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the end.
    #[arg(long, value_name = "SPAN", default_value = "15m", conflicts_with = "no_wait")]
    timeout: Span,
    #[command(flatten)]
    who: Who,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let (at, via) = match standing(context, args.service.as_deref()).await {
        Err(error) if error.exit == Exit::Unreachable && context.cluster.is_none() => return by_host_alone(&args, context, error).await,
        found => found?,
    };
    if via == Via::Store {
        Context::warn("the controller does not answer: acting directly on its store and the host");
    }
    let to = args.to.as_deref().map(|text| release(&at.view, text)).transpose()?;
    let parts = match (args.traffic_only, args.flag_only) {
        (true, _) => Parts::Traffic,
        (_, true) => Parts::Flags,
        (false, false) => Parts::All,
    };
    let text = plan_text(&at, parts, to.as_ref(), context.paint);
    let pending = is_pending(&at, parts);
    if args.dry_run {
        if via == Via::Store && pending {
            direct::dry_run(context, &at, to.as_ref(), parts).await?;
        }
        let value = json!({"pending": pending, "plan": at.plan, "phase": at.view.phase});
        context.show(&value, || text)?;
        return Ok(if pending { Exit::Pending } else { Exit::Done });
    }
    context.say(&text)?;
    if pending && !args.yes {
        confirm(&at.view.key)?;
    }
    let verb = Verb::Revert { to, parts, break_glass: args.break_glass };
    let command = Command { verb, claims: args.who.claims() };
    let mut progress = Progress::default();
    let cause = match via {
        Via::Controller => match context.client.post::<Reply>(&format!("{}/command", path(&at.view.key)), &command).await {
            Ok(reply) => return follow(&args, context, &at, reply, &mut progress).await,
            Err(failure) => without(failure)?,
        },
        Via::Store => "it did not answer before".to_owned(),
    };
    act(&args, context, &at, &command, &mut progress, &cause).await
}

/// Leads the traffic back where neither controller nor store is of help. More cannot be done without a ledger, so it is asked for by its
/// name. Done in part.
///
/// # Errors
/// Why the store is of no help, if it is not asked for; what the host said, if it did not obey.
async fn by_host_alone(args: &Args, context: &Context, error: Error) -> Result<Exit, Error> {
    let Some(service) = args.service.as_deref().filter(|_| args.traffic_only && !args.dry_run) else {
        return Err(error.hint("`backstop revert SERVICE --traffic-only` leads the traffic back with nothing but the host"));
    };
    Context::warn(&format!("neither the controller nor its store is of help ({}): acting on the host alone", error.message));
    if !args.yes {
        confirm(service)?;
    }
    let key = direct::traffic_to_stable(context, service).await?;
    let undone = "nothing is recorded, flags are as they were, and nothing keeps the other release out";
    context.show(&json!({"rollout": key, "done": "traffic", "undone": undone}), || {
        format!("the traffic of {key} is at its stable release; {undone}. Next: mend the store, then `backstop revert {key}`")
    })?;
    Ok(Exit::Partial)
}

/// Reverts without the controller, which is of no help because of `cause`.
async fn act(
    args: &Args,
    context: &Context,
    at: &Standing,
    command: &Command,
    progress: &mut Progress,
    cause: &str,
) -> Result<Exit, Error> {
    let mut told = |view: &View| {
        let id = view.revert.as_ref().map(|revert| revert.id.clone()).unwrap_or_default();
        progress.news(view, &id).iter().for_each(|line| drop(context.say(line)));
    };
    let patience = Duration::from(args.timeout);
    let (reply, view) = direct::follow(context, &at.view.key, command, patience, &mut told, cause).await?;
    // In a cluster recovery is the controller's to see.
    if view.phase == PhaseKind::Reverting || (view.phase == PhaseKind::Recovering && context.cluster.is_none()) {
        return Err(not_over(&at.view.key, &view.revert.map(|revert| revert.id).unwrap_or_default(), args.timeout));
    }
    let ended = ended(&view, reply.revert.as_deref().unwrap_or_default(), at.view.generation).unwrap_or(Ended::Waiting);
    finish(context, &view, &reply, &ended)
}

/// Whether a revert would change anything.
fn is_pending(at: &Standing, parts: Parts) -> bool {
    let plan = &at.plan;
    let traffic = plan.traffic_to.is_some() && plan.share > Percent::ZERO;
    match VerbKind::Revert.meaning(at.view.phase) {
        Meaning::Attach | Meaning::Nothing => false,
        Meaning::Retry | Meaning::Cancel => true,
        Meaning::Begin | Meaning::Obey => match parts {
            Parts::All => traffic || !plan.targets.is_empty() || !plan.flags.is_empty(),
            Parts::Traffic => traffic || !plan.targets.is_empty(),
            Parts::Flags => !plan.flags.is_empty(),
        },
    }
}

fn confirm(key: &str) -> Result<(), Error> {
    let name = key.rsplit('/').next().unwrap_or(key);
    if !std::io::stdin().is_terminal() {
        return Err(Error::usage("nobody can be asked: standard input is not a terminal")
            .hint("add `--yes` to revert without being asked, or `--dry-run` to see the plan alone"));
    }
    let mut screen = std::io::stderr();
    write!(screen, "Type `{name}` to revert it: ").and_then(|()| screen.flush()).map_err(|error| Error::output(&error))?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed).map_err(|error| Error::unreachable("the answer cannot be read").because(&error))?;
    if typed.trim() == name || typed.trim() == key {
        return Ok(());
    }
    Err(Error::usage(format!("`{}` is not `{name}`: nothing was changed", brief(&typed, 40))))
}

// ---------------------------------------------------------------------------------------------------- plan

/// What a revert would do, for people.
pub fn plan_text(at: &Standing, parts: Parts, to: Option<&ReleaseId>, paint: Paint) -> String {
    let Standing { view, plan, .. } = at;
    let mut text = format!("{}  {}\n", paint.bold(&view.key), verdict_line(view));
    match VerbKind::Revert.meaning(view.phase) {
        Meaning::Attach => {
            let id = view.revert.as_ref().map(|revert| revert.id.as_str()).unwrap_or_default();
            let how = if view.phase == PhaseKind::Reverted { "it was reverted, and is held" } else { "a revert is under way" };
            let _ = writeln!(text, "  {how}: {id}; this attaches to it");
            return text;
        }
        Meaning::Cancel => {
            let _ = writeln!(text, "  the deployment is cancelled; it has no traffic yet");
            return text;
        }
        Meaning::Begin | Meaning::Retry | Meaning::Obey | Meaning::Nothing => {}
    }
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "  {name:<13}{words}");
    };
    let under = plan.under.as_ref().map_or_else(|| "nothing".to_owned(), |release| clean(&release.to_string()));
    line(if parts == Parts::Flags { "leaves" } else { "takes out" }, &format!("{under}, which has {} of the traffic", plan.share));
    if let Some(request) = &plan.request {
        line("", &asked(request));
    }
    for objective in &view.objectives {
        line("evidence", &format!("{}: {}", clean(&objective.name), objective.counts));
    }
    if let Some(reason) = view.waiting.as_ref().or(view.reason.as_ref()) {
        line("", &format!("{} {}", reason.code(), clean(&reason.to_string())));
    }
    if parts != Parts::Traffic {
        let flags: Vec<String> = plan.flags.iter().map(flag_words).collect();
        line("flags", &if flags.is_empty() { "none are declared".to_owned() } else { format!("{}, at once", flags.join(", ")) });
    }
    if parts != Parts::Flags {
        line("traffic", &traffic_words(at));
    }
    if parts == Parts::All {
        line("restores", &restore_words(at, to));
    }
    if parts != Parts::Flags {
        line("then holds", &format!("{under} is quarantined until `backstop lift {}`", view.key));
    }
    for (index, what) in plan.not_undone.iter().enumerate() {
        line(if index == 0 { "not undone" } else { "" }, &clean(what));
    }
    line("revert id", &plan.id);
    text
}

fn flag_words(flag: &crate::core::spec::FlagAction) -> String {
    let crate::core::spec::FlagState::Variant(variant) = &flag.to;
    format!("`{}` of {} to `{}`", clean(&flag.flag), clean(&flag.use_), clean(variant))
}

fn traffic_words(at: &Standing) -> String {
    match (&at.plan.traffic_to, at.plan.targets.is_empty()) {
        (Some(stable), _) => format!("to {} at once; requests in flight have {} to finish", clean(&stable.to_string()), at.plan.drain),
        (None, false) => "no other release is running: it moves once the target runs".to_owned(),
        (None, true) => "there is nowhere to move it to".to_owned(),
    }
}

fn restore_words(at: &Standing, to: Option<&ReleaseId>) -> String {
    let plan = &at.plan;
    let proven = |id: &ReleaseId| match &at.view.readiness {
        Some(readiness) if readiness.target.as_ref() == Some(id) => match &readiness.missing {
            None => "attestation proven within the last minute".to_owned(),
            Some(reason) => format!("not verifiable now: {} {}", reason.code(), clean(&reason.to_string())),
        },
        _ => "attestation verified before it runs".to_owned(),
    };
    let wanted = |release: &&crate::core::release::Release| to.is_none_or(|to| *to == release.id);
    let Some(first) = plan.targets.iter().find(wanted) else {
        return "nothing: no known-good release is left; a person is paged".to_owned();
    };
    let good = at.view.ledger.iter().find(|line| line.release.id == first.id).and_then(|line| line.last_good);
    let when = good.map(|at| format!(", known good at {}", super::text::time(at.wall))).unwrap_or_default();
    let others = plan.targets.len() - 1;
    let next = if to.is_none() && others > 0 { format!("; else the next of {others} older") } else { String::new() };
    format!("{}{when}, {}{next}", clean(&first.to_string()), proven(&first.id))
}

// ------------------------------------------------------------------------------------------------- the way

/// How a revert ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Back, recovered and held.
    Recovered,
    /// Traffic or flags are back; the release is not.
    Partly,
    /// A person is needed: it did not work, or did not help.
    Stuck,
    /// Something newer took its place.
    Superseded,
    /// There was nothing to wait for.
    Waiting,
}

/// Whether the revert `id`, asked for in `generation`, has ended, and how.
pub fn ended(view: &View, id: &str, generation: u64) -> Option<Ended> {
    let revert = view.revert.as_ref().filter(|revert| revert.id == id);
    match (view.phase, revert) {
        (PhaseKind::Reverted, Some(revert)) => Some(match revert.target {
            Target::NoneLeft | Target::Waiting => Ended::Partly,
            Target::Verifying(_) | Target::Chosen(_) | Target::Nothing => Ended::Recovered,
        }),
        (PhaseKind::Stuck, Some(revert)) => {
            let moved = revert.traffic_back.is_some() || revert.flags_safe.is_some();
            let not_better = matches!(view.reason, Some(Reason::NotRecovered { .. }));
            Some(if moved && !not_better { Ended::Partly } else { Ended::Stuck })
        }
        (PhaseKind::Reverting | PhaseKind::Recovering, Some(_)) if view.generation <= generation => None,
        // The hold was lifted while one waited.
        (PhaseKind::Idle, Some(_)) if view.generation <= generation => Some(Ended::Recovered),
        _ if view.generation > generation || (revert.is_none() && view.revert.is_some()) => Some(Ended::Superseded),
        _ => None,
    }
}

async fn follow(args: &Args, context: &Context, at: &Standing, reply: Reply, progress: &mut Progress) -> Result<Exit, Error> {
    let key = &at.view.key;
    let Some(id) = reply.revert.clone() else {
        context.show(&reply, || format!("{key}: {}", words(&reply)))?;
        return Ok(Exit::Done);
    };
    context.say(&format!("{id}  {}", words(&reply)))?;
    if args.no_wait {
        context.show(&reply, || format!("not waiting; `backstop status {key} --watch` shows how it fares"))?;
        return Ok(Exit::Done);
    }
    let wait = watch(context, &at.view, &id, progress);
    let (view, ended) = tokio::time::timeout(Duration::from(args.timeout), wait).await.map_err(|_| not_over(key, &id, args.timeout))??;
    finish(context, &view, &reply, &ended)
}

fn not_over(key: &str, id: &str, timeout: Span) -> Error {
    Error::new(Exit::No, format!("{key}: {id} was not over within {timeout}; it goes on"))
        .hint(format!("`backstop status {key}` says what it waits for, `backstop revert {key}` attaches to it again"))
}

/// Waits for the end of the revert `id`, which was asked for when the rollout stood as in `before`.
async fn watch(context: &Context, before: &View, id: &str, progress: &mut Progress) -> Result<(View, Ended), Error> {
    let key = &before.key;
    let mut quiet = 0;
    // What is shown may still be from before the command, with an older revert in it.
    let mut begun = false;
    loop {
        match context.client.lines(&format!("{}/events", path(key))).await {
            Ok(mut lines) => {
                while let Ok(Some(line)) = lines.next().await {
                    quiet = 0;
                    let Line::Standing(at) = line else { continue };
                    for news in progress.news(&at.view, id) {
                        context.say(&news)?;
                    }
                    begun |= at.view.revision > before.revision && at.view.revert.as_ref().is_some_and(|revert| revert.id == id);
                    begun |= at.view.generation > before.generation;
                    if begun && let Some(ended) = ended(&at.view, id, before.generation) {
                        return Ok((at.view, ended));
                    }
                }
            }
            Err(failure) => drop(failure.no_help()?),
        }
        // A controller that starts again goes on with the revert where it was.
        quiet += 1;
        if quiet > 30 {
            let lost = Error::unreachable(format!("the controller went away while {id} was under way"));
            return Err(lost.hint(format!("`backstop revert {key}` goes on from here, with or without it")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn finish(context: &Context, view: &View, reply: &Reply, ended: &Ended) -> Result<Exit, Error> {
    let key = &view.key;
    let (exit, word, line) = match ended {
        Ended::Recovered => {
            (Exit::Done, "recovered", format!("{key} is back, and held. Next: find the cause, then `backstop lift {key} --reason …`"))
        }
        Ended::Partly => (Exit::Partial, "partial", format!("{key} is back in part: {}", verdict_line(view))),
        Ended::Stuck => (Exit::No, "stuck", format!("{key} needs a person: {}", verdict_line(view))),
        Ended::Superseded => (Exit::Superseded, "superseded", format!("something newer took the revert's place: {}", verdict_line(view))),
        Ended::Waiting => (Exit::Done, "accepted", format!("{key}: {}", words(reply))),
    };
    let line = if exit == Exit::Done { context.paint.good(&line) } else { context.paint.bad(&line) };
    context.show(&json!({"ended": word, "reply": reply, "view": view}), || line)?;
    Ok(exit)
}
