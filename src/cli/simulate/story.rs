//! `backstop simulate --story`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::json;

use crate::cli::{Global, context};
use crate::core::policy::Policy;
use crate::core::state::Guard;
use crate::error::{Error, Exit};
use crate::sim::story::{self, Story};

/// More is not read of a file: far longer than any story.
const BYTES_MAX: u64 = 1024 * 1024;

/// Plays the story in `file`, under a guard and policy of one's own if there are some.
pub(super) fn run(file: &Path, stage: Option<(Guard, Policy)>, global: &Global) -> Result<Exit, Error> {
    let story = read(file, context::paint(global.color).is_colored())?;
    let (guard, policy) = stage.unwrap_or_else(|| (story.guard(), story.policy()));
    let transcript = story::run(&story, guard, policy);
    let exit = if transcript.failure.is_none() { Exit::Done } else { Exit::No };
    if global.json {
        context::print_json(&json!({"title": transcript.title, "lines": transcript.lines, "failure": transcript.failure}))?;
    } else {
        context::print(transcript.to_string().trim_end())?;
    }
    Ok(exit)
}

fn read(file: &Path, color: bool) -> Result<Story, Error> {
    let name = file.display().to_string();
    let mut text = String::new();
    let opened = File::open(file).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
    opened.map_err(|error| Error::unreachable(format!("the story {name} cannot be read")).because(&error))?;
    Story::parse(&name, &text).map_err(|findings| {
        let findings: Vec<String> = findings.iter().map(|finding| finding.render(color)).collect();
        Error::invalid(format!("{name} cannot be played\n\n{}", findings.join("\n\n")))
            .hint("examples/*.story in the repository show every form of a line")
    })
}
