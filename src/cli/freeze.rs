//! `backstop freeze`.

use super::Context;
use super::command::{Who, words};
use super::direct;
use super::service::{find, path, without};
use crate::api::wire::{Command, Freeze, FreezeScope, Frozen, Reply};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// The kill-switch: no deployment and no forward step, for one service, a namespace or everything
///
/// Reverts go on. Works without the controller.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop freeze checkout --reason INC-42
  backstop freeze --namespace shop
  backstop freeze --all --reason 'the network is on fire'")]
pub struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    who: Who,
}

/// One service, a namespace, or everything; one of them has to be said.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Scope {
    /// The service: `checkout` or `shop/checkout`.
    service: Option<String>,
    /// Every rollout of this namespace.
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Every rollout.
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    switch(context, &args.scope, &args.who, true).await
}

/// Begins or ends a freeze.
pub(super) async fn switch(context: &Context, scope: &Scope, who: &Who, on: bool) -> Result<Exit, Error> {
    let wider = if scope.all { Some(FreezeScope::All) } else { scope.namespace.clone().map(FreezeScope::Namespace) };
    let claims = who.claims();
    if let Some(scope) = wider {
        let freeze = Freeze { scope, claims };
        let done = context.client.post::<Frozen>(if on { "/v1/freeze" } else { "/v1/thaw" }, &freeze).await;
        let frozen = match done {
            Err(failure) if on => direct::freeze(context, &freeze, &without(failure)?).await?,
            done => done?,
        };
        let what = if on { "frozen" } else { "no longer frozen as a whole" };
        let nobody = if frozen.rollouts == 0 { "; `backstop status` lists what there is" } else { "" };
        context.show(&frozen, || format!("{what}: {} rollouts{nobody}", frozen.rollouts))?;
        return Ok(Exit::Done);
    }
    let verb = if on { Verb::Freeze } else { Verb::Thaw };
    let command = Command { verb, claims };
    let given = scope.service.as_deref();
    let key = if on { super::service::standing(context, given).await?.0.view.key } else { find(context, given).await? };
    let reply = match context.client.post::<Reply>(&format!("{}/command", path(&key)), &command).await {
        Err(failure) if on => direct::command(context, &key, &command, &without(failure)?).await?,
        reply => reply?,
    };
    context.show(&reply, || format!("{key}: {}", words(&reply)))?;
    Ok(Exit::Done)
}
