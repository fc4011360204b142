//! The test of the tests: of every deliberate fault the simulator must notice that something is wrong, and say what.

use std::fmt::Write as _;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sim_alone::core::mutant::Mutant;
use sim_alone::sim::swarm;

/// How long a fault may stay unnoticed.
const WITHIN: Duration = Duration::from_secs(60);
/// Threads that hunt.
const LANES: usize = 2;

/// What was noticed of a fault, and after how many seeds; nothing if it survived.
fn hunt(mutant: Mutant) -> (Option<String>, u64, Duration) {
    Mutant::choose(Some(mutant));
    let begin = Instant::now();
    for seed in 1.. {
        let noticed = match catch_unwind(|| swarm::live_untold(seed)) {
            Ok(report) => report.violation.map(|violation| violation.invariant.map_or_else(|| violation.what.clone(), |rule| rule.id().to_owned())),
            Err(_) => Some("a panic".to_owned()),
        };
        if noticed.is_some() || begin.elapsed() > WITHIN {
            Mutant::choose(None);
            return (noticed, seed, begin.elapsed());
        }
    }
    (None, 0, begin.elapsed())
}

#[test]
fn every_mutant_is_caught() {
    assert!(Mutant::ALL.len() >= 30);
    let left = Mutex::new(Mutant::ALL.iter().copied());
    let caught = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = left.lock().expect("nobody panics here").next() else { return };
                    let (noticed, seeds, time) = hunt(mutant);
                    caught.lock().expect("nobody panics here").push((mutant, noticed, seeds, time));
                }
            });
        }
    });
    let mut caught = caught.into_inner().expect("nobody panics here");
    caught.sort_by_key(|(mutant, ..)| *mutant);
    let mut table = String::from("mutant | noticed by | seeds | seconds | what it is\n");
    for (mutant, noticed, seeds, time) in &caught {
        let noticed = noticed.as_deref().unwrap_or("SURVIVES");
        let _ = writeln!(table, "{mutant:?} | {noticed} | {seeds} | {:.1} | {}", time.as_secs_f64(), mutant.sentence());
    }
    println!("{table}");
    let survivors: Vec<_> = caught.iter().filter(|(_, noticed, ..)| noticed.is_none()).map(|(mutant, ..)| mutant).collect();
    assert!(survivors.is_empty(), "nobody noticed {survivors:?}\n{table}");
}

#[test]
fn without_a_mutant_the_same_seeds_hold() {
    Mutant::choose(None);
    for seed in 1..=300 {
        let report = swarm::live(seed);
        assert!(report.violation.is_none(), "\n{report}\n");
    }
}
