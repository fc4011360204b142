//! Random lives in a world in which everything goes wrong; every seed that ever failed is lived again.

use std::time::{Duration, Instant};

use backstop::sim::{explore, swarm};

fn kept() -> Vec<u64> {
    let lines = include_str!("seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed a line")).collect()
}

#[allow(clippy::disallowed_methods, reason = "how long this test runs is its caller's to say")]
fn long() -> bool {
    std::env::var("BACKSTOP_TESTS_LONG").is_ok_and(|long| long == "1")
}

fn must_hold(seed: u64) {
    let report = swarm::live(seed);
    assert!(report.violation.is_none(), "\n{report}\n");
}

#[test]
fn seeds_that_once_failed_hold() {
    kept().into_iter().for_each(must_hold);
}

#[test]
fn new_seeds_hold() {
    if !long() {
        // The same lives each time: what lands does not depend on luck. New ones are lived by `--long` and by hand.
        (1_000..1_060).for_each(must_hold);
        return;
    }
    #[allow(clippy::disallowed_methods, reason = "a test may choose where to begin; the seed is printed when it fails")]
    let (begin, from) = (Instant::now(), std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() * 1000));
    let within = Duration::from_mins(1);
    let mut lives = 0;
    while begin.elapsed() < within {
        must_hold(from + lives);
        lives += 1;
    }
    println!("{lives} lives in {within:?}");
}

#[test]
fn a_seed_is_lived_the_same_way_twice() {
    for seed in 1..=10 {
        assert_eq!(swarm::live(seed).digest, swarm::live(seed).digest, "seed {seed}");
    }
}

#[test]
fn every_state_within_reach_holds() {
    let most = if long() { 100_000 } else { 4_000 };
    let explored = explore::explore(most);
    println!("{} distinct states, {} transitions, depth {}", explored.states, explored.transitions, explored.depth);
    if let Some((violation, path)) = explored.violation {
        panic!("{violation}\nby: {}", path.join(", "));
    }
    assert!(explored.states >= most, "only {} states within reach", explored.states);
}
