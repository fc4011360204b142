//! What is worth telling of what happens: decisions, pages, where traffic goes, how the rollout stands.

use std::time::Duration;

use super::play::Play;
use crate::core::record::{Decision, Event};
use crate::core::state::PhaseKind;

/// Lines that a transcript may have; a story that says more goes round in circles.
const LINES_MAX: usize = 5_000;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    pub(super) lines: Vec<String>,
    records: usize,
    told: usize,
    traffic: String,
    own: String,
    phase: Option<PhaseKind>,
    flag_safe: bool,
    alive: bool,
    /// Nothing is told meanwhile.
    pub(super) quiet: bool,
}

impl Play {
    /// Tells a line of the story itself.
    pub(super) fn tell(&mut self, text: &str) {
        self.write(text);
    }

    fn write(&mut self, text: &str) {
        let at = Duration::from_millis(self.life.world.now);
        let (minutes, millis) = (at.as_secs() / 60, at.as_millis() % 60_000);
        if self.chronicle.lines.len() < LINES_MAX && !self.chronicle.quiet {
            self.chronicle.lines.push(format!("{minutes:>3}:{:02}.{:03}  {text}", millis / 1000, millis % 1000));
        }
    }

    /// Tells what is new since it was last asked.
    pub(super) fn look(&mut self) {
        let alive = self.life.replicas[0].order.is_some();
        if std::mem::replace(&mut self.chronicle.alive, alive) != alive {
            self.write(if alive { "    the controller starts" } else { "    the controller is gone" });
        }
        self.decisions();
        let own = self.life.world.host.current.as_ref().map_or(String::new(), |id| self.name(id));
        if self.chronicle.own != own {
            self.write(&format!("    the workload's own release: {own}"));
            self.chronicle.own = own;
        }
        let traffic = self.traffic();
        if self.chronicle.traffic != traffic {
            self.write(&format!("    {traffic}"));
            self.chronicle.traffic = traffic;
        }
        let safe = self.flag_is_safe();
        if std::mem::replace(&mut self.chronicle.flag_safe, safe) != safe {
            self.write(if safe { "    the flag is safe" } else { "    the flag is as it was" });
        }
        self.notices();
    }

    fn decisions(&mut self) {
        let records = &self.life.world.log[self.chronicle.records..];
        let told: Vec<String> = records
            .iter()
            .filter_map(|record| match &record.event {
                Event::Decision { decision, .. } if *decision != Decision::Checkpoint => {
                    let reason = record.reason.as_ref().map(|reason| format!(": {} {reason}", reason.code()));
                    Some(format!("    decided to {}{}", decision.words(), reason.unwrap_or_default()))
                }
                _ => None,
            })
            .collect();
        self.chronicle.records = self.life.world.log.len();
        for line in &told {
            self.write(line);
        }
        let phase = self.life.world.state.as_ref().map(|state| state.phase.kind());
        if self.chronicle.phase != phase {
            self.chronicle.phase = phase;
            let phase = phase.map_or_else(String::new, |phase| phase.to_string());
            self.write(&format!("    {phase}"));
        }
    }

    fn notices(&mut self) {
        if self.life.world.told.len() == self.chronicle.told {
            return;
        }
        // In the order in which they were wanted; one may be told after a later one.
        let new: Vec<_> = self.life.world.told.iter().filter(|(id, _)| !self.seen.contains(id)).map(|(id, it)| (*id, it.clone())).collect();
        for (id, notice) in new {
            let how = if notice.page { "page" } else { "notice" };
            self.write(&format!("    {how}: {} {}", notice.reason.code(), notice.reason));
            self.seen.insert(id);
        }
        self.chronicle.told = self.life.world.told.len();
    }
}
