//! Real pods on a real node, with real traffic, images and metrics.

#[path = "../bed/mod.rs"]
mod bed;
mod canary;
#[path = "../cluster/mod.rs"]
mod cluster;
mod guarded;
mod observe;
mod pods;
mod shop;
