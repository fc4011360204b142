//! The controller's wall clock jumps by days while releases are on trial.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::preview::View;
use backstop::core::record::{Decision, Event, Record};
use backstop::core::state::PhaseKind;
use backstop::world::audit;

use crate::bed;
use crate::program::Program;
use crate::rig::{House, SERVICE, Shape};

/// The library that steps a program's wall clock, if it is installed: Debian's package `faketime`.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file())
}

fn records(house: &House) -> Vec<Record> {
    let entries = audit::show(&house.store(), audit::Filter::default()).expect("the log can be read");
    entries.filter_map(|entry| entry.expect("an entry").record().expect("its parts")).collect()
}

/// When a generation decided so, by the monotonic clock, in milliseconds.
fn decided(records: &[Record], generation: u64, wanted: Decision) -> Option<u64> {
    let is_wanted = |record: &&Record| {
        record.generation == generation && matches!(&record.event, Event::Decision { decision, .. } if *decision == wanted)
    };
    records.iter().find(is_wanted).map(|record| record.at.mono.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_neither_promotes_early_nor_holds_a_revert_up() {
    let Some(library) = library() else { return bed::skip("a_wall_clock_that_jumps", "faketime") };
    let house = House::without_controller(Shape::canary()).await;
    let file = house.dir().join("clock");
    fs::write(&file, "+0").expect("a file");
    let (library, of) = (library.display().to_string(), file.display().to_string());
    let env = [("LD_PRELOAD", library.as_str()), ("FAKETIME_TIMESTAMP_FILE", &of), ("FAKETIME_NO_CACHE", "1")];
    // A step of the wall clock leaves the monotonic clock alone.
    let env: Vec<_> = env.into_iter().chain([("FAKETIME_DONT_FAKE_MONOTONIC", "1")]).collect();
    let mut program = Program::start_with(house.dir(), &env);
    program.settle(&house.release("v1", &[]));
    let traffic = Traffic::start(house.address(SERVICE), 100);
    let judged = |view: &View| view.step.as_deref() == Some("judging");

    let v2 = house.release("v2", &[]);
    program.deploy(&v2);
    program.until("v2 is judged", Duration::from_secs(30), judged);
    fs::write(&file, "+26h").expect("a file");
    let rests = |view: &View| view.phase == PhaseKind::Idle && view.open.is_empty() && view.stable.as_ref() == Some(&v2);
    program.until("v2 is stable", Duration::from_mins(1), rests);

    let bad = house.release("bad", &[("ERROR_RATIO", "0.5")]);
    program.deploy(&bad);
    program.until("the bad one is judged", Duration::from_secs(30), judged);
    fs::write(&file, "-50h").expect("a file");
    let back = |view: &View| view.phase == PhaseKind::Reverted && view.stable.as_ref() == Some(&v2);
    program.until("reverted", Duration::from_mins(1), back);
    traffic.stop().await;
    program.kill();

    let records = records(&house);
    let of = |generation, decision| decided(&records, generation, decision);
    let (admitted, known_good) = (of(2, Decision::Admit).expect("admitted"), of(2, Decision::KnownGood).expect("known good"));
    // Warm-up, bake and watch: 1 s, 3 s and 3 s.
    assert!(known_good - admitted >= 7_000, "known good after {} ms", known_good - admitted);
    assert!(of(3, Decision::Revert).is_some() && of(3, Decision::Recovered).is_some());
    let walls = || records.iter().map(|record| record.at.wall.as_second());
    let seen = walls().max().unwrap_or_default() - walls().min().unwrap_or_default();
    assert!(seen >= 70 * 3600, "the clock of the controller was not moved: {seen} s between records");
}
