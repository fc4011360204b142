//! Errors at the edge: what a person reads, and the code the program ends with.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::panic;

use serde_json::{Value, json};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done, healthy, or nothing to do.
    Done = 0,
    /// The answer is no: a breach, findings, not recovered or not verified in time.
    No = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A specification or the configuration is invalid.
    Invalid = 3,
    /// Something that is needed cannot be reached.
    Unreachable = 4,
    /// Refused: attestation, policy, permission.
    Refused = 5,
    /// Done in part.
    Partial = 6,
    /// Something newer took its place.
    Superseded = 7,
    /// A dry run found changes to make.
    Pending = 10,
    /// A mistake in backstop.
    Internal = 70,
}

impl Exit {
    /// Every code with its meaning, for `--help`.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Done, "done, healthy, or nothing to do"),
        (Self::No, "the answer is no: breach, findings, not recovered or not verified in time"),
        (Self::Usage, "the command line makes no sense"),
        (Self::Invalid, "a specification or the configuration is invalid"),
        (Self::Unreachable, "something that is needed cannot be reached"),
        (Self::Refused, "refused: attestation, policy, permission"),
        (Self::Partial, "done in part"),
        (Self::Superseded, "something newer took its place"),
        (Self::Pending, "dry run: changes are pending"),
        (Self::Internal, "a mistake in backstop"),
    ];

    /// The number that the operating system gets.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why the program cannot do what it was asked: `error`, `cause`s, `hint`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What the program ends with.
    pub exit: Exit,
    /// What failed, in one sentence without a full stop.
    pub message: String,
    /// Why, from the nearest cause to the first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hints: Vec<String>,
    /// The reason code, where the machine gave one.
    pub code: Option<String>,
    /// The reader went away: nothing is printed.
    pub quiet: bool,
}

impl Error {
    /// An error without causes.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), causes: Vec::new(), hints: Vec::new(), code: None, quiet: false }
    }

    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A configuration or specification that cannot be used.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Exit::Invalid, message)
    }

    /// Something that does not answer.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// A mistake in backstop.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message).hint("this is a mistake in backstop; please report it with the command line and this text")
    }

    /// The same with what caused it, and what caused that.
    #[must_use]
    pub fn because(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            let text = error.to_string();
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// The same with a cause in words.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// The same with a way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same with a reason code.
    #[must_use]
    pub fn with_code(mut self, code: Option<String>) -> Self {
        self.code = code;
        self
    }

    /// What was not written because the reader went away is no error; everything else is.
    pub fn output(error: &io::Error) -> Self {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        let exit = if quiet { Exit::Done } else { Exit::Unreachable };
        Self { quiet, ..Self::new(exit, "the output cannot be written").because(error) }
    }

    /// For programs: `{"error": {…}}`.
    pub fn to_json(&self) -> Value {
        json!({"error": {
            "exit": self.exit.code(), "code": self.code, "message": self.message, "causes": self.causes, "hints": self.hints,
        }})
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "error: {code} {}", self.message)?,
            None => write!(f, "error: {}", self.message)?,
        }
        self.causes.iter().try_for_each(|cause| write!(f, "\ncause: {cause}"))?;
        self.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for Error {}

thread_local! {
    /// The newest panic of this thread: where, and what it said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs what the program is for. A panic in it is an error like any other; those of tasks and other threads are only told.
///
/// # Errors
/// Those of `run`; [`Exit::Internal`] if it panicked.
pub fn caught<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANIC.set(info.to_string().replacen('\n', " ", 1));
        tell(info);
    }));
    panic::catch_unwind(panic::AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Error::internal(PANIC.take())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_each_in_order() {
        let io = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = Error::unreachable("cannot read `a.yaml`").because(&io).hint("create it");
        assert_eq!(error.to_string(), "error: cannot read `a.yaml`\ncause: no such file\nhint: create it");
    }

    #[test]
    fn a_panic_ends_with_70_and_says_where() {
        let error = caught(|| -> Result<(), Error> { panic!("the sum of {} overflows", 2) }).unwrap_err();
        assert_eq!(error.exit.code(), 70);
        assert!(error.message.starts_with("panicked at src/error.rs:"), "{error}");
        assert!(error.message.ends_with(": the sum of 2 overflows") && error.to_string().contains("please report it"), "{error}");
        assert_eq!(caught(|| Ok(7)), Ok(7));
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let error = Error::output(&io::ErrorKind::BrokenPipe.into());
        assert!(error.quiet);
        assert_eq!(error.exit, Exit::Done);
        assert_eq!(Error::output(&io::ErrorKind::StorageFull.into()).exit, Exit::Unreachable);
    }
}
