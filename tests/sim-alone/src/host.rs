//! What an effect makes of a workload's record.

#[path = "../../../src/host/decide.rs"]
pub(crate) mod decide;
#[path = "../../../src/host/fence.rs"]
mod fence;
#[path = "../../../src/host/record.rs"]
pub(crate) mod record;
#[path = "../../../src/host/wire.rs"]
pub mod wire;
