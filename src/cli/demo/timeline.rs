//! The demo's timeline: a line for everything that happened, and on a terminal one that lives below them.

use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::cli::Context;
use crate::cli::status::verdict_line;
use crate::cli::text::Paint;
use crate::core::record::{Decision, Event, Record};
use crate::core::work::Action;
use crate::shell::handle::Handle;
use crate::world::clock;

/// Where the timeline is printed.
pub(super) struct Timeline {
    out: Out,
    watcher: Option<JoinHandle<()>>,
}

/// One place for lines and the living line.
#[derive(Clone)]
struct Out {
    began: Instant,
    json: bool,
    paint: Paint,
    living: ProgressBar,
}

impl Timeline {
    pub(super) fn new(context: &Context, folder: &Path) -> Self {
        let living = ProgressBar::new_spinner();
        if context.json || !context.terminal {
            living.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
            living.set_style(style);
        }
        let out = Out { began: clock::instant(), json: context.json, paint: context.paint, living };
        out.say("setup", &format!("everything is in {}", folder.display()), None);
        Self { out, watcher: None }
    }

    /// A line by the narrator.
    pub(super) fn line(&mut self, text: &str) {
        self.out.say("note", text, None);
    }

    /// A new scene.
    pub(super) fn scene(&mut self, letter: char, title: &str) {
        self.out.say("scene", &format!("({letter}) {title}"), None);
    }

    /// Prints what is decided and done for a rollout from now on.
    pub(super) fn watch(&mut self, handle: Handle, key: &'static str) {
        let out = self.out.clone();
        self.watcher = Some(tokio::spawn(async move {
            let mut records = handle.records();
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
            loop {
                tokio::select! {
                    record = records.recv() => match record {
                        Ok(record) => out.record(&record),
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    },
                    _ = tick.tick() => if let Some(view) = handle.view(key) {
                        out.living.set_message(verdict_line(&view.0));
                        out.living.tick();
                    },
                }
            }
        }));
    }

    /// Takes the living line away.
    pub(super) fn end(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.abort();
        }
        self.out.living.finish_and_clear();
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.end();
    }
}

impl Out {
    fn say(&self, kind: &str, text: &str, code: Option<&str>) {
        let at = self.began.elapsed().as_secs_f64();
        let line = if self.json {
            json!({"at": (at * 1000.0).round() / 1000.0, "kind": kind, "text": text, "code": code}).to_string()
        } else {
            let stamp = self.paint.dim(&format!("{at:7.2}s"));
            match kind {
                "scene" => format!("\n{stamp}  {}", self.paint.bold(text)),
                "page" => format!("{stamp}    {} {text}", self.paint.bad("page")),
                "revert" => format!("{stamp}    {}", self.paint.bad(text)),
                "good" => format!("{stamp}    {}", self.paint.good(text)),
                _ => format!("{stamp}    {text}"),
            }
        };
        self.living.suspend(|| {
            use std::io::Write as _;
            // Whoever reads may have gone; the demo's exit code still tells.
            let _ = writeln!(std::io::stdout(), "{line}");
        });
    }

    fn record(&self, record: &Record) {
        let code = record.reason.as_ref().map(crate::core::reason::Reason::code);
        let why = record.reason.as_ref().map(ToString::to_string).unwrap_or_default();
        match &record.event {
            // The judge's standing is written down: nothing happens.
            Event::Decision { decision: Decision::Checkpoint, .. } => {}
            Event::Decision { decision, .. } => {
                let kind = match decision {
                    Decision::Revert | Decision::Held | Decision::Stuck | Decision::Refuse | Decision::Retreat | Decision::Skip => "revert",
                    Decision::Recovered | Decision::KnownGood | Decision::Exonerate => "good",
                    _ => "decision",
                };
                let text = match decision {
                    Decision::Revert => format!("REVERT {}: {why}", code.unwrap_or_default()),
                    Decision::Refuse | Decision::Retreat | Decision::Skip | Decision::Held | Decision::Stuck => {
                        format!("{}: {} {why}", record.result, code.unwrap_or_default())
                    }
                    _ => record.result.clone(),
                };
                self.say(kind, &text, code);
            }
            Event::Wanted(effect) => {
                if let Action::Notify(notice) = &effect.action
                    && notice.page
                {
                    self.say("page", &notice.text, Some(notice.reason.code()));
                }
            }
            Event::Input(_) => {
                if matches!(record.result.as_str(), "ensureWeights: done" | "ensureFlag: done" | "ensureRelease: done") {
                    self.say("effect", &record.result, None);
                }
            }
        }
    }
}
