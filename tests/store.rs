//! The store and its log on real files: crashes, full and read-only disks, locks, races, damage, tampering.

#![allow(clippy::needless_update, reason = "the state may grow without these tests caring")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must say where")]

#[path = "store/common.rs"]
mod common;
#[path = "store/crash.rs"]
mod crash;
#[path = "store/disk.rs"]
mod disk;
#[path = "store/race.rs"]
mod race;
#[path = "store/tamper.rs"]
mod tamper;
