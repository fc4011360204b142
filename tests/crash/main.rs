//! Controllers that are killed, doubled, stopped in the middle, or without a disk. Each is a process of its own, the real
//! program; what happened is counted from outside: at the host's state file, at the flag file, in the ledger and the log.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../rig/mod.rs"]
mod rig;

mod clock;
mod disk;
mod kill;
mod outside;
mod pair;
mod program;
