//! `backstop replay`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Global, context};
use crate::core::record::Event;
use crate::core::replay::{Divergence, Replay};
use crate::error::{Error, Exit};
use crate::world::audit::leaf::Seal;
use crate::world::audit::{Assembly, Whole};

/// The longest line that is read: more than any entry has, with everything that was moved out of it.
const LINE_MAX: u64 = 64 * 1024 * 1024;

/// Run an exported audit log again, and compare every decision and every state with what was recorded
///
/// The same machine takes in what the log has, with the recorded intervals in the place of looks. Ends with 1 at the
/// first difference, and says what was recorded and what would be decided now; with 3 if the file is damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop audit export > log.jsonl && backstop replay log.jsonl
  backstop audit export shop/checkout | backstop replay -")]
pub struct Args {
    /// What `backstop audit export` printed; `-` for standard input.
    file: PathBuf,
}

/// What was replayed so far.
#[derive(Debug, Default)]
struct Tally {
    entries: u64,
    commits: u64,
    decisions: u64,
}

/// A difference, with its place in the file and in the log.
struct Found {
    line: u64,
    entry: String,
    divergence: Divergence,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<Exit, Error> {
    let name = args.file.display().to_string();
    let mut tally = Tally::default();
    let mut workloads = BTreeMap::new();
    let found = if args.file == Path::new("-") {
        replay(&mut std::io::stdin().lock(), "standard input", &mut workloads, &mut tally)?
    } else {
        let file = File::open(&args.file).map_err(|error| Error::unreachable(format!("{name} cannot be read")).because(&error))?;
        replay(&mut BufReader::new(file), &name, &mut workloads, &mut tally)?
    };
    let Tally { entries, commits, decisions } = tally;
    let counts = format!("{} workloads, {entries} entries, {commits} commits, {decisions} decisions", workloads.len());
    let (exit, value, text) = match found {
        None => {
            let value = json!({"same": true, "workloads": workloads.len(), "entries": entries, "commits": commits, "decisions": decisions});
            (Exit::Done, value, format!("replayed: {counts}: all as recorded"))
        }
        Some(Found { line, entry, divergence }) => {
            let value = json!({"same": false, "line": line, "entry": entry, "recorded": divergence.recorded, "now": divergence.now});
            (Exit::No, value, format!("DIFFERS at {entry}, line {line}, after {counts}\n{divergence}"))
        }
    };
    if global.json {
        context::print_json(&value)?;
    } else {
        context::print(&text)?;
    }
    Ok(exit)
}

fn replay(
    reader: &mut impl BufRead,
    name: &str,
    workloads: &mut BTreeMap<String, Replay>,
    tally: &mut Tally,
) -> Result<Option<Found>, Error> {
    let damaged = |number: u64, what: String| {
        Error::invalid(format!("{name}, line {number}: {what}")).hint("`backstop audit export` prints what can be replayed")
    };
    let mut assembly = Assembly::default();
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = reader.by_ref().take(LINE_MAX + 1).read_until(b'\n', &mut bytes);
        read.map_err(|error| Error::unreachable(format!("{name} cannot be read")).because(&error))?;
        if bytes.is_empty() {
            break;
        }
        if bytes.len() as u64 > LINE_MAX {
            return Err(damaged(number, format!("it is longer than {LINE_MAX} bytes")));
        }
        let line: Value = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(number, format!("it is not JSON, expected an entry of the log: {error}")))?;
        tally.entries += 1;
        let Some(whole) = assembly.add(&line, number).map_err(|what| damaged(number, what))? else { continue };
        if let Some(found) = once_more(workloads.entry(whole.key.clone()).or_default(), &whole)? {
            return Ok(Some(found));
        }
        let decided = |event: &Event| matches!(event, Event::Decision { .. });
        tally.decisions += whole.records.iter().filter(|record| decided(&record.event)).count() as u64;
        tally.commits += 1;
    }
    match assembly.unfinished() {
        Some(key) => Err(damaged(tally.entries, format!("the file ends within a commit of {key}: its end is missing"))),
        None => Ok(None),
    }
}

/// Runs a commit again, and compares it with what was recorded.
fn once_more(replay: &mut Replay, whole: &Whole) -> Result<Option<Found>, Error> {
    let at = |ordinal: Option<usize>, divergence: Divergence| {
        let last = whole.entries.len().saturating_sub(1);
        let ordinal = ordinal.unwrap_or(last).min(last);
        let line = whole.entries.get(ordinal).copied().unwrap_or_default();
        Found { line, entry: format!("{}@{}.{ordinal}", whole.key, whole.revision), divergence }
    };
    let commit = match replay.next(whole.recorded()) {
        Ok(commit) => commit,
        Err(divergence) => return Ok(Some(at(divergence.ordinal, divergence))),
    };
    let seal = Seal::of(&commit).map_err(|error| Error::internal("a state cannot be written as JSON").because(&error))?;
    if seal.names_the_same(&whole.seal) {
        return Ok(None);
    }
    let say = |seal: &Seal| format!("a state with the digest {}, and {} ledger records", seal.state, seal.ledger.len());
    let (recorded, now) = (say(&whole.seal), say(&seal));
    Ok(Some(at(None, Divergence { revision: whole.revision, ordinal: None, recorded, now })))
}
