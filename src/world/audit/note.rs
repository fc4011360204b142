//! Signed notes and checkpoints: the C2SP formats `signed-note` and `tlog-checkpoint`, with Ed25519.
//!
//! A note is a text that ends with a newline, an empty line, and signature lines `— NAME BASE64(key hash || signature)`.
//! A checkpoint is a note whose text is origin, size and base64 root, each on its line; the origin is the key's name.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use sha2::{Digest as _, Sha256};

use super::tree::Hash;

/// The algorithm byte of Ed25519 in key hashes and verifier keys.
const ED25519_NOTE: u8 = 1;

/// Notes larger than this are refused unread.
const MAX_NOTE: usize = 64 * 1024;

/// Why a note, checkpoint or verifier key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not of the shape `name+hash+base64`, or its parts contradict each other.
    #[error("not a verifier key (`name+hash+base64`): {0}")]
    Key(&'static str),
    /// Not a signed note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// No signature by the expected key.
    #[error("not signed by {0}")]
    Unsigned(String),
    /// A signature by the expected key that does not verify.
    #[error("the signature by {0} does not verify")]
    Forged(String),
}

/// A public key under a name: what verifies notes. Its text is `name+hash+base64`, the verifier key of the Go module `note`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    key: [u8; 32],
}

impl Verifier {
    /// A key under a name. Spaces and `+` do not belong into a name.
    pub fn new(name: &str, key: [u8; 32]) -> Self {
        Self { name: name.to_owned(), key }
    }

    /// Reads `name+hash+base64`.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("expected three parts with `+` between"));
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(NoteError::Key("the name is empty or has spaces"));
        }
        let bytes = BASE64.decode(key).map_err(|_| NoteError::Key("the key is not base64"))?;
        let [ED25519_NOTE, key @ ..] = bytes.as_slice() else { return Err(NoteError::Key("not an Ed25519 key")) };
        let key = key.try_into().map_err(|_| NoteError::Key("an Ed25519 key has 32 bytes"))?;
        let verifier = Self::new(name, key);
        if format!("{:08x}", u32::from_be_bytes(verifier.hash())) != hash {
            return Err(NoteError::Key("the hash is not that of this name and key"));
        }
        Ok(verifier)
    }

    /// The key's name: the log's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First four bytes of `SHA-256(name || newline || algorithm || key)`.
    fn hash(&self) -> [u8; 4] {
        let digest = Sha256::new().chain_update(&self.name).chain_update([b'\n', ED25519_NOTE]).chain_update(self.key).finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// The text of a note that this key signed. Signatures by other keys are passed over, as the format asks.
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        if note.len() > MAX_NOTE {
            return Err(NoteError::Malformed("larger than 64 KiB"));
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Malformed("no empty line before the signatures"))?;
        let (text, signatures) = (&note[..=at], &note[at + 2..]);
        if !signatures.ends_with('\n') {
            return Err(NoteError::Malformed("the last line is not ended"));
        }
        for line in signatures.lines() {
            let Some((name, signature)) = line.strip_prefix("— ").and_then(|line| line.split_once(' ')) else {
                return Err(NoteError::Malformed("a signature line is not `— NAME BASE64`"));
            };
            let bytes = BASE64.decode(signature).map_err(|_| NoteError::Malformed("a signature is not base64"))?;
            let Some((hash, signature)) = bytes.split_first_chunk::<4>() else {
                return Err(NoteError::Malformed("a signature is too short"));
            };
            if name == self.name && *hash == self.hash() {
                let key = UnparsedPublicKey::new(&ED25519, self.key);
                return key.verify(text.as_bytes(), signature).map(|()| text).map_err(|_| NoteError::Forged(self.name.clone()));
            }
        }
        Err(NoteError::Unsigned(self.name.clone()))
    }

    /// The checkpoint in a note that this key signed.
    pub fn checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let mut lines = self.open(note)?.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Malformed("a checkpoint has at least three lines"));
        };
        if origin != self.name {
            return Err(NoteError::Malformed("another log's checkpoint"));
        }
        let number: u64 = size.parse().map_err(|_| NoteError::Malformed("the size is not a number"))?;
        if number.to_string() != size {
            return Err(NoteError::Malformed("the size is not in canonical form"));
        }
        let root = BASE64.decode(root).ok().and_then(|root| root.try_into().ok());
        Ok(Checkpoint { size: number, root: root.ok_or(NoteError::Malformed("the root is not 32 bytes in base64"))? })
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [&[ED25519_NOTE], self.key.as_slice()].concat();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.hash()), BASE64.encode(bytes))
    }
}

/// What a log commits to: so many entries, under this root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of entries.
    pub size: u64,
    /// Root of the Merkle tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The checkpoint as a note signed by `key`, whose public part is `verifier`.
    pub fn sign(&self, key: &Ed25519KeyPair, verifier: &Verifier) -> String {
        let text = format!("{}\n{}\n{}\n", verifier.name, self.size, BASE64.encode(self.root));
        let signature = [verifier.hash().as_slice(), key.sign(text.as_bytes()).as_ref()].concat();
        format!("{text}\n— {} {}\n", verifier.name, BASE64.encode(signature))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::KeyPair as _;

    use super::*;

    fn key() -> (Ed25519KeyPair, Verifier) {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let verifier = Verifier::new("example.org/log", key.public_key().as_ref().try_into().unwrap());
        (key, verifier)
    }

    #[test]
    fn a_verifier_key_published_by_the_go_project_parses() {
        let text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        let verifier = Verifier::parse(text).unwrap();
        assert_eq!(verifier.name(), "sum.golang.org");
        assert_eq!(verifier.to_string(), text);
        assert!(Verifier::parse(&text.replace("033de0ae", "033de0af")).is_err());
        assert!(Verifier::parse(&text.replace("sum.", "sun.")).is_err());
        assert!(Verifier::parse("sum.golang.org").is_err());
    }

    #[test]
    fn a_checkpoint_survives_signing_and_no_changed_byte_does() {
        let (key, verifier) = key();
        let checkpoint = Checkpoint { size: 42, root: [9; 32] };
        let note = checkpoint.sign(&key, &verifier);
        assert_eq!(verifier.checkpoint(&note), Ok(checkpoint));
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(verifier.checkpoint(&changed).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn signatures_by_others_are_passed_over() {
        let (key, verifier) = key();
        let note = Checkpoint { size: 1, root: [0; 32] }.sign(&key, &verifier);
        let witness = note.replace("\n— ", &format!("\n— witness.example {}\n— ", BASE64.encode([3; 76])));
        assert!(verifier.checkpoint(&witness).is_ok());
        let other = Verifier::new("example.org/other", [1; 32]);
        assert_eq!(other.checkpoint(&note), Err(NoteError::Unsigned("example.org/other".into())));
    }
}
