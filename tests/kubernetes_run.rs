//! The controller on a real control plane: its store, its watches, its replicas, and what they do on bad days.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

#[path = "kubernetes_run/house.rs"]
mod house;
#[path = "kubernetes_run/store.rs"]
mod store;
