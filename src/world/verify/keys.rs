//! The public keys of a policy's authorities.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use sigstore_verify::crypto::{KeyAlgorithm, SigningScheme, VerificationKey};
use sigstore_verify::types::{DerPublicKey, SignatureBytes};

use crate::core::attest::AttestationPolicy;

/// The keys of a policy, ready to verify with.
pub struct Keys {
    authorities: Vec<KnownAuthority>,
}

pub(super) struct KnownAuthority {
    pub(super) name: String,
    pub(super) public_key: DerPublicKey,
    schemes: Vec<VerificationKey>,
}

/// Why a policy's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Neither a PEM text nor a file, or both.
    #[error("the key of authority `{0}` needs exactly one of `data` (PEM text) and `file` (a path)")]
    Ambiguous(String),
    /// The file cannot be read.
    #[error("the key file `{file}` of authority `{authority}` cannot be read: {source}")]
    File {
        /// Whose key.
        authority: String,
        /// Which file.
        file: String,
        /// What happened.
        source: std::io::Error,
    },
    /// Not a public key that signatures can be verified with.
    #[error(
        "the key of authority `{authority}` is not usable: {why}; expected PEM, `-----BEGIN PUBLIC KEY-----`, \
         with an ECDSA P-256 or P-384, Ed25519, or RSA (2048 to 8192 bits) key"
    )]
    Unusable {
        /// Whose key.
        authority: String,
        /// What is wrong.
        why: String,
    },
}

/// No key file is larger, in bytes.
const MAX_KEY: u64 = 64 << 10;

/// The same policy with every `file` read into `data`; relative paths start at `base`.
///
/// Done once, when the policy is loaded, so that a decision never depends on a file that changed since.
pub fn inline_keys(mut policy: AttestationPolicy, base: &Path) -> Result<AttestationPolicy, KeyError> {
    for authority in &mut policy.authorities {
        let Some(file) = authority.key.file.take() else { continue };
        if authority.key.data.is_some() {
            return Err(KeyError::Ambiguous(authority.name.clone()));
        }
        let mut text = String::new();
        let read = fs::File::open(base.join(&file)).and_then(|open| open.take(MAX_KEY).read_to_string(&mut text));
        read.map_err(|source| KeyError::File { authority: authority.name.clone(), file, source })?;
        authority.key.data = Some(text);
    }
    Ok(policy)
}

impl Keys {
    /// The keys of `policy`, which must hold them as `data` (see [`inline_keys`]).
    pub fn new(policy: &AttestationPolicy) -> Result<Self, KeyError> {
        let authorities = policy.authorities.iter().map(|authority| match (&authority.key.data, &authority.key.file) {
            (Some(pem), None) => KnownAuthority::new(&authority.name, pem),
            _ => Err(KeyError::Ambiguous(authority.name.clone())),
        });
        Ok(Self { authorities: authorities.collect::<Result<_, _>>()? })
    }

    /// The authorities whose key made `signature` over `message`.
    pub(super) fn signers(&self, message: &[u8], signature: &SignatureBytes) -> Vec<&KnownAuthority> {
        self.authorities.iter().filter(|authority| authority.signed(message, signature)).collect()
    }

    /// For messages: which keys were tried.
    pub(super) fn names(&self) -> String {
        self.authorities.iter().map(|authority| authority.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl KnownAuthority {
    fn new(name: &str, pem: &str) -> Result<Self, KeyError> {
        let unusable = |why: String| KeyError::Unusable { authority: name.to_owned(), why };
        let public_key = DerPublicKey::from_pem(pem).map_err(|error| unusable(error.to_string()))?;
        let algorithm = KeyAlgorithm::from_spki(&public_key).map_err(|error| unusable(error.to_string()))?;
        let schemes = schemes(algorithm).ok_or_else(|| unusable(format!("{algorithm:?} keys are not supported")))?;
        let schemes = schemes.iter().map(|&scheme| VerificationKey::from_spki_with_scheme(&public_key, scheme));
        let schemes = schemes.collect::<Result<_, _>>().map_err(|error| unusable(error.to_string()))?;
        Ok(Self { name: name.to_owned(), public_key, schemes })
    }

    fn signed(&self, message: &[u8], signature: &SignatureBytes) -> bool {
        self.schemes.iter().any(|key| key.verify(message, signature).is_ok())
    }
}

/// The schemes that signers in use pick for a kind of key: envelopes do not say which one it was.
fn schemes(algorithm: KeyAlgorithm) -> Option<&'static [SigningScheme]> {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => Some(&[SigningScheme::EcdsaP256Sha256]),
        KeyAlgorithm::EcdsaP384 => Some(&[SigningScheme::EcdsaP384Sha384, SigningScheme::EcdsaP384Sha256]),
        KeyAlgorithm::Ed25519 => Some(&[SigningScheme::Ed25519]),
        KeyAlgorithm::Rsa => {
            Some(&[SigningScheme::RsaPkcs1Sha256, SigningScheme::RsaPssSha256, SigningScheme::RsaPkcs1Sha512, SigningScheme::RsaPssSha512])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::attest::{Authority, Deny, Key};
    use crate::world::publish::SigningKey;

    fn policy(key: Key) -> AttestationPolicy {
        let authorities = vec![Authority { name: "ci".to_owned(), key }];
        AttestationPolicy { authorities, require: Vec::new(), deny: Deny::default() }
    }

    fn with(pem: &str) -> Result<Keys, KeyError> {
        Keys::new(&policy(Key { data: Some(pem.to_owned()), file: None }))
    }

    const P256: &str = include_str!("../../../tests/keys/p256.pub");
    const P384: &str = include_str!("../../../tests/keys/p384.pub");
    const ED25519: &str = include_str!("../../../tests/keys/ed25519.pub");
    const RSA: &str = include_str!("../../../tests/keys/rsa.pub");

    #[test]
    fn keys_that_cannot_be_used_are_refused_with_a_fix() {
        let truncated = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----";
        for (pem, words) in [("", "PEM"), (include_str!("../../../tests/keys/p521.pub"), "curve"), (truncated, "SPKI")] {
            let error = with(pem).err().unwrap().to_string();
            assert!(error.contains(words) && error.contains("expected PEM"), "{error}");
        }
        assert!(Keys::new(&policy(Key { data: None, file: None })).err().unwrap().to_string().contains("exactly one"));
    }

    /// Signatures made with OpenSSL.
    #[test]
    fn signatures_by_every_kind_of_key_verify() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
        for (name, pem) in [
            ("p256.sig", P256),
            ("p384-sha384.sig", P384),
            ("p384-sha256.sig", P384),
            ("ed25519.sig", ED25519),
            ("rsa.sig", RSA),
            ("rsa-pss.sig", RSA),
        ] {
            let keys = with(pem).unwrap();
            let signature = SignatureBytes::from_bytes(&fs::read(folder.join(name)).unwrap());
            assert_eq!(keys.signers(b"backstop signs this\n", &signature).len(), 1, "{name}");
            assert_eq!(keys.signers(b"backstop signs that\n", &signature).len(), 0, "{name}");
        }
    }

    #[test]
    fn key_files_are_read_once_when_the_policy_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ci.pub"), P256).unwrap();
        let written = policy(Key { data: None, file: Some("ci.pub".to_owned()) });
        assert!(Keys::new(&written).is_err(), "files are not read behind one's back");
        let inlined = inline_keys(written, dir.path()).unwrap();
        assert_eq!(inlined, policy(Key { data: Some(P256.to_owned()), file: None }));
        let gone = policy(Key { data: None, file: Some("gone.pub".to_owned()) });
        assert!(inline_keys(gone, dir.path()).unwrap_err().to_string().contains("gone.pub"));
    }

    #[test]
    fn a_key_survives_being_kept() {
        let key = SigningKey::generate().unwrap();
        let kept = SigningKey::from_pkcs8(&key.pkcs8().unwrap()).unwrap();
        assert_eq!(kept.public_pem().unwrap(), key.public_pem().unwrap());
        assert!(SigningKey::from_pkcs8(b"no key").is_err());
    }
}
