//! What a verification rests on, in a form that can be kept.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::jwk::JwkSet;
use serde::{Deserialize, Serialize};

use crate::attestation::pki::{PinnedRoot, verify_pki};
use crate::attestation::verify::{Expected, Verified, VerifyError, verify};
use crate::protocol::Digest;

/// A token with everything that it was checked with. Nothing in it is secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) token: String,
    /// The nonces that the client asked with.
    pub(super) nonces: Vec<String>,
    pub(super) issuer: String,
    pub(super) audience: String,
    /// When it was checked, in seconds since 1970.
    pub(super) at: u64,
    pub(super) keys: Keys,
}

/// What the signature was verified with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Keys {
    /// The issuer's key that the token names; the others of the set are left out.
    Jwks(JwkSet),
    /// The pinned root certificate, in base64 of DER.
    Root(String),
}

impl Keys {
    /// The key of `set` that `token` names.
    pub(super) fn of_set(set: JwkSet, token: &str) -> Self {
        let named = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        let keys = named.as_deref().and_then(|kid| set.find(kid)).cloned().into_iter().collect();
        Self::Jwks(JwkSet { keys })
    }

    pub(super) fn of_root(root: &PinnedRoot) -> Self {
        Self::Root(BASE64_STANDARD.encode(root.der()))
    }

    /// The id of the key at the issuer, or the SHA-256 of the root certificate.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Jwks(set) => {
                let ids = set.keys.iter().filter_map(|key| key.common.key_id.as_deref());
                ids.collect::<Vec<_>>().join(", ")
            }
            Self::Root(root) => {
                let der = BASE64_STANDARD.decode(root).unwrap_or_default();
                format!("root {}", Digest::of(&der))
            }
        }
    }
}

impl Saved {
    /// Checks the token as of the time at which it was saved.
    pub(super) fn verified(&self) -> Result<Verified, VerifyError> {
        let mut expected = Expected::new(self.issuer.as_str(), self.audience.as_str());
        expected.at = UNIX_EPOCH + Duration::from_secs(self.at);
        match &self.keys {
            Keys::Jwks(set) => verify(&self.token, set, &expected),
            Keys::Root(root) => {
                let der = BASE64_STANDARD.decode(root).map_err(|_| VerifyError::Chain)?;
                let root = PinnedRoot::from_der(der).map_err(|_| VerifyError::Chain)?;
                verify_pki(&self.token, &root, &expected)
            }
        }
    }
}
