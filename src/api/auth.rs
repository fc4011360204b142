//! Who is on the other end: peer credentials of the Unix socket, or a bearer token, mapped to principals.
//!
//! The file is YAML. Tokens are kept as SHA-256 of their text, so that the file holds no secret:
//!
//! ```yaml
//! principals:
//!   - {uid: 1000, name: alice, kind: human}
//!   - {tokenSha256: 9f86d0…, name: ci, kind: automation, expires: 2027-01-01T00:00:00Z}
//!   - {tokenSha256: 60303a…, name: release, kind: agent, agentId: release-bot}
//! ```
//!
//! In a cluster, `kubernetes: NAME` is a user name as the API server knows it, such as `system:serviceaccount:ci:deployer`; a star at its
//! end stands for any end.
//!
//! The owner of the data folder and root are people unless the file says otherwise: they could change the file anyway.
//! Every other uid is unknown, and may stop things and nothing else.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Api;
use super::problem::Problem;
use super::wire::Caller;
use crate::core::actor::{Actor, ActorKind, Assurance};
use crate::core::release::Digest;
use crate::world::clock;

/// Largest principals file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Longest token, in bytes.
const TOKEN_MAX: usize = 4096;

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over the Unix socket; the kernel names the user.
    Uid(u32),
    /// Over the network; only a token says who it is.
    Network,
}

/// One principal, as the file has it. Exactly one of `uid`, `tokenSha256` and `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Principal {
    /// The user of the operating system.
    #[serde(default)]
    pub uid: Option<u32>,
    /// SHA-256 of the token, in hex.
    #[serde(default)]
    pub token_sha256: Option<String>,
    /// The user name that the API server of a cluster knows; a star at its end stands for any end.
    #[serde(default)]
    pub kubernetes: Option<String>,
    /// Name, as the audit log has it.
    pub name: String,
    /// What sort it is.
    pub kind: ActorKind,
    /// The agent that this credential belongs to, and no other.
    #[serde(default)]
    pub agent_id: Option<String>,
    /// When the credential ends.
    #[serde(default)]
    pub expires: Option<jiff::Timestamp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    principals: Vec<Principal>,
}

/// Why the principals file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrincipalsError {
    /// It cannot be read.
    #[error("cannot read `{}`", .0.display())]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// Somebody else could change it.
    #[error("`{}` can be changed by others than its owner: `chmod go-w` it, and let root or the data folder's owner own it", .0.display())]
    Exposed(PathBuf),
    /// It does not say what it should.
    #[error("`{}` is not a list of principals: {what}", .file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// When the file was changed and how large it was: enough to see that it is another one.
type Stamp = (i64, i64, u64, u64);

/// Who may do what. A changed file is read again; one that cannot be used changes nothing.
#[derive(Debug)]
pub struct Principals {
    owner: u32,
    file: PathBuf,
    known: RwLock<(Option<Stamp>, Arc<Vec<Principal>>)>,
}

impl Principals {
    /// Reads `file`, which need not exist. `owner` is the user that owns the data folder.
    ///
    /// # Errors
    /// If there is a file and it cannot be used.
    pub fn open(file: impl Into<PathBuf>, owner: u32) -> Result<Self, PrincipalsError> {
        let file = file.into();
        let stamp = stamp(&file);
        let known = if stamp.is_some() { read(&file, owner)? } else { Vec::new() };
        Ok(Self { owner, file, known: RwLock::new((stamp, Arc::new(known))) })
    }

    fn known(&self) -> Arc<Vec<Principal>> {
        let stamp = stamp(&self.file);
        let (seen, known) = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        if stamp == seen {
            return known;
        }
        let again = match stamp.map(|_| read(&self.file, self.owner)) {
            None => Arc::default(),
            Some(Ok(principals)) => Arc::new(principals),
            Some(Err(error)) => {
                tracing::error!(%error, "the changed principals are not taken; those before stay");
                known
            }
        };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = (stamp, Arc::clone(&again));
        again
    }

    /// Who a peer is.
    ///
    /// # Errors
    /// If it shows no credential that is known and still valid.
    pub fn identify(&self, peer: Peer, headers: &HeaderMap, now: jiff::Timestamp) -> Result<Caller, Problem> {
        match (headers.get(header::AUTHORIZATION), peer) {
            (Some(authorization), _) => {
                let token =
                    authorization.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).filter(|token| token.len() <= TOKEN_MAX);
                let token = token.ok_or_else(|| denied("the `Authorization` header is not `Bearer` and a token"))?;
                self.by_token(token, now)
            }
            (None, Peer::Uid(uid)) => Ok(self.by_uid(uid, now)),
            (None, Peer::Network) => Err(denied("a token is needed here: send `Authorization: Bearer …`")),
        }
    }

    /// Who a user of Kubernetes is: the entry of that name, else the longest that ends with a star and fits; unknown if there is none.
    pub fn of_kubernetes(&self, user: &str, now: jiff::Timestamp) -> Actor {
        let known = self.known();
        let fits = |principal: &&Principal| match principal.kubernetes.as_deref() {
            Some(name) => name == user || name.strip_suffix('*').is_some_and(|start| user.starts_with(start)),
            None => false,
        };
        let valid = |principal: &&Principal| principal.expires.is_none_or(|end| end > now);
        let length = |principal: &&Principal| {
            let name = principal.kubernetes.as_deref().unwrap_or_default();
            (name == user, name.len())
        };
        let found = known.iter().filter(fits).filter(valid).max_by_key(length);
        let assurance = Assurance::Recorded;
        match found.filter(|_| !user.is_empty()) {
            Some(principal) => Actor { assurance, ..caller(principal, format!("kubernetes:{user}"), now).actor },
            None => Actor { principal: format!("kubernetes:{user}"), assurance, ..Actor::default() },
        }
    }

    fn by_token(&self, token: &str, now: jiff::Timestamp) -> Result<Caller, Problem> {
        let sent = Digest::of(token.as_bytes());
        let known = self.known();
        // Every entry is compared, so that time tells nothing.
        let matching = known.iter().filter(|principal| {
            let kept = principal.token_sha256.as_deref().unwrap_or_default();
            verify_slices_are_equal(kept.as_bytes(), sent.hex().as_bytes()).is_ok()
        });
        let principal = matching.fold(None, |_, principal| Some(principal)).ok_or_else(|| denied("this token is not known"))?;
        if principal.expires.is_some_and(|end| end <= now) {
            return Err(denied("this token has expired"));
        }
        Ok(caller(principal, format!("token:{}", principal.name), now))
    }

    fn by_uid(&self, uid: u32, now: jiff::Timestamp) -> Caller {
        let known = self.known();
        let listed = known.iter().find(|principal| principal.uid == Some(uid));
        if let Some(principal) = listed.filter(|principal| principal.expires.is_none_or(|end| end > now)) {
            return caller(principal, format!("uid:{uid}:{}", principal.name), now);
        }
        let owner = listed.is_none() && (uid == self.owner || uid == 0);
        let kind = if owner { ActorKind::Human } else { ActorKind::Unknown };
        let actor = Actor { kind, principal: format!("uid:{uid}"), assurance: Assurance::Authenticated, ..Actor::default() };
        Caller { actor, scope: None, ttl: None }
    }
}

fn caller(principal: &Principal, name: String, now: jiff::Timestamp) -> Caller {
    let actor = Actor {
        kind: principal.kind,
        principal: name,
        assurance: Assurance::Authenticated,
        agent_id: principal.agent_id.clone(),
        ..Actor::default()
    };
    let ttl = principal.expires.and_then(|end| u64::try_from(end.as_second() - now.as_second()).ok());
    Caller { actor, scope: Some(principal.name.clone()), ttl }
}

fn denied(why: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, why)
}

fn stamp(file: &Path) -> Option<Stamp> {
    let about = std::fs::metadata(file).ok()?;
    Some((about.mtime(), about.mtime_nsec(), about.ino(), about.len()))
}

fn read(file: &Path, owner: u32) -> Result<Vec<Principal>, PrincipalsError> {
    let unreadable = |error| PrincipalsError::Unreadable(file.to_owned(), error);
    let invalid = |what: String| PrincipalsError::Invalid { file: file.to_owned(), what };
    let about = std::fs::metadata(file).map_err(unreadable)?;
    if about.mode() & 0o022 != 0 || (about.uid() != owner && about.uid() != 0) {
        return Err(PrincipalsError::Exposed(file.to_owned()));
    }
    if about.len() > FILE_MAX {
        return Err(invalid("it is larger than 1 MiB".into()));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let File { principals } = serde_saphyr::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    for (index, principal) in principals.iter().enumerate() {
        check(principal, &principals[..index])
            .map_err(|what| invalid(format!("principal {} (`{}`): {what}", index + 1, principal.name)))?;
    }
    Ok(principals)
}

fn check(principal: &Principal, before: &[Principal]) -> Result<(), &'static str> {
    if principal.name.is_empty() || principal.name.len() > 128 || principal.name.chars().any(char::is_control) {
        return Err("`name` must be one line of 1 to 128 bytes");
    }
    if let Some(name) = &principal.kubernetes {
        return match (&principal.uid, &principal.token_sha256) {
            (None, None) if before.iter().any(|other| other.kubernetes.as_ref() == Some(name)) => {
                Err("this `kubernetes` user is listed twice")
            }
            (None, None) => Ok(()),
            _ => Err("exactly one of `uid`, `tokenSha256` and `kubernetes` is needed"),
        };
    }
    match (&principal.uid, &principal.token_sha256) {
        (Some(uid), None) if before.iter().any(|other| other.uid == Some(*uid)) => Err("this `uid` is listed twice"),
        (None, Some(hash)) if hash.len() != 64 || hash.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
            Err("`tokenSha256` must be 64 lower-case hex digits, as `printf %s \"$TOKEN\" | sha256sum` prints them")
        }
        (None, Some(hash)) if before.iter().any(|other| other.token_sha256.as_ref() == Some(hash)) => Err("this token is listed twice"),
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (Some(_), Some(_)) | (None, None) => Err("exactly one of `uid`, `tokenSha256` and `kubernetes` is needed"),
    }
}

/// Lets through who shows a credential, and says who it is.
pub(super) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::Network);
    match api.principals.identify(peer, request.headers(), clock::wall()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn principals(text: &str) -> (tempfile::TempDir, Result<Principals, PrincipalsError>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("principals.yaml");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let owner = std::fs::metadata(&file).unwrap().uid();
        let principals = Principals::open(file, owner);
        (dir, principals)
    }

    fn bearer(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    #[test]
    fn without_a_file_the_owner_and_root_are_people() {
        let dir = tempfile::tempdir().unwrap();
        let principals = Principals::open(dir.path().join("none.yaml"), 1000).unwrap();
        let kind = |uid| principals.identify(Peer::Uid(uid), &HeaderMap::new(), NOW).unwrap().actor.kind;
        assert_eq!([kind(1000), kind(0), kind(1001)], [ActorKind::Human, ActorKind::Human, ActorKind::Unknown]);
        assert_eq!(principals.identify(Peer::Network, &HeaderMap::new(), NOW).unwrap_err().status, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn tokens_are_known_by_their_hash_until_they_end() {
        let hash = Digest::of(b"secret");
        let (_dir, principals) = principals(&format!(
            "principals:\n  - {{tokenSha256: {}, name: ci, kind: agent, agentId: bot, expires: 1970-01-01T01:00:00Z}}\n",
            hash.hex()
        ));
        let principals = principals.unwrap();
        let caller = principals.identify(Peer::Network, &bearer("secret"), NOW).unwrap();
        assert_eq!((caller.actor.kind, caller.actor.principal.as_str()), (ActorKind::Agent, "token:ci"));
        assert_eq!((caller.scope.as_deref(), caller.ttl), (Some("ci"), Some(3600)));
        let later = jiff::Timestamp::from_second(3600).unwrap();
        assert!(principals.identify(Peer::Network, &bearer("secret"), later).unwrap_err().detail.contains("expired"));
        assert!(principals.identify(Peer::Network, &bearer("guess"), NOW).is_err());
        // An entry without a token is not opened by an empty one.
        assert!(principals.identify(Peer::Uid(0), &bearer(""), NOW).is_err());
    }

    #[test]
    fn users_of_kubernetes_are_known_by_name_and_the_closest_entry_counts() {
        let (_dir, principals) = principals(
            "principals:\n  - {kubernetes: 'system:serviceaccount:ci:*', name: ci, kind: automation}\n  \
             - {kubernetes: 'system:serviceaccount:ci:fixer', name: fixer, kind: agent, agentId: fixer}\n",
        );
        let principals = principals.unwrap();
        let kind = |user| principals.of_kubernetes(user, NOW).kind;
        assert_eq!(kind("system:serviceaccount:ci:deployer"), ActorKind::Automation);
        assert_eq!(kind("system:serviceaccount:ci:fixer"), ActorKind::Agent);
        assert_eq!([kind("alice"), kind(""), kind("*")], [ActorKind::Unknown; 3]);
    }

    #[test]
    fn a_file_that_others_can_change_or_that_is_wrong_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("principals.yaml");
        std::fs::write(&file, "principals: []\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o622)).unwrap();
        assert!(matches!(Principals::open(file, 0), Err(PrincipalsError::Exposed(_))));
        for (text, what) in [
            ("principals: [{uid: 1, name: a, kind: human}, {uid: 1, name: b, kind: agent}]", "twice"),
            ("principals: [{name: a, kind: human}]", "exactly one"),
            ("principals: [{tokenSha256: ABC, name: a, kind: human}]", "64 lower-case"),
            ("principals: [{uid: 1, name: a, kind: boss}]", "boss"),
            ("principals: [{uid: 1, name: a, kind: human, admin: true}]", "admin"),
        ] {
            let (_dir, principals) = principals(text);
            let error = principals.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_changes_nothing() {
        let (dir, principals) = principals("principals: [{uid: 77, name: eve, kind: human}]\n");
        let principals = principals.unwrap();
        let kind = || principals.identify(Peer::Uid(77), &HeaderMap::new(), NOW).unwrap().actor.kind;
        assert_eq!(kind(), ActorKind::Human);
        std::fs::write(dir.path().join("principals.yaml"), "principals: [{uid: 77, name: eve, kind: agent}]   \n").unwrap();
        assert_eq!(kind(), ActorKind::Agent);
        std::fs::write(dir.path().join("principals.yaml"), "nonsense: true\n").unwrap();
        assert_eq!(kind(), ActorKind::Agent);
    }
}
