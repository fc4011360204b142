//! The disk of the store fills up in the middle of a canary.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use backstop::cli::demo::load::Traffic;
use backstop::core::spec::Percent;
use backstop::core::state::PhaseKind;
use backstop::world::audit;

use crate::bed;
use crate::rig::{House, SERVICE, Shape, agent, person, revert};

/// A small file system of its own, where the test may mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(dir: &Path) -> Option<Self> {
        fs::create_dir_all(dir).expect("a folder");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(dir).output();
        if done.is_ok_and(|done| done.status.success()) {
            return Some(Self(dir.to_owned()));
        }
        bed::skip("a_full_disk_does_not_stop_a_revert", "the right to mount a tmpfs");
        None
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("a file");
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler goes");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_does_not_stop_a_revert() {
    let mut house = House::without_controller(Shape::canary()).await;
    let Some(disk) = Mount::new(&house.store()) else { return };
    house.start_controller().await;
    let v1 = house.release("v1", &[]);
    house.settle(&v1).await;
    let traffic = Traffic::start(house.address(SERVICE), 100);
    let v2 = house.release("v2", &[]);
    house.deploy(&v2, agent("a good one")).await;
    house.until("judged", Duration::from_secs(20), |view| view.step.as_deref() == Some("judging")).await;
    disk.fill();
    let before = fs::read_to_string(house.flags()).expect("the flag file");
    let handle = house.controller().handle();
    let input = backstop::core::input::Input::Commanded(backstop::core::input::Commanded {
        verb: revert(),
        request: person("the disk is full, too"),
    });
    let asked = tokio::spawn(async move { handle.ask(SERVICE, input).await });
    let back = |view: &backstop::core::preview::View| view.observed.get(&v1.id) == Some(&Percent::FULL);
    house.until("traffic is back all the same", Duration::from_secs(5), back).await;
    let begin = backstop::world::clock::instant();
    while fs::read_to_string(house.flags()).expect("the flag file") == before {
        assert!(begin.elapsed() < Duration::from_secs(5), "the flag is off all the same");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    disk.make_room();
    let view = house.until_phase(PhaseKind::Reverted, 40).await;
    assert_eq!(view.stable.as_ref(), Some(&v1));
    assert!(asked.await.expect("a task").expect("an answer").accepted);
    let visits = traffic.stop().await;
    assert!(visits.iter().all(|visit| visit.status == Some(200)), "nobody noticed");
    let public = house.controller().shared().world.store().local().public().clone();
    house.stop_controller().await;
    let verified = audit::verify(&house.store(), &public);
    assert!(verified.is_ok(), "{verified:?}");
    drop(disk);
}
