//! How fast failures are found, and that nothing else is: the whole judge against made-up traffic.

use super::fixture::{BOTH, Random, Traffic, judge};
use super::objective::{Evidence, Finding, Scored};
use super::{Count, Judge};
use crate::core::input::Arm;
use crate::core::reason::{Reason, Verdict};

/// What happens to the candidate and to stable, by second.
struct Story {
    /// Requests per second that reach the candidate, which has a tenth of the traffic.
    rate: f64,
    /// Share of bad requests of the candidate and of stable, in the second that ends here.
    bad: fn(u32) -> (f64, f64),
}

impl Story {
    fn second(&self, random: &mut Random, traffic: &mut Traffic, second: u32) {
        let (candidate, stable) = (self.bad)(second);
        for (arm, rate, share) in [(Arm::Candidate, self.rate, candidate), (Arm::Stable, 9.0 * self.rate, stable)] {
            let failed = random.poisson(rate * share);
            let total = failed + random.poisson(rate * (1.0 - share));
            // A thousandth is slow, whatever else happens.
            let slow = random.poisson(rate * 0.001).min(total);
            traffic.serve(arm, total, failed, slow);
        }
    }

    /// Runs the story; the second and verdict at which `stop` says so.
    fn run(&self, seed: u64, seconds: u32, stop: fn(&Verdict) -> bool) -> (Judge, Option<(u32, Verdict)>) {
        let (mut random, mut traffic, mut judge) = (Random(seed), Traffic::default(), judge(10.0));
        judge.look(&traffic.scrape(0, BOTH));
        for second in 1..=seconds {
            self.second(&mut random, &mut traffic, second);
            judge.look(&traffic.scrape(i64::from(second) * 1000, BOTH));
            let verdict = judge.verdict().verdict;
            if stop(&verdict) {
                return (judge, Some((second, verdict)));
            }
        }
        (judge, None)
    }
}

fn breach(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Breach(_))
}

/// Median of the seconds until a breach of availability, by `runs` seeds; failures that are missed count as infinite.
fn median_detection(story: &Story, runs: u64, onset: u32) -> u32 {
    let mut seconds: Vec<u32> = (0..runs)
        .map(|seed| match story.run(seed, onset + 300, breach).1 {
            Some((at, Verdict::Breach(Reason::Breach { objective, .. }))) if objective == "availability" && at > onset => at - onset,
            Some((at, verdict)) => panic!("seed {seed}: {verdict:?} at {at} s"),
            None => u32::MAX,
        })
        .collect();
    seconds.sort_unstable();
    seconds[seconds.len() / 2]
}

#[test]
fn a_candidate_bad_from_birth_is_found_within_the_budget() {
    for (rate, budget) in [(20.0, 16), (100.0, 5)] {
        let median = median_detection(&Story { rate, bad: |_| (0.05, 0.001) }, 201, 0);
        println!("bad from birth, {rate} requests/s: median {median} s");
        assert!(median <= budget, "{rate} requests/s: {median} s");
    }
}

#[test]
fn a_late_failure_is_found_within_the_budget() {
    const ONSET: u32 = 300;
    for (rate, budget) in [(20.0, 25), (100.0, 9)] {
        let bad = |second| (if second > ONSET { 0.05 } else { 0.001 }, 0.001);
        let median = median_detection(&Story { rate, bad }, 61, ONSET);
        println!("late onset, {rate} requests/s: median {median} s");
        assert!(median <= budget, "{rate} requests/s: {median} s");
    }
}

#[test]
fn a_shared_outage_is_never_blamed_on_the_candidate() {
    let bad = |second| if (100..300).contains(&second) { (0.05, 0.05) } else { (0.001, 0.001) };
    let shared = |verdict: &Verdict| breach(verdict) || matches!(verdict, Verdict::Inconclusive(Reason::SharedCause { .. }));
    for rate in [5.0, 20.0, 100.0] {
        let story = Story { rate, bad };
        for seed in 0..8 {
            let (judge, breached) = story.run(seed, 400, breach);
            assert_eq!(breached, None, "seed {seed} at {rate} requests/s: {:?}", judge.verdict());
            let (_, found) = story.run(seed, 300, shared);
            let second = found.map(|(second, _)| second);
            assert!(second.is_some_and(|second| second < 300), "seed {seed} at {rate} requests/s: shared cause at {second:?}");
        }
    }
}

#[test]
fn a_shared_outage_is_not_blamed_on_a_candidate_that_leaves_stable_a_tenth() {
    // The worse the outage, the fewer requests make up the last twenty bad ones: stable's share of them is a matter of luck.
    for (rate, share) in [(10.0, 0.05), (10.0, 0.5), (100.0, 0.1), (100.0, 0.2), (100.0, 1.0), (1000.0, 0.2)] {
        let (mut random, mut traffic, mut judge) = (Random(13), Traffic::default(), judge(90.0));
        for second in 1..=400 {
            let bad = if second > 60 { share } else { 0.001 };
            for (arm, part) in [(Arm::Candidate, 0.9), (Arm::Stable, 0.1)] {
                let failed = random.poisson(rate * part * bad);
                traffic.serve(arm, failed + random.poisson(rate * part * (1.0 - bad)), failed, 0.0);
            }
            judge.look(&traffic.scrape(second * 1000, BOTH));
            assert!(!breach(&judge.verdict().verdict), "{rate}/s, {share} bad, second {second}: {:?}", judge.verdict());
        }
    }
}

#[test]
fn healthy_hours_give_no_alarm() {
    // One scrape in 5 s, at 0.1 % bad: 300 hours, a rollout of 37 minutes each, of every finding.
    let config = judge(10.0).config().clone();
    let config = super::Config { step: 5000, ..config };
    let (target, alpha) = (&config.objectives[0], config.alpha(0));
    let mut random = Random(7);
    for life in 0..486_u32 {
        let rate = [5.0, 20.0, 100.0][life as usize % 3] * 5.0;
        let mut evidence = Evidence::default();
        for scrape in 1..=444 {
            let [candidate, stable] = [rate, 9.0 * rate].map(|rate| {
                let bad = random.poisson(rate * 0.001);
                Count { bad, total: bad + random.poisson(rate * 0.999) }
            });
            evidence.step(&config, target, alpha, &Scored { edge: scrape * 5000, candidate, stable: Some(stable), baseline: true });
            assert_eq!(evidence.finding(alpha), Finding::Quiet, "life {life}, scrape {scrape}");
        }
    }
}

#[test]
fn a_failure_long_after_the_plan_is_still_found() {
    let config = super::Config { planned: 60_000, ..judge(10.0).config().clone() };
    let (target, alpha) = (&config.objectives[0], config.alpha(0));
    let (mut random, mut evidence) = (Random(9), Evidence::default());
    let mut step = |second: i64, share: f64| {
        let [candidate, stable] = [(20.0, share), (180.0, 0.001)].map(|(rate, share)| {
            let bad = random.poisson(rate * share);
            Count { bad, total: bad + random.poisson(rate * (1.0 - share)) }
        });
        evidence.step(&config, target, alpha, &Scored { edge: second * 1000, candidate, stable: Some(stable), baseline: true });
        evidence.finding(alpha)
    };
    // Half an hour where a minute was planned.
    assert!((1..=1800).all(|second| step(second, 0.001) == Finding::Quiet));
    let found = (1801..=1900).find(|second| step(*second, 0.05) == Finding::Breach);
    assert!(found.is_some_and(|second| second <= 1860), "{found:?}");
}

#[test]
fn a_healthy_rollout_is_left_alone() {
    // The whole judge, hence also darkness, starvation and staleness; and errors that come in bursts of five.
    for (seed, rate) in [(1, 0.5), (2, 5.0), (3, 20.0), (4, 100.0)] {
        let story = Story { rate, bad: |_| (0.001, 0.001) };
        let (judge, breached) = story.run(seed, 1200, breach);
        assert_eq!(breached, None, "at {rate} requests/s: {:?}", judge.verdict());
    }
    let bursts = |second| if second % 40 == 7 { (0.05, 0.001) } else { (0.0005, 0.001) };
    let (judge, breached) = Story { rate: 20.0, bad: bursts }.run(5, 1200, breach);
    assert_eq!(breached, None, "{:?}", judge.verdict());
}

#[test]
fn a_candidate_that_hangs_is_starved_within_seconds() {
    let (mut random, mut traffic, mut judge) = (Random(11), Traffic::default(), judge(10.0));
    let healthy = Story { rate: 20.0, bad: |_| (0.001, 0.001) };
    for second in 1..=200 {
        healthy.second(&mut random, &mut traffic, second);
        judge.look(&traffic.scrape(i64::from(second) * 1000, BOTH));
        assert!(!breach(&judge.verdict().verdict), "{:?}", judge.verdict());
    }
    let found = (201..=300).find(|second| {
        traffic.serve(Arm::Stable, random.poisson(180.0), 0.0, 0.0);
        judge.look(&traffic.scrape(i64::from(*second) * 1000, BOTH));
        breach(&judge.verdict().verdict)
    });
    assert!(matches!(judge.verdict().verdict, Verdict::Breach(Reason::Starved { .. })), "{:?}", judge.verdict());
    assert!(found.is_some_and(|second| (203..=230).contains(&second)), "{found:?}");
}

#[test]
fn a_candidate_whose_first_answers_take_seconds_is_not_starved() {
    let (mut traffic, mut judge) = (Traffic::default(), judge(10.0));
    for second in 1..=60 {
        traffic.serve(Arm::Candidate, if second > 7 { 1000.0 } else { 0.0 }, 0.0, 0.0);
        traffic.serve(Arm::Stable, 9000.0, 0.0, 0.0);
        judge.look(&traffic.scrape(second * 1000, BOTH));
        assert!(!breach(&judge.verdict().verdict), "second {second}: {:?}", judge.verdict());
    }
}

#[test]
fn a_quiet_service_is_never_starved() {
    // One request in ten seconds for the candidate by its weight; by chance it gets none for two minutes.
    let (mut random, mut traffic, mut judge) = (Random(12), Traffic::default(), judge(10.0));
    traffic.serve(Arm::Candidate, 0.0, 0.0, 0.0);
    for second in 1..=120 {
        traffic.serve(Arm::Stable, random.poisson(0.9), 0.0, 0.0);
        judge.look(&traffic.scrape(second * 1000, BOTH));
    }
    assert_eq!(judge.verdict().verdict, Verdict::Inconclusive(Reason::NoTraffic {}));
}

#[test]
fn a_healthy_candidate_passes_once_there_is_evidence() {
    let story = Story { rate: 20.0, bad: |_| (0.001, 0.001) };
    let (_, passed) = story.run(3, 60, |verdict| *verdict == Verdict::Pass);
    let second = passed.map(|(second, _)| second);
    // 177 clean requests at 20 a second; the bake is 10 s.
    assert!(second.is_some_and(|second| (10..=30).contains(&second)), "{second:?}");
}

#[test]
fn a_checkpoint_stays_small() {
    let story = Story { rate: 20.0, bad: |_| (0.001, 0.001) };
    let (judge, _) = story.run(6, 2000, breach);
    let size = serde_json::to_string(&judge.checkpoint()).unwrap().len();
    println!("checkpoint after 2000 intervals: {size} bytes");
    assert!(size < 8192, "{size} bytes");
}
