//! Freezes of wider scopes than one rollout. Each scope is a workload of its own in the store, in which nothing runs: so a freeze and its end
//! are commits like any other, by the same machine, with who, when and why in the same transaction.

use std::sync::Arc;

use crate::core::actor::Request;
use crate::core::input::{Commanded, Input, Verb};
use crate::core::machine::{Answer, Machine};
use crate::core::policy::Policy;
use crate::core::spec::{
    Arms, ArmsBy, Artifacts, Attestation, GuardedRollout, HealthCheck, NoData, Observe, Percent, Process, Recovery, Restore, Retreat,
    Revert, Strategy, Watch, Workload,
};
use crate::core::state::{Guard, State};
use crate::core::time::Span;
use crate::world::clock::Clock;
use crate::world::store::{CommitError, LoadError, Spooled, Store, Unavailable};

/// What stands for every namespace.
const ALL: &str = "*";
/// How often a lost swap is tried again.
const TRIES: usize = 8;

/// How the workload of a scope is called: no rollout can have such a name.
fn key_of(scope: &str) -> String {
    if scope == ALL { ALL.to_owned() } else { format!("{scope}/{ALL}") }
}

fn scope_of(key: &str) -> Option<&str> {
    if key == ALL { Some(ALL) } else { key.strip_suffix("/*") }
}

/// Whether a workload in the store is a scope, and no rollout.
pub fn is_scope(key: &str) -> bool {
    scope_of(key).is_some()
}

/// The scopes that are frozen: namespaces, or `*` for all.
///
/// # Errors
/// The store cannot be read.
pub async fn frozen(store: &Store) -> Result<Vec<String>, LoadError> {
    let mut frozen = Vec::new();
    for key in store.workloads().await? {
        let Some(scope) = scope_of(&key) else { continue };
        if store.load(&key).await?.is_some_and(|state| state.overlays.frozen.is_some()) {
            frozen.push(scope.to_owned());
        }
    }
    Ok(frozen)
}

/// Freezes a scope, or ends that, in somebody's name. Kept on return: in the store, or beside it until the store takes commits.
///
/// # Errors
/// It could not be kept.
pub async fn freeze(store: &Store, clock: Clock, scope: &str, on: bool, request: Request) -> Result<Answer, Unavailable> {
    let key = key_of(scope);
    for _ in 0..TRIES {
        let state = store.load(&key).await.map_err(|error| Unavailable(error.to_string()))?.unwrap_or_else(State::new);
        let now = clock.not_before(state.mono).now();
        let mut machine = Machine::restore(nothing(store.uid(&key), &key), Policy::default(), state);
        let verb = if on { Verb::Freeze } else { Verb::Thaw };
        machine.handle(now, Input::Commanded(Commanded { verb, request: request.clone() }));
        let (Some(answer), Some(commit)) = (machine.answer(), machine.next_work(true).commit) else { break };
        match store.commit(&key, &commit).await {
            Ok(_) => return Ok(answer),
            Err(CommitError::LostSwap { .. }) => {}
            Err(CommitError::Unavailable(what)) => {
                return match store.spool(&key, &commit).await {
                    Spooled::Disk => Ok(answer),
                    Spooled::Memory(_) => Err(Unavailable(what)),
                };
            }
        }
    }
    Err(Unavailable(format!("others change the freeze of {scope} all the time; try again")))
}

/// A guard of nothing.
fn nothing(uid: String, key: &str) -> Guard {
    let process = Process {
        listen: String::new(),
        artifacts: Artifacts::Registry {},
        instances: 0,
        health: HealthCheck::default(),
        drain: Span::default(),
    };
    let spec = GuardedRollout {
        workload: Workload::Process(process),
        arms: Arms { by: ArmsBy::Route, sticky: false },
        source: String::new(),
        objectives: Vec::new(),
        also_breach_on: Vec::new(),
        strategy: Strategy::Observe(Observe {}),
        watch: Watch { for_: Span::default(), holdback: Percent::ZERO },
        attestation: Attestation { policy: String::new() },
        revert: Revert { restore: Restore::Nothing, flags: Vec::new() },
        recovery: Recovery { deadline: Span::default() },
        no_data: NoData::default(),
        retreat: Retreat { for_: Span::default() },
    };
    Guard { key: key.to_owned(), uid, spec: Arc::new(spec), interval: Span::seconds(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::actor::{Actor, ActorKind};
    use crate::core::record::Event;
    use crate::core::time::Mono;
    use crate::world::audit;

    fn by(name: &str, kind: ActorKind, why: &str) -> Request {
        let actor = Actor { kind, principal: name.into(), ..Actor::default() };
        Request { id: format!("rq-{name}"), actor, rationale: Some(why.into()), ..Request::default() }
    }

    #[tokio::test]
    async fn a_freeze_and_its_end_are_on_the_record_with_who_and_why_and_the_log_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store");
        let store = Store::open(&folder, &dir.path().join("spool")).unwrap();
        let clock = Clock::at(Mono(1_000));
        for (scope, on, request) in [
            ("*", true, by("uid:1", ActorKind::Human, "INC-1")),
            ("shop", true, by("uid:2", ActorKind::Agent, "errors everywhere")),
            ("*", false, by("uid:3", ActorKind::Human, "over")),
        ] {
            assert!(freeze(&store, clock, scope, on, request).await.unwrap().accepted);
        }
        assert_eq!(frozen(&store).await.unwrap(), ["shop"]);
        let refused = freeze(&store, clock, "shop", false, by("uid:2", ActorKind::Agent, "please")).await.unwrap();
        assert!(!refused.accepted, "{refused:?}");
        assert_eq!(frozen(&store).await.unwrap(), ["shop"]);
        store.drain().await.unwrap();
        let found = audit::verify(&folder, store.public()).unwrap();
        assert_eq!(found.workloads, 2);
        let mut said = Vec::new();
        for entry in audit::show(&folder, audit::Filter::default()).unwrap() {
            let Some(record) = entry.unwrap().record().unwrap() else { continue };
            if let (Event::Input(_), Some(request)) = (&record.event, record.request) {
                said.push((
                    record.resource_target,
                    request.actor.principal.clone(),
                    request.rationale.clone().unwrap_or_default(),
                    record.result,
                ));
            }
        }
        let said: Vec<_> = said.iter().map(|(of, who, why, result)| (of.as_str(), who.as_str(), why.as_str(), &result[..6])).collect();
        assert_eq!(
            said,
            [
                ("*", "uid:1", "INC-1", "obeyed"),
                ("shop/*", "uid:2", "errors everywhere", "obeyed"),
                ("*", "uid:3", "over", "obeyed"),
                ("shop/*", "uid:2", "please", "refuse"),
            ]
        );
    }
}
