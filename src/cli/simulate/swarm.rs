//! `backstop simulate --self`: the project's own swarm, on every core.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::core::judge::sequential::{GRID, Track, cap, evidences};
use crate::error::Exit;
use crate::sim::swarm::{self, Report};
use crate::world::clock;

/// Steps of a track whose cost is averaged.
const TRACK_STEPS: u32 = 200_000;

/// Lives them, on every core. Exit 1 if a promise was broken.
pub(super) fn run(seed: u64, runs: u64) -> Exit {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, last) = (AtomicU64::new(seed), seed.saturating_add(runs));
    let lanes: Vec<Lane> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..cores).map(|_| scope.spawn(|| Lane::live(&next, last, runs == 1))).collect();
        lanes.into_iter().filter_map(|lane| lane.join().ok()).collect()
    });
    let mut out = std::io::stdout().lock();
    let mut told: Vec<_> = lanes.iter().flat_map(|lane| &lane.told).collect();
    told.sort_by_key(|report| report.seed);
    for report in &told {
        let _ = writeln!(out, "{report}");
    }
    let broken = told.iter().filter(|report| report.violation.is_some()).count();
    if runs > 1 {
        let sum = |of: fn(&Lane) -> u64| lanes.iter().map(of).sum::<u64>();
        let busy: f64 = lanes.iter().map(|lane| lane.busy.as_secs_f64()).sum();
        let (lives, looks, commits) = (sum(|lane| lane.lives), sum(|lane| lane.looks), sum(|lane| lane.commits));
        let (rate, look_rate) = (lives as f64 / busy, looks as f64 / busy);
        let _ = writeln!(out, "{lives} lives, {looks} looks, {commits} commits, {broken} broke a promise");
        let _ = writeln!(out, "{rate:.0} lives and {look_rate:.0} looks a second and core, {cores} cores");
        let _ =
            writeln!(out, "judging costs {:.2} µs an interval and track: the evidence and the step of one sequential test", track_cost());
    }
    if broken == 0 && lanes.len() == cores { Exit::Done } else { Exit::No }
}

/// What the judge spends on one interval of one sequential test, in microseconds.
fn track_cost() -> f64 {
    let mut track = Track::default();
    let begin = clock::instant();
    for interval in 0..TRACK_STEPS {
        // One bad request now and then; the evidence of each interval is another.
        let (bad, total) = (f64::from(u8::from(interval % 50 == 0)), f64::from(20 + interval % 7));
        let share = track.onset(1e-6);
        track.step(&evidences(bad, total, 0.01, &GRID), share, cap(5e-4, 3.0));
    }
    let took = begin.elapsed();
    std::hint::black_box(&track);
    took.as_secs_f64() * 1e6 / f64::from(TRACK_STEPS)
}

/// What one core lived.
#[derive(Default)]
struct Lane {
    told: Vec<Report>,
    lives: u64,
    looks: u64,
    commits: u64,
    busy: Duration,
}

impl Lane {
    fn live(next: &AtomicU64, last: u64, tell: bool) -> Self {
        let begin = clock::instant();
        let mut lane = Self::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last {
                lane.busy = begin.elapsed();
                return lane;
            }
            let report = if tell { swarm::live(seed) } else { swarm::live_untold(seed) };
            lane.lives += 1;
            lane.looks += report.looks;
            lane.commits += report.commits;
            if tell || report.violation.is_some() {
                lane.told.push(report);
            }
        }
    }
}
