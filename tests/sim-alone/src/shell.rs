//! The order of facts and work, and who breaches beside whom.

#[path = "../../../src/shell/neighbours.rs"]
pub mod neighbours;
#[path = "../../../src/shell/order.rs"]
pub mod order;
