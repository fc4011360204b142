//! The loop: facts in, work out.

mod again;
pub mod cluster;
pub mod direct;
pub mod documents;
pub mod handle;
pub mod neighbours;
pub mod order;
pub mod queries;
pub mod rollout;
pub mod scopes;
pub mod standalone;
