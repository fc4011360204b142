//! What effects make of workloads, routes and Services on a real control plane whose pods are simulated.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

#[path = "kubernetes_act/bluegreen.rs"]
mod bluegreen;
#[path = "kubernetes_act/canary.rs"]
mod canary;
#[path = "kubernetes_act/ready.rs"]
mod ready;
#[path = "kubernetes_act/sick.rs"]
mod sick;
#[path = "kubernetes_act/stage.rs"]
mod stage;
