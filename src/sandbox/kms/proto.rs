//! The messages of `google.cloud.kms.v1` that matter here, by their tags, and the gRPC framing around one.
//!
//! None of them is `Debug` with its content: a derived one would print the DEK.

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

/// `google.protobuf.Int64Value`
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Int64Value {
    #[prost(int64, tag = "1")]
    pub(super) value: i64,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct EncryptRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) plaintext: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) additional_authenticated_data: Vec<u8>,
    #[prost(message, optional, tag = "7")]
    pub(super) plaintext_crc32c: Option<Int64Value>,
    #[prost(message, optional, tag = "8")]
    pub(super) additional_authenticated_data_crc32c: Option<Int64Value>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct EncryptResponse {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    pub(super) ciphertext_crc32c: Option<Int64Value>,
    #[prost(bool, tag = "5")]
    pub(super) verified_plaintext_crc32c: bool,
    #[prost(bool, tag = "6")]
    pub(super) verified_additional_authenticated_data_crc32c: bool,
    #[prost(int32, tag = "7")]
    pub(super) protection_level: i32,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct DecryptRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) additional_authenticated_data: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub(super) ciphertext_crc32c: Option<Int64Value>,
    #[prost(message, optional, tag = "6")]
    pub(super) additional_authenticated_data_crc32c: Option<Int64Value>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub(super) plaintext_crc32c: Option<Int64Value>,
    #[prost(bool, tag = "3")]
    pub(super) used_primary: bool,
    #[prost(int32, tag = "4")]
    pub(super) protection_level: i32,
}

/// Any request whose first member is a name: of a version, or of the key that gets one.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NameRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CryptoKeyVersion {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int32, tag = "3")]
    pub(super) state: i32,
    #[prost(int32, tag = "7")]
    pub(super) protection_level: i32,
    #[prost(int32, tag = "10")]
    pub(super) algorithm: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CryptoKey {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) primary: Option<CryptoKeyVersion>,
    #[prost(int32, tag = "3")]
    pub(super) purpose: i32,
}

/// `google.protobuf.FieldMask`
#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldMask {
    #[prost(string, repeated, tag = "1")]
    pub(super) paths: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateCryptoKeyVersionRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) crypto_key_version: Option<CryptoKeyVersion>,
    #[prost(message, optional, tag = "2")]
    pub(super) update_mask: Option<FieldMask>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateCryptoKeyPrimaryVersionRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) crypto_key_version_id: String,
}

macro_rules! redacted {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    )+};
}
redacted!(EncryptRequest, EncryptResponse, DecryptRequest, DecryptResponse);

/// A gRPC body that is not one whole, uncompressed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadFrame {
    /// Compression was not agreed upon.
    Compressed,
    Malformed,
}

/// Reads a body that holds exactly one message: a flag, four bytes of length, the message.
pub(super) fn unframe<M: Message + Default>(body: &[u8]) -> Result<M, BadFrame> {
    let (header, message) = body.split_first_chunk::<5>().ok_or(BadFrame::Malformed)?;
    let [flag, length @ ..] = *header;
    if flag != 0 {
        return Err(BadFrame::Compressed);
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(BadFrame::Malformed);
    }
    M::decode(message).map_err(|_| BadFrame::Malformed)
}

/// The body that holds `message` alone.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut body = BytesMut::with_capacity(5 + encoded.len());
    body.put_u8(0);
    // No message here comes near four gigabytes.
    body.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    body.put_slice(&encoded);
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_holds_one_whole_message() {
        let request = DecryptRequest { name: "k".into(), ciphertext: vec![7; 300], ..Default::default() };
        let body = frame(&request);
        assert_eq!(unframe::<DecryptRequest>(&body), Ok(request));
        for length in 0..body.len() {
            assert_eq!(unframe::<DecryptRequest>(&body[..length]), Err(BadFrame::Malformed));
        }
        let mut more = body.to_vec();
        more.push(0);
        assert_eq!(unframe::<DecryptRequest>(&more), Err(BadFrame::Malformed));
        more[0] = 1;
        assert_eq!(unframe::<DecryptRequest>(&more), Err(BadFrame::Compressed));
    }

    #[test]
    fn nothing_prints_a_plaintext() {
        let response = DecryptResponse { plaintext: b"canary".to_vec(), ..Default::default() };
        assert_eq!(format!("{response:?}"), "DecryptResponse([redacted])");
    }
}
