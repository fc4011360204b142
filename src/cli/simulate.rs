//! `backstop simulate`.

mod judge;
mod picture;
mod rehearse;
mod story;
mod swarm;

use std::path::PathBuf;

use super::Global;
use crate::error::{Error, Exit};

/// Rehearse guards against known ways to fail, or backstop itself against a world in which everything goes wrong
///
/// With files or folders: the same judge and machine that run in production watch made-up rollouts under your own guards and
/// policies. Told of each way to fail: how soon it is found, how many requests went bad, how it ends; and one life is drawn.
/// With `--self`: a seed is one life: its faults, its people and its end. What breaks a promise is printed with the line that
/// shows it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop simulate rollouts/
  backstop simulate rollouts/ --guard shop/checkout --rate 20 --model late-cliff --svg life.svg
  backstop simulate --self
  backstop simulate --self --runs 10000
  backstop simulate --self --seed 12
  backstop simulate --judge
  backstop simulate --story examples/newer-fix.story")]
pub struct Args {
    #[command(flatten)]
    rehearse: rehearse::Args,
    /// Simulate backstop itself
    #[arg(long = "self", conflicts_with = "paths")]
    itself: bool,
    /// Play this story, and print what happened; ends with 1 if an expectation is not met. With PATH: under that guard
    #[arg(long, value_name = "FILE", conflicts_with_all = ["itself", "judge"])]
    story: Option<PathBuf>,
    /// Print how often the judge is wrong and how soon it is right, beside what is known of its tests; takes minutes
    #[arg(long, conflicts_with_all = ["paths", "itself"])]
    judge: bool,
    /// With --judge: simulate one in N of the hours
    #[arg(long, value_name = "N", default_value_t = 1, requires = "judge", value_parser = clap::value_parser!(u64).range(1..=1000))]
    thin: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many lives, one seed after the other [default: 20 of each model; 1 with --self]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    runs: Option<u64>,
}

/// Does what is asked. Exit 1 if a promise was broken.
pub(super) fn run(args: &Args, global: &Global) -> Result<Exit, Error> {
    if let Some(file) = &args.story {
        return story::run(file, args.rehearse.stage()?, global);
    }
    if args.rehearse.is_wanted() {
        return args.rehearse.run(args.seed, args.runs.unwrap_or(20), global);
    }
    if args.judge {
        return judge::run(args.thin, global);
    }
    Ok(swarm::run(args.seed, args.runs.unwrap_or(1)))
}
