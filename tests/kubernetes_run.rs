//! The controller on a real control plane: its store, its watches, its replicas, and what they do on bad days.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

#[path = "attestation/bed.rs"]
#[allow(dead_code, reason = "a part of it is needed here")]
mod registry;

#[path = "kubernetes_run/bad_days.rs"]
mod bad_days;
#[path = "kubernetes_run/controller.rs"]
mod controller;
#[path = "kubernetes_run/faults.rs"]
mod faults;
#[path = "kubernetes_run/house.rs"]
mod house;
#[path = "kubernetes_run/images.rs"]
mod images;
#[path = "kubernetes_run/replica.rs"]
mod replica;
#[path = "kubernetes_run/store.rs"]
mod store;
