//! What goes over the API, as both ends know it.

use serde::{Deserialize, Serialize};

use crate::core::actor::{Actor, ActorKind, Request};
use crate::core::input::Verb;
use crate::core::machine::Answer;
use crate::core::preview::{RevertPlan, View};
use crate::core::reason::Reason;
use crate::core::record::Record;
use crate::core::release::{Digest, Template};
use crate::core::text::is_unseen;
use crate::host::decide::inside;

/// Longest rationale, in bytes.
pub const RATIONALE_MAX: usize = 4096;
/// Longest of the other claims, in bytes.
const CLAIM_MAX: usize = 256;
/// Largest command and environment together, in bytes: every record of the release carries them.
const TEMPLATE_MAX: usize = 64 << 10;
/// Longest name of a namespace, in bytes.
const NAMESPACE_MAX: usize = 253;

/// What a requester says about itself. Names stay claims, and the kind can only lower rights.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Claims {
    /// `KIND[:NAME[@VERSION]]`, such as `agent:release-bot@1.4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Model behind the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The run of the agent or pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// What made the requester act: an issue, a schedule, an alert, a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Why, at most 4 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
}

/// Who is on the other end, from its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who, before any claim.
    pub actor: Actor,
    /// Names the credential's scope, never the credential.
    pub scope: Option<String>,
    /// Seconds the credential is still valid.
    pub ttl: Option<u64>,
}

/// Why claims are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A claim that is too long, malformed, or full of control characters.
    #[error("{0}")]
    Malformed(String),
    /// A claim to be another agent than the credential names.
    #[error("the credential belongs to the agent `{named}`, not to `{claimed}`")]
    AnotherAgent {
        /// The agent that the credential names.
        named: String,
        /// The agent that was claimed.
        claimed: String,
    },
}

impl Claims {
    /// The request that a caller makes with these claims. `sent` is the digest of what it sent.
    ///
    /// # Errors
    /// If a claim is malformed, or claims to be another agent than the credential names.
    pub fn request(self, caller: &Caller, sent: &Digest, now: jiff::Timestamp) -> Result<Request, ClaimError> {
        self.check()?;
        let (kind, agent, version) = self.actor.as_deref().map(parse_actor).transpose()?.unwrap_or_default();
        if let (Some(named), Some(claimed)) = (&caller.actor.agent_id, &agent)
            && named != claimed
        {
            return Err(ClaimError::AnotherAgent { named: named.clone(), claimed: claimed.clone() });
        }
        let id = Digest::of(format!("{}\n{sent}\n{}", caller.actor.principal, now.as_nanosecond()).as_bytes());
        Ok(Request {
            id: format!("rq-{}", &id.hex()[..16]),
            run_id: self.run_id,
            actor: caller.actor.clone().claiming(kind, agent, version, self.model),
            trigger: self.trigger,
            rationale: self.rationale.map(|why| why.trim().to_owned()).filter(|why| !why.is_empty()),
            token_scope_id: caller.scope.clone(),
            credential_ttl: caller.ttl,
            refused_before: None,
        })
    }

    fn check(&self) -> Result<(), ClaimError> {
        let claims = [("actor", &self.actor), ("model", &self.model), ("runId", &self.run_id), ("trigger", &self.trigger)];
        for (name, text) in claims.iter().filter_map(|(name, text)| text.as_ref().map(|text| (name, text))) {
            if text.len() > CLAIM_MAX || text.chars().any(is_unseen) {
                return Err(ClaimError::Malformed(format!("`{name}` must be one line of at most {CLAIM_MAX} bytes")));
            }
        }
        let rationale = self.rationale.as_deref().unwrap_or_default();
        if rationale.len() > RATIONALE_MAX || rationale.chars().any(|c| is_unseen(c) && c != '\n' && c != '\t') {
            return Err(ClaimError::Malformed(format!("`rationale` must be plain text of at most {RATIONALE_MAX} bytes")));
        }
        Ok(())
    }
}

/// Kind, name and version that an actor claims.
type ClaimedActor = (Option<ActorKind>, Option<String>, Option<String>);

/// Kind, name and version of `KIND[:NAME[@VERSION]]`.
fn parse_actor(text: &str) -> Result<ClaimedActor, ClaimError> {
    let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    let kind = match kind {
        "human" => ActorKind::Human,
        "agent" => ActorKind::Agent,
        "automation" => ActorKind::Automation,
        "unknown" => ActorKind::Unknown,
        _ => {
            let expected =
                "expected `human`, `agent`, `automation` or `unknown`, and if wanted `:NAME@VERSION`, such as `agent:release-bot@1.4`";
            return Err(ClaimError::Malformed(format!("`{text}` is not an actor: {expected}")));
        }
    };
    let (name, version) = rest.map_or((None, None), |rest| match rest.rsplit_once('@') {
        Some((name, version)) => (Some(name), Some(version)),
        None => (Some(rest), None),
    });
    if name == Some("") || version == Some("") {
        return Err(ClaimError::Malformed(format!("`{text}` leaves the name or the version of the actor empty")));
    }
    Ok((Some(kind), name.map(str::to_owned), version.map(str::to_owned)))
}

/// The body of `POST …/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deploy {
    /// What is to run.
    pub template: Template,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Who asks, and why.
    #[serde(default)]
    pub claims: Claims,
}

impl Deploy {
    /// What is wrong with it beyond its form.
    ///
    /// # Errors
    /// The first thing that no process could be started with.
    pub fn check(&self) -> Result<(), String> {
        if self.label.as_ref().is_some_and(|label| label.is_empty() || label.len() > 64 || label.chars().any(is_unseen)) {
            return Err("`label` must be one line of 1 to 64 bytes".into());
        }
        let Some(process) = self.template.as_process() else {
            return Err("`template.pod` is deployed by Kubernetes, for example with `kubectl apply`, never through this API".into());
        };
        let size = process.command.iter().map(String::len).chain(process.env.iter().map(|(name, value)| name.len() + value.len()));
        if size.sum::<usize>() > TEMPLATE_MAX {
            return Err("`template`: command and environment together are larger than 64 KiB; put what is large into the artifact".into());
        }
        if process.command.iter().any(|argument| argument.contains('\0')) {
            return Err("`template.command` contains a NUL character".into());
        }
        // By the host's own rule: what it could never start is refused here, and not once it was admitted.
        inside(&process.command).map_err(|why| format!("`template.command`: {why}"))?;
        let wrong = process.env.iter().find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'));
        wrong.map_or(Ok(()), |(name, _)| Err(format!("`template.env`: `{name}` cannot be set in an environment")))
    }
}

/// The body of `POST …/command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    /// What.
    pub verb: Verb,
    /// Who asks, and why.
    #[serde(default)]
    pub claims: Claims,
}

/// What a freeze of a wider scope is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FreezeScope {
    /// Every rollout.
    All,
    /// Every rollout of a namespace.
    Namespace(String),
}

impl FreezeScope {
    /// What is wrong with it beyond its form.
    ///
    /// # Errors
    /// A namespace that no rollout can be in.
    pub fn check(&self) -> Result<(), String> {
        match self {
            // `*` is how everything is called where freezes are kept.
            Self::Namespace(name)
                if name.is_empty() || name.len() > NAMESPACE_MAX || name.contains(['*', '/']) || name.contains(is_unseen) =>
            {
                Err("`scope.namespace` must be the name of one namespace; everything is `all`".into())
            }
            Self::All | Self::Namespace(_) => Ok(()),
        }
    }

    /// Whether the rollout `namespace/name` is in it.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => key.split_once('/').is_some_and(|(of, _)| of == namespace),
        }
    }
}

/// The body of `POST /v1/freeze` and `POST /v1/thaw`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Freeze {
    /// Of what.
    pub scope: FreezeScope,
    /// Who asks, and why.
    #[serde(default)]
    pub claims: Claims,
}

/// What a requester is told of a deployment or command that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The request's id, as the audit log has it.
    pub request: String,
    /// The reason's code.
    pub code: String,
    /// The reason in words.
    pub text: String,
    /// The reason.
    pub reason: Reason,
    /// The revert that the answer is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<String>,
}

impl Reply {
    /// Of a machine's answer.
    pub fn of(answer: Answer, request: &Request) -> Self {
        Self {
            request: request.id.clone(),
            code: answer.reason.code().to_owned(),
            text: answer.reason.to_string(),
            reason: answer.reason,
            revert: answer.revert,
        }
    }
}

/// The answer to a freeze or thaw of a wider scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frozen {
    /// The request's id, as the audit log has it.
    pub request: String,
    /// How many rollouts are in the scope.
    pub rollouts: usize,
}

/// Where one rollout stands, and what a revert would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Where it stands.
    pub view: View,
    /// What a revert would do.
    pub plan: RevertPlan,
    /// What people should know beside: its document is not in force, say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The answer of `GET /v1/rollouts`. It is written from views that are borrowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollouts<V = View> {
    /// By key.
    pub rollouts: Vec<V>,
}

/// One line of a stream of events. Empty lines keep the connection alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// Where a rollout stands now.
    Standing(Box<Standing>),
    /// A record was committed.
    Record(Box<Record>),
    /// The reader was too slow for this many records; the audit log has them.
    Missed(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(kind: ActorKind, agent: Option<&str>) -> Caller {
        let actor = Actor { kind, principal: "uid:1000".into(), agent_id: agent.map(str::to_owned), ..Actor::default() };
        Caller { actor, scope: None, ttl: None }
    }

    fn ask(caller: &Caller, actor: &str) -> Result<Request, ClaimError> {
        let claims = Claims { actor: Some(actor.into()), ..Claims::default() };
        claims.request(caller, &Digest::of(b"body"), jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn claims_lower_rights_and_never_raise_them() {
        let request = ask(&caller(ActorKind::Human, None), "agent:release-bot@1.4").unwrap();
        assert_eq!(request.actor.kind, ActorKind::Agent);
        assert_eq!(request.actor.agent_id.as_deref(), Some("release-bot"));
        assert_eq!(request.actor.agent_version.as_deref(), Some("1.4"));
        let request = ask(&caller(ActorKind::Agent, None), "human").unwrap();
        assert_eq!(request.actor.kind, ActorKind::Agent);
    }

    #[test]
    fn a_credential_that_names_its_agent_is_no_other() {
        let error = ask(&caller(ActorKind::Agent, Some("a")), "agent:b").unwrap_err();
        assert_eq!(error, ClaimError::AnotherAgent { named: "a".into(), claimed: "b".into() });
        assert!(ask(&caller(ActorKind::Agent, Some("a")), "agent:a@2").is_ok());
    }

    #[test]
    fn malformed_claims_are_refused() {
        for text in ["robot", "agent:", "agent:x@", "", "agent:\u{1b}[31m"] {
            assert!(matches!(ask(&caller(ActorKind::Human, None), text), Err(ClaimError::Malformed(_))), "{text}");
        }
        let long = Claims { rationale: Some("x".repeat(RATIONALE_MAX + 1)), ..Claims::default() };
        assert!(long.request(&caller(ActorKind::Human, None), &Digest::of(b""), jiff::Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn claims_and_labels_show_what_they_are() {
        let turned = Claims { trigger: Some("\u{202e}doog".into()), ..Claims::default() };
        assert!(turned.request(&caller(ActorKind::Agent, None), &Digest::of(b""), jiff::Timestamp::UNIX_EPOCH).is_err());
        let deploy = |label: &str, argument: String| {
            let image = format!("shop/checkout@{}", Digest::of(b"image")).parse().unwrap();
            let template = Template::process(image, vec!["app".into(), argument], std::collections::BTreeMap::new());
            Deploy { template, label: Some(label.into()), claims: Claims::default() }.check()
        };
        assert!(deploy("v43 é", String::new()).is_ok());
        for label in ["\u{202e}1v", "v1\u{200b}", "v1\u{feff}", "v1\u{2066}", "v1\u{7}"] {
            assert!(deploy(label, String::new()).is_err(), "{label:?}");
        }
        assert!(deploy("v43", "x".repeat(TEMPLATE_MAX)).unwrap_err().contains("64 KiB"));
    }

    #[test]
    fn a_program_that_no_host_would_start_is_not_deployed() {
        let deploy = |command: &[&str]| {
            let image = format!("shop/checkout@{}", Digest::of(b"image")).parse().unwrap();
            let command = command.iter().map(|part| (*part).to_owned()).collect();
            let template = Template::process(image, command, std::collections::BTreeMap::new());
            Deploy { template, label: None, claims: Claims::default() }.check()
        };
        assert!(deploy(&["bin/service", "--root", "/"]).is_ok() && deploy(&["./service"]).is_ok());
        for command in [&["/bin/sh"][..], &["../sh"], &["bin/../../sh"], &[""], &[]] {
            let why = deploy(command).unwrap_err();
            assert!(why.starts_with("`template.command`: ") && why.contains("inside the artifact"), "{why}");
        }
    }

    #[test]
    fn a_freeze_of_a_namespace_is_not_one_of_everything() {
        assert!(FreezeScope::All.check().is_ok() && FreezeScope::Namespace("shop".into()).check().is_ok());
        for name in ["*", "", "shop/checkout", "a\u{0}", &"x".repeat(1000)] {
            assert!(FreezeScope::Namespace(name.into()).check().is_err(), "{name:?}");
        }
    }

    #[test]
    fn request_ids_are_derived() {
        let caller = caller(ActorKind::Human, None);
        assert_eq!(ask(&caller, "human").unwrap().id, ask(&caller, "human").unwrap().id);
        let later = Claims::default().request(&caller, &Digest::of(b"body"), jiff::Timestamp::from_second(1).unwrap()).unwrap();
        assert_ne!(later.id, ask(&caller, "human").unwrap().id);
    }

    #[test]
    fn scopes_know_their_rollouts() {
        assert!(FreezeScope::All.contains("shop/checkout"));
        assert!(FreezeScope::Namespace("shop".into()).contains("shop/checkout"));
        assert!(!FreezeScope::Namespace("sho".into()).contains("shop/checkout"));
    }
}
