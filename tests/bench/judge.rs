//! What judging costs, and how it compares with the fixed rules people use, on the same traffic.

use std::collections::VecDeque;

use backstop::core::input::Arm;
use backstop::core::judge::sequential::{GRID, Track, cap, evidences};
use backstop::core::judge::{Config, Judge, StageStart};
use backstop::core::reason::Verdict;
use backstop::core::spec::{GuardedRollout, Percent};
use backstop::core::time::Span;
use backstop::world::clock;

use super::table::{Against, Table, quantile};
use super::traffic::{Counters, Random, Second, second};

/// Looks whose cost is averaged.
const LOOKS: u32 = 20_000;
/// Steps of a track whose cost is averaged.
const STEPS: u32 = 2_000_000;
/// Lives of each story.
const LIVES: u64 = 101;
/// When the late failure begins, in seconds.
const LATE: u32 = 300;
/// How long a story goes on after the failure began.
const LONGEST: u32 = 1200;

/// The cost of a look, and of one step of one track.
pub(crate) fn cost(spec: &GuardedRollout, table: &mut Table) {
    table.section(format!("Judging (2 objectives, {LOOKS} looks of healthy traffic)"));
    let mut judge = judge(spec);
    let (mut random, mut traffic) = (Random(1), Counters::default());
    let looks: Vec<_> = (1..=LOOKS)
        .map(|at| {
            traffic.serve(Arm::Candidate, second(&mut random, 20.0, 0.001));
            traffic.serve(Arm::Stable, second(&mut random, 180.0, 0.001));
            traffic.scrape(i64::from(at) * 1000)
        })
        .collect();
    let start = clock::instant();
    let mut passed = 0_u32;
    for look in &looks {
        judge.look(look);
        passed += u32::from(judge.verdict().verdict == Verdict::Pass);
    }
    let per_look = start.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKS);
    assert!(passed > LOOKS / 2, "healthy traffic passed {passed} of {LOOKS} looks");
    // Two objectives, each with the test against the objective and the one against stable.
    table.row("one look: difference, test, threshold, verdict", per_look, "µs", Against::Nothing);
    let mut track = Track::default();
    let start = clock::instant();
    for step in 0..STEPS {
        let bad = f64::from(u8::from(step % 50 == 0));
        track.step(&evidences(bad, 20.0, 0.01, &GRID), 1e-7, cap(5e-4, 3.0));
        std::hint::black_box(&track);
    }
    let per_step = start.elapsed().as_secs_f64() * 1e6 / f64::from(STEPS);
    table.row("one step of one track, evidence computed", per_step, "µs", Against::Budget(0.5));
    table.print_last();
}

fn judge(spec: &GuardedRollout) -> Judge {
    let config = Config::new(spec, &[], Span::seconds(1)).expect("the guard can be judged");
    let mut judge = Judge::new(config);
    judge.begin_stage(StageStart {
        weight: Percent::new(10.0),
        warm_up: Span::default(),
        bake: Span::seconds(10),
        has_stable: true,
        fresh: true,
        origin: Some(0),
    });
    judge
}

/// One life: what each arm served, second by second.
struct Life {
    onset: u32,
    seconds: Vec<(Second, Second)>,
    /// Where in a minute a rule that looks once a minute looks.
    phase: u32,
}

impl Life {
    fn new(seed: u64, rate: f64, onset: u32) -> Self {
        let mut random = Random(seed);
        let seconds = (1..=onset + LONGEST).map(|at| {
            let bad = if at > onset { 0.05 } else { 0.001 };
            (second(&mut random, rate, bad), second(&mut random, 9.0 * rate, 0.001))
        });
        let seconds = seconds.collect();
        Self { onset, seconds, phase: u32::try_from(seed * 37 % 60).unwrap_or(0) }
    }

    /// Seconds from the onset until `found`, and bad requests of the candidate in that time.
    fn until(&self, found: Option<u32>) -> (f64, f64) {
        let Some(found) = found.filter(|found| *found > self.onset) else { return (f64::NAN, f64::NAN) };
        let bad = self.seconds[self.onset as usize..found as usize].iter().map(|(candidate, _)| candidate.failed).sum();
        (f64::from(found - self.onset), bad)
    }

    fn judged(&self, spec: &GuardedRollout) -> Option<u32> {
        let (mut judge, mut traffic) = (judge(spec), Counters::default());
        judge.look(&traffic.scrape(0));
        (1_u32..).zip(&self.seconds).find_map(|(at, (candidate, stable))| {
            traffic.serve(Arm::Candidate, *candidate);
            traffic.serve(Arm::Stable, *stable);
            judge.look(&traffic.scrape(i64::from(at) * 1000));
            matches!(judge.verdict().verdict, Verdict::Breach(_)).then_some(at)
        })
    }

    /// The second at which a share of bad requests above `bad` over `over` seconds was seen at `times` looks of a minute.
    fn failed_looks(&self, bad: f64, over: usize, times: u32) -> Option<u32> {
        let mut failed = 0;
        self.shares(over).find_map(|(at, share)| {
            failed += u32::from(at % 60 == self.phase && share > bad);
            (failed == times).then_some(at)
        })
    }

    /// The second at which the share of the last minute had been above `bad` for so long without a gap.
    fn alert(&self, bad: f64, long: u32) -> Option<u32> {
        let mut since = None;
        self.shares(60).find_map(|(at, share)| {
            since = (share > bad).then(|| since.unwrap_or(at));
            since.is_some_and(|since| at - since >= long).then_some(at)
        })
    }

    /// The candidate's share of bad requests in the window that ends at each second.
    fn shares(&self, over: usize) -> impl Iterator<Item = (u32, f64)> {
        let mut window = VecDeque::new();
        (1_u32..).zip(&self.seconds).map(move |(at, (candidate, _))| {
            window.push_back(*candidate);
            if window.len() > over {
                window.pop_front();
            }
            let (bad, total) = window.iter().fold((0.0, 0.0), |(bad, total), second| (bad + second.failed, total + second.total));
            (at, bad / total)
        })
    }
}

/// Bad requests served until the revert, beside the fixed rules.
pub(crate) fn replay(spec: &GuardedRollout, table: &mut Table) {
    for (story, onset) in [("from birth", 0), ("from 300 s on", LATE)] {
        for (rate, budget) in [(20.0, [16.0, 25.0]), (100.0, [5.0, 9.0])] {
            table.section(format!(
                "5 % errors {story}, {rate} requests/s to the candidate (a tenth), objective 99 %: medians of {LIVES} recorded lives"
            ));
            let lives: Vec<Life> = (0..LIVES).map(|seed| Life::new(seed + 1, rate, onset)).collect();
            let ours = medians(&lives, |life| life.judged(spec));
            table.row("backstop: detection", ours.0, "s", Against::Budget(budget[usize::from(onset > 0)]));
            table.row("backstop: bad requests served until then", ours.1, "", Against::Nothing);
            let rules: [(&str, &'static str, (f64, f64)); 3] = [
                ("2 % over 2 m, 4 failed looks of a minute", "that rule", medians(&lives, |life| life.failed_looks(0.02, 120, 4))),
                ("1 % over 1 m, 5 failed looks of a minute", "that rule", medians(&lives, |life| life.failed_looks(0.01, 60, 5))),
                ("2 % over 1 m, for 5 m", "that rule", medians(&lives, |life| life.alert(0.02, 300))),
            ];
            for (name, other, (detection, bad)) in rules {
                table.row(format!("beside {name}: detection"), ours.0, "s", Against::Other(other, detection));
                table.row(format!("beside {name}: bad requests"), ours.1, "", Against::Other(other, bad));
            }
            table.print_last();
        }
    }
}

fn medians(lives: &[Life], found: impl Fn(&Life) -> Option<u32>) -> (f64, f64) {
    let (mut seconds, mut bad): (Vec<f64>, Vec<f64>) = lives.iter().map(|life| life.until(found(life))).unzip();
    (quantile(&mut seconds, 0.5), quantile(&mut bad, 0.5))
}
