//! What the API server's answers mean for an effect.

use std::time::Duration;

use crate::core::input::{Observation, Outcome};
use crate::core::time::Span;

/// How soon a write that came second is tried again.
const SOON: Duration = Duration::from_millis(20);
/// How soon what takes the cluster a while is looked at again.
const LATER: Duration = Duration::from_millis(500);

/// Why an effect is not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// The API server said no, or nothing.
    Api(kube::Error),
    /// What was read is no longer so: somebody else wrote.
    Raced,
    /// The cluster needs a while; in words for what.
    Pending(String),
    /// Something newer is in place.
    Superseded(String),
    /// It can never work as asked.
    Invalid(String),
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 409 => Self::Raced,
            // A JSON patch whose `test` does not hold is answered with 422, and no field is named.
            kube::Error::Api(status) if status.code == 422 && is_failed_test(status) => Self::Raced,
            _ => Self::Api(error),
        }
    }
}

fn is_failed_test(status: &kube::core::Status) -> bool {
    let fields = status.details.as_ref().is_some_and(|details| !details.causes.is_empty());
    !fields && (status.message.contains("testing") || status.message.contains("rejected our request"))
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        let transient = |what: String, after: Duration| Self::Transient { what, retry_after: Some(Span(after)) };
        match fault {
            Fault::Raced => transient("somebody else wrote at the same time".into(), SOON),
            Fault::Pending(what) => transient(what, LATER),
            Fault::Superseded(what) => Self::Superseded(what),
            Fault::Invalid(what) => Self::Invalid(what),
            Fault::Api(kube::Error::Api(status)) => {
                let said = format!("the API server says {}: {}", status.code, status.message);
                let wait = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                match status.code {
                    401 | 403 => Self::Denied(said),
                    400 | 404 | 405 | 410 | 422 => Self::Invalid(said),
                    _ => Self::Transient { what: said, retry_after: (wait > 0).then(|| Span::seconds(wait.into())) },
                }
            }
            Fault::Api(kube::Error::SerdeError(error)) => Self::Invalid(format!("the API server's answer cannot be read: {error}")),
            Fault::Api(error) => Self::Unknown(format!("no answer from the API server: {error}")),
        }
    }
}

/// It is as wanted.
pub(super) fn done(changed: bool) -> Outcome {
    Outcome::Done { changed, observed: Observation::Nothing }
}
