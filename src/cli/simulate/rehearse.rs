//! `backstop simulate PATH`: a user's documents against known ways to fail.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::picture;
use crate::cli::text::{Paint, span, table};
use crate::cli::{Global, context};
use crate::core::policy::Policy;
use crate::core::spec::Percent;
use crate::core::state::Guard;
use crate::error::{Error, Exit};
use crate::sim::house;
use crate::sim::rehearsal::{BAD, End, Film, HEALTHY, Model, Outcome, Rehearsal};
use crate::spec::{self, CheckReport};

/// What is rehearsed, and how.
/// Reads the name of a way to fail.
fn models() -> impl clap::builder::TypedValueParser<Value = Model> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(Model::ALL.map(Model::name)).map(|name| {
        // Only the names of models get here.
        Model::ALL.into_iter().find(|model| model.name() == name).unwrap_or(Model::Healthy)
    })
}

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Rehearse the guards in these files and folders
    #[arg(value_name = "PATH", required_unless_present_any = ["itself", "judge", "story"])]
    paths: Vec<PathBuf>,
    /// Only this guard, as `namespace/name`
    #[arg(long, value_name = "GUARD", requires = "paths")]
    guard: Option<String>,
    /// Only these ways to fail; the first is drawn [default: all, and cliff is drawn]
    #[arg(long = "model", value_parser = models(), value_name = "MODEL", requires = "paths", value_delimiter = ',')]
    models: Vec<Model>,
    /// Requests a second of the whole service
    #[arg(long, default_value_t = 100.0, value_name = "N", value_parser = rate, requires = "paths")]
    rate: f64,
    /// An agent deploys, not a person: policies and deadlines may differ
    #[arg(long, requires = "paths")]
    agent: bool,
    /// Draw the first life of a model into this file
    #[arg(long, value_name = "FILE", requires = "paths")]
    svg: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=1e6).contains(&rate) => Ok(rate),
        _ => Err("expected requests a second, from 0.01 to 1000000".into()),
    }
}

impl Args {
    pub(super) fn is_wanted(&self) -> bool {
        !self.paths.is_empty()
    }

    /// The guard and policy that a story is played under, if files or folders are named.
    pub(super) fn stage(&self) -> Result<Option<(Guard, Policy)>, Error> {
        if self.paths.is_empty() {
            return Ok(None);
        }
        let loaded = spec::load(&self.paths);
        let report = CheckReport::of(&loaded);
        if !report.is_ok() {
            return Err(Error::invalid(format!("the documents have errors\n\n{}", report.render(false))));
        }
        let mut guards = report.insights.iter().filter(|guard| self.guard.as_ref().is_none_or(|only| *only == guard.guard));
        let (Some(guard), None) = (guards.next(), guards.next()) else {
            let error = Error::usage("a story is played under one guard");
            return Err(error.hint("name a file with one GuardedRollout, or choose it with --guard"));
        };
        let by = if self.agent { house::agent("bot") } else { house::person("dan") };
        let documents = loaded.rollouts.get(&guard.guard).zip(loaded.policy(&guard.guard, &by.actor));
        Ok(documents.map(|((_, spec), policy)| {
            let rehearsal = Rehearsal::new(&guard.guard, spec, policy, guard.scrape_interval, by, self.rate);
            (rehearsal.guard().clone(), rehearsal.policy().clone())
        }))
    }

    /// Rehearses. Exit 1 if a candidate that was not at fault was taken out, 3 if the documents have errors.
    pub(super) fn run(&self, seed: u64, runs: u64, global: &Global) -> Result<Exit, Error> {
        let paint = context::paint(global.color);
        let loaded = spec::load(&self.paths);
        let report = CheckReport::of(&loaded);
        if !report.is_ok() {
            if global.json {
                context::print_json(&report)?;
            } else {
                context::print(&report.render(paint.is_colored()))?;
            }
            return Ok(Exit::Invalid);
        }
        let guards: Vec<_> = report.insights.iter().filter(|guard| self.guard.as_ref().is_none_or(|only| *only == guard.guard)).collect();
        if guards.is_empty() {
            let error = Error::invalid("there is no guard to rehearse");
            return Err(error.hint("name a file with a GuardedRollout, and with --guard one that is in it"));
        }
        if self.svg.is_some() && guards.len() > 1 {
            let names: Vec<&str> = guards.iter().map(|guard| guard.guard.as_str()).collect();
            return Err(
                Error::usage("--svg draws one guard, and here are several").hint(format!("choose with --guard: {}", names.join(", ")))
            );
        }
        let by = if self.agent { house::agent("bot") } else { house::person("dan") };
        let (mut values, mut exit) = (Vec::new(), Exit::Done);
        for guard in guards {
            let (Some((_, spec)), Some(policy)) = (loaded.rollouts.get(&guard.guard), loaded.policy(&guard.guard, &by.actor)) else {
                continue;
            };
            let rehearsal = Rehearsal::new(&guard.guard, spec, policy, guard.scrape_interval, by.clone(), self.rate);
            let models = if self.models.is_empty() { Model::ALL.to_vec() } else { self.models.clone() };
            let bar = progress(models.len() as u64 * runs, global.json);
            bar.set_message(guard.guard.clone());
            let lives = rehearsal.run(&models, seed, runs, || bar.inc(1));
            bar.finish_and_clear();
            let drawn = if models.contains(&Model::Cliff) { Model::Cliff } else { models[0] };
            let drawn = self.models.first().copied().unwrap_or(drawn);
            let mut film = Film::default();
            rehearsal.live(drawn, seed, Some(&mut film));
            let rows: Vec<Row> = lives.iter().map(|(model, lives)| Row::of(*model, lives)).collect();
            if rows.iter().any(|row| row.false_reverts > 0 || row.broken > 0) {
                exit = Exit::No;
            }
            if let Some(file) = &self.svg {
                let svg = picture::svg(&film, &format!("{}: {drawn}, {}", guard.guard, drawn.story()));
                std::fs::write(file, svg).map_err(|error| Error::output(&error).cause(file.display().to_string()))?;
            }
            if global.json {
                values.push(json!({"guard": guard.guard, "rate": self.rate, "seed": seed, "runs": runs, "models": rows,
                    "drawn": {"model": drawn, "film": film}}));
                continue;
            }
            let about = About { guard: &guard.guard, interval: span(guard.scrape_interval.0), rate: self.rate, runs, agent: self.agent };
            context::print(&about.text(&rows, paint))?;
            context::print(&picture::text(&film, &format!("{drawn}, seed {seed}: {}", drawn.story()), paint))?;
        }
        if global.json {
            context::print_json(&json!({"rehearsals": values}))?;
        }
        Ok(exit)
    }
}

fn progress(lives: u64, json: bool) -> ProgressBar {
    let bar = ProgressBar::new(lives);
    if json || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("  {msg}  {bar:32} {pos}/{len} lives, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// What is printed of one model.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    model: Model,
    at_fault: bool,
    lives: usize,
    /// Lives in which the candidate was taken out.
    reverted: usize,
    /// Those of a candidate that was not at fault.
    false_reverts: usize,
    /// Seconds from the begin of the trouble to the decision: median, nine tenths, most.
    detection: Option<[f64; 3]>,
    /// Requests that the candidate served badly: median, nine tenths, most.
    bad: [u64; 3],
    ends: Vec<(String, usize)>,
    broken: usize,
}

impl Row {
    fn of(model: Model, lives: &[Outcome]) -> Self {
        let mut found: Vec<u64> = lives.iter().filter_map(|life| life.detected).collect();
        let mut bad: Vec<u64> = lives.iter().map(|life| life.bad).collect();
        let mut ends: Vec<(String, usize)> = Vec::new();
        for life in lives {
            let end = words(life);
            match ends.iter_mut().find(|(known, _)| *known == end) {
                Some((_, count)) => *count += 1,
                None => ends.push((end, 1)),
            }
        }
        ends.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let three = |sorted: &mut Vec<u64>| {
            sorted.sort_unstable();
            let at =
                |share: usize| sorted.get((sorted.len() * share / 10).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default();
            [at(5), at(9), at(10)]
        };
        let reverted = found.len();
        Self {
            model,
            at_fault: model.is_at_fault(),
            lives: lives.len(),
            reverted,
            false_reverts: if model.is_at_fault() { 0 } else { reverted },
            detection: (reverted > 0).then(|| three(&mut found).map(|millis| millis as f64 / 1000.0)),
            bad: three(&mut bad),
            ends,
            broken: lives.iter().filter(|life| matches!(life.end, End::Broken(_))).count(),
        }
    }
}

/// How a life ended.
fn words(life: &Outcome) -> String {
    let code = life.code.map(|code| format!(" ({code})")).unwrap_or_default();
    let paged = if life.paged { ", paged" } else { "" };
    match &life.end {
        End::Reverted => format!("reverted{code}"),
        End::Stuck => format!("stuck{code}, paged"),
        End::KnownGood => format!("known good{paged}"),
        End::Unproven => format!("serves, unproven{paged}"),
        End::Waits => format!("waits{code}{paged}"),
        End::Refused(why) => format!("refused: {why}"),
        End::Broken(what) => format!("BROKE A PROMISE: {what}"),
    }
}

/// What is said above the table.
struct About<'a> {
    guard: &'a str,
    interval: String,
    rate: f64,
    runs: u64,
    agent: bool,
}

impl About<'_> {
    fn text(&self, rows: &[Row], paint: Paint) -> String {
        let by = if self.agent { "an agent" } else { "a person" };
        let (good, bad) = (Percent::new(HEALTHY * 100.0), BAD);
        let head = ["MODEL", "OUT", "FOUND AFTER (median, 90%, most)", "BAD REQUESTS", "ENDS"].map(|title| paint.dim(title)).to_vec();
        let rows = rows.iter().map(|row| {
            let name = if row.at_fault { paint.bold(&row.model.to_string()) } else { row.model.to_string() };
            let out = format!("{} of {}", row.reverted, row.lives);
            let out = match (row.at_fault, row.reverted) {
                (false, 1..) => paint.bad(&format!("{out}: false")),
                (true, reverted) if reverted < row.lives => paint.warn(&out),
                _ => paint.good(&out),
            };
            let seconds = |seconds: f64| span(Duration::from_secs_f64(seconds));
            let found = row.detection.map_or_else(|| "–".to_owned(), |found| found.map(seconds).join("  "));
            let most = row.ends.iter().map(|(end, count)| if *count == row.lives { end.clone() } else { format!("{count} {end}") });
            vec![name, out, found, row.bad.map(|bad| bad.to_string()).join("  "), most.collect::<Vec<_>>().join("; ")]
        });
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        format!(
            "{}: {} requests/s, scrapes every {}, {} lives of each model, deployed by {by}\n\
             stable fails {good} of what each objective allows, a bad candidate {bad} times that limit; attestation is taken as given\n\n{}",
            paint.bold(self.guard),
            self.rate,
            self.interval,
            self.runs,
            table(&lines)
        )
    }
}
