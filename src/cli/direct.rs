//! What the command line does without the controller, and the programs that it starts: every call into parts beyond
//! the API is here, and nowhere else.
#![allow(clippy::unused_async)] // the parts behind these calls are asynchronous

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use super::service::choose;
use crate::api::auth::{Peer, Principals};
use crate::api::wire::{Caller, Claims, Command, Freeze, FreezeScope, Frozen, Reply, Standing};
use crate::config::{Paths, docker_config};
use crate::core::actor::{Actor, ActorKind, Assurance, Request};
use crate::core::attest;
use crate::core::input::{Outcome, Parts};
use crate::core::machine::Answer;
use crate::core::preview::View;
use crate::core::reason::Reason;
use crate::core::record::Record;
use crate::core::release::{Digest, Image, ReleaseId};
use crate::core::spec::Artifacts;
use crate::core::work::Lane;
use crate::error::{Error, Exit};
use crate::shell::cluster::{self, direct as remote};
use crate::shell::standalone::{Setup, StartError};
use crate::shell::{direct, documents, scopes};
use crate::spec;
use crate::world::audit::{self, Filter};
use crate::world::clock::{self, Clock};
use crate::world::host_client::HostClient;
use crate::world::keys::Public;
use crate::world::kubernetes::{connect, freezes};
use crate::world::registry::{Collector, Credentials, Patience};
use crate::world::store::Store;
use crate::world::verify::{Keys, verify as verify_evidence};

/// How long a command without the controller is followed.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long the host may take to answer.
const HOST_WITHIN: Duration = Duration::from_secs(10);

/// A record as the audit log has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Its place in the log.
    pub index: u64,
    /// What was recorded.
    pub record: Record,
}

/// An answer that was written elsewhere, for both kinds of readers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    /// How the program ends.
    pub exit: Exit,
    /// For programs.
    pub value: Value,
    /// For people.
    pub text: String,
}

/// The parts of a controller in these folders.
pub(super) fn setup(paths: &Paths) -> Setup {
    Setup {
        data_dir: paths.data_dir().to_owned(),
        specs: Vec::new(),
        host_socket: paths.host_socket(),
        content: paths.host_dir().join("content"),
        docker_config: docker_config(),
        webhook: None,
    }
}

/// A start that failed, as an error for people.
pub(super) fn start_failed(error: &StartError) -> Error {
    match error {
        StartError::Spec(report) => Error::invalid(format!("{error}\n\n{report}")).hint("`backstop check` says the same without starting"),
        StartError::Elsewhere { .. } => Error::invalid(error.to_string()).hint("leave its document out of what `backstop run` reads"),
        StartError::Store(_) | StartError::State(_) | StartError::Document(_) => {
            Error::unreachable("the store cannot be used").because(error)
        }
        StartError::Source(_) | StartError::Webhook(_) | StartError::Registry(_) => {
            Error::invalid("the controller cannot start").because(error)
        }
    }
}

fn without_controller(error: &StartError, cause: &str) -> Error {
    start_failed(error).cause(format!("the controller does not answer: {cause}"))
}

/// The store's folder; an error if no controller ever ran here, so that looking makes nothing.
fn store_dir(paths: &Paths) -> Result<PathBuf, Error> {
    let dir = paths.data_dir().join("store");
    if dir.join("backstop.db").exists() {
        return Ok(dir);
    }
    Err(Error::unreachable(format!("there is no store in `{}`", paths.data_dir().display()))
        .hint("start the controller with `backstop run --specs DIR`, or name its folder with `--data-dir`"))
}

// ---------------------------------------------------------------------------------------------------- standings

/// Every rollout as the store has it.
pub(super) async fn views(context: &Context, cause: &str) -> Result<Vec<View>, Error> {
    if context.cluster.is_some() {
        let standings = remote::standings(&reach(context).await?, None).await.map_err(|error| start_failed(&error))?;
        return Ok(standings.into_iter().map(|(view, ..)| view).collect());
    }
    store_dir(&context.paths).map_err(|error| error.cause(format!("the controller does not answer: {cause}")))?;
    let standings = direct::standings(&setup(&context.paths)).await.map_err(|error| without_controller(&error, cause))?;
    Ok(standings.into_iter().map(|(view, _)| view).collect())
}

/// One rollout as the store and the host have it, or the cluster.
pub(super) async fn standing(context: &Context, key: &str) -> Result<Standing, Error> {
    let found = if context.cluster.is_some() {
        in_cluster(context, key).await?
    } else {
        let standings = direct::standings(&setup(&context.paths)).await.map_err(|error| start_failed(&error))?;
        let found = standings.into_iter().find(|(view, _)| view.key == key);
        found.map(|(view, plan)| Standing { view, plan, notes: Vec::new() })
    };
    found.ok_or_else(|| Error::usage(format!("there is no rollout `{key}`")))
}

/// One rollout as the cluster has it; nothing if it has none of that name, or if this is about no cluster.
pub(super) async fn in_cluster(context: &Context, key: &str) -> Result<Option<Standing>, Error> {
    if context.cluster.is_none() {
        return Ok(None);
    }
    let standings = remote::standings(&reach(context).await?, Some(key)).await.map_err(|error| start_failed(&error))?;
    Ok(standings.into_iter().next().map(|(view, plan, notes)| Standing { view, plan, notes }))
}

// ---------------------------------------------------------------------------------------------------- commands

/// Moves the traffic of the service that is meant to its stable release, with nothing but the host; the key of its rollout.
///
/// # Errors
/// The host does not answer, knows no such workload or no stable release of it.
pub(super) async fn traffic_to_stable(context: &Context, service: &str) -> Result<String, Error> {
    let host = HostClient::new(context.paths.host_socket(), HOST_WITHIN);
    let known = host.workloads().await.map_err(|fault| Error::unreachable("the host cannot be used").because(&fault))?;
    let key = choose(Some(service), &known)?;
    let (namespace, name) = key.split_once('/').unwrap_or(("default", &key));
    match host.traffic_to_stable(namespace, name).await {
        Outcome::Done { .. } => Ok(key),
        Outcome::Unknown(what) | Outcome::Transient { what, .. } => Err(Error::unreachable("the host may not have obeyed").cause(what)),
        Outcome::Denied(what) | Outcome::Invalid(what) | Outcome::Superseded(what) => {
            Err(Error::new(Exit::Refused, "the host did not obey").cause(what))
        }
    }
}

/// Who this user is, by the same file that the controller reads.
fn request(context: &Context, claims: Claims, body: &[u8]) -> Result<Request, Error> {
    let owner = owner(context.paths.data_dir())?;
    let principals = Principals::open(context.paths.principals(), owner)
        .map_err(|error| Error::invalid("the principals cannot be used").because(&error))?;
    let peer = Peer::Uid(rustix::process::getuid().as_raw());
    let caller = principals
        .identify(peer, &axum::http::HeaderMap::new(), clock::wall())
        .map_err(|problem| Error::new(Exit::Refused, problem.detail))?;
    claims.request(&caller, &Digest::of(body), clock::wall()).map_err(|error| Error::usage(error.to_string()))
}

/// The user that owns a folder.
pub(super) fn owner(dir: &Path) -> Result<u32, Error> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(dir);
    metadata
        .map(|metadata| metadata.uid())
        .map_err(|error| Error::unreachable(format!("`{}` cannot be read", dir.display())).because(&error))
}

/// Gives a command to the machine in this process.
pub(super) async fn command(context: &Context, key: &str, command: &Command, cause: &str) -> Result<Reply, Error> {
    follow(context, key, command, PATIENCE, &mut |_| {}, cause).await.map(|(reply, _)| reply)
}

/// The same, telling each change of the view; it is followed for as long as `patience` says.
pub(super) async fn follow(
    context: &Context,
    key: &str,
    command: &Command,
    patience: Duration,
    told: &mut dyn FnMut(&View),
    cause: &str,
) -> Result<(Reply, View), Error> {
    let body = serde_json::to_vec(command).map_err(|error| Error::internal("the command cannot be written as JSON").because(&error))?;
    let (done, request) = if context.cluster.is_some() {
        let setup = reach(context).await?;
        let request = request_there(&setup, command.claims.clone(), &body).await?;
        let done = remote::command(&setup, key, command.verb.clone(), request.clone(), patience, told).await;
        (done.map_err(|error| start_failed(&error))?, request)
    } else {
        store_dir(&context.paths)?;
        let request = request(context, command.claims.clone(), &body)?;
        let done = direct::command(&setup(&context.paths), key, command.verb.clone(), request.clone(), patience, told).await;
        (done.map_err(|error| without_controller(&error, cause))?, request)
    };
    let (answer, view) = done.ok_or_else(|| Error::usage(format!("there is no rollout `{key}`")))?;
    Ok((Reply::of(accepted(answer)?, &request), view))
}

/// The answer, unless it is a refusal.
fn accepted(answer: Answer) -> Result<Answer, Error> {
    if answer.accepted {
        return Ok(answer);
    }
    Err(Error::new(Exit::Refused, answer.reason.to_string()).with_code(Some(answer.reason.code().to_owned())))
}

/// Freezes a wider scope in the store; every controller on it reads that when it starts.
pub(super) async fn freeze(context: &Context, freeze: &Freeze, cause: &str) -> Result<Frozen, Error> {
    freeze.scope.check().map_err(Error::usage)?;
    if let Some(cluster) = &context.cluster {
        return freeze_there(context, cluster, freeze).await;
    }
    let dir = store_dir(&context.paths)?;
    let body = serde_json::to_vec(freeze).map_err(|error| Error::internal("the freeze cannot be written as JSON").because(&error))?;
    let request = request(context, freeze.claims.clone(), &body)?;
    let unavailable = |error| without_controller(&StartError::Store(error), cause);
    let store = Store::open(&dir, &context.paths.data_dir().join("spool")).map_err(unavailable)?;
    let clock = Clock::start(&store).await.map_err(unavailable)?;
    let id = request.id.clone();
    accepted(scopes::freeze(&store, clock, scope_name(&freeze.scope), true, request).await.map_err(unavailable)?)?;
    if let Err(error) = store.drain().await {
        tracing::warn!(%error, "the record waits in the outbox");
    }
    let guarded = documents::kept(&store).await.map_err(|error| without_controller(&error, cause))?.rollouts;
    Ok(Frozen { request: id, rollouts: guarded.keys().filter(|key| freeze.scope.contains(key)).count() })
}

// ---------------------------------------------------------------------------------------------------- cluster

/// What the command line acts with on a cluster: the user's own rights, and a folder of its own for copies of evidence.
async fn reach(context: &Context) -> Result<cluster::Setup, Error> {
    let about = context.cluster.as_ref().ok_or_else(|| Error::internal("no cluster is meant"))?;
    let connected = connect::connect(about.kubeconfig.as_deref(), None).await;
    let connected = connected.map_err(|error| Error::unreachable("the cluster cannot be reached").because(&error))?;
    let place = Digest::of(connected.url.as_bytes());
    Ok(cluster::Setup {
        cluster: connected.cluster,
        api_server: connected.url,
        namespace: about.namespace.clone(),
        namespaces: Vec::new(),
        data_dir: context.paths.data_dir().join("clusters").join(place.short()),
        identity: "command-line".into(),
        docker_config: docker_config(),
        webhook: None,
        actors: std::sync::Arc::new(|_: &str| crate::core::actor::Actor::default()),
    })
}

/// Has the API server try what the planned revert writes, without keeping it: rights and admission policies speak up.
pub(super) async fn dry_run(context: &Context, at: &Standing, to: Option<&ReleaseId>, parts: Parts) -> Result<(), Error> {
    if context.cluster.is_none() {
        return Ok(());
    }
    let said = remote::dry_run(&reach(context).await?, &at.view.key, &at.plan, to, parts).await;
    match said.map_err(|error| start_failed(&error))? {
        Some(against) => Err(Error::new(Exit::Refused, format!("the API server would not take this revert: {against}"))),
        None => Ok(()),
    }
}

/// Who this user is, by the API server. Service accounts are no people.
async fn caller(setup: &cluster::Setup) -> Result<Caller, Error> {
    let user = connect::whoami(setup.cluster.client(Lane::Revert)).await;
    let user = user.map_err(|error| Error::unreachable("the cluster does not say who you are").because(&error))?;
    let kind = if user.starts_with("system:serviceaccount:") { ActorKind::Automation } else { ActorKind::Human };
    let actor = Actor { kind, principal: format!("kubernetes:{user}"), assurance: Assurance::Authenticated, ..Actor::default() };
    Ok(Caller { actor, scope: None, ttl: None })
}

async fn request_there(setup: &cluster::Setup, claims: Claims, body: &[u8]) -> Result<Request, Error> {
    let caller = caller(setup).await?;
    claims.request(&caller, &Digest::of(body), clock::wall()).map_err(|error| Error::usage(error.to_string()))
}

async fn freeze_there(context: &Context, cluster: &super::context::Cluster, freeze: &Freeze) -> Result<Frozen, Error> {
    let setup = reach(context).await?;
    let body = serde_json::to_vec(freeze).map_err(|error| Error::internal("the freeze cannot be written as JSON").because(&error))?;
    let request = request_there(&setup, freeze.claims.clone(), &body).await?;
    let client = setup.cluster.client(Lane::Revert);
    let kept = freezes::keep(client, &cluster.namespace, scope_name(&freeze.scope), Some(&request)).await;
    kept.map_err(|error| Error::unreachable("the freeze is not kept").because(&error))?;
    let standings = remote::standings(&setup, None).await.map_err(|error| start_failed(&error))?;
    Ok(Frozen { request: request.id, rollouts: standings.iter().filter(|(view, ..)| freeze.scope.contains(&view.key)).count() })
}

/// How a scope is called in the store: a namespace, or `*`.
pub(super) fn scope_name(scope: &FreezeScope) -> &str {
    match scope {
        FreezeScope::All => "*",
        FreezeScope::Namespace(namespace) => namespace,
    }
}

// ---------------------------------------------------------------------------------------------------- audit

/// Records of the audit log, oldest first; of one rollout, if one is named.
pub(super) async fn records(context: &Context, key: Option<&str>) -> Result<Vec<Entry>, Error> {
    if context.cluster.is_some() {
        Context::warn("these are the records of the newest commits; the replicas' own logs have the others");
        let records = remote::records(&reach(context).await?, key).await.map_err(|error| start_failed(&error))?;
        return Ok((0..).zip(records).map(|(index, record)| Entry { index, record }).collect());
    }
    let dir = store_dir(&context.paths)?;
    let filter = Filter { workload: key.map(str::to_owned), ..Filter::default() };
    let unreadable = |error: &dyn std::error::Error| Error::unreachable("the audit log cannot be read").cause(error.to_string());
    let entries = audit::show(&dir, filter).map_err(|error| unreadable(&error))?;
    let mut records = Vec::new();
    let mut next = 0;
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(&error))?;
        let index = entry.index.unwrap_or(next);
        next = index + 1;
        if let Some(record) = entry.record().map_err(|error| unreadable(&error))? {
            records.push(Entry { index, record });
        }
    }
    Ok(records)
}

/// Hands out every entry of the log as a line of JSON, with everything that was moved out of it; how many.
pub(super) fn export(context: &Context, key: Option<&str>, out: &mut dyn FnMut(&str) -> Result<(), Error>) -> Result<u64, Error> {
    let dir = store_dir(&context.paths)?;
    let unreadable = |error: &dyn std::error::Error| Error::unreachable("the audit log cannot be read").cause(error.to_string());
    let filter = Filter { workload: key.map(str::to_owned), ..Filter::default() };
    let mut count = 0;
    for entry in audit::show(&dir, filter).map_err(|error| unreadable(&error))? {
        let whole = entry.map_err(|error| unreadable(&error))?.whole().map_err(|error| unreadable(&error))?;
        out(&whole.to_string())?;
        count += 1;
    }
    Ok(count)
}

/// Checks the whole audit log against its keys.
pub(super) fn audit_verify(context: &Context) -> Result<Report, Error> {
    let dir = store_dir(&context.paths)?;
    let public =
        Public::load(&dir.join("keys")).map_err(|error| Error::invalid("the store's public keys cannot be read").because(&error))?;
    Ok(match audit::verify(&dir, &public) {
        Ok(found) => Report {
            exit: Exit::Done,
            value: json!({"verified": true, "entries": found.entries, "checkpoints": found.checkpoints, "workloads": found.workloads,
                "ledger": found.ledger, "evidence": found.evidence, "undrained": found.undrained, "elsewhere": found.elsewhere,
                "log": public.log.to_string()}),
            text: format!(
                "verified: {} entries under {} signed checkpoints, {} ledger records, {} evidence files; {} entries wait for the next checkpoint\n{}log key: {}\n",
                found.entries,
                found.checkpoints,
                found.ledger,
                found.evidence,
                found.undrained,
                elsewhere(found.elsewhere),
                public.log
            ),
        },
        Err(broken) => Report {
            exit: Exit::No,
            value: json!({"verified": false, "index": broken.index, "what": broken.what}),
            text: format!("NOT VERIFIED: {broken}\n"),
        },
    })
}

fn elsewhere(times: u64) -> String {
    match times {
        0 => String::new(),
        times => format!("{times} times a workload goes on in the log of another replica\n"),
    }
}

// ---------------------------------------------------------------------------------------------------- check, verify

/// Checks documents.
pub(super) fn check(paths: &[PathBuf], color: bool) -> Result<Report, Error> {
    let report = spec::check(paths);
    let value = serde_json::to_value(&report).map_err(|error| Error::internal("the report cannot be written as JSON").because(&error))?;
    Ok(Report { exit: if report.is_ok() { Exit::Done } else { Exit::Invalid }, value, text: report.render(color) })
}

/// Verifies the attestation of an image.
pub(super) async fn verify(image: &Image, policy: &Path, layout: Option<&Path>) -> Result<Report, Error> {
    let loaded = spec::load(&[policy]);
    if loaded.has_errors() {
        return Err(start_failed(&StartError::Spec(spec::CheckReport::of(&loaded))));
    }
    let mut demands = loaded.policies.values().filter_map(|policy| policy.attestation.clone());
    let first =
        demands.next().ok_or_else(|| Error::invalid(format!("`{}` has no GuardPolicy with an `attestation` block", policy.display())))?;
    let demands = demands.fold(first, attest::AttestationPolicy::merge);
    let keys = Keys::new(&demands).map_err(|error| Error::invalid("a key of the policy cannot be used").because(&error))?;
    let artifacts = match layout {
        Some(path) => Artifacts::Layout { path: path.display().to_string() },
        None => Artifacts::Registry {},
    };
    let credentials = docker_config().map_or_else(|| Ok(Credentials::default()), |file| Credentials::from_docker_config(&file));
    let collector = credentials
        .and_then(|credentials| Collector::new(credentials, Patience::default()))
        .map_err(|fault| Error::unreachable("registries cannot be asked").cause(fault.to_string()))?;
    let evidence = collector.collect(image, &artifacts).await;
    let facts = attest::Facts { images: vec![verify_evidence(&evidence, &keys)], ledger_untrusted: None };
    Ok(verified(image, &facts, &attest::evaluate(&demands, &facts).err().unwrap_or_default()))
}

fn verified(image: &Image, facts: &attest::Facts, reasons: &[Reason]) -> Report {
    let exit = match reasons.first() {
        None => Exit::Done,
        Some(Reason::EvidenceUnavailable { .. }) => Exit::Unreachable,
        Some(_) => Exit::Refused,
    };
    let mut text = format!("{image}\n");
    for found in &facts.images {
        for statement in &found.statements {
            let kind = statement.predicate_type.as_deref().unwrap_or("signature");
            let _ = writeln!(text, "  verified  {} by {} ({kind})", statement.proof.word(), statement.authority);
        }
        for rejected in &found.rejected {
            let _ = writeln!(text, "  rejected  {}", super::text::clean(rejected));
        }
    }
    for reason in reasons {
        let _ = writeln!(text, "  {} {}", reason.code(), super::text::clean(&reason.to_string()));
    }
    text.push_str(if reasons.is_empty() { "attested: the policy is met\n" } else { "NOT ATTESTED\n" });
    let codes: Vec<Value> = reasons.iter().map(|reason| json!({"code": reason.code(), "text": reason.to_string()})).collect();
    Report { exit, value: json!({"attested": reasons.is_empty(), "reasons": codes, "facts": facts}), text }
}
