//! `backstop simulate`.

use std::io::Write as _;

use crate::error::Exit;
use crate::sim::swarm;

/// Live random rollouts in a world in which everything goes wrong, and hold them against every promise
///
/// A seed is one life: its faults, its people and its end. What breaks a promise is printed with the line that shows it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop simulate --self
  backstop simulate --self --runs 10000
  backstop simulate --self --seed 12")]
pub struct Args {
    /// Simulate backstop itself
    #[arg(long = "self", required = true)]
    itself: bool,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many lives, one seed after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
}

/// Lives them. Exit 1 if a promise was broken.
pub(super) fn run(args: &Args) -> Exit {
    let mut out = std::io::stdout().lock();
    let mut broken = 0_u64;
    let mut commits = 0;
    for seed in args.seed..args.seed.saturating_add(args.runs) {
        let report = swarm::live(seed);
        commits += report.commits;
        if report.violation.is_some() || args.runs == 1 {
            let _ = writeln!(out, "{report}");
        }
        broken += u64::from(report.violation.is_some());
    }
    if args.runs > 1 {
        let _ = writeln!(out, "{} lives, {commits} commits, {broken} broke a promise", args.runs);
    }
    if broken == 0 { Exit::Done } else { Exit::No }
}
