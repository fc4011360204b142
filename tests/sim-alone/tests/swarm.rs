//! Random lives in a world in which everything goes wrong; every seed that ever failed is lived again.

use std::time::{Duration, Instant};

use sim_alone::sim::swarm;

/// How long new seeds are lived.
const WITHIN: Duration = Duration::from_secs(60);

fn kept() -> Vec<u64> {
    let lines = include_str!("../../seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed a line")).collect()
}

fn must_hold(seed: u64) {
    let report = swarm::live_untold(seed);
    assert!(report.violation.is_none(), "\n{report}\n");
}

#[test]
fn seeds_that_once_failed_hold() {
    kept().into_iter().for_each(must_hold);
}

#[test]
fn many_seeds_hold() {
    (1..=10_000).for_each(must_hold);
}

#[test]
fn new_seeds_hold() {
    // One that fails is printed, and belongs into seeds.txt.
    let from = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() * 10_000);
    let begin = Instant::now();
    let mut lives = 0;
    while begin.elapsed() < WITHIN {
        must_hold(from + lives);
        lives += 1;
    }
    println!("{lives} lives from seed {from} in {WITHIN:?}");
}

#[test]
fn a_seed_is_lived_the_same_way_twice() {
    for seed in 1..=200 {
        assert_eq!(swarm::live(seed).digest, swarm::live(seed).digest, "seed {seed}");
    }
    // The whole run with `--long` compares this line between builds.
    println!("transcripts of 100 lives: {:016x}", swarm::transcripts(1..=100));
}
