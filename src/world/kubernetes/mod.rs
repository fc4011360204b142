//! Kubernetes: state and ledger in the API server.

pub mod objects;
mod proofs;
mod records;
pub mod signing;
mod status;
pub mod store;

pub use records::{WORKLOAD, label};
