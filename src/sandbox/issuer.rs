//! The attestation verifier: signs tokens with its RSA key and publishes the key, as OpenID Connect has it.
//!
//! It also makes tokens of the type PKI, whose certificates lead to a root of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::Json;
use axum::extract::State;
use http::HeaderMap;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::pki::Certificates;
use super::{SandboxError, Shared};
use crate::attestation::verify::GOOGLE_ISSUER;
use crate::protocol::TokenType;
use crate::secret::Secret;

/// The audience of a launcher's default token.
pub(super) const STS_AUDIENCE: &str = "https://sts.googleapis.com";

const KEY_ID: &str = "sandbox-1";

/// What an RSA-2048 key has around it in PKCS#8: two headers, a version and the algorithm.
const PKCS8_WRAPPING_BYTES: usize = 26;

/// Makes attestation tokens.
pub struct Issuer {
    key: EncodingKey,
    keys: JwkSet,
    certificates: Certificates,
}

impl Issuer {
    /// An issuer with a key of its own.
    ///
    /// # Errors
    /// [`SandboxError::Key`].
    pub(super) fn new() -> Result<Self, SandboxError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| SandboxError::Key)?;
        let wrapped: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| SandboxError::Key)?;
        let bare = wrapped.as_ref().get(PKCS8_WRAPPING_BYTES..).ok_or(SandboxError::Key)?;
        let key = EncodingKey::from_rsa_der(bare);
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256).map_err(|_| SandboxError::Key)?;
        jwk.common.key_id = Some(KEY_ID.to_owned());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let certificates = Certificates::new(wrapped.as_ref())?;
        Ok(Self { key, keys: JwkSet { keys: vec![jwk] }, certificates })
    }

    /// The root of the certificates in tokens of the type PKI, in PEM.
    pub fn root_pem(&self) -> &str {
        self.certificates.root_pem()
    }

    /// The public keys that verify this issuer's tokens.
    pub fn keys(&self) -> &JwkSet {
        &self.keys
    }

    /// Signs a token with `claims`, made now and good for `lifetime` in whole seconds.
    ///
    /// `iss`, `iat`, `nbf` and `exp` are set here, whatever the claims have.
    ///
    /// # Errors
    /// [`SandboxError::Claims`] if the claims are no JSON object.
    pub fn sign(&self, claims: &Value, lifetime: Duration) -> Result<Secret<String>, SandboxError> {
        let now = unix_now();
        self.sign_between(claims, now, now + lifetime.as_secs())
    }

    /// The same for a token of the type `kind`.
    pub(super) fn sign_as(
        &self,
        kind: TokenType,
        claims: &Value,
        lifetime: Duration,
    ) -> Result<Secret<String>, SandboxError> {
        let now = unix_now();
        self.sign_as_between(kind, claims, now, now + lifetime.as_secs())
    }

    /// The same between two points in time, in seconds since 1970.
    ///
    /// # Errors
    /// As [`Issuer::sign`].
    pub fn sign_between(
        &self,
        claims: &Value,
        from: u64,
        until: u64,
    ) -> Result<Secret<String>, SandboxError> {
        self.sign_as_between(TokenType::Oidc, claims, from, until)
    }

    /// The same for a token of the type `kind`.
    ///
    /// # Errors
    /// As [`Issuer::sign`].
    pub fn sign_as_between(
        &self,
        kind: TokenType,
        claims: &Value,
        from: u64,
        until: u64,
    ) -> Result<Secret<String>, SandboxError> {
        let mut claims = claims.as_object().ok_or(SandboxError::Claims)?.clone();
        claims.insert("iss".to_owned(), GOOGLE_ISSUER.into());
        for (name, seconds) in [("iat", from), ("nbf", from), ("exp", until)] {
            claims.insert(name.to_owned(), seconds.into());
        }
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(KEY_ID.to_owned());
        if kind == TokenType::Pki {
            header.x5c = Some(self.certificates.chain().to_vec());
        }
        jsonwebtoken::encode(&header, &claims, &self.key).map(Secret::new).map_err(|_| SandboxError::Key)
    }
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `GET /.well-known/openid-configuration`
pub(super) async fn discovery(headers: HeaderMap) -> Json<Value> {
    let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1");
    Json(json!({
        "issuer": GOOGLE_ISSUER,
        "jwks_uri": format!("http://{host}/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
}

/// `GET /jwks`
pub(super) async fn jwks(State(shared): State<Arc<Shared>>) -> Json<JwkSet> {
    Json(shared.issuer.keys().clone())
}

/// `GET /attestation-pki-root.pem`
pub(super) async fn root(State(shared): State<Arc<Shared>>) -> String {
    shared.issuer.root_pem().to_owned()
}
