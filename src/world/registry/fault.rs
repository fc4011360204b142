//! Why a registry or a layout folder gave no answer.

use std::fmt;

use crate::core::input::Outcome;
use crate::core::time::Span;

/// Why there is no answer. Only [`Fault::NotFound`] means that there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    NotFound(String),
    /// We may not see it.
    Denied(String),
    /// Too many requests.
    RateLimited {
        /// What was said.
        what: String,
        /// When to come back, if that was said too.
        retry_after: Option<Span>,
    },
    /// No connection, no time left, an answer cut short, or a failing server or disk.
    Unavailable(String),
    /// The answer is not what was asked for: other bytes, too many bytes, or not the format.
    Malformed(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(what) => write!(f, "not found: {what}"),
            Self::Denied(what) => write!(f, "access denied: {what}"),
            Self::RateLimited { what, .. } => write!(f, "rate limited: {what}"),
            Self::Unavailable(what) => write!(f, "unavailable: {what}"),
            Self::Malformed(what) => write!(f, "wrong answer: {what}"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Outcome {
    /// How an effect ends that met this fault.
    fn from(fault: Fault) -> Self {
        let what = fault.to_string();
        match fault {
            Fault::Denied(_) => Self::Denied(what),
            Fault::RateLimited { retry_after, .. } => Self::Transient { what, retry_after },
            Fault::NotFound(_) | Fault::Unavailable(_) => Self::Transient { what, retry_after: None },
            Fault::Malformed(_) => Self::Invalid(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_cannot_is_not() {
        let wait = Some(Span::seconds(7));
        let limited = Fault::RateLimited { what: "429".to_owned(), retry_after: wait };
        assert!(matches!(Outcome::from(limited), Outcome::Transient { retry_after, .. } if retry_after == wait));
        assert!(matches!(Outcome::from(Fault::Unavailable(String::new())), Outcome::Transient { .. }));
        assert!(matches!(Outcome::from(Fault::NotFound(String::new())), Outcome::Transient { .. }));
        assert!(matches!(Outcome::from(Fault::Denied("401".to_owned())), Outcome::Denied(what) if what.contains("401")));
        assert!(matches!(Outcome::from(Fault::Malformed(String::new())), Outcome::Invalid(_)));
    }
}
