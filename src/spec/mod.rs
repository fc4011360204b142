//! Text to core: YAML to the documents that people write, with every error of a file at once, and what they mean for the
//! person who wrote them.

pub mod code;
pub mod crd;
pub mod document;
pub mod finding;
pub mod insight;
pub mod install;
mod lint;
pub mod load;
pub mod loosening;
pub mod matcher;
mod paths;
mod references;
pub mod report;
mod schema;
mod selector;
mod source;
pub mod write;
mod yaml;

pub use document::Kind;
pub use finding::{Finding, Severity};
pub use load::{Loaded, load, load_text};
pub use report::{CheckReport, check};
pub use source::Source;
