//! Cloud KMS over REST, for Google's Rust client: camelCase JSON, base64 bytes, 64-bit integers as text.

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{DecryptCall, EncryptCall, Shared, decrypt, encrypt};
use crate::sandbox::status::{Code, Status};
use crate::secret::Secret;

/// Padding is optional in the JSON form of protocol buffers, and either alphabet is read.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(default = "empty", deserialize_with = "bytes")]
    plaintext: Secret<Vec<u8>>,
    #[serde(default = "empty", deserialize_with = "bytes")]
    ciphertext: Secret<Vec<u8>>,
    #[serde(default = "empty", deserialize_with = "bytes")]
    additional_authenticated_data: Secret<Vec<u8>>,
    #[serde(default, deserialize_with = "int64")]
    plaintext_crc32c: Option<i64>,
    #[serde(default, deserialize_with = "int64")]
    ciphertext_crc32c: Option<i64>,
    #[serde(default, deserialize_with = "int64")]
    additional_authenticated_data_crc32c: Option<i64>,
}

/// `POST /v1/{key}:encrypt` and `:decrypt`; `query` may ask for enums as numbers.
pub(in crate::sandbox) async fn route(
    shared: &Shared,
    key: &str,
    operation: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let answer = match (serde_json::from_slice(body), operation) {
        (Ok(body), "encrypt") => encrypt_json(shared, key, query, headers, body).await,
        (Ok(body), "decrypt") => decrypt_json(shared, key, query, headers, body).await,
        (Ok(_), _) => Err(Status::new(Code::NotFound, "Method not found.")),
        (Err(_), _) => Err(Status::new(Code::InvalidArgument, "Invalid JSON payload received.")),
    };
    answer.map_or_else(IntoResponse::into_response, |json| Json(json).into_response())
}

async fn encrypt_json(
    shared: &Shared,
    key: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Value, Status> {
    let call = EncryptCall {
        key: key.to_owned(),
        plaintext: body.plaintext,
        plaintext_crc32c: body.plaintext_crc32c,
        aad: std::mem::take(body.additional_authenticated_data.expose_mut()),
        aad_crc32c: body.additional_authenticated_data_crc32c,
    };
    let answer = encrypt(shared, headers, call).await?;
    Ok(json!({
        "name": answer.key_version,
        "ciphertext": BASE64_STANDARD.encode(&answer.ciphertext),
        "ciphertextCrc32c": answer.ciphertext_crc32c.to_string(),
        "verifiedPlaintextCrc32c": answer.verified_plaintext_crc32c,
        "verifiedAdditionalAuthenticatedDataCrc32c": answer.verified_aad_crc32c,
        "protectionLevel": protection_level(query),
    }))
}

async fn decrypt_json(
    shared: &Shared,
    key: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Value, Status> {
    let call = DecryptCall {
        key: key.to_owned(),
        ciphertext: std::mem::take(body.ciphertext.expose_mut()),
        ciphertext_crc32c: body.ciphertext_crc32c,
        aad: std::mem::take(body.additional_authenticated_data.expose_mut()),
        aad_crc32c: body.additional_authenticated_data_crc32c,
    };
    let answer = decrypt(shared, headers, call).await?;
    Ok(json!({
        "plaintext": BASE64_STANDARD.encode(answer.plaintext.expose()),
        "plaintextCrc32c": answer.plaintext_crc32c.to_string(),
        "usedPrimary": answer.used_primary,
        "protectionLevel": protection_level(query),
    }))
}

/// A number if the query says so (`$alt=json;enum-encoding=int`, as Google's clients do), else its name.
fn protection_level(query: Option<&str>) -> Value {
    let numbers = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, value)| name == "$alt" && value.contains("enum-encoding=int"));
    if numbers { json!(1) } else { json!("SOFTWARE") }
}

fn empty() -> Secret<Vec<u8>> {
    Secret::new(Vec::new())
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<Vec<u8>>, D::Error> {
    let text = Secret::new(Option::<String>::deserialize(deserializer)?.unwrap_or_default());
    let alphabet = if text.expose().contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, LENIENT)
        .decode(text.expose())
        .map(Secret::new)
        .map_err(|_| serde::de::Error::custom("not base64"))
}

fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
        number => number.as_i64().map(Some).ok_or_else(|| serde::de::Error::custom("not an integer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_alphabet_and_either_form_of_an_integer_are_read() {
        let body: Body = serde_json::from_str(
            r#"{"name": "ignored", "plaintext": "-_8", "ciphertext": "+/8=", "plaintextCrc32c": "7", "ciphertextCrc32c": 8}"#,
        )
        .unwrap();
        assert_eq!(body.plaintext.expose(), body.ciphertext.expose());
        assert_eq!((body.plaintext_crc32c, body.ciphertext_crc32c), (Some(7), Some(8)));
        assert!(body.additional_authenticated_data.expose().is_empty());
        for bad in [r#"{"plaintext": "*"}"#, r#"{"plaintext": 1}"#, r#"{"plaintextCrc32c": "x"}"#] {
            assert!(serde_json::from_str::<Body>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn enums_are_numbers_only_where_the_caller_asks() {
        assert_eq!(protection_level(Some("%24alt=json%3Benum-encoding%3Dint")), 1);
        assert_eq!(protection_level(Some("$alt=json;enum-encoding=int")), 1);
        assert_eq!(protection_level(Some("alt=json")), "SOFTWARE");
        assert_eq!(protection_level(None), "SOFTWARE");
    }
}
