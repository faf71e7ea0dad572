//! The claims of an attestation token, as real tokens spell them.
//!
//! Google adds claims and changes shapes (one nonce is a string, several are a list; `tdx` is an object or a
//! list), so unknown members are ignored, `null` counts as absent, and a claim of the wrong type is an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A token longer than this is not one of Google's: they have 2 to 12 KiB.
pub(crate) const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// What an attestation token says.
#[derive(Clone, Debug, Deserialize)]
pub struct Claims {
    /// The issuer, which signed it (`iss`).
    pub iss: String,
    /// The audience (`aud`).
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// The instance's URL.
    #[serde(default)]
    pub sub: Option<String>,
    /// When it was made, in seconds since 1970.
    #[serde(default)]
    pub iat: Option<u64>,
    /// From when on it is valid, in seconds since 1970.
    #[serde(default)]
    pub nbf: Option<u64>,
    /// When it expires, in seconds since 1970.
    pub exp: u64,
    /// The nonces that the workload asked for; the launcher's default token has none.
    #[serde(default, deserialize_with = "one_or_many")]
    pub eat_nonce: Vec<String>,
    /// Whether the VM booted securely.
    #[serde(default)]
    pub secboot: Option<bool>,
    /// `disabled-since-boot` on production images.
    #[serde(default)]
    pub dbgstat: Option<String>,
    /// What the hardware is, for example `GCP_INTEL_TDX`.
    #[serde(default)]
    pub hwmodel: Option<String>,
    /// What the operating system is, for example `CONFIDENTIAL_SPACE`.
    #[serde(default)]
    pub swname: Option<String>,
    /// Which version of it.
    #[serde(default, deserialize_with = "one_or_many")]
    pub swversion: Vec<String>,
    /// What the platform's own attester says about TDX.
    #[serde(default, deserialize_with = "one_or_many")]
    pub tdx: Vec<Tdx>,
    /// What the parts of the VM say.
    #[serde(default, deserialize_with = "null_as_default")]
    pub submods: Submods,
    /// The service accounts that the VM may act as.
    #[serde(default, deserialize_with = "one_or_many")]
    pub google_service_accounts: Vec<String>,
}

/// `tdx`.
#[derive(Clone, Debug, Deserialize)]
pub struct Tdx {
    /// `UpToDate` where the platform's firmware has no known hole.
    #[serde(default)]
    pub gcp_attester_tcb_status: Option<String>,
    /// Which firmware level that was judged by.
    #[serde(default)]
    pub gcp_attester_tcb_date: Option<String>,
}

/// `submods`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Submods {
    /// The image of the VM.
    #[serde(default, deserialize_with = "null_as_default")]
    pub confidential_space: ConfidentialSpace,
    /// The workload's container.
    #[serde(default, deserialize_with = "null_as_default")]
    pub container: Container,
    /// Where the VM is.
    #[serde(default, deserialize_with = "null_as_default")]
    pub gce: Gce,
    /// The GPU; absent where nothing attests to it.
    #[serde(default)]
    pub nvidia_gpu: Option<NvidiaGpu>,
}

/// `submods.confidential_space`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ConfidentialSpace {
    /// `LATEST`, `STABLE`, `USABLE`; absent on debug and on preview images.
    #[serde(default)]
    pub support_attributes: Option<Vec<String>>,
}

/// `submods.container`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Container {
    /// The name that the image was pulled by.
    #[serde(default)]
    pub image_reference: Option<String>,
    /// The image's manifest, `sha256:` and 64 hexadecimal digits.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// The signatures of the image that the attestation service has verified.
    #[serde(default, deserialize_with = "one_or_many")]
    pub image_signatures: Vec<ImageSignature>,
    /// The whole environment of the workload.
    #[serde(default, deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    /// The part of it that the operator set; kept raw because anything but absence is suspect.
    #[serde(default)]
    pub env_override: Option<Value>,
    /// The arguments that the operator set; kept raw as above.
    #[serde(default)]
    pub cmd_override: Option<Value>,
    /// The whole command line.
    #[serde(default, deserialize_with = "one_or_many")]
    pub args: Vec<String>,
}

/// One of `submods.container.image_signatures`.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageSignature {
    /// The fingerprint of the key: SHA-256 of its DER form, in hexadecimal digits.
    #[serde(default)]
    pub key_id: Option<String>,
}

/// `submods.gce`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Gce {
    /// The project that pays for the VM: the operator's.
    #[serde(default)]
    pub project_id: Option<String>,
    /// The zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// The VM's number.
    #[serde(default)]
    pub instance_id: Option<String>,
    /// The VM's name.
    #[serde(default)]
    pub instance_name: Option<String>,
}

/// `submods.nvidia_gpu`.
#[derive(Clone, Debug, Deserialize)]
pub struct NvidiaGpu {
    /// `ON`, `OFF` or `DEVTOOLS`; the last one protects nothing.
    #[serde(default)]
    pub cc_mode: Option<String>,
    /// `SPT` for one GPU passed through.
    #[serde(default)]
    pub cc_feature: Option<String>,
    /// One entry for each GPU.
    #[serde(default, deserialize_with = "one_or_many")]
    pub gpus: Vec<Gpu>,
}

/// One of `submods.nvidia_gpu.gpus`.
#[derive(Clone, Debug, Deserialize)]
pub struct Gpu {
    /// For example `GCP_NVIDIA_H100`.
    #[serde(default)]
    pub hwmodel: Option<String>,
    /// The driver inside the VM.
    #[serde(default)]
    pub driver_version: Option<String>,
    /// The GPU's firmware.
    #[serde(default)]
    pub vbios_version: Option<String>,
    /// The GPU's own identity, which a client can pin.
    #[serde(default)]
    pub ueid: Option<String>,
}

/// A token is no JWT, or its claims have not the shape that they must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attestation token cannot be read: it is not a JWT with the claims of Confidential Space")]
pub struct Malformed;

impl Claims {
    /// Reads the claims of a token **without verifying it**: only for our own launcher's token, which is trusted
    /// because of where it came from. A token from anywhere else goes through [`super::verify::verify`].
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn peek(token: &str) -> Result<Self, Malformed> {
        serde_json::from_value(unverified_payload(token)?).map_err(|_| Malformed)
    }
}

/// From when until when a token is valid, in seconds since 1970.
#[cfg(feature = "server")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// `nbf`, or else `iat`; zero where the token has neither.
    pub(super) from: u64,
    /// `exp`.
    pub(super) until: u64,
}

/// The life of a token, **unverified**, whatever its other claims look like.
///
/// # Errors
/// [`Malformed`].
#[cfg(feature = "server")]
pub(super) fn peek_life(token: &str) -> Result<Life, Malformed> {
    let payload = unverified_payload(token)?;
    let seconds = |name| payload.get(name).and_then(Value::as_u64);
    let from = seconds("nbf").or_else(|| seconds("iat")).unwrap_or(0);
    Ok(Life { from, until: seconds("exp").ok_or(Malformed)? })
}

fn unverified_payload(token: &str) -> Result<Value, Malformed> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Malformed);
    }
    jsonwebtoken::dangerous::insecure_decode_claims(token.trim_ascii()).map_err(|_| Malformed)
}

/// `null` and absence are nothing, a list is itself, anything else is a list of one.
fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let many = match Value::deserialize(deserializer)? {
        Value::Null => Vec::new(),
        Value::Array(many) => many,
        one => vec![one],
    };
    many.into_iter().map(|one| serde_json::from_value(one).map_err(serde::de::Error::custom)).collect()
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn token(claims: &Value) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims.to_string()), part("unsigned"))
    }

    #[test]
    fn one_nonce_is_a_text_and_several_are_a_list() {
        let mut claims = json!({"iss": "i", "aud": "a", "exp": 7});
        assert!(Claims::peek(&token(&claims)).unwrap().eat_nonce.is_empty());
        claims["eat_nonce"] = json!("n1");
        assert_eq!(Claims::peek(&token(&claims)).unwrap().eat_nonce, ["n1"]);
        claims["eat_nonce"] = json!(["n1", "n2"]);
        assert_eq!(Claims::peek(&token(&claims)).unwrap().eat_nonce, ["n1", "n2"]);
    }

    #[test]
    fn tdx_is_an_object_or_a_list() {
        let tcb = json!({"gcp_attester_tcb_status": "UpToDate"});
        for tdx in [tcb.clone(), json!([tcb])] {
            let claims =
                Claims::peek(&token(&json!({"iss": "i", "aud": ["a"], "exp": 7, "tdx": tdx}))).unwrap();
            assert_eq!(claims.tdx[0].gcp_attester_tcb_status.as_deref(), Some("UpToDate"));
        }
    }

    #[test]
    fn null_is_absence() {
        let claims = json!({"iss": "i", "aud": "a", "exp": 7, "submods": {
            "container": {"env_override": null, "cmd_override": null, "env": null}, "nvidia_gpu": null, "gce": null}});
        let claims = Claims::peek(&token(&claims)).unwrap();
        assert!(claims.submods.container.env_override.is_none());
        assert!(claims.submods.nvidia_gpu.is_none());
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_an_error_but_its_expiry_can_still_be_read() {
        let token = token(&json!({"iss": "i", "aud": "a", "exp": 7, "secboot": "true"}));
        assert_eq!(Claims::peek(&token).unwrap_err(), Malformed);
        assert_eq!(peek_life(&token).unwrap().until, 7);
    }

    #[test]
    fn a_life_begins_with_nbf_or_else_with_iat() {
        let from = |claims| peek_life(&token(&claims)).unwrap().from;
        assert_eq!(from(json!({"exp": 7, "iat": 3, "nbf": 5})), 5);
        assert_eq!(from(json!({"exp": 7, "iat": 3})), 3);
        assert_eq!(from(json!({"exp": 7})), 0);
    }

    #[test]
    fn junk_is_malformed() {
        for junk in ["", "a.b", "a.b.c", "..", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
            assert_eq!(peek_life(junk), Err(Malformed));
        }
        assert_eq!(peek_life(&token(&json!({"exp": "7"}))), Err(Malformed));
    }

    #[test]
    fn a_newline_at_the_end_is_no_part_of_the_token() {
        assert_eq!(peek_life(&format!("{}\n", token(&json!({"exp": 7})))).unwrap().until, 7);
    }
}
