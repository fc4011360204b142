//! The main job end to end: a real host process, real children, real proxy, real evidence, the embedded controller.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../rig/mod.rs"]
mod rig;

mod deployers;
mod documents;
mod evidence;
mod people;
mod prometheus;
mod ready;
mod sick;
mod switching;
mod terminal;
