//! How a revert fares, told as it happens.

use super::service::names;
use super::status::{target_words, verdict_line};
use super::text::{clean, span};
use crate::core::preview::View;
use crate::core::state::{PhaseKind, Revert, Target};

/// What was told of a revert so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    told: Vec<String>,
}

impl Progress {
    /// What is new, a line each.
    pub(super) fn news(&mut self, view: &View, id: &str) -> Vec<String> {
        let Some(revert) = view.revert.as_ref().filter(|revert| revert.id == id) else { return Vec::new() };
        let fresh: Vec<String> = facts(view, revert).into_iter().filter(|fact| !self.told.contains(fact)).collect();
        self.told.extend(fresh.iter().cloned());
        fresh
    }
}

fn facts(view: &View, revert: &Revert) -> Vec<String> {
    let names = names(view);
    let mut facts = Vec::new();
    let mut at = |done: Option<crate::core::time::Mono>, what: &str| {
        if let Some(done) = done {
            facts.push((done, format!("{:>8}  {what}", span(done.since(revert.since.mono)))));
        }
    };
    at(revert.flags_safe, "flags are safe");
    at(revert.traffic_back, "traffic is back");
    at(revert.release_back, "the release is restored");
    facts.sort();
    let mut lines: Vec<String> = facts.into_iter().map(|(_, line)| line).collect();
    let skipped = revert.skipped.iter().map(|(id, reason)| {
        let name = names.get(id).cloned().unwrap_or_else(|| id.to_string());
        format!("{:>8}  passed over {name}: {} {}", "", reason.code(), clean(&reason.to_string()))
    });
    lines.extend(skipped);
    if revert.target != Target::Nothing {
        lines.push(format!("{:>8}  {}", "", target_words(&revert.target, &names)));
    }
    match view.phase {
        PhaseKind::Recovering => lines.push(format!("{:>8}  back; watching whether the objectives hold again", "")),
        PhaseKind::Reverted => lines.push(format!("{:>8}  recovered, and held", "")),
        PhaseKind::Stuck => lines.push(format!("{:>8}  {}", "", verdict_line(view))),
        _ => {}
    }
    let troubles = view.open.iter().filter_map(|(name, trouble)| Some((name, trouble.as_ref()?)));
    lines.extend(troubles.map(|(name, trouble)| format!("{:>8}  {name} is tried again: {}", "", super::text::brief(trouble, 100))));
    lines
}
