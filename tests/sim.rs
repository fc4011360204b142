//! Random lives in a world in which everything goes wrong. Here as many as an unoptimised build lives in a moment; minutes of
//! new seeds, a million states and the deliberate faults are in tests/sim-alone.

use backstop::sim::{explore, swarm};

fn kept() -> Vec<u64> {
    let lines = include_str!("seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed a line")).collect()
}

#[test]
fn seeds_that_once_failed_hold() {
    for seed in kept() {
        let report = swarm::live(seed);
        assert!(report.violation.is_none(), "\n{report}\n");
    }
}

#[test]
fn a_seed_is_lived_the_same_way_twice() {
    for seed in 1..=10 {
        assert_eq!(swarm::live(seed).digest, swarm::live(seed).digest, "seed {seed}");
    }
    // The whole run with `--long` compares this line between builds.
    println!("transcripts of 100 lives: {:016x}", swarm::transcripts(1..=100));
}

#[test]
fn the_nearest_states_hold() {
    let explored = explore::explore(2_000);
    if let Some((violation, path)) = explored.violation {
        panic!("{violation}\nby: {}", path.join(", "));
    }
}
