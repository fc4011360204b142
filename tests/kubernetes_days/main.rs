//! Bad days: a controller on a real control plane, and what must not come of what goes wrong around it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../kubernetes_run/faults.rs"]
mod faults;
#[path = "../kubernetes_run/images.rs"]
#[allow(dead_code, reason = "a part of it is needed here")]
mod images;
#[path = "../attestation/bed.rs"]
#[allow(dead_code, reason = "a part of it is needed here")]
mod registry;
#[path = "../kubernetes_run/replica.rs"]
mod replica;

mod people;
mod rig;
mod server;
mod traffic;
mod workload;
