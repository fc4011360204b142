//! Who asked. The kind comes from the credential, never from a claim; claims may only lower rights.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What sort of principal a credential belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ActorKind {
    /// Not mapped: may stop things and nothing else.
    #[default]
    Unknown,
    /// A developer agent that decides by itself.
    Agent,
    /// A pipeline or schedule.
    Automation,
    /// A person.
    Human,
}

impl fmt::Display for ActorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Agent => "agent",
            Self::Automation => "automation",
            Self::Human => "human",
        })
    }
}

/// How well a field of the record is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Assurance {
    /// The requester said so.
    #[default]
    Claimed,
    /// A platform recorded it.
    Recorded,
    /// The server that answered authenticated it: peer credentials, a token.
    Authenticated,
    /// A signature proves it.
    Proven,
}

/// A requester.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Actor {
    /// From the credential; a claim may lower it (human to agent), never raise it.
    pub kind: ActorKind,
    /// The credential's subject, such as `uid:1000` or `token:ci`.
    pub principal: String,
    /// How well `principal` and `kind` are known.
    pub assurance: Assurance,
    /// The credential's own kind, where a claim lowered it: what binds that kind binds still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowered_from: Option<ActorKind>,
    /// Name of the agent; claimed unless its credential names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Whether `agent_id` is a claim alone: it gets nobody out of a policy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub agent_claimed: bool,
    /// Version of the agent; claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Model behind the agent; claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Actor {
    /// backstop itself.
    pub fn controller() -> Self {
        Self { kind: ActorKind::Automation, principal: "backstop".into(), assurance: Assurance::Authenticated, ..Self::default() }
    }

    /// Whether this is a person.
    pub fn is_human(&self) -> bool {
        self.kind == ActorKind::Human
    }

    /// Takes what the requester says about itself: names stay claims, and the kind can only fall.
    #[must_use]
    pub fn claiming(
        mut self,
        kind: Option<ActorKind>,
        agent_id: Option<String>,
        agent_version: Option<String>,
        model: Option<String>,
    ) -> Self {
        if let Some(kind) = kind.filter(|kind| *kind < self.kind) {
            self.lowered_from = Some(self.kind);
            self.kind = kind;
        }
        self.agent_claimed = self.agent_id.is_none() && agent_id.is_some();
        self.agent_id = agent_id.or(self.agent_id);
        self.agent_version = agent_version.or(self.agent_version);
        self.model = model.or(self.model);
        self
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.agent_id, &self.agent_version) {
            (Some(id), Some(version)) => write!(f, "{} {id}@{version} ({})", self.kind, self.principal),
            (Some(id), None) => write!(f, "{} {id} ({})", self.kind, self.principal),
            (None, _) => write!(f, "{} {}", self.kind, self.principal),
        }
    }
}

/// Why and under which credential something was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Request {
    /// Names this request; derived by the receiver, never random.
    pub id: String,
    /// The run of the agent or pipeline that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Who asked.
    pub actor: Actor,
    /// What made the requester act: an issue, a schedule, an alert, a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// The requester's reason, at most 4 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// Names the scope of the credential, never the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_scope_id: Option<String>,
    /// Seconds the credential was still valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_ttl: Option<u64>,
    /// How many of this requester's requests were turned away for their rate since the one before: they have no records of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_before: Option<u64>,
}

impl Request {
    /// Who is behind the credential: two credentials of one name are one requester, whatever each says about itself.
    pub fn who(&self) -> &str {
        self.token_scope_id.as_deref().unwrap_or(&self.actor.principal)
    }
}
