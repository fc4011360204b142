//! Acting on a cluster without the controller, with the user's own rights: the same machine and store, for one rollout, in the process
//! of the command line. A controller that runs meanwhile, or comes back, goes on from what was decided here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::Setup;
use super::books::{Books, conditions_of, key_of, troubles};
use super::observer::Observer;
use super::sight::one_or_all;
use crate::core::actor::{Actor, Request};
use crate::core::input::{Commanded, Input, Observed, Outcome, Parts, Verb};
use crate::core::machine::Answer;
use crate::core::preview::{RevertPlan, View};
use crate::core::record::Record;
use crate::core::release::ReleaseId;
use crate::core::spec::Percent;
use crate::core::state::{Guard, State};
use crate::core::time::Mono;
use crate::core::work::{Action, Effect, EffectId, Fence, Lane};
use crate::shell::direct::{GLANCE, give};
use crate::shell::rollout::{Policies, Rollout, Shared};
use crate::shell::standalone::{StartError, guard};
use crate::spec::Loaded;
use crate::spec::document::Kind;
use crate::world::audit::leaf;
use crate::world::clock::Clock;
use crate::world::kubernetes::objects::{resource, unavailable};
use crate::world::kubernetes::store::Store;
use crate::world::kubernetes::{in_force, report};
use crate::world::perform::Subjects;
use crate::world::source::Source;
use crate::world::store as local;

/// What the API server has of backstop.
struct Known {
    loaded: Loaded,
    objects: BTreeMap<String, DynamicObject>,
}

/// Reads every document. Guards alone must be readable; what is not readable beside them is missing.
async fn read(setup: &Setup) -> Result<Known, StartError> {
    let client = setup.cluster.housekeeping();
    let mut books = Books::default();
    match in_force::read(client, &setup.namespace).await {
        Ok(kept) => books.remember(kept),
        Err(error) => tracing::warn!(%error, "what is in force of policies and sources cannot be read; they are taken as written"),
    }
    let mut objects = BTreeMap::new();
    for namespace in one_or_all(&setup.namespaces) {
        let kind = resource(Kind::GuardedRollout.name());
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        let found = api.list(&ListParams::default()).await.map_err(|error| unavailable("GuardedRollouts", &error))?;
        for object in found {
            books.apply(Kind::GuardedRollout, &object, Path::new("/"));
            objects.insert(key_of(&object), object);
        }
    }
    for kind in [Kind::GuardPolicy, Kind::GuardSource, Kind::FlagTarget] {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind.name()));
        match api.list(&ListParams::default()).await {
            Ok(found) => {
                for object in found {
                    books.apply(kind, &object, Path::new("/"));
                }
            }
            Err(error) => tracing::warn!(%kind, %error, "these documents cannot be read with your rights"),
        }
    }
    Ok(Known { loaded: books.loaded(super::watches::is_stamped(client).await), objects })
}

async fn store(setup: &Setup) -> Result<Store, StartError> {
    let local = local::Store::open(&setup.data_dir.join("store"), &setup.data_dir.join("spool"))?;
    Ok(Store::guest(setup.cluster.client(Lane::Revert).clone(), &setup.namespace, local).await?)
}

fn guard_of(loaded: &Arc<Loaded>, uid: String, key: &str) -> Option<(Guard, Policies)> {
    let (metadata, spec) = loaded.rollouts.get(key)?;
    let policies = Policies::new(Arc::clone(loaded), metadata.clone(), spec);
    Some((guard(loaded, uid, key, &policies, spec), policies))
}

/// Every rollout, or the one called `only`, as the API server has it, with what its conditions say people should know; one that is named
/// is looked at, too.
///
/// # Errors
/// The API server does not answer, or the user may not read.
pub async fn standings(setup: &Setup, only: Option<&str>) -> Result<Vec<(View, RevertPlan, Vec<String>)>, StartError> {
    let Known { loaded, objects } = read(setup).await?;
    let (loaded, store) = (Arc::new(loaded), store(setup).await?);
    let mut standings = Vec::new();
    #[allow(clippy::unwrap_or_default, reason = "a new state has a version, a default one has none")]
    for (key, object) in objects.into_iter().filter(|(key, _)| only.is_none_or(|only| only == key)) {
        let Some((guard, _)) = guard_of(&loaded, store.uid(&key), &key) else { continue };
        let notes = report::notes(&conditions_of(&object));
        let (mut state, mut observed) = (Store::state_of(&object).unwrap_or_else(State::new), Observed::default());
        if only.is_some() {
            store.offer(&key, &object);
            state = store.load(&key).await?.unwrap_or_else(State::new);
            observed = setup.cluster.see(&guard, &[]).await.map(|seen| seen.observed).unwrap_or_default();
        }
        let plan = RevertPlan::of(&key, &guard.uid, &guard.spec, &state, &observed);
        standings.push((View::of_state(&key, &state, &observed), plan, notes));
    }
    Ok(standings)
}

/// The records that ride in the statuses: those of the newest commits. The others are in the logs of the replicas.
///
/// # Errors
/// The API server does not answer, or the user may not read.
pub async fn records(setup: &Setup, only: Option<&str>) -> Result<Vec<Record>, StartError> {
    let Known { objects, .. } = read(setup).await?;
    let mut records = Vec::new();
    for (_, object) in objects.iter().filter(|(key, _)| only.is_none_or(|only| only == key.as_str())) {
        for line in object.data["status"]["records"].as_array().into_iter().flatten().filter_map(|line| line.as_str()) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            // A part that was too long for its line is in a replica's folder.
            if let Ok(Some(record)) = leaf::record(&line, |_| Err("elsewhere")) {
                records.push(record);
            }
        }
    }
    records.sort_by_key(|record| record.at.wall);
    Ok(records)
}

/// Has the API server try the writes of a revert of `key` (traffic back, the template restored, the state committed), and keep none.
///
/// `to` is the release that would go back; the writes are those of the effects themselves. What is in place already is not written.
///
/// Returns what is said against them; nothing if all are taken.
///
/// # Errors
/// The API server does not answer, or the user may not read.
pub async fn dry_run(
    setup: &Setup,
    key: &str,
    plan: &RevertPlan,
    to: Option<&ReleaseId>,
    parts: Parts,
) -> Result<Option<String>, StartError> {
    let Known { loaded, mut objects } = read(setup).await?;
    let (loaded, store) = (Arc::new(loaded), store(setup).await?);
    let Some((object, (guard, policies))) = objects.remove(key).zip(guard_of(&loaded, store.uid(key), key)) else { return Ok(None) };
    let client = setup.cluster.client(Lane::Revert);
    let kind = resource(Kind::GuardedRollout.name());
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    let guards: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    // A commit writes no more of the status than this; what exactly, the machine says when it is asked.
    let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
    let same = Patch::Merge(json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "status": {}}));
    let what = format!("GuardedRollout {key}, status");
    match guards.patch_status(name, &parameters, &same).await {
        Err(kube::Error::Api(said)) if said.code < 429 && said.code != 409 => return Ok(Some(format!("{what}: {}", said.message))),
        tried => tried.map(drop).map_err(|error| unavailable(&what, &error))?,
    }
    store.offer(key, &object);
    let state = store.load(key).await?.unwrap_or_else(State::new);
    let target = plan.targets.iter().find(|one| to.is_none_or(|to| *to == one.id)).filter(|_| parts == Parts::All);
    let traffic = plan.traffic_to.as_ref().filter(|_| parts != Parts::Flags).map(|stable| {
        let weights = [(stable.id.clone(), Percent::FULL)].into();
        (Action::EnsureWeights { weights }, Fence::Stable(stable.id.clone()))
    });
    let restore = target.map(|target| (Action::EnsureRelease { release: target.clone() }, Fence::Generation(state.generation)));
    // What the machine knows of may be replaced.
    for record in state.ledger.records() {
        setup.cluster.answered(key, &record.release.id);
    }
    let subjects = Subjects {
        guard,
        policy: Arc::new(policies.of_guard()),
        generation: state.generation,
        stable: state.stable.clone(),
        way_back: state.way_back().cloned(),
        revert: Some(plan.id.clone()),
        reverting: Some(plan.id.clone()),
        ledger: state.ledger.records().to_vec(),
    };
    for (ordinal, (action, fence)) in (0..).zip(traffic.into_iter().chain(restore)) {
        let id = EffectId { revision: state.revision + 1, ordinal };
        let effect = Effect { id, fence, deadline: Mono::default(), lane: Lane::Revert, action };
        match setup.cluster.dry_run().ensure(&subjects, &effect).await {
            // What comes after the write (pods that go, say) does not come of a dry run.
            Outcome::Done { .. } | Outcome::Transient { .. } => {}
            Outcome::Denied(what) | Outcome::Invalid(what) | Outcome::Superseded(what) | Outcome::Unknown(what) => {
                return Ok(Some(format!("{}: {what}", effect.action.name())));
            }
        }
    }
    Ok(None)
}

/// Gives a command to one rollout's machine, tells each change of its view, and stays until its effects are done.
///
/// # Errors
/// The API server does not answer, the user may not do this, or the guard cannot be used.
pub async fn command(
    setup: &Setup,
    key: &str,
    verb: Verb,
    request: Request,
    patience: Duration,
    told: &mut dyn FnMut(&View),
) -> Result<Option<(Answer, View)>, StartError> {
    let Known { loaded, objects } = read(setup).await?;
    if !objects.contains_key(key) {
        return Ok(None);
    }
    let loaded = Arc::new(loaded);
    if !loaded.rollouts.contains_key(key) {
        return Err(StartError::Document(format!("{key}: {}", troubles(&loaded, key).join("; "))));
    }
    let store = store(setup).await?;
    let clock = Clock::of_cluster(&store).await?;
    let world = super::world(setup, store, clock)?;
    for (name, source) in &loaded.sources {
        if let Ok(source) = Source::open(name, source) {
            world.connect(name, source);
        }
    }
    world.replace_flag_targets(loaded.flags.clone());
    let uid = world.store().uid(key);
    let Some((guard, policies)) = guard_of(&loaded, uid, key) else { return Ok(None) };
    let shared = Arc::new(Shared::new(world, loaded));
    let rollout = Rollout::restore(Arc::clone(&shared), guard, policies).await?;
    let (stop, stopped) = watch::channel(false);
    let (ordinary_in, ordinary) = mpsc::channel(16);
    let observer = Observer {
        shared: Arc::clone(&shared),
        cluster: setup.cluster.clone(),
        key: key.to_owned(),
        bell: Arc::default(),
        actors: Arc::new(|_: &str| Actor::default()),
        stamped: watch::channel(false).1,
        turns: Arc::default(),
        again: Arc::default(),
        only_looks: true,
    };
    let tasks = [tokio::spawn(observer.run(ordinary_in, stopped.clone())), tokio::spawn(rollout.run(ordinary, stopped))];
    if let Some(mut line) = shared.handle.line(key) {
        let _ = tokio::time::timeout(GLANCE, line.view.wait_for(|view| !view.0.arms.is_empty())).await;
    }
    let over = |view: &View| crate::shell::direct::has_moved(view);
    let last = give(&shared.handle, key, Input::Commanded(Commanded { verb, request }), patience, told, &over).await;
    stop.send_replace(true);
    for task in tasks {
        if tokio::time::timeout(Duration::from_secs(5), task).await.is_err() {
            tracing::warn!(rollout = key, "an effect is still under way");
        }
    }
    Ok(last)
}
