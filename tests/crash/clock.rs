//! The machine's clock is stepped by hours in the middle of bakes and reverts: time is what passes, not what a clock says.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::ledger::Standing;
use backstop::core::preview::View;
use backstop::core::state::PhaseKind;
use backstop::world::clock;

use crate::bed;
use crate::kill::{replays, settled};
use crate::program::{Program, say};
use crate::rig::{House, SERVICE, Shape, line, none_dropped, revert};

/// How long a release is watched at its only step.
const BAKE: Duration = Duration::from_secs(3);

/// A wall clock that is as far off as its file says.
struct Wall(PathBuf);

impl Wall {
    /// Right, so far.
    fn new(dir: &Path) -> Self {
        let wall = Self(dir.join("wall"));
        wall.step("+0");
        wall
    }

    /// The clock is so far off from now on.
    fn step(&self, offset: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, offset).and_then(|()| fs::rename(&new, &self.0)).expect("a file");
    }

    /// What makes a process believe it.
    fn environment(&self, library: &Path) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", library.into()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_stepped_by_hours_shortens_no_bake_and_stops_no_revert() {
    let Some(library) = library() else {
        return bed::skip("a_clock_stepped_by_hours_shortens_no_bake_and_stops_no_revert", "libfaketime (`apt-get install faketime`)");
    };
    let house = House::without_controller(Shape::canary()).await;
    let wall = Wall::new(house.dir());
    let program = Program::start_with(house.dir(), &wall.environment(&library));
    program.settle(&house.release("v1", &[]));
    let traffic = Traffic::start(house.address(SERVICE), 100);
    for (label, offset) in [("v2", "+6h"), ("v3", "-6h")] {
        let good = house.release(label, &[]);
        program.deploy(&good);
        program.until("judged", Duration::from_secs(30), |view| view.step.as_deref() == Some("judging"));
        let begin = clock::instant();
        wall.step(offset);
        program.until("it passes", Duration::from_mins(1), |view| view.phase != PhaseKind::Advancing);
        // The first look at it may have been a moment late.
        assert!(begin.elapsed() > BAKE.mul_f64(0.8), "{label} passed after {:?}", begin.elapsed());
        let stays = |view: &View| settled(view, PhaseKind::Idle) && view.stable.as_ref() == Some(&good);
        let view = program.until("it stays", Duration::from_mins(1), stays);
        assert_eq!(line(&view, &good).standing, Standing::KnownGood);
    }
    for (label, share, offset) in [("v4", "0.5", "+12h"), ("v5", "0", "-12h")] {
        let bad = house.release(label, &[("ERROR_RATIO", share)]);
        program.deploy(&bad);
        program.until("judged", Duration::from_secs(30), |view| {
            view.candidate.as_ref() == Some(&bad) && view.step.as_deref() == Some("judging")
        });
        wall.step(offset);
        if share == "0" {
            program.command(revert());
        }
        wall.step("+0");
        let view = program.until("it goes back", Duration::from_mins(1), |view| settled(view, PhaseKind::Reverted));
        assert!(line(&view, &bad).quarantined && view.stable.as_ref().is_some_and(|stable| stable.label.as_deref() == Some("v3")));
    }
    let visits = traffic.stop().await;
    none_dropped(&visits);
    drop(program);
    let (code, said) = say(house.dir(), &["audit", "verify"]);
    assert_eq!(code, 0, "{said}");
    replays(&house);
}
