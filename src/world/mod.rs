//! Act: the only I/O. One file per foreign system; each maps it to core values.

mod artifacts;
pub mod audit;
pub mod clock;
pub(crate) mod endpoint;
pub mod evidence;
pub mod exposition;
pub mod flags;
pub mod host_client;
pub mod keys;
pub mod kubernetes;
mod lanes;
mod members;
pub mod notify;
pub mod perform;
pub mod prometheus;
mod prove;
pub mod publish;
pub mod registry;
pub mod scrape;
mod series;
pub mod source;
pub mod storage;
pub mod store;
pub mod verify;
