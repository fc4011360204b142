//! What happens in a life, in words: for its transcript.

use crate::core::input::{Input, Outcome};
use crate::core::work::{Action, Effect};

pub(super) fn describe(effect: &Effect) -> String {
    match &effect.action {
        Action::EnsureWeights { weights } => {
            let shares: Vec<String> = weights.iter().map(|(id, share)| format!("{}={share}", &id.0[..4])).collect();
            format!("ensureWeights {} {:?}", shares.join(" "), effect.fence)
        }
        Action::EnsureArm { release, present } => format!("ensureArm {release} {present}"),
        Action::EnsureRelease { release } => format!("ensureRelease {release}"),
        Action::Verify { release, evidence } => format!("verify {release} {evidence:?}"),
        Action::Notify(notice) => format!("notify {}{}", if notice.page { "page: " } else { "" }, notice.reason),
        Action::EnsureHold { quarantined } => format!("ensureHold {}", quarantined.len()),
        other => other.name().to_owned(),
    }
}

pub(super) fn outcome_name(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { .. } => "done".into(),
        Outcome::Transient { what, .. } => format!("transient: {what}"),
        Outcome::Denied(what) => format!("denied: {what}"),
        Outcome::Superseded(what) => format!("superseded: {what}"),
        Outcome::Invalid(what) => format!("invalid: {what}"),
        Outcome::Unknown(what) => format!("unknown: {what}"),
    }
}

pub(super) fn name(input: &Input) -> String {
    match input {
        Input::Deployed(deployed) => format!("{} deploys {}", deployed.request.actor, deployed.release),
        Input::Commanded(command) => format!("{} says {:?}", command.request.actor, command.verb),
        Input::Alerted(alert) => format!("alert {} firing: {}", alert.name, alert.firing),
        Input::ScopeChanged(scope) => format!("{scope:?}"),
        Input::PolicyChanged(_) => "policy".into(),
        Input::SpecChanged(_) => "spec".into(),
        Input::Found(_) | Input::Looked(_) | Input::Observed(_) | Input::Finished { .. } | Input::Woke => "fact".into(),
    }
}
