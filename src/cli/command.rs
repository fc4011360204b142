//! What the verbs that give a command share: who asks, why, and what comes back.

use clap::Args;

use super::Context;
use super::service::{find, path};
use super::text::clean;
use crate::api::wire::{Claims, Command, Reply};
use crate::core::input::Verb;
use crate::error::{Error, Exit};

/// Who asks, and why. Nothing said here can raise rights: those come from the credential.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Who asks, and why")]
pub(super) struct Who {
    /// On whose behalf: `agent:NAME@VERSION`, `automation:NAME` or `human`; can only lower rights.
    #[arg(long, env = "BACKSTOP_ACTOR", value_name = "KIND[:NAME[@VERSION]]", hide_env_values = true)]
    pub actor: Option<String>,
    /// Model behind the agent.
    #[arg(long, env = "BACKSTOP_MODEL", hide_env_values = true)]
    pub model: Option<String>,
    /// Run of the agent or pipeline.
    #[arg(long, env = "BACKSTOP_RUN_ID", value_name = "ID", hide_env_values = true)]
    pub run_id: Option<String>,
    /// What made you act: an issue, a schedule, an alert, a chat.
    #[arg(long, value_name = "TEXT")]
    pub trigger: Option<String>,
    /// Why; kept in the audit log, at most 4 KiB.
    #[arg(long, visible_alias = "rationale", value_name = "TEXT")]
    pub reason: Option<String>,
}

impl Who {
    pub(super) fn claims(&self) -> Claims {
        Claims {
            actor: self.actor.clone(),
            model: self.model.clone(),
            run_id: self.run_id.clone(),
            trigger: self.trigger.clone(),
            rationale: self.reason.clone(),
        }
    }
}

/// A service, and who asks.
#[derive(Debug, Clone, Args)]
pub(super) struct Said {
    /// The service: `checkout` or `shop/checkout`; may be left out if there is only one.
    pub service: Option<String>,
    #[command(flatten)]
    pub who: Who,
}

/// Gives a command and prints the answer.
pub(super) async fn say(context: &Context, said: &Said, verb: Verb) -> Result<Exit, Error> {
    let key = find(context, said.service.as_deref()).await?;
    let reply = send(context, &key, verb, &said.who).await?;
    context.show(&reply, || format!("{key}: {}", words(&reply)))?;
    Ok(Exit::Done)
}

/// Gives a command.
pub(super) async fn send(context: &Context, key: &str, verb: Verb, who: &Who) -> Result<Reply, Error> {
    let command = Command { verb, claims: who.claims() };
    Ok(context.client.post(&format!("{}/command", path(key)), &command).await?)
}

/// The answer in a line.
pub(super) fn words(reply: &Reply) -> String {
    format!("{} {}", reply.code, clean(&reply.text))
}
