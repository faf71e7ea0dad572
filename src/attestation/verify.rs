//! Verifying an attestation token: signature, issuer, audience and time.
//!
//! RS256 is pinned here and never taken from the token; a token without a `kid` is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize as _;
use serde_json::Value;

use super::claims::{Claims, MAX_TOKEN_BYTES};

/// The issuer of every Confidential Space token.
pub const GOOGLE_ISSUER: &str = "https://confidentialcomputing.googleapis.com";

/// Where the keys of that issuer are.
pub const GOOGLE_JWKS: &str = "https://www.googleapis.com/service_accounts/v1/metadata/jwk/signer@confidentialspace-sign.iam.gserviceaccount.com";

/// How far this machine's clock and the issuer's may lie apart.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// What a token must say about itself.
#[derive(Clone, Debug)]
pub struct Expected {
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud`, or one of them.
    pub audience: String,
    /// How much `exp` and `nbf` are stretched, in whole seconds.
    pub leeway: Duration,
    /// When the token must be valid.
    pub at: SystemTime,
}

impl Expected {
    /// A token that `issuer` made for `audience` and that is valid now, within [`LEEWAY`].
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), audience: audience.into(), leeway: LEEWAY, at: SystemTime::now() }
    }
}

/// A token whose signature, issuer, audience and time are right.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// The same, as it was written: what an attribute condition is evaluated on.
    pub raw: Value,
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is no JWT, or its claims have the wrong shape.
    #[error("the attestation token is malformed: ask the launcher for a new one")]
    Malformed,
    /// It is not signed with RS256.
    #[error("the attestation token is not signed with RS256: only that is accepted")]
    Algorithm,
    /// It does not name its key, or names one that is not the issuer's.
    #[error("the attestation token is signed with an unknown key: fetch the issuer's keys again")]
    UnknownKey,
    /// Its certificates do not lead to the pinned root, or are not valid now.
    #[error("the attestation token's certificates do not lead to the pinned root: do not trust the sender")]
    Chain,
    /// The signature is not the named key's.
    #[error("the attestation token's signature is wrong: do not trust the sender")]
    Signature,
    /// `iss` is not the expected issuer.
    #[error("the attestation token comes from another issuer")]
    Issuer,
    /// `aud` is not ours.
    #[error("the attestation token was made for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the attestation token has expired: ask for a new one, or check this machine's clock")]
    Expired,
    /// `nbf` has not come yet.
    #[error("the attestation token is not valid yet: check this machine's clock")]
    NotYetValid,
    /// One of `iss`, `aud`, `exp`, `nbf` is missing.
    #[error("the attestation token lacks one of iss, aud, exp and nbf")]
    MissingClaim,
}

/// Verifies `token` with the issuer's `keys`.
///
/// # Errors
/// [`VerifyError`]; nothing of the token may be used then.
pub fn verify(token: &str, keys: &JwkSet, expected: &Expected) -> Result<Verified, VerifyError> {
    let header = header(token)?;
    let jwk = header.kid.as_deref().and_then(|kid| keys.find(kid)).ok_or(VerifyError::UnknownKey)?;
    let for_rs256 = matches!(jwk.common.key_algorithm, None | Some(KeyAlgorithm::RS256));
    if !for_rs256 || !matches!(jwk.algorithm, AlgorithmParameters::RSA(_)) {
        return Err(VerifyError::UnknownKey);
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| VerifyError::UnknownKey)?;
    let raw = jsonwebtoken::decode::<Value>(token, &key, &signature_only())
        .map_err(|error| refusal(error.kind()))?
        .claims;
    expected.hold_against(raw)
}

/// The header of a token that is signed as it must be.
pub(super) fn header(token: &str) -> Result<Header, VerifyError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(VerifyError::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| refusal(error.kind()))?;
    if header.alg == Algorithm::RS256 { Ok(header) } else { Err(VerifyError::Algorithm) }
}

impl Expected {
    /// Holds the claims of a token, whose signature has been verified, against what they must say about it.
    pub(super) fn hold_against(&self, raw: Value) -> Result<Verified, VerifyError> {
        let named = |name| raw.get(name).filter(|value| !value.is_null()).ok_or(VerifyError::MissingClaim);
        let seconds = |name| {
            let seconds = named(name)?.as_u64().ok_or(VerifyError::Malformed)?;
            Ok(Duration::from_secs(seconds))
        };
        let (issuer, audience) = (named("iss")?, named("aud")?);
        let (from, until) = (seconds("nbf")?, seconds("exp")?);
        let now = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if issuer.as_str() != Some(&self.issuer) {
            return Err(VerifyError::Issuer);
        }
        let is_ours = |audience: &Value| audience.as_str() == Some(&self.audience);
        if !is_ours(audience) && !audience.as_array().is_some_and(|many| many.iter().any(is_ours)) {
            return Err(VerifyError::Audience);
        }
        if until.saturating_add(self.leeway) < now {
            return Err(VerifyError::Expired);
        }
        if from > now + self.leeway {
            return Err(VerifyError::NotYetValid);
        }
        let claims = Claims::deserialize(&raw).map_err(|_| VerifyError::Malformed)?;
        Ok(Verified { claims, raw })
    }
}

/// What the claims must be is checked here, the same for each way of signing.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_required_spec_claims::<&str>(&[]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn refusal(kind: &ErrorKind) -> VerifyError {
    match kind {
        ErrorKind::InvalidSignature => VerifyError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            VerifyError::Algorithm
        }
        _ => VerifyError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::time::{SystemTime, UNIX_EPOCH};

    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    static KEY: LazyLock<EncodingKey> = LazyLock::new(make_key);
    static OTHER_KEY: LazyLock<EncodingKey> = LazyLock::new(make_key);

    fn make_key() -> EncodingKey {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // The PKCS#8 wrapping of a 2048-bit RSA key is 26 bytes; inside is the PKCS#1 key that is wanted here.
        EncodingKey::from_rsa_der(&der.as_ref()[26..])
    }

    fn keys() -> JwkSet {
        let mut jwk = Jwk::from_encoding_key(&KEY, Algorithm::RS256).unwrap();
        jwk.common.key_id = Some("k1".into());
        JwkSet { keys: vec![jwk] }
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn good() -> Value {
        json!({"iss": GOOGLE_ISSUER, "aud": "us", "exp": now() + 60, "nbf": now(), "hwmodel": "GCP_INTEL_TDX"})
    }

    fn signed(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key: &EncodingKey) -> String {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, key).unwrap()
    }

    fn check(token: &str) -> Result<Verified, VerifyError> {
        verify(token, &keys(), &Expected::new(GOOGLE_ISSUER, "us"))
    }

    fn check_with(name: &str, value: Value) -> Result<Verified, VerifyError> {
        let mut claims = good();
        claims[name] = value;
        check(&signed(Algorithm::RS256, Some("k1"), &claims, &KEY))
    }

    #[test]
    fn a_good_token_is_verified_and_its_claims_are_read() {
        let verified = check(&signed(Algorithm::RS256, Some("k1"), &good(), &KEY)).unwrap();
        assert_eq!(verified.claims.hwmodel.as_deref(), Some("GCP_INTEL_TDX"));
        assert_eq!(verified.raw["hwmodel"], "GCP_INTEL_TDX");
        assert!(check_with("aud", json!(["them", "us"])).is_ok());
    }

    #[test]
    fn the_wrong_issuer_audience_or_time_is_refused() {
        assert_eq!(check_with("iss", json!("https://evil.example")).unwrap_err(), VerifyError::Issuer);
        assert_eq!(
            check_with("aud", json!("https://sts.googleapis.com")).unwrap_err(),
            VerifyError::Audience
        );
        assert_eq!(check_with("exp", json!(now() - 32)).unwrap_err(), VerifyError::Expired);
        assert_eq!(check_with("nbf", json!(now() + 40)).unwrap_err(), VerifyError::NotYetValid);
        assert!(check_with("exp", json!(now() - 20)).is_ok(), "clocks may differ by the leeway");
    }

    #[test]
    fn each_registered_claim_is_required() {
        for name in ["iss", "aud", "exp", "nbf"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(name);
            let token = signed(Algorithm::RS256, Some("k1"), &claims, &KEY);
            assert_eq!(check(&token).unwrap_err(), VerifyError::MissingClaim, "{name}");
        }
    }

    #[test]
    fn a_registered_claim_of_another_type_is_refused() {
        assert_eq!(check_with("iss", json!([GOOGLE_ISSUER])).unwrap_err(), VerifyError::Issuer);
        assert_eq!(check_with("aud", json!({"us": "us"})).unwrap_err(), VerifyError::Audience);
        assert_eq!(check_with("exp", json!("9999999999")).unwrap_err(), VerifyError::Malformed);
        assert_eq!(check_with("exp", json!(-1)).unwrap_err(), VerifyError::Malformed);
        assert!(check_with("exp", json!(u64::MAX)).is_ok());
        assert_eq!(check_with("nbf", json!(u64::MAX)).unwrap_err(), VerifyError::NotYetValid);
    }

    #[test]
    fn a_foreign_key_is_refused() {
        let forged = signed(Algorithm::RS256, Some("k1"), &good(), &OTHER_KEY);
        assert_eq!(check(&forged).unwrap_err(), VerifyError::Signature);
        for kid in [None, Some("k2")] {
            let token = signed(Algorithm::RS256, kid, &good(), &KEY);
            assert_eq!(check(&token).unwrap_err(), VerifyError::UnknownKey);
        }
    }

    #[test]
    fn only_rs256_is_accepted() {
        for algorithm in [Algorithm::PS256, Algorithm::RS512] {
            let token = signed(algorithm, Some("k1"), &good(), &KEY);
            assert_eq!(check(&token).unwrap_err(), VerifyError::Algorithm);
        }
        let public = serde_json::to_vec(&keys()).unwrap();
        let confused = signed(Algorithm::HS256, Some("k1"), &good(), &EncodingKey::from_secret(&public));
        assert_eq!(check(&confused).unwrap_err(), VerifyError::Algorithm);
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let unsigned = format!("{}.{}.", part(r#"{"alg":"none","kid":"k1"}"#), part(&good().to_string()));
        assert!(check(&unsigned).is_err());
    }

    #[test]
    fn a_changed_payload_is_refused() {
        let token = signed(Algorithm::RS256, Some("k1"), &good(), &KEY);
        let mut parts: Vec<_> = token.split('.').collect();
        let payload =
            BASE64_URL_SAFE_NO_PAD.encode(good().to_string().replace("GCP_INTEL_TDX", "GCP_AMD_SEV"));
        parts[1] = &payload;
        assert_eq!(check(&parts.join(".")).unwrap_err(), VerifyError::Signature);
    }

    #[test]
    fn junk_is_malformed() {
        for junk in ["", "a.b.c", "\u{1f980}", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
            assert_eq!(check(junk).unwrap_err(), VerifyError::Malformed);
        }
    }
}
