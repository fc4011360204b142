//! Guards against the policies that apply to them.

use super::{Guard, Sheet};
use crate::core::policy::{self, GuardPolicy, Weaker};
use crate::spec::code;
use crate::spec::document::Kind;
use crate::spec::finding::{Finding, Severity};
use crate::spec::load::At;

pub(super) fn check(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    let loaded = sheet.loaded;
    let policies: Vec<_> = loaded.policies.iter().filter(|(_, policy)| policy.match_.guard(guard.metadata)).collect();
    for (name, policy) in &policies {
        for weaker in policy::weaker(name, policy, guard.rollout) {
            push(sheet, policy, &weaker);
        }
    }
    let Some(field) = policy::wants_promotion_on_health(guard.rollout) else { return };
    let merged = policy::merge(policies.iter().filter(|(_, policy)| !policy.match_.names_actors()).map(|(_, policy)| *policy), None);
    if !merged.promote_on_health {
        let message = "no policy allows that health stands in for evidence";
        let finding = Finding::error(code::WEAKER, message)
            .fix("choose `wait`, `retreat` or `revert`, or ask for `promoteOnHealth: true` in a policy");
        let denying = policies.iter().find(|(_, policy)| policy.floors.promote_on_health == Some(false));
        let place = denying.and_then(|(key, _)| loaded.place(At { kind: Kind::GuardPolicy, key }, "/spec/floors/promoteOnHealth"));
        sheet.push(
            field,
            match place {
                Some(place) => finding.related("refused here", place),
                None => finding,
            },
        );
    }
}

/// A policy for everybody refuses the guard; one for some requesters refuses their deployments.
fn push(sheet: &mut Sheet<'_>, policy: &GuardPolicy, weaker: &Weaker) {
    let conditional = policy.match_.names_actors();
    let who = match (policy.match_.actors.as_slice(), policy.match_.agents.as_slice()) {
        ([], agents) => agents.join(", "),
        (actors, []) => actors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        (actors, agents) => format!("{} {}", actors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "), agents.join(", ")),
    };
    let message =
        if conditional { format!("deployments by {who} will be refused: {weaker}") } else { format!("weaker than its policy: {weaker}") };
    let severity = if conditional { Severity::Warning } else { Severity::Error };
    let finding = Finding { severity, ..Finding::error(code::WEAKER, message) }.expected(&weaker.demands);
    let place = sheet.loaded.place(At { kind: Kind::GuardPolicy, key: &weaker.policy }, &weaker.floor);
    sheet.push(
        &weaker.field,
        match place {
            Some(place) => finding.related("demanded here", place),
            None => finding,
        },
    );
}
