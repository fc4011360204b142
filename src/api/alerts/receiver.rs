//! Who may send alerts: bearer tokens, each bound to the alerts that it may report.

use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::problem::Problem;
use super::NOT_ALLOWED;

/// Largest token file.
const TOKEN_LIMIT: u64 = 16 << 10;

/// A sender: one Alertmanager receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Receiver {
    /// Its name in logs and errors.
    pub name: String,
    /// How its token is recognised.
    pub token: Token,
    /// Names of the alerts that it may report; exact.
    pub alerts: Vec<String>,
}

/// How a token is recognised. The token itself is never written in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Token {
    /// Its SHA-256 in hexadecimal.
    Sha256(String),
    /// A file that holds it, read at each request so that it can be rotated. White space around it does not count.
    File(PathBuf),
}

/// Why a list of receivers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiverError {
    /// Two of the same name.
    #[error("two receivers are named `{0}`")]
    Twice(String),
    /// It may send nothing.
    #[error("receiver `{0}` is bound to no alert; list their names in `alerts`")]
    Unbound(String),
    /// The hash is not one.
    #[error("receiver `{0}`: `token.sha256` must be 64 hexadecimal digits, as `printf %s \"$TOKEN\" | sha256sum` prints them")]
    Hash(String),
}

impl Receiver {
    /// Whether it is bound to this alert.
    pub fn may_send(&self, alert: &str) -> bool {
        self.alerts.iter().any(|name| name == alert)
    }
}

/// The checked list.
#[derive(Debug)]
pub(super) struct Receivers(Vec<(Receiver, Known)>);

#[derive(Debug)]
enum Known {
    Hash([u8; 32]),
    File(PathBuf),
}

impl Receivers {
    pub(super) fn new(receivers: Vec<Receiver>) -> Result<Self, ReceiverError> {
        let mut checked: Vec<(Receiver, Known)> = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            if checked.iter().any(|(other, _)| other.name == receiver.name) {
                return Err(ReceiverError::Twice(receiver.name));
            }
            if receiver.alerts.is_empty() {
                return Err(ReceiverError::Unbound(receiver.name));
            }
            let known = match &receiver.token {
                Token::Sha256(digits) => Known::Hash(hash_from(digits).ok_or_else(|| ReceiverError::Hash(receiver.name.clone()))?),
                Token::File(path) => Known::File(path.clone()),
            };
            checked.push((receiver, known));
        }
        Ok(Self(checked))
    }

    /// The receiver whose token the request carries. Every token is compared, each in constant time.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<&Receiver, Problem> {
        let Some(given) = bearer(headers) else {
            return Err(unauthorized("no bearer token; set `http_config.authorization` in the webhook_config"));
        };
        let given: [u8; 32] = Sha256::digest(given).into();
        let (mut found, mut unreadable) = (None, false);
        for (receiver, known) in &self.0 {
            let hash = match known {
                Known::Hash(hash) => *hash,
                Known::File(path) => match hash_of_file(path).await {
                    Ok(hash) => hash,
                    Err(error) => {
                        tracing::error!(receiver = receiver.name, path = %path.display(), "the token cannot be read: {error}");
                        unreadable = true;
                        continue;
                    }
                },
            };
            if verify_slices_are_equal(&hash, &given).is_ok() {
                found = Some(receiver);
            }
        }
        match found {
            Some(receiver) => Ok(receiver),
            // Ours to mend, so the sender shall try again.
            None if unreadable => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "a receiver's token cannot be read now; see the log")),
            None => Err(unauthorized("the bearer token belongs to no receiver")),
        }
    }
}

fn unauthorized(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail).with_code(NOT_ALLOWED)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ")).then_some(token.trim_ascii()).filter(|token| !token.is_empty())
}

fn hash_from(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2).filter(|pair| !pair.starts_with('+'))?, 16).ok()?;
    }
    Some(hash)
}

async fn hash_of_file(path: &Path) -> std::io::Result<[u8; 32]> {
    let path = path.to_owned();
    let read = move || {
        let mut token = Vec::new();
        std::fs::File::open(path)?.take(TOKEN_LIMIT).read_to_end(&mut token)?;
        // An empty file is the token of nobody.
        if token.trim_ascii().is_empty() {
            Err(std::io::ErrorKind::InvalidData.into())
        } else {
            Ok(Sha256::digest(token.trim_ascii()).into())
        }
    };
    tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(name: &str, token: Token) -> Receiver {
        Receiver { name: name.into(), token, alerts: vec!["Slow".into()] }
    }

    #[test]
    fn lists_are_checked() {
        let error = |receivers: Vec<Receiver>| Receivers::new(receivers).unwrap_err();
        let file = || Token::File("token".into());
        assert_eq!(error(vec![receiver("a", file()), receiver("a", file())]), ReceiverError::Twice("a".into()));
        assert_eq!(error(vec![Receiver { alerts: vec![], ..receiver("a", file()) }]), ReceiverError::Unbound("a".into()));
        for digits in ["", "00", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(error(vec![receiver("a", Token::Sha256(digits.into()))]), ReceiverError::Hash("a".into()), "{digits}");
        }
    }

    #[tokio::test]
    async fn tokens_are_recognised_and_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"
        let receivers =
            Receivers::new(vec![receiver("hashed", Token::Sha256(hash.into())), receiver("filed", Token::File(path.clone()))]).unwrap();
        let ask = async |value: &str| {
            let headers: HeaderMap = [(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect();
            receivers.authenticate(&headers).await.map(|receiver| receiver.name.clone()).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(ask("Bearer secret").await, Ok("hashed".into()));
        assert_eq!(ask("Bearer other").await, Err(503), "its file may hold it, were it readable");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(ask("Bearer other").await, Err(503));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(ask("bearer one").await, Ok("filed".into()));
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(ask("Bearer one").await, Err(401));
        assert_eq!(ask("Bearer two").await, Ok("filed".into()));
        for wrong in ["Bearer ", "Bearer", "Basic c2VjcmV0", "secret", &format!("Bearer {hash}")] {
            assert_eq!(ask(wrong).await, Err(401), "{wrong}");
        }
    }
}
