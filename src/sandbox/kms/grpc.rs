//! Cloud KMS over gRPC, for Google's Python client: one message in, one out, the status in the trailers.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::proto::{self, BadFrame, Int64Value, frame, unframe};
use super::versions::{KeyVersion, VersionChange, VersionState, parse_version};
use super::{DecryptCall, EncryptCall, Shared, admin, decrypt, encrypt};
use crate::sandbox::status::{Code, Status};
use crate::secret::Secret;

/// `SOFTWARE`
const PROTECTION_LEVEL: i32 = 1;
/// Of `CryptoKeyPurpose`.
const ENCRYPT_DECRYPT: i32 = 1;
/// Of `CryptoKeyVersionAlgorithm`.
const GOOGLE_SYMMETRIC_ENCRYPTION: i32 = 1;

/// `POST /google.cloud.kms.v1.KeyManagementService/{method}`
pub(in crate::sandbox) async fn route(
    State(shared): State<Arc<Shared>>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = match method.as_str() {
        "Encrypt" => encrypt_message(&shared, &headers, &body).await,
        "Decrypt" => decrypt_message(&shared, &headers, &body).await,
        "GetCryptoKey"
        | "GetCryptoKeyVersion"
        | "CreateCryptoKeyVersion"
        | "UpdateCryptoKeyVersion"
        | "DestroyCryptoKeyVersion"
        | "RestoreCryptoKeyVersion"
        | "UpdateCryptoKeyPrimaryVersion" => administrate(&shared, &method, &headers, &body),
        _ => {
            Err(Status::new(Code::Unimplemented, "the sandbox encrypts, decrypts and manages versions only"))
        }
    };
    match answer {
        Ok(message) => served(message),
        Err(status) => refused(&status),
    }
}

async fn encrypt_message(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Result<Bytes, Status> {
    let request: proto::EncryptRequest = unframe(body)?;
    let call = EncryptCall {
        key: request.name,
        plaintext: Secret::new(request.plaintext),
        plaintext_crc32c: request.plaintext_crc32c.map(|crc| crc.value),
        aad: request.additional_authenticated_data,
        aad_crc32c: request.additional_authenticated_data_crc32c.map(|crc| crc.value),
    };
    let answer = encrypt(shared, headers, call).await?;
    Ok(frame(&proto::EncryptResponse {
        name: answer.key_version,
        ciphertext: answer.ciphertext,
        ciphertext_crc32c: Some(Int64Value { value: answer.ciphertext_crc32c }),
        verified_plaintext_crc32c: answer.verified_plaintext_crc32c,
        verified_additional_authenticated_data_crc32c: answer.verified_aad_crc32c,
        protection_level: PROTECTION_LEVEL,
    }))
}

async fn decrypt_message(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Result<Bytes, Status> {
    let request: proto::DecryptRequest = unframe(body)?;
    let call = DecryptCall {
        key: request.name,
        ciphertext: request.ciphertext,
        ciphertext_crc32c: request.ciphertext_crc32c.map(|crc| crc.value),
        aad: request.additional_authenticated_data,
        aad_crc32c: request.additional_authenticated_data_crc32c.map(|crc| crc.value),
    };
    let mut answer = decrypt(shared, headers, call).await?;
    // Moved into the message and back, so that it is wiped.
    let mut response = proto::DecryptResponse {
        plaintext: std::mem::take(answer.plaintext.expose_mut()),
        plaintext_crc32c: Some(Int64Value { value: answer.plaintext_crc32c }),
        used_primary: answer.used_primary,
        protection_level: PROTECTION_LEVEL,
    };
    let framed = frame(&response);
    *answer.plaintext.expose_mut() = std::mem::take(&mut response.plaintext);
    Ok(framed)
}

/// The methods about versions.
fn administrate(shared: &Shared, method: &str, headers: &HeaderMap, body: &[u8]) -> Result<Bytes, Status> {
    admin::may_administrate(shared, headers)?;
    let keys = &shared.kms.keys;
    let changed = |name: &str, change| {
        let (key, number) = parse_version(name)
            .ok_or_else(|| Status::new(Code::InvalidArgument, "name must be that of a CryptoKeyVersion."))?;
        keys.change(key, number, change)
    };
    let version = match method {
        "CreateCryptoKeyVersion" => keys.add_version(&unframe::<proto::NameRequest>(body)?.name)?,
        "GetCryptoKeyVersion" => {
            let name = unframe::<proto::NameRequest>(body)?.name;
            let (key, number) = parse_version(&name).ok_or_else(|| {
                Status::new(Code::InvalidArgument, "name must be that of a CryptoKeyVersion.")
            })?;
            keys.version(key, number)?
        }
        "DestroyCryptoKeyVersion" => {
            changed(&unframe::<proto::NameRequest>(body)?.name, VersionChange::Destroy)?
        }
        "RestoreCryptoKeyVersion" => {
            changed(&unframe::<proto::NameRequest>(body)?.name, VersionChange::Restore)?
        }
        "UpdateCryptoKeyVersion" => {
            let request: proto::UpdateCryptoKeyVersionRequest = unframe(body)?;
            if request.update_mask.is_none_or(|mask| mask.paths != ["state"]) {
                return Err(Status::new(Code::InvalidArgument, "update_mask must be state."));
            }
            let version = request.crypto_key_version.unwrap_or_default();
            let state = [VersionState::Enabled, VersionState::Disabled]
                .into_iter()
                .find(|state| state.number() == version.state);
            changed(&version.name, admin::change_to(state)?)?
        }
        _ => return framed_key(shared, method, body),
    };
    Ok(frame(&message_of(&version)))
}

/// `GetCryptoKey` and `UpdateCryptoKeyPrimaryVersion`, which answer with a key.
fn framed_key(shared: &Shared, method: &str, body: &[u8]) -> Result<Bytes, Status> {
    let request: proto::UpdateCryptoKeyPrimaryVersionRequest = unframe(body)?;
    if method == "UpdateCryptoKeyPrimaryVersion" {
        admin::make_primary(shared, &request.name, request.crypto_key_version_id.parse().ok())?;
    }
    let versions = shared.kms.keys.versions(&request.name)?;
    let primary = versions.iter().find(|version| version.primary).map(message_of);
    Ok(frame(&proto::CryptoKey { name: request.name, primary, purpose: ENCRYPT_DECRYPT }))
}

fn message_of(version: &KeyVersion) -> proto::CryptoKeyVersion {
    proto::CryptoKeyVersion {
        name: version.name.clone(),
        state: version.state.number(),
        protection_level: PROTECTION_LEVEL,
        algorithm: GOOGLE_SYMMETRIC_ENCRYPTION,
    }
}

impl From<BadFrame> for Status {
    fn from(bad: BadFrame) -> Self {
        match bad {
            BadFrame::Compressed => Self::new(Code::Unimplemented, "compressed messages are not supported"),
            BadFrame::Malformed => Self::new(Code::Internal, "the request is not one whole message"),
        }
    }
}

fn served(message: Bytes) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok::<_, Infallible>(Frame::data(message)), Ok(Frame::trailers(trailers))];
    response(Body::new(StreamBody::new(stream::iter(frames))))
}

/// A refusal is headers alone, which is how gRPC tells them from trailers.
fn refused(status: &Status) -> Response {
    let mut response = response(Body::empty());
    let headers = response.headers_mut();
    headers.insert("grpc-status", HeaderValue::from(status.code as u16));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&status.message)) {
        headers.insert("grpc-message", message);
    }
    response
}

fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// gRPC's encoding of a message: printable ASCII except the percent sign stands for itself.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | ..=0x1f | 0x7f.. => {
                // Writing to a `String` cannot fail.
                write!(encoded, "%{byte:02X}").unwrap_or_default();
            }
            byte => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("a b'c: 5% é\n"), "a b'c: 5%25 %C3%A9%0A");
    }
}
