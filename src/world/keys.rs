//! The controller's signing keys, kept in the store's folder `keys/`, readable by its owner alone.
//!
//! * `controller.pem`: ECDSA P-256, for ledger records and decision statements; every verifier knows it.
//! * `log.pem`: Ed25519, for the audit log's checkpoints.
//!
//! Beside each its public part: `controller.pub` (PEM) and `log.pub` (a note verifier key). Made before the store's database is, never
//! replaced: what they signed holds by them alone.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::audit::note::{Checkpoint, NoteError, Verifier};
use super::store::schema::FILE as DATABASE;
use crate::core::release::hex;

/// The private keys.
const PRIVATE: [&str; 2] = ["controller.pem", "log.pem"];
/// Key files larger than this are refused unread.
const MAX_FILE: u64 = 16 * 1024;

/// Why a key cannot be had. Never contains a byte of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or folder cannot be read or written.
    #[error("key file {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others than the owner can read a private key.
    #[error("key file {0} is readable by others: run `chmod 600 {0}`, and think about who has read it")]
    Exposed(PathBuf),
    /// A private key that the store beside it was signed with is gone.
    #[error(
        "key file {0} is gone, and what the store holds was signed with it: restore the file from a backup; if there is none, move the \
         store's folder away, keep it, and start with an empty one, where what runs has to be adopted anew"
    )]
    Lost(PathBuf),
    /// A public part that belongs to another private key.
    #[error(
        "key file {public} is not the public part of {private}: restore the two that belong together from a backup; if the public part \
         alone was changed, move it away, and it is written anew"
    )]
    Mismatch {
        /// The public part.
        public: PathBuf,
        /// The private key beside it.
        private: PathBuf,
    },
    /// Not a key of the expected kind.
    #[error("key file {path} is not {expected}: restore it from a backup")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
    /// The system has no randomness or memory for a new key.
    #[error("no key could be generated")]
    Generate,
}

/// The private keys.
pub struct Keys {
    controller: EcdsaKeyPair,
    log: Ed25519KeyPair,
    public: Public,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The public keys: all that verification needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// The controller's key in X.509 `SubjectPublicKeyInfo` form (DER).
    controller: Vec<u8>,
    /// The log's key under the log's origin.
    pub log: Verifier,
}

impl Keys {
    /// Reads the keys in `dir`, making those that are not there, unless they were there before: the store around them has a database, or
    /// their public parts are left.
    ///
    /// Two processes that start at once end up with the same keys.
    ///
    /// # Errors
    /// A key cannot be had, or is not the one that the store was signed with.
    pub fn open(dir: &Path) -> Result<Self, KeyError> {
        let has_signed = |private: &Path| is_store(dir) || private.with_extension("pub").exists();
        let lost = PRIVATE.map(|name| dir.join(name)).into_iter().find(|path| !path.exists() && has_signed(path));
        if let Some(path) = lost {
            return Err(KeyError::Lost(path));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| KeyError::Io { path: dir.into(), source })?;
        let random = SystemRandom::new();
        let [controller_path, log_path] = PRIVATE.map(|name| dir.join(name));
        let controller = private(&controller_path, || {
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).ok().map(|key| key.as_ref().to_vec())
        })?;
        let log = private(&log_path, || Ed25519KeyPair::generate_pkcs8v1(&random).ok().map(|key| key.as_ref().to_vec()))?;
        let invalid = |path: &Path, expected| KeyError::Invalid { path: path.into(), expected };
        let controller = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &controller)
            .map_err(|_| invalid(&controller_path, "an ECDSA P-256 private key in PKCS #8 PEM form"))?;
        let log = Ed25519KeyPair::from_pkcs8(&log).map_err(|_| invalid(&log_path, "an Ed25519 private key in PKCS #8 PEM form"))?;
        let public = Public::of(&controller, &log).ok_or(KeyError::Generate)?;
        let keys = Self { controller, log, public };
        publish(&controller_path, &keys.public.controller_pem())?;
        publish(&log_path, &format!("{}\n", keys.public.log))?;
        Ok(keys)
    }

    /// Makes the private key in `pem` the controller's in `dir`; the log's stays, or is made.
    ///
    /// # Errors
    /// It is no such key, or the folder holds another one that signed something already.
    pub fn install(dir: &Path, pem: &[u8]) -> Result<(), KeyError> {
        let path = dir.join("controller.pem");
        let invalid =
            || KeyError::Invalid { path: path.clone(), expected: "the controller's key of this cluster: name another data folder" };
        let text = std::str::from_utf8(pem).map_err(|_| invalid())?;
        let der = decode_pem(text, "PRIVATE KEY").ok_or_else(invalid)?;
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).map_err(|_| invalid())?;
        if path.exists() && decode_pem(&read(&path)?, "PRIVATE KEY") != Some(der) {
            // Only a key that was made a moment ago, before another replica's, has signed nothing.
            if is_store(dir) {
                return Err(invalid());
            }
            for name in ["controller.pem", "controller.pub"] {
                fs::remove_file(dir.join(name)).map_err(|source| KeyError::Io { path: dir.join(name), source })?;
            }
        }
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| KeyError::Io { path: dir.into(), source })?;
            create(&path, text, 0o600)?;
        }
        Self::open(dir).map(drop)
    }

    /// The public parts.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Signs with the controller's key: ECDSA P-256 over SHA-256, ASN.1 form.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.controller.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Generate)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Signs a checkpoint with the log's key.
    pub fn sign_checkpoint(&self, checkpoint: &Checkpoint) -> String {
        checkpoint.sign(&self.log, &self.public.log)
    }
}

impl Public {
    fn of(controller: &EcdsaKeyPair, log: &Ed25519KeyPair) -> Option<Self> {
        let controller = AsDer::<PublicKeyX509Der<'_>>::as_der(controller.public_key()).ok()?.as_ref().to_vec();
        let key: [u8; 32] = log.public_key().as_ref().try_into().ok()?;
        // The origin must differ between logs; the key is what differs.
        let origin = format!("backstop.dev/log/{}", hex(&key[..8]));
        Some(Self { controller, log: Verifier::new(&origin, key) })
    }

    /// Reads the public parts in a store's folder `keys/`. Whoever does not trust that folder parses copies kept elsewhere.
    pub fn load(dir: &Path) -> Result<Self, KeyError> {
        let (controller, log) = (dir.join("controller.pub"), dir.join("log.pub"));
        Self::parse(&read(&controller)?, &read(&log)?)
            .map_err(|_| KeyError::Invalid { path: dir.into(), expected: "a pair of `controller.pub` (PEM) and `log.pub` (verifier key)" })
    }

    /// Reads the controller's key (PEM) and the log's verifier key.
    pub fn parse(controller_pem: &str, log: &str) -> Result<Self, NoteError> {
        let controller = decode_pem(controller_pem, "PUBLIC KEY").ok_or(NoteError::Key("the controller's key is not PEM"))?;
        Ok(Self { controller, log: Verifier::parse(log)? })
    }

    /// The controller's public key, `-----BEGIN PUBLIC KEY-----`.
    pub fn controller_pem(&self) -> String {
        encode_pem(&self.controller, "PUBLIC KEY")
    }

    /// Whether the controller signed `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.controller).verify(message, signature).is_ok()
    }
}

fn read(path: &Path) -> Result<String, KeyError> {
    let io = |source| KeyError::Io { path: path.into(), source };
    if fs::metadata(path).map_err(io)?.len() > MAX_FILE {
        return Err(io(std::io::Error::new(ErrorKind::FileTooLarge, "larger than 16 KiB")));
    }
    fs::read_to_string(path).map_err(io)
}

/// The private key in `path` as PKCS #8; made if it is not there.
fn private(path: &Path, generate: impl FnOnce() -> Option<Vec<u8>>) -> Result<Vec<u8>, KeyError> {
    if !path.exists() {
        create(path, &encode_pem(&generate().ok_or(KeyError::Generate)?, "PRIVATE KEY"), 0o600)?;
    }
    let mode = fs::metadata(path).map_err(|source| KeyError::Io { path: path.into(), source })?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed(path.into()));
    }
    decode_pem(&read(path)?, "PRIVATE KEY")
        .ok_or_else(|| KeyError::Invalid { path: path.into(), expected: "a private key in PKCS #8 PEM form" })
}

/// Writes the public part of a private key beside it, where it is not there yet.
fn publish(private: &Path, text: &str) -> Result<(), KeyError> {
    let public = private.with_extension("pub");
    if !public.exists() {
        create(&public, text, 0o644)?;
    }
    if read(&public)?.trim_end() == text.trim_end() { Ok(()) } else { Err(KeyError::Mismatch { public, private: private.into() }) }
}

/// Whether the store around a folder of keys has a database, which they have signed.
fn is_store(keys: &Path) -> bool {
    keys.parent().is_some_and(|store| std::fs::metadata(store.join(DATABASE)).is_ok_and(|file| file.len() > 0))
}

/// Puts a whole, synced file in place; keeps one that is there already.
fn create(path: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    let io = |source| KeyError::Io { path: path.into(), source };
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    let linked = fs::hard_link(&temporary, path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(io(error)),
        _ => path.parent().map_or(Ok(()), |dir| fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)),
    }
}

fn encode_pem(der: &[u8], label: &str) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn decode_pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let body = text.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?.strip_suffix(&format!("-----END {label}-----"))?;
    BASE64.decode(body.split_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("keys");
        let first = Keys::open(&dir).unwrap();
        let again = Keys::open(&dir).unwrap();
        assert_eq!(first.public(), again.public());
        assert_eq!(first.public(), &Public::load(&dir).unwrap());
        for (name, mode) in [("", 0o700), ("controller.pem", 0o600), ("log.pem", 0o600)] {
            assert_eq!(fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 4);
    }

    #[test]
    fn a_signature_holds_for_its_message_and_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(&dir.path().join("a")).unwrap();
        let other = Keys::open(&dir.path().join("b")).unwrap();
        let signature = keys.sign(b"message").unwrap();
        assert!(keys.public().verify(b"message", &signature));
        assert!(!keys.public().verify(b"massage", &signature));
        assert!(!other.public().verify(b"message", &signature));
        assert_ne!(keys.public().log.name(), other.public().log.name());
    }

    #[test]
    fn exposed_and_broken_keys_are_refused_without_showing_them() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open(dir.path()).unwrap();
        let path = dir.path().join("log.pem");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keys::open(dir.path()), Err(KeyError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
        let error = Keys::open(dir.path()).unwrap_err();
        assert!(matches!(error, KeyError::Invalid { .. }));
        assert!(!error.to_string().contains("c2VjcmV0"));
    }

    #[test]
    fn a_lost_key_of_a_store_is_not_replaced_and_neither_is_its_public_part() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, database) = (dir.path().join("keys"), dir.path().join(DATABASE));
        Keys::open(&keys).unwrap();
        fs::write(&database, "a database").unwrap();
        for name in PRIVATE {
            let (path, aside) = (keys.join(name), dir.path().join(name));
            fs::rename(&path, &aside).unwrap();
            let error = Keys::open(&keys).unwrap_err();
            assert!(matches!(&error, KeyError::Lost(lost) if *lost == path), "{error}");
            assert!(!path.exists());
            // Its public part alone says that it was there.
            fs::remove_file(&database).unwrap();
            assert!(matches!(Keys::open(&keys).unwrap_err(), KeyError::Lost(_)));
            let other = dir.path().join("other");
            Keys::open(&other).unwrap();
            fs::copy(other.join(name), &path).unwrap();
            assert!(matches!(Keys::open(&keys).unwrap_err(), KeyError::Mismatch { .. }));
            fs::write(&database, "a database").unwrap();
            fs::rename(&aside, &path).unwrap();
            Keys::open(&keys).unwrap();
        }
        fs::remove_file(keys.join("log.pub")).unwrap();
        assert_eq!(Keys::open(&keys).unwrap().public(), &Public::load(&keys).unwrap(), "a public part can be told again");
    }

    #[test]
    fn debug_output_has_no_private_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let pem = fs::read_to_string(dir.path().join("controller.pem")).unwrap();
        let body: String = pem.lines().skip(1).take(2).collect();
        assert!(!format!("{keys:?}").contains(&body[40..60]));
    }
}
