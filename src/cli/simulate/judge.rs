//! `backstop simulate --judge`: the judge's rates.

use std::io::Write as _;

use serde_json::json;

use crate::cli::{Global, context};
use crate::error::{Error, Exit};
use crate::sim::rates;

/// Prints the tables, a line as soon as it is known. Exit 1 if a number is not as it must be.
pub(super) fn run(thin: u64, global: &Global) -> Result<Exit, Error> {
    let told = |row: &rates::Row| {
        if !global.json {
            // Whoever reads may have gone; the exit code still tells.
            let _ = writeln!(std::io::stdout(), "{row}");
        }
    };
    let rows = rates::tables(thin, told);
    let missed = rows.iter().filter(|row| !row.holds).count();
    if global.json {
        context::print_json(&json!({"rows": rows, "missed": missed}))?;
    } else {
        context::print(&format!("{} numbers, {missed} not as they must be", rows.len()))?;
    }
    Ok(if missed == 0 { Exit::Done } else { Exit::No })
}
