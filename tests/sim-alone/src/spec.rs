//! How findings in a text are told: stories have them, too.

#[path = "../../../src/spec/code.rs"]
pub mod code;
#[path = "../../../src/spec/finding.rs"]
pub mod finding;
#[path = "../../../src/spec/source.rs"]
mod source;

pub use finding::{Finding, Severity};
pub use source::Source;
